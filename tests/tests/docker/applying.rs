//! What terraform makes, what it leaves alone, and what it refuses.

use crate::place::{ORDERS, Place, REGIONS, docker, meridian, said, variable};
use meridian_tests::binary;
use meridian_tests::client::Client;
use meridian_tests::patience::until;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::Output;
use std::time::Duration;

/// For what a gateway shows of its own region.
const SOON: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_apply_changes_what_was_changed_and_a_destroy_leaves_nothing() {
    let mut place = Place::new();
    place.set_small();
    place.apply();
    let before = place.objects();
    // A network for each region and one between, and a container with its volume for etcd, node and gateway.
    assert_eq!(before.len(), 3 + 2 * 2 * 3, "{before:?}");
    assert!(place.is_as_said(), "a second apply would change something");

    what_docker_lost_is_made_again(&place);
    let before = place.objects();
    an_image_tells_whether_its_process_is_ready(&place);
    slowness_shows_in_round_trips(&place).await;
    what_is_rendered_is_taken(&place);
    policies_are_refused_before_they_are_bound(&place).await;
    a_policy_comes_from_its_source(&place).await;

    let settings = json!({ "lookups": { "max_remote_age": "30m" } });
    place.set("settings", settings);
    assert!(!place.is_as_said(), "a changed variable changes nothing");
    place.apply();
    let after = place.objects();
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    let replaced: Vec<&String> =
        before.iter().filter(|(name, id)| after[*name] != **id).map(|(name, _)| name).collect();
    let all = |what: &[&str]| -> Vec<String> {
        let of =
            |region: &&str| what.iter().map(|what| format!("container {region}-{what}")).collect::<Vec<_>>();
        REGIONS[..2].iter().flat_map(of).collect()
    };
    // etcd has no such settings.
    assert_eq!(replaced, all(&["gateway-1", "node"]).iter().collect::<Vec<_>>());

    place.set("settings", json!({ "lookups": { "no_such_key": "1" } }));
    let output = place.regions("apply", &["-auto-approve"]);
    assert!(!output.status.success() && said(&output).contains("no_such_key"), "{}", said(&output));
    let left: Vec<String> =
        place.objects().into_keys().filter(|name| name.starts_with("container")).collect();
    assert_eq!(left, all(&["etcd-1"]), "a create that failed left something behind");

    place.destroy();
    assert_eq!(place.objects(), BTreeMap::new());
    assert!(!place.directory().join("run").join(&place.project).exists(), "keys were left behind");
}

/// `terraform apply|destroy` of `terraform/policies` for orders-api in the first region.
fn policies(place: &Place, command: &str, more: &[(&str, Value)]) -> Output {
    let init = place.terraform("policies", "init", &["-input=false"]).output().unwrap();
    assert!(init.status.success(), "{}", said(&init));
    let given = [
        ("gateway", json!(format!("http://{}", place.gateways(0)[0]))),
        ("token_file", json!(place.operator())),
        ("meridian", meridian()),
        ("service", json!(ORDERS)),
    ];
    let mut all: BTreeMap<&str, Value> = BTreeMap::from(given);
    all.extend(more.iter().cloned());
    let variables: Vec<String> = all.iter().map(|(name, value)| variable(name, value)).collect();
    let arguments = ["-no-color", "-input=false", "-auto-approve"];
    let arguments: Vec<&str> = arguments.into_iter().chain(variables.iter().map(String::as_str)).collect();
    // What a policy is built of is built once for all runs.
    let sources = concat!(env!("CARGO_TARGET_TMPDIR"), "/policies-from-source");
    place.terraform("policies", command, &arguments).env("CARGO_TARGET_DIR", sources).output().unwrap()
}

