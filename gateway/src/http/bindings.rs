//! The routes of bindings: which policy answers for a service or a namespace.

use super::instances::{rfc3339, with_etag};
use super::{bound, policies, request, schema, switches};
use crate::clock;
use crate::history::value_of;
use crate::identity::Identity;
use crate::problem::Problem;
use crate::region::{Deed, Region};
use crate::steward::{self, Sight};
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use meridian_model::binding::{
    Binding, Bound, Candidate, Limits, MAX_CONFIG_BYTES, NAMESPACE_DEFAULT, Regions, Stage, Way,
};
use meridian_model::names::{Namespace, RegionName, ServiceName};
use meridian_model::registration::{FieldError, MAX_KEY_BYTES, MAX_PAIRS};
use meridian_model::rollout::{Cause, NotPossible, Return, Terms};
use meridian_policies::{Host, standard_of};
use meridian_registry::{Change, Committed, Condition, Key, Revision, Stored, Write, record};
use serde::Deserialize;
use serde_json::{Value, json};
use smol_str::SmolStr;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A binding is 64 KiB of config and little else.
const BINDING_BODY: usize = MAX_CONFIG_BYTES + 16 * 1024;
const MAX_CONFLICTS: usize = 8;
/// Regions that a binding's limits may name.
const MAX_REGIONS: usize = 64;

/// The body of a binding.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BindingBody {
    /// The policy's name.
    policy: String,
    /// `sha256:…`; the newest where none is named.
    #[serde(default)]
    version: Option<String>,
    /// JSON that only the policy understands.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    config: Value,
    /// `active` replaces what answers; `shadow` and `canary` set the candidate.
    #[serde(default)]
    stage: Option<Wish>,
    /// Of a canary: the part of the lookups that it answers, 0 to 100.
    #[serde(default)]
    percent: Option<f64>,
    /// `{"regions": "all" | ["…"], "maxRemoteShare": 1.0}`.
    #[serde(default)]
    limits: Option<LimitsBody>,
    /// Labels of callers that reach the policy.
    #[serde(default)]
    caller_labels: Option<BTreeSet<String>>,
    /// Why, for the history.
    #[serde(default)]
    reason: String,
}

/// What the host enforces under the policy.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct LimitsBody {
    /// `"all"` (default), or the names of at most 64 regions.
    #[serde(default)]
    regions: Option<RegionsBody>,
    /// Greatest share of lookups that may leave the region, 0 to 1 (default).
    #[serde(default)]
    max_remote_share: Option<f64>,
}

#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(untagged, expecting = "must be \"all\" or a list of region names")]
enum RegionsBody {
    Word(String),
    Names(Vec<String>),
}

impl LimitsBody {
    pub(super) fn parse(self) -> Result<Limits, Problem> {
        let all = "must be \"all\" or a list of region names";
        let regions = match self.regions {
            None => Regions::All,
            Some(RegionsBody::Word(word)) if word == "all" => Regions::All,
            Some(RegionsBody::Word(_)) => return Err(Problem::field("limits.regions", all)),
            Some(RegionsBody::Names(names)) => {
                if names.len() > MAX_REGIONS {
                    let detail = format_args!("must be at most {MAX_REGIONS} names, not {}", names.len());
                    return Err(Problem::field("limits.regions", detail));
                }
                let (mut regions, mut wrong) = (BTreeSet::new(), Vec::new());
                for (at, name) in names.iter().enumerate() {
                    match name.parse::<RegionName>() {
                        Ok(name) if name.as_str() == "all" => wrong.push(FieldError::new(
                            format!("limits.regions[{at}]"),
                            "\"all\" stands alone, outside a list: \"regions\": \"all\"",
                        )),
                        Ok(name) => drop(regions.insert(name)),
                        Err(e) => wrong.push(FieldError::new(
                            format!("limits.regions[{at}]"),
                            format_args!("{:.100}: {e}", format!("{name:?}")),
                        )),
                    }
                }
                if !wrong.is_empty() {
                    return Err(Problem::fields(wrong));
                }
                Regions::Only(regions)
            }
        };
        let max_remote_share = self.max_remote_share.unwrap_or(1.0);
        if !(0.0..=1.0).contains(&max_remote_share) {
            return Err(Problem::field("limits.maxRemoteShare", "must be from 0 to 1"));
        }
        Ok(Limits { regions, max_remote_share })
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
enum Wish {
    #[default]
    Active,
    Shadow,
    Canary,
}

/// The body of a promotion.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PromoteBody {
    /// The candidate that is meant, `sha256:…`: another is not promoted.
    #[serde(default)]
    version: Option<String>,
    /// Promote against the evidence; needs a reason.
    #[serde(default)]
    force: bool,
    /// Why, for the history.
    #[serde(default)]
    reason: String,
}

/// The body of a roll-back.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RollbackBody {
    /// What is to go, `sha256:…`: the candidate, or the active version, beside which a candidate stays. Another is not rolled
    /// back, so that a call that comes twice, or late, undoes nothing else. Without it, the candidate goes, if there is one.
    #[serde(default)]
    version: Option<String>,
    /// Why, for the history.
    #[serde(default)]
    reason: String,
}

