//! What lookups read: the newest snapshot of every service, published by the keeper alone.

use crate::neighbourhood::OtherRegion;
use arc_swap::ArcSwap;
use foldhash::SharedSeed;
use foldhash::fast::SeedableRandomState;
use meridian_model::binding::{Binding, Manifest};
use meridian_model::disabled::Switches;
use meridian_model::names::{Namespace, PolicyName, PolicyVersion, ServiceKey, ServiceName};
use meridian_model::neighbours::{Drain, Drained};
use meridian_model::remote::FULL_RAMP;
use meridian_model::snapshot::Snapshot;
use meridian_model::time::Monotonic;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Arc, OnceLock};
use tokio::sync::watch;

/// One service, for as long as it is known.
#[derive(Debug)]
pub struct Published {
    current: ArcSwap<Snapshot>,
    /// Made for whoever watches first: most services of a region are watched by nobody, and it takes more than a snapshot.
    changed: OnceLock<watch::Sender<()>>,
    /// What the service carries, as its instances report it; [`NO_LOAD`] where none does. Not part of the snapshot: no
    /// lookup depends on it, and a snapshot is prepared for at some cost.
    load: AtomicU64,
}

/// No sum of reported loads.
const NO_LOAD: u64 = u64::MAX;

impl Published {
    /// The newest snapshot, without waiting for anyone.
    pub fn current(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.current.load()
    }

    /// The newest snapshot, to keep.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// What the service carries, where its instances report it.
    pub fn load(&self) -> Option<u64> {
        Some(self.load.load(Ordering::Relaxed)).filter(|load| *load != NO_LOAD)
    }

    pub(crate) fn set_load(&self, load: Option<u64>) {
        self.load.store(load.unwrap_or(NO_LOAD), Ordering::Relaxed);
    }

    /// Reports each new snapshot; closed when the service is forgotten.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        let receiver = self.changed.get_or_init(|| watch::Sender::new(())).subscribe();
        // Either the snapshot that is read from now on is the new one, or whoever publishes it finds the sender.
        fence(Ordering::SeqCst);
        receiver
    }

    fn replace(&self, snapshot: Arc<Snapshot>) {
        self.current.store(snapshot);
        fence(Ordering::SeqCst);
        if let Some(changed) = self.changed.get() {
            changed.send_replace(());
        }
    }
}

/// A service by borrowed names, so that a lookup needs no allocation to ask for one.
#[derive(Hash, Clone, Copy)]
pub struct ServiceRef<'a> {
    /// The namespace as text.
    pub namespace: &'a str,
    /// The service as text.
    pub service: &'a str,
}

impl papaya::Equivalent<ServiceKey> for ServiceRef<'_> {
    fn equivalent(&self, key: &ServiceKey) -> bool {
        self.service == key.service.as_str() && self.namespace == key.namespace.as_str()
    }
}

/// Bindings with the revision that wrote each: of a service, or of a namespace where none is named.
pub type Bindings = BTreeMap<(Namespace, Option<ServiceName>), (Arc<Binding>, u64)>;
/// Manifests with the revision that wrote each.
pub type Policies = BTreeMap<(PolicyName, PolicyVersion), (Arc<Manifest>, u64)>;

/// Drains with the revision that wrote each.
pub type Drains = BTreeMap<Drained, (Arc<Drain>, u64)>;

/// Bindings, policies and drains of the region, as the keeper last saw them.
#[derive(Debug, Default, Clone)]
pub struct Rules {
    /// Who is bound to what.
    pub bindings: Bindings,
    /// What was uploaded.
    pub policies: Policies,
    /// What operators want spared.
    pub drains: Drains,
    /// What operators let no policy do.
    pub switches: Switches,
}

/// One life of the registry, and how far it has been followed: read together, since a revision of one life says nothing in
/// another.
#[derive(Debug)]
pub struct Life {
    /// As it stands in answers.
    pub incarnation: String,
    index: AtomicU64,
}

impl Life {
    fn new(incarnation: &str) -> Self {
        Self { incarnation: incarnation.to_owned(), index: AtomicU64::new(0) }
    }