/// Built, uploaded, tried and bound; refused with the gate's own words where its cases do not hold; rolled back. Ends as it
/// began.
async fn a_policy_comes_from_its_source(place: &Place) {
    let folder = place.directory().join("preview");
    let made =
        binary::command().args(["policy", "new", "preview", "--directory"]).arg(&folder).output().unwrap();
    assert!(made.status.success(), "{}", said(&made));
    let operator = place.client(0);
    let lookup = format!("/v1/resolve/{ORDERS}");
    let source = |version: &str| {
        [
            ("policy", json!("preview")),
            ("source_directory", json!(folder)),
            ("stage", json!("active")),
            ("config", json!(json!({ "previewVersion": version }).to_string())),
        ]
    };

    let output = policies(place, "apply", &source("2"));
    assert!(output.status.success(), "{}", said(&output));
    until("the policy answers", SOON, async || operator.get(&lookup).await["policy"]["name"] == "preview")
        .await;
    let answered = operator.get(&lookup).await.expect(200);
    assert_eq!(answered["policy"]["outcome"], "ok", "{}", answered.json);
    assert_eq!(answered.endpoints(), ["o-1"], "{}", answered.json);

    // Its schema does not take this one, which shows when it is tried.
    let output = policies(place, "apply", &source(""));
    assert!(
        !output.status.success() && said(&output).contains("/previewVersion must have"),
        "{}",
        said(&output)
    );

    let cases = folder.join("cases.json");
    let right = std::fs::read_to_string(&cases).unwrap();
    let wrong = right.replacen("[[\"a-1\"]", "[[\"b-1\"]", 1);
    assert_ne!(right, wrong);
    std::fs::write(&cases, wrong).unwrap();
    let output = policies(place, "apply", &source("2"));
    let gate = ["trial-failed", "test-cases", "should give tiers"];
    let refused = !output.status.success() && gate.iter().all(|word| said(&output).contains(word));
    assert!(refused, "{}", said(&output));
    let still = operator.get(&lookup).await.expect(200);
    assert_eq!(still["policy"], answered["policy"], "what was refused is bound");

    std::fs::write(&cases, right).unwrap();
    let output = policies(place, "destroy", &source("2"));
    assert!(output.status.success(), "{}", said(&output));
    until("the policy is rolled back", SOON, async || {
        operator.get(&lookup).await["policy"]["name"] != "preview"
    })
    .await;
}

/// Asked for 200 ms, a gateway of another region measures about that, and no more of it when it has ended.
async fn slowness_shows_in_round_trips(place: &Place) {
    let client = place.client(0);
    let path = format!("/v1/regions/{}", REGIONS[1]);
    let measured = async |what: &str, range: std::ops::Range<u64>| {
        let within = async || range.contains(&client.get(&path).await.expect(200).number("roundTripMs"));
        println!("{what}: after {:?}", until(what, Duration::from_secs(120), within).await);
    };
    measured("round trips as fast as this machine", 0..60).await;
    place.fault_with("begin", "slow", REGIONS[1], &["--delay", "200ms", "--jitter", "20ms"]);
    // Smoothed, and told anew when it has changed by a quarter.
    measured("round trips of 200 ms", 150..400).await;
    place.fault("end", "slow", REGIONS[1]);
    measured("round trips as fast again", 0..60).await;
}

/// Removed by hand, or of an image that was built again.
fn what_docker_lost_is_made_again(place: &Place) {
    let before = place.objects();
    let gateway = place.containers(REGIONS[1], "gateway").remove(0);
    let _ = docker(&["rm", "--force", &gateway]);
    let output = place.mend();
    assert!(output.status.success() && said(&output).contains("is gone"), "{}", said(&output));
    let after = place.objects();
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    let replaced = before.iter().filter(|(name, id)| after[*name] != **id).count();
    assert_eq!(replaced, 1, "{before:?} {after:?}");
    assert!(place.is_as_said(), "what was mended is to be made again");

    let file = place.built("meridian");
    let built = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, "another").unwrap();
    assert!(!place.is_as_said(), "an image that was built again changes nothing");
    std::fs::write(&file, built).unwrap();
}

