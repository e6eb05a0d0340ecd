//! Everything that is known of a region at an index, and which services a change touches.
//!
//! Memory changes only by events of the registry. Whoever owns the catalog applies them in order and makes a new
//! snapshot of each service that was touched.

use crate::binding::{Binding, Bound, Effective, Manifest};
use crate::disabled::{Disabled, Switch, Switches};
use crate::instance::{Instance, render_endpoint};
use crate::names::{
    InstanceId, Namespace, PolicyName, PolicyVersion, RegionName, ServiceKey, ServiceName, ZoneName,
};
use crate::neighbours::{Drain, Drained, Neighbours};
use crate::remote::{FULL_RAMP, Standing};
use crate::snapshot::{Endpoint, Snapshot};
use crate::status::Status;
use crate::summary::{RegionNotice, Summary};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// One instance with what was derived from it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The record.
    pub instance: Arc<Instance>,
    /// The revision that wrote it.
    pub modified: u64,
    /// Its JSON in answers.
    pub rendered: Arc<[u8]>,
    /// Kept from a former incarnation until its owner registers again or its time is up: it answers, under doubt.
    pub held: bool,
}

/// The instances of one service.
#[derive(Clone, Debug, Default)]
struct Service {
    slot: u32,
    instances: BTreeMap<InstanceId, Entry>,
    /// The greatest revision that changed anything in it.
    index: u64,
    /// Where it stands on its way back from other regions; none stands for [`FULL_RAMP`].
    ramp: Option<u32>,
}

/// The state of a region.
#[derive(Clone, Debug)]
pub struct Catalog {
    region: RegionName,
    built_in: Bound,
    services: BTreeMap<ServiceKey, Service>,
    bindings: BTreeMap<(Namespace, Option<ServiceName>), (Arc<Binding>, u64)>,
    policies: BTreeMap<(PolicyName, PolicyVersion), (Arc<Manifest>, u64)>,
    drains: BTreeMap<Drained, (Arc<Drain>, u64)>,
    switches: Switches,
    /// What services carry, as their instances report it.
    loads: BTreeMap<ServiceKey, u64>,
    neighbours: Neighbours,
    next_slot: u32,
}

/// What a change may have altered.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Touched {
    /// Services whose snapshot is to be made anew.
    pub services: BTreeSet<ServiceKey>,
}

impl Touched {
    /// Both.
    pub fn merge(&mut self, other: Self) {
        self.services.extend(other.services);
    }

    fn one(key: ServiceKey) -> Self {
        Self { services: BTreeSet::from([key]) }
    }
}

impl Catalog {
    /// An empty catalog. `built_in` answers where nothing is bound.
    #[must_use]
    pub fn new(region: RegionName, built_in: Bound) -> Self {
        Self {
            region,
            built_in,
            services: BTreeMap::new(),
            bindings: BTreeMap::new(),
            policies: BTreeMap::new(),
            drains: BTreeMap::new(),
            switches: Switches::new(),
            loads: BTreeMap::new(),
            neighbours: Neighbours::default(),
            next_slot: 0,
        }
    }

    /// Puts an instance. A record that is not newer than the one that is known is ignored.
    pub fn put_instance(&mut self, service: &ServiceKey, instance: Arc<Instance>, modified: u64) -> Touched {
        let rendered = match self.instance(service, &instance.id) {
            Some(entry) if !entry.held && entry.modified >= modified => return Touched::default(),
            // Heartless changes (a check's verdict, a lease) leave the answer's bytes as they are: share them.
            Some(entry) if same_answer(&entry.instance, &instance) => Arc::clone(&entry.rendered),
            _ => render_endpoint(&instance, &self.region).into(),
        };
        let id = instance.id.clone();
        let entry = Entry { instance, modified, rendered, held: false };
        let service_state = self.service_mut(service);
        service_state.index = service_state.index.max(modified);
        service_state.instances.insert(id, entry);
        Touched::one(service.clone())
    }

