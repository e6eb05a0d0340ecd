//! What a gateway relies on, run against both registries: the embedded one and a real etcd.

// Helpers of tests assert by unwrapping, as the tests do; clippy exempts only functions that are marked as tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod suite;

use suite::{Subject, cases};

/// One test per case and registry.
macro_rules! conformance {
    ($($case:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                super::cases::$case(&super::Subject::embedded()).await;
            })*
        }

        mod etcd {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                super::cases::$case(&super::Subject::etcd()).await;
            })*
        }
    };
}

conformance!(
    a_put_is_read_back_and_reported,
    conditions_are_compared,
    a_conflict_shows_what_stands_there_and_changes_nothing,
    deleting_what_is_absent_is_no_event,
    a_write_is_one_event_in_order,
    concurrent_writes_to_one_key_have_one_winner,
    an_unacceptable_write_harms_no_other,
    history_is_read_newest_first_and_not_watched,
    chunks_come_and_go,
    a_watch_starts_with_the_whole_state,
    a_watch_proves_that_it_is_current,
    a_slow_receiver_misses_nothing,
    members_and_beats_vanish_with_the_membership,
    beats_need_a_membership,
    a_member_that_joins_again_has_another_revision,
    a_write_conditional_on_a_lost_membership_conflicts,
    another_region_is_refused,
    the_incarnation_survives_a_restart,
    a_wiped_registry_is_recognised,
    a_restored_registry_is_recognised,
    an_incarnation_raised_by_hand_starts_watches_over,
);
