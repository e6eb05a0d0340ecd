//! What would be answered: a version tried over live snapshots, and the loss of zones and regions, without changing anything.

use super::bindings::{self, LimitsBody};
use super::{bound, request, schema};
use crate::clock;
use crate::lookup::answer::render_trial;
use crate::lookup::question::{Count, Question};
use crate::problem::Problem;
use crate::region::Region;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use meridian_model::binding::{Binding, Bound, Effective, Limits, Regions, Source};
use meridian_model::caller::Caller;
use meridian_model::contrast::Spread;
use meridian_model::names::{Namespace, RegionName, ServiceKey, ZoneName};
use meridian_model::remote::Remote;
use meridian_model::rollout::Terms;
use meridian_model::snapshot::{Place, Snapshot, WithheldBy, WithheldRegion};
use meridian_model::status::Status;
use meridian_policies::{Evaluation, Host, Outcome};
use serde::Deserialize;
use serde_json::{Value, json};
use smol_str::{SmolStr, format_smolstr};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Lookups of one trial.
const MAX_LOOKUPS: usize = 100;
/// Zones, regions and drains of one simulation.
const MAX_NAMED: usize = 64;
/// Services of one simulation.
const MAX_SERVICES: usize = 200;
/// A simulation that takes longer ends with the services that it came to.
const DEADLINE: Duration = Duration::from_secs(10);

/// The body of a trial.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TryBody {
    /// `sha256:…`; the newest where none is named.
    #[serde(default)]
    version: Option<String>,
    /// JSON that only the policy understands.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    config: Value,
    /// Namespace of the service.
    #[serde(default)]
    ns: Option<String>,
    /// Over which service.
    service: String,
    /// Those of the binding that it would have; as they are in force where none are given. They can be narrowed only.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    limits: Option<LimitsBody>,
    /// Labels that would reach the policy; those of the lookups where none are named.
    #[serde(default)]
    caller_labels: Option<BTreeSet<String>>,
    /// `[{zone, key, n, labels}]`; one from nowhere in particular by default.
    #[serde(default)]
    #[schema(value_type = Vec<Object>)]
    lookups: Vec<TryLookup>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TryLookup {
    #[serde(default)]
    zone: Option<String>,
    #[serde(default)]
    key: Option<String>,
    /// A number, or `"all"` (default).
    #[serde(default)]
    n: Option<Value>,
    #[serde(default)]
    labels: BTreeMap<SmolStr, SmolStr>,
}

fn snapshot_of(region: &Region, service: &ServiceKey) -> Result<Arc<Snapshot>, Problem> {
    super::system::require_ready(region)?;
    let published = region.directory.get(service);
    published.map(|p| p.snapshot()).ok_or_else(|| super::services::no_such_service(region, service))
}

/// The snapshot under a binding of this version alone: nothing stands in for it where it fails.
fn under(live: &Snapshot, bound: &Bound, limits: Limits, caller_labels: BTreeSet<SmolStr>) -> Snapshot {
    with_binding(live, Effective { limits, caller_labels, ..Effective::only(bound.clone()) })
}

/// The snapshot under another binding: of its remotes those stay that this one allows, and the others are withheld.
fn with_binding(live: &Snapshot, binding: Effective) -> Snapshot {
    let mut next = live.clone();
    let left_out = next.remotes.extract_if(.., |remote| !binding.limits.allow(&remote.region));
    next.withheld.regions.extend(left_out.map(|Remote { region, standing, summary, .. }| {
        let (healthy, total) = summary.health();
        WithheldRegion { region, by: WithheldBy::Limits, standing, healthy, total }
    }));
    next.withheld.regions.sort_by(|one, other| one.region.cmp(&other.region));
    next.binding = Arc::new(binding);
    next
}

/// A snapshot holds the regions that the limits in force allow: what others would allow cannot be shown.
fn require_shown(live: &Snapshot, limits: &Limits) -> Result<(), Problem> {
    let now = &live.binding.limits;
    let more = match (&limits.regions, &now.regions) {
        (_, Regions::All) => now.max_remote_share <= 0.0,
        (Regions::All, Regions::Only(_)) => true,
        (Regions::Only(wanted), Regions::Only(shown)) => {
            now.max_remote_share <= 0.0 || !wanted.is_subset(shown)
        }
    };
    if live.withheld.by(WithheldBy::Limits).next().is_none() || limits.max_remote_share <= 0.0 || !more {
        return Ok(());
    }
    let detail = format_args!(
        "can be tried as narrow as those in force, or narrower: what {} would do with more regions is not known here",
        live.key
    );
    Err(Problem::field("limits", detail))
}

