//! An answer says `ok` only if the bound module ran, and one policy's fault stays its own.

use crate::guests;
use crate::world::{World, lone_gateway, register_many};
use meridian_tests::client::Client;
use meridian_tests::patience::until;
use reqwest::Method;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

const SERVICE: &str = "orders-api";
/// From a binding's answer to its effect, in every gateway of the region.
const EFFECT: Duration = Duration::from_secs(1);
/// Compiling takes most of an upload, in one gateway after the other, and a busy machine that stands still once makes that slow.
/// A path that is slow is so every time.
const MEASURED: usize = 3;

async fn outcome(client: &Client, service: &str) -> (String, String, String) {
    let answer = client.resolve(service, "?zone=test-1a").await.expect(200);
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    (
        text(&answer["policy"]["outcome"]),
        text(&answer["policy"]["version"]),
        text(&answer["endpoints"][0]["zone"]),
    )
}

/// Two gateways that know the service's instances, and a client of each.
async fn region() -> (World, Vec<Client>) {
    let world = World::start(2).await;
    let clients: Vec<Client> = world.gateways.iter().map(|gateway| gateway.client()).collect();
    register_many(&clients[0].bearing(&world.issuer.workload(SERVICE)), SERVICE, "o", 4).await;
    for client in &clients {
        until("instances are known", Duration::from_secs(2), async || {
            client.resolve(SERVICE, "?zone=test-1a").await.status == 200
        })
        .await;
    }
    (world, clients)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_swapped_in_changes_where_lookups_go_within_a_second_on_every_gateway() {
    let (world, clients) = region().await;
    let operator = clients[0].bearing(&world.issuer.operator());
    let (was, standard, zone) = outcome(&clients[0], SERVICE).await;
    assert_eq!(
        (was.as_str(), zone.as_str()),
        ("ok", "test-1a"),
        "the standard policy keeps traffic in its zone"
    );

    let to_b = operator.upload("only-zone", &guests::only_zone('b')).await;
    assert_ne!(to_b, standard);
    let bound = operator.bind(SERVICE, "only-zone", &to_b).await;
    assert_eq!(bound.status, 201);
    for client in &clients {
        let took = until("lookups go to zone b by the module that was bound", EFFECT, async || {
            outcome(client, SERVICE).await == ("ok".into(), to_b.clone(), "test-1b".into())
        })
        .await;
        println!("a binding takes effect after {took:?}");
    }
    // Bound through the other gateway, without a version: the newest one.
    let to_a = operator.upload("only-zone", &guests::only_zone('a')).await;
    let operator = clients[1].bearing(&world.issuer.operator());
    until("the other gateway can run it too", Duration::from_secs(3), async || {
        let version = operator.get(&format!("/v1/policies/only-zone/versions/{to_a}")).await;
        version.status == 200 && version["runnable"] == true
    })
    .await;
    let path = format!("/v1/namespaces/default/bindings/{SERVICE}");
    let _ = operator.put(&path, &json!({ "policy": "only-zone" })).await.expect(200);
    for client in &clients {
        until("lookups go to zone a", EFFECT, async || {
            outcome(client, SERVICE).await == ("ok".into(), to_a.clone(), "test-1a".into())
        })
        .await;
    }
    // A version that is bound or last good stays.
    let version = format!("/v1/policies/only-zone/versions/{to_a}");
    let _ = operator.delete(&version).await.refused(409, "still-bound");
    let _ = operator.delete(&path).await.expect(204);
    for client in &clients {
        until("the standard policy answers again", EFFECT, async || {
            outcome(client, SERVICE).await == ("ok".into(), standard.clone(), "test-1a".into())
        })
        .await;
    }
    let _ = operator.delete(&version).await.expect(204);
}

/// The standard module with one word of its own changed is another version, and it is that one's words that are shown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_standard_module_is_seen_in_the_answers() {
    let (gateway, issuer) = lone_gateway().await;
    let open = gateway.client();
    let operator = open.bearing(&issuer.operator());
    register_many(&open.bearing(&issuer.workload(SERVICE)), SERVICE, "o", 4).await;
    let explained = async || {
        let answer = open.resolve(SERVICE, "?zone=test-1a&explain=true").await.expect(200);
        assert_eq!(answer["policy"]["outcome"], "ok", "{}", answer.json);
        let reason = answer["explain"]["plans"][0]["tiers"][0]["reason"].as_str().unwrap().to_owned();
        (answer["policy"]["version"].as_str().unwrap().to_owned(), reason)
    };
    let (standard, reason) = explained().await;
    let path = format!("/v1/policies/zone-fallback/versions/{standard}/module");
    let module = operator.get(&path).await.expect(200).body;

    // The whole of it: a single word may also stand in the names of the contract.
    let shouted = reason.to_uppercase();
    let changed = replace(&module, reason.as_bytes(), shouted.as_bytes());
    assert_ne!(changed, module, "{reason:?} does not stand in the module");

    let version = operator.upload("zone-fallback", &changed).await;
    let _ = operator.bind(SERVICE, "zone-fallback", &version).await;
    until("the changed module's words are shown", Duration::from_secs(1), async || {
        let (by, reason) = explained().await;
        by == version && reason == shouted
    })
    .await;
}

