//! Preparing services: opening routers, admitting callers, expanding plans, and the fallback chain where that fails.
//!
//! Pure but for the engine: what is to be done comes in as orders, what was done goes out, and threads, queues and
//! retries stand elsewhere.

use crate::callers::{CallerId, Known};
use crate::cell::{Cell, Handle};
use crate::contract::{Caller, Service};
use crate::fault::{Fault, FaultKind};
use crate::library::{Compiled, Library};
use crate::limits;
use crate::observation::{Counts, Watched};
use crate::processor;
use crate::view::{Outcome, View};
use meridian_model::binding::{Bound, Stage};
use meridian_model::contrast::Contrast;
use meridian_model::plan::{self, Plan, ReadyPlans};
use meridian_model::snapshot::Snapshot;
use smol_str::format_smolstr;
use std::sync::Arc;

/// One service to prepare.
#[derive(Clone)]
pub(crate) struct Order {
    /// Its number, which comes back with what was prepared.
    pub(crate) ticket: u64,
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) callers: Vec<Arc<Known>>,
    pub(crate) banned: Vec<Banned>,
}

/// What must not be run now, because it failed a moment ago.
#[derive(Clone, Debug)]
pub(crate) struct Banned {
    pub(crate) bound: Bound,
    /// For this caller only.
    pub(crate) caller: Option<CallerId>,
    /// How it failed.
    pub(crate) fault: Fault,
}

impl Order {
    /// Why this policy must not be run at all.
    pub(crate) fn banned(&self, bound: &Bound) -> Option<&Fault> {
        let mut banned = self.banned.iter();
        banned.find(|ban| ban.caller.is_none() && ban.bound == *bound).map(|ban| &ban.fault)
    }

    /// Why it must not be run for this caller.
    fn banned_for(&self, bound: &Bound, caller: CallerId) -> Option<&Fault> {
        let mut banned = self.banned.iter();
        banned.find(|ban| ban.caller == Some(caller) && ban.bound == *bound).map(|ban| &ban.fault)
    }

    /// What is to live in a row, for the callers at these places.
    fn guest<'a>(&'a self, bound: &'a Bound, places: impl IntoIterator<Item = usize>) -> Guest<'a> {
        let callers = places.into_iter().filter_map(|at| self.callers.get(at));
        let callers = callers.map(|known| (known.as_ref(), self.banned_for(bound, known.id))).collect();
        Guest { snapshot: &self.snapshot, config: &bound.config, callers }
    }
}

/// A view's place in one of the cells of its batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seat {
    pub(crate) cell: usize,
    pub(crate) handle: Handle,
}

/// What one worker needs to answer one caller.
pub(crate) struct Post {
    pub(crate) caller: CallerId,
    pub(crate) view: Arc<View>,
    /// Where `route` is called; none for the native fallback.
    pub(crate) seat: Option<Seat>,
    /// What answers when that `route` traps.
    pub(crate) standby: Option<(Arc<View>, Seat)>,
    /// Counts its lookups, where the binding is observed.
    pub(crate) counts: Option<Arc<Counts>>,
}

/// What one worker gets.
#[derive(Default)]
pub(crate) struct Parcel {
    pub(crate) cells: Vec<Cell>,
    pub(crate) services: Vec<(u32, Vec<Post>)>,
}

/// What is known of a service after its preparation.
pub(crate) struct Prepared {
    pub(crate) slot: u32,
    /// Of the order.
    pub(crate) ticket: u64,
    pub(crate) views: Vec<(CallerId, Arc<View>)>,
    /// Policies that could not even be opened, which says nothing of the callers.
    pub(crate) faults: Vec<(Bound, Fault)>,
    /// Versions that serve some caller, or stand ready to.
    pub(crate) works: Vec<Bound>,
    /// Which of the batch's rows of cells it uses.
    pub(crate) rows: Vec<usize>,
    /// Failures for single callers: the policy goes on for the others.
    pub(crate) of_callers: Vec<(Bound, CallerId, Fault)>,
    /// The counters that workers were given.
    pub(crate) watched: Vec<Watched>,
}

