//! Randomness that can be drawn again: the same seed gives the same faults.

use std::time::SystemTime;

/// Names the seed of the next run, to repeat one that failed.
const SEED: &str = "MERIDIAN_SEED";

/// SplitMix64 (Steele, Lea, Flood 2014).
pub struct Draw(u64);

impl Draw {
    /// Of `MERIDIAN_SEED`, else of the clock; says which.
    ///
    /// # Panics
    /// Where `MERIDIAN_SEED` is no number.
    #[must_use]
    pub fn of_environment() -> Self {
        let given = std::env::var(SEED).ok().map(|seed| seed.parse().expect("MERIDIAN_SEED is a number"));
        let clock =
            || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().subsec_nanos().into();
        let seed: u64 = given.unwrap_or_else(clock);
        println!("{SEED}={seed}");
        Self(seed)
    }

    /// Below `bound`.
    ///
    /// # Panics
    /// Where `bound` is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % bound as u64).unwrap()
    }
}