/// The limits of a service whose binding has these, as `_default` cuts them.
fn within_default(region: &Region, service: &ServiceKey, limits: &Limits) -> Limits {
    let rules = region.directory.rules();
    match rules.bindings.get(&(service.namespace.clone(), None)) {
        Some((default, _)) => limits.intersect(&default.limits),
        None => limits.clone(),
    }
}

/// The key of a lookup that only shows whether `route` works: plans are there before it was ever called.
const PROBE: u64 = 1;

/// What would be answered over a snapshot that nobody published, with `route` called as a lookup would.
async fn suppose(region: &Region, snapshot: &Arc<Snapshot>, caller: Caller, key: Option<u64>) -> Evaluation {
    let supposed = region.host.try_out(Arc::clone(snapshot), caller.clone(), key).await;
    if key.is_some() || supposed.view.outcome != Outcome::Ok {
        return supposed;
    }
    // A canary might take the key in its place.
    let alone = Effective { candidate: None, ..(*snapshot.binding).clone() };
    let alone = Snapshot { binding: Arc::new(alone), ..(**snapshot).clone() };
    let probed = region.host.try_out(Arc::new(alone), caller, Some(PROBE)).await;
    match probed.view.outcome {
        Outcome::Ok => supposed,
        _ => Evaluation { plan: None, ..probed },
    }
}

/// Labels of `given` that are not among `shown`.
fn held_back<'a>(given: &'a BTreeMap<SmolStr, SmolStr>, shown: &BTreeSet<SmolStr>) -> Vec<&'a SmolStr> {
    given.keys().filter(|label| !shown.contains(*label)).collect()
}

fn failed(evaluation: &Evaluation) -> Option<&str> {
    match &evaluation.view.outcome {
        Outcome::Ok => None,
        outcome => outcome.reason(),
    }
}

/// What a version would answer, now, over the live snapshot of a service.
///
/// It is asked alone: where it fails there is no answer, only the fault. Labels reach it as if `callerLabels` were bound with it.
#[utoipa::path(post, path = "/v1/policies/{name}/try", tag = "operators", params(("name" = String, Path)),
    request_body(content = TryBody),
    responses((status = 200, description = "what it would answer", body = schema::Trial),
              (status = "4XX", body = Problem)))]
pub async fn try_out(
    State(region): State<Arc<Region>>,
    Path(policy): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let identity = request::bearer(&region, &headers)?;
    let body: TryBody = request::json(&headers, body, 256 * 1024).await?;
    let namespace = body.ns.as_deref().map_or_else(|| Ok(Namespace::default()), request::name)?;
    identity.may_operate(&namespace)?;
    let service = ServiceKey::new(namespace, request::name(&body.service)?);
    if body.lookups.len() > MAX_LOOKUPS {
        return Err(Problem::field("lookups", format_args!("must be at most {MAX_LOOKUPS}")));
    }
    bound::require_policy(&region, &request::name(&policy)?)?;
    let bound = bound::parse(&region, &policy, body.version.as_deref(), &body.config)?;
    bound::try_config(&region, &bound).await?;
    let live = snapshot_of(&region, &service)?;
    let limits = match body.limits.map(LimitsBody::parse).transpose()? {
        Some(limits) => within_default(&region, &service, &limits),
        None => live.binding.limits.clone(),
    };
    require_shown(&live, &limits)?;
    let caller_labels = body.caller_labels.map(bindings::parse_labels).transpose()?;
    let mut lookups = body.lookups;
    if lookups.is_empty() {
        lookups.push(TryLookup::default());
    }
    let mut results = Vec::with_capacity(lookups.len());
    for lookup in &lookups {
        let question = lookup.question(&service)?;
        let shown = caller_labels.clone().unwrap_or_else(|| question.labels.keys().cloned().collect());
        let tried = Arc::new(under(&live, &bound, limits.clone(), shown));
        let caller = question.caller(&region.name, &live.binding.caller_labels);
        let before = region.host.evaluate(Arc::clone(&live), caller, None).await;
        let caller = question.caller(&region.name, &tried.binding.caller_labels);
        let to_bind: Vec<&SmolStr> =
            caller.labels.keys().filter(|label| !live.binding.caller_labels.contains(*label)).collect();
        let (held_back, to_bind) =
            (json!(held_back(&question.labels, &tried.binding.caller_labels)), json!(to_bind));
        let after = suppose(&region, &tried, caller, question.key).await;
        let mut result = match failed(&after) {
            Some(fault) => json!({ "fault": fault, "changed": null, "clamped": null }),
            None => {
                let mut result = match render_trial(&region, &question, &tried, &after) {
                    Ok(answer) => json!({ "answer": answer }),
                    Err(problem) => json!({ "error": problem }),
                };
                result["fault"] = Value::Null;
                result["changed"] = json!(changed(named, (&before, &live), (&after, &tried)));
                result["clamped"] = json!(after.view.plans.clamped);
                result
            }
        };
        (result["heldBack"], result["labelsToBind"]) = (held_back, to_bind);
        results.push(result);
    }
    let answer = json!({
        "policy": bound::render(&region, &bound), "namespace": service.namespace, "service": service.service,
        "index": region.directory.currency.index(), "results": results,
    });
    Ok(axum::Json(answer).into_response())
}

