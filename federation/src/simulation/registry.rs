//! A region's registry as the exchange sees it: a log of states, which can be set back.

use super::dice::Dice;
use super::workloads::{self, Listed, Workloads};
use crate::exchange::State;
use crate::exchange::head::{Place, Root};
use crate::exchange::message::{Record, RecordKey};
use bytes::Bytes;
use meridian_model::incarnation::Incarnation;
use meridian_model::names::{RegionName, ServiceKey};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// What the answers of a slow registry take, in milliseconds: longer than it is quiet between the messages of its peers.
pub(super) const SLOW: u64 = 900;

pub(super) type Records = BTreeMap<RecordKey, Bytes>;

/// What the registry held from a time on.
#[derive(Clone)]
pub(super) struct Commit {
    pub(super) time: u64,
    pub(super) place: Place,
    pub(super) root: Root,
    pub(super) records: Arc<Records>,
    /// The instances that the summaries are made of.
    pub(super) listed: Arc<BTreeMap<ServiceKey, Listed>>,
}

pub(super) struct Registry {
    pub(super) commits: Vec<Commit>,
    /// All that this region ever computed.
    pub(super) computed: HashSet<(Place, Root)>,
    /// When each of its states was last taken by anybody.
    pub(super) taken: BTreeMap<Place, u64>,
    /// States that its nodes said were its newest, and the latest moment at which that was so.
    pub(super) vouched: BTreeMap<(Place, Root), i64>,
    /// What runs, whatever the registry says.
    pub(super) workloads: Workloads,
    /// The longest that its answers take, in milliseconds.
    pub(super) latency: u64,
}

impl Registry {
    pub(super) fn new(region: RegionName, dice: &mut Dice) -> Self {
        let incarnation = Incarnation { counter: dice.within(1..3), random: dice.next() as u32 };
        let services = dice.within(3..9);
        let mut registry = Self {
            commits: Vec::new(),
            computed: HashSet::new(),
            taken: BTreeMap::new(),
            vouched: BTreeMap::new(),
            workloads: Workloads::new(region, services),
            latency: dice.weighted(&[(80, 40), (20, SLOW)]),
        };
        let place = Place { incarnation, index: dice.within(1..50) };
        registry.commit(0, place, Arc::default(), Arc::default());
        for _ in 0..2 * services {
            registry.write(0, dice);
        }
        // A backup may be of an earlier life.
        if dice.chance(50) {
            registry.raise(0, incarnation, dice);
            registry.write(0, dice);
        }
        registry
    }

    pub(super) fn now(&self) -> &Commit {
        self.commits.last().unwrap()
    }

    /// What it held before anything happened at `time`.
    pub(super) fn before(&self, time: i64) -> &Commit {
        let earlier = self.commits.iter().rev().find(|commit| (commit.time as i64) < time);
        earlier.unwrap_or(&self.commits[0])
    }

    /// Whether it held these records in this life at `since` or later. A registry that went back may hold again what it
    /// held before.
    pub(super) fn held_since(&self, since: i64, place: Place, root: Root) -> bool {
        let same = |commit: &&Commit| commit.place.incarnation == place.incarnation && commit.root == root;
        let later = self.commits.iter().rev().take_while(|commit| commit.time as i64 >= since);
        later.chain([self.before(since)]).any(|commit| same(&commit))
    }

    /// Whether the records at `then` were those of a state before `place`, too.
    pub(super) fn had(&self, then: Place, place: Place) -> bool {
        let root =
            |at: Place| self.commits.iter().rev().find(|commit| commit.place == at).map(|commit| commit.root);
        let before = |commit: &&Commit| commit.place.incarnation == place.incarnation && commit.place < place;
        self.commits.iter().filter(before).any(|commit| Some(commit.root) == root(then))
    }

    /// Whether its nodes rightly said of a state before `place`, of the same life, that it was the newest at `since` or
    /// later. What they publish stays at its place while the registry moves and its records do not, so the registry may
    /// be past `place` then.
    pub(super) fn vouched_for_earlier(&self, since: i64, place: Place) -> bool {
        let earlier = |at: Place| at.incarnation == place.incarnation && at < place;
        let mut said = self.vouched.iter().filter(|((at, _), until)| earlier(*at) && **until >= since);
        said.any(|((at, root), _)| self.held_since(since, *at, *root))
    }

    fn commit(
        &mut self,
        time: u64,
        place: Place,
        records: Arc<Records>,
        listed: Arc<BTreeMap<ServiceKey, Listed>>,
    ) {
        let all = records.iter().map(|(key, bytes)| Record { key: key.clone(), bytes: bytes.clone() });
        let root = State::from_records(all).root();
        self.computed.insert((place, root));
        self.commits.push(Commit { time, place, root, records, listed });
    }

