//! A policy on its way: shadow, canary, promotion, roll-back by hand and by itself, on every gateway of a region.

use crate::PACE;
use crate::guests;
use crate::world::{World, register_many};
use meridian_registry::testing::RealEtcd;
use meridian_tests::client::{Answer, Client};
use meridian_tests::figures;
use meridian_tests::gateway::{GatewayProcess, embedded, etcd};
use meridian_tests::load::Load;
use meridian_tests::patience::until;
use meridian_tests::tokens::Issuer;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const SERVICE: &str = "orders-api";
const BINDING: &str = "/v1/namespaces/default/bindings/orders-api";
/// From the call to the last gateway that answers by it (the issue's own bound).
const ROLLBACK: Duration = Duration::from_millis(500);
/// How many are timed.
const ROLLBACKS: usize = 3;
/// From an answer of the API to its effect everywhere.
const EFFECT: Duration = Duration::from_secs(1);

/// A region of two gateways in front of an etcd, with settings that a test can wait for.
async fn region() -> World {
    let (etcd_process, issuer) = (RealEtcd::start(), Issuer::init());
    let mut gateways = Vec::new();
    for _ in 0..2 {
        let gateway = GatewayProcess::new(&issuer, etcd(&etcd_process.endpoints()))
            .with("policies", "soak", "1s")
            .with("policies", "soak_lookups", 20)
            .with("policies", "promote_lookups", 50);
        gateways.push(gateway.started().await);
    }
    let world = World { gateways, etcd: etcd_process, issuer };
    let client = world.client();
    register_many(&client.bearing(&world.issuer.workload(SERVICE)), SERVICE, "o", 4).await;
    for gateway in &world.gateways {
        until("instances are known", Duration::from_secs(2), async || {
            gateway.client().resolve(SERVICE, "?zone=test-1a").await.status == 200
        })
        .await;
    }
    world
}

