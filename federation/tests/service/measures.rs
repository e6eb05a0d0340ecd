//! Numbers of DESIGN 10 on loopback. Bounds stand where the design names them; the rest is printed.

use crate::world::{Process, World, beside, bind, eventually, peers, record, region, service_key};
use bytes::Bytes;
use meridian_federation::exchange::OwnChange;
use meridian_federation::exchange::limits::RECORD_BYTES;
use meridian_federation::record::encode_summary;
use meridian_model::summary::{IdAndHost, Labels, RemoteEndpoint, Subset, Summary};
use std::time::{Duration, Instant};

const SERVICES: usize = 5_000;
const INSTANCES: usize = 20;

/// The record of a service of 20 instances; `salt` is a part of one of them.
fn body(n: usize, salt: usize) -> Bytes {
    let healthy = INSTANCES as u32;
    let subset = Subset {
        zone: "eu-a".parse().unwrap(),
        version: "2026.04.18.2".into(),
        group: "stable".into(),
        healthy,
        total: healthy,
        weight: u64::from(healthy) * 100,
    };
    let endpoint = |at: usize| RemoteEndpoint {
        names: IdAndHost::new(
            &format!("service-{n:05}-7d9c-{at:03}"),
            &format!("10.{}.{}.{at}", n / 250, n % 250),
        ),
        port: 8080,
        weight: 100,
        subset: 0,
        degraded: false,
        labels: Labels {
            tags: ["v2".into()].into(),
            metadata: [("commit".into(), format!("{:07x}", if at == 0 { salt } else { n }).into())].into(),
        }
        .into(),
    };
    let endpoints = (0..INSTANCES).map(endpoint).collect();
    let summary = Summary { subsets: vec![subset], endpoints, sampled: false, headroom: Some(2_000) };
    encode_summary(&summary, RECORD_BYTES)
}

fn full() -> Vec<meridian_federation::exchange::message::Record> {
    (0..SERVICES).map(|n| record(n, body(n, 0))).collect()
}

async fn pair(world: &World) -> (Process, Process) {
    let eu = bind().await;
    let to_eu = peers(&[("eu", eu.address)]);
    let eu = world.start("eu/node/a", Some(eu), Vec::new(), full()).await;
    let us = world.start("us/node/a", None, to_eu, Vec::new()).await;
    (eu, us)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_sync_takes_no_longer_than_the_design_says() {
    let world = World::default();
    let eu = bind().await;
    let address = eu.address;
    let _eu = world.start("eu/node/a", Some(eu), Vec::new(), full()).await;
    let mut took = Vec::new();
    for short in ["us/node/a", "us/node/b", "us/node/c"] {
        let begun = Instant::now();
        let mut us = world.start(short, None, peers(&[("eu", address)]), Vec::new()).await;
        us.until_held("eu", 1).await;
        took.push(begun.elapsed());
        let bytes = us.figure("eu", |f| f.bytes_in.get());
        println!("{bytes} bytes in {:?}, start and handshake included", begun.elapsed());
        assert_eq!(us.changed[&region("eu")].state.len(), SERVICES);
        us.stop().await;
    }
    println!("full syncs of {SERVICES} services of 20 instances: {took:?}");
    // Of the fastest: what is more than that at the others is the machine's.
    assert!(took.iter().min().unwrap() <= &Duration::from_secs(2), "{took:?}");
}

/// 50 changes a second for as long as it is polled.
async fn change(world: &World, eu: &Process, from: u64) {
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    for index in from.. {
        tick.tick().await;
        let n = (index as usize).wrapping_mul(7919) % SERVICES;
        let change = vec![(service_key(n), Some(body(n, index as usize)))];
        eu.say(&world.clock, index, OwnChange::Some(change)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steady_traffic_is_in_proportion_to_what_changes() {
    let world = World::default();
    let (eu, mut us) = pair(&world).await;
    us.until_held("eu", 1).await;
    let bytes = |us: &Process| us.figure("eu", |f| f.bytes_in.get() + f.bytes_out.get());
    let (took, n) = beside(change(&world, &eu, 2), async {
        us.until_held("eu", 50).await;
        let (begun, before) = (Instant::now(), bytes(&us));
        us.until_held("eu", 350).await;
        (begun.elapsed(), bytes(&us) - before)
    })
    .await;
    let rate = n as f64 / took.as_secs_f64();
    println!("a link with {SERVICES} services and 50 changes/s: {rate:.0} bytes/s in both directions");
    // A change is a record of 1.5 KB, a head of 0.9 KB with its certificate, and an acknowledgement.
    assert!(rate < 200_000.0, "{rate}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_known_in_the_other_region_at_once() {
    let world = World::default();
    let (eu, mut us) = pair(&world).await;
    us.until_held("eu", 1).await;
    let mut took = Vec::new();
    for index in 2..302 {
        let n = index as usize % SERVICES;
        let begun = Instant::now();
        eu.say(&world.clock, index, OwnChange::Some(vec![(service_key(n), Some(body(n, index as usize)))]))
            .await;
        us.until_held("eu", index).await;
        took.push(begun.elapsed());
    }
    took.sort();
    let (median, p99) = (took[took.len() / 2], took[took.len() * 99 / 100]);
    println!("propagation from one region's node to another's news: median {median:?}, p99 {p99:?}");
    assert!(p99 <= Duration::from_millis(250), "{p99:?}");
    eventually("still one link", || us.opened("eu") == 1).await;
}
