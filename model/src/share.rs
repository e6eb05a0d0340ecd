//! From a tier's choices to weights of positions: another region's part is spread over its addresses, and the binding's
//! greatest remote share is held, whatever the policy asked for.

use crate::plan::{Choice, Destination};
use crate::snapshot::{Endpoint, Snapshot};

/// What a tier's weights add up to at most once they had to be scaled: room for sums, and exact to a part in 10^12.
const SCALED_TOTAL: u128 = 1 << 48;
/// The greatest remote share is taken in these parts.
const PARTS: u128 = 1_000_000;

/// The eligible positions of a tier with their weights; none is zero.
pub(crate) fn spread(choices: &[Choice], snapshot: &Snapshot) -> Vec<(u32, u64)> {
    let here = |choice: &Choice| match choice.destination {
        Destination::Endpoint(at) if choice.weight > 0 && snapshot.is_eligible(at) => {
            Some((at, u64::from(choice.weight)))
        }
        _ => None,
    };
    if !choices.iter().any(|c| matches!(c.destination, Destination::Remote { .. })) {
        return choices.iter().filter_map(here).collect();
    }
    let mut wide: Vec<(u32, u128)> = Vec::new();
    for choice in choices {
        let Destination::Remote { remote, subset } = choice.destination else {
            wide.extend(here(choice).map(|(at, weight)| (at, u128::from(weight) << 64)));
            continue;
        };
        let Some(first) = snapshot.first_position(remote as usize).filter(|_| choice.weight > 0) else {
            continue;
        };
        let takers = || snapshot.remotes.get(remote as usize).into_iter().flat_map(|r| r.takers(subset));
        let total: u128 = takers().map(|(_, weight)| u128::from(weight)).sum();
        wide.extend(takers().filter_map(|(at, weight)| {
            let at = u32::try_from(first + at).ok()?;
            Some((at, (u128::from(choice.weight) << 64) / total.max(1) * u128::from(weight)))
        }));
    }
    narrow(wide)
}

/// Scales weights so that their sum is small enough to add up, and none falls to zero.
pub(crate) fn narrow(wide: Vec<(u32, u128)>) -> Vec<(u32, u64)> {
    let total = wide.iter().fold(0u128, |sum, (_, weight)| sum.saturating_add(*weight));
    let by = (total / SCALED_TOTAL).max(1);
    let scaled = wide.into_iter().filter(|(_, weight)| *weight > 0);
    scaled.map(|(at, weight)| (at, u64::try_from(weight / by).unwrap_or(u64::MAX).max(1))).collect()
}

/// Holds the binding's greatest remote share in the first tier that carries traffic, as long as anything in the region
/// can take the rest. Where nothing here can, other regions take all: the bound protects them from a spill, and is not
/// worth a failed lookup (a binding that must never leave its region allows no regions). Whether anything had to be held.
pub(crate) fn hold_remote_share(tiers: &mut [Vec<(u32, u64)>], snapshot: &Snapshot) -> bool {
    let most = snapshot.binding.limits.max_remote_share;
    if most >= 1.0 || snapshot.remotes.is_empty() {
        return false;
    }
    let here = |at: u32| (at as usize) < snapshot.endpoints.len();
    let Some(first) = tiers.iter().position(|tier| !tier.is_empty()) else { return false };
    let sum = |tier: &[(u32, u64)], local: bool| -> u128 {
        tier.iter().filter(|(at, _)| here(*at) == local).map(|(_, weight)| u128::from(*weight)).sum()
    };
    let remote = sum(&tiers[first], false);
    if remote == 0 {
        return false;
    }
    if sum(&tiers[first], true) == 0 {
        let relief = tiers.iter().skip(first).find(|tier| sum(tier, true) > 0);
        let relief: Vec<(u32, u64)> = match relief {
            Some(tier) => tier.iter().filter(|(at, _)| here(*at)).copied().collect(),
            None => anything_here(snapshot),
        };
        if relief.is_empty() {
            return false;
        }
        tiers[first].extend(relief);
        // Of the policy's wish nothing is left but the bound.
        return rescale(&mut tiers[first], here, most, u128::MAX);
    }
    rescale(&mut tiers[first], here, most, remote)
}

/// What may receive traffic at home, where the policy names none of it: leaving the binding's bound must not be as easy as that.
fn anything_here(snapshot: &Snapshot) -> Vec<(u32, u64)> {
    let eligible =
        snapshot.endpoints.iter().zip(0u32..).filter(|(endpoint, _)| endpoint.status.is_eligible());
    let (evacuated, staying): (Vec<_>, Vec<_>) =
        eligible.partition(|(endpoint, _)| snapshot.draining_zones.contains(endpoint.zone()));
    let weighed = |of: Vec<(&Endpoint, u32)>| -> Vec<(u32, u64)> {
        let weight = |(endpoint, at): (&Endpoint, u32)| (at, u64::from(endpoint.instance.declared.weight));
        of.into_iter().map(weight).filter(|(_, weight)| *weight > 0).collect()
    };
    let staying = weighed(staying);
    if staying.is_empty() { weighed(evacuated) } else { staying }
}

/// Gives remote positions `most` of the tier, if they have more; whether they had.
fn rescale(tier: &mut Vec<(u32, u64)>, here: impl Fn(u32) -> bool, most: f64, wished: u128) -> bool {
    let sum = |local: bool| -> u128 {
        tier.iter().filter(|(at, _)| here(*at) == local).map(|(_, weight)| u128::from(*weight)).sum()
    };
    let (local, remote) = (sum(true), sum(false));
    // Between 0 and PARTS; NaN becomes 0.
    let most = ((most.clamp(0.0, 1.0) * PARTS as f64) as u128).min(PARTS);
    if wished != u128::MAX && remote * PARTS <= (local + remote) * most {
        return false;
    }
    let scaled = tier.iter().map(|(at, weight)| {
        let part = if here(*at) { remote * (PARTS - most) } else { local * most };
        (*at, u128::from(*weight).saturating_mul(part))
    });
    *tier = narrow(scaled.collect());
    true
}

#[cfg(test)]
pub(crate) mod tests;
