//! The edge where time and randomness come in.

use meridian_model::selection;
use meridian_model::time::{Monotonic, UnixMillis};
use std::cell::Cell;
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// One second, so that a point before the process's start is never needed.
const ORIGIN_OFFSET_MILLIS: u64 = 1_000;
static ORIGIN: LazyLock<Duration> = LazyLock::new(running);

/// The time since some moment, never going back and going on while the machine is suspended: what was heard before a
/// suspension is as old as that was long. std's clock stands still meanwhile.
#[cfg(target_os = "linux")]
fn running() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = Duration::from_secs(u64::try_from(now.tv_sec).unwrap_or(0));
    seconds.saturating_add(Duration::from_nanos(u64::try_from(now.tv_nsec).unwrap_or(0)))
}

/// The time since some moment, never going back.
#[cfg(not(target_os = "linux"))]
fn running() -> Duration {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed()
}

/// The wall clock.
#[must_use]
pub fn unix_now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The monotonic clock, in milliseconds of this process.
#[must_use]
pub fn monotonic_now() -> Monotonic {
    // The origin first: it is set by whoever asks first.
    let origin = *ORIGIN;
    Monotonic(ORIGIN_OFFSET_MILLIS).plus(running().saturating_sub(origin))
}

/// A moment that was measured elsewhere, by std's clock: off by a suspension that lies between then and now, so to be asked
/// soon after.
#[must_use]
pub fn monotonic_at(instant: Instant) -> Monotonic {
    let ago = u64::try_from(instant.elapsed().as_millis()).unwrap_or(u64::MAX);
    Monotonic(monotonic_now().0.saturating_sub(ago))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_of_both_clocks_agree() {
        let (asked, now) = (Instant::now(), monotonic_now());
        let same = monotonic_at(asked);
        assert!(now.since(same).max(same.since(now)) <= Duration::from_millis(50), "{now:?} {same:?}");
        assert!(monotonic_now() >= now && now >= Monotonic(ORIGIN_OFFSET_MILLIS));
        let later = asked + Duration::from_secs(1);
        assert!(monotonic_at(later) >= same, "what is to come is taken for now");
    }
}
