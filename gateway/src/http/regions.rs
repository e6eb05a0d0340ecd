//! The routes of regions: how each stands, and asking for one to be spared.

use super::instances::rfc3339;
use super::request;
use super::schema;
use super::standing::{self, Order, ReasonBody};
use super::system::require_ready;
use crate::clock;
use crate::directory::Drains;
use crate::neighbourhood::OtherRegion;
use crate::problem::Problem;
use crate::region::Region;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use meridian_model::names::{RegionName, ZoneName};
use meridian_model::neighbours::{Drain, Drained};
use meridian_model::remote::Freshness;
use meridian_model::status::Status;
use meridian_model::summary::headroom;
use meridian_registry::Key;
use serde_json::{Value, json};
use smol_str::{SmolStr, format_smolstr};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Drains at once: more than all zones of all regions that federate.
const MAX_DRAINS: usize = 256;

fn drain_value(drain: &Drain) -> Value {
    // Who asked stands in the history, which operators read.
    json!({ "reason": drain.reason, "since": rfc3339(drain.since) })
}

/// The drains of a region as operators of this one asked for them.
fn drains_of(region: &RegionName, drains: &Drains) -> (Value, Value) {
    let whole = drains.get(&(region.clone(), None)).map(|(drain, _)| drain_value(drain));
    let zones: serde_json::Map<String, Value> = drains
        .iter()
        .filter_map(|((r, zone), (drain, _))| {
            (r == region).then_some(())?;
            Some((zone.as_ref()?.to_string(), drain_value(drain)))
        })
        .collect();
    (whole.unwrap_or(Value::Null), Value::Object(zones))
}

fn own(region: &Region, drains: &Drains) -> Value {
    let currency = &region.directory.currency;
    let services = region.directory.services();
    let (mut count, mut healthy, mut total, mut room) = (0u64, 0u64, 0u64, None);
    for published in services.values() {
        let snapshot = published.current();
        count += u64::from(!snapshot.endpoints.is_empty());
        room =
            [room, headroom(&snapshot, published.load())].into_iter().flatten().reduce(u64::saturating_add);
        for endpoint in &snapshot.endpoints {
            healthy += u64::from(endpoint.status == Status::Healthy);
            total += u64::from(!matches!(endpoint.status, Status::Starting | Status::Draining));
        }
    }
    let (age, life) = (currency.age_ms(clock::monotonic_now()), currency.life());
    let (draining, zones) = drains_of(&region.name, drains);
    json!({
        "region": region.name, "self": true, "freshness": Freshness::of_age_ms(age), "ageMs": age, "reachable": true,
        "incarnation": life.incarnation, "index": life.index(), "roundTripMs": 0,
        "ramp": currency.own_ramp(), "headroom": room,
        "services": count, "healthy": healthy, "total": total,
        "draining": draining, "drainingZones": zones, "zones": region.zones,
    })
}

fn other(other: &OtherRegion, drains: &Drains) -> Value {
    let age = other.age_ms(clock::monotonic_now());
    let (draining, zones) = drains_of(&other.name, drains);
    let freshness = age.map_or(Freshness::Stale, Freshness::of_age_ms);
    let mut value = json!({
        "region": other.name, "self": false, "freshness": freshness, "ageMs": age,
        "draining": draining, "drainingZones": zones,
    });
    if let Some(page) = other.page() {
        let told = json!({
            "reachable": page.reachable, "incarnation": page.incarnation.to_string(), "index": page.index,
            "roundTripMs": page.round_trip_ms, "ramp": page.standing.ramp, "headroom": page.headroom,
            "zones": page.zones, "services": page.services, "healthy": page.healthy, "total": page.total,
            "shownFreshness": page.standing.freshness, "shownReachable": page.standing.reachable,
            "told": { "draining": page.notice.draining, "drainingZones": page.notice.draining_zones,
                      "ingress": page.notice.ingress },
        });
        if let (Value::Object(value), Value::Object(told)) = (&mut value, told) {
            value.extend(told);
        }
    }
    value
}

