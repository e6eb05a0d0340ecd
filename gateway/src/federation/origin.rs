//! What a node tells of its own region: the registry's state as summaries, followed event by event.
//!
//! [`Summaries`] has no clock and no I/O; [`run`] drives it.

use crate::clock;
use meridian_federation::exchange::limits::RECORD_BYTES;
use meridian_federation::exchange::message::{Record, RecordKey};
use meridian_federation::exchange::{Own, OwnChange};
use meridian_federation::record::{encode_notice, encode_summary};
use meridian_federation::service::Handle;
use meridian_model::catalog::{Catalog, Touched};
use meridian_model::instance::InstanceKey;
use meridian_model::names::{RegionName, ServiceKey};
use meridian_model::status::Status;
use meridian_model::summary::{Ingress, summarize};
use meridian_model::time::Monotonic;
use meridian_policies::Host;
use meridian_registry::record::{self, Record as Stored_};
use meridian_registry::{Event, Incarnation, Key, Known, Observed, Registry, Revision, Stored};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// Changes that come within this time are told together: a deployment changes a service many times a second, and each
/// telling is a signature here and one check at every node.
const GATHER: Duration = Duration::from_millis(20);
/// A registry that began a new life is given at most this long to hear of the instances that the old one knew.
const LONGEST_RETURN: Duration = Duration::from_secs(120);
/// A registry of which others know a later state, that nobody here remembers, is given this long: who beats every 10 s,
/// as leases of the default length ask, has registered again, and others do not yet call the region stale.
const BLIND_RETURN: Duration = Duration::from_secs(20);

/// The registry began a new life: what it does not know yet has not left, its owners have still to register again.
/// Until then the old life's state is what other regions go on with, growing old.
struct Returning {
    missing: BTreeSet<InstanceKey>,
    until: Monotonic,
}

/// A region's own records, by its registry's events.
pub struct Summaries {
    region: RegionName,
    ingress: Vec<Ingress>,
    catalog: Catalog,
    incarnation: Option<Incarnation>,
    index: u64,
    proven: Option<Monotonic>,
    told: BTreeMap<RecordKey, bytes::Bytes>,
    changed: BTreeSet<ServiceKey>,
    /// Something is to be told: a change, or only that the index or the proof moved.
    moved: bool,
    /// Everything is to be told anew.
    whole: bool,
    returning: Option<Returning>,
    /// Nothing is told before: what the registry lost is known to other regions only.
    blind_until: Option<Monotonic>,
}

fn empty(region: &RegionName) -> Catalog {
    Catalog::new(region.clone(), Host::built_in())
}

impl Summaries {
    /// Of a region that nothing is known of yet.
    #[must_use]
    pub fn new(region: RegionName, ingress: Vec<Ingress>) -> Self {
        Self {
            catalog: empty(&region),
            region,
            ingress,
            incarnation: None,
            index: 0,
            proven: None,
            told: BTreeMap::new(),
            changed: BTreeSet::new(),
            moved: false,
            whole: false,
            returning: None,
            blind_until: None,
        }
    }

    /// Other regions have seen the registry in the life `past`, further than it is. What it lost has not left, and nobody
    /// here can name it. Whether the registry has still to begin another life.
    pub fn outdated(&mut self, past: Incarnation, now: Monotonic) -> bool {
        if self.incarnation.is_some_and(|own| own.counter > past.counter) {
            return false;
        }
        self.blind_until.get_or_insert(now.plus(BLIND_RETURN));
        true
    }

    /// Takes an event of the registry into account.
    pub fn handle(&mut self, event: Event, now: Monotonic) {
        match event {
            Event::Reset { incarnation, revision, records, asked } => {
                self.reset(incarnation, revision, &records, now);
                self.proven = Some(clock::monotonic_at(asked));
            }
            Event::Changed { revision, changes } => {
                for change in changes {
                    let touched = match change {
                        Observed::Put(stored) => self.put(&stored),
                        Observed::Deleted(key, at) => self.delete(key, at),
                    };
                    self.touch(touched);
                }
                self.index = self.index.max(revision.0);
            }
            Event::Current { revision, asked } => {
                self.index = self.index.max(revision.0);
                self.proven = self.proven.max(Some(clock::monotonic_at(asked)));
            }
            // Nothing is told: absence of news is not news of absence. The last proof grows old by itself.
            Event::Lost { .. } => return,
        }
        self.moved = true;
    }

