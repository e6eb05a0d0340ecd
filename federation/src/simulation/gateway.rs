//! What a gateway makes of what its exchange tells: the model's catalog, damping and native fallback, driven as the real
//! gateway's receiver and keeper drive them. Its own region's instances are known at once; that is not what is tested.

use super::Broken;
use super::dice::Dice;
use super::registry::Commit;
use super::workloads::{Listed, built_in};
use crate::exchange::message::RecordKey;
use crate::exchange::{self, State};
use crate::planted::planted;
use crate::record::{decode_notice, decode_summary};
use meridian_model::binding::{Binding, Limits, Regions};
use meridian_model::catalog::{Catalog, Touched};
use meridian_model::failover::{Damper, Heard};
use meridian_model::locality;
use meridian_model::names::{RegionName, ServiceKey, ZoneName};
use meridian_model::neighbours::{Drain, Drained};
use meridian_model::plan::ReadyPlan;
use meridian_model::remote::{Address, Freshness};
use meridian_model::rollout::Terms;
use meridian_model::snapshot::Place;
use meridian_model::time::{Monotonic, UnixMillis};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What the operators of a gateway's region want; it outlives the process.
pub(super) struct Wishes {
    region: RegionName,
    /// Where each service may go; anywhere, where nothing is said.
    limits: BTreeMap<ServiceKey, BTreeSet<RegionName>>,
    /// Services that also run in the gateway's own region.
    at_home: BTreeSet<ServiceKey>,
    drains: Vec<Drained>,
    /// Past which age addresses may belong to others.
    pub(super) max_age: u64,
}

impl Wishes {
    pub(super) fn draw(
        region: &RegionName,
        others: &[RegionName],
        services: &BTreeSet<ServiceKey>,
        dice: &mut Dice,
    ) -> Self {
        let mut limits = BTreeMap::new();
        for service in services {
            if dice.chance(30) {
                limits.insert(service.clone(), others.iter().filter(|_| dice.chance(60)).cloned().collect());
            }
        }
        let at_home = services.iter().filter(|_| dice.chance(40)).cloned().collect();
        let drains = [None, Some("za".parse().unwrap())].map(|zone: Option<ZoneName>| {
            let region = &others[dice.index(others.len())];
            dice.chance(15).then(|| (region.clone(), zone))
        });
        Self {
            region: region.clone(),
            limits,
            at_home,
            drains: drains.into_iter().flatten().collect(),
            max_age: dice.weighted(&[(30, 40_000), (30, 120_000), (40, 3_600_000)]),
        }
    }

    pub(super) fn allow(&self, service: &ServiceKey, region: &RegionName) -> bool {
        *region == self.region || self.limits.get(service).is_none_or(|allowed| allowed.contains(region))
    }

    pub(super) fn is_at_home(&self, service: &ServiceKey) -> bool {
        self.at_home.contains(service)
    }
}

/// One address in an answer.
pub(super) struct Named {
    pub(super) region: RegionName,
    /// None for the region's ingress.
    pub(super) id: Option<String>,
}

/// Tiers of addresses; the first is preferred.
pub(super) type Answer = Vec<Vec<Named>>;

/// A gateway's memory.
pub(super) struct Gateway {
    pub(super) wishes: Arc<Wishes>,
    catalog: Catalog,
    dampers: BTreeMap<RegionName, Damper>,
    first_told: BTreeMap<RegionName, Monotonic>,
    home: BTreeMap<ServiceKey, Listed>,
    /// Like the real one, it prepares anew only what a change is said to touch.
    ready: BTreeMap<ServiceKey, Answer>,
}

impl Gateway {
    pub(super) fn new(wishes: Arc<Wishes>) -> Self {
        let mut catalog = Catalog::new(wishes.region.clone(), built_in());
        for (service, regions) in &wishes.limits {
            let limits = Limits { regions: Regions::Only(regions.clone()), ..Limits::default() };
            let terms = Terms { limits, ..Terms::default() };
            let binding = Binding::new(built_in(), terms, UnixMillis(0));
            let (namespace, service) = (service.namespace.clone(), Some(service.service.clone()));
            catalog.put_binding(namespace, service, Arc::new(binding), 1);
        }
        for drained in &wishes.drains {
            let drain = Drain {
                reason: "spared".into(),
                by: "an operator".into(),
                since: UnixMillis(0),
                unknown: Default::default(),
            };
            catalog.put_drain(drained.clone(), Arc::new(drain), 1);
        }
        Self {
            wishes,
            catalog,
            dampers: BTreeMap::new(),
            first_told: BTreeMap::new(),
            home: BTreeMap::new(),
            ready: BTreeMap::new(),
        }
    }

