//! The side of the host that answers lookups: one worker per thread, with cells that no other thread touches.

use crate::callers::{CallerId, Memory};
use crate::canary::Split;
use crate::cell::{Cell, Handle};
use crate::clerk::Command;
use crate::fault::{Fault, FaultKind};
use crate::host::Shared;
use crate::inbox::{CanaryParcel, Inbox, Mail, News};
use crate::limits::{COLD_WAIT, MAX_VIEWS};
use crate::observation::Counts;
use crate::pick::Routed;
use crate::preparation::{Parcel, Post};
use crate::remains::Remains;
use crate::shadow::{Log, Sample};
use crate::stats::WorkerCounters;
use crate::view::{Outcome, View};
use meridian_model::binding::{Bound, Effective, Stage};
use meridian_model::names::{RegionName, ZoneName};
use meridian_model::plan::ReadyPlans;
use meridian_model::selection::Words;
use meridian_model::snapshot::Snapshot;
use smol_str::format_smolstr;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// A stopgap asks for its view again after this, in case the first request was lost.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// One thread's part of the host: it looks up, and never waits.
pub struct Worker {
    shared: Arc<Shared>,
    number: usize,
    inbox: Arc<Inbox>,
    counters: Arc<WorkerCounters>,
    memory: Memory,
    /// By the slot of the snapshot.
    services: Vec<Warm>,
    cells: Cells,
    /// What answered last where there was no room to keep it.
    scratch: Option<Arc<View>>,
    /// Lookups that shadows are to be asked.
    samples: Arc<Log>,
}

/// What a worker holds of one service: a desk for each caller, in the order of their numbers. Every pointer between a
/// service and its answer is a cache miss where services are many, so there is one.
#[derive(Default)]
struct Warm {
    desks: Vec<Desk>,
}

/// Where one caller is answered.
struct Desk {
    caller: CallerId,
    view: Arc<View>,
    seat: Option<Seat>,
    standby: Option<Box<(Arc<View>, Seat)>>,
    /// Made by this worker because nothing was there, and when the real one was asked for.
    stopgap: Option<Instant>,
    /// What a binding needs that is observed. Most are not.
    trial: Option<Box<Trial>>,
}

/// Where lookups are counted, and parted from a canary.
struct Trial {
    counts: Arc<Counts>,
    /// Lookups are noted for a shadow.
    shadowed: bool,
    canary: Option<Canary>,
}

/// Where a canary answers.
struct Canary {
    bound: Bound,
    split: Split,
    view: Arc<View>,
    seat: Seat,
    /// The identity of what a caller without key gets from both sides.
    whole: u128,
}

impl Canary {
    /// Whether a lookup is its own by the newest binding, also where the service has yet to be prepared for that.
    fn takes(&self, newest: &Snapshot, prepared: &View, words: Words) -> bool {
        if newest.serial == prepared.serial {
            return self.split.takes(words);
        }
        is_canary_of(newest, &self.bound) && Split::of(newest).is_some_and(|split| split.takes(words))
    }
}

/// What answers a lookup: a caller's place at the service, whose view, and the plan in it.
#[derive(Clone, Copy)]
struct Found {
    place: usize,
    side: Side,
    plan: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Active,
    Canary,
    /// What was left in [`Worker::scratch`].
    Scratch,
}

#[derive(Clone, Copy)]
struct Seat {
    cell: u32,
    handle: Handle,
}

struct Housed {
    cell: Cell,
    /// How many seats lead here.
    seats: u32,
}

#[derive(Default)]
struct Cells {
    housed: Vec<Option<Housed>>,
    free: Vec<u32>,
}

/// What a lookup comes to, if nothing is waited for.
#[derive(Debug)]
pub enum Lookup<'a> {
    /// A view answered.
    Routed(Routed<'a>),
    /// Nothing is prepared for this caller here. Wait for it, bounded, then call [`Worker::lookup_now`].
    Cold(Pending),
}

/// A preparation that was asked for.
#[derive(Debug)]
pub struct Pending(pub(crate) Option<oneshot::Receiver<()>>);