struct Wanted {
    bound: Bound,
    /// As what, if not as the active one.
    stage: Option<(Stage, f64)>,
    limits: Option<Limits>,
    caller_labels: Option<BTreeSet<SmolStr>>,
}

/// Where a binding stands: a service's, or the namespace's under `_default`.
pub(super) type Place = (Namespace, Option<ServiceName>);

fn place(namespace: &str, service: &str) -> Result<Place, Problem> {
    let service = if service == NAMESPACE_DEFAULT { None } else { Some(request::name(service)?) };
    Ok((request::name(namespace)?, service))
}

pub(super) fn target((namespace, service): &Place) -> String {
    format!("{namespace}/{}", service.as_ref().map_or(NAMESPACE_DEFAULT, |s| s.as_str()))
}

impl BindingBody {
    fn parse(self, region: &Region) -> Result<Wanted, Problem> {
        let stage = match (self.stage.unwrap_or_default(), self.percent) {
            (Wish::Active, None) => None,
            (Wish::Shadow, None) => Some((Stage::Shadow, 0.0)),
            (Wish::Canary, Some(percent)) if (0.0..=100.0).contains(&percent) => {
                Some((Stage::Canary, percent))
            }
            (Wish::Canary, Some(_)) => return Err(Problem::field("percent", "must be from 0 to 100")),
            (Wish::Canary, None) => {
                let detail = "stage canary needs the part of the lookups that it answers, such as 5";
                return Err(Problem::field("percent", detail));
            }
            (Wish::Active | Wish::Shadow, Some(_)) => {
                return Err(Problem::field("percent", "belongs to stage canary only"));
            }
        };
        let bound = bound::parse(region, &self.policy, self.version.as_deref(), &self.config)?;
        let limits = self.limits.map(LimitsBody::parse).transpose()?;
        let caller_labels = self.caller_labels.map(parse_labels).transpose()?;
        Ok(Wanted { bound, stage, limits, caller_labels })
    }
}

/// The labels that reach a policy, as a body names them.
pub(super) fn parse_labels(labels: BTreeSet<String>) -> Result<BTreeSet<SmolStr>, Problem> {
    if labels.len() > MAX_PAIRS || labels.iter().any(|l| l.is_empty() || l.len() > MAX_KEY_BYTES) {
        let detail = format!("must be at most {MAX_PAIRS} labels of 1 to {MAX_KEY_BYTES} bytes");
        return Err(Problem::field("callerLabels", detail));
    }
    Ok(labels.into_iter().map(SmolStr::from).collect())
}

fn way(way: Way) -> Value {
    serde_json::to_value(way).unwrap_or_default()
}

