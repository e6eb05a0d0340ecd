//! One watch: the whole state first, then every change, for ever.
//!
//! Proof that the watch is current comes from outside the stream: a linearizable read says which revision etcd has, and
//! the watch is current once it has delivered that revision. Where writes outside the watched range raised the revision,
//! a write inside it (the tick) makes the watch say so. etcd's own progress notifications are no proof before 3.4.25 and
//! 3.5.8: they may overtake events (etcd-io/etcd#15220). The read goes to the endpoint in use for calls, so a watch
//! that hangs on a member cut off from the others (etcd-io/etcd#8980) is found out as well.

use super::batch::revision;
use super::connection::{MAX_MESSAGE_BYTES, classify};
use super::relist::{self, Listing, View};
use super::{Shared, life, newer};
use crate::{Event, Incarnation, Key, Known, Observed, RegistryError, Revision, Stored};
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use bytes::Bytes;
use etcd_client::{EventType, WatchOptions, WatchResponse, WatchStream};
use futures::FutureExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// How often etcd is asked for its revision. The contract allows a second between two proofs.
const PROBE_INTERVAL: Duration = Duration::from_millis(400);
/// How long a probe may take. An older answer proves nothing that is worth telling.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the watch may lag behind a probe before a tick is written; changes under way arrive within it.
const TICK_DELAY: Duration = Duration::from_millis(100);
/// Without a proof for this long the watch is taken for dead.
const HANG: Duration = Duration::from_secs(3);
/// Bound of opening the stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);
/// Between attempts at a registry of another region, which only a person can put right.
const WRONG_REGION_PAUSE: Duration = Duration::from_secs(10);
/// Changes that are handed on as one event where they are there already.
const MERGED_CHANGES: usize = 1024;

/// Why a session with etcd ended.
enum End {
    /// The receiver is gone.
    Dropped,
    /// The state must be read anew.
    StartOver(&'static str),
    Failed(RegistryError),
}

impl From<RegistryError> for End {
    fn from(error: RegistryError) -> Self {
        Self::Failed(error)
    }
}

/// Where the watch stands.
struct Position {
    known: Known,
    /// The last record that was seen to be put, to recognise a history that is another one.
    landmark: Option<(Key, Revision)>,
    view: View,
}

pub(super) struct Follower {
    shared: Arc<Shared>,
    events: mpsc::Sender<Event>,
    /// From before this process.
    remembered: Option<Known>,
    position: Option<Position>,
    endpoint: usize,
    /// Whether the last thing that the receiver was told is that etcd is lost.
    lost: bool,
    delays: ExponentialBackoff,
}

fn delays() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(Duration::from_secs(2))
        .with_jitter()
        .without_max_times()
        .build()
}

impl Follower {
    pub(super) fn new(shared: Arc<Shared>, remembered: Option<Known>, events: mpsc::Sender<Event>) -> Self {
        Self { shared, events, remembered, position: None, endpoint: 0, lost: false, delays: delays() }
    }

    pub(super) async fn run(mut self) {
        let events = self.events.clone();
        loop {
            let mut pause = self.delays.next().unwrap_or(HANG);
            match self.session().await {
                End::Dropped => return,
                End::StartOver(reason) => {
                    tracing::info!("reading the whole registry again: {reason}");
                    if let Some(position) = self.position.take() {
                        self.remembered = newer(self.remembered, Some(position.known));
                    }
                }
                End::Failed(error) => {
                    if matches!(error, RegistryError::OtherRegion { .. }) {
                        pause = WRONG_REGION_PAUSE;
                    }
                    self.endpoint = self.endpoint.wrapping_add(1);
                    self.shared.stats.reconnects.add(1);
                    if !self.lost {
                        tracing::warn!("lost the registry: {error}");
                        if self.send(Event::Lost { reason: error.to_string() }).await.is_err() {
                            return;
                        }
                    }
                }
            }
            tokio::select! {
                () = events.closed() => return,
                () = sleep(pause) => {}
            }
        }
    }

    /// Whatever is sent after a loss says that the registry is back, so the next loss is told again.
    async fn send(&mut self, event: Event) -> Result<(), End> {
        self.lost = matches!(event, Event::Lost { .. });
        self.events.send(event).await.map_err(|_| End::Dropped)
    }

    async fn session(&mut self) -> End {
        let events = self.events.clone();
        let opened = tokio::select! {
            () = events.closed() => return End::Dropped,
            opened = self.open() => opened,
        };
        match opened {
            Ok((stream, incarnation)) => match self.follow(stream, incarnation).await {
                Ok(never) => match never {},
                Err(end) => end,
            },
            Err(end) => end,
        }
    }

