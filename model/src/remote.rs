//! Another region as lookups of this one see it: what it last told of a service, and how far that can be relied on.

use crate::names::RegionName;
use crate::summary::{Ingress, RemoteEndpoint, Subset, Summary};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The ramp of a region that is not recovering from anything: it may take all of its rightful traffic.
pub const FULL_RAMP: u32 = 1_000;
/// Ramps, in these steps only, so that a policy sees few changes (DESIGN 7).
pub const RAMP_STEP: u32 = 50;

/// How long ago a region was proven to be as it is known: the receiver's own judgement. In the order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Freshness {
    /// Under 5 s ago.
    Fresh,
    /// Under 30 s ago.
    Suspect,
    /// Longer ago, or never in this process.
    Stale,
}

impl Freshness {
    /// The judgement of an age in milliseconds.
    #[must_use]
    pub fn of_age_ms(age: u64) -> Self {
        match age {
            0..5_000 => Self::Fresh,
            5_000..30_000 => Self::Suspect,
            _ => Self::Stale,
        }
    }

    /// The word in answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Suspect => "suspect",
            Self::Stale => "stale",
        }
    }
}

/// How a region stands, as policies are shown it: damped and quantised by the host, so that it changes seldom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Standing {
    /// How current what it told is.
    pub freshness: Freshness,
    /// Whether it answers this region directly.
    pub reachable: bool,
    /// Whether its traffic should go elsewhere: its own operators say so, or this region's.
    pub draining: bool,
    /// Of its rightful traffic, how much it may take while it recovers: 0 to [`FULL_RAMP`] in steps of [`RAMP_STEP`].
    pub ramp: u32,
    /// Quantised round trip.
    pub round_trip_ms: u32,
}

impl Standing {
    /// What speaks against sending traffic there while others can do, in words for people; none where nothing does.
    #[must_use]
    pub fn doubt(&self) -> Option<&'static str> {
        match self.freshness {
            _ if self.draining => Some("being drained"),
            // Others hear it, or heard it a moment ago: it is the way there that is broken.
            Freshness::Fresh if !self.reachable => Some("not reachable"),
            Freshness::Suspect if !self.reachable => Some("not heard of lately"),
            Freshness::Fresh | Freshness::Suspect => None,
            Freshness::Stale => Some("not heard of lately"),
        }
    }

    /// What ranks regions where nothing else does: the least is the best.
    #[must_use]
    pub fn rank(&self) -> (bool, bool, Freshness, u32) {
        (self.draining, !self.reachable, self.freshness, self.round_trip_ms)
    }
}

/// One service in another region.
#[derive(Clone, Debug)]
pub struct Remote {
    /// Which region.
    pub region: RegionName,
    /// How it stands.
    pub standing: Standing,
    /// What it told of the service, without the zones that it is evacuating where others can do.
    pub summary: Arc<Summary>,
    /// Where it takes traffic for endpoints that it did not tell one by one.
    pub ingress: Arc<[Ingress]>,
}

/// One address in another region.
#[derive(Clone, Copy, Debug)]
pub enum Address<'a> {
    /// An endpoint of the service.
    Endpoint(&'a RemoteEndpoint),
    /// The region's ingress.
    Ingress(&'a Ingress),
}

impl<'a> Address<'a> {
    /// The endpoint's id, or the ingress's host.
    #[must_use]
    pub fn name(self) -> &'a str {
        match self {
            Self::Endpoint(endpoint) => endpoint.names.id(),
            Self::Ingress(ingress) => ingress.host.as_str(),
        }
    }
}

impl Remote {
    /// How many addresses it has: endpoints first, then the region's ingress.
    #[must_use]
    pub fn address_count(&self) -> usize {
        self.summary.endpoints.len() + self.ingress.len()
    }

    /// The address at a position below [`Remote::address_count`].
    #[must_use]
    pub fn address(&self, at: usize) -> Option<Address<'_>> {
        match at.checked_sub(self.summary.endpoints.len()) {
            None => self.summary.endpoints.get(at).map(Address::Endpoint),
            Some(at) => self.ingress.get(at).map(Address::Ingress),
        }
    }

    /// The subset of an endpoint.
    #[must_use]
    pub fn subset_of(&self, endpoint: &RemoteEndpoint) -> Option<&Subset> {
        self.summary.subsets.get(usize::from(endpoint.subset))
    }

    /// The position of an address that may be one of another picture of the same region.
    #[must_use]
    pub fn position(&self, address: Address<'_>) -> Option<usize> {
        match address {
            Address::Endpoint(e) => {
                self.summary.endpoints.binary_search_by(|o| o.names.id().cmp(e.names.id())).ok()
            }
            Address::Ingress(i) => {
                self.ingress.iter().position(|o| o == i).map(|at| at + self.summary.endpoints.len())
            }
        }
    }

    /// The addresses that take the traffic of one subset, or of all, with their weights. Where the endpoints are only a
    /// sample, the region's ingress spreads it better.
    pub fn takers(&self, subset: Option<u32>) -> impl Iterator<Item = (usize, u64)> {
        let serves = self
            .summary
            .subsets
            .iter()
            .zip(0u32..)
            .any(|(s, at)| s.healthy > 0 && subset.is_none_or(|wanted| wanted == at));
        let by_ingress = self.summary.sampled && !self.ingress.is_empty();
        let ingress = (0..self.ingress.len())
            .filter(move |_| by_ingress && serves)
            .map(|at| (at + self.summary.endpoints.len(), 1));
        // Of a sample, each subset's endpoints stand for all of it.
        let mut told: Vec<u64> = vec![0; self.summary.subsets.len()];
        for endpoint in &self.summary.endpoints {
            if let Some(sum) = told.get_mut(usize::from(endpoint.subset)) {
                *sum = sum.saturating_add(u64::from(endpoint.weight));
            }
        }
        let weight = move |e: &RemoteEndpoint| {
            let own = u64::from(e.weight);
            let at = usize::from(e.subset);
            match (self.summary.subsets.get(at), told.get(at)) {
                (Some(subset), Some(told)) if self.summary.sampled && *told > 0 => {
                    // In thousandths, so that nothing is rounded away; capacities are far below 2^40.
                    own.saturating_mul(subset.weight.saturating_mul(1_000)) / told
                }
                _ => own,
            }
        };
        let endpoints = self.summary.endpoints.iter().enumerate();
        let endpoints = endpoints
            .filter(move |(_, e)| !by_ingress && subset.is_none_or(|wanted| wanted == u32::from(e.subset)))
            .map(move |(at, e)| (at, weight(e).max(1)));
        endpoints.chain(ingress)
    }
}