impl TryLookup {
    fn question(&self, service: &ServiceKey) -> Result<Question, Problem> {
        let zone = self.zone.as_deref().filter(|z| !z.is_empty()).map(request::name).transpose()?;
        let key = self.key.as_deref().filter(|k| !k.is_empty()).map(meridian_model::selection::key_hash);
        let labels = self.labels.clone();
        let count = match &self.n {
            None => Count::All,
            Some(Value::String(all)) if all == "all" => Count::All,
            Some(n) => {
                let wanted =
                    n.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| (1..=1_000).contains(n));
                let wrong = || Problem::field("lookups.n", "must be a number from 1 to 1000, or \"all\"");
                Count::Some(wanted.ok_or_else(wrong)?)
            }
        };
        Ok(Question { service: service.clone(), zone, key, count, labels, explain: true })
    }
}

/// The body of a simulation.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SimulateBody {
    /// Namespace; `default` where none is named.
    #[serde(default)]
    ns: Option<String>,
    /// One service; all of the namespace where none is named.
    #[serde(default)]
    service: Option<String>,
    /// Zones of this region whose instances are lost.
    #[serde(default)]
    lose_zones: Vec<String>,
    /// Regions that are lost; this one too.
    #[serde(default)]
    lose_regions: Vec<String>,
    /// Zones of this region, or regions, that are drained.
    #[serde(default)]
    drain: Vec<String>,
    /// A version that is active: `{policy, version, config, scope}`.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    activate: Option<ActivateBody>,
    /// Those of the binding; as they are in force where none are given. They can be narrowed only.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    limits: Option<LimitsBody>,
    /// Labels that reach the policy; as the binding has them where none are named.
    #[serde(default)]
    caller_labels: Option<BTreeSet<String>>,
    /// Callers' zones; those of the region where none is named.
    #[serde(default)]
    zones: Vec<String>,
    /// Callers' labels.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    labels: BTreeMap<SmolStr, SmolStr>,
    /// At most so many services, 1 to 200 (default).
    #[serde(default)]
    limit: Option<usize>,
    /// Services after this one: what an answer gave as `next`.
    #[serde(default)]
    next: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ActivateBody {
    policy: String,
    #[serde(default)]
    version: Option<String>,
    #[serde(default)]
    config: Value,
    #[serde(default)]
    scope: Scope,
}

/// Whose binding it is that changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Scope {
    /// Each service's own, whether it has one or not.
    #[default]
    Service,
    /// The namespace's, `_default`: services with a binding of their own keep it.
    Namespace,
}

/// What is supposed to have happened.
struct Supposed {
    lost_zones: BTreeSet<ZoneName>,
    lost_regions: BTreeSet<RegionName>,
    drained_zones: BTreeSet<ZoneName>,
    drained_regions: BTreeSet<RegionName>,
    active: Option<Bound>,
    scope: Scope,
    limits: Option<Limits>,
    caller_labels: Option<BTreeSet<SmolStr>>,
}

