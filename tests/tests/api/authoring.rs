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

/// Pushes a file by the command, as an operator.
fn push(gateway: &GatewayProcess, issuer: &Issuer, name: &str, file: &Path, more: &[&str]) -> Output {
    let url = format!("http://{}", gateway.address());
    let token = issuer.operator();
    let fixed = ["--gateway", &url, "--token", &token, "--json", "policy", "push", name, text(file)];
    meridian(&[&fixed, more].concat())
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
