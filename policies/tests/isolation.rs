//! What one policy, service or caller cannot do to others, and the bounds that hold under load.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "unwrap in tests is the assertion itself, in their helpers too"
)]
#![allow(unreachable_pub, reason = "shared by several test binaries, none of which exports anything")]

mod support;

use meridian_model::binding::{Candidate, Effective, Source, Stage};
use meridian_model::caller::Caller;
use meridian_model::selection::{Words, mix};
use meridian_model::snapshot::Snapshot;
use meridian_model::status::Status;
use meridian_model::time::UnixMillis;
use meridian_policies::{
    CallerId, Host, HostConfig, Lookup, MAX_VIEWS, Outcome, Pick, Picks, STANDARD, Worker,
};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::guests::{Guest, LOOP, TRAP};
use support::{
    bound, caller_in, effective, endpoints, evaluated, healthy, region, snapshot, until, warm, zone,
};

fn host(router_cache_bytes: usize) -> Arc<Host> {
    Host::start(HostConfig { router_cache_bytes, ..HostConfig::default() }).unwrap()
}

fn add(host: &Host, module: &[u8]) {
    host.insert(host.check(module).unwrap().0).unwrap();
}

#[tokio::test]
async fn a_trap_of_one_service_touches_no_other() {
    let host = host(64 << 20);
    let module = Guest { route: LOOP.into(), ..Guest::to_endpoint(0) }.build();
    add(&host, &module);
    let mut worker = host.worker();
    // The same module everywhere; it misbehaves at one service only.
    let bad = healthy(0, 6, &effective(bound("shared", &module, "{}"), vec![]));
    let good = effective(bound("shared", &module, ""), vec![]);
    let mut others: Vec<_> = (1..10).map(|slot| healthy(slot, 6, &good)).collect();
    others.push(healthy(10, 6, &effective(Host::built_in(), vec![])));
    let caller = caller_in(&mut worker, &bad, 'a');
    for other in &others {
        warm(&mut worker, other, caller).await;
    }
    let deadline = Instant::now() + Duration::from_secs(2);
    let (mut rounds, mut failed) = (0u64, 0);
    while Instant::now() < deadline {
        rounds += 1;
        match worker.lookup(&bad, caller, None, rounds) {
            Lookup::Routed(routed) => failed += u64::from(routed.view.outcome != Outcome::Ok),
            Lookup::Cold(_) => {}
        }
        for other in &others {
            let Lookup::Routed(routed) = worker.lookup(other, caller, None, rounds) else { panic!("cold") };
            assert_eq!(routed.view.outcome, Outcome::Ok);
        }
        if rounds % 1_000 == 0 {
            tokio::task::yield_now().await;
        }
    }
    assert!(failed > 0, "the bad one never ran");
    assert!(host.stats().faults.iter().map(|(_, n)| n).sum::<u64>() > 0);
}

/// Takes some 20 ms to open.
const BURN: &str = "(i32.store (i32.const 64) (i32.const 2000000))
    (loop $burn
      (i64.store (i32.const 72)
        (i64.div_u (i64.const -1) (i64.or (i64.load (i32.const 72)) (i64.const 65537))))
      (i32.store (i32.const 64) (i32.sub (i32.load (i32.const 64)) (i32.const 1)))
      (br_if $burn (i32.load (i32.const 64))))";

/// Publishes a snapshot and waits until it answers with the policy's own outcome.
async fn time_until(host: &Host, worker: &mut Worker, service: &Arc<Snapshot>, caller: CallerId) -> Duration {
    let begun = Instant::now();
    host.published(service);
    until(worker, service, caller, |routed| {
        routed.view.snapshot.serial == service.serial && routed.view.outcome == Outcome::Ok
    })
    .await;
    begun.elapsed()
}

fn total_faults(host: &Host) -> u64 {
    host.stats().faults.iter().map(|(_, n)| n).sum()
}