fn names<T: std::str::FromStr<Err = meridian_model::names::BadName> + Ord>(
    field: &str,
    texts: &[String],
) -> Result<BTreeSet<T>, Problem> {
    if texts.len() > MAX_NAMED {
        return Err(Problem::field(field, format_args!("must be at most {MAX_NAMED}")));
    }
    texts.iter().map(|text| text.parse().map_err(|error| Problem::field(field, error))).collect()
}

impl Supposed {
    fn parse(region: &Region, body: &mut SimulateBody) -> Result<Self, Problem> {
        let lost_zones: BTreeSet<ZoneName> = names("loseZones", &body.lose_zones)?;
        let known = |zone: &ZoneName| region.zones.contains(zone);
        if let Some(unknown) = lost_zones.iter().find(|zone| !known(zone)) {
            let detail = format_args!("{unknown} is no zone of {}: {}", region.name, listed(&region.zones));
            return Err(Problem::field("loseZones", detail));
        }
        let (zones, regions): (Vec<String>, Vec<String>) = body
            .drain
            .iter()
            .cloned()
            .partition(|name| name.parse().is_ok_and(|zone: ZoneName| known(&zone)));
        let (lost_regions, drained_regions) =
            (names("loseRegions", &body.lose_regions)?, names("drain", &regions)?);
        let others = region.directory.currency.others();
        let known =
            |name: &RegionName| *name == region.name || others.iter().any(|other| other.name == *name);
        for (field, named) in [("loseRegions", &lost_regions), ("drain", &drained_regions)] {
            if let Some(unknown) = named.iter().find(|name| !known(name)) {
                return Err(Problem::field(field, unknown_place(region, field, unknown)));
            }
        }
        let active = body.activate.as_ref();
        let active =
            active.map(|a| bound::parse(region, &a.policy, a.version.as_deref(), &a.config)).transpose()?;
        Ok(Self {
            lost_zones,
            lost_regions,
            drained_zones: names("drain", &zones)?,
            drained_regions,
            active,
            scope: body.activate.as_ref().map(|activate| activate.scope).unwrap_or_default(),
            limits: body.limits.take().map(LimitsBody::parse).transpose()?,
            caller_labels: body.caller_labels.take().map(bindings::parse_labels).transpose()?,
        })
    }

    /// Whether the version that is supposed to be active answers for a service.
    fn activates(&self, live: &Snapshot) -> bool {
        let inherits = self.scope == Scope::Service || live.binding.source != Source::Own;
        self.active.is_some() && inherits
    }

    /// The binding that would be in force, as if it had been written: what answered before stands in for what fails, and
    /// what is not supposed stays as it is.
    fn binding(&self, region: &Region, live: &Snapshot) -> Effective {
        if self.active.is_none() && self.limits.is_none() && self.caller_labels.is_none() {
            return (*live.binding).clone();
        }
        let rules = region.directory.rules();
        let service = (live.key.namespace.clone(), Some(live.key.service.clone()));
        let namespace = (live.key.namespace.clone(), None);
        let standing =
            |place: &bindings::Place| rules.bindings.get(place).map(|(binding, _)| (**binding).clone());
        let (mut own, mut default) = (standing(&service), standing(&namespace));
        match self.scope {
            Scope::Service => own = Some(self.replace(region, &service, own)),
            Scope::Namespace => default = Some(self.replace(region, &namespace, default)),
        }
        Effective::of(own.as_ref(), default.as_ref(), &Host::built_in()).heeding(&rules.switches)
    }

    fn replace(&self, region: &Region, place: &bindings::Place, before: Option<Binding>) -> Binding {
        let base = before.unwrap_or_else(|| bindings::beside(region, place));
        let terms = Terms {
            limits: self.limits.clone().unwrap_or_else(|| base.limits.clone()),
            caller_labels: self.caller_labels.clone().unwrap_or_else(|| base.caller_labels.clone()),
        };
        match self.active.clone() {
            Some(active) => base.bind(active, terms, clock::unix_now()),
            None => Binding { limits: terms.limits, caller_labels: terms.caller_labels, ..base },
        }
    }

