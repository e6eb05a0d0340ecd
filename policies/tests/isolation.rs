//! What one policy, service or caller cannot do to others, and the bounds that hold under load.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "unwrap in tests is the assertion itself, in their helpers too"
)]
#![allow(unreachable_pub, reason = "shared by several test binaries, none of which exports anything")]

mod support;

use meridian_model::caller::Caller;
use meridian_model::selection::{Words, mix};
use meridian_model::status::Status;
use meridian_policies::{Host, HostConfig, Lookup, MAX_VIEWS, Outcome, Pick, Picks, STANDARD};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::guests::{Guest, LOOP};
use support::{bound, caller_in, effective, endpoints, healthy, region, snapshot, until, warm, zone};

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
            let evaluation = host.evaluate(Arc::clone(service), asks, Some(key)).await;
            assert_eq!(evaluation.view.snapshot.serial, service.serial);
            assert_eq!(evaluation.view.outcome, Outcome::Ok);
            assert_eq!(evaluation.plan, Some((Words::of(key).route & 1) as usize));
            let Lookup::Routed(routed) = worker.lookup(&new, caller, Some(key), 0) else { panic!("cold") };
            assert_eq!(Some(routed.plan), evaluation.plan);
        }
        let asks = Caller::in_zone(region(), None);
        let evaluation = host.evaluate(Arc::clone(service), asks, None).await;
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
