//! The outbox of heartbeats: what beats at this gateway is told to the region in one batch, so that 10,000 beats a second
//! are two writes.

use crate::guardian::GuardianInput;
use meridian_model::instance::LeaseId;
use meridian_model::load::Beat;
use meridian_model::names::GatewayId;
use meridian_registry::{Registry, RegistryError, record};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
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

/// Leases in one batch: with their loads below the registry's limit of 1 MiB for a write. More than that wait for the next.
const MAX_BATCH: usize = 80_000;

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
    beats: mpsc::Receiver<Beat>,
    guardian: mpsc::Sender<GuardianInput>,
    stats: Arc<BeatStats>,
) -> JoinHandle<()> {
    let outbox = Outbox { registry, me, guardian, stats, fresh: Vec::new(), pending: BTreeMap::new() };
    tokio::spawn(outbox.run(beats))
}

type Publishing = Pin<Box<dyn Future<Output = (Vec<Beat>, Result<(), RegistryError>)> + Send>>;

struct Outbox {
    registry: Arc<dyn Registry>,
    me: GatewayId,
    guardian: mpsc::Sender<GuardianInput>,
    stats: Arc<BeatStats>,
    /// For the guardian of this gateway, which need not wait for the registry's echo.
    fresh: Vec<Beat>,
    /// For the registry: leases with the load that was reported last.
    pending: BTreeMap<LeaseId, Option<u32>>,
}

impl Outbox {
    async fn run(mut self, mut beats: mpsc::Receiver<Beat>) {
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

    fn take_in(&mut self, buffer: &mut Vec<Beat>) {
        self.stats.taken.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        for beat in buffer.drain(..) {
            if self.fresh.len() < MAX_BATCH {
                self.fresh.push(beat);
            }
            let has_room = self.pending.len() < MAX_PENDING;
            match self.pending.entry(beat.lease) {
                Entry::Occupied(mut waits) => {
                    let load = beat.load.or(*waits.get());
                    waits.insert(load);
                }
                Entry::Vacant(place) if has_room => {
                    place.insert(beat.load);
                }
                Entry::Vacant(_) => {
                    self.stats.dropped.fetch_add(1, Ordering::Relaxed);
                }
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
        let of = |(lease, load): (&LeaseId, &Option<u32>)| Beat { lease: *lease, load: *load };
        let batch: Vec<Beat> = self.pending.iter().take(MAX_BATCH).map(of).collect();
        if batch.len() == self.pending.len() {
            self.pending.clear();
        } else {
            batch.iter().for_each(|beat| {
                self.pending.remove(&beat.lease);
            });
        }
        let (registry, me) = (Arc::clone(&self.registry), self.me.clone());
        Box::pin(async move {
            let result = registry.publish_beats(&me, record::encode_beats(&batch)).await;
            (batch, result)
        })
    }

    fn published(&mut self, batch: Vec<Beat>, result: Result<(), RegistryError>) {
        match result {
            Ok(()) => {
                self.stats.published.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                self.stats.failed.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(%error, beats = batch.len(), "heartbeats wait for the next batch");
                for beat in batch {
                    // What came meanwhile is newer.
                    let load = self.pending.entry(beat.lease).or_default();
                    *load = load.or(beat.load);
                }
            }
        }
    }
}

async fn in_flight(publishing: &mut Option<Publishing>) -> (Vec<Beat>, Result<(), RegistryError>) {
    match publishing {
        Some(publishing) => publishing.await,
        None => std::future::pending().await,
    }
}
