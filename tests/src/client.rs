//! A thin client of the API: every answer as status, headers and body, nothing hidden.

use crate::patience::until;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::ops::Index;
use std::time::Duration;

/// Longer than any bounded wait of the gateway but that of watches.
const TIMEOUT: Duration = Duration::from_secs(20);
/// A module may cost seconds of processor time before it is refused, on a machine that is busy with other tests.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(120);

/// Longest that a policy may take to answer, on a machine that is busy with other tests.
const WARM: Duration = Duration::from_secs(10);

/// Speaks to one gateway, as one bearer.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body as it came.
    pub body: Vec<u8>,
    /// The body as JSON; null where it is none.
    pub json: Value,
    /// What was asked, for messages.
    pub asked: String,
}

impl Index<&str> for Answer {
    type Output = Value;

    fn index(&self, field: &str) -> &Value {
        &self.json[field]
    }
}

impl Answer {
    /// Itself, if the status is this.
    ///
    /// # Panics
    /// Otherwise, with all that is known.
    #[must_use]
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}: {}", self.asked, String::from_utf8_lossy(&self.body));
        self
    }

    /// Itself, if it is a whole problem with this status and code.
    ///
    /// # Panics
    /// Otherwise, with all that is known.
    #[must_use]
    #[track_caller]
    pub fn refused(self, status: u16, code: &str) -> Self {
        let answer = self.expect(status);
        assert_eq!(answer.code(), code, "{}: {}", answer.asked, answer.json);
        answer.problem();
        answer
    }

    /// Checks that it is a problem by RFC 9457 with all that the contract adds.
    ///
    /// # Panics
    /// Where something is missing.
    #[track_caller]
    pub fn problem(&self) {
        let text = |field: &str| self.json[field].as_str().unwrap_or_default();
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{}: {}",
            self.asked,
            self.json
        );
        assert_eq!(self.json["status"], self.status, "{}: {}", self.asked, self.json);
        for field in ["type", "title", "code", "detail", "requestId"] {
            assert!(!text(field).is_empty(), "{}: no {field} in {}", self.asked, self.json);
        }
        assert_eq!(self.header("x-request-id"), Some(text("requestId")), "{}", self.asked);
        if self.status == 503 || self.status == 429 {
            assert!(self.header("retry-after").is_some(), "{}: no Retry-After", self.asked);
        }
    }

    /// The problem's code, or nothing.
    #[must_use]
    pub fn code(&self) -> &str {
        self.json["code"].as_str().unwrap_or_default()
    }

    /// A header as text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The `ETag`.
    ///
    /// # Panics
    /// Where there is none.
    #[must_use]
    #[track_caller]
    pub fn etag(&self) -> String {
        self.header("etag").unwrap_or_else(|| panic!("{}: no ETag", self.asked)).to_owned()
    }

    /// A number of the body.
    ///
    /// # Panics
    /// Where there is none.
    #[must_use]
    #[track_caller]
    pub fn number(&self, field: &str) -> u64 {
        self.json[field]
            .as_u64()
            .unwrap_or_else(|| panic!("{}: no number {field} in {}", self.asked, self.json))
    }

    /// The ids of the endpoints of a lookup's answer, in order.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        let endpoints = self.json["endpoints"].as_array().cloned().unwrap_or_default();
        endpoints.iter().filter_map(|e| e["id"].as_str().map(str::to_owned)).collect()
    }
}

/// A small, right registration. `port` tells instances apart.
#[must_use]
pub fn registration(zone: &str, port: u16) -> Value {
    json!({ "host": "127.0.0.1", "port": port, "zone": zone, "leaseTtlSeconds": 3600 })
}

/// The path of an instance in the namespace `default`.
#[must_use]
pub fn instance_path(service: &str, id: &str) -> String {
    format!("/v1/namespaces/default/services/{service}/instances/{id}")
}

