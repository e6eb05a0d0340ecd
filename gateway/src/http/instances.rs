//! The routes of workloads: register, beat, patch, leave.

use super::request::{self, BATCH_BODY, SMALL_BODY};
use super::schema;
use super::watching::{Seen, not_modified};
use crate::clock;
use crate::problem::Problem;
use crate::region::Region;
use crate::registrar::{BeatBody, Known, PatchBody, Registered, etag};
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use jiff::Timestamp;
use meridian_model::instance::{Instance, InstanceKey, LeaseId};
use meridian_model::registration::{FieldError, RegistrationBody};
use meridian_model::time::UnixMillis;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;

/// A point in time as RFC 3339 in UTC, with milliseconds.
#[must_use]
pub fn rfc3339(at: UnixMillis) -> String {
    let millis = i64::try_from(at.0).unwrap_or(i64::MAX);
    match Timestamp::from_millisecond(millis) {
        Ok(timestamp) => format!("{timestamp:.3}"),
        Err(_) => Timestamp::MAX.to_string(),
    }
}

/// An instance as the API shows it.
#[must_use]
pub fn render(region: &Region, key: &InstanceKey, known: &Known) -> Value {
    let instance: &Instance = &known.instance;
    let mut value = serde_json::to_value(&instance.declared).unwrap_or_default();
    if let Some(members) = value.as_object_mut() {
        let declared = &instance.declared;
        for (name, text) in [
            ("version", &declared.version),
            ("deploymentGroup", &declared.deployment_group),
            ("protocol", &declared.protocol),
        ] {
            members.insert(name.into(), json!(text));
        }
        members.insert("tags".into(), json!(declared.tags));
        members.insert("metadata".into(), json!(declared.metadata));
        members.insert("healthCheck".into(), render_check(instance));
        members.insert("id".into(), json!(key.id));
        members.insert("instanceId".into(), json!(key.id));
        members.insert("service".into(), json!(key.service.service));
        members.insert("namespace".into(), json!(key.service.namespace));
        members.insert("region".into(), json!(region.name));
        members.insert("declaredStatus".into(), json!(declared.status));
        members.insert("status".into(), json!(instance.status().as_str()));
        members.insert("degraded".into(), json!(known.modified == 0));
        members.insert("owner".into(), json!(instance.owner));
        members.insert("registeredAt".into(), json!(rfc3339(instance.registered_at)));
        members.insert("updatedAt".into(), json!(rfc3339(instance.updated_at)));
        members.insert("modifiedIndex".into(), json!(known.modified));
        members.insert("lease".into(), render_lease(instance, None));
        for (name, text) in [("reason", &instance.reason), ("checkDetail", &instance.check_detail)] {
            if !text.is_empty() {
                members.insert(name.into(), json!(text));
            }
        }
    }
    value
}

/// The check in the form in which it is registered.
fn render_check(instance: &Instance) -> Value {
    use meridian_model::registration::Probe;
    let Some(check) = &instance.declared.health_check else { return Value::Null };
    let mut body = json!({
        "intervalSeconds": check.interval_seconds, "timeoutSeconds": check.timeout_seconds,
        "unhealthyAfter": check.unhealthy_after, "healthyAfter": check.healthy_after,
    });
    match &check.probe {
        Probe::Http { path } => {
            body["path"] = json!(path);
            json!({ "http": body })
        }
        Probe::Tcp => json!({ "tcp": body }),
    }
}

fn render_lease(instance: &Instance, expires_at: Option<UnixMillis>) -> Value {
    let mut lease = json!({
        "id": instance.lease.id,
        "ttlSeconds": instance.declared.lease_ttl_seconds,
        "heartbeatSeconds": instance.declared.heartbeat_seconds(),
    });
    if let Some(at) = expires_at {
        lease["expiresAt"] = json!(rfc3339(at));
    }
    if let Some(at) = instance.lease.expired_at {
        lease["expiredAt"] = json!(rfc3339(at));
    }
    lease
}

fn answer(region: &Region, key: &InstanceKey, done: &Registered) -> Response {
    let mut value = render(region, key, &done.known);
    value["lease"] = render_lease(&done.known.instance, Some(done.expires_at));
    value["index"] = json!(done.index);
    value["incarnation"] = json!(region.directory.currency.life().incarnation);
    value["applied"] = json!(done.applied);
    let status = if done.created { StatusCode::CREATED } else { StatusCode::OK };
    with_etag((status, axum::Json(value)).into_response(), done.known.modified)
}

