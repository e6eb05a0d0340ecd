//! Leases that end, and health checks: only what is ready is discoverable.

use crate::world::{World, lone_gateway};
use crate::{PACE, SLACK};
use meridian_tests::client::{instance_path, registration};
use meridian_tests::load::Load;
use meridian_tests::patience::{throughout, until};
use meridian_tests::workload::Workload;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SERVICE: &str = "orders-api";
const TTL: u64 = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_stops_beating_is_out_of_the_answers_within_its_ttl_and_a_second() {
    let world = World::start(1).await;
    let client = world.client();
    let _stays = world.workloads(&world.addresses(), SERVICE, 2, TTL).await;
    let token = world.issuer.workload(SERVICE);
    let dying = Workload::start(&world.addresses(), &token, SERVICE, "dying", "test-1a", TTL).await;
    let load = Load::start(&world.addresses(), &format!("/v1/resolve/{SERVICE}"), PACE);
    tokio::time::sleep(Duration::from_secs(2 * TTL)).await;
    assert_eq!(client.status_of(SERVICE, "dying").await.as_deref(), Some("healthy"));

    let last_beat = dying.fall_silent().await;
    until("it is expired", Duration::from_secs(TTL + 10), async || {
        client.status_of(SERVICE, "dying").await.as_deref() == Some("expired")
    })
    .await;
    let took = last_beat.elapsed();
    let report = load.report();
    let last_given = report.last_given["dying"].saturating_duration_since(last_beat);
    println!("expired {took:?} after the last heartbeat; last given after {last_given:?}");
    assert!(took >= Duration::from_secs(TTL), "expired {took:?} after its last heartbeat, before its TTL");
    assert!(
        last_given <= Duration::from_secs(TTL) + SLACK,
        "still given {last_given:?} after its last heartbeat"
    );
    report.check();

    // It still counts, as an unhealthy one, and its own next heartbeat is told to register again.
    let services = client.get("/v1/namespaces/default/services").await.expect(200);
    assert_eq!(services["items"][0]["instances"]["expired"], 1, "{}", services.json);
    let shown = client.get(&instance_path(SERVICE, "dying")).await.expect(200);
    assert!(shown["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "no reason in {}", shown.json);
    assert!(shown["lease"]["expiredAt"].is_string(), "{}", shown.json);
    let owner = client.bearing(&token);
    let beat = owner.post(&format!("{}/heartbeat", instance_path(SERVICE, "dying")), &json!({})).await;
    let _ = beat.refused(404, "lease-unknown");
    let history = client
        .bearing(&world.issuer.operator())
        .get("/v1/history?service=orders-api&limit=1")
        .await
        .expect(200);
    assert_eq!(history["items"][0]["actor"]["role"], "guardian", "{}", history.json);

    let mut body = registration("test-1a", 8080);
    body["leaseTtlSeconds"] = json!(TTL);
    let _ = owner.register(SERVICE, "dying", &body).await.expect(200);
    assert_eq!(client.status_of(SERVICE, "dying").await.as_deref(), Some("healthy"));
}

/// A process that is checked: it answers with whatever status it is told to.
struct Checked {
    address: SocketAddr,
    status: Arc<AtomicU16>,
    /// The next checks that fail, whatever the status.
    failures: Arc<AtomicU64>,
    asked: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Checked {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (status, asked) = (Arc::new(AtomicU16::new(503)), Arc::new(AtomicU64::new(0)));
        let failures = Arc::new(AtomicU64::new(0));
        let (answers, fails, count) = (Arc::clone(&status), Arc::clone(&failures), Arc::clone(&asked));
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 2048];
                let _ = stream.read(&mut request).await;
                count.fetch_add(1, Ordering::SeqCst);
                let left = |left: u64| left.checked_sub(1);
                let fails = fails.fetch_update(Ordering::SeqCst, Ordering::SeqCst, left).is_ok();
                let status = if fails { 500 } else { answers.load(Ordering::SeqCst) };
                let location = if status == 302 { "location: /livez\r\n" } else { "" };
                let answer = format!(
                    "HTTP/1.1 {status} X\r\n{location}content-length: 0\r\nconnection: close\r\n\r\n"
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Self { address, status, failures, asked, task }
    }

    fn answer(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    /// Fails one check, however long the test looks away.
    async fn fail_once(&self) {
        self.failures.store(1, Ordering::SeqCst);
        until("one check fails", Duration::from_secs(5), async || self.failures.load(Ordering::SeqCst) == 0)
            .await;
    }

    fn body(&self) -> Value {
        json!({ "host": "127.0.0.1", "port": self.address.port(), "zone": "test-1a", "leaseTtlSeconds": 3600,
            "healthCheck": { "http": { "path": "/health", "intervalSeconds": 1, "timeoutSeconds": 1,
                                       "unhealthyAfter": 2, "healthyAfter": 2 } } })
    }
}

impl Drop for Checked {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_health_check_decides_by_its_thresholds() {
    let (gateway, issuer) = lone_gateway().await;
    let client = gateway.client();
    let owner = client.bearing(&issuer.workload(SERVICE));
    let checked = Checked::start().await;
    let registered = owner.register(SERVICE, "o-1", &checked.body()).await.expect(201);
    assert_eq!(registered["status"], "starting", "with a check, nothing is healthy before it passed");
    let becomes = async |status: &str| {
        until(status, Duration::from_secs(8), async || {
            client.status_of(SERVICE, "o-1").await.as_deref() == Some(status)
        })
        .await
    };
    until("it is asked", Duration::from_secs(5), async || checked.asked.load(Ordering::SeqCst) >= 2).await;
    let _ = client.resolve(SERVICE, "").await.refused(503, "none-healthy");

    checked.answer(200);
    becomes("healthy").await;
    let _ = client.resolve(SERVICE, "").await.expect(200);
    // One failure is none, by its threshold.
    checked.fail_once().await;
    throughout("it stays healthy", Duration::from_secs(3), async || {
        client.status_of(SERVICE, "o-1").await.as_deref() == Some("healthy")
    })
    .await;
    // A redirect is a failure: it could lead anywhere.
    checked.answer(302);
    let start = Instant::now();
    becomes("unhealthy").await;
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    let shown = client.get(&instance_path(SERVICE, "o-1")).await.expect(200);
    assert!(shown["checkDetail"].as_str().is_some_and(|detail| detail.contains("302")), "{}", shown.json);
    let nothing = client.resolve(SERVICE, "").await.refused(503, "none-healthy");
    assert!(nothing["detail"].as_str().unwrap().contains("1 unhealthy"), "{}", nothing.json);
    checked.answer(200);
    becomes("healthy").await;
}

/// Whoever registers names the address that the gateway connects to: it must not be led to its own link.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_is_never_led_to_metadata_addresses() {
    let (gateway, issuer) = lone_gateway().await;
    let client = gateway.client();
    let owner = client.bearing(&issuer.workload(SERVICE));
    for (n, host) in
        ["169.254.169.254", "::ffff:169.254.169.254", "fd00:ec2::254", "100.100.100.200"].iter().enumerate()
    {
        let mut body = Checked::start().await.body();
        body["host"] = json!(host);
        body["port"] = json!(80);
        let path = instance_path(SERVICE, &format!("o-{n}"));
        let _ = owner.put(&path, &body).await.expect(201);
        until("the check is refused with a reason", Duration::from_secs(8), async || {
            let shown = client.get(&path).await.expect(200);
            assert_ne!(shown["status"], "healthy", "{host}");
            shown["checkDetail"].as_str().is_some_and(|detail| detail.contains("is not checked"))
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passing_checks_renew_a_lease_that_nobody_beats_for() {
    let (gateway, issuer) = lone_gateway().await;
    let client = gateway.client();
    let owner = client.bearing(&issuer.workload(SERVICE));
    let checked = Checked::start().await;
    checked.answer(200);
    let mut body = checked.body();
    body["renewBy"] = json!("check");
    body["leaseTtlSeconds"] = json!(TTL);
    let _ = owner.register(SERVICE, "o-1", &body).await.expect(201);
    let is = async |status: &str| client.status_of(SERVICE, "o-1").await.as_deref() == Some(status);
    until("it is healthy", Duration::from_secs(8), async || is("healthy").await).await;
    throughout("passing checks keep it", Duration::from_secs(3 * TTL), async || is("healthy").await).await;
    checked.answer(503);
    until("failing ones end it", Duration::from_secs(3 * TTL + 5), async || is("expired").await).await;
}
