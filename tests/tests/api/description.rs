//! What a gateway says of itself: routes, metrics, logs.

use crate::world::{lone_gateway, register_many};
use meridian_tests::client::{Answer, instance_path, registration};
use meridian_tests::figures;
use meridian_tests::raw;
use reqwest::Method;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_described_route_answers_and_every_answer_is_described() {
    let (gateway, _issuer) = lone_gateway().await;
    let document = gateway.client().get("/openapi.json").await.expect(200);
    let paths = document["paths"].as_object().unwrap();
    let mut described = 0;
    for (path, methods) in paths {
        let target = path
            .replace("{ns}", "default")
            .replace("{service}", "orders-api")
            .replace("{id}", "o-1")
            .replace("{name}", "zone-fallback")
            .replace("{version}", &format!("sha256:{}", "0".repeat(64)));
        for method in methods.as_object().unwrap().keys() {
            let method = method.to_uppercase();
            let answer = raw::exchange(gateway.address(), &method, &target, &[], b"").await.unwrap();
            let missing = answer.code() == "no-such-route" || answer.code() == "wrong-method";
            assert!(!missing, "{method} {path} is described and not there: {}", answer.json);
            described += 1;
        }
        let wrong = raw::exchange(gateway.address(), "TRACE", &target, &[], b"").await.unwrap();
        assert_eq!(wrong.status, 405, "TRACE {target}");
        // What the path has is what is described.
        let mut allowed: Vec<String> =
            wrong.header("allow").unwrap_or_default().split(',').map(|m| m.trim().to_lowercase()).collect();
        allowed.retain(|method| method != "head");
        allowed.sort();
        let mut said: Vec<String> = methods.as_object().unwrap().keys().cloned().collect();
        said.sort();
        assert_eq!(allowed, said, "{path}");
    }
    assert!(described >= 22, "only {described} routes are described");
    for operation in paths.values().flat_map(|methods| methods.as_object().unwrap().values()) {
        assert!(operation["responses"].as_object().is_some_and(|r| !r.is_empty()), "{operation}");
    }
}

