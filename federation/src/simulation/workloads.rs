//! What runs in a region: instances that start, stop and crash, and what its registry lists and tells of them.

use super::dice::Dice;
use super::process::LIMITS;
use crate::record::{encode_notice, encode_summary};
use bytes::Bytes;
use meridian_model::binding::Bound;
use meridian_model::catalog::Catalog;
use meridian_model::instance::{Instance, Lease, LeaseId, Owner};
use meridian_model::names::{PolicyVersion, RegionName, ServiceKey};
use meridian_model::registration::{Host, Registration, RenewBy};
use meridian_model::status::{CheckVerdict, Declared};
use meridian_model::summary::{Ingress, RegionNotice, summarize};
use meridian_model::time::UnixMillis;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Instances that a service may have in a region.
const POOL: usize = 4;
/// How long a crashed instance is still listed, in milliseconds.
pub(super) const TTL: u64 = 1_000;

/// Instances as a registry lists them.
pub(super) type Listed = Arc<Vec<Arc<Instance>>>;

/// How an instance is, whatever the registry says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    Absent,
    Healthy,
    Unhealthy,
    Draining,
    /// Gone without a word: listed as healthy until its lease ends.
    Crashed,
}

#[derive(Clone, Copy)]
struct Slot {
    life: Life,
    since: u64,
}

/// All that runs in one region.
pub(super) struct Workloads {
    region: RegionName,
    services: BTreeMap<ServiceKey, [Slot; POOL]>,
}

/// Service `n` of any region.
pub(super) fn service(n: u64) -> ServiceKey {
    ServiceKey::new("prod".parse().unwrap(), format!("svc-{n}").parse().unwrap())
}

/// What a gateway or node answers by where nothing is bound.
pub(super) fn built_in() -> Bound {
    let version = PolicyVersion::of(b"");
    Bound { policy: "zone-fallback".parse().unwrap(), version, config: Default::default() }
}

impl Workloads {
    pub(super) fn new(region: RegionName, services: u64) -> Self {
        let absent = [Slot { life: Life::Absent, since: 0 }; POOL];
        Self { region, services: (1..=services).map(|n| (service(n), absent)).collect() }
    }

    pub(super) fn services(&self) -> impl Iterator<Item = &ServiceKey> {
        self.services.keys()
    }

    /// Something happens to an instance of a service, or to all. Gives whether one crashed.
    pub(super) fn change(&mut self, time: u64, service: &ServiceKey, dice: &mut Dice) -> bool {
        let Some(slots) = self.services.get_mut(service) else { return false };
        let at = dice.index(POOL);
        let life = match dice.within(0..12) {
            // Something that no summary shows.
            0 => return false,
            1 => {
                slots.iter_mut().for_each(|slot| *slot = Slot { life: Life::Absent, since: time });
                return false;
            }
            2 | 3 if slots[at].life == Life::Healthy => Life::Crashed,
            2..=4 => Life::Unhealthy,
            5 => Life::Draining,
            6 | 7 => Life::Absent,
            _ => Life::Healthy,
        };
        if slots[at].life != life {
            slots[at] = Slot { life, since: time };
        }
        life == Life::Crashed
    }

    /// What the registry lists of a service once it has caught up with what runs.
    pub(super) fn listed(&self, time: u64, service: &ServiceKey) -> Listed {
        let slots = self.services.get(service).into_iter().flatten().enumerate();
        let listed = slots.filter_map(|(at, slot)| {
            let declared = match slot.life {
                Life::Absent => return None,
                Life::Crashed if time >= slot.since + TTL => return None,
                Life::Crashed | Life::Healthy => Declared::Healthy,
                Life::Unhealthy => Declared::Unhealthy,
                Life::Draining => Declared::Draining,
            };
            Some(Arc::new(instance(at, declared)))
        });
        Arc::new(listed.collect())
    }

    /// Since when an instance may not receive traffic; none if it may.
    pub(super) fn gone_since(&self, service: &ServiceKey, id: &str) -> Option<u64> {
        let slots = self.services.get(service).into_iter().flatten().enumerate();
        let slot = slots.filter(|(at, _)| name(*at) == id).map(|(_, slot)| *slot).next();
        match slot {
            Some(Slot { life: Life::Healthy, .. }) => None,
            Some(Slot { since, .. }) => Some(since),
            None => Some(0),
        }
    }

    /// The instances that a record names and that may receive traffic. It is read by eye: an id stands in it as it is.
    pub(super) fn live_in(&self, service: &ServiceKey, record: &[u8]) -> Option<String> {
        let named = (0..POOL).map(name).filter(|id| record.windows(id.len()).any(|w| w == id.as_bytes()));
        named.into_iter().find(|id| self.gone_since(service, id).is_none())
    }

    /// The record of a service; none where nothing is listed.
    pub(super) fn record(&self, service: &ServiceKey, listed: &Listed) -> Option<Bytes> {
        if listed.is_empty() {
            return None;
        }
        let mut catalog = Catalog::new(self.region.clone(), built_in());
        for instance in listed.iter() {
            catalog.put_instance(service, Arc::clone(instance), 1);
        }
        let summary = summarize(&catalog.snapshot(service, 1)?, None);
        Some(encode_summary(&summary, LIMITS.record_bytes))
    }
}

/// The record of a region, as its operators may have it.
pub(super) fn notice(dice: &mut Dice) -> Bytes {
    let zones = ["za", "zb"].into_iter().filter(|_| dice.chance(25)).map(|zone| zone.parse().unwrap());
    let draining_zones = zones.collect();
    encode_notice(&RegionNotice {
        draining: dice.chance(25).then(|| "spared".into()),
        draining_zones,
        ingress: Some(Ingress { host: "edge".into(), port: 443 })
            .filter(|_| dice.chance(30))
            .into_iter()
            .collect(),
    })
}

fn name(at: usize) -> String {
    format!("i{at:02}")
}

fn instance(at: usize, status: Declared) -> Instance {
    let declared = Registration {
        host: Host::parse("10.0.0.1").unwrap(),
        port: 80,
        zone: if at.is_multiple_of(2) { "za" } else { "zb" }.parse().unwrap(),
        version: Default::default(),
        weight: 1 + at as u32,
        deployment_group: Default::default(),
        protocol: Default::default(),
        tags: Vec::new(),
        metadata: BTreeMap::new(),
        status,
        lease_ttl_seconds: 1,
        renew_by: RenewBy::Heartbeat,
        capacity: (at == 0).then_some(50),
        health_check: None,
    };
    Instance {
        format: 1,
        id: name(at).parse().unwrap(),
        owner: Owner { issuer: "i".into(), subject: "s".into() },
        declared,
        lease: Lease { id: LeaseId(1), token_expires_at: None, expired_at: None },
        check: CheckVerdict::Pending,
        check_detail: Default::default(),
        registered_at: UnixMillis(0),
        updated_at: UnixMillis(0),
        reason: Default::default(),
        unknown: Default::default(),
    }
}
