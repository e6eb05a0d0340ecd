//! The memory of one instance's health checks: when the next is due, and what the last ones established.

use crate::registration::HealthCheck;
use crate::selection::mix;
use crate::status::CheckVerdict;
use crate::time::Monotonic;
use smol_str::SmolStr;
use std::time::Duration;

/// How one check ended. A failure says why, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckOutcome {
    /// Answered as it should.
    Passed,
    /// Refused, timed out, answered something else, or must not be asked at all.
    Failed(SmolStr),
}

/// The first check of an instance without a verdict comes within this; so does the next one after its first pass, so
/// that a new instance does not wait for several intervals before it gets traffic.
const SOON: Duration = Duration::from_secs(1);

/// A check whose result is not back this long after its timeout was lost, and another is made.
const LOST_AFTER: Duration = Duration::from_secs(30);

/// Longest detail that is kept, in bytes.
const MAX_DETAIL_BYTES: usize = 256;

#[derive(Clone, Debug)]
pub(super) struct Checking {
    /// When the next check is due.
    pub(super) next: Monotonic,
    passes: u32,
    fails: u32,
    /// What the thresholds have established; begins with what the record says.
    verdict: CheckVerdict,
    /// Why the last failing check failed.
    detail: SmolStr,
}

impl Checking {
    /// Begins to check. `seed` spreads instances that begin together; it should differ between them.
    pub(super) fn begin(recorded: CheckVerdict, check: &HealthCheck, seed: u64, now: Monotonic) -> Self {
        // Where a verdict stands already, a member that takes over many instances has an interval to ask them all.
        let within = if recorded == CheckVerdict::Pending { SOON } else { interval(check) };
        let next = now.plus(Duration::from_millis(mix(seed) % millis(within)));
        Self { next, passes: 0, fails: 0, verdict: recorded, detail: SmolStr::default() }
    }

    /// Notes that a check was given out.
    pub(super) fn asked(&mut self, check: &HealthCheck, now: Monotonic) {
        self.next = now.plus(Duration::from_secs(u64::from(check.timeout_seconds)) + LOST_AFTER);
    }

    /// Forgets a check that proves nothing, and asks again soon.
    pub(super) fn discard(&mut self, seed: u64, now: Monotonic) {
        self.next = now.plus(Duration::from_millis(mix(seed) % millis(SOON)));
    }

    /// Takes in a result and plans the next check.
    pub(super) fn handle(&mut self, outcome: CheckOutcome, check: &HealthCheck, seed: u64, now: Monotonic) {
        match outcome {
            CheckOutcome::Passed => {
                self.fails = 0;
                self.passes = self.passes.saturating_add(1);
                if self.passes >= check.healthy_after {
                    self.verdict = CheckVerdict::Passing;
                    self.detail = SmolStr::default();
                }
            }
            CheckOutcome::Failed(detail) => {
                self.passes = 0;
                self.fails = self.fails.saturating_add(1);
                self.detail = shortened(detail);
                if self.fails >= check.unhealthy_after {
                    self.verdict = match self.verdict {
                        CheckVerdict::Passing | CheckVerdict::Failing => CheckVerdict::Failing,
                        CheckVerdict::Pending | CheckVerdict::NeverPassed => CheckVerdict::NeverPassed,
                    };
                }
            }
        }
        let first_pass = self.verdict == CheckVerdict::Pending && self.passes > 0;
        let every = interval(check);
        self.next = if first_pass && every > SOON {
            now.plus(SOON)
        } else {
            // Places on a grid that the seed shifts: results that come late do not let instances drift together.
            let grid = millis(every);
            let earliest = now.plus(every / 2).0;
            let phase = mix(seed) % grid;
            Monotonic(earliest + (grid - (earliest % grid) + phase) % grid)
        };
    }

    /// Whether enough checks failed in a row that the instance is unhealthy.
    pub(super) fn is_failing(&self, check: &HealthCheck) -> bool {
        self.fails >= check.unhealthy_after
    }

    /// The verdict that the record lacks.
    pub(super) fn unrecorded(&self, recorded: CheckVerdict) -> Option<(CheckVerdict, SmolStr)> {
        let class = |verdict| match verdict {
            CheckVerdict::Pending => 0,
            CheckVerdict::Passing => 1,
            // Which of the two it is depends on what was known before; whoever wrote it knew at least as much.
            CheckVerdict::Failing | CheckVerdict::NeverPassed => 2,
        };
        let differs = self.verdict != CheckVerdict::Pending && class(self.verdict) != class(recorded);
        differs.then(|| (self.verdict, self.detail.clone()))
    }

