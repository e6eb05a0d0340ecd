//! The gateway that a command talks to.

use crate::credential::{Credential, Role};
use crate::failure::{Failure, Refusal};
use crate::output;
use anyhow::Context;
use meridian_model::names::{InstanceId, Namespace, ServiceName};
use reqwest::{Method, Url};
use serde_json::Value;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than any bounded wait of the gateway but for the gate.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// A module of 8 MiB may take 45 s of processor time to compile and 10 to try, and may wait for its turn.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(300);
/// Far above any answer: `n=all` of a service with 5,000 endpoints is about 2 MiB.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// Options that say which gateway is asked, and as whom. They may stand before or after the command.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Global {
    /// Gateway to talk to
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "MERIDIAN_GATEWAY",
        default_value = "http://127.0.0.1:8500",
        help_heading = "Global options"
    )]
    pub(crate) gateway: GatewayUrl,

    /// Token to show to the gateway
    ///
    /// Without one, commands that need a token mint one with the development issuer of --data-dir, if the gateway is on
    /// loopback and there is such an issuer.
    #[arg(
        long,
        global = true,
        env = "MERIDIAN_TOKEN",
        hide_env_values = true,
        help_heading = "Global options"
    )]
    pub(crate) token: Option<String>,

    /// File that holds the token; read anew for every request
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        conflicts_with = "token",
        help_heading = "Global options"
    )]
    pub(crate) token_file: Option<PathBuf>,

    /// Where `meridian dev` keeps its state, and others find its issuer and control socket
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        default_value = ".meridian",
        help_heading = "Global options"
    )]
    pub(crate) data_dir: PathBuf,

    /// Print JSON for programs
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) json: bool,
}

/// `http://` or `https://`, a host, perhaps a port and a path before the API's own.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct GatewayUrl(Url);

impl FromStr for GatewayUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "must be a URL such as http://127.0.0.1:8500".to_owned();
        let url = Url::parse(text.trim()).map_err(|_| wrong())?;
        let plain = url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none();
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) || !plain {
            return Err(wrong());
        }
        Ok(Self(url))
    }
}

impl fmt::Display for GatewayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