fn render(region: &Region, (namespace, service): &Place, binding: &Binding, modified: u64) -> Value {
    let mut active = bound::render(region, &binding.active);
    let activation = &binding.activation;
    active["since"] = json!(rfc3339(activation.since));
    active["way"] = way(activation.way);
    active["soaked"] = json!(activation.soaked);
    if activation.failed_at.0 > 0 {
        active["failedAt"] = json!(rfc3339(activation.failed_at));
        active["fault"] = json!(activation.fault);
    }
    let candidate = binding.candidate.as_ref().map(|candidate| {
        let mut value = bound::render(region, &candidate.bound);
        value["stage"] = json!(candidate.stage);
        if candidate.stage == Stage::Canary {
            value["percent"] = json!(candidate.percent);
        }
        value["since"] = json!(rfc3339(candidate.since));
        if !candidate.fault.is_empty() {
            value["fault"] = json!(candidate.fault);
        }
        value
    });
    let last_good = binding.last_good.iter().map(|former| {
        let mut value = bound::render(region, &former.bound);
        value["soaked"] = json!(former.soaked);
        value
    });
    json!({
        "namespace": namespace,
        "service": service.as_ref().map_or(NAMESPACE_DEFAULT, |s| s.as_str()),
        "active": active,
        "candidate": candidate,
        "lastGood": last_good.collect::<Vec<_>>(),
        "limits": binding.limits,
        "callerLabels": binding.caller_labels,
        "updatedAt": rfc3339(binding.updated_at),
        "modifiedIndex": modified,
    })
}

/// The binding that results. Where there was none of its own, it follows or stands beside what answers now.
fn replace(
    region: &Region,
    place: &Place,
    before: Option<&Binding>,
    wanted: &Wanted,
) -> Result<Binding, Problem> {
    let now = clock::unix_now();
    let Some((stage, percent)) = wanted.stage else {
        let terms = Terms {
            limits: wanted.limits.clone().unwrap_or_default(),
            caller_labels: wanted.caller_labels.clone().unwrap_or_default(),
        };
        let active = wanted.bound.clone();
        return Ok(match before {
            Some(before) => before.bind(active, terms, now),
            // What answered so far is what it returns to, by itself or by one call.
            None => beside(region, place).bind(active, terms, now),
        });
    };
    let base = before.cloned().unwrap_or_else(|| beside(region, place));
    let same = base.candidate.as_ref().filter(|c| c.bound == wanted.bound && c.stage == stage);
    let since = same.map_or(now, |candidate| candidate.since);
    let fault = same.map(|candidate| candidate.fault.clone()).unwrap_or_default();
    let mut next = base.try_out(Candidate { bound: wanted.bound.clone(), stage, percent, since, fault }, now);
    if let Some(limits) = &wanted.limits {
        next.limits = limits.clone();
    }
    if let Some(labels) = &wanted.caller_labels {
        next.caller_labels = labels.clone();
    }
    Ok(next)
}

/// A binding of its own that changes nothing yet: what answers for the place now.
pub(super) fn beside(region: &Region, (namespace, service): &Place) -> Binding {
    let rules = region.directory.rules();
    let default = rules.bindings.get(&(namespace.clone(), None)).filter(|_| service.is_some());
    match default {
        Some((default, _)) => Binding { candidate: None, ..(**default).clone() },
        None => Binding::new(Host::built_in(), Terms::default(), clock::unix_now()).soaked(),
    }
}

fn decode(stored: Stored) -> Option<(Binding, u64)> {
    match record::decode(&stored.key, &stored.value) {
        Ok(Some(record::Record::Binding(binding))) => Some((*binding, stored.modified.0)),
        _ => None,
    }
}

/// Bind a policy to a service, or to a namespace under `_default`.
#[utoipa::path(put, path = "/v1/namespaces/{ns}/bindings/{service}", tag = "operators",
    params(("ns" = String, Path), ("service" = String, Path, description = "or _default for the whole namespace")),
    request_body(content = BindingBody),
    responses((status = 201, description = "bound for the first time", body = schema::Binding),
              (status = 200, description = "replaced", body = schema::Binding),
              (status = "4XX", body = Problem)))]
