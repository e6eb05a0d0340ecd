//! What must hold at every step, judged by one who sees all registries.

use super::Broken;
use super::process::{LIMITS, Process};
use super::registry::Registry;
use super::world::World;
use crate::exchange::head::Place;
use crate::exchange::message::{Message, RecordKey};
use crate::exchange::{Freshness, PeerRole, limits};
use meridian_model::incarnation::Incarnation;
use meridian_model::names::RegionName;
use meridian_model::time::Monotonic;
use std::collections::BTreeMap;

/// How long a change may take to be seen by a node that is not hindered, in milliseconds: a beat, a second one that shows
/// that something is missing, and the way.
const SEEN_WITHIN: u64 = 3_000;
/// And by a leaf, which may follow a node that is hindered: twice the beats.
pub(super) const SEEN_BY_LEAF_WITHIN: u64 = 5_000;
/// And how much longer where one of its peers is hindered: what that began to send and does not go on with is waited for.
const GIVEN_UP: u64 = limits::TRANSFER_PATIENCE.as_millis() as u64;
/// How long after a fault that holds again.
const RECOVERED: u64 = 12_000;

/// How long a node may not know of a state that another node of its region published: a beat and the way.
const SKIPPED_FOR: i64 = 1_500;
/// More messages than this in a second by one link are a conversation that does not end. Whoever paused for minutes has
/// all their pings to answer.
const CHATTER: u32 = 400;

macro_rules! ensure {
    ($holds:expr, $($why:tt)*) => {
        if !$holds {
            return Err(format!($($why)*));
        }
    };
}

pub(super) use ensure;

/// What a process shows of an origin changed: nothing older replaces something newer, it is what that origin computed,
/// it is within the limits, and the process said which records changed.
pub(super) fn changed(
    process: &mut Process,
    origin: &RegionName,
    keys: &[RecordKey],
    registry: &Registry,
    now: u64,
) -> Result<Place, Broken> {
    let who = &process.peer.node;
    let view = process.exchange.as_ref().and_then(|exchange| exchange.origin(origin));
    let Some(view) = view else {
        return Err(format!("{who} said that {origin} changed, and holds nothing of it"));
    };
    let (place, root) = (view.head.head.version.place(), view.state.root());
    ensure!(*origin != process.peer.region, "{who} took its own region's state from a peer");
    ensure!(
        registry.computed.contains(&(place, root)),
        "{who} shows what {origin} never computed, at {place}: {root:?}, signed {:?}",
        view.head.head.version.root
    );
    let fits = view.state.len() <= LIMITS.records
        && view.state.size() <= LIMITS.origin_bytes
        && view.state.iter().all(|(_, bytes)| bytes.len() <= LIMITS.record_bytes);
    ensure!(fits, "{who} holds more of {origin} than its limits allow");
    let mut records = match process.seen.mirrors.remove(origin) {
        Some((old, records)) => {
            ensure!(place > old, "{who} replaced {origin} at {old} by {place}");
            records
        }
        None => BTreeMap::new(),
    };
    for key in keys {
        match view.state.get(key) {
            Some(bytes) => drop(records.insert(key.clone(), bytes.clone())),
            None => drop(records.remove(key)),
        }
    }
    let told = records.len() == view.state.len() && view.state.iter().all(|(k, b)| records.get(k) == Some(b));
    ensure!(told, "{who} did not say all that changed of {origin} at {place}");
    process.seen.mirrors.insert(origin.clone(), (place, records));
    process.seen.taken.insert(origin.clone(), now);
    let clock = process.clock(now);
    process.seen.first_told.entry(origin.clone()).or_insert(clock);
    Ok(place)
}

/// A node says how new its own region's state is, which is all that others can know of it.
pub(super) fn vouched(process: &Process, message: &Message, registry: &mut Registry, now: u64) {
    let Message::Beat(beat) = message else { return };
    for claim in beat.claims.iter().filter(|claim| claim.origin == process.peer.region) {
        let Some(age) = claim.age_ms else { continue };
        let until = registry.vouched.entry((claim.version.place(), claim.version.root)).or_insert(i64::MIN);
        *until = (*until).max(now as i64 - age as i64);
    }
}

