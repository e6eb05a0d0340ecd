//! The routes that list what is there: namespaces, services, instances, and the history.

use super::instances::{render, rfc3339};
use super::request;
use super::resolve::{json_response, tagged};
use super::schema;
use super::system::require_ready;
use super::watching::{self, Patience, not_modified, wants_stream};
use crate::clock;
use crate::history::Entry;
use crate::lookup::answer::problem_tag;
use crate::problem::Problem;
use crate::region::Region;
use crate::registrar::Known;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use meridian_model::instance::InstanceKey;
use meridian_model::names::{Namespace, ServiceKey};
use meridian_model::snapshot::Snapshot;
use meridian_model::status::Status;
use meridian_model::time::UnixMillis;
use meridian_registry::Key;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

fn list(region: &Region, items: &[Value], next: Option<String>) -> Value {
    let mut value = json!({ "items": items, "index": region.directory.currency.index() });
    if let Some(next) = next {
        value["next"] = json!(next);
    }
    value
}

/// The namespaces that have services.
#[utoipa::path(get, path = "/v1/namespaces", tag = "lookups",
    params(("limit" = Option<u32>, Query), ("next" = Option<String>, Query)),
    responses((status = 200, description = "a page", body = schema::NamespacePage)))]
pub async fn namespaces(
    State(region): State<Arc<Region>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    require_ready(&region)?;
    let services = region.directory.services();
    let names: BTreeSet<&Namespace> = services.keys().map(|key| &key.namespace).collect();
    let readable =
        names.into_iter().filter(|ns| region.may_read(request::authorization(&headers), ns).is_ok());
    if region.reads == crate::config::Reads::Token {
        request::bearer(&region, &headers)?;
    }
    let page = request::page(query.as_deref())?;
    let (names, next) = request::cut(readable, &page, |ns| ns.to_string());
    let items: Vec<Value> = names
        .into_iter()
        .map(|ns| json!({ "name": ns, "services": services.keys().filter(|k| k.namespace == *ns).count() }))
        .collect();
    Ok(axum::Json(list(&region, &items, next)).into_response())
}

/// How many instances a service has, by status.
fn counts(snapshot: &Snapshot) -> Value {
    let count = |status: Status| snapshot.endpoints.iter().filter(|e| e.status == status).count();
    json!({
        "healthy": count(Status::Healthy), "unhealthy": count(Status::Unhealthy), "starting": count(Status::Starting),
        "draining": count(Status::Draining), "expired": count(Status::Expired),
    })
}

/// The services of a namespace with their counts and the policy in force.
#[utoipa::path(get, path = "/v1/namespaces/{ns}/services", tag = "lookups",
    params(("ns" = String, Path), ("limit" = Option<u32>, Query), ("next" = Option<String>, Query)),
    responses((status = 200, description = "a page", body = schema::ServicePage)))]
pub async fn services(
    State(region): State<Arc<Region>>,
    Path(namespace): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let namespace: Namespace = request::name(&namespace)?;
    region.may_read(request::authorization(&headers), &namespace)?;
    require_ready(&region)?;
    request::await_index(&region, query.as_deref()).await?;
    let page = request::page(query.as_deref())?;
    let known = region.directory.services().into_iter().filter(|(key, _)| key.namespace == namespace);
    let (services, next) = request::cut(known, &page, |(key, _)| key.service.to_string());
    let items: Vec<Value> = services
        .iter()
        .map(|(key, published)| {
            let snapshot = published.current();
            json!({
                "name": key.service, "namespace": key.namespace, "instances": counts(&snapshot),
                "policy": { "name": snapshot.binding.active.policy, "version": snapshot.binding.active.version },
            })
        })
        .collect();
    Ok(axum::Json(list(&region, &items, next)).into_response())
}

/// The instances of a service themselves, in a page, with the tag of the whole list.
fn instances_of(region: &Region, snapshot: &Snapshot, passing: bool, page: &request::Page) -> (Value, u64) {
    let shown = snapshot.endpoints.iter().filter(|e| !passing || e.status.is_eligible());
    // The tag covers what is shown of every instance: its record's revision stands for all of it.
    let mut digest = Vec::new();
    for endpoint in shown.clone() {
        digest.extend_from_slice(endpoint.id().as_bytes());
        digest.extend_from_slice(&endpoint.modified.to_be_bytes());
        digest.push(u8::from(endpoint.degraded));
    }
    let tag = xxhash_rust::xxh3::xxh3_64(&digest);
    let (endpoints, next) = request::cut(shown, page, |e| e.id().to_owned());
    let items: Vec<Value> = endpoints
        .into_iter()
        .map(|endpoint| {
            let key = InstanceKey { service: snapshot.key.clone(), id: endpoint.instance.id.clone() };
            let known = Known { instance: Arc::clone(&endpoint.instance), modified: endpoint.modified };
            render(region, &key, &known)
        })
        .collect();
    let mut value = list(region, &items, next);
    value["incarnation"] = json!(region.directory.currency.life().incarnation);
    value["ageMs"] = json!(region.directory.currency.age_ms(clock::monotonic_now()));
    (value, tag)
}

