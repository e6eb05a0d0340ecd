//! Who is prepared, when, and by which preparer: the one thread that knows what every service needs.
//!
//! It does no work of its own that takes long. Commands come in from workers, the keeper and the preparers; jobs go out to
//! the preparers, one at a time each, so that what comes meanwhile is gathered into the next.

use crate::callers::{CallerId, Known};
use crate::canary::Split;
use crate::entry::{Build, Built, Entry};
use crate::fault::{Fault, FaultKind};
use crate::inbox::{Inbox, News};
use crate::lane::{Kind, Lane, LaneName};
use crate::library::Library;
use crate::limits::{BATCH_SERVICES, MAX_VIEWS, SHARED_SERVICES};
use crate::observation::{Book, Observation};
use crate::preparation::{Banned, Batch, Canary, CanaryOrder, Order, Parcel, Prepared};
use crate::quarantine::Quarantine;
use crate::shadow::{self, Log, Showed};
use crate::stats::Counters;
use crate::view::{Outcome, View};
use meridian_model::binding::Bound;
use meridian_model::contrast::Contrast;
use meridian_model::names::PolicyVersion;
use meridian_model::snapshot::Snapshot;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// A lookup that waits for its preparation.
pub(crate) struct Waiter {
    pub(crate) done: oneshot::Sender<()>,
    /// One of the places that are bounded, given back when this is dropped.
    pub(crate) place: Place,
}

/// One of a bounded number of places.
pub(crate) struct Place(Arc<AtomicUsize>);

