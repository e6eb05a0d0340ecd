//! Calls of policies that do whatever a word of chance tells them: none ends the host, none gives a pick that may not be,
//! and memory stays bounded.
//!
//! 100,000 calls; `MERIDIAN_HOSTILE_CALLS` asks for more, and `MERIDIAN_SEED` for others.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "unwrap in tests is the assertion itself, in their helpers too"
)]
#![allow(unreachable_pub, reason = "shared by several test binaries, none of which exports anything")]

mod support;

use meridian_model::caller::Caller;
use meridian_model::plan::ReadyPlan;
use meridian_model::selection::mix;
use meridian_model::status::Status;
use meridian_policies::{Host, HostConfig, Lookup, Outcome, Pick};
use std::collections::BTreeMap;
use std::sync::Arc;
use support::guests::{Guest, component};
use support::{bound, caller_in, effective, endpoints, healthy, region, snapshot, warm};

const CALLS: u64 = 100_000;
/// What the process may grow by while they are made: the library, the caches at their bounds, what allocators keep.
const MOST_GROWN: u64 = 256 << 20;
/// Trials between two looks at the memory.
const STRIDE: u64 = 1_000;
/// Services' endpoints.
const ENDPOINTS: usize = 6;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name}: {text}")))
}

/// Resident bytes of this process; nothing where the system does not tell.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib << 10)
}

