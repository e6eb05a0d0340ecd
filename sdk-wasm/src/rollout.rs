//! Which of several plans a lookup gets. This is what runs at every lookup: no allocation, no strings.

use crate::order::order;

/// A plan's place in the choice.
#[derive(Clone, Copy, Debug)]
struct Arm {
    /// From the plan's name and the salt, so that a key's luck with one plan says nothing about another.
    seed: u64,
    /// For lookups with a key.
    weight: f64,
    /// For lookups without: the first of 10,000 parts that is no longer this plan's.
    end: u32,
}

/// The choice between plans, in their order.
#[derive(Debug, Default)]
pub(crate) struct Rollout {
    arms: Box<[Arm]>,
}

/// More arms than this are refused: the last one still has to fit `route`'s budget of fuel many times over.
pub(crate) const MAX_ARMS: usize = 32;

/// What `share` counts in.
pub(crate) const PARTS: u32 = 10_000;

impl Rollout {
    /// Also returns each plan's share in parts of 10,000.
    pub(crate) fn new(salt: &str, arms: &[(&str, u32)]) -> Result<(Self, Vec<u32>), String> {
        if arms.len() > MAX_ARMS {
            return Err(format!("a split of {} plans; {MAX_ARMS} are the most", arms.len()));
        }
        let mut earlier = Vec::with_capacity(arms.len());
        for (name, _) in arms {
            if earlier.contains(name) {
                return Err(format!("a split with two plans named {name}"));
            }
            earlier.push(*name);
        }
        let weights: Vec<u32> = arms.iter().map(|(_, weight)| *weight).collect();
        let shares = shares(&weights).ok_or("a split in which no plan has a weight")?;
        let salt = hash(salt.as_bytes());
        let mut end = 0;
        let arms = arms.iter().zip(&shares).map(|((name, weight), share)| {
            end += share;
            Arm { seed: splitmix64(salt ^ hash(name.as_bytes())), weight: f64::from(*weight), end }
        });
        Ok((Rollout { arms: arms.collect() }, shares))
    }

    /// The position of the plan for this lookup. `key` 0 means that there is none.
    #[inline]
    pub(crate) fn route(&self, key: u64, entropy: u64) -> u32 {
        if self.arms.len() <= 1 {
            0
        } else if key == 0 {
            self.by_share(entropy)
        } else {
            self.by_key(key)
        }
    }

    fn by_share(&self, entropy: u64) -> u32 {
        // The upper half of a mixed word, scaled: its bias is below 10,000 / 2^32.
        let part = (((splitmix64(entropy) >> 32) * u64::from(PARTS)) >> 32) as u32;
        self.arms.iter().position(|arm| part < arm.end).unwrap_or(0) as u32
    }