    /// Takes over what the record says where nothing of our own contradicts it.
    pub(super) fn reconcile(&mut self, recorded: CheckVerdict) {
        if self.unrecorded(recorded).is_none() {
            self.verdict = recorded;
        }
    }
}

fn interval(check: &HealthCheck) -> Duration {
    Duration::from_secs(u64::from(check.interval_seconds.max(1)))
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX).max(1)
}

fn shortened(detail: SmolStr) -> SmolStr {
    if detail.len() <= MAX_DETAIL_BYTES {
        return detail;
    }
    let cut = (0..=MAX_DETAIL_BYTES).rev().find(|at| detail.is_char_boundary(*at)).unwrap_or(0);
    SmolStr::new(detail.get(..cut).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registration::Probe;
    use proptest::prelude::*;

    fn check(interval_seconds: u32) -> HealthCheck {
        HealthCheck {
            probe: Probe::Tcp,
            interval_seconds,
            timeout_seconds: 3,
            unhealthy_after: 3,
            healthy_after: 2,
        }
    }

    fn failed() -> CheckOutcome {
        CheckOutcome::Failed("connection refused".into())
    }

    #[test]
    fn thresholds_count_results_in_a_row() {
        let check = check(5);
        let mut state = Checking::begin(CheckVerdict::Pending, &check, 1, Monotonic(0));
        for outcome in [CheckOutcome::Passed, failed(), CheckOutcome::Passed] {
            state.handle(outcome, &check, 1, Monotonic(0));
        }
        assert_eq!(state.unrecorded(CheckVerdict::Pending), None);
        state.handle(CheckOutcome::Passed, &check, 1, Monotonic(0));
        assert_eq!(state.unrecorded(CheckVerdict::Pending), Some((CheckVerdict::Passing, "".into())));
        state.reconcile(CheckVerdict::Passing);
        for _ in 0..2 {
            state.handle(failed(), &check, 1, Monotonic(0));
            assert_eq!(state.unrecorded(CheckVerdict::Passing), None);
        }
        state.handle(failed(), &check, 1, Monotonic(0));
        assert_eq!(
            state.unrecorded(CheckVerdict::Passing),
            Some((CheckVerdict::Failing, "connection refused".into()))
        );
    }

    #[test]
    fn an_instance_that_never_passed_is_not_called_failing() {
        let check = check(5);
        let mut state = Checking::begin(CheckVerdict::Pending, &check, 1, Monotonic(0));
        (0..3).for_each(|_| state.handle(failed(), &check, 1, Monotonic(0)));
        assert_eq!(state.unrecorded(CheckVerdict::Pending).unwrap().0, CheckVerdict::NeverPassed);
    }

    #[test]
    fn a_guardian_without_a_verdict_of_its_own_leaves_the_record_alone() {
        let check = check(5);
        let mut state = Checking::begin(CheckVerdict::Pending, &check, 1, Monotonic(0));
        state.reconcile(CheckVerdict::Failing);
        assert_eq!(state.unrecorded(CheckVerdict::Failing), None);
        (0..2).for_each(|_| state.handle(CheckOutcome::Passed, &check, 1, Monotonic(0)));
        assert_eq!(state.unrecorded(CheckVerdict::Failing).unwrap().0, CheckVerdict::Passing);
    }

    proptest! {
        #[test]
        fn checks_come_about_once_an_interval_and_spread_over_it(seed in any::<u64>(), seconds in 1u32..=300, start in 0u64..1 << 40) {
            let check = check(seconds);
            let every = u64::from(seconds) * 1000;
            let mut state = Checking::begin(CheckVerdict::Passing, &check, seed, Monotonic(start));
            prop_assert!(state.next.0 < start + every);
            let mut last = state.next;
            for round in 0..5 {
                state.handle(CheckOutcome::Passed, &check, seed, last);
                let gap = state.next.0 - last.0;
                let exact = round > 0;
                prop_assert!(if exact { gap == every } else { gap >= every / 2 && gap <= every * 3 / 2 + 1 }, "{gap} of {every}");
                last = state.next;
            }
        }
    }

    #[test]
    fn a_long_detail_is_cut_between_characters() {
        let cut = shortened("é".repeat(200).into());
        assert!(cut.len() <= MAX_DETAIL_BYTES && cut.chars().all(|c| c == 'é'));
    }
}
