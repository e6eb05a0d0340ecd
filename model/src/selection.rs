//! Choosing endpoints from the tiers of a plan: by weight without a key, by weighted rendezvous hashing with one.
//!
//! Everything is a pure function of its arguments and uses integer arithmetic or [`libm`], never the platform's
//! mathematics, so that gateways and clients on different machines agree on every key.

use crate::plan::ReadyTier;

/// The key of a lookup: XXH3-64 of its UTF-8 bytes with seed 0; 0, which means "no key", is mapped to 1.
#[must_use]
pub fn key_hash(key: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64(key.as_bytes()).max(1)
}

/// What stands for an endpoint in rendezvous hashing: XXH3-64 of its id with seed 0.
#[must_use]
pub fn endpoint_hash(id: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64(id.as_bytes())
}

/// The finaliser of splitmix64 (Steele, Lea, Flood 2014): a bijection that spreads every bit.
#[must_use]
pub const fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// Independent words drawn from one seed by splitmix64, one for each decision of a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Words {
    /// Decides whether a candidate policy answers.
    pub rollout: u64,
    /// Given to the policy.
    pub route: u64,
    /// Draws the endpoint.
    pub pick: u64,
}

impl Words {
    /// The words of `seed`: the entropy of a lookup without key, the hash of its key with one.
    #[must_use]
    pub const fn of(seed: u64) -> Self {
        const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
        let first = seed.wrapping_add(GAMMA);
        let second = first.wrapping_add(GAMMA);
        Self { rollout: mix(first), route: mix(second), pick: mix(second.wrapping_add(GAMMA)) }
    }
}

/// Walker's alias method (Vose 1991): one multiplication and one comparison per draw, whatever the weights.
#[derive(Clone, Debug)]
pub struct AliasTable {
    /// Per slot: below this (as a part of 2^32) the slot itself, else its alias.
    slots: Box<[(u32, u32)]>,
}

impl AliasTable {
    /// The table of `weights`; `None` if there are none, or all are zero, or there are 2^32.
    #[must_use]
    pub fn new(weights: &[u64]) -> Option<Self> {
        let count = u32::try_from(weights.len()).ok().filter(|n| *n > 0)?;
        let total: u128 = weights.iter().map(|w| u128::from(*w)).sum();
        if total == 0 {
            return None;
        }
        // Each slot holds `total`; a weight fills `weight * count` of all `total * count`.
        let mut fill: Vec<u128> = weights.iter().map(|w| u128::from(*w) * u128::from(count)).collect();
        let mut slots: Vec<(u32, u32)> = (0..count).map(|n| (u32::MAX, n)).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) =
            (0..fill.len()).partition(|n| fill[*n] < total);
        while let (Some(low), Some(high)) = (small.pop(), large.pop()) {
            let part = (fill[low] << 32) / total;
            slots[low] = (u32::try_from(part).unwrap_or(u32::MAX), u32::try_from(high).unwrap_or(0));
            fill[high] -= total - fill[low];
            if fill[high] < total { small.push(high) } else { large.push(high) }
        }
        Some(Self { slots: slots.into() })
    }

    /// The position that `word` draws.
    #[must_use]
    pub fn draw(&self, word: u64) -> usize {
        let position = ((word >> 32) * self.slots.len() as u64) >> 32;
        let coin = word as u32;
        let position = position as usize;
        match self.slots.get(position) {
            Some((threshold, alias)) if coin >= *threshold => *alias as usize,
            _ => position,
        }
    }
}

/// The score of weighted rendezvous hashing (Schindelhauer, Schomaker 2005): `weight / -ln(u)` for a `u` in (0, 1) that
/// the hash gives. The greatest wins; removing an endpoint moves only what it held.
#[must_use]
pub fn score(hash: u64, weight: u64) -> f64 {
    // 53 bits, moved off zero and one by half a step, so that the logarithm is finite and not zero.
    let u = ((hash >> 11) as f64 + 0.5) * (1.0 / 9_007_199_254_740_992.0);
    weight as f64 / -libm::log(u)
}

/// The first endpoint of a tier for a key, as a position in the tier, among those that `eligible` lets through.
pub fn first_for_key(
    tier: &ReadyTier,
    key: u64,
    hash_of: impl Fn(u32) -> u64,
    eligible: impl Fn(u32) -> bool,
) -> Option<usize> {
    let salt = Words::of(key).pick;
    let mut best: Option<(f64, usize)> = None;
    for (position, (endpoint, weight)) in tier.endpoints.iter().zip(&tier.weights).enumerate() {
        let score = score(mix(hash_of(*endpoint) ^ salt), *weight);
        // Positions follow the order of ids, so `>` breaks ties the same way everywhere.
        if best.is_none_or(|(s, _)| score > s) && eligible(*endpoint) {
            best = Some((score, position));
        }
    }
    best.map(|(_, position)| position)
}

/// One endpoint of a tier drawn by weight, as a position in the tier, among those that `eligible` lets through.
pub fn draw(tier: &ReadyTier, pick: u64, eligible: impl Fn(u32) -> bool) -> Option<usize> {
    let position = tier.alias.draw(pick);
    if tier.endpoints.get(position).is_some_and(|e| eligible(*e)) {
        return Some(position);
    }
    // Endpoints left since the table was made: an exact draw among the rest, still by weight.
    ranked(tier, |n, _| mix(pick ^ mix(n as u64 + 1)), eligible).first().copied()
}

