//! What is known of other regions, and what operators of this one say of all of them.

use crate::binding::Limits;
use crate::names::{RegionName, ServiceKey, ZoneName};
use crate::remote::{FULL_RAMP, Freshness, Remote, Standing};
use crate::snapshot::Withheld;
use crate::summary::{Ingress, RegionNotice, Summary};
use crate::time::UnixMillis;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The record of a drain: operators want a region or a zone spared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Drain {
    /// Why, as whoever asked for it said.
    pub reason: SmolStr,
    /// Who asked: `issuer subject`.
    pub by: SmolStr,
    /// Since when.
    pub since: UnixMillis,
    /// Fields of newer formats, kept as they came.
    #[serde(flatten)]
    pub unknown: serde_json::Map<String, serde_json::Value>,
}

/// What is drained: a region, or one of its zones.
pub type Drained = (RegionName, Option<ZoneName>);

/// One other region.
#[derive(Clone, Debug)]
struct Neighbour {
    notice: RegionNotice,
    ingress: Arc<[Ingress]>,
    services: BTreeMap<ServiceKey, Arc<Summary>>,
    standing: Standing,
    too_old: bool,
}

impl Default for Neighbour {
    fn default() -> Self {
        let standing = Standing {
            freshness: Freshness::Stale,
            reachable: false,
            draining: false,
            ramp: FULL_RAMP,
            round_trip_ms: 0,
        };
        Self {
            notice: RegionNotice::default(),
            ingress: Arc::new([]),
            services: BTreeMap::new(),
            standing,
            too_old: false,
        }
    }
}

/// All other regions.
#[derive(Clone, Debug, Default)]
pub struct Neighbours {
    regions: BTreeMap<RegionName, Neighbour>,
}

impl Neighbours {
    /// Notes what a region tells of itself; whether that is news.
    pub fn set_notice(&mut self, region: &RegionName, notice: RegionNotice) -> bool {
        let known = self.regions.entry(region.clone()).or_default();
        if known.notice == notice {
            return false;
        }
        if *known.ingress != *notice.ingress {
            known.ingress = notice.ingress.clone().into();
        }
        known.notice = notice;
        true
    }

    /// Notes how a region stands, and whether it is so old that its addresses may belong to others; whether that is news.
    pub fn set_standing(&mut self, region: &RegionName, standing: Standing, too_old: bool) -> bool {
        let known = self.regions.entry(region.clone()).or_default();
        let news = (known.standing, known.too_old) != (standing, too_old);
        (known.standing, known.too_old) = (standing, too_old);
        news
    }

    /// Notes what a region tells of a service, or that it tells nothing any more; whether that is news.
    pub fn set_summary(
        &mut self,
        region: &RegionName,
        service: &ServiceKey,
        summary: Option<Arc<Summary>>,
    ) -> bool {
        let known = self.regions.entry(region.clone()).or_default();
        match summary {
            Some(summary) if known.services.get(service) == Some(&summary) => false,
            Some(summary) => {
                known.services.insert(service.clone(), summary);
                true
            }
            None => known.services.remove(service).is_some(),
        }
    }

    /// What a region tells of itself.
    #[must_use]
    pub fn notice(&self, region: &RegionName) -> Option<&RegionNotice> {
        self.regions.get(region).map(|known| &known.notice)
    }

    /// The services that a region tells of.
    pub fn services(&self, region: &RegionName) -> impl Iterator<Item = (&ServiceKey, &Arc<Summary>)> {
        self.regions.get(region).into_iter().flat_map(|known| &known.services)
    }

    /// All regions that were heard of.
    pub fn regions(&self) -> impl Iterator<Item = &RegionName> {
        self.regions.keys()
    }

    /// Whether any region tells of the service.
    #[must_use]
    pub fn knows(&self, service: &ServiceKey) -> bool {
        self.regions.values().any(|known| known.services.contains_key(service))
    }

    /// The service in the regions that its binding allows, and what is withheld.
    #[must_use]
    pub fn remotes(
        &self,
        service: &ServiceKey,
        limits: &Limits,
        drains: &BTreeMap<Drained, (Arc<Drain>, u64)>,
    ) -> (Vec<Remote>, Withheld) {
        let (mut remotes, mut withheld) = (Vec::new(), Withheld::default());
        for (region, known) in &self.regions {
            let Some(summary) = known.services.get(service) else { continue };
            if !limits.allow(region) {
                withheld.by_limits += 1;
                continue;
            }
            if known.too_old {
                withheld.too_old += 1;
                continue;
            }
            let evacuated = |zone: &ZoneName| {
                known.notice.draining_zones.contains(zone)
                    || drains.contains_key(&(region.clone(), Some(zone.clone())))
            };
            let whole = summary.subsets.iter().all(|s| s.healthy == 0 || evacuated(&s.zone))
                && summary.subsets.iter().any(|s| s.healthy > 0);
            // All of its zones that could serve: then it is the region that yields.
            let draining = known.standing.draining || drains.contains_key(&(region.clone(), None)) || whole;
            remotes.push(Remote {
                region: region.clone(),
                standing: Standing { draining, ..known.standing },
                summary: without(summary, evacuated),
                ingress: Arc::clone(&known.ingress),
            });
        }
        // One or two are usual, of thousands of services.
        remotes.shrink_to_fit();
        (remotes, withheld)
    }
}

/// The summary without the zones that are evacuated, unless nothing healthy is left then: a drain yields, it does not
/// empty an answer. What is left out counts on neither side of the region's health.
fn without(summary: &Arc<Summary>, evacuated: impl Fn(&ZoneName) -> bool) -> Arc<Summary> {
    let stays: Vec<bool> = summary.subsets.iter().map(|s| !evacuated(&s.zone)).collect();
    let left = || summary.subsets.iter().zip(&stays).filter(|(_, stays)| **stays).map(|(s, _)| s);
    if stays.iter().all(|stays| *stays) || left().all(|s| s.healthy == 0) {
        return Arc::clone(summary);
    }
    // Positions of subsets are names in endpoints: they move up over the gaps.
    let mut next = 0;
    let moved: Vec<Option<u16>> = stays
        .iter()
        .map(|stays| {
            stays.then(|| {
                next += 1;
                next - 1
            })
        })
        .collect();
    let endpoints = summary.endpoints.iter().filter_map(|endpoint| {
        let subset = (*moved.get(usize::from(endpoint.subset))?)?;
        Some(crate::summary::RemoteEndpoint { subset, ..endpoint.clone() })
    });
    Arc::new(Summary {
        subsets: left().cloned().collect(),
        endpoints: endpoints.collect(),
        sampled: summary.sampled,
        headroom: summary.headroom,
    })
}
