//! Every document with one field blank, null, absent or of another type: each is answered by 2xx, or by a 4xx that names the
//! field, and other services' lookups go on unchanged.
//!
//! The mutants come from a complete document by walking it, so that a field that is added is mutated too.

use meridian_tests::client::{Answer, Client, instance_path, registration};
use meridian_tests::gateway::{GatewayProcess, embedded};
use meridian_tests::load::Load;
use meridian_tests::tokens::Issuer;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{ORDERS, PACE};

const SERVICE: &str = "mutants-api";

/// One change of one field.
struct Mutant {
    /// `healthCheck.http.path`, `tags[0]`.
    field: String,
    change: &'static str,
    /// What stands there now; null where nothing does.
    value: Value,
    body: Value,
}

/// The places of all fields and elements below a value, as JSON pointers and as fields are called in refusals.
fn places(value: &Value, pointer: &str, field: &str, found: &mut Vec<(String, String)>) {
    let children: Vec<(String, String, &Value)> = match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(key, value)| {
                let dot = if field.is_empty() { "" } else { "." };
                (format!("{pointer}/{key}"), format!("{field}{dot}{key}"), value)
            })
            .collect(),
        Value::Array(items) => {
            let place = |(n, value)| (format!("{pointer}/{n}"), format!("{field}[{n}]"), value);
            items.iter().enumerate().map(place).collect()
        }
        _ => Vec::new(),
    };
    for (pointer, field, value) in children {
        places(value, &pointer, &field, found);
        found.push((pointer, field));
    }
}

/// Other values than the one that stands there, with what they are.
fn changes(value: &Value) -> Vec<(&'static str, Value)> {
    let blank = match value {
        Value::String(_) => json!(""),
        Value::Number(_) => json!(0),
        Value::Array(_) => json!([]),
        Value::Object(_) => json!({}),
        Value::Bool(_) | Value::Null => json!(false),
    };
    let others = [
        ("a text", json!("mutant")),
        ("blanks", json!(" \t")),
        ("a number", json!(7)),
        ("a fraction", json!(0.5)),
        ("a negative number", json!(-1)),
        ("a huge number", json!(1e300)),
        ("true", json!(true)),
        ("a list", json!([1])),
        ("an object", json!({ "mutant": 1 })),
        ("a list of lists", json!([[[[]]]])),
    ];
    let mut all = vec![("blank", blank), ("null", Value::Null)];
    all.extend(others.into_iter().filter(|(_, other)| other != value));
    all
}

fn mutants(document: &Value) -> Vec<Mutant> {
    let mut found = Vec::new();
    places(document, "", "", &mut found);
    let mut mutants = Vec::new();
    for (pointer, field) in found {
        let original = document.pointer(&pointer).unwrap();
        for (change, value) in changes(original) {
            let mut body = document.clone();
            *body.pointer_mut(&pointer).unwrap() = value.clone();
            mutants.push(Mutant { field: field.clone(), change, value, body });
        }
        let (parent, last) = pointer.rsplit_once('/').unwrap();
        let mut body = document.clone();
        match body.pointer_mut(parent).unwrap() {
            Value::Object(fields) => drop(fields.remove(last)),
            Value::Array(items) => drop(items.remove(last.parse().unwrap())),
            _ => unreachable!("only these have children"),
        }
        mutants.push(Mutant { field, change: "absent", value: Value::Null, body });
    }
    mutants
}