impl Place {
    /// A place among `most`, if one is free.
    pub(crate) fn take(taken: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        let place = Self(Arc::clone(taken));
        // Counted first and given back by dropping, so that two cannot take the last one.
        (taken.fetch_add(1, Ordering::Relaxed) < most).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the clerk is told.
pub(crate) enum Command {
    /// A worker has nothing for this caller.
    Cold { worker: usize, snapshot: Arc<Snapshot>, caller: Arc<Known>, waiter: Option<Waiter> },
    /// A service changed.
    Published(Arc<Snapshot>),
    /// A service is gone.
    Removed(u32),
    /// A policy failed in `route`; without culprit, the cell had ended before.
    Failed { slot: u32, culprit: Option<Bound>, fault: Fault },
    /// A worker was idle for so long that parcels were dropped.
    Again(BTreeSet<u32>),
    /// A version came into the library.
    Inserted(PolicyVersion),
    /// Somebody wants a view for exactly this snapshot.
    Evaluate(Evaluate),
    /// A preparer is done.
    Prepared { lane: LaneName, batch: Batch, workers: Vec<usize>, took: Duration },
    /// A preparer answered an evaluation itself.
    Evaluated { lane: LaneName, caller: CallerId, view: Arc<View>, failures: Vec<Failure> },
    /// A preparer is done with a canary.
    Bred { lane: LaneName, order: CanaryOrder, canary: Option<Canary>, workers: Vec<usize> },
    /// A shadow was prepared.
    Compared { slot: u32, bound: Bound, contrasts: Vec<(CallerId, Contrast)> },
    /// A shadow was asked.
    Showed(Showed),
    /// Somebody wants to know what was seen of what is tried, and of what has yet to soak.
    Observe(oneshot::Sender<Vec<Observation>>),
    /// A worker joined.
    Joined(usize, Arc<Inbox>, Arc<Log>),
    /// A worker left.
    Left(usize),
    /// The host is gone.
    Stop,
}

/// What failed while a question off the hot path was answered: in preparing one caller, or in `route`.
pub(crate) struct Failure {
    pub(crate) bound: Bound,
    pub(crate) caller: Option<CallerId>,
    pub(crate) fault: Fault,
}

/// A question off the hot path.
pub(crate) struct Evaluate {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) caller: Arc<Known>,
    pub(crate) key: Option<u64>,
    pub(crate) seed: u64,
    pub(crate) answer: oneshot::Sender<(Arc<View>, Option<usize>)>,
}

/// What a preparer is given.
pub(crate) enum Job {
    /// Prepare these for these workers.
    Prepare { orders: Vec<Order>, workers: Vec<usize> },
    /// Prepare one caller once, and route for it.
    Evaluate { order: Order, question: Evaluate },
    /// Prepare a canary for these workers.
    Canary { order: CanaryOrder, workers: Vec<usize> },
}

/// One row of cells, the same cell for every worker, and the services that live in it.
pub(crate) struct Group {
    pub(crate) members: HashSet<u32>,
    pub(crate) bytes: usize,
    pub(crate) cells: usize,
    /// Whose, where it is a standard policy's, so that services may be put together.
    pub(crate) shared: Option<PolicyVersion>,
}

/// The clerk's books.
pub(crate) struct Clerk {
    pub(crate) library: Arc<Library>,
    pub(crate) counters: Arc<Counters>,
    budget: usize,
    pub(crate) services: HashMap<u32, Entry>,
    pub(crate) groups: HashMap<u64, Group>,
    pub(crate) next_group: u64,
    pub(crate) bytes: usize,
    pub(crate) lanes: Vec<Lane>,
    /// The number of the last order.
    tickets: u64,
    pub(crate) quarantine: Quarantine,
    pub(crate) workers: BTreeMap<usize, Arc<Inbox>>,
    /// The clock that decides who is evicted: the front is looked at next.
    clock: VecDeque<u32>,
    pub(crate) timers: BinaryHeap<Reverse<(Instant, u32)>>,
    /// Candidates that rest.
    pub(crate) stage_timers: BinaryHeap<Reverse<(Instant, u32)>>,
    /// Of the services whose bindings are observed.
    pub(crate) books: HashMap<u32, Book>,
    pub(crate) shadows: Arc<shadow::Tasks>,
    /// Services whose shadow was asked for: most have none, and nobody is woken for them.
    pub(crate) shadowed: HashSet<u32>,
}

impl Clerk {
    pub(crate) fn new(
        library: Arc<Library>,
        counters: Arc<Counters>,
        budget: usize,
        lanes: Vec<(LaneName, std::sync::mpsc::Sender<Job>)>,
        shadows: Arc<shadow::Tasks>,
    ) -> Self {
        Self {
            library,
            counters,
            budget,
            services: HashMap::new(),
            groups: HashMap::new(),
            next_group: 0,
            bytes: 0,
            lanes: lanes.into_iter().map(|(name, jobs)| Lane::new(name, jobs)).collect(),
            tickets: 0,
            quarantine: Quarantine::default(),
            workers: BTreeMap::new(),
            clock: VecDeque::new(),
            timers: BinaryHeap::new(),
            stage_timers: BinaryHeap::new(),
            books: HashMap::new(),
            shadows,
            shadowed: HashSet::new(),
        }
    }

    /// When it wants to be woken although no command came.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        let timers = [&self.timers, &self.stage_timers];
        timers.into_iter().filter_map(|timers| timers.peek().map(|Reverse((at, _))| *at)).min()
    }

    /// Bans that ended by `now`.
    pub(crate) fn handle_timers(&mut self, now: Instant) {
        while let Some(Reverse((at, slot))) = self.stage_timers.peek().copied()
            && at <= now
        {
            self.stage_timers.pop();
            self.stage(slot, now);
        }
        while let Some(Reverse((at, slot))) = self.timers.peek().copied() {
            if at > now {
                return;
            }
            self.timers.pop();
            self.enqueue(slot, false);
        }
    }

