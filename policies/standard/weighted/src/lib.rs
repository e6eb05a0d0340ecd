//! `weighted`: lookups are split over versions, deployment groups and tags by weight; blue-green is 0 and 100.
//!
//! A lookup with a key stays on its side, and a growing weight only draws keys to its side. Within a side the caller's zone
//! comes before its region. What a side cannot carry, and everything when none of it is healthy, goes to the other sides
//! with a weight in the region; what leaves the region stays on its side where another region has one, and goes to the
//! other sides there where none has. Weight 0 is a last resort by default, or never.
//!
//! Other regions tell of versions and groups, not of tags. What no version or group names there may carry any of the tags:
//! it serves every side that a tag names, and the unmatched one, and their keys are then not kept apart. A tag's weight of 0 keeps
//! nothing out of other regions.

use std::collections::BTreeMap;

use meridian_sdk_wasm::locality::{Levels, Settings, Side};
use meridian_sdk_wasm::{
    Answer, Caller, Details, Endpoint, Notes, Plan, Policy, Selector, Service, Subset, export,
};
use serde::Deserialize;

/// How the lookups are split. Every field has a default; without weights, all endpoints are one side.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Config {
    /// `version:1.2`, `group:stable` or `tag:blue`, each with a weight up to 1,000,000. An endpoint that several name serves
    /// each of them; one that a weight of 0 names serves none.
    weights: BTreeMap<String, u32>,
    /// The weight of the endpoints that nothing names. By default 0, or everything where there are no weights.
    unmatched_weight: Option<u32>,
    /// What becomes of endpoints without weight when no others are healthy.
    zero_weight: ZeroWeight,
    /// Which keys go where. By default each service draws its own; services with the same salt draw the same ones.
    salt: Option<String>,
    /// Zones and regions, as in `zone-fallback`.
    locality: Settings,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
enum ZeroWeight {
    /// They serve rather than nobody.
    #[default]
    LastResort,
    /// They never serve: the lookup is refused instead.
    Never,
}

const MAX_WEIGHT: u32 = 1_000_000;
/// Each weight is a side, and so is what they leave; a split has 32 at most, and [`Sides`] as many bits.
const MAX_WEIGHTS: usize = 31;
const UNMATCHED: &str = "unmatched";

/// A set of sides: a bit for each weight, in their order.
type Sides = u32;

/// The policy.
pub struct Weighted {
    sides: Vec<(String, Selector, u32)>,
    unmatched: u32,
    zero_weight: ZeroWeight,
    salt: Option<String>,
    locality: Settings,
    /// The sides that name each endpoint.
    named: Notes<Sides>,
}

impl Weighted {
    fn sides(&self, selects: impl Fn(&Selector) -> bool) -> Sides {
        sides(&self.sides, selects)
    }

    fn is_excluded(&self, named: Sides) -> bool {
        self.sides.iter().zip(0..).any(|((_, _, weight), side)| *weight == 0 && has(named, side))
    }

    fn is_weighted(&self, named: Sides) -> bool {
        if named == 0 { self.unmatched > 0 } else { !self.is_excluded(named) }
    }

    /// Whether a side is named by a tag.
    fn has_tag(&self, side: u32) -> bool {
        self.sides.get(side as usize).is_some_and(|(_, selector, _)| is_tag(selector))
    }

    /// The sides that name a subset of another region: tags do not travel, so none of theirs.
    fn named_abroad(&self, subset: Subset<'_>) -> Sides {
        self.sides(|selector| selector.selects_subset(subset))
    }

    /// Where a tag has a weight, what no other weight names may carry it.
    fn is_weighted_abroad(&self, subset: Subset<'_>) -> bool {
        let named = self.named_abroad(subset);
        let tagged = self.sides.iter().any(|(_, selector, weight)| *weight > 0 && is_tag(selector));
        self.is_weighted(named) || (named == 0 && tagged)
    }

    fn plan(&self, arm: &Arm<'_>, service: &Service, caller: &Caller) -> Plan {
        let levels_of = |side: &dyn Side| Levels::of(service, caller, self.locality, side);
        let levels = levels_of(arm).then(levels_of(&Others(arm)));
        if self.zero_weight == ZeroWeight::LastResort {
            return levels.or_at_last(levels_of(&WithoutWeight(self))).plan();
        }
        // With nothing to choose from, the host would fall back to whatever is healthy.
        if levels.is_empty() { Plan::refuse() } else { levels.plan() }
    }
}

