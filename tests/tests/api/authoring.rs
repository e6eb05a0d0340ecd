//! From an author's first command to a policy that answers: the crate, its tests, C, signatures.

use crate::world::{lone_gateway, register_many};
use meridian_tests::binary;
use meridian_tests::client::Client;
use meridian_tests::gateway::{GatewayProcess, embedded};
use meridian_tests::patience::until;
use meridian_tests::tokens::Issuer;
use reqwest::Method;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

const SERVICE: &str = "orders-api";

/// `meridian …`; crates are built from what this repository's own build has fetched, in a directory that is kept.
fn meridian(arguments: &[&str]) -> Output {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("authoring");
    let mut command = binary::command();
    command.args(arguments).env("CARGO_NET_OFFLINE", "true").env("CARGO_TARGET_DIR", target);
    command.output().unwrap()
}

fn both(output: &Output) -> String {
    [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat()
}

/// Standard output of a command that must succeed.
fn done(arguments: &[&str]) -> String {
    let output = meridian(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", both(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn refused(arguments: &[&str], exit_code: i32, says: &str) -> String {
    let output = meridian(arguments);
    let text = both(&output);
    assert_eq!(output.status.code(), Some(exit_code), "{arguments:?}: {text}");
    assert!(text.contains(says), "{arguments:?}: no {says:?} in {text}");
    text
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A command of an operator.
fn operate(gateway: &GatewayProcess, issuer: &Issuer, arguments: &[&str]) -> Output {
    let url = format!("http://{}", gateway.address());
    meridian(&[&["--gateway", &url, "--token", &issuer.operator()], arguments].concat())
}

/// Pushes a file by the command, as an operator.
fn push(gateway: &GatewayProcess, issuer: &Issuer, name: &str, file: &Path, more: &[&str]) -> Output {
    operate(gateway, issuer, &[&["--json", "policy", "push", name, text(file)], more].concat())
}

/// The one document that a program reads on standard output.
fn document(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", both(output)))
}

async fn answers_from(client: &Client, query: &str, policy: &str, id_begins: &str) {
    until("the policy answers", Duration::from_secs(2), async || {
        let answer = client.resolve(SERVICE, query).await;
        let id = answer["endpoints"][0]["id"].as_str().unwrap_or_default();
        answer["policy"]["name"] == policy && answer["policy"]["outcome"] == "ok" && id.starts_with(id_begins)
    })
    .await;
}

fn replace(file: &Path, old: &str, new: &str) {
    let text = std::fs::read_to_string(file).unwrap();
    assert!(text.contains(old), "{}: no {old:?}", file.display());
    std::fs::write(file, text.replacen(old, new, 1)).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_policy_is_tested_measured_built_and_answers() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path().join("curious");
    let said = done(&["policy", "new", "curious", "--directory", text(&at)]);
    assert!(said.contains("next: meridian policy test"), "{said}");
    refused(&["policy", "new", "curious", "--directory", text(&at)], 2, "nothing in it was touched");

    let (gateway, issuer) = lone_gateway().await;
    let client = gateway.client();
    register_many(&client.bearing(&issuer.workload(SERVICE)), SERVICE, "o", 4).await;
    let instances = client.get(&format!("/v1/namespaces/default/services/{SERVICE}")).await.expect(200);
    let snapshot = directory.path().join("orders.json");
    std::fs::write(&snapshot, instances.json.to_string()).unwrap();
    let said = done(&["policy", "test", text(&at), "--snapshot", text(&snapshot)]);
    for part in ["an ordinary caller never gets the preview", "gate: corpus", "test-1a 100.0 %"] {
        assert!(said.contains(part) && !said.contains("FAILED"), "{part}: {said}");
    }
    let bench: Value = serde_json::from_str(&done(&["--json", "policy", "bench", text(&at)])).unwrap();
    for (size, calls) in [20, 5_000].iter().zip(bench["calls"].as_array().unwrap()) {
        assert_eq!(calls["endpoints"], *size, "{bench}");
        assert!(calls["routeNanosP50"].as_u64().unwrap() > 0, "{bench}");
    }
    assert!(bench["memory"]["apartBytes"].as_u64().unwrap() > 0, "{bench}");

    let file = directory.path().join("curious.wasm");
    let _ = done(&["policy", "build", text(&at), "--output", text(&file)]);
    let pushed = push(&gateway, &issuer, "curious", &file, &[]);
    assert!(pushed.status.success(), "{}", both(&pushed));
    let body = json!({ "policy": "curious", "config": { "previewVersion": "none" } });
    let operator = client.bearing(&issuer.operator());
    let _ = operator.put(&format!("/v1/namespaces/default/bindings/{SERVICE}"), &body).await.expect(201);
    answers_from(&client, "?zone=test-1b", "curious", "o-").await;

    // What is wrong is named: the case, and the author's line where the policy panicked.
    replace(&at.join("src/lib.rs"), "let near =", "assert!(preview, \"on purpose\");\n        let near =");
    let said = refused(&["policy", "test", text(&at)], 1, "cargo test failed");
    assert!(
        said.contains("an ordinary caller never gets the preview") && said.contains("src/lib.rs:"),
        "{said}"
    );
    // The same without its source: a component that was built from it fails in the host by the name of the case.
    let _ = done(&["policy", "build", text(&at), "--output", text(&file)]);
    let said = refused(&["policy", "test", text(&file)], 1, "FAILED");
    assert!(said.contains("an ordinary caller never gets the preview") && said.contains("trap"), "{said}");
}

/// What fails a test, fails with one document: a program that reads two can read none.
#[test]
fn a_test_that_fails_prints_one_document() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("traps.wasm");
    std::fs::write(&file, crate::guests::trapping_when_empty()).unwrap();
    let output = meridian(&["--json", "policy", "test", text(&file)]);
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    let told = document(&output);
    assert!(told["failed"].as_u64().unwrap() > 0, "{told}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("failed"), "{}", both(&output));
}

/// `try` is what stands between a version and its binding, in a terminal and under Terraform.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_when_it_is_tried_is_not_bound() {
    // `route` of this one traps for services whose names begin so.
    const TRAPPED: &str = "trap-api";
    let (gateway, issuer) = lone_gateway().await;
    let client = gateway.client();
    for service in [SERVICE, TRAPPED] {
        register_many(&client.bearing(&issuer.workload(service)), service, "o", 4).await;
    }
    let operator = client.bearing(&issuer.operator());
    let version = operator.upload("only-zone", &crate::guests::only_zone('b')).await;
    let tried = |service: &str, more: &[&str]| {
        operate(&gateway, &issuer, &[&["policy", "try", "only-zone", service], more].concat())
    };
    let good = tried(SERVICE, &["--zone", "test-1a"]);
    assert!(good.status.success() && both(&good).contains("o-1"), "{}", both(&good));
    // With a key and without, since lookups are of both kinds.
    for more in [&["--zone", "test-1a"][..], &["--key", "k"]] {
        let bad = tried(TRAPPED, more);
        let said = both(&bad);
        assert_eq!(bad.status.code(), Some(1), "{said}");
        assert!(said.contains("failed    trap") && !said.contains("o-"), "{said}");
    }
    let bad = tried(TRAPPED, &["--json"]);
    let result = &document(&bad)["results"][0];
    assert_eq!((bad.status.code(), &result["changed"]), (Some(1), &Value::Null), "{result}");
    assert!(result.get("answer").is_none() && result.get("error").is_none(), "{result}");

    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), issuer.operator()).unwrap();
    let apply = |service: &str| {
        Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../terraform/policies/policy"))
            .arg("apply")
            .env("MERIDIAN", binary::meridian())
            .env("GATEWAY", format!("http://{}", gateway.address()))
            .env("TOKEN_FILE", token.path())
            .envs([("POLICY", "only-zone"), ("NAMESPACE", "default"), ("SERVICE", service)])
            .envs([("SOURCE", ""), ("MODULE", ""), ("SIGNATURE", ""), ("ZONES", "test-1a test-1b")])
            .envs([
                ("CONFIG", "{}"),
                ("STAGE", "active"),
                ("PERCENT", ""),
                ("REGIONS", ""),
                ("FORCE", "false"),
            ])
            .output()
            .unwrap()
    };
    let bindings = |service: &str| format!("/v1/namespaces/default/bindings/{service}");
    let stopped = apply(TRAPPED);
    assert!(!stopped.status.success() && both(&stopped).contains("trap"), "{}", both(&stopped));
    assert_eq!(operator.get(&bindings(TRAPPED)).await.status, 404, "bound all the same");
    let applied = apply(SERVICE);
    assert!(applied.status.success(), "{}", both(&applied));
    let bound = operator.get(&bindings(SERVICE)).await.expect(200);
    assert_eq!(bound["active"]["version"], version, "{}", bound.json);
}

