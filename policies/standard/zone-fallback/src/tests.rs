use meridian_sdk_wasm::testing::{self, Asked, Service, caller};
use proptest::prelude::*;

use super::ZoneFallback;

const A: &str = "ap-south-1a";
const B: &str = "ap-south-1b";
const C: &str = "ap-south-1c";

fn ask(service: &Service) -> Asked {
    testing::ask::<ZoneFallback>("", service, &caller(A)).unwrap()
}

fn near(actual: f64, expected: f64) {
    assert!((actual - expected).abs() < 1e-4, "{actual}, not {expected}");
}

/// `healthy` of ten endpoints in zone a, and ten healthy ones in zone b.
fn two_zones(healthy: usize) -> Service {
    (0..10).fold(Service::named("orders-api"), |service, n| {
        service
            .endpoint(&format!("a-{n}"), |e| if n < healthy { e.zone(A) } else { e.zone(A).unhealthy() })
            .endpoint(&format!("b-{n}"), |e| e.zone(B))
    })
}

#[test]
fn a_healthy_zone_keeps_its_callers() {
    let asked = ask(&two_zones(8));
    near(asked.share_of_zone(A), 1.0);
    near(asked.share_of("a-0"), 0.125);
    assert_eq!(asked.reasons_of("all"), ["own zone", "other zones"]);
    assert_eq!(asked.tiers()[1].len(), 10, "zone b is what comes after");
}

#[test]
fn an_ailing_zone_spills_in_proportion() {
    for healthy in 1..=7 {
        let asked = ask(&two_zones(healthy));
        near(asked.share_of_zone(A), 0.14 * healthy as f64);
        near(asked.share_of_zone(B), 1.0 - 0.14 * healthy as f64);
    }
    assert_eq!(ask(&two_zones(5)).reasons_of("all"), ["own zone 70.0 %, other zones 30.0 %"]);
    near(ask(&two_zones(0)).share_of_zone(B), 1.0);
}

#[test]
fn a_deploy_does_not_move_traffic() {
    let service = Service::named("orders-api")
        .endpoint("a-1", |e| e.zone(A))
        .endpoint("a-2", |e| e.zone(A).starting())
        .endpoint("a-3", |e| e.zone(A).draining())
        .endpoint("b-1", |e| e.zone(B));
    near(ask(&service).share_of("a-1"), 1.0);
}

#[test]
fn weights_count_within_a_level() {
    let service = Service::named("orders-api")
        .endpoint("a-1", |e| e.zone(A).weight(100))
        .endpoint("a-2", |e| e.zone(A).weight(100).unhealthy())
        .endpoint("b-1", |e| e.zone(B).weight(100))
        .endpoint("b-2", |e| e.zone(B).weight(200));
    let asked = ask(&service);
    near(asked.share_of("a-1"), 0.7);
    near(asked.share_of("b-1"), 0.1);
    near(asked.share_of("b-2"), 0.2);
}

#[test]
fn an_unknown_zone_is_served_by_the_whole_region() {
    for zone in ["", "elsewhere"] {
        let asked = testing::ask::<ZoneFallback>("", &two_zones(10), &caller(zone)).unwrap();
        near(asked.share_of_zone(A), 0.5);
        assert_eq!(asked.reasons_of("all"), ["the region"]);
    }
}

#[test]
fn a_drained_zone_yields_but_is_better_than_nothing() {
    let service = two_zones(10).draining_zone(A);
    let asked = ask(&service);
    near(asked.share_of_zone(B), 1.0);
    assert_eq!(asked.reasons_of("all"), ["the region", "zones being drained"]);
    let asked = ask(&service.draining_zone(B));
    near(asked.share_of_zone(A), 0.5);
    let abroad = two_zones(10)
        .draining_zone(A)
        .draining_zone(B)
        .remote("eu-west-1", |r| r.endpoints("eu-west-1a", 1, 1));
    near(ask(&abroad).share_of_region("eu-west-1"), 1.0);
}

