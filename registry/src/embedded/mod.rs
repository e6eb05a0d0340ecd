//! The registry of a region that has one gateway process: a file, or only memory, with etcd's semantics.
//!
//! Writes are durable when they are answered; concurrent ones share an fsync. Members and heartbeats live in memory and
//! end with the process. A file that can no longer be written (full, disk gone) makes writes fail as unavailable while
//! reads and watches go on; it is used again after a restart.

mod disk;
mod store;

use crate::{
    Committed, Event, Key, Known, Membership, Observed, Registry, RegistryError, Revision, Stored, Write,
    limits,
};
use async_trait::async_trait;
use bytes::Bytes;
use disk::Disk;
use meridian_model::names::{GatewayId, PolicyVersion, RegionName};
use meridian_model::time::UnixMillis;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;
use store::{Ask, Note, Reply, Store, Subscription};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};

const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a watch proves that it is current; a third of the second that the contract allows.
const PROBE_INTERVAL: Duration = Duration::from_millis(300);
/// Changes that are handed on as one event where they are there already.
const MERGED_CHANGES: usize = 1024;
/// Events that wait for a slow receiver of a watch.
const WATCH_QUEUE: usize = 64;
/// Questions that wait for the store.
const ASK_QUEUE: usize = 1024;

/// A registry inside the process.
pub struct EmbeddedRegistry {
    asks: Option<mpsc::Sender<Ask>>,
    store: Option<JoinHandle<()>>,
}

impl EmbeddedRegistry {
    /// Opens the file at `path`, or creates it; without a path the registry lives in memory. Reads the whole file.
    ///
    /// # Errors
    /// Refused: another process has it open, it is damaged, or it cannot be written. Another region's file is
    /// [`RegistryError::OtherRegion`].
    pub fn open(path: Option<&Path>, region: &RegionName) -> Result<Self, RegistryError> {
        let (disk, contents) = Disk::open(path)?;
        if let Some(stored) = contents.records.get(&Key::Region) {
            let found: String = serde_json::from_slice(&stored.value).unwrap_or_default();
            if found != region.as_str() {
                return Err(RegistryError::OtherRegion { found, wanted: region.clone() });
            }
        }
        let store = Store::new(disk, contents, region.as_str())?;
        let (asks, questions) = mpsc::channel(ASK_QUEUE);
        let store =
            std::thread::Builder::new()
                .name("registry".into())
                .spawn(move || store.run(questions))
                .map_err(|e| RegistryError::Refused(format!("cannot start the registry's thread: {e}")))?;
        Ok(Self { asks: Some(asks), store: Some(store) })
    }

    async fn ask<T>(&self, question: impl FnOnce(Reply<T>) -> Ask) -> Result<T, RegistryError> {
        match &self.asks {
            Some(asks) => ask(asks, question).await,
            None => Err(closed()),
        }
    }

    /// For tasks of their own, which must not keep the file open.
    fn weak(&self) -> Option<mpsc::WeakSender<Ask>> {
        self.asks.as_ref().map(mpsc::Sender::downgrade)
    }
}

impl Drop for EmbeddedRegistry {
    /// Waits for the thread, at most for a write under way, so that the file can be opened again.
    fn drop(&mut self) {
        self.asks = None;
        if let Some(store) = self.store.take() {
            let _ = store.join();
        }
    }
}

fn closed() -> RegistryError {
    RegistryError::Unavailable("it is closed".into())
}

async fn ask<T>(
    asks: &mpsc::Sender<Ask>,
    question: impl FnOnce(Reply<T>) -> Ask,
) -> Result<T, RegistryError> {
    let (reply, answer) = oneshot::channel();
    let asking = async {
        asks.send(question(reply)).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    };
    match tokio::time::timeout(CALL_TIMEOUT, asking).await {
        Ok(answer) => answer,
        Err(_) => Err(RegistryError::Unavailable("its file takes longer than 5 s".into())),
    }
}

#[async_trait]
impl Registry for EmbeddedRegistry {
    async fn commit(&self, write: Write) -> Result<Committed, RegistryError> {
        limits::check(&write)?;
        self.ask(|reply| Ask::Commit(write, reply)).await
    }

    async fn read(&self, key: &Key) -> Result<(Option<Stored>, Revision), RegistryError> {
        self.ask(|reply| Ask::Read(key.clone(), reply)).await
    }

    async fn history(&self, before: Option<&Key>, limit: usize) -> Result<Vec<Stored>, RegistryError> {
        self.ask(|reply| Ask::History(before.cloned(), limit, reply)).await
    }

    async fn prune_history(&self, before: UnixMillis) -> Result<(), RegistryError> {
        self.ask(|reply| Ask::PruneHistory(before, reply)).await
    }

    async fn put_chunk(
        &self,
        version: PolicyVersion,
        number: u32,
        bytes: Bytes,
    ) -> Result<(), RegistryError> {
        limits::check_chunk(&bytes)?;
        self.ask(|reply| Ask::PutChunk(version, number, bytes, reply)).await
    }

    async fn get_chunk(&self, version: PolicyVersion, number: u32) -> Result<Option<Bytes>, RegistryError> {
        self.ask(|reply| Ask::GetChunk(version, number, reply)).await
    }