    /// Takes one command; [`Clerk::dispatch`] then hands out what follows from it.
    pub(crate) fn handle(&mut self, command: Command, now: Instant) {
        match command {
            Command::Cold { worker, snapshot, caller, waiter } => self.cold(worker, snapshot, caller, waiter),
            Command::Published(snapshot) => {
                let slot = snapshot.slot;
                if let Some(entry) = self.services.get_mut(&slot)
                    && entry.latest.serial < snapshot.serial
                {
                    entry.latest = snapshot;
                    entry.evaluated.clear();
                    self.enqueue(slot, false);
                }
            }
            Command::Removed(slot) => {
                self.forget(slot);
                self.books.remove(&slot);
            }
            Command::Failed { slot, culprit, fault } => self.failed(slot, culprit, fault, now),
            Command::Again(slots) => slots.into_iter().for_each(|slot| self.enqueue(slot, false)),
            Command::Inserted(version) => {
                let wanting = self.services.iter().filter(|(_, entry)| entry.missing.contains(&version));
                let wanting: Vec<u32> = wanting.map(|(slot, _)| *slot).collect();
                wanting.into_iter().for_each(|slot| self.enqueue(slot, false));
            }
            Command::Evaluate(question) => self.evaluate(question),
            Command::Prepared { lane, batch, workers, took } => {
                self.free(lane);
                self.prepared(batch, &workers, took, now);
            }
            Command::Evaluated { lane, caller, view, failures } => {
                self.free(lane);
                self.failed_off_path(&view.snapshot, failures, now);
                // What stands in does so until its policy is tried again, which no snapshot tells.
                if let Some(entry) = self.services.get_mut(&view.snapshot.slot)
                    && view.outcome == Outcome::Ok
                    && Split::of(&view.snapshot).is_none()
                    && entry.latest.serial == view.snapshot.serial
                    && entry.evaluated.len() < MAX_VIEWS
                {
                    entry.evaluated.insert(caller, view);
                }
            }
            Command::Bred { lane, order, canary, workers } => {
                self.free(lane);
                if let Some(canary) = canary {
                    self.bred(&order, canary, &workers, now);
                }
            }
            Command::Compared { slot, bound, contrasts } => self.compared(slot, &bound, contrasts),
            Command::Showed(Showed { slot, bound, asked, changed, examples }) => {
                if let Some(book) = self.book_of(slot, &bound) {
                    book.shadowed(asked, changed, examples);
                }
            }
            Command::Observe(answer) => {
                // Who asked may be gone.
                let _ = answer.send(self.books.values_mut().map(Book::read).collect());
            }
            Command::Joined(worker, inbox, samples) => {
                self.workers.insert(worker, inbox);
                self.shadows.joined(samples);
            }
            Command::Left(worker) => {
                self.workers.remove(&worker);
            }
            Command::Stop => {}
        }
    }

    /// Gives every idle preparer something to do.
    pub(crate) fn dispatch(&mut self, now: Instant) {
        for lane in 0..self.lanes.len() {
            if self.lanes[lane].busy {
                continue;
            }
            if let Some(job) = self.next_job(lane, now) {
                self.lanes[lane].hand_out(job);
            }
        }
        let counters = &self.counters;
        counters.cache_bytes.store(self.bytes as u64, Ordering::Relaxed);
        counters.services.store(self.services.len() as u64, Ordering::Relaxed);
        counters.quarantined.store(self.quarantine.count(now) as u64, Ordering::Relaxed);
        counters.cells.store(self.groups.values().map(|g| g.cells as u64).sum(), Ordering::Relaxed);
    }

    fn free(&mut self, name: LaneName) {
        if let Some(lane) = self.lane_mut(name) {
            lane.busy = false;
        }
    }