    /// Agrees on the incarnation, brings the receiver up to a revision and opens the stream that goes on from there.
    async fn open(&mut self) -> Result<(WatchStream, Incarnation), End> {
        let followed = self.position.as_ref().map(|position| position.known);
        let known = newer(newer(self.remembered, self.shared.known()), followed);
        let (incarnation, _) = life::claim(&self.shared, known).await?;
        let resumed = match &self.position {
            Some(Position { known, landmark, .. }) if known.incarnation == incarnation => {
                if let Some((key, at)) = landmark
                    && !relist::is_still_there(&self.shared, key, *at).await?
                {
                    // Set back and written to since, past what was followed: the revision alone does not show it.
                    life::raise(&self.shared, incarnation).await?;
                    return Err(End::StartOver("its history is another one than was followed"));
                }
                Some(known.revision)
            }
            _ => None,
        };
        let from = match resumed {
            Some(revision) => revision,
            None => self.reset(incarnation).await?,
        };
        let (start, end) = self.shared.paths.watched();
        let next = i64::try_from(from.0).unwrap_or(i64::MAX).saturating_add(1);
        let options = WatchOptions::new().with_range(end).with_start_revision(next);
        let opening = async {
            let client = self.shared.connection.fresh(self.endpoint).await?;
            let mut watching = client.watch_client().max_decoding_message_size(MAX_MESSAGE_BYTES);
            watching.watch(start, Some(options)).await
        };
        match timeout(OPEN_TIMEOUT, opening).await {
            Ok(Ok(stream)) => Ok((stream, incarnation)),
            Ok(Err(error)) => Err(End::Failed(classify(error))),
            Err(_) => Err(End::Failed(RegistryError::Unavailable("the watch was not opened in time".into()))),
        }
    }

    /// Reads everything aside and hands it on at once.
    async fn reset(&mut self, incarnation: Incarnation) -> Result<Revision, End> {
        let Listing { revision, records, view, asked } = relist::relist(&self.shared).await?;
        self.shared.stats.relists.add(1);
        let listed = records.iter().find(|record| record.key == Key::Incarnation);
        if listed.is_none_or(|record| !is_incarnation(&record.value, incarnation)) {
            return Err(End::StartOver("its incarnation changed meanwhile"));
        }
        let landmark = records.iter().max_by_key(|record| record.modified);
        let landmark = landmark.map(|record| (record.key.clone(), record.modified));
        let known = Known { incarnation, revision };
        self.send(Event::Reset { incarnation, revision, records, asked }).await?;
        self.position = Some(Position { known, landmark, view });
        self.shared.learn(known);
        Ok(revision)
    }

    /// Hands on what the stream says, and proofs.
    async fn follow(
        &mut self,
        mut stream: WatchStream,
        incarnation: Incarnation,
    ) -> Result<std::convert::Infallible, End> {
        // Ended with this function.
        let mut tasks = JoinSet::new();
        let (probed, mut probes) = mpsc::channel(1);
        tasks.spawn(probe(self.shared.clone(), probed));
        let (compared, mut comparisons) = mpsc::channel(1);
        let mut compare_at = Instant::now() + self.shared.compare_interval;
        let mut deadline = Instant::now() + HANG;
        // A revision that the watch has yet to reach, since when, and when to write a tick for it.
        let mut lagging: Option<(Revision, Instant)> = None;
        let mut tick_at: Option<Instant> = None;
        let mut proven = Revision(0);
        let events = self.events.clone();
        loop {
            let mut message = None;
            tokio::select! {
                () = events.closed() => return Err(End::Dropped),
                received = stream.message() => message = Some(received),
                Some((asked, revision)) = probes.recv() => {
                    if revision < proven {
                        return Err(End::Failed(RegistryError::Unavailable("its revision went back".into())));
                    }
                    proven = revision;
                    if lagging.is_none() {
                        lagging = Some((revision, asked));
                        tick_at = Some(Instant::now() + TICK_DELAY.mul_f64(0.5 + rand::random::<f64>()));
                    }
                }
                () = sleep_until(tick_at.unwrap_or(deadline)), if tick_at.is_some() => {
                    tick_at = None;
                    tasks.spawn(tick(self.shared.clone()));
                }
                () = sleep_until(deadline) => {
                    let reason = "neither the watch nor a read proved anything for 3 s";
                    return Err(End::Failed(RegistryError::Unavailable(reason.into())));
                }
                () = sleep_until(compare_at) => {
                    compare_at = Instant::now() + self.shared.compare_interval;
                    if let Some(position) = &self.position {
                        let (view, at) = (position.view.clone(), position.known.revision);
                        tasks.spawn(compare(self.shared.clone(), view, at, compared.clone()));
                    }
                }
                Some(differences) = comparisons.recv() => {
                    self.shared.stats.compares.add(1);
                    if differences > 0 {
                        self.shared.stats.divergences.add(differences);
                        tracing::error!(differences, "etcd has other records than its watch told");
                        return Err(End::StartOver("it differs from what the watch told"));
                    }
                }
            }
            while tasks.try_join_next().is_some() {}
            let handing_on = Instant::now();
            if let Some(received) = message {
                let mut changes = Vec::new();
                let mut outcome = self.absorb(received, incarnation, &mut changes);
                while outcome.is_ok()
                    && changes.len() < MERGED_CHANGES
                    && let Some(received) = stream.message().now_or_never()
                {
                    outcome = self.absorb(received, incarnation, &mut changes);
                }
                if let (Some(position), false) = (&self.position, changes.is_empty()) {
                    self.send(Event::Changed { revision: position.known.revision, changes }).await?;
                }
                outcome?;
            }
            let reached = self.position.as_ref().map_or(Revision(0), |position| position.known.revision);
            if let Some((revision, asked)) = lagging
                && reached >= revision
            {
                lagging = None;
                tick_at = None;
                if asked.elapsed() < PROBE_TIMEOUT {
                    self.send(Event::Current { revision: reached, asked: asked.into_std() }).await?;
                    self.shared.learn(Known { incarnation, revision: reached });
                    self.delays = delays();
                }
                deadline = Instant::now() + HANG;
            }
            // Time that the receiver took is not etcd's.
            deadline += handing_on.elapsed();
        }
    }

