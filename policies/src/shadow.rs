//! Shadows: candidates that are asked what they would answer, beside the active version and without effect on any answer.
//!
//! Workers note a sample of their lookups in a log that they never wait for. One thread, which may use a tenth of a core,
//! prepares the shadows in instances of their own, asks them the sampled lookups and compares. Whatever a shadow does, it
//! does there.

use crate::callers::{CallerId, Known};
use crate::cell::{Cell, Handle};
use crate::clerk::Command;
use crate::contract::{Caller, Service};
use crate::fault::{Fault, FaultKind};
use crate::library::Library;
use crate::limits::{
    self, MAX_SAMPLES, MAX_SHADOW_BYTES, MAX_SHADOW_CALLERS, MAX_SHADOWS, SHADOW_PART, SHADOW_TICK,
};
use crate::pick::{Pick, Routed};
use crate::processor;
use crate::view::{Outcome, View};
use meridian_model::binding::Bound;
use meridian_model::contrast::Contrast;
use meridian_model::names::ServiceKey;
use meridian_model::plan;
use meridian_model::selection::Words;
use meridian_model::snapshot::{Place, Snapshot};
use smol_str::SmolStr;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// Examples of different answers that are kept of a service.
pub(crate) const MAX_EXAMPLES: usize = 8;

/// A lookup that a shadow would have answered differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// Of which service.
    pub service: ServiceKey,
    /// The caller's zone.
    pub zone: Option<SmolStr>,
    /// The caller's labels that reach policies.
    pub labels: Vec<(SmolStr, SmolStr)>,
    /// The hash of its key, if it had one.
    pub key: Option<u64>,
    /// What the active version answered.
    pub before: SmolStr,
    /// What the shadow would have.
    pub after: SmolStr,
}

/// One lookup, as a worker noted it.
#[derive(Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) slot: u32,
    pub(crate) caller: CallerId,
    pub(crate) key: Option<u64>,
    pub(crate) words: Words,
    pub(crate) plan: u32,
    pub(crate) serial: u64,
}

/// A worker's samples that nobody has looked at yet.
pub(crate) struct Log {
    full: AtomicBool,
    samples: Mutex<Vec<Sample>>,
}

impl Log {
    pub(crate) fn new() -> Self {
        Self { full: AtomicBool::new(false), samples: Mutex::new(Vec::with_capacity(MAX_SAMPLES)) }
    }

    /// Notes a lookup, if there is room and nobody is reading at this moment.
    #[inline]
    pub(crate) fn note(&self, sample: Sample) {
        if self.full.load(Ordering::Relaxed) {
            return;
        }
        let mut samples = match self.samples.try_lock() {
            Ok(samples) => samples,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        if samples.len() < MAX_SAMPLES {
            samples.push(sample);
        } else {
            self.full.store(true, Ordering::Relaxed);
        }
    }

    fn take(&self, into: &mut Vec<Sample>) {
        into.clear();
        std::mem::swap(&mut *self.samples.lock().unwrap_or_else(PoisonError::into_inner), into);
        self.full.store(false, Ordering::Relaxed);
    }
}

/// A candidate to be prepared as a shadow, with the callers of the active version.
pub(crate) struct Order {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) bound: Bound,
    pub(crate) callers: Vec<(Arc<Known>, Arc<View>)>,
}

/// What the runner is told, at most one thing of each service: the newest counts.
#[derive(Default)]
pub(crate) struct Tasks {
    mail: Mutex<Mail>,
    came: Condvar,
}

#[derive(Default)]
struct Mail {
    orders: HashMap<u32, Order>,
    /// In which order they are prepared.
    turns: VecDeque<u32>,
    forgotten: HashSet<u32>,
    joined: Vec<Arc<Log>>,
    ended: bool,
}

impl Tasks {
    fn put(&self, change: impl FnOnce(&mut Mail)) {
        change(&mut self.mail.lock().unwrap_or_else(PoisonError::into_inner));
        self.came.notify_one();
    }

    /// Prepare this, in place of what there is of the service.
    pub(crate) fn prepare(&self, order: Order) {
        self.put(|mail| {
            let slot = order.snapshot.slot;
            mail.forgotten.remove(&slot);
            if mail.orders.insert(slot, order).is_none() {
                mail.turns.push_back(slot);
            }
        });
    }

    /// The service has no shadow any more.
    pub(crate) fn forget(&self, slot: u32) {
        self.put(|mail| {
            if mail.orders.remove(&slot).is_some() {
                mail.turns.retain(|waiting| *waiting != slot);
            }
            mail.forgotten.insert(slot);
        });
    }

    /// Read this worker's samples too.
    pub(crate) fn joined(&self, log: Arc<Log>) {
        self.put(|mail| mail.joined.push(log));
    }

    /// There is no host any more.
    pub(crate) fn end(&self) {
        self.put(|mail| mail.ended = true);
    }

