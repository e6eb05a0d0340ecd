//! The shapes of bodies as `/openapi.json` describes them. Handlers render most answers piece by piece, from bytes that
//! were rendered before; a test compares what they answer with what stands here.

#![allow(dead_code, reason = "described, never built")]

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

/// A policy with the config that it is opened with.
#[derive(ToSchema)]
pub(super) struct Bound {
    policy: String,
    version: String,
    #[schema(value_type = Option<Object>)]
    config: Option<Value>,
    /// Why it must not run, where it is disabled: reason, since and by.
    #[schema(value_type = Option<Object>)]
    disabled: Option<Value>,
}

/// What no policy may widen.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct Limits {
    /// `"all"`, or a list of names.
    #[schema(value_type = Value)]
    regions: Value,
    max_remote_share: f64,
}

/// A binding.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct Binding {
    namespace: String,
    /// `_default` for the namespace.
    service: String,
    active: Active,
    candidate: Option<Candidate>,
    last_good: Vec<Former>,
    limits: Limits,
    caller_labels: Vec<String>,
    updated_at: String,
    modified_index: u64,
    index: Option<u64>,
    applied: Option<bool>,
}

/// What answers.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct Active {
    policy: String,
    version: String,
    #[schema(value_type = Option<Object>)]
    config: Option<Value>,
    /// As of a version.
    #[schema(value_type = Option<Object>)]
    disabled: Option<Value>,
    since: String,
    /// `bound`, `promoted`, `forced` or `rolled-back`.
    way: String,
    /// Whether it is known to be good.
    soaked: bool,
    /// When some gateway last told that it failed; absent for never. The soak counts from there.
    failed_at: Option<String>,
    /// That failure, and where it was seen.
    fault: Option<String>,
    /// In a diff: what this gateway has seen of it.
    seen: Option<Seen>,
}

/// What is being tried.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct Candidate {
    policy: String,
    version: String,
    #[schema(value_type = Option<Object>)]
    config: Option<Value>,
    /// As of a version.
    #[schema(value_type = Option<Object>)]
    disabled: Option<Value>,
    /// `shadow` or `canary`.
    stage: String,
    /// Of a canary: the part of the lookups that it answers, 0 to 100.
    percent: Option<f64>,
    since: String,
    /// A failure that some gateway of the region saw.
    fault: Option<String>,
    /// In a diff: what this gateway has seen of it.
    seen: Option<Seen>,
    /// In a diff: what speaks against promoting it.
    objection: Option<String>,
}

/// What answered before.
#[derive(ToSchema)]
pub(super) struct Former {
    policy: String,
    version: String,
    #[schema(value_type = Option<Object>)]
    config: Option<Value>,
    /// As of a version.
    #[schema(value_type = Option<Object>)]
    disabled: Option<Value>,
    /// Whether it is known to be good.
    soaked: bool,
}

/// What lookups showed of a version. Shares are of all lookups, 0 to 1.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct Seen {
    /// Lookups that both versions' plans were compared for.
    lookups: u64,
    /// Those that it answered; of a shadow, those that it was asked.
    answered: u64,
    faults: u64,
    last_fault: String,
    /// The share of answers that would differ.
    changed: f64,
    refused: Share,
    /// By zone of this region and other region.
    places: BTreeMap<String, Share>,
    clamped: Clamped,
    /// Of a candidate: the services that it would change most, each as this.
    #[schema(value_type = Option<Vec<Object>>)]
    services: Option<Value>,
    /// Of a candidate: lookups that it would have answered differently.
    #[schema(value_type = Option<Vec<Object>>)]
    examples: Option<Value>,
}

/// What the host took out of plans.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct Clamped {
    /// Choices of endpoints that may not receive traffic.
    ineligible: u32,
    /// Plans that would send more to other regions than `maxRemoteShare`.
    remote_share: u32,
}

/// A share by the other version, and by this one.
#[derive(ToSchema)]
pub(super) struct Share {
    before: f64,
    after: f64,
}

/// What a version would answer.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct Trial {
    policy: Bound,
    namespace: String,
    service: String,
    index: u64,
    results: Vec<TrialResult>,
}