    async fn delete_chunks(&self, version: PolicyVersion) -> Result<(), RegistryError> {
        self.ask(|reply| Ask::DeleteChunks(version, reply)).await
    }

    /// The store is this process, so the membership holds until it is dropped; `ttl` has nothing to measure.
    fn join(&self, id: GatewayId, record: Bytes, _ttl: Duration) -> Membership {
        let (holds, membership) = watch::channel(None);
        if let Some(asks) = self.weak() {
            tokio::spawn(async move {
                let joined = upgraded(&asks, |reply| Ask::Join(id.clone(), record, reply)).await;
                let revision = match joined {
                    Ok(revision) => revision,
                    Err(e) => {
                        tracing::warn!("cannot join the members: {e}");
                        return;
                    }
                };
                holds.send_replace(Some(revision));
                holds.closed().await;
                if let Some(asks) = asks.upgrade() {
                    let _ = asks.send(Ask::Leave(id, revision)).await;
                }
            });
        }
        membership
    }

    async fn publish_beats(&self, id: &GatewayId, batch: Bytes) -> Result<(), RegistryError> {
        if batch.len() > limits::MAX_WRITE_BYTES {
            return Err(RegistryError::Refused(format!(
                "a write has at most {} bytes",
                limits::MAX_WRITE_BYTES
            )));
        }
        self.ask(|reply| Ask::Beats(id.clone(), batch, reply)).await
    }

    fn watch(&self, known: Option<Known>) -> mpsc::Receiver<Event> {
        let (events, receiver) = mpsc::channel(WATCH_QUEUE);
        if let Some(asks) = self.weak() {
            tokio::spawn(follow(asks, known, events));
        }
        receiver
    }
}

async fn upgraded<T>(
    asks: &mpsc::WeakSender<Ask>,
    question: impl FnOnce(Reply<T>) -> Ask,
) -> Result<T, RegistryError> {
    match asks.upgrade() {
        Some(asks) => ask(&asks, question).await,
        None => Err(closed()),
    }
}

/// Keeps one watch going until its receiver or the registry is gone.
async fn follow(asks: mpsc::WeakSender<Ask>, mut known: Option<Known>, events: mpsc::Sender<Event>) {
    loop {
        let asked = Instant::now();
        match upgraded(&asks, |reply| Ask::Subscribe(known, reply)).await {
            Ok(subscription) => {
                known =
                    Some(Known { incarnation: subscription.incarnation, revision: subscription.revision });
                if deliver(&asks, subscription, asked, &mut known, &events).await.is_none() {
                    return;
                }
            }
            Err(e) => {
                if events.send(Event::Lost { reason: e.to_string() }).await.is_err()
                    || asks.upgrade().is_none()
                {
                    return;
                }
                tokio::time::sleep(PROBE_INTERVAL).await;
            }
        }
    }
}

/// Hands on one subscription; `None` when there is nobody left, `Some` when it takes a new one.
async fn deliver(
    asks: &mpsc::WeakSender<Ask>,
    subscription: Subscription,
    asked: Instant,
    known: &mut Option<Known>,
    events: &mpsc::Sender<Event>,
) -> Option<()> {
    let Subscription { incarnation, revision, records, mut notes } = subscription;
    let mut position = revision;
    events.send(Event::Reset { incarnation, revision, records, asked: asked.into_std() }).await.ok()?;
    let mut probes = tokio::time::interval(PROBE_INTERVAL);
    probes.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let mut proven = None;
        let mut changes: Vec<Observed> = Vec::new();
        tokio::select! {
            () = events.closed() => return None,
            note = notes.recv() => match note {
                Ok(Note::Changed(revision, observed)) => {
                    position = revision;
                    changes.extend(observed.iter().cloned());
                }
                // Behind by more than the channel holds: start over instead of holding up the writer.
                Ok(Note::Reborn) | Err(RecvError::Lagged(_)) => return Some(()),
                Err(RecvError::Closed) => {
                    lost(events, closed()).await;
                    return None;
                }
            },
            _ = probes.tick() => {
                let asked = Instant::now().into_std();
                match upgraded(asks, Ask::Probe).await {
                    Ok(revision) => proven = Some((revision, asked)),
                    Err(e) => lost(events, e).await?,
                }
            }
        }
        // Whatever the probe's answer covers has been sent to `notes` before it.
        while proven.is_some() || changes.len() < MERGED_CHANGES {
            match notes.try_recv() {
                Ok(Note::Changed(revision, observed)) => {
                    position = revision;
                    changes.extend(observed.iter().cloned());
                }
                Ok(Note::Reborn) | Err(TryRecvError::Lagged(_)) => return Some(()),
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        if !changes.is_empty() {
            events.send(Event::Changed { revision: position, changes }).await.ok()?;
        }
        if let Some((revision, asked)) = proven {
            position = position.max(revision);
            events.send(Event::Current { revision: position, asked }).await.ok()?;
        }
        *known = Some(Known { incarnation, revision: position });
    }
}

async fn lost(events: &mpsc::Sender<Event>, error: RegistryError) -> Option<()> {
    events.send(Event::Lost { reason: error.to_string() }).await.ok()
}
