//! What would be other if one version answered in place of another: both answers to one caller over one snapshot, compared
//! by where they send lookups.

use crate::locality;
use crate::names::ZoneName;
use crate::plan::{Clamped, ReadyPlan, ReadyPlans, ReadyTier, WHOLE_SHARE};
use crate::rollout::{Evidence, Pair};
use crate::snapshot::{Place, Snapshot};
use smol_str::SmolStr;
use std::collections::BTreeMap;

/// Where the lookups of one caller go, in parts of one: what really answers them, the native fallback included.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Spread {
    /// By position in the snapshot.
    pub positions: BTreeMap<u32, f64>,
    /// Of these, what the native fallback answers because the policy's plans name nothing that may receive traffic.
    pub native: f64,
    /// Refused on purpose.
    pub refused: f64,
    /// Given nothing: neither the policy's plans nor the native fallback have anything that may receive traffic.
    pub nothing: f64,
}

impl Spread {
    /// What lookups without key come to, by expectation, for a caller in `zone` of whom the plans over the snapshot are.
    #[must_use]
    pub fn of(plans: &ReadyPlans, snapshot: &Snapshot, zone: Option<&ZoneName>) -> Self {
        let mut spread = Self::default();
        for (plan, share) in plans.plans.iter().zip(&plans.shares) {
            let share = f64::from(*share) / f64::from(WHOLE_SHARE);
            match plan {
                ReadyPlan::Refused => spread.refused += share,
                ReadyPlan::NothingEligible => spread.answer_natively(share, snapshot, zone),
                ReadyPlan::Tiers(tiers) => spread.draw(share, tiers),
            }
        }
        spread
    }

    fn answer_natively(&mut self, share: f64, snapshot: &Snapshot, zone: Option<&ZoneName>) {
        match locality::fallback(snapshot, zone).plans.first() {
            Some(ReadyPlan::Tiers(tiers)) => {
                self.native += share;
                self.draw(share, tiers);
            }
            Some(ReadyPlan::NothingEligible | ReadyPlan::Refused) | None => self.nothing += share,
        }
    }

    /// Later tiers answer only when nothing of the first may receive traffic any more.
    fn draw(&mut self, share: f64, tiers: &[ReadyTier]) {
        let Some(tier) = tiers.first() else { return };
        let total = tier.total_weight() as f64;
        for (at, weight) in tier.endpoints.iter().zip(&tier.weights) {
            *self.positions.entry(*at).or_default() += share * (*weight as f64) / total;
        }
    }

    /// The share that moves when `other` answers instead: half the sum of all differences.
    #[must_use]
    pub fn distance(&self, other: &Self) -> f64 {
        let at = |spread: &Self, position| spread.positions.get(position).copied().unwrap_or(0.0);
        let only_there = other.positions.keys().filter(|position| !self.positions.contains_key(position));
        let moved: f64 =
            self.positions.keys().chain(only_there).map(|p| (at(self, p) - at(other, p)).abs()).sum();
        let rest = (self.refused - other.refused).abs() + (self.nothing - other.nothing).abs();
        ((moved + rest) / 2.0).min(1.0)
    }

    /// What the policy itself does not answer.
    fn unanswered(&self) -> f64 {
        self.refused + self.native + self.nothing
    }

    /// By zone of this region or other region.
    #[must_use]
    pub fn places(&self, snapshot: &Snapshot) -> BTreeMap<SmolStr, f64> {
        let mut places = BTreeMap::new();
        for (position, share) in &self.positions {
            let name = match snapshot.place(*position) {
                Some(Place::Here(endpoint)) => SmolStr::new(endpoint.zone().as_str()),
                Some(Place::There(remote, _)) => SmolStr::new(remote.region.as_str()),
                None => continue,
            };
            *places.entry(name).or_default() += share;
        }
        places
    }
}

/// Two versions' answers to one caller, compared.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contrast {
    /// The share of lookups without key whose answer would differ.
    pub changed: f64,
    /// The share that the policy leaves without an answer: refused, or given nothing by its plans, also where the native
    /// fallback then finds something.
    pub refused: Pair,
    /// Where the shares go.
    pub places: BTreeMap<SmolStr, Pair>,
    /// What the host took out of the second one's plans.
    pub clamped: Clamped,
}

