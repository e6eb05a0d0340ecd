//! The immutable picture of one service that lookups read.

use crate::binding::Effective;
use crate::instance::Instance;
use crate::names::{RegionName, ServiceKey, ZoneName};
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
}

impl Snapshot {
    /// The position of the endpoint with this id.
    #[must_use]
    pub fn position(&self, id: &str) -> Option<usize> {
        self.endpoints.binary_search_by(|e| e.id().cmp(id)).ok()
    }

    /// Whether the endpoint at `position` may receive traffic; false past the end.
    #[must_use]
    pub fn is_eligible(&self, position: u32) -> bool {
        self.endpoints.get(position as usize).is_some_and(|e| e.status.is_eligible())
    }

    /// How many endpoints may receive traffic.
    #[must_use]
    pub fn eligible_count(&self) -> usize {
        self.endpoints.iter().filter(|e| e.status.is_eligible()).count()
    }
}
