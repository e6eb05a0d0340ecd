//! The listener and the threads behind it.
//!
//! One acceptor hands connections to the workers in turn, so that few connections are spread as evenly as many. A worker
//! is a thread with a current-thread runtime: what a lookup touches is its own.

use super::unreadable::{self, HEAD_BYTES};
use super::{Envelope, resolve};
use crate::config::HttpConfig;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use hyper_util::server::conn::auto;
use meridian_policies::Host;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use socket2::{SockRef, TcpKeepalive};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Time for a request's head to arrive; a connection that sends nothing is kept, one that sends half a head is not.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection on which nothing came for so long is asked whether its other end is still there: one that lost its network
/// or its power said no goodbye, and holds one of `max_connections`.
const PROBE_AFTER: Duration = Duration::from_secs(30);
/// Time between two such probes.
const PROBE_EVERY: Duration = Duration::from_secs(10);
/// Unanswered probes that end it. Kernels answer them, however idle or busy the client is.
const PROBES: u32 = 3;
/// Connections that wait for their worker.
const QUEUE: usize = 1_024;
/// How often a worker without lookups takes what was prepared for it.
const TEND_EVERY: Duration = Duration::from_millis(100);

/// Why the listener cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address is taken or not ours.
    #[error("cannot listen on {address}: {source}; is another gateway running, or is http.listen wrong?")]
    Bind {
        /// What was asked for.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// A certificate or key cannot be used.
    #[error("http.tls: {0}")]
    Tls(String),
    /// A worker thread cannot be started.
    #[error("cannot start a worker thread: {0}")]
    Thread(io::Error),
}

/// A running listener.
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    connections: TaskTracker,
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ListenError> {
    let wrong = |e: &dyn std::fmt::Display| ListenError::Tls(format!("{}: {e}", path.display()));
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(|e| wrong(&e))?.collect();
    let found = found.map_err(|e| wrong(&e))?;
    if found.is_empty() { Err(wrong(&"holds no certificate")) } else { Ok(found) }
}

fn tls(config: &HttpConfig) -> Result<Option<TlsAcceptor>, ListenError> {
    let Some(files) = &config.tls else { return Ok(None) };
    let wrong = |e: &dyn std::fmt::Display| ListenError::Tls(e.to_string());
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|e| ListenError::Tls(format!("{}: {e}", files.key.display())))?;
    let builder = ServerConfig::builder();
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let mut roots = rustls::RootCertStore::empty();
            for certificate in certificates(ca)? {
                roots.add(certificate).map_err(|e| wrong(&e))?;
            }
            let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().map_err(|e| wrong(&e))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut server =
        builder.with_single_cert(certificates(&files.certificate)?, key).map_err(|e| wrong(&e))?;
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Some(TlsAcceptor::from(Arc::new(server))))
}

impl Server {
    /// Binds, starts the workers and accepts until `stop`.
    ///
    /// # Errors
    /// Where the address, a certificate or a thread cannot be had.
    pub async fn start(
        config: &HttpConfig,
        envelope: Arc<Envelope>,
        host: &Arc<Host>,
        workers: usize,
        stop: CancellationToken,
    ) -> Result<Self, ListenError> {
        let tls = tls(config)?;
        let bind = |source| ListenError::Bind { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(bind)?;
        // Connections inherit it, so that it costs none of them a call.
        let probes =
            TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_EVERY).with_retries(PROBES);
        SockRef::from(&listener).set_tcp_keepalive(&probes).map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        let connections = TaskTracker::new();
        let mut queues = Vec::with_capacity(workers);
        for number in 0..workers {
            let (queue, arrivals) = mpsc::channel(QUEUE);
            let worker = host.worker();
            let serve = Serve {
                envelope: Arc::clone(&envelope),
                tls: tls.clone(),
                connections: connections.clone(),
                stop: stop.clone(),
            };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(ListenError::Thread)?;
            let thread = std::thread::Builder::new().name(format!("http-{number}"));
            let body = move || {
                resolve::equip(worker);
                runtime.block_on(serve.arrivals(arrivals));
            };
            thread.spawn(body).map_err(ListenError::Thread)?;
            queues.push(queue);
        }
        tokio::spawn(accept(listener, queues, Arc::new(Semaphore::new(config.max_connections)), stop));
        Ok(Self { address, connections })
    }

    /// Waits until every connection has ended; the caller bounds it.
    pub async fn drained(self) {
        self.connections.close();
        self.connections.wait().await;
    }
}

type Arrival = (TcpStream, tokio::sync::OwnedSemaphorePermit);

async fn accept(
    listener: TcpListener,
    queues: Vec<mpsc::Sender<(std::net::TcpStream, tokio::sync::OwnedSemaphorePermit)>>,
    places: Arc<Semaphore>,
    stop: CancellationToken,
) {
    let mut next = 0;
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: go on when some are free again.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // Small answers must not wait for more to send.
        let _ = stream.set_nodelay(true);
        let Ok(stream) = stream.into_std() else { continue };
        next = (next + 1) % queues.len().max(1);
        if let Some(queue) = queues.get(next) {
            // A closed queue means that the gateway stops.
            let _ = queue.send((stream, place)).await;
        }
    }
}

/// What a worker needs to serve its connections.
#[derive(Clone)]
struct Serve {
    envelope: Arc<Envelope>,
    tls: Option<TlsAcceptor>,
    connections: TaskTracker,
    stop: CancellationToken,
}

impl Serve {
    async fn arrivals(
        self,
        mut arrivals: mpsc::Receiver<(std::net::TcpStream, tokio::sync::OwnedSemaphorePermit)>,
    ) {
        let mut tend = tokio::time::interval(TEND_EVERY);
        tend.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                arrival = arrivals.recv() => {
                    let Some((stream, place)) = arrival else { break };
                    let Ok(stream) = TcpStream::from_std(stream) else { continue };
                    let serve = self.clone();
                    let connection = async move { serve.connection((stream, place)).await };
                    tokio::spawn(self.connections.track_future(connection));
                }
                _ = tend.tick() => resolve::tend(),
            }
        }
        // The runtime goes when this returns; connections that are still served keep it.
        self.connections.wait().await;
    }

    async fn connection(self, (stream, _place): Arrival) {
        match self.tls.clone() {
            None => self.http(stream).await,
            Some(tls) => {
                if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
                    self.http(stream).await;
                }
            }
        }
    }

    async fn http<I>(self, io: I)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (io, back) = unreadable::lend(io);
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_BYTES)
            .pipeline_flush(true);
        builder.http2().timer(TokioTimer::new()).max_concurrent_streams(1_000);
        let (envelope, taken) = (Arc::clone(&self.envelope), Arc::clone(&back));
        let service = service_fn(move |request| {
            taken.took_request();
            let envelope = Arc::clone(&envelope);
            async move { Ok::<_, Infallible>(envelope.answer(request).await) }
        });
        let ended = {
            let connection = builder.serve_connection(io, service);
            tokio::pin!(connection);
            tokio::select! {
                ended = connection.as_mut() => ended,
                () = self.stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        };
        // Boxed, so that connections that live pay nothing for how they end.
        Box::pin(unreadable::part(&back, ended, &self.envelope)).await;
    }
}
