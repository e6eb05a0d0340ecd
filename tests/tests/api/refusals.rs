//! Bad input: every case of `corpora/refusals.json` has the status, the code and where it says so the field that it must
//! have, nothing of it is stored, and the gateway goes on as if nothing had come.

use crate::guests;
use crate::world::lone_gateway;
use meridian_tests::client::{Answer, Client, registration};
use meridian_tests::raw;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// One request that must be refused. Its body is one of several forms.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// What is wrong with it.
    why: String,
    /// Whose token it bears.
    #[serde(rename = "as")]
    bearer: String,
    method: String,
    #[serde(default)]
    path: String,
    /// A path that is long: its beginning, and what follows how often.
    path_repeat: Option<(String, String, usize)>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// A right registration with these fields instead; null takes one out.
    with: Option<Map<String, Value>>,
    json: Option<Value>,
    text: Option<String>,
    hex: Option<String>,
    repeat: Option<(String, usize)>,
    /// So many right lookups.
    lookups: Option<usize>,
    module: Option<String>,
    /// None: whatever refuses it.
    status: Option<u16>,
    /// None: refused before there is a request that could be answered with a problem.
    code: Option<String>,
    field: Option<String>,
}

impl Case {
    fn target(&self) -> String {
        match &self.path_repeat {
            Some((start, more, times)) => format!("{start}{}", more.repeat(*times)),
            None => self.path.clone(),
        }
    }

    fn body(&self, modules: &BTreeMap<&str, Vec<u8>>) -> Vec<u8> {
        if let Some(with) = &self.with {
            let mut body = registration("test-1a", 1);
            let fields = body.as_object_mut().unwrap();
            for (field, value) in with {
                match value {
                    Value::Null => fields.remove(field),
                    value => fields.insert(field.clone(), value.clone()),
                };
            }
            return body.to_string().into_bytes();
        }
        let hex = |text: &String| {
            let digits = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
            digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
        };
        let repeat = |(text, times): &(String, usize)| text.repeat(*times).into_bytes();
        let lookups = |count: &usize| {
            json!({ "lookups": vec![json!({ "service": "orders-api" }); *count] }).to_string().into_bytes()
        };
        let module =
            |name: &String| modules.get(name.as_str()).unwrap_or_else(|| panic!("no module {name}")).clone();
        None.or_else(|| self.json.as_ref().map(|json| json.to_string().into_bytes()))
            .or_else(|| self.text.as_ref().map(|text| text.clone().into_bytes()))
            .or_else(|| self.hex.as_ref().map(hex))
            .or_else(|| self.repeat.as_ref().map(repeat))
            .or_else(|| self.lookups.as_ref().map(lookups))
            .or_else(|| self.module.as_ref().map(module))
            .unwrap_or_default()
    }

    /// What is wrong with the answer, if anything.
    fn judge(&self, answer: &Answer) -> Result<(), String> {
        match self.status {
            Some(status) if answer.status != status => {
                return Err(format!(
                    "{} {:?} instead of {status}: {}",
                    answer.status,
                    answer.code(),
                    answer.json
                ));
            }
            None if !(400..500).contains(&answer.status) => {
                return Err(format!("{} is no refusal", answer.status));
            }
            _ => {}
        }
        let Some(code) = &self.code else { return Ok(()) };
        if answer.code() != code {
            return Err(format!("code {:?} instead of {code:?}: {}", answer.code(), answer.json));
        }
        let errors = answer["errors"].as_array().cloned().unwrap_or_default();
        if let Some(field) = &self.field
            && !errors.iter().any(|error| error["field"] == *field)
            && (!field.is_empty() || errors.is_empty())
        {
            return Err(format!("does not name {field}: {}", answer.json));
        }
        std::panic::catch_unwind(|| answer.problem()).map_err(|_| "is no whole problem".to_owned())
    }
}

fn modules() -> BTreeMap<&'static str, Vec<u8>> {
    let right = guests::only_zone('a');
    let truncated = right[..right.len() / 2].to_vec();
    let mut overwritten = right.clone();
    let middle = right.len() / 2;
    overwritten[middle..middle + 16].fill(0xff);
    BTreeMap::from([
        ("core", b"\0asm\x01\0\0\0".to_vec()),
        ("truncated", truncated),
        ("overwritten", overwritten),
        ("importing", guests::importing()),
        ("another-world", guests::of_another_world()),
        ("only-zone", right),
    ])
}

/// All that is stored, as far as the API shows it.
async fn stored(operator: &Client) -> Vec<Value> {
    let mut all = Vec::new();
    for path in [
        "/v1/namespaces",
        "/v1/namespaces/default/services",
        "/v1/namespaces/default/services/orders-api",
        "/v1/namespaces/default/bindings",
        "/v1/policies",
        "/v1/history",
    ] {
        let mut answer = operator.get(path).await.expect(200).json;
        // These move by themselves; records carry their own revisions, and every change stands in the history.
        for moving in ["ageMs", "index"] {
            answer.as_object_mut().unwrap().remove(moving);
        }
        all.push(answer);
    }
    all
}