/// Everything that came of a batch. A row is the same cell once for every worker.
pub(crate) struct Batch {
    pub(crate) parcels: Vec<Parcel>,
    pub(crate) prepared: Vec<Prepared>,
    pub(crate) row_bytes: Vec<usize>,
    /// All faults, for the counters.
    pub(crate) faults: Vec<FaultKind>,
}

/// A caller's view as one policy made it: a handle for every worker.
struct Seated {
    plans: Arc<ReadyPlans>,
    handles: Vec<Handle>,
}

type Seats = Vec<Result<Seated, Fault>>;

/// The services of a row with what became of each of their callers.
struct Row {
    cells: Vec<Cell>,
    seats: Vec<Seats>,
    failures: Failures,
}

/// What failed in a row, guest by guest, and stays out of it.
struct Failures {
    /// Faults that concern a whole service.
    refused: Vec<Option<Fault>>,
    /// Those of single callers, as far as they are new.
    callers: Vec<Vec<Option<Fault>>>,
}

impl Failures {
    fn none(guests: &[Guest<'_>]) -> Self {
        Self {
            refused: guests.iter().map(|_| None).collect(),
            callers: guests.iter().map(|guest| guest.callers.iter().map(|_| None).collect()).collect(),
        }
    }
}

/// What is to live in one row of cells: a service, the config, and who is admitted, with the fault of those who are not to be.
struct Guest<'a> {
    snapshot: &'a Snapshot,
    config: &'a str,
    callers: Vec<(&'a Known, Option<&'a Fault>)>,
}

/// How often a row is begun anew without what trapped in it, before the rest is given up.
const RESTARTS: usize = 4;