/// What is wrong with a value by a schema of the description; the keywords that it uses are all that is known here.
fn misfit(at: &str, value: &Value, schema: &Value, document: &Value) -> Option<String> {
    if let Some(to) = schema["$ref"].as_str() {
        return misfit(at, value, document.pointer(to.strip_prefix('#')?)?, document);
    }
    if let Some(choices) = schema["oneOf"].as_array().or_else(|| schema["anyOf"].as_array()) {
        let found: Vec<_> = choices.iter().map(|choice| misfit(at, value, choice, document)).collect();
        return if found.contains(&None) { None } else { found.into_iter().next()? };
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(some) => some.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let fits = types.contains(&kind) || kind == "integer" && types.contains(&"number");
    if !types.is_empty() && !fits {
        return Some(format!("{at} is {kind}, not {types:?}"));
    }
    match value {
        Value::Array(items) => {
            let mut wrong = items
                .iter()
                .enumerate()
                .filter_map(|(n, item)| misfit(&format!("{at}[{n}]"), item, &schema["items"], document));
            wrong.next()
        }
        Value::Object(members) => {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            if let Some(missing) = required.into_iter().find(|name| !members.contains_key(*name)) {
                return Some(format!("{at} has no {missing}"));
            }
            let described = schema["properties"].as_object();
            let mut wrong = members.iter().filter_map(|(name, value)| {
                let place = format!("{at}.{name}");
                match (described.map(|properties| properties.get(name)), &schema["additionalProperties"]) {
                    (Some(Some(schema)), _) => misfit(&place, value, schema, document),
                    (Some(None), _) => Some(format!("{place} is not described")),
                    (None, more @ Value::Object(_)) => misfit(&place, value, more, document),
                    (None, _) => None,
                }
            });
            wrong.next()
        }
        _ => None,
    }
}

/// Clients are generated from the description: what it says of answers must be what is answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_what_the_description_says() {
    let (gateway, issuer) = lone_gateway().await;
    let operator = gateway.client().bearing(&issuer.operator());
    let owner = gateway.client().bearing(&issuer.workload("orders-api"));
    let document = operator.get("/openapi.json").await.expect(200).json;
    let check = |method: &str, path: &str, answer: &Answer| {
        let described = &document["paths"][path][method]["responses"];
        let response = &described[answer.status.to_string()];
        let response = if response.is_null() { &described["default"] } else { response };
        let kind = answer.header("content-type").unwrap().split(';').next().unwrap();
        let schema = &response["content"][kind]["schema"];
        assert!(schema.is_object(), "{method} {path}: {kind} of {} is not described", answer.status);
        let misfit = misfit("answer", &answer.json, schema, &document);
        assert_eq!(misfit, None, "{method} {path}: {}", answer.json);
    };

    let service = "/v1/namespaces/{ns}/services/{service}";
    let instance = format!("{service}/instances/{{id}}");
    let mut registration = registration("test-1a", 1);
    registration["healthCheck"] = json!({ "tcp": {} });
    registration["status"] = json!("healthy");
    let registered = owner.register("orders-api", "o-1", &registration).await.expect(201);
    check("put", &instance, &registered);
    let path = instance_path("orders-api", "o-1");
    check("patch", &instance, &owner.patch(&path, &json!({ "metadata": { "a": "b" } })).await.expect(200));
    let beat = owner.post(&format!("{path}/heartbeat"), &json!({})).await.expect(200);
    check("post", &format!("{instance}/heartbeat"), &beat);
    let beats =
        json!({ "heartbeats": [{ "service": "orders-api", "instanceId": "o-1" }, { "service": "" }] });
    check("post", "/v1/heartbeats", &owner.post("/v1/heartbeats", &beats).await.expect(200));
    let lookups = json!({ "lookups": [{ "service": "orders-api" }, { "service": "nobody" }] });
    check("post", "/v1/resolve", &owner.post("/v1/resolve", &lookups).await.expect(200));
    let binding = "/v1/namespaces/{ns}/bindings/{service}";
    let bound = operator
        .put("/v1/namespaces/default/bindings/orders-api", &json!({ "policy": "zone-fallback" }))
        .await;
    check("put", binding, &bound.expect(201));
    let module = crate::guests::only_zone('a');
    let headers = [("content-type", "application/wasm")];
    for status in [201, 200] {
        let uploaded =
            operator.send(Method::PUT, "/v1/policies/mine", &headers, Some(module.clone())).await.unwrap();
        check("put", "/v1/policies/{name}", &uploaded.expect(status));
    }
    let version = operator.get("/v1/policies/mine").await.expect(200)["versions"][0]["version"].clone();
    let drain =
        operator.post("/v1/regions/test-1/drain?zone=test-1b", &json!({ "reason": "r" })).await.expect(200);
    check("post", "/v1/regions/{region}/drain", &drain);
    for (described, path) in [
        ("/v1/resolve/{service}", "/v1/resolve/orders-api".to_owned()),
        ("/v1/resolve/{service}", "/v1/resolve/orders-api?n=all&explain=true".to_owned()),
        ("/v1/resolve/{service}", "/v1/resolve/nobody".to_owned()),
        ("/v1/namespaces", "/v1/namespaces".to_owned()),
        ("/v1/namespaces/{ns}/services", "/v1/namespaces/default/services".to_owned()),
        (service, "/v1/namespaces/default/services/orders-api".to_owned()),
        (&instance, path.clone()),
        (binding, "/v1/namespaces/default/bindings/orders-api".to_owned()),
        ("/v1/namespaces/{ns}/bindings", "/v1/namespaces/default/bindings".to_owned()),
        ("/v1/policies", "/v1/policies".to_owned()),
        ("/v1/policies/{name}", "/v1/policies/zone-fallback".to_owned()),
        (
            "/v1/policies/{name}/versions/{version}",
            format!("/v1/policies/mine/versions/{}", version.as_str().unwrap()),
        ),
        ("/v1/regions", "/v1/regions".to_owned()),
        ("/v1/regions/{region}", "/v1/regions/test-1".to_owned()),
        ("/v1/regions/{region}", "/v1/regions/nowhere".to_owned()),
        ("/v1/history", "/v1/history".to_owned()),
        ("/readyz", "/readyz".to_owned()),
    ] {
        check("get", described, &operator.get(&path).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_parse_and_count_what_happened() {
    let (gateway, issuer) = lone_gateway().await;
    let open = gateway.client();
    register_many(&open.bearing(&issuer.workload("orders-api")), "orders-api", "o", 3).await;
    for _ in 0..10 {
        let _ = open.resolve("orders-api", "").await.expect(200);
    }
    let _ = open.resolve("nobody", "").await.refused(404, "no-such-service");
    let scraped = open.get("/metrics").await.expect(200);
    assert!(scraped.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    let figures = figures::of(&open).await;
    assert_eq!(figures["meridian_instances{status=\"healthy\"}"], 3.0);
    assert_eq!(figures["meridian_services"], 1.0);
    let plain = figures["meridian_http_plain_lookups_total"];
    assert!(plain >= 5.0, "{plain} of 10 plain lookups were counted");
    assert_eq!(figures["meridian_http_problems_total{code=\"no-such-service\"}"], 1.0);
    // Names that clients choose must not become labels.
    assert!(figures.keys().all(|name| !name.contains("orders-api")), "{:?}", figures.keys());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_json_and_a_request_can_be_found_in_it() {
    let issuer = meridian_tests::tokens::Issuer::init();
    let gateway = meridian_tests::gateway::GatewayProcess::new(&issuer, meridian_tests::gateway::embedded())
        .with("telemetry", "log", "meridian_gateway=debug,info")
        .started()
        .await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    let refused = gateway.client().get_with("/v1/resolve/nobody", &[("traceparent", &parent)]).await;
    assert_eq!(refused.refused(404, "no-such-service")["requestId"], trace);
    let log = gateway.log();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    for line in &lines {
        for field in ["timestamp", "level", "message", "target"] {
            assert!(line[field].is_string(), "no {field} in {line}");
        }
    }
    assert!(
        lines.iter().any(|line| line.to_string().contains(trace)),
        "the request is not in the log:\n{log}"
    );
}