/// What a process sends: no head of its own region behind one that it was shown, unless it cannot publish a later one,
/// and nothing over the limits.
pub(super) fn sent(process: &Process, message: &Message, now: u64) -> Result<(), Broken> {
    let own = match message {
        Message::Update(update) => {
            let size: usize = update.changed.iter().map(|r| r.bytes.len()).sum();
            ensure!(size <= LIMITS.part_bytes + LIMITS.record_bytes, "a part of {size} bytes");
            update.opening.as_ref().map(|opening| &opening.head.head)
        }
        Message::Offer(head) => Some(&head.head),
        _ => None,
    };
    let own = own.filter(|head| head.origin == process.peer.region).map(|head| head.version.place());
    let ahead = process.seen.evidence;
    ensure!(
        own.is_none() || ahead.is_none() || own >= ahead || now < process.unable_until,
        "{} published {own:?} after it was shown {ahead:?} of its own region",
        process.peer.node
    );
    Ok(())
}

/// Nobody is sent more than it can be expected to have taken.
pub(super) fn windowed(unacked: &[(RegionName, u64, u32)], origin: &RegionName) -> Result<(), Broken> {
    let parts = unacked.iter().filter(|(of, ..)| of == origin).count();
    ensure!(parts <= LIMITS.parts_in_flight, "{parts} parts of {origin} are on their way by one link");
    Ok(())
}

/// A registry is only ever raised past a life that it had, and a process does not keep asking.
pub(super) fn raised(
    process: &mut Process,
    clock: Monotonic,
    registry: &Registry,
    past: Incarnation,
) -> Result<(), Broken> {
    let had = registry.commits.iter().any(|commit| commit.place.incarnation == past);
    ensure!(had, "asked to be raised past {past}, which its registry never had");
    let before = process.seen.raised.replace(clock);
    let patient = before.is_none_or(|before| clock.since(before) >= limits::RAISE_EVERY);
    ensure!(patient, "{} asks to be raised at {before:?} and again at {clock:?}", process.peer.node);
    Ok(())
}

/// Freshness is honest: at the moment since which a process claims to know nothing newer, the registry had nothing newer.
pub(super) fn honest(world: &mut World, at: usize) -> Result<(), Broken> {
    let (now, regions) = (world.now, &world.regions);
    let process = &mut world.processes[at];
    let Some(exchange) = &process.exchange else { return Ok(()) };
    if let Some(stray) = exchange.strays().next() {
        return Err(format!("{} goes on to follow {stray}, of which nobody tells", process.peer.node));
    }
    for (region, registry) in regions {
        let Some(view) = exchange.origin(region) else { continue };
        let clock = process.offset as i64 + now as i64;
        let Some(standing) = exchange.standing(process.clock(now), region) else { continue };
        let place = view.head.head.version.place();
        if let Some(age) = standing.age {
            let since = clock - age.as_millis() as i64 - process.offset as i64;
            if process.seen.proofs.get(region) != Some(&(place, since)) {
                let then = registry.before(since).place;
                // Whoever takes what is later by its place has no reason to doubt that it came later, before the registry
                // is raised. What it knew before that goes on to count, and is passed on within one life. Later than
                // what the region's nodes vouch for, that is: a registry that went back unseen may be past this place,
                // and nobody hears of that while its records are those of an earlier one.
                let taken = match place.incarnation == then.incarnation {
                    true => registry.taken.get(&place),
                    false => process.seen.taken.get(region),
                };
                let later = place >= then || registry.vouched_for_earlier(since, place);
                let later = later && taken.is_some_and(|taken| since <= *taken as i64);
                // One of several nodes may have skipped what another published before its own state came back. It
                // vouches for what it published, which is earlier by its place, until peers show it the other.
                let came_back = registry.held_since(since - SKIPPED_FOR, place, view.state.root())
                    && registry.had(then, place);
                ensure!(
                    later || came_back || registry.held_since(since, place, view.state.root()),
                    "{} holds {region} at {place} and says that was the newest at {since}, when it was {then}",
                    process.peer.node
                );
                process.seen.proofs.insert(region.clone(), (place, since));
            }
        }
        // A node answers directly, or did a moment ago.
        let heard = process.seen.heard.get(region).copied();
        let silent = heard.is_none_or(|heard| now.saturating_sub(heard) > 5_000);
        let leaf = process.peer.role == PeerRole::Leaf;
        ensure!(!standing.reachable || !silent || leaf, "{} says {region} answers", process.peer.node);
    }
    Ok(())
}