    /// Weighted rendezvous hashing: each plan draws an exponential waiting time at the rate of its weight, and the first
    /// one to arrive has the key. A greater weight shortens only its own time.
    fn by_key(&self, key: u64) -> u32 {
        let mut first = (f64::INFINITY, 0);
        for (arm, position) in self.arms.iter().zip(0..) {
            let word = splitmix64(key ^ arm.seed);
            // 53 bits, strictly between 0 and 1.
            let uniform = ((word >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
            let time = -uniform.ln() / arm.weight;
            if time < first.0 {
                first = (time, position);
            }
        }
        first.1
    }

    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn heap_bytes(&self) -> usize {
        size_of_val(&*self.arms)
    }
}

/// Weights as parts of 10,000 by largest remainder; a weight above 0 gets at least one part. `None` if all are 0.
fn shares(weights: &[u32]) -> Option<Vec<u32>> {
    let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
    if total == 0 {
        return None;
    }
    let scaled = |weight: u32| u64::from(weight) * u64::from(PARTS);
    let mut shares: Vec<u32> = weights.iter().map(|weight| (scaled(*weight) / total) as u32).collect();
    let remainder = |position: usize| weights.get(position).map_or(0, |weight| scaled(*weight) % total);
    let by_remainder = order(weights.len(), &|one, other| remainder(other).cmp(&remainder(one)));
    let missing = PARTS - shares.iter().sum::<u32>();
    for position in by_remainder.into_iter().take(missing as usize) {
        if let Some(share) = shares.get_mut(position) {
            *share += 1;
        }
    }
    // At most 32 plans, so the largest has parts to spare.
    for position in 0..shares.len() {
        if shares.get(position) == Some(&0) && weights.get(position).is_some_and(|weight| *weight > 0) {
            if let Some(largest) = shares.iter_mut().max() {
                *largest -= 1;
            }
            if let Some(share) = shares.get_mut(position) {
                *share = 1;
            }
        }
    }
    Some(shares)
}

/// FNV-1a, 64 bits. Names are short and hashed when a caller is new; the mixing comes after.
fn hash(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Sebastiano Vigna's finaliser (<https://prng.di.unimi.it/splitmix64.c>).
#[inline]
pub(crate) fn splitmix64(word: u64) -> u64 {
    let mut mixed = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

    fn rollout(weights: &[u32]) -> (Rollout, Vec<u32>) {
        let arms: Vec<(&str, u32)> = NAMES.into_iter().zip(weights.iter().copied()).collect();
        Rollout::new("orders", &arms).unwrap()
    }

    fn weights() -> impl Strategy<Value = Vec<u32>> {
        proptest::collection::vec(prop_oneof![0u32..5, 1u32..20_000], 1..6)
            .prop_filter("some weight", |weights| weights.iter().any(|weight| *weight > 0))
    }

    proptest! {
        #[test]
        fn shares_are_all_parts_and_close_to_the_weights(weights in weights()) {
            let (_, shares) = rollout(&weights);
            prop_assert_eq!(shares.iter().sum::<u32>(), PARTS);
            let total: u32 = weights.iter().sum();
            for (weight, share) in weights.iter().zip(&shares) {
                let exact = f64::from(*weight) * f64::from(PARTS) / f64::from(total);
                prop_assert!((f64::from(*share) - exact).abs() <= 6.0, "{} for {}", share, exact);
                prop_assert_eq!(*share == 0, *weight == 0);
            }
        }

        #[test]
        fn a_growing_weight_only_draws_keys_to_itself(weights in weights(), grows in 0usize..6, by in 1u32..9_000) {
            let grows = grows % weights.len();
            let mut grown = weights.clone();
            grown[grows] += by;
            let (before, after) = (rollout(&weights).0, rollout(&grown).0);
            for key in 1..400u64 {
                let (was, is) = (before.route(key, 0), after.route(key, 0));
                prop_assert!(was == is || is as usize == grows, "key {} went from {} to {}", key, was, is);
            }
        }

        #[test]
        fn a_plan_without_weight_is_never_chosen(weights in weights(), key in any::<u64>(), entropy in any::<u64>()) {
            let chosen = rollout(&weights).0.route(key, entropy) as usize;
            prop_assert!(weights.len() == 1 || weights[chosen] > 0);
        }
    }

    #[test]
    fn keys_and_draws_follow_the_weights() {
        let (rollout, _) = rollout(&[1_000, 9_000]);
        for keyed in [false, true] {
            let first = (1..=100_000u64)
                .filter(|n| {
                    let word = splitmix64(n << 20);
                    rollout.route(if keyed { word } else { 0 }, word) == 0
                })
                .count();
            // Four standard deviations of a binomial are 380.
            assert!((9_620..=10_380).contains(&first), "keyed {keyed}: {first}");
        }
    }

    #[test]
    fn another_salt_draws_other_keys() {
        let arms = [("canary", 1), ("stable", 1)];
        let (one, other) = (Rollout::new("x", &arms).unwrap().0, Rollout::new("y", &arms).unwrap().0);
        let same = (1..=10_000u64).filter(|key| one.route(*key, 0) == other.route(*key, 0)).count();
        assert!((4_800..=5_200).contains(&same), "{same}");
    }

    #[test]
    fn senseless_splits_are_refused() {
        assert!(Rollout::new("", &[]).is_err());
        assert!(Rollout::new("", &[("a", 0)]).is_err());
        assert!(Rollout::new("", &[("a", 1), ("a", 2)]).is_err());
        let names: Vec<String> = (0..33).map(|n| n.to_string()).collect();
        let arms: Vec<(&str, u32)> = names.iter().map(|name| (&**name, 1)).collect();
        assert!(Rollout::new("", &arms).is_err());
    }
}
