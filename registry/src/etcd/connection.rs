//! The way to etcd: one client per endpoint, of which one is used until it fails. Nothing connects before it is needed.

use super::EtcdConfig;
use crate::RegistryError;
use etcd_client::{Certificate, Client, ConnectOptions, Error, Identity, TlsOptions};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Bound of every call of the trait.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one of several endpoints may take over a read before the next one is asked.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// Largest answer taken. A page of a relist is 20,000 records; tonic's default of 4 MiB is far too little for it.
pub(super) const MAX_MESSAGE_BYTES: usize = 256 * 1024 * 1024;

/// Where etcd is, and the endpoint in use.
pub(super) struct Connection {
    endpoints: Vec<Endpoint>,
    options: ConnectOptions,
    current: AtomicUsize,
}

struct Endpoint {
    url: String,
    /// Set when first needed: with a password, making a client asks etcd for a token.
    client: Mutex<Option<Client>>,
}

impl Endpoint {
    fn client(&self) -> Option<Client> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_client(&self, client: Option<Client>) {
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = client;
    }
}

impl Connection {
    pub(super) fn new(config: &EtcdConfig) -> Result<Self, RegistryError> {
        let refused = |why: String| Err(RegistryError::Refused(why));
        if config.endpoints.is_empty() {
            return refused("no etcd endpoint is configured".into());
        }
        let secure = config.endpoints.iter().any(|url| url.starts_with("https://"));
        for url in &config.endpoints {
            let authority = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
            if authority.is_none_or(|rest| rest.trim_end_matches('/').is_empty() || rest.contains([' ', '@']))
            {
                return refused(format!(
                    "an etcd endpoint is like http://10.0.0.1:2379 or https://…, not {url}"
                ));
            }
            if secure && !url.starts_with("https://") {
                return refused(format!("either all etcd endpoints are https or none is: {url}"));
            }
        }
        let mut options = ConnectOptions::new()
            .with_connect_timeout(ATTEMPT_TIMEOUT)
            // etcd ends connections that ping more often than every 5 s. Frees requests of a peer that vanished.
            .with_keep_alive(Duration::from_secs(6), Duration::from_secs(3))
            .with_require_leader(true);
        if let Some((user, password)) = &config.user {
            options = options.with_user(user, password).with_auto_token_refresh(true);
        }
        match (&config.tls, secure) {
            (Some(tls), true) => {
                let mut settings = TlsOptions::new().ca_certificate(Certificate::from_pem(pem(&tls.ca)?));
                if let Some((certificate, key)) = &tls.identity {
                    settings = settings.identity(Identity::from_pem(pem(certificate)?, pem(key)?));
                }
                options = options.with_tls(settings);
            }
            (None, true) => return refused("https endpoints of etcd need the file of a CA".into()),
            (Some(_), false) => return refused("etcd's TLS is configured but its endpoints are http".into()),
            (None, false) => {}
        }
        let endpoints = config
            .endpoints
            .iter()
            .map(|url| Endpoint { url: url.clone(), client: Mutex::default() })
            .collect();
        Ok(Self { endpoints, options, current: AtomicUsize::new(0) })
    }

    /// A client with a connection of its own to one endpoint, for streams: what is wrong with a connection ends with it.
    pub(super) async fn fresh(&self, index: usize) -> Result<Client, Error> {
        let endpoint = &self.endpoints[index % self.endpoints.len()];
        Client::connect([&endpoint.url], Some(self.options.clone())).await
    }

    /// One attempt at the endpoint in use. After a failure another one is in use.
    pub(super) async fn once<T, F>(
        &self,
        limit: Duration,
        call: impl FnOnce(Client) -> F,
    ) -> Result<T, RegistryError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let index = self.current.load(Ordering::Relaxed);
        let endpoint = &self.endpoints[index % self.endpoints.len()];
        let attempt = async {
            let client = match endpoint.client() {
                Some(client) => client,
                None => {
                    let client = self.fresh(index).await?;
                    endpoint.set_client(Some(client.clone()));
                    client
                }
            };
            call(client).await
        };
        let failure = match timeout(limit, attempt).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => classify(error),
            Err(_) => {
                // It may be the connection that hangs, not etcd. Calls under way keep theirs.
                endpoint.set_client(None);
                RegistryError::Unavailable(format!("{} gave no answer in {limit:?}", endpoint.url))
            }
        };
        if matches!(failure, RegistryError::Unavailable(_)) {
            let next = (index + 1) % self.endpoints.len();
            let _ = self.current.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
        }
        Err(failure)
    }

    /// Attempts at each endpoint in turn within the bound of a call. For what may be done twice.
    pub(super) async fn call<T, F>(&self, call: impl Fn(Client) -> F) -> Result<T, RegistryError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let deadline = Instant::now() + CALL_TIMEOUT;
        let mut attempt = 1;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let limit = if self.endpoints.len() == 1 { left } else { left.min(ATTEMPT_TIMEOUT) };
            let outcome = self.once(limit, &call).await;
            if attempt >= self.endpoints.len() || !matches!(outcome, Err(RegistryError::Unavailable(_))) {
                return outcome;
            }
            attempt += 1;
        }
    }
}

fn pem(path: &Path) -> Result<Vec<u8>, RegistryError> {
    std::fs::read(path).map_err(|e| RegistryError::Refused(format!("cannot read {}: {e}", path.display())))
}

/// What the caller can do about it.
pub(super) fn classify(error: Error) -> RegistryError {
    // Codes of gRPC by number (tonic is no dependency here): 3 invalid argument, 5 not found, 7 permission denied,
    // 9 failed precondition, 11 out of range, 12 unimplemented, 16 unauthenticated.
    match &error {
        Error::GRpcStatus(status) => {
            let text = status.message().to_owned();
            match i32::from(status.code()) {
                3 | 5 | 7 | 9 | 11 | 12 | 16 => RegistryError::Refused(text),
                _ => RegistryError::Unavailable(text),
            }
        }
        Error::InvalidArgs(_)
        | Error::InvalidUri(_)
        | Error::Utf8Error(_)
        | Error::InvalidMetadataValue(_) => RegistryError::Refused(error.to_string()),
        _ => RegistryError::Unavailable(error.to_string()),
    }
}

/// Whether a revision that was asked for is no longer kept.
pub(super) fn is_compacted(error: &RegistryError) -> bool {
    matches!(error, RegistryError::Refused(text) if text.contains("has been compacted"))
}
