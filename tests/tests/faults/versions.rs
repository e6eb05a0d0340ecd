//! Versions come and go on every gateway of a region, and what the registry forgets of them can be given back.

use crate::guests;
use crate::world::{World, lone_gateway, register_many};
use meridian_registry::Registry;
use meridian_registry::etcd::{EtcdConfig, EtcdRegistry};
use meridian_tests::client::{Answer, Client};
use meridian_tests::figures;
use meridian_tests::gateway::{GatewayProcess, REGION, embedded};
use meridian_tests::patience::until;
use meridian_tests::tokens::Issuer;
use reqwest::Method;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const SERVICE: &str = "orders-api";
const BINDING: &str = "/v1/namespaces/default/bindings/orders-api";
/// Until another gateway has compiled what was uploaded, or has let go of what was deleted.
const EVERYWHERE: Duration = Duration::from_secs(10);
const MAX_MODULE_BYTES: usize = 8 * 1024 * 1024;

async fn push(client: &Client, policy: &str, headers: &[(&str, &str)], module: Vec<u8>) -> Answer {
    client.send(Method::PUT, &format!("/v1/policies/{policy}"), headers, Some(module)).await.unwrap()
}

fn version_path(policy: &str, version: &str) -> String {
    format!("/v1/policies/{policy}/versions/{version}")
}

async fn versions(gateway: &GatewayProcess) -> f64 {
    figures::one(&gateway.client(), "meridian_policy_versions").await
}

fn modules(gateway: &GatewayProcess) -> usize {
    let kept = std::fs::read_dir(gateway.directory().join("data/modules")).unwrap();
    kept.filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|e| e == "wasm")).count()
}

/// Every gateway holds so many versions more than at first, and has so many modules on disk.
async fn hold(world: &World, first: &[f64], more: u32, what: &str) {
    for (gateway, first) in world.gateways.iter().zip(first) {
        until(what, EVERYWHERE, async || {
            versions(gateway).await == first + f64::from(more) && modules(gateway) == more as usize
        })
        .await;
    }
}

/// A gateway holds 256 versions: what is deleted, or never stored, must not go on taking places, or nothing new ever runs there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_deleted_or_never_stored_takes_no_place_on_any_gateway() {
    let mut world = World::start(2).await;
    let operator = world.client().bearing(&world.issuer.operator());
    let mut first = Vec::new();
    for gateway in &world.gateways {
        first.push(versions(gateway).await);
    }
    let mut uploaded = Vec::new();
    for letter in ['a', 'b', 'c'] {
        uploaded.push(operator.upload("p", &guests::only_zone(letter)).await);
    }
    hold(&world, &first, 3, "all versions are held").await;
    // The same bytes under another name are held for as long as one of the names is there.
    let _ = operator.upload("q", &guests::only_zone('a')).await;
    for version in &uploaded {
        let _ = operator.delete(&version_path("p", version)).await.expect(204);
    }
    hold(&world, &first, 1, "what stands under another name is held").await;
    let shown = operator.get(&version_path("q", &uploaded[0])).await.expect(200);
    assert_eq!(shown["runnable"], true, "{}", shown.json);
    let _ = operator.delete(&version_path("q", &uploaded[0])).await.expect(204);
    hold(&world, &first, 0, "nothing is held").await;

    // Deleted while a gateway was down: it finds its modules on disk, and nobody who wants them.
    let gone = operator.upload("p", &guests::only_zone('d')).await;
    hold(&world, &first, 1, "the version is held").await;
    world.gateways[1].kill();
    let _ = operator.delete(&version_path("p", &gone)).await.expect(204);
    world.gateways[1].start().await;
    hold(&world, &first, 0, "nothing is held after a restart").await;

    // Passed the gate, and never stored.
    world.etcd.stop();
    let headers = [("content-type", "application/wasm")];
    let refused = push(&operator, "p", &headers, guests::only_zone('e')).await;
    let _ = refused.refused(503, "registry-unavailable");
    until("its place is free", EVERYWHERE, async || versions(&world.gateways[0]).await == first[0]).await;
    world.etcd.start_again();
}

/// Uploading the same bytes again is what an operator does who finds that they cannot be fetched any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_registry_lost_of_a_version_comes_back_with_the_same_upload() {
    let mut world = World::start(2).await;
    let operator = world.client().bearing(&world.issuer.operator());
    let module = guests::only_zone('b');
    world.gateways[1].kill();
    let version = operator.upload("p", &module).await;
    let config = EtcdConfig::new(world.etcd.endpoints(), REGION.parse().unwrap());
    let registry = EtcdRegistry::connect(&config).unwrap();
    registry.delete_chunks(version.parse().unwrap()).await.unwrap();
    let path = format!("{}/module", version_path("p", &version));
    let _ = operator.get(&path).await.refused(404, "no-such-version");

    world.gateways[1].start().await;
    let other = world.gateways[1].client().bearing(&world.issuer.operator());
    until("the other gateway gives it up", EVERYWHERE, async || {
        figures::one(&other, "meridian_modules_given_up_total").await == 1.0
    })
    .await;
    let headers = [("content-type", "application/wasm")];
    let again = push(&operator, "p", &headers, module.clone()).await.expect(200);
    assert_eq!(again["report"]["completed"], "module", "{}", again.json);
    assert_eq!(operator.get(&path).await.expect(200).body, module);
    until("the other gateway runs it", EVERYWHERE, async || {
        other.get(&version_path("p", &version)).await["runnable"] == true
    })
    .await;
    let again = push(&operator, "p", &headers, module).await.expect(200);
    assert_eq!(again["report"], json!({ "unchanged": true }), "{}", again.json);
}

