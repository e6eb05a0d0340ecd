//! Heartbeats are many; what they cost the registry is not.

use crate::world::World;
use meridian_tests::client::{Client, registration};
use meridian_tests::figures;
use serde_json::json;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const SERVICE: &str = "orders-api";
const INSTANCES: usize = 500;
const ROUNDS: usize = 20;
const BEATS: &str = "meridian_heartbeats_total";

/// Puts that etcd has done so far, by its own metrics.
async fn puts(etcd: &Client) -> f64 {
    let text = String::from_utf8(etcd.get("/metrics").await.expect(200).body).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("etcd_mvcc_put_total "));
    let line =
        line.or_else(|| text.lines().find_map(|line| line.strip_prefix("etcd_debugging_mvcc_put_total ")));
    line.expect("etcd counts no puts").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_heartbeats_are_a_few_writes() {
    let world = World::start(1).await;
    let client = world.client();
    let owner = client.bearing(&world.issuer.workload(SERVICE));
    let mut leases = Vec::new();
    for n in 0..INSTANCES {
        let mut body = registration("test-1a", 1_000);
        body["leaseTtlSeconds"] = json!(10);
        let answer = owner.register(SERVICE, &format!("o-{n}"), &body).await.expect(201);
        leases.push(answer["lease"]["id"].as_str().unwrap().to_owned());
    }
    let beats: Vec<_> = leases
        .iter()
        .enumerate()
        .map(|(n, lease)| json!({ "service": SERVICE, "instanceId": format!("o-{n}"), "lease": lease, "load": 1.5 }))
        .collect();
    let beats = json!({ "heartbeats": beats });
    let registry = Client::new(SocketAddr::from(([127, 0, 0, 1], world.etcd.port())));
    let (before, puts) = (figures::one(&client, BEATS).await, puts(&registry).await);
    let began = Instant::now();
    // Over longer than a TTL: a heartbeat that got lost on its way would end a lease.
    let mut tick = tokio::time::interval(Duration::from_millis(600));
    for _ in 0..ROUNDS {
        tick.tick().await;
        let answer = owner.post("/v1/heartbeats", &beats).await.expect(200);
        let results = answer["results"].as_array().unwrap();
        assert_eq!(results.len(), INSTANCES);
        let refused: Vec<_> = results.iter().filter(|result| !result["error"].is_null()).collect();
        assert!(refused.is_empty(), "{} heartbeats were refused, such as {}", refused.len(), refused[0]);
    }
    figures::settles(&client, BEATS, before + (INSTANCES * ROUNDS) as f64).await;
    // As etcd counts them, whoever made them.
    let writes = self::puts(&registry).await - puts;
    let per_thousand = writes * 1_000.0 / (INSTANCES * ROUNDS) as f64;
    println!(
        "{writes} puts for {} heartbeats in {:?}: {per_thousand:.2} per 1,000",
        INSTANCES * ROUNDS,
        began.elapsed()
    );
    assert!(writes >= 1.0, "no heartbeat reached the region");
    assert!(per_thousand <= 5.0, "{per_thousand} puts per 1,000 heartbeats");
    let healthy = client.statuses(SERVICE).await.iter().filter(|(_, status)| status == "healthy").count();
    assert_eq!(healthy, INSTANCES, "instances that beat were expired");
}
