//! A policy's answer, and the same answer expanded once into tables from which a lookup draws.

use crate::selection::AliasTable;
use crate::share;
use crate::snapshot::Snapshot;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

/// At most this many plans in a view (DESIGN 7).
pub const MAX_PLANS: usize = 256;
/// At most this many tiers in a plan. Envoy knows 128 priorities; nobody reads more than a few.
pub const MAX_TIERS: usize = 64;
/// Shares of plans are parts of this.
pub const WHOLE_SHARE: u32 = 10_000;
/// Longest reason of a tier that is kept, in bytes; the rest is cut.
pub const MAX_REASON_BYTES: usize = 128;

/// Where a choice leads: positions in what the policy was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// An endpoint of this region.
    Endpoint(u32),
    /// A remote region, or one subset of it.
    Remote {
        /// Position among the remotes.
        remote: u32,
        /// Position among that remote's subsets.
        subset: Option<u32>,
    },
}

/// A destination and how much of its tier it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Where to.
    pub destination: Destination,
    /// Final: the endpoint's own weight does not come on top. Zero gets nothing.
    pub weight: u32,
}

/// Destinations of one rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tier {
    /// The destinations.
    pub choices: Vec<Choice>,
    /// Why this tier is what it is, for people.
    pub reason: String,
}

/// Ordered tiers; the first that has something eligible is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Parts in 10,000 of the lookups without key that get this plan.
    pub share: u32,
    /// No tiers at all: the policy refuses.
    pub tiers: Vec<Tier>,
}

/// Why a policy's answer cannot be used. The caller of the policy gets the next one in the chain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Nonsense {
    /// A view without plans has nothing that `route` could name.
    #[error("the view has no plans")]
    NoPlans,
    /// See [`MAX_PLANS`].
    #[error("the view has {0} plans, more than {MAX_PLANS}")]
    TooManyPlans(usize),
    /// See [`MAX_TIERS`].
    #[error("plan {plan} has {tiers} tiers, more than {MAX_TIERS}")]
    TooManyTiers {
        /// Which plan.
        plan: usize,
        /// How many.
        tiers: usize,
    },
    /// More choices than there are destinations.
    #[error("plan {plan}, tier {tier} has {choices} choices for {destinations} destinations")]
    TooManyChoices {
        /// Which plan.
        plan: usize,
        /// Which tier.
        tier: usize,
        /// How many.
        choices: usize,
        /// Of how many: endpoints, remotes and their subsets.
        destinations: usize,
    },
    /// A position that was never shown.
    #[error("plan {plan}, tier {tier} names {what} {position}, which does not exist")]
    OutOfRange {
        /// Which plan.
        plan: usize,
        /// Which tier.
        tier: usize,
        /// Endpoint, remote or subset.
        what: &'static str,
        /// Which.
        position: u32,
    },
    /// The same destination twice in one tier.
    #[error("plan {plan}, tier {tier} names {what} {position} twice")]
    Duplicate {
        /// Which plan.
        plan: usize,
        /// Which tier.
        tier: usize,
        /// Endpoint, remote or subset.
        what: &'static str,
        /// Which.
        position: u32,
    },
    /// The shares are parts of a whole.
    #[error("the shares of the plans add up to {0}, not to {WHOLE_SHARE}")]
    Shares(u64),
}

/// One tier, ready to be drawn from: only eligible endpoints, at least one.
#[derive(Clone, Debug)]
pub struct ReadyTier {
    /// The tier's number in the policy's plan: tiers with nothing eligible leave a gap.
    pub number: u32,
    /// Why the policy made it.
    pub reason: SmolStr,
    /// Positions in the snapshot, see [`Snapshot::place`].
    pub endpoints: Box<[u32]>,
    /// The weight of each, none zero.
    pub weights: Box<[u64]>,
    /// For draws without key.
    pub alias: AliasTable,
}

impl ReadyTier {
    /// A tier of these; `None` if it is empty.
    #[must_use]
    pub fn new(number: u32, reason: SmolStr, choices: impl Iterator<Item = (u32, u64)>) -> Option<Self> {
        let (endpoints, weights): (Vec<u32>, Vec<u64>) = choices.filter(|(_, weight)| *weight > 0).unzip();
        let alias = AliasTable::new(&weights)?;
        Some(Self { number, reason, endpoints: endpoints.into(), weights: weights.into(), alias })
    }