    /// The snapshot as it would be.
    fn apply(&self, region: &Region, live: &Snapshot) -> Result<Snapshot, Problem> {
        let binding = self.binding(region, live);
        require_shown(live, &binding.limits)?;
        let mut next = with_binding(live, binding);
        let here_lost = self.lost_regions.contains(&live.region);
        for endpoint in &mut next.endpoints {
            let lost = here_lost || self.lost_zones.contains(endpoint.zone());
            if lost && endpoint.status == Status::Healthy {
                endpoint.status = Status::Unhealthy;
            }
        }
        let here_drained = self.drained_regions.contains(&live.region);
        let drained: BTreeSet<ZoneName> = next
            .endpoints
            .iter()
            .map(|endpoint| endpoint.zone().clone())
            .filter(|zone| here_drained || self.drained_zones.contains(zone))
            .chain(next.draining_zones.iter().cloned())
            .collect();
        next.draining_zones = drained.into_iter().collect();
        next.remotes.retain(|remote| !self.lost_regions.contains(&remote.region));
        for remote in &mut next.remotes {
            remote.standing.draining |= self.drained_regions.contains(&remote.region);
        }
        Ok(next)
    }
}

/// A simulation of what cannot happen would say that nothing changes.
fn unknown_place(region: &Region, field: &str, name: &RegionName) -> String {
    let others = region.directory.currency.others();
    let regions: Vec<&RegionName> =
        std::iter::once(&region.name).chain(others.iter().map(|o| &o.name)).collect();
    let zones = if field == "drain" {
        format!(", and no zone of this one: {}", listed(&region.zones))
    } else {
        String::new()
    };
    format!("{name} is no region that is known here: {}{zones}", listed(&regions))
}

fn listed<T: std::fmt::Display>(names: &[T]) -> String {
    names.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

/// Where the lookups of one caller go, by expectation.
fn spread_of(evaluation: &Evaluation, snapshot: &Snapshot) -> Spread {
    Spread::of(&evaluation.view.plans, snapshot, evaluation.view.caller.zone.as_ref())
}

/// Shares by destination: endpoints of this region by their ids, others as `region/endpoint`.
fn named(spread: &Spread, snapshot: &Snapshot) -> BTreeMap<SmolStr, f64> {
    let name = |(position, share): (&u32, &f64)| {
        let name = match snapshot.place(*position)? {
            Place::Here(endpoint) => SmolStr::new(endpoint.id()),
            Place::There(remote, address) => format_smolstr!("{}/{}", remote.region, address.name()),
        };
        Some((name, *share))
    };
    spread.positions.iter().filter_map(name).collect()
}

/// Shares by place, and by destination where they are few.
fn render(evaluation: &Evaluation, snapshot: &Snapshot, destinations: bool) -> Value {
    let spread = spread_of(evaluation, snapshot);
    let mut value = json!({
        "places": spread.places(snapshot), "refused": spread.refused, "none": spread.nothing,
        "nothingEligible": spread.native + spread.nothing,
        "outcome": evaluation.view.outcome.as_str(), "reason": evaluation.view.outcome.reason(),
    });
    if destinations {
        value["endpoints"] = json!(named(&spread, snapshot));
    }
    value
}

/// Predicted shares after a loss, a drain or an activation: from the live snapshot, through the real policies, changing
/// nothing.
#[utoipa::path(post, path = "/v1/simulate", tag = "operators", request_body(content = SimulateBody),
    responses((status = 200, description = "shares by place", body = schema::Simulation),
              (status = "4XX", body = Problem)))]
