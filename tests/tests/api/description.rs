//! What a gateway says of itself: routes, metrics, logs.

use crate::world::{lone_gateway, register_many};
use meridian_tests::figures;
use meridian_tests::raw;
use serde_json::Value;

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