/// Ends as it began: nothing bound.
async fn policies_are_refused_before_they_are_bound(place: &Place) {
    let operator = place.client(0);
    let binding = format!("/v1/namespaces/default/bindings/{ORDERS}");
    let token = json!({ "host": "10.0.0.1", "port": 80, "zone": "ap-south-1a", "leaseTtlSeconds": 3600 });
    let key = place.operator().with_file_name("../issuer/issuer.key");
    let workload = binary::command()
        .args(["token", "mint", "--service", ORDERS, "--key"])
        .arg(key)
        .output()
        .map(|output| String::from_utf8(output.stdout).unwrap())
        .unwrap();
    let owner = Client::new(place.gateways(0)[0]).bearing(workload.trim());
    let _ = owner.register(ORDERS, "o-1", &token).await.expect(201);

    let bound = |command: &str, more: &[(&str, Value)]| {
        policies(place, command, &[&[("policy", json!("canary"))], more].concat())
    };

    // Refused by the policy itself when it is tried, and by the gate when it is uploaded.
    let wrong = place.directory().join("wrong.wasm");
    std::fs::write(&wrong, b"\0asm\x0d\0\x01\0 and nothing that makes sense").unwrap();
    for refused in [
        vec![("stage", json!("active")), ("config", json!("{\"percent\": \"many\"}"))],
        vec![("stage", json!("active")), ("policy", json!("mine")), ("module_file", json!(wrong))],
    ] {
        let output = bound("apply", &refused);
        assert!(!output.status.success(), "{refused:?} was applied: {}", said(&output));
        assert_eq!(operator.get(&binding).await.status, 404, "{refused:?} is bound");
    }

    // A candidate that nobody has asked is not proven.
    let config = ("config", json!("{\"percent\": 20}"));
    let canary = [config.clone(), ("stage", json!("canary")), ("percent", json!(50))];
    let output = bound("apply", &canary);
    assert!(output.status.success(), "{}", said(&output));
    let stands = operator.get(&binding).await.expect(200);
    assert_eq!(stands["candidate"]["percent"], 50.0, "{}", stands.json);
    let active = [config.clone(), ("stage", json!("active"))];
    let output = bound("apply", &active);
    assert!(!output.status.success() && said(&output).contains("not-proven"), "{}", said(&output));
    let stands = operator.get(&binding).await.expect(200);
    assert_eq!(stands["active"]["policy"], "zone-fallback", "{}", stands.json);

    let forced = [config, ("stage", json!("active")), ("force", json!(true))];
    let output = bound("apply", &forced);
    assert!(output.status.success(), "{}", said(&output));
    let stands = operator.get(&binding).await.expect(200);
    assert_eq!(stands["active"]["policy"], "canary", "{}", stands.json);

    let output = bound("destroy", &forced);
    assert!(output.status.success(), "{}", said(&output));
    let stands = operator.get(&binding).await;
    assert_ne!(stands["active"]["policy"], "canary", "destroyed, and still bound: {}", stands.json);
}

/// The health check of images, and what a container may do.
fn an_image_tells_whether_its_process_is_ready(place: &Place) {
    let nobody = binary::command().args(["health", "--gateway", "http://127.0.0.1:9"]).output().unwrap();
    assert_eq!(nobody.status.code(), Some(3), "{}", said(&nobody));
    let gateway = place.containers(REGIONS[0], "gateway").remove(0);
    let health =
        |name: &str| docker(&["inspect", "--format", "{{.State.Health.Status}}", name]).trim().to_owned();
    assert_eq!(health(&gateway), "healthy");
    // Nothing of the container can be changed, and nothing in it is root.
    let shape = docker(&[
        "inspect",
        "--format",
        "{{.Config.User}} {{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}}",
        &gateway,
    ]);
    assert_eq!(shape.trim(), "65532:65532 true [ALL]");
    let address = place.gateways(0)[0];
    let asked =
        binary::command().args(["health", "--gateway", &format!("http://{address}")]).output().unwrap();
    assert!(asked.status.success(), "{}", said(&asked));
}

