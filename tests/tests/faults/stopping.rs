//! A gateway that is asked to stop ends what it has begun.

use crate::PACE;
use crate::world::{World, lone_gateway, register_many};
use meridian_tests::client::{instance_path, registration};
use meridian_tests::load::Load;
use meridian_tests::patience::until;
use meridian_tests::watchers::Watchers;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const SERVICE: &str = "orders-api";

/// A registration of `late` whose body is still on its way, and the body.
async fn half_registered(gateway: SocketAddr, token: &str) -> (TcpStream, String) {
    let mut half = TcpStream::connect(gateway).await.unwrap();
    let body = registration("test-1a", 7).to_string();
    let path = instance_path(SERVICE, "late");
    let head = format!(
        "PUT {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    half.write_all(head.as_bytes()).await.unwrap();
    (half, body)
}

/// Sends the body, which is taken.
async fn registered(half: &mut TcpStream, body: &str) {
    half.write_all(body.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(5), half.read_to_end(&mut answer)).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 201"), "a request that was open got: {answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_answers_what_is_open_ends_streams_and_exits_with_zero() {
    let (mut gateway, issuer) = lone_gateway().await;
    let client = gateway.client();
    let owner = client.bearing(&issuer.workload(SERVICE));
    register_many(&owner, SERVICE, "o", 3).await;
    let tag = client.resolve(SERVICE, "").await.expect(200).etag();
    let target = format!("/v1/resolve/{SERVICE}");
    let watchers = Watchers::open(gateway.address(), (0..20).map(|_| target.clone()));
    until("all watch", Duration::from_secs(10), async || watchers.snapshots() == 20).await;
    let poller = client.clone();
    let polled = tokio::spawn(async move {
        let headers = [("if-none-match", tag.as_str())];
        let sent = poller.send(reqwest::Method::GET, "/v1/resolve/orders-api?wait=60s", &headers, None);
        sent.await.map(|answer| answer.status)
    });
    let (mut half, body) = half_registered(gateway.address(), &issuer.workload(SERVICE)).await;
    let load = Load::start(&[gateway.address()], &target, PACE);
    // So many that whatever was sent before them has come in, too.
    until("lookups are asked", Duration::from_secs(10), async || load.report().lookups > 200).await;
    load.report().check();

    gateway.terminate();
    let asked = Instant::now();
    tokio::time::sleep(Duration::from_millis(300)).await;
    registered(&mut half, &body).await;

    let (status, took) = gateway.ended(Duration::from_secs(12)).await;
    println!("stopped within {took:?}");
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(asked.elapsed() <= Duration::from_secs(10), "stopping took {:?}", asked.elapsed());
    until("the streams have ended", Duration::from_secs(2), async || watchers.ended() == 20).await;
    // A long poll is answered, or its connection ends; it does not hang.
    let polled =
        tokio::time::timeout(Duration::from_secs(2), polled).await.expect("a long poll hangs").unwrap();
    assert!(matches!(polled, Ok(200 | 304 | 503) | Err(_)), "{polled:?}");
    // After the signal, connections are refused, not broken. A kept connection that the gateway closes in the moment in
    // which a request is put on it is HTTP/1.1's own race: once for each of the load's connections.
    let report = load.stop();
    let raced = report.failures.iter().filter(|failure| failure.contains("IncompleteMessage")).count();
    let strange =
        report.failures.iter().filter(|f| !f.contains("ConnectError") && !f.contains("IncompleteMessage"));
    assert_eq!(strange.count(), 0, "{:?}", report.failures);
    assert!(raced <= meridian_tests::load::STREAMS, "{:?}", report.failures);
    assert!(!gateway.log().contains("panicked"));

    gateway.start().await;
    let statuses = client.statuses(SERVICE).await;
    assert_eq!(statuses.len(), 4, "the embedded registry lost something at a graceful stop: {statuses:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_taken_while_stopping_is_on_disk() {
    let mut world = World::start(1).await;
    let client = world.client();
    let token = world.issuer.workload(SERVICE);
    register_many(&client.bearing(&token), SERVICE, "o", 3).await;
    let (mut half, body) = half_registered(world.addresses()[0], &token).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let gateway = &mut world.gateways[0];
    gateway.terminate();
    tokio::time::sleep(Duration::from_secs(1)).await;
    registered(&mut half, &body).await;
    let (status, _) = gateway.ended(Duration::from_secs(12)).await;
    assert_eq!(status.code(), Some(0), "{status}");

    world.etcd.stop();
    world.gateways[0].start().await;
    let ready = client.get("/readyz").await.expect(200);
    assert_eq!(ready["source"], "disk", "{}", ready.json);
    let statuses = client.statuses(SERVICE).await;
    assert!(statuses.iter().any(|(id, _)| id == "late"), "{statuses:?}");
}