impl Pending {
    /// Waits until it is done, at most [`COLD_WAIT`]. Needs tokio's timer.
    pub async fn wait(self) {
        if let Some(done) = self.0 {
            // Both a lost host and too long a wait lead to the fallback.
            let _ = tokio::time::timeout(COLD_WAIT, done).await;
        }
    }
}

impl Worker {
    pub(crate) fn new(shared: Arc<Shared>, number: usize, inbox: Arc<Inbox>, samples: Arc<Log>) -> Self {
        let counters = Arc::new(WorkerCounters::default());
        shared.joined(number, &counters);
        Self {
            shared,
            number,
            inbox,
            counters,
            memory: Memory::new(),
            services: Vec::new(),
            cells: Cells::default(),
            scratch: None,
            samples,
        }
    }

    /// The number of the caller that asks from `zone` with those of `labels` that the binding lets through.
    ///
    /// Without labels it is the same for every binding, so a batch may ask once.
    pub fn caller(
        &mut self,
        region: &RegionName,
        binding: &Effective,
        zone: Option<&ZoneName>,
        labels: &[(&str, &str)],
    ) -> CallerId {
        self.memory.id(&self.shared.callers, region, binding, zone, labels)
    }

    /// Routes a lookup. `key` is the hash of its key, `seed` the entropy that takes its place where there is none.
    ///
    /// Never waits, and allocates nothing when the view is there and its policy runs.
    #[inline]
    pub fn lookup(
        &mut self,
        snapshot: &Arc<Snapshot>,
        caller: CallerId,
        key: Option<u64>,
        seed: u64,
    ) -> Lookup<'_> {
        if self.inbox.is_full() {
            self.tend();
        }
        let words = Words::of(key.unwrap_or(seed));
        let routed = self.route(snapshot, caller, key, words);
        match routed.and_then(|found| Some((self.view(snapshot.slot, found)?, found.plan))) {
            Some((view, plan)) => {
                let whole = routed.and_then(|found| self.whole(snapshot.slot, found));
                Lookup::Routed(Routed::new(view, plan, key, words).identified(whole))
            }
            None => {
                self.counters.cold.add(1);
                Lookup::Cold(self.shared.ask(self.number, snapshot, caller))
            }
        }
    }

    /// Routes a lookup; where nothing is prepared, the native fallback answers with the reason `warming`.
    pub fn lookup_now(
        &mut self,
        snapshot: &Arc<Snapshot>,
        caller: CallerId,
        key: Option<u64>,
        seed: u64,
    ) -> Routed<'_> {
        self.tend();
        let words = Words::of(key.unwrap_or(seed));
        let found = match self.route(snapshot, caller, key, words) {
            Some(found) => Some(found),
            None => {
                let place = self.stop_gap(snapshot, caller);
                place.map(|place| Found { place, side: Side::Active, plan: 0 })
            }
        };
        let plan = found.map_or(0, |found| found.plan);
        let whole = found.and_then(|found| self.whole(snapshot.slot, found));
        let (services, slot) = (&self.services, snapshot.slot);
        let view = match found.and_then(|found| prepared(services, slot, found)) {
            Some(view) => view,
            None if found.is_some_and(|found| found.side == Side::Scratch) => {
                self.scratch.get_or_insert_with(|| self.shared.warming(snapshot, caller))
            }
            None => self.scratch.insert(self.shared.warming(snapshot, caller)),
        };
        Routed::new(view, plan, key, words).identified(whole)
    }

    /// Takes what the preparers have made ready and gives back what is no longer needed. Lookups do it too; a thread that
    /// may be idle for long should call it now and then (ten times a second), so that memory is given back.
    pub fn tend(&mut self) {
        if !self.inbox.is_full() {
            return;
        }
        let Some(Mail { news, lost, removed }) = self.inbox.take() else { return };
        let mut remains = Remains::default();
        for slot in removed {
            self.forget(slot, &mut remains);
        }
        for news in news {
            match news {
                News::Prepared(parcel) => self.unpack(parcel, &mut remains),
                News::Forget(slot) => self.forget(slot, &mut remains),
                News::Canary(parcel) => self.unpack_canary(parcel, &mut remains),
            }
        }
        if !lost.is_empty() {
            self.shared.send(Command::Again(lost));
        }
        self.shared.bury(remains);
    }

    /// The identity of an answer without key where a canary takes part.
    #[inline]
    fn whole(&self, slot: u32, found: Found) -> Option<u128> {
        let desk = self.services.get(slot as usize)?.desks.get(found.place)?;
        Some(desk.trial.as_ref()?.canary.as_ref()?.whole)
    }

    #[inline]
    fn view(&self, slot: u32, found: Found) -> Option<&Arc<View>> {
        match found.side {
            Side::Scratch => self.scratch.as_ref(),
            Side::Active | Side::Canary => prepared(&self.services, slot, found),
        }
    }

    /// What answers this caller.
    #[inline]
    fn route(
        &mut self,
        snapshot: &Arc<Snapshot>,
        caller: CallerId,
        key: Option<u64>,
        words: Words,
    ) -> Option<Found> {
        let warm = self.services.get(snapshot.slot as usize)?;
        let place = warm.place(caller)?;
        let desk = warm.desks.get(place)?;
        self.counters.lookups.add(1);
        desk.view.mark_used();
        let found = if desk.trial.is_some() {
            self.route_observed(snapshot, caller, place, key, words)?
        } else {
            let plan = self.route_active(snapshot, caller, place, key, words)?;
            Found { place, side: Side::Active, plan }
        };
        match self.view(snapshot.slot, found)?.outcome {
            Outcome::Ok => {}
            Outcome::LastGood { .. } => self.counters.last_good.add(1),
            Outcome::Fallback { .. } => self.counters.fallback.add(1),
        }
        Some(found)
    }

    /// The active version's plan.
    #[inline]
    fn route_active(
        &mut self,
        snapshot: &Arc<Snapshot>,
        caller: CallerId,
        place: usize,
        key: Option<u64>,
        words: Words,
    ) -> Option<usize> {
        let desk = self.services.get(snapshot.slot as usize)?.desks.get(place)?;
        let Some(seat) = desk.seat else {
            if desk.stopgap.is_some() {
                self.still_warming(snapshot, caller, place);
            }
            // The native fallback has one plan.
            return Some(0);
        };
        self.counters.calls.add(1);
        match self.cells.route(seat, &desk.view.plans, key, words) {
            Ok(plan) => Some(plan),
            Err(failure) => Some(self.fall(snapshot, place, failure, key, words)),
        }
    }

    /// Counts the lookup, and lets the canary answer if it is its turn.
    fn route_observed(
        &mut self,
        snapshot: &Arc<Snapshot>,
        caller: CallerId,
        place: usize,
        key: Option<u64>,
        words: Words,
    ) -> Option<Found> {
        let desk = self.services.get_mut(snapshot.slot as usize)?.desks.get_mut(place)?;
        let trial = desk.trial.as_mut()?;
        trial.counts.lookups.add(1);
        let mut failed = None;
        if let Some(canary) = trial.canary.as_ref().filter(|canary| canary.takes(snapshot, &desk.view, words))
        {
            trial.counts.canary.add(1);
            self.counters.calls.add(1);
            match self.cells.route(canary.seat, &canary.view.plans, key, words) {
                Ok(plan) => return Some(Found { place, side: Side::Canary, plan }),
                Err(failure) => {
                    self.shared.send(report(snapshot.slot, &canary.view, &failure));
                    failed = Some(failure.fault);
                    let mut remains = Remains::default();
                    if let Some(canary) = trial.canary.take() {
                        canary.leave(&mut self.cells, &mut remains);
                    }
                    self.shared.bury(remains);
                }
            }
        }
        let shadowed = trial.shadowed;
        let plan = self.route_active(snapshot, caller, place, key, words)?;
        let desk = self.services.get(snapshot.slot as usize)?.desks.get(place)?;
        if shadowed {
            let (slot, serial) = (snapshot.slot, desk.view.serial);
            let plan = u32::try_from(plan).unwrap_or(u32::MAX);
            self.samples.note(Sample { slot, caller, key, words, plan, serial });
        }
        match failed {
            Some(fault) if desk.view.outcome == Outcome::Ok => {
                self.scratch = Some(Arc::new(desk.view.after(&fault)));
                Some(Found { place, side: Side::Scratch, plan })
            }
            _ => Some(Found { place, side: Side::Active, plan }),
        }
    }

    /// The policy failed in this lookup: its predecessor answers, or the native fallback, now and until the service is
    /// prepared again.
    #[cold]
    fn fall(
        &mut self,
        snapshot: &Arc<Snapshot>,
        place: usize,
        failure: Failure,
        key: Option<u64>,
        words: Words,
    ) -> usize {
        let Some(warm) = self.services.get_mut(snapshot.slot as usize) else { return 0 };
        let Some(desk) = warm.desks.get_mut(place) else { return 0 };
        let mut remains = Remains::default();
        self.shared.send(report(snapshot.slot, &desk.view, &failure));
        let fault = &failure.fault;
        let mut answer = None;
        if let Some((view, seat)) = desk.standby.take().map(|standby| *standby) {
            match self.cells.route(seat, &view.plans, key, words) {
                Ok(plan) => {
                    answer = Some((Arc::new(view.after(fault)), Some(seat), plan));
                }
                Err(second) => {
                    self.shared.send(report(snapshot.slot, &view, &second));
                    self.cells.leave(seat, &mut remains);
                }
            }
            remains.views.push(view);
        }
        let (view, seat, plan) = answer.unwrap_or_else(|| {
            let reason = format_smolstr!("{fault}");
            (Arc::new(View::fallback(snapshot, &desk.view.caller, reason)), None, 0)
        });
        remains.views.push(std::mem::replace(&mut desk.view, view));
        if let Some(left) = std::mem::replace(&mut desk.seat, seat) {
            self.cells.leave(left, &mut remains);
        }
        self.shared.bury(remains);
        plan
    }

    #[cold]
    fn still_warming(&mut self, snapshot: &Arc<Snapshot>, caller: CallerId, place: usize) {
        self.counters.warming.add(1);
        let Some(warm) = self.services.get_mut(snapshot.slot as usize) else { return };
        let Some(desk) = warm.desks.get_mut(place) else { return };
        if let Some(asked) = &mut desk.stopgap
            && asked.elapsed() > ASK_AGAIN
        {
            *asked = Instant::now();
            self.shared.ask_again(self.number, snapshot, caller);
        }
    }

    /// Puts the native fallback where nothing is prepared, until something is. None if there is no room for it.
    #[cold]
    fn stop_gap(&mut self, snapshot: &Arc<Snapshot>, caller: CallerId) -> Option<usize> {
        self.counters.warming.add(1);
        self.shared.ask_again(self.number, snapshot, caller);
        let view = self.shared.warming(snapshot, caller);
        let warm = self.service_mut(snapshot.slot);
        if warm.desks.len() >= MAX_VIEWS {
            return None;
        }
        let place =
            warm.desks.binary_search_by_key(&caller, |desk| desk.caller).unwrap_or_else(|place| place);
        let stopgap = Some(Instant::now());
        warm.desks.insert(place, Desk { caller, view, seat: None, standby: None, stopgap, trial: None });
        Some(place)
    }

    fn service_mut(&mut self, slot: u32) -> &mut Warm {
        let slot = slot as usize;
        if self.services.len() <= slot {
            self.services.resize_with(slot + 1, Warm::default);
        }
        &mut self.services[slot]
    }

    fn unpack(&mut self, parcel: Parcel, remains: &mut Remains) {
        let housed: Vec<u32> = parcel.cells.into_iter().map(|cell| self.cells.house(cell)).collect();
        for (slot, mut posts) in parcel.services {
            // A canary goes on until it has been prepared anew: its keys stay its own.
            let mut canaries = self.take_canaries(slot);
            self.forget(slot, remains);
            posts.sort_unstable_by_key(|post| post.caller);
            let cells = &mut self.cells;
            let mut enter = |seat: crate::preparation::Seat| {
                let cell = housed.get(seat.cell).copied()?;
                cells.enter(cell);
                Some(Seat { cell, handle: seat.handle })
            };
            let desk = |Post { caller, view, seat, standby, counts }: Post| {
                let seat = seat.and_then(&mut enter);
                let standby = standby.and_then(|(view, seat)| Some(Box::new((view, enter(seat)?))));
                let candidate = view.snapshot.binding.candidate.as_ref();
                let shadowed = candidate.is_some_and(|c| c.stage == Stage::Shadow);
                let kept = canaries.get(&caller).is_some_and(|canary| is_wanted(canary, &view));
                let canary = if kept { canaries.remove(&caller) } else { None };
                let split = Split::of(&view.snapshot);
                let canary = canary.zip(split).map(|(canary, split)| Canary { split, ..canary });
                let trial = counts.map(|counts| Box::new(Trial { counts, shadowed, canary }));
                Desk { caller, view, seat, standby, stopgap: None, trial }
            };
            let desks = posts.into_iter().map(desk).collect();
            *self.service_mut(slot) = Warm { desks };
            for canary in canaries.into_values() {
                canary.leave(&mut self.cells, remains);
            }
        }
        for cell in housed {
            self.cells.clear_if_empty(cell, remains);
        }
    }

    /// Puts a canary beside what was prepared of a service.
    fn unpack_canary(&mut self, parcel: CanaryParcel, remains: &mut Remains) {
        let CanaryParcel { slot, cell, views } = parcel;
        let housed = self.cells.house(cell);
        let Some(warm) = self.services.get_mut(slot as usize) else {
            return self.cells.clear_if_empty(housed, remains);
        };
        for (caller, view, handle, whole) in views {
            let Some(desk) = warm.place(caller).and_then(|place| warm.desks.get_mut(place)) else { continue };
            let Some(trial) = &mut desk.trial else { continue };
            let candidate = view.snapshot.binding.candidate.as_ref();
            let Some(bound) = candidate.map(|candidate| candidate.bound.clone()) else { continue };
            // How lookups are parted is what the service's newest preparation says, not what this one began with.
            let Some(split) = Split::of(&desk.view.snapshot) else { continue };
            let canary = Canary { bound, split, view, whole, seat: Seat { cell: housed, handle } };
            // The binding may have changed while it was being prepared.
            if is_wanted(&canary, &desk.view) {
                self.cells.enter(housed);
                if let Some(former) = trial.canary.replace(canary) {
                    former.leave(&mut self.cells, remains);
                }
            }
        }
        self.cells.clear_if_empty(housed, remains);
    }

    fn take_canaries(&mut self, slot: u32) -> BTreeMap<CallerId, Canary> {
        let Some(warm) = self.services.get_mut(slot as usize) else { return BTreeMap::new() };
        let desks = warm.desks.iter_mut();
        desks.filter_map(|desk| Some((desk.caller, desk.trial.as_mut()?.canary.take()?))).collect()
    }

    fn forget(&mut self, slot: u32, remains: &mut Remains) {
        let Some(warm) = self.services.get_mut(slot as usize) else { return };
        for desk in std::mem::take(&mut warm.desks) {
            remains.views.push(desk.view);
            if let Some(seat) = desk.seat {
                self.cells.leave(seat, remains);
            }
            if let Some((view, seat)) = desk.standby.map(|standby| *standby) {
                remains.views.push(view);
                self.cells.leave(seat, remains);
            }
            if let Some(canary) = desk.trial.and_then(|trial| trial.canary) {
                canary.leave(&mut self.cells, remains);
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.shared.left(self.number, &self.counters);
    }
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Canary {
    fn leave(self, cells: &mut Cells, remains: &mut Remains) {
        remains.views.push(self.view);
        cells.leave(self.seat, remains);
    }
}

/// Whether the binding in force still has this canary.
fn is_wanted(canary: &Canary, active: &View) -> bool {
    is_canary_of(&active.snapshot, &canary.bound) && Split::of(&active.snapshot).is_some()
}

fn is_canary_of(snapshot: &Snapshot, bound: &Bound) -> bool {
    let candidate = snapshot.binding.candidate.as_ref();
    candidate.is_some_and(|c| c.stage == Stage::Canary && c.bound == *bound)
}

/// The view that was prepared for this caller; none for what was made for this lookup alone.
#[inline]
fn prepared(services: &[Warm], slot: u32, found: Found) -> Option<&Arc<View>> {
    let desk = services.get(slot as usize)?.desks.get(found.place)?;
    match found.side {
        Side::Active => Some(&desk.view),
        Side::Canary => Some(&desk.trial.as_ref()?.canary.as_ref()?.view),
        Side::Scratch => None,
    }
}

impl Warm {
    #[inline]
    fn place(&self, caller: CallerId) -> Option<usize> {
        self.desks.binary_search_by_key(&caller, |desk| desk.caller).ok()
    }
}

/// A fault in `route`, and whether it was this call's own: another service in the same cell may have been first.
struct Failure {
    fault: Fault,
    own: bool,
}

impl Cells {
    #[inline]
    fn route(
        &mut self,
        seat: Seat,
        plans: &ReadyPlans,
        key: Option<u64>,
        words: Words,
    ) -> Result<usize, Failure> {
        let Some(Some(housed)) = self.housed.get_mut(seat.cell as usize) else {
            return Err(Failure { fault: Fault::new(FaultKind::Trap, ""), own: false });
        };
        let own = !housed.cell.has_ended();
        let plan = housed
            .cell
            .route(seat.handle, key.unwrap_or(0), words.route)
            .map_err(|fault| Failure { fault, own })? as usize;
        if plan < plans.plans.len() {
            return Ok(plan);
        }
        let detail = format!("plan {plan} of {}", plans.plans.len());
        Err(Failure { fault: Fault::new(FaultKind::Route, detail), own })
    }

    fn house(&mut self, cell: Cell) -> u32 {
        let housed = Some(Housed { cell, seats: 0 });
        match self.free.pop() {
            Some(at) => {
                if let Some(place) = self.housed.get_mut(at as usize) {
                    *place = housed;
                }
                at
            }
            None => {
                self.housed.push(housed);
                // More than 2^32 instances do not fit any machine.
                u32::try_from(self.housed.len() - 1).unwrap_or(u32::MAX)
            }
        }
    }

    fn enter(&mut self, cell: u32) {
        if let Some(Some(housed)) = self.housed.get_mut(cell as usize) {
            housed.seats += 1;
        }
    }

    fn leave(&mut self, seat: Seat, remains: &mut Remains) {
        if let Some(Some(housed)) = self.housed.get_mut(seat.cell as usize) {
            housed.seats = housed.seats.saturating_sub(1);
        }
        self.clear_if_empty(seat.cell, remains);
    }

    fn clear_if_empty(&mut self, cell: u32, remains: &mut Remains) {
        let Some(place) = self.housed.get_mut(cell as usize) else { return };
        if place.as_ref().is_some_and(|housed| housed.seats == 0)
            && let Some(housed) = place.take()
        {
            remains.cells.push(housed.cell);
            self.free.push(cell);
        }
    }
}

/// The same version may stand in a binding with two configs.
pub(crate) fn is_of(view: &View, bound: &Bound) -> bool {
    view.version == bound.version && view.policy == bound.policy && view.config == bound.config
}

/// What the clerk must know of a failure: which policy is to rest, or only that the service lost its cell.
fn report(slot: u32, view: &View, failure: &Failure) -> Command {
    let mut bound = view.snapshot.binding.versions();
    let culprit: Option<Bound> = bound.find(|b| is_of(view, b) && failure.own).cloned();
    Command::Failed { slot, culprit, fault: failure.fault.clone() }
}
