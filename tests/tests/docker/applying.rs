//! What terraform makes, what it leaves alone, and what it refuses.

use crate::place::{ORDERS, Place, REGIONS, docker, meridian, said, variable};
use meridian_tests::binary;
use meridian_tests::client::Client;
use meridian_tests::patience::until;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::{Output, Stdio};
use std::time::Duration;

/// For what a gateway shows of its own region.
const SOON: Duration = Duration::from_secs(20);

/// A version is known to be good after its first lookup, so that a test need not wait for that.
fn settings(lookups: Value) -> Value {
    json!({ "policies": { "soak": "1s", "soak_lookups": "1" }, "lookups": lookups })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_apply_changes_what_was_changed_and_a_destroy_leaves_nothing() {
    let mut place = Place::new();
    place.set_small();
    place.set("settings", settings(json!({})));
    place.apply();
    let before = place.objects();
    // A network for each region and one between, and a container with its volume for etcd, node and gateway.
    assert_eq!(before.len(), 3 + 2 * 2 * 3, "{before:?}");
    place.set("wait_seconds", json!(100));
    assert!(place.is_as_said(), "a second apply would change something");

    a_daemon_that_does_not_answer_has_lost_nothing(&place);
    what_docker_lost_or_stopped_is_brought_back(&place);
    let before = place.objects();
    an_image_tells_whether_its_process_is_ready(&place);
    what_is_rendered_is_taken(&place);
    place.init("policies");
    // Round trips are long in getting slow and fast again.
    tokio::join!(slowness_shows_in_round_trips(&place), async {
        policies_are_refused_before_they_are_bound(&place).await;
        a_policy_comes_from_its_source(&place).await;
    });

    // Keys of another authority, another image of etcd, and another setting.
    place.set("settings", settings(json!({ "max_remote_age": "30m" })));
    assert!(!place.is_as_said(), "a changed variable changes nothing");
    std::fs::write(place.built("meridian-etcd"), "another").unwrap();
    let output = place.regions("apply", &["-auto-approve", "-replace=terraform_data.keys"]);
    assert!(output.status.success(), "{}", said(&output));
    let after = place.objects();
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    let all = |what: &[&str]| -> Vec<String> {
        let of =
            |region: &&str| what.iter().map(|what| format!("container {region}-{what}")).collect::<Vec<_>>();
        REGIONS[..2].iter().flat_map(of).collect()
    };
    // All containers, and none of the volumes.
    assert_eq!(replaced(&before, &after), all(&["etcd-1", "gateway-1", "node"]));

    place.set("settings", json!({ "lookups": { "no_such_key": "1" } }));
    let output = place.regions("apply", &["-auto-approve"]);
    assert!(!output.status.success() && said(&output).contains("no_such_key"), "{}", said(&output));
    let left: Vec<String> =
        place.objects().into_keys().filter(|name| name.starts_with("container")).collect();
    assert_eq!(left, all(&["etcd-1"]), "a create that failed left something behind");

    place.destroy();
    assert_eq!(place.objects(), BTreeMap::new());
    assert!(!place.keys().exists(), "keys were left behind");
}

/// What was there before and is another now.
fn replaced(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<String> {
    before.iter().filter(|(name, id)| after.get(*name) != Some(id)).map(|(name, _)| name.clone()).collect()
}

/// Terraform ends nothing whose making failed or was killed, unless something else of its state does.
#[test]
fn what_failed_or_was_killed_is_ended_too_and_what_is_not_its_own_stays() {
    let mut place = Place::new();
    place.set_small();
    let precious = place.keys().join("precious");
    std::fs::create_dir_all(place.keys()).unwrap();
    std::fs::write(&precious, "mine").unwrap();
    let output = place.regions("apply", &["-auto-approve"]);
    assert!(!output.status.success() && said(&output).contains("is there already"), "{}", said(&output));
    place.destroy();
    assert_eq!(place.objects(), BTreeMap::new());
    assert_eq!(std::fs::read_to_string(&precious).unwrap(), "mine");
    std::fs::remove_dir_all(place.keys()).unwrap();

    let mut apply = place
        .command("apply", &["-auto-approve"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while place.containers(REGIONS[0], "gateway").is_empty() {
        assert!(apply.try_wait().unwrap().is_none(), "it ended before it could be interrupted");
        std::thread::sleep(Duration::from_millis(50));
    }
    rustix::process::kill_process(rustix::process::Pid::from_child(&apply), rustix::process::Signal::TERM)
        .unwrap();
    assert!(!apply.wait().unwrap().success(), "it was not interrupted");
    let left = place.objects();
    assert!(
        left.contains_key(&format!("container {}-gateway-1", REGIONS[0])),
        "nothing was killed half-way: {left:?}"
    );
    place.destroy();
    assert_eq!(place.objects(), BTreeMap::new());
    assert!(!place.keys().exists(), "keys were left behind");
}

/// `terraform apply|destroy` of `terraform/policies` for orders-api in the first region.
async fn policies(place: &Place, command: &str, more: &[(&str, Value)]) -> Output {
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
    let mut terraform = place.terraform("policies", command, &arguments);
    let _ = terraform.env("CARGO_TARGET_DIR", sources);
    tokio::process::Command::from(terraform).output().await.unwrap()
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

    let output = policies(place, "apply", &source("2")).await;
    assert!(output.status.success(), "{}", said(&output));
    until("the policy answers", SOON, async || operator.get(&lookup).await["policy"]["name"] == "preview")
        .await;
    let answered = operator.get(&lookup).await.expect(200);
    assert_eq!(answered["policy"]["outcome"], "ok", "{}", answered.json);
    assert_eq!(answered.endpoints(), ["o-1"], "{}", answered.json);

    // Its schema does not take this one, which shows when it is tried.
    let output = policies(place, "apply", &source("")).await;
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
    let output = policies(place, "apply", &source("2")).await;
    let gate = ["trial-failed", "test-cases", "should give tiers"];
    let refused = !output.status.success() && gate.iter().all(|word| said(&output).contains(word));
    assert!(refused, "{}", said(&output));
    let still = operator.get(&lookup).await.expect(200);
    assert_eq!(still["policy"], answered["policy"], "what was refused is bound");

    std::fs::write(&cases, right).unwrap();
    let output = policies(place, "destroy", &source("2")).await;
    assert!(output.status.success(), "{}", said(&output));
    until("the policy is rolled back", SOON, async || {
        operator.get(&lookup).await["policy"]["name"] != "preview"
    })
    .await;
    // Nothing had been bound there before.
    let _ = operator.get(BINDING).await.expect(404);
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

/// Else a destroy would succeed and leave everything, and a mend make everything anew.
fn a_daemon_that_does_not_answer_has_lost_nothing(place: &Place) {
    let before = place.objects();
    for mut command in [
        place.command("destroy", &["-auto-approve"]),
        place.mend(),
        place.fault_command("end", "cut", REGIONS[0]),
        place.fault_command("end", "etcd-majority", REGIONS[0]),
    ] {
        let output = command.env("DOCKER_HOST", "unix:///nowhere").output().unwrap();
        assert!(!output.status.success(), "{command:?} succeeded: {}", said(&output));
    }
    place.apply();
    assert_eq!(place.objects(), before, "what is there was made anew");
}

/// Removed by hand, stopped as when the machine was started again, or of an image that was built again.
fn what_docker_lost_or_stopped_is_brought_back(place: &Place) {
    let before = place.objects();
    let gateway = place.containers(REGIONS[1], "gateway").remove(0);
    let _ = docker(&["rm", "--force", &gateway]);
    let stopped = ["etcd", "node"].map(|role| place.containers(REGIONS[0], role).remove(0));
    let _ = docker(&["stop", "-t", "1", &stopped[0], &stopped[1]]);
    // A network ended with its node, and what was cut in it.
    for fault in ["cut", "slow", "pause-node"] {
        place.fault("end", fault, REGIONS[0]);
    }
    let output = place.mend().output().unwrap();
    let words = ["is gone", "did not run"];
    assert!(
        output.status.success() && words.iter().all(|word| said(&output).contains(word)),
        "{}",
        said(&output)
    );
    let after = place.objects();
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    assert_eq!(replaced(&before, &after), [format!("container {}-gateway-1", REGIONS[1])]);
    let running = docker(&["inspect", "--format", "{{.State.Running}}", &stopped[0], &stopped[1]]);
    assert_eq!(running.split_whitespace().collect::<Vec<_>>(), ["true"; 2]);
    assert!(place.is_as_said(), "what was mended is to be made again");

    let file = place.built("meridian");
    let built = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, "another").unwrap();
    assert!(!place.is_as_said(), "an image that was built again changes nothing");
    std::fs::write(&file, built).unwrap();
}

/// Of orders-api, in the API of its region.
const BINDING: &str = "/v1/namespaces/default/bindings/orders-api";

/// Ends as it began: nothing bound.
async fn policies_are_refused_before_they_are_bound(place: &Place) {
    let operator = place.client(0);
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

    let bound = async |command: &str, more: &[(&str, Value)]| {
        policies(place, command, &[&[("policy", json!("canary"))], more].concat()).await
    };

    // Refused by the policy itself when it is tried, and by the gate when it is uploaded.
    let wrong = place.directory().join("wrong.wasm");
    std::fs::write(&wrong, b"\0asm\x0d\0\x01\0 and nothing that makes sense").unwrap();
    for refused in [
        vec![("stage", json!("active")), ("config", json!("{\"percent\": \"many\"}"))],
        vec![("stage", json!("active")), ("policy", json!("mine")), ("module_file", json!(wrong))],
    ] {
        let output = bound("apply", &refused).await;
        assert!(!output.status.success(), "{refused:?} was applied: {}", said(&output));
        assert_eq!(operator.get(BINDING).await.status, 404, "{refused:?} is bound");
    }

    // A candidate that nobody has asked is not proven.
    let config = ("config", json!("{\"percent\": 20}"));
    let canary = [config.clone(), ("stage", json!("canary")), ("percent", json!(50))];
    let output = bound("apply", &canary).await;
    assert!(output.status.success(), "{}", said(&output));
    let stands = operator.get(BINDING).await.expect(200);
    assert_eq!(stands["candidate"]["percent"], 50.0, "{}", stands.json);
    let active = [config.clone(), ("stage", json!("active"))];
    let output = bound("apply", &active).await;
    assert!(!output.status.success() && said(&output).contains("not-proven"), "{}", said(&output));
    let stands = operator.get(BINDING).await.expect(200);
    assert_eq!(stands["active"]["policy"], "zone-fallback", "{}", stands.json);

    // Nor is one that was never a candidate, beside a candidate that was not proven either.
    let percent = |percent: u8| ("config", json!(json!({ "percent": percent }).to_string()));
    let output = bound("apply", &[percent(30), ("stage", json!("active"))]).await;
    assert!(!output.status.success() && said(&output).contains("not-proven"), "{}", said(&output));
    let stands = operator.get(BINDING).await.expect(200);
    assert_eq!(stands["active"]["policy"], "zone-fallback", "{}", stands.json);

    let forced = [config, ("stage", json!("active")), ("force", json!(true))];
    let output = bound("apply", &forced).await;
    assert!(output.status.success(), "{}", said(&output));
    let stands = operator.get(BINDING).await.expect(200);
    assert_eq!(stands["active"]["policy"], "canary", "{}", stands.json);
    what_a_policy_is_reached_by_is_not_its_place(place, &forced).await;
    a_destroyed_policy_leaves_others_as_they_are(place).await;
}

/// Another file with the token takes nothing out of service.
async fn what_a_policy_is_reached_by_is_not_its_place(place: &Place, forced: &[(&str, Value)]) {
    let operator = place.client(0);
    let rollbacks = async || {
        let history = operator.get("/v1/history?limit=1000").await.expect(200);
        history["items"].as_array().unwrap().iter().filter(|change| change["action"] == "rollback").count()
    };
    let before = rollbacks().await;
    let moved = place.directory().join("moved");
    let _ = std::fs::copy(place.operator(), &moved).unwrap();
    let other = [forced, &[("policy", json!("canary")), ("token_file", json!(moved))]].concat();
    let output = policies(place, "apply", &other).await;
    assert!(output.status.success() && said(&output).contains("1 changed, 0 destroyed"), "{}", said(&output));
    assert_eq!(rollbacks().await, before, "the policy was taken out of service");
}

/// Two configs of a policy that are both known to be good, beside a candidate of another: each roll-back would lead to the other config.
async fn a_destroyed_policy_leaves_others_as_they_are(place: &Place) {
    let operator = place.client(0);
    let soaked = async |percent: u8| {
        let lookup = format!("/v1/resolve/{ORDERS}");
        let soaked = async || {
            let _ = operator.get(&lookup).await.expect(200);
            let active = operator.get(BINDING).await.expect(200)["active"].clone();
            active["config"]["percent"] == percent && active["soaked"] == true
        };
        let _ = until("it is known to be good", SOON, soaked).await;
    };
    soaked(20).await;
    let canary = |percent: u8| {
        let config = json!({ "percent": percent });
        json!({ "policy": "canary", "config": config, "limits": { "maxRemoteShare": 0.5 } })
    };
    let _ = operator.put(BINDING, &canary(20)).await.expect(200);
    let active = [
        ("policy", json!("canary")),
        ("config", json!(json!({ "percent": 30 }).to_string())),
        ("stage", json!("active")),
    ];
    let output = policies(place, "apply", &active).await;
    assert!(output.status.success(), "{}", said(&output));
    let stands = operator.get(BINDING).await.expect(200);
    assert_eq!(stands["limits"]["maxRemoteShare"], 0.5, "terms were taken back: {}", stands.json);
    soaked(30).await;
    let _ = operator.put(BINDING, &json!({ "policy": "weighted", "stage": "shadow" })).await.expect(200);

    let output = policies(place, "destroy", &active).await;
    assert!(output.status.success(), "{}", said(&output));
    let stands = operator.get(BINDING).await.expect(200);
    assert_eq!(stands["active"]["policy"], "zone-fallback", "{}", stands.json);
    assert_eq!(stands["candidate"]["policy"], "weighted", "{}", stands.json);
    let _ = operator.delete(BINDING).await.expect(204);
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
    let keys = place.keys();
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
