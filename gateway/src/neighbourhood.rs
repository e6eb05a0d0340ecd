//! Other regions, as the keeper hears of them: news go into the catalog, ages into what lookups read.

use crate::directory::Directory;
use arc_swap::ArcSwapOption;
use meridian_model::catalog::{Catalog, Touched};
use meridian_model::failover::{Damper, Heard};
use meridian_model::incarnation::Incarnation;
use meridian_model::names::{RegionName, ServiceKey, ZoneName};
use meridian_model::remote::{Freshness, Standing};
use meridian_model::summary::{RegionNotice, Summary};
use meridian_model::time::Monotonic;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// What other regions tell, and what is known of them.
#[derive(Clone, Debug)]
pub enum News {
    /// An origin's state changed, all at once.
    Told {
        /// Which region.
        region: RegionName,
        /// Of which life of its registry.
        incarnation: Incarnation,
        /// At which of its revisions.
        index: u64,
        /// What it tells of itself, if that changed.
        notice: Option<RegionNotice>,
        /// Services that changed; none where it tells nothing of them any more.
        services: Vec<(ServiceKey, Option<Arc<Summary>>)>,
    },
    /// How a region stands by what was heard of it.
    Heard {
        /// Which region.
        region: RegionName,
        /// How long ago its state was proven current, at the moment of these news; none if it never was.
        age: Option<Duration>,
        /// Whether it answers directly.
        reachable: bool,
        /// Smoothed round trip; none where it was never measured.
        round_trip_ms: Option<u32>,
    },
}

/// Another region, for lookups and for people.
#[derive(Debug)]
pub struct OtherRegion {
    /// Its name.
    pub name: RegionName,
    /// When its state was proven current, in milliseconds of [`Monotonic`]; negative before this process began.
    proven_at: AtomicI64,
    page: ArcSwapOption<RegionPage>,
}

/// What people are shown of a region, besides its age.
#[derive(Clone, Debug)]
pub struct RegionPage {
    /// The life of its registry.
    pub incarnation: Incarnation,
    /// The revision that its state is at.
    pub index: u64,
    /// How it stands, as policies see it.
    pub standing: Standing,
    /// How current it is, undamped.
    pub freshness: Freshness,
    /// Whether it answers directly, undamped.
    pub reachable: bool,
    /// Quantised round trip; none where it was never measured.
    pub round_trip_ms: Option<u32>,
    /// What it tells of itself.
    pub notice: RegionNotice,
    /// How many services it tells of.
    pub services: u64,
    /// How many of their instances are healthy.
    pub healthy: u64,
    /// How many should be.
    pub total: u64,
    /// What they can still take, where capacities are declared.
    pub headroom: Option<u64>,
    /// The zones that they are in.
    pub zones: BTreeSet<ZoneName>,
}

const NEVER: i64 = i64::MIN;

impl OtherRegion {
    fn new(name: RegionName) -> Self {
        Self { name, proven_at: AtomicI64::new(NEVER), page: ArcSwapOption::empty() }
    }

    /// How long ago its state was proven current; none if it never was.
    #[must_use]
    pub fn age_ms(&self, now: Monotonic) -> Option<u64> {
        match self.proven_at.load(Ordering::Relaxed) {
            NEVER => None,
            at => {
                Some(u64::try_from(i64::try_from(now.0).unwrap_or(i64::MAX).saturating_sub(at)).unwrap_or(0))
            }
        }
    }

    fn heard(&self, age: Option<Duration>, now: Monotonic) {
        let millis = |age: Duration| i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        let now = i64::try_from(now.0).unwrap_or(i64::MAX);
        self.proven_at.store(age.map_or(NEVER, |age| now.saturating_sub(millis(age))), Ordering::Relaxed);
    }

    /// What people are shown of it, once it told anything.
    #[must_use]
    pub fn page(&self) -> Option<Arc<RegionPage>> {
        self.page.load_full()
    }
}

