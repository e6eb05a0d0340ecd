//! Which lookups a canary answers, and what a caller of both sides gets.

use crate::view::View;
use meridian_model::binding::{NAMESPACE_DEFAULT, Source};
use meridian_model::plan::{Clamped, ReadyPlans, WHOLE_SHARE};
use meridian_model::selection::{Words, endpoint_hash, mix};
use meridian_model::snapshot::Snapshot;
use std::sync::Arc;

/// How lookups are parted between the active version and a canary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Split {
    /// The binding's own, so that two bindings do not try their canaries on the same keys.
    salt: u64,
    threshold: u64,
}

impl Split {
    /// How the binding in force parts them; `None` without a canary.
    pub(crate) fn of(snapshot: &Snapshot) -> Option<Self> {
        let threshold = snapshot.binding.candidate.as_ref()?.threshold();
        let name = match snapshot.binding.source {
            Source::Own => snapshot.key.service.as_str(),
            Source::Namespace | Source::BuiltIn => NAMESPACE_DEFAULT,
        };
        let salt = mix(endpoint_hash(snapshot.key.namespace.as_str())) ^ endpoint_hash(name);
        (threshold > 0).then_some(Self { salt, threshold })
    }

    /// Whether a lookup is the canary's. A growing percentage only adds keys.
    #[inline]
    pub(crate) fn takes(self, words: Words) -> bool {
        mix(words.rollout ^ self.salt) < self.threshold
    }

    /// The canary's part of the whole.
    fn parts(self) -> u32 {
        let parts = (u128::from(self.threshold) * u128::from(WHOLE_SHARE)).div_ceil(1 << 64);
        u32::try_from(parts).unwrap_or(WHOLE_SHARE).min(WHOLE_SHARE)
    }

    /// What lookups without key come to, over both sides: the active one's plans, then the canary's.
    pub(crate) fn merge(self, active: &View, canary: &View) -> View {
        let parts = [(active, WHOLE_SHARE - self.parts()), (canary, self.parts())];
        let mut shares = Vec::new();
        for (view, part) in parts {
            let from = shares.len();
            let scaled =
                view.plans.shares.iter().map(|s| u64::from(*s) * u64::from(part) / u64::from(WHOLE_SHARE));
            shares.extend(scaled.map(|share| u32::try_from(share).unwrap_or(part)));
            // What rounding lost goes to the side's greatest plan, so that the shares add up.
            let sum: u32 = shares.iter().skip(from).sum();
            if let Some(greatest) = shares.iter_mut().skip(from).max() {
                *greatest += part - sum.min(part);
            }
        }
        let plans = active.plans.plans.iter().chain(&canary.plans.plans).cloned().collect();
        let plans = ReadyPlans { plans, shares: shares.into(), clamped: Clamped::default() };
        active.with_plans(Arc::new(plans))
    }
}
