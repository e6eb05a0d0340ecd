//! The native zone fallback: what answers when no policy can. The caller's zone first, then the region, with a gradual
//! spill, so that a half-dead zone is not given all of its callers; then the other regions that the binding allows, within
//! its greatest remote share.

use crate::names::ZoneName;
use crate::plan::{
    Choice, Clamped, Destination, ReadyPlan, ReadyPlans, ReadyTier, WHOLE_SHARE, short_reason,
};
use crate::remote::{FULL_RAMP, Remote};
use crate::share;
use crate::snapshot::Snapshot;
use crate::status::Status;
use smol_str::{SmolStr, format_smolstr};

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
    let reason = if stays == SCALE { "zone" } else { "zone, spilling to the region" };
    // Cross-multiplied, so that both sides get their share whatever the sums of their weights are.
    let kept = near.iter().map(|(at, w)| (*at, u128::from(*w) * stays * far_weight.max(1)));
    let spilled = far.iter().map(|(at, w)| (*at, u128::from(*w) * (SCALE - stays) * near_weight));
    let mixed = share::narrow(kept.chain(spilled).collect());
    // In the order of preference; the place of each is its tier's number, also where others are empty.
    let mut order = vec![(SmolStr::new_static(reason), mixed), (SmolStr::new_static("region"), far)];
    let (doubtful, sound): (Vec<_>, Vec<_>) =
        by_rank(snapshot).into_iter().partition(|(_, remote)| remote.standing.doubt().is_some());
    order.extend(other_regions(snapshot, &sound));
    // What is evacuated yields to other regions, but not to one that may not answer.
    order.push((SmolStr::new_static("zones under evacuation"), evacuated));
    order.extend(doubtful.into_iter().map(|(at, remote)| {
        let doubt = remote.standing.doubt().unwrap_or_default();
        (format_smolstr!("{}, {doubt}", remote.region), takers(snapshot, &[(at, FULL_RAMP)]))
    }));
    let (reasons, mut weights): (Vec<SmolStr>, Vec<_>) = order.into_iter().unzip();
    let held = share::hold_remote_share(&mut weights, snapshot);
    let tiers = reasons.into_iter().zip(weights).zip(0..);
    let tiers: Vec<ReadyTier> = tiers
        .filter_map(|((reason, weights), number)| ReadyTier::new(number, reason, weights.into_iter()))
        .collect();
    let plan = if tiers.is_empty() { ReadyPlan::NothingEligible } else { ReadyPlan::Tiers(tiers.into()) };
    let clamped = Clamped { remote_share: u32::from(held), ..Clamped::default() };
    ReadyPlans { plans: Box::new([plan]), shares: Box::new([WHOLE_SHARE]), clamped }
}

/// Other regions with their positions among the remotes, the best first.
fn by_rank(snapshot: &Snapshot) -> Vec<(u32, &Remote)> {
    let mut order: Vec<(u32, &Remote)> = (0..).zip(&snapshot.remotes).collect();
    order.sort_by_key(|(_, remote)| remote.standing.rank());
    order
}

/// The tiers of regions that take what is left before them. Each takes all of it, or its ramp's part while it recovers: what
/// that leaves goes to the next ones, in the same tier.
fn other_regions(snapshot: &Snapshot, ranked: &[(u32, &Remote)]) -> Vec<(SmolStr, Vec<(u32, u64)>)> {
    let mut left = FULL_RAMP;
    let (mut loaded, mut names, mut waiting) = (Vec::new(), String::new(), Vec::new());
    for (at, remote) in ranked {
        let all = takers(snapshot, &[(*at, FULL_RAMP)]);
        let load = if all.is_empty() { 0 } else { left * remote.standing.ramp.min(FULL_RAMP) / FULL_RAMP };
        if load == 0 {
            waiting.push((SmolStr::new(remote.region.as_str()), all));
            continue;
        }
        left -= load;
        loaded.push((*at, load));
        names.push_str(if names.is_empty() { "" } else { ", " });
        names.push_str(remote.region.as_str());
    }
    let first = (!loaded.is_empty()).then(|| (short_reason(&names), takers(snapshot, &loaded)));
    first.into_iter().chain(waiting).collect()
}

/// The addresses of other regions, which share what each region gets of a tier.
fn takers(snapshot: &Snapshot, loads: &[(u32, u32)]) -> Vec<(u32, u64)> {
    let choice = |(remote, weight): &(u32, u32)| Choice {
        destination: Destination::Remote { remote: *remote, subset: None },
        weight: *weight,
    };
    share::spread(&loads.iter().map(choice).collect::<Vec<_>>(), snapshot)
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
