//! Records lookups of one service for a while, so that they can be replayed against any version of a policy.
//!
//! Where nothing is recorded, a lookup reads one number that is nearly never written. Where something is, it never waits: what
//! comes while another thread notes its own is counted and left out.

use meridian_model::binding::Bound;
use meridian_model::names::{GatewayId, RegionName};
use meridian_model::recording::{FORMAT, Noted, Picture, Recording};
use meridian_model::snapshot::Snapshot;
use meridian_model::time::UnixMillis;
use meridian_policies::{Routed, answer_of};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use tokio::sync::Notify;

/// Stands for no service: slots are counted from zero.
const NONE: u32 = u32::MAX;
/// Bytes of all pictures of a recording, as it is written; estimated.
const MAX_BYTES: usize = 32 << 20;
/// What an endpoint takes in a recording beside what answers show of it, and one of another region in all.
const ENDPOINT_BYTES: usize = 512;
/// Pictures of a recording.
const MAX_PICTURES: usize = 256;

/// What is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    /// Which service.
    pub slot: u32,
    /// The part of its lookups, 0 to 1.
    pub sample: f64,
    /// At most this many of them.
    pub most: usize,
}

/// On a cache line of its own: every lookup reads it.
#[derive(Debug)]
#[repr(align(128))]
struct Slot(AtomicU32);

/// The recorder of a gateway: one recording at a time.
#[derive(Debug)]
pub struct Recorder {
    slot: Slot,
    missed: AtomicU64,
    /// There until what runs is dropped, so that no other begins before.
    tape: Mutex<Option<Tape>>,
}

#[derive(Debug)]
struct Tape {
    order: Order,
    full: Arc<Notify>,
    seen: u64,
    dropped: u64,
    bytes: usize,
    pictures: BTreeMap<u64, Arc<Snapshot>>,
    answered_by: Vec<Bound>,
    lookups: Vec<Noted>,
}

impl Default for Recorder {
    fn default() -> Self {
        Self { slot: Slot(AtomicU32::new(NONE)), missed: AtomicU64::new(0), tape: Mutex::new(None) }
    }
}

impl Recorder {
    /// Notes a lookup, if its service is recorded.
    #[inline]
    pub fn note(&self, current: &Arc<Snapshot>, key: Option<u64>, entropy: u64, routed: &Routed<'_>) {
        if self.slot.0.load(Ordering::Relaxed) == current.slot {
            self.take(current, key, entropy, routed);
        }
    }

    #[cold]
    fn take(&self, current: &Arc<Snapshot>, key: Option<u64>, entropy: u64, routed: &Routed<'_>) {
        let mut tape = match self.tape.try_lock() {
            Ok(tape) => tape,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                self.missed.fetch_add(1, Ordering::Relaxed);
                return;
            }
        };
        // The service that is recorded may have become another one since.
        let Some(tape) = tape.as_mut().filter(|tape| tape.order.slot == current.slot) else { return };
        let sample = tape.order.sample;
        // Whole samples so far; a sum of parts would fall short of them.
        let due = |seen: u64| (seen as f64 * sample) as u64;
        tape.seen += 1;
        if due(tape.seen) == due(tape.seen - 1) {
            return;
        }
        let planned = &routed.view.snapshot;
        if tape.lookups.len() >= tape.order.most || !tape.show(planned) || !tape.show(current) {
            tape.dropped += 1;
            return;
        }
        let (answer, outcome) = answer_of(routed, current);
        let caller = &routed.view.caller;
        let by = tape.number(routed.view.bound());
        tape.lookups.push(Noted {
            zone: caller.zone.clone(),
            labels: caller.labels.clone(),
            key,
            entropy,
            planned: planned.serial,
            current: current.serial,
            by,
            outcome: outcome.into(),
            answer,
        });
        if tape.lookups.len() >= tape.order.most {
            self.slot.0.store(NONE, Ordering::Relaxed);
            tape.full.notify_one();
        }
    }

    /// Begins a recording; `None` while another one runs. It ends when what is returned is dropped.
    pub fn start(self: &Arc<Self>, order: Order) -> Option<Running> {
        let mut tape = self.tape.lock().unwrap_or_else(PoisonError::into_inner);
        if tape.is_some() {
            return None;
        }
        let full = Arc::<Notify>::default();
        *tape = Some(Tape {
            order,
            full: Arc::clone(&full),
            seen: 0,
            dropped: 0,
            bytes: 0,
            pictures: BTreeMap::new(),
            answered_by: Vec::new(),
            lookups: Vec::new(),
        });
        self.missed.store(0, Ordering::Relaxed);
        self.slot.0.store(order.slot, Ordering::Relaxed);
        Some(Running { recorder: Arc::clone(self), full })
    }
}

impl Tape {
    /// Whether a snapshot is or can be among the pictures.
    fn show(&mut self, snapshot: &Arc<Snapshot>) -> bool {
        if self.pictures.contains_key(&snapshot.serial) {
            return true;
        }
        let here = snapshot.endpoints.iter().map(|endpoint| endpoint.rendered.len() + ENDPOINT_BYTES);
        let there = snapshot.remotes.iter().map(|remote| remote.summary.endpoints.len() * ENDPOINT_BYTES);
        let bytes = self.bytes + here.sum::<usize>() + there.sum::<usize>();
        if bytes > MAX_BYTES || self.pictures.len() >= MAX_PICTURES {
            return false;
        }
        self.bytes = bytes;
        self.pictures.insert(snapshot.serial, Arc::clone(snapshot));
        true
    }

    /// The number of what answered.
    fn number(&mut self, bound: Bound) -> u32 {
        let known = self.answered_by.iter().position(|known| *known == bound);
        let at = known.unwrap_or_else(|| {
            self.answered_by.push(bound);
            self.answered_by.len() - 1
        });
        u32::try_from(at).unwrap_or(u32::MAX)
    }
}

/// A recording that runs.
#[derive(Debug)]
pub struct Running {
    recorder: Arc<Recorder>,
    full: Arc<Notify>,
}

impl Running {
    /// Waits until there are as many lookups as are wanted.
    pub async fn full(&self) {
        self.full.notified().await;
    }

    /// Ends it; what was recorded. Takes as long as copying does.
    #[must_use]
    pub fn finish(
        self,
        snapshot: &Snapshot,
        region: &RegionName,
        gateway: &GatewayId,
        started_at: UnixMillis,
    ) -> Recording {
        self.recorder.slot.0.store(NONE, Ordering::Relaxed);
        let missed = self.recorder.missed.load(Ordering::Relaxed);
        let mut recording = Recording {
            format: FORMAT,
            service: snapshot.key.clone(),
            region: region.clone(),
            gateway: gateway.to_string().into(),
            started_at,
            seen: 0,
            dropped: 0,
            missed,
            answered_by: Vec::new(),
            pictures: BTreeMap::new(),
            lookups: Vec::new(),
        };
        let mut pictures = BTreeMap::new();
        // The tape itself stays until this is dropped.
        if let Some(tape) = self.recorder.tape.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            (recording.seen, recording.dropped) = (tape.seen, tape.dropped);
            recording.answered_by = std::mem::take(&mut tape.answered_by);
            recording.lookups = std::mem::take(&mut tape.lookups);
            pictures = std::mem::take(&mut tape.pictures);
        }
        let pictures = pictures.iter().map(|(serial, shown)| (*serial, Picture::of(shown)));
        recording.pictures = pictures.collect();
        recording
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.recorder.slot.0.store(NONE, Ordering::Relaxed);
        *self.recorder.tape.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