fn body(version: &str, more: &Value) -> Value {
    let mut body = json!({ "policy": "only-zone", "version": version });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// How many of `count` keys one gateway sends to zone a, and how many to zone b.
async fn zones(client: &Client, count: u32) -> (u32, u32) {
    let (mut a, mut b) = (0, 0);
    for key in 0..count {
        let answer = client.resolve(SERVICE, &format!("?zone=test-1a&key=user-{key}")).await.expect(200);
        match answer["endpoints"][0]["zone"].as_str().unwrap() {
            "test-1a" => a += 1,
            _ => b += 1,
        }
    }
    (a, b)
}

/// Which of 60 keys the canary answers.
async fn canary_keys(client: &Client) -> Vec<u32> {
    let mut keys = Vec::new();
    for key in 0..60 {
        let answer = client.resolve(SERVICE, &format!("?zone=test-1a&key=user-{key}")).await.expect(200);
        if answer["policy"]["name"] == "spillover" {
            keys.push(key);
        }
    }
    keys
}

async fn everywhere(world: &World, what: &str, within: Duration, is: impl Fn(&Answer) -> bool) -> Duration {
    let begun = Instant::now();
    for gateway in &world.gateways {
        let client = gateway.client();
        until(what, within, async || {
            let answer = client.resolve(SERVICE, "?zone=test-1a").await.expect(200);
            is(&answer)
        })
        .await;
    }
    begun.elapsed()
}

/// Promotes the candidate although it moves a zone, and rolls it back; how long that took everywhere goes into `took`.
async fn promoted_and_back(world: &World, operator: &Client, version: &str, took: &mut Vec<Duration>) {
    let forced = json!({ "force": true, "reason": "zone a is being emptied" });
    let promoted = operator.post(&format!("{BINDING}/promote"), &forced).await.expect(200);
    assert_eq!((&promoted["active"]["version"], &promoted["candidate"]), (&json!(version), &Value::Null));
    assert_eq!(promoted["active"]["way"], "forced", "{}", promoted.json);
    let _ = everywhere(world, "the promoted version answers", EFFECT, |answer| {
        answer["policy"]["version"] == version
    })
    .await;

    let called = Instant::now();
    let back =
        operator.post(&format!("{BINDING}/rollback"), &json!({ "reason": "enough" })).await.expect(200);
    assert_eq!(back["active"]["policy"], "zone-fallback", "{}", back.json);
    let former = |answer: &Answer| answer["policy"]["name"] == "zone-fallback";
    let _ = everywhere(world, "the former version answers", ROLLBACK, former).await;
    took.push(called.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_goes_from_shadow_to_canary_to_active_and_back() {
    let world = region().await;
    let operator = world.client().bearing(&world.issuer.operator());
    let clients: Vec<Client> = world.gateways.iter().map(GatewayProcess::client).collect();
    let version = operator.upload("only-zone", &guests::only_zone('b')).await;
    for path in ["promote", "rollback"] {
        let _ = operator.post(&format!("{BINDING}/{path}"), &json!({})).await.refused(404, "no-such-binding");
    }

    // A shadow changes no answer, and shows what it would change.
    let shadow = operator.put(BINDING, &body(&version, &json!({ "stage": "shadow" }))).await.expect(201);
    assert_eq!(shadow["active"]["policy"], "zone-fallback", "{}", shadow.json);
    assert_eq!(shadow["candidate"]["stage"], "shadow", "{}", shadow.json);
    let _ = operator.post(&format!("{BINDING}/promote"), &json!({})).await.refused(409, "not-proven");
    until("the shadow was asked", Duration::from_secs(10), async || {
        assert_eq!(zones(&clients[0], 40).await, (40, 0), "a shadow changed an answer");
        let seen = operator.get(&format!("{BINDING}/diff")).await.expect(200);
        seen["candidate"]["seen"]["answered"].as_u64().unwrap_or(0) >= 50
    })
    .await;
    let diff = operator.get(&format!("{BINDING}/diff")).await.expect(200);
    let seen = &diff["candidate"]["seen"];
    assert_eq!((&seen["changed"], &seen["faults"]), (&json!(1.0), &json!(0)), "{}", diff.json);
    assert_eq!(seen["places"]["test-1b"], json!({ "before": 0.0, "after": 1.0 }), "{}", diff.json);
    assert!(!seen["examples"].as_array().unwrap().is_empty(), "{}", diff.json);

    // All of one zone's lookups would move at once: that is refused, by name, unless somebody says why it is wanted.
    let refused = operator.post(&format!("{BINDING}/promote"), &json!({})).await.refused(409, "not-proven");
    assert!(refused["detail"].as_str().unwrap().contains("test-1a would lose 100 %"), "{}", refused.json);
    let _ =
        operator.post(&format!("{BINDING}/promote"), &json!({ "force": true })).await.refused(422, "invalid");

    // Roll-back is one call, and as quick where both gateways are busy.
    let busy = Load::start(&world.addresses(), &format!("/v1/resolve/{SERVICE}?zone=test-1a"), PACE);
    until("both are busy", Duration::from_secs(10), async || busy.report().lookups > 100).await;
    let mut took = Vec::new();
    for round in 0..ROLLBACKS {
        if round > 0 {
            let _ = operator.put(BINDING, &body(&version, &json!({ "stage": "shadow" }))).await.expect(200);
        }
        promoted_and_back(&world, &operator, &version, &mut took).await;
    }
    let busy = busy.stop();
    println!("roll-backs take effect in both gateways after {took:?}, among {} lookups", busy.lookups);
    busy.check();
    assert!(took.iter().all(|took| *took <= ROLLBACK), "roll-backs took effect after {took:?}");
    // The same call again means the version that is gone already.
    let again = json!({ "version": version });
    let _ = operator.post(&format!("{BINDING}/rollback"), &again).await.refused(409, "another-version");

    // A canary takes the same keys on every gateway, keeps them, and is promoted when it was asked often enough.
    let canary = json!({ "policy": "spillover", "stage": "canary", "percent": 30 });
    let _ = operator.put(BINDING, &canary).await.expect(200);
    let mut sides = Vec::new();
    for client in &clients {
        until("the canary answers its part", EFFECT, async || {
            (6..=32).contains(&canary_keys(client).await.len())
        })
        .await;
        sides.push(canary_keys(client).await);
    }
    assert_eq!(sides[0], sides[1], "both gateways part keys the same way");
    assert_eq!(sides[0], canary_keys(&clients[0]).await, "a key changed sides");
    until("the canary is promoted", Duration::from_secs(10), async || {
        let _ = canary_keys(&clients[0]).await;
        operator.post(&format!("{BINDING}/promote"), &json!({})).await.status == 200
    })
    .await;
    let all = |answer: &Answer| answer["policy"]["name"] == "spillover";
    let _ = everywhere(&world, "the canary answers all", EFFECT, all).await;
    let history = operator.get("/v1/history?ns=default&service=orders-api").await.expect(200);
    let actions: Vec<&str> =
        history["items"].as_array().unwrap().iter().filter_map(|entry| entry["action"].as_str()).collect();
    for action in ["promote", "rollback", "force-promote", "stage"] {
        assert!(actions.contains(&action), "{actions:?}");
    }
}

/// A canary that fails is given up by the gateway that sees it, and the history says why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_that_traps_is_given_up_by_itself_and_no_lookup_fails() {
    const TRAPPED: &str = "trap-api";
    let issuer = Issuer::init();
    // That it would move all lookups of a zone is not what it is to be given up for here.
    let gateway = GatewayProcess::new(&issuer, embedded()).with("policies", "max_shift", 1.0).started().await;
    let open = gateway.client();
    let operator = open.bearing(&issuer.operator());
    register_many(&open.bearing(&issuer.workload(TRAPPED)), TRAPPED, "o", 4).await;
    let version = operator.upload("only-zone", &guests::only_zone('b')).await;
    let path = format!("/v1/namespaces/default/bindings/{TRAPPED}");
    let canary = json!({ "policy": "only-zone", "version": version, "stage": "canary", "percent": 50 });
    let _ = operator.put(&path, &canary).await.expect(201);
    let begun = Instant::now();
    let mut met = 0;
    until("the canary is given up", Duration::from_secs(5), async || {
        for key in 0..50 {
            let answer = open.resolve(TRAPPED, &format!("?zone=test-1a&key={key}")).await.expect(200);
            met += u32::from(answer["policy"]["outcome"] == "last-good");
        }
        operator.get(&path).await.expect(200)["candidate"].is_null()
    })
    .await;
    println!("given up after {:?}; {met} lookups met it, each was answered", begun.elapsed());
    assert!((1..=10).contains(&met), "{met} lookups met a canary that traps at once");
    let history = operator.get(&format!("/v1/history?ns=default&service={TRAPPED}")).await.expect(200);
    let why =
        history["items"].as_array().unwrap().iter().find(|entry| entry["action"] == "rollback").unwrap();
    assert_eq!(why["actor"]["role"], "guardian");
    assert!(why["reason"].as_str().unwrap().contains("trap: unreachable"), "{why}");
    let by_itself = "meridian_policy_rollbacks_total{reason=\"faults\"}";
    figures::settles(&open, by_itself, 1.0).await;
}

/// What was promoted and then refuses callers returns to what is known to be good; what soaked is known to be good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_refuses_after_its_promotion_is_rolled_back_and_what_soaks_is_kept() {
    let world = region().await;
    let operator = world.client().bearing(&world.issuer.operator());
    let client = world.gateways[1].client();
    let good = operator.upload("only-zone", &guests::only_zone('a')).await;
    let _ = operator.put(BINDING, &body(&good, &json!({}))).await.expect(201);
    until("the first version has soaked", Duration::from_secs(10), async || {
        let _ = zones(&client, 10).await;
        operator.get(BINDING).await.expect(200)["active"]["soaked"] == true
    })
    .await;
    // It answers well, until there is nothing in its zone for whom it answers: then it refuses.
    let picky = operator.upload("only-zone", &guests::only_zone('x')).await;
    let canary = json!({ "stage": "canary", "percent": 0 });
    let _ = operator.put(BINDING, &body(&picky, &canary)).await.expect(200);
    let mut forced = operator.post(&format!("{BINDING}/promote"), &json!({})).await;
    forced = forced.refused(409, "not-proven");
    assert!(forced["detail"].as_str().unwrap().contains("0 lookups"), "{}", forced.json);
    // A canary of a part shows it before anybody promotes it.
    let canary = json!({ "stage": "canary", "percent": 5 });
    let _ = operator.put(BINDING, &body(&picky, &canary)).await.expect(200);
    until("the canary is given up", Duration::from_secs(10), async || {
        for key in 0..30 {
            // Those of the canary are refused: that is what it was bound to do.
            let answer = client.resolve(SERVICE, &format!("?zone=test-1a&key=u{key}")).await;
            assert!(matches!(answer.status, 200 | 503), "{}", answer.json);
        }
        operator.get(BINDING).await.expect(200)["candidate"].is_null()
    })
    .await;
    let history = operator.get("/v1/history?ns=default&service=orders-api").await.expect(200);
    let why =
        history["items"].as_array().unwrap().iter().find(|entry| entry["action"] == "rollback").unwrap();
    assert!(why["reason"].as_str().unwrap().contains("refused or given nothing"), "{why}");
    // Hasty changes do not push out what has soaked.
    for letter in ['b', 'a', 'b', 'x', 'b'] {
        let version = operator.upload("only-zone", &guests::only_zone(letter)).await;
        let _ =
            operator.put(BINDING, &body(&version, &json!({ "config": { "n": letter } }))).await.expect(200);
    }
    let binding = operator.get(BINDING).await.expect(200);
    let formers = binding["lastGood"].as_array().unwrap();
    assert!(
        formers.iter().any(|former| former["version"] == good.as_str() && former["soaked"] == true),
        "{}",
        binding.json
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_is_tried_and_losses_are_simulated_without_changing_anything() {
    let issuer = Issuer::init();
    let gateway = GatewayProcess::new(&issuer, embedded()).started().await;
    let open = gateway.client();
    let operator = open.bearing(&issuer.operator());
    for service in [SERVICE, "trap-api"] {
        register_many(&open.bearing(&issuer.workload(service)), service, "o", 4).await;
    }
    let version = operator.upload("only-zone", &guests::only_zone('b')).await;
    let asked =
        json!({ "service": SERVICE, "version": version, "lookups": [{ "zone": "test-1a" }, { "key": "k" }] });
    let tried = operator.post("/v1/policies/only-zone/try", &asked).await.expect(200);
    let first = &tried["results"][0];
    assert_eq!((&first["changed"], &first["fault"]), (&json!(1.0), &Value::Null), "{}", tried.json);
    let endpoints = first["answer"]["endpoints"].as_array().unwrap();
    assert!(endpoints.iter().all(|endpoint| endpoint["zone"] == "test-1b"), "{}", tried.json);
    assert_eq!(tried["results"].as_array().unwrap().len(), 2);
    let asked = json!({ "service": "trap-api", "version": version, "lookups": [{ "key": "k" }] });
    let tried = operator.post("/v1/policies/only-zone/try", &asked).await.expect(200);
    assert!(tried["results"][0]["fault"].as_str().unwrap().contains("trap"), "{}", tried.json);
    let unknown = json!({ "service": "nobody" });
    let _ = operator.post("/v1/policies/only-zone/try", &unknown).await.refused(404, "no-such-service");
    let _ = operator.post("/v1/policies/nothing/try", &asked).await.refused(404, "no-such-policy");
    let _ = open.post("/v1/policies/only-zone/try", &asked).await.refused(401, "token-missing");

    let lost = operator
        .post("/v1/simulate", &json!({ "service": SERVICE, "loseZones": ["test-1a"] }))
        .await
        .expect(200);
    let caller = &lost["services"][0]["callers"][0];
    assert_eq!(caller["before"]["places"], json!({ "test-1a": 1.0 }), "{}", lost.json);
    assert_eq!(caller["after"]["places"], json!({ "test-1b": 1.0 }), "{}", lost.json);
    assert_eq!(caller["changed"], 1.0);
    // A drained zone yields, but is not lost.
    let drained = json!({ "service": SERVICE, "drain": ["test-1a"] });
    let drained = operator.post("/v1/simulate", &drained).await.expect(200);
    for caller in drained["services"][0]["callers"].as_array().unwrap() {
        assert_eq!(caller["after"]["places"], json!({ "test-1b": 1.0 }), "{}", drained.json);
    }
    let everything = operator.post("/v1/simulate", &json!({ "loseRegions": ["test-1"] })).await.expect(200);
    assert_eq!(everything["services"][0]["callers"][0]["after"]["none"], 1.0, "{}", everything.json);
    let wrong = json!({ "loseZones": ["nowhere-1a"] });
    let refused = operator.post("/v1/simulate", &wrong).await.refused(422, "invalid");
    assert!(refused["detail"].as_str().unwrap().contains("test-1a"), "{}", refused.json);
    for place in ["loseRegions", "drain"] {
        let wrong = json!({ place: ["nowhere-1"] });
        let refused = operator.post("/v1/simulate", &wrong).await.refused(422, "invalid");
        assert!(refused["detail"].as_str().unwrap().contains("nowhere-1"), "{}", refused.json);
    }

    let answer = open.resolve(SERVICE, "?zone=test-1a").await.expect(200);
    assert_eq!(
        (&answer["policy"]["name"], &answer["endpoints"][0]["zone"]),
        (&json!("zone-fallback"), &json!("test-1a"))
    );
}

/// What an activation would do is what the binding that it makes would do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_activation_is_predicted_with_what_stands_in_for_it() {
    let issuer = Issuer::init();
    let gateway = GatewayProcess::new(&issuer, embedded()).started().await;
    let open = gateway.client();
    let operator = open.bearing(&issuer.operator());
    for service in [SERVICE, "trap-api", "trap-bound"] {
        register_many(&open.bearing(&issuer.workload(service)), service, "o", 4).await;
    }
    let version = operator.upload("only-zone", &guests::only_zone('b')).await;
    let simulated = async |more: Value| {
        let mut body = json!({ "activate": { "policy": "only-zone", "version": version } });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        operator.post("/v1/simulate", &body).await.expect(200)
    };
    let own = json!({ "policy": "weighted" });
    let _ = operator.put("/v1/namespaces/default/bindings/trap-bound", &own).await.expect(201);
    let all = simulated(json!({})).await;
    let outcomes = |answer: &Value, at: usize| {
        let service = &answer["services"][at];
        let callers = service["callers"].as_array().unwrap();
        let told =
            |of: &str| -> Vec<Value> { callers.iter().map(|caller| caller["after"][of].clone()).collect() };
        (service["service"].clone(), told("outcome"), told("places"))
    };
    let only_b = json!({ "test-1b": 1.0 });
    let (service, outcome, places) = outcomes(&all.json, 0);
    assert_eq!((service, outcome, places), (json!(SERVICE), vec![json!("ok"); 2], vec![only_b; 2]));
    // A service's first binding remembers what answered without it; that of a service which had one remembers that.
    for (at, name) in [(1, "trap-api"), (2, "trap-bound")] {
        let (service, outcome, _) = outcomes(&all.json, at);
        assert_eq!((service, outcome), (json!(name), vec![json!("last-good"); 2]), "{}", all.json);
        let reason = all["services"][at]["callers"][0]["after"]["reason"].as_str().unwrap();
        assert!(reason.contains("trap"), "{reason}");
    }
    // As the namespace's it does not reach who has a binding of its own.
    let scoped = json!({ "activate": { "policy": "only-zone", "version": version, "scope": "namespace" } });
    let scoped = simulated(scoped).await;
    let told: Vec<_> = scoped["services"]
        .as_array()
        .unwrap()
        .iter()
        .map(|service| (service["binding"].as_str().unwrap(), service["activated"].as_bool().unwrap()))
        .collect();
    assert_eq!(told, [("built-in", true), ("built-in", true), ("own", false)]);
    assert_eq!(scoped["services"][2]["callers"][0]["changed"], 0.0, "{}", scoped.json);

    // What the policy leaves nothing of is the native fallback's, and is not passed over.
    let owner = open.bearing(&issuer.workload(SERVICE));
    for id in ["o-1", "o-3"] {
        let path = meridian_tests::client::instance_path(SERVICE, id);
        let _ = owner.patch(&path, &json!({ "status": "unhealthy" })).await.expect(200);
    }
    let left = simulated(json!({ "service": SERVICE })).await;
    let native = left["services"][0]["callers"][0]["after"]["nothingEligible"].as_f64();
    assert!(native.is_some_and(|part| part > 0.999), "{}", left.json);

    // All of them, page by page.
    let (mut names, mut next) = (Vec::new(), Value::Null);
    loop {
        let page = simulated(json!({ "limit": 1, "next": next })).await;
        names.push(page["services"][0]["service"].clone());
        assert_eq!(page["truncated"], !page["next"].is_null(), "{}", page.json);
        next = page["next"].clone();
        if next.is_null() {
            break;
        }
    }
    assert_eq!(names, [SERVICE, "trap-api", "trap-bound"]);
    let _ = operator.post("/v1/simulate", &json!({ "limit": 0 })).await.refused(422, "invalid");
}