/// `terraform/modules/region` with everything that docker does not need, and the file that compose starts with: a process takes them.
fn what_is_rendered_is_taken(place: &Place) {
    let keys = place.directory().join("run").join(&place.project);
    let node = keys.join("certificates/ap-south-1-node");
    let tls = json!({ "certificate": node.join("certificate.pem"), "key": node.join("key.pem"), "ca": node.join("ca.pem") });
    let issuer = "https://dev.meridian";
    let given = [
        ("region", json!("ap-south-1")),
        ("zones", json!(["ap-south-1a", "ap-south-1b"])),
        (
            "registry",
            json!({ "endpoints": ["https://etcd-1:2379", "https://etcd-2:2379"], "prefix": "/m",
            "tls": { "ca": tls["ca"], "certificate": tls["certificate"], "key": tls["key"] } }),
        ),
        ("gateways", json!({ "gateway-1": { "url": "https://gateway-1.example:8500" } })),
        (
            "nodes",
            json!({ "node-1": { "url": "https://node-1.example:8510" }, "node-2": { "url": "https://node-2.example:8510" } }),
        ),
        ("peers", json!({ "eu-west-1": ["https://node.eu.example:8510"] })),
        ("ingress", json!([{ "host": "edge.example", "port": 443 }])),
        (
            "http",
            json!({ "workers": 2, "tls": { "certificate": tls["certificate"], "key": tls["key"], "client_ca": tls["ca"] } }),
        ),
        ("federation", json!({ "tls": tls })),
        (
            "identity",
            json!({
                "issuers": [{ "issuer": issuer, "audience": ["meridian", "other"], "jwks_file": keys.join("issuer.jwks") }],
                "rules": [
                    { "issuer": issuer, "role": "operator", "claims": { "groups": "a \"quoted\" <group> & more" }, "namespace": "prod" },
                    { "issuer": issuer, "role": "workload", "subject": "registrar", "namespace": "*", "service": "*" },
                ],
            }),
        ),
        (
            "settings",
            json!({ "lookups": { "max_remote_age": "30m", "router_cache_mib": "32" }, "policies": { "trusted_keys": "[]" } }),
        ),
    ];
    let variables: Vec<String> = given.iter().map(|(name, value)| variable(name, value)).collect();
    let module = |command: &str, arguments: &[&str]| {
        let output = place.terraform("modules/region", command, arguments).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let _ = module("init", &["-input=false"]);
    let arguments = ["-no-color", "-input=false", "-auto-approve"];
    let arguments: Vec<&str> = arguments.into_iter().chain(variables.iter().map(String::as_str)).collect();
    let _ = module("apply", &arguments);

    let folder = place.directory().join("rendered");
    std::fs::create_dir(&folder).unwrap();
    let mut files = Vec::new();
    for output in ["gateway_configs", "node_configs"] {
        let configs: BTreeMap<String, String> =
            serde_json::from_str(&module("output", &["-json", output])).unwrap();
        for (name, text) in configs {
            files.push(folder.join(format!("{name}.toml")));
            std::fs::write(files.last().unwrap(), text).unwrap();
        }
    }
    let compose = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/compose/gateway.toml");
    files.push(folder.join("compose.toml"));
    std::fs::copy(compose, files.last().unwrap()).unwrap();
    std::fs::copy(keys.join("issuer.jwks"), folder.join("issuer.jwks")).unwrap();
    assert_eq!(files.len(), 4);
    for file in files {
        let output = binary::command().args(["config", "check"]).arg(&file).output().unwrap();
        assert!(output.status.success(), "{}: {}", file.display(), said(&output));
    }
}