/// Answers that only the policy can give keep the preparer busy: each prepares a large service twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_without_end_delay_no_other_service() {
    const ASKERS: u64 = 24;
    let host = host(64 << 20);
    let of = |name| STANDARD.iter().find(|standard| standard.name == name).unwrap();
    let (canary, spillover) = (of("canary"), of("spillover"));
    let active = bound(canary.name, canary.module, r#"{"percent": 10, "canary": {"tag": "v2"}}"#);
    let bound = bound(spillover.name, spillover.module, "");
    let candidate =
        Candidate { bound, stage: Stage::Canary, percent: 10.0, since: UnixMillis(7), fault: "".into() };
    let with_candidate =
        Effective { candidate: Some(candidate), source: Source::Own, ..(*effective(active, vec![])).clone() };
    let large = healthy(0, 5_000, &Arc::new(with_candidate));
    let small = effective(Host::built_in(), vec![]);
    let mut worker = host.worker();
    let caller = caller_in(&mut worker, &large, 'a');
    warm(&mut worker, &large, caller).await;
    warm(&mut worker, &healthy(1, 6, &small), caller).await;
    let answered = Arc::new(AtomicU64::new(0));
    let asking: Vec<_> = (0..ASKERS)
        .map(|n| {
            let (host, large, answered) = (Arc::clone(&host), Arc::clone(&large), Arc::clone(&answered));
            tokio::spawn(async move {
                for key in (n..).step_by(ASKERS as usize) {
                    let asks = Caller::in_zone(region(), Some(zone('a')));
                    let evaluation = host.evaluate(Arc::clone(&large), asks, Some(mix(key))).await;
                    answered.fetch_add(u64::from(evaluation.view.outcome == Outcome::Ok), Ordering::Relaxed);
                }
            })
        })
        .collect();
    let answered = || answered.load(Ordering::Relaxed);
    let deadline = Instant::now() + Duration::from_secs(60);
    while answered() < ASKERS {
        assert!(Instant::now() < deadline, "only {} questions were answered", answered());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Counted, not timed: how long a question takes is the machine's.
    let mut first = Vec::new();
    for _ in 0..5 {
        let before = answered();
        time_until(&host, &mut worker, &healthy(1, 6, &small), caller).await;
        first.push(answered() - before);
    }
    asking.iter().for_each(tokio::task::JoinHandle::abort);
    first.sort_unstable();
    // One question may be under way, and some are answered until this task sees its own. Without turns, all that wait
    // come first.
    assert!(first[2] <= 4, "{first:?} questions of {ASKERS} askers came first");
}

#[tokio::test]
async fn who_leaves_a_slow_policy_does_not_wait_for_the_slow() {
    const SLOW: u32 = 60;
    let host = host(64 << 20);
    let (slow, quick) =
        (Guest { open: BURN.into(), ..Guest::to_endpoint(0) }.build(), Guest::to_endpoint(1).build());
    add(&host, &slow);
    add(&host, &quick);
    let burns = effective(bound("slow", &slow, "{}"), vec![]);
    let mut worker = host.worker();
    let services: Vec<_> = (0..SLOW).map(|slot| healthy(slot, 6, &burns)).collect();
    let caller = caller_in(&mut worker, &services[0], 'a');
    for service in &services {
        warm(&mut worker, service, caller).await;
    }
    // One for the lane, the rest wait: the last one is bound to another policy while it does.
    let again: Vec<_> = (0..SLOW).map(|slot| healthy(slot, 6, &burns)).collect();
    again.iter().for_each(|service| host.published(service));
    let prepared = host.stats().preparations;
    let left = healthy(SLOW - 1, 6, &effective(bound("quick", &quick, ""), vec![]));
    let took = time_until(&host, &mut worker, &left, caller).await;
    let meanwhile = host.stats().preparations - prepared;
    assert!(meanwhile < u64::from(SLOW) / 2, "{meanwhile} others came first, in {took:?}");
}

/// What shares a row of cells with services that use up their fuel is prepared without them.
#[tokio::test]
async fn large_services_that_fail_take_no_small_one_down() {
    const LARGE: u32 = 4;
    const SMALL: u32 = 10;
    let host = host(256 << 20);
    let binding = effective(Host::built_in(), vec![]);
    let mut worker = host.worker();
    let small = |slot: u32| healthy(LARGE + slot, 6, &binding);
    let caller = caller_in(&mut worker, &small(0), 'a');
    for slot in 0..SMALL {
        warm(&mut worker, &small(slot), caller).await;
    }
    for slot in 0..LARGE {
        warm(&mut worker, &healthy(slot, 6, &binding), caller).await;
    }
    let endpoints = endpoints(TOO_MANY, |_| Status::Healthy);
    let mut all: Vec<_> = (0..LARGE).map(|slot| snapshot(slot, endpoints.clone(), &binding)).collect();
    all.extend((0..SMALL).map(small));
    all.iter().for_each(|service| host.published(service));
    for service in &all {
        let serial = service.serial;
        until(&mut worker, service, caller, |routed| routed.view.snapshot.serial == serial).await;
        let Lookup::Routed(routed) = worker.lookup(service, caller, None, 1) else { panic!("cold") };
        let failed = routed.view.outcome != Outcome::Ok;
        assert_eq!(failed, service.endpoints.len() == TOO_MANY, "{}: {:?}", service.key, routed.view.outcome);
    }
}

/// Endpoints of a service for which no standard policy's fuel is enough.
const TOO_MANY: usize = 16_000;

#[tokio::test]
async fn callers_of_one_service_flush_no_other() {
    let host = host(64 << 20);
    let binding = effective(Host::built_in(), vec![]);
    let (flooded, other) = (healthy(0, 6, &binding), healthy(1, 6, &binding));
    let mut worker = host.worker();
    let caller = caller_in(&mut worker, &other, 'a');
    warm(&mut worker, &other, caller).await;
    warm(&mut worker, &flooded, caller).await;
    for n in 0..70_000 {
        let team = format!("team-{n}");
        let labels = [("team", team.as_str())];
        let asks = worker.caller(&flooded.region, &flooded.binding, Some(&zone('a')), &labels);
        let _ = worker.lookup_now(&flooded, asks, None, 1);
    }
    let caller = caller_in(&mut worker, &other, 'a');
    let Lookup::Routed(routed) = worker.lookup(&other, caller, None, 1) else { panic!("cold") };
    assert_eq!(routed.view.outcome, Outcome::Ok);
    assert!(host.stats().callers <= 65_536, "{:?}", host.stats());
}

#[tokio::test]
async fn what_fails_wherever_it_is_bound_rests_everywhere() {
    for guest in [
        Guest { open: TRAP.into(), ..Guest::to_endpoint(0) },
        Guest { route: TRAP.into(), ..Guest::to_endpoint(0) },
    ] {
        let host = host(64 << 20);
        let module = guest.build();
        add(&host, &module);
        let mut worker = host.worker();
        let good = healthy(100, 6, &effective(bound("p", &module, ""), vec![]));
        let bad = effective(bound("p", &module, "{}"), vec![]);
        let caller = caller_in(&mut worker, &good, 'a');
        for slot in 0..40 {
            let service = healthy(slot, 6, &bad);
            until(&mut worker, &service, caller, |r| matches!(r.view.outcome, Outcome::Fallback { .. }))
                .await;
        }
        assert_eq!(host.stats().quarantined, 1, "{:?}", host.stats());
        assert!(total_faults(&host) <= 10, "{:?}", host.stats());
        // The same version where it does not fail.
        warm(&mut worker, &good, caller).await;
        let Lookup::Routed(routed) = worker.lookup(&good, caller, None, 1) else { panic!("cold") };
        assert_eq!(routed.view.outcome, Outcome::Ok);
    }
}

#[tokio::test]
async fn a_caller_that_a_policy_loops_for_is_not_asked_for_again_and_again() {
    const TEAMS: usize = 9;
    let host = host(64 << 20);
    let admit = format!("(if (local.get $labels-len) (then {LOOP}))");
    let module = Guest { admit, ..Guest::to_endpoint(0) }.build();
    add(&host, &module);
    let binding = effective(bound("p", &module, "{}"), vec![]);
    let mut worker = host.worker();
    let service = healthy(0, 6, &binding);
    let nobody = caller_in(&mut worker, &service, 'a');
    warm(&mut worker, &service, nobody).await;
    for n in 0..TEAMS {
        let team = format!("team-{n}");
        let asks = worker.caller(&service.region, &service.binding, Some(&zone('a')), &[("team", &team)]);
        let _ = worker.lookup_now(&service, asks, None, 1);
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    while total_faults(&host) < TEAMS as u64 {
        assert!(Instant::now() < deadline, "{:?}", host.stats());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    time_until(&host, &mut worker, &healthy(0, 6, &binding), nobody).await;
    let before = total_faults(&host);
    for _ in 0..20 {
        time_until(&host, &mut worker, &healthy(0, 6, &binding), nobody).await;
    }
    // Its rest may end in between; tried at every change, it would have failed 20 times.
    let after = total_faults(&host);
    assert!(after < before + 20, "it was tried again at every change: {after} faults after {before}");
}

#[tokio::test]
async fn the_budget_of_the_cache_holds() {
    const BUDGET: usize = 2 << 20;
    let host = host(BUDGET);
    let module = Guest::to_endpoint(1).build();
    add(&host, &module);
    let binding = effective(bound("mine", &module, ""), vec![]);
    let services: Vec<_> = (0..200).map(|slot| healthy(slot, 6, &binding)).collect();
    let mut worker = host.worker();
    let caller = caller_in(&mut worker, &services[0], 'a');
    for service in &services {
        warm(&mut worker, service, caller).await;
        assert!(host.stats().cache_bytes <= BUDGET as u64, "{:?}", host.stats());
    }
    let stats = host.stats();
    assert!(stats.evictions > 0, "{stats:?}");
    assert!(stats.cells < 200, "{stats:?}");
    // What was evicted is prepared again when it is asked for.
    until(&mut worker, &services[0], caller, |routed| routed.view.outcome == Outcome::Ok).await;
}

#[tokio::test]
async fn callers_beyond_the_bound_are_forgotten() {
    let host = host(64 << 20);
    let service = healthy(0, 6, &effective(Host::built_in(), vec![]));
    let mut worker = host.worker();
    for n in 0..MAX_VIEWS + 40 {
        let team = format!("team-{n}");
        let labels = [("team", team.as_str()), ("unheard-of", "x")];
        let caller = worker.caller(&service.region, &service.binding, Some(&zone('a')), &labels);
        let _ = worker.lookup_now(&service, caller, None, 1);
    }
    let last = worker.caller(&service.region, &service.binding, None, &[("team", "last")]);
    warm(&mut worker, &service, last).await;
    let stats = host.stats();
    assert!(stats.views <= MAX_VIEWS as u64, "{stats:?}");
    assert!(stats.forgotten_callers > 0, "{stats:?}");
    // Labels that the binding does not let through make no callers.
    let (one, two) = ([("unheard-of", "1")], [("unheard-of", "2")]);
    let one = worker.caller(&service.region, &service.binding, None, &one);
    assert_eq!(one, worker.caller(&service.region, &service.binding, None, &two));
}

#[test]
fn no_pick_is_ineligible_while_the_service_changes() {
    let host = host(64 << 20);
    let binding = effective(Host::built_in(), vec![]);
    let statuses = |round: u64| {
        move |n: usize| match mix(round * 64 + n as u64) % 4 {
            0 => Status::Unhealthy,
            1 => Status::Draining,
            _ => Status::Healthy,
        }
    };
    let current = Mutex::new(snapshot(0, endpoints(20, statuses(0)), &binding));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1..3_000u64 {
                // Endpoints come and go too, so positions move.
                let mut all = endpoints(24, statuses(round));
                all.remove((mix(round) % 24) as usize);
                let next = snapshot(0, all, &binding);
                *current.lock().unwrap() = Arc::clone(&next);
                host.published(&next);
                std::thread::sleep(Duration::from_micros(300));
            }
            stop.store(true, Ordering::Relaxed);
        });
        let mut worker = host.worker();
        let (mut seed, mut ok, mut older) = (0u64, 0u64, 0u64);
        while !stop.load(Ordering::Relaxed) {
            seed += 1;
            let now = Arc::clone(&current.lock().unwrap());
            let caller = caller_in(&mut worker, &now, 'a');
            let key = (seed % 3 == 0).then(|| mix(seed));
            let routed = worker.lookup_now(&now, caller, key, seed);
            ok += u64::from(routed.view.outcome == Outcome::Ok);
            older += u64::from(routed.view.snapshot.serial < now.serial);
            match routed.pick(&now) {
                Pick::Endpoint(picked) => assert!(now.is_eligible(picked.position)),
                Pick::NothingEligible => assert_eq!(now.eligible_count(), 0),
                Pick::Refused => panic!("nobody refuses"),
            }
            if seed % 16 == 0
                && let Picks::Endpoints(many) = routed.pick_many(&now, 5)
            {
                let mut positions: Vec<u32> = many.iter().map(|p| p.position).collect();
                assert!(positions.iter().all(|at| now.is_eligible(*at)));
                positions.sort_unstable();
                positions.dedup();
                assert_eq!(positions.len(), many.len(), "distinct");
            }
        }
        assert!(ok > 0, "the policy answered");
        assert!(older > 0, "older views answered too");
    });
}