/// A guest that takes its seed from the config, and draws from it what each function does: answer, trap in one of several
/// ways, write rubbish where the answer should be, use up its fuel (rarely, since that takes long), grow, recurse.
///
/// Its memory from 4096 to 8192 is filled with drawn words, mostly small ones; lists point into it.
const CHAOS: &str = r#"module $core
  (import "host" "new-router" (func $new-router (param i32) (result i32)))
  (import "host" "new-view" (func $new-view (param i32) (result i32)))
  (memory (export "memory") 2)
  (global $heap (mut i32) (i32.const 16384))
  (global $seed (mut i64) (i64.const 1))
  (table 4 funcref)
  (type $nothing (func))
  (func $deeper (call $deeper) (drop (i32.load (i32.const 0))))
  ;; Xorshift64* (Vigna 2014).
  (func $draw (result i64)
    (global.set $seed (i64.xor (global.get $seed) (i64.shr_u (global.get $seed) (i64.const 12))))
    (global.set $seed (i64.xor (global.get $seed) (i64.shl (global.get $seed) (i64.const 25))))
    (global.set $seed (i64.xor (global.get $seed) (i64.shr_u (global.get $seed) (i64.const 27))))
    (i64.mul (global.get $seed) (i64.const 0x2545f4914f6cdd1d)))
  (func $below (param $bound i32) (result i32)
    (i32.wrap_i64 (i64.rem_u (i64.shr_u (call $draw) (i64.const 8)) (i64.extend_i32_u (local.get $bound)))))
  (func $word (result i32)
    (local $kind i32)
    (local.set $kind (call $below (i32.const 8)))
    (if (i32.lt_u (local.get $kind) (i32.const 5)) (then (return (call $below (i32.const 8)))))
    (if (i32.eq (local.get $kind) (i32.const 5)) (then
      (return (i32.add (i32.const 4096) (i32.mul (i32.const 4) (call $below (i32.const 1024)))))))
    (if (i32.eq (local.get $kind) (i32.const 6)) (then (return (i32.const 10000))))
    (i32.wrap_i64 (call $draw)))
  (func $scribble
    (local $at i32)
    (local.set $at (i32.const 4096))
    (loop $next
      (i32.store (local.get $at) (call $word))
      (local.set $at (i32.add (local.get $at) (i32.const 4)))
      (br_if $next (i32.lt_u (local.get $at) (i32.const 8192)))))
  ;; One call in `of` goes wrong.
  (func $perhaps (param $of i32)
    (local $what i32)
    (if (call $below (local.get $of)) (then (return)))
    (local.set $what (call $below (i32.const 12)))
    (if (i32.eq (local.get $what) (i32.const 0)) (then unreachable))
    (if (i32.eq (local.get $what) (i32.const 1)) (then (drop (i32.div_u (i32.const 1) (i32.const 0)))))
    (if (i32.eq (local.get $what) (i32.const 2)) (then (drop (i32.load (i32.const -4)))))
    (if (i32.eq (local.get $what) (i32.const 3)) (then (call_indirect (type $nothing) (call $below (i32.const 8)))))
    (if (i32.eq (local.get $what) (i32.const 4)) (then (call $deeper)))
    (if (i32.eq (local.get $what) (i32.const 5)) (then (drop (memory.grow (call $below (i32.const 400))))))
    (if (i32.eq (local.get $what) (i32.const 6)) (then (memory.fill (i32.const 0) (i32.const 255) (i32.const 0x40000000))))
    (if (i32.eq (local.get $what) (i32.const 7)) (then (memory.fill (i32.const 0) (call $word) (i32.const 8192))))
    (if (i32.eq (local.get $what) (i32.const 8)) (then (drop (i32.trunc_f32_s (f32.const nan)))))
    (if (i32.eq (local.get $what) (i32.const 9)) (then (global.set $heap (call $word))))
    (if (i32.eq (local.get $what) (i32.const 10)) (then (drop (call $new-view (call $word)))))
    ;; Fifty million instructions take a while.
    (if (i32.eq (local.get $what) (i32.const 11)) (then
      (if (i32.eqz (call $below (i32.const 200))) (then (loop $forever (br $forever)))))))
  (func (export "cabi_realloc") (param $old i32) (param $size i32) (param $align i32) (param $new i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and
      (i32.add (global.get $heap) (i32.sub (local.get $align) (i32.const 1)))
      (i32.sub (i32.const 0) (local.get $align))))
    (global.set $heap (i32.add (local.get $at) (local.get $new)))
    (local.get $at))
  (func (export "open") (param $args i32) (result i32)
    (local $at i32) (local $end i32)
    ;; The seed is the hash of the config's bytes (FNV-1a).
    (local.set $at (i32.load (local.get $args)))
    (local.set $end (i32.add (local.get $at) (i32.load offset=4 (local.get $args))))
    (global.set $seed (i64.const 0xcbf29ce484222325))
    (block $done (loop $next
      (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
      (global.set $seed (i64.mul (i64.const 0x100000001b3)
        (i64.xor (global.get $seed) (i64.load8_u (local.get $at)))))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br $next)))
    (call $perhaps (i32.const 8))
    (call $scribble)
    (i32.store (i32.const 64) (i32.const 0))
    (i32.store offset=4 (i32.const 64) (call $new-router (call $word)))
    (if (i32.eqz (call $below (i32.const 16))) (then (i32.store (i32.const 64) (call $word))))
    (if (i32.eqz (call $below (i32.const 32))) (then (i32.store offset=4 (i32.const 64) (call $word))))
    (if (i32.eqz (call $below (i32.const 32))) (then (return (call $word))))
    (i32.const 64))
  (func (export "admit")
    (param $self i32) (param $region i32) (param $region-len i32) (param $zone i32) (param $zone-len i32)
    (param $labels i32) (param $labels-len i32) (result i32)
    (call $perhaps (i32.const 8))
    (i32.store (i32.const 64) (i32.const 0))
    (i32.store offset=4 (i32.const 64) (call $new-view (call $word)))
    (if (i32.eqz (call $below (i32.const 16))) (then (i32.store (i32.const 64) (call $word))))
    (if (i32.eqz (call $below (i32.const 32))) (then (i32.store offset=4 (i32.const 64) (call $word))))
    (i32.const 64))
  ;; A list of plans with drawn lengths: each plan of drawn tiers, each tier of drawn choices. Now and then a drawn word
  ;; stands where something else should.
  (func (export "plans") (param $self i32) (result i32)
    (local $plans i32) (local $tiers i32) (local $choices i32) (local $at i32) (local $plan i32) (local $n i32)
    (call $perhaps (i32.const 8))
    (local.set $plans (call $below (i32.const 4)))
    (local.set $plan (i32.const 8192))
    (i32.store (i32.const 128) (local.get $plan))
    (i32.store (i32.const 132) (local.get $plans))
    (block $done (loop $next
      (br_if $done (i32.eq (local.get $n) (local.get $plans)))
      (local.set $tiers (i32.add (i32.const 8704) (i32.mul (local.get $n) (i32.const 512))))
      (local.set $choices (i32.add (i32.const 12288) (i32.mul (local.get $n) (i32.const 512))))
      ;; The shares are right if the last one takes what is left.
      (i32.store (local.get $plan) (select (i32.const 5000) (i32.const 10000) (i32.gt_u (local.get $plans) (i32.const 1))))
      (if (i32.gt_u (local.get $n) (i32.const 1)) (then (i32.store (local.get $plan) (i32.const 0))))
      (i32.store offset=4 (local.get $plan) (local.get $tiers))
      (i32.store offset=8 (local.get $plan) (call $below (i32.const 3)))
      (i32.store (local.get $tiers) (local.get $choices))
      (i32.store offset=4 (local.get $tiers) (call $below (i32.const 4)))
      (i32.store offset=8 (local.get $tiers) (i32.const 4096))
      (i32.store offset=12 (local.get $tiers) (i32.const 0))
      (i32.store offset=16 (local.get $tiers) (local.get $choices))
      (i32.store offset=20 (local.get $tiers) (call $below (i32.const 2)))
      (i32.store offset=24 (local.get $tiers) (i32.const 4096))
      (i32.store offset=28 (local.get $tiers) (call $below (i32.const 64)))
      ;; Endpoints one after the other, or drawn.
      (local.set $at (i32.const 0))
      (loop $choice
        (i32.store (i32.add (local.get $choices) (i32.mul (local.get $at) (i32.const 20))) (i32.const 0))
        (i32.store offset=4 (i32.add (local.get $choices) (i32.mul (local.get $at) (i32.const 20))) (local.get $at))
        (i32.store offset=16 (i32.add (local.get $choices) (i32.mul (local.get $at) (i32.const 20))) (call $word))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br_if $choice (i32.lt_u (local.get $at) (i32.const 4))))
      (local.set $plan (i32.add (local.get $plan) (i32.const 12)))
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br $next)))
    ;; Up to three words of all this are others.
    (local.set $n (call $below (i32.const 6)))
    (block $enough (loop $spoil
      (br_if $enough (i32.le_s (local.get $n) (i32.const 2)))
      (i32.store (i32.add (i32.const 8192) (i32.mul (i32.const 4) (call $below (i32.const 140)))) (call $word))
      (local.set $n (i32.sub (local.get $n) (i32.const 1)))
      (br $spoil)))
    (if (i32.eqz (call $below (i32.const 64))) (then (i32.store (i32.const 128) (call $word))))
    (if (i32.eqz (call $below (i32.const 64))) (then (i32.store (i32.const 132) (call $word))))
    (if (i32.eqz (call $below (i32.const 128))) (then (return (call $word))))
    (i32.const 128))
  (func (export "route")
    (param $self i32) (param $key i64) (param $entropy i64) (result i32)
    (call $perhaps (i32.const 16))
    (call $below (i32.const 3)))
