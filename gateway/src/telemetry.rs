//! Logs and traces: JSON lines on standard error, and spans to an OTLP collector where one is configured.

use crate::config::{LogFormat, TelemetryConfig};
use opentelemetry::TraceId;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{TraceContextExt, TracerProvider};
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::{EnvFilter, Targets};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// Why logs or traces cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is none.
    #[error("telemetry.log: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// The exporter refuses its URL.
    #[error("telemetry.otlp: {0}")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    /// Somebody set up logs before.
    #[error("logs are set up already: {0}")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Keeps the exporter; dropping it sends what is left.
#[must_use]
pub struct Guard {
    provider: Option<SdkTracerProvider>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(provider) = self.provider.take() {
            // A collector that does not answer any more must not hold the shutdown: the SDK bounds it.
            let _ = provider.shutdown();
        }
    }
}

/// Sets up logs, and traces where `otlp` is configured. Once per process, within a tokio runtime.
///
/// # Errors
/// A wrong filter or URL.
pub fn init(config: &TelemetryConfig) -> Result<Guard, TelemetryError> {
    let filter = EnvFilter::try_new(config.log.as_deref().unwrap_or("info"))?;
    let logs = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(true);
    let logs = match config.log_format {
        LogFormat::Json => {
            logs.json().flatten_event(true).with_current_span(true).with_span_list(false).boxed()
        }
        LogFormat::Text => logs.boxed(),
    };
    let provider =
        config.otlp.as_deref().map(|url| provider(url, config.sample.unwrap_or(1.0))).transpose()?;
    // Only requests are traced: what the libraries below record would drown them.
    let traces = provider.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("meridian"))
            .with_filter(Targets::new().with_target("meridian::request", tracing::Level::INFO))
    });
    TRACING.store(provider.is_some(), Ordering::Relaxed);
    tracing_subscriber::registry().with(logs.with_filter(filter)).with(traces).try_init()?;
    Ok(Guard { provider })
}

/// Whether spans go anywhere.
static TRACING: AtomicBool = AtomicBool::new(false);

/// Whether spans go anywhere: without a collector nothing is spent on them.
#[must_use]
pub fn is_tracing() -> bool {
    TRACING.load(Ordering::Relaxed)
}

/// Makes a request's span part of the caller's trace, by its W3C `traceparent`, and gives the trace's id; none where nothing
/// is traced.
#[must_use]
pub fn join_trace(span: &Span, traceparent: Option<&str>) -> Option<String> {
    if !is_tracing() {
        return None;
    }
    if let Some(parent) = traceparent {
        let carrier = HashMap::from([("traceparent".to_owned(), parent.to_owned())]);
        // A span that is not recorded has no place for a parent.
        let _ = span.set_parent(TraceContextPropagator::new().extract(&carrier));
    }
    let trace = span.context().span().span_context().trace_id();
    (trace != TraceId::INVALID).then(|| trace.to_string())
}

fn provider(url: &str, sample: f64) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = opentelemetry_otlp::SpanExporter::builder().with_tonic().with_endpoint(url).build()?;
    let resource = opentelemetry_sdk::Resource::builder().with_service_name("meridian-gateway").build();
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(sample))))
        .with_resource(resource)
        .build())
}
