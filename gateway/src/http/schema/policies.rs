//! Policies, bindings, and what is tried of them.

use super::Lookup;
use crate::problem::Problem;
use serde_json::Value;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// A component of WebAssembly, at most 8 MiB.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
pub(in super::super) struct Module(Vec<u8>);

/// A policy with the config that it is opened with.
#[derive(ToSchema)]
pub(in crate::http) struct Bound {
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
pub(in crate::http) struct Limits {
    /// `"all"`, or a list of names.
    #[schema(value_type = Value)]
    regions: Value,
    max_remote_share: f64,
}

/// A binding.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(in crate::http) struct Binding {
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
    /// Of a write: what its author may not have meant.
    warning: Option<String>,
}

/// What answers.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(in crate::http) struct Active {
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
pub(in crate::http) struct Candidate {
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
pub(in crate::http) struct Former {
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
pub(in crate::http) struct Seen {
    /// Lookups that both versions' plans were compared for.
    lookups: u64,
    /// Those that it answered; of a shadow, those that it was asked.
    answered: u64,
    faults: u64,
    /// Whether something else stands in for it now, for some caller.
    rests: bool,
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
pub(in crate::http) struct Clamped {
    /// Choices of endpoints that may not receive traffic.
    ineligible: u32,
    /// Plans that would send more to other regions than `maxRemoteShare`.
    remote_share: u32,
}

/// A share by the other version, and by this one.
#[derive(ToSchema)]
pub(in crate::http) struct Share {
    before: f64,
    after: f64,
}

/// What a version would answer.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(in crate::http) struct Trial {
    policy: Bound,
    namespace: String,
    service: String,
    index: u64,
    results: Vec<TrialResult>,
}

/// What a version would answer to one lookup.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(in crate::http) struct TrialResult {
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
pub(in crate::http) struct Simulation {
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
pub(in crate::http) struct SimulatedService {
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
pub(in crate::http) struct SimulatedCaller {
    zone: String,
    before: Predicted,
    after: Predicted,
    /// The share that moves between places.
    changed: f64,
}

/// Where lookups go.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(in crate::http) struct Predicted {
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
pub(in crate::http) struct BindingPage {
    items: Vec<Binding>,
    index: u64,
    next: Option<String>,
}

/// One version of a policy.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(in crate::http) struct PolicyVersion {
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
pub(in crate::http) struct Policy {
    name: String,
    versions: Vec<PolicyVersion>,
}

/// A page of policies.
#[derive(ToSchema)]
pub(in crate::http) struct PolicyPage {
    items: Vec<Policy>,
    /// Why no policy may run, where all are disabled: reason, since and by.
    #[schema(value_type = Option<Object>)]
    disabled: Option<Value>,
    index: u64,
    next: Option<String>,
}

/// An upload that was taken.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(in crate::http) struct Uploaded {
    name: String,
    version: String,
    size_bytes: u64,
    /// What the checks found.
    #[schema(value_type = Object)]
    report: Value,
    index: u64,
    applied: bool,
}
