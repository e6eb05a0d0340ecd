//! What would be answered: a version tried over live snapshots, and the loss of zones and regions, without changing anything.

use super::{bound, request, schema};
use crate::lookup::answer::render_trial;
use crate::lookup::question::{Count, Question};
use crate::problem::Problem;
use crate::region::Region;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use meridian_model::binding::{Bound, Effective};
use meridian_model::caller::Caller;
use meridian_model::contrast::{Contrast, Spread};
use meridian_model::names::{Namespace, RegionName, ServiceKey, ZoneName};
use meridian_model::snapshot::{Place, Snapshot};
use meridian_model::status::Status;
use meridian_policies::{Evaluation, Outcome};
use serde::Deserialize;
use serde_json::{Value, json};
use smol_str::SmolStr;
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
fn under(snapshot: &Snapshot, bound: &Bound) -> Snapshot {
    let binding = Effective {
        limits: snapshot.binding.limits.clone(),
        caller_labels: snapshot.binding.caller_labels.clone(),
        ..Effective::only(bound.clone())
    };
    Snapshot { binding: Arc::new(binding), ..snapshot.clone() }
}

fn failed(evaluation: &Evaluation) -> Option<&str> {
    match &evaluation.view.outcome {
        Outcome::Ok => None,
        outcome => outcome.reason(),
    }
}

/// What a version would answer, now, over the live snapshot of a service.
///
/// Labels that the service's binding does not let through do not reach the policy here either.
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
    let bound = bound::parse(&region, &policy, body.version.as_deref(), &body.config)?;
    bound::try_config(&region, &bound).await?;
    let live = snapshot_of(&region, &service)?;
    let tried = Arc::new(under(&live, &bound));
    let mut lookups = body.lookups;
    if lookups.is_empty() {
        lookups.push(TryLookup::default());
    }
    let mut results = Vec::with_capacity(lookups.len());
    for lookup in &lookups {
        let question = lookup.question(&service)?;
        let caller = question.caller(&region.name, &live.binding.caller_labels);
        let before = region.host.evaluate(Arc::clone(&live), caller.clone(), None).await;
        let after = region.host.try_out(Arc::clone(&tried), caller.clone(), question.key).await;
        let contrast = Contrast::of(&before.view.plans, &after.view.plans, &live, caller.zone.as_ref());
        let clamped = after.view.plans.clamped;
        let mut result = match render_trial(&region, &question, &tried, &after) {
            Ok(answer) => json!({ "answer": answer }),
            Err(problem) => json!({ "error": problem }),
        };
        result["fault"] = json!(failed(&after));
        result["changed"] = json!(contrast.changed);
        result["clamped"] = json!({ "ineligible": clamped.ineligible, "remoteShare": clamped.remote_share });
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
    /// A version that is active: `{policy, version, config}`.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    activate: Option<ActivateBody>,
    /// Callers' zones; those of the region where none is named.
    #[serde(default)]
    zones: Vec<String>,
    /// Callers' labels.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    labels: BTreeMap<SmolStr, SmolStr>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ActivateBody {
    policy: String,
    #[serde(default)]
    version: Option<String>,
    #[serde(default)]
    config: Value,
}

/// What is supposed to have happened.
struct Supposed {
    lost_zones: BTreeSet<ZoneName>,
    lost_regions: BTreeSet<RegionName>,
    drained_zones: BTreeSet<ZoneName>,
    drained_regions: BTreeSet<RegionName>,
    active: Option<Bound>,
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
    fn parse(region: &Region, body: &SimulateBody) -> Result<Self, Problem> {
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
        Ok(Self { lost_zones, lost_regions, drained_zones: names("drain", &zones)?, drained_regions, active })
    }

