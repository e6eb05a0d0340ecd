//! The instances of the region by slot. Slots are small numbers, so that timers, queues and leases can name an instance
//! in four bytes; one that was left is given out again.

use super::duty::Duty;
use crate::instance::{Instance, InstanceKey};
use crate::names::{InstanceId, ServiceKey};
use std::collections::BTreeMap;
use std::sync::Arc;

/// One instance of the region.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) service: Arc<ServiceKey>,
    pub(super) instance: Arc<Instance>,
    pub(super) modified: u64,
    /// While this gateway is its guardian.
    pub(super) duty: Option<Duty>,
    /// What it said last under its lease that it carries.
    pub(super) load: Option<u32>,
}

impl Entry {
    pub(super) fn key(&self) -> InstanceKey {
        InstanceKey { service: ServiceKey::clone(&self.service), id: self.instance.id.clone() }
    }
}

#[derive(Debug, Default)]
pub(super) struct Population {
    entries: Vec<Option<Entry>>,
    free: Vec<u32>,
    /// Slots of each service's instances, in the order of their ids.
    services: BTreeMap<Arc<ServiceKey>, Vec<u32>>,
}

impl Population {
    pub(super) fn get(&self, slot: u32) -> Option<&Entry> {
        self.entries.get(slot as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut Entry> {
        self.entries.get_mut(slot as usize)?.as_mut()
    }

    /// All slots, taken or free.
    pub(super) fn slots(&self) -> impl Iterator<Item = u32> + use<> {
        (0u32..).take(self.entries.len())
    }

    /// All services that have instances.
    pub(super) fn services(&self) -> impl Iterator<Item = &Arc<ServiceKey>> {
        self.services.keys()
    }

    /// The instances of a service.
    pub(super) fn of(&self, service: &ServiceKey) -> impl Iterator<Item = &Entry> {
        self.services.get(service).into_iter().flatten().filter_map(|slot| self.get(*slot))
    }

    pub(super) fn find(&self, key: &InstanceKey) -> Option<u32> {
        let slots = self.services.get(&key.service)?;
        let at = self.position(slots, &key.id).ok()?;
        slots.get(at).copied()
    }

    /// Adds an instance that is not known yet. Appending in the order of ids is the cheapest.
    pub(super) fn insert(
        &mut self,
        service: &ServiceKey,
        instance: Arc<Instance>,
        modified: u64,
    ) -> Option<u32> {
        let service = match self.services.get_key_value(service) {
            Some((known, _)) => Arc::clone(known),
            None => Arc::new(service.clone()),
        };
        let slot = match self.free.pop() {
            Some(slot) => slot,
            // Beyond 2^32 instances memory ended long ago.
            None => u32::try_from(self.entries.len()).ok()?,
        };
        let at = self.services.get(&service).map_or(0, |slots| match self.position(slots, &instance.id) {
            Ok(at) | Err(at) => at,
        });
        let entry = Entry { service: Arc::clone(&service), instance, modified, duty: None, load: None };
        match self.entries.get_mut(slot as usize) {
            Some(place) => *place = Some(entry),
            None => self.entries.push(Some(entry)),
        }
        self.services.entry(service).or_default().insert(at, slot);
        Some(slot)
    }

    pub(super) fn remove(&mut self, slot: u32) -> Option<Entry> {
        let (service, id) = self.get(slot).map(|e| (Arc::clone(&e.service), e.instance.id.clone()))?;
        let at = self.services.get(&service).and_then(|slots| self.position(slots, &id).ok());
        if let (Some(at), Some(slots)) = (at, self.services.get_mut(&service)) {
            slots.remove(at);
            if slots.is_empty() {
                self.services.remove(&service);
            }
        }
        self.free.push(slot);
        self.entries.get_mut(slot as usize)?.take()
    }

    fn position(&self, slots: &[u32], id: &InstanceId) -> Result<usize, usize> {
        slots.binary_search_by(|slot| self.get(*slot).map(|e| &e.instance.id).cmp(&Some(id)))
    }
}
