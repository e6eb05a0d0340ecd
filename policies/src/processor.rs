//! The processor: how much of it a thread has used, and how far a thread stands back behind those that answer lookups.

use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// Processor time that this thread has used.
pub(crate) fn used() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    let nanos = u32::try_from(now.tv_nsec).unwrap_or(0);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), nanos)
}

/// Processor time that this thread has used since it had used `begun`.
pub(crate) fn used_since(begun: Duration) -> Duration {
    used().saturating_sub(begun)
}

/// Lets this thread stand back. Where that is not granted, it only shares the processors.
pub(crate) fn stand_back(niceness: i32) {
    // Linux counts niceness by thread; elsewhere it would be the whole program's.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::nice(niceness);
    #[cfg(not(target_os = "linux"))]
    let _ = niceness;
}