async fn ask(
    address: SocketAddr,
    case: &Case,
    token: Option<&String>,
    body: &[u8],
) -> std::io::Result<Answer> {
    let authorization = token.map(|token| format!("Bearer {token}"));
    let mut headers: Vec<(&str, &str)> = case.headers.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    headers.extend(authorization.as_deref().map(|value| ("authorization", value)));
    raw::exchange(address, &case.method, &case.target(), &headers, body).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_bad_request_is_refused_by_name_and_leaves_no_trace() {
    let (gateway, issuer) = lone_gateway().await;
    let tokens =
        BTreeMap::from([("workload", issuer.workload("orders-api")), ("operator", issuer.operator())]);
    let operator = gateway.client().bearing(&tokens["operator"]);
    let owner = gateway.client().bearing(&tokens["workload"]);
    let _ = owner.register("orders-api", "o-1", &registration("test-1a", 1)).await.expect(201);
    let (before, pid) = (stored(&operator).await, gateway.pid());

    let cases: Vec<Case> = serde_json::from_str(include_str!("../../corpora/refusals.json")).unwrap();
    assert!(cases.len() > 200, "the corpus has only {} cases", cases.len());
    let modules = modules();
    let mut wrong = Vec::new();
    for case in &cases {
        let token = tokens.get(case.bearer.as_str());
        let judged = match ask(gateway.address(), case, token, &case.body(&modules)).await {
            Ok(answer) => case.judge(&answer),
            // Closing the connection without a word is a refusal too, where there is no request to answer.
            Err(_) if case.status.is_none() => Ok(()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(what) = judged {
            let shown: String = what.chars().take(300).collect();
            wrong.push(format!("{} ({} {:.80}): {shown}", case.why, case.method, case.target()));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));

    assert_eq!(stored(&operator).await, before, "a refused request left something behind");
    assert_eq!(gateway.pid(), pid);
    assert_eq!(owner.resolve("orders-api", "").await.expect(200).endpoints(), ["o-1"]);
    assert!(!gateway.log().contains("panicked"), "a handler panicked");
}

/// Connections that break off, lie about their length, or never end their head must not hurt others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_connections_hurt_nobody() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (gateway, issuer) = lone_gateway().await;
    let token = issuer.workload("orders-api");
    let owner = gateway.client().bearing(&token);
    let _ = owner.register("orders-api", "o-1", &registration("test-1a", 1)).await.expect(201);
    let put = "PUT /v1/namespaces/default/services/orders-api/instances/o-2 HTTP/1.1\r\nhost: x\r\n";
    let requests = [
        String::from("\0\0\0\0\r\n\r\n"),
        String::from("GET / HTTP/9.9\r\n\r\n"),
        String::from("GET /v1/resolve/orders-api HTTP/1.1\r\n"),
        format!("{put}authorization: Bearer {token}\r\ncontent-length: 1000\r\n\r\n{{"),
        format!("{put}content-length: 5\r\ncontent-length: 6\r\n\r\nhello"),
        format!("{put}content-length: -1\r\n\r\n"),
        format!("{put}transfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n"),
        format!("GET /v1/resolve/orders-api HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "a".repeat(100_000)),
        format!("GET /v1/resolve/orders-api HTTP/1.1\r\nhost: x\r\n{}\r\n", "a: b\r\n".repeat(1_000)),
    ];
    let mut open = Vec::new();
    for request in requests.iter().cycle().take(90) {
        let mut stream = tokio::net::TcpStream::connect(gateway.address()).await.unwrap();
        let _ = stream.write_all(request.as_bytes()).await;
        open.push(stream);
    }
    for _ in 0..50 {
        assert_eq!(owner.resolve("orders-api", "").await.expect(200).endpoints(), ["o-1"]);
    }
    // None of them was answered as if it were right.
    for mut stream in open {
        let mut answer = vec![0; 64];
        let read =
            tokio::time::timeout(std::time::Duration::from_millis(100), stream.read(&mut answer)).await;
        let count = read.unwrap_or(Ok(0)).unwrap_or(0);
        let text = String::from_utf8_lossy(&answer[..count]).into_owned();
        assert!(!text.starts_with("HTTP/1.1 2"), "{text}");
    }
    let _ = owner
        .get("/v1/namespaces/default/services/orders-api/instances/o-2")
        .await
        .refused(404, "no-such-instance");
    assert!(!gateway.log().contains("panicked"), "a handler panicked");
}
