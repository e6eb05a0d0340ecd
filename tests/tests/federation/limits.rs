//! What a binding does not allow, no failure of instances permits.

use crate::ORDERS;
use crate::world::{AP, EU, REGIONS, US, World};
use meridian_tests::client::instance_path;
use meridian_tests::patience::{throughout, until};
use serde_json::json;
use std::time::Duration;

/// The code where a policy says no.
const BY_POLICY: &str = "refused-by-policy";
/// Until a binding is in force, or instances are known to be unhealthy.
const IN_FORCE: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lookups_go_only_where_the_binding_lets_them() {
    let world = World::start().await;
    let orders = world.everywhere(ORDERS).await;
    world.know_of(orders.iter().map(Vec::len).sum()).await;
    let (client, operator, owner) = (world.client(AP), world.operator(AP), world.owner(AP, ORDERS));
    let bind_with = async |config: serde_json::Value, regions: serde_json::Value| {
        let body = json!({ "policy": "zone-fallback", "config": config, "limits": { "regions": regions } });
        let answer = operator.put(&format!("/v1/namespaces/default/bindings/{ORDERS}"), &body).await;
        assert!(matches!(answer.status, 200 | 201), "{}: {}", answer.asked, answer.json);
    };
    let bind = async |regions| bind_with(json!({}), regions).await;
    let set = async |status: &str| {
        for workload in &orders[AP] {
            let path = instance_path(ORDERS, &workload.id);
            let _ = owner.patch(&path, &json!({ "status": status })).await.expect(200);
        }
    };
    bind(json!([])).await;
    set("unhealthy").await;
    until("nothing is left to give", IN_FORCE, async || client.resolve(ORDERS, "").await.status == 503).await;
    let refuse_throughout = async |code| {
        throughout("it never leaves its region", Duration::from_secs(3), async || {
            for query in ["", "?n=1000", "?n=all", "?key=k"] {
                until(code, IN_FORCE, async || {
                    let answer = client.resolve(ORDERS, query).await;
                    // A machine that stands still lets what stands in for a policy answer, which refuses nothing.
                    let stands_in = answer.status == 200 && answer["policy"]["reason"] == "warming";
                    if code == BY_POLICY && stands_in {
                        return false;
                    }
                    let _ = answer.refused(503, code);
                    true
                })
                .await;
            }
            true
        })
        .await;
    };
    refuse_throughout("none-healthy").await;
    // Others are not bound by what this region says.
    assert!(world.share(EU, ORDERS, EU).await > 1.0 - 1e-9);

    bind(json!([REGIONS[US]])).await;
    until("the allowed region answers", IN_FORCE, async || client.resolve(ORDERS, "").await.status == 200)
        .await;
    throughout("only the allowed region answers", Duration::from_secs(3), async || {
        for query in ["", "?n=1000", "?n=all", "?key=k"] {
            let answer = client.resolve(ORDERS, query).await.expect(200);
            let endpoints = answer["endpoints"].as_array().unwrap();
            // Local ones may follow as unhealthy ones never do: all that is given is in the one region.
            assert!(
                !endpoints.is_empty() && endpoints.iter().all(|e| e["region"] == REGIONS[US]),
                "{query}: {}",
                answer.json
            );
        }
        true
    })
    .await;

    // Who asks why is told of the region that was left out, too.
    let answer = client.resolve(ORDERS, "?n=all&explain=true").await.expect(200);
    let explained = &answer["explain"]["regions"]["remotes"];
    let region = |name: &str| explained.as_array().unwrap().iter().find(|r| r["region"] == name).unwrap();
    let (left_out, allowed) = (region(REGIONS[EU]), region(REGIONS[US]));
    assert!(left_out["why"].as_str().unwrap().contains("limits.regions"), "{explained}");
    assert_eq!((&left_out["kept"], &allowed["kept"]), (&json!(false), &json!(true)), "{explained}");
    let given = allowed["endpoints"].as_array().unwrap();
    assert!(!given.is_empty() && given.iter().all(|e| e["kept"] == true), "{explained}");

    // Limits are simulated as far as they are narrower; what is withheld cannot be told of.
    let simulate = async |limits: serde_json::Value| {
        let body = json!({ "service": ORDERS, "limits": limits, "zones": ["ap-south-1a"] });
        operator.post("/v1/simulate", &body).await
    };
    let closed = simulate(json!({ "regions": [] })).await.expect(200);
    assert_eq!(closed["services"][0]["callers"][0]["after"]["places"], json!({}), "{}", closed.json);
    let _ = simulate(json!({ "regions": "all" })).await.refused(422, "invalid");

    bind(json!("all")).await;
    until("all regions may answer", IN_FORCE, async || {
        let all = client.resolve(ORDERS, "?n=1000").await.expect(200).endpoints();
        all.iter().any(|id| id.starts_with(REGIONS[EU])) && all.iter().any(|id| id.starts_with(REGIONS[US]))
    })
    .await;
    // Which of the two is nearer depends on what else the machine does; either way the limits decide.
    for allowed in [US, EU] {
        let only = simulate(json!({ "regions": [REGIONS[allowed]] })).await.expect(200);
        let caller = &only["services"][0]["callers"][0];
        assert_eq!(caller["after"]["places"], json!({ REGIONS[allowed]: 1.0 }), "{}", only.json);
        let before: f64 =
            [US, EU].iter().filter_map(|of| caller["before"]["places"][REGIONS[*of]].as_f64()).sum();
        assert!((before - 1.0).abs() < 1e-3, "{}", only.json);
    }

    // What limits leave out is told of where they are only tried, too.
    let body = json!({ "service": ORDERS, "limits": { "regions": [REGIONS[US]] } });
    let tried = operator.post("/v1/policies/zone-fallback/try", &body).await.expect(200);
    let answer = &tried["results"][0]["answer"];
    let remotes = answer["explain"]["regions"]["remotes"].as_array().unwrap();
    let kept: Vec<_> = remotes.iter().map(|r| (r["region"].as_str().unwrap(), &r["kept"])).collect();
    assert_eq!(kept, [(REGIONS[EU], &json!(false)), (REGIONS[US], &json!(true))], "{}", tried.json);
    assert_eq!(answer["explain"]["regions"]["outsideLimits"], 1, "{}", tried.json);

    // Limits are the host's; a policy that stays at home says so itself, with another code.
    bind_with(json!({ "regionFallback": "never" }), json!("all")).await;
    until("the policy refuses", IN_FORCE, async || client.resolve(ORDERS, "").await.status == 503).await;
    refuse_throughout(BY_POLICY).await;
    set("healthy").await;
    until("its own instances answer", IN_FORCE, async || client.resolve(ORDERS, "").await.status == 200)
        .await;
}