    /// What came: who is forgotten, who joined, and the next order. Waits for it, at most `most`; `None` at the end.
    fn take(&self, most: Option<Duration>) -> Option<(HashSet<u32>, Vec<Arc<Log>>, Option<Order>)> {
        let mail = self.mail.lock().unwrap_or_else(PoisonError::into_inner);
        let nothing = |mail: &mut Mail| {
            !mail.ended && mail.turns.is_empty() && mail.forgotten.is_empty() && mail.joined.is_empty()
        };
        let mut mail = match most {
            Some(most) => {
                let waited = self.came.wait_timeout_while(mail, most, nothing);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
            None => self.came.wait_while(mail, nothing).unwrap_or_else(PoisonError::into_inner),
        };
        if mail.ended {
            return None;
        }
        let order = mail.turns.pop_front().and_then(|slot| mail.orders.remove(&slot));
        Some((std::mem::take(&mut mail.forgotten), std::mem::take(&mut mail.joined), order))
    }
}

/// What a shadow showed since the last time.
pub(crate) struct Showed {
    pub(crate) slot: u32,
    pub(crate) bound: Bound,
    pub(crate) asked: u64,
    pub(crate) changed: f64,
    pub(crate) examples: Vec<Example>,
}

/// A prepared shadow.
struct Stand {
    bound: Bound,
    cell: Cell,
    seats: HashMap<CallerId, Seat>,
}

struct Seat {
    handle: Handle,
    active: Arc<View>,
    shadow: Arc<View>,
    changed: f64,
}

/// Lets others have the core: whatever was done since `begun` was one part in [`SHADOW_PART`].
fn rest(begun: Instant) {
    std::thread::sleep(begun.elapsed() * (SHADOW_PART - 1));
}

/// The thread's own.
pub(crate) struct Runner {
    library: Arc<Library>,
    clerk: Sender<Command>,
    stands: HashMap<u32, Stand>,
    /// Services with a shadow, in the order in which they were prepared.
    ages: VecDeque<u32>,
    logs: Vec<Arc<Log>>,
    buffer: Vec<Sample>,
}

impl Runner {
    pub(crate) fn new(library: Arc<Library>, clerk: Sender<Command>) -> Self {
        Self {
            library,
            clerk,
            stands: HashMap::new(),
            ages: VecDeque::new(),
            logs: Vec::new(),
            buffer: Vec::with_capacity(MAX_SAMPLES),
        }
    }

    /// Works until the host is gone.
    pub(crate) fn run(mut self, tasks: &Tasks) {
        loop {
            // Without shadows there is nothing to look at.
            let most = (!self.stands.is_empty()).then_some(SHADOW_TICK);
            let Some((forgotten, joined, order)) = tasks.take(most) else { return };
            self.stands.retain(|slot, _| !forgotten.contains(slot));
            self.ages.retain(|slot| !forgotten.contains(slot));
            self.logs.extend(joined);
            let begun = Instant::now();
            self.ask();
            rest(begun);
            if let Some(order) = order {
                self.prepare(&order);
            }
        }
    }

    fn tell(&self, command: Command) {
        // Without clerk there is no host any more.
        let _ = self.clerk.send(command);
    }

    fn prepare(&mut self, order: &Order) {
        let slot = order.snapshot.slot;
        match self.stand(order) {
            Ok((stand, contrasts)) => {
                self.seat(slot, stand);
                self.tell(Command::Compared { slot, bound: order.bound.clone(), contrasts });
            }
            Err(fault) => {
                self.stands.remove(&slot);
                self.tell(Command::Failed { slot, culprit: Some(order.bound.clone()), fault });
            }
        }
    }

    fn stand(&self, order: &Order) -> Result<(Stand, Vec<(CallerId, Contrast)>), Fault> {
        let missing = || Fault::new(FaultKind::Missing, "");
        let compiled = self.library.get(&order.bound.version).ok_or_else(missing)?;
        let begun = Instant::now();
        let mut cell = Cell::new(&compiled)?;
        let opened = cell.open(&order.bound.config, &Service::of(&order.snapshot));
        rest(begun);
        let router = opened?;
        let (mut seats, mut contrasts) = (HashMap::new(), Vec::new());
        let used = processor::used();
        for (known, active) in order.callers.iter().take(MAX_SHADOW_CALLERS) {
            // All shadows wait for this one.
            if processor::used_since(used) > limits::QUICK_ROW {
                let detail = format!("more than {:?} for its callers", limits::QUICK_ROW);
                return Err(Fault::new(FaultKind::Time, detail));
            }
            let begun = Instant::now();
            let handle = cell.admit(router, &Caller::of(&known.caller))?;
            let plans = plan::expand(&cell.plans(handle)?, &order.snapshot)
                .map_err(|nonsense| Fault::new(FaultKind::Plans, nonsense.to_string()))?;
            let contrast = Contrast::of(&active.plans, &plans, &order.snapshot, known.caller.zone.as_ref());
            let snapshot = Arc::clone(&order.snapshot);
            let caller = Arc::clone(&known.caller);
            let shadow = Arc::new(View::new(snapshot, caller, Arc::new(plans), &order.bound, Outcome::Ok));
            let changed = contrast.changed;
            contrasts.push((known.id, contrast));
            seats.insert(known.id, Seat { handle, active: Arc::clone(active), shadow, changed });
            rest(begun);
        }
        Ok((Stand { bound: order.bound.clone(), cell, seats }, contrasts))
    }

