//! What one caller gets from one service, prepared.

use crate::fault::Fault;
use meridian_model::binding::Bound;
use meridian_model::caller::Caller;
use meridian_model::locality;
use meridian_model::names::{PolicyName, PolicyVersion};
use meridian_model::plan::{ReadyPlan, ReadyPlans};
use meridian_model::selection::AliasTable;
use meridian_model::snapshot::Snapshot;
use smol_str::{SmolStr, format_smolstr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// Whose answer it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The bound module ran.
    Ok,
    /// A former version ran, because the bound one could not.
    LastGood {
        /// Why the bound one could not: a word of [`crate::FaultKind`], mostly with details.
        reason: SmolStr,
    },
    /// The native zone fallback answered.
    Fallback {
        /// Why no policy could; also `warming` and `nothing-eligible`.
        reason: SmolStr,
    },
}

impl Outcome {
    /// The word in answers: `ok`, `last-good`, `fallback`.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::LastGood { .. } => "last-good",
            Self::Fallback { .. } => "fallback",
        }
    }

    /// Why it is not `ok`.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Ok => None,
            Self::LastGood { reason } | Self::Fallback { reason } => Some(reason),
        }
    }
}

/// The reason of an answer that could not wait for its policy.
pub const WARMING: &str = "warming";
/// The reason of an answer whose policy left nothing that may receive traffic.
pub const NOTHING_ELIGIBLE: &str = "nothing-eligible";

/// The first tier of a view with one plan, side by side: what nearly every lookup draws from.
#[derive(Debug)]
pub(crate) struct Quick {
    pub(crate) tier: u32,
    pub(crate) endpoints: Box<[u32]>,
    pub(crate) alias: AliasTable,
}

impl Quick {
    fn of(plans: &ReadyPlans) -> Option<Self> {
        let [ReadyPlan::Tiers(tiers)] = &*plans.plans else { return None };
        let first = tiers.first()?;
        Some(Self { tier: first.number, endpoints: first.endpoints.clone(), alias: first.alias.clone() })
    }
}

/// The plans of one caller over one snapshot.
#[derive(Debug)]
pub struct View {
    /// What it was prepared from; plans name positions in it.
    pub snapshot: Arc<Snapshot>,
    /// For whom.
    pub caller: Arc<Caller>,
    /// What the policy answered, expanded.
    pub plans: Arc<ReadyPlans>,
    /// The policy that made the plans; of the native fallback, the one that should have.
    pub policy: PolicyName,
    /// Its version.
    pub version: PolicyVersion,
    /// What it was opened with: the same version may stand twice in a binding.
    pub(crate) config: SmolStr,
    /// Whose answer it is.
    pub outcome: Outcome,
    /// Of the snapshot, which is then not touched by lookups.
    pub(crate) serial: u64,
    pub(crate) quick: Option<Quick>,
    native: OnceLock<Arc<ReadyPlans>>,
    /// See [`crate::fingerprint`]; computed when the first answer carries it.
    pub(crate) fingerprint: OnceLock<crate::fingerprint::Fingerprint>,
    used: AtomicBool,
}

impl View {
    /// What [`View::policy`] and [`View::version`] say, with the config.
    #[must_use]
    pub fn bound(&self) -> Bound {
        Bound { policy: self.policy.clone(), version: self.version, config: self.config.clone() }
    }

    pub(crate) fn new(
        snapshot: Arc<Snapshot>,
        caller: Arc<Caller>,
        plans: Arc<ReadyPlans>,
        bound: &Bound,
        outcome: Outcome,
    ) -> Self {
        Self {
            serial: snapshot.serial,
            quick: Quick::of(&plans),
            snapshot,
            caller,
            plans,
            policy: bound.policy.clone(),
            version: bound.version,
            config: bound.config.clone(),
            outcome,
            native: OnceLock::new(),
            fingerprint: OnceLock::new(),
            // A new view was asked for; the clock takes the mark away.
            used: AtomicBool::new(true),
        }
    }

    /// The native fallback's plans for this caller over this snapshot.
    pub(crate) fn fallback(snapshot: &Arc<Snapshot>, caller: &Arc<Caller>, reason: SmolStr) -> Self {
        let plans = Arc::new(locality::fallback(snapshot, caller.zone.as_ref()));
        let bound = &snapshot.binding.active;
        Self::new(Arc::clone(snapshot), Arc::clone(caller), plans, bound, Outcome::Fallback { reason })
    }

    /// The same plans with another outcome.
    pub(crate) fn with_outcome(&self, outcome: Outcome) -> Self {
        self.but(Arc::clone(&self.plans), outcome)
    }

    /// The same with other plans.
    pub(crate) fn with_plans(&self, plans: Arc<ReadyPlans>) -> Self {
        self.but(plans, self.outcome.clone())
    }

    fn but(&self, plans: Arc<ReadyPlans>, outcome: Outcome) -> Self {
        Self {
            serial: self.serial,
            quick: Quick::of(&plans),
            snapshot: Arc::clone(&self.snapshot),
            caller: Arc::clone(&self.caller),
            plans,
            policy: self.policy.clone(),
            version: self.version,
            config: self.config.clone(),
            outcome,
            native: OnceLock::new(),
            fingerprint: OnceLock::new(),
            used: AtomicBool::new(true),
        }
    }

    /// The same plans, answering because another policy failed so.
    pub(crate) fn after(&self, fault: &Fault) -> Self {
        self.with_outcome(Outcome::LastGood { reason: format_smolstr!("{fault}") })
    }

    /// The native fallback over this view's own snapshot, made when it is first needed.
    pub(crate) fn native(&self) -> &Arc<ReadyPlans> {
        self.native.get_or_init(|| Arc::new(locality::fallback(&self.snapshot, self.caller.zone.as_ref())))
    }

    #[inline]
    pub(crate) fn mark_used(&self) {
        // Read first: the mark is shared by all workers, and mostly set.
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }

    /// Whether it was used since the last time this was asked.
    pub(crate) fn take_used(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }

    /// An estimate of its own memory in bytes, the snapshot not counted.
    pub(crate) fn estimated_bytes(&self) -> usize {
        const PER_ENDPOINT: usize = 4 + 8 + 8;
        const PER_QUICK_ENDPOINT: usize = 4 + 8;
        const PER_TIER: usize = 160;
        const PER_PLAN: usize = 40;
        let tiers = |plan: &ReadyPlan| match plan {
            ReadyPlan::Tiers(tiers) => {
                tiers.iter().map(|t| PER_TIER + t.endpoints.len() * PER_ENDPOINT).sum()
            }
            ReadyPlan::Refused | ReadyPlan::NothingEligible => 0,
        };
        let plans: usize = self.plans.plans.iter().map(|p| PER_PLAN + tiers(p)).sum();
        let quick = self.quick.as_ref().map_or(0, |quick| quick.endpoints.len() * PER_QUICK_ENDPOINT);
        size_of::<Self>() + plans + quick
    }
}
