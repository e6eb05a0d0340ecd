//! Links that this process opens: one task for each URL of each peer, which dials, waits, and dials again.

use super::connection::{Connection, Counted, Peer};
use super::driver::Input;
use super::figures::{Figures, PeerFigures, Traffic};
use super::limits;
use super::link::{self, Ending, Refusal, Side};
use super::material::{Followed, Material};
use super::name::PeerName;
use super::tls::{self, Expected};
use super::wire::WIRE_BYTES;
use super::wire::proto::federation_client::FederationClient;
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use hyper_util::rt::TokioIo;
use meridian_model::names::RegionName;
use rustls_pki_types::{ServerName, UnixTime};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::{TlsConnector, TlsStream};
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

/// Where a node listens: `https://host:port`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerUrl {
    host: String,
    port: u16,
}

/// Text that is not the URL of a node.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0} is not of the form https://HOST:PORT")]
pub struct BadUrl(String);

impl FromStr for PeerUrl {
    type Err = BadUrl;
    fn from_str(text: &str) -> Result<Self, BadUrl> {
        let wrong = || BadUrl(text.escape_debug().to_string());
        let uri: http::Uri = text.parse().map_err(|_| wrong())?;
        let authority = uri.authority().ok_or_else(wrong)?;
        let plain =
            uri.path_and_query().is_none_or(|path| path.as_str() == "/") && !authority.as_str().contains('@');
        let (Some("https"), Some(port), true) = (uri.scheme_str(), authority.port_u16(), plain) else {
            return Err(wrong());
        };
        // An IPv6 address stands in brackets in a URL and without them elsewhere.
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() || port == 0 { Err(wrong()) } else { Ok(Self { host, port }) }
    }
}

impl fmt::Display for PeerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "https://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "https://{}:{}", self.host, self.port)
        }
    }
}

/// Names that a dialler of this process has a link to or is about to: two URLs may lead to one node.
#[derive(Clone, Default)]
pub(super) struct Claims(Arc<Mutex<BTreeSet<PeerName>>>);

struct Claim {
    claims: Claims,
    name: PeerName,
}

impl Claims {
    fn claim(&self, name: &PeerName) -> Option<Claim> {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.insert(name.clone()).then(|| Claim { claims: self.clone(), name: name.clone() })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}

/// What a dialler needs.
pub(super) struct Dialler {
    pub(super) region: RegionName,
    pub(super) url: PeerUrl,
    pub(super) followed: Arc<Followed>,
    pub(super) figures: Arc<Figures>,
    pub(super) driver: mpsc::Sender<Input>,
    /// Names with a link, whichever side opened it.
    pub(super) linked: watch::Receiver<BTreeSet<PeerName>>,
    pub(super) claims: Claims,
}

/// What an attempt came to.
enum Attempt {
    /// A link, which lived and ended.
    Link(Ending, Duration),
    /// Somebody to whom there is a link already.
    Linked,
    /// Nothing.
    Failed(String),
}

impl Dialler {
    /// Dials for as long as it is let.
    pub(super) async fn run(mut self) {
        let own = self.followed.current().name.clone();
        let figures = self.figures.of(&self.region);
        let mut backoff = backoff();
        let mut said = String::new();
        // Whom the URL led to last.
        let mut name: Option<PeerName> = None;
        loop {
            if let Some(name) = &name {
                // The sender lives as long as the driver, and so do diallers.
                let _ = self.linked.wait_for(|linked| !linked.contains(name)).await;
            }
            let mut wait = backoff.next().unwrap_or(limits::BACKOFF_MAX);
            match self.attempt(&own, &figures, &mut name).await {
                Attempt::Link(Ending::Refused(Refusal::Oneself), _) => wait = limits::OWN_URL,
                Attempt::Link(ending, lived) => {
                    said.clear();
                    tracing::info!(peer = %self.region, url = %self.url, %ending, "link ended");
                    if lived >= limits::GOOD_LINK {
                        backoff = self::backoff();
                        wait = backoff.next().unwrap_or(limits::BACKOFF_MIN);
                    }
                }
                Attempt::Linked => {}
                Attempt::Failed(why) => {
                    figures.dial_failures.add(1);
                    // Once for each reason: an hour of darkness is one line.
                    if said != why {
                        tracing::warn!(peer = %self.region, url = %self.url, why, "cannot dial");
                        said = why;
                    }
                }
            }
            sleep(wait).await;
        }
    }

