//! Timers that are never cancelled: a slot's earliest one counts, and whoever is woken too early looks again.
//!
//! A heartbeat moves a deadline away without touching its timer, so it costs nothing here; the timer fires once per TTL
//! and is set anew.

use crate::time::Monotonic;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// No timer.
pub(super) const NEVER: Monotonic = Monotonic(u64::MAX);

#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Monotonic, u32)>>,
}

impl Timers {
    /// Wakes `slot` at `at` as well. `armed` is its earliest timer, kept by the slot itself.
    pub(super) fn arm(&mut self, slot: u32, at: Monotonic, armed: &mut Monotonic) {
        if at < *armed {
            *armed = at;
            self.heap.push(Reverse((at, slot)));
        }
    }

    /// The next timer that is due, with its slot. It is stale unless it equals what the slot keeps.
    pub(super) fn pop(&mut self, now: Monotonic) -> Option<(Monotonic, u32)> {
        let Reverse((at, _)) = self.heap.peek()?;
        if *at > now {
            return None;
        }
        self.heap.pop().map(|Reverse(timer)| timer)
    }

    /// When the next timer is due.
    pub(super) fn next(&self) -> Option<Monotonic> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Drops stale timers once they outnumber the `live` slots, so that records which come and go leave nothing behind.
    pub(super) fn compact(&mut self, live: usize, is_live: impl Fn(Monotonic, u32) -> bool) {
        if self.heap.len() > live.saturating_mul(2).saturating_add(64) {
            self.heap.retain(|Reverse((at, slot))| is_live(*at, *slot));
            self.heap.shrink_to(live.saturating_mul(2));
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }
}