/// Which of a service's instances are shown.
#[derive(Clone)]
struct Shown {
    key: ServiceKey,
    passing: bool,
    page: request::Page,
}

impl Shown {
    /// The instances as they are now, or why there are none; with the tag.
    fn now(&self, region: &Region) -> (String, Result<Vec<u8>, Problem>) {
        match region.directory.get(&self.key) {
            None => {
                let problem = no_such_service(region, &self.key);
                (problem_tag(&problem), Err(problem))
            }
            Some(published) => {
                let (value, digest) = instances_of(region, &published.current(), self.passing, &self.page);
                (format!("\"{digest:016x}\""), Ok(value.to_string().into_bytes()))
            }
        }
    }
}

/// The instances of a service themselves, without any policy.
#[utoipa::path(get, path = "/v1/namespaces/{ns}/services/{service}", tag = "lookups",
    params(("ns" = String, Path), ("service" = String, Path), ("health" = Option<String>, Query, description = "all (default) or passing"),
        ("limit" = Option<u32>, Query), ("next" = Option<String>, Query), ("index" = Option<u64>, Query),
        ("etag" = Option<String>, Query), ("wait" = Option<String>, Query)),
    responses((status = 200, description = "a page, with an ETag over the whole list; as text/event-stream the pages as they change",
               content((schema::InstancePage = "application/json"), (String = "text/event-stream"))),
              (status = 304, description = "unchanged"), (status = 404, body = Problem)))]