pub async fn put(
    State(region): State<Arc<Region>>,
    Path((namespace, service)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let identity = request::bearer(&region, &headers)?;
    let place = place(&namespace, &service)?;
    identity.may_operate(&place.0)?;
    let mut body: BindingBody = request::json(&headers, body, BINDING_BODY).await?;
    let reason = std::mem::take(&mut body.reason);
    request::check_reason(&reason)?;
    let wanted = body.parse(&region)?;
    bound::try_config(&region, &wanted.bound).await?;
    let action = if wanted.stage.is_some() { "stage" } else { "bind" };
    let edit = Edit {
        action,
        reason,
        warning: wanted.limits.as_ref().and_then(|limits| unknown_regions(&region, limits)),
    };
    rewrite(&region, &identity, &place, &headers, edit, |before| replace(&region, &place, before, &wanted))
        .await
}

struct Edit {
    action: &'static str,
    reason: String,
    /// What the operator may not have meant.
    warning: Option<String>,
}

/// Regions of limits that are neither configured nor heard of: they may be about to join, or misspelt.
fn unknown_regions(region: &Region, limits: &Limits) -> Option<String> {
    let Regions::Only(named) = &limits.regions else { return None };
    let heard = region.directory.currency.others();
    let known = |name: &RegionName| {
        *name == region.name || region.peers.contains(name) || heard.iter().any(|other| other.name == *name)
    };
    let unknown: Vec<&str> = named.iter().filter(|name| !known(name)).map(RegionName::as_str).collect();
    let them = unknown.join(", ");
    (!unknown.is_empty()).then(|| {
        format!(
            "nothing was ever heard of {them} here, nor is it configured; GET /v1/regions lists what is known"
        )
    })
}

/// Writes what becomes of a binding, on condition that nobody wrote in between.
async fn rewrite(
    region: &Region,
    identity: &Identity,
    place: &Place,
    headers: &HeaderMap,
    edit: Edit,
    change: impl Fn(Option<&Binding>) -> Result<Binding, Problem>,
) -> Result<Response, Problem> {
    let precondition = request::precondition(headers);
    let key = Key::Binding(place.0.clone(), place.1.clone());
    let (mut stored, _) = region.registry.read(&key).await?;
    for _ in 0..MAX_CONFLICTS {
        let revision = stored.as_ref().map(|s| s.modified);
        precondition.check(revision.map(|r| r.0))?;
        let before = stored.and_then(decode).map(|(binding, _)| binding);
        let binding = change(before.as_ref())?;
        let condition = match revision {
            None => Condition::Absent(key.clone()),
            Some(revision) => Condition::Unchanged(key.clone(), revision),
        };
        let deed = Deed {
            action: edit.action,
            target: target(place),
            reason: &edit.reason,
            before: value_of(before.as_ref()),
            after: value_of(Some(&binding)),
        };
        let put = Change::Put(key.clone(), record::encode(&binding)?);
        let mut write = Write { conditions: vec![condition], changes: vec![put] };
        for (key, manifest) in manifests_of_new(region, before.as_ref(), &binding)? {
            write.conditions.push(Condition::Present(key.clone()));
            write.changes.push(Change::Put(key, manifest));
        }
        match region.commit(identity, write, deed).await? {
            Committed::Applied(Revision(modified)) => {
                let applied = region.applied(Revision(modified)).await;
                let mut value = render(region, place, &binding, modified);
                value["index"] = json!(modified);
                value["applied"] = json!(applied);
                if let Some(warning) = &edit.warning {
                    value["warning"] = json!(warning);
                }
                let status = if revision.is_none() { StatusCode::CREATED } else { StatusCode::OK };
                return Ok(with_etag((status, axum::Json(value)).into_response(), modified));
            }
            Committed::Conflict(mut standing) => {
                if standing.iter().skip(1).any(Option::is_none) {
                    let detail = "a version that it names was deleted at the same time; try again";
                    return Err(Problem::new(StatusCode::CONFLICT, "conflict", detail));
                }
                stored = if standing.is_empty() { None } else { standing.swap_remove(0) };
            }
        }
    }
    Err(Problem::new(StatusCode::CONFLICT, "conflict", "the binding is being changed by others; try again"))
}

/// The manifests of versions that the binding did not name before, as they stand. They are written along with it: whoever
/// deletes one of them, on what was bound before, finds it changed.
fn manifests_of_new(
    region: &Region,
    before: Option<&Binding>,
    after: &Binding,
) -> Result<BTreeMap<Key, Bytes>, Problem> {
    let rules = region.directory.rules();
    let mut manifests = BTreeMap::new();
    for bound in after.versions() {
        if before.is_some_and(|before| before.versions().any(|known| known.version == bound.version)) {
            continue;
        }
        if let Some((manifest, _)) = rules.policies.get(&(bound.policy.clone(), bound.version)) {
            let key = Key::Policy(bound.policy.clone(), bound.version);
            manifests.insert(key, record::encode(&**manifest)?);
            continue;
        }
        // What is bound elsewhere runs on, whatever became of its manifest; anything else was deleted just now.
        let is = |known: &Bound| known.version == bound.version;
        let is_bound = || rules.bindings.values().any(|(binding, _)| binding.versions().any(is));
        if standard_of(bound.version).is_none() && !is_bound() {
            return Err(policies::no_such_version(&bound.policy, bound.version));
        }
    }
    Ok(manifests)
}

fn is_meant(version: Option<&str>, bound: &Bound) -> bool {
    version.is_none_or(|version| version == bound.version.to_string())
}

/// Refuses where something else stands there than the caller means.
fn require_meant(version: Option<&str>, bound: &Bound) -> Result<(), Problem> {
    if is_meant(version, bound) {
        return Ok(());
    }
    let detail = format!("{} {} stands there now: look at the binding again", bound.policy, bound.version);
    Err(Problem::new(StatusCode::CONFLICT, "another-version", detail))
}

impl From<NotPossible> for Problem {
    fn from(error: NotPossible) -> Self {
        let code = match error {
            NotPossible::NoCandidate => "no-candidate",
            NotPossible::NothingToReturnTo => "nothing-to-return-to",
            NotPossible::Disabled => "disabled",
        };
        Self::new(StatusCode::CONFLICT, code, error.to_string())
    }
}

/// Let the candidate answer in place of the active version.
///
/// Refused while it has failed, has been asked too seldom, or would refuse or move too many lookups by what this gateway
/// has seen of it; `force` with a reason overrides that.
#[utoipa::path(post, path = "/v1/namespaces/{ns}/bindings/{service}/promote", tag = "operators",
    params(("ns" = String, Path), ("service" = String, Path)), request_body(content = Option<PromoteBody>),
    responses((status = 200, description = "the binding", body = schema::Binding), (status = 404, body = Problem),
              (status = 409, description = "no-candidate, disabled, or not-proven with what speaks against it", body = Problem)))]
