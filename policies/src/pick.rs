//! From a plan to an endpoint that may receive traffic now.

use crate::view::{Outcome, View};
use meridian_model::locality;
use meridian_model::plan::{ReadyPlan, ReadyPlans, ReadyTier};
use meridian_model::selection::{self, Words};
use meridian_model::snapshot::{Place, Snapshot};
use std::borrow::Cow;
use std::sync::Arc;

/// A lookup whose plan is known.
#[derive(Clone, Copy, Debug)]
pub struct Routed<'a> {
    /// What answers, and whose answer it is.
    pub view: &'a Arc<View>,
    /// The position of the plan in the view.
    pub plan: usize,
    key: Option<u64>,
    words: Words,
    /// See [`Routed::identified`].
    whole: Option<u128>,
}

/// Who chose an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChosenBy {
    /// The view's plan: its outcome holds.
    Plan,
    /// The native fallback, because nothing in the plan may receive traffic: the outcome is `fallback` with the reason
    /// `nothing-eligible`, whatever the view's is.
    Fallback,
}

/// An endpoint that may receive traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picked {
    /// Its position in the snapshot that was passed to the pick.
    pub position: u32,
    /// The tier that it stands in.
    pub tier: u32,
    /// Who chose it.
    pub by: ChosenBy,
}

/// What a lookup comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    /// An endpoint.
    Endpoint(Picked),
    /// The policy's plan was empty on purpose: `refused-by-policy`.
    Refused,
    /// No endpoint of the service may receive traffic, by no plan.
    NothingEligible,
}

/// What a lookup of several endpoints comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Picks {
    /// Distinct endpoints in the order of preference, at least one.
    Endpoints(Vec<Picked>),
    /// See [`Pick::Refused`].
    Refused,
    /// See [`Pick::NothingEligible`].
    NothingEligible,
}

/// Sees the endpoints of an older snapshot in the current one.
struct Lens<'a> {
    of: &'a Snapshot,
    current: &'a Snapshot,
    same: bool,
}

impl Lens<'_> {
    fn new<'a>(of: &'a Snapshot, current: &'a Snapshot) -> Lens<'a> {
        Lens { of, current, same: of.serial == current.serial }
    }

    /// Where the endpoint stands now, if it may receive traffic.
    fn position(&self, at: u32) -> Option<u32> {
        if self.same {
            // Tiers hold only what was eligible in their own snapshot.
            return Some(at);
        }
        let id = match self.of.place(at)? {
            Place::Here(endpoint) => endpoint.id(),
            // Other regions tell of healthy endpoints only: what they still tell of may receive traffic.
            Place::There(remote, address) => {
                return u32::try_from(self.current.position_there(remote, address)?).ok();
            }
        };
        // Mostly nobody came or left in between.
        let unmoved = self.current.endpoints.get(at as usize).is_some_and(|e| e.id() == id);
        let now = if unmoved { at } else { u32::try_from(self.current.position(id)?).ok()? };
        self.current.is_eligible(now).then_some(now)
    }

    fn is_eligible(&self, at: u32) -> bool {
        self.same || self.position(at).is_some()
    }

    fn hash(&self, at: u32) -> u64 {
        match self.of.endpoints.get(at as usize) {
            Some(endpoint) => endpoint.hash,
            None => self.of.place(at).map_or(0, hash_there),
        }
    }
}

/// Ids are unique in a region only, so the region belongs to what is hashed.
#[cold]
fn hash_there(place: Place<'_>) -> u64 {
    match place {
        Place::Here(endpoint) => endpoint.hash,
        Place::There(remote, address) => selection::mix(
            selection::endpoint_hash(address.name()) ^ selection::endpoint_hash(remote.region.as_str()),
        ),
    }
}

impl<'a> Routed<'a> {
    pub(crate) fn new(view: &'a Arc<View>, plan: usize, key: Option<u64>, words: Words) -> Self {
        Self { view, plan, key, words, whole: None }
    }

    /// Where two versions share the lookups without key, what both give together identifies the answer.
    #[inline]
    pub(crate) fn identified(self, whole: Option<u128>) -> Self {
        Self { whole, ..self }
    }

    /// The identity of what this caller gets: see [`View::fingerprint`].
    #[must_use]
    pub fn fingerprint(&self) -> u128 {
        match (self.key, self.whole) {
            (None, Some(whole)) => whole,
            (key, _) => self.view.fingerprint(key.map(|key| (self.plan, key))),
        }
    }

