//! Lookups off the hot path: from an evaluation to a routed lookup.

use crate::host::Evaluation;
use crate::pick::Routed;
use meridian_model::plan::WHOLE_SHARE;
use meridian_model::selection::Words;

impl Evaluation {
    /// A lookup by this evaluation. With a key it is the plan that the policy routed the key to; without, one of the plans
    /// drawn by their shares, which is what the shares mean.
    #[must_use]
    pub fn routed(&self, key: Option<u64>, seed: u64) -> Routed<'_> {
        let words = Words::of(key.unwrap_or(seed));
        let plan = self.plan.unwrap_or_else(|| {
            let mut left = ((words.route >> 32) * u64::from(WHOLE_SHARE)) >> 32;
            let shares = self.view.plans.shares.iter().map(|share| u64::from(*share));
            shares
                .enumerate()
                .find_map(|(plan, share)| {
                    let here = left < share;
                    left = left.saturating_sub(share);
                    here.then_some(plan)
                })
                .unwrap_or(0)
        });
        Routed::new(&self.view, plan, key, words)
    }
}
