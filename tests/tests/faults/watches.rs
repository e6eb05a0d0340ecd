//! A thousand watchers, and writes that are none of their business.

use crate::world::{World, register_many};
use meridian_tests::client::{instance_path, registration};
use meridian_tests::figures;
use meridian_tests::patience::until;
use meridian_tests::watchers::Watchers;
use serde_json::json;
use std::time::Duration;

const SERVICE: &str = "orders-api";
const WATCHERS: u64 = 1_000;
/// What idle watchers cost is measured so often at most: what else the machine does costs some too, and not always.
const WINDOWS: usize = 3;
/// Of each kind. They are made again where somebody was woken: a busy machine that stops the gateway for a moment lets a stand-in
/// answer once, which is another answer. A write that wakes does so every time.
const WRITES: u32 = 250;
const TRIES: u32 = 2;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_that_change_no_answer_wake_none_of_a_thousand_watchers() {
    let world = World::start(1).await;
    let client = world.client();
    let owner = client.bearing(&world.issuer.workload(SERVICE));
    let other = client.bearing(&world.issuer.workload("billing"));
    register_many(&owner, SERVICE, "o", 6).await;
    register_many(&other, "billing", "b", 1).await;
    // One that is not ready belongs to no answer.
    let mut starting = registration("test-1a", 99);
    starting["status"] = json!("starting");
    let _ = owner.register(SERVICE, "late", &starting).await.expect(201);

    // Twenty questions: both zones, ten keys.
    let target = |n: u64| {
        format!("/v1/resolve/{SERVICE}?zone=test-1{}&key=k-{}", ["a", "b"][(n % 2) as usize], n / 2 % 10)
    };
    let watchers = Watchers::open(world.addresses()[0], (0..WATCHERS).map(target));
    until("all watch", Duration::from_secs(30), async || watchers.snapshots() == WATCHERS).await;
    let watching = figures::one(&client, "meridian_watchers").await;
    assert!(watching >= WATCHERS as f64, "{watching} watchers are counted");
    assert_eq!(watchers.changes(), 0);

    let span = Duration::from_secs(10);
    let mut used = f64::MAX;
    for _ in 0..WINDOWS {
        let cpu = world.gateways[0].cpu_time();
        tokio::time::sleep(span).await;
        used = used.min((world.gateways[0].cpu_time() - cpu).as_secs_f64() / span.as_secs_f64());
        println!("{WATCHERS} idle watchers take {:.1} % of a core", used * 100.0);
        if used < 0.02 {
            break;
        }
    }
    assert!(used < 0.02, "{WATCHERS} idle watchers take {:.1} % of a core", used * 100.0);

    assert_eq!(watchers.changes(), 0, "somebody was woken by nothing");

    let woken = async || (watchers.changes(), figures::one(&client, "meridian_watch_wakes_total").await);
    // Another service; the same one with what no answer shows; one that is in no answer; heartbeats.
    let write = async |n: u32| {
        let _ = other.patch(&instance_path("billing", "b-0"), &json!({ "weight": 1 + n })).await.expect(200);
        let mut same = registration("test-1a", 1_000);
        same["capacity"] = json!(n);
        let _ = owner.register(SERVICE, "o-0", &same).await.expect(200);
        let _ = owner.patch(&instance_path(SERVICE, "late"), &json!({ "weight": 1 + n })).await.expect(200);
        let path = format!("{}/heartbeat", instance_path(SERVICE, "o-1"));
        let _ = owner.post(&path, &json!({ "load": n })).await.expect(200);
    };
    for tried in 0..TRIES {
        let before = woken().await;
        for n in 0..WRITES {
            write(tried * WRITES + n).await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let after = woken().await;
        println!(
            "changes heard of and wakes: {before:?} before writes that change no answer, {after:?} after"
        );
        if before == after {
            break;
        }
        assert!(tried + 1 < TRIES, "watchers were woken by writes that change no answer");
    }
    assert_eq!(watchers.ended(), 0);
    let before = watchers.changes();

    let _ = owner.patch(&instance_path(SERVICE, "o-2"), &json!({ "status": "draining" })).await.expect(200);
    let took = until("a write that changes the answer wakes all", Duration::from_secs(10), async || {
        watchers.changes() >= before + WATCHERS
    })
    .await;
    println!("{WATCHERS} watchers heard of a change within {took:?}");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(watchers.changes(), before + WATCHERS, "once each");
}
