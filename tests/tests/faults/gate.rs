//! Upload is a gate: what would hurt a gateway is refused by name, in bounded time, while lookups go on.

use crate::guests::{self, bombs};
use crate::world::{lone_gateway, register_many};
use meridian_tests::client::{Answer, Client};
use meridian_tests::figures;
use meridian_tests::patience::until;
use reqwest::Method;
use serde_json::json;
use std::time::{Duration, Instant};

const SERVICE: &str = "orders-api";

async fn push(client: &Client, policy: &str, module: &[u8]) -> Answer {
    let headers = [("content-type", "application/wasm")];
    let path = format!("/v1/policies/{policy}");
    client.send(Method::PUT, &path, &headers, Some(module.to_vec())).await.unwrap()
}

/// Uploads, and looks up all the while; the slowest lookup.
async fn push_under_load(operator: &Client, open: &Client, module: &[u8]) -> (Answer, Duration) {
    let pushing = push(operator, "bomb", module);
    tokio::pin!(pushing);
    let mut slowest = Duration::ZERO;
    loop {
        let begun = Instant::now();
        let looking = open.resolve(SERVICE, "?zone=test-1a");
        tokio::select! {
            answer = &mut pushing => return (answer, slowest),
            answer = looking => {
                let _ = answer.expect(200);
                slowest = slowest.max(begun.elapsed());
            }
        }
        tokio::time::sleep(crate::PACE).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compile_bombs_are_killed_at_their_limit_while_lookups_go_on() {
    let (mut gateway, issuer) = lone_gateway().await;
    let open = gateway.client();
    let operator = open.bearing(&issuer.operator());
    register_many(&open.bearing(&issuer.workload(SERVICE)), SERVICE, "o", 4).await;
    let _ = open.resolve(SERVICE, "?zone=test-1a").await.expect(200);
    for (bomb, what) in [(bombs::TIME, "processor time"), (bombs::MEMORY, "memory")] {
        let (depth, locals) = bomb;
        let module = bombs::nested_loops(depth, locals);
        let begun = Instant::now();
        let (answer, slowest) = push_under_load(&operator, &open, &module).await;
        println!(
            "{what}: {} bytes, refused after {:?}, slowest lookup {slowest:?}",
            module.len(),
            begun.elapsed()
        );
        let answer = answer.refused(422, "compile-limit");
        assert!(answer["detail"].as_str().unwrap().contains(what), "{}", answer.json);
        assert!(slowest < Duration::from_secs(1), "a lookup took {slowest:?}");
    }
    assert!(gateway.is_running());
    let killed = figures::one(&open, "meridian_policy_compilers_killed_total").await;
    assert!(killed >= 1.0, "no process was killed");
    let refused = figures::one(&open, "meridian_policy_rejected_total{code=\"compile-limit\"}").await;
    assert_eq!(refused, 2.0);
    // The next one is served.
    let _ = operator.upload("only-zone", &guests::only_zone('b')).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_names_the_check_and_the_input() {
    let (gateway, issuer) = lone_gateway().await;
    let operator = gateway.client().bearing(&issuer.operator());
    let good = guests::only_zone('a');
    let answer = push(&operator, "p", &guests::trapping_when_empty()).await.refused(422, "trial-failed");
    assert_eq!(answer["check"], "corpus", "{}", answer.json);
    assert!(answer["input"].as_str().unwrap().starts_with("no endpoints"), "{}", answer.json);

    let endpoints =
        json!({ "endpoints": [{ "id": "x", "zone": "test-1a" }, { "id": "y", "zone": "test-1b" }] });
    let case = |wanted: &str| {
        json!([{ "name": "all to a", "service": endpoints, "expect": { "tiers": [[wanted]] } }]).to_string()
    };
    let wrong = guests::with_section(&good, "meridian:test-cases", &case("y"));
    let answer = push(&operator, "p", &wrong).await.refused(422, "trial-failed");
    assert_eq!(answer["check"], "test-cases", "{}", answer.json);
    assert!(answer["input"].as_str().unwrap().contains("all to a"), "{}", answer.json);

    for (section, contents, says) in [
        ("meridian:test-cases", "[{", "line 1 column 2"),
        ("meridian:config-schema", r#"{"properties": {"a": {"pattern": "x"}}}"#, "/properties/a/pattern"),
        ("meridian:policy", r#"{"format": 9, "name": "x"}"#, "format 9"),
    ] {
        let answer = push(&operator, "p", &guests::with_section(&good, section, contents)).await;
        let answer = answer.refused(422, "bad-section");
        assert!(answer["detail"].as_str().unwrap().contains(says), "{}", answer.json);
    }

    let right = guests::with_section(&good, "meridian:test-cases", &case("x"));
    let answer = push(&operator, "p", &right).await.expect(201);
    let checks: Vec<&str> =
        answer["report"]["checks"].as_array().unwrap().iter().filter_map(|c| c["name"].as_str()).collect();
    let all = [
        "size",
        "component",
        "sections",
        "compiles",
        "no-imports",
        "world",
        "test-cases",
        "corpus",
        "purity",
        "time",
    ];
    assert_eq!(checks, all, "{}", answer.json);
    let costs = answer["report"]["costs"].as_array().unwrap();
    assert_eq!(costs.iter().map(|c| c["endpoints"].as_u64().unwrap()).collect::<Vec<_>>(), [20, 5_000]);
    assert!(costs.iter().all(|c| c["routeNanos"].as_u64() > Some(0) && c["openFuel"].as_u64() > Some(0)));
}

/// What refuses everything that it is tried with has shown nothing, and what carries no config cannot be tried before it is
/// bound with one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_needs_a_config_is_tried_with_one() {
    let (gateway, issuer) = lone_gateway().await;
    let operator = gateway.client().bearing(&issuer.operator());
    let shown = r#"{"type": "object", "default": {}, "examples": [{"n": 1}]}"#;
    let with_schema = |module: &[u8]| guests::with_section(module, "meridian:config-schema", shown);
    let refused =
        push(&operator, "refuses", &with_schema(&guests::refusing())).await.refused(422, "trial-failed");
    assert_eq!(refused["check"], "corpus", "{}", refused.json);
    assert!(refused["detail"].as_str().unwrap().contains("refuses everything"), "{}", refused.json);
    let answer = push(&operator, "shown", &with_schema(&guests::needing_config())).await.expect(201);
    assert!(!answer["report"]["costs"].as_array().unwrap().is_empty(), "{}", answer.json);

    // Without a schema and without cases, it is not known which config that would be.
    let trapping = guests::needing_config_and_trapping_when_empty();
    let refused = push(&operator, "traps", &with_schema(&trapping)).await.refused(422, "trial-failed");
    assert!(refused["input"].as_str().unwrap().starts_with("no endpoints"), "{}", refused.json);
    for (policy, module) in [("foreign", guests::needing_config()), ("traps", trapping)] {
        let answer = push(&operator, policy, &module).await.expect(201);
        assert!(answer["report"]["costs"].as_array().unwrap().is_empty(), "{}", answer.json);
    }
    let path = format!("/v1/namespaces/default/bindings/{SERVICE}");
    let without = operator.put(&path, &json!({ "policy": "foreign" })).await.refused(422, "invalid");
    assert!(without["detail"].as_str().unwrap().contains("only one zone"), "{}", without.json);
    let traps = json!({ "policy": "traps", "config": { "n": 1 } });
    let refused = operator.put(&path, &traps).await.refused(422, "invalid");
    assert_eq!(refused["errors"][0]["field"], "config", "{}", refused.json);
    assert_eq!(refused["check"], "corpus", "{}", refused.json);
    assert!(refused["input"].as_str().unwrap().starts_with("no endpoints"), "{}", refused.json);
    let answers = json!({ "policy": "foreign", "config": { "n": 1 } });
    let _ = operator.put(&path, &answers).await.expect(201);
}

/// The first child of a process, once it has one.
async fn child_of(parent: u32) -> u32 {
    let mut child = None;
    until("it starts a process", Duration::from_secs(10), async || {
        let tasks = std::fs::read_dir(format!("/proc/{parent}/task")).unwrap();
        let children =
            tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("children")).ok());
        child =
            children.flat_map(|text| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).next();
        child.is_some()
    })
    .await;
    child.unwrap().parse().unwrap()
}

/// A machine that runs out of memory is to end what compiles, not what answers, and whoever uploads is told so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compiler_goes_before_its_gateway_and_what_it_died_of_is_told() {
    let (mut gateway, issuer) = lone_gateway().await;
    let operator = gateway.client().bearing(&issuer.operator());
    let (depth, locals) = bombs::TIME;
    let module = bombs::nested_loops(depth, locals);
    let pushing = tokio::spawn(async move { push(&operator, "bomb", &module).await });
    let compiler = child_of(gateway.pid()).await;
    let score = format!("/proc/{compiler}/oom_score_adj");
    until("it stands first", Duration::from_secs(5), async || {
        std::fs::read_to_string(&score).unwrap().trim() == "1000"
    })
    .await;
    // As the system does it.
    let compiler = rustix::process::Pid::from_raw(i32::try_from(compiler).unwrap()).unwrap();
    rustix::process::kill_process(compiler, rustix::process::Signal::KILL).unwrap();
    let answer = pushing.await.unwrap().refused(503, "gate-unavailable");
    assert!(answer["detail"].as_str().unwrap().contains("short of memory"), "{}", answer.json);
    assert!(gateway.is_running());
    let open = gateway.client();
    assert_eq!(figures::one(&open, "meridian_policy_compilers_killed_total").await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_policy_carries_is_shown_and_its_schema_holds_at_bind() {
    let (gateway, issuer) = lone_gateway().await;
    let operator = gateway.client().bearing(&issuer.operator());
    let about = r#"{"format": 1, "name": "mine", "description": "keeps to one zone"}"#;
    let schema =
        r#"{"type": "object", "properties": {"zone": {"enum": ["a", "b"]}}, "additionalProperties": false}"#;
    let module = guests::with_section(&guests::only_zone('a'), "meridian:policy", about);
    let module = guests::with_section(&module, "meridian:config-schema", schema);
    let version = operator.upload("mine", &module).await;
    let shown = operator.get(&format!("/v1/policies/mine/versions/{version}")).await.expect(200);
    assert_eq!(shown["description"], "keeps to one zone", "{}", shown.json);
    assert_eq!(shown["schema"]["type"], "object", "{}", shown.json);

    let bind = async |policy: &str, config: serde_json::Value| {
        let body = json!({ "policy": policy, "config": config });
        operator.put(&format!("/v1/namespaces/default/bindings/{SERVICE}"), &body).await
    };
    let refused = bind("mine", json!({ "zone": "c", "zzz": 1 })).await.refused(422, "invalid");
    let errors = refused["errors"].as_array().unwrap();
    assert!(errors.iter().all(|e| e["field"] == "config"), "{}", refused.json);
    for place in ["/zone ", "/zzz "] {
        let told = errors.iter().any(|e| e["detail"].as_str().unwrap().starts_with(place));
        assert!(told, "{place}: {}", refused.json);
    }
    let _ = bind("mine", json!({ "zone": "b" })).await.expect(201);
    // The standard policies have schemas too.
    let refused = bind("canary", json!({ "percent": 120 })).await.refused(422, "invalid");
    assert!(refused["detail"].as_str().unwrap().contains("/percent must be at most 100"), "{}", refused.json);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standard_module_under_another_name_is_an_alias() {
    let (gateway, issuer) = lone_gateway().await;
    let operator = gateway.client().bearing(&issuer.operator());
    let standard = operator.get("/v1/policies/weighted").await.expect(200);
    let version = standard["versions"][0]["version"].as_str().unwrap().to_owned();
    let path = format!("/v1/policies/weighted/versions/{version}/module");
    let module = operator.get(&path).await.expect(200).body;
    let own = push(&operator, "weighted", &module).await.expect(200);
    assert_eq!(own["report"]["standard"], true, "{}", own.json);
    let alias = push(&operator, "mine", &module).await.expect(201);
    assert_eq!(alias["report"]["aliasOf"], "weighted", "{}", alias.json);
    let shown = operator.get(&format!("/v1/policies/mine/versions/{version}")).await.expect(200);
    assert_eq!(shown["aliasOf"], "weighted", "{}", shown.json);
    let _ = operator.bind(SERVICE, "mine", &version).await;
    let _ = operator.delete(&format!("/v1/namespaces/default/bindings/{SERVICE}")).await.expect(204);
    let _ = operator.delete(&format!("/v1/policies/mine/versions/{version}")).await.expect(204);
    // The standard one is still there for everybody.
    let _ = operator.bind(SERVICE, "weighted", &version).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_compiles_nothing_unless_an_artefact_was_touched() {
    let (mut gateway, issuer) = lone_gateway().await;
    let operator = gateway.client().bearing(&issuer.operator());
    let version = operator.upload("only-zone", &guests::only_zone('b')).await;
    let runnable = async |client: &Client| {
        until("the version can be run", Duration::from_secs(10), async || {
            let path = format!("/v1/policies/only-zone/versions/{version}");
            let shown = client.get(&path).await;
            shown.status == 200 && shown["runnable"] == true
        })
        .await;
    };
    runnable(&operator).await;
    gateway.kill();
    gateway.start().await;
    runnable(&operator).await;
    let figure = async |name: &str| figures::one(&operator, name).await;
    assert_eq!(figure("meridian_policy_compilations_total").await, 0.0);
    assert!(figure("meridian_policy_artefacts_used_total").await >= 1.0);

    let hex = version.strip_prefix("sha256:").unwrap();
    let artefact = gateway.directory().join(format!("data/artefacts/{hex}.artefact"));
    gateway.kill();
    let mut bytes = std::fs::read(&artefact).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&artefact, &bytes).unwrap();
    gateway.start().await;
    runnable(&operator).await;
    assert_eq!(figure("meridian_policy_compilations_total").await, 1.0);
}
