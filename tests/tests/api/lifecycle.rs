//! The life of an instance: registered, found, renewed, changed, drained, gone.

use crate::world::lone_gateway;
use meridian_tests::client::{Answer, Client, instance_path, registration};
use reqwest::Method;
use serde_json::json;
use std::time::{Duration, SystemTime};

const SERVICE: &str = "orders-api";

fn path() -> String {
    instance_path(SERVICE, "o-1")
}

fn is_rfc3339(text: &str) -> bool {
    text.len() >= 20 && text.ends_with('Z') && text.as_bytes()[10] == b'T'
}

#[track_caller]
fn check_registered(answer: &Answer) {
    for (field, wanted) in [
        ("id", json!("o-1")),
        ("service", json!(SERVICE)),
        ("namespace", json!("default")),
        ("region", json!("test-1")),
        ("zone", json!("test-1a")),
        ("host", json!("127.0.0.1")),
        ("port", json!(8080)),
        ("weight", json!(100)),
        ("status", json!("healthy")),
        ("tags", json!([])),
        ("metadata", json!({})),
        ("applied", json!(true)),
    ] {
        assert_eq!(answer[field], wanted, "{field} in {}", answer.json);
    }
    let lease = &answer["lease"];
    assert_eq!((&lease["ttlSeconds"], &lease["heartbeatSeconds"]), (&json!(30), &json!(10)), "{lease}");
    assert!(lease["id"].as_str().is_some_and(|id| !id.is_empty()), "{lease}");
    assert!(is_rfc3339(lease["expiresAt"].as_str().unwrap_or_default()), "{lease}");
    assert!(answer.number("index") > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_is_found_from_its_registration_to_its_drain() {
    let (gateway, issuer) = lone_gateway().await;
    let open = gateway.client();
    let (owner, operator) = (open.bearing(&issuer.workload(SERVICE)), open.bearing(&issuer.operator()));
    let _ = open.resolve(SERVICE, "").await.refused(404, "no-such-service");

    let body = json!({ "host": "127.0.0.1", "port": 8080, "zone": "test-1a", "leaseTtlSeconds": 30 });
    let created = owner.register(SERVICE, "o-1", &body).await.expect(201);
    check_registered(&created);

    // Found in the same moment, with everything that the contract promises of an answer.
    let found =
        open.resolve(SERVICE, &format!("?zone=test-1a&index={}", created.number("index"))).await.expect(200);
    assert_eq!(found.endpoints(), ["o-1"]);
    let endpoint = &found["endpoints"][0];
    for field in ["id", "host", "port", "zone", "region", "version", "weight", "tags", "metadata"] {
        assert!(!endpoint[field].is_null(), "no {field} in {endpoint}");
    }
    let policy = &found["policy"];
    assert_eq!((&policy["name"], &policy["outcome"]), (&json!("zone-fallback"), &json!("ok")), "{policy}");
    assert!(
        policy["version"].as_str().is_some_and(|v| v.starts_with("sha256:") && v.len() == 71),
        "{policy}"
    );
    assert!(
        found.number("ageMs") < 5_000 && found.number("index") >= created.number("index"),
        "{}",
        found.json
    );
    for (field, wanted) in [("service", SERVICE), ("namespace", "default"), ("region", "test-1")] {
        assert_eq!(found[field], wanted);
    }

    // Registered again as it is: a heartbeat, not a write.
    let again = owner.register(SERVICE, "o-1", &body).await.expect(200);
    assert_eq!((again.etag(), &again["lease"]["id"]), (created.etag(), &created["lease"]["id"]));
    assert_eq!(deeds(&operator).await, ["register"], "the same registration again was written");

    let lease = created["lease"]["id"].clone();
    let beat = owner
        .post(&format!("{}/heartbeat", path()), &json!({ "lease": lease, "load": 3.5 }))
        .await
        .expect(200);
    assert!(
        is_rfc3339(beat["expiresAt"].as_str().unwrap_or_default()) && beat.number("index") > 0,
        "{}",
        beat.json
    );
    let bare = owner.send(Method::POST, &format!("{}/heartbeat", path()), &[], None).await.unwrap();
    let _ = bare.expect(200);
    assert_eq!(
        open.get(&path()).await.expect(200).etag(),
        created.etag(),
        "heartbeats were written to the record"
    );
    assert_eq!(deeds(&operator).await, ["register"], "heartbeats stand in the history");

    // Registered anew as something else: another lease, and the old one is superseded.
    let other = json!({ "host": "127.0.0.1", "port": 8081, "zone": "test-1a", "leaseTtlSeconds": 30 });
    let replaced = owner.register(SERVICE, "o-1", &other).await.expect(200);
    assert_ne!(replaced["lease"]["id"], lease);
    let late = owner.post(&format!("{}/heartbeat", path()), &json!({ "lease": lease })).await;
    let _ = late.refused(409, "lease-superseded");

    let patched = owner
        .json_with(
            Method::PATCH,
            &path(),
            &json!({ "weight": 7, "tags": ["v2"], "metadata": { "team": "inventory", "tier": "1" } }),
            &[("content-type", "application/merge-patch+json")],
        )
        .await
        .expect(200);
    assert_eq!((&patched["weight"], &patched["tags"]), (&json!(7), &json!(["v2"])));
    let patched = owner.patch(&path(), &json!({ "metadata": { "tier": null } })).await.expect(200);
    assert_eq!(patched["metadata"], json!({ "team": "inventory" }), "null removes, the rest stays");
    let found = open.resolve(SERVICE, &format!("?index={}", patched.number("index"))).await.expect(200);
    assert_eq!(found["endpoints"][0]["weight"], 7);

    let drained =
        owner.patch(&path(), &json!({ "status": "draining", "reason": "deploy 7" })).await.expect(200);
    assert_eq!(drained["status"], "draining");
    let nothing = open.resolve(SERVICE, &format!("?index={}", drained.number("index"))).await;
    assert!(nothing.json["detail"].as_str().unwrap_or_default().contains("draining"), "{}", nothing.json);
    let _ = nothing.refused(503, "none-healthy");

    let _ = owner.delete(&format!("{}?reason=scaled%20in", path())).await.expect(204);
    let _ = open.get(&path()).await.refused(404, "no-such-instance");
    let _ = owner.delete(&path()).await.refused(404, "no-such-instance");
    // Still known: it had an instance within a day.
    let _ = open.resolve(SERVICE, "").await.refused(503, "none-registered");
    let _ = owner.post(&format!("{}/heartbeat", path()), &json!({})).await.refused(404, "lease-unknown");

    // Who, what, when, where, why, before and after.
    assert_eq!(deeds(&operator).await, ["deregister", "patch", "patch", "patch", "replace", "register"]);
    let history = operator.get(HISTORY).await.expect(200);
    let last = &history["items"][0];
    assert_eq!(
        (&last["reason"], &last["actor"]["role"]),
        (&json!("scaled in"), &json!("workload")),
        "{last}"
    );
    assert!(
        last["after"].is_null() && last["before"].is_object() && is_rfc3339(last["at"].as_str().unwrap()),
        "{last}"
    );
}

const HISTORY: &str = "/v1/history?ns=default&service=orders-api";

/// What was done to the service, the newest first.
async fn deeds(operator: &Client) -> Vec<String> {
    let history = operator.get(HISTORY).await.expect(200);
    let items = history["items"].as_array().unwrap();
    items.iter().map(|item| item["action"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_are_guarded_by_etags() {
    let (gateway, issuer) = lone_gateway().await;
    let owner = gateway.client().bearing(&issuer.workload(SERVICE));
    let put = async |port: u16, header: (&str, &str)| {
        owner.json_with(Method::PUT, &path(), &registration("test-1a", port), &[header]).await
    };
    let _ = put(1, ("if-match", "\"1\"")).await.refused(412, "precondition-failed");
    let created = put(1, ("if-none-match", "*")).await.expect(201);
    let _ = put(2, ("if-none-match", "*")).await.refused(412, "precondition-failed");
    let _ = put(2, ("if-match", "\"0\"")).await.refused(412, "precondition-failed");
    let replaced = put(2, ("if-match", &created.etag())).await.expect(200);
    assert_ne!(created.etag(), replaced.etag());
    assert_eq!(owner.get(&path()).await.expect(200).etag(), replaced.etag());

    let patch = async |tag: &str| {
        owner.json_with(Method::PATCH, &path(), &json!({ "weight": 9 }), &[("if-match", tag)]).await
    };
    let _ = patch(&created.etag()).await.refused(412, "precondition-failed");
    let patched = patch(&replaced.etag()).await.expect(200);
    let stale = [("if-match", replaced.etag())];
    let stale: Vec<(&str, &str)> = stale.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let late = owner.send(Method::DELETE, &path(), &stale, None).await.unwrap();
    let _ = late.refused(412, "precondition-failed");
    assert_eq!(
        owner.get(&path()).await.expect(200).etag(),
        patched.etag(),
        "a refused delete changed something"
    );
}

/// A deploy that replaces a process under the same id: what the old process still does on its way out must not hit the
/// new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_predecessor_that_comes_late_does_not_touch_its_successor() {
    let (gateway, issuer) = lone_gateway().await;
    let open = gateway.client();
    let owner = open.bearing(&issuer.workload(SERVICE));
    let old = owner.register(SERVICE, "o-1", &registration("test-1a", 1)).await.expect(201);
    let new = owner.register(SERVICE, "o-1", &registration("test-1a", 2)).await.expect(200);
    let lease = old["lease"]["id"].as_str().unwrap();

    let drain = owner.patch(&path(), &json!({ "status": "draining", "lease": lease })).await;
    let _ = drain.refused(409, "lease-superseded");
    let _ =
        owner.delete(&format!("{}?lease={lease}&reason=bye", path())).await.refused(409, "lease-superseded");
    let beat =
        owner.post(&format!("{}/heartbeat", path()), &json!({ "lease": lease, "status": "draining" })).await;
    let _ = beat.refused(409, "lease-superseded");

    let now = open.get(&path()).await.expect(200);
    assert_eq!(
        (now.etag(), &now["status"], &now["port"]),
        (new.etag(), &json!("healthy"), &json!(2)),
        "{}",
        now.json
    );
    assert_eq!(open.resolve(SERVICE, "").await.expect(200).endpoints(), ["o-1"]);
    let lease = new["lease"]["id"].as_str().unwrap();
    let _ = owner.delete(&format!("{}?lease={lease}", path())).await.expect(204);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_says_when_it_ends() {
    let (gateway, issuer) = lone_gateway().await;
    let owner = gateway.client().bearing(&issuer.workload(SERVICE));
    let mut body = registration("test-1a", 1);
    body["leaseTtlSeconds"] = json!(60);
    let before = SystemTime::now();
    let created = owner.register(SERVICE, "o-1", &body).await.expect(201);
    let at = unix_seconds(created["lease"]["expiresAt"].as_str().unwrap());
    let now = before.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let left = Duration::from_secs(at).saturating_sub(now).as_secs();
    assert!((58..=62).contains(&left), "a lease of 60 s ends in {left} s");
}

/// Seconds since 1970 of `2026-04-18T10:20:30.000Z`, by the days of the civil calendar.
fn unix_seconds(text: &str) -> u64 {
    let number = |from: usize, to: usize| text[from..to].parse::<u64>().unwrap();
    let (year, month, day) = (number(0, 4), number(5, 7), number(8, 10));
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    days * 86_400 + number(11, 13) * 3_600 + number(14, 16) * 60 + number(17, 19)
}

/// Patch upon patch must not make what no registration could be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patches_make_no_instance_larger_than_a_registration() {
    let (gateway, issuer) = lone_gateway().await;
    let owner = gateway.client().bearing(&issuer.workload(SERVICE));
    let _ = owner.register(SERVICE, "o-1", &registration("test-1a", 1)).await.expect(201);
    let half = |from: usize| {
        let pairs = (from..from + 32).map(|n| (format!("{n:0>64}"), json!("v".repeat(250))));
        json!({ "metadata": pairs.collect::<serde_json::Map<_, _>>() })
    };
    let first = owner.patch(&path(), &half(0)).await.expect(200);
    let refused = owner.patch(&path(), &half(32)).await.refused(422, "invalid");
    assert_eq!(refused["errors"][0]["field"], "metadata", "{}", refused.json);
    assert!(refused["detail"].as_str().unwrap().contains("16384"), "{}", refused.json);
    assert_eq!(owner.get(&path()).await.expect(200).etag(), first.etag(), "a refused patch was stored");
    // One that is itself too large is refused before it is read.
    let long = json!({ "reason": "x".repeat(17 * 1024) });
    let _ = owner.patch(&path(), &long).await.refused(413, "too-large");
}

/// Callers of a service that scaled to nothing are told so after a restart too, and not that it never was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_lost_its_last_instance_is_still_known_after_a_restart() {
    let (mut gateway, issuer) = lone_gateway().await;
    let owner = gateway.client().bearing(&issuer.workload(SERVICE));
    let _ = owner.register(SERVICE, "o-1", &registration("test-1a", 1)).await.expect(201);
    let _ = owner.delete(&path()).await.expect(204);
    for _ in 0..2 {
        gateway.terminate();
        let _ = gateway.ended(Duration::from_secs(15)).await;
        gateway.start().await;
        let _ = gateway.client().resolve(SERVICE, "").await.refused(503, "none-registered");
        let _ = gateway.client().resolve("nobody", "").await.refused(404, "no-such-service");
    }
    // Its age goes on: what has been empty for longer than `known_for` is forgotten at the start.
    gateway.terminate();
    let _ = gateway.ended(Duration::from_secs(15)).await;
    let mut gateway = gateway.with("lookups", "known_for", "100ms");
    gateway.start().await;
    let _ = gateway.client().resolve(SERVICE, "").await.refused(404, "no-such-service");
}
