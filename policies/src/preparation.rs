//! Preparing services: opening routers, admitting callers, expanding plans, and the fallback chain where that fails.
//!
//! Pure but for the engine: what is to be done comes in as orders, what was done goes out, and threads, queues and
//! retries stand elsewhere.

use crate::callers::{CallerId, Known};
use crate::cell::{Cell, Handle};
use crate::contract::{Caller, Service};
use crate::fault::{Fault, FaultKind};
use crate::library::{Compiled, Library};
use crate::observation::{Counts, Watched};
use crate::view::{Outcome, View};
use meridian_model::binding::{Bound, Stage};
use meridian_model::contrast::Contrast;
use meridian_model::plan::{self, Plan, ReadyPlans};
use meridian_model::snapshot::Snapshot;
use smol_str::format_smolstr;
use std::sync::Arc;
use std::time::Instant;

/// One service to prepare.
#[derive(Clone)]
pub(crate) struct Order {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) callers: Vec<Arc<Known>>,
    /// What must not be run now, because it trapped a moment ago, and how.
    pub(crate) banned: Vec<(Bound, Fault)>,
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
    pub(crate) views: Vec<(CallerId, Arc<View>)>,
    /// Policies that could not even be opened, which says nothing of the callers.
    pub(crate) faults: Vec<(Bound, Fault)>,
    /// Which of the batch's rows of cells it uses.
    pub(crate) rows: Vec<usize>,
    /// Failures for single callers: the policy goes on for the others.
    pub(crate) of_callers: Vec<(Bound, Fault)>,
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
    /// Faults that concern a whole service.
    refused: Vec<Option<Fault>>,
}

/// What is to live in one row of cells: a service, the config, and who is admitted.
struct Guest<'a> {
    snapshot: &'a Snapshot,
    config: &'a str,
    callers: Vec<&'a Known>,
}

/// How often a row is begun anew without what trapped in it, before the rest is given up.
const RESTARTS: usize = 4;

