//! An operator has a region spared: its traffic goes elsewhere, its own and that of others, and comes back.

use crate::world::{AP, EU, Loads, REGIONS, US, World};
use crate::{ORDERS, RAMPED, SLACK};
use meridian_tests::patience::until;
use serde_json::json;
use std::time::{Duration, Instant};

/// In AP and US only, so that EU has to choose.
const SEARCH: &str = "search-api";
/// Until a drain is in force everywhere.
const IN_FORCE: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_region_gives_its_traffic_away_and_takes_it_back() {
    let world = World::start().await;
    let orders = world.everywhere(ORDERS).await;
    let search = [world.workloads(AP, SEARCH).await, world.workloads(US, SEARCH).await];
    world.know_of(orders.iter().chain(&search).map(Vec::len).sum()).await;
    let loads = Loads::start(&world, &[(AP, ORDERS), (EU, ORDERS), (US, ORDERS), (EU, SEARCH)]);
    let operator = world.operator(AP);
    let path = |what: &str| format!("/v1/regions/{}/{what}", REGIONS[AP]);
    assert_eq!(world.client(AP).post(&path("drain"), &json!({})).await.status, 401, "anybody may drain");

    let zone = |region: usize, zone: &str| format!("/v1/regions/{}/drain?zone={zone}", REGIONS[region]);
    let refused = operator.post(&zone(AP, "ap-south-1z"), &json!({})).await.refused(422, "no-such-zone");
    assert!(
        refused.json["detail"].as_str().unwrap().ends_with("ap-south-1a, ap-south-1b"),
        "{}",
        refused.json
    );
    for (name, warns) in [("eu-west-1a", false), ("eu-west-1z", true)] {
        let drained = operator.post(&zone(EU, name), &json!({})).await.expect(200);
        assert_eq!(drained.json.get("warning").is_some(), warns, "{}", drained.json);
        let _ = operator.post(&zone(EU, name).replace("drain?", "undrain?"), &json!({})).await.expect(200);
    }

    let began = Instant::now();
    let _ = operator.post(&path("drain"), &json!({ "reason": "rehearsal" })).await.expect(200);
    until("its own lookups go elsewhere", IN_FORCE, async || world.share(AP, ORDERS, AP).await < 1e-9).await;
    println!("own lookups left after {:?}", began.elapsed());
    until("others know", IN_FORCE, async || {
        world.standing(EU, AP).await["told"]["draining"] == "rehearsal"
            && world.standing(US, AP).await["told"]["draining"] == "rehearsal"
    })
    .await;
    until("others choose another region", IN_FORCE, async || world.share(EU, SEARCH, AP).await < 1e-9).await;
    println!("others' lookups left after {:?}", began.elapsed());
    let own = world.standing(AP, AP).await;
    assert_eq!(own["draining"]["reason"], "rehearsal", "{own}");

    let began = Instant::now();
    let _ = operator.post(&path("undrain"), &json!({})).await.expect(200);
    until("it shows that it returns step by step", IN_FORCE, async || {
        let ramp = world.standing(AP, AP).await["ramp"].as_u64().unwrap();
        (1..1_000).contains(&ramp)
    })
    .await;
    let home = until("its own lookups come home", RAMPED + SLACK, async || {
        world.share(AP, ORDERS, AP).await > 1.0 - 1e-9
    })
    .await;
    assert_eq!(world.standing(AP, AP).await["ramp"], 1_000);
    world.settled("others give it all of its traffic", RAMPED + SLACK).await;
    println!("undrained: own lookups are home after {home:?}, others' after {:?}", began.elapsed());
    loads.check();
}
