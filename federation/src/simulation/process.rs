//! One process: a node or a gateway with its clock, its disk, and what the oracle remembers of it.

use super::gateway::{Gateway, Wishes};
use super::keys::{Authority, Key};
use super::registry::Records;
use super::world::Event;
use crate::exchange::head::Place;
use crate::exchange::limits::Limits;
use crate::exchange::message::RecordKey;
use crate::exchange::{Exchange, Image, Peer, PeerRole, Role, Settings, Standing};
use bytes::Bytes;
use meridian_model::incarnation::Incarnation;
use meridian_model::names::RegionName;
use meridian_model::time::Monotonic;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Low, so that small catalogs reach them: states take several parts, and deltas reach past what is remembered.
pub(super) const LIMITS: Limits = Limits {
    records: 16,
    record_bytes: 100,
    origin_bytes: 1_200,
    part_bytes: 120,
    parts_in_flight: 2,
    transfers: 2,
    gathered_bytes: 2_400,
    changes: 6,
};

pub(super) struct Process {
    pub(super) region: usize,
    pub(super) peer: Peer,
    /// None while it is down.
    pub(super) exchange: Option<Exchange>,
    /// How often it has started.
    pub(super) life: u32,
    /// How far its clock is ahead of the world's.
    pub(super) offset: u64,
    pub(super) paused: bool,
    /// What comes while it is paused.
    pub(super) waiting: Vec<Event>,
    pub(super) disk: Option<Written>,
    /// What a leaf's gateway is to do, and its memory while it runs.
    pub(super) wishes: Option<Arc<Wishes>>,
    pub(super) gateway: Option<Gateway>,
    /// What the exchange knows of its own registry.
    pub(super) given: Option<Arc<Records>>,
    /// What its registry last proved to be its newest, and when.
    pub(super) proven: Option<(Place, Monotonic)>,
    pub(super) registry_cut: bool,
    /// Whether its key cannot sign.
    pub(super) mute: Arc<AtomicBool>,
    /// Until when it may be that it cannot publish what its registry says.
    pub(super) unable_until: u64,
    pub(super) wake: Option<u64>,
    /// When its registry's last answer comes.
    pub(super) answered: u64,
    /// Faults that touch it now, and when the last one ended.
    pub(super) hindered: u32,
    pub(super) hindered_until: u64,
    pub(super) seen: Seen,
}

/// An image of the exchange.
pub(super) struct Written {
    pub(super) image: Bytes,
    pub(super) at: u64,
    /// What must be in it, with times counted from when it was written; nothing that anybody could know where bits have
    /// rotted.
    pub(super) kept: BTreeMap<RegionName, Kept>,
}

/// What a disk has of a region.
#[derive(Clone)]
pub(super) struct Kept {
    pub(super) records: Records,
    /// The life that they are of; none where their age was proven of an earlier one.
    pub(super) life: Option<Incarnation>,
    /// Since when it is not known that they are the newest, in milliseconds.
    pub(super) since: Option<i64>,
}

/// What was seen of a process since it started.
#[derive(Default)]
pub(super) struct Seen {
    /// What it shows of each origin, put together from what it said had changed.
    pub(super) mirrors: BTreeMap<RegionName, (Place, BTreeMap<RecordKey, Bytes>)>,
    /// When it took that.
    pub(super) taken: BTreeMap<RegionName, u64>,
    /// When it first showed anything of each, by its clock.
    pub(super) first_told: BTreeMap<RegionName, Monotonic>,
    /// What it found on its disk, and since when by its clock that was not known to be the newest.
    pub(super) kept: BTreeMap<RegionName, Kept>,
    /// The latest head of its own region that it was shown.
    pub(super) evidence: Option<Place>,
    /// Of each origin: what it holds, and since when it claims to know nothing newer, by the world's clock.
    pub(super) proofs: BTreeMap<RegionName, (Place, i64)>,
    /// What it was told of how each origin stands.
    pub(super) told: BTreeMap<RegionName, Standing>,
    /// When it last asked for its registry to be raised, by its own clock.
    pub(super) raised: Option<Monotonic>,
    /// When something last came from a node of each region directly.
    pub(super) heard: BTreeMap<RegionName, u64>,
}

impl Process {
    pub(super) fn new(region: usize, peer: Peer, offset: u64) -> Self {
        Self {
            region,
            peer,
            exchange: None,
            life: 0,
            offset,
            paused: false,
            waiting: Vec::new(),
            disk: None,
            wishes: None,
            gateway: None,
            given: None,
            proven: None,
            registry_cut: false,
            mute: Arc::default(),
            unable_until: 0,
            wake: None,
            answered: 0,
            hindered: 0,
            hindered_until: 0,
            seen: Seen::default(),
        }
    }

    pub(super) fn is_leaf(&self) -> bool {
        self.peer.role == PeerRole::Leaf
    }

    pub(super) fn runs(&self) -> bool {
        self.exchange.is_some() && !self.paused
    }

    pub(super) fn clock(&self, now: u64) -> Monotonic {
        Monotonic(now + self.offset)
    }

    /// It may be unable to publish until then, and until its registry has answered again.
    pub(super) fn disable(&mut self, until: u64) {
        self.unable_until = self.unable_until.max(until + 2 * super::registry::SLOW);
    }

    /// Starts with what is on its disk; `elapsed` is what its calendar makes of the time since.
    pub(super) fn start(&mut self, now: u64, entropy: u64, elapsed: impl FnOnce(u64) -> Option<u64>) {
        let (region, node) = (self.peer.region.clone(), self.peer.node.clone());
        let key = Key { region, node, mute: Arc::clone(&self.mute) };
        let role = if self.is_leaf() { Role::Leaf } else { Role::Node(Box::new(key)) };
        let settings = Settings {
            region: self.peer.region.clone(),
            node: self.peer.node.clone(),
            role,
            verifier: Arc::new(Authority),
            entropy,
            limits: LIMITS,
        };
        let mut exchange = Exchange::new(settings);
        self.seen = Seen::default();
        if let Some(Written { image, at, kept }) = &self.disk
            && let Ok(image) = Image::decode(image)
        {
            let (elapsed, clock) = (elapsed(now - at), self.clock(now));
            exchange.import(clock, image, elapsed.map(Duration::from_millis));
            let start = elapsed.map(|elapsed| clock.0 as i64 - elapsed as i64);
            let kept = kept.iter().map(|(region, kept)| {
                let since = start.zip(kept.since).map(|(start, since)| start + since);
                (region.clone(), Kept { since, ..kept.clone() })
            });
            self.seen.kept = kept.collect();
        }
        self.exchange = Some(exchange);
        self.gateway = self.wishes.clone().map(Gateway::new);
        (self.given, self.proven) = (None, None);
        self.wake = None;
        self.life += 1;
    }

    pub(super) fn save(&mut self, now: u64) {
        if let Some(exchange) = &self.exchange {
            let clock = self.clock(now);
            let age = |region| exchange.standing(clock, region)?.age.map(|age| age.as_millis() as i64);
            let mirrors = self.seen.mirrors.iter().filter(|_| self.peer.role == PeerRole::Leaf);
            let kept = mirrors.map(|(region, (place, records))| {
                let (records, since) = (records.clone(), age(region).map(|age| -age));
                let life = (!exchange.doubts(region)).then_some(place.incarnation);
                (region.clone(), Kept { records, life, since })
            });
            self.disk =
                Some(Written { image: exchange.export(clock).encode(), at: now, kept: kept.collect() });
        }
    }
}
