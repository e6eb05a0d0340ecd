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
        /// Smoothed round trip.
        round_trip_ms: u32,
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
    round_trip_ms: u32,
    at: (Incarnation, u64),
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
    max_age: Duration,
    regions: BTreeMap<RegionName, Known>,
}

impl Neighbourhood {
    pub(crate) fn new(directory: Arc<Directory>, max_age: Duration) -> Self {
        Self { directory, max_age, regions: BTreeMap::new() }
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
            round_trip_ms: 0,
            at: (Incarnation::default(), 0),
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
                if let Some(known) = self.regions.get_mut(&region) {
                    known.at = (incarnation, index);
                }
                let mut touched = Touched::default();
                if let Some(notice) = notice {
                    touched.merge(catalog.set_notice(&region, notice));
                }
                for (service, summary) in services {
                    touched.merge(catalog.set_summary(&region, &service, summary));
                }
                if let Some(known) = self.regions.get_mut(&region) {
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
            freshness: age.map_or(Freshness::Stale, Freshness::of_age_ms),
            reachable: known.reachable,
            draining: notice.draining.is_some() || catalog.is_drained(region),
            round_trip_ms: known.round_trip_ms,
        };
        let standing = known.damper.show(heard, now);
        let Counts { services, healthy, total, headroom, zones } = known.counts.clone();
        let ((incarnation, index), freshness) = (known.at, heard.freshness);
        let page = RegionPage {
            incarnation,
            index,
            standing,
            freshness,
            reachable: heard.reachable,
            notice,
            services,
            healthy,
            total,
            headroom,
            zones,
        };
        known.page = Some(Arc::new(page));
        // Never proven in this life of the process, and told by nobody: as old as it gets.
        let too_old = age.is_none_or(|age| u128::from(age) > self.max_age.as_millis());
        catalog.set_standing(region, standing, too_old)
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
