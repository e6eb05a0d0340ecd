//! A region's registry as the exchange sees it: a log of states, which can be set back.

use super::dice::Dice;
use crate::exchange::State;
use crate::exchange::head::{Place, Root};
use crate::exchange::message::{Record, RecordKey};
use bytes::Bytes;
use meridian_model::incarnation::Incarnation;
use meridian_model::names::ServiceKey;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

pub(super) type Records = BTreeMap<RecordKey, Bytes>;

/// What the registry held from a time on.
#[derive(Clone)]
pub(super) struct Commit {
    pub(super) time: u64,
    pub(super) place: Place,
    pub(super) root: Root,
    pub(super) records: Arc<Records>,
}

pub(super) struct Registry {
    pub(super) commits: Vec<Commit>,
    /// All that this region ever computed.
    pub(super) computed: HashSet<(Place, Root)>,
    services: u64,
}

impl Registry {
    pub(super) fn new(dice: &mut Dice) -> Self {
        let incarnation = Incarnation { counter: dice.within(1..3), random: dice.next() as u32 };
        let mut registry =
            Self { commits: Vec::new(), computed: HashSet::new(), services: dice.within(3..9) };
        registry.commit(0, Place { incarnation, index: dice.within(1..50) }, Arc::default());
        for _ in 0..registry.services {
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

    fn commit(&mut self, time: u64, place: Place, records: Arc<Records>) {
        let all = records.iter().map(|(key, bytes)| Record { key: key.clone(), bytes: bytes.clone() });
        let root = State::from_records(all).root();
        self.computed.insert((place, root));
        self.commits.push(Commit { time, place, root, records });
    }

    /// An instance registers, changes or leaves; or something is written that no summary shows.
    pub(super) fn write(&mut self, time: u64, dice: &mut Dice) {
        let now = self.now();
        let place = Place { index: now.place.index + dice.within(1..4), ..now.place };
        let mut records = Arc::clone(&now.records);
        let key = match dice.within(0..self.services + 1) {
            0 => RecordKey::Region,
            n => RecordKey::Service(ServiceKey::new(
                "prod".parse().unwrap(),
                format!("svc-{n}").parse().unwrap(),
            )),
        };
        match dice.within(0..10) {
            0 => {}
            1 | 2 => drop(Arc::make_mut(&mut records).remove(&key)),
            // Few values, so that a state may come back.
            _ => {
                let bytes = vec![dice.within(0..4) as u8; dice.within(8..80) as usize / 8 * 8];
                Arc::make_mut(&mut records).insert(key, bytes.into());
            }
        }
        self.commit(time, place, records);
    }

    /// An older state comes back, with all its numbers.
    pub(super) fn restore(&mut self, time: u64, dice: &mut Dice) {
        let old = self.commits[dice.index(self.commits.len())].clone();
        self.commit(time, old.place, old.records);
    }

    pub(super) fn wipe(&mut self, time: u64, dice: &mut Dice) {
        let incarnation = Incarnation { counter: 1, random: dice.next() as u32 };
        self.commit(time, Place { incarnation, index: 1 }, Arc::default());
    }

    /// Compare-and-set: another node may have done it already.
    pub(super) fn raise(&mut self, time: u64, past: Incarnation, dice: &mut Dice) {
        let now = self.now();
        if now.place.incarnation.counter <= past.counter {
            let incarnation = Incarnation { counter: past.counter + 1, random: dice.next() as u32 };
            let (place, records) =
                (Place { incarnation, index: now.place.index + 1 }, Arc::clone(&now.records));
            self.commit(time, place, records);
        }
    }
}