/// All eligible endpoints of a tier for a key, best first, as positions in the tier.
pub fn ranked_for_key(
    tier: &ReadyTier,
    key: u64,
    hash_of: impl Fn(u32) -> u64,
    eligible: impl Fn(u32) -> bool,
) -> Vec<usize> {
    let salt = Words::of(key).pick;
    ranked(tier, |_, endpoint| mix(hash_of(endpoint) ^ salt), eligible)
}

/// All eligible endpoints of a tier in the order of a weighted draw without replacement (Efraimidis, Spirakis 2006), as
/// positions in the tier.
pub fn shuffled(tier: &ReadyTier, pick: u64, eligible: impl Fn(u32) -> bool) -> Vec<usize> {
    ranked(tier, |n, _| mix(pick ^ mix(n as u64 + 1)), eligible)
}

fn ranked(tier: &ReadyTier, hash: impl Fn(usize, u32) -> u64, eligible: impl Fn(u32) -> bool) -> Vec<usize> {
    let mut scored: Vec<(f64, usize)> = tier
        .endpoints
        .iter()
        .zip(&tier.weights)
        .enumerate()
        .filter(|(_, (endpoint, _))| eligible(**endpoint))
        .map(|(position, (endpoint, weight))| (score(hash(position, *endpoint), *weight), position))
        .collect();
    scored.sort_unstable_by(|(a, at), (b, bt)| b.total_cmp(a).then(at.cmp(bt)));
    scored.into_iter().map(|(_, position)| position).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use smol_str::SmolStr;

    fn tier(weights: &[u64]) -> ReadyTier {
        ReadyTier::new(0, SmolStr::default(), (0..).zip(weights.iter().copied())).unwrap()
    }

    proptest! {
        #[test]
        fn the_alias_table_gives_each_weight_its_share(weights in prop::collection::vec(1u64..10_000, 1..40)) {
            let table = AliasTable::new(&weights).unwrap();
            let total: u64 = weights.iter().sum();
            let mut hits = vec![0f64; weights.len()];
            // Exact shares from the table itself: what each slot keeps and what it hands on.
            for (n, (threshold, alias)) in table.slots.iter().enumerate() {
                let kept = if *alias as usize == n { 1.0 } else { f64::from(*threshold) / 4_294_967_296.0 };
                hits[n] += kept;
                hits[*alias as usize] += 1.0 - kept;
            }
            for (weight, hit) in weights.iter().zip(hits) {
                let want = *weight as f64 / total as f64;
                prop_assert!((hit / weights.len() as f64 - want).abs() < 1e-6);
            }
        }

        #[test]
        fn a_shuffle_is_a_permutation_of_the_eligible(weights in prop::collection::vec(1u64..100, 1..30), pick: u64) {
            let tier = tier(&weights);
            let mut order = shuffled(&tier, pick, |e| e % 3 != 0);
            order.sort_unstable();
            let want: Vec<usize> = (0..weights.len()).filter(|n| n % 3 != 0).collect();
            prop_assert_eq!(order, want);
        }

        #[test]
        fn the_first_for_a_key_leads_its_ranking(weights in prop::collection::vec(1u64..100, 1..30), key: u64) {
            let tier = tier(&weights);
            let hash = |e: u32| endpoint_hash(&format!("i-{e}"));
            let ranking = ranked_for_key(&tier, key, hash, |_| true);
            prop_assert_eq!(first_for_key(&tier, key, hash, |_| true), ranking.first().copied());
        }
    }

    #[test]
    fn removing_one_of_n_moves_only_what_it_held() {
        let hash = |e: u32| endpoint_hash(&format!("orders-{e}"));
        let (keys, n) = (20_000u64, 20u32);
        let tier = tier(&vec![100; n as usize]);
        let mut moved = 0;
        for key in 1..=keys {
            let before = first_for_key(&tier, mix(key), hash, |_| true).unwrap();
            let after = first_for_key(&tier, mix(key), hash, |e| e != 7).unwrap();
            if before != after {
                assert_eq!(before, 7, "only keys of the removed endpoint may move");
                moved += 1;
            }
        }
        let share = f64::from(moved) / keys as f64;
        assert!((share - 1.0 / f64::from(n)).abs() < 0.01, "{share}");
    }

    #[test]
    fn keys_spread_by_weight() {
        let hash = |e: u32| endpoint_hash(&format!("orders-{e}"));
        let tier = tier(&[100, 300]);
        let heavy =
            (1..=40_000u64).filter(|k| first_for_key(&tier, mix(*k), hash, |_| true) == Some(1)).count();
        assert!((heavy as f64 / 40_000.0 - 0.75).abs() < 0.01, "{heavy}");
    }

    #[test]
    fn draws_follow_weights_also_when_some_left() {
        let tier = tier(&[100, 300, 600]);
        let mut counts = [0u32; 3];
        for n in 0..60_000u64 {
            counts[draw(&tier, mix(n), |e| e != 2).unwrap()] += 1;
        }
        assert_eq!(counts[2], 0);
        // The 600's draws are drawn again between 100 and 300.
        assert!((f64::from(counts[1]) / 60_000.0 - 0.75).abs() < 0.01, "{counts:?}");
    }

    #[test]
    fn known_values_hold_on_every_platform() {
        // Clients in other languages rank with these; a change here breaks stickiness for all of them.
        assert_eq!(key_hash("customer-42"), xxhash_rust::xxh3::xxh3_64(b"customer-42"));
        assert_eq!(Words::of(0).rollout, 0xe220_a839_7b1d_cdaf);
        assert_eq!(Words::of(0).route, 0x6e78_9e6a_a1b9_65f4);
        assert_eq!(Words::of(0).pick, 0x06c4_5d18_8009_454f);
    }
}
