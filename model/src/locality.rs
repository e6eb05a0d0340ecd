//! The native zone fallback: what answers when no policy can. The caller's zone first, then the region, with a gradual
//! spill, so that a half-dead zone is not given all of its callers; then the other regions that the binding allows.

use crate::names::ZoneName;
use crate::plan::{Clamped, ReadyPlan, ReadyPlans, ReadyTier, WHOLE_SHARE};
use crate::remote::{Freshness, Remote};
use crate::share;
use crate::snapshot::Snapshot;
use crate::status::Status;
use smol_str::SmolStr;

/// All traffic stays in a zone while `healthy * 1.4 >= all`, that is down to 71.4 % healthy (Envoy's default).
/// In parts of 1,000.
const OVERPROVISIONING: u128 = 1_400;
const SCALE: u128 = 1_000;

/// The plan of the native fallback for a caller in `zone`: one plan, never refused.
#[must_use]
pub fn fallback(snapshot: &Snapshot, zone: Option<&ZoneName>) -> ReadyPlans {
    let in_zone = |at: u32| {
        let endpoint = snapshot.endpoints.get(at as usize);
        endpoint.is_some_and(|e| Some(e.zone()) == zone)
    };
    let yields = |at: u32| {
        let endpoint = snapshot.endpoints.get(at as usize);
        endpoint.is_some_and(|e| snapshot.draining_zones.contains(e.zone()))
    };
    let eligible: Vec<(u32, u64)> = snapshot
        .endpoints
        .iter()
        .zip(0u32..)
        .filter(|(e, _)| e.status.is_eligible())
        .map(|(e, at)| (at, u64::from(e.instance.declared.weight)))
        .collect();
    let (evacuated, staying): (Vec<_>, Vec<_>) = eligible.iter().copied().partition(|(at, _)| yields(*at));
    let (near, far): (Vec<_>, Vec<_>) = staying.into_iter().partition(|(at, _)| in_zone(*at));
    let weight = |of: &[(u32, u64)]| of.iter().map(|(_, w)| u128::from(*w)).sum::<u128>();
    let (near_weight, far_weight) = (weight(&near), weight(&far));
    let stays = if far_weight == 0 { SCALE } else { stay_share(snapshot, zone, near_weight) };
    let mut tiers = Vec::new();
    if near_weight > 0 {
        // Cross-multiplied, so that both sides get their share whatever the sums of their weights are.
        let kept = near.iter().map(|(at, w)| (*at, u128::from(*w) * stays * far_weight.max(1)));
        let spilled = far.iter().map(|(at, w)| (*at, u128::from(*w) * (SCALE - stays) * near_weight));
        let mixed = share::narrow(kept.chain(spilled).collect());
        let reason = if stays == SCALE { "zone" } else { "zone, spilling to the region" };
        tiers.extend(ReadyTier::new(0, SmolStr::new_static(reason), mixed.into_iter()));
    }
    tiers.extend(ReadyTier::new(1, SmolStr::new_static("region"), far.into_iter()));
    let (sound, doubtful): (Vec<_>, Vec<_>) = by_rank(snapshot).into_iter().partition(|(_, r)| {
        !r.standing.draining && r.standing.reachable && r.standing.freshness != Freshness::Stale
    });
    let mut numbers = 2..;
    let mut next = || numbers.next().unwrap_or(u32::MAX);
    tiers.extend(sound.into_iter().filter_map(|(at, remote)| other_region(snapshot, next(), at, remote)));
    // What is evacuated yields to other regions, but not to one that may not answer.
    let reason = SmolStr::new_static("zones under evacuation");
    tiers.extend(ReadyTier::new(next(), reason, evacuated.into_iter()));
    tiers.extend(doubtful.into_iter().filter_map(|(at, remote)| other_region(snapshot, next(), at, remote)));
    let plan = if tiers.is_empty() { ReadyPlan::NothingEligible } else { ReadyPlan::Tiers(tiers.into()) };
    ReadyPlans { plans: Box::new([plan]), shares: Box::new([WHOLE_SHARE]), clamped: Clamped::default() }
}

/// Other regions with their positions among the remotes, the best first.
fn by_rank(snapshot: &Snapshot) -> Vec<(usize, &Remote)> {
    let mut order: Vec<(usize, &Remote)> = snapshot.remotes.iter().enumerate().collect();
    order.sort_by_key(|(_, remote)| remote.standing.rank());
    order
}

/// The tier of another region, which serves when nothing is left before it.
fn other_region(snapshot: &Snapshot, number: u32, at: usize, remote: &Remote) -> Option<ReadyTier> {
    let first = snapshot.first_position(at)?;
    let takers = remote
        .takers(None)
        .filter_map(|(at, weight)| Some((u32::try_from(first + at).ok()?, u128::from(weight))));
    // What another region says of its weights is not bounded; their sum is.
    ReadyTier::new(number, remote.region.as_str().into(), share::narrow(takers.collect()).into_iter())
}

/// The share of the zone's traffic that stays in it, in parts of [`SCALE`].
fn stay_share(snapshot: &Snapshot, zone: Option<&ZoneName>, healthy: u128) -> u128 {
    let failed: u128 = snapshot
        .endpoints
        .iter()
        .filter(|e| Some(e.zone()) == zone && matches!(e.status, Status::Unhealthy | Status::Expired))
        .map(|e| u128::from(e.instance.declared.weight))
        .sum();
    (healthy * OVERPROVISIONING).checked_div(healthy + failed).unwrap_or(0).min(SCALE)
}