    fn reset(&mut self, incarnation: Incarnation, revision: Revision, records: &[Stored], now: Monotonic) {
        let another_life = self.incarnation.is_some_and(|before| before != incarnation);
        let before = std::mem::replace(&mut self.catalog, empty(&self.region));
        for stored in records {
            self.put(stored);
        }
        (self.incarnation, self.index) = (Some(incarnation), revision.0);
        self.whole = true;
        self.changed.clear();
        let mut waited_for = self.returning.take().map(|r| r.missing).unwrap_or_default();
        if another_life {
            let serving =
                before.instances().filter(|(_, _, entry)| entry.instance.status() == Status::Healthy);
            waited_for.extend(
                serving.map(|(service, id, _)| InstanceKey { service: service.clone(), id: id.clone() }),
            );
        }
        waited_for.retain(|key| self.catalog.instance(&key.service, &key.id).is_none());
        if !waited_for.is_empty() {
            let lease = |key: &InstanceKey| {
                before.instance(&key.service, &key.id).map(|entry| entry.instance.declared.lease_ttl())
            };
            let longest = waited_for.iter().filter_map(lease).max().unwrap_or_default();
            let until = now.plus(longest.saturating_mul(2).min(LONGEST_RETURN));
            tracing::info!(instances = waited_for.len(), "waiting for instances to register in the new life");
            self.returning = Some(Returning { missing: waited_for, until });
        }
    }

    fn put(&mut self, stored: &Stored) -> Touched {
        match (record::decode(&stored.key, &stored.value), &stored.key) {
            (Ok(Some(Stored_::Instance(instance))), Key::Instance(key)) => {
                if let Some(returning) = &mut self.returning {
                    returning.missing.remove(key);
                }
                self.catalog.put_instance(&key.service, Arc::new(*instance), stored.modified.0)
            }
            (Ok(Some(Stored_::Drain(drain))), Key::Drain(region, zone)) => {
                let drained = (region.clone(), zone.clone());
                self.catalog.put_drain(drained, Arc::new(*drain), stored.modified.0);
                // Drains are in the region's own record.
                Touched::default()
            }
            (Ok(Some(Stored_::Load(load))), Key::Load(service)) => {
                self.catalog.set_load(service, Some(load.total))
            }
            (Err(reason), _) => {
                tracing::warn!(reason, "keeping what was known");
                Touched::default()
            }
            _ => Touched::default(),
        }
    }

    fn delete(&mut self, key: Key, at: Revision) -> Touched {
        match key {
            Key::Instance(key) => self.catalog.remove_instance(&key.service, &key.id, at.0),
            Key::Load(service) => self.catalog.set_load(&service, None),
            Key::Drain(region, zone) => {
                self.catalog.remove_drain(&(region, zone));
                Touched::default()
            }
            _ => Touched::default(),
        }
    }

    fn touch(&mut self, touched: Touched) {
        self.changed.extend(touched.services);
    }

    /// Whether something other than the proof waits to be told.
    #[must_use]
    pub fn has_changes(&self) -> bool {
        self.whole || !self.changed.is_empty()
    }

    /// What is to be told now.
    pub fn poll(&mut self, now: Monotonic) -> Option<Own> {
        if self.returning.as_ref().is_some_and(|r| !r.missing.is_empty() && now < r.until) {
            return None;
        }
        if self.blind_until.is_some_and(|until| now < until) {
            return None;
        }
        (self.returning, self.blind_until) = (None, None);
        let incarnation = self.incarnation?;
        if !std::mem::take(&mut self.moved) {
            return None;
        }
        let notice = encode_notice(&self.catalog.notice(&self.ingress));
        let change = if std::mem::take(&mut self.whole) {
            self.changed.clear();
            let services: Vec<ServiceKey> = self.catalog.services().cloned().collect();
            self.told = services
                .into_iter()
                .filter_map(|key| Some((RecordKey::Service(key.clone()), self.record(&key)?)))
                .chain([(RecordKey::Region, notice)])
                .collect();
            let all = self.told.iter();
            OwnChange::All(
                all.map(|(key, bytes)| Record { key: key.clone(), bytes: bytes.clone() }).collect(),
            )
        } else {
            let changed = std::mem::take(&mut self.changed);
            let mut news = Vec::new();
            for service in changed {
                let record = self.record(&service);
                self.tell(RecordKey::Service(service), record, &mut news);
            }
            self.tell(RecordKey::Region, Some(notice), &mut news);
            OwnChange::Some(news)
        };
        Some(Own { incarnation, index: self.index, proven: self.proven, change })
    }