/// A region that nothing was heard of, and that an operator may look for all the more: configured, or drained.
fn unheard(name: &RegionName, drains: &Drains) -> Value {
    let (draining, zones) = drains_of(name, drains);
    json!({
        "region": name, "self": false, "freshness": Freshness::Stale, "ageMs": null, "reachable": false,
        "roundTripMs": null, "draining": draining, "drainingZones": zones,
    })
}

/// All other regions that are heard of, configured or drained, by their names.
fn others(region: &Region, drains: &Drains) -> BTreeMap<RegionName, Value> {
    let drained = drains.keys().map(|(name, _)| name).filter(|name| **name != region.name);
    let named = region.peers.iter().chain(drained);
    let mut all: BTreeMap<RegionName, Value> =
        named.map(|name| (name.clone(), unheard(name, drains))).collect();
    let heard = region.directory.currency.others();
    all.extend(heard.iter().map(|heard| (heard.name.clone(), other(heard, drains))));
    all
}

/// Every region that this gateway knows, its own first.
#[utoipa::path(get, path = "/v1/regions", tag = "lookups", params(("index" = Option<u64>, Query)),
    responses((status = 200, description = "all that are known", body = schema::RegionList)))]
pub async fn list(
    State(region): State<Arc<Region>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    require_ready(&region)?;
    require_reader(&region, &headers)?;
    request::await_index(&region, query.as_deref()).await?;
    let rules = region.directory.rules();
    let others = others(&region, &rules.drains);
    let items: Vec<Value> =
        std::iter::once(own(&region, &rules.drains)).chain(others.into_values()).collect();
    let index = region.directory.currency.index();
    Ok(axum::Json(json!({ "items": items, "index": index })).into_response())
}

/// One region.
#[utoipa::path(get, path = "/v1/regions/{region}", tag = "lookups",
    params(("region" = String, Path), ("index" = Option<u64>, Query)),
    responses((status = 200, description = "how it stands", body = schema::Region), (status = 404, body = Problem)))]
pub async fn get(
    State(region): State<Arc<Region>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    require_ready(&region)?;
    require_reader(&region, &headers)?;
    request::await_index(&region, query.as_deref()).await?;
    let name: RegionName = request::name(&name)?;
    let rules = region.directory.rules();
    if name == region.name {
        return Ok(axum::Json(own(&region, &rules.drains)).into_response());
    }
    match others(&region, &rules.drains).remove(&name) {
        Some(found) => Ok(axum::Json(found).into_response()),
        None => Err(no_such_region(&region, &name)),
    }
}

fn require_reader(region: &Region, headers: &HeaderMap) -> Result<(), Problem> {
    if region.reads == crate::config::Reads::Token {
        request::bearer(region, headers)?;
    }
    Ok(())
}

fn no_such_region(region: &Region, name: &RegionName) -> Problem {
    let rules = region.directory.rules();
    let known: Vec<String> = others(region, &rules.drains).into_keys().map(|name| name.to_string()).collect();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    let detail = format!(
        "no region {name} is known here; this is {}, and it knows of: {known}. [federation] names a region's peers",
        region.name
    );
    Problem::new(StatusCode::NOT_FOUND, "no-such-region", detail)
}

/// Asks for a region, or one of its zones, to be spared: its traffic yields to others, and it stays the last resort.
#[utoipa::path(post, path = "/v1/regions/{region}/drain", tag = "operators",
    params(("region" = String, Path), ("zone" = Option<String>, Query, description = "only this zone")),
    request_body(content = Option<ReasonBody>),
    responses((status = 200, description = "asked for", body = schema::Drained), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 422, body = Problem)))]
pub async fn drain(
    State(region): State<Arc<Region>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    change(&region, &name, query.as_deref(), &headers, body, true).await
}

/// Ends a drain.
#[utoipa::path(post, path = "/v1/regions/{region}/undrain", tag = "operators",
    params(("region" = String, Path), ("zone" = Option<String>, Query)), request_body(content = Option<ReasonBody>),
    responses((status = 200, description = "ended", body = schema::Drained), (status = 403, body = Problem), (status = 404, body = Problem)))]
