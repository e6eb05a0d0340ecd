//! What a lookup costs inside the process, by policy, number of endpoints and number of services.
//!
//! `native alias pick` is the base of all ratios: the choice among prepared endpoints without any policy. After the
//! timings a table of memory and preparation is printed. Read the ratios; the nanoseconds belong to the machine.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "unwrap in tests is the assertion itself, in their helpers too"
)]
#![allow(unreachable_pub, reason = "shared by several test binaries, none of which exports anything")]

#[path = "../tests/support/mod.rs"]
mod support;

use criterion::{Criterion, criterion_group, criterion_main};
use meridian_model::binding::{Bound, Effective};
use meridian_model::locality;
use meridian_model::plan::ReadyPlan;
use meridian_model::selection::{self, Words, mix};
use meridian_model::snapshot::Snapshot;
use meridian_policies::{CallerId, Host, HostConfig, Lookup, Pick, STANDARD, Worker};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;
use support::guests::Guest;
use support::{bound, effective, healthy, zone};

fn host() -> Arc<Host> {
    let host = Host::start(HostConfig { router_cache_bytes: 1 << 30, ..HostConfig::default() }).unwrap();
    for standard in &STANDARD {
        host.load_standard(standard).unwrap();
    }
    host
}

fn standard(name: &str, config: &str) -> Arc<Effective> {
    let standard = STANDARD.iter().find(|s| s.name == name).unwrap();
    effective(bound(standard.name, standard.module, config), vec![])
}