impl fmt::Debug for GatewayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl GatewayUrl {
    /// Whether it cannot leave this machine.
    pub(crate) fn is_loopback(&self) -> bool {
        // IPv6 addresses stand in brackets.
        let host = self.0.host_str().unwrap_or_default().trim_matches(['[', ']']);
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

/// An HTTP client for gateways at this URL: it follows no redirect, since a token would go along.
pub(crate) fn client(gateway: &GatewayUrl) -> Result<reqwest::Client, Failure> {
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("meridian/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none());
    if gateway.is_loopback() {
        builder = builder.no_proxy();
    }
    if gateway.0.scheme() == "http" {
        // The system's certificates are not needed then, and a machine may have none.
        builder = builder.tls_certs_only([]);
    }
    Ok(builder.build().context("no HTTP client can be made")?)
}

/// A gateway, with the token that goes along.
pub(crate) struct Connection {
    gateway: GatewayUrl,
    client: reqwest::Client,
    credential: Credential,
}

/// A successful answer.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The status, 200 to 299.
    pub(crate) status: u16,
    /// The body; `null` where there is none.
    pub(crate) body: Value,
}

/// What a request carries.
pub(crate) enum Payload {
    /// Nothing.
    Empty,
    /// JSON.
    Json(Value),
    /// A module.
    Wasm(Vec<u8>),
    /// A module, and a signature for it.
    Signed(Vec<u8>, String),
}

impl Connection {
    /// A connection as the command line says it, for what `role` may do. A token that is not given is minted where
    /// that can harm nobody, and said.
    pub(crate) fn open(global: &Global, role: Role) -> Result<Self, Failure> {
        let given = global.token.as_deref().map(str::trim).filter(|token| !token.is_empty());
        let credential = match (given, &global.token_file) {
            (Some(token), _) => Credential::Given(token.to_owned()),
            (None, Some(file)) => Credential::File(file.clone()),
            (None, None) if role == Role::Reader || !global.gateway.is_loopback() => Credential::None,
            (None, None) => match Credential::development(&global.data_dir, role)? {
                Some((credential, remark)) => {
                    output::remark(remark);
                    credential
                }
                None => Credential::None,
            },
        };
        Ok(Self::new(global.gateway.clone(), client(&global.gateway)?, credential))
    }

    /// A connection with these parts.
    pub(crate) fn new(gateway: GatewayUrl, client: reqwest::Client, credential: Credential) -> Self {
        Self { gateway, client, credential }
    }

    /// Where it goes.
    pub(crate) fn gateway(&self) -> &GatewayUrl {
        &self.gateway
    }

    /// A request with the token, and no time limit of its own yet.
    pub(crate) fn request(
        &self,
        method: Method,
        path: &str,
        query: &[(String, String)],
    ) -> Result<reqwest::RequestBuilder, Failure> {
        let request = self.client.request(method, format!("{}{path}", self.gateway)).query(query);
        Ok(match self.credential.bearer()? {
            Some(token) => request.bearer_auth(token),
            None => request,
        })
    }

    /// Sends a request and reads the answer; a refusal is a failure.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        query: &[(String, String)],
        payload: Payload,
    ) -> Result<Answer, Failure> {
        let wait = if matches!(payload, Payload::Wasm(_) | Payload::Signed(..)) {
            UPLOAD_TIMEOUT
        } else {
            REQUEST_TIMEOUT
        };
        self.send_within(wait, method, path, query, payload).await
    }

    /// As [`Connection::send`], for what takes longer.
    pub(crate) async fn send_within(
        &self,
        wait: Duration,
        method: Method,
        path: &str,
        query: &[(String, String)],
        payload: Payload,
    ) -> Result<Answer, Failure> {
        let (status, body) = self.exchange(wait, method, path, query, payload).await?;
        if body.is_empty() {
            return Ok(Answer { status, body: Value::Null });
        }
        let body = serde_json::from_slice(&body).with_context(|| {
            format!("{} answered {status} with a body that is no JSON: is it a gateway?", self.gateway)
        })?;
        Ok(Answer { status, body })
    }

    /// The bytes of a module.
    pub(crate) async fn module(&self, path: &str) -> Result<Vec<u8>, Failure> {
        let (_, module) = self.exchange(REQUEST_TIMEOUT, Method::GET, path, &[], Payload::Empty).await?;
        Ok(module)
    }

    /// A request and the bytes of its answer, which is a success.
    async fn exchange(
        &self,
        wait: Duration,
        method: Method,
        path: &str,
        query: &[(String, String)],
        payload: Payload,
    ) -> Result<(u16, Vec<u8>), Failure> {
        let request = self.request(method, path, query)?.timeout(wait);
        let request = match payload {
            Payload::Empty => request,
            Payload::Json(value) => request.json(&value),
            Payload::Wasm(bytes) => request.header("content-type", "application/wasm").body(bytes),
            Payload::Signed(bytes, signature) => request
                .header("content-type", "application/wasm")
                .header(meridian_gateway::signature::HEADER, signature)
                .body(bytes),
        };
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        let body = self.read(response).await?;
        match status.is_success() {
            true => Ok((status.as_u16(), body)),
            false => Err(Refusal::read(status.as_u16(), &body).into()),
        }
    }

    /// As [`Self::send`], without a body.
    pub(crate) async fn get(&self, path: &str, query: &[(String, String)]) -> Result<Answer, Failure> {
        self.send(Method::GET, path, query, Payload::Empty).await
    }

    /// All items of a list, page by page.
    pub(crate) async fn list(&self, path: &str) -> Result<Vec<Value>, Failure> {
        let mut items = Vec::new();
        let mut query = vec![("limit".to_owned(), "1000".to_owned())];
        loop {
            let mut page = self.get(path, &query).await?.body;
            if let Some(Value::Array(more)) = page.get_mut("items").map(Value::take) {
                items.extend(more);
            }
            match page.get("next").and_then(Value::as_str) {
                Some(next) => {
                    query.truncate(1);
                    query.push(("next".to_owned(), next.to_owned()));
                }
                None => return Ok(items),
            }
        }
    }

    /// The body, up to a bound.
    pub(crate) async fn read(&self, mut response: reqwest::Response) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.unreachable(&error))? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_ANSWER_BYTES {
                let text = format!(
                    "{} answers with more than {MAX_ANSWER_BYTES} bytes: is it a gateway?",
                    self.gateway
                );
                return Err(Failure::Failed(anyhow::anyhow!(text)));
            }
        }
        Ok(body)
    }

    /// What to say when nothing, or nothing whole, comes back.
    pub(crate) fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let reason = innermost(error);
        let advice = if self.gateway.is_loopback() {
            "start one with `meridian dev`, or name another with --gateway or MERIDIAN_GATEWAY"
        } else {
            "is the address right (--gateway, MERIDIAN_GATEWAY), and may this machine reach it?"
        };
        let what = match () {
            () if error.is_connect() => "no gateway answers at",
            () if error.is_timeout() => "no answer in time from",
            () => "the connection broke off with",
        };
        Failure::Unreachable(format!("{what} {} ({reason})\n  next: {advice}", self.gateway))
    }
}

/// The cause at the bottom, which is what the system said; the layers above repeat the URL.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

/// Where an instance stands in the API.
pub(crate) fn instance_path(namespace: &Namespace, service: &ServiceName, id: &InstanceId) -> String {
    format!("/v1/namespaces/{namespace}/services/{service}/instances/{id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_urls_of_gateways_are_taken() {
        for good in ["http://127.0.0.1:8500", "https://gw.example/", "http://[::1]:1/prefix"] {
            assert!(good.parse::<GatewayUrl>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "127.0.0.1:8500",
            "localhost:8500",
            "ftp://h",
            "http://",
            "http://u:p@h",
            "http://h?x=1",
            "http://h#f",
        ] {
            assert!(bad.parse::<GatewayUrl>().is_err(), "{bad}");
        }
        assert_eq!("http://h:1/".parse::<GatewayUrl>().unwrap().to_string(), "http://h:1");
    }

    #[test]
    fn development_tokens_stay_on_this_machine() {
        for (url, here) in [
            ("http://127.0.0.1:8500", true),
            ("http://localhost:8500", true),
            ("http://[::1]:8500", true),
            ("http://127.0.0.1.evil.example", false),
            ("http://localhost.evil.example", false),
            ("http://10.0.0.1:8500", false),
        ] {
            assert_eq!(url.parse::<GatewayUrl>().unwrap().is_loopback(), here, "{url}");
        }
    }
}
