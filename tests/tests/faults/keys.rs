//! Lookups with a key: the same endpoint on every gateway, and few keys move when one endpoint goes.

use crate::world::{World, register_many};
use meridian_tests::client::{Client, instance_path};
use meridian_tests::patience::until;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

const SERVICE: &str = "orders-api";
const KEYS: usize = 500;
const ENDPOINTS: u16 = 10;

/// Where each key goes, asked as a batch.
async fn placed(client: &Client) -> BTreeMap<usize, String> {
    let lookups: Vec<_> =
        (0..KEYS).map(|n| json!({ "service": SERVICE, "key": format!("cart-{n}") })).collect();
    let answer = client.post("/v1/resolve", &json!({ "lookups": lookups })).await.expect(200);
    let results = answer["results"].as_array().unwrap();
    let id = |result: &serde_json::Value| {
        result["endpoints"][0]["id"].as_str().unwrap_or_else(|| panic!("{result}")).to_owned()
    };
    results.iter().map(id).enumerate().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removing_one_endpoint_moves_its_keys_only_and_all_gateways_agree() {
    let world = World::start(2).await;
    let clients: Vec<Client> = world.gateways.iter().map(|gateway| gateway.client()).collect();
    let owner = clients[0].bearing(&world.issuer.workload(SERVICE));
    register_many(&owner, SERVICE, "o", ENDPOINTS).await;
    let agreed = async |without: Option<&str>| {
        for client in &clients {
            until("all instances are known", Duration::from_secs(3), async || {
                let answer = client.resolve(SERVICE, "?n=all").await;
                let expected = usize::from(ENDPOINTS) - usize::from(without.is_some());
                answer.status == 200 && answer.endpoints().len() == expected
            })
            .await;
        }
        let (one, other) = (placed(&clients[0]).await, placed(&clients[1]).await);
        let differ = one.iter().filter(|(key, id)| other.get(key) != Some(id)).count();
        assert_eq!(differ, 0, "the gateways place {differ} of {KEYS} keys differently");
        one
    };
    let before = agreed(None).await;
    // Every endpoint has its part: 50 keys each, give or take five standard deviations.
    for n in 0..ENDPOINTS {
        let part = before.values().filter(|id| **id == format!("o-{n}")).count();
        assert!((15..=85).contains(&part), "o-{n} has {part} of {KEYS} keys");
    }
    let _ = owner.delete(&instance_path(SERVICE, "o-3")).await.expect(204);
    let after = agreed(Some("o-3")).await;
    let moved: Vec<_> = before.iter().filter(|(key, id)| after.get(key) != Some(id)).collect();
    assert!(moved.iter().all(|(_, id)| *id == "o-3"), "keys of endpoints that stayed moved: {moved:?}");
    assert!(after.values().all(|id| id != "o-3"));
    println!("{} of {KEYS} keys moved when 1 of {ENDPOINTS} endpoints went", moved.len());
}