/// Once a second: whoever is not hindered, and has a peer that is not, sees what happened, and knows that it does.
pub(super) fn current(world: &World) -> Result<(), Broken> {
    for x in 0..world.processes.len() {
        for origin in 0..world.regions.len() {
            if world.processes[x].region != origin && is_served(world, x, origin) {
                let leaf = world.processes[x].is_leaf();
                let within = if leaf { SEEN_BY_LEAF_WITHIN } else { SEEN_WITHIN };
                let given_up = if has_troubled_peer(world, x) { GIVEN_UP } else { 0 };
                sees(world, x, origin, within + given_up)?;
            }
        }
        near(world, x)?;
        digests(world, x)?;
        told(world, x)?;
    }
    let busiest = world.conns.iter().flat_map(|conn| conn.sent).max().unwrap_or(0);
    ensure!(busiest <= CHATTER, "{busiest} messages in a second by one link");
    Ok(())
}

/// The driver was told how every origin stands, when that changed.
fn told(world: &World, x: usize) -> Result<(), Broken> {
    let process = &world.processes[x];
    let Some(exchange) = process.exchange.as_ref().filter(|_| process.runs()) else { return Ok(()) };
    for (region, _) in &world.regions {
        let Some(standing) = exchange.standing(process.clock(world.now), region) else { continue };
        let told = process.seen.told.get(region);
        let same =
            told.is_some_and(|t| (t.freshness, t.reachable) == (standing.freshness, standing.reachable));
        // A timeout of this millisecond may be yet to come.
        let late = process.wake.is_none_or(|wake| wake > world.now);
        ensure!(same || !late, "{} was told {told:?} of {region}; it is {standing:?}", process.peer.node);
    }
    Ok(())
}

fn is_calm(world: &World, at: usize) -> bool {
    let process = &world.processes[at];
    process.runs() && process.hindered == 0 && world.now >= process.hindered_until + RECOVERED
}

/// Whether a process has an undisturbed link to a node of the origin, or, as a leaf, to a node that has one.
pub(super) fn is_served(world: &World, x: usize, origin: usize) -> bool {
    let quiet = world.now >= world.unsettled[origin] + RECOVERED;
    if !quiet || !is_calm(world, x) {
        return false;
    }
    let process = &world.processes[x];
    let linked = |y: &usize| world.linked_since(x, *y).is_some_and(|since| world.now >= since + RECOVERED);
    let mut peers = (0..world.processes.len()).filter(|y| *y != x && is_calm(world, *y)).filter(linked);
    peers.any(|y| match process.is_leaf() {
        true => is_served(world, y, origin),
        false => world.processes[y].region == origin && !world.processes[y].is_leaf(),
    })
}

/// Whether a process has a link to one that is hindered, or, as a leaf, to a node that has one.
fn has_troubled_peer(world: &World, x: usize) -> bool {
    let mut linked = (0..world.processes.len()).filter(|y| *y != x && world.linked_since(x, *y).is_some());
    let leaf = world.processes[x].is_leaf();
    linked.any(|y| !is_calm(world, y) || leaf && has_troubled_peer(world, y))
}

