//! The registry stops, or dies together with the gateway: stale beats none, and says so.

use crate::guests;
use crate::world::World;
use crate::{PACE, SLACK};
use meridian_tests::figures;
use meridian_tests::load::Load;
use meridian_tests::patience::{throughout, until};
use std::time::{Duration, SystemTime};

const SERVICE: &str = "orders-api";
const TTL: u64 = 3;

/// Longer than three leases: without the registry nobody may say that they ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_etcd_costs_no_lookup_no_heartbeat_and_no_lease() {
    let world = World::start(1).await;
    let workloads = world.workloads(&world.addresses(), SERVICE, 6, TTL).await;
    let client = world.client();
    let load = Load::start(&world.addresses(), &format!("/v1/resolve/{SERVICE}"), PACE);
    tokio::time::sleep(Duration::from_secs(2)).await;
    load.report().check();
    // A quiet registry is not old. A busy machine that stands still once is; it is looked at again.
    if load.report().max_age_ms >= 2_500 {
        load.forget_age();
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    let oldest = load.report().max_age_ms;
    assert!(oldest < 2_500, "answers were {oldest} ms old while etcd was well");

    world.etcd.pause();
    let beats = |n: usize| workloads[n].diary().beats;
    let beaten: Vec<u64> = (0..workloads.len()).map(beats).collect();
    tokio::time::sleep(Duration::from_secs(10)).await;
    for (n, before) in beaten.iter().enumerate() {
        let more = beats(n) - before;
        assert!(more >= 7, "{} of 10 heartbeats were taken: {:?}", more, workloads[n].diary());
    }
    let answer = client.resolve(SERVICE, "?n=all").await.expect(200);
    assert_eq!(answer.endpoints().len(), 6, "{}", answer.json);
    assert!(
        answer.number("ageMs") >= 8_000,
        "after 10 s without etcd the answer claims an age of {} ms",
        answer.number("ageMs")
    );
    let ready = client.get("/readyz").await.expect(200);
    assert_eq!(ready["registry"], "lost", "{}", ready.json);
    // A write cannot be had, and says so at once enough.
    let owner = client.bearing(&world.issuer.workload(SERVICE));
    let body = meridian_tests::client::registration("test-1a", 1);
    let register = owner.register(SERVICE, "new", &body);
    let refused = tokio::time::timeout(Duration::from_secs(15), register)
        .await
        .expect("a write hangs while etcd is stopped");
    let _ = refused.refused(503, "registry-unavailable");

    world.etcd.resume();
    until("the answers are current again", Duration::from_secs(10), async || {
        client.get("/readyz").await.expect(200).number("ageMs") < 2_000
    })
    .await;
    throughout("no lease ended", Duration::from_secs(2 * TTL) + SLACK, async || {
        let statuses = client.statuses(SERVICE).await;
        statuses.iter().filter(|(id, status)| id.starts_with("w-") && status == "healthy").count() == 6
    })
    .await;
    for workload in &workloads {
        let diary = workload.diary();
        assert_eq!(diary.registrations, 1, "{} had to register again", workload.id);
        assert!(diary.refused.is_empty(), "{}: {:?}", workload.id, diary.refused);
    }
    let report = load.stop();
    report.check();
    println!("{} lookups, the slowest took {:?}", report.lookups, report.slowest);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_starts_without_its_etcd_serves_from_disk() {
    let mut world = World::start(1).await;
    let workloads = world.workloads(&world.addresses(), SERVICE, 4, 30).await;
    let client = world.client();
    let operator = client.bearing(&world.issuer.operator());
    let version = operator.upload("only-zone", &guests::only_zone('b')).await;
    let _ = operator.bind(SERVICE, "only-zone", &version).await;
    let bound = unix_millis();
    until("the bound policy answers", Duration::from_secs(2), async || {
        client.resolve(SERVICE, "").await.expect(200)["policy"]["version"] == version.as_str()
    })
    .await;
    let known = client.resolve(SERVICE, "?n=all").await.expect(200);
    until("the state is on disk", Duration::from_secs(15), async || {
        figures::one(&client, "meridian_disk_saved_at_milliseconds").await > bound
    })
    .await;

    world.gateways[0].kill();
    world.etcd.stop();
    let killed = SystemTime::now();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let began = std::time::Instant::now();
    world.gateways[0].start().await;
    println!("ready from disk after {:?}", began.elapsed());

    let ready = client.get("/readyz").await.expect(200);
    assert_eq!((&ready["source"], &ready["registry"]), (&"disk".into(), &"lost".into()), "{}", ready.json);
    let away = u64::try_from(killed.elapsed().unwrap().as_millis()).unwrap();
    let answer = client.resolve(SERVICE, "?n=all").await.expect(200);
    // Perhaps not yet by the bound policy, which is being compiled.
    assert!(known.endpoints().iter().all(|id| answer.endpoints().contains(id)), "{}", answer.json);
    assert_eq!(answer["incarnation"], known["incarnation"]);
    assert!(
        answer.number("ageMs") + 100 >= away,
        "{} ms old, but etcd is away for {away} ms",
        answer.number("ageMs")
    );
    until("the policy was kept on disk too", Duration::from_secs(2), async || {
        let answer = client.resolve(SERVICE, "").await.expect(200);
        answer["policy"]["version"] == version.as_str() && answer["policy"]["outcome"] == "ok"
    })
    .await;
    assert_eq!(client.resolve(SERVICE, "?n=all").await.expect(200).endpoints(), known.endpoints());
    let beats: u64 = workloads.iter().map(|w| w.diary().registrations).sum();
    assert_eq!(beats, 4, "an instance was told to register again by a gateway that knows it");

    world.etcd.start_again();
    until("the registry is served again", Duration::from_secs(15), async || {
        let ready = client.get("/readyz").await.expect(200);
        ready["source"] == "registry" && ready["registry"] == "connected"
    })
    .await;
    let answer = client.resolve(SERVICE, "?n=all").await.expect(200);
    assert_eq!((answer.endpoints(), &answer["incarnation"]), (known.endpoints(), &known["incarnation"]));
    let all = client.get(&format!("/v1/namespaces/default/services/{SERVICE}")).await.expect(200);
    assert!(all["items"].as_array().unwrap().iter().all(|item| item["degraded"] == false), "{}", all.json);
}

fn unix_millis() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64() * 1_000.0
}

/// Nothing on disk and no etcd: nobody may take "not loaded" for "not there".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_knows_nothing_says_so() {
    use meridian_tests::gateway::{GatewayProcess, etcd};
    let mut etcd_process = meridian_registry::testing::RealEtcd::start();
    let issuer = meridian_tests::tokens::Issuer::init();
    etcd_process.stop();
    let mut gateway = GatewayProcess::new(&issuer, etcd(&etcd_process.endpoints()));
    gateway.launch().await;
    let client = gateway.client();
    let _ = client.get("/livez").await.expect(200);
    for path in
        ["/readyz", "/v1/resolve/orders-api", "/v1/namespaces", "/v1/namespaces/default/services/orders-api"]
    {
        let _ = client.get(path).await.refused(503, "not-ready");
    }
    etcd_process.start_again();
    until("it gets ready when etcd comes", Duration::from_secs(15), async || {
        client.get("/readyz").await.status == 200
    })
    .await;
    let _ = client.resolve("orders-api", "").await.refused(404, "no-such-service");
}