    /// Removes an instance, if the removal is not older than what is known.
    pub fn remove_instance(&mut self, service: &ServiceKey, id: &InstanceId, revision: u64) -> Touched {
        let Some(state) = self.services.get_mut(service) else { return Touched::default() };
        match state.instances.get(id) {
            Some(entry) if entry.held || entry.modified <= revision => {
                state.instances.remove(id);
                state.index = state.index.max(revision);
                Touched::one(service.clone())
            }
            _ => Touched::default(),
        }
    }

    /// Keeps an instance that the registry no longer knows, because the registry lost its memory and not because the
    /// instance left. It answers as before, as degraded.
    pub fn hold_instance(&mut self, service: &ServiceKey, id: &InstanceId) -> Touched {
        match self.services.get_mut(service).and_then(|s| s.instances.get_mut(id)) {
            Some(entry) if !entry.held => {
                entry.held = true;
                Touched::one(service.clone())
            }
            _ => Touched::default(),
        }
    }

    /// Puts a binding: of a service, or of a namespace where `service` is none.
    pub fn put_binding(
        &mut self,
        namespace: Namespace,
        service: Option<ServiceName>,
        binding: Arc<Binding>,
        modified: u64,
    ) -> Touched {
        let place = (namespace, service);
        // What changes no answer, such as the report of a failure, prepares nothing anew.
        let effective = |binding: &Binding| Effective::of(Some(binding), None, &self.built_in);
        let same = self.bindings.get(&place).is_some_and(|(b, _)| effective(b) == effective(&binding));
        let touched = if same { Touched::default() } else { self.bound_services(&place.0, place.1.as_ref()) };
        self.bindings.insert(place, (binding, modified));
        touched
    }

    /// Removes a binding.
    pub fn remove_binding(&mut self, namespace: &Namespace, service: Option<&ServiceName>) -> Touched {
        match self.bindings.remove(&(namespace.clone(), service.cloned())) {
            Some(_) => self.bound_services(namespace, service),
            None => Touched::default(),
        }
    }

    /// Services whose policy changes with this binding: also one that has no instances, so that it is known.
    fn bound_services(&mut self, namespace: &Namespace, service: Option<&ServiceName>) -> Touched {
        match service {
            Some(service) => {
                let key = ServiceKey::new(namespace.clone(), service.clone());
                self.service_mut(&key);
                Touched::one(key)
            }
            None => Touched {
                services: self.services.keys().filter(|k| k.namespace == *namespace).cloned().collect(),
            },
        }
    }

    /// Puts a policy's manifest.
    pub fn put_policy(&mut self, manifest: Arc<Manifest>, modified: u64) {
        self.policies.insert((manifest.name.clone(), manifest.version), (manifest, modified));
    }

    /// Removes a policy's manifest.
    pub fn remove_policy(&mut self, name: &PolicyName, version: PolicyVersion) {
        self.policies.remove(&(name.clone(), version));
    }

    /// Puts a drain. It touches everything: a zone's evacuation moves traffic of all services.
    pub fn put_drain(&mut self, drained: Drained, drain: Arc<Drain>, modified: u64) -> Touched {
        self.drains.insert(drained, (drain, modified));
        self.all()
    }

    /// Ends a drain.
    pub fn remove_drain(&mut self, drained: &Drained) -> Touched {
        if self.drains.remove(drained).is_some() { self.all() } else { Touched::default() }
    }

    /// Throws a switch.
    pub fn put_disabled(&mut self, switch: Switch, disabled: Arc<Disabled>, modified: u64) -> Touched {
        let before = self.switches.insert(switch, (Arc::clone(&disabled), modified));
        if before.is_some_and(|(before, _)| before == disabled) {
            Touched::default()
        } else {
            self.naming(switch)
        }
    }

    /// Puts a switch back.
    pub fn remove_disabled(&mut self, switch: Switch) -> Touched {
        if self.switches.remove(&switch).is_some() { self.naming(switch) } else { Touched::default() }
    }

    /// Services whose binding names what a switch is for.
    fn naming(&self, switch: Switch) -> Touched {
        let Some(version) = switch else { return self.all() };
        let names = |key: &&ServiceKey| {
            let binding = self.effective(key).0;
            binding.versions().chain(&binding.before).any(|bound| bound.version == version)
        };
        Touched { services: self.services.keys().filter(names).cloned().collect() }
    }

