//! An origin's records at one place.

use super::message::RecordKey;
use bytes::Bytes;

/// Buckets of a state: the first byte of a key's hash.
pub const BUCKETS: usize = 256;

/// All records of an origin; immutable.
#[derive(Clone, Debug, Default)]
pub struct State {}

impl State {
    /// One record.
    #[must_use]
    pub fn get(&self, _key: &RecordKey) -> Option<&Bytes> {
        None
    }

    /// All records, in no useful order.
    pub fn iter(&self) -> impl Iterator<Item = (&RecordKey, &Bytes)> {
        std::iter::empty()
    }

    /// How many records there are.
    #[must_use]
    pub fn len(&self) -> usize {
        0
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        true
    }
}