fn with_remotes(service: Service) -> Service {
    service
        .remote("far", |r| r.round_trip_ms(200).endpoints("far-a", 4, 4))
        .remote("near", |r| r.round_trip_ms(50).endpoints("near-a", 4, 4))
        .remote("silent", |r| r.round_trip_ms(10).stale().endpoints("silent-a", 4, 4))
        .remote("cut-off", |r| r.round_trip_ms(5).unreachable().endpoints("cut-off-a", 4, 4))
        .remote("evacuated", |r| r.round_trip_ms(1).draining().endpoints("evacuated-a", 4, 4))
}

#[test]
fn remotes_come_by_what_is_known_of_them_and_then_by_distance() {
    let asked = ask(&with_remotes(Service::named("orders-api")));
    assert_eq!(asked.tiers(), [["near"], ["far"], ["silent"], ["cut-off"], ["evacuated"]]);
    let doubtful = Service::named("orders-api")
        .remote("suspect", |r| r.round_trip_ms(10).suspect().endpoints("x", 1, 1))
        .remote("fresh", |r| r.round_trip_ms(200).endpoints("y", 1, 1));
    assert_eq!(ask(&doubtful).tiers(), [["fresh"], ["suspect"]]);
}

#[test]
fn what_a_region_cannot_carry_leaves_it() {
    let ailing = |zone: &'static str| {
        move |service: Service| {
            (0..10).fold(service, |service, n| {
                service.endpoint(&format!("{zone}-{n}"), |e| {
                    if n < 3 { e.zone(zone) } else { e.zone(zone).unhealthy() }
                })
            })
        }
    };
    let service = with_remotes(ailing(B)(ailing(A)(Service::named("orders-api"))));
    let asked = ask(&service);
    near(asked.share_of_zone(A), 0.42);
    near(asked.share_of_zone(B), 0.42);
    near(asked.share_of_region("near"), 0.16);
    let asked =
        testing::ask::<ZoneFallback>(r#"{"regionFallback": "whenEmpty"}"#, &service, &caller(A)).unwrap();
    near(asked.share_of_zone(A), 0.5);
    assert_eq!(asked.tiers()[1], ["near"]);
    let asked = testing::ask::<ZoneFallback>(r#"{"regionFallback": "never"}"#, &service, &caller(A)).unwrap();
    assert_eq!(asked.tiers().len(), 1);
}

#[test]
fn ramps_limit_what_recovers() {
    let recovering = two_zones(10).ramp(300).remote("near", |r| r.endpoints("near-a", 4, 4));
    let asked = ask(&recovering);
    near(asked.share_of_zone(A), 0.3);
    near(asked.share_of_region("near"), 0.7);
    let abroad = Service::named("orders-api")
        .remote("near", |r| r.round_trip_ms(1).ramp(250).endpoints("near-a", 4, 4))
        .remote("far", |r| r.endpoints("far-a", 4, 4));
    near(ask(&abroad).share_of_region("near"), 0.25);
    let only = Service::named("orders-api").remote("near", |r| r.ramp(250).endpoints("near-a", 4, 4));
    near(ask(&only).share_of_region("near"), 1.0);
    let unstarted = Service::named("orders-api").remote("near", |r| r.ramp(0).endpoints("near-a", 4, 4));
    near(ask(&unstarted).share_of_region("near"), 1.0);
}

#[test]
fn nothing_healthy_is_not_a_refusal() {
    let asked = ask(&two_zones(0).draining_zone(B));
    assert_eq!(asked.reasons_of("all"), ["zones being drained"]);
    let none = Service::named("orders-api").endpoint("a-1", |e| e.unhealthy());
    assert_eq!(ask(&none).tiers(), [["a-1"]]);
    assert!(!ask(&Service::named("orders-api")).refuses("all"));
}

/// Each level takes the least of what is left and 1.4 times its healthy part: two half-dead zones carry all of it together
/// as two levels, and 70 % of it as one.
#[test]
fn a_caller_without_a_zone_sees_one_level_where_others_see_two() {
    let half = |service: Service, zone: &str| {
        service
            .endpoint(zone, |e| e.zone(zone))
            .endpoint(&format!("{zone}-sick"), |e| e.zone(zone).unhealthy())
    };
    let service =
        half(half(Service::named("orders-api"), A), B).remote("eu-west-1", |r| r.endpoints("x", 4, 4));
    let shares = |zone: &str| {
        let asked = testing::ask::<ZoneFallback>("", &service, &caller(zone)).unwrap();
        [asked.share_of_zone(A), asked.share_of_zone(B), asked.share_of_region("eu-west-1")]
    };
    for (zone, wanted) in [(A, [0.7, 0.3, 0.0]), ("", [0.35, 0.35, 0.3])] {
        shares(zone).into_iter().zip(wanted).for_each(|(share, wanted)| near(share, wanted));
    }
}

/// The host's own fallback would look for other regions where a plan names nobody: only a refusal keeps traffic at home.
#[test]
fn never_means_refused_rather_than_served_elsewhere() {
    let never = |service: &Service| {
        testing::ask::<ZoneFallback>(r#"{"regionFallback": "never"}"#, service, &caller(A)).unwrap()
    };
    let dead = two_zones(0).draining_zone(B);
    assert_eq!(never(&with_remotes(dead)).reasons_of("all"), ["zones being drained"]);
    for service in
        [Service::named("orders-api").endpoint("a-1", |e| e.unhealthy()), Service::named("orders-api")]
    {
        assert!(never(&service).refuses("all"));
        assert!(never(&with_remotes(service)).refuses("all"));
    }
    // A recovering region has nobody to leave the rest to.
    near(never(&with_remotes(two_zones(10).ramp(0))).share_of_zone(A), 1.0);
}

#[test]
fn reasons_tell_a_broken_link_from_a_silent_region() {
    let service = Service::named("orders-api")
        .remote("cut-off", |r| r.unreachable().endpoints("x", 1, 1))
        .remote("fading", |r| r.unreachable().suspect().endpoints("x", 1, 1))
        .remote("silent", |r| r.unreachable().stale().endpoints("x", 1, 1));
    let reasons = [
        "cut-off, not reachable, nothing here",
        "fading, not heard of lately",
        "silent, not heard of lately",
    ];
    assert_eq!(ask(&service).reasons_of("all"), reasons);
}

#[test]
fn what_leaves_the_region_says_why() {
    let abroad = |service: Service| service.remote("near", |r| r.endpoints("near-a", 4, 4));
    let why = |service: &Service| ask(service).reasons_of("all")[0].to_owned();
    assert_eq!(why(&abroad(Service::named("orders-api"))), "near, nothing here");
    let dead = abroad(Service::named("orders-api").endpoint("one", |e| e.zone(A).unhealthy()));
    assert_eq!(why(&dead), "near, nothing healthy here");
    let evacuated = abroad(Service::named("orders-api").endpoint("one", |e| e.zone(A))).draining_zone(A);
    assert_eq!(why(&evacuated), "near, zones here are being drained");
    assert_eq!(why(&abroad(two_zones(5))), "own zone 70.0 %, other zones 30.0 %");
    assert_eq!(why(&abroad(two_zones(10).ramp(0))), "near");
}

#[test]
fn senseless_configs_are_refused_by_name() {
    let refusal =
        |config: &str| testing::ask::<ZoneFallback>(config, &two_zones(1), &caller(A)).err().unwrap();
    for (config, named) in [
        (r#"{"overprovisioningFactor": 0.5}"#, "overprovisioningFactor"),
        (r#"{"overprovisioningFactor": "1.4"}"#, "overprovisioningFactor"),
        (r#"{"overprovisoningFactor": 1.4}"#, "overprovisoningFactor"),
        (r#"{"regionFallback": "sometimes"}"#, "regionFallback"),
        (r#"{"regionFallback": "never"} x"#, "trailing"),
        ("[", "config"),
        ("null", "config"),
    ] {
        let refusal = refusal(config);
        assert!(refusal.contains(named), "{config}: {refusal}");
    }
    assert!(testing::ask::<ZoneFallback>(" \n", &two_zones(1), &caller(A)).is_ok());
}

#[test]
fn a_router_stays_small() {
    let service = (0..20).fold(Service::named("orders-api"), |service, n| {
        service.endpoint(&format!("orders-api-7c9f-{n}"), |e| {
            let zone = if n % 2 == 0 { A } else { B };
            e.zone(zone)
                .version("2026.04.18.2")
                .group("stable")
                .tag("v2")
                .metadata("pod", &format!("pod-{n}"))
        })
    });
    let service = with_remotes(service);
    let kept = ask(&service).kept_bytes();
    assert!(kept <= 2_048, "{kept} bytes");
}

#[derive(Clone, Debug)]
struct One {
    zone: &'static str,
    weight: u32,
    status: u8,
}

fn endpoints() -> impl Strategy<Value = Vec<One>> {
    let one = (prop_oneof![Just(A), Just(B), Just(C)], 1u32..=10_000, 0u8..5)
        .prop_map(|(zone, weight, status)| One { zone, weight, status });
    proptest::collection::vec(one, 0..12)
}

fn remotes() -> impl Strategy<Value = Vec<(u32, u32, u8, u32)>> {
    proptest::collection::vec((0u32..4, 0u32..4, 0u8..6, 0u32..=20), 0..4)
}

fn build(endpoints: &[One], remotes: &[(u32, u32, u8, u32)]) -> Service {
    let service = endpoints.iter().enumerate().fold(Service::named("orders-api"), |service, (n, one)| {
        service.endpoint(&format!("e-{n}"), |e| {
            let e = e.zone(one.zone).weight(one.weight);
            match one.status {
                0 => e.unhealthy(),
                1 => e.starting(),
                2 => e.draining(),
                _ => e,
            }
        })
    });
    remotes.iter().enumerate().fold(service, |service, (n, (healthy, sick, state, ramp))| {
        service.remote(&format!("r-{n}"), |r| {
            let r = r.endpoints("z", *healthy, healthy + sick).ramp(ramp * 50);
            match state {
                0 => r.draining(),
                1 => r.stale(),
                2 => r.unreachable(),
                _ => r,
            }
        })
    })
}

proptest! {
    #[test]
    fn everything_healthy_is_somewhere_and_nothing_else(
        endpoints in endpoints(), remotes in remotes(), ramp in 0u32..=20, drained in any::<bool>(),
    ) {
        let mut service = build(&endpoints, &remotes).ramp(ramp * 50);
        if drained {
            service = service.draining_zone(A);
        }
        let asked = ask(&service);
        let mut healthy: Vec<String> = endpoints.iter().enumerate()
            .filter(|(_, one)| one.status > 2).map(|(n, _)| format!("e-{n}"))
            .chain(remotes.iter().enumerate().filter(|(_, one)| one.0 > 0).map(|(n, _)| format!("r-{n}")))
            .collect();
        if healthy.is_empty() {
            healthy = (0..endpoints.len()).map(|n| format!("e-{n}")).collect();
        }
        let mut named: Vec<String> = asked.tiers().concat().iter().map(ToString::to_string).collect();
        healthy.sort();
        named.sort();
        prop_assert_eq!(named, healthy);
    }

    #[test]
    fn losing_one_endpoint_moves_no_more_than_its_part(mut endpoints in endpoints(), lost in any::<prop::sample::Index>()) {
        let service = build(&endpoints, &[]);
        prop_assume!(!endpoints.is_empty());
        let lost = lost.index(endpoints.len());
        prop_assume!(endpoints[lost].status > 2);
        // Whoever else there is can carry everything, so the own zone's part is not a matter of nothing better.
        let with_spare = |service: Service| service.endpoint("spare", |e| e.zone("spare").weight(10_000_000));
        let before = ask(&with_spare(service)).share_of_zone(A);
        endpoints[lost].status = 0;
        let after = ask(&with_spare(build(&endpoints, &[]))).share_of_zone(A);
        let weight_of = |counted: &dyn Fn(&One) -> bool| -> f64 {
            endpoints.iter().filter(|one| one.zone == A && counted(one)).map(|one| f64::from(one.weight)).sum()
        };
        let zone = weight_of(&|one| one.status == 0 || one.status > 2);
        let part = if endpoints[lost].zone == A { f64::from(endpoints[lost].weight) / zone } else { 0.0 };
        if part > 0.0 {
            prop_assert!(after <= before + 1e-4, "{} grew to {}", before, after);
            prop_assert!(before - after <= 1.4 * part + 1e-4, "{} fell to {} for {}", before, after, part);
        }
    }
}