    /// The revision that answers reflect at least; 0 until the first state of this life is published.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.index.load(Ordering::Acquire)
    }
}

/// How current the published state is.
#[derive(Debug)]
pub struct Currency {
    life: ArcSwap<Life>,
    /// [`Monotonic`] milliseconds at which the registry last proved that nothing newer existed.
    proved_at: AtomicU64,
    connected: AtomicBool,
    applied: watch::Sender<u64>,
    ready: watch::Sender<bool>,
    /// Set while what is served came from disk and was never confirmed: when it was saved, in Unix milliseconds.
    from_disk_saved_at: AtomicU64,
    others: ArcSwap<Vec<Arc<OtherRegion>>>,
    /// Endpoints of other regions that were given out.
    elsewhere: AtomicU64,
    /// How much of its traffic the own region takes while it returns from a drain.
    own_ramp: AtomicU32,
}

impl Currency {
    /// The revision that answers reflect at least.
    pub fn index(&self) -> u64 {
        self.life.load().index()
    }

    /// The registry's life, with the index in it.
    pub fn life(&self) -> arc_swap::Guard<Arc<Life>> {
        self.life.load()
    }

    /// Time since the registry last proved that this gateway is current, in milliseconds. While the state is from disk
    /// only, the time since it was saved.
    pub fn age_ms(&self, now: Monotonic) -> u64 {
        match self.from_disk_saved_at.load(Ordering::Relaxed) {
            0 => now.0.saturating_sub(self.proved_at.load(Ordering::Relaxed)),
            saved_at => crate::clock::unix_now().0.saturating_sub(saved_at),
        }
    }

    /// When the state that is served was saved, while it is from disk and was never confirmed.
    pub fn is_from_disk(&self) -> bool {
        self.from_disk_saved_at.load(Ordering::Relaxed) != 0
    }

    /// Whether a complete snapshot is served.
    pub fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// Whether the registry answers.
    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// Reports when [`Currency::is_ready`] turns true.
    pub fn subscribe_ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// Waits until everything up to `index` is published.
    pub async fn reached(&self, index: u64) {
        let mut applied = self.applied.subscribe();
        // The sender lives as long as `self`.
        let _ = applied.wait_for(|now| *now >= index).await;
    }

    /// Other regions that were heard of, in the order of their names.
    pub fn others(&self) -> arc_swap::Guard<Arc<Vec<Arc<OtherRegion>>>> {
        self.others.load()
    }

    /// How many endpoints of other regions were given out.
    pub fn given_elsewhere(&self) -> u64 {
        self.elsewhere.load(Ordering::Relaxed)
    }

    /// How much of its own traffic the region takes, of [`FULL_RAMP`]: less than all while it returns from a drain.
    pub fn own_ramp(&self) -> u32 {
        self.own_ramp.load(Ordering::Relaxed)
    }

    pub(crate) fn set_own_ramp(&self, ramp: u32) {
        self.own_ramp.store(ramp, Ordering::Relaxed);
    }

