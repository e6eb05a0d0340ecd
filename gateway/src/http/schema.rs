//! The shapes of bodies as `/openapi.json` describes them. Handlers render most answers piece by piece, from bytes that
//! were rendered before; a test compares what they answer with what stands here.

#![allow(dead_code, reason = "described, never built")]

mod policies;

pub(super) use policies::*;

use crate::problem::Problem;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// One endpoint of an answer.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct Endpoint {
    id: String,
    host: String,
    port: u16,
    zone: String,
    region: String,
    version: String,
    weight: u32,
    tags: Vec<String>,
    metadata: BTreeMap<String, String>,
    /// Healthy, but under doubt.
    degraded: Option<bool>,
    /// Of an endpoint in another region: `fresh`, `suspect` or `stale`.
    freshness: Option<String>,
    /// Of an endpoint in another region: how old what is known of it is.
    age_ms: Option<u64>,
    /// With `n=all`.
    tier: Option<u32>,
    /// With `n=all`: of all expected lookups of this caller.
    share: Option<f64>,
}

/// Which policy answered.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct Answered {
    name: String,
    version: String,
    /// `ok`: the bound module ran; else `last-good` or `fallback`, with the reason.
    outcome: String,
    reason: Option<String>,
}

/// Where to send traffic.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct Lookup {
    service: String,
    namespace: String,
    region: String,
    /// The registry's revision that the answer reflects at least.
    index: u64,
    incarnation: String,
    /// Since the registry last proved that this gateway is current.
    age_ms: u64,
    policy: Answered,
    tier: u32,
    /// Why it is not the preferred tier, or another region.
    reason: Option<String>,
    endpoints: Vec<Endpoint>,
    /// With `explain`: every candidate, kept or dropped, and why.
    #[schema(value_type = Option<Object>)]
    explain: Option<Value>,
}

/// One lookup of a batch.
#[derive(ToSchema)]
pub(super) struct BatchLookup {
    service: String,
    ns: Option<String>,
    zone: Option<String>,
    key: Option<String>,
    /// A number from 1 to 1000, or `"all"`.
    #[schema(value_type = Option<Value>)]
    n: Option<Value>,
    labels: Option<BTreeMap<String, String>>,
}

/// Up to 1,000 lookups.
#[derive(ToSchema)]
pub(super) struct Batch {
    lookups: Vec<BatchLookup>,
}

/// Why one element of a batch has no answer.
#[derive(Serialize, ToSchema)]
pub(super) struct Refused {
    error: Problem,
}

/// An element of a batch's answer.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum LookupOrProblem {
    /// The answer.
    #[schema(value_type = Lookup)]
    Answer(Value),
    /// Why there is none.
    Refused(Refused),
}

/// The answers of a batch, in the order of its lookups.
#[derive(ToSchema)]
pub(super) struct BatchAnswers {
    results: Vec<LookupOrProblem>,
}

/// What an owner says of an instance.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct RegistrationRequest {
    /// Address or DNS name.
    host: String,
    #[schema(minimum = 1)]
    port: u16,
    zone: String,
    version: Option<String>,
    /// 1 to 10,000; 100 by default.
    #[schema(minimum = 1, maximum = 10_000)]
    weight: Option<u32>,
    deployment_group: Option<String>,
    protocol: Option<String>,
    tags: Option<Vec<String>>,
    metadata: Option<BTreeMap<String, String>>,
    /// `healthy` (default without a check), `starting` (default with one), `unhealthy` or `draining`.
    status: Option<String>,
    /// 30 by default.
    lease_ttl_seconds: Option<u32>,
    /// `heartbeat` (default) or `check`.
    renew_by: Option<String>,
    capacity: Option<u64>,
    health_check: Option<HealthCheck>,
    /// Short form of an HTTP check with the defaults.
    health_endpoint: Option<String>,
    /// May repeat the path's; must then agree with it.
    service: Option<String>,
    instance_id: Option<String>,
    namespace: Option<String>,
    region: Option<String>,
}

/// Exactly one kind of check.
#[derive(ToSchema)]
pub(super) struct HealthCheck {
    http: Option<Probe>,
    tcp: Option<Probe>,
}

/// How a check asks, and when it counts.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct Probe {
    /// Of an HTTP check.
    path: Option<String>,
    interval_seconds: Option<u32>,
    timeout_seconds: Option<u32>,
    unhealthy_after: Option<u32>,
    healthy_after: Option<u32>,
}

/// The promise that ends unless it is renewed.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct Lease {
    id: String,
    ttl_seconds: u32,
    heartbeat_seconds: u32,
    expires_at: Option<String>,
    expired_at: Option<String>,
}

/// Who registered it.
#[derive(ToSchema)]
pub(super) struct Owner {
    issuer: String,
    subject: String,
}

