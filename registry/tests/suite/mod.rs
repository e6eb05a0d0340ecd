//! A registry under test, and how tests talk to it.

pub(crate) mod cases;

use bytes::Bytes;
use meridian_model::names::{GatewayId, RegionName};
use meridian_registry::embedded::EmbeddedRegistry;
use meridian_registry::etcd::EtcdRegistry;
use meridian_registry::testing::RealEtcd;
use meridian_registry::{
    Change, Committed, Condition, Event, Incarnation, Key, Known, Observed, Registry, RegistryError,
    Revision, Stored, Write,
};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::mpsc;

/// Longer than anything here takes on a loaded machine; reached only by failures.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A store that outlives the registries that are opened on it.
pub(crate) enum Subject {
    Embedded { dir: TempDir, open: Mutex<Option<Arc<EmbeddedRegistry>>> },
    Etcd(Mutex<RealEtcd>),
}

type Opened = Result<Arc<dyn Registry>, RegistryError>;

impl Subject {
    pub(crate) fn embedded() -> Self {
        Self::Embedded { dir: tempfile::tempdir().unwrap(), open: Mutex::default() }
    }

    pub(crate) fn etcd() -> Self {
        Self::Etcd(Mutex::new(RealEtcd::start()))
    }

    /// The registry, as a gateway of `region` would open it; for the embedded one the same until it is restarted.
    pub(crate) async fn open_as(&self, region: &str) -> Opened {
        let region: RegionName = region.parse().unwrap();
        match self {
            Self::Embedded { dir, open } => {
                let mut open = open.lock().unwrap();
                if let Some(registry) = &*open
                    && region.as_str() == "here"
                {
                    return Ok(registry.clone());
                }
                *open = None;
                let registry =
                    Arc::new(EmbeddedRegistry::open(Some(&dir.path().join("registry.redb")), &region)?);
                *open = Some(registry.clone());
                Ok(registry)
            }
            Self::Etcd(etcd) => {
                let config = etcd.lock().unwrap().config(region.as_str());
                let registry = EtcdRegistry::connect(&config)?;
                registry.claim(None).await?;
                Ok(Arc::new(registry))
            }
        }
    }

    pub(crate) async fn open(&self) -> Arc<dyn Registry> {
        self.open_as("here").await.unwrap()
    }

    /// Restarts the store's process; nothing that was answered may be lost. Registries of before must be dropped.
    pub(crate) fn restart(&self) {
        match self {
            Self::Embedded { open, .. } => *open.lock().unwrap() = None,
            Self::Etcd(etcd) => etcd.lock().unwrap().start_again(),
        }
    }

    /// Copies the store as a backup would.
    pub(crate) fn save(&self) {
        match self {
            Self::Embedded { dir, .. } => {
                self.restart();
                std::fs::copy(dir.path().join("registry.redb"), dir.path().join("saved")).unwrap();
            }
            Self::Etcd(etcd) => etcd.lock().unwrap().snapshot(),
        }
    }

    /// Puts the copy in place of the store.
    pub(crate) fn restore(&self) {
        match self {
            Self::Embedded { dir, .. } => {
                self.restart();
                std::fs::copy(dir.path().join("saved"), dir.path().join("registry.redb")).unwrap();
            }
            Self::Etcd(etcd) => etcd.lock().unwrap().restore(),
        }
    }

    /// Empties the store.
    pub(crate) fn wipe(&self) {
        match self {
            Self::Embedded { dir, .. } => {
                self.restart();
                std::fs::remove_file(dir.path().join("registry.redb")).unwrap();
            }
            Self::Etcd(etcd) => etcd.lock().unwrap().wipe(),
        }
    }
}

/// A watch, with the state that it has told so far.
pub(crate) struct Watch {
    events: mpsc::Receiver<Event>,
    pub(crate) incarnation: Incarnation,
    pub(crate) revision: Revision,
    pub(crate) state: BTreeMap<Key, Stored>,
    pub(crate) resets: usize,
    pub(crate) lost: usize,
    /// Whether the registry answered since it was last lost.
    pub(crate) connected: bool,
    pub(crate) history: Vec<Observed>,
}

impl Watch {
    /// Starts a watch and waits for the first state.
    pub(crate) async fn start(registry: &dyn Registry, known: Option<Known>) -> Self {
        let mut watch = Self {
            events: registry.watch(known),
            incarnation: Incarnation::default(),
            revision: Revision(0),
            state: BTreeMap::new(),
            resets: 0,
            lost: 0,
            connected: false,
            history: Vec::new(),
        };
        watch.until("the first state", |w| w.resets > 0).await;
        watch
    }

