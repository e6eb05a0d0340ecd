//! Who may do what, over HTTP. The matrix of odd tokens is the identity module's own test.

use crate::world::lone_gateway;
use meridian_tests::client::{Client, instance_path, registration};
use meridian_tests::gateway::{GatewayProcess, embedded};
use meridian_tests::tokens::Issuer;
use reqwest::Method;
use serde_json::json;
use std::time::Duration;

const SERVICE: &str = "orders-api";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_do_not_hold_are_refused_by_name_and_nothing_is_stored() {
    let (gateway, issuer) = lone_gateway().await;
    let open = gateway.client();
    let put = async |client: &Client| client.register(SERVICE, "o-1", &registration("test-1a", 1)).await;

    let missing = put(&open).await.refused(401, "token-missing");
    assert!(missing.header("www-authenticate").is_some_and(|value| value.starts_with("Bearer")));
    // The same names, signed with a key that the gateway does not know.
    let foreign = Issuer::init().workload(SERVICE);
    let _ = put(&open.bearing(&foreign)).await.refused(401, "token-key-unknown");

    let token = issuer.workload(SERVICE);
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let mut turned: Vec<char> = signature.chars().collect();
    turned[10] = if turned[10] == 'A' { 'B' } else { 'A' };
    let forged = format!("{signed}.{}", turned.into_iter().collect::<String>());
    let _ = put(&open.bearing(&forged)).await.refused(401, "token-signature");
    // {"alg":"none"}
    let (_, payload) = signed.split_once('.').unwrap();
    let unsigned = put(&open.bearing(&format!("eyJhbGciOiJub25lIn0.{payload}."))).await.expect(401);
    assert!(unsigned.code().starts_with("token-"), "{}", unsigned.json);
    let _ = put(&open.bearing("not-a-token")).await.refused(401, "token-malformed");
    let long = put(&open.bearing(&format!("{signed}.{}", "A".repeat(9_000)))).await.expect(401);
    assert!(long.code().starts_with("token-"), "{}", long.json);

    assert!(
        open.get("/v1/namespaces/default/services").await.expect(200)["items"].as_array().unwrap().is_empty()
    );
    let _ = put(&open.bearing(&token)).await.expect(201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_ends_and_its_lease_goes_with_it() {
    let (gateway, issuer) = lone_gateway().await;
    let short = issuer.mint(&["--service", SERVICE, "--ttl", "1s"]);
    let owner = gateway.client().bearing(&short);
    let mut body = registration("test-1a", 1);
    body["leaseTtlSeconds"] = json!(3);
    let created = owner.register(SERVICE, "o-1", &body).await.expect(201);
    let lease = created["lease"]["id"].clone();
    // The leeway is 10 s; the lease outlives the token by a TTL at most, whatever beats.
    let beat = async || {
        owner.post(&format!("{}/heartbeat", instance_path(SERVICE, "o-1")), &json!({ "lease": lease })).await
    };
    meridian_tests::patience::until("the token is too old", Duration::from_secs(20), async || {
        let answer = beat().await;
        match (answer.status, answer.code()) {
            // By then the guardian may have ended the lease already.
            (200, _) | (404, "lease-unknown") => false,
            (401, "token-expired") => true,
            _ => panic!("{}", answer.json),
        }
    })
    .await;
    assert_eq!(gateway.client().status_of(SERVICE, "o-1").await.as_deref(), Some("expired"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_role_may_do_its_own_and_no_more() {
    let (gateway, issuer) = lone_gateway().await;
    let open = gateway.client();
    let owner = open.bearing(&issuer.workload(SERVICE));
    let other = open.bearing(&issuer.workload("billing"));
    let (operator, reader) = (open.bearing(&issuer.operator()), open.bearing(&issuer.reader()));
    let body = registration("test-1a", 1);
    let path = instance_path(SERVICE, "o-1");
    let created = owner.register(SERVICE, "o-1", &body).await.expect(201);

    let _ = other.register(SERVICE, "o-2", &body).await.refused(403, "service-denied");
    let elsewhere = format!("/v1/namespaces/prod/services/{SERVICE}/instances/o-1");
    let _ = owner.put(&elsewhere, &body).await.refused(403, "namespace-denied");
    for client in [&operator, &reader] {
        let _ = client.register(SERVICE, "o-2", &body).await.refused(403, "role-denied");
    }
    for stranger in [&other, &reader] {
        let beat = stranger.post(&format!("{path}/heartbeat"), &json!({})).await.expect(403);
        beat.problem();
        stranger.patch(&path, &json!({ "weight": 1 })).await.expect(403).problem();
        stranger.delete(&path).await.expect(403).problem();
    }
    let bind = json!({ "policy": "zone-fallback" });
    for client in [&owner, &reader] {
        let answer = client.put(&format!("/v1/namespaces/default/bindings/{SERVICE}"), &bind).await;
        let _ = answer.refused(403, "role-denied");
        let upload =
            client.send(Method::PUT, "/v1/policies/mine", &[], Some(b"\0asm".to_vec())).await.unwrap();
        let _ = upload.refused(403, "role-denied");
        let _ = client.get("/v1/history").await.refused(403, "role-denied");
    }
    // A batch is authorised one by one.
    let beats = json!({ "heartbeats": [
        { "service": SERVICE, "instanceId": "o-1" },
        { "service": "billing", "instanceId": "b-1" },
        { "service": SERVICE, "instanceId": "nobody" },
        { "service": SERVICE },
    ] });
    let answer = owner.post("/v1/heartbeats", &beats).await.expect(200);
    let results = answer["results"].as_array().unwrap();
    assert!(results[0]["expiresAt"].is_string(), "{}", results[0]);
    let code = |n: usize| results[n]["error"]["code"].as_str().unwrap_or("none").to_owned();
    assert!(matches!(code(1).as_str(), "service-denied" | "lease-unknown"), "{}", results[1]);
    assert_eq!((code(2).as_str(), code(3).as_str()), ("lease-unknown", "invalid"));

    let after = open.get(&path).await.expect(200);
    assert_eq!(after.etag(), created.etag(), "somebody who may not changed the instance");
    // Operators may drain, patch and delete.
    let _ =
        operator.patch(&path, &json!({ "status": "draining", "reason": "maintenance" })).await.expect(200);
    let _ = operator.delete(&path).await.expect(204);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lookups_need_a_token_where_the_configuration_says_so() {
    let issuer = Issuer::init();
    let gateway = GatewayProcess::new(&issuer, embedded()).with("http", "reads", "token").started().await;
    let open = gateway.client();
    let owner = open.bearing(&issuer.workload(SERVICE));
    let _ = owner.register(SERVICE, "o-1", &registration("test-1a", 1)).await.expect(201);
    let reads = [
        format!("/v1/resolve/{SERVICE}"),
        format!("/v1/resolve/{SERVICE}?n=all&explain=true"),
        "/v1/namespaces".to_owned(),
        "/v1/namespaces/default/services".to_owned(),
        format!("/v1/namespaces/default/services/{SERVICE}"),
        instance_path(SERVICE, "o-1"),
    ];
    let clients = [
        ("workload", owner.clone()),
        ("operator", open.bearing(&issuer.operator())),
        ("reader", open.bearing(&issuer.reader())),
    ];
    for path in &reads {
        let _ = open.get(path).await.refused(401, "token-missing");
        let streamed = open.get_with(path, &[("accept", "text/event-stream")]).await;
        let _ = streamed.refused(401, "token-missing");
        for (role, client) in &clients {
            assert_eq!(client.get(path).await.status, 200, "{role}: {path}");
        }
    }
    let batch = json!({ "lookups": [{ "service": SERVICE }] });
    let _ = open.post("/v1/resolve", &batch).await.refused(401, "token-missing");
    let answer = clients[2].1.post("/v1/resolve", &batch).await.expect(200);
    assert_eq!(answer["results"][0]["endpoints"][0]["id"], "o-1");
    for path in ["/livez", "/readyz", "/metrics", "/openapi.json"] {
        assert_eq!(open.get(path).await.status, 200, "{path} is for everyone");
    }
}
