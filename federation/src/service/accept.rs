//! Links that peers open: strangers end at the handshake, and everyone has a bound.

use super::connection::{Connection, Counted, Peer};
use super::driver::Input;
use super::figures::{Figures, Traffic};
use super::limits;
use super::link::{self, Side};
use super::material::Followed;
use super::places::Places;
use super::tls::{self, Expected};
use super::wire::proto::federation_server::{Federation, FederationServer};
use super::wire::{WIRE_BYTES, proto};
use meridian_model::names::RegionName;
use rustls_pki_types::UnixTime;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tokio_rustls::{TlsAcceptor, TlsStream};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

/// How long accepting rests after it failed, mostly for want of file descriptors.
const REST: Duration = Duration::from_millis(100);

/// What accepting needs.
#[derive(Clone)]
pub(super) struct Doorway {
    pub(super) region: RegionName,
    pub(super) followed: Arc<Followed>,
    pub(super) figures: Arc<Figures>,
    pub(super) driver: mpsc::Sender<Input>,
    pub(super) expected: Expected,
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
}

impl Doorway {
    /// Serves until it is stopped.
    pub(super) async fn run(self, listener: TcpListener) {
        let (connections, incoming) = mpsc::channel::<io::Result<Connection>>(limits::HANDSHAKES);
        let stop = self.stop.clone();
        let service = FederationServer::new(self.clone())
            .max_decoding_message_size(WIRE_BYTES)
            .max_encoding_message_size(WIRE_BYTES);
        let server = Server::builder()
            .initial_stream_window_size(limits::WINDOW)
            .initial_connection_window_size(limits::WINDOW)
            .max_frame_size(limits::FRAME)
            .http2_max_header_list_size(limits::HEADERS)
            .max_concurrent_streams(1)
            .add_service(service)
            .serve_with_incoming(ReceiverStream::new(incoming));
        tokio::select! {
            () = self.accept(listener, connections) => {}
            ended = server => if let Err(error) = ended {
                tracing::error!(%error, "the federation listener ended");
            },
            () = stop.cancelled() => {}
        }
    }

    async fn accept(&self, listener: TcpListener, connections: mpsc::Sender<io::Result<Connection>>) {
        let handshakes = Arc::new(Semaphore::new(limits::HANDSHAKES));
        let places = Places::of(self.region.clone());
        let queue = Queue::default();
        loop {
            // The semaphore is never closed.
            let Ok(handshake) = Arc::clone(&handshakes).acquire_owned().await else { return };
            let (tcp, address) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a federation connection");
                    sleep(REST).await;
                    continue;
                }
            };
            let Some(turn) = queue.enter(address.ip()) else {
                self.figures.strangers.add(1);
                continue;
            };
            let (door, places, connections) = (self.clone(), places.clone(), connections.clone());
            let stop = self.stop.clone();
            self.tasks.spawn(stop.run_until_cancelled_owned(async move {
                let greeted = timeout(limits::CONNECT, door.greet(tcp, address, &places)).await;
                drop((handshake, turn));
                match greeted.unwrap_or_else(|_| Err("no handshake in time".to_owned())) {
                    Ok(connection) => {
                        let peer = connection.peer().clone();
                        if connections.send(Ok(connection)).await.is_ok() {
                            door.hurry(peer).await;
                        }
                    }
                    Err(why) => {
                        door.figures.strangers.add(1);
                        tracing::debug!(%address, why, "not a peer");
                    }
                }
            }));
        }
    }

    async fn greet(
        &self,
        tcp: TcpStream,
        address: SocketAddr,
        places: &Places,
    ) -> Result<Connection, String> {
        tcp.set_nodelay(true).map_err(|e| e.to_string())?;
        let material = Arc::clone(&self.followed.current());
        let config = tls::server(&material, self.expected.clone()).map_err(|e| e.to_string())?;
        let traffic = Arc::new(Traffic::default());
        let tls = TlsAcceptor::from(Arc::new(config))
            .accept(Counted::new(tcp, Arc::clone(&traffic)))
            .await
            .map_err(|e| e.to_string())?;
        let chain: Vec<_> = tls
            .get_ref()
            .1
            .peer_certificates()
            .unwrap_or_default()
            .iter()
            .map(|c| c.clone().into_owned())
            .collect();
        let name =
            tls::admit(&material.trust, &material.name.domain, &self.expected, &chain, UnixTime::now())
                .map_err(|e| e.to_string())?;
        traffic.belong(self.figures.of(&name.region));
        let peer = Peer {
            name,
            chain: chain.into(),
            address,
            cut: CancellationToken::new(),
            opened: Arc::new(AtomicBool::new(false)),
        };
        let place = places.take(&peer)?;
        Ok(Connection::new(TlsStream::Server(tls), peer, Some(place)))
    }

    /// Cuts a connection of which no link is made in time, or before the service ends.
    async fn hurry(&self, peer: Peer) {
        let guard = peer.cut.clone().drop_guard();
        sleep(limits::OPEN).await;
        if peer.opened.load(Ordering::Relaxed) {
            // The link's own task cuts it from now on.
            guard.disarm();
        } else {
            tracing::debug!(peer = %peer.name, "a connection without a link");
        }
    }
}

#[tonic::async_trait]
impl Federation for Doorway {
    type ExchangeStream = Pin<Box<dyn Stream<Item = Result<proto::Message, Status>> + Send>>;

    async fn exchange(
        &self,
        request: Request<Streaming<proto::Message>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let peer = peer.ok_or_else(|| Status::internal("a connection without a name"))?;
        if peer.opened.swap(true, Ordering::Relaxed) {
            return Err(Status::resource_exhausted("a connection carries one link"));
        }
        let figures = self.figures.of(&peer.name.region);
        let (outbox, messages) = link::outgoing(&figures);
        let (driver, incoming) = (self.driver.clone(), request.into_inner());
        let name = peer.name.clone();
        self.tasks.spawn(async move {
            let ending = link::attend(driver, peer, Side::Accepted, outbox, figures, incoming).await;
            tracing::info!(peer = %name, %ending, "link ended");
        });
        Ok(Response::new(Box::pin(messages)))
    }
}

/// Handshakes under way, by address.
#[derive(Clone, Default)]
struct Queue(Arc<Mutex<HashMap<IpAddr, usize>>>);

struct Turn {
    queue: Queue,
    address: IpAddr,
}

impl Queue {
    fn enter(&self, address: IpAddr) -> Option<Turn> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = waiting.entry(address).or_default();
        if *count >= limits::HANDSHAKES_OF_ONE {
            return None;
        }
        *count += 1;
        Some(Turn { queue: self.clone(), address })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut waiting = self.queue.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = waiting.get_mut(&self.address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                waiting.remove(&self.address);
            }
        }
    }
}