/// Labels of callers and limits are tried before anybody binds them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn labels_are_tried_before_they_are_bound() {
    let (gateway, issuer) = lone_gateway().await;
    let client = gateway.client();
    let owner = client.bearing(&issuer.workload(SERVICE));
    for (id, group) in [("s-1", "stable"), ("c-1", "canary")] {
        let mut body = meridian_tests::client::registration("test-1a", 1);
        body["deploymentGroup"] = json!(group);
        let _ = owner.register(SERVICE, id, &body).await.expect(201);
    }
    let operator = client.bearing(&issuer.operator());
    let config = json!({ "percent": 0, "callers": [{ "label": "team", "value": "qa" }] });
    let asked = |more: Value| {
        let mut body = json!({ "service": SERVICE, "config": config,
            "lookups": [{ "zone": "test-1a", "labels": { "team": "qa", "x": "y" } }] });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let path = "/v1/policies/canary/try";
    let shown = operator.post(path, &asked(json!({}))).await.expect(200);
    let result = &shown["results"][0];
    assert_eq!(result["answer"]["endpoints"][0]["id"], "c-1", "{result}");
    assert_eq!((&result["heldBack"], &result["labelsToBind"]), (&json!([]), &json!(["team", "x"])));
    let held = operator.post(path, &asked(json!({ "callerLabels": ["x"] }))).await.expect(200);
    let result = &held["results"][0];
    assert_eq!(result["answer"]["endpoints"][0]["id"], "s-1", "{result}");
    assert_eq!((&result["heldBack"], &result["labelsToBind"]), (&json!(["team"]), &json!(["x"])));

    let simulated = operate(
        &gateway,
        &issuer,
        &[
            "simulate",
            SERVICE,
            "--activate",
            "canary",
            "--config",
            &config.to_string(),
            "--zone",
            "test-1a",
            "--label",
            "team=qa",
            "--json",
        ],
    );
    let service = &document(&simulated)["services"][0];
    assert_eq!(service["heldBack"], json!(["team"]), "{service}");
    assert_eq!(service["callers"][0]["after"]["endpoints"], json!({ "s-1": 1.0 }), "{service}");
}