    /// An instance starts, changes or leaves, or operators act; or something is written that no summary shows. Gives the
    /// service of an instance that crashed: nothing shows that before its lease ends.
    pub(super) fn write(&mut self, time: u64, dice: &mut Dice) -> Option<ServiceKey> {
        let now = self.now();
        let place = Place { index: now.place.index + dice.within(1..4), ..now.place };
        let services: Vec<ServiceKey> = self.workloads.services().cloned().collect();
        if dice.chance(15) {
            let (mut records, listed) = (Arc::clone(&now.records), Arc::clone(&now.listed));
            match dice.chance(50) {
                true => drop(Arc::make_mut(&mut records).insert(RecordKey::Region, workloads::notice(dice))),
                false => drop(Arc::make_mut(&mut records).remove(&RecordKey::Region)),
            }
            self.commit(time, place, records, listed);
            return None;
        }
        let service = services[dice.index(services.len())].clone();
        let crashed = self.workloads.change(time, &service, dice);
        self.relist(time, place, [&service].into_iter());
        crashed.then_some(service)
    }

    /// The registry learns how some services are.
    fn relist<'a>(&mut self, time: u64, place: Place, services: impl Iterator<Item = &'a ServiceKey>) {
        let now = self.now();
        let (mut records, mut listed) = (Arc::clone(&now.records), Arc::clone(&now.listed));
        for service in services {
            let list = self.workloads.listed(time, service);
            if listed.get(service) == Some(&list) || (list.is_empty() && !listed.contains_key(service)) {
                continue;
            }
            let key = RecordKey::Service(service.clone());
            match self.workloads.record(service, &list) {
                Some(record) => drop(Arc::make_mut(&mut records).insert(key, record)),
                None => drop(Arc::make_mut(&mut records).remove(&key)),
            }
            Arc::make_mut(&mut listed).insert(service.clone(), list);
        }
        self.commit(time, place, records, listed);
    }

    /// A lease ended.
    pub(super) fn expire(&mut self, time: u64, service: &ServiceKey) {
        let now = self.now();
        if now.listed.get(service) != Some(&self.workloads.listed(time, service)) {
            let place = Place { index: now.place.index + 1, ..now.place };
            self.relist(time, place, [service].into_iter());
        }
    }

    /// Whatever runs has registered again, and what does not has expired.
    pub(super) fn reconcile(&mut self, time: u64) {
        let place = Place { index: self.now().place.index + 1, ..self.now().place };
        let services: Vec<ServiceKey> = self.workloads.services().cloned().collect();
        self.relist(time, place, services.iter());
    }

    /// A record comes, or goes, that passes what anybody would take.
    pub(super) fn swell(&mut self, time: u64, begins: bool) {
        let now = self.now();
        let place = Place { index: now.place.index + 1, ..now.place };
        let mut records = Arc::clone(&now.records);
        let key = RecordKey::Service(ServiceKey::new("prod".parse().unwrap(), "swollen".parse().unwrap()));
        match begins {
            true => drop(Arc::make_mut(&mut records).insert(key, vec![7; 5_000].into())),
            false => drop(Arc::make_mut(&mut records).remove(&key)),
        }
        let listed = Arc::clone(&now.listed);
        self.commit(time, place, records, listed);
    }

    /// An older state comes back, with all its numbers.
    pub(super) fn restore(&mut self, time: u64, dice: &mut Dice) {
        let old = loop {
            let old = &self.commits[dice.index(self.commits.len())];
            // What was swollen then would stay so.
            if old.records.values().all(|bytes| bytes.len() < 5_000) {
                break old.clone();
            }
        };
        self.commit(time, old.place, old.records, old.listed);
    }

    pub(super) fn wipe(&mut self, time: u64, dice: &mut Dice) {
        let incarnation = Incarnation { counter: 1, random: dice.next() as u32 };
        self.commit(time, Place { incarnation, index: 1 }, Arc::default(), Arc::default());
    }

    /// Compare-and-set: another node may have done it already.
    pub(super) fn raise(&mut self, time: u64, past: Incarnation, dice: &mut Dice) {
        let now = self.now();
        if now.place.incarnation.counter <= past.counter {
            let incarnation = Incarnation { counter: past.counter + 1, random: dice.next() as u32 };
            let place = Place { incarnation, index: now.place.index + 1 };
            let (records, listed) = (Arc::clone(&now.records), Arc::clone(&now.listed));
            self.commit(time, place, records, listed);
        }
    }
}
