//! Who answers: the bound policy, its predecessor, or the native fallback, and that the answer says which.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "unwrap in tests is the assertion itself, in their helpers too"
)]
#![allow(unreachable_pub, reason = "shared by several test binaries, none of which exports anything")]

mod support;

use meridian_model::status::Status;
use meridian_policies::{Carried, ConfigRefused, Host, HostConfig, Lookup, Outcome, Pick, STANDARD};
use std::sync::Arc;
use support::guests::{Guest, LOOP, MEMORY_BOMB, REFUSE, STACK_BOMB, TRAP};
use support::{bound, caller_in, effective, healthy, snapshot, until, warm};

fn host() -> Arc<Host> {
    Host::start(HostConfig::default()).unwrap()
}

fn add(host: &Host, module: &[u8]) {
    let (compiled, report) = host.check(module).unwrap();
    assert_eq!(report.trial, "answered");
    host.insert(compiled).unwrap();
}

fn picked(pick: Pick) -> u32 {
    match pick {
        Pick::Endpoint(picked) => picked.position,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_default_binding_runs_the_first_standard_policy() {
    let host = host();
    let built_in = Host::built_in();
    assert_eq!(built_in.policy.as_str(), STANDARD[0].name);
    let binding = effective(built_in, vec![]);
    let snapshot = healthy(0, 12, &binding);
    let mut worker = host.worker();
    let caller = caller_in(&mut worker, &snapshot, 'b');
    warm(&mut worker, &snapshot, caller).await;
    for seed in 0..100 {
        let Lookup::Routed(routed) = worker.lookup(&snapshot, caller, None, seed) else { panic!("cold") };
        assert_eq!(routed.view.outcome, Outcome::Ok);
        let position = picked(routed.pick(&snapshot));
        assert_eq!(snapshot.endpoints[position as usize].zone().as_str(), "ap-south-1b");
    }
    let stats = host.stats();
    assert!(stats.calls >= 100, "ok means that the module ran: {stats:?}");
}

#[tokio::test]
async fn all_standard_policies_pass_the_gate_like_anyone_else() {
    let host = host();
    for standard in &STANDARD {
        let (_, report) =
            host.check(standard.module).unwrap_or_else(|error| panic!("{}: {error}", standard.name));
        assert!(report.size_bytes > 0);
        host.load_standard(standard).unwrap();
    }
}

#[test]
fn what_standard_policies_carry_agrees_with_them() {
    for standard in &STANDARD {
        let carried = Carried::read(standard.module).unwrap();
        assert_eq!(carried.description(), Some(standard.description));
        assert!(carried.cases() >= 3, "{}", standard.name);
        let documented = match standard.name {
            "canary" => {
                r#"{"percent": 10.5, "canary": {"tag": "v2"}, "salt": "s", "locality": {"regionFallback": "never"},
                    "callers": [{"label": "team", "value": "x", "side": "stable"}]}"#
            }
            "weighted" => {
                r#"{"weights": {"tag:v2": 60, "group:x": 0}, "unmatchedWeight": 1, "zeroWeight": "never"}"#
            }
            "spillover" => r#"{"roundTripHalfMs": 20, "overprovisioningFactor": 2}"#,
            _ => r#"{"regionFallback": "whenEmpty", "overprovisioningFactor": 1.4}"#,
        };
        for config in ["", "{}", documented] {
            assert_eq!(carried.config_errors(config), [], "{}: {config}", standard.name);
        }
        assert!(!carried.config_errors(r#"{"nonsense": 1}"#).is_empty(), "{}", standard.name);
    }
}

#[tokio::test]
async fn a_standard_policy_is_compiled_when_a_service_is_bound_to_it() {
    let host = host();
    let weighted = &STANDARD[2];
    let service = healthy(0, 6, &effective(bound(weighted.name, weighted.module, ""), vec![]));
    let mut worker = host.worker();
    let caller = caller_in(&mut worker, &service, 'a');
    assert!(!host.library().contains(&service.binding.active.version));
    until(&mut worker, &service, caller, |routed| routed.view.outcome == Outcome::Ok).await;
}

#[tokio::test]
async fn a_version_that_is_swapped_in_is_seen() {
    let host = host();
    let (first, second) = (Guest::to_endpoint(0).build(), Guest::to_endpoint(1).build());
    add(&host, &first);
    add(&host, &second);
    let mut worker = host.worker();
    for (module, want) in [(&first, 0), (&second, 1), (&first, 0)] {
        let binding = effective(bound("mine", module, ""), vec![]);
        let snapshot = healthy(3, 6, &binding);
        let caller = caller_in(&mut worker, &snapshot, 'a');
        host.published(&snapshot);
        until(&mut worker, &snapshot, caller, |r| r.view.version == binding.active.version).await;
        let Lookup::Routed(routed) = worker.lookup(&snapshot, caller, None, 9) else { panic!("cold") };
        assert_eq!(routed.view.outcome, Outcome::Ok);
        assert_eq!(picked(routed.pick(&snapshot)), want);
    }
}

/// What the chain answers when `guest` is bound and misbehaves.
async fn fails(guest: &Guest, reason: &str) {
    let host = host();
    let (bad, good) = (guest.build(), Guest::to_endpoint(4).build());
    add(&host, &bad);
    add(&host, &good);
    let mut worker = host.worker();

    let alone = effective(bound("bad", &bad, "{}"), vec![]);
    let service = healthy(0, 6, &alone);
    let caller = caller_in(&mut worker, &service, 'b');
    warm(&mut worker, &service, caller).await;
    let Lookup::Routed(routed) = worker.lookup(&service, caller, None, 7) else { panic!("cold") };
    let Outcome::Fallback { reason: said } = &routed.view.outcome else {
        panic!("{:?}", routed.view.outcome)
    };
    assert!(said.starts_with(reason), "{said}, not {reason}");
    let position = picked(routed.pick(&service)) as usize;
    assert_eq!(service.endpoints[position].zone().as_str(), "ap-south-1b", "the native zone fallback");

    let with_former = effective(bound("bad", &bad, "{}"), vec![bound("good", &good, "")]);
    let service = healthy(1, 6, &with_former);
    warm(&mut worker, &service, caller).await;
    let Lookup::Routed(routed) = worker.lookup(&service, caller, None, 7) else { panic!("cold") };
    let Outcome::LastGood { reason: said } = &routed.view.outcome else {
        panic!("{:?}", routed.view.outcome)
    };
    assert!(said.starts_with(reason), "{said}, not {reason}");
    assert_eq!(routed.view.policy.as_str(), "good");
    assert_eq!(picked(routed.pick(&service)), 4);
}

#[tokio::test]
async fn open_that_traps_loops_grows_or_recurses() {
    for (text, reason) in
        [(TRAP, "trap: unreachable"), (LOOP, "fuel"), (MEMORY_BOMB, "memory"), (STACK_BOMB, "stack")]
    {
        fails(&Guest { open: text.into(), ..Guest::to_endpoint(0) }, reason).await;
    }
}

#[tokio::test]
async fn admit_that_traps_or_loops() {
    for (text, reason) in [(TRAP, "trap: unreachable"), (LOOP, "fuel"), (MEMORY_BOMB, "memory")] {
        fails(&Guest { admit: text.into(), ..Guest::to_endpoint(0) }, reason).await;
    }
}

#[tokio::test]
async fn plans_that_trap_or_loop() {
    for (text, reason) in [(TRAP, "trap: unreachable"), (LOOP, "fuel"), (STACK_BOMB, "stack")] {
        fails(&Guest { plans: text.into(), ..Guest::to_endpoint(0) }, reason).await;
    }
}

#[tokio::test]
async fn route_that_traps_loops_grows_or_names_no_plan() {
    for (text, reason) in [
        (TRAP, "trap: unreachable"),
        (LOOP, "fuel"),
        (MEMORY_BOMB, "memory"),
        (STACK_BOMB, "stack"),
        ("(return (i32.const 7))", "route: plan 7 of 1"),
        ("(return (i32.const -1))", "route: plan 4294967295 of 1"),
    ] {
        fails(&Guest { route: text.into(), ..Guest::to_endpoint(0) }, reason).await;
    }
}

#[tokio::test]
async fn refusals_of_config_and_caller() {
    fails(&Guest { open: REFUSE.into(), ..Guest::to_endpoint(0) }, "open: not today :(").await;
    fails(&Guest { admit: REFUSE.into(), ..Guest::to_endpoint(0) }, "admit: not today :(").await;
}

#[tokio::test]
async fn plans_that_are_nonsense() {
    let one = |endpoint| vec![vec![(endpoint, 1)]];
    for (answer, reason) in [
        (vec![], "plans: the view has no plans"),
        (vec![(10_000, one(6))], "plans: plan 0, tier 0 names endpoint 6, which does not exist"),
        (vec![(10_000, vec![vec![(1, 1), (1, 2)]])], "plans: plan 0, tier 0 names endpoint 1 twice"),
        (vec![(5_000, one(0)), (4_999, one(1))], "plans: the shares of the plans add up to 9999"),
        (vec![(0, one(0)); 257], "plans: the view has 257 plans"),
        (vec![(10_000, vec![vec![(0, 1); 100_000]])], "plans: plan 0, tier 0 has 100000 choices"),
    ] {
        fails(&Guest { armed_answer: Some(answer), ..Guest::to_endpoint(0) }, reason).await;
    }
}

#[tokio::test]
async fn a_policy_that_answers_differently_each_time_is_not_bound_twice_over() {
    let host = host();
    let guest = Guest { routes_to: "(i32.rem_u (global.get $calls) (i32.const 2))".into(), ..two_plans() };
    let rejected = host.check(&guest.build()).unwrap_err();
    assert_eq!(rejected.code, "trial-failed");
}

/// A config arms these guests: the gate has seen nothing of it.
#[tokio::test]
async fn a_config_is_tried_on_the_corpus_before_it_is_bound() {
    let host = host();
    let counts = "(return (i32.rem_u (global.get $calls) (i32.const 2)))";
    for (guest, check, said) in [
        (Guest { armed_answer: Some(vec![(10_000, vec![])]), ..Guest::to_endpoint(0) }, None, ""),
        (Guest::to_endpoint(0), Some("corpus"), "does not exist"),
        (Guest { open: REFUSE.into(), ..Guest::to_endpoint(0) }, None, "open: not today :("),
        (Guest { route: TRAP.into(), ..Guest::to_endpoint(0) }, Some("corpus"), "trap"),
        (Guest { admit: LOOP.into(), ..Guest::to_endpoint(0) }, Some("corpus"), "fuel"),
        (Guest { route: counts.into(), ..two_plans() }, Some("corpus"), "two plans"),
    ] {
        let compiled = host.check(&guest.build()).unwrap().0;
        host.try_config(Arc::clone(&compiled), "".into()).await.unwrap();
        let (found, detail) = match host.try_config(compiled, "{}".into()).await {
            Err(ConfigRefused::Rejected(rejected)) => (rejected.check, rejected.detail),
            Err(ConfigRefused::Busy) => panic!("nobody else tries a config"),
            Ok(()) => Default::default(),
        };
        assert_eq!(found.as_deref(), check, "{detail}");
        assert!(detail.contains(said), "{detail}");
    }
}

fn two_plans() -> Guest {
    Guest::answering(vec![(5_000, vec![vec![(0, 1)]]), (5_000, vec![vec![(1, 1)]])])
}

#[tokio::test]
async fn a_trap_in_route_is_answered_by_the_former_version_in_the_same_lookup() {
    let host = host();
    // Only one key is poisoned, so the policy is ready and well until it comes.
    let poison = "(if (i64.eq (local.get $key) (i64.const 666)) (then unreachable))";
    let bad = Guest { route: poison.into(), ..Guest::to_endpoint(0) }.build();
    let good = Guest::to_endpoint(4).build();
    add(&host, &bad);
    add(&host, &good);
    let mut worker = host.worker();
    for (slot, last_good, want, outcome) in
        [(0, vec![bound("good", &good, "")], Some(4), "last-good"), (1, vec![], None, "fallback")]
    {
        let binding = effective(bound("bad", &bad, "{}"), last_good);
        let service = healthy(slot, 6, &binding);
        let caller = caller_in(&mut worker, &service, 'a');
        warm(&mut worker, &service, caller).await;
        for round in 0..3 {
            until(&mut worker, &service, caller, |r| r.view.outcome == Outcome::Ok).await;
            let Lookup::Routed(routed) = worker.lookup(&service, caller, Some(666), 0) else {
                panic!("cold")
            };
            assert_eq!(routed.view.outcome.as_str(), outcome, "round {round}");
            assert_eq!(routed.view.outcome.reason(), Some("trap: unreachable"));
            let position = picked(routed.pick(&service));
            assert!(want.is_none_or(|want| want == position));
        }
    }
}

#[tokio::test]
async fn a_version_that_is_missing_is_taken_up_when_it_comes() {
    let host = host();
    let module = Guest::to_endpoint(2).build();
    let service = healthy(0, 6, &effective(bound("late", &module, ""), vec![]));
    let mut worker = host.worker();
    let caller = caller_in(&mut worker, &service, 'a');
    warm(&mut worker, &service, caller).await;
    let Lookup::Routed(routed) = worker.lookup(&service, caller, None, 1) else { panic!("cold") };
    assert_eq!(routed.view.outcome, Outcome::Fallback { reason: "missing".into() });
    add(&host, &module);
    until(&mut worker, &service, caller, |r| r.view.outcome == Outcome::Ok).await;
}

#[tokio::test]
async fn an_empty_plan_refuses_and_a_dead_one_falls_back() {
    let host = host();
    let refuses = Guest::answering(vec![(10_000, vec![])]).build();
    let dead = Guest::to_endpoint(0).build();
    add(&host, &refuses);
    add(&host, &dead);
    let mut worker = host.worker();

    let service = healthy(0, 6, &effective(bound("refuses", &refuses, ""), vec![]));
    let caller = caller_in(&mut worker, &service, 'a');
    warm(&mut worker, &service, caller).await;
    let Lookup::Routed(routed) = worker.lookup(&service, caller, None, 1) else { panic!("cold") };
    assert_eq!(routed.view.outcome, Outcome::Ok);
    assert_eq!(routed.pick(&service), Pick::Refused);

    let binding = effective(bound("dead", &dead, ""), vec![]);
    let first_is_gone = support::endpoints(6, |n| if n == 0 { Status::Draining } else { Status::Healthy });
    let service = snapshot(1, first_is_gone, &binding);
    warm(&mut worker, &service, caller).await;
    let Lookup::Routed(routed) = worker.lookup(&service, caller, None, 1) else { panic!("cold") };
    let Pick::Endpoint(chosen) = routed.pick(&service) else { panic!("nothing") };
    assert_ne!(chosen.position, 0);
    assert_eq!(routed.outcome(chosen.by).reason(), Some("nothing-eligible"));

    let service = snapshot(2, support::endpoints(6, |_| Status::Unhealthy), &binding);
    warm(&mut worker, &service, caller).await;
    let Lookup::Routed(routed) = worker.lookup(&service, caller, None, 1) else { panic!("cold") };
    assert_eq!(routed.pick(&service), Pick::NothingEligible);
}