    /// Another state of a region is held.
    pub(super) fn hear(
        &mut self,
        region: &RegionName,
        state: &State,
        keys: &[RecordKey],
        now: Monotonic,
    ) -> Result<(), Broken> {
        self.first_told.entry(region.clone()).or_insert(now);
        let unreadable =
            |bad: crate::record::BadRecord| format!("a record of {region} cannot be read: {bad}");
        let mut touched = Touched::default();
        for key in keys {
            let bytes = state.get(key);
            match key {
                RecordKey::Region => {
                    let notice = bytes.map(|bytes| decode_notice(bytes)).transpose().map_err(unreadable)?;
                    touched.merge(self.catalog.set_notice(region, notice.unwrap_or_default()));
                }
                RecordKey::Service(service) => {
                    let summary = bytes.map(|bytes| decode_summary(bytes)).transpose().map_err(unreadable)?;
                    touched.merge(self.catalog.set_summary(region, service, summary.map(Arc::new)));
                }
            }
        }
        self.forget(&touched);
        Ok(())
    }

    fn forget(&mut self, touched: &Touched) {
        self.ready.retain(|service, _| !touched.services.contains(service));
    }

    /// How a region stands now.
    pub(super) fn judge(&mut self, region: &RegionName, standing: exchange::Standing, now: Monotonic) {
        let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let age = standing.age.map(millis);
        let notice = self.catalog.neighbours().notice(region);
        let heard = Heard {
            age_ms: age,
            reachable: standing.reachable,
            draining: notice.is_some_and(|n| n.draining.is_some()) || self.catalog.is_drained(region),
            round_trip_ms: standing.round_trip.map(|time| millis(time) as u32),
        };
        let shown = self.dampers.entry(region.clone()).or_default().show(heard, now);
        // What is of unknown age is known for as long as it was told.
        let known_for = age.or_else(|| Some(millis(now.since(*self.first_told.get(region)?))));
        let known_for = known_for.filter(|_| age.is_some() || !planted!(UnknownAgeRefused));
        let too_old = known_for.is_none_or(|age| age > self.wishes.max_age);
        let mut touched = self.catalog.set_standing(region, shown, too_old);
        if planted!(StaleForgotten) && shown.freshness == Freshness::Stale {
            let told: Vec<ServiceKey> =
                self.catalog.neighbours().services(region).map(|(key, _)| key.clone()).collect();
            told.iter().for_each(|s| touched.merge(self.catalog.set_summary(region, s, None)));
        }
        self.forget(&touched);
    }

    /// What runs in the own region.
    pub(super) fn look_around(&mut self, service: &ServiceKey, commit: &Commit) {
        let listed = commit.listed.get(service).filter(|_| self.wishes.is_at_home(service));
        let Some(listed) = listed.cloned().or_else(|| self.home.contains_key(service).then(Listed::default))
        else {
            return;
        };
        let known = self.home.entry(service.clone()).or_default();
        if Arc::ptr_eq(known, &listed) {
            return;
        }
        let mut touched = Touched::default();
        for instance in known.iter() {
            touched.merge(self.catalog.remove_instance(service, &instance.id, u64::MAX));
        }
        for instance in listed.iter() {
            touched.merge(self.catalog.put_instance(service, Arc::clone(instance), commit.place.index));
        }
        *known = listed;
        self.forget(&touched);
    }

    /// What a caller is given.
    pub(super) fn answer(&mut self, service: &ServiceKey) -> &Answer {
        if !self.ready.contains_key(service) {
            let answer = self.prepare(service);
            self.ready.insert(service.clone(), answer);
        }
        &self.ready[service]
    }

    fn prepare(&self, service: &ServiceKey) -> Answer {
        let Some(mut snapshot) = self.catalog.snapshot(service, 1) else { return Vec::new() };
        if planted!(SuspectDropped) {
            snapshot.remotes.retain(|remote| remote.standing.freshness != Freshness::Suspect);
        }
        if planted!(DrainEmpties) {
            snapshot.remotes.retain(|remote| !remote.standing.draining);
        }
        let zone: ZoneName = "za".parse().unwrap();
        let plans = locality::fallback(&snapshot, Some(&zone));
        let named = |at: &u32| {
            Some(match snapshot.place(*at)? {
                Place::Here(endpoint) => {
                    Named { region: self.wishes.region.clone(), id: Some(endpoint.id().into()) }
                }
                Place::There(remote, Address::Endpoint(endpoint)) => {
                    Named { region: remote.region.clone(), id: Some(endpoint.names.id().into()) }
                }
                Place::There(remote, Address::Ingress(_)) => {
                    Named { region: remote.region.clone(), id: None }
                }
            })
        };
        let tiers = plans.plans.iter().flat_map(|plan| match plan {
            ReadyPlan::Tiers(tiers) => &**tiers,
            ReadyPlan::Refused | ReadyPlan::NothingEligible => &[],
        });
        tiers.map(|tier| tier.endpoints.iter().filter_map(named).collect()).collect()
    }
}
