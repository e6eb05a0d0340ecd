//! How old an origin's state is, by this process's clock alone.
//!
//! A beat says that a state was the origin's newest some time before it was sent. It was sent after its ping, so the
//! moment when the ping went, less that time, is one at which the state was the newest. The claim is worth no more than
//! that, however late it comes and whatever pauses lie between.

use super::limits;
use super::{Freshness, Standing};
use crate::planted::planted;
use meridian_model::time::Monotonic;
use std::time::Duration;

/// A moment at which what is held was the origin's newest. In milliseconds by this process's clock; below zero where
/// that was before the clock began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Proof(i64);

impl Proof {
    /// Before anything that can be proven.
    pub(super) const LONG_AGO: Self = Self(i64::MIN);

    /// What `age_ms` says that was answered to a question of `asked`.
    pub(super) fn new(asked: Monotonic, age_ms: u64) -> Self {
        Self(signed(asked.0).saturating_sub(signed(age_ms)))
    }

    /// How long ago that was.
    pub(super) fn age_ms(self, now: Monotonic) -> u64 {
        u64::try_from(signed(now.0).saturating_sub(self.0)).unwrap_or(0)
    }
}

#[cfg(test)]
impl Proof {
    /// What a clock that stood still for `gap` would make of it.
    pub(super) fn forgive(&mut self, gap: Duration) {
        self.0 = self.0.saturating_add(signed(u64::try_from(gap.as_millis()).unwrap_or(u64::MAX)));
    }
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

impl Freshness {
    /// What an age is called.
    #[must_use]
    pub fn of(age: Option<Duration>) -> Self {
        match age {
            Some(age) if age < limits::FRESH_BELOW => Self::Fresh,
            Some(age) if age < limits::SUSPECT_BELOW => Self::Suspect,
            _ => Self::Stale,
        }
    }
}

impl Standing {
    pub(super) fn of(now: Monotonic, proof: Option<Proof>, path: PathSeen) -> Self {
        let age = proof.map(|proof| Duration::from_millis(proof.age_ms(now)));
        let reachable = path.answered.is_some_and(|at| answers(now, at));
        Self { freshness: Freshness::of(age), age, reachable, round_trip: path.round_trip }
    }

    /// Whether somebody should hear of the difference to what was told before.
    pub(super) fn differs(&self, told: &Self) -> bool {
        let round_trip = match (self.round_trip, told.round_trip) {
            (Some(a), Some(b)) => a.abs_diff(b) > Duration::from_millis(1).max(b / 4),
            (a, b) => a.is_some() != b.is_some(),
        };
        self.freshness != told.freshness || self.reachable != told.reachable || round_trip
    }

    /// When it will differ if nothing comes.
    pub(super) fn turns(now: Monotonic, proof: Option<Proof>, path: PathSeen) -> Option<Monotonic> {
        let last = if planted!(StaleTurnForgotten) { limits::FRESH_BELOW } else { limits::SUSPECT_BELOW };
        let ages = [limits::FRESH_BELOW, last];
        let age = proof.map(|proof| Duration::from_millis(proof.age_ms(now)));
        let older = age.and_then(|age| ages.into_iter().find(|bound| age < *bound).map(|bound| bound - age));
        let older = older.map(|rest| now.plus(rest));
        let silent = path.answered.filter(|at| answers(now, *at)).map(|at| at.plus(limits::REACHABLE_FOR));
        older.into_iter().chain(silent).min()
    }
}

fn answers(now: Monotonic, asked: Monotonic) -> bool {
    now.since(asked) < limits::REACHABLE_FOR
}

/// What is known of direct links to an origin.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PathSeen {
    /// When the latest ping went that was answered.
    pub(super) answered: Option<Monotonic>,
    pub(super) round_trip: Option<Duration>,
}

impl PathSeen {
    /// The best of two links.
    pub(super) fn or(self, other: Self) -> Self {
        let both = self.round_trip.into_iter().chain(other.round_trip);
        let round_trip = if planted!(FarthestShown) { both.max() } else { both.min() };
        Self { answered: self.answered.max(other.answered), round_trip }
    }
}

/// A smoothed round trip: an eighth of each new one counts, as in RFC 6298.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RoundTrip(Option<Duration>);

impl RoundTrip {
    pub(super) fn push(&mut self, sample: Duration) {
        self.0 = Some(self.0.map_or(sample, |old| (old * 7 + sample) / 8));
    }

    pub(super) fn get(self) -> Option<Duration> {
        self.0
    }
}
