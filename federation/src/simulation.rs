//! Regions, their nodes and gateways in virtual time, under faults that a seed draws: what the exchange promises is
//! checked at every step, and after healing all hold the same.
//!
//! `MERIDIAN_SEEDS=N` runs N seeds, `MERIDIAN_SEED=n` only that one, both N from n on; `MERIDIAN_TRACE=1` prints what
//! happens.

mod bugs;
mod dice;
mod faults;
mod gateway;
pub(crate) mod keys;
mod lookups;
mod network;
mod oracle;
mod process;
mod registry;
mod rogue;
mod workloads;
mod world;

use crate::planted::bugs::{Bug, plant};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use world::World;

/// What a promise was that did not hold, and when.
type Broken = String;

/// Runs the world of `seed` from its beginning to its end.
fn run(seed: u64, bug: Option<Bug>) -> Result<(), Broken> {
    plant(bug);
    let result = std::panic::catch_unwind(|| World::new(seed).run());
    plant(None);
    result.unwrap_or_else(|_| Err("something panicked; see above".into()))
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} must be a number")))
}

/// The command that shows what happened.
fn replay(seed: u64) -> String {
    let test = "cargo test -p meridian-federation --release simulation::what -- --nocapture";
    format!("MERIDIAN_SEED={seed} MERIDIAN_TRACE=1 {test}")
}

#[test]
fn what_the_exchange_promises_holds() {
    let (seed, seeds) = (number("MERIDIAN_SEED"), number("MERIDIAN_SEEDS"));
    let (first, count) = (seed.unwrap_or(0), seeds.unwrap_or(if seed.is_some() { 1 } else { 1_000 }));
    let next = AtomicU64::new(first);
    let begin = Instant::now();
    let failures = std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        let work = || {
            let mut failures = Vec::new();
            while failures.len() < 3 {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= first + count {
                    break;
                }
                if (seed - first) % 5_000 == 4_999 {
                    println!("{} seeds in {:.0} s", seed - first + 1, begin.elapsed().as_secs_f64());
                }
                if let Err(broken) = run(seed, None) {
                    println!("seed {seed}: {broken}");
                    println!("  {}", replay(seed));
                    failures.push(seed);
                }
            }
            failures
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("a seed panicked")).collect::<Vec<u64>>()
    });
    let count = next.into_inner().min(first + count) - first;
    let seconds = begin.elapsed().as_secs_f64();
    println!("{count} seeds in {seconds:.1} s: {:.0} a minute", count as f64 / seconds * 60.0);
    let [answers, dead] = [&lookups::ANSWERS, &lookups::DEAD].map(|count| count.load(Ordering::Relaxed));
    println!("{answers} answers, of which {dead} name something dead first");
    assert!(failures.is_empty(), "{} seeds broke a promise; see above", failures.len());
}