/// What a version would answer to one lookup.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct TrialResult {
    /// With `n=all` and `explain`.
    answer: Option<Lookup>,
    /// What a lookup would be refused with.
    error: Option<Problem>,
    /// How the version failed; then there is neither an answer nor anything to compare.
    fault: Option<String>,
    /// The share of this caller's lookups that would be answered differently.
    changed: Option<f64>,
    clamped: Option<Clamped>,
    /// Labels of the lookup that the version was not shown.
    held_back: Vec<String>,
    /// Labels that it was shown here, and that the binding in force holds back.
    labels_to_bind: Vec<String>,
}

/// Predicted shares.
#[derive(ToSchema)]
pub(super) struct Simulation {
    services: Vec<SimulatedService>,
    index: u64,
    /// Whether there are more services.
    truncated: bool,
    /// Where they begin.
    next: Option<String>,
}

/// Predicted shares of one service.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct SimulatedService {
    namespace: String,
    service: String,
    callers: Vec<SimulatedCaller>,
    /// Whose binding is in force: `own`, `namespace`, or `built-in` where none was written.
    binding: String,
    /// Whether the version of `activate` is the active one of `after`.
    activated: bool,
    /// Callers' labels that policies are not shown in `after`.
    held_back: Vec<String>,
}

/// Predicted shares of one caller.
#[derive(ToSchema)]
pub(super) struct SimulatedCaller {
    zone: String,
    before: Predicted,
    after: Predicted,
    /// The share that moves between places.
    changed: f64,
}

/// Where lookups go.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct Predicted {
    /// By zone of this region and other region.
    places: BTreeMap<String, f64>,
    /// Of one service: by endpoint, `region/endpoint` elsewhere.
    endpoints: Option<BTreeMap<String, f64>>,
    /// Refused by the policy on purpose.
    refused: f64,
    /// Given nothing that may receive traffic.
    none: f64,
    /// Left with nothing that may receive traffic by the policy's plan: the native fallback answers these, if it can.
    nothing_eligible: f64,
    /// As in answers: `ok`, `last-good` or `fallback`.
    outcome: String,
    /// Why it is not `ok`.
    reason: Option<String>,
}

/// A page of bindings.
#[derive(ToSchema)]
pub(super) struct BindingPage {
    items: Vec<Binding>,
    index: u64,
    next: Option<String>,
}

/// One version of a policy.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct PolicyVersion {
    /// Where it is asked for by itself.
    name: Option<String>,
    version: String,
    size_bytes: u64,
    /// Whether it comes with the gateway.
    standard: bool,
    description: Option<String>,
    uploaded_at: Option<String>,
    uploaded_by: Option<String>,
    /// By whose key it was let in: `keyId`, and the signature as `value`.
    #[schema(value_type = Option<Object>)]
    signature: Option<Value>,
    /// Bindings that name it, as `ns/service`; in lists at most 10 of them.
    bound_by: Option<Vec<String>>,
    /// In lists: how many there are.
    bindings: Option<u64>,
    /// Whether this gateway has loaded it.
    runnable: Option<bool>,
    /// The JSON schema of its config, if it carries one.
    #[schema(value_type = Option<Object>)]
    schema: Option<Value>,
    /// The standard policy whose bytes these are, under another name.
    alias_of: Option<String>,
    /// Why it must not run, where it is disabled: reason, since and by.
    #[schema(value_type = Option<Object>)]
    disabled: Option<Value>,
}

/// A policy with its versions, newest first.
#[derive(ToSchema)]
pub(super) struct Policy {
    name: String,
    versions: Vec<PolicyVersion>,
}

/// A page of policies.
#[derive(ToSchema)]
pub(super) struct PolicyPage {
    items: Vec<Policy>,
    /// Why no policy may run, where all are disabled: reason, since and by.
    #[schema(value_type = Option<Object>)]
    disabled: Option<Value>,
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
    ramp: Option<u32>,
    headroom: Option<u64>,
    services: Option<u64>,
    healthy: Option<u64>,
    total: Option<u64>,
    /// As policies are shown it: damped.
    shown_freshness: Option<String>,
    /// As operators of this region asked: reason and since.
    #[schema(value_type = Option<Object>)]
    draining: Option<Value>,
    /// The same by zone.
    #[schema(value_type = Object)]
    draining_zones: Value,
    /// Of the own region.
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

/// An upload that was taken.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct Uploaded {
    name: String,
    version: String,
    size_bytes: u64,
    /// What the checks found.
    #[schema(value_type = Object)]
    report: Value,
    index: u64,
    applied: bool,
}