    fn tell(
        &mut self,
        key: RecordKey,
        record: Option<bytes::Bytes>,
        news: &mut Vec<(RecordKey, Option<bytes::Bytes>)>,
    ) {
        if self.told.get(&key) == record.as_ref() {
            return;
        }
        match &record {
            Some(bytes) => drop(self.told.insert(key.clone(), bytes.clone())),
            None => drop(self.told.remove(&key)),
        }
        news.push((key, record));
    }

    /// The record of a service; none where it has nothing that counts.
    fn record(&self, service: &ServiceKey) -> Option<bytes::Bytes> {
        let snapshot = self.catalog.snapshot(service, 0)?;
        let summary = summarize(&snapshot, self.catalog.load(service));
        (!summary.subsets.is_empty()).then(|| encode_summary(&summary, RECORD_BYTES))
    }
}

/// Follows the registry and tells the federation, until the registry or the service ends. `raises` says past which life
/// the registry's must be raised, because other regions have seen it further than it is.
pub async fn run(
    mut summaries: Summaries,
    registry: Arc<dyn Registry>,
    handle: Handle,
    mut raises: watch::Receiver<Option<Incarnation>>,
    told: Arc<AtomicBool>,
) {
    let mut events = registry.watch(None);
    let mut tell_at: Option<tokio::time::Instant> = None;
    let mut wake = tokio::time::interval(Duration::from_millis(500));
    loop {
        let due = tell_at.unwrap_or_else(|| tokio::time::Instant::now() + GATHER);
        tokio::select! {
            event = events.recv() => {
                let Some(event) = event else { return };
                summaries.handle(event, clock::monotonic_now());
                if summaries.has_changes() {
                    tell_at.get_or_insert_with(|| tokio::time::Instant::now() + GATHER);
                    continue;
                }
            }
            () = tokio::time::sleep_until(due), if tell_at.is_some() => tell_at = None,
            _ = wake.tick() => {}
            changed = raises.changed() => {
                if changed.is_err() {
                    return;
                }
                let past = *raises.borrow_and_update();
                if let Some(incarnation) = past
                    && summaries.outdated(incarnation, clock::monotonic_now())
                {
                    tracing::warn!(%incarnation, "other regions have seen this registry further than it is: it begins a new life");
                    // A watch claims the registry and raises its life past what is known, if it has not got there.
                    let known = Known { incarnation, revision: Revision(u64::MAX) };
                    events = registry.watch(Some(known));
                }
                continue;
            }
        }
        if tell_at.is_none()
            && let Some(own) = summaries.poll(clock::monotonic_now())
        {
            if handle.own(own).await.is_err() {
                return;
            }
            told.store(true, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(id: &str, status: &str, modified: u64) -> Stored {
        let value = format!(
            r#"{{"format":1,"id":"{id}","owner":{{"issuer":"i","subject":"s"}},
                "declared":{{"host":"10.0.0.1","port":1,"zone":"z","weight":5,"status":"{status}","leaseTtlSeconds":6}},
                "lease":{{"id":"00000000000000ff"}},"registeredAt":1,"updatedAt":2}}"#
        );
        let key = Key::decode(&format!("state/instances/default/orders/{id}")).unwrap();
        Stored { key, value: value.into(), modified: Revision(modified) }
    }

    fn reset(counter: u64, revision: u64, records: Vec<Stored>) -> Event {
        let incarnation = Incarnation { counter, random: 1 };
        let asked = std::time::Instant::now();
        Event::Reset { incarnation, revision: Revision(revision), records, asked }
    }

    fn at(ms: u64) -> Monotonic {
        Monotonic(1_000_000 + ms)
    }

    fn summaries() -> Summaries {
        Summaries::new("home".parse().unwrap(), Vec::new())
    }

    fn count(own: &Own) -> usize {
        match &own.change {
            OwnChange::All(records) => records.len(),
            OwnChange::Some(changes) => changes.len(),
        }
    }

    #[test]
    fn only_what_others_would_see_is_told() {
        let mut home = summaries();
        home.handle(reset(1, 5, vec![stored("a", "healthy", 5)]), at(0));
        let own = home.poll(at(0)).unwrap();
        assert_eq!((own.index, count(&own)), (5, 2), "the region and one service");
        assert_eq!(home.poll(at(1)), None);
        let put = |stored: Stored| Event::Changed {
            revision: stored.modified,
            changes: vec![Observed::Put(stored)],
        };
        // The same instance, written again: only the index moves.
        home.handle(put(stored("a", "healthy", 6)), at(2));
        let own = home.poll(at(2)).unwrap();
        assert_eq!((own.index, count(&own)), (6, 0));
        home.handle(put(stored("a", "draining", 7)), at(3));
        let own = home.poll(at(3)).unwrap();
        let key = RecordKey::Service(
            "default/orders"
                .split_once('/')
                .map(|(n, s)| ServiceKey::new(n.parse().unwrap(), s.parse().unwrap()))
                .unwrap(),
        );
        assert_eq!(own.change, OwnChange::Some(vec![(key, None)]));
    }

    /// Other regions would take the forgotten for gone.
    #[test]
    fn a_wiped_registry_is_told_of_once_its_instances_are_back() {
        let mut home = summaries();
        home.handle(reset(1, 50, vec![stored("a", "healthy", 5), stored("b", "healthy", 6)]), at(0));
        home.poll(at(0)).unwrap();
        home.handle(reset(2, 1, Vec::new()), at(10));
        assert_eq!(home.poll(at(20)), None);
        for (id, revision) in [("a", 2), ("b", 3)] {
            assert_eq!(home.poll(at(30)), None);
            let changes = vec![Observed::Put(stored(id, "healthy", revision))];
            home.handle(Event::Changed { revision: Revision(revision), changes }, at(40));
        }
        let own = home.poll(at(50)).unwrap();
        assert_eq!((own.incarnation.counter, own.index, count(&own)), (2, 3, 2));
    }

    /// Nobody here saw the old life, so that nothing is missing here; other regions would take it for gone all the same.
    #[test]
    fn what_only_others_remember_is_given_time_to_return() {
        let mut home = summaries();
        home.handle(reset(1, 1, Vec::new()), at(0));
        home.poll(at(0)).unwrap();
        let past = Incarnation { counter: 1, random: 7 };
        assert!(home.outdated(past, at(10)));
        home.handle(reset(2, 1, Vec::new()), at(20));
        // Who is not told of the new life asks for it again.
        assert!(!home.outdated(past, at(5_000)));
        let put = Observed::Put(stored("a", "healthy", 2));
        home.handle(Event::Changed { revision: Revision(2), changes: vec![put] }, at(9_000));
        assert_eq!(home.poll(at(20_009)), None);
        let own = home.poll(at(20_010)).unwrap();
        assert_eq!((own.incarnation.counter, count(&own)), (2, 2), "the region and the service that is back");
    }

    /// Else a region is of unknown age to all others until its registry is asked again.
    #[test]
    fn the_listing_itself_is_a_proof() {
        let mut home = summaries();
        home.handle(reset(1, 5, Vec::new()), clock::monotonic_now());
        let proven = home.poll(clock::monotonic_now()).unwrap().proven;
        assert!(
            proven.is_some_and(|at| clock::monotonic_now().since(at) < Duration::from_secs(60)),
            "{proven:?}"
        );
    }

    #[test]
    fn what_does_not_come_back_within_two_leases_has_left() {
        let mut home = summaries();
        home.handle(reset(1, 50, vec![stored("a", "healthy", 5)]), at(0));
        home.poll(at(0)).unwrap();
        home.handle(reset(2, 1, Vec::new()), at(10));
        assert_eq!(home.poll(at(12_009)), None);
        assert_eq!(count(&home.poll(at(12_011)).unwrap()), 1, "only the region");
    }
}
