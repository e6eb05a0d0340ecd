//! Everything is dead but one gateway, which starts with nothing but its disk.

use crate::world::{AP, EU, Fleet, REGIONS, Region, STALE_AT, SUSPECT_AT, World};
use crate::{CATALOG, ORDERS, PACE, SLACK};
use meridian_tests::load::Load;
use meridian_tests::patience::until;
use std::time::{Duration, Instant};

/// Until the other regions, of whose last proof the gateway knows the age, are called `word`.
async fn alone(word: &str, at: Duration) {
    let mut world = World::start().await;
    let _fleet = Fleet::start(&world).await;
    let client = world.client(AP);
    let known = client.resolve(CATALOG, "?n=all").await.expect(200).endpoints();
    world.all_is_on_disk(AP).await;

    let dead = Instant::now();
    world.regions.iter_mut().for_each(Region::kill);
    world.regions[AP].gateway.start().await;
    println!("ready from disk {:?} after everything died", dead.elapsed());
    let load = Load::start(&[world.address(AP)], &format!("/v1/resolve/{CATALOG}"), PACE);
    let ready = client.get("/readyz").await.expect(200);
    assert_eq!((&ready["source"], &ready["registry"]), (&"disk".into(), &"lost".into()), "{}", ready.json);

    let took = until("other regions grow old", at + SLACK, async || {
        let away = dead.elapsed();
        let answer = client.resolve(CATALOG, "?n=all").await.expect(200);
        assert_eq!(answer.endpoints(), known, "{}", answer.json);
        let mut words = Vec::new();
        for endpoint in answer["endpoints"].as_array().unwrap() {
            assert_eq!(endpoint["region"], REGIONS[EU], "{}", answer.json);
            let age = Duration::from_millis(endpoint["ageMs"].as_u64().unwrap());
            // The wall clock told how long it was down, to the millisecond.
            assert!(age + Duration::from_millis(100) >= away, "{age:?} old, of a region dead for {away:?}");
            let honest = match age {
                age if age < SUSPECT_AT => "fresh",
                age if age < STALE_AT => "suspect",
                _ => "stale",
            };
            assert_eq!(endpoint["freshness"], honest, "{}", answer.json);
            words.push(honest);
        }
        words.iter().all(|shown| *shown == word)
    })
    .await;
    println!("other regions are called {word} {took:?} after the gateway was ready");
    let local = client.resolve(ORDERS, "").await.expect(200);
    assert_eq!(local["endpoints"][0]["region"], REGIONS[AP], "{}", local.json);
    // Each was last proven at a moment of its own.
    until("all other regions are shown so", Duration::from_secs(5), async || {
        let shown = world.shown(AP).await;
        let mut others = shown.iter().filter(|(name, _)| *name != REGIONS[AP]);
        others.all(|(_, shown)| shown["freshness"] == word && shown["reachable"] == false)
    })
    .await;
    until("lookups go on", Duration::from_secs(10), async || load.report().lookups > 100).await;
    load.stop().check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_alone_answers_for_all_regions_from_disk() {
    alone("suspect", SUSPECT_AT).await;
}

/// Until nothing that it knows of other regions counts as current.
mod long {
    use crate::world::STALE_AT;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_gateway_alone_answers_for_all_regions_from_disk() {
        super::alone("stale", STALE_AT).await;
    }
}