/// What was heard of one region.
struct Known {
    shared: Arc<OtherRegion>,
    damper: Damper,
    reachable: bool,
    round_trip_ms: Option<u32>,
    at: (Incarnation, u64),
    /// When this process was first told what it has.
    first_told: Option<Monotonic>,
    /// What it told of services before it was silent for so long that they are not known by that any more.
    given_up: Option<BTreeMap<ServiceKey, Arc<Summary>>>,
    counts: Counts,
    /// What people are to be shown once the snapshots that it is about are published.
    page: Option<Arc<RegionPage>>,
}

/// What the region's page shows of its services.
#[derive(Clone, Default)]
struct Counts {
    services: u64,
    healthy: u64,
    total: u64,
    headroom: Option<u64>,
    zones: BTreeSet<ZoneName>,
}

/// The regions that were heard of.
pub(crate) struct Neighbourhood {
    directory: Arc<Directory>,
    bounds: Bounds,
    regions: BTreeMap<RegionName, Known>,
    /// Services that a region was just given up for.
    forgotten: BTreeSet<ServiceKey>,
}

/// How long what a region told is of use while nothing proves it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Past this its addresses may belong to others.
    pub(crate) max_age: Duration,
    /// Past this, and the other, its services are not known by it any more.
    pub(crate) known_for: Duration,
}

impl Neighbourhood {
    pub(crate) fn new(directory: Arc<Directory>, bounds: Bounds) -> Self {
        Self { directory, bounds, regions: BTreeMap::new(), forgotten: BTreeSet::new() }
    }

    /// Services that a region was given up for since this was last asked.
    pub(crate) fn take_forgotten(&mut self) -> BTreeSet<ServiceKey> {
        std::mem::take(&mut self.forgotten)
    }

    fn meet(&mut self, region: &RegionName) {
        if self.regions.contains_key(region) {
            return;
        }
        let shared = Arc::new(OtherRegion::new(region.clone()));
        let known = Known {
            shared,
            damper: Damper::default(),
            reachable: false,
            round_trip_ms: None,
            at: (Incarnation::default(), 0),
            first_told: None,
            given_up: None,
            counts: Counts::default(),
            page: None,
        };
        self.regions.insert(region.clone(), known);
        let all = self.regions.values().map(|known| Arc::clone(&known.shared)).collect();
        self.directory.currency.set_others(all);
    }

    /// Takes news into account; what they touch.
    pub(crate) fn hear(&mut self, catalog: &mut Catalog, news: News, now: Monotonic) -> Touched {
        let (News::Told { region, .. } | News::Heard { region, .. }) = &news;
        self.meet(region);
        match news {
            News::Told { region, incarnation, index, notice, services } => {
                let mut touched = Touched::default();
                if let Some(notice) = notice {
                    touched.merge(catalog.set_notice(&region, notice));
                }
                if let Some(known) = self.regions.get_mut(&region) {
                    known.at = (incarnation, index);
                    known.first_told.get_or_insert(now);
                    match &mut known.given_up {
                        None => {
                            for (service, summary) in services {
                                touched.merge(catalog.set_summary(&region, &service, summary));
                            }
                        }
                        // It is shown again once something is proven of it.
                        Some(kept) => {
                            for (service, summary) in services {
                                match summary {
                                    Some(summary) => drop(kept.insert(service, summary)),
                                    None => drop(kept.remove(&service)),
                                }
                            }
                        }
                    }
                    known.counts = count(catalog, &region);
                }
                touched.merge(self.judge(catalog, &region, now));
                touched
            }
            News::Heard { region, age, reachable, round_trip_ms } => {
                if let Some(known) = self.regions.get_mut(&region) {
                    known.shared.heard(age, now);
                    (known.reachable, known.round_trip_ms) = (reachable, round_trip_ms);
                }
                self.judge(catalog, &region, now)
            }
        }
    }

    /// Time passes: what was not heard of grows old, what returned gets its traffic back.
    pub(crate) fn sweep(&mut self, catalog: &mut Catalog, now: Monotonic) -> Touched {
        let mut touched = Touched::default();
        let regions: Vec<RegionName> = self.regions.keys().cloned().collect();
        for region in regions {
            touched.merge(self.judge(catalog, &region, now));
        }
        touched
    }