#[tokio::test]
async fn a_worker_that_sleeps_is_not_buried_in_mail() {
    let host = host(64 << 20);
    let binding = effective(Host::built_in(), vec![]);
    let mut worker = host.worker();
    let mut service = healthy(0, 6, &binding);
    let caller = caller_in(&mut worker, &service, 'a');
    warm(&mut worker, &service, caller).await;
    let deadline = Instant::now() + Duration::from_secs(60);
    while host.stats().undelivered == 0 {
        assert!(Instant::now() < deadline, "{:?}", host.stats());
        service = healthy(0, 6, &binding);
        host.published(&service);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let newest = service.serial;
    until(&mut worker, &service, caller, |routed| routed.view.snapshot.serial == newest).await;
}

#[tokio::test]
async fn evaluations_are_for_exactly_the_snapshot_and_agree_with_lookups() {
    let host = host(64 << 20);
    // The plan is the parity of the entropy.
    let route = "(i32.wrap_i64 (i64.and (local.get $entropy) (i64.const 1)))";
    let halves = vec![(5_000, vec![vec![(0, 1)]]), (5_000, vec![vec![(1, 1)]])];
    let module = Guest { routes_to: route.into(), ..Guest::answering(halves) }.build();
    add(&host, &module);
    let binding = effective(bound("mine", &module, ""), vec![]);
    let (old, new) = (healthy(0, 6, &binding), healthy(0, 6, &binding));
    let mut worker = host.worker();
    let caller = caller_in(&mut worker, &new, 'a');
    warm(&mut worker, &new, caller).await;
    for service in [&old, &new] {
        for key in [1, 2, 3, 4, 0xdead_beef] {
            let asks = Caller::in_zone(region(), Some(zone('a')));
            let evaluation = evaluated(&host, service, &asks, Some(key)).await;
            assert_eq!(evaluation.view.snapshot.serial, service.serial);
            assert_eq!(evaluation.view.outcome, Outcome::Ok);
            assert_eq!(evaluation.plan, Some((Words::of(key).route & 1) as usize));
            let Lookup::Routed(routed) = worker.lookup(&new, caller, Some(key), 0) else { panic!("cold") };
            assert_eq!(Some(routed.plan), evaluation.plan);
        }
        let asks = Caller::in_zone(region(), None);
        let evaluation = evaluated(&host, service, &asks, None).await;
        assert_eq!((evaluation.view.snapshot.serial, evaluation.plan), (service.serial, None));
    }
}

#[tokio::test]
async fn the_gate_names_what_is_wrong() {
    let host = host(64 << 20);
    let truncated = &STANDARD[0].module[..STANDARD[0].module.len() / 2];
    let imports = wat::parse_str(r#"(component (import "now" (func (result u64))))"#).unwrap();
    let empty = wat::parse_str("(component)").unwrap();
    let core = wat::parse_str("(module)").unwrap();
    let traps = Guest { routes_to: "unreachable".into(), ..Guest::to_endpoint(0) }.build();
    let many =
        wat::parse_str(r#"(component (core module $m (memory 257)) (core instance (instantiate $m)))"#)
            .unwrap();
    let large = vec![0; (8 << 20) + 1];
    let cases: [(&[u8], &str); 9] = [
        (b"", "not-a-component"),
        (b"<html>", "not-a-component"),
        (&core, "not-a-component"),
        (truncated, "does-not-compile"),
        (&imports, "has-imports"),
        (&empty, "wrong-world"),
        (&many, "wrong-world"),
        (&traps, "trial-failed"),
        (&large, "module-too-large"),
    ];
    for (module, code) in cases {
        let rejected = host.check(module).unwrap_err();
        assert_eq!(rejected.code, code, "{rejected}");
        assert!(!rejected.detail.is_empty());
    }
    assert_eq!(host.stats().rejected.iter().map(|(_, n)| n).sum::<u64>(), 9);
}