    async fn attempt(
        &self,
        own: &PeerName,
        figures: &Arc<PeerFigures>,
        name: &mut Option<PeerName>,
    ) -> Attempt {
        let connection = match timeout(limits::CONNECT, self.connect(figures)).await {
            Err(_) => return Attempt::Failed("no answer in time".to_owned()),
            Ok(Err(why)) => return Attempt::Failed(why),
            Ok(Ok(connection)) => connection,
        };
        let peer = connection.peer().clone();
        *name = Some(peer.name.clone());
        if peer.name == *own {
            *name = None;
            return Attempt::Link(Ending::Refused(Refusal::Oneself), Duration::ZERO);
        }
        // Looked at before the link is opened: the other end would let a second one take the place of the first.
        let Some(_claim) = self.claims.claim(&peer.name) else { return Attempt::Linked };
        if self.linked.borrow().contains(&peer.name) {
            return Attempt::Linked;
        }
        let begun = Instant::now();
        match timeout(limits::OPEN, open(connection, figures)).await {
            Err(_) => Attempt::Failed("no link in time".to_owned()),
            Ok(Err(why)) => Attempt::Failed(why),
            Ok(Ok((outbox, incoming))) => {
                let driver = self.driver.clone();
                let ending =
                    link::attend(driver, peer, Side::Dialled, outbox, Arc::clone(figures), incoming).await;
                Attempt::Link(ending, begun.elapsed())
            }
        }
    }

    async fn connect(&self, figures: &Arc<PeerFigures>) -> Result<Connection, String> {
        let tcp =
            TcpStream::connect((self.url.host.as_str(), self.url.port)).await.map_err(|e| e.to_string())?;
        let material = Arc::clone(&self.followed.current());
        shake_hands(&material, Expected::NodeOf(self.region.clone()), tcp, figures).await
    }
}

/// Makes a connection of a TCP stream, if who answers is who is expected.
pub(super) async fn shake_hands(
    material: &Material,
    expected: Expected,
    tcp: TcpStream,
    figures: &Arc<PeerFigures>,
) -> Result<Connection, String> {
    let config = tls::client(material, expected.clone()).map_err(|e| e.to_string())?;
    // A beat waits for nothing.
    tcp.set_nodelay(true).map_err(|e| e.to_string())?;
    let address = tcp.peer_addr().map_err(|e| e.to_string())?;
    let traffic = Arc::new(Traffic::default());
    traffic.belong(Arc::clone(figures));
    // Not looked at: peers are known by their SPIFFE ID.
    let host = ServerName::IpAddress(address.ip().into());
    let tls = TlsConnector::from(Arc::new(config)).connect(host, Counted::new(tcp, traffic));
    let tls = tls.await.map_err(|e| e.to_string())?;
    let chain = tls.get_ref().1.peer_certificates().unwrap_or_default();
    let chain: Vec<_> = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
    let name = tls::admit(&material.trust, &material.name.domain, &expected, &chain, UnixTime::now())
        .map_err(|e| e.to_string())?;
    let peer = Peer {
        name,
        chain: chain.into(),
        address,
        cut: CancellationToken::new(),
        opened: Arc::new(AtomicBool::new(true)),
    };
    Ok(Connection::new(TlsStream::Client(tls), peer, None))
}

/// HTTP/2 over a connection, and over no other.
pub(super) async fn channel(connection: Connection, window: u32) -> Result<Channel, String> {
    // The channel asks once; were it to ask again, the link would be another one.
    let connection = Arc::new(Mutex::new(Some(connection)));
    let connector = tower::service_fn(move |_: http::Uri| {
        let connection = connection.lock().unwrap_or_else(PoisonError::into_inner).take();
        let connection = connection.map(TokioIo::new);
        std::future::ready(connection.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected)))
    });
    // The connector brings TLS; the URI is only what HTTP/2 puts into `:authority`.
    Endpoint::from_static("http://federation.meridian")
        .initial_stream_window_size(window)
        .initial_connection_window_size(window)
        .max_frame_size(limits::FRAME)
        .http2_max_header_list_size(limits::HEADERS)
        .connect_with_connector(connector)
        .await
        .map_err(|e| e.to_string())
}

async fn open(
    connection: Connection,
    figures: &Arc<PeerFigures>,
) -> Result<(link::Outbox, tonic::Streaming<super::wire::proto::Message>), String> {
    let mut client = FederationClient::new(channel(connection, limits::WINDOW).await?)
        .max_decoding_message_size(WIRE_BYTES)
        .max_encoding_message_size(WIRE_BYTES);
    let (outbox, messages) = link::outgoing(figures);
    // A request cannot end with a status: last words stay unsaid on this side, and the stream just ends.
    let messages = messages.map_while(Result::ok);
    let response = client.exchange(messages).await.map_err(|e| e.message().to_owned())?;
    Ok((outbox, response.into_inner()))
}

fn backoff() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(limits::BACKOFF_MIN)
        .with_max_delay(limits::BACKOFF_MAX)
        .without_max_times()
        .with_jitter()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_https_with_host_and_port() {
        for good in ["https://127.0.0.1:8510", "https://[::1]:8510", "https://node-1.eu.example:443"] {
            assert_eq!(good.parse::<PeerUrl>().unwrap().to_string(), good);
        }
        for bad in [
            "http://127.0.0.1:8510",
            "127.0.0.1:8510",
            "https://127.0.0.1",
            "https://127.0.0.1:0",
            "https://127.0.0.1:8510/path",
            "https://127.0.0.1:8510/?q",
            "https://user@127.0.0.1:8510",
            "https://:8510",
            "",
        ] {
            assert!(bad.parse::<PeerUrl>().is_err(), "{bad}");
        }
    }
}