/// A delete that was decided on what nothing was bound to must not take away what was bound in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_is_bound_or_deleted_and_never_both() {
    let world = World::start(2).await;
    let [here, there] = [0, 1].map(|at| world.gateways[at].client().bearing(&world.issuer.operator()));
    let mut won = [0, 0];
    for _ in 0..15 {
        let version = here.upload("p", &guests::only_zone('b')).await;
        let (path, body) = (version_path("p", &version), json!({ "policy": "p", "version": version }));
        until("the other gateway knows it", EVERYWHERE, async || there.get(&path).await["runnable"] == true)
            .await;
        let (bound, deleted) = tokio::join!(here.put(BINDING, &body), there.delete(&path));
        match (bound.status, deleted.status) {
            (200 | 201, 409) => won[0] += 1,
            // 503 where the gateway had let go of it already: the next try is told that there is no such version.
            (409 | 422 | 404 | 503, 204) => won[1] += 1,
            _ => {
                panic!("bound: {} {}; deleted: {} {}", bound.status, bound.json, deleted.status, deleted.json)
            }
        }
        if bound.status >= 300 {
            until("both know", EVERYWHERE, async || here.get(&path).await.status == 404).await;
        } else {
            let _ = here.delete(BINDING).await.expect(204);
            until("it is deleted", EVERYWHERE, async || {
                matches!(there.delete(&path).await.status, 204 | 404)
            })
            .await;
        }
    }
    println!("{} times it was bound, {} times deleted", won[0], won[1]);
}

async fn active(operator: &Client, binding: &str) -> Value {
    operator.get(binding).await.expect(200)["active"].clone()
}

/// The first binding of a service's own replaces its namespace's: that is what it returns to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_binding_returns_to_what_answered_before_it() {
    const TRAPPED: &str = "trap-api";
    let issuer = Issuer::init();
    let gateway = GatewayProcess::new(&issuer, embedded()).with("policies", "max_faults", 1);
    let gateway = gateway.with("policies", "soak", "1s").with("policies", "soak_lookups", 20).started().await;
    let open = gateway.client();
    let operator = open.bearing(&issuer.operator());
    for service in [SERVICE, TRAPPED] {
        register_many(&open.bearing(&issuer.workload(service)), service, "o", 4).await;
    }
    let _ = operator
        .put("/v1/namespaces/default/bindings/_default", &json!({ "policy": "weighted" }))
        .await
        .expect(201);
    until("the namespace's is known to be good", Duration::from_secs(10), async || {
        let _ = open.resolve(SERVICE, "").await.expect(200);
        active(&operator, "/v1/namespaces/default/bindings/_default").await["soaked"] == true
    })
    .await;
    let version = operator.upload("only-zone", &guests::only_zone('b')).await;

    // By one call.
    let bound = operator.bind(SERVICE, "only-zone", &version).await;
    assert_eq!(bound["lastGood"][0]["policy"], "weighted", "{}", bound.json);
    let back = operator.post(&format!("{BINDING}/rollback"), &json!({})).await.expect(200);
    assert_eq!(back["active"]["policy"], "weighted", "{}", back.json);
    let by = |cause: &str| format!("meridian_policy_rollbacks_total{{reason=\"{cause}\"}}");
    figures::settles(&open, &by("operator"), 1.0).await;

    // By itself, and no lookup goes without an answer meanwhile.
    let binding = format!("/v1/namespaces/default/bindings/{TRAPPED}");
    let _ = operator.bind(TRAPPED, "only-zone", &version).await;
    until("the former policy answers for it", Duration::from_secs(2), async || {
        let answer = open.resolve(TRAPPED, "").await.expect(200);
        answer["policy"]["name"] == "weighted" && answer["policy"]["outcome"] == "last-good"
    })
    .await;
    until("the region is told of its failure", Duration::from_secs(2), async || {
        let _ = open.resolve(TRAPPED, "").await.expect(200);
        let shown = active(&operator, &binding).await;
        shown["policy"] == "weighted"
            || shown["failedAt"].is_string() && shown["fault"].as_str().unwrap().contains("trap")
    })
    .await;
    until("it is rolled back", Duration::from_secs(60), async || {
        let _ = open.resolve(TRAPPED, "").await.expect(200);
        active(&operator, &binding).await["policy"] == "weighted"
    })
    .await;
    figures::settles(&open, &by("faults"), 1.0).await;
}

