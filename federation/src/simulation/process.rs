//! One process: a node or a gateway with its clock, its disk, and what the oracle remembers of it.

use super::keys::{Authority, Key};
use super::registry::Records;
use super::world::Event;
use crate::exchange::head::Place;
use crate::exchange::limits::Limits;
use crate::exchange::message::RecordKey;
use crate::exchange::{Exchange, Image, Peer, PeerRole, Role, Settings, Standing};
use bytes::Bytes;
use meridian_model::names::RegionName;
use meridian_model::time::Monotonic;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Low, so that small catalogs reach them: states take several parts, and deltas reach past what is remembered.
pub(super) const LIMITS: Limits = Limits {
    records: 16,
    record_bytes: 100,
    origin_bytes: 1_200,
    part_bytes: 120,
    parts_in_flight: 2,
    transfers: 2,
    changes: 6,
};

pub(super) struct Process {
    pub(super) region: usize,
    pub(super) peer: Peer,
    /// None while it is down.
    pub(super) exchange: Option<Exchange>,
    /// How far its clock is ahead of the world's.
    pub(super) offset: u64,
    pub(super) paused: bool,
    /// What comes while it is paused.
    pub(super) waiting: Vec<Event>,
    /// An image and when it was written.
    pub(super) disk: Option<(Bytes, u64)>,
    /// What the exchange knows of its own registry.
    pub(super) given: Option<Arc<Records>>,
    pub(super) registry_cut: bool,
    pub(super) wake: Option<u64>,
    /// Faults that touch it now, and when the last one ended.
    pub(super) hindered: u32,
    pub(super) hindered_until: u64,
    pub(super) seen: Seen,
}

/// What was seen of a process since it started.
#[derive(Default)]
pub(super) struct Seen {
    /// What it shows of each origin, put together from what it said had changed.
    pub(super) mirrors: BTreeMap<RegionName, (Place, BTreeMap<RecordKey, Bytes>)>,
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
            offset,
            paused: false,
            waiting: Vec::new(),
            disk: None,
            given: None,
            registry_cut: false,
            wake: None,
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

    /// Starts with what is on its disk; `elapsed` is what its calendar makes of the time since.
    pub(super) fn start(&mut self, now: u64, entropy: u64, elapsed: impl FnOnce(u64) -> Option<u64>) {
        let key = Key { region: self.peer.region.clone(), node: self.peer.node.clone() };
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
        if let Some((image, saved)) = &self.disk
            && let Ok(image) = Image::decode(image)
        {
            let elapsed = elapsed(now - saved).map(Duration::from_millis);
            exchange.import(self.clock(now), image, elapsed);
        }
        self.exchange = Some(exchange);
        self.given = None;
        self.wake = None;
        self.seen = Seen::default();
    }

    pub(super) fn save(&mut self, now: u64) {
        if let Some(exchange) = &self.exchange {
            self.disk = Some((exchange.export(self.clock(now)).encode(), now));
        }
    }
}