fn make_row(compiled: &Compiled, workers: usize, guests: &[Guest<'_>]) -> Row {
    let begun = Instant::now();
    let mut refused: Vec<Option<Fault>> = guests.iter().map(|_| None).collect();
    let mut ended: Vec<Vec<Option<Fault>>> =
        guests.iter().map(|g| g.callers.iter().map(|_| None).collect()).collect();
    let mut last = None;
    for _ in 0..RESTARTS {
        match try_row(compiled, workers, guests, &mut refused, &mut ended) {
            Ok(seats) => {
                compiled.took(begun.elapsed() / u32::try_from(guests.len().max(1)).unwrap_or(1));
                let (cells, seats) = seats;
                return Row { cells, seats, refused };
            }
            Err(fault) => last = Some(fault),
        }
    }
    compiled.took(begun.elapsed());
    let fault = last.unwrap_or_else(|| Fault::new(FaultKind::Trap, ""));
    let seats = guests.iter().map(|g| g.callers.iter().map(|_| Err(fault.clone())).collect()).collect();
    for refusal in &mut refused {
        refusal.get_or_insert_with(|| fault.clone());
    }
    Row { cells: Vec::new(), seats, refused }
}

/// Fills a row, or notes in `refused` and `ended` what trapped and must stay out.
fn try_row(
    compiled: &Compiled,
    workers: usize,
    guests: &[Guest<'_>],
    refused: &mut [Option<Fault>],
    ended: &mut [Vec<Option<Fault>>],
) -> Result<(Vec<Cell>, Vec<Seats>), Fault> {
    let mut cells = Vec::with_capacity(workers);
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
            for (number, known) in guest.callers.iter().enumerate() {
                if ended[at][number].is_some() {
                    continue;
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
                ended[at][number] = Some(fault.clone());
                if fault.ends_instance() {
                    return Err(fault);
                }
            }
            if compiled.is_standard() {
                // Views of the standard policies hold what they need; their routers hold every string of the service.
                cell.close(router)?;
            }
        }
        cells.push(cell);
    }
    let settle = |at: usize, seats: Vec<Option<Result<(Vec<Plan>, Seated), Fault>>>| -> Seats {
        let missing = || refused[at].clone().unwrap_or_else(|| Fault::new(FaultKind::Trap, ""));
        let one = |(number, seat): (usize, Option<Result<(Vec<Plan>, Seated), Fault>>)| match seat {
            _ if ended[at][number].is_some() => Err(ended[at][number].clone().unwrap_or_else(missing)),
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
    row: Option<usize>,
    seats: Vec<Option<Result<Seated, Fault>>>,
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
    let all = |order: &Order, fault: &Fault| -> Vec<Option<Result<Seated, Fault>>> {
        order.callers.iter().map(|_| Some(Err(fault.clone()))).collect()
    };
    let mut attempts: Vec<Attempt<'a>> = Vec::with_capacity(orders.len());
    let mut together: Vec<(usize, Guest<'a>)> = Vec::new();
    let mut compiled = None;
    for (at, order) in orders.iter().enumerate() {
        let bound = active(order);
        let mut seats = Vec::new();
        match allowed(library, order, bound) {
            Ok(found) => {
                let callers = order.callers.iter().map(AsRef::as_ref).collect();
                together.push((at, Guest { snapshot: &order.snapshot, config: &bound.config, callers }));
                compiled = Some(found);
            }
            Err(fault) => {
                seats = all(order, &fault);
                if fault.kind == FaultKind::Missing {
                    batch.faults.push(fault.kind);
                    faults[at].push((bound.clone(), fault));
                }
            }
        }
        attempts.push(Attempt { bound, row: None, seats });
    }
    let Some(compiled) = compiled else { return attempts };
    let (places, guests): (Vec<usize>, Vec<Guest<'a>>) = together.into_iter().unzip();
    let row = make_row(&compiled, workers, &guests);
    let number = push_row(row.cells, batch);
    for ((at, seats), refused) in places.into_iter().zip(row.seats).zip(row.refused) {
        if let Some(fault) = refused {
            batch.faults.push(fault.kind);
            faults[at].push((attempts[at].bound.clone(), fault));
        }
        attempts[at].row = number;
        attempts[at].seats = seats.into_iter().map(Some).collect();
    }
    attempts
}

fn allowed(library: &Library, order: &Order, bound: &Bound) -> Result<Arc<Compiled>, Fault> {
    let binding = &order.snapshot.binding;
    if let Some(reason) = binding.disabled.as_ref().filter(|_| binding.active.version == bound.version) {
        return Err(Fault::new(FaultKind::Disabled, reason));
    }
    if let Some((_, fault)) = order.banned.iter().find(|(banned, _)| banned == bound) {
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
        let callers = open.iter().filter_map(|at| order.callers.get(*at)).map(AsRef::as_ref).collect();
        let guest = Guest { snapshot: &order.snapshot, config: &bound.config, callers };
        let row = make_row(&compiled, workers, &[guest]);
        if let Some(Some(fault)) = row.refused.first() {
            batch.faults.push(fault.kind);
            faults.push((bound.clone(), fault.clone()));
        }
        let mut attempt = Attempt { bound, row: None, seats: order.callers.iter().map(|_| None).collect() };
        let mut left = Vec::new();
        for (place, seat) in open.into_iter().zip(row.seats.into_iter().flatten()) {
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
    let callers = order.callers.iter().map(AsRef::as_ref).collect();
    let guest = Guest { snapshot: &order.snapshot, config: &bound.config, callers };
    let row = make_row(&compiled, 1, &[guest]);
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
    let slot = order.snapshot.slot;
    let view = |known: &Known, plans: &Arc<ReadyPlans>, bound: &Bound, outcome| {
        let (snapshot, caller) = (Arc::clone(&order.snapshot), Arc::clone(&known.caller));
        Arc::new(View::new(snapshot, caller, Arc::clone(plans), bound, outcome))
    };
    let mut posts: Vec<Vec<Post>> = (0..workers).map(|_| Vec::new()).collect();
    let mut views = Vec::new();
    let (mut watched, mut of_callers) = (Vec::new(), Vec::new());
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
        if let (Some(_), Some(Some(Err(fault)))) = (active.row, active.seats.get(place)) {
            // Where there is no row, the whole policy failed and was counted once.
            batch.faults.push(fault.kind);
            of_callers.push((active.bound.clone(), fault.clone()));
        }
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
    let rows = active.row.into_iter().chain(formers.iter().filter_map(|f| f.row)).collect();
    for (parcel, posts) in batch.parcels.iter_mut().zip(posts) {
        parcel.services.push((slot, posts));
    }
    batch.prepared.push(Prepared { slot, views, faults, of_callers, rows, watched });
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
    let callers = order.callers.iter().map(|(known, _)| known.as_ref()).collect();
    let guest = Guest { snapshot: &order.snapshot, config: &bound.config, callers };
    let row = make_row(&compiled, workers, &[guest]);
    let refused = row.refused.into_iter().flatten().next();
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