/// A region is as near as the nearest of its nodes: no farther than that ever was.
fn near(world: &World, x: usize) -> Result<(), Broken> {
    let process = &world.processes[x];
    let Some(exchange) = process.exchange.as_ref().filter(|_| !process.is_leaf()) else { return Ok(()) };
    for (origin, (region, _)) in world.regions.iter().enumerate() {
        let slowest = world.links_of(x).filter(|(_, peer)| {
            let peer = &world.processes[*peer];
            peer.region == origin && !peer.is_leaf()
        });
        let nearest = slowest.filter_map(|(slowest, _)| slowest).min();
        let shown = exchange.standing(process.clock(world.now), region).and_then(|s| s.round_trip);
        let holds = shown.zip(nearest).is_none_or(|(shown, nearest)| shown <= nearest);
        let who = &process.peer.node;
        ensure!(holds, "{who} calls {region} {shown:?} far, and has a link of {nearest:?} at most");
    }
    Ok(())
}

fn sees(world: &World, x: usize, origin: usize, within: u64) -> Result<(), Broken> {
    let (region, registry) = &world.regions[origin];
    let process = &world.processes[x];
    let Some(exchange) = &process.exchange else { return Ok(()) };
    let who = &process.peer.node;
    let within = if within == 0 { 0 } else { within + registry.latency };
    let since = world.now as i64 - within as i64;
    let then = registry.before(since);
    let view = exchange.origin(region);
    let place = view.as_ref().map(|view| view.head.head.version.place());
    // What it held then, or holds again: records that went away and came back before a node read that are not told of.
    let same = view.is_some_and(|view| {
        let root = view.state.root();
        root == then.root || place.is_some_and(|place| registry.held_since(since, place, root))
    });
    ensure!(
        same || place >= Some(then.place),
        "{who} holds {region} at {place:?}, which is {} for {within} ms",
        then.place
    );
    let standing = exchange.standing(process.clock(world.now), region);
    let fresh = standing.is_some_and(|s| s.freshness == Freshness::Fresh);
    ensure!(fresh, "{who} calls {region} {standing:?}, and nothing hinders it");
    Ok(())
}

/// Links are told all that is held, from time to time.
fn digests(world: &World, x: usize) -> Result<(), Broken> {
    if !is_calm(world, x) {
        return Ok(());
    }
    for conn in world.conns.iter().filter(|conn| conn.is_up()) {
        let Some(end) = conn.ends.iter().position(|end| *end == x) else { continue };
        let to = &world.processes[conn.ends[1 - end]];
        let late = world.now > conn.digests[end] + 40_000;
        ensure!(!late || to.is_leaf(), "{} sends {} no digest", world.processes[x].peer.node, to.peer.node);
    }
    Ok(())
}

/// After healing, all hold the same, and know that it is new.
pub(super) fn converged(world: &World) -> Result<(), Broken> {
    for (origin, (region, registry)) in world.regions.iter().enumerate() {
        let newest = registry.now();
        let mut first: Option<Place> = None;
        for (x, process) in world.processes.iter().enumerate().filter(|(_, p)| p.region != origin) {
            let who = &process.peer.node;
            let view = process.exchange.as_ref().and_then(|exchange| exchange.origin(region));
            let Some(view) = view else {
                return Err(format!("{who} holds nothing of {region} after healing"));
            };
            let version = view.head.head.version;
            let same = view.state.root() == newest.root && version.incarnation == newest.place.incarnation;
            ensure!(
                same,
                "{who} holds {region} at {} after healing; it is at {}",
                version.place(),
                newest.place
            );
            let first = *first.get_or_insert(version.place());
            ensure!(
                first == version.place(),
                "{who} holds {region} at {}, another at {first}",
                version.place()
            );
            sees(world, x, origin, 0)?;
            let direct =
                world.has_direct_link(x, origin) || process.is_leaf() && world.has_path_of_node(x, origin);
            let standing =
                process.exchange.as_ref().and_then(|e| e.standing(process.clock(world.now), region));
            let reachable = standing.is_some_and(|s| s.reachable && s.round_trip.is_some());
            ensure!(reachable == direct, "{who} calls {region} {standing:?}; direct link: {direct}");
        }
    }
    Ok(())
}
