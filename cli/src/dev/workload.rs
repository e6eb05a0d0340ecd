//! One demo workload: a small HTTP server on a port of its own, registered and kept alive over the public API.

use super::layout::Seat;
use crate::connection::{Connection, instance_path};
use crate::failure::Failure;
use crate::membership::{Event, Membership, heartbeat_of};
use crate::output;
use anyhow::Context;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use meridian_model::names::Namespace;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

/// Leases of the demo end soon after a crash (DESIGN 9).
pub(super) const LEASE_SECONDS: u64 = 6;
/// What each could carry, so that regions have headroom to tell of: the policy `spillover` shares by it.
const CAPACITY: u64 = 100;
const READY_PATH: &str = "/health/ready";
/// Connections at once; a demo has few callers.
const MAX_CONNECTIONS: usize = 256;
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Between draining and leaving, so that callers have stopped coming.
const GRACE: Duration = Duration::from_millis(1_500);

/// A workload that runs. Dropping it is a crash: its sockets close, its heartbeats stop, and nobody is told.
pub(super) struct Workload {
    address: SocketAddr,
    membership: Arc<Membership>,
    beating: AbortHandle,
    _tasks: JoinSet<()>,
}

impl Workload {
    /// Listens, registers, and goes on beating.
    pub(super) async fn start(seat: &Seat, connection: Connection) -> Result<Self, Failure> {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("a demo workload cannot listen")?;
        let address = listener.local_addr().context("a demo workload cannot listen")?;
        let mut tasks = JoinSet::new();
        // Before it is registered: the first check may come at once.
        tasks.spawn(serve(listener, Bytes::from(introduction(seat).to_string())));
        let path = instance_path(&Namespace::default(), &seat.service, &seat.id);
        let membership = Arc::new(Membership::new(connection, path, registration(seat, address)));
        let answer = membership.register().await?;
        let (kept, name, heartbeat) = (Arc::clone(&membership), seat.id.clone(), heartbeat_of(&answer));
        let beating = tasks.spawn(async move {
            let failure = kept
                .keep(heartbeat, |event| {
                    if let Event::Trouble(failure, _) = event {
                        output::remark(format_args!("demo {name}: {failure}"));
                    }
                })
                .await;
            output::remark(format_args!("demo {name} sends no heartbeats any more: {failure}"));
        });
        Ok(Self { address, membership, beating, _tasks: tasks })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it still sends heartbeats: one whose place was taken over has stopped.
    pub(super) fn is_beating(&self) -> bool {
        !self.beating.is_finished()
    }

    /// Registers again, as a restarted process would: that also ends a drain.
    pub(super) async fn register(&self) -> Result<(), Failure> {
        self.membership.register().await.map(drop)
    }

    /// Leaves as a good workload does: drains, waits until callers know, deregisters, stops.
    pub(super) async fn leave(self) -> Result<(), Failure> {
        let reason = "meridian demo stop --graceful";
        self.membership.drain(reason).await?;
        tokio::time::sleep(GRACE).await;
        self.membership.deregister(reason).await
    }
}

fn introduction(seat: &Seat) -> Value {
    json!({ "service": seat.service, "instance": seat.id, "zone": seat.zone, "region": seat.region, "version": seat.version })
}

fn registration(seat: &Seat, address: SocketAddr) -> Value {
    json!({
        "host": address.ip().to_string(), "port": address.port(), "zone": seat.zone, "version": seat.version,
        "deploymentGroup": seat.group, "protocol": "http", "metadata": { "team": "demo" }, "capacity": CAPACITY,
        "leaseTtlSeconds": LEASE_SECONDS,
        "healthCheck": { "http": { "path": READY_PATH, "intervalSeconds": 1, "timeoutSeconds": 1,
                                   "unhealthyAfter": 2, "healthyAfter": 1 } },
    })
}

/// Serves until it is dropped; its connections end with it.
async fn serve(listener: TcpListener, introduction: Bytes) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(converse(stream, introduction.clone()));
                }
                // Out of descriptors: some come back when connections end.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn converse(stream: TcpStream, introduction: Bytes) {
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer(request.method(), request.uri().path(), &introduction);
        async move { Ok::<_, Infallible>(answer) }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    // A client that breaks off is its own business.
    let _ = http.serve_connection(TokioIo::new(stream), service).await;
}

fn answer(method: &Method, path: &str, introduction: &Bytes) -> Response<Full<Bytes>> {
    let (status, body) = match (method, path) {
        (&Method::GET | &Method::HEAD, "/") => (StatusCode::OK, introduction.clone()),
        (&Method::GET | &Method::HEAD, READY_PATH) => {
            (StatusCode::OK, Bytes::from_static(b"{\"status\":\"ready\"}"))
        }
        (&Method::GET | &Method::HEAD, _) => {
            (StatusCode::NOT_FOUND, Bytes::from_static(b"{\"error\":\"try / or /health/ready\"}"))
        }
        _ => (StatusCode::METHOD_NOT_ALLOWED, Bytes::from_static(b"{\"error\":\"only GET\"}")),
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dev::layout;
    use meridian_model::registration::RegistrationBody;

    fn seat() -> Seat {
        let region = layout::regions(layout::DEFAULT_PORT_BASE).unwrap().remove(0);
        layout::seats(&region).unwrap().remove(0)
    }

    #[test]
    fn the_registration_is_one_that_gateways_take() {
        let body = registration(&seat(), "127.0.0.1:1".parse().unwrap());
        let parsed = serde_json::from_value::<RegistrationBody>(body).unwrap().parse().unwrap();
        assert_eq!((parsed.lease_ttl_seconds, parsed.heartbeat_seconds()), (6, 2));
    }

    #[tokio::test]
    async fn it_introduces_itself_and_a_crash_closes_its_sockets() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, Bytes::from(introduction(&seat()).to_string())));
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
        let get = |path: &str| client.get(format!("http://{address}{path}")).send();
        let said: Value = get("/").await.unwrap().json().await.unwrap();
        assert_eq!(said["instance"], json!("orders-api-ap-south-1a-1"));
        assert_eq!(get(READY_PATH).await.unwrap().status(), 200);
        assert_eq!(get("/other").await.unwrap().status(), 404);
        tasks.shutdown().await;
        assert!(get("/").await.unwrap_err().is_connect());
    }
}
