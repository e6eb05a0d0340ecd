use meridian_sdk_wasm::testing::{self, Asked, Service, caller};
use proptest::prelude::*;

use super::Spillover;

const A: &str = "ap-south-1a";

fn ask(service: &Service) -> Asked {
    testing::ask::<Spillover>("", service, &caller(A)).unwrap()
}

fn near(actual: f64, expected: f64) {
    assert!((actual - expected).abs() < 1e-3, "{actual}, not {expected}");
}

fn home(healthy: usize) -> Service {
    (0..10).fold(Service::named("orders-api"), |service, n| {
        service.endpoint(&format!("a-{n}"), |e| if n < healthy { e.zone(A) } else { e.zone(A).unhealthy() })
    })
}

#[test]
fn home_keeps_what_it_can_carry() {
    let service = home(8).remote("eu", |r| r.endpoints("eu-a", 9, 9).headroom(1_000));
    near(ask(&service).share_of_zone(A), 1.0);
}

#[test]
fn what_is_left_follows_headroom() {
    let service = home(0)
        .remote("eu", |r| r.endpoints("eu-a", 9, 9).headroom(3_000))
        .remote("us", |r| r.endpoints("us-a", 9, 9).headroom(1_000));
    let asked = ask(&service);
    near(asked.share_of_region("eu"), 0.75);
    near(asked.share_of_region("us"), 0.25);
}

#[test]
fn distance_halves_a_share() {
    let service = home(0)
        .remote("eu", |r| r.endpoints("eu-a", 9, 9).headroom(1_000).round_trip_ms(0))
        .remote("us", |r| r.endpoints("us-a", 9, 9).headroom(1_000).round_trip_ms(50));
    near(ask(&service).share_of_region("us"), 1.0 / 3.0);
}

#[test]
fn without_headroom_of_all_the_weights_decide() {
    let service = home(0)
        .remote("eu", |r| r.endpoints("eu-a", 3, 3).headroom(1_000_000))
        .remote("us", |r| r.endpoints("us-a", 9, 9));
    near(ask(&service).share_of_region("us"), 0.75);
}

#[test]
fn a_region_that_can_take_nothing_says_nothing_of_headroom() {
    let with_dead = |spared: fn(testing::Remote) -> testing::Remote| {
        home(0)
            .remote("eu", |r| r.endpoints("eu-a", 9, 9).headroom(3_000))
            .remote("us", |r| r.endpoints("us-a", 9, 9).headroom(1_000))
            .remote("sa", |r| spared(r.endpoints("sa-a", 0, 9)))
    };
    for spared in [(|r| r) as fn(testing::Remote) -> testing::Remote, |r| r.headroom(9_000)] {
        let asked = ask(&with_dead(spared));
        near(asked.share_of_region("eu"), 0.75);
        near(asked.share_of_region("us"), 0.25);
    }
}

#[test]
fn a_region_gets_no_more_than_it_can_carry() {
    // Two of ten healthy carry 28 %; the other one takes the rest.
    let service = home(0)
        .remote("eu", |r| r.endpoints("eu-a", 2, 10).headroom(9_000))
        .remote("us", |r| r.endpoints("us-a", 9, 9).headroom(1_000));
    near(ask(&service).share_of_region("eu"), 0.28);
}

#[test]
fn a_wrong_config_is_refused_by_name() {
    for (config, word) in [
        (r#"{"roundTripHalfMs": 0}"#, "roundTripHalfMs"),
        (r#"{"overprovisioningFactor": 0.5}"#, "1 to 100"),
        (r#"{"half": 1}"#, "half"),
    ] {
        let refused = testing::ask::<Spillover>(config, &home(1), &caller(A)).map(|_| ()).unwrap_err();
        assert!(refused.contains(word), "{config}: {refused}");
    }
}

proptest! {
    #[test]
    fn shares_are_whole_and_follow_no_order(
        healthy in 0usize..=10, rooms in prop::collection::vec((0u64..u64::MAX, 0u32..2_000, 0u32..20, 0u32..5), 0..6)
    ) {
        let service = rooms.iter().enumerate().fold(home(healthy), |service, (n, (room, distance, well, ill))| {
            service.remote(&format!("r{n}"), |r| {
                r.endpoints(&format!("r{n}-a"), *well, well + ill).headroom(*room).round_trip_ms(*distance)
            })
        });
        let asked = ask(&service);
        let sum: f64 = asked.share_of_zone(A) + (0..rooms.len()).map(|n| asked.share_of_region(&format!("r{n}"))).sum::<f64>();
        prop_assert!((sum - 1.0).abs() < 1e-6, "{sum}");
    }
}
