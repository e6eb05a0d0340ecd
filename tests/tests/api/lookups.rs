//! Lookups: what they answer, how they are chosen, how one reads one's own writes, and watching.

use crate::world::{lone_gateway, register_many};
use meridian_tests::client::{Answer, instance_path, registration};
use meridian_tests::patience::until;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

const SERVICE: &str = "orders-api";

fn shares(answer: &Answer) -> BTreeMap<String, f64> {
    let endpoints = answer["endpoints"].as_array().unwrap();
    endpoints.iter().map(|e| (e["id"].as_str().unwrap().to_owned(), e["share"].as_f64().unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_endpoints_come_with_tier_and_shares_that_sum_to_one() {
    let (gateway, issuer) = lone_gateway().await;
    let open = gateway.client();
    let owner = open.bearing(&issuer.workload(SERVICE));
    register_many(&owner, SERVICE, "o", 6).await;
    let _ = owner.patch(&instance_path(SERVICE, "o-5"), &json!({ "status": "draining" })).await.expect(200);

    for query in ["?n=all", "?n=all&zone=test-1a", "?n=all&zone=test-1b", "?n=all&zone=test-1a&key=k"] {
        let answer = open.resolve(SERVICE, query).await.expect(200);
        let shares = shares(&answer);
        let sum: f64 = shares.values().sum();
        assert!((sum - 1.0).abs() < 1e-9, "{query}: the shares sum to {sum}: {shares:?}");
        assert!(!shares.contains_key("o-5"), "{query}: a draining instance is offered");
        assert!(
            answer["endpoints"].as_array().unwrap().iter().all(|e| e["tier"].is_u64()),
            "{}",
            answer.json
        );
    }
    // The caller's zone comes first where it is whole.
    let near = open.resolve(SERVICE, "?n=all&zone=test-1a").await.expect(200);
    let first: Vec<&Value> =
        near["endpoints"].as_array().unwrap().iter().filter(|e| e["tier"] == 0).map(|e| &e["zone"]).collect();
    assert!(!first.is_empty() && first.iter().all(|zone| **zone == "test-1a"), "{}", near.json);

    let some = open.resolve(SERVICE, "?n=3").await.expect(200).endpoints();
    assert_eq!(some.iter().collect::<BTreeSet<_>>().len(), 3, "n=3 gave {some:?}");
    let many = open.resolve(SERVICE, "?n=1000").await.expect(200).endpoints();
    assert_eq!(many.len(), 5, "n above what there is gives all of them");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_accounts_for_every_candidate() {
    let (gateway, issuer) = lone_gateway().await;
    let open = gateway.client();
    let owner = open.bearing(&issuer.workload(SERVICE));
    register_many(&owner, SERVICE, "o", 3).await;
    let path = instance_path(SERVICE, "o-2");
    let _ = owner.patch(&path, &json!({ "status": "draining", "reason": "deploy 7" })).await.expect(200);

    let answer = open.resolve(SERVICE, "?explain=true&zone=test-1a").await.expect(200);
    let candidates = answer["explain"]["candidates"].as_array().unwrap();
    let ids: Vec<&str> = candidates.iter().filter_map(|c| c["id"].as_str()).collect();
    assert_eq!(ids, ["o-0", "o-1", "o-2"]);
    let dropped = &candidates[2];
    assert_eq!((&dropped["kept"], &dropped["status"]), (&json!(false), &json!("draining")));
    assert!(dropped["why"].as_str().unwrap().contains("deploy 7"), "{dropped}");
    assert!(candidates.iter().all(|c| !c["why"].as_str().unwrap_or_default().is_empty()), "{candidates:?}");
    assert_eq!(answer["explain"]["caller"]["zone"], "test-1a");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_answers_in_order_and_refuses_one_by_one() {
    let (gateway, issuer) = lone_gateway().await;
    let open = gateway.client();
    let owner = open.bearing(&issuer.workload(SERVICE));
    register_many(&owner, SERVICE, "o", 4).await;
    let lookups = json!({ "lookups": [
        { "service": SERVICE, "zone": "test-1a" },
        { "service": "nobody" },
        { "service": "../etc" },
        { "service": SERVICE, "n": "all" },
        { "service": SERVICE, "key": "cart-7" },
        { "service": SERVICE, "n": 0 },
    ] });
    let answer = open.post("/v1/resolve", &lookups).await.expect(200);
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results.len(), 6);
    let code = |n: usize| results[n]["error"]["code"].as_str().unwrap_or("none");
    assert_eq!(results[0]["endpoints"][0]["zone"], "test-1a");
    assert_eq!((code(1), code(2)), ("no-such-service", "bad-name"));
    assert_eq!(results[3]["endpoints"].as_array().unwrap().len(), 4);
    assert_eq!(code(5), "invalid", "{}", results[5]);
    // The same key gives the same endpoint, however it is asked.
    let single = open.resolve(SERVICE, "?key=cart-7").await.expect(200);
    assert_eq!(results[4]["endpoints"][0]["id"], single["endpoints"][0]["id"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_can_wait_for_its_own_write() {
    let (gateway, issuer) = lone_gateway().await;
    let open = gateway.client();
    let owner = open.bearing(&issuer.workload(SERVICE));
    let created = owner.register(SERVICE, "o-1", &registration("test-1a", 1)).await.expect(201);
    let index = created.number("index");
    for path in [
        format!("/v1/resolve/{SERVICE}?index={index}"),
        format!("/v1/namespaces/default/services?index={index}"),
        format!("/v1/namespaces/default/services/{SERVICE}?index={index}"),
        format!("{}?index={index}", instance_path(SERVICE, "o-1")),
    ] {
        assert!(open.get(&path).await.expect(200).number("index") >= index, "{path}");
    }
    let start = Instant::now();
    let _ = open.resolve(SERVICE, &format!("?index={}", index + 1_000)).await.refused(503, "index-behind");
    let waited = start.elapsed();
    assert!(
        (Duration::from_millis(900)..Duration::from_secs(3)).contains(&waited),
        "waited {waited:?}, not a second"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_hears_of_another_answer_and_of_nothing_else() {
    let (gateway, issuer) = lone_gateway().await;
    let open = gateway.client();
    let owner = open.bearing(&issuer.workload(SERVICE));
    register_many(&owner, SERVICE, "o", 2).await;
    open.warm(&format!("/v1/resolve/{SERVICE}?zone=test-1a")).await;
    let tag = open.resolve(SERVICE, "?zone=test-1a").await.expect(200).etag();
    // The tag is of the whole plan, not of what was drawn from it.
    for query in ["?zone=test-1a", "?zone=test-1a&n=2", "?zone=test-1a&n=all"] {
        assert_eq!(open.resolve(SERVICE, query).await.expect(200).etag(), tag, "{query}");
    }
    let unchanged =
        open.get_with(&format!("/v1/resolve/{SERVICE}?zone=test-1a"), &[("if-none-match", &tag)]).await;
    assert_eq!((unchanged.status, unchanged.etag()), (304, tag.clone()));

    let start = Instant::now();
    let quiet = open.resolve(SERVICE, &format!("?zone=test-1a&etag={}&wait=1s", tag.trim_matches('"'))).await;
    assert_eq!(quiet.status, 304);
    assert!(
        (0.95..2.0).contains(&start.elapsed().as_secs_f64()),
        "waited {:?}, not a second",
        start.elapsed()
    );

    let watcher = open.clone();
    let target = format!("/v1/resolve/{SERVICE}?zone=test-1a&wait=15s");
    let waiting = tokio::spawn(async move {
        let answer = watcher.get_with(&target, &[("if-none-match", &tag)]).await;
        (answer, Instant::now())
    });
    let mut client = open.clone();
    until("somebody watches", Duration::from_secs(5), async || {
        meridian_tests::figures::one(&client, "meridian_watchers").await >= 1.0
    })
    .await;
    client = owner.clone();
    // Registered again with what no answer shows: not a change.
    let mut quiet = registration("test-1a", 1000);
    quiet["capacity"] = json!(5);
    let _ = client.register(SERVICE, "o-0", &quiet).await.expect(200);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished(), "woken by a write that changes no answer");
    let _ = client.patch(&instance_path(SERVICE, "o-0"), &json!({ "status": "draining" })).await.expect(200);
    let changed = Instant::now();
    let (answer, at) = waiting.await.unwrap();
    assert_eq!(answer.expect(200).endpoints(), ["o-1"]);
    let took = at.saturating_duration_since(changed);
    assert!(took < Duration::from_secs(1), "heard of it after {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_come_in_pages() {
    let (gateway, issuer) = lone_gateway().await;
    let open = gateway.client();
    let owner = open.bearing(&issuer.workload(SERVICE));
    register_many(&owner, SERVICE, "o", 5).await;
    let mut seen = Vec::new();
    let mut next = String::new();
    loop {
        let path = format!("/v1/namespaces/default/services/{SERVICE}?limit=2&next={next}");
        let page = open.get(&path).await.expect(200);
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 2);
        seen.extend(items.iter().map(|item| item["id"].as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            Some(more) => next = more.to_owned(),
            None => break,
        }
    }
    assert_eq!(seen, ["o-0", "o-1", "o-2", "o-3", "o-4"]);
    let passing = format!("/v1/namespaces/default/services/{SERVICE}?health=passing");
    let _ = owner.patch(&instance_path(SERVICE, "o-3"), &json!({ "status": "unhealthy" })).await.expect(200);
    assert_eq!(open.get(&passing).await.expect(200)["items"].as_array().unwrap().len(), 4);
    let services = open.get("/v1/namespaces/default/services").await.expect(200);
    assert_eq!(
        services["items"][0]["instances"],
        json!({
            "healthy": 4, "unhealthy": 1, "starting": 0, "draining": 0, "expired": 0
        })
    );
}