pub async fn promote(
    State(region): State<Arc<Region>>,
    Path((namespace, service)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let identity = request::bearer(&region, &headers)?;
    let place = place(&namespace, &service)?;
    identity.may_operate(&place.0)?;
    let PromoteBody { version, force, reason } =
        request::json_or_default(&headers, body, request::SMALL_BODY).await?;
    request::check_reason(&reason)?;
    if force && reason.trim().is_empty() {
        return Err(Problem::field("reason", "must say why the evidence is overridden"));
    }
    let sights = steward::look(&region.host).await;
    let edit = Edit { action: if force { "force-promote" } else { "promote" }, reason, warning: None };
    rewrite(&region, &identity, &place, &headers, edit, |before| {
        let before = before.ok_or_else(|| no_such_binding(&place))?;
        let candidate = before.candidate.as_ref().ok_or(NotPossible::NoCandidate)?;
        require_meant(version.as_deref(), &candidate.bound)?;
        switches::require_enabled(&region, &candidate.bound)?;
        if !force {
            let against = Sight::objection(sights.get(&place), candidate, &region.rollout);
            if let Some(against) = against {
                let detail = format!(
                    "the candidate is not proven: {against}; wait, look at GET …/bindings/{}/diff, or promote with {{\"force\": true, \"reason\": \"…\"}}",
                    place.1.as_ref().map_or(NAMESPACE_DEFAULT, |s| s.as_str())
                );
                return Err(Problem::new(StatusCode::CONFLICT, "not-proven", detail));
            }
        }
        Ok(before.promote(force, clock::unix_now())?)
    })
    .await
}

/// Give up the candidate; without one, or where the active version is named, let answer what answered before that.
#[utoipa::path(post, path = "/v1/namespaces/{ns}/bindings/{service}/rollback", tag = "operators",
    params(("ns" = String, Path), ("service" = String, Path)), request_body(content = Option<RollbackBody>),
    responses((status = 200, description = "the binding", body = schema::Binding), (status = 404, body = Problem),
              (status = 409, description = "nothing-to-return-to, or disabled", body = Problem)))]