    fn cold(&mut self, worker: usize, snapshot: Arc<Snapshot>, caller: Arc<Known>, waiter: Option<Waiter>) {
        let slot = snapshot.slot;
        let entry = self.services.entry(slot).or_insert_with(|| {
            self.clock.push_back(slot);
            Entry::new(Arc::clone(&snapshot))
        });
        if entry.latest.serial < snapshot.serial {
            entry.latest = snapshot;
            entry.evaluated.clear();
        }
        if let Some(built) = &entry.built
            && built.views.contains_key(&caller.id)
            && built.workers.contains(&worker)
        {
            // It lies in the worker's inbox already.
            return;
        }
        if !entry.callers.iter().any(|known| known.id == caller.id) {
            // Who was forgotten in between has another number.
            entry.callers.retain(|known| known.caller != caller.caller);
            if entry.callers.len() >= MAX_VIEWS {
                entry.forget_a_caller();
                self.counters.forgotten_callers.fetch_add(1, Ordering::Relaxed);
            }
            entry.callers.push(Arc::clone(&caller));
        }
        entry.waiters.extend(waiter.map(|waiter| (caller.id, waiter)));
        self.enqueue(slot, true);
    }

    pub(crate) fn enqueue(&mut self, slot: u32, first: bool) {
        let Some(entry) = self.services.get_mut(&slot) else { return };
        let name = LaneName::of(&self.library, &entry.latest.binding);
        match entry.building {
            Some(build) if build.lane == name => {
                entry.dirty = true;
                return;
            }
            // It has left what is slow, or was only to be brought together with others: it does not wait for that, and what
            // comes of it is dropped.
            Some(_) => entry.building = None,
            None => {}
        }
        if entry.queued == Some(name) {
            return;
        }
        // Where it waits in another lane, it is passed over there.
        entry.queued = Some(name);
        if let Some(lane) = self.lane_mut(name) {
            if first { lane.services.push_front(slot) } else { lane.services.push_back(slot) }
        }
    }

    pub(crate) fn lane_mut(&mut self, name: LaneName) -> Option<&mut Lane> {
        self.lanes.iter_mut().find(|lane| lane.name == name)
    }

    fn next_job(&mut self, lane: usize, now: Instant) -> Option<Job> {
        for kind in self.lanes[lane].last.turns_after() {
            let job = match kind {
                Kind::Services => {
                    let most = if self.lanes[lane].name == LaneName::House { BATCH_SERVICES } else { 1 };
                    let slots = self.take_queued(lane, most);
                    self.prepare(lane, slots, now)
                }
                Kind::Questions => self.next_question(lane, now),
                Kind::Canaries => self.next_canary(lane, now),
            };
            if job.is_some() {
                self.lanes[lane].last = kind;
                return job;
            }
        }
        let slots = if self.lanes[lane].name == LaneName::Slow { self.sparse() } else { Vec::new() };
        self.prepare(lane, slots, now)
    }

    fn next_question(&mut self, lane: usize, now: Instant) -> Option<Job> {
        let question = self.lanes[lane].questions.pop()?;
        let mut banned =
            self.services.get(&question.snapshot.slot).map(|entry| entry.banned(now)).unwrap_or_default();
        banned.extend(self.quarantined(&question.snapshot.binding, now).map(|(_, banned)| banned));
        let snapshot = Arc::clone(&question.snapshot);
        let order = Order { ticket: 0, snapshot, callers: vec![Arc::clone(&question.caller)], banned };
        Some(Job::Evaluate { order, question })
    }

    fn prepare(&mut self, lane: usize, slots: Vec<u32>, now: Instant) -> Option<Job> {
        let name = self.lanes[lane].name;
        let orders: Vec<Order> = slots.into_iter().filter_map(|slot| self.order(slot, name, now)).collect();
        let workers = || self.workers.keys().copied().collect();
        (!orders.is_empty()).then(|| Job::Prepare { orders, workers: workers() })
    }

    /// The next services of a lane that are answered by the same version.
    fn take_queued(&mut self, lane: usize, most: usize) -> Vec<u32> {
        let mut version = None;
        let mut taken = Vec::new();
        let mut others = VecDeque::new();
        let name = self.lanes[lane].name;
        while taken.len() < most
            && let Some(slot) = self.lanes[lane].services.pop_front()
        {
            let entry = self.services.get_mut(&slot).filter(|entry| entry.queued == Some(name));
            let Some(entry) = entry else { continue };
            let wanted = entry.latest.binding.active.version;
            if *version.get_or_insert(wanted) == wanted {
                entry.queued = None;
                taken.push(slot);
            } else {
                others.push_back(slot);
            }
        }
        others.append(&mut self.lanes[lane].services);
        self.lanes[lane].services = others;
        taken
    }