/// Prepares all services for one caller and takes them over.
fn warm(worker: &mut Worker, services: &[Arc<Snapshot>], caller: CallerId) {
    let deadline = Instant::now() + std::time::Duration::from_secs(60);
    let mut cold: Vec<&Arc<Snapshot>> = services.iter().collect();
    while !cold.is_empty() && Instant::now() < deadline {
        cold.retain(|service| match worker.lookup(service, caller, None, 1) {
            Lookup::Routed(routed) => routed.view.outcome.reason() == Some(meridian_policies::WARMING),
            Lookup::Cold(_) => true,
        });
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    assert!(cold.is_empty(), "{} services are still cold", cold.len());
    // Compaction and late deliveries.
    std::thread::sleep(std::time::Duration::from_millis(300));
    worker.tend();
}

fn look(worker: &mut Worker, service: &Arc<Snapshot>, caller: CallerId, key: Option<u64>, seed: u64) -> u32 {
    match worker.lookup(service, caller, key, seed) {
        Lookup::Routed(routed) => match routed.pick(service) {
            Pick::Endpoint(picked) => picked.position,
            _ => u32::MAX,
        },
        Lookup::Cold(_) => u32::MAX,
    }
}

fn lookups(c: &mut Criterion) {
    let host = host();
    let mut worker = host.worker();
    let zone_a = zone('a');
    let mut group = c.benchmark_group("lookup");

    let service = healthy(0, 20, &standard("zone-fallback", ""));
    let plans = locality::fallback(&service, Some(&zone_a));
    let ReadyPlan::Tiers(tiers) = &plans.plans[0] else { panic!("no tiers") };
    let mut seed = 0u64;
    group.bench_function("native alias pick/20", |b| {
        b.iter(|| {
            seed += 1;
            selection::draw(&tiers[0], Words::of(seed).pick, |_| true)
        });
    });

    let mut slot = 1;
    let canary = r#"{"percent": 10}"#;
    for (name, config, counts) in [
        ("zone-fallback", "", &[20, 500, 3_000, 5_000][..]),
        ("canary", canary, &[20]),
        ("weighted", "", &[20]),
    ] {
        for count in counts {
            let service = healthy(slot, *count, &standard(name, config));
            slot += 1;
            let caller = worker.caller(&service.region, &service.binding, Some(&zone_a), &[]);
            warm(&mut worker, std::slice::from_ref(&service), caller);
            if let Lookup::Routed(routed) = worker.lookup(&service, caller, None, 1)
                && let Some(reason) = routed.view.outcome.reason()
            {
                println!("{name}/{count}: not measured, the native fallback answers: {reason}");
                continue;
            }
            group.bench_function(format!("{name}/{count}"), |b| {
                b.iter(|| {
                    seed += 1;
                    look(&mut worker, &service, caller, None, seed)
                });
            });
            if *count == 20 {
                group.bench_function(format!("{name}/{count}, key"), |b| {
                    b.iter(|| {
                        seed += 1;
                        look(&mut worker, &service, caller, Some(mix(seed)), seed)
                    });
                });
            }
        }
    }
    group.bench_function("caller/zone", |b| {
        b.iter(|| worker.caller(&service.region, &service.binding, Some(black_box(&zone_a)), &[]));
    });
    group.bench_function("caller/zone and label", |b| {
        let labels = [("team", "inventory"), ("other", "x")];
        b.iter(|| worker.caller(&service.region, &service.binding, Some(black_box(&zone_a)), &labels));
    });
    group.finish();
}

/// 5,000 services of 20 endpoints, uniformly: every lookup finds its data in no cache.
fn services(c: &mut Criterion) {
    const SERVICES: u32 = 5_000;
    let host = host();
    let mut workers = [host.worker(), host.worker()];
    let binding = standard("zone-fallback", "");
    let bare = resident_kib();
    let services: Vec<Arc<Snapshot>> = (0..SERVICES).map(|slot| healthy(slot, 20, &binding)).collect();
    let before = resident_kib();
    let begun = Instant::now();
    for worker in &mut workers {
        let caller = worker.caller(&services[0].region, &binding, Some(&zone('a')), &[]);
        warm(worker, &services, caller);
    }
    println!("5,000 services: prepared for 2 workers in {:?}", begun.elapsed());
    println!(
        "5,000 services: snapshots {} KiB, routers and views {} KiB",
        before - bare,
        resident_kib() - before
    );
    println!("5,000 services: {:?}", host.stats());
    let mut seed = 0u64;
    let mut group = c.benchmark_group("5,000 services");
    for letter in ['a', 'b'] {
        let caller = workers[0].caller(&services[0].region, &binding, Some(&zone(letter)), &[]);
        warm(&mut workers[0], &services, caller);
        println!("5,000 services: {} KiB with zone {letter} too", resident_kib() - before);
    }
    let worker = &mut workers[0];
    let caller = worker.caller(&services[0].region, &binding, Some(&zone('a')), &[]);
    group.bench_function("zone-fallback/20, uniform", |b| {
        b.iter(|| {
            seed += 1;
            let service = &services[(mix(seed) % u64::from(SERVICES)) as usize];
            look(worker, service, caller, None, seed)
        });
    });
    group.bench_function("zone-fallback/20, hot", |b| {
        b.iter(|| {
            seed += 1;
            look(worker, &services[17], caller, None, seed)
        });
    });
    group.finish();
    let stats = host.stats();
    println!(
        "after compaction: {} cells, estimate {} KiB, resident {} KiB",
        stats.cells,
        stats.cache_bytes / 1024,
        resident_kib() - before
    );
}

/// Uploaded policies: a cell for each service.
fn uploaded(c: &mut Criterion) {
    const SERVICES: u32 = 500;
    let host = host();
    let mut worker = host.worker();
    // Other bytes, so that it is not the standard policy any more: a custom section at the end.
    let mut module = STANDARD[0].module.to_vec();
    module.extend([0, 3, 1, b'x', 0]);
    let begun = Instant::now();
    let (compiled, report) = host.check(&module).unwrap();
    println!("gate: {report:?} in {:?}", begun.elapsed());
    let active = Bound { policy: "mine".parse().unwrap(), version: compiled.version(), config: "".into() };
    host.insert(compiled).unwrap();
    let binding = effective(active, vec![]);
    let services: Vec<_> = (0..SERVICES).map(|slot| healthy(slot, 20, &binding)).collect();
    let before = resident_kib();
    let caller = worker.caller(&services[0].region, &binding, Some(&zone('a')), &[]);
    warm(&mut worker, &services, caller);
    let stats = host.stats();
    println!(
        "{SERVICES} uploaded: {} KiB resident, estimate {} KiB, preparation {} µs each",
        resident_kib() - before,
        stats.cache_bytes / 1024,
        stats.preparation_micros / stats.preparations.max(1),
    );
    let small = Guest::to_endpoint(0).build();
    let begun = Instant::now();
    host.check(&small).unwrap();
    println!("gate: {} bytes in {:?}", small.len(), begun.elapsed());
    let mut seed = 0u64;
    c.bench_function("500 uploaded/20, uniform", |b| {
        b.iter(|| {
            seed += 1;
            let service = &services[(mix(seed) % u64::from(SERVICES)) as usize];
            look(&mut worker, service, caller, None, seed)
        });
    });
}

/// Resident memory of this process. Zero where the system does not tell.
fn resident_kib() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(30).measurement_time(std::time::Duration::from_secs(2)).warm_up_time(std::time::Duration::from_millis(500));
    targets = lookups, services, uploaded
}
criterion_main!(benches);