pub async fn rollback(
    State(region): State<Arc<Region>>,
    Path((namespace, service)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let identity = request::bearer(&region, &headers)?;
    let place = place(&namespace, &service)?;
    identity.may_operate(&place.0)?;
    let RollbackBody { version, reason } =
        request::json_or_default(&headers, body, request::SMALL_BODY).await?;
    request::check_reason(&reason)?;
    let edit = Edit { action: "rollback", reason, warning: None };
    rewrite(&region, &identity, &place, &headers, edit, |before| {
        let before = before.ok_or_else(|| no_such_binding(&place))?;
        let may_run = |bound: &Bound| switches::require_enabled(&region, bound).is_ok();
        let (version, now) = (version.as_deref(), clock::unix_now());
        match &before.candidate {
            Some(candidate) if !is_meant(version, &candidate.bound) && is_meant(version, &before.active) => {
                Ok(before.roll_back_active(Return::Before, may_run, now)?)
            }
            candidate => {
                require_meant(version, candidate.as_ref().map_or(&before.active, |c| &c.bound))?;
                Ok(before.roll_back(Return::Before, may_run, now)?)
            }
        }
    })
    .await
    .inspect(|_| region.steward.count_rollback(Cause::Operator))
}

/// What this gateway has seen of the candidate beside the active version, and of the active one while it soaks.
#[utoipa::path(get, path = "/v1/namespaces/{ns}/bindings/{service}/diff", tag = "operators",
    params(("ns" = String, Path), ("service" = String, Path)),
    responses((status = 200, description = "the binding, with what was seen", body = schema::Binding),
              (status = 404, body = Problem)))]
pub async fn diff(
    State(region): State<Arc<Region>>,
    Path((namespace, service)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let place = place(&namespace, &service)?;
    request::bearer(&region, &headers)?.may_read(&place.0)?;
    let rules = region.directory.rules();
    let Some((binding, modified)) = rules.bindings.get(&place) else { return Err(no_such_binding(&place)) };
    let sights = steward::look(&region.host).await;
    let mut value = render(&region, &place, binding, *modified);
    let sight = sights.get(&place);
    let active = sight.and_then(|sight| sight.active_of(binding)).cloned().unwrap_or_default();
    value["active"]["seen"] = steward::render(&active);
    if let Some(candidate) = &binding.candidate {
        let evidence = sight.and_then(|sight| sight.candidate_of(candidate)).cloned().unwrap_or_default();
        value["candidate"]["seen"] = steward::render(&evidence);
        value["candidate"]["seen"]["services"] = json!(sight.map(Sight::services).unwrap_or_default());
        value["candidate"]["seen"]["examples"] = json!(sight.map(Sight::examples).unwrap_or_default());
        value["candidate"]["objection"] = json!(Sight::objection(sight, candidate, &region.rollout));
    }
    value["gateway"] = json!(region.me);
    Ok(axum::Json(value).into_response())
}

/// The bindings of a namespace.
#[utoipa::path(get, path = "/v1/namespaces/{ns}/bindings", tag = "operators",
    params(("ns" = String, Path), ("index" = Option<u64>, Query), ("limit" = Option<u32>, Query), ("next" = Option<String>, Query)),
    responses((status = 200, description = "a page", body = schema::BindingPage), (status = "4XX", body = Problem)))]
