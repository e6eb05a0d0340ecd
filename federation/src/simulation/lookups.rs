//! No failed lookup: a gateway names an address in every region where a live one is that it was told of, may use, and
//! has heard of lately enough. Each region is looked at by itself, as if all others had failed.
//!
//! An answer that names what has died is no failure, and is counted apart: where nothing hinders the news, it ends after
//! the lease and the way.

use super::Broken;
use super::gateway::Named;
use super::oracle::{SEEN_BY_LEAF_WITHIN, ensure, is_served};
use super::process::{Kept, Process};
use super::registry::Records;
use super::workloads::TTL;
use super::world::World;
use crate::exchange::message::RecordKey;
use meridian_model::names::{RegionName, ServiceKey};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Answers that were looked at, and those whose first choices had one that was dead.
pub(super) static ANSWERS: AtomicU64 = AtomicU64::new(0);
pub(super) static DEAD: AtomicU64 = AtomicU64::new(0);

/// A gateway is asked for a service, or for all.
pub(super) fn answered(world: &mut World, at: usize, only: Option<&[RecordKey]>) -> Result<(), Broken> {
    let Some(mut gateway) = world.processes[at].gateway.take() else { return Ok(()) };
    let (now, process) = (world.now, &world.processes[at]);
    let clock = process.clock(now);
    if let Some(exchange) = process.exchange.as_ref().filter(|_| process.runs()) {
        for (region, _) in &world.regions {
            if let Some(standing) = exchange.standing(clock, region) {
                gateway.judge(region, standing, clock);
            }
        }
        let commit = world.regions[process.region].1.now();
        let wanted = |service: &ServiceKey| {
            only.is_none_or(|keys| {
                keys.iter().any(|key| matches!(key, RecordKey::Service(s) if s == service))
            })
        };
        for service in world.services.iter().filter(|service| wanted(service)) {
            gateway.look_around(service, commit);
            let wishes = Arc::clone(&gateway.wishes);
            let tiers = gateway.answer(service);
            if let Err(broken) = judge(world, process, &wishes, service, tiers) {
                return Err(format!("{}, asked for {}: {broken}", process.peer.node, service.service));
            }
            if only.is_none() {
                bounded(world, at, service, tiers)?;
            }
        }
    }
    world.processes[at].gateway = Some(gateway);
    Ok(())
}

fn judge(
    world: &World,
    process: &Process,
    wishes: &super::gateway::Wishes,
    service: &ServiceKey,
    tiers: &[Vec<Named>],
) -> Result<(), Broken> {
    for (number, (region, registry)) in world.regions.iter().enumerate() {
        let named = tiers.iter().flatten().any(|named| named.region == *region);
        let allowed = wishes.allow(service, region);
        ensure!(allowed || !named, "it names {region}, where the binding does not let it go");
        let live = if number == process.region {
            let listed = registry.now().listed.get(service).filter(|_| wishes.is_at_home(service));
            let listed = listed.into_iter().flat_map(|listed| listed.iter());
            let mut ids = listed.filter(|i| i.status().is_eligible()).map(|i| i.id.as_str());
            ids.find(|id| registry.workloads.gone_since(service, id).is_none()).map(str::to_owned)
        } else {
            let Some((records, age)) = known(process, region, world.now) else { continue };
            ensure!(
                age <= wishes.max_age || !named,
                "it names {region}, of which it has not heard for {age} ms"
            );
            let record = records.get(&RecordKey::Service(service.clone()));
            record.filter(|_| age <= wishes.max_age).and_then(|r| registry.workloads.live_in(service, r))
        };
        let failed = live.filter(|_| allowed && !named);
        ensure!(failed.is_none(), "no endpoint of {region}, where {} lives", failed.unwrap_or_default());
    }
    let dead = |named: &Named| {
        let region = world.regions.iter().find(|(region, _)| *region == named.region);
        let gone = |id: &String| region.is_some_and(|(_, r)| r.workloads.gone_since(service, id).is_some());
        named.id.as_ref().is_some_and(gone)
    };
    ANSWERS.fetch_add(1, Ordering::Relaxed);
    if tiers.first().is_some_and(|tier| tier.iter().any(dead)) {
        DEAD.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// What a gateway was told of a region and how old that is, by what it said itself; where a process that was started
/// again has said nothing yet, by what it must have found on its disk; and where nobody knows, for how long it was told.
fn known<'a>(process: &'a Process, region: &RegionName, now: u64) -> Option<(&'a Records, u64)> {
    let clock = process.clock(now);
    let standing = process.exchange.as_ref().and_then(|exchange| exchange.standing(clock, region));
    let age = standing.and_then(|standing| standing.age).and_then(|age| u64::try_from(age.as_millis()).ok());
    let kept = process.seen.kept.get(region);
    let told = process.seen.mirrors.get(region);
    // What is proven of a life takes the place of what was proven of the one before, even if it is less: whoever passed
    // it on may trust its calendar less than this process does.
    let superseded =
        |kept: &Kept| age.is_some() && told.is_some_and(|(place, _)| Some(place.incarnation) != kept.life);
    let kept_age = kept.filter(|kept| !superseded(kept));
    let kept_age = kept_age.and_then(|kept| u64::try_from(clock.0 as i64 - kept.since?).ok());
    let records = told.map(|(_, records)| records).or(kept.map(|kept| &kept.records))?;
    let told_for = process.seen.first_told.get(region).map(|first| clock.since(*first).as_millis() as u64);
    Some((records, age.into_iter().chain(kept_age).min().or(told_for)?))
}

/// Nothing is named for long after it died, if the news of that can come.
fn bounded(world: &World, at: usize, service: &ServiceKey, tiers: &[Vec<Named>]) -> Result<(), Broken> {
    let process = &world.processes[at];
    for (origin, (region, registry)) in world.regions.iter().enumerate() {
        if origin == process.region {
            continue;
        }
        let within = TTL + SEEN_BY_LEAF_WITHIN + registry.latency;
        let gone = |named: &&Named| {
            let id = named.id.as_ref().filter(|_| named.region == *region);
            let since = id.and_then(|id| registry.workloads.gone_since(service, id));
            since.is_some_and(|since| world.now > since + within)
        };
        if let Some(gone) = tiers.iter().flatten().find(gone)
            && is_served(world, at, origin)
        {
            let who = &process.peer.node;
            return Err(format!("{who} still names {:?} of {service:?} in {region}, which is gone", gone.id));
        }
    }
    Ok(())
}