/// Compiled code of more than 100 KiB, which no gateway has seen: from the first byte of its upload to its answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_of_100_kib_answers_on_every_gateway_within_a_second() {
    let (world, clients) = region().await;
    let operator = clients[0].bearing(&world.issuer.operator());
    let answer = clients[0].resolve(SERVICE, "?zone=test-1a&explain=true").await.expect(200);
    let reason = answer["explain"]["plans"][0]["tiers"][0]["reason"].as_str().unwrap();
    let standard = answer["policy"]["version"].as_str().unwrap();
    let module = operator
        .get(&format!("/v1/policies/zone-fallback/versions/{standard}/module"))
        .await
        .expect(200)
        .body;
    assert!(module.len() >= 100 * 1024, "only {} bytes", module.len());

    let (mut slow, mut seen) = (Vec::new(), BTreeSet::from([standard.to_owned()]));
    for measured in 1..=MEASURED {
        // Other bytes each time: what was compiled once is not compiled again.
        let (head, tail) = reason.split_at(reason.len() / measured);
        let words = head.to_uppercase() + tail;
        let changed = replace(&module, reason.as_bytes(), words.as_bytes());
        let begun = Instant::now();
        let version = operator.upload("mine", &changed).await;
        let uploaded = begun.elapsed();
        assert!(seen.insert(version.clone()), "{words:?} was uploaded before");
        let _ = operator.bind(SERVICE, "mine", &version).await;
        let bound = begun.elapsed();
        for client in &clients {
            until("it answers", Duration::from_secs(10), async || {
                outcome(client, SERVICE).await == ("ok".into(), version.clone(), "test-1a".into())
            })
            .await;
        }
        let took = begun.elapsed();
        println!(
            "{} bytes: let in after {uploaded:?}, bound after {bound:?}, answers everywhere after {took:?}",
            changed.len()
        );
        if took <= EFFECT {
            return;
        }
        slow.push(took);
    }
    panic!("{MEASURED} uploads took {slow:?}, at most {EFFECT:?} is asked");
}

fn replace(bytes: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let mut at = 0;
    while let Some(window) = bytes.get_mut(at..at + old.len()) {
        if window == old {
            window.copy_from_slice(new);
        }
        at += 1;
    }
    bytes
}

