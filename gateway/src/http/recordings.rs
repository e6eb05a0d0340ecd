//! The route of recordings: lookups of a service, with all that decided them, for `meridian policy replay`.

use super::request;
use crate::clock;
use crate::problem::Problem;
use crate::recorder::Order;
use crate::region::Region;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use meridian_model::names::{Namespace, ServiceKey};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;

/// Longest recording, in seconds: the call takes as long.
const MAX_SECONDS: f64 = 60.0;
/// Most lookups of a recording.
const MAX_LOOKUPS: usize = 10_000;

/// What to record.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RecordBody {
    /// For how long at most: above 0, up to 60; 10 by default.
    seconds: f64,
    /// How many lookups at most: 1 to 10,000; 1,000 by default.
    lookups: usize,
    /// The part of the lookups that is recorded: above 0, up to 1, which is the default.
    sample: f64,
}

impl Default for RecordBody {
    fn default() -> Self {
        Self { seconds: 10.0, lookups: 1_000, sample: 1.0 }
    }
}

/// Record lookups of a service: answers when the time is up, or as many were recorded as are wanted.
///
/// Of this gateway's single lookups and elements of batches with one endpoint. One recording runs at a time.
#[utoipa::path(post, path = "/v1/namespaces/{ns}/services/{service}/record", tag = "operators",
    params(("ns" = String, Path), ("service" = String, Path)), request_body(content = RecordBody),
    responses((status = 200, description = "the recording: pictures of the service, lookups and their answers", body = Object),
        (status = 404, body = Problem), (status = 409, description = "already-recording", body = Problem), (status = 422, body = Problem)))]
pub async fn record(
    State(region): State<Arc<Region>>,
    Path((namespace, service)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let identity = request::bearer(&region, &headers)?;
    let namespace: Namespace = request::name(&namespace)?;
    identity.may_operate(&namespace)?;
    let key = ServiceKey::new(namespace, request::name(&service)?);
    let RecordBody { seconds, lookups, sample } =
        request::json_or_default(&headers, body, request::SMALL_BODY).await?;
    if !(seconds > 0.0 && seconds <= MAX_SECONDS) {
        return Err(Problem::field("seconds", format_args!("must be above 0, up to {MAX_SECONDS}")));
    }
    if !(1..=MAX_LOOKUPS).contains(&lookups) {
        return Err(Problem::field("lookups", format_args!("must be from 1 to {MAX_LOOKUPS}")));
    }
    if !(sample > 0.0 && sample <= 1.0) {
        return Err(Problem::field("sample", "must be above 0, up to 1"));
    }
    super::system::require_ready(&region)?;
    let published = region.directory.get(&key);
    let snapshot =
        published.map(|p| p.snapshot()).ok_or_else(|| super::services::no_such_service(&region, &key))?;
    let begun = clock::unix_now();
    let order = Order { slot: snapshot.slot, sample, most: lookups };
    let running = region.recorder.start(order).ok_or_else(|| {
        let detail = "this gateway records already; a recording takes at most a minute";
        Problem::new(StatusCode::CONFLICT, "already-recording", detail)
    })?;
    tokio::select! {
        () = running.full() => {}
        () = tokio::time::sleep(Duration::from_secs_f64(seconds)) => {}
        () = region.stop.cancelled() => {}
    }
    let (name, me) = (region.name.clone(), region.me.clone());
    let rendered = tokio::task::spawn_blocking(move || {
        serde_json::to_vec(&running.finish(&snapshot, &name, &me, begun)).map_err(|e| e.to_string())
    });
    let failed = |why: String| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", why);
    let body = rendered.await.map_err(|e| failed(e.to_string()))?.map_err(failed)?;
    Ok(([(http::header::CONTENT_TYPE, "application/json")], body).into_response())
}