/// What answers may be what is wrong, whatever is being tried beside it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_active_version_is_rolled_back_in_one_call_beside_a_candidate() {
    let (gateway, issuer) = lone_gateway().await;
    let operator = gateway.client().bearing(&issuer.operator());
    let _ = operator.put(BINDING, &json!({ "policy": "weighted" })).await.expect(201);
    let version = operator.upload("only-zone", &guests::only_zone('b')).await;
    let _ = operator.bind(SERVICE, "only-zone", &version).await;
    let canary = json!({ "policy": "spillover", "stage": "canary", "percent": 10 });
    let _ = operator.put(BINDING, &canary).await.expect(200);

    let call = json!({ "version": version, "reason": "it is what is wrong" });
    let back = operator.post(&format!("{BINDING}/rollback"), &call).await.expect(200);
    assert_eq!(back["active"]["policy"], "weighted", "{}", back.json);
    assert_eq!(back["candidate"]["policy"], "spillover", "{}", back.json);
    let _ = operator.post(&format!("{BINDING}/rollback"), &call).await.refused(409, "another-version");
    let back = operator.post(&format!("{BINDING}/rollback"), &json!({})).await.expect(200);
    assert_eq!((&back["active"]["policy"], &back["candidate"]), (&json!("weighted"), &Value::Null));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_is_taken_and_refused_by_the_contract() {
    let (gateway, issuer) = lone_gateway().await;
    let operator = gateway.client().bearing(&issuer.operator());
    let wasm = |name: &'static str| [("content-type", name)];
    for media in ["Application/WASM", "application/octet-stream; charset=binary"] {
        let answer = push(&operator, "p", &wasm(media), guests::only_zone('a')).await;
        assert!(matches!(answer.status, 200 | 201), "{media}: {}", answer.json);
    }
    let answer = push(&operator, "p", &wasm("text/plain"), guests::only_zone('a')).await;
    let _ = answer.refused(415, "media-type");
    let answer = push(&operator, "p", &wasm("application/wasm"), vec![0; MAX_MODULE_BYTES + 1]).await;
    let _ = answer.refused(413, "module-too-large");
    let answer = push(&operator, "p", &wasm("application/wasm"), vec![0; MAX_MODULE_BYTES]).await;
    let _ = answer.refused(422, "not-a-component");
}

fn openssl(arguments: &[&str]) {
    let ran = Command::new("openssl").args(arguments).output().expect("openssl is needed");
    assert!(ran.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A signature by openssl, in base64.
fn sign(directory: &Path, key: &Path, version: &str) -> String {
    let (words, signature, armoured) =
        (directory.join("words"), directory.join("signature"), directory.join("armoured"));
    std::fs::write(&words, version).unwrap();
    openssl(&[
        "pkeyutl",
        "-sign",
        "-rawin",
        "-inkey",
        text(key),
        "-in",
        text(&words),
        "-out",
        text(&signature),
    ]);
    openssl(&["base64", "-A", "-in", text(&signature), "-out", text(&armoured)]);
    std::fs::read_to_string(armoured).unwrap()
}

/// Keys that are named later hold for what was stored before, and the same bytes with a signature are let in again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_stored_unsigned_does_not_run_where_keys_are_trusted() {
    let directory = tempfile::tempdir().unwrap();
    let (key, public) = (directory.path().join("key"), directory.path().join("key.pub"));
    openssl(&["genpkey", "-algorithm", "ed25519", "-out", text(&key)]);
    openssl(&["pkey", "-in", text(&key), "-pubout", "-out", text(&public)]);
    let issuer = Issuer::init();
    let mut gateway = GatewayProcess::new(&issuer, embedded()).started().await;
    let open = gateway.client();
    let operator = open.bearing(&issuer.operator());
    register_many(&open.bearing(&issuer.workload(SERVICE)), SERVICE, "o", 4).await;
    let version = operator.upload("p", &guests::only_zone('b')).await;
    let _ = operator.bind(SERVICE, "p", &version).await;
    let by = async |outcome: &str| {
        let answer = open.resolve(SERVICE, "?zone=test-1a").await;
        answer.status == 200 && answer["policy"]["outcome"] == outcome && answer.endpoints().len() == 1
    };
    until("it answers", EVERYWHERE, async || by("ok").await).await;

    gateway.kill();
    gateway.set("policies", "trusted_keys", vec![toml::Value::from(text(&public))]);
    gateway.start().await;
    until("what answered before it answers", EVERYWHERE, async || by("last-good").await).await;
    let shown = operator.get(&version_path("p", &version)).await.expect(200);
    assert_eq!(shown["runnable"], false, "{}", shown.json);
    assert!(gateway.log().contains("policies.trusted_keys asks for one"), "the log names the key");

    let wasm = ("content-type", "application/wasm");
    let _ = push(&operator, "p", &[wasm], guests::only_zone('b')).await.refused(403, "signature-missing");
    let signature = sign(directory.path(), &key, &version);
    let headers = [wasm, ("meridian-signature", signature.as_str())];
    let again = push(&operator, "p", &headers, guests::only_zone('b')).await.expect(200);
    assert_eq!(again["report"]["completed"], "signature", "{}", again.json);
    until("it answers again", EVERYWHERE, async || by("ok").await).await;
}
