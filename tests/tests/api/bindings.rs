//! Bindings: what a PUT says is all that is bound.

use crate::world::lone_gateway;
use serde_json::{Value, json};

const PATH: &str = "/v1/namespaces/default/bindings/orders-api";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_binding_is_replaced_whole() {
    let (gateway, issuer) = lone_gateway().await;
    let operator = gateway.client().bearing(&issuer.operator());
    let narrow = json!({ "policy": "zone-fallback", "callerLabels": ["team"],
                         "limits": { "regions": ["eu-west-1"], "maxRemoteShare": 0.5 } });
    let bound = operator.put(PATH, &narrow).await.expect(201);
    assert_eq!(bound["limits"], json!({ "regions": ["eu-west-1"], "maxRemoteShare": 0.5 }));
    assert_eq!(bound["callerLabels"], json!(["team"]));

    // What is left out is the default, and not what stood there before.
    let bare = operator.put(PATH, &json!({ "policy": "zone-fallback" })).await.expect(200);
    assert_eq!(bare["limits"], json!({ "regions": "all", "maxRemoteShare": 1.0 }));
    assert_eq!(bare["callerLabels"], json!([]));
    let part = json!({ "policy": "zone-fallback", "limits": { "maxRemoteShare": 0 } });
    let part = operator.put(PATH, &part).await.expect(200);
    assert_eq!(part["limits"], json!({ "regions": "all", "maxRemoteShare": 0.0 }));
    assert_eq!(operator.get(PATH).await.expect(200)["limits"], part["limits"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn regions_of_limits_are_named_where_they_are_wrong() {
    let (gateway, issuer) = lone_gateway().await;
    let operator = gateway.client().bearing(&issuer.operator());
    let bind = async |regions: Value| {
        operator.put(PATH, &json!({ "policy": "zone-fallback", "limits": { "regions": regions } })).await
    };
    let names = |count: usize| (0..count).map(|n| format!("region-{n}")).collect::<Vec<_>>();
    let _ = bind(json!(names(64))).await.expect(201);

    let many = bind(json!(names(65))).await.refused(422, "invalid");
    assert_eq!(many["errors"][0]["field"], "limits.regions");
    assert!(many["detail"].as_str().unwrap().contains("64"), "{}", many.json);
    let wrong = bind(json!(["eu-west-1", "EU", "../x"])).await.refused(422, "invalid");
    let errors = wrong["errors"].as_array().unwrap();
    let fields: Vec<&str> = errors.iter().map(|e| e["field"].as_str().unwrap()).collect();
    assert_eq!(fields, ["limits.regions[1]", "limits.regions[2]"]);
    assert!(errors[0]["detail"].as_str().unwrap().contains("\"EU\""), "{}", wrong.json);
    for other in [json!("some"), json!(5), json!([5]), json!({})] {
        let refused = bind(other.clone()).await.refused(422, "invalid");
        assert_eq!(refused["errors"][0]["field"], "limits.regions", "{other}: {}", refused.json);
    }
}

/// Who reads the history next to an instance should not have to convert the one's times into the other's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_history_shows_times_as_everything_else_does() {
    let (gateway, issuer) = lone_gateway().await;
    let operator = gateway.client().bearing(&issuer.operator());
    let owner = gateway.client().bearing(&issuer.workload("orders-api"));
    let registration = meridian_tests::client::registration("test-1a", 1);
    let stored = owner.register("orders-api", "o-1", &registration).await.expect(201);
    let bound = operator.put(PATH, &json!({ "policy": "zone-fallback" })).await.expect(201);
    let history = operator.get("/v1/history?limit=2").await.expect(200);
    assert_eq!(history["items"][0]["after"]["updatedAt"], bound["updatedAt"]);
    let registered = &history["items"][1]["after"];
    assert_eq!(registered["registeredAt"], stored["registeredAt"]);
    let expires = registered["lease"]["tokenExpiresAt"].as_str().unwrap_or_default();
    assert!(expires.ends_with('Z'), "{registered}");
}
