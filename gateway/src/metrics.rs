//! Metrics in Prometheus' text form. Labels are bounded: routes, methods, classes of status and codes of problems, never
//! names that a client chose.

use crate::region::Region;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{Method, StatusCode, header};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RouteLabels {
    method: &'static str,
    route: String,
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CodeLabels {
    code: &'static str,
}

/// What the HTTP edge counts.
pub struct HttpMetrics {
    fast: Counter<u64, AtomicU64>,
    requests: Family<RouteLabels, Counter>,
    problems: Family<CodeLabels, Counter>,
    seconds: Histogram,
    registry: Registry,
}

impl Default for HttpMetrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let fast = Counter::default();
        let requests = Family::default();
        let problems = Family::default();
        // 50 µs to 1.6 s.
        let seconds = Histogram::new(exponential_buckets(0.000_05, 2.0, 16));
        let plain = "Plain single lookups over HTTP, answered with an endpoint";
        registry.register("meridian_http_plain_lookups", plain, fast.clone());
        registry.register("meridian_http_requests", "All other requests", requests.clone());
        registry.register("meridian_http_problems", "Refusals by code", problems.clone());
        let took = "Time of all other requests, watches included";
        registry.register("meridian_http_request_duration_seconds", took, seconds.clone());
        Self { fast, requests, problems, seconds, registry }
    }
}

fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::PUT => "PUT",
        Method::POST => "POST",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

impl HttpMetrics {
    /// A plain lookup was answered.
    pub fn count_fast(&self) {
        self.fast.inc();
    }

    /// A refusal went out.
    pub fn count_problem(&self, code: &'static str) {
        self.problems.get_or_create(&CodeLabels { code }).inc();
    }

    /// Any other request was answered.
    pub fn count(&self, method: &Method, route: Option<&str>, status: StatusCode, took: Duration) {
        let route = route.unwrap_or("none").to_owned();
        let labels = RouteLabels { method: method_name(method), route, status: status.as_u16() };
        self.requests.get_or_create(&labels).inc();
        self.seconds.observe(took.as_secs_f64());
    }

    fn encode(&self, out: &mut String) {
        // Writing into a string does not fail.
        let _ = prometheus_client::encoding::text::encode_registry(out, &self.registry);
        let _ = prometheus_client::encoding::text::encode_eof(out);
    }
}

/// One figure of a part that counts for itself.
pub struct Figure {
    /// Full name, with its unit.
    pub name: &'static str,
    /// `counter` or `gauge`.
    pub kind: &'static str,
    /// What it says.
    pub help: &'static str,
    /// Per label set (written as `name="value"`, empty for none).
    pub values: Vec<(String, f64)>,
}

impl Figure {
    /// A count that only grows.
    #[must_use]
    pub fn counter(name: &'static str, help: &'static str, value: u64) -> Self {
        Self { name, kind: "counter", help, values: vec![(String::new(), value as f64)] }
    }

    /// A value of the moment.
    #[must_use]
    pub fn gauge(name: &'static str, help: &'static str, value: f64) -> Self {
        Self { name, kind: "gauge", help, values: vec![(String::new(), value)] }
    }

    /// A count by one label whose values the program chose.
    #[must_use]
    pub fn by(name: &'static str, help: &'static str, label: &str, values: &[(&str, u64)]) -> Self {
        let values = values.iter().map(|(value, n)| (format!("{label}=\"{value}\""), *n as f64)).collect();
        Self { name, kind: "counter", help, values }
    }

    fn encode(&self, out: &mut String) {
        let family = self.name.strip_suffix("_total").unwrap_or(self.name);
        let _ = writeln!(out, "# HELP {family} {}.", self.help);
        let _ = writeln!(out, "# TYPE {family} {}", self.kind);
        for (labels, value) in &self.values {
            let _ = match labels.as_str() {
                "" => writeln!(out, "{} {value}", self.name),
                labels => writeln!(out, "{}{{{labels}}} {value}", self.name),
            };
        }
    }
}

/// Whoever has figures to show.
pub type Source = Box<dyn Fn() -> Vec<Figure> + Send + Sync>;

/// All metrics of a gateway.
pub struct Metrics {
    /// The HTTP edge's.
    pub http: Arc<HttpMetrics>,
    /// The parts that count for themselves.
    pub sources: Vec<Source>,
}

impl Metrics {
    pub(crate) fn text(&self) -> String {
        let mut out = String::with_capacity(16 * 1024);
        for figure in self.sources.iter().flat_map(|source| source()) {
            figure.encode(&mut out);
        }
        self.http.encode(&mut out);
        out
    }
}

/// All metrics, in the OpenMetrics text form that Prometheus reads.
#[utoipa::path(get, path = "/metrics", tag = "system", responses((status = 200, description = "OpenMetrics text", body = String, content_type = "application/openmetrics-text")))]
pub async fn scrape(State(region): State<Arc<Region>>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let text = region.metrics().map(Metrics::text).unwrap_or_else(|| "# EOF\n".to_owned());
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}
