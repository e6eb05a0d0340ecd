//! What the service counts, for whoever renders metrics. Every number is read and written on its own; a sum of several
//! may be torn by a message or two.

use crate::exchange::limits;
use meridian_model::names::RegionName;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// A number that grows, or a gauge.
#[derive(Debug, Default)]
pub struct Figure(AtomicU64);

impl Figure {
    /// What it stands at.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// For gauges: never below what was added.
    pub(super) fn take(&self, n: u64) {
        self.0.fetch_sub(n, Ordering::Relaxed);
    }

    pub(super) fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }
}

/// Of all links to and from one region.
#[derive(Debug, Default)]
pub struct PeerFigures {
    /// Links that are up (gauge).
    pub connected: Figure,
    /// Links that came up since the start; all but the first of each peer are reconnects.
    pub opened: Figure,
    /// Attempts to dial that came to nothing.
    pub dial_failures: Figure,
    /// Links that ended because the peer broke a rule of the exchange or of the wire.
    pub violations: Figure,
    /// Links that ended because the peer did not read what was sent.
    pub overflows: Figure,
    /// Links that ended because nothing came for too long.
    pub silences: Figure,
    /// Messages received.
    pub messages_in: Figure,
    /// Messages handed to the connection.
    pub messages_out: Figure,
    /// Bytes received, as TCP carries them: TLS and HTTP/2 included.
    pub bytes_in: Figure,
    /// Bytes sent, likewise.
    pub bytes_out: Figure,
    /// Messages that wait to be sent, of all links (gauge).
    pub queued: Figure,
}

/// All that the service counts.
#[derive(Debug, Default)]
pub struct Figures {
    peers: Mutex<BTreeMap<RegionName, Arc<PeerFigures>>>,
    /// Connections that were dropped before they had a name: no TLS, no certificate of ours, too slow, too many.
    pub strangers: Figure,
    /// Links whose peer was refused by name: not expected here, a twin of a link that is up, too many.
    pub refused: Figure,
    /// Readings of the certificate files that changed what is in force.
    pub reloads: Figure,
    /// Readings that failed.
    pub failed_reloads: Figure,
    /// When the certificate in force ends, in seconds since the Unix epoch (gauge).
    pub certificate_ends: Figure,
}

impl Figures {
    /// Of every region that was dialled or that dialled.
    #[must_use]
    pub fn peers(&self) -> Vec<(RegionName, Arc<PeerFigures>)> {
        let peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        peers.iter().map(|(region, figures)| (region.clone(), Arc::clone(figures))).collect()
    }

    /// Of one region. Beyond the bound on regions, numbers that nobody reads.
    pub(super) fn of(&self, region: &RegionName) -> Arc<PeerFigures> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = peers.get(region) {
            return Arc::clone(known);
        }
        let figures = Arc::new(PeerFigures::default());
        if peers.len() < limits::ORIGINS {
            peers.insert(region.clone(), Arc::clone(&figures));
        }
        figures
    }
}

/// The bytes of one connection, which belong to nobody until the handshake has told whose they are.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    read: Figure,
    written: Figure,
    owner: OnceLock<Arc<PeerFigures>>,
}

impl Traffic {
    pub(super) fn read(&self, n: usize) {
        self.read.add(n as u64);
        if let Some(owner) = self.owner.get() {
            owner.bytes_in.add(n as u64);
        }
    }

    pub(super) fn written(&self, n: usize) {
        self.written.add(n as u64);
        if let Some(owner) = self.owner.get() {
            owner.bytes_out.add(n as u64);
        }
    }

    /// Whose they are, from the handshake on.
    pub(super) fn belong(&self, owner: Arc<PeerFigures>) {
        owner.bytes_in.add(self.read.get());
        owner.bytes_out.add(self.written.get());
        // A connection has one owner, and is told once.
        let _ = self.owner.set(owner);
    }
}