pub async fn list(
    State(region): State<Arc<Region>>,
    Path(namespace): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let namespace: Namespace = request::name(&namespace)?;
    request::bearer(&region, &headers)?.may_read(&namespace)?;
    let page = request::page(query.as_deref())?;
    request::await_index(&region, query.as_deref()).await?;
    let rules = region.directory.rules();
    let bindings = rules.bindings.iter().filter(|((ns, _), _)| *ns == namespace);
    let (items, next) = request::cut(bindings, &page, |(place, _)| {
        place.1.as_ref().map(|s| s.to_string()).unwrap_or_default()
    });
    let items: Vec<Value> = items.into_iter().map(|(place, (b, m))| render(&region, place, b, *m)).collect();
    let index = region.directory.currency.index();
    Ok(axum::Json(json!({ "items": items, "index": index, "next": next })).into_response())
}

/// One binding.
#[utoipa::path(get, path = "/v1/namespaces/{ns}/bindings/{service}", tag = "operators",
    params(("ns" = String, Path), ("service" = String, Path), ("index" = Option<u64>, Query)),
    responses((status = 200, description = "the binding", body = schema::Binding), (status = 404, body = Problem)))]
pub async fn get(
    State(region): State<Arc<Region>>,
    Path((namespace, service)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let place = place(&namespace, &service)?;
    request::bearer(&region, &headers)?.may_read(&place.0)?;
    request::await_index(&region, query.as_deref()).await?;
    let rules = region.directory.rules();
    let Some((binding, modified)) = rules.bindings.get(&place) else { return Err(no_such_binding(&place)) };
    let mut value = render(&region, &place, binding, *modified);
    value["index"] = json!(region.directory.currency.index());
    Ok(with_etag(axum::Json(value).into_response(), *modified))
}

/// Remove a binding: the namespace's default, or the built-in policy, answers again.
#[utoipa::path(delete, path = "/v1/namespaces/{ns}/bindings/{service}", tag = "operators",
    params(("ns" = String, Path), ("service" = String, Path),
           ("reason" = Option<String>, Query, description = "why, for the history")),
    responses((status = 204, description = "removed"), (status = "4XX", body = Problem)))]
pub async fn delete(
    State(region): State<Arc<Region>>,
    Path((namespace, service)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let identity = request::bearer(&region, &headers)?;
    let place = place(&namespace, &service)?;
    identity.may_operate(&place.0)?;
    let reason = request::reason(query.as_deref())?;
    let key = Key::Binding(place.0.clone(), place.1.clone());
    let (stored, _) = region.registry.read(&key).await?;
    let Some(stored) = stored else { return Err(no_such_binding(&place)) };
    request::precondition(&headers).check(Some(stored.modified.0))?;
    let condition = Condition::Unchanged(key.clone(), stored.modified);
    let deed = Deed {
        action: "unbind",
        target: target(&place),
        reason: &reason,
        before: value_of(decode(stored).map(|(binding, _)| binding).as_ref()),
        after: Value::Null,
    };
    match region.write(&identity, condition, Change::Delete(key), deed).await? {
        Ok(revision) => {
            region.applied(revision).await;
            Ok(StatusCode::NO_CONTENT)
        }
        Err(_) => Err(Problem::new(
            StatusCode::CONFLICT,
            "conflict",
            "the binding was changed at the same time; try again",
        )),
    }
}

fn no_such_binding(place: &Place) -> Problem {
    let detail = format!("{} has no binding of its own; the default answers for it", target(place));
    Problem::new(StatusCode::NOT_FOUND, "no-such-binding", detail)
}