    /// Services whose cells are mostly empty: they were prepared a few at a time, and every change of a service leaves a hole
    /// in the cell that it shared. Opened anew together, they need fewer cells.
    fn sparse(&self) -> Vec<u32> {
        let mut by_version: HashMap<PolicyVersion, Vec<&Group>> = HashMap::new();
        for group in self.groups.values() {
            if let Some(version) = group.shared {
                by_version.entry(version).or_default().push(group);
            }
        }
        let Some(mut groups) = by_version.into_values().max_by_key(Vec::len) else { return Vec::new() };
        let services: usize = groups.iter().map(|group| group.members.len()).sum();
        if groups.len() <= 4 + 2 * services / SHARED_SERVICES {
            return Vec::new();
        }
        groups.sort_unstable_by_key(|group| group.members.len());
        let (mut merged, mut slots) = (0, BTreeSet::new());
        for group in groups {
            if slots.len() + group.members.len() > SHARED_SERVICES {
                break;
            }
            let idle = |slot: &&u32| {
                self.services.get(slot).is_some_and(|e| e.building.is_none() && e.queued.is_none())
            };
            slots.extend(group.members.iter().filter(idle));
            merged += 1;
        }
        if merged < 2 { Vec::new() } else { slots.into_iter().collect() }
    }

    fn order(&mut self, slot: u32, lane: LaneName, now: Instant) -> Option<Order> {
        let binding = Arc::clone(&self.services.get(&slot)?.latest.binding);
        let quarantined: Vec<(Instant, Banned)> = self.quarantined(&binding, now).collect();
        self.tickets += 1;
        let ticket = self.tickets;
        let entry = self.services.get_mut(&slot)?;
        entry.building = Some(Build { ticket, lane });
        entry.dirty = false;
        let mut banned = entry.banned(now);
        for (until, ban) in quarantined {
            if entry.wakes != Some(until) {
                entry.wakes = Some(until);
                self.timers.push(Reverse((until, slot)));
            }
            banned.push(ban);
        }
        Some(Order { ticket, snapshot: Arc::clone(&entry.latest), callers: entry.callers.clone(), banned })
    }