    /// Shows people what was taken into account: all of it can be looked up now.
    pub(crate) fn show(&mut self) {
        for known in self.regions.values_mut() {
            if let Some(page) = known.page.take() {
                known.shared.page.store(Some(page));
            }
        }
    }

    fn judge(&mut self, catalog: &mut Catalog, region: &RegionName, now: Monotonic) -> Touched {
        let Some(known) = self.regions.get_mut(region) else { return Touched::default() };
        let age = known.shared.age_ms(now);
        let notice = catalog.neighbours().notice(region).cloned().unwrap_or_default();
        let heard = Heard {
            age_ms: age,
            reachable: known.reachable,
            draining: notice.draining.is_some() || catalog.is_drained(region),
            round_trip_ms: known.round_trip_ms,
        };
        let standing = known.damper.show(heard, now);
        // What is of unknown age, since the wall clock was set back perhaps, is known for as long as it was told.
        let told_for = known.first_told.map(|first| now.since(first));
        let unproven_for = age.map(Duration::from_millis).or(told_for).unwrap_or_default();
        let Bounds { max_age, known_for } = self.bounds;
        let given_up = unproven_for > max_age.max(known_for);
        let mut touched = Touched::default();
        if given_up && known.given_up.is_none() {
            let kept: BTreeMap<_, _> = catalog
                .neighbours()
                .services(region)
                .map(|(key, told)| (key.clone(), Arc::clone(told)))
                .collect();
            for service in kept.keys() {
                touched.merge(catalog.set_summary(region, service, None));
                self.forgotten.insert(service.clone());
            }
            tracing::warn!(%region, services = kept.len(), "silent for so long that its services are forgotten");
            (known.given_up, known.counts) = (Some(kept), Counts::default());
        } else if !given_up && let Some(kept) = known.given_up.take() {
            for (service, summary) in kept {
                touched.merge(catalog.set_summary(region, &service, Some(summary)));
            }
            known.counts = count(catalog, region);
        }
        let Counts { services, healthy, total, headroom, zones } = known.counts.clone();
        let ((incarnation, index), freshness) = (known.at, heard.freshness());
        let page = RegionPage {
            incarnation,
            index,
            standing,
            freshness,
            reachable: heard.reachable,
            round_trip_ms: known.round_trip_ms.map(|_| standing.round_trip_ms),
            notice,
            services,
            healthy,
            total,
            headroom,
            zones,
        };
        known.page = Some(Arc::new(page));
        touched.merge(catalog.set_standing(region, standing, unproven_for > max_age));
        touched
    }
}