    /// Notes what a service carries; none where nothing of it reports that. It is part of what other regions are told, and
    /// of nothing that lookups here read.
    pub fn set_load(&mut self, service: &ServiceKey, load: Option<u64>) -> Touched {
        let before = match load {
            Some(load) => self.loads.insert(service.clone(), load),
            None => self.loads.remove(service),
        };
        if before == load { Touched::default() } else { Touched::one(service.clone()) }
    }

    /// What a service carries, where its instances report it.
    #[must_use]
    pub fn load(&self, service: &ServiceKey) -> Option<u64> {
        self.loads.get(service).copied()
    }

    /// Notes what another region tells of a service, or that it tells nothing of it any more.
    pub fn set_summary(
        &mut self,
        region: &RegionName,
        service: &ServiceKey,
        summary: Option<Arc<Summary>>,
    ) -> Touched {
        if summary.is_some() {
            // So that a service is known that has instances elsewhere only.
            self.service_mut(service);
        }
        let news = self.neighbours.set_summary(region, service, summary);
        if news { Touched::one(service.clone()) } else { Touched::default() }
    }

    /// Notes what another region tells of itself.
    pub fn set_notice(&mut self, region: &RegionName, notice: RegionNotice) -> Touched {
        let news = self.neighbours.set_notice(region, notice);
        if news { self.told_by(region) } else { Touched::default() }
    }

    /// Notes how another region stands, and whether it is too old to be used.
    pub fn set_standing(&mut self, region: &RegionName, standing: Standing, too_old: bool) -> Touched {
        let news = self.neighbours.set_standing(region, standing, too_old);
        if news { self.told_by(region) } else { Touched::default() }
    }

    /// Notes the ramp of a service that returns from other regions.
    pub fn set_ramp(&mut self, service: &ServiceKey, ramp: u32) -> Touched {
        let ramp = (ramp < FULL_RAMP).then_some(ramp);
        match self.services.get_mut(service) {
            Some(known) if known.ramp != ramp => {
                known.ramp = ramp;
                Touched::one(service.clone())
            }
            _ => Touched::default(),
        }
    }

    fn told_by(&self, region: &RegionName) -> Touched {
        Touched { services: self.neighbours.services(region).map(|(key, _)| key.clone()).collect() }
    }

    fn all(&self) -> Touched {
        Touched { services: self.services.keys().cloned().collect() }
    }

    fn service_mut(&mut self, key: &ServiceKey) -> &mut Service {
        if !self.services.contains_key(key) {
            let slot = self.next_slot;
            self.next_slot = self.next_slot.saturating_add(1);
            self.services.insert(key.clone(), Service { slot, ..Service::default() });
        }
        self.services.entry(key.clone()).or_default()
    }

    /// Knows a service that has nothing now, but had something not long ago.
    pub fn remember_service(&mut self, key: &ServiceKey) -> Touched {
        self.service_mut(key);
        Touched::one(key.clone())
    }

    /// Forgets a service that has neither instances nor a binding, here or in other regions; false if it has.
    pub fn forget_service(&mut self, key: &ServiceKey) -> bool {
        let bound = self.bindings.contains_key(&(key.namespace.clone(), Some(key.service.clone())))
            || self.neighbours.knows(key);
        let empty = self.services.get(key).is_some_and(|s| s.instances.is_empty());
        if empty && !bound {
            self.services.remove(key);
        }
        empty && !bound
    }

    /// The instance, if it is known.
    #[must_use]
    pub fn instance(&self, service: &ServiceKey, id: &InstanceId) -> Option<&Entry> {
        self.services.get(service)?.instances.get(id)
    }

    /// All instances.
    pub fn instances(&self) -> impl Iterator<Item = (&ServiceKey, &InstanceId, &Entry)> {
        self.services.iter().flat_map(|(key, s)| s.instances.iter().map(move |(id, entry)| (key, id, entry)))
    }

