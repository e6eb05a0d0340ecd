//! Lookups that were recorded come out the same when they are replayed, and show what another version would have changed.

use crate::guests;
use crate::world::{lone_gateway, register_many};
use meridian_tests::binary;
use meridian_tests::client::{Answer, Client, instance_path};
use meridian_tests::patience::until;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Output;
use std::time::Duration;

const SERVICE: &str = "orders-api";
const RECORD: &str = "/v1/namespaces/default/services/orders-api/record";
const BINDING: &str = "/v1/namespaces/default/bindings/orders-api";

fn replay(recording: &Path, policy: &str, more: &[&str]) -> Output {
    let recording = recording.to_str().unwrap();
    let fixed = ["--json", "policy", "replay", recording, policy];
    binary::command().args(fixed).args(more).output().unwrap()
}

/// What a replay printed, and whether it was content.
fn told(output: &Output) -> (Value, bool) {
    let text = String::from_utf8_lossy(&output.stdout);
    let value = serde_json::from_str(&text).unwrap_or_else(|e| {
        panic!("{e}: {text}{}", String::from_utf8_lossy(&output.stderr));
    });
    (value, output.status.success())
}

fn different(value: &Value) -> usize {
    value["different"].as_array().unwrap().len()
}

/// Records; a recording that only tests whether there is one may be in the way for a millisecond.
async fn record(operator: Client, order: Value) -> Answer {
    loop {
        let answer = operator.post(RECORD, &order).await;
        if answer.status != 409 {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Lookups with and without key, from two zones and from nowhere, single and in batches.
async fn ask(client: &Client, round: usize) {
    for n in 0..20 {
        let query = ["?zone=test-1a", "?zone=test-1b", ""][n % 3];
        let key = if n % 2 == 0 { format!("key=user-{}", round * 20 + n) } else { String::new() };
        let query = if query.is_empty() { format!("?{key}") } else { format!("{query}&{key}") };
        let _ = client.resolve(SERVICE, &query).await.expect(200);
    }
    let lookups: Vec<Value> =
        (0..10).map(|n| json!({ "service": SERVICE, "key": format!("b-{n}") })).collect();
    let _ = client.post("/v1/resolve", &json!({ "lookups": lookups })).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_by_the_version_that_answered_is_the_same_bit_for_bit() {
    let (gateway, issuer) = lone_gateway().await;
    let open = gateway.client();
    let operator = open.bearing(&issuer.operator());
    let owner = open.bearing(&issuer.workload(SERVICE));
    register_many(&owner, SERVICE, "o", 8).await;
    let _ = operator.put(BINDING, &json!({ "policy": "weighted", "config": {} })).await.expect(201);
    until("the policy answers", Duration::from_secs(2), async || {
        let answer = open.resolve(SERVICE, "?zone=test-1a").await;
        answer["policy"]["name"] == "weighted" && answer["policy"]["outcome"] == "ok"
    })
    .await;

    // The service changes while it is recorded: lookups are answered from several pictures of it.
    let order = json!({ "seconds": 60, "lookups": 200 });
    let recording = tokio::spawn(record(operator.clone(), order));
    until("another recording is refused", Duration::from_secs(5), async || {
        operator.post(RECORD, &json!({ "seconds": 0.001 })).await.status == 409
    })
    .await;
    for round in 0..8 {
        ask(&open, round).await;
        if round < 3 {
            let _ = owner.delete(&instance_path(SERVICE, &format!("o-{round}"))).await.expect(204);
        }
    }
    let recording = recording.await.unwrap().expect(200);
    assert_eq!(recording["lookups"].as_array().unwrap().len(), 200, "it ends when it has what is wanted");
    assert!(recording["pictures"].as_object().unwrap().len() >= 3, "{}", recording["pictures"]);
    let text = recording.json.to_string();
    assert!(
        !text.contains("user-") && !text.contains(&issuer.workload(SERVICE)),
        "a key or a token is in it"
    );
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("recording.json");
    std::fs::write(&file, &text).unwrap();

    let (same, content) = told(&replay(&file, "weighted", &["--require-same"]));
    assert_eq!((different(&same), content), (0, true), "{same:#}");
    let uploaded = directory.path().join("only-b.wasm");
    std::fs::write(&uploaded, guests::only_zone('b')).unwrap();
    let (other, content) = told(&replay(&file, uploaded.to_str().unwrap(), &["--require-same"]));
    assert!((50..200).contains(&different(&other)) && !content, "{} of 200", different(&other));
    let first = &other["different"][0];
    assert!(first["answer"] != first["after"] && first["entropy"].as_str().unwrap().len() == 16, "{first}");
    // Without the flag, differences are what was asked for.
    assert!(replay(&file, uploaded.to_str().unwrap(), &[]).status.success());
    std::fs::write(&file, "{}").unwrap();
    assert_eq!(replay(&file, "weighted", &[]).status.code(), Some(2));
}

/// One version that was bound anew with another config while it was recorded: each lookup is its own config's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_asks_with_the_config_that_answered() {
    let (gateway, issuer) = lone_gateway().await;
    let open = gateway.client();
    let operator = open.bearing(&issuer.operator());
    let owner = open.bearing(&issuer.workload(SERVICE));
    for (id, group) in [("s-1", "stable"), ("c-1", "canary")] {
        let mut body = meridian_tests::client::registration("test-1a", 1);
        body["deploymentGroup"] = json!(group);
        let _ = owner.register(SERVICE, id, &body).await.expect(201);
    }
    let bind = async |percent: u32| {
        let config = json!({ "percent": percent });
        let answer = operator.put(BINDING, &json!({ "policy": "canary", "config": config })).await;
        assert!(matches!(answer.status, 200 | 201), "{}", answer.json);
        let group = if percent == 0 { "s-1" } else { "c-1" };
        until("the config is in force", Duration::from_secs(2), async || {
            let answer = open.resolve(SERVICE, "?zone=test-1a&key=k").await;
            answer["endpoints"][0]["id"] == group && answer["policy"]["outcome"] == "ok"
        })
        .await;
    };
    bind(0).await;
    // Far more than are asked until the other config is in force.
    let recording = tokio::spawn(record(operator.clone(), json!({ "seconds": 60, "lookups": 300 })));
    until("it records", Duration::from_secs(5), async || {
        operator.post(RECORD, &json!({ "seconds": 0.001 })).await.status == 409
    })
    .await;
    ask(&open, 0).await;
    bind(100).await;
    while !recording.is_finished() {
        ask(&open, 1).await;
    }
    let recording = recording.await.unwrap().expect(200);
    let configs = recording["answeredBy"].as_array().unwrap();
    assert!(configs.len() >= 2, "{}", recording["answeredBy"]);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("recording.json");
    std::fs::write(&file, recording.json.to_string()).unwrap();

    let (same, content) = told(&replay(&file, "canary", &["--require-same"]));
    assert_eq!((different(&same), content), (0, true), "{same:#}");
    let (other, _) = told(&replay(&file, "canary", &["--config", "{\"percent\": 0}"]));
    assert!(different(&other) > 0, "{other:#}");

    // A version of the gateway, by its name.
    let version = operator.upload("mine", &guests::only_zone('a')).await;
    let (url, token) = (format!("http://{}", gateway.address()), issuer.operator());
    let mine =
        |more: &[&str]| replay(&file, "mine", &[&["--gateway", &url, "--token", &token], more].concat());
    for more in [&[][..], &["--version", &version]] {
        let (other, _) = told(&mine(more));
        assert_eq!(other["compared"], same["compared"], "{other:#}");
    }
    let unknown = format!("sha256:{}", "0".repeat(64));
    assert_eq!(mine(&["--version", &unknown]).status.code(), Some(4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recording_is_bounded_and_ends() {
    let (gateway, issuer) = lone_gateway().await;
    let open = gateway.client();
    let operator = open.bearing(&issuer.operator());
    for wrong in [
        json!({ "seconds": 0 }),
        json!({ "seconds": 61 }),
        json!({ "lookups": 0 }),
        json!({ "lookups": 10_001 }),
        json!({ "sample": 0 }),
        json!({ "sample": 1.5 }),
    ] {
        let _ = operator.post(RECORD, &wrong).await.refused(422, "invalid");
    }
    let _ = operator.post(RECORD, &json!({})).await.refused(404, "no-such-service");
    let _ = open.post(RECORD, &json!({})).await.refused(401, "token-missing");
    register_many(&open.bearing(&issuer.workload(SERVICE)), SERVICE, "o", 2).await;
    let other = open.bearing(&issuer.workload(SERVICE));
    let _ = other.post(RECORD, &json!({})).await.refused(403, "role-denied");

    // A sample of a tenth, and time that is up.
    let order = json!({ "seconds": 4, "sample": 0.1 });
    let recording = tokio::spawn(record(operator.clone(), order));
    until("it records", Duration::from_secs(2), async || {
        operator.post(RECORD, &json!({ "seconds": 0.001 })).await.status == 409
    })
    .await;
    for _ in 0..100 {
        let _ = open.resolve(SERVICE, "").await.expect(200);
    }
    let recording = recording.await.unwrap().expect(200);
    assert_eq!((&recording["seen"], &recording["dropped"]), (&json!(100), &json!(0)), "{}", recording.json);
    assert_eq!(recording["lookups"].as_array().unwrap().len(), 10);
    // The next one begins anew.
    let again = operator.post(RECORD, &json!({ "seconds": 0.1 })).await.expect(200);
    assert_eq!((&again["seen"], again["lookups"].as_array().unwrap().len()), (&json!(0), 0));
}
