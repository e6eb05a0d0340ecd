//! Regions that nothing was ever heard of are those that an operator looks for: they are shown, and drains of them can be ended.

use crate::world::{AP, EU, REGIONS, US, certificates, tls};
use meridian_tests::gateway::{GatewayProcess, embedded};
use meridian_tests::tokens::Issuer;
use serde_json::{Value, json};

/// `[federation] peers` with one region, where nobody answers.
fn peers(region: usize) -> toml::Value {
    let peer = format!("peers = [{{ region = \"{}\", urls = [\"https://127.0.0.1:1\"] }}]", REGIONS[region]);
    let table: toml::Table = toml::from_str(&peer).unwrap();
    table["peers"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_was_never_heard_of_is_shown_and_a_drain_of_it_can_be_ended() {
    let (issuer, certificates) = (Issuer::init(), certificates());
    let mut gateway = GatewayProcess::of(REGIONS[AP], &["ap-south-1a"], &issuer, embedded())
        .with("federation", "listen", "127.0.0.1:0")
        .with("federation", "peers", peers(EU))
        .with("federation", "tls", tls(certificates.path(), &format!("{}-node", REGIONS[AP])))
        .started()
        .await;
    let operator = gateway.client().bearing(&issuer.operator());
    let path = |region: usize, what: &str| format!("/v1/regions/{}{what}", REGIONS[region]);
    let is_unheard = |shown: &Value| {
        assert_eq!(shown["freshness"], "stale", "{shown}");
        assert_eq!((&shown["ageMs"], &shown["roundTripMs"]), (&Value::Null, &Value::Null), "{shown}");
        assert_eq!(shown["reachable"], false, "{shown}");
    };
    let listed = operator.get("/v1/regions").await.expect(200);
    let names: Vec<&str> =
        listed["items"].as_array().unwrap().iter().filter_map(|r| r["region"].as_str()).collect();
    assert_eq!(names, [REGIONS[AP], REGIONS[EU]]);
    is_unheard(&listed["items"][1]);
    let _ = operator.post(&path(EU, "/drain"), &json!({ "reason": "dead" })).await.expect(200);
    let shown = operator.get(&path(EU, "")).await.expect(200).json;
    is_unheard(&shown);
    assert_eq!(shown["draining"]["reason"], "dead", "{shown}");

    // It is named no more, and its drain stands.
    gateway.kill();
    gateway.set("federation", "peers", peers(US));
    gateway.start().await;
    let shown = operator.get(&path(EU, "")).await.expect(200).json;
    is_unheard(&shown);
    let _ = operator.post(&path(EU, "/undrain"), &json!({})).await.expect(200);
    let _ = operator.get(&path(EU, "")).await.refused(404, "no-such-region");
    let _ = operator.post(&path(EU, "/drain"), &json!({})).await.refused(404, "no-such-region");
}