pub async fn simulate(
    State(region): State<Arc<Region>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let identity = request::bearer(&region, &headers)?;
    let mut body: SimulateBody = request::json(&headers, body, 256 * 1024).await?;
    let namespace: Namespace = body.ns.as_deref().map_or_else(|| Ok(Namespace::default()), request::name)?;
    identity.may_operate(&namespace)?;
    let supposed = Supposed::parse(&region, &mut body)?;
    if let Some(bound) = &supposed.active {
        bound::try_config(&region, bound).await?;
    }
    let (snapshots, mut next) = body.snapshots(&region, namespace)?;
    let zones: Vec<ZoneName> = match body.zones.is_empty() {
        true => region.zones.clone(),
        false => names("zones", &body.zones)?.into_iter().collect(),
    };
    let one = snapshots.len() == 1;
    // Of one service everything is told, and who is chosen within a zone may be what changes.
    let told: fn(&Spread, &Snapshot) -> BTreeMap<SmolStr, f64> = if one { named } else { Spread::places };
    let mut services = Vec::with_capacity(snapshots.len());
    let deadline = Instant::now() + DEADLINE;
    let mut last = None;
    for live in snapshots {
        if Instant::now() >= deadline && last.is_some() {
            next = last;
            break;
        }
        let supposed_to_be = Arc::new(supposed.apply(&region, &live)?);
        let mut callers = Vec::with_capacity(zones.len());
        for zone in &zones {
            let caller = |snapshot: &Snapshot| Caller {
                region: region.name.clone(),
                zone: Some(zone.clone()),
                labels: body.shown(&snapshot.binding.caller_labels),
            };
            let before = region.host.evaluate(Arc::clone(&live), caller(&live), None).await;
            let after = match supposed.activates(&live) {
                true => suppose(&region, &supposed_to_be, caller(&supposed_to_be), None).await,
                false => {
                    let unpublished = Arc::clone(&supposed_to_be);
                    region.host.try_out(unpublished, caller(&supposed_to_be), None).await
                }
            };
            callers.push(json!({
                "zone": zone,
                "before": render(&before, &live, one), "after": render(&after, &supposed_to_be, one),
                "changed": changed(told, (&before, &live), (&after, &supposed_to_be)),
            }));
        }
        services.push(json!({
            "namespace": live.key.namespace, "service": live.key.service, "callers": callers,
            "binding": match live.binding.source {
                Source::Own => "own",
                Source::Namespace => "namespace",
                Source::BuiltIn => "built-in",
            },
            "activated": supposed.activates(&live),
            "heldBack": held_back(&body.labels, &supposed_to_be.binding.caller_labels),
        }));
        last = Some(live.key.service.to_string());
    }
    let (index, truncated) = (region.directory.currency.index(), next.is_some());
    let answer = json!({ "services": services, "index": index, "truncated": truncated, "next": next });
    Ok(axum::Json(answer).into_response())
}

impl SimulateBody {
    /// The services that are asked about, and where the next page begins.
    fn snapshots(
        &self,
        region: &Region,
        namespace: Namespace,
    ) -> Result<(Vec<Arc<Snapshot>>, Option<String>), Problem> {
        let limit = self.limit.unwrap_or(MAX_SERVICES);
        if !(1..=MAX_SERVICES).contains(&limit) {
            return Err(Problem::field("limit", format_args!("must be from 1 to {MAX_SERVICES}")));
        }
        if let Some(service) = &self.service {
            let service = ServiceKey::new(namespace, request::name(service)?);
            return Ok((vec![snapshot_of(region, &service)?], None));
        }
        super::system::require_ready(region)?;
        let all = region.directory.services().into_iter().filter(|(key, _)| key.namespace == namespace);
        let page = request::Page { limit, after: self.next.clone() };
        let (services, next) = request::cut(all, &page, |(key, _)| key.service.to_string());
        Ok((services.into_iter().map(|(_, published)| published.snapshot()).collect(), next))
    }

    /// The callers' labels that reach a policy.
    fn shown(&self, allowed: &BTreeSet<SmolStr>) -> BTreeMap<SmolStr, SmolStr> {
        let shown = self.labels.iter().filter(|(label, _)| allowed.contains(*label));
        shown.map(|(label, value)| (label.clone(), value.clone())).collect()
    }
}

/// The share that moves between what `told` tells apart. Positions of two different snapshots say nothing to one another.
fn changed(
    told: impl Fn(&Spread, &Snapshot) -> BTreeMap<SmolStr, f64>,
    (before, live): (&Evaluation, &Snapshot),
    (after, next): (&Evaluation, &Snapshot),
) -> f64 {
    let (first, second) = (spread_of(before, live), spread_of(after, next));
    let (from, to) = (told(&first, live), told(&second, next));
    let names: BTreeSet<&SmolStr> = from.keys().chain(to.keys()).collect();
    let at = |shares: &BTreeMap<SmolStr, f64>, name| shares.get(name).copied().unwrap_or(0.0);
    let moved: f64 = names.into_iter().map(|name| (at(&from, name) - at(&to, name)).abs()).sum();
    let rest = (first.refused - second.refused).abs() + (first.nothing - second.nothing).abs();
    ((moved + rest) / 2.0).min(1.0)
}
