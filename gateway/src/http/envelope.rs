//! What is around every request: its id, its metrics, its log line, a caught panic, and problems as bodies.

use super::resolve::{self, Fast};
use crate::metrics::HttpMetrics;
use crate::problem::Problem;
use crate::region::Region;
use crate::telemetry;
use axum::Router;
use axum::body::Body;
use axum::extract::MatchedPath;
use axum::response::Response;
use futures::FutureExt;
use http::{HeaderValue, Request, StatusCode};
use hyper::body::Incoming;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;
use tower::ServiceExt;
use tracing::Instrument;
use tracing::field::Empty;

/// The outermost layer, shared by all connections.
pub struct Envelope {
    region: Arc<Region>,
    router: Router,
    metrics: Arc<HttpMetrics>,
}

/// The trace id of a W3C `traceparent` (version 00), which then is the request id too.
fn trace_id(value: &str) -> Option<&str> {
    let mut parts = value.split('-');
    let (version, trace) = (parts.next()?, parts.next()?);
    let hex = trace.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    (version == "00" && trace.len() == 32 && hex && trace.bytes().any(|b| b != b'0')).then_some(trace)
}

/// The id of a request that brings none.
fn request_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

impl Envelope {
    /// An envelope around a region's routes.
    #[must_use]
    pub fn new(region: Arc<Region>, metrics: Arc<HttpMetrics>) -> Self {
        let router = super::router(Arc::clone(&region));
        Self { region, router, metrics }
    }

    /// Answers one request. Never fails: every refusal and every fault has an answer.
    pub async fn answer(&self, request: Request<Incoming>) -> Response {
        // A lookup within somebody's trace takes the way that has spans.
        if telemetry::is_tracing() && request.headers().contains_key("traceparent") {
            return self.answer_routed(request).await;
        }
        match resolve::fast(&self.region, &request) {
            Fast::Answer(response) => {
                self.metrics.count_fast();
                return response;
            }
            Fast::Cold(pending) => {
                pending.wait().await;
                if let Some(response) = resolve::answer_now(&self.region, &request) {
                    self.metrics.count_fast();
                    return response;
                }
            }
            Fast::No => {}
        }
        self.answer_routed(request).await
    }

    /// The refusal of what never became a request, with an id, logged and counted like any other.
    pub(super) fn refused(&self, mut problem: Problem) -> Problem {
        problem.request_id = request_id();
        let Problem { request_id, code, detail, .. } = &problem;
        tracing::debug!(%request_id, code, detail, "refused");
        self.metrics.count_problem(code);
        problem
    }

    async fn answer_routed(&self, request: Request<Incoming>) -> Response {
        let started = Instant::now();
        let traceparent = request.headers().get("traceparent").and_then(|v| v.to_str().ok());
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        let span = tracing::info_span!(
            target: "meridian::request", "request", request_id = Empty, %method, path, status = Empty);
        let id = telemetry::join_trace(&span, traceparent)
            .or_else(|| traceparent.and_then(trace_id).map(str::to_owned))
            .unwrap_or_else(request_id);
        span.record("request_id", &id);
        let routed = self.router.clone().oneshot(request.map(Body::new)).instrument(span.clone());
        let mut response = match AssertUnwindSafe(routed).catch_unwind().await {
            Ok(Ok(response)) => response,
            Ok(Err(never)) => match never {},
            Err(_) => {
                tracing::error!(request_id = %id, %method, %path, "a handler panicked; this is a bug");
                let detail = "the gateway failed on this request; it goes on serving others";
                axum::response::IntoResponse::into_response(Problem::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "internal",
                    detail,
                ))
            }
        };
        if let Some(problem) = response.extensions_mut().remove::<Problem>() {
            let headers = std::mem::take(response.headers_mut());
            tracing::debug!(request_id = %id, code = problem.code, detail = problem.detail, "refused");
            self.metrics.count_problem(problem.code);
            response = problem.answer(&id);
            for (name, value) in headers.iter().filter(|(name, _)| *name == "etag" || *name == "allow") {
                response.headers_mut().insert(name, value.clone());
            }
        }
        if let Ok(id) = HeaderValue::from_str(&id) {
            response.headers_mut().insert("x-request-id", id);
        }
        let route = response.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
        let elapsed = started.elapsed();
        span.record("status", response.status().as_u16());
        self.metrics.count(&method, route.as_deref(), response.status(), elapsed);
        tracing::debug!(request_id = %id, %method, %path, status = response.status().as_u16(), ?elapsed, "answered");
        response
    }
}

#[cfg(test)]
mod tests {
    use super::trace_id;

    #[test]
    fn only_a_whole_traceparent_gives_the_id() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(trace_id(&format!("00-{id}-00f067aa0ba902b7-01")), Some(id));
        for bad in ["", "00", "00-xyz-1-1", "ff-4bf92f3577b34da6a3ce929d0e0e4736-1-1"] {
            assert_eq!(trace_id(bad), None);
        }
        assert_eq!(trace_id(&format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32))), None);
    }
}