pub async fn undrain(
    State(region): State<Arc<Region>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    change(&region, &name, query.as_deref(), &headers, body, false).await
}

/// What is to be spared, if there is such a thing; and a warning where that is a zone of another region that it has not
/// told of so far. It may be about to.
fn target_of(region: &Region, name: &str, query: Option<&str>) -> Result<(Drained, Option<String>), Problem> {
    let name: RegionName = request::name(name)?;
    let zone: Option<ZoneName> = match request::parameter(query, "zone") {
        Some(zone) => Some(request::name(&zone)?),
        None => None,
    };
    let list = |zones: &mut dyn Iterator<Item = &ZoneName>| {
        let zones: Vec<&str> = zones.map(ZoneName::as_str).collect();
        if zones.is_empty() { "none".to_owned() } else { zones.join(", ") }
    };
    let mut warning = None;
    if name == region.name {
        if let Some(zone) = zone.as_ref().filter(|zone| !region.zones.contains(*zone)) {
            let known = list(&mut region.zones.iter());
            let detail = format!("region {name} has no zone {zone}; it has {known}");
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "no-such-zone", detail));
        }
    } else {
        let heard = region.directory.currency.others();
        let heard = heard.iter().find(|other| other.name == name);
        let rules = region.directory.rules();
        // What is drained can be given back, whoever was heard of since.
        let named = region.peers.contains(&name) || rules.drains.keys().any(|(drained, _)| *drained == name);
        if heard.is_none() && !named {
            return Err(no_such_region(region, &name));
        }
        let told = heard.and_then(|other| other.page()).map(|page| page.zones.clone()).unwrap_or_default();
        if let Some(zone) = zone.as_ref().filter(|zone| !told.contains(*zone)) {
            let known = list(&mut told.iter());
            warning = Some(format!(
                "{name} has told of no instance in a zone {zone}; zones that it told of: {known}"
            ));
        }
    }
    Ok(((name, zone), warning))
}

async fn change(
    region: &Region,
    name: &str,
    query: Option<&str>,
    headers: &HeaderMap,
    body: Body,
    drains: bool,
) -> Result<Response, Problem> {
    let identity = request::bearer(region, headers)?;
    identity.may_operate_region()?;
    let ((name, zone), warning) = target_of(region, name, query)?;
    let warning = warning.filter(|_| drains);
    let body: ReasonBody = request::json_or_default(headers, body, request::SMALL_BODY).await?;
    let reason = body.checked()?;
    let key = Key::Drain(name.clone(), zone.clone());
    let drained = (name.clone(), zone.clone());
    let full = drains
        && !region.directory.rules().drains.contains_key(&drained)
        && region.directory.rules().drains.len() >= MAX_DRAINS;
    if full {
        let detail = format!("{MAX_DRAINS} drains are in force, as many as there may be; end some first");
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "too-many-drains", detail));
    }
    let new = drains.then(|| Drain {
        reason: SmolStr::new(&reason),
        by: format_smolstr!("{} {}", identity.issuer(), identity.subject()),
        since: clock::unix_now(),
        unknown: serde_json::Map::new(),
    });
    let action = if drains { "drain-region" } else { "undrain-region" };
    let target = match &zone {
        Some(zone) => format!("region {name} zone {zone}"),
        None => format!("region {name}"),
    };
    let held = region.directory.rules().drains.get(&drained).map(|(drain, _)| (**drain).clone());
    let order = Order { key, new, held, action, target, reason: &reason };
    let same = |standing: &Drain, new: &Drain| standing.reason == new.reason;
    let (index, applied) = standing::put(region, &identity, order, same).await?;
    Ok(answer(&drained, drains, index, applied, warning))
}

fn answer(
    (name, zone): &Drained,
    drains: bool,
    index: u64,
    applied: bool,
    warning: Option<String>,
) -> Response {
    let mut value =
        json!({ "region": name, "zone": zone, "draining": drains, "index": index, "applied": applied });
    if let (Some(warning), Value::Object(value)) = (warning, &mut value) {
        value.insert("warning".to_owned(), Value::String(warning));
    }
    axum::Json(value).into_response()
}