fn count(catalog: &Catalog, region: &RegionName) -> Counts {
    let mut counts = Counts::default();
    for (_, summary) in catalog.neighbours().services(region) {
        counts.services += 1;
        for subset in &summary.subsets {
            counts.healthy += u64::from(subset.healthy);
            counts.total += u64::from(subset.total);
            if !counts.zones.contains(&subset.zone) {
                counts.zones.insert(subset.zone.clone());
            }
        }
        if let Some(own) = summary.headroom {
            counts.headroom = Some(counts.headroom.unwrap_or(0).saturating_add(own));
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_model::snapshot::WithheldBy;
    use meridian_model::summary::Subset;
    use meridian_policies::Host;

    const BOUNDS: Bounds =
        Bounds { max_age: Duration::from_secs(3_600), known_for: Duration::from_secs(24 * 3_600) };

    /// One other region, `there`, with one service, as a gateway of `home` hears of them.
    struct Heard {
        catalog: Catalog,
        neighbourhood: Neighbourhood,
        service: ServiceKey,
        there: RegionName,
    }

    impl Heard {
        fn of() -> Self {
            let (home, there) = ("home".parse().unwrap(), "there".parse().unwrap());
            let service = ServiceKey::new("default".parse().unwrap(), "orders".parse().unwrap());
            Self {
                catalog: Catalog::new(home, Host::built_in()),
                neighbourhood: Neighbourhood::new(Arc::default(), BOUNDS),
                service,
                there,
            }
        }

        fn told(&mut self, index: u64, at: u64) {
            let subset = Subset {
                zone: "there-a".parse().unwrap(),
                version: "1".into(),
                group: "stable".into(),
                healthy: 2,
                total: 2,
                weight: 200,
            };
            let summary =
                Summary { subsets: vec![subset], endpoints: Vec::new(), sampled: false, headroom: None };
            let news = News::Told {
                region: self.there.clone(),
                incarnation: Incarnation { counter: 1, random: 1 },
                index,
                notice: None,
                services: vec![(self.service.clone(), Some(Arc::new(summary)))],
            };
            self.neighbourhood.hear(&mut self.catalog, news, Monotonic(at));
        }

        fn stands(&mut self, age: Option<Duration>, round_trip_ms: Option<u32>, at: u64) {
            let news = News::Heard { region: self.there.clone(), age, reachable: true, round_trip_ms };
            self.neighbourhood.hear(&mut self.catalog, news, Monotonic(at));
            self.neighbourhood.show();
        }

        /// How the service stands there, and whether it is withheld for its age.
        fn remote(&self) -> (Option<Standing>, bool) {
            let snapshot = self.catalog.snapshot(&self.service, 1).unwrap();
            let too_old = snapshot.withheld.by(WithheldBy::Age).next().is_some();
            (snapshot.remotes.first().map(|remote| remote.standing), too_old)
        }

        fn page(&self) -> Arc<RegionPage> {
            self.neighbourhood.regions[&self.there].shared.page().unwrap()
        }
    }

    const SECOND: u64 = 1_000;
    const HOUR: u64 = 3_600 * SECOND;

    #[test]
    fn what_is_of_unknown_age_is_used_for_as_long_as_if_it_had_just_been_proven() {
        let mut heard = Heard::of();
        heard.told(5, 10 * SECOND);
        heard.stands(None, None, 10 * SECOND);
        let (standing, too_old) = heard.remote();
        assert_eq!((standing.map(|s| s.freshness), too_old), (Some(Freshness::Stale), false), "last in rank");
        assert_eq!(heard.neighbourhood.regions[&heard.there].shared.age_ms(Monotonic(11 * SECOND)), None);
        heard.stands(None, None, 9 * SECOND + HOUR);
        assert!(heard.remote().0.is_some());
        heard.stands(None, None, 11 * SECOND + HOUR);
        assert_eq!(heard.remote(), (None, true), "and no longer");
    }

    #[test]
    fn a_distance_that_was_never_measured_is_none() {
        let mut heard = Heard::of();
        heard.told(5, 0);
        heard.stands(Some(Duration::ZERO), None, 0);
        assert_eq!(heard.page().round_trip_ms, None);
        heard.stands(Some(Duration::ZERO), Some(30), SECOND);
        assert_eq!(heard.page().round_trip_ms, Some(35));
    }

    #[test]
    fn a_region_that_is_silent_for_a_day_makes_no_service_known() {
        let mut heard = Heard::of();
        heard.told(5, 0);
        heard.stands(Some(Duration::ZERO), Some(1), 0);
        let silent = |heard: &mut Heard, at: u64| {
            heard.stands(Some(Duration::from_millis(at)), Some(1), at);
            (heard.catalog.neighbours().knows(&heard.service), heard.neighbourhood.take_forgotten().len())
        };
        assert_eq!(silent(&mut heard, 24 * HOUR - 1), (true, 0), "too stale until then");
        assert_eq!(silent(&mut heard, 24 * HOUR + 1), (false, 1));
        assert_eq!((silent(&mut heard, 25 * HOUR), heard.page().services), ((false, 0), 0));
        // What it tells before anything proves it is kept aside.
        heard.told(6, 26 * HOUR);
        assert!(!heard.catalog.neighbours().knows(&heard.service));
        heard.stands(Some(Duration::ZERO), Some(1), 26 * HOUR);
        assert!(heard.catalog.neighbours().knows(&heard.service), "it is back");
        assert_eq!((heard.remote().1, heard.page().services), (false, 1));
    }
}
