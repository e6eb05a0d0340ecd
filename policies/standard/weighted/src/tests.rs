use meridian_sdk_wasm::testing::{self, Asked, Service, caller};
use proptest::prelude::*;

use super::Weighted;

const A: &str = "ap-south-1a";
const B: &str = "ap-south-1b";

fn ask(config: &str, service: &Service) -> Asked {
    testing::ask::<Weighted>(config, service, &caller(A)).unwrap()
}

fn near(actual: f64, expected: f64) {
    assert!((actual - expected).abs() < 1e-4, "{actual}, not {expected}");
}

/// Two versions, blue and green, in each of two zones, and one endpoint without version or tag.
fn service() -> Service {
    let service = Service::named("orders-api").endpoint("plain", |e| e.zone(A));
    [A, B].into_iter().fold(service, |service, zone| {
        service
            .endpoint(&format!("{zone}-1"), |e| e.zone(zone).version("1").group("old").tag("blue"))
            .endpoint(&format!("{zone}-2"), |e| e.zone(zone).version("2").group("new").tag("green"))
    })
}

#[test]
fn weights_split_lookups() {
    let asked = ask(r#"{"weights": {"version:1": 80, "version:2": 20}}"#, &service());
    assert_eq!(asked.plans(), [("version:1", 8_000), ("version:2", 2_000)]);
    near(asked.share_of(&format!("{A}-1")), 0.8);
    near(asked.share_of_version("2"), 0.2);
    near(asked.share_of("plain"), 0.0);
    let mixed = ask(r#"{"weights": {"group:old": 1, "tag:green": 1}, "unmatchedWeight": 2}"#, &service());
    near(mixed.share_of("plain"), 0.5);
    near(mixed.share_of_tag("green"), 0.25);
}

#[test]
fn without_weights_it_is_zone_fallback() {
    let asked = ask("", &service());
    assert_eq!(asked.plans(), [("unmatched", 10_000)]);
    near(asked.share_of_zone(A), 1.0);
    near(asked.share_of("plain"), 1.0 / 3.0);
}

#[test]
fn blue_green_sends_nothing_to_blue_while_green_lives() {
    let config = r#"{"weights": {"tag:blue": 0, "tag:green": 100}}"#;
    let asked = ask(config, &service());
    near(asked.share_of_tag("green"), 1.0);
    assert_eq!(asked.tiers()[..2], [[format!("{A}-2")], [format!("{B}-2")]]);

    let dead = Service::named("orders-api")
        .endpoint("blue", |e| e.zone(A).tag("blue"))
        .endpoint("green", |e| e.zone(A).tag("green").unhealthy());
    near(ask(config, &dead).share_of("blue"), 1.0);
    let never = r#"{"weights": {"tag:blue": 0, "tag:green": 100}, "zeroWeight": "never"}"#;
    assert!(ask(never, &dead).refuses("tag:green"));
    let asked = ask(never, &service());
    assert_eq!(asked.tiers(), [[format!("{A}-2")], [format!("{B}-2")]]);
}

#[test]
fn a_zero_weight_wins_over_any_other() {
    let both = Service::named("orders-api")
        .endpoint("bad", |e| e.zone(A).version("2").tag("bad"))
        .endpoint("good", |e| e.zone(A).version("2"));
    let asked = ask(r#"{"weights": {"version:2": 100, "tag:bad": 0}}"#, &both);
    near(asked.share_of("good"), 1.0);
}

#[test]
fn an_ailing_side_hands_on_to_the_others() {
    let config = r#"{"weights": {"version:1": 50, "version:2": 50}}"#;
    let half = Service::named("orders-api")
        .endpoint("one", |e| e.zone(A).version("1"))
        .endpoint("two", |e| e.zone(A).version("2"))
        .endpoint("two-sick", |e| e.zone(A).version("2").unhealthy());
    let asked = ask(config, &half);
    near(asked.share_of("one"), 0.65);
    near(asked.share_of("two"), 0.35);
    let empty = Service::named("orders-api").endpoint("one", |e| e.zone(A).version("1"));
    near(ask(config, &empty).share_of("one"), 1.0);
}

#[test]
fn other_regions_serve_only_what_has_a_weight() {
    let abroad = |config: &str| {
        let service = Service::named("orders-api").remote("eu-west-1", |r| {
            r.subset("x", "1", "old", 1, 1).subset("x", "2", "new", 1, 1).subset("x", "3", "", 1, 1)
        });
        let asked = ask(config, &service);
        asked.tiers_of(asked.plans()[0].0).concat().into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let never = |weights: &str| abroad(&format!(r#"{{"weights": {{{weights}}}, "zeroWeight": "never"}}"#));
    assert_eq!(never(r#""version:1": 1"#), ["eu-west-1/x/1/old"]);
    assert_eq!(never(r#""version:1": 0, "tag:green": 1"#), ["eu-west-1/x/2/new", "eu-west-1/x/3/"]);
    assert_eq!(abroad(""), ["eu-west-1"]);
}

/// A region's instances are gone, and both versions run abroad: whoever was kept off the new version still is.
#[test]
fn a_failover_keeps_the_weights_and_the_keys() {
    let config = r#"{"weights": {"version:1": 99, "version:2": 1}}"#;
    let home = |service: Service, alive: bool| {
        [("one", "1"), ("two", "2")].into_iter().fold(service, |service, (id, version)| {
            service.endpoint(id, |e| if alive { e.version(version) } else { e.version(version).unhealthy() })
        })
    };
    let abroad = || {
        Service::named("orders-api").remote("eu-west-1", |r| {
            r.subset("eu-west-1a", "1", "", 1, 1).subset("eu-west-1a", "2", "", 1, 1)
        })
    };
    let (before, after) = (ask(config, &home(abroad(), true)), ask(config, &home(abroad(), false)));
    near(before.share_of("one"), 0.99);
    near(after.share_of_region("eu-west-1"), 1.0);
    near(after.share_of_version("1"), 0.99);
    near(after.share_of_version("2"), 0.01);
    assert_eq!(after.tiers_of("version:2")[0], ["eu-west-1/eu-west-1a/2/"]);
    assert_eq!(
        after.reasons_of("version:2"),
        ["version:2: eu-west-1, nothing healthy here", "other weights: eu-west-1"]
    );
    for n in 0..500 {
        let key = format!("user-{n}");
        assert_eq!(before.plan_for_key(&key), after.plan_for_key(&key), "{key}");
    }
}

#[test]
fn what_leaves_a_side_stays_in_the_region_before_it_stays_on_its_side() {
    let service = Service::named("orders-api")
        .endpoint("one", |e| e.version("1"))
        .endpoint("two", |e| e.version("2").unhealthy())
        .remote("eu-west-1", |r| r.subset("x", "1", "", 1, 1).subset("x", "2", "", 1, 1));
    let asked = ask(r#"{"weights": {"version:1": 50, "version:2": 50}}"#, &service);
    near(asked.share_of("one"), 1.0);
    assert_eq!(asked.tiers_of("version:2"), [["one"], ["eu-west-1/x/2/"], ["eu-west-1/x/1/"]]);
    // What is drained yields to other regions, but to none that may not answer, whichever side it is on.
    let doubtful = Service::named("orders-api")
        .endpoint("one", |e| e.version("1"))
        .draining_zone(A)
        .remote("eu-west-1", |r| r.subset("x", "2", "", 1, 1).stale());
    let asked = ask(r#"{"weights": {"version:1": 50, "version:2": 50}}"#, &doubtful);
    assert_eq!(asked.tiers_of("version:2"), [["one"], ["eu-west-1"]]);
}

/// Tags do not travel: abroad, the sides that tags name share what nothing else names, by its own weights.
#[test]
fn tags_are_not_told_apart_abroad() {
    let service = Service::named("orders-api")
        .remote("eu-west-1", |r| r.subset("x", "1", "", 1, 1).subset("x", "2", "", 3, 3));
    let asked = ask(r#"{"weights": {"tag:blue": 99, "tag:green": 1}}"#, &service);
    near(asked.share_of_region("eu-west-1"), 1.0);
    assert_eq!(asked.tiers_of("tag:blue"), asked.tiers_of("tag:green"));
    let asked = ask(r#"{"weights": {"tag:blue": 90, "version:2": 10}}"#, &service);
    near(asked.share_of_version("2"), 0.1);
    assert_eq!(asked.tiers_of("tag:blue"), [["eu-west-1/x/1/"], ["eu-west-1/x/2/"]]);
}

#[test]
fn a_split_that_may_not_leave_its_region_is_refused_when_nothing_is_left_there() {
    let service = Service::named("orders-api")
        .endpoint("one", |e| e.version("1").unhealthy())
        .remote("eu-west-1", |r| r.subset("x", "1", "", 1, 1));
    let asked = ask(r#"{"weights": {"version:1": 1}, "locality": {"regionFallback": "never"}}"#, &service);
    assert!(asked.refuses("version:1"));
}

#[test]
fn senseless_configs_are_refused_by_name() {
    let many = (0..32).map(|n| format!(r#""version:{n}": 1"#)).collect::<Vec<_>>().join(",");
    for (config, named) in [
        (r#"{"weights": {"versoin:1": 80}}"#.to_owned(), "versoin:1"),
        (r#"{"weights": {"version:": 80}}"#.to_owned(), "version:"),
        (r#"{"weights": {"version:1": -1}}"#.to_owned(), "weights.version:1"),
        (r#"{"weights": {"version:1": 1000001}}"#.to_owned(), "weights.version:1"),
        (r#"{"weights": {"version:1": 0}}"#.to_owned(), "weights"),
        (r#"{"unmatchedWeight": 1.5}"#.to_owned(), "unmatchedWeight"),
        (r#"{"zeroWeight": "maybe"}"#.to_owned(), "zeroWeight"),
        (r#"{"weight": {}}"#.to_owned(), "weight"),
        (format!(r#"{{"weights": {{{many}}}}}"#), "31"),
    ] {
        let refusal = testing::ask::<Weighted>(&config, &service(), &caller(A)).err().unwrap();
        assert!(refusal.contains(named), "{config}: {refusal}");
    }
}

proptest! {
    #[test]
    fn a_growing_weight_only_draws_keys_to_its_side(one in 1u32..1_000, two in 1u32..1_000, rest in 0u32..1_000, by in 1u32..1_000) {
        let at = |two: u32| {
            ask(&format!(r#"{{"weights": {{"version:1": {one}, "version:2": {two}}}, "unmatchedWeight": {rest}}}"#), &service())
        };
        let (before, after) = (at(two), at(two + by));
        for n in 0..200 {
            let key = format!("user-{n}");
            let (was, is) = (before.plan_for_key(&key), after.plan_for_key(&key));
            prop_assert!(was == is || is == "version:2", "{} went from {} to {}", key, was, is);
        }
    }

    #[test]
    fn a_zero_weight_gets_nothing_while_others_live(blue in 1u32..100, sick in any::<[bool; 4]>()) {
        prop_assume!(!sick[0] || !sick[1]);
        let service = sick.iter().enumerate().fold(Service::named("orders-api"), |service, (n, sick)| {
            service.endpoint(&format!("e-{n}"), |e| {
                let e = e.zone(if n % 2 == 0 { A } else { B }).tag(if n < 2 { "blue" } else { "green" });
                if *sick { e.unhealthy() } else { e }
            })
        });
        let asked = ask(&format!(r#"{{"weights": {{"tag:blue": {blue}, "tag:green": 0}}}}"#), &service);
        near(asked.share_of_tag("blue"), 1.0);
    }
}