    /// The sum of the weights; greater than zero.
    #[must_use]
    pub fn total_weight(&self) -> u64 {
        // A sum beyond is only a share that is shown too small; it must not end the lookup.
        self.weights.iter().fold(0, |sum, weight| sum.saturating_add(*weight))
    }
}

/// What one plan comes to.
#[derive(Clone, Debug)]
pub enum ReadyPlan {
    /// The policy gave no tiers on purpose.
    Refused,
    /// The policy gave tiers, and nothing in them may receive traffic: the native fallback answers.
    NothingEligible,
    /// At least one tier.
    Tiers(Box<[ReadyTier]>),
}

/// All plans of one view over one snapshot, ready for lookups.
#[derive(Clone, Debug)]
pub struct ReadyPlans {
    /// In the policy's order: `route` names positions in this list.
    pub plans: Box<[ReadyPlan]>,
    /// The share of each; they add up to [`WHOLE_SHARE`].
    pub shares: Box<[u32]>,
    /// What the host took out.
    pub clamped: Clamped,
}

/// What a policy wished for and the host did not give.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Clamped {
    /// Choices of endpoints that may not receive traffic.
    pub ineligible: u32,
    /// Plans that would send more to other regions than the binding allows.
    pub remote_share: u32,
}

impl Clamped {
    /// Of each, what both come to.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            ineligible: self.ineligible.saturating_add(other.ineligible),
            remote_share: self.remote_share.saturating_add(other.remote_share),
        }
    }

    /// Of each, the more.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            ineligible: self.ineligible.max(other.ineligible),
            remote_share: self.remote_share.max(other.remote_share),
        }
    }
}

/// Checks a view's plans against the snapshot that the policy was shown and expands them.
///
/// # Errors
/// The first nonsense found: the whole view is then unusable.
pub fn expand(plans: &[Plan], snapshot: &Snapshot) -> Result<ReadyPlans, Nonsense> {
    let subsets = snapshot.remotes.iter().map(|remote| remote.summary.subsets.len());
    let shares = check(plans, snapshot.endpoints.len(), subsets)?;
    let mut clamped = Clamped::default();
    let plans = plans.iter().map(|plan| expand_plan(plan, snapshot, &mut clamped)).collect();
    Ok(ReadyPlans { plans, shares, clamped })
}

/// Checks a view's plans against what the policy was shown: how many endpoints, and how many subsets of each remote. Gives
/// the shares.
///
/// # Errors
/// The first nonsense found.
pub fn check(
    plans: &[Plan],
    endpoints: usize,
    subsets: impl Iterator<Item = usize>,
) -> Result<Box<[u32]>, Nonsense> {
    if plans.is_empty() {
        return Err(Nonsense::NoPlans);
    }
    if plans.len() > MAX_PLANS {
        return Err(Nonsense::TooManyPlans(plans.len()));
    }
    let total: u64 = plans.iter().map(|p| u64::from(p.share)).sum();
    let shares: Box<[u32]> = match plans {
        [_] => Box::new([WHOLE_SHARE]),
        _ if total == u64::from(WHOLE_SHARE) => plans.iter().map(|p| p.share).collect(),
        _ => return Err(Nonsense::Shares(total)),
    };
    let mut shown = Shown::new(endpoints, subsets);
    for (number, plan) in plans.iter().enumerate() {
        if plan.tiers.len() > MAX_TIERS {
            return Err(Nonsense::TooManyTiers { plan: number, tiers: plan.tiers.len() });
        }
        for (tier_number, tier) in plan.tiers.iter().enumerate() {
            shown.check(number, tier_number, tier)?;
        }
    }
    Ok(shares)
}

/// Every destination that a policy was shown, in one row: endpoints, then each remote followed by its subsets. Each says
/// in which tier it was last named, so that a tier is checked in one pass.
struct Shown {
    named_in: Vec<usize>,
    endpoints: usize,
    /// Where each remote stands in the row.
    remotes: Vec<usize>,
    tiers: usize,
}

