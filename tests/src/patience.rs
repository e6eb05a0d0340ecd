//! Waiting for something with a bound, instead of sleeping and hoping.

use std::time::{Duration, Instant};

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks until there is something, and returns it with the time that it took.
///
/// # Panics
/// When `within` has passed, with what was waited for.
pub async fn eventually<T>(
    what: &str,
    within: Duration,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> (T, Duration) {
    let start = Instant::now();
    loop {
        if let Some(found) = look().await {
            return (found, start.elapsed());
        }
        assert!(start.elapsed() < within, "waited {within:?} in vain: {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Looks until the condition holds; returns the time that it took.
///
/// # Panics
/// As [`eventually`].
pub async fn until(what: &str, within: Duration, mut holds: impl AsyncFnMut() -> bool) -> Duration {
    eventually(what, within, async || holds().await.then_some(())).await.1
}

/// Looks for as long as `span`, and fails as soon as the condition does not hold.
///
/// # Panics
/// At the first look that finds it broken.
pub async fn throughout(what: &str, span: Duration, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while start.elapsed() < span {
        assert!(holds().await, "broken after {:?} of {span:?}: {what}", start.elapsed());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
