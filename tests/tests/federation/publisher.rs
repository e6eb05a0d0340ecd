//! A federation node in this process, which tells what it is given.

use crate::world::{REGIONS, files};
use meridian_federation::service::name::Station;
use meridian_federation::service::{self, Clock, Config, PeerUrls, Running};
use std::net::SocketAddr;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::net::TcpListener;

/// A node in this process, and where it listens.
pub(crate) async fn node(
    directory: &TempDir,
    region: usize,
    peer: Option<(usize, SocketAddr)>,
    clock: &Clock,
) -> (Running, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let peers = peer.map(|(region, address)| PeerUrls {
        region: REGIONS[region].parse().unwrap(),
        urls: vec![format!("https://{address}").parse().unwrap()],
    });
    let config = Config {
        region: REGIONS[region].parse().unwrap(),
        station: Station::Node,
        files: files(directory.path(), &format!("{}-node", REGIONS[region])),
        listener: Some(listener),
        peers: peers.into_iter().collect(),
        clock: Arc::clone(clock),
        kept: None,
    };
    (service::start(config).unwrap(), address)
}