    /// Takes the next event into account and returns it. Checks what holds for every event.
    pub(crate) async fn next(&mut self) -> Event {
        let event =
            tokio::time::timeout(PATIENCE, self.events.recv()).await.expect("no event").expect("watch ended");
        self.connected = !matches!(event, Event::Lost { .. });
        match &event {
            Event::Reset { incarnation, revision, records, asked } => {
                assert!(asked.elapsed() < PATIENCE, "asked {:?} ago", asked.elapsed());
                assert!(*incarnation >= self.incarnation, "{incarnation} after {}", self.incarnation);
                if *incarnation == self.incarnation {
                    assert!(*revision >= self.revision, "a state went back within an incarnation");
                }
                self.incarnation = *incarnation;
                self.revision = *revision;
                self.state = records.iter().map(|s| (s.key.clone(), s.clone())).collect();
                assert_eq!(self.state.len(), records.len(), "a key came twice");
                assert!(records.iter().all(|s| s.modified <= *revision && s.key.is_watched()));
                self.resets += 1;
            }
            Event::Changed { revision, changes } => {
                assert!(*revision > self.revision, "{revision:?} after {:?}", self.revision);
                let mut at = self.revision;
                for change in changes {
                    let made = match change {
                        Observed::Put(stored) => {
                            self.state.insert(stored.key.clone(), stored.clone());
                            stored.modified
                        }
                        Observed::Deleted(key, revision) => {
                            assert!(self.state.remove(key).is_some(), "{key:?} was deleted but not there");
                            *revision
                        }
                    };
                    assert!(made >= at && made <= *revision, "changes out of order");
                    at = made;
                }
                self.history.extend(changes.iter().cloned());
                self.revision = *revision;
            }
            Event::Current { revision, .. } => {
                assert!(*revision >= self.revision, "{revision:?} after {:?}", self.revision);
                self.revision = *revision;
            }
            Event::Lost { .. } => self.lost += 1,
        }
        event
    }

    /// Follows until `reached`.
    pub(crate) async fn until(&mut self, what: &str, reached: impl Fn(&Self) -> bool) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !reached(self) {
            assert!(tokio::time::Instant::now() < deadline, "waited in vain for {what}");
            self.next().await;
        }
    }

    /// Follows until everything up to `revision` is known and what comes next will be told: a watch that has yet to
    /// reconnect may rightly start over, if its next changes are compacted before it does.
    pub(crate) async fn caught_up(&mut self, revision: Revision) {
        self.until("a revision", |w| w.revision >= revision && w.connected).await;
    }

    pub(crate) fn known(&self) -> Known {
        Known { incarnation: self.incarnation, revision: self.revision }
    }

    /// The value at a key as text.
    pub(crate) fn text(&self, key: &Key) -> Option<String> {
        self.state.get(key).map(|s| String::from_utf8_lossy(&s.value).into_owned())
    }
}

pub(crate) fn instance(name: &str) -> Key {
    Key::decode(&format!("state/instances/default/orders-api/{name}")).unwrap()
}

pub(crate) fn entry(at: u64, random: u32) -> Key {
    Key::History(meridian_model::time::UnixMillis(at), random)
}

pub(crate) fn gateway(name: &str) -> GatewayId {
    name.parse().unwrap()
}

pub(crate) fn put(key: &Key, value: &str) -> Change {
    Change::Put(key.clone(), Bytes::copy_from_slice(value.as_bytes()))
}

pub(crate) fn write(conditions: impl Into<Vec<Condition>>, changes: impl Into<Vec<Change>>) -> Write {
    Write { conditions: conditions.into(), changes: changes.into() }
}

/// Commits and expects that it was applied.
pub(crate) async fn applied(registry: &dyn Registry, write: Write) -> Revision {
    match registry.commit(write).await.unwrap() {
        Committed::Applied(revision) => revision,
        Committed::Conflict(standing) => panic!("conflict: {standing:?}"),
    }
}

/// Commits and expects a conflict.
pub(crate) async fn conflict(registry: &dyn Registry, write: Write) -> Vec<Option<Stored>> {
    match registry.commit(write).await.unwrap() {
        Committed::Conflict(standing) => standing,
        Committed::Applied(revision) => panic!("applied at {revision:?}"),
    }
}

/// Waits for a membership to hold.
pub(crate) async fn joined(membership: &mut meridian_registry::Membership) -> Revision {
    let waiting = membership.wait_for(Option::is_some);
    tokio::time::timeout(PATIENCE, waiting).await.expect("no membership").unwrap().unwrap()
}

const TICK: Duration = Duration::from_millis(10);

/// How late tasks run here: a bound on what the registry does in time is to be that much wider.
pub(crate) struct Ticker(Arc<Mutex<Ticks>>);

struct Ticks {
    last: Instant,
    lateness: Duration,
}

impl Ticks {
    fn look(&mut self) -> Duration {
        self.lateness = self.lateness.max(self.last.elapsed().saturating_sub(TICK));
        self.lateness
    }

    fn tick(&mut self) {
        self.look();
        self.last = Instant::now();
    }
}

impl Ticker {
    /// Starts a task that sleeps for 10 ms at a time.
    pub(crate) fn start() -> Self {
        let ticks = Arc::new(Mutex::new(Ticks { last: Instant::now(), lateness: Duration::ZERO }));
        let ticker = Arc::downgrade(&ticks);
        tokio::spawn(async move {
            while let Some(ticks) = ticker.upgrade() {
                ticks.lock().unwrap().tick();
                tokio::time::sleep(TICK).await;
            }
        });
        Self(ticks)
    }

    /// By how much the longest of its sleeps was too long, the one under way included.
    pub(crate) fn lateness(&self) -> Duration {
        self.0.lock().unwrap().look()
    }
}