    pub(crate) fn count_elsewhere(&self) {
        self.elsewhere.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn set_others(&self, others: Vec<Arc<OtherRegion>>) {
        self.others.store(Arc::new(others));
    }

    pub(crate) fn advance(&self, index: u64, now: Monotonic) {
        self.life.load().index.store(index, Ordering::Release);
        self.prove(now);
        self.applied.send_replace(index);
    }

    pub(crate) fn prove(&self, now: Monotonic) {
        // An answer may come after events that prove more.
        self.proved_at.fetch_max(now.0, Ordering::Relaxed);
        self.from_disk_saved_at.store(0, Ordering::Relaxed);
        self.connected.store(true, Ordering::Relaxed);
    }

    pub(crate) fn disconnect(&self) {
        self.connected.store(false, Ordering::Relaxed);
    }

    /// What is published from now on belongs to this life.
    pub(crate) fn begin(&self, incarnation: &str) {
        if self.life.load().incarnation != incarnation {
            self.life.store(Arc::new(Life::new(incarnation)));
        }
    }

    pub(crate) fn serve_from_disk(&self, index: u64, saved_at_unix_ms: u64) {
        self.life.load().index.store(index, Ordering::Release);
        self.from_disk_saved_at.store(saved_at_unix_ms.max(1), Ordering::Relaxed);
        self.applied.send_replace(index);
    }

    fn set_ready(&self) {
        self.ready.send_replace(true);
    }
}

/// Reports changes of one service, and its coming and going.
pub struct Changes {
    service: Option<watch::Receiver<()>>,
    set: watch::Receiver<u64>,
}

impl Changes {
    /// Waits for the next change since the last call, or since the subscription.
    pub async fn next(&mut self) {
        match &mut self.service {
            // Closed when the service is forgotten, which is a change too.
            Some(service) => {
                let _ = service.changed().await;
            }
            None => {
                let _ = self.set.changed().await;
            }
        }
    }
}

/// Everything that lookups read.
pub struct Directory {
    /// Names come from outside, so each process hashes them with a seed of its own.
    services: papaya::HashMap<ServiceKey, Arc<Published>, SeedableRandomState>,
    /// Counts services that came and readiness, for those who watch a service that is not known.
    set: watch::Sender<u64>,
    rules: ArcSwap<Rules>,
    /// How current it is.
    pub currency: Currency,
}

impl Default for Directory {
    fn default() -> Self {
        Self {
            services: papaya::HashMap::with_hasher(SeedableRandomState::with_seed(
                rand::random(),
                SharedSeed::global_random(),
            )),
            set: watch::Sender::new(0),
            rules: ArcSwap::default(),
            currency: Currency {
                life: ArcSwap::from_pointee(Life::new("0-00000000")),
                proved_at: AtomicU64::new(0),
                connected: AtomicBool::new(false),
                applied: watch::Sender::new(0),
                ready: watch::Sender::new(false),
                from_disk_saved_at: AtomicU64::new(0),
                others: ArcSwap::default(),
                elsewhere: AtomicU64::new(0),
                own_ramp: AtomicU32::new(FULL_RAMP),
            },
        }
    }
}

impl Directory {
    /// Runs `read` on the service's newest snapshot, without copying or waiting.
    pub fn with<R>(&self, service: ServiceRef<'_>, read: impl FnOnce(&Arc<Snapshot>) -> R) -> Option<R> {
        let guard = self.services.guard();
        self.services.get(&service, &guard).map(|published| read(&published.current()))
    }

    /// The service, to keep.
    pub fn get(&self, key: &ServiceKey) -> Option<Arc<Published>> {
        self.services.pin().get(key).cloned()
    }

    /// Reports changes of `key` from now on, also where it is not known yet.
    pub fn changes(&self, key: &ServiceKey) -> Changes {
        let set = self.set.subscribe();
        Changes { service: self.get(key).map(|published| published.subscribe()), set }
    }

    /// All services that are known, in order.
    pub fn services(&self) -> BTreeMap<ServiceKey, Arc<Published>> {
        self.services.pin().iter().map(|(k, v)| (k.clone(), Arc::clone(v))).collect()
    }

    /// How many services are known.
    pub fn len(&self) -> usize {
        self.services.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// Bindings and policies.
    pub fn rules(&self) -> Arc<Rules> {
        self.rules.load_full()
    }

    pub(crate) fn publish(&self, snapshot: Snapshot) -> Arc<Snapshot> {
        let snapshot = Arc::new(snapshot);
        let services = self.services.pin();
        match services.get(&snapshot.key) {
            Some(published) => published.replace(Arc::clone(&snapshot)),
            None => {
                let published = Published {
                    current: ArcSwap::new(Arc::clone(&snapshot)),
                    changed: OnceLock::new(),
                    load: AtomicU64::new(NO_LOAD),
                };
                services.insert(snapshot.key.clone(), Arc::new(published));
                self.set.send_modify(|count| *count += 1);
            }
        }
        snapshot
    }

    pub(crate) fn forget(&self, key: &ServiceKey) {
        self.services.pin().remove(key);
    }

    /// From now on a complete snapshot is served.
    pub(crate) fn set_ready(&self) {
        self.currency.set_ready();
        self.set.send_modify(|count| *count += 1);
    }

    pub(crate) fn publish_rules(&self, rules: Rules) {
        self.rules.store(Arc::new(rules));
    }
}