/// Fills a row with the guests, but for what failed before, or gives up and says why, with what failed until then.
fn fill(
    compiled: &Compiled,
    workers: usize,
    guests: &[Guest<'_>],
    mut failures: Failures,
) -> Result<Row, (Fault, Failures)> {
    let begun = processor::used();
    let mut last = None;
    for _ in 0..RESTARTS {
        match try_row(compiled, workers, guests, &mut failures) {
            Ok((cells, seats)) => {
                let guests = u32::try_from(guests.len().max(1)).unwrap_or(1);
                compiled.took(processor::used_since(begun) / guests);
                return Ok(Row { cells, seats, failures });
            }
            Err(fault) => last = Some(fault),
        }
    }
    compiled.took(processor::used_since(begun));
    Err((last.unwrap_or_else(|| Fault::new(FaultKind::Trap, "")), failures))
}

impl Row {
    /// Of one guest that failed before.
    fn refused(guest: &Guest<'_>, fault: Fault) -> Self {
        let seats = guest.callers.iter().map(|_| Err(fault.clone())).collect();
        let failures = Failures { refused: vec![Some(fault)], callers: vec![Vec::new()] };
        Self { cells: Vec::new(), seats: vec![seats], failures }
    }
}

/// A row for one guest; without cells, where it is given up.
fn row_for(compiled: &Compiled, workers: usize, guest: &Guest<'_>) -> Row {
    let guest = std::slice::from_ref(guest);
    row_but_for(compiled, workers, guest, Failures::none(guest))
}

/// A row; without cells, where it is given up, and then all of its guests are refused.
fn row_but_for(compiled: &Compiled, workers: usize, guests: &[Guest<'_>], failures: Failures) -> Row {
    fill(compiled, workers, guests, failures).unwrap_or_else(|(fault, mut failures)| {
        let all = |guest: &Guest<'_>| guest.callers.iter().map(|_| Err(fault.clone())).collect();
        failures.refused.iter_mut().for_each(|refusal| {
            refusal.get_or_insert_with(|| fault.clone());
        });
        Row { cells: Vec::new(), seats: guests.iter().map(all).collect(), failures }
    })
}

/// Rows for all guests, with the places of those that are in each: one row, or where too many fail for that, one for each of
/// those that did not fail themselves.
fn rows_for(compiled: &Compiled, workers: usize, guests: &[Guest<'_>]) -> Vec<(Vec<usize>, Row)> {
    let known = Failures::none(guests);
    if let [_] = guests {
        return vec![(vec![0], row_but_for(compiled, workers, guests, known))];
    }
    let failures = match fill(compiled, workers, guests, known) {
        Ok(row) => return vec![((0..guests.len()).collect(), row)],
        Err((_, failures)) => failures,
    };
    let known = failures.refused.into_iter().zip(failures.callers);
    let alone = |(at, (guest, (refused, callers))): (usize, (&Guest<'_>, (Option<Fault>, _)))| {
        let row = match refused {
            Some(fault) => Row::refused(guest, fault),
            None => {
                let known = Failures { refused: vec![None], callers: vec![callers] };
                row_but_for(compiled, workers, std::slice::from_ref(guest), known)
            }
        };
        (vec![at], row)
    };
    guests.iter().zip(known).enumerate().map(alone).collect()
}

/// Fills a row, or notes in `failures` what trapped and must stay out.
fn try_row(
    compiled: &Compiled,
    workers: usize,
    guests: &[Guest<'_>],
    failures: &mut Failures,
) -> Result<(Vec<Cell>, Vec<Seats>), Fault> {
    let Failures { refused, callers: failed } = failures;
    let mut cells = Vec::with_capacity(workers);
    let begun = processor::used();
    let most = if compiled.is_slow() { limits::SLOW_ROW } else { limits::QUICK_ROW };
    let mut seats: Vec<Vec<Option<Result<(Vec<Plan>, Seated), Fault>>>> =
        guests.iter().map(|g| g.callers.iter().map(|_| None).collect()).collect();
    for _ in 0..workers {
        let mut cell = Cell::new(compiled)?;
        for (at, guest) in guests.iter().enumerate() {
            if refused[at].is_some() {
                continue;
            }
            let service = Service::of(guest.snapshot);
            let router = match cell.open(guest.config, &service) {
                Ok(router) => router,
                Err(fault) => {
                    refused[at] = Some(fault.clone());
                    if fault.ends_instance() {
                        return Err(fault);
                    }
                    continue;
                }
            };
            for (number, (known, banned)) in guest.callers.iter().enumerate() {
                if banned.is_some() || failed[at][number].is_some() {
                    continue;
                }
                // Each call is bounded, and there may be a thousand callers.
                if !compiled.is_standard() && processor::used_since(begun) > most {
                    let fault = Fault::new(FaultKind::Time, format!("more than {most:?} for all callers"));
                    refused[at] = Some(fault.clone());
                    return Err(fault);
                }
                let admitted = cell
                    .admit(router, &Caller::of(&known.caller))
                    .and_then(|view| Ok((view, cell.plans(view)?)));
                let fault = match admitted {
                    Ok((view, plans)) => {
                        seat(&mut seats[at][number], guest.snapshot, view, plans);
                        continue;
                    }
                    Err(fault) => fault,
                };
                failed[at][number] = Some(fault.clone());
                if fault.ends_instance() {
                    return Err(fault);
                }
            }
            if compiled.is_standard() {
                // Views of the standard policies hold what they need; their routers hold every string of the service.
                cell.close(router).inspect_err(|fault| refused[at] = Some(fault.clone()))?;
            }
        }
        cells.push(cell);
    }
    let settle = |at: usize, seats: Vec<Option<Result<(Vec<Plan>, Seated), Fault>>>| -> Seats {
        let missing = || refused[at].clone().unwrap_or_else(|| Fault::new(FaultKind::Trap, ""));
        let fault = |number: usize| {
            let banned = guests[at].callers[number].1;
            failed[at][number].as_ref().or(banned).cloned()
        };
        let one = |(number, seat): (usize, Option<Result<(Vec<Plan>, Seated), Fault>>)| match seat {
            _ if fault(number).is_some() => Err(fault(number).unwrap_or_else(missing)),
            Some(Ok((_, seated))) if seated.handles.len() == workers => Ok(seated),
            Some(Err(fault)) => Err(fault),
            Some(Ok(_)) | None => Err(missing()),
        };
        seats.into_iter().enumerate().map(one).collect()
    };
    let seats = seats.into_iter().enumerate().map(|(at, seats)| settle(at, seats)).collect();
    Ok((cells, seats))
}

/// Adds one more worker's view. All workers must have been given the same plans.
fn seat(
    place: &mut Option<Result<(Vec<Plan>, Seated), Fault>>,
    snapshot: &Snapshot,
    view: Handle,
    plans: Vec<Plan>,
) {
    match place {
        None => {
            let ready = plan::expand(&plans, snapshot)
                .map_err(|nonsense| Fault::new(FaultKind::Plans, nonsense.to_string()));
            let seated = |ready| Seated { plans: Arc::new(ready), handles: vec![view] };
            *place = Some(ready.map(|ready| (plans, seated(ready))));
        }
        Some(Ok((first, seated))) if *first == plans => seated.handles.push(view),
        Some(Ok(_)) => {
            let detail = "two runs gave different plans; a policy must be a pure function";
            *place = Some(Err(Fault::new(FaultKind::Plans, detail)));
        }
        Some(Err(_)) => {}
    }
}

/// One policy's attempt at an order: per caller of the order, a seat or why not; callers that were not tried have none.
struct Attempt<'a> {
    bound: &'a Bound,
    /// Where it serves anybody.
    row: Option<usize>,
    seats: Vec<Option<Result<Seated, Fault>>>,
    /// What is new of single callers.
    failures: Vec<(CallerId, Fault)>,
}

/// Prepares orders whose active policies are the same version.
pub(crate) fn prepare(library: &Library, workers: usize, orders: &[Order]) -> Batch {
    let mut batch = Batch {
        parcels: (0..workers).map(|_| Parcel::default()).collect(),
        prepared: Vec::with_capacity(orders.len()),
        row_bytes: Vec::new(),
        faults: Vec::new(),
    };
    let mut faults: Vec<Vec<(Bound, Fault)>> = orders.iter().map(|_| Vec::new()).collect();
    let actives = first_attempts(library, workers, orders, &mut batch, &mut faults);
    for ((order, active), faults) in orders.iter().zip(actives).zip(faults) {
        chain(library, workers, order, active, faults, &mut batch);
    }
    batch
}

/// Runs the active policies of all orders: in one row where they may share it.
fn first_attempts<'a>(
    library: &Library,
    workers: usize,
    orders: &'a [Order],
    batch: &mut Batch,
    faults: &mut [Vec<(Bound, Fault)>],
) -> Vec<Attempt<'a>> {
    let active = |order: &'a Order| &order.snapshot.binding.active;
    let mut attempts: Vec<Attempt<'a>> = Vec::with_capacity(orders.len());
    let mut together: Vec<(usize, Guest<'a>)> = Vec::new();
    let mut compiled = None;
    for (at, order) in orders.iter().enumerate() {
        let bound = active(order);
        let mut seats = Vec::new();
        match allowed(library, order, bound) {
            Ok(found) => {
                together.push((at, order.guest(bound, 0..order.callers.len())));
                compiled = Some(found);
            }
            Err(fault) => {
                seats = order.callers.iter().map(|_| Some(Err(fault.clone()))).collect();
                if fault.kind == FaultKind::Missing {
                    batch.faults.push(fault.kind);
                    faults[at].push((bound.clone(), fault));
                }
            }
        }
        attempts.push(Attempt { bound, row: None, seats, failures: Vec::new() });
    }
    let Some(compiled) = compiled else { return attempts };
    let (places, guests): (Vec<usize>, Vec<Guest<'a>>) = together.into_iter().unzip();
    for (inside, row) in rows_for(&compiled, workers, &guests) {
        let number = push_row(row.cells, batch);
        let Failures { refused, callers } = row.failures;
        for (((guest, seats), refused), failed) in inside.into_iter().zip(row.seats).zip(refused).zip(callers)
        {
            let at = places[guest];
            let attempt = &mut attempts[at];
            let (order, bound, whole) = (&orders[at], attempt.bound, refused.is_some());
            attempt.row = number.filter(|_| !whole);
            attempt.failures = of_callers(order, bound, order.callers.iter(), &seats, failed, whole);
            attempt.seats = seats.into_iter().map(Some).collect();
            if let Some(fault) = refused {
                batch.faults.push(fault.kind);
                faults[at].push((attempt.bound.clone(), fault));
            }
        }
    }
    attempts
}

/// What is new of the failures of single callers, of those that were tried and in their order.
fn of_callers<'a>(
    order: &Order,
    bound: &Bound,
    callers: impl Iterator<Item = &'a Arc<Known>>,
    seats: &Seats,
    failed: Vec<Option<Fault>>,
    refused: bool,
) -> Vec<(CallerId, Fault)> {
    let one = |((known, seat), failed): ((&'a Arc<Known>, &Result<Seated, Fault>), Option<Fault>)| {
        let nonsense =
            || seat.as_ref().err().filter(|_| !refused && order.banned_for(bound, known.id).is_none());
        Some((known.id, failed.or_else(|| nonsense().cloned())?))
    };
    callers.zip(seats).zip(failed).filter_map(one).collect()
}

fn allowed(library: &Library, order: &Order, bound: &Bound) -> Result<Arc<Compiled>, Fault> {
    let binding = &order.snapshot.binding;
    if let Some(reason) = binding.disabled.as_ref().filter(|_| binding.active.version == bound.version) {
        return Err(Fault::new(FaultKind::Disabled, reason));
    }
    if let Some(fault) = order.banned(bound) {
        return Err(fault.clone());
    }
    library.get(&bound.version).ok_or_else(|| Fault::new(FaultKind::Missing, ""))
}

fn push_row(cells: Vec<Cell>, batch: &mut Batch) -> Option<usize> {
    if cells.is_empty() {
        return None;
    }
    batch.row_bytes.push(cells.iter().map(Cell::estimated_bytes).sum());
    for (cell, parcel) in cells.into_iter().zip(&mut batch.parcels) {
        parcel.cells.push(cell);
    }
    Some(batch.row_bytes.len() - 1)
}

/// For every caller the active policy, else the first former one that works, else the native fallback.
fn chain(
    library: &Library,
    workers: usize,
    order: &Order,
    active: Attempt<'_>,
    mut faults: Vec<(Bound, Fault)>,
    batch: &mut Batch,
) {
    let binding = &order.snapshot.binding;
    let uploaded = library.get(&binding.active.version).is_none_or(|c| !c.is_standard());
    // An uploaded policy may still trap in `route`: then its predecessor answers in that lookup, so it stands ready.
    let wants = |place: usize| uploaded || !matches!(active.seats.get(place), Some(Some(Ok(_))));
    let mut open: Vec<usize> = (0..order.callers.len()).filter(|place| wants(*place)).collect();
    let mut formers: Vec<Attempt<'_>> = Vec::new();
    for bound in &binding.last_good {
        if open.is_empty() {
            break;
        }
        let Ok(compiled) = allowed(library, order, bound) else { continue };
        let row = row_for(&compiled, workers, &order.guest(bound, open.iter().copied()));
        let refused = row.failures.refused.into_iter().flatten().next();
        let whole = refused.is_some();
        if let Some(fault) = refused {
            batch.faults.push(fault.kind);
            faults.push((bound.clone(), fault));
        }
        let row_seats: Seats = row.seats.into_iter().flatten().collect();
        let failed = row.failures.callers.into_iter().flatten().collect();
        let callers = open.iter().filter_map(|at| order.callers.get(*at));
        let mut failures = of_callers(order, bound, callers, &row_seats, failed, whole);
        // That one which only stands ready refuses a caller is nobody's trouble.
        failures.retain(|(_, fault)| fault.ends_instance());
        let seats = order.callers.iter().map(|_| None).collect();
        let mut attempt = Attempt { bound, row: None, seats, failures };
        let mut left = Vec::new();
        for (place, seat) in open.into_iter().zip(row_seats) {
            if seat.is_err() {
                left.push(place);
            }
            attempt.seats[place] = Some(seat);
        }
        open = left;
        attempt.row = push_row(row.cells, batch);
        formers.push(attempt);
    }
    let before = predecessor(library, order);
    settle(workers, order, &active, &formers, &before, faults, batch);
}

/// What answered before the active version gives each caller, for comparison only: its instance is not kept.
fn predecessor(library: &Library, order: &Order) -> Vec<Option<Arc<ReadyPlans>>> {
    let binding = &order.snapshot.binding;
    let bound = binding.before.as_ref().filter(|_| !binding.activation.soaked);
    let Some((bound, compiled)) = bound.and_then(|b| Some((b, allowed(library, order, b).ok()?))) else {
        return Vec::new();
    };
    let row = row_for(&compiled, 1, &order.guest(bound, 0..order.callers.len()));
    row.seats.into_iter().flatten().map(|seat| seat.ok().map(|seated| seated.plans)).collect()
}

fn settle(
    workers: usize,
    order: &Order,
    active: &Attempt<'_>,
    formers: &[Attempt<'_>],
    before: &[Option<Arc<ReadyPlans>>],
    faults: Vec<(Bound, Fault)>,
    batch: &mut Batch,
) {
    let (slot, ticket) = (order.snapshot.slot, order.ticket);
    let view = |known: &Known, plans: &Arc<ReadyPlans>, bound: &Bound, outcome| {
        let (snapshot, caller) = (Arc::clone(&order.snapshot), Arc::clone(&known.caller));
        Arc::new(View::new(snapshot, caller, Arc::clone(plans), bound, outcome))
    };
    let mut posts: Vec<Vec<Post>> = (0..workers).map(|_| Vec::new()).collect();
    let mut views = Vec::new();
    let mut watched = Vec::new();
    let of_callers: Vec<(Bound, CallerId, Fault)> = std::iter::once(active)
        .chain(formers)
        .flat_map(|attempt| {
            attempt.failures.iter().map(|(id, fault)| (attempt.bound.clone(), *id, fault.clone()))
        })
        .collect();
    batch.faults.extend(of_callers.iter().map(|(.., fault)| fault.kind));
    let observed = order.snapshot.binding.is_observed();
    for (place, known) in order.callers.iter().enumerate() {
        let ran = |attempt: &Attempt<'_>| match attempt.seats.get(place) {
            Some(Some(Ok(_))) => attempt.row,
            _ => None,
        };
        let former = formers.iter().find_map(|attempt| Some((attempt, ran(attempt)?)));
        let seated = |attempt: &'_ Attempt<'_>| match attempt.seats.get(place) {
            Some(Some(Ok(seated))) => Some((Arc::clone(&seated.plans), seated.handles.clone())),
            _ => None,
        };
        let why = match active.seats.get(place) {
            Some(Some(Err(fault))) => format_smolstr!("{fault}"),
            _ => "standby".into(),
        };
        let main = ran(active).and_then(|row| {
            let (plans, handles) = seated(active)?;
            Some((view(known, &plans, active.bound, Outcome::Ok), row, handles))
        });
        let second = former.and_then(|(attempt, row)| {
            let (plans, handles) = seated(attempt)?;
            let outcome = Outcome::LastGood { reason: why.clone() };
            Some((view(known, &plans, attempt.bound, outcome), row, handles))
        });
        let counts: Vec<Arc<Counts>> =
            (0..if observed { workers } else { 0 }).map(|_| Arc::new(Counts::default())).collect();
        if observed {
            let before = before.get(place).and_then(Option::as_ref);
            let contrast = main.as_ref().zip(before);
            let zone = known.caller.zone.as_ref();
            let contrast =
                contrast.map(|((now, ..), before)| Contrast::of(before, &now.plans, &order.snapshot, zone));
            let answers = main.is_some();
            watched.push(Watched { caller: known.id, counts: counts.clone(), answers, active: contrast });
        }
        let (first, standby) = match (main, second) {
            (Some(main), second) => (Some(main), second),
            (None, second) => (second, None),
        };
        let shown = match &first {
            Some((view, ..)) => Arc::clone(view),
            None => Arc::new(View::fallback(&order.snapshot, &known.caller, why)),
        };
        for (worker, posts) in posts.iter_mut().enumerate() {
            let seat = |row: usize, handles: &[Handle]| {
                handles.get(worker).map(|handle| Seat { cell: row, handle: *handle })
            };
            posts.push(Post {
                caller: known.id,
                view: Arc::clone(&shown),
                seat: first.as_ref().and_then(|(_, row, handles)| seat(*row, handles)),
                standby: standby
                    .as_ref()
                    .and_then(|(view, row, handles)| Some((Arc::clone(view), seat(*row, handles)?))),
                counts: counts.get(worker).cloned(),
            });
        }
        views.push((known.id, shown));
    }
    let seated = |attempt: &&Attempt<'_>| attempt.seats.iter().flatten().any(Result::is_ok);
    let works = std::iter::once(active).chain(formers).filter(seated).map(|attempt| attempt.bound.clone());
    let works = works.collect();
    let rows = active.row.into_iter().chain(formers.iter().filter_map(|f| f.row)).collect();
    for (parcel, posts) in batch.parcels.iter_mut().zip(posts) {
        parcel.services.push((slot, posts));
    }
    batch.prepared.push(Prepared { slot, ticket, views, faults, of_callers, works, rows, watched });
}

/// A canary to prepare, for the callers of the active version.
#[derive(Clone)]
pub(crate) struct CanaryOrder {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) callers: Vec<(Arc<Known>, Arc<View>)>,
}

/// A canary, prepared.
pub(crate) struct Canary {
    /// One for each worker.
    pub(crate) cells: Vec<Cell>,
    /// The views with their handles in the cells. Callers whom it failed are not among them: the active version answers.
    pub(crate) views: Vec<(CallerId, Arc<View>, Vec<Handle>)>,
    pub(crate) contrasts: Vec<(CallerId, Contrast)>,
    pub(crate) faults: Vec<Fault>,
    pub(crate) bytes: usize,
}

/// Prepares the canary of an order, if its binding has one.
pub(crate) fn prepare_canary(library: &Library, workers: usize, order: &CanaryOrder) -> Option<Canary> {
    let candidate = order.snapshot.binding.candidate.as_ref().filter(|c| c.stage == Stage::Canary)?;
    let bound = &candidate.bound;
    let mut canary =
        Canary { cells: Vec::new(), views: Vec::new(), contrasts: Vec::new(), faults: Vec::new(), bytes: 0 };
    // One that was deleted meanwhile.
    let compiled = library.get(&bound.version)?;
    let callers = order.callers.iter().map(|(known, _)| (known.as_ref(), None)).collect();
    let row =
        row_for(&compiled, workers, &Guest { snapshot: &order.snapshot, config: &bound.config, callers });
    let refused = row.failures.refused.into_iter().flatten().next();
    let whole = refused.is_some();
    canary.faults.extend(refused);
    canary.bytes = row.cells.iter().map(Cell::estimated_bytes).sum();
    for ((known, active), seat) in order.callers.iter().zip(row.seats.into_iter().flatten()) {
        match seat {
            Ok(Seated { plans, handles }) => {
                let zone = known.caller.zone.as_ref();
                canary.contrasts.push((known.id, Contrast::of(&active.plans, &plans, &order.snapshot, zone)));
                let (snapshot, caller) = (Arc::clone(&order.snapshot), Arc::clone(&known.caller));
                let view = View::new(snapshot, caller, plans, bound, Outcome::Ok);
                canary.views.push((known.id, Arc::new(view), handles));
            }
            Err(fault) if !whole => canary.faults.push(fault),
            Err(_) => {}
        }
    }
    canary.cells = row.cells;
    Some(canary)
}