"#;

/// A binding of the guest as if another gateway had let it in: the gate of this one would not.
fn loaded(host: &Host, module: &[u8]) {
    host.load(module).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_ends_the_host_and_memory_stays_bounded() {
    let calls = number("MERIDIAN_HOSTILE_CALLS", CALLS);
    let seed = number("MERIDIAN_SEED", 1);
    let host = Host::start(HostConfig::default()).unwrap();
    let module = component(CHAOS);
    loaded(&host, &module);
    let statuses = |n: usize| if n == 3 { Status::Unhealthy } else { Status::Healthy };
    let all = endpoints(ENDPOINTS, statuses);
    let mut outcomes: BTreeMap<String, u64> = BTreeMap::new();
    let mut first = None;
    let (mut made, mut trial) = (0, 0);
    while made < calls {
        trial += 1;
        let config = format!("{{\"seed\":{}}}", mix(seed.wrapping_mul(0x9e37_79b9).wrapping_add(trial)));
        let service = snapshot(0, all.clone(), &effective(bound("chaos", &module, &config), vec![]));
        let caller = Caller::in_zone(region(), None);
        let evaluation = host.try_out(Arc::clone(&service), caller, Some(mix(trial) | 1)).await;
        let view = &evaluation.view;
        let word = match &view.outcome {
            Outcome::Ok => "ok",
            other => other.reason().unwrap().split(':').next().unwrap(),
        };
        *outcomes.entry(word.to_owned()).or_default() += 1;
        // `open`, `admit`, `plans`, `route`: as many as there were at least. What trapped may have come further than `open`.
        made += match word {
            "ok" | "route" => 4,
            "plans" => 3,
            "admit" => 2,
            _ => 1,
        };
        assert!(evaluation.plan.is_none_or(|plan| plan < view.plans.plans.len()));
        for plan in &view.plans.plans {
            let ReadyPlan::Tiers(tiers) = plan else { continue };
            assert!(!tiers.is_empty());
            for at in tiers.iter().flat_map(|tier| &tier.endpoints) {
                assert!(service.is_eligible(*at), "{at} may not receive traffic");
            }
        }
        if trial % STRIDE == 0
            && let Some(now) = resident()
        {
            let before = *first.get_or_insert(now);
            assert!(now < before + MOST_GROWN, "from {before} to {now} bytes after {trial} trials");
        }
    }
    println!(
        "{made} calls in {trial} trials: {outcomes:?}; {:?} bytes resident at first, {:?} in the end",
        first,
        resident()
    );
    // The chance is what it was meant to be: it answers, and fails in all ways.
    for word in ["ok", "trap", "plans", "memory", "stack", "open", "admit", "route"] {
        assert!(outcomes.contains_key(word), "nothing came to {word}: {outcomes:?}");
    }
    assert!(!outcomes.contains_key("warming"), "{outcomes:?}");
}

/// The same guest behind lookups: whatever it does, each lookup is answered with somebody who may receive traffic.
#[tokio::test]
async fn lookups_are_answered_whatever_the_policy_does() {
    let host = Host::start(HostConfig::default()).unwrap();
    let module = component(CHAOS);
    loaded(&host, &module);
    let mut worker = host.worker();
    let services: Vec<_> = (0..64)
        .map(|slot| {
            let config = format!("{{\"seed\":{}}}", mix(u64::from(slot)));
            healthy(slot, ENDPOINTS, &effective(bound("chaos", &module, &config), vec![]))
        })
        .collect();
    let caller = caller_in(&mut worker, &services[0], 'a');
    for service in &services {
        warm(&mut worker, service, caller).await;
    }
    let (mut given, mut refused) = (0u64, 0u64);
    for n in 0..CALLS {
        let service = &services[(n % 64) as usize];
        let routed = worker.lookup_now(service, caller, (n % 2 == 0).then(|| mix(n)), mix(n + 1));
        match routed.pick(service) {
            Pick::Endpoint(picked) => {
                assert!(service.is_eligible(picked.position));
                given += 1;
            }
            // An empty plan is how a policy refuses.
            Pick::Refused => refused += 1,
            Pick::NothingEligible => panic!("everything is healthy"),
        }
        if n % 1_000 == 0 {
            tokio::task::yield_now().await;
        }
    }
    assert!(given > refused, "{given} given, {refused} refused");
    let faults: u64 = host.stats().faults.iter().map(|(_, n)| n).sum();
    assert!(faults > 0, "nothing went wrong");
}

/// What goes wrong after a million calls was never seen by the gate.
#[tokio::test]
async fn good_for_a_million_calls_and_then_bad() {
    const GOOD: u64 = 1_000_000;
    let host = Host::start(HostConfig::default()).unwrap();
    let route = format!("(if (i32.gt_u (global.get $calls) (i32.const {GOOD})) (then unreachable))");
    let module = Guest { route, ..Guest::to_endpoint(0) }.build();
    host.insert(host.check(&module).unwrap().0).unwrap();
    let service = healthy(0, ENDPOINTS, &effective(bound("patient", &module, "{}"), vec![]));
    let mut worker = host.worker();
    let caller = caller_in(&mut worker, &service, 'a');
    warm(&mut worker, &service, caller).await;
    // Twice as often: where it was prepared a second time, its count began anew.
    for n in 0..=2 * GOOD {
        let Lookup::Routed(routed) = worker.lookup(&service, caller, None, n) else { panic!("cold") };
        if routed.view.outcome != Outcome::Ok {
            assert!(n > GOOD - 1_000, "it failed at lookup {n}");
            assert_eq!(routed.view.outcome.reason(), Some("trap: unreachable"));
            assert!(matches!(routed.pick(&service), Pick::Endpoint(_)), "the lookup itself was answered");
            return;
        }
    }
    panic!("it never failed");
}

/// Damaged modules: the gate refuses them or lets in a policy that keeps the contract, and never ends itself.
#[test]
fn no_damaged_module_ends_the_gate() {
    let host = Host::start(HostConfig::default()).unwrap();
    let module = Guest::to_endpoint(0).build();
    let (mut refused, mut let_in) = (0, 0);
    for n in 0..300u64 {
        let mut damaged = module.clone();
        for flip in 0..=mix(n) % 3 {
            let at = (mix(n * 8 + flip + 1) % damaged.len() as u64) as usize;
            damaged[at] ^= 1 << (mix(n * 8 + flip + 2) % 8);
        }
        if mix(n).is_multiple_of(7) {
            damaged.truncate((mix(n + 3) % damaged.len() as u64) as usize);
        }
        match host.check(&damaged) {
            Ok(_) => let_in += 1,
            Err(rejected) => {
                assert!(!rejected.detail.is_empty());
                refused += 1;
            }
        }
    }
    assert!(refused > 100, "{refused} refused, {let_in} let in");
}
