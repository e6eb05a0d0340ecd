//! A federation node: in a gateway that listens for the federation, or as a process of its own.

use super::config::FederationConfig;
use super::origin::{self, Summaries};
use super::receiver::{Receiver, ReceiverStats};
use super::{figures, join};
use crate::config::Config;
use crate::disk::Disk;
use crate::figures as gateway_figures;
use crate::gateway::{Opened, StartError, open_registry};
use crate::keeper::Command;
use crate::metrics::{HttpMetrics, Metrics, Source};
use crate::neighbourhood::News;
use axum::Router;
use axum::response::IntoResponse;
use axum::routing::get;
use http::{StatusCode, header};
use meridian_federation::service::Handle;
use meridian_model::names::RegionName;
use meridian_registry::Registry;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Time for links and tasks to end at a graceful stop.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// Time for what is remembered of other regions to be at hand: it needs no network, only the checking of signatures.
const REMEMBERED_WITHIN: Duration = Duration::from_secs(1);

/// What a process's part in the federation is put together from.
pub(crate) struct Parts<'a> {
    pub(crate) config: &'a FederationConfig,
    pub(crate) region: RegionName,
    pub(crate) registry: Arc<dyn Registry>,
    pub(crate) disk: Arc<Disk>,
    /// The gateway's keeper; none in a process that is only a node.
    pub(crate) keeper: Option<mpsc::Sender<Command>>,
}

/// A part in the federation that runs.
pub(crate) struct Joined {
    pub(crate) handle: Handle,
    /// For the metrics.
    pub(crate) source: Source,
    /// Where it listens, if it does.
    pub(crate) address: Option<SocketAddr>,
    /// Whether the own region's registry was read; never in a gateway that subscribes.
    pub(crate) told: Arc<AtomicBool>,
    /// What is remembered of other regions, for a gateway to know before it answers anybody.
    pub(crate) remembered: Vec<News>,
}

/// Joins the federation and spawns what that takes; the handle for those who want to see how it stands.
pub(crate) async fn spawn(
    parts: Parts<'_>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<Joined, StartError> {
    let Parts { config, region, registry, disk, keeper } = parts;
    let (running, address, remembers) = join(config, &region, &disk).await?;
    let handle = running.handle().clone();
    let (raises, raised) = watch::channel(None);
    let told = Arc::new(AtomicBool::new(false));
    if config.listen.is_some() {
        let summaries = Summaries::new(region.clone(), config.ingress.clone());
        let task = origin::run(summaries, registry, handle.clone(), raised, Arc::clone(&told));
        let stop = stop.clone();
        tasks.spawn(async move { stop.run_until_cancelled_owned(task).await });
    }
    let stats = Arc::new(ReceiverStats::default());
    let source = figures::federation(region.clone(), handle.clone(), Arc::clone(&stats));
    let mut receiver = Receiver { region, running, keeper, disk, raises, stats };
    let (mut remembered, mut told_of) = (Vec::new(), 0);
    let until = tokio::time::Instant::now() + REMEMBERED_WITHIN;
    while receiver.keeper.is_some()
        && told_of < remembers
        && let Ok(batch) = tokio::time::timeout_at(until, receiver.running.news().next()).await
    {
        told_of += batch.changed.len();
        remembered.extend(receiver.news_of(batch));
    }
    tasks.spawn(receiver.run(stop.clone()));
    Ok(Joined { handle, source, address, told, remembered })
}

/// Starts nodes.
pub struct Node;

/// A node that runs.
pub struct RunningNode {
    address: SocketAddr,
    status: SocketAddr,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl RunningNode {
    /// Where other nodes and the region's gateways connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where `/livez`, `/readyz` and `/metrics` are.
    #[must_use]
    pub fn status(&self) -> SocketAddr {
        self.status
    }

    /// Ends all links, saves what is held, and ends all tasks; at most 10 s.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(STOP_WITHIN, self.tasks.wait()).await.is_err() {
            tracing::warn!("some tasks did not end in time and are cut off");
        }
    }
}

impl Node {
    /// Opens everything and returns once the listeners are bound.
    ///
    /// # Errors
    /// What makes starting pointless. A registry or a peer that does not answer is no reason.
    pub async fn start(config: Config) -> Result<RunningNode, StartError> {
        // Two crates bring a TLS provider each; without a choice the first handshake panics.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let section = config.federation.as_ref().filter(|section| section.listen.is_some());
        let Some(section) = section else { return Err(StartError::NotANode) };
        let disk_error = |source| StartError::Disk { path: config.data_dir.display().to_string(), source };
        let disk = Arc::new(Disk::open(&config.data_dir, config.region.clone()).map_err(disk_error)?);
        let listener = TcpListener::bind(section.status).await;
        let listener = listener.map_err(|source| StartError::Status { address: section.status, source })?;
        let status = listener.local_addr().unwrap_or(section.status);
        let Opened { registry, etcd_stats, .. } = open_registry(&config, None, false).await?;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let parts = Parts { config: section, region: config.region.clone(), registry, disk, keeper: None };
        let Joined { handle, source, address, told, .. } = spawn(parts, &tasks, &stop).await?;
        let address = address.or(section.listen).ok_or(StartError::NotANode)?;
        let mut sources = vec![source];
        sources.extend(etcd_stats.map(gateway_figures::etcd));
        let metrics = Arc::new(Metrics { http: Arc::new(HttpMetrics::default()), sources });
        let routes = routes(config.region.clone(), handle, told, metrics);
        let ending = stop.clone();
        tasks.spawn(async move {
            let served = axum::serve(listener, routes).with_graceful_shutdown(ending.cancelled_owned());
            if let Err(error) = served.await {
                tracing::error!(%error, "the status listener ended");
            }
        });
        Ok(RunningNode { address, status, stop, tasks })
    }
}

fn routes(region: RegionName, handle: Handle, told: Arc<AtomicBool>, metrics: Arc<Metrics>) -> Router {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let ready = move || {
        let overview = handle.overview();
        let others = overview.standings.keys().filter(|origin| **origin != region).count();
        // Something to tell: of its own region by the registry, or of others, heard or read from disk.
        let ready = told.load(Ordering::Relaxed) || others > 0;
        let body = serde_json::json!({
            "status": if ready { "ready" } else { "not-ready" },
            "region": region, "links": overview.links.len(), "origins": others,
            "registry": if told.load(Ordering::Relaxed) { "read" } else { "not yet read" },
        });
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        std::future::ready((status, axum::Json(body)).into_response())
    };
    let scrape = move || std::future::ready(([(header::CONTENT_TYPE, kind)], metrics.text()).into_response());
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(scrape))
        .fallback(|| async {
            (StatusCode::NOT_FOUND, "a federation node serves /livez, /readyz and /metrics\n")
        })
}