/// What operators ask of policies and bindings, by the commands.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bindings_are_listed_limited_and_ended_with_a_reason() {
    let (gateway, issuer) = lone_gateway().await;
    let run = |arguments: &[&str]| operate(&gateway, &issuer, arguments);
    let said = |arguments: &[&str]| {
        let output = run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", both(&output));
        both(&output)
    };
    let bound = said(&[
        "policy",
        "bind",
        SERVICE,
        "canary",
        "--config",
        "{\"percent\": 5}",
        "--regions",
        "eu-west-1",
        "--max-remote-share",
        "0.2",
        "--label",
        "team",
        "--reason",
        "a first try",
    ]);
    // A region that is alone has heard of no other.
    for part in
        ["regions   eu-west-1", "up to 20.0 %", "labels    team", "nothing was ever heard of eu-west-1"]
    {
        assert!(bound.contains(part) && !bound.contains("which were"), "{part}: {bound}");
    }
    let again = said(&["policy", "bind", SERVICE, "canary"]);
    for part in
        ["regions   all", "which were: eu-west-1", "before 20.0 %", "no longer shown to the policy: team"]
    {
        assert!(again.contains(part), "{part}: {again}");
    }
    let listed = said(&["policy", "bindings"]);
    assert!(listed.contains(SERVICE) && listed.contains("canary"), "{listed}");
    let policies = said(&["policy", "list"]);
    let line = policies.lines().find(|line| line.starts_with("canary")).unwrap();
    assert!(line.contains("default/orders-api"), "{line}");
    let shown = said(&["policy", "show", "canary"]);
    for part in ["percent", "bound by   default/orders-api", "a standard policy"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let ended = said(&["policy", "unbind", SERVICE, "--reason", "enough of it"]);
    assert!(ended.contains("default/orders-api has no binding"), "{ended}");
    let gone = run(&["policy", "unbind", SERVICE]);
    assert!(gone.status.code() == Some(4) && both(&gone).contains("policy bindings"), "{}", both(&gone));

    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), crate::guests::only_zone('b')).unwrap();
    let pushed =
        document(&run(&["--json", "policy", "push", "mine", text(file.path()), "--reason", "to look at"]));
    let _ = said(&["policy", "delete", "mine", pushed["version"].as_str().unwrap(), "--reason", "seen"]);

    let history = document(&run(&["history", "--json"]));
    let told: Vec<(&str, &str)> = history["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| (change["action"].as_str().unwrap(), change["reason"].as_str().unwrap_or_default()))
        .collect();
    let wanted = [
        ("delete", "seen"),
        ("upload", "to look at"),
        ("unbind", "enough of it"),
        ("bind", ""),
        ("bind", "a first try"),
    ];
    assert_eq!(told, wanted);
    let of_service = said(&["history", SERVICE, "--limit", "1"]);
    assert!(of_service.contains("enough of it") && !of_service.contains("a first try"), "{of_service}");
    let nobody = said(&["history", "--actor", "nobody"]);
    assert!(nobody.contains("no such change"), "{nobody}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_in_c_becomes_a_component_and_answers() {
    let directory = tempfile::tempdir().unwrap();
    let core = directory.path().join("zone-c.core.wasm");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples/policy-c/build");
    let built = Command::new(script).arg(&core).output().unwrap();
    assert!(built.status.success(), "clang and lld are needed: {}", both(&built));
    let said = done(&["policy", "test", text(&core)]);
    assert!(said.contains("gate: purity") && !said.contains("FAILED"), "{said}");
    let file = directory.path().join("zone-c.wasm");
    let _ = done(&["policy", "build", "--core", text(&core), "--output", text(&file)]);

    let (gateway, issuer) = lone_gateway().await;
    let client = gateway.client();
    let workload = client.bearing(&issuer.workload(SERVICE));
    register_many(&workload, SERVICE, "o", 4).await;
    let pushed = push(&gateway, &issuer, "zone-c", &file, &[]);
    assert!(pushed.status.success(), "{}", both(&pushed));
    let operator = client.bearing(&issuer.operator());
    let path = format!("/v1/namespaces/default/bindings/{SERVICE}");
    let _ = operator.put(&path, &json!({ "policy": "zone-c" })).await.expect(201);
    // o-1 and o-3 are of zone b; without them the rest of the region answers.
    answers_from(&client, "?zone=test-1b", "zone-c", "o-").await;
    let own = |answer: &Value| answer["endpoints"].as_array().unwrap().iter().all(|e| e["zone"] == "test-1b");
    for key in 0..20 {
        let answer = client.resolve(SERVICE, &format!("?zone=test-1b&key={key}")).await.expect(200);
        assert!(own(&answer.json) && answer["tier"] == 0, "{}", answer.json);
    }
    for id in ["o-1", "o-3"] {
        let path = format!("/v1/namespaces/default/services/{SERVICE}/instances/{id}");
        let _ = workload.send(Method::DELETE, &path, &[], None).await.unwrap().expect(204);
    }
    until("the other zone answers", Duration::from_secs(2), async || {
        let answer = client.resolve(SERVICE, "?zone=test-1b").await;
        answer["endpoints"][0]["zone"] == "test-1a" && answer["policy"]["outcome"] == "ok"
    })
    .await;
    // What it was not made for is refused in its own words.
    let _ = operator
        .put(&path, &json!({ "policy": "zone-c", "config": { "a": 1 } }))
        .await
        .refused(422, "invalid");
}

/// Makes a key with openssl, whose formats operators have; the private and the public file.
fn key(directory: &Path, name: &str, algorithm: &[&str]) -> (PathBuf, PathBuf) {
    let (private, public) = (directory.join(name), directory.join(format!("{name}.pub")));
    openssl(&[&["genpkey", "-out", text(&private), "-algorithm"], algorithm].concat());
    openssl(&["pkey", "-in", text(&private), "-pubout", "-out", text(&public)]);
    (private, public)
}

fn openssl(arguments: &[&str]) {
    let ran = Command::new("openssl").args(arguments).output().expect("openssl is needed");
    assert!(ran.status.success(), "{arguments:?}: {}", both(&ran));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_trusts_keys_takes_only_what_they_signed() {
    let directory = tempfile::tempdir().unwrap();
    let here = |name: &str| directory.path().join(name);
    let p256 = ["EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
    let keys = [key(directory.path(), "ed", &["ed25519"]), key(directory.path(), "ec", &p256)];
    let (stranger, stranger_public) = key(directory.path(), "stranger", &["ed25519"]);
    let issuer = Issuer::init();
    let trusted: Vec<toml::Value> = keys.iter().map(|(_, public)| text(public).into()).collect();
    let gateway = GatewayProcess::new(&issuer, embedded()).with("policies", "trusted_keys", trusted);
    let gateway = gateway.started().await;

    for ((private, public), zone) in keys.iter().zip(['a', 'b']) {
        let file = here(&format!("only-{zone}.wasm"));
        std::fs::write(&file, crate::guests::only_zone(zone)).unwrap();
        let said = both(&push(&gateway, &issuer, "signed", &file, &[]));
        assert!(said.contains("signature-missing"), "{said}");

        let signature = here(&format!("only-{zone}.wasm.sig"));
        let _ = done(&["policy", "sign", text(&file), "--key", text(&stranger)]);
        let said = both(&push(&gateway, &issuer, "signed", &file, &["--signature", text(&signature)]));
        assert!(said.contains("signature-invalid"), "{said}");
        refused(&["policy", "verify", text(&file), "--key", text(public)], 1, "is no signature");
        let _ = done(&["policy", "verify", text(&file), "--key", text(&stranger_public)]);

        let signed: Value =
            serde_json::from_str(&done(&["--json", "policy", "sign", text(&file), "--key", text(private)]))
                .unwrap();
        let _ = done(&["policy", "verify", text(&file), "--key", text(public)]);
        let pushed = push(&gateway, &issuer, "signed", &file, &["--signature", text(&signature)]);
        assert!(pushed.status.success(), "{}", both(&pushed));
        let operator = gateway.client().bearing(&issuer.operator());
        let version = signed["version"].as_str().unwrap();
        let shown = operator.get(&format!("/v1/policies/signed/versions/{version}")).await.expect(200);
        assert_eq!(shown["signature"]["keyId"], signed["keyId"], "{}", shown.json);
        assert_eq!(shown["signature"]["value"], signed["signature"], "{}", shown.json);
    }
    // A signature is one of a version: that of another is none.
    std::fs::write(here("other.wasm"), crate::guests::only_zone('c')).unwrap();
    let said = push(
        &gateway,
        &issuer,
        "signed",
        &here("other.wasm"),
        &["--signature", text(&here("only-a.wasm.sig"))],
    );
    assert!(both(&said).contains("signature-invalid"), "{}", both(&said));
}
