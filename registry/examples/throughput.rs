//! Measures the etcd registry against raw etcd in the same run, and prints ratios:
//! `cargo run --release -p meridian-registry --example throughput --features testing`.

// A measurement that cannot be made ends with its reason.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use bytes::Bytes;
use etcd_client::Client;
use futures::StreamExt;
use meridian_model::instance::LeaseId;
use meridian_model::time::UnixMillis;
use meridian_registry::etcd::EtcdRegistry;
use meridian_registry::testing::RealEtcd;
use meridian_registry::{Change, Committed, Condition, Event, Key, Registry, Write, record};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const CLIENTS: usize = 64;
const SPAN: Duration = Duration::from_secs(4);
const VALUE: usize = 500;

/// Runs `work` from all clients for a while; operations per second.
async fn rate<F: Future<Output = ()> + Send + 'static>(
    work: impl Fn(u64) -> F + Send + Sync + 'static,
) -> f64 {
    let (done, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let work = Arc::new(work);
    let started = Instant::now();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (done, stop, work) = (done.clone(), stop.clone(), work.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    work(done.fetch_add(1, Ordering::Relaxed)).await;
                }
            })
        })
        .collect();
    tokio::time::sleep(SPAN).await;
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    done.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64()
}

fn instance(n: u64) -> Key {
    Key::decode(&format!("state/instances/default/service-{}/i{n}", n % 5000)).unwrap()
}

async fn raw_puts(etcd: &RealEtcd, round: u64) -> f64 {
    let client = Client::connect(etcd.endpoints(), None).await.unwrap();
    rate(move |n| {
        let mut kv = client.kv_client();
        async move {
            kv.put(format!("/raw/{round}/{n}"), vec![b'x'; VALUE], None).await.unwrap();
        }
    })
    .await
}

async fn registrations(registry: &Arc<EtcdRegistry>, round: u64) -> f64 {
    let registry = registry.clone();
    rate(move |n| {
        let registry = registry.clone();
        async move {
            let key = instance(n + round * 10_000_000);
            let entry = Key::History(UnixMillis(1_763_700_000_000 + n), round as u32);
            let value = Bytes::from(vec![b'x'; VALUE]);
            let write = Write {
                conditions: vec![Condition::Absent(key.clone())],
                changes: vec![Change::Put(key, value.clone()), Change::Put(entry, value)],
            };
            assert!(matches!(registry.commit(write).await.unwrap(), Committed::Applied(_)));
        }
    })
    .await
}

/// Seconds of CPU that a process has used.
fn cpu(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let etcd = RealEtcd::start_with(&["--quota-backend-bytes", "8000000000"]);
    let registry = Arc::new(EtcdRegistry::connect(&etcd.config("here")).unwrap());
    registry.claim(None).await.unwrap();

    println!(
        "registrations (1 put + 1 history put of {VALUE} B, conditional), {CLIENTS} clients, against raw puts:"
    );
    // CPU of both processes for each operation says more than the clock where the machine has other work.
    let used = || cpu(std::process::id()) + cpu(etcd.pid().unwrap());
    for round in 0..5 {
        let before = (registry.stats().writes.get(), registry.stats().transactions.get());
        let start = used();
        let raw = raw_puts(&etcd, round).await;
        let between = used();
        let registered = registrations(&registry, round).await;
        let end = used();
        let writes = registry.stats().writes.get() - before.0;
        let transactions = registry.stats().transactions.get() - before.1;
        let each = |rate: f64, cpu: f64| cpu / (rate * SPAN.as_secs_f64()) * 1e6;
        println!(
            "  raw {raw:.0}/s at {:.0} µs of CPU, registrations {registered:.0}/s at {:.0} µs, ratio {:.2}, \
             {:.1} writes per transaction",
            each(raw, between - start),
            each(registered, end - between),
            registered / raw,
            writes as f64 / transactions as f64
        );
    }
    drop(registry);
    drop(etcd);

    let etcd = RealEtcd::start();
    let registry = Arc::new(EtcdRegistry::connect(&etcd.config("here")).unwrap());
    registry.claim(None).await.unwrap();
    let id = "g".parse().unwrap();
    let mut membership = registry.join(id, Bytes::new(), Duration::from_secs(10));
    membership.wait_for(Option::is_some).await.unwrap();
    let id = "g".parse().unwrap();
    let mut watch = registry.watch(None);
    assert!(matches!(watch.recv().await, Some(Event::Reset { .. })));
    let leases: Vec<_> = (0..10_000).map(|n| LeaseId(n * 7919).into()).collect();
    let (own, theirs) = (cpu(std::process::id()), cpu(etcd.pid().unwrap()));
    let mut worst = Duration::ZERO;
    let mut clock = tokio::time::interval(Duration::from_secs(1));
    for _ in 0..10 {
        clock.tick().await;
        let asked = Instant::now();
        registry.publish_beats(&id, record::encode_beats(&leases)).await.unwrap();
        loop {
            if let Event::Changed { changes, .. } = watch.recv().await.unwrap()
                && changes.len() == 1
            {
                break;
            }
        }
        worst = worst.max(asked.elapsed());
    }
    println!(
        "10,000 heartbeats/s as one batch a second: 1 write/s of {} B, publish to watcher at most {worst:?}, \
         CPU of this process {:.1} %, of etcd {:.1} % of a core",
        record::encode_beats(&leases).len(),
        (cpu(std::process::id()) - own) * 10.0,
        (cpu(etcd.pid().unwrap()) - theirs) * 10.0,
    );

    let writes = (0..100_000).step_by(100).map(|start| {
        let changes = (start..start + 100).map(|n| Change::Put(instance(n), Bytes::from(vec![b'x'; VALUE])));
        registry.commit(Write { conditions: vec![], changes: changes.collect() })
    });
    let written = futures::stream::iter(writes).buffer_unordered(16);
    written
        .for_each(async |outcome| assert!(matches!(outcome, Ok(Committed::Applied(_))), "{outcome:?}"))
        .await;
    for _ in 0..3 {
        let asked = Instant::now();
        let mut watch = registry.watch(None);
        let Some(Event::Reset { records, .. }) = watch.recv().await else { panic!("no state") };
        println!("relist of {} records of {VALUE} B: {:?}", records.len(), asked.elapsed());
    }
}
