//! What is known of other regions, and what operators of this one say of all of them.

use crate::binding::Limits;
use crate::names::{RegionName, ServiceKey, ZoneName};
use crate::remote::{FULL_RAMP, Freshness, Remote, Standing};
use crate::snapshot::{Withheld, WithheldBy, WithheldRegion};
use crate::summary::{Ingress, RegionNotice, Subset, Summary};
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
            let by = match (limits.allow(region), known.too_old) {
                (false, _) => Some(WithheldBy::Limits),
                (true, true) => Some(WithheldBy::Age),
                (true, false) => None,
            };
            if let Some(by) = by {
                let (healthy, total) = summary.health();
                let (region, standing) = (region.clone(), known.standing);
                withheld.regions.push(WithheldRegion { region, by, standing, healthy, total });
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
        withheld.regions.shrink_to_fit();
        (remotes, withheld)
    }
}

/// The summary without the zones that are evacuated, unless nothing healthy is left then: a drain yields, it does not
/// empty an answer. What is left out counts on neither side of the region's health, nor for its headroom: instances do not
/// tell other regions their capacities, so their weights stand for these.
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
        headroom: summary.headroom.map(|all| part(all, weight(left()), weight(summary.subsets.iter()))),
    })
}

fn weight<'a>(subsets: impl Iterator<Item = &'a Subset>) -> u128 {
    subsets.map(|subset| u128::from(subset.weight)).sum()
}

/// `left` of `whole` of `all`; all of it where there is no whole.
fn part(all: u64, left: u128, whole: u128) -> u64 {
    let part = u128::from(all).saturating_mul(left).checked_div(whole);
    part.and_then(|part| u64::try_from(part).ok()).unwrap_or(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::Namespace;

    fn subset(zone: &str, healthy: u32, weight: u64) -> Subset {
        Subset {
            zone: zone.parse().unwrap(),
            version: "".into(),
            group: "".into(),
            healthy,
            total: 2,
            weight,
        }
    }

    fn known(
        subsets: Vec<Subset>,
        headroom: Option<u64>,
        too_old: bool,
    ) -> (Neighbours, RegionName, ServiceKey) {
        let (region, service) =
            ("east".parse().unwrap(), ServiceKey::new(Namespace::default(), "orders".parse().unwrap()));
        let mut neighbours = Neighbours::default();
        let summary = Summary { subsets, headroom, ..Summary::default() };
        let standing =
            Standing { freshness: Freshness::Fresh, reachable: true, ..Neighbour::default().standing };
        assert!(neighbours.set_summary(&region, &service, Some(Arc::new(summary))));
        assert!(neighbours.set_standing(&region, standing, too_old));
        (neighbours, region, service)
    }

    /// Only a region with something to give is missed where it is withheld; each is named all the same.
    #[test]
    fn what_is_withheld_is_named_and_only_missed_if_it_could_serve() {
        let judge = |healthy, limits: &Limits, too_old| {
            let (neighbours, region, service) = known(vec![subset("ea", healthy, 100)], None, too_old);
            let (remotes, withheld) = neighbours.remotes(&service, limits, &BTreeMap::new());
            assert!(remotes.is_empty());
            assert_eq!(withheld.regions.iter().map(|w| &w.region).collect::<Vec<_>>(), [&region]);
            let missed = |by| withheld.missed(by).count();
            (missed(WithheldBy::Limits), missed(WithheldBy::Age))
        };
        let (open, shut) = (Limits::default(), Limits { max_remote_share: 0.0, ..Limits::default() });
        assert_eq!(judge(1, &open, true), (0, 1));
        assert_eq!(judge(0, &open, true), (0, 0));
        assert_eq!(judge(1, &shut, true), (1, 0));
        assert_eq!(judge(0, &shut, false), (0, 0));
    }

    #[test]
    fn zones_that_are_evacuated_have_no_headroom() {
        let headroom = |drained: &[&str], told: Option<u64>| {
            let subsets = vec![subset("ea", 1, 100), subset("eb", 2, 300), subset("ec", 0, 0)];
            let (mut neighbours, region, service) = known(subsets, told, false);
            let draining_zones = drained.iter().map(|zone| zone.parse().unwrap()).collect();
            let _ =
                neighbours.set_notice(&region, RegionNotice { draining_zones, ..RegionNotice::default() });
            let (remotes, _) = neighbours.remotes(&service, &Limits::default(), &BTreeMap::new());
            remotes[0].summary.headroom
        };
        assert_eq!(headroom(&[], Some(1_000)), Some(1_000));
        assert_eq!(headroom(&["eb"], Some(1_000)), Some(250));
        assert_eq!(headroom(&["ec"], Some(1_000)), Some(1_000));
        assert_eq!(headroom(&["eb"], Some(u64::MAX)), Some(u64::MAX / 4));
        assert_eq!(headroom(&["eb"], None), None);
        // Then nothing yields to anybody: the region as a whole does.
        assert_eq!(headroom(&["ea", "eb"], Some(1_000)), Some(1_000));
    }
}
