//! How the status of an instance follows from what its owner declared, what checks saw and whether its lease lives.

use serde::{Deserialize, Serialize};

/// What the owner says of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Declared {
    /// Ready for traffic, as far as the owner knows.
    Healthy,
    /// The owner asks for no new traffic because something is wrong.
    Unhealthy,
    /// Not ready yet. With a health check, the first pass ends it.
    Starting,
    /// Going away: no new traffic, on purpose.
    Draining,
}

/// What the guardian's health check has established, by its thresholds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckVerdict {
    /// No verdict yet: no check is declared, or neither threshold was reached since the registration.
    #[default]
    Pending,
    /// The last verdict was a pass.
    Passing,
    /// Failed `unhealthyAfter` times in a row, after it had passed at least once.
    Failing,
    /// Failed `unhealthyAfter` times in a row and has never passed.
    NeverPassed,
}

/// Whether the lease still holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LeaseState {
    /// Renewed in time, as far as the guardian has ruled.
    Alive,
    /// The guardian has ruled that it ended.
    Expired,
}

/// The status that everyone sees. The order is the precedence: a greater one hides a lesser one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// May receive traffic.
    Healthy,
    /// Should receive traffic but cannot: the only status besides `Expired` that lowers a health fraction.
    Unhealthy,
    /// Not ready yet; outside both sides of every health fraction.
    Starting,
    /// Leaving; outside both sides of every health fraction.
    Draining,
    /// The lease ended. Counts as unhealthy for [`crate::instance::EXPIRED_KEPT`], then the instance is removed.
    Expired,
}

impl Status {
    /// Only a healthy instance gets new traffic (invariant 3).
    #[must_use]
    pub fn is_eligible(self) -> bool {
        self == Self::Healthy
    }

    /// The word in answers and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
            Self::Starting => "starting",
            Self::Draining => "draining",
            Self::Expired => "expired",
        }
    }
}

/// The status: expired > draining > starting > unhealthy > healthy.
#[must_use]
pub fn derive(declared: Declared, check: CheckVerdict, lease: LeaseState) -> Status {
    if lease == LeaseState::Expired {
        return Status::Expired;
    }
    match (declared, check) {
        (Declared::Draining, _) => Status::Draining,
        // A first pass ends `starting`; a failure before it is part of starting, not of being unhealthy.
        (Declared::Starting, CheckVerdict::Pending | CheckVerdict::NeverPassed) => Status::Starting,
        (Declared::Unhealthy, _) => Status::Unhealthy,
        (_, CheckVerdict::Failing | CheckVerdict::NeverPassed) => Status::Unhealthy,
        (Declared::Starting | Declared::Healthy, _) => Status::Healthy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_declared() -> impl Strategy<Value = Declared> {
        prop_oneof![
            Just(Declared::Healthy),
            Just(Declared::Unhealthy),
            Just(Declared::Starting),
            Just(Declared::Draining)
        ]
    }

    fn any_check() -> impl Strategy<Value = CheckVerdict> {
        prop_oneof![
            Just(CheckVerdict::Pending),
            Just(CheckVerdict::Passing),
            Just(CheckVerdict::Failing),
            Just(CheckVerdict::NeverPassed)
        ]
    }

    proptest! {
        #[test]
        fn an_expired_lease_hides_everything(declared in any_declared(), check in any_check()) {
            prop_assert_eq!(derive(declared, check, LeaseState::Expired), Status::Expired);
        }

        #[test]
        fn only_the_lease_and_the_owner_can_take_from_draining(check in any_check()) {
            prop_assert_eq!(derive(Declared::Draining, check, LeaseState::Alive), Status::Draining);
        }

        #[test]
        fn healthy_needs_owner_and_check_to_agree(declared in any_declared(), check in any_check()) {
            if derive(declared, check, LeaseState::Alive).is_eligible() {
                prop_assert!(matches!(declared, Declared::Healthy | Declared::Starting));
                prop_assert!(matches!(check, CheckVerdict::Pending | CheckVerdict::Passing));
                prop_assert!(declared == Declared::Healthy || check == CheckVerdict::Passing);
            }
        }

        #[test]
        fn a_worse_check_never_gives_a_better_status(declared in any_declared()) {
            let passing = derive(declared, CheckVerdict::Passing, LeaseState::Alive);
            let failing = derive(declared, CheckVerdict::Failing, LeaseState::Alive);
            prop_assert!(failing >= passing);
        }
    }

    #[test]
    fn starting_ends_at_the_first_pass_and_does_not_come_back() {
        let at = |check| derive(Declared::Starting, check, LeaseState::Alive);
        assert_eq!(at(CheckVerdict::Pending), Status::Starting);
        assert_eq!(at(CheckVerdict::NeverPassed), Status::Starting);
        assert_eq!(at(CheckVerdict::Passing), Status::Healthy);
        assert_eq!(at(CheckVerdict::Failing), Status::Unhealthy);
    }
}