    /// All services that are known.
    pub fn services(&self) -> impl Iterator<Item = &ServiceKey> {
        self.services.keys()
    }

    /// All bindings.
    pub fn bindings(&self) -> impl Iterator<Item = (&(Namespace, Option<ServiceName>), &Arc<Binding>, u64)> {
        self.bindings.iter().map(|(at, (binding, modified))| (at, binding, *modified))
    }

    /// All manifests.
    pub fn policies(&self) -> impl Iterator<Item = (&Arc<Manifest>, u64)> {
        self.policies.values().map(|(manifest, modified)| (manifest, *modified))
    }

    /// All drains.
    pub fn drains(&self) -> impl Iterator<Item = (&Drained, &Arc<Drain>, u64)> {
        self.drains.iter().map(|(drained, (drain, modified))| (drained, drain, *modified))
    }

    /// All switches that are thrown.
    #[must_use]
    pub fn switches(&self) -> &Switches {
        &self.switches
    }

    /// Whether operators of this region want that one spared as a whole.
    #[must_use]
    pub fn is_drained(&self, region: &RegionName) -> bool {
        self.drains.contains_key(&(region.clone(), None))
    }

    /// Whose state it is.
    #[must_use]
    pub fn region(&self) -> &RegionName {
        &self.region
    }

    /// Other regions.
    #[must_use]
    pub fn neighbours(&self) -> &Neighbours {
        &self.neighbours
    }

    /// What this region tells others of itself.
    #[must_use]
    pub fn notice(&self, ingress: &[crate::summary::Ingress]) -> RegionNotice {
        let own = |zone: &Option<ZoneName>| (self.region.clone(), zone.clone());
        RegionNotice {
            draining: self.drains.get(&own(&None)).map(|(drain, _)| drain.reason.clone()),
            draining_zones: self.drained_zones().cloned().collect(),
            ingress: ingress.to_vec(),
        }
    }

    /// Zones of this region under evacuation.
    fn drained_zones(&self) -> impl Iterator<Item = &ZoneName> {
        self.drains.keys().filter(|(region, _)| *region == self.region).filter_map(|(_, zone)| zone.as_ref())
    }

    /// Zones whose traffic yields to others: those under evacuation, or all that the service has if the region is.
    fn yielding_zones(&self, endpoints: &[Endpoint]) -> Vec<ZoneName> {
        if self.drains.contains_key(&(self.region.clone(), None)) {
            let zones: BTreeSet<&ZoneName> = endpoints.iter().map(Endpoint::zone).collect();
            return zones.into_iter().cloned().collect();
        }
        self.drained_zones().cloned().collect()
    }

    /// The binding in force for a service before any switch, and the revision that wrote it last.
    fn effective(&self, key: &ServiceKey) -> (Effective, u64) {
        let own = self.bindings.get(&(key.namespace.clone(), Some(key.service.clone())));
        let default = self.bindings.get(&(key.namespace.clone(), None));
        let binding = Effective::of(own.map(|(b, _)| &**b), default.map(|(b, _)| &**b), &self.built_in);
        (binding, own.map_or(0, |(_, m)| *m).max(default.map_or(0, |(_, m)| *m)))
    }

    /// The picture of a service; `None` if it is not known.
    #[must_use]
    pub fn snapshot(&self, key: &ServiceKey, serial: u64) -> Option<Snapshot> {
        let service = self.services.get(key)?;
        let (binding, bound_index) = self.effective(key);
        let binding = binding.heeding(&self.switches);
        let endpoints = service
            .instances
            .values()
            .map(|entry| {
                let status = entry.instance.status();
                let degraded = entry.held && status == Status::Healthy;
                let endpoint =
                    Endpoint::new(Arc::clone(&entry.instance), status, degraded, Arc::clone(&entry.rendered));
                Endpoint { modified: if entry.held { 0 } else { entry.modified }, ..endpoint }
            })
            .collect::<Vec<_>>();
        let (remotes, withheld) = self.neighbours.remotes(key, &binding.limits, &self.drains);
        Some(Snapshot {
            draining_zones: self.yielding_zones(&endpoints),
            ramp: service.ramp.unwrap_or(FULL_RAMP),
            remotes,
            withheld,
            key: key.clone(),
            region: self.region.clone(),
            slot: service.slot,
            serial,
            index: service.index.max(bound_index),
            endpoints,
            binding: Arc::new(binding),
        })
    }
}

