//! The region's part in the federation: what it tells other regions, and what a gateway hears of them.
//!
//! ```text
//!  registry ─ watch ─▶ origin: catalog ▶ summaries ─▶ service (node) ◀─ mTLS ─▶ nodes of other regions
//!                                                        │ news
//!  gateway:  keeper ◀── receiver ◀── service (its own node, or a leaf that subscribes to its region's nodes)
//!                          └─▶ disk: what is held, for a cold start
//! ```

pub mod config;
mod figures;
pub mod node;
pub mod origin;
pub mod receiver;

use crate::clock;
use crate::disk::Disk;
use config::FederationConfig;
use meridian_federation::exchange::Image;
use meridian_federation::service::name::Station;
use meridian_federation::service::{self, Running};
use meridian_model::names::RegionName;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// The file that holds what was held of other regions.
const KEPT: &str = "federation";

/// Why a region's part in the federation cannot start.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The listener.
    #[error("federation.listen {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Certificates or peers.
    #[error("[federation]: {0}")]
    Service(#[from] service::StartError),
}

/// Joins the federation: as a node where the configuration listens, else as a subscriber of its region's nodes. Gives the
/// address too where it listens, and of how many other regions a state is remembered.
///
/// # Errors
/// What makes starting pointless.
pub async fn join(
    config: &FederationConfig,
    region: &RegionName,
    disk: &Disk,
) -> Result<(Running, Option<SocketAddr>, usize), JoinError> {
    let listener = match config.listen {
        None => None,
        Some(address) => {
            let failed = |source| JoinError::Listen { address, source };
            Some(TcpListener::bind(address).await.map_err(failed)?)
        }
    };
    let address = listener.as_ref().and_then(|listener| listener.local_addr().ok());
    let kept = load(disk);
    if let Some((_, elapsed)) = &kept {
        tracing::info!(?elapsed, "what other regions told is read from disk until they are heard again");
    }
    let remembers = kept.as_ref().map_or(0, |(image, _)| image.origins());
    let running = service::start(service::Config {
        region: region.clone(),
        station: if listener.is_some() { Station::Node } else { Station::Gateway },
        files: config.files(),
        listener,
        peers: config.peers(region),
        clock: Arc::new(clock::monotonic_now),
        kept,
    })?;
    if running.left_out() > 0 {
        let origins = running.left_out();
        tracing::warn!(
            origins,
            "what was kept of some regions carries no signature that is believed any more"
        );
    }
    let remembers = remembers.saturating_sub(running.left_out());
    Ok((running, address, remembers))
}

/// What was held when the process ended, and how long ago that was; none of the latter where the clock went back.
fn load(disk: &Disk) -> Option<(Image, Option<Duration>)> {
    let (bytes, saved_at) = disk.load_kept(KEPT)?;
    match Image::decode(&bytes) {
        Ok(image) => {
            let now = clock::unix_now();
            let elapsed = (saved_at <= now).then(|| now.since(saved_at));
            Some((image, elapsed))
        }
        Err(reason) => {
            tracing::warn!(%reason, "what was kept of other regions cannot be used");
            None
        }
    }
}

fn save(disk: &Disk, image: &Image) -> io::Result<()> {
    disk.save_kept(KEPT, clock::unix_now(), |mut out| image.write_to(&mut out))
}
