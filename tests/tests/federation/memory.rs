//! What knowing another region costs a gateway: 5,000 services of 20 instances, as a registry would have them.

use crate::publisher::node;
use crate::world::{AP, EU, REGIONS, certificates, tls};
use meridian_federation::exchange::limits::RECORD_BYTES;
use meridian_federation::exchange::message::{Record, RecordKey};
use meridian_federation::exchange::{Own, OwnChange};
use meridian_federation::record::encode_summary;
use meridian_federation::service::Clock;
use meridian_model::incarnation::Incarnation;
use meridian_model::names::ServiceKey;
use meridian_model::summary::{IdAndHost, Labels, RemoteEndpoint, Subset, Summary};
use meridian_model::time::Monotonic;
use meridian_tests::figures;
use meridian_tests::gateway::{GatewayProcess, embedded};
use meridian_tests::patience::until;
use meridian_tests::tokens::Issuer;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SERVICES: usize = 5_000;
const INSTANCES: usize = 20;
/// For all of it, on two busy cores.
const SYNC: Duration = Duration::from_secs(30);
/// News are saved every two seconds; two of these and what a busy machine adds.
const SAVED: Duration = Duration::from_secs(2 * 2 + 1);

/// A service of 20 instances in two zones and two groups, each with what an owner declares.
fn summary(service: usize) -> Summary {
    let subset = |at: usize, group: &str, healthy: u32| Subset {
        zone: format!("{}{}", REGIONS[EU], ["a", "b"][at]).parse().unwrap(),
        version: "2026.04.18.2".into(),
        group: group.into(),
        healthy,
        total: healthy,
        weight: u64::from(healthy) * 100,
    };
    let endpoint = |n: usize| RemoteEndpoint {
        names: IdAndHost::new(
            &format!("service-{service:04}-7d9c{n:02x}-x{n:03}"),
            &format!("10.{}.{}.{}", service / 250 % 250, service % 250, n + 1),
        ),
        port: 8080,
        weight: 100,
        subset: u16::try_from(n % 2 + 2 * (n / 18)).unwrap(),
        degraded: false,
        labels: Labels {
            tags: ["v2".into(), "http".into()].into(),
            metadata: [("commit", format!("{service:07x}")), ("team", format!("team-{}", service % 40))]
                .map(|(key, value)| (key.into(), value.into()))
                .into(),
        }
        .into(),
    };
    Summary {
        subsets: vec![
            subset(0, "stable", 9),
            subset(1, "stable", 9),
            subset(0, "canary", 1),
            subset(1, "canary", 1),
        ],
        endpoints: (0..INSTANCES).map(endpoint).collect(),
        sampled: false,
        headroom: Some(10_000),
    }
}

fn records() -> Vec<Record> {
    let key = |n: usize| ServiceKey::new("prod".parse().unwrap(), format!("service-{n:04}").parse().unwrap());
    let record =
        |n| Record { key: RecordKey::Service(key(n)), bytes: encode_summary(&summary(n), RECORD_BYTES) };
    (0..SERVICES).map(record).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_of_100_000_instances_costs_a_gateway_so_much() {
    let (issuer, directory, begun) = (Issuer::init(), certificates(), Instant::now());
    let clock: Clock = Arc::new(move || Monotonic(1_000).plus(begun.elapsed()));
    let (eu, eu_address) = node(&directory, EU, None, &clock).await;
    let (_ap, ap_address) = node(&directory, AP, Some((EU, eu_address)), &clock).await;
    let zones = ["ap-south-1a", "ap-south-1b"];
    let gateway = GatewayProcess::of(REGIONS[AP], &zones, &issuer, embedded())
        .with("federation", "nodes", vec![format!("https://{ap_address}")])
        .with("federation", "tls", tls(directory.path(), &format!("{}-gateway", REGIONS[AP])))
        .started()
        .await;
    let say = async |index: u64, records: Vec<Record>| {
        let incarnation = Incarnation { counter: 1, random: 1 };
        let own = Own { incarnation, index, proven: Some(clock()), change: OwnChange::All(records) };
        eu.handle().own(own).await.unwrap();
    };
    let knows = async |services: usize| {
        let answer = gateway.client().get(&format!("/v1/regions/{}", REGIONS[EU])).await;
        answer.status == 200 && answer.json["services"].as_u64() == Some(services as u64)
    };
    let saves = async || figures::one(&gateway.client(), "meridian_federation_saves_total").await;
    say(1, records().into_iter().take(1).collect()).await;
    until("the gateway hears of the region", SYNC, async || knows(1).await).await;
    let before = gateway.resident_kib();
    let all = records();
    let bytes: usize = all.iter().map(|record| record.bytes.len()).sum();
    until("the first service is saved", SYNC, async || saves().await > 0.0).await;
    let first = saves().await;
    say(2, all).await;
    let took = until("the gateway knows all of it", SYNC, async || knows(SERVICES).await).await;
    let cost = || gateway.resident_kib().saturating_sub(before) as f64 / 1024.0;
    let peak = cost();
    // Saved at the latest a moment later, when every service of it can also be looked up; or before this heard that all of it
    // is known, and then no other save follows.
    let (known, so_far) = (Instant::now(), saves().await);
    until("all of it is saved", SYNC, async || {
        let saved = saves().await;
        saved > so_far || saved > first && known.elapsed() > SAVED
    })
    .await;
    let after = cost();
    println!(
        "a region of {SERVICES} services of {INSTANCES} instances, {bytes} bytes of records: known to a gateway of another \
         region after {took:?}, {peak:.1} MiB of its memory then, {after:.1} MiB after it was saved"
    );
    assert!(after <= BOUND_MIB, "{after} MiB of {BOUND_MIB}");
}

/// The goal is 24 MiB; the rest is what an allocator may make of it elsewhere.
const BOUND_MIB: f64 = 27.0;