/// Whether both records render to the same bytes.
fn same_answer(a: &Instance, b: &Instance) -> bool {
    let (a, b) = (&a.declared, &b.declared);
    (&a.host, a.port, &a.zone, &a.version, a.weight, &a.tags, &a.metadata)
        == (&b.host, b.port, &b.zone, &b.version, b.weight, &b.tags, &b.metadata)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::{Lease, LeaseId, Owner};
    use crate::registration::RegistrationBody;
    use crate::status::CheckVerdict;
    use crate::time::UnixMillis;

    fn catalog() -> Catalog {
        let built_in = Bound {
            policy: "zone-fallback".parse().unwrap(),
            version: PolicyVersion::of(b""),
            config: Default::default(),
        };
        Catalog::new("r".parse().unwrap(), built_in)
    }

    fn key() -> ServiceKey {
        ServiceKey::new(Namespace::default(), "orders".parse().unwrap())
    }

    fn instance(id: &str, weight: u32) -> Arc<Instance> {
        let body = format!(r#"{{"host":"10.0.0.1","port":80,"zone":"z","weight":{weight}}}"#);
        let body: RegistrationBody = serde_json::from_str(&body).unwrap();
        Arc::new(Instance {
            format: 1,
            id: id.parse().unwrap(),
            owner: Owner { issuer: "i".into(), subject: "s".into() },
            declared: body.parse().unwrap(),
            lease: Lease { id: LeaseId(1), token_expires_at: None, expired_at: None },
            check: CheckVerdict::Pending,
            check_detail: Default::default(),
            registered_at: UnixMillis(0),
            updated_at: UnixMillis(0),
            reason: Default::default(),
            unknown: Default::default(),
        })
    }

    #[test]
    fn older_records_and_removals_change_nothing() {
        let mut catalog = catalog();
        let id = "a".parse().unwrap();
        assert_eq!(catalog.put_instance(&key(), instance("a", 2), 20).services.len(), 1);
        assert_eq!(catalog.put_instance(&key(), instance("a", 1), 10), Touched::default());
        assert_eq!(catalog.remove_instance(&key(), &id, 15), Touched::default());
        assert_eq!(catalog.snapshot(&key(), 1).unwrap().endpoints.len(), 1);
        assert_eq!(catalog.remove_instance(&key(), &id, 25).services.len(), 1);
        assert_eq!(catalog.snapshot(&key(), 2).unwrap().index, 25);
    }

    #[test]
    fn a_held_instance_answers_as_degraded_and_any_record_replaces_it() {
        let mut catalog = catalog();
        catalog.put_instance(&key(), instance("a", 2), 2000);
        catalog.hold_instance(&key(), &"a".parse().unwrap());
        let held = catalog.snapshot(&key(), 1).unwrap();
        assert!(held.endpoints[0].degraded && held.is_eligible(0));
        // The wiped registry counts from the beginning: its revisions are smaller, and still newer.
        catalog.put_instance(&key(), instance("a", 3), 7);
        let fresh = catalog.snapshot(&key(), 2).unwrap();
        assert!(!fresh.endpoints[0].degraded);
        assert_eq!(fresh.endpoints[0].instance.declared.weight, 3);
    }

    #[test]
    fn bytes_are_shared_while_the_answer_is_the_same() {
        let mut catalog = catalog();
        catalog.put_instance(&key(), instance("a", 2), 1);
        let first = catalog.snapshot(&key(), 1).unwrap();
        catalog.put_instance(&key(), instance("a", 2), 2);
        let second = catalog.snapshot(&key(), 2).unwrap();
        assert!(Arc::ptr_eq(&first.endpoints[0].rendered, &second.endpoints[0].rendered));
    }
}