    /// Takes one message of the stream into account.
    fn absorb(
        &mut self,
        received: Result<Option<WatchResponse>, etcd_client::Error>,
        incarnation: Incarnation,
        changes: &mut Vec<Observed>,
    ) -> Result<(), End> {
        let response = match received {
            Ok(Some(response)) => response,
            Ok(None) => return Err(End::Failed(RegistryError::Unavailable("the watch was closed".into()))),
            Err(error) => return Err(End::Failed(classify(error))),
        };
        if response.compact_revision() > 0 {
            return Err(End::StartOver("what the watch missed has been compacted"));
        }
        if response.canceled() {
            let reason = format!("the watch was cancelled: {}", response.cancel_reason());
            return Err(End::Failed(RegistryError::Unavailable(reason)));
        }
        let Some(position) = &mut self.position else { return Ok(()) };
        for event in response.events() {
            let Some(kv) = event.kv() else { continue };
            let modified = revision(kv.mod_revision());
            let deleted = event.event_type() == EventType::Delete;
            if deleted {
                position.view.delete(kv.key());
            } else {
                position.view.put(kv.key(), modified);
            }
            // The header's revision may be ahead of events that are still to come; an event's own is not.
            position.known.revision = position.known.revision.max(modified);
            let Some(key) = self.shared.paths.key(kv.key()) else { continue };
            if key == Key::Incarnation && (deleted || !is_incarnation(kv.value(), incarnation)) {
                return Err(End::StartOver("it has a new incarnation"));
            }
            if deleted {
                changes.push(Observed::Deleted(key, modified));
            } else {
                position.landmark = Some((key.clone(), modified));
                let value = Bytes::copy_from_slice(kv.value());
                changes.push(Observed::Put(Stored { key, value, modified }));
            }
        }
        Ok(())
    }
}

fn is_incarnation(value: &[u8], incarnation: Incarnation) -> bool {
    life::parse::<Incarnation>(&Key::Incarnation, value).is_ok_and(|found| found == incarnation)
}

/// Asks etcd for its revision again and again, linearizably.
async fn probe(shared: Arc<Shared>, probed: mpsc::Sender<(Instant, Revision)>) {
    let path = &shared.paths.path(&Key::Incarnation);
    loop {
        let asked = Instant::now();
        let answer = shared.connection.once(PROBE_TIMEOUT, move |client| async move {
            client.kv_client().get(path.as_slice(), None).await
        });
        // A failure shows by the absence of proof.
        if let Ok(found) = answer.await {
            let revision = revision(found.header().map_or(0, etcd_client::ResponseHeader::revision));
            if probed.send((asked, revision)).await.is_err() {
                return;
            }
        }
        sleep_until(asked + PROBE_INTERVAL).await;
    }
}

async fn tick(shared: Arc<Shared>) {
    let path = &shared.paths.tick();
    let written = shared.connection.once(PROBE_TIMEOUT, move |client| async move {
        client.kv_client().put(path.as_slice(), "", None).await
    });
    if written.await.is_ok() {
        shared.stats.ticks.add(1);
    }
}

async fn compare(shared: Arc<Shared>, view: View, at: Revision, compared: mpsc::Sender<u64>) {
    match relist::compare(&shared, view, at).await {
        Ok(Some(differences)) => drop(compared.send(differences).await),
        // Compacted under it; the next one will do.
        Ok(None) => {}
        Err(error) => tracing::debug!("the full compare was not made: {error}"),
    }
}
