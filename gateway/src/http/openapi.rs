//! The routes, and the description of them that is generated from the same handlers.

use super::{bindings, instances, policies, regions, request, resolve, services, system};
use crate::metrics;
use crate::problem::Problem;
use crate::region::Region;
use axum::Router;
use axum::extract::MatchedPath;
use axum::response::IntoResponse;
use http::{StatusCode, Uri};
use std::sync::Arc;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

#[derive(OpenApi)]
#[openapi(
    info(title = "Meridian", description = "Where to send traffic, right now. Refusals are RFC 9457 problems with a stable code."),
    components(schemas(Problem)),
    tags((name = "workloads", description = "Register, beat, patch, leave (role workload; operators may patch and delete)"),
         (name = "lookups", description = "Where to send traffic, and what there is (open or role reader)"),
         (name = "operators", description = "Policies, bindings, history (role operator)"),
         (name = "system", description = "For everyone"))
)]
struct Description;

fn routes() -> OpenApiRouter<Arc<Region>> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(instances::register, instances::get, instances::patch, instances::deregister))
        .routes(routes!(instances::heartbeat))
        .routes(routes!(instances::heartbeats))
        .routes(routes!(services::namespaces))
        .routes(routes!(services::services))
        .routes(routes!(services::instances))
        .routes(routes!(resolve::resolve))
        .routes(routes!(resolve::batch))
        .routes(routes!(policies::list))
        .routes(routes!(policies::upload, policies::get))
        .routes(routes!(policies::version, policies::delete))
        .routes(routes!(policies::module))
        .routes(routes!(bindings::list))
        .routes(routes!(bindings::put, bindings::get, bindings::delete))
        .routes(routes!(regions::list))
        .routes(routes!(regions::get))
        .routes(routes!(regions::drain))
        .routes(routes!(regions::undrain))
        .routes(routes!(services::history))
        .routes(routes!(system::livez))
        .routes(routes!(system::readyz))
        .routes(routes!(metrics::scrape))
}

/// The description of the API.
#[must_use]
pub fn document() -> utoipa::openapi::OpenApi {
    let mut document = routes().to_openapi();
    document.info.version = env!("CARGO_PKG_VERSION").to_owned();
    document
}

/// All routes of a region.
pub fn router(region: Arc<Region>) -> Router {
    let document: Arc<str> = document().to_json().unwrap_or_default().into();
    let json = [(http::header::CONTENT_TYPE, "application/json")];
    let (router, _) = routes().split_for_parts();
    router
        .route("/openapi.json", axum::routing::get(move || async move { (json, document.to_string()) }))
        .route_layer(axum::middleware::from_fn(mark_route))
        .fallback(no_such_route)
        .method_not_allowed_fallback(wrong_method)
        .with_state(region)
}

/// Refuses a path or query that is no text, and hands the route's template to the envelope, which counts by it.
async fn mark_route(
    request: axum::extract::Request,
    next: axum::middleware::Next,
) -> axum::response::Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    if percent_encoding::percent_decode_str(request.uri().path()).decode_utf8().is_err() {
        let detail = "a name in the path is not UTF-8; names are lower-case ASCII letters, digits, - and _";
        return Problem::new(StatusCode::BAD_REQUEST, "bad-name", detail).into_response();
    }
    if let Err(problem) = request::require_utf8(request.uri().query()) {
        return problem.into_response();
    }
    let mut response = next.run(request).await;
    if let Some(route) = route {
        response.extensions_mut().insert(route);
    }
    response
}

async fn no_such_route(uri: Uri) -> impl IntoResponse {
    let path: String = uri.path().chars().take(128).collect();
    let detail = format!("nothing is at {path:?}; /openapi.json describes all routes");
    Problem::new(StatusCode::NOT_FOUND, "no-such-route", detail)
}

async fn wrong_method() -> impl IntoResponse {
    let detail = "this path has no such method; the Allow header lists what it has";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "wrong-method", detail)
}
