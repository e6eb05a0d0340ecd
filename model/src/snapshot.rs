//! The immutable picture of one service that lookups read.

use crate::binding::Effective;
use crate::instance::Instance;
use crate::names::{RegionName, ServiceKey, ZoneName};
use crate::remote::{Address, Remote, Standing};
use crate::selection;
use crate::status::Status;
use std::sync::Arc;

/// One endpoint in a snapshot.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Its record.
    pub instance: Arc<Instance>,
    /// Its status when the snapshot was made.
    pub status: Status,
    /// Healthy, but under doubt: held over from a lost registry, reported by callers, warning.
    pub degraded: bool,
    /// Its JSON in answers ([`crate::instance::render_endpoint`]), rendered once per change of the record.
    pub rendered: Arc<[u8]>,
    /// [`selection::endpoint_hash`] of its id.
    pub hash: u64,
    /// The revision that wrote the record; zero while it is held from a former incarnation.
    pub modified: u64,
}

impl Endpoint {
    /// An endpoint from its record.
    #[must_use]
    pub fn new(instance: Arc<Instance>, status: Status, degraded: bool, rendered: Arc<[u8]>) -> Self {
        let hash = selection::endpoint_hash(instance.id.as_str());
        Self { instance, status, degraded, rendered, hash, modified: 0 }
    }

    /// Its zone.
    #[must_use]
    pub fn zone(&self) -> &ZoneName {
        &self.instance.declared.zone
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        self.instance.id.as_str()
    }
}

/// One service at one moment. Never changed: a change makes a new one.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Whose picture it is.
    pub key: ServiceKey,
    /// The region that made it.
    pub region: RegionName,
    /// A small number that stands for the service in this process, so that caches can be arrays. Never reused.
    pub slot: u32,
    /// The number of this publication in this process; grows with every snapshot of any service.
    pub serial: u64,
    /// The registry revision of the newest change that this picture holds.
    pub index: u64,
    /// All instances, whatever their status, in the order of their ids.
    pub endpoints: Vec<Endpoint>,
    /// The binding in force.
    pub binding: Arc<Effective>,
    /// Zones of this region that operators are evacuating: they yield to others, but never empty an answer.
    pub draining_zones: Vec<ZoneName>,
    /// Of the region's rightful traffic, how much it may take while the service recovers: 0 to
    /// [`crate::remote::FULL_RAMP`].
    pub ramp: u32,
    /// The service in other regions, as far as the binding's limits let its traffic go there; in the order of their names.
    pub remotes: Vec<Remote>,
    /// Other regions that know the service, and may not be sent its traffic.
    pub withheld: Withheld,
}

/// The regions that told of a service and are not among its remotes, in the order of their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Withheld {
    /// Each of them.
    pub regions: Vec<WithheldRegion>,
}

/// One region that told of a service and is not among its remotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WithheldRegion {
    /// Which.
    pub region: RegionName,
    /// What keeps traffic from it.
    pub by: WithheldBy,
    /// How it stands.
    pub standing: Standing,
    /// How many instances it told of as healthy.
    pub healthy: u64,
    /// How many it counts.
    pub total: u64,
}

/// What keeps traffic from a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WithheldBy {
    /// The binding's limits leave it out.
    Limits,
    /// It has not been heard of for so long that its addresses may belong to others.
    Age,
}

impl Withheld {
    /// The regions that are withheld so.
    pub fn by(&self, by: WithheldBy) -> impl Iterator<Item = &WithheldRegion> {
        self.regions.iter().filter(move |withheld| withheld.by == by)
    }

    /// Those of them that would have an endpoint to give.
    pub fn missed(&self, by: WithheldBy) -> impl Iterator<Item = &WithheldRegion> {
        self.by(by).filter(|withheld| withheld.healthy > 0)
    }
}

/// What stands at a position of a snapshot: its endpoints come first, then the addresses of each remote in order.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// An endpoint of this region.
    Here(&'a Endpoint),
    /// An address in another region.
    There(&'a Remote, Address<'a>),
}

impl Snapshot {
    /// The position of the endpoint with this id.
    #[must_use]
    pub fn position(&self, id: &str) -> Option<usize> {
        self.endpoints.binary_search_by(|e| e.id().cmp(id)).ok()
    }

    /// What stands at `position`.
    #[must_use]
    pub fn place(&self, position: u32) -> Option<Place<'_>> {
        let mut at = position as usize;
        if let Some(endpoint) = self.endpoints.get(at) {
            return Some(Place::Here(endpoint));
        }
        at -= self.endpoints.len();
        for remote in &self.remotes {
            let count = remote.address_count();
            if at < count {
                return Some(Place::There(remote, remote.address(at)?));
            }
            at -= count;
        }
        None
    }

    /// The position of the first address of a remote.
    #[must_use]
    pub fn first_position(&self, remote: usize) -> Option<usize> {
        self.remotes.get(remote)?;
        let before = self.remotes.iter().take(remote).map(Remote::address_count).sum::<usize>();
        Some(self.endpoints.len() + before)
    }

    /// How many positions there are.
    #[must_use]
    pub fn positions(&self) -> usize {
        self.endpoints.len() + self.remotes.iter().map(Remote::address_count).sum::<usize>()
    }

    /// Where an address of another picture of this service stands here.
    #[must_use]
    pub fn position_there(&self, remote: &Remote, address: Address<'_>) -> Option<usize> {
        let at = self.remotes.binary_search_by(|r| r.region.cmp(&remote.region)).ok()?;
        Some(self.first_position(at)? + self.remotes.get(at)?.position(address)?)
    }

    /// Whether what stands at `position` may receive traffic; false past the end. Other regions tell of nothing else.
    #[must_use]
    pub fn is_eligible(&self, position: u32) -> bool {
        match self.endpoints.get(position as usize) {
            Some(endpoint) => endpoint.status.is_eligible(),
            None => self.place(position).is_some(),
        }
    }

    /// How many endpoints of this region may receive traffic.
    #[must_use]
    pub fn eligible_count(&self) -> usize {
        self.endpoints.iter().filter(|e| e.status.is_eligible()).count()
    }
}