pub async fn instances(
    State(region): State<Arc<Region>>,
    Path((namespace, service)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let key = request::service_key(&namespace, &service)?;
    region.may_read(request::authorization(&headers), &key.namespace)?;
    require_ready(&region)?;
    let query = query.as_deref();
    request::await_index(&region, query).await?;
    let passing = match request::parameter(query, "health").as_deref() {
        None | Some("all") => false,
        Some("passing") => true,
        Some(_) => return Err(Problem::bad_query("health must be all or passing")),
    };
    let shown = Shown { key, passing, page: request::page(query)? };
    let patience = Patience::of(&headers, query)?;
    if wants_stream(&headers) {
        return Ok(listen(&region, shown, &headers));
    }
    let deadline = patience.wait.map(Patience::deadline);
    loop {
        let mut changes = region.directory.changes(&shown.key);
        let (tag, answer) = shown.now(&region);
        if !patience.covers(&tag, answer.is_ok()) {
            return Ok(match answer {
                Ok(body) => json_response(body, Some(&tag)),
                Err(problem) => tagged(problem),
            });
        }
        let Some(deadline) = deadline else { return Ok(not_modified(&tag)) };
        tokio::select! {
            () = changes.next() => {}
            () = tokio::time::sleep_until(deadline) => return Ok(not_modified(&tag)),
            () = region.stop.cancelled() => return Ok(not_modified(&tag)),
        }
    }
}

/// The instances, and again whenever they are others. A slow reader skips to the newest.
fn listen(region: &Arc<Region>, shown: Shown, headers: &HeaderMap) -> Response {
    let seen = watching::last_event(headers);
    let first = seen.is_none();
    let state = (seen, first, Arc::clone(region), shown);
    watching::stream(futures::stream::unfold(state, |(seen, first, region, shown)| async move {
        loop {
            let mut changes = region.directory.changes(&shown.key);
            let (tag, answer) = shown.now(&region);
            if seen.as_deref() != Some(tag.as_str()) {
                let event = watching::event(first, &tag, answer.unwrap_or_else(|problem| problem.body()));
                return Some((event, (Some(tag), false, region, shown)));
            }
            tokio::select! {
                () = changes.next() => {}
                () = region.stop.cancelled() => return None,
            }
        }
    }))
}

/// Members of records that are points in time: numbers there, text in the API.
const TIMES: [&str; 6] = ["registeredAt", "updatedAt", "uploadedAt", "since", "tokenExpiresAt", "expiredAt"];

/// Shows the times of a record, of whatever kind, as the rest of the API does.
fn show_times(record: &mut Value) {
    match record {
        Value::Object(members) => {
            for (name, value) in members {
                match value.as_u64().filter(|_| TIMES.contains(&name.as_str())) {
                    Some(at) => *value = json!(rfc3339(UnixMillis(at))),
                    None => show_times(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(show_times),
        _ => {}
    }
}

/// The newest changes first: who, what, when, where, why, before and after.
#[utoipa::path(get, path = "/v1/history", tag = "operators",
    params(("ns" = Option<String>, Query), ("service" = Option<String>, Query), ("actor" = Option<String>, Query),
           ("since" = Option<String>, Query, description = "a span such as 1h"), ("limit" = Option<u32>, Query),
           ("next" = Option<String>, Query), ("index" = Option<u64>, Query)),
    responses((status = 200, description = "a page", body = schema::ChangePage), (status = "4XX", body = Problem), (status = 503, body = Problem)))]
pub async fn history(
    State(region): State<Arc<Region>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let identity = request::bearer(&region, &headers)?;
    let query = query.as_deref();
    let namespace = request::parameter(query, "ns").map(|ns| request::name::<Namespace>(&ns)).transpose()?;
    match &namespace {
        Some(namespace) => identity.may_operate(namespace)?,
        None => identity.may_operate_region()?,
    }
    request::await_index(&region, query).await?;
    let (service, actor) = (request::parameter(query, "service"), request::parameter(query, "actor"));
    let since = request::parameter(query, "since").map(|text| crate::duration::parse(&text)).transpose();
    let since = since.map_err(|detail| Problem::bad_query(format!("since {detail}")))?;
    let oldest =
        since.map(|span| clock::unix_now().0.saturating_sub(u64::try_from(span.as_millis()).unwrap_or(0)));
    let page = request::page(query)?;
    let before = page.after.as_deref().map(|path| Key::decode(&format!("history/{path}")).ok_or(()));
    let mut before =
        before.transpose().map_err(|()| Problem::bad_query("next is not what a page answered"))?;
    let wanted = |entry: &Entry| {
        let mut target = entry.target.split('/');
        let (ns, svc) = (target.next(), target.next());
        namespace.as_ref().is_none_or(|wanted| ns == Some(wanted.as_str()))
            && service.as_deref().is_none_or(|wanted| svc == Some(wanted))
            && actor.as_deref().is_none_or(|wanted| entry.actor.subject == wanted)
    };
    let mut items = Vec::new();
    // Bounded work: a filter that matches little reads at most this many pages; `next` continues from there.
    for _ in 0..20 {
        let records = region.registry.history(before.as_ref(), 500).await?;
        let exhausted = records.len() < 500;
        for stored in records {
            before = Some(stored.key.clone());
            let Ok(entry) = serde_json::from_slice::<Entry>(&stored.value) else { continue };
            if oldest.is_some_and(|oldest| entry.at.0 < oldest) {
                return Ok(axum::Json(list(&region, &items, None)).into_response());
            }
            if wanted(&entry) {
                let mut item = json!(entry);
                item["at"] = json!(rfc3339(entry.at));
                for record in ["before", "after"] {
                    item.get_mut(record).into_iter().for_each(show_times);
                }
                items.push(item);
            }
            if items.len() == page.limit {
                let next = stored.key.encode().strip_prefix("history/").map(str::to_owned);
                return Ok(axum::Json(list(&region, &items, next)).into_response());
            }
        }
        if exhausted {
            return Ok(axum::Json(list(&region, &items, None)).into_response());
        }
    }
    let next = before.and_then(|key| key.encode().strip_prefix("history/").map(str::to_owned));
    Ok(axum::Json(list(&region, &items, next)).into_response())
}

/// 404 for a service that is not known.
#[must_use]
pub fn no_such_service(region: &Region, key: &ServiceKey) -> Problem {
    let detail = format!(
        "no instance, binding or summary of {key} is known in region {}, nor was within a day; check the name and ?ns=",
        region.name
    );
    Problem::new(StatusCode::NOT_FOUND, "no-such-service", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_records_are_shown_as_text_wherever_they_stand() {
        let mut record = json!({
            "registeredAt": 1_790_000_000_000_u64, "declared": { "weight": 7, "metadata": { "since": "always" } },
            "lease": { "id": "a", "expiredAt": 0 }, "list": [{ "updatedAt": 1 }],
        });
        show_times(&mut record);
        let shown = json!({
            "registeredAt": "2026-09-21T14:13:20.000Z", "declared": { "weight": 7, "metadata": { "since": "always" } },
            "lease": { "id": "a", "expiredAt": "1970-01-01T00:00:00.000Z" },
            "list": [{ "updatedAt": "1970-01-01T00:00:00.001Z" }],
        });
        assert_eq!(record, shown);
    }
}
