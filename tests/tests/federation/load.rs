//! What a region's instances carry is known in the others, and lookups go where there is room.

use crate::world::{AP, EU, REGIONS, US, World};
use meridian_tests::client::{instance_path, registration};
use meridian_tests::patience::until;
use serde_json::json;
use std::time::Duration;

/// In EU and US, so that AP has to share.
const SEARCH: &str = "search-api";
/// What each of them can carry.
const CAPACITY: u64 = 1_000;
/// A load is told at most every ten seconds, and gets around in less than two.
const TOLD: Duration = Duration::from_secs(12);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lookups_go_where_there_is_room() {
    let world = World::start().await;
    for at in [EU, US] {
        let mut body = registration(&format!("{}a", REGIONS[at]), 8080);
        body["capacity"] = json!(CAPACITY);
        let _ = world.owner(at, SEARCH).register(SEARCH, "one", &body).await.expect(201);
    }
    let place = format!("/v1/namespaces/default/bindings/{SEARCH}");
    let _ = world.operator(AP).put(&place, &json!({ "policy": "spillover" })).await;
    let room = async |at: usize, of: usize| world.standing(at, of).await["headroom"].as_u64();
    until("everybody has room", TOLD, async || {
        room(AP, EU).await == Some(CAPACITY) && room(AP, US).await == Some(CAPACITY)
    })
    .await;
    until("both share alike", TOLD, async || (world.share(AP, SEARCH, EU).await - 0.5).abs() < 0.1).await;

    let beat = async |load: u64| {
        let path = format!("{}/heartbeat", instance_path(SEARCH, "one"));
        let _ = world.owner(EU, SEARCH).post(&path, &json!({ "load": load })).await.expect(200);
    };
    beat(900).await;
    let took = until("the load is known far away", TOLD, async || room(AP, EU).await == Some(100)).await;
    println!("a load is known in another region {took:?} after its heartbeat");
    assert_eq!(room(EU, EU).await, Some(100), "and at home");
    assert_eq!(room(AP, AP).await, None, "nothing there declares a capacity");
    until("lookups go where there is room", TOLD, async || {
        world.share(AP, SEARCH, EU).await < 0.2 && world.share(AP, SEARCH, US).await > 0.8
    })
    .await;
    beat(100).await;
    until("and come back", TOLD, async || world.share(AP, SEARCH, EU).await > 0.4).await;
}