    fn prepared(&mut self, batch: Batch, workers: &[usize], took: Duration, now: Instant) {
        let Batch { parcels, prepared, row_bytes, faults } = batch;
        let counters = Arc::clone(&self.counters);
        counters.preparations.fetch_add(prepared.len() as u64, Ordering::Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        counters.preparation_micros.fetch_add(micros, Ordering::Relaxed);
        faults.into_iter().for_each(|kind| counters.fault(kind));
        let shared = prepared.first().and_then(|p| self.standard_version(p.slot));
        let first_group = self.next_group;
        self.next_group += row_bytes.len() as u64;
        for (row, bytes) in row_bytes.into_iter().enumerate() {
            let group = Group { members: HashSet::new(), bytes, cells: workers.len(), shared };
            self.groups.insert(first_group + row as u64, group);
            self.bytes += bytes;
        }
        // What became of the services meanwhile decides whether anybody still wants it.
        let wanted = |prepared: &Prepared| {
            let build = self.services.get(&prepared.slot).and_then(|entry| entry.building);
            build.is_some_and(|build| build.ticket == prepared.ticket)
        };
        let (prepared, gone): (Vec<Prepared>, Vec<Prepared>) = prepared.into_iter().partition(wanted);
        let gone = gone.iter().map(|prepared| prepared.slot).collect();
        self.deliver(parcels, workers, &gone);
        for prepared in prepared {
            counters.prepared_views.fetch_add(prepared.views.len() as u64, Ordering::Relaxed);
            prepared.views.iter().for_each(|(_, view)| counters.clamped(view.plans.clamped));
            self.settle(prepared, workers, first_group, now);
        }
        // A row that nobody could be seated in.
        let empty: Vec<u64> = (first_group..self.next_group)
            .filter(|g| self.groups.get(g).is_some_and(|g| g.members.is_empty()))
            .collect();
        empty.into_iter().for_each(|group| self.dissolve(group));
        self.evict(now);
    }

    /// The version that serves a service, if it is one whose cells are shared.
    fn standard_version(&self, slot: u32) -> Option<PolicyVersion> {
        let binding = &self.services.get(&slot)?.latest.binding;
        let active = self.library.get(&binding.active.version).filter(|_| binding.disabled.is_none());
        active.filter(|c| c.is_standard()).map(|c| c.version())
    }

    fn deliver(&mut self, parcels: Vec<Parcel>, workers: &[usize], gone: &BTreeSet<u32>) {
        for (mut parcel, worker) in parcels.into_iter().zip(workers) {
            let Some(inbox) = self.workers.get(worker) else { continue };
            parcel.services.retain(|(slot, _)| !gone.contains(slot));
            let dropped = inbox.put(News::Prepared(parcel));
            self.counters.undelivered.fetch_add(dropped.len() as u64, Ordering::Relaxed);
        }
    }

    fn settle(&mut self, prepared: Prepared, workers: &[usize], first_group: u64, now: Instant) {
        let Prepared { slot, views, faults, of_callers, works, rows, watched, .. } = prepared;
        if !self.services.contains_key(&slot) {
            return;
        }
        self.leave_groups(slot);
        if let Some((_, view)) = views.first() {
            self.observe(slot, &view.snapshot, watched);
        }
        self.blame(slot, &faults, &of_callers, &works, now);
        let groups: Vec<u64> = rows.iter().map(|row| first_group + *row as u64).collect();
        for group in &groups {
            if let Some(group) = self.groups.get_mut(group) {
                group.members.insert(slot);
            }
        }
        let mut retry = Vec::new();
        let Some(entry) = self.services.get_mut(&slot) else { return };
        entry.building = None;
        let active = entry.latest.binding.active.clone();
        for (bound, caller, fault) in of_callers {
            if fault.ends_instance() {
                retry.push(entry.ban(bound, Some(caller), fault, now));
            } else if bound == active && !works.contains(&bound) {
                retry.push(entry.again(bound, fault, now));
            }
        }
        entry.missing.clear();
        for (bound, fault) in faults {
            match fault.kind {
                FaultKind::Missing => entry.missing.push(bound.version),
                _ if fault.ends_instance() => retry.push(entry.ban(bound, None, fault, now)),
                _ if bound == active => retry.push(entry.again(bound, fault, now)),
                // A refusal by one that stands ready is nobody's trouble.
                _ => {}
            }
        }
        let views: HashMap<CallerId, Arc<View>> = views.into_iter().collect();
        let bytes: usize = views.values().map(|view| view.estimated_bytes()).sum();
        entry.works = works;
        // Whoever waits for a caller that was forgotten meanwhile is not kept waiting for one that never comes.
        let asks = |id: CallerId| entry.callers.iter().any(|known| known.id == id);
        let (answered, waiting) = std::mem::take(&mut entry.waiters)
            .into_iter()
            .filter(|(caller, waiter)| {
                !waiter.done.is_closed() && (views.contains_key(caller) || asks(*caller))
            })
            .partition(|(caller, _)| views.contains_key(caller));
        entry.waiters = waiting;
        self.counters.views.fetch_add(views.len() as u64, Ordering::Relaxed);
        self.bytes += bytes;
        entry.built = Some(Built { views, workers: workers.to_vec(), groups, bytes });
        let again = entry.dirty || !entry.waiters.is_empty();
        retry.sort_unstable();
        retry.dedup();
        self.timers.extend(retry.into_iter().map(|until| Reverse((until, slot))));
        let answered: Vec<(CallerId, Waiter)> = answered;
        for (_, Waiter { done, place }) in answered {
            drop(place);
            // A lookup that has stopped waiting is answered already.
            let _ = done.send(());
        }
        if again {
            self.enqueue(slot, false);
        }
        // Also of what changes faster than it is prepared.
        self.stage(slot, now);
    }

    fn evaluate(&mut self, question: Evaluate) {
        self.counters.evaluations.fetch_add(1, Ordering::Relaxed);
        if let Some(book) = self.books.get_mut(&question.snapshot.slot) {
            book.asked(question.caller.id);
        }
        let ready = self.services.get(&question.snapshot.slot).and_then(|entry| {
            let built = entry.built.as_ref().and_then(|b| b.views.get(&question.caller.id));
            let views = [built, entry.evaluated.get(&question.caller.id)];
            views.into_iter().flatten().find(|v| v.snapshot.serial == question.snapshot.serial).cloned()
        });
        // With several plans and a key, only the policy knows which.
        let whole = |view: &Arc<View>| question.key.is_none() || view.plans.plans.len() == 1;
        if let Some(view) = ready.filter(|view| whole(view) && Split::of(&question.snapshot).is_none()) {
            let plan = question.key.map(|_| 0);
            let _ = question.answer.send((view, plan));
            return;
        }
        let name = LaneName::of(&self.library, &question.snapshot.binding)
            .max(LaneName::of_canary(&self.library, &question.snapshot.binding));
        if let Some(lane) = self.lane_mut(name) {
            lane.questions.push(question);
        }
    }

    fn forget(&mut self, slot: u32) {
        if !self.services.contains_key(&slot) {
            return;
        }
        self.leave_groups(slot);
        self.services.remove(&slot);
        self.end_shadow(slot);
        for inbox in self.workers.values() {
            let dropped = inbox.put(News::Forget(slot));
            self.counters.undelivered.fetch_add(dropped.len() as u64, Ordering::Relaxed);
        }
    }

    fn leave_groups(&mut self, slot: u32) {
        let Some(built) = self.services.get_mut(&slot).and_then(|entry| entry.built.take()) else { return };
        self.counters.views.fetch_sub(built.views.len() as u64, Ordering::Relaxed);
        self.bytes = self.bytes.saturating_sub(built.bytes);
        for id in built.groups {
            let Some(group) = self.groups.get_mut(&id) else { continue };
            group.members.remove(&slot);
            if group.members.is_empty() {
                self.dissolve(id);
            }
        }
    }

    fn dissolve(&mut self, id: u64) {
        if let Some(group) = self.groups.remove(&id) {
            self.bytes = self.bytes.saturating_sub(group.bytes);
        }
    }

    /// Forgets services that were not used lately until the budget is kept.
    pub(crate) fn evict(&mut self, now: Instant) {
        // Twice around: the first time takes the marks away.
        let mut looks = 2 * self.clock.len();
        while self.bytes > self.budget && looks > 0 {
            looks -= 1;
            let Some(slot) = self.clock.pop_front() else { return };
            let Some(entry) = self.services.get(&slot) else { continue };
            let used = entry.built.as_ref().is_none_or(|built| {
                // Every mark is taken, so no short circuit.
                built.views.values().filter(|view| view.take_used()).count() > 0
            });
            if used || entry.building.is_some() || entry.queued.is_some() || entry.has_resting(now) {
                self.clock.push_back(slot);
                continue;
            }
            self.forget(slot);
            self.counters.evictions.fetch_add(1, Ordering::Relaxed);
        }
        if self.clock.len() > 2 * self.services.len() + 64 {
            let mut seen = HashSet::new();
            let services = &self.services;
            self.clock.retain(|slot| services.contains_key(slot) && seen.insert(*slot));
        }
    }
}

impl Drop for Clerk {
    fn drop(&mut self) {
        self.shadows.end();
    }
}
