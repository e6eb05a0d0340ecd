//! The routes of switches: a version of a policy, or all policies, must not run from now on, wherever they are bound.

use super::instances::rfc3339;
use super::standing::{self, Order, ReasonBody};
use super::{policies, request, schema};
use crate::clock;
use crate::problem::Problem;
use crate::region::Region;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use meridian_model::binding::Bound;
use meridian_model::disabled::{Disabled, Switch, why_not};
use meridian_model::names::PolicyVersion;
use meridian_registry::Key;
use serde_json::{Value, json};
use smol_str::format_smolstr;
use std::sync::Arc;

/// Switches at once: as many versions as a gateway holds.
const MAX_SWITCHES: usize = 1_024;

/// Why a version must not run, for answers; null where it may.
pub(super) fn render(region: &Region, version: PolicyVersion) -> Value {
    value(why_not(&region.directory.rules().switches, version))
}

/// Why no policy may run, for answers; null where they may.
pub(super) fn all(region: &Region) -> Value {
    value(region.directory.rules().switches.get(&None).map(|(disabled, _)| disabled))
}

fn value(disabled: Option<&Arc<Disabled>>) -> Value {
    let of = |d: &Arc<Disabled>| json!({ "reason": d.reason, "since": rfc3339(d.since), "by": d.by });
    disabled.map(of).unwrap_or_default()
}

/// Refuses what must not run.
///
/// # Errors
/// 409 with the reason, and how to allow it again.
pub(super) fn require_enabled(region: &Region, bound: &Bound) -> Result<(), Problem> {
    let rules = region.directory.rules();
    let Some(disabled) = why_not(&rules.switches, bound.version) else { return Ok(()) };
    let (what, undo) = match rules.switches.contains_key(&None) {
        true => ("every policy is".to_owned(), "_all/enable".to_owned()),
        false => (
            format!("{} {} is", bound.policy, bound.version),
            format!("{}/versions/{}/enable", bound.policy, bound.version),
        ),
    };
    let detail = format!("{what} disabled: {:?}; POST /v1/policies/{undo} allows it again", disabled.reason);
    Err(Problem::new(StatusCode::CONFLICT, "disabled", detail))
}

async fn change(
    region: &Region,
    switch: Switch,
    what: &str,
    headers: &HeaderMap,
    body: Body,
    disables: bool,
) -> Result<Response, Problem> {
    let identity = request::bearer(region, headers)?;
    identity.may_operate_region()?;
    let body: ReasonBody = request::json_or_default(headers, body, request::SMALL_BODY).await?;
    let reason = body.checked()?;
    if disables && reason.trim().is_empty() {
        return Err(Problem::field("reason", "must say why: every answer that it changes shows it"));
    }
    let rules = region.directory.rules();
    // The one for all is thrown in any case: it is for when nothing else helps.
    let full = switch.is_some() && rules.switches.len() >= MAX_SWITCHES;
    if disables && full && !rules.switches.contains_key(&switch) {
        let detail =
            format!("{MAX_SWITCHES} versions are disabled, as many as there may be; enable or delete some");
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "too-many-switches", detail));
    }
    let new = disables.then(|| Disabled {
        reason: reason.as_str().into(),
        by: format_smolstr!("{} {}", identity.issuer(), identity.subject()),
        since: clock::unix_now(),
        unknown: serde_json::Map::new(),
    });
    let key = Key::Disabled(switch);
    let action = if disables { "disable" } else { "enable" };
    let held = rules.switches.get(&switch).map(|(disabled, _)| (**disabled).clone());
    let order = Order { key, new, held, action, target: what.to_owned(), reason: &reason };
    let same = |standing: &Disabled, new: &Disabled| standing.reason == new.reason;
    let (index, applied) = standing::put(region, &identity, order, same).await?;
    let value = json!({ "target": what, "disabled": disables, "index": index, "applied": applied });
    Ok(axum::Json(value).into_response())
}

/// Let a version run nowhere in the region any more, under whatever name and wherever it is bound.
///
/// Lookups are answered by the last good version of their binding that may run, else by the native zone fallback, and say so.
/// Nothing is unbound.
#[utoipa::path(post, path = "/v1/policies/{name}/versions/{version}/disable", tag = "operators",
    params(("name" = String, Path), ("version" = String, Path)), request_body(content = ReasonBody),
    responses((status = 200, description = "disabled", body = schema::Switched), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 409, description = "conflict: others write it too", body = Problem),
        (status = 422, description = "no reason, or too many switches", body = Problem)))]
pub async fn disable(
    State(region): State<Arc<Region>>,
    Path(path): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    version(&region, &path, &headers, body, true).await
}

/// Let a version run again.
#[utoipa::path(post, path = "/v1/policies/{name}/versions/{version}/enable", tag = "operators",
    params(("name" = String, Path), ("version" = String, Path)), request_body(content = Option<ReasonBody>),
    responses((status = 200, description = "it may run", body = schema::Switched), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 409, description = "conflict", body = Problem), (status = 422, body = Problem)))]
pub async fn enable(
    State(region): State<Arc<Region>>,
    Path(path): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    version(&region, &path, &headers, body, false).await
}

async fn version(
    region: &Region,
    path: &(String, String),
    headers: &HeaderMap,
    body: Body,
    disables: bool,
) -> Result<Response, Problem> {
    let (policy, version) = policies::path_of(path)?;
    // A switch outlives the version that it is for: it can be put back when that is deleted.
    let known = policies::is_known(region, &policy, version);
    if !known && (disables || !region.directory.rules().switches.contains_key(&Some(version))) {
        request::bearer(region, headers)?.may_operate_region()?;
        return Err(policies::no_such_version(&policy, version));
    }
    change(region, Some(version), &format!("{policy} {version}"), headers, body, disables).await
}

/// Let no policy run in the region: every lookup is answered by the native zone fallback, until policies are enabled again.
#[utoipa::path(post, path = "/v1/policies/_all/disable", tag = "operators", request_body(content = ReasonBody),
    responses((status = 200, description = "disabled", body = schema::Switched), (status = 403, body = Problem),
        (status = 422, description = "no reason", body = Problem)))]
pub async fn disable_all(
    State(region): State<Arc<Region>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    change(&region, None, "all policies", &headers, body, true).await
}

/// Let policies run again, but for versions that are disabled by themselves.
#[utoipa::path(post, path = "/v1/policies/_all/enable", tag = "operators", request_body(content = Option<ReasonBody>),
    responses((status = 200, description = "they may run", body = schema::Switched), (status = 403, body = Problem)))]
pub async fn enable_all(
    State(region): State<Arc<Region>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    change(&region, None, "all policies", &headers, body, false).await
}
