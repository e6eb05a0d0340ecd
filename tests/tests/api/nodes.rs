//! A federation node as whoever runs it sees it.

use crate::certificates;
use meridian_federation::service::name::Station;
use meridian_registry::testing::RealEtcd;
use meridian_tests::client::Client;
use meridian_tests::federation::FederationProcess;
use meridian_tests::gateway::{REGION, ZONES, etcd};
use meridian_tests::patience::until;
use std::time::Duration;

/// Whoever sent traffic to a node that has nothing to tell would wait for regions that it has never heard of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_ready_once_it_has_something_to_tell() {
    let files = tempfile::tempdir().unwrap();
    let mut registry = RealEtcd::start();
    let endpoints = registry.endpoints();
    registry.stop();
    // A peer that nobody is: what it does not answer makes the node no readier.
    let peers = [("eu-west-1".to_owned(), vec!["https://127.0.0.1:1".to_owned()])];
    let tls = certificates::write(files.path(), Station::Node);
    let mut node = FederationProcess::of(REGION, &ZONES, etcd(&endpoints), &peers, tls);
    node.start().await;
    let status = Client::new(node.status());
    assert_eq!(status.try_get("/livez").await.unwrap().status, 200);
    let waiting = status.get("/readyz").await.expect(503);
    assert_eq!(
        (waiting["status"].as_str(), waiting["registry"].as_str()),
        (Some("not-ready"), Some("not yet read"))
    );
    registry.start_again();
    until("the node read its registry", Duration::from_secs(30), async || {
        status.get("/readyz").await.status == 200
    })
    .await;
    let ready = status.get("/readyz").await.expect(200);
    assert_eq!((ready["status"].as_str(), ready["registry"].as_str()), (Some("ready"), Some("read")));
}
