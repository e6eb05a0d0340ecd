//! The routes for everyone: is it alive, is it ready.

use crate::clock;
use crate::problem::Problem;
use crate::region::Region;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::json;
use std::sync::Arc;

/// Refuses with 503 `not-ready` before the first complete snapshot: nobody may take "not loaded" for "not there".
///
/// # Errors
/// 503.
pub fn require_ready(region: &Region) -> Result<(), Problem> {
    if region.directory.currency.is_ready() {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "not-ready",
        "this gateway has not yet read the registry and has no state on disk; try again, or ask another gateway",
    ))
}

/// Whether the process lives.
#[utoipa::path(get, path = "/livez", tag = "system", responses((status = 200, description = "ok", body = String, content_type = "text/plain")))]
pub async fn livez() -> &'static str {
    "ok\n"
}

/// Whether a complete snapshot, from registry or disk, is served. It stays ready when the registry goes away.
#[utoipa::path(get, path = "/readyz", tag = "system", responses((status = 200, description = "ready", body = super::schema::Ready), (status = 503, body = Problem)))]
pub async fn readyz(State(region): State<Arc<Region>>) -> Result<Response, Problem> {
    require_ready(&region)?;
    let currency = &region.directory.currency;
    let state = json!({
        "status": "ready",
        "region": region.name,
        "gateway": region.me,
        "incarnation": currency.life().incarnation,
        "index": currency.index(),
        "ageMs": currency.age_ms(clock::monotonic_now()),
        "registry": if currency.is_connected() { "connected" } else { "lost" },
        "source": if currency.is_from_disk() { "disk" } else { "registry" },
    });
    Ok(axum::Json(state).into_response())
}