/// Whether a refusal says which field it is about: the field, one above it, or one below it.
fn names(answer: &Answer, mutant: &Mutant) -> bool {
    let Mutant { field, value, .. } = mutant;
    let starts = |long: &str, short: &str| {
        long.strip_prefix(short).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[', '/']))
    };
    // What depends on two fields may be told of the other: then the words have to name this one, or what stands in it.
    let last = field.rsplit('.').next().unwrap_or(field);
    let told = |detail: &str| {
        detail.contains(last) || value.as_str().is_some_and(|text| !text.is_empty() && detail.contains(text))
    };
    answer["errors"].as_array().into_iter().flatten().any(|error| {
        let about = error["field"].as_str().unwrap_or_default();
        let related = !about.is_empty() && (starts(about, field) || starts(field, about));
        related || told(error["detail"].as_str().unwrap_or_default())
    })
}

/// Sends every mutant; what is wrong with the answers.
async fn send(
    client: &Client,
    path: &str,
    document: &Value,
    after: impl AsyncFn(&Mutant) -> Option<String>,
) -> Vec<String> {
    let whole = client.put(path, document).await;
    assert!(matches!(whole.status, 200 | 201), "the whole document: {} {}", whole.status, whole.json);
    let (mut wrong, mut taken, mut refused) = (Vec::new(), 0, 0);
    for mutant in mutants(document) {
        let headers = [("content-type", "application/json")];
        let body = mutant.body.to_string().into_bytes();
        let answer = client.send(Method::PUT, path, &headers, Some(body)).await.unwrap();
        let Mutant { field, change, .. } = &mutant;
        let mut complain = |what: String| wrong.push(format!("{field}: {change}: {what}"));
        match answer.status {
            200 | 201 => taken += 1,
            400..=499 => {
                answer.problem();
                refused += 1;
                if !names(&answer, &mutant) {
                    complain(format!("{} does not name it: {}", answer.status, answer.json));
                }
            }
            status => complain(format!("{status} {}", answer.json)),
        }
        if let Some(what) = after(&mutant).await {
            complain(what);
        }
    }
    println!("{path}: {taken} mutants taken, {refused} refused");
    assert!(taken > 0 && refused > 0, "{taken} taken, {refused} refused");
    wrong
}

async fn world() -> (GatewayProcess, Issuer, Load) {
    let issuer = Issuer::init();
    let gateway = GatewayProcess::new(&issuer, embedded()).started().await;
    let open = gateway.client();
    for (service, id, zone) in
        [(ORDERS, "a", "test-1a"), (ORDERS, "b", "test-1b"), (SERVICE, "sound", "test-1b")]
    {
        let owner = open.bearing(&issuer.workload(service));
        let _ = owner.register(service, id, &registration(zone, 8_080)).await.expect(201);
    }
    let load = Load::start(&[gateway.address()], &format!("/v1/resolve/{ORDERS}?zone=test-1a"), PACE / 4);
    (gateway, issuer, load)
}

/// Others' lookups went on as before, and the gateway is the one that was started.
fn nobody_was_hurt(mut gateway: GatewayProcess, load: Load, wrong: &[String]) {
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(gateway.is_running(), "the gateway ended");
    let report = load.stop();
    report.check();
    assert_eq!(report.given.keys().collect::<Vec<_>>(), ["a"], "lookups of another service changed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_mutant_of_a_registration_hurts_anybody() {
    let (gateway, issuer, load) = world().await;
    let open = gateway.client();
    let owner = open.bearing(&issuer.workload(SERVICE));
    let document = json!({
        "host": "10.42.6.18",
        "port": 8080,
        "zone": "test-1a",
        "version": "1.4.2",
        "weight": 100,
        "deploymentGroup": "stable",
        "protocol": "http",
        "tags": ["v2", "edge"],
        "metadata": { "team": "inventory" },
        "status": "healthy",
        "leaseTtlSeconds": 3600,
        "renewBy": "heartbeat",
        "capacity": 500,
        "service": SERVICE,
        "instanceId": "mutant",
        "namespace": "default",
        "region": "test-1",
    });
    let path = instance_path(SERVICE, "mutant");
    // Whatever was taken is shown, and its neighbour is found.
    let after = async |_: &Mutant| {
        let listed = open.get(&format!("/v1/namespaces/default/services/{SERVICE}")).await;
        let found = open.resolve(SERVICE, "?n=all").await;
        let sound = found.endpoints().iter().any(|id| id == "sound");
        (listed.status != 200 || !sound).then(|| format!("then {} and {}", listed.status, found.json))
    };
    let mut wrong = send(&owner, &path, &document, after).await;
    let checked = json!({
        "host": "127.0.0.1",
        "port": 9,
        "zone": "test-1a",
        "leaseTtlSeconds": 3600,
        "healthCheck": { "http": { "path": "/health", "intervalSeconds": 300, "timeoutSeconds": 2, "unhealthyAfter": 3, "healthyAfter": 2 } },
    });
    wrong.extend(send(&owner, &instance_path(SERVICE, "checked"), &checked, after).await);
    nobody_was_hurt(gateway, load, &wrong);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_mutant_of_a_binding_hurts_anybody() {
    let (gateway, issuer, load) = world().await;
    let open = gateway.client();
    let operator = open.bearing(&issuer.operator());
    let standard = operator.get("/v1/policies/canary").await.expect(200);
    let version = standard["versions"][0]["version"].as_str().unwrap().to_owned();
    let document = json!({
        "policy": "canary",
        "version": version,
        "config": {
            "percent": 10.5,
            "canary": { "tag": "v2" },
            "salt": "s",
            "locality": { "regionFallback": "never" },
            "callers": [{ "label": "team", "value": "x", "side": "stable" }],
        },
        "stage": "canary",
        "percent": 5,
        "limits": { "regions": ["test-1", "eu-west-1"], "maxRemoteShare": 0.5 },
        "callerLabels": ["team"],
    });
    let found = async |_: &Mutant| {
        let found = open.resolve(SERVICE, "").await;
        (found.status != 200).then(|| format!("then a lookup: {} {}", found.status, found.json))
    };
    let path = format!("/v1/namespaces/default/bindings/{SERVICE}");
    let mut wrong = send(&operator, &path, &document, found).await;
    let mut active = document.clone();
    let fields = active.as_object_mut().unwrap();
    fields.remove("percent");
    fields.remove("stage");
    wrong.extend(send(&operator, &path, &active, found).await);
    nobody_was_hurt(gateway, load, &wrong);
}
