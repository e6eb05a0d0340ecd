//! The store of a region: instances, policies, bindings, members. One trait, two implementations: etcd for regions with
//! several gateways, embedded for one process. Both pass the same conformance suite.
//!
//! The trait speaks of records and revisions, not of etcd: every write compares what it was based on, every change
//! carries the revision that it made, and a watch either follows without a gap or starts over with the whole state.

pub mod embedded;
pub mod etcd;
pub mod key;
pub mod limits;
pub mod record;
#[cfg(feature = "testing")]
pub mod testing;

pub use key::Key;
pub use meridian_model::incarnation::Incarnation;

use async_trait::async_trait;
use bytes::Bytes;
use meridian_model::names::{GatewayId, PolicyVersion, RegionName};
use meridian_model::time::UnixMillis;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// A point in the registry's order of writes. Grows by at least one with every write; comparable within one incarnation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

/// A record as it stands in the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Where.
    pub key: Key,
    /// What: see [`record`].
    pub value: Bytes,
    /// The write that made it what it is.
    pub modified: Revision,
}

/// What a write is based on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nothing stands there.
    Absent(Key),
    /// It is as that write left it.
    Unchanged(Key, Revision),
    /// Something stands there, whatever it is.
    Present(Key),
}

impl Condition {
    /// The key that is compared.
    #[must_use]
    pub fn key(&self) -> &Key {
        match self {
            Self::Absent(key) | Self::Unchanged(key, _) | Self::Present(key) => key,
        }
    }
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The record is now this. In a [`Write`], `modified` is ignored.
    Put(Key, Bytes),
    /// The record is gone. Deleting what is not there is no error and makes no event.
    Delete(Key),
}

impl Change {
    /// The key that is changed.
    #[must_use]
    pub fn key(&self) -> &Key {
        match self {
            Self::Put(key, _) | Self::Delete(key) => key,
        }
    }
}

/// Changes that are made together if all conditions hold, and not at all otherwise. A key may be changed once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Write {
    /// All of these must hold.
    pub conditions: Vec<Condition>,
    /// What is then done.
    pub changes: Vec<Change>,
}

/// How a write ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Committed {
    /// Done, at this revision.
    Applied(Revision),
    /// A condition did not hold; nothing was done. Per condition, in order, what stands at its key.
    Conflict(Vec<Option<Stored>>),
}

/// Something that a watch has to say. Events come in the order of the registry's writes.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The whole watched state at `revision`: replaces everything that was known. Comes first, and again whenever the
    /// watch could not follow without a gap (reconnection past a compaction, a new incarnation).
    Reset {
        /// The registry's life.
        incarnation: Incarnation,
        /// The state is complete up to here.
        revision: Revision,
        /// Every watched record, in no particular order.
        records: Vec<Stored>,
        /// When it was asked: nothing newer than `revision` had happened by then.
        asked: Instant,
    },
    /// What one or more writes changed, in order, complete up to `revision`.
    Changed {
        /// The state is complete up to here.
        revision: Revision,
        /// Puts carry the revision of their own write.
        changes: Vec<Observed>,
    },
    /// The registry has proved that nothing newer than `revision` had happened when it was asked: progress of the watch
    /// or a linearizable read. Sent at least once a second while connected.
    Current {
        /// The state is complete up to here.
        revision: Revision,
        /// When it was asked: how current the state is counts from there, however long the answer lay about.
        asked: Instant,
    },
    /// The registry does not answer. What is known may be out of date from now on, and stays.
    Lost {
        /// For people.
        reason: String,
    },
}

/// A change as a watch sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observed {
    /// The record is now this.
    Put(Stored),
    /// The record is gone, by the write of this revision.
    Deleted(Key, Revision),
}

/// What a process knew of the registry before: kept on disk, so that a registry which went back is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// The greatest incarnation seen.
    pub incarnation: Incarnation,
    /// The greatest revision seen in it.
    pub revision: Revision,
}