    /// The best endpoint. It may receive traffic in `current`, also where the view was prepared for another snapshot.
    #[inline]
    #[must_use]
    pub fn pick(&self, current: &Snapshot) -> Pick {
        if let (None, Some(quick)) = (self.key, &self.view.quick)
            && self.view.serial == current.serial
            && let Some(position) = quick.endpoints.get(quick.alias.draw(self.words.pick))
        {
            // Tiers hold only what was eligible in their own snapshot, and this is it.
            return Pick::Endpoint(Picked { position: *position, tier: quick.tier, by: ChosenBy::Plan });
        }
        match self.view.plans.plans.get(self.plan) {
            Some(ReadyPlan::Refused) => return Pick::Refused,
            Some(ReadyPlan::Tiers(tiers)) => {
                let lens = Lens::new(&self.view.snapshot, current);
                for tier in tiers {
                    if let Some(position) = self.first(tier, &lens) {
                        let by = ChosenBy::Plan;
                        return Pick::Endpoint(Picked { position, tier: tier.number, by });
                    }
                }
            }
            Some(ReadyPlan::NothingEligible) | None => {}
        }
        self.pick_native(current)
    }

    #[cold]
    fn pick_native(&self, current: &Snapshot) -> Pick {
        let lens = Lens::new(current, current);
        let native = self.native(current);
        let first = tiers(&native).iter().find_map(|tier| Some((tier.number, self.first(tier, &lens)?)));
        match first {
            Some((tier, position)) => {
                Pick::Endpoint(Picked { position, tier, by: self.native_is_the_plan() })
            }
            None => Pick::NothingEligible,
        }
    }

    /// Up to `count` distinct endpoints, tier by tier.
    #[must_use]
    pub fn pick_many(&self, current: &Snapshot, count: usize) -> Picks {
        let mut picked = Vec::new();
        match self.view.plans.plans.get(self.plan) {
            Some(ReadyPlan::Refused) => return Picks::Refused,
            Some(ReadyPlan::Tiers(tiers)) => {
                let lens = Lens::new(&self.view.snapshot, current);
                self.collect(tiers, &lens, ChosenBy::Plan, count, &mut picked);
            }
            Some(ReadyPlan::NothingEligible) | None => {}
        }
        if picked.is_empty() {
            let native = self.native(current);
            let lens = Lens::new(current, current);
            self.collect(tiers(&native), &lens, self.native_is_the_plan(), count, &mut picked);
        }
        if picked.is_empty() { Picks::NothingEligible } else { Picks::Endpoints(picked) }
    }

    /// Whose answer a pick is.
    #[must_use]
    pub fn outcome(&self, by: ChosenBy) -> Cow<'a, Outcome> {
        match by {
            ChosenBy::Plan => Cow::Borrowed(&self.view.outcome),
            ChosenBy::Fallback => Cow::Owned(Outcome::Fallback {
                reason: smol_str::SmolStr::new_static(crate::view::NOTHING_ELIGIBLE),
            }),
        }
    }

    #[inline]
    fn first(&self, tier: &ReadyTier, lens: &Lens<'_>) -> Option<u32> {
        let position = match self.key {
            None => selection::draw(tier, self.words.pick, |e| lens.is_eligible(e)),
            Some(key) => selection::first_for_key(tier, key, |e| lens.hash(e), |e| lens.is_eligible(e)),
        }?;
        lens.position(*tier.endpoints.get(position)?)
    }

    fn collect(
        &self,
        tiers: &[ReadyTier],
        lens: &Lens<'_>,
        by: ChosenBy,
        count: usize,
        picked: &mut Vec<Picked>,
    ) {
        let mut seen = vec![false; lens.current.positions()];
        for tier in tiers {
            let order = match self.key {
                None => selection::shuffled(tier, self.words.pick, |e| lens.is_eligible(e)),
                Some(key) => selection::ranked_for_key(tier, key, |e| lens.hash(e), |e| lens.is_eligible(e)),
            };
            for at in order {
                if picked.len() >= count {
                    return;
                }
                let position = tier.endpoints.get(at).and_then(|e| lens.position(*e));
                let Some(position) = position else { continue };
                if let Some(seen @ false) = seen.get_mut(position as usize) {
                    *seen = true;
                    picked.push(Picked { position, tier: tier.number, by });
                }
            }
        }
    }

    fn native(&self, current: &Snapshot) -> Cow<'a, ReadyPlans> {
        if self.view.snapshot.serial == current.serial {
            Cow::Borrowed(self.view.native())
        } else {
            Cow::Owned(locality::fallback(current, self.view.caller.zone.as_ref()))
        }
    }

    /// Where the view is the native fallback already, its own reason says more than `nothing-eligible`.
    fn native_is_the_plan(&self) -> ChosenBy {
        match self.view.outcome {
            Outcome::Fallback { .. } => ChosenBy::Plan,
            Outcome::Ok | Outcome::LastGood { .. } => ChosenBy::Fallback,
        }
    }
}

fn tiers(plans: &ReadyPlans) -> &[ReadyTier] {
    match plans.plans.first() {
        Some(ReadyPlan::Tiers(tiers)) => tiers,
        _ => &[],
    }
}
