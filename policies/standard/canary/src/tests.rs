use meridian_sdk_wasm::Caller;
use meridian_sdk_wasm::testing::{self, Asked, Endpoint, Service, caller};
use proptest::prelude::*;

use super::CanaryPolicy;

const A: &str = "ap-south-1a";
const B: &str = "ap-south-1b";

fn ask_as(config: &str, service: &Service, caller: &Caller) -> Asked {
    testing::ask::<CanaryPolicy>(config, service, caller).unwrap()
}

fn ask(config: &str, service: &Service) -> Asked {
    ask_as(config, service, &caller(A))
}

fn near(actual: f64, expected: f64) {
    assert!((actual - expected).abs() < 1e-4, "{actual}, not {expected}");
}

/// Two stable ones and a canary in each zone; `change` is applied to the canaries.
fn service(change: fn(Endpoint) -> Endpoint) -> Service {
    [A, B].into_iter().fold(Service::named("orders-api"), |service, zone| {
        service
            .endpoint(&format!("{zone}-s1"), |e| e.zone(zone).version("1.2").group("stable"))
            .endpoint(&format!("{zone}-s2"), |e| e.zone(zone).version("1.2").group("stable"))
            .endpoint(&format!("{zone}-c"), |e| {
                change(e.zone(zone).version("1.3").group("canary").tag("new"))
            })
    })
}

fn healthy(endpoint: Endpoint) -> Endpoint {
    endpoint
}

#[test]
fn a_percentage_goes_to_the_canary_in_its_zone() {
    let asked = ask(r#"{"percent": 10}"#, &service(healthy));
    assert_eq!(asked.plans(), [("canary", 1_000), ("stable", 9_000)]);
    near(asked.share_of(&format!("{A}-c")), 0.1);
    near(asked.share_of_zone(B), 0.0);
    near(ask(r#"{"percent": 0.01}"#, &service(healthy)).share_of_group("canary"), 0.0001);
}

#[test]
fn a_canary_is_a_group_a_version_or_a_tag() {
    for canary in [r#"{"group": "canary"}"#, r#"{"version": "1.3"}"#, r#"{"tag": "new"}"#] {
        let asked = ask(&format!(r#"{{"canary": {canary}, "percent": 25}}"#), &service(healthy));
        near(asked.share_of_version("1.3"), 0.25);
    }
}

#[test]
fn the_ends_of_the_scale_are_one_plan() {
    assert_eq!(ask("", &service(healthy)).plans(), [("stable", 10_000)]);
    assert_eq!(ask(r#"{"percent": 100}"#, &service(healthy)).plans(), [("canary", 10_000)]);
}

#[test]
fn labels_choose_a_side() {
    let config = r#"{"percent": 50, "callers": [
        {"label": "tier", "value": "gold", "side": "stable"},
        {"label": "x-canary", "value": "always"},
        {"label": "beta"}]}"#;
    let share = |caller: Caller| ask_as(config, &service(healthy), &caller).share_of_group("canary");
    near(share(caller(A)), 0.5);
    near(share(caller(A).with_label("x-canary", "always")), 1.0);
    near(share(caller(A).with_label("x-canary", "never")), 0.5);
    near(share(caller(A).with_label("beta", "")), 1.0);
    near(share(caller(A).with_label("beta", "").with_label("tier", "gold")), 0.0);
}

#[test]
fn a_sick_canary_hands_on_to_stable() {
    let asked = ask(r#"{"percent": 10}"#, &service(Endpoint::unhealthy));
    near(asked.share_of_group("stable"), 1.0);
    assert_eq!(asked.reasons_of("canary")[0], "stable: own zone");
    let asked = ask(r#"{"percent": 10}"#, &service(Endpoint::starting));
    near(asked.share_of_group("stable"), 1.0);

    let half = service(Endpoint::unhealthy).endpoint("c-2", |e| e.zone(A).group("canary"));
    let asked = ask(r#"{"percent": 10}"#, &half);
    near(asked.share_of_group("canary"), 0.07);
    near(asked.share_of_group("stable"), 0.93);
}

#[test]
fn stable_uses_the_canary_only_when_nothing_else_is_left() {
    let gone = Service::named("orders-api")
        .endpoint("s", |e| e.zone(A).group("stable").unhealthy())
        .endpoint("c", |e| e.zone(A).group("canary"));
    assert_eq!(ask("", &gone).tiers(), [["c"]]);
    let abroad = gone.remote("eu-west-1", |r| r.subset("eu-west-1a", "1.2", "stable", 2, 2));
    assert_eq!(ask("", &abroad).tiers(), [["eu-west-1"], ["c"]]);
}

#[test]
fn a_canary_stays_in_the_region() {
    let remote_canary =
        Service::named("orders-api").endpoint("s", |e| e.zone(A).group("stable")).remote("eu-west-1", |r| {
            r.subset("eu-west-1a", "1.2", "stable", 2, 2).subset("eu-west-1a", "1.3", "canary", 1, 1)
        });
    let asked = ask(r#"{"percent": 100}"#, &remote_canary);
    assert_eq!(
        asked.tiers(),
        [["s"], ["eu-west-1/eu-west-1a/1.3/canary"], ["eu-west-1/eu-west-1a/1.2/stable"]]
    );
}

#[test]
fn senseless_configs_are_refused_by_name() {
    for (config, named) in [
        (r#"{"percent": 101}"#, "percent"),
        (r#"{"percent": -1}"#, "percent"),
        (r#"{"percent": 0.001}"#, "percent"),
        (r#"{"percent": "10"}"#, "percent"),
        (r#"{"canary": {"groop": "canary"}}"#, "canary"),
        (r#"{"canary": "canary"}"#, "canary"),
        (r#"{"callers": [{"value": "x"}]}"#, "callers[0]"),
        (r#"{"callers": [{"label": "x", "side": "left"}]}"#, "callers[0].side"),
        (r#"{"locality": {"overprovisioningFactor": 0}}"#, "locality.overprovisioningFactor"),
        (r#"{"percentage": 10}"#, "percentage"),
    ] {
        let refusal = testing::ask::<CanaryPolicy>(config, &service(healthy), &caller(A)).err().unwrap();
        assert!(refusal.contains(named), "{config}: {refusal}");
    }
}

proptest! {
    #[test]
    fn nobody_falls_out_of_a_growing_canary(from in 0u32..=10_000, by in 0u32..=10_000, keys in any::<u32>()) {
        let at = |parts: u32| {
            ask(&format!(r#"{{"percent": {}}}"#, f64::from(parts.min(10_000)) / 100.0), &service(healthy))
        };
        let (before, after) = (at(from), at(from + by));
        for n in 0..200 {
            let key = format!("user-{keys}-{n}");
            let still = before.plan_for_key(&key) != "canary" || after.plan_for_key(&key) == "canary";
            prop_assert!(still, "{}", key);
        }
    }

    #[test]
    fn zones_and_salts_do_not_move_keys_between_sides(keys in any::<u32>()) {
        let config = r#"{"percent": 30, "salt": "release-42"}"#;
        let here = ask_as(config, &service(healthy), &caller(A));
        let there = ask_as(config, &service(Endpoint::degraded), &caller(B));
        for n in 0..50 {
            let key = format!("user-{keys}-{n}");
            prop_assert_eq!(here.plan_for_key(&key), there.plan_for_key(&key));
        }
    }
}