    /// The snapshot as it would be.
    fn apply(&self, live: &Snapshot) -> Snapshot {
        let mut next = match &self.active {
            Some(bound) => under(live, bound),
            None => live.clone(),
        };
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
        next
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

/// Shares by place, and by destination where they are few.
fn spread(evaluation: &Evaluation, snapshot: &Snapshot, destinations: bool) -> Value {
    let spread = Spread::of(&evaluation.view.plans, snapshot, evaluation.view.caller.zone.as_ref());
    let mut value = json!({
        "places": spread.places(snapshot), "refused": spread.refused, "none": spread.nothing,
        "outcome": evaluation.view.outcome.as_str(), "reason": evaluation.view.outcome.reason(),
    });
    if destinations {
        let named = spread.positions.iter().filter_map(|(position, share)| {
            let name = match snapshot.place(*position)? {
                Place::Here(endpoint) => endpoint.id().to_owned(),
                Place::There(remote, address) => format!("{}/{}", remote.region, address.name()),
            };
            Some((name, *share))
        });
        value["endpoints"] = json!(named.collect::<BTreeMap<String, f64>>());
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
    let body: SimulateBody = request::json(&headers, body, 256 * 1024).await?;
    let namespace: Namespace = body.ns.as_deref().map_or_else(|| Ok(Namespace::default()), request::name)?;
    identity.may_operate(&namespace)?;
    let supposed = Supposed::parse(&region, &body)?;
    if let Some(bound) = &supposed.active {
        bound::try_config(&region, bound).await?;
    }
    let mut truncated = false;
    let snapshots: Vec<Arc<Snapshot>> = match &body.service {
        Some(service) => vec![snapshot_of(&region, &ServiceKey::new(namespace, request::name(service)?))?],
        None => {
            super::system::require_ready(&region)?;
            let all = region.directory.services().into_iter().filter(|(key, _)| key.namespace == namespace);
            let all: Vec<_> = all.map(|(_, published)| published.snapshot()).take(MAX_SERVICES + 1).collect();
            truncated = all.len() > MAX_SERVICES;
            all.into_iter().take(MAX_SERVICES).collect()
        }
    };
    let zones: Vec<ZoneName> = match body.zones.is_empty() {
        true => region.zones.clone(),
        false => names("zones", &body.zones)?.into_iter().collect(),
    };
    let one = snapshots.len() == 1;
    let mut services = Vec::with_capacity(snapshots.len());
    let deadline = Instant::now() + DEADLINE;
    for live in snapshots {
        if Instant::now() >= deadline && !services.is_empty() {
            truncated = true;
            break;
        }
        let next = Arc::new(supposed.apply(&live));
        let mut callers = Vec::with_capacity(zones.len());
        for zone in &zones {
            let labels = body.labels.iter().filter(|(key, _)| live.binding.caller_labels.contains(*key));
            let labels = labels.map(|(key, value)| (key.clone(), value.clone())).collect();
            let caller = Caller { region: region.name.clone(), zone: Some(zone.clone()), labels };
            let before = region.host.evaluate(Arc::clone(&live), caller.clone(), None).await;
            let after = region.host.try_out(Arc::clone(&next), caller, None).await;
            callers.push(json!({
                "zone": zone, "before": spread(&before, &live, one), "after": spread(&after, &next, one),
                "changed": changed(&before, &live, &after, &next),
            }));
        }
        services.push(json!({
            "namespace": live.key.namespace, "service": live.key.service, "callers": callers,
        }));
    }
    let index = region.directory.currency.index();
    Ok(axum::Json(json!({ "services": services, "index": index, "truncated": truncated })).into_response())
}

/// The share that moves between places. Positions of two different snapshots say nothing to one another.
fn changed(before: &Evaluation, live: &Snapshot, after: &Evaluation, next: &Snapshot) -> f64 {
    let spread = |of: &Evaluation, snapshot: &Snapshot| {
        Spread::of(&of.view.plans, snapshot, of.view.caller.zone.as_ref())
    };
    let (first, second) = (spread(before, live), spread(after, next));
    let (from, to) = (first.places(live), second.places(next));
    let names: BTreeSet<&SmolStr> = from.keys().chain(to.keys()).collect();
    let at = |places: &BTreeMap<SmolStr, f64>, name| places.get(name).copied().unwrap_or(0.0);
    let moved: f64 = names.into_iter().map(|name| (at(&from, name) - at(&to, name)).abs()).sum();
    let rest = (first.refused - second.refused).abs() + (first.nothing - second.nothing).abs();
    ((moved + rest) / 2.0).min(1.0)
}
