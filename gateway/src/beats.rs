//! The outbox of heartbeats: what beats at this gateway is told to the region in one batch, so that 10,000 beats a second
//! are two writes.

use crate::guardian::GuardianInput;
use meridian_model::instance::LeaseId;
use meridian_model::names::GatewayId;
use meridian_registry::{Registry, RegistryError, record};
use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Time between two batches. An instance that dies right after a beat is to be expired within its TTL and a second; the
/// beat's way to the guardian is part of that second.
const PUBLISH_EVERY: Duration = Duration::from_millis(500);

/// Beats that come together go together.
const GATHER: Duration = Duration::from_millis(50);

/// Leases in one batch: below the registry's limit of 1 MiB for a write. More than that wait for the next.
const MAX_BATCH: usize = 100_000;

/// Leases that are kept while the registry does not answer. It holds nothing against those who are dropped: after such
/// a time every lease counts a full TTL again.
const MAX_PENDING: usize = 2 * MAX_BATCH;

/// Counters for the metrics.
#[derive(Debug, Default)]
pub struct BeatStats {
    /// Heartbeats taken in at this gateway.
    pub taken: AtomicU64,
    /// Batches published.
    pub published: AtomicU64,
    /// Batches that the registry did not take; their beats went into later ones.
    pub failed: AtomicU64,
    /// Heartbeats dropped because too many waited.
    pub dropped: AtomicU64,
}

/// Starts the outbox. It ends, after a last batch, when all senders of `beats` are gone.
pub fn spawn(
    registry: Arc<dyn Registry>,
    me: GatewayId,
    beats: mpsc::Receiver<LeaseId>,
    guardian: mpsc::Sender<GuardianInput>,
    stats: Arc<BeatStats>,
) -> JoinHandle<()> {
    let outbox = Outbox { registry, me, guardian, stats, fresh: Vec::new(), pending: BTreeSet::new() };
    tokio::spawn(outbox.run(beats))
}

type Publishing = Pin<Box<dyn Future<Output = (Vec<LeaseId>, Result<(), RegistryError>)> + Send>>;

struct Outbox {
    registry: Arc<dyn Registry>,
    me: GatewayId,
    guardian: mpsc::Sender<GuardianInput>,
    stats: Arc<BeatStats>,
    /// For the guardian of this gateway, which need not wait for the registry's echo.
    fresh: Vec<LeaseId>,
    /// For the registry.
    pending: BTreeSet<LeaseId>,
}

impl Outbox {
    async fn run(mut self, mut beats: mpsc::Receiver<LeaseId>) {
        let mut buffer = Vec::new();
        let mut tell_at = Instant::now();
        let mut publish_at = Instant::now();
        // Runs beside the intake: heartbeats are taken in while the registry does not answer.
        let mut publishing: Option<Publishing> = None;
        loop {
            let idle = publishing.is_none();
            tokio::select! {
                count = beats.recv_many(&mut buffer, 1024) => {
                    if count == 0 {
                        break;
                    }
                    let gathered = Instant::now() + GATHER;
                    if self.fresh.is_empty() {
                        tell_at = gathered;
                    }
                    if self.pending.is_empty() {
                        publish_at = publish_at.max(gathered);
                    }
                    self.take_in(&mut buffer);
                }
                () = tokio::time::sleep_until(tell_at), if !self.fresh.is_empty() => {
                    self.tell();
                    tell_at = Instant::now() + GATHER;
                }
                () = tokio::time::sleep_until(publish_at), if idle && !self.pending.is_empty() => {
                    publish_at = Instant::now() + PUBLISH_EVERY;
                    publishing = Some(self.publish());
                }
                (batch, result) = in_flight(&mut publishing), if !idle => {
                    publishing = None;
                    self.published(batch, result);
                }
            }
        }
        if let Some(publishing) = publishing {
            let (batch, result) = publishing.await;
            self.published(batch, result);
        }
        if !self.pending.is_empty() {
            let (batch, result) = self.publish().await;
            self.published(batch, result);
        }
    }

    fn take_in(&mut self, buffer: &mut Vec<LeaseId>) {
        self.stats.taken.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        for lease in buffer.drain(..) {
            if self.fresh.len() < MAX_BATCH {
                self.fresh.push(lease);
            }
            if self.pending.len() < MAX_PENDING || self.pending.contains(&lease) {
                self.pending.insert(lease);
            } else {
                self.stats.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn tell(&mut self) {
        let fresh = GuardianInput::Beats(std::mem::take(&mut self.fresh));
        if let Err(TrySendError::Full(GuardianInput::Beats(fresh))) = self.guardian.try_send(fresh) {
            // Busy: once more in a moment, together with what comes meanwhile. What overflows it hears by the echo.
            self.fresh = fresh;
        }
    }

    fn publish(&mut self) -> Publishing {
        let batch: Vec<LeaseId> = self.pending.iter().take(MAX_BATCH).copied().collect();
        if batch.len() == self.pending.len() {
            self.pending.clear();
        } else {
            batch.iter().for_each(|lease| {
                self.pending.remove(lease);
            });
        }
        let (registry, me) = (Arc::clone(&self.registry), self.me.clone());
        Box::pin(async move {
            let result = registry.publish_beats(&me, record::encode_beats(&batch)).await;
            (batch, result)
        })
    }

    fn published(&mut self, batch: Vec<LeaseId>, result: Result<(), RegistryError>) {
        match result {
            Ok(()) => {
                self.stats.published.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                self.stats.failed.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(%error, beats = batch.len(), "heartbeats wait for the next batch");
                self.pending.extend(batch);
            }
        }
    }
}

async fn in_flight(publishing: &mut Option<Publishing>) -> (Vec<LeaseId>, Result<(), RegistryError>) {
    match publishing {
        Some(publishing) => publishing.await,
        None => std::future::pending().await,
    }
}