impl Client {
    /// Of the gateway at `address`, without a token.
    ///
    /// # Panics
    /// Where no HTTP client can be made.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap();
        Self { http, base: format!("http://{address}"), token: None }
    }

    /// The same with a token. Connections are shared.
    #[must_use]
    pub fn bearing(&self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self.clone() }
    }

    /// One exchange.
    ///
    /// # Errors
    /// Where no whole answer came.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<Vec<u8>>,
    ) -> Result<Answer, reqwest::Error> {
        let asked = format!("{method} {path}");
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.body(body);
        }
        if headers.contains(&("content-type", "application/wasm")) {
            request = request.timeout(UPLOAD_TIMEOUT);
        }
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        let response = request.headers(map).send().await?;
        let (status, headers): (StatusCode, _) = (response.status(), response.headers().clone());
        let body = response.bytes().await?.to_vec();
        let json = serde_json::from_slice(&body).unwrap_or(Value::Null);
        Ok(Answer { status: status.as_u16(), headers, body, json, asked })
    }

    /// GET.
    ///
    /// # Errors
    /// Where no whole answer came.
    pub async fn try_get(&self, path: &str) -> Result<Answer, reqwest::Error> {
        self.send(Method::GET, path, &[], None).await
    }

    /// GET with headers.
    ///
    /// # Panics
    /// Where no whole answer came.
    pub async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.send(Method::GET, path, headers, None).await.unwrap_or_else(|e| panic!("GET {path}: {e:?}"))
    }

    /// GET.
    ///
    /// # Panics
    /// Where no whole answer came.
    pub async fn get(&self, path: &str) -> Answer {
        self.get_with(path, &[]).await
    }

    /// A request with a JSON body and headers.
    ///
    /// # Panics
    /// Where no whole answer came.
    pub async fn json_with(
        &self,
        method: Method,
        path: &str,
        body: &Value,
        headers: &[(&str, &str)],
    ) -> Answer {
        let headers = [&[("content-type", "application/json")], headers].concat();
        let sent = self.send(method.clone(), path, &headers, Some(body.to_string().into_bytes())).await;
        sent.unwrap_or_else(|e| panic!("{method} {path}: {e:?}"))
    }

    /// PUT.
    ///
    /// # Panics
    /// Where no whole answer came.
    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.json_with(Method::PUT, path, body, &[]).await
    }

    /// POST.
    ///
    /// # Panics
    /// Where no whole answer came.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.json_with(Method::POST, path, body, &[]).await
    }

    /// PATCH.
    ///
    /// # Panics
    /// Where no whole answer came.
    pub async fn patch(&self, path: &str, body: &Value) -> Answer {
        self.json_with(Method::PATCH, path, body, &[]).await
    }

    /// DELETE.
    ///
    /// # Panics
    /// Where no whole answer came.
    pub async fn delete(&self, path: &str) -> Answer {
        let sent = self.send(Method::DELETE, path, &[], None).await;
        sent.unwrap_or_else(|e| panic!("DELETE {path}: {e:?}"))
    }

    /// Registers an instance in the namespace `default`.
    ///
    /// # Panics
    /// Where no whole answer came.
    pub async fn register(&self, service: &str, id: &str, body: &Value) -> Answer {
        self.put(&instance_path(service, id), body).await
    }

    /// Looks up in the namespace `default`, with a query that begins with `?` or is empty.
    ///
    /// # Panics
    /// Where no whole answer came.
    pub async fn resolve(&self, service: &str, query: &str) -> Answer {
        self.get(&format!("/v1/resolve/{service}{query}")).await
    }

    /// Asks for `path`, a lookup, until the policy itself answers it. A caller's first lookup waits only milliseconds for its
    /// preparation, and what a stand-in answers on a busy machine has another tag.
    ///
    /// # Panics
    /// Where the policy does not answer, or no whole answer came.
    pub async fn warm(&self, path: &str) {
        until(&format!("the policy answers {path}"), WARM, async || {
            self.get(path).await["policy"]["outcome"] == "ok"
        })
        .await;
    }

    /// The status of every instance of a service in the namespace `default`.
    ///
    /// # Panics
    /// Where the service cannot be listed.
    pub async fn statuses(&self, service: &str) -> Vec<(String, String)> {
        let answer = self.get(&format!("/v1/namespaces/default/services/{service}?limit=1000")).await;
        if answer.status == 404 {
            return Vec::new();
        }
        let answer = answer.expect(200);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        answer["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| (text(&item["id"]), text(&item["status"])))
            .collect()
    }

    /// The status of one instance; nothing where it is not there.
    ///
    /// # Panics
    /// Where the service cannot be listed.
    pub async fn status_of(&self, service: &str, id: &str) -> Option<String> {
        self.statuses(service).await.into_iter().find(|(other, _)| other == id).map(|(_, status)| status)
    }

    /// Uploads a module and returns its version.
    ///
    /// # Panics
    /// Where it is refused.
    pub async fn upload(&self, policy: &str, module: &[u8]) -> String {
        let path = format!("/v1/policies/{policy}");
        let headers = [("content-type", "application/wasm")];
        let answer = self.send(Method::PUT, &path, &headers, Some(module.to_vec())).await.unwrap();
        assert!(matches!(answer.status, 200 | 201), "{path}: {}", answer.json);
        answer["version"].as_str().unwrap().to_owned()
    }

    /// Binds a version to a service of the namespace `default`, or to the namespace under `_default`.
    ///
    /// # Panics
    /// Where it is refused.
    pub async fn bind(&self, service: &str, policy: &str, version: &str) -> Answer {
        let body = json!({ "policy": policy, "version": version });
        let answer = self.put(&format!("/v1/namespaces/default/bindings/{service}"), &body).await;
        assert!(matches!(answer.status, 200 | 201), "{}: {}", answer.asked, answer.json);
        answer
    }
}
