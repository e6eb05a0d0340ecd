//! What a policy answers: where lookups go, in which order, and how they are split.

use crate::bindings::routing as wire;
use crate::service::{Endpoint, Remote, Service, Subset};

/// Weighted destinations of equal preference. A tier is left for the next one only when nothing in it is eligible.
#[derive(Clone, Debug, Default)]
pub struct Tier {
    reason: String,
    choices: Vec<Choice>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) destination: Destination,
    pub(crate) weight: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    Endpoint(u32),
    Remote(u32),
    Subset(u32, u32),
}

impl Tier {
    /// An empty tier. The reason is what `explain` shows people: say why traffic goes here.
    pub fn new(reason: impl Into<String>) -> Self {
        Tier { reason: reason.into(), choices: Vec::new() }
    }

    /// Adds an endpoint. Weights count relative to the others of the tier and are final; 0 leaves it out.
    pub fn endpoint(self, endpoint: Endpoint<'_>, weight: u32) -> Self {
        self.with(Destination::Endpoint(endpoint.position()), weight)
    }

    /// Adds endpoints with the weights they registered.
    pub fn endpoints<'a>(self, endpoints: impl IntoIterator<Item = Endpoint<'a>>) -> Self {
        endpoints.into_iter().fold(self, |tier, endpoint| tier.endpoint(endpoint, endpoint.weight()))
    }

    /// Adds a whole region; its healthy endpoints, or its ingress, share the weight.
    pub fn remote(self, remote: Remote<'_>, weight: u32) -> Self {
        self.with(Destination::Remote(remote.position()), weight)
    }

    /// Adds a part of another region.
    pub fn subset(self, subset: Subset<'_>, weight: u32) -> Self {
        let (remote, position) = subset.positions();
        self.with(Destination::Subset(remote, position), weight)
    }

    /// Whether it has nothing of this region.
    pub(crate) fn leaves_the_region(&self) -> bool {
        !self.choices.iter().any(|choice| matches!(choice.destination, Destination::Endpoint(_)))
    }

    /// Says more of why traffic goes here.
    pub(crate) fn remark(&mut self, remark: &str) {
        self.reason.push_str(remark);
    }

    pub(crate) fn with(mut self, destination: Destination, weight: u32) -> Self {
        self.choices.push(Choice { destination, weight });
        self
    }
}

/// Tiers in order of preference.
#[derive(Clone, Debug)]
pub struct Plan {
    /// `None` refuses.
    tiers: Option<Vec<Tier>>,
}

impl Plan {
    /// A plan of these tiers, the preferred one first. If none of them has anything eligible, the host falls back to its own
    /// zone fallback: leaving everything out does not keep traffic away, [`Plan::refuse`] does.
    pub fn new(tiers: impl IntoIterator<Item = Tier>) -> Self {
        Plan { tiers: Some(tiers.into_iter().collect()) }
    }

    /// Gives these lookups nothing: 503 `refused-by-policy`.
    pub fn refuse() -> Self {
        Plan { tiers: None }
    }

    /// What crosses to the host: choices of weight 0 and empty tiers left out, the same destination named twice in a tier
    /// added up, and named again in a later tier dropped there.
    pub(crate) fn into_wire(self, share: u32, service: &Service) -> wire::Plan {
        let Some(tiers) = self.tiers else { return wire::Plan { share, tiers: Vec::new() } };
        // For each destination the number of the choice that names it, from 1.
        let mut named = vec![0; service.slots()];
        let mut choices_sent = 0;
        let mut sent = Vec::with_capacity(tiers.len());
        for tier in tiers {
            let mut choices: Vec<wire::Choice> = Vec::with_capacity(tier.choices.len());
            for choice in tier.choices {
                // A position comes from a handle; one of another service may be out of bounds, and is dropped.
                let Some(number) = named.get_mut(service.slot(choice.destination)) else { continue };
                if choice.weight == 0 {
                    continue;
                }
                if *number == 0 {
                    choices.push(choice.into());
                    *number = choices_sent + choices.len();
                } else if let Some(same) =
                    number.checked_sub(choices_sent + 1).and_then(|n| choices.get_mut(n))
                {
                    same.weight = same.weight.saturating_add(choice.weight);
                }
            }
            if choices.is_empty() {
                continue;
            }
            choices_sent += choices.len();
            sent.push(wire::Tier { choices, reason: tier.reason });
        }
        if sent.is_empty() {
            // No tiers at all would be a refusal.
            sent.push(wire::Tier { choices: Vec::new(), reason: "nothing to choose from".into() });
        }
        wire::Plan { share, tiers: sent }
    }
}

impl From<Tier> for Plan {
    fn from(tier: Tier) -> Self {
        Plan::new([tier])
    }
}

impl From<Choice> for wire::Choice {
    fn from(choice: Choice) -> Self {
        let destination = match choice.destination {
            Destination::Endpoint(position) => wire::Destination::Endpoint(position),
            Destination::Remote(remote) => wire::Destination::Remote(wire::Target { remote, subset: None }),
            Destination::Subset(remote, subset) => {
                wire::Destination::Remote(wire::Target { remote, subset: Some(subset) })
            }
        };
        wire::Choice { destination, weight: choice.weight }
    }
}

/// What one caller gets: one plan, or several that share the lookups.
#[derive(Clone, Debug)]
pub struct Answer {
    pub(crate) arms: Vec<Arm>,
    pub(crate) salt: Option<String>,
}

#[derive(Clone, Debug)]
pub(crate) struct Arm {
    pub(crate) name: String,
    pub(crate) weight: u32,
    pub(crate) plan: Plan,
}

impl Answer {
    /// Splits lookups between plans by weight (parts of 10,000, percent or anything else: only the ratio counts). A lookup
    /// with a key stays with its plan as long as the weights stay, and when one weight grows, keys move only to that plan:
    /// nobody who is in a rollout falls out of it when it widens. Keys remember plans by name, so keep the names.
    pub fn split<N: Into<String>>(arms: impl IntoIterator<Item = (N, u32, Plan)>) -> Self {
        let arms = arms.into_iter();
        let arms = arms.map(|(name, weight, plan)| Arm { name: name.into(), weight, plan }).collect();
        Answer { arms, salt: None }
    }

    /// Which keys are drawn first depends on the salt, by default the service's name: another salt draws others, and
    /// services with the same salt draw the same ones.
    pub fn salted(mut self, salt: impl Into<String>) -> Self {
        self.salt = Some(salt.into());
        self
    }
}

impl From<Plan> for Answer {
    fn from(plan: Plan) -> Self {
        Answer::split([("all", 1, plan)])
    }
}

impl From<Tier> for Answer {
    fn from(tier: Tier) -> Self {
        Plan::from(tier).into()
    }
}