pub(super) fn with_etag(mut response: Response, modified: u64) -> Response {
    if let Ok(tag) = HeaderValue::from_str(&etag(modified)) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

type InstancePath = Path<(String, String, String)>;

fn key_of((namespace, service, id): &(String, String, String)) -> Result<InstanceKey, Problem> {
    Ok(InstanceKey { service: request::service_key(namespace, service)?, id: request::name(id)? })
}

/// Register or replace an instance.
///
/// 201 where it is new, 200 where it was known; the same again writes nothing.
#[utoipa::path(put, path = "/v1/namespaces/{ns}/services/{service}/instances/{id}", tag = "workloads",
    params(("ns" = String, Path), ("service" = String, Path), ("id" = String, Path)),
    request_body(content = schema::RegistrationRequest, description = "host, port and zone are required"),
    responses((status = 201, description = "registered: the instance, index and lease", body = schema::Instance),
              (status = 200, description = "replaced, or the same again", body = schema::Instance),
              (status = "4XX", body = Problem), (status = 503, body = Problem)))]
pub async fn register(
    State(region): State<Arc<Region>>,
    Path(path): InstancePath,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let identity = request::bearer(&region, &headers)?;
    let key = key_of(&path)?;
    let body: RegistrationBody = request::json(&headers, body, SMALL_BODY).await?;
    let errors = disagreements(&region, &key, &body);
    if !errors.is_empty() {
        return Err(Problem::fields(errors));
    }
    let declared = body.parse().map_err(Problem::fields)?;
    let done = region.register(&identity, &key, declared, &request::precondition(&headers)).await?;
    Ok(answer(&region, &key, &done))
}

/// Where the body repeats the path or the gateway's region, it must agree.
fn disagreements(region: &Region, key: &InstanceKey, body: &RegistrationBody) -> Vec<FieldError> {
    [
        ("service", &body.service, key.service.service.as_str()),
        ("namespace", &body.namespace, key.service.namespace.as_str()),
        ("instanceId", &body.instance_id, key.id.as_str()),
        ("region", &body.region, region.name.as_str()),
    ]
    .into_iter()
    .filter(|(_, given, wanted)| given.as_ref().is_some_and(|given| given != wanted))
    .map(|(field, _, wanted)| FieldError::new(field, format_args!("must be {wanted:?} here, or be left out")))
    .collect()
}

/// Renew an instance's lease.
#[utoipa::path(post, path = "/v1/namespaces/{ns}/services/{service}/instances/{id}/heartbeat", tag = "workloads",
    params(("ns" = String, Path), ("service" = String, Path), ("id" = String, Path)),
    request_body(content = Option<BeatBody>),
    responses((status = 200, description = "renewed", body = schema::Beaten), (status = 404, description = "lease-unknown: register again", body = Problem),
              (status = 409, description = "lease-superseded", body = Problem)))]
pub async fn heartbeat(
    State(region): State<Arc<Region>>,
    Path(path): InstancePath,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let identity = request::bearer(&region, &headers)?;
    let key = key_of(&path)?;
    let body: BeatBody = request::json_or_default(&headers, body, SMALL_BODY).await?;
    let beaten = region.beat(&identity, &key, &body).await?;
    let answer = json!({ "expiresAt": rfc3339(beaten.expires_at), "index": beaten.index });
    Ok(axum::Json(answer).into_response())
}

/// Change status, weight, tags or metadata of an instance (JSON merge patch).
#[utoipa::path(patch, path = "/v1/namespaces/{ns}/services/{service}/instances/{id}", tag = "workloads",
    params(("ns" = String, Path), ("service" = String, Path), ("id" = String, Path)),
    request_body(content = PatchBody, content_type = "application/merge-patch+json"),
    responses((status = 200, description = "the instance", body = schema::Instance), (status = "4XX", body = Problem)))]
pub async fn patch(
    State(region): State<Arc<Region>>,
    Path(path): InstancePath,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let identity = request::bearer(&region, &headers)?;
    let key = key_of(&path)?;
    let patch: PatchBody = request::merge_patch(&headers, body, SMALL_BODY).await?;
    let done = region.patch(&identity, &key, patch, &request::precondition(&headers)).await?;
    Ok(answer(&region, &key, &done))
}

