//! The registry comes back as another: empty, or as it was some time ago. Its revisions begin anew, so that only the
//! incarnation tells older from newer, and nothing that is missing in it has said that it left.

use crate::world::World;
use crate::{PACE, SLACK};
use meridian_tests::client::{Client, instance_path};
use meridian_tests::load::{Load, incarnation};
use meridian_tests::patience::{throughout, until};
use meridian_tests::workload::Workload;
use std::time::{Duration, Instant};

const SERVICE: &str = "orders-api";
const TTL: u64 = 6;
const HEARTBEAT: Duration = Duration::from_secs(TTL / 3);

/// All instances are healthy, known to the registry, and no longer held.
async fn all_there(client: &Client, count: usize) -> bool {
    let answer =
        client.get(&format!("/v1/namespaces/default/services/{SERVICE}?limit=1000")).await.expect(200);
    let items = answer["items"].as_array().unwrap();
    let whole = items.iter().filter(|item| item["status"] == "healthy" && item["degraded"] == false);
    whole.filter(|item| item["id"].as_str().unwrap().starts_with("w-")).count() == count
}

/// How often each instance registered so far.
fn registrations(workloads: &[Workload]) -> Vec<u64> {
    workloads.iter().map(|workload| workload.diary().registrations).collect()
}

/// How often each instance was refused so far, or got no answer.
fn set_backs(workloads: &[Workload]) -> Vec<u64> {
    let of = |workload: &Workload| {
        let diary = workload.diary();
        diary.refused.len() as u64 + diary.unanswered + diary.turned_away
    };
    workloads.iter().map(of).collect()
}

/// Waits for an incarnation after `former`, and until all have registered again; when the new one was served, and the instances'
/// set-backs until then.
async fn come_back(client: &Client, former: u64, workloads: &[Workload]) -> (Instant, Vec<u64>) {
    let seen = until("the new incarnation is served", Duration::from_secs(10), async || {
        incarnation(&client.resolve(SERVICE, "").await.expect(200)) > former
    })
    .await;
    let served = (Instant::now(), set_backs(workloads));
    let took = until("everything has registered again", HEARTBEAT + Duration::from_secs(5), async || {
        all_there(client, workloads.len()).await
    })
    .await;
    println!("a new incarnation is seen {seen:?} after etcd is back, and all are back {took:?} later");
    served
}

/// Each registered again by its next heartbeat once the new incarnation was served, or by the one after where it was set back. By
/// their own diaries, since this test may look late.
fn check_in_time(workloads: &[Workload], (served, before): &(Instant, Vec<u64>)) {
    for (workload, (before, after)) in workloads.iter().zip(before.iter().zip(set_backs(workloads))) {
        let diary = workload.diary();
        let took = diary.last_registration.unwrap().saturating_duration_since(*served);
        let heartbeats = if after > *before { 2 } else { 1 };
        assert!(
            took <= heartbeats * HEARTBEAT + SLACK,
            "a heartbeat is {HEARTBEAT:?}; {} registered again after {took:?}: {diary:?}",
            workload.id
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_etcd_empties_no_answer_and_fills_within_a_heartbeat() {
    let mut world = World::start(1).await;
    let client = world.client();
    let workloads = world.workloads(&world.addresses(), SERVICE, 8, TTL).await;
    // One that nobody will miss: it was silent already.
    let ghost = Workload::start(
        &world.addresses(),
        &world.issuer.workload(SERVICE),
        SERVICE,
        "ghost",
        "test-1a",
        TTL,
    )
    .await;
    let first = client.resolve(SERVICE, "").await.expect(200);
    let load = Load::start(&world.addresses(), &format!("/v1/resolve/{SERVICE}?n=1000"), PACE);
    tokio::time::sleep(Duration::from_secs(2)).await;

    let _ = ghost.fall_silent().await;
    world.etcd.wipe();
    let served = come_back(&client, incarnation(&first), &workloads).await;
    // A watcher may see a registration before the instance has the answer to it.
    until("every instance knows that it registered again", SLACK, async || {
        registrations(&workloads) == vec![2; workloads.len()]
    })
    .await;
    check_in_time(&workloads, &served);

    // What did not come back is held for two TTLs, as a doubtful one, and then let go.
    let bound = Duration::from_secs(2 * TTL + TTL) + SLACK;
    until("the ghost is gone", bound, async || {
        !matches!(client.status_of(SERVICE, "ghost").await.as_deref(), Some("healthy"))
    })
    .await;
    throughout("the others stay", Duration::from_secs(TTL), async || {
        all_there(&client, workloads.len()).await
    })
    .await;
    assert_eq!(registrations(&workloads), vec![2; workloads.len()], "some had to register more than once");
    let report = load.stop();
    report.check();
    // Everyone was given all the time, not just somebody.
    for workload in &workloads {
        let given = report.given.get(&workload.id).copied().unwrap_or(0);
        assert_eq!(
            given,
            report.lookups,
            "{} was missing in {} answers",
            workload.id,
            report.lookups - given
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_restored_from_an_older_day_is_not_taken_for_news() {
    let mut world = World::start(1).await;
    let client = world.client();
    let addresses = world.addresses();
    let token = world.issuer.workload(SERVICE);
    let mut workloads = world.workloads(&addresses, SERVICE, 4, TTL).await;
    let owner = client.bearing(&token);
    let gone = Workload::start(&addresses, &token, SERVICE, "gone", "test-1a", TTL).await;
    world.etcd.snapshot();
    // After the snapshot: one leaves, four come, one changes.
    let _ = gone.fall_silent().await;
    let _ = owner.delete(&instance_path(SERVICE, "gone")).await.expect(204);
    for n in 4..8 {
        workloads.push(Workload::start(&addresses, &token, SERVICE, &format!("w-{n}"), "test-1b", TTL).await);
    }
    let first = client.resolve(SERVICE, "").await.expect(200);
    let load = Load::start(&addresses, &format!("/v1/resolve/{SERVICE}?n=1000"), PACE);
    tokio::time::sleep(Duration::from_secs(2)).await;

    world.etcd.restore();
    let served = come_back(&client, incarnation(&first), &workloads).await;
    check_in_time(&workloads, &served);
    // The record of the one that left came back with the old state; its lease did not.
    until("the one that had left is gone for good", Duration::from_secs(3 * TTL) + SLACK, async || {
        !matches!(client.status_of(SERVICE, "gone").await.as_deref(), Some("healthy"))
    })
    .await;
    throughout("the others stay", Duration::from_secs(TTL), async || {
        all_there(&client, workloads.len()).await
    })
    .await;
    let report = load.stop();
    report.check();
    for workload in &workloads {
        let given = report.given.get(&workload.id).copied().unwrap_or(0);
        assert_eq!(
            given,
            report.lookups,
            "{} was missing in {} answers",
            workload.id,
            report.lookups - given
        );
    }
}
