//! One line a step while `meridian dev` starts, with the time that it took.

use crate::output;
use std::time::{Duration, Instant};

/// The clock of a start.
pub(super) struct Progress {
    begun: Instant,
    step: Instant,
}

impl Progress {
    /// Begins now.
    pub(super) fn begin() -> Self {
        let now = Instant::now();
        Self { begun: now, step: now }
    }

    /// Tells of a step that has just been done.
    pub(super) fn done(&mut self, step: &str, what: &str) {
        output::say(line(step, what, self.step.elapsed()));
        self.step = Instant::now();
    }

    /// Since the beginning.
    pub(super) fn total(&self) -> Duration {
        self.begun.elapsed()
    }
}

fn line(step: &str, what: &str, took: Duration) -> String {
    format!("  {step:<10}  {what:<62}  {:>5} ms", took.as_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_stand_below_each_other() {
        let short = line("issuer", "made", Duration::from_millis(3));
        let long = line("ap-south-1", "http://127.0.0.1:8500", Duration::from_millis(1_200));
        assert_eq!((short.len(), &short[short.len() - 7..]), (long.len(), "   3 ms"));
    }
}