/// An instance as it is stored.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct Instance {
    id: String,
    instance_id: String,
    service: String,
    namespace: String,
    region: String,
    host: String,
    port: u16,
    zone: String,
    version: String,
    weight: u32,
    deployment_group: String,
    protocol: String,
    tags: Vec<String>,
    metadata: BTreeMap<String, String>,
    /// What the owner said.
    declared_status: String,
    /// What follows from that, from checks and from the lease.
    status: String,
    /// Held over from a lost registry.
    degraded: bool,
    lease_ttl_seconds: u32,
    renew_by: String,
    capacity: Option<u64>,
    health_check: Option<HealthCheck>,
    owner: Owner,
    lease: Lease,
    registered_at: String,
    updated_at: String,
    modified_index: u64,
    reason: Option<String>,
    check_detail: Option<String>,
    index: Option<u64>,
    incarnation: Option<String>,
    /// Of a write: whether this gateway shows it already.
    applied: Option<bool>,
    age_ms: Option<u64>,
}

/// A page of instances.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct InstancePage {
    items: Vec<Instance>,
    index: u64,
    /// What to ask for as `next`, where there are more.
    next: Option<String>,
    incarnation: String,
    age_ms: u64,
}

/// A namespace with the number of its services.
#[derive(ToSchema)]
pub(super) struct Namespace {
    name: String,
    services: u64,
}

/// A page of namespaces.
#[derive(ToSchema)]
pub(super) struct NamespacePage {
    items: Vec<Namespace>,
    index: u64,
    next: Option<String>,
}

/// Instances by status.
#[derive(ToSchema)]
pub(super) struct Counts {
    healthy: u64,
    unhealthy: u64,
    starting: u64,
    draining: u64,
    expired: u64,
}

/// A policy by name and version.
#[derive(ToSchema)]
pub(super) struct PolicyReference {
    name: String,
    version: String,
}

/// A service with its counts and the policy in force.
#[derive(ToSchema)]
pub(super) struct Service {
    name: String,
    namespace: String,
    instances: Counts,
    policy: PolicyReference,
}

/// A page of services.
#[derive(ToSchema)]
pub(super) struct ServicePage {
    items: Vec<Service>,
    index: u64,
    next: Option<String>,
}

/// A lease that was renewed.
#[derive(Serialize, ToSchema)]
#[schema(rename_all = "camelCase")]
#[serde(rename_all = "camelCase")]
pub(super) struct Beaten {
    expires_at: String,
    index: u64,
}

/// An element of a batch of heartbeats.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum BeatenOrProblem {
    /// Renewed.
    Beaten(Beaten),
    /// Why not.
    Refused(Refused),
}

/// What became of a batch of heartbeats, in order.
#[derive(ToSchema)]
pub(super) struct BeatResults {
    results: Vec<BeatenOrProblem>,
}

/// Who made a change.
#[derive(ToSchema)]
pub(super) struct Actor {
    /// `workload`, `operator`, or `guardian` for what a gateway does by itself.
    role: String,
    issuer: Option<String>,
    subject: String,
}

/// One change.
#[derive(ToSchema)]
pub(super) struct Change {
    at: String,
    actor: Actor,
    action: String,
    target: String,
    reason: Option<String>,
    gateway: String,
    /// The record that stood there.
    #[schema(value_type = Option<Object>)]
    before: Option<Value>,
    /// The record that stands there now.
    #[schema(value_type = Option<Object>)]
    after: Option<Value>,
}

/// A page of the history.
#[derive(ToSchema)]
pub(super) struct ChangePage {
    items: Vec<Change>,
    index: u64,
    next: Option<String>,
}

/// A region as this one knows it.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct Region {
    region: String,
    /// Whether it is the one that was asked.
    #[schema(rename = "self")]
    own: bool,
    /// `fresh`, `suspect` or `stale`.
    freshness: String,
    age_ms: Option<u64>,
    reachable: Option<bool>,
    incarnation: Option<String>,
    index: Option<u64>,
    round_trip_ms: Option<u64>,
    /// How much of its rightful traffic it takes, in thousandths: less than 1000 while it recovers or returns from a drain.
    ramp: Option<u32>,
    headroom: Option<u64>,
    services: Option<u64>,
    healthy: Option<u64>,
    total: Option<u64>,
    /// As policies are shown it: damped.
    shown_freshness: Option<String>,
    /// The same of whether it answers.
    shown_reachable: Option<bool>,
    /// As operators of this region asked: reason and since.
    #[schema(value_type = Option<Object>)]
    draining: Option<Value>,
    /// The same by zone.
    #[schema(value_type = Object)]
    draining_zones: Value,
    /// That its instances are in; of the own region, all that it has.
    zones: Option<Vec<String>>,
    /// What the region tells of itself.
    #[schema(value_type = Option<Object>)]
    told: Option<Value>,
}

/// All regions that are known, the own one first.
#[derive(ToSchema)]
pub(super) struct RegionList {
    items: Vec<Region>,
    index: u64,
}

/// A switch that was thrown or put back.
#[derive(ToSchema)]
pub(super) struct Switched {
    /// The version with its name, or all policies.
    target: String,
    disabled: bool,
    index: u64,
    applied: bool,
}

/// A drain that was asked for or ended.
#[derive(ToSchema)]
pub(super) struct Drained {
    region: String,
    zone: Option<String>,
    draining: bool,
    index: u64,
    applied: bool,
    /// A zone of another region that nothing is known of.
    warning: Option<String>,
}

/// How a gateway that is ready stands.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct Ready {
    status: String,
    region: String,
    gateway: String,
    incarnation: String,
    index: u64,
    age_ms: u64,
    /// `connected` or `lost`.
    registry: String,
    /// `registry` or `disk`.
    source: String,
}