    /// Keeps a stand; where there is no room, the oldest goes.
    fn seat(&mut self, slot: u32, stand: Stand) {
        self.stands.remove(&slot);
        self.ages.retain(|of| *of != slot);
        let bytes = |stand: &Stand| stand.cell.estimated_bytes();
        let mut sum = bytes(&stand) + self.stands.values().map(bytes).sum::<usize>();
        while (sum > MAX_SHADOW_BYTES || self.stands.len() >= MAX_SHADOWS)
            && let Some(oldest) = self.ages.pop_front()
        {
            sum -= self.stands.remove(&oldest).as_ref().map_or(0, bytes);
        }
        self.ages.push_back(slot);
        self.stands.insert(slot, stand);
    }

    /// Asks the shadows what was sampled, for as long as one tick may take.
    fn ask(&mut self) {
        let until = Instant::now() + SHADOW_TICK / SHADOW_PART;
        let mut showed: HashMap<u32, Showed> = HashMap::new();
        let mut buffer = std::mem::take(&mut self.buffer);
        // Nobody holds the log of a worker that left.
        self.logs.retain(|log| Arc::strong_count(log) > 1);
        for at in 0..self.logs.len() {
            self.logs[at].take(&mut buffer);
            for sample in buffer.drain(..) {
                // What is left over when the time is up is dropped: a sample is a sample.
                if Instant::now() < until {
                    self.ask_one(sample, &mut showed);
                }
            }
        }
        self.buffer = buffer;
        showed.into_values().for_each(|showed| self.tell(Command::Showed(showed)));
    }

    fn ask_one(&mut self, sample: Sample, showed: &mut HashMap<u32, Showed>) {
        let Some(stand) = self.stands.get_mut(&sample.slot) else { return };
        let Some(seat) = stand.seats.get(&sample.caller) else { return };
        // The plan is a position in the answer to another snapshot.
        if seat.active.serial != sample.serial {
            return;
        }
        let routed = stand.cell.route(seat.handle, sample.key.unwrap_or(0), sample.words.route);
        let plan = match routed {
            Ok(plan) if (plan as usize) < seat.shadow.plans.plans.len() => plan as usize,
            Ok(plan) => {
                let detail = format!("plan {plan} of {}", seat.shadow.plans.plans.len());
                return self.fail(sample.slot, Fault::new(FaultKind::Route, detail));
            }
            Err(fault) => return self.fail(sample.slot, fault),
        };
        let seen = showed.entry(sample.slot).or_insert_with(|| Showed {
            slot: sample.slot,
            bound: stand.bound.clone(),
            asked: 0,
            changed: 0.0,
            examples: Vec::new(),
        });
        seen.asked += 1;
        let snapshot = &seat.shadow.snapshot;
        let pick = |view, plan| Routed::new(view, plan, sample.key, sample.words).pick(snapshot);
        let (before, after) = (pick(&seat.active, sample.plan as usize), pick(&seat.shadow, plan));
        let differs = answer(snapshot, before) != answer(snapshot, after);
        // Without key the draw is by chance: what counts is how far apart the shares are.
        seen.changed += if sample.key.is_some() { f64::from(u8::from(differs)) } else { seat.changed };
        if differs && (sample.key.is_some() || seat.changed > 0.0) && seen.examples.len() < MAX_EXAMPLES {
            let caller = &seat.shadow.caller;
            seen.examples.push(Example {
                service: snapshot.key.clone(),
                zone: caller.zone.as_ref().map(|zone| SmolStr::new(zone.as_str())),
                labels: caller.labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
                key: sample.key,
                before: answer(snapshot, before),
                after: answer(snapshot, after),
            });
        }
    }

    fn fail(&mut self, slot: u32, fault: Fault) {
        if let Some(stand) = self.stands.remove(&slot) {
            self.tell(Command::Failed { slot, culprit: Some(stand.bound), fault });
        }
    }
}

/// What an answer names.
fn answer(snapshot: &Snapshot, pick: Pick) -> SmolStr {
    match pick {
        Pick::Refused => SmolStr::new_static("refused-by-policy"),
        Pick::NothingEligible => SmolStr::new_static("none-healthy"),
        Pick::Endpoint(picked) => match snapshot.place(picked.position) {
            Some(Place::Here(endpoint)) => {
                smol_str::format_smolstr!("{} in {}", endpoint.id(), endpoint.zone())
            }
            Some(Place::There(remote, address)) => {
                smol_str::format_smolstr!("{} in {}", address.name(), remote.region)
            }
            None => SmolStr::default(),
        },
    }
}
