//! The state of a region as it is kept on disk, for a start without registry.

use meridian_model::names::ServiceKey;
use meridian_model::time::UnixMillis;
use meridian_registry::{Incarnation, Revision, Stored};

/// What the keeper knows at one moment, as records.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// The registry's life.
    pub incarnation: Incarnation,
    /// Complete up to here.
    pub revision: Revision,
    /// When the keeper handed it out.
    pub saved_at: UnixMillis,
    /// Instances, bindings and manifests.
    pub records: Vec<Stored>,
    /// Services that have nothing any more, and since when: they are known for a while, which no record says.
    pub emptied: Vec<(ServiceKey, UnixMillis)>,
}