/// Two services under the same uploaded policy: it traps for one of them at every lookup.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trap_costs_no_lookup_and_touches_no_other_service() {
    let (gateway, issuer) = lone_gateway().await;
    let open = gateway.client();
    let operator = open.bearing(&issuer.operator());
    for service in [SERVICE, "trap-api"] {
        register_many(&open.bearing(&issuer.workload(service)), service, "o", 4).await;
        let _ = outcome(&open, service).await;
    }
    let version = operator.upload("only-zone", &guests::only_zone('b')).await;
    let body = json!({ "policy": "only-zone", "version": version });
    let _ = operator.put("/v1/namespaces/default/bindings/_default", &body).await.expect(201);
    until("the policy answers for the one that it does not trap for", EFFECT + crate::SLACK, async || {
        outcome(&open, SERVICE).await == ("ok".into(), version.clone(), "test-1b".into())
    })
    .await;
    // Until the binding reaches the other one, the standard policy answers for it, for as long as the machine makes it.
    until("the policy traps", Duration::from_secs(5), async || outcome(&open, "trap-api").await.0 != "ok")
        .await;
    let mut outcomes = BTreeMap::<String, u64>::new();
    for _ in 0..300 {
        let answer = open.resolve("trap-api", "?zone=test-1a").await.expect(200);
        let policy = &answer["policy"];
        assert_eq!(answer.endpoints().len(), 1);
        let said = policy["outcome"].as_str().unwrap().to_owned();
        if said != "ok" {
            assert!(policy["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{policy}");
        } else {
            // Before the binding reached it, the standard policy ran, and said so.
            assert_ne!(
                policy["version"],
                version.as_str(),
                "the module trapped, and the answer says that it ran"
            );
        }
        *outcomes.entry(said).or_default() += 1;
        assert_eq!(outcome(&open, SERVICE).await.0, "ok", "a trap in one service reached another");
    }
    assert!(
        outcomes.get("fallback").copied().unwrap_or(0) + outcomes.get("last-good").copied().unwrap_or(0)
            > 250,
        "{outcomes:?}"
    );
    let traps = meridian_tests::figures::one(&open, "meridian_policy_faults_total{kind=\"trap\"}").await;
    assert!(traps >= 1.0, "no trap was counted");
}

/// A service with a version that worked before falls back to that one, not to the native fallback.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_good_version_answers_for_one_that_traps() {
    const TRAPPED: &str = "trap-api";
    let (gateway, issuer) = lone_gateway().await;
    let open = gateway.client();
    let operator = open.bearing(&issuer.operator());
    register_many(&open.bearing(&issuer.workload(TRAPPED)), TRAPPED, "o", 4).await;
    let path = format!("/v1/namespaces/default/bindings/{TRAPPED}");
    let _ = operator.json_with(Method::PUT, &path, &json!({ "policy": "weighted" }), &[]).await.expect(201);
    until("the standard policy that is bound answers", Duration::from_secs(2), async || {
        let answer = open.resolve(TRAPPED, "").await.expect(200);
        answer["policy"]["outcome"] == "ok" && answer["policy"]["name"] == "weighted"
    })
    .await;
    let version = operator.upload("only-zone", &guests::only_zone('b')).await;
    let bound = operator.put(&path, &json!({ "policy": "only-zone", "version": version })).await.expect(200);
    assert_eq!(bound["lastGood"][0]["policy"], "weighted", "{}", bound.json);
    until("the last good version answers, and says why", Duration::from_secs(2), async || {
        let answer = open.resolve(TRAPPED, "").await.expect(200);
        let policy = &answer["policy"];
        policy["outcome"] == "last-good"
            && policy["reason"].as_str().is_some_and(|reason| reason.contains("trap"))
    })
    .await;
}

/// What is watched is the final answer: a watcher that came while a policy was still being prepared, or compiled on another
/// gateway, hears of it as soon as it answers, though nothing is written then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_hears_of_a_policy_that_was_bound_on_every_gateway() {
    use meridian_tests::watchers::Watchers;
    let world = World::start(2).await;
    let client = world.client();
    let operator = client.bearing(&world.issuer.operator());
    register_many(&client.bearing(&world.issuer.workload(SERVICE)), SERVICE, "o", 4).await;
    let target = format!("/v1/resolve/{SERVICE}?zone=test-1a");
    let watchers: Vec<Watchers> =
        world.addresses().into_iter().map(|gateway| Watchers::open(gateway, [target.clone()])).collect();
    until("both watch", Duration::from_secs(5), async || watchers.iter().all(|w| w.snapshots() == 1)).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before: Vec<u64> = watchers.iter().map(Watchers::changes).collect();
    let version = operator.upload("only-zone", &guests::only_zone('b')).await;
    let _ = operator.bind(SERVICE, "only-zone", &version).await;
    for (watcher, before) in watchers.iter().zip(before) {
        until("the watcher hears of it", EFFECT + crate::SLACK, async || watcher.changes() > before).await;
    }
}