fn is_tag(selector: &Selector) -> bool {
    matches!(selector, Selector::Tag(_))
}

fn sides(of: &[(String, Selector, u32)], selects: impl Fn(&Selector) -> bool) -> Sides {
    let bits = of.iter().zip(0..).map(|((_, selector, _), side)| u32::from(selects(selector)) << side);
    bits.sum()
}

fn has(named: Sides, side: u32) -> bool {
    named >> side & 1 == 1
}

/// One side; without a number, what no weight names.
struct Arm<'p> {
    policy: &'p Weighted,
    name: &'p str,
    side: Option<u32>,
}

impl Side for Arm<'_> {
    fn has(&self, endpoint: Endpoint<'_>) -> bool {
        let named = self.policy.named.of(endpoint);
        match self.side {
            Some(side) => has(named, side) && !self.policy.is_excluded(named),
            None => named == 0,
        }
    }

    fn has_subset(&self, subset: Subset<'_>) -> bool {
        let named = self.policy.named_abroad(subset);
        match self.side {
            Some(side) if self.policy.has_tag(side) => named == 0,
            Some(side) => has(named, side) && !self.policy.is_excluded(named),
            None => named == 0,
        }
    }

    fn name(&self) -> &str {
        self.name
    }
}

/// Where a side's overflow goes.
struct Others<'p>(&'p Arm<'p>);

impl Side for Others<'_> {
    fn has(&self, endpoint: Endpoint<'_>) -> bool {
        self.0.policy.is_weighted(self.0.policy.named.of(endpoint)) && !self.0.has(endpoint)
    }

    fn has_subset(&self, subset: Subset<'_>) -> bool {
        self.0.policy.is_weighted_abroad(subset) && !self.0.has_subset(subset)
    }

    fn name(&self) -> &str {
        "other weights"
    }
}

struct WithoutWeight<'p>(&'p Weighted);

impl Side for WithoutWeight<'_> {
    fn has(&self, endpoint: Endpoint<'_>) -> bool {
        !self.0.is_weighted(self.0.named.of(endpoint))
    }

    fn has_subset(&self, subset: Subset<'_>) -> bool {
        !self.0.is_weighted_abroad(subset)
    }

    fn name(&self) -> &str {
        "without weight"
    }
}

impl Policy for Weighted {
    type Config = Config;

    fn open(config: Config, details: &Details<'_>) -> Result<Self, String> {
        if config.weights.len() > MAX_WEIGHTS {
            return Err(format!("config: weights: {MAX_WEIGHTS} are the most"));
        }
        let too_much = |name: &str, weight: u32| {
            (weight > MAX_WEIGHT).then(|| format!("config: {name}: {weight} is more than {MAX_WEIGHT}"))
        };
        let mut sides = Vec::with_capacity(config.weights.len());
        for (key, weight) in config.weights {
            let selector = key.parse().map_err(|error| format!("config: weights: {error}"))?;
            if let Some(error) = too_much(&format!("weights.{key}"), weight) {
                return Err(error);
            }
            sides.push((key, selector, weight));
        }
        let unmatched = config.unmatched_weight.unwrap_or(u32::from(sides.is_empty()));
        if let Some(error) = too_much("unmatchedWeight", unmatched) {
            return Err(error);
        }
        if unmatched == 0 && sides.iter().all(|(_, _, weight)| *weight == 0) {
            return Err("config: weights: all of them are 0".into());
        }
        let named = details.note(|endpoint| self::sides(&sides, |selector| selector.selects(endpoint)));
        Ok(Weighted {
            named,
            sides,
            unmatched,
            zero_weight: config.zero_weight,
            salt: config.salt,
            locality: config.locality,
        })
    }

    fn answer(&self, service: &Service, caller: &Caller) -> Result<Answer, String> {
        let named =
            self.sides.iter().zip(0..).map(|((name, _, weight), side)| (&**name, Some(side), *weight));
        let arms = named.chain([(UNMATCHED, None, self.unmatched)]).filter(|(_, _, weight)| *weight > 0);
        let answer = Answer::split(arms.map(|(name, side, weight)| {
            (name, weight, self.plan(&Arm { policy: self, name, side }, service, caller))
        }));
        Ok(match &self.salt {
            Some(salt) => answer.salted(salt.as_str()),
            None => answer,
        })
    }
}

export!(
    Weighted,
    description = "Lookups split over versions, groups and tags by weight; blue-green",
    schema = include_bytes!("schema.json"),
    tests = include_bytes!("cases.json"),
);

#[cfg(test)]
mod tests;