/// Remove an instance.
#[utoipa::path(delete, path = "/v1/namespaces/{ns}/services/{service}/instances/{id}", tag = "workloads",
    params(("ns" = String, Path), ("service" = String, Path), ("id" = String, Path),
           ("reason" = Option<String>, Query), ("lease" = Option<String>, Query, description = "refused with 409 if superseded")),
    responses((status = 204, description = "removed"), (status = "4XX", body = Problem)))]
pub async fn deregister(
    State(region): State<Arc<Region>>,
    Path(path): InstancePath,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let identity = request::bearer(&region, &headers)?;
    let key = key_of(&path)?;
    let query = query.as_deref();
    let lease = request::parameter(query, "lease").map(|text| text.parse::<LeaseId>());
    let lease = lease.transpose().map_err(|detail| Problem::bad_query(format!("lease: {detail}")))?;
    let reason = request::reason(query)?;
    region.deregister(&identity, &key, lease, &reason, &request::precondition(&headers)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// One instance.
#[utoipa::path(get, path = "/v1/namespaces/{ns}/services/{service}/instances/{id}", tag = "lookups",
    params(("ns" = String, Path), ("service" = String, Path), ("id" = String, Path), ("index" = Option<u64>, Query)),
    responses((status = 200, description = "the instance", body = schema::Instance), (status = 304, description = "If-None-Match names its ETag"),
              (status = 404, body = Problem)))]
pub async fn get(
    State(region): State<Arc<Region>>,
    Path(path): InstancePath,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let key = key_of(&path)?;
    region.may_read(request::authorization(&headers), &key.service.namespace)?;
    super::system::require_ready(&region)?;
    let query = query.as_deref();
    request::await_index(&region, query).await?;
    let Some(known) = region.instance(&key) else {
        let detail = format!("{key} is not registered in region {}", region.name);
        return Err(Problem::new(StatusCode::NOT_FOUND, "no-such-instance", detail));
    };
    let tag = etag(known.modified);
    if Seen::of(&headers, query).is_some_and(|seen| seen.covers(&tag, true)) {
        return Ok(not_modified(&tag));
    }
    let mut value = render(&region, &key, &known);
    value["index"] = json!(region.directory.currency.index());
    value["ageMs"] = json!(region.directory.currency.age_ms(clock::monotonic_now()));
    Ok(with_etag(axum::Json(value).into_response(), known.modified))
}

/// The body of a batch.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Beats {
    #[schema(value_type = Vec<Object>)]
    heartbeats: Vec<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct OneBeat {
    #[serde(default)]
    namespace: Option<String>,
    service: String,
    instance_id: String,
    #[serde(default)]
    lease: Option<LeaseId>,
    #[serde(default)]
    load: Option<f64>,
    #[serde(default)]
    status: Option<meridian_model::status::Declared>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BeatResult {
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Problem>,
}

/// Renew many leases. Each is authorised on its own; the results are in order.
#[utoipa::path(post, path = "/v1/heartbeats", tag = "workloads", request_body(content = Beats),
    responses((status = 200, description = "what became of each, in order", body = schema::BeatResults), (status = "4XX", body = Problem)))]
pub async fn heartbeats(
    State(region): State<Arc<Region>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let identity = request::bearer(&region, &headers)?;
    let Beats { heartbeats } = request::json(&headers, body, BATCH_BODY).await?;
    let mut results = Vec::with_capacity(heartbeats.len().min(10_000));
    for beat in heartbeats {
        let result = one_beat(&region, &identity, beat).await;
        results.push(match result {
            Ok(beaten) => BeatResult {
                expires_at: Some(rfc3339(beaten.expires_at)),
                index: Some(beaten.index),
                error: None,
            },
            Err(error) => BeatResult { expires_at: None, index: None, error: Some(error) },
        });
    }
    Ok(axum::Json(json!({ "results": results })).into_response())
}

async fn one_beat(
    region: &Region,
    identity: &crate::identity::Identity,
    beat: Value,
) -> Result<crate::registrar::Beaten, Problem> {
    let beat: OneBeat = serde_path_to_error::deserialize(beat).map_err(request::wrong_shape)?;
    let namespace = beat.namespace.as_deref().unwrap_or("default");
    let service = request::service_key(namespace, &beat.service)?;
    let key = InstanceKey { service, id: request::name(&beat.instance_id)? };
    let body = BeatBody { lease: beat.lease, load: beat.load, status: beat.status };
    region.beat(identity, &key, &body).await
}
