//! What the etcd registry counts of itself, for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

/// A count that only grows.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    pub(super) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The count so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts since the registry was connected, over all watches.
#[derive(Debug, Default)]
pub struct Stats {
    /// Writes that etcd answered, conflicts included.
    pub writes: Count,
    /// Transactions that carried them.
    pub transactions: Count,
    /// Watches that broke or hung and were opened again.
    pub reconnects: Count,
    /// Times that the whole state was read, the first included.
    pub relists: Count,
    /// Records that a full compare found to differ from what the watch had told.
    pub divergences: Count,
    /// Full compares that were made to their end.
    pub compares: Count,
    /// Writes of the tick, which proves a watch current where other writes than the watched raised the revision.
    pub ticks: Count,
}