impl Shown {
    fn new(endpoints: usize, subsets: impl Iterator<Item = usize>) -> Self {
        let mut row = endpoints;
        let mut remotes = Vec::new();
        for subsets in subsets {
            remotes.push(row);
            row += 1 + subsets;
        }
        Self { named_in: vec![usize::MAX; row], endpoints, remotes, tiers: 0 }
    }

    fn place(&self, destination: Destination) -> Result<usize, (&'static str, u32)> {
        match destination {
            Destination::Endpoint(at) if (at as usize) < self.endpoints => Ok(at as usize),
            Destination::Endpoint(at) => Err(("endpoint", at)),
            Destination::Remote { remote, subset } => {
                let start = self.remotes.get(remote as usize).copied().ok_or(("remote", remote))?;
                let end = self.remotes.get(remote as usize + 1).copied().unwrap_or(self.named_in.len());
                match subset {
                    None => Ok(start),
                    Some(subset) => {
                        let at = start.saturating_add(1).saturating_add(subset as usize);
                        if at < end { Ok(at) } else { Err(("subset", subset)) }
                    }
                }
            }
        }
    }

    fn check(&mut self, plan: usize, number: usize, tier: &Tier) -> Result<(), Nonsense> {
        let this = self.tiers;
        self.tiers += 1;
        let (choices, destinations) = (tier.choices.len(), self.named_in.len());
        // One that was never shown says more than how many there are.
        let known = tier.choices.iter().take(destinations + 1).all(|c| self.place(c.destination).is_ok());
        if choices > destinations && known {
            return Err(Nonsense::TooManyChoices { plan, tier: number, choices, destinations });
        }
        for choice in &tier.choices {
            let place = self.place(choice.destination).map_err(|(what, position)| Nonsense::OutOfRange {
                plan,
                tier: number,
                what,
                position,
            })?;
            match self.named_in.get_mut(place) {
                Some(last) if *last == this => {
                    let (what, position) = match choice.destination {
                        Destination::Endpoint(at) => ("endpoint", at),
                        Destination::Remote { remote, subset: None } => ("remote", remote),
                        Destination::Remote { subset: Some(subset), .. } => ("subset", subset),
                    };
                    return Err(Nonsense::Duplicate { plan, tier: number, what, position });
                }
                Some(last) => *last = this,
                None => {}
            }
        }
        Ok(())
    }
}

fn expand_plan(plan: &Plan, snapshot: &Snapshot, clamped: &mut Clamped) -> ReadyPlan {
    if plan.tiers.is_empty() {
        return ReadyPlan::Refused;
    }
    let mut weights: Vec<_> = plan.tiers.iter().map(|tier| share::spread(&tier.choices, snapshot)).collect();
    let ineligible =
        plan.tiers.iter().flat_map(|tier| &tier.choices).filter(|choice| match choice.destination {
            Destination::Endpoint(at) => choice.weight > 0 && !snapshot.is_eligible(at),
            Destination::Remote { .. } => false,
        });
    let ineligible = u32::try_from(ineligible.count()).unwrap_or(u32::MAX);
    clamped.ineligible = clamped.ineligible.saturating_add(ineligible);
    if share::hold_remote_share(&mut weights, snapshot) {
        clamped.remote_share = clamped.remote_share.saturating_add(1);
    }
    let tiers: Vec<ReadyTier> = plan
        .tiers
        .iter()
        .zip(weights)
        .zip(0..)
        .filter_map(|((tier, weights), number)| {
            ReadyTier::new(number, short_reason(&tier.reason), weights.into_iter())
        })
        .collect();
    if tiers.is_empty() { ReadyPlan::NothingEligible } else { ReadyPlan::Tiers(tiers.into()) }
}

/// At most [`MAX_REASON_BYTES`] of it.
pub(crate) fn short_reason(reason: &str) -> SmolStr {
    let end = (0..=MAX_REASON_BYTES.min(reason.len())).rev().find(|at| reason.is_char_boundary(*at));
    SmolStr::new(reason.get(..end.unwrap_or(0)).unwrap_or_default())
}