impl Known {
    /// Whether a registry that shows this incarnation and revision cannot be the one that was known, or a later state
    /// of it. Equal counters with different random numbers are two lives that nobody has put in order yet.
    #[must_use]
    pub fn contradicts(&self, incarnation: Incarnation, revision: Revision) -> bool {
        incarnation.counter < self.incarnation.counter
            || (incarnation.counter == self.incarnation.counter
                && incarnation.random != self.incarnation.random)
            || (incarnation == self.incarnation && revision < self.revision)
    }
}

/// Membership of this gateway in its region, kept alive by the registry's own task until it is dropped.
///
/// The value is the revision of the member's record while the membership holds, `None` while it does not. A membership
/// that was lost and taken again has another revision, so a write that is conditional on it cannot be a late one.
pub type Membership = watch::Receiver<Option<Revision>>;

/// Why the registry gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// It cannot be reached, has no quorum, or took too long; the write may or may not have happened. Trying again
    /// later is right.
    #[error("the registry does not answer: {0}")]
    Unavailable(String),
    /// It refused for a reason that trying again will not change: authentication, size, a corrupt file.
    #[error("the registry refused: {0}")]
    Refused(String),
    /// It belongs to another region.
    #[error("the registry belongs to region {found}, not {wanted}: give each region its own etcd or prefix")]
    OtherRegion {
        /// Whose it is.
        found: String,
        /// Who asked.
        wanted: RegionName,
    },
}

/// The registry of a region.
///
/// Every call is bounded in time by the implementation (5 s at most) and safe to drop.
#[async_trait]
pub trait Registry: Send + Sync + 'static {
    /// Writes if the conditions hold. Concurrent calls share transactions where the store has them.
    async fn commit(&self, write: Write) -> Result<Committed, RegistryError>;

    /// Reads one record, linearizably, with the revision that the answer reflects.
    async fn read(&self, key: &Key) -> Result<(Option<Stored>, Revision), RegistryError>;

    /// The newest `limit` history records, newest first, that are older than `before` (none: from the end).
    async fn history(&self, before: Option<&Key>, limit: usize) -> Result<Vec<Stored>, RegistryError>;

    /// Removes history that is older than `before`. Any member may, at any time.
    async fn prune_history(&self, before: UnixMillis) -> Result<(), RegistryError>;

    /// Stores chunk `number` of a policy's module (at most 512 KiB). Chunks are not watched.
    async fn put_chunk(&self, version: PolicyVersion, number: u32, bytes: Bytes)
    -> Result<(), RegistryError>;

    /// Reads a chunk; `None` where there is none.
    async fn get_chunk(&self, version: PolicyVersion, number: u32) -> Result<Option<Bytes>, RegistryError>;

    /// Removes all chunks of a module.
    async fn delete_chunks(&self, version: PolicyVersion) -> Result<(), RegistryError>;

    /// Joins the region's members under `id` with a record that vanishes when this process does not renew it for `ttl`.
    /// Returns at once; the membership is taken, renewed and taken again in the background.
    fn join(&self, id: GatewayId, record: Bytes, ttl: Duration) -> Membership;

    /// Publishes this member's batch of heartbeats under [`Key::Beats`]: watched by all, gone with the member, kept by
    /// nobody. A batch replaces the one before.
    async fn publish_beats(&self, id: &GatewayId, batch: Bytes) -> Result<(), RegistryError>;

    /// Watches everything that is watched ([`Key::is_watched`]), from the whole state on. Claims the registry for the
    /// region, creates or raises the incarnation where `known` or the implementation's own memory says that the registry
    /// was wiped, restored or set back, and reconnects for ever. The channel is bounded; a slow receiver slows the watch.
    /// Dropping the receiver ends it.
    fn watch(&self, known: Option<Known>) -> mpsc::Receiver<Event>;
}