impl Contrast {
    /// Compares the answers to a caller in `zone`.
    #[must_use]
    pub fn of(before: &ReadyPlans, after: &ReadyPlans, snapshot: &Snapshot, zone: Option<&ZoneName>) -> Self {
        let spread = |plans| Spread::of(plans, snapshot, zone);
        let (first, second) = (spread(before), spread(after));
        let mut places: BTreeMap<SmolStr, Pair> = BTreeMap::new();
        for (place, share) in first.places(snapshot) {
            places.entry(place).or_default().before = share;
        }
        for (place, share) in second.places(snapshot) {
            places.entry(place).or_default().after = share;
        }
        Self {
            changed: first.distance(&second),
            refused: Pair { before: first.unanswered(), after: second.unanswered() },
            places,
            clamped: after.clamped,
        }
    }

    /// Adds so many lookups of this caller to what was seen.
    pub fn weigh(&self, lookups: u64, into: &mut Evidence) {
        let weight = lookups as f64;
        let scaled = |pair: Pair| Pair { before: pair.before * weight, after: pair.after * weight };
        into.changed += self.changed * weight;
        let refused = scaled(self.refused);
        into.refused.before += refused.before;
        into.refused.after += refused.after;
        self.places.iter().for_each(|(place, pair)| into.place(place, scaled(*pair)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::share::tests::snapshot;

    fn plans(plans: Vec<(u32, Option<Vec<(u32, u64)>>)>) -> ReadyPlans {
        let (shares, plans): (Vec<u32>, Vec<ReadyPlan>) = plans
            .into_iter()
            .map(|(share, tier)| {
                let plan = match tier {
                    None => ReadyPlan::Refused,
                    Some(tier) => match ReadyTier::new(0, SmolStr::default(), tier.into_iter()) {
                        Some(tier) => ReadyPlan::Tiers(Box::new([tier])),
                        None => ReadyPlan::NothingEligible,
                    },
                };
                (share, plan)
            })
            .unzip();
        ReadyPlans { plans: plans.into(), shares: shares.into(), clamped: Clamped::default() }
    }

    fn spread(plans: &ReadyPlans) -> Spread {
        Spread::of(plans, &snapshot(0, 1, Vec::new(), 1.0), None)
    }

    fn near(actual: f64, expected: f64) {
        assert!((actual - expected).abs() < 1e-9, "{actual}, not {expected}");
    }

    #[test]
    fn the_distance_is_what_moves() {
        let even = spread(&plans(vec![(10_000, Some(vec![(0, 1), (1, 1)]))]));
        let one = spread(&plans(vec![(10_000, Some(vec![(0, 7)]))]));
        let mixed = spread(&plans(vec![(2_500, Some(vec![(0, 1)])), (7_500, Some(vec![(0, 1), (1, 1)]))]));
        near(even.distance(&one), 0.5);
        near(one.distance(&even), 0.5);
        near(even.distance(&even.clone()), 0.0);
        near(even.distance(&mixed), 0.125);
        let refusing = spread(&plans(vec![(10_000, None)]));
        near(even.distance(&refusing), 1.0);
        let nothing = spread(&plans(vec![(10_000, Some(vec![]))]));
        near(nothing.nothing, 1.0);
        near(refusing.distance(&nothing), 1.0);
    }

    /// Lookups that a policy gives nobody are answered all the same: nothing moves where the fallback answers as the policy did.
    #[test]
    fn what_the_native_fallback_answers_goes_where_it_sends_it() {
        let snapshot = snapshot(2, 0, Vec::new(), 1.0);
        let nobody = plans(vec![(5_000, Some(vec![])), (5_000, Some(vec![(0, 1)]))]);
        let found = Spread::of(&nobody, &snapshot, None);
        near(found.native, 0.5);
        near(found.nothing, 0.0);
        near(found.positions[&0], 0.75);
        near(found.positions[&1], 0.25);
        let even = plans(vec![(10_000, Some(vec![(0, 1), (1, 1)]))]);
        let contrast = Contrast::of(&even, &plans(vec![(10_000, Some(vec![]))]), &snapshot, None);
        near(contrast.changed, 0.0);
        near(contrast.places.values().map(|pair| pair.after).sum(), 1.0);
        // A version that names nobody is not therefore a good one.
        assert_eq!(contrast.refused, Pair { before: 0.0, after: 1.0 });
    }
}
