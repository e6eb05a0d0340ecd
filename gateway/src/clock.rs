//! The edge where time and randomness come in.

use meridian_model::selection;
use meridian_model::time::{Monotonic, UnixMillis};
use std::cell::Cell;
use std::sync::LazyLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// One second, so that a point before the process's start is never needed.
const ORIGIN_OFFSET_MILLIS: u64 = 1_000;
static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The wall clock.
#[must_use]
pub fn unix_now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The monotonic clock, in milliseconds of this process.
#[must_use]
pub fn monotonic_now() -> Monotonic {
    Monotonic(ORIGIN_OFFSET_MILLIS).plus(ORIGIN.elapsed())
}

/// A moment that was measured elsewhere, by the monotonic clock of this process.
#[must_use]
pub fn monotonic_at(instant: Instant) -> Monotonic {
    Monotonic(ORIGIN_OFFSET_MILLIS).plus(instant.saturating_duration_since(*ORIGIN))
}

/// A random word for a lookup: splitmix64 over a counter of this thread, seeded by the system once. Good for spreading
/// load, not for secrets.
#[must_use]
pub fn entropy() -> u64 {
    thread_local! {
        static STATE: Cell<u64> = Cell::new(rand::random());
    }
    STATE.with(|state| {
        let next = state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        state.set(next);
        selection::mix(next)
    })
}
