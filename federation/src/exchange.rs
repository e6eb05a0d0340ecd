//! The exchange of one process: what it holds of every origin, and its links.
//!
//! A state machine without clock, randomness and I/O. `handle_*` takes what happened and when; afterwards
//! [`Exchange::poll_output`] is called until it gives nothing. `now` is a clock that never goes back and that goes on
//! while the process or the machine sleeps.

pub mod head;
pub mod limits;
pub mod message;
pub mod violation;

use bytes::Bytes;
use head::{NodeId, SignedHead, Signer, Verifier};
use meridian_model::incarnation::Incarnation;
use meridian_model::names::RegionName;
use meridian_model::time::Monotonic;
use message::{Message, Record, RecordKey};
use std::sync::Arc;
use std::time::Duration;
use violation::Violation;

/// A link, numbered by the driver; a number is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// What a peer is, by its certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerRole {
    /// Publishes and subscribes.
    Node,
    /// Subscribes only, to nodes of its own region.
    Leaf,
}

/// Who is at the other end of a link, by its certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its region.
    pub region: RegionName,
    /// Its name in it; for people.
    pub node: NodeId,
    /// What it is.
    pub role: PeerRole,
}

/// What this process is.
pub enum Role {
    /// A federation node: speaks for its region with this key.
    Node(Box<dyn Signer>),
    /// A gateway: subscribes to nodes of its own region.
    Leaf,
}

/// Who this process is.
pub struct Settings {
    /// Its region.
    pub region: RegionName,
    /// Its name in it.
    pub node: NodeId,
    /// What it does.
    pub role: Role,
    /// Checks what others signed.
    pub verifier: Arc<dyn Verifier>,
    /// Spreads timers and begins nonces; need not be secret.
    pub entropy: u64,
}

/// What the node's own registry says of its region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    /// The life of the registry.
    pub incarnation: Incarnation,
    /// Its revision that the records reflect.
    pub index: u64,
    /// An instant at which that was the registry's newest revision: when the question was *asked* that the registry
    /// answered so, not when the answer came. None where it was never proven.
    pub proven: Option<Monotonic>,
    /// What is different from what was given before.
    pub change: OwnChange,
}

/// How the region's own records change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnChange {
    /// These are all.
    All(Vec<Record>),
    /// These were written or, where there are no bytes, removed. Empty where only the index or the proof moved.
    Some(Vec<(RecordKey, Option<Bytes>)>),
}

/// How an origin stands, by this process's own judgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// By age.
    pub freshness: Freshness,
    /// For how long it is not known that what is held is the origin's newest; none if it never was.
    pub age: Option<Duration>,
    /// Whether a node of it answers directly.
    pub reachable: bool,
    /// To the nearest of its nodes, smoothed.
    pub round_trip: Option<Duration>,
}

/// The receiver's judgement of an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Freshness {
    /// Younger than [`limits::FRESH_BELOW`].
    Fresh,
    /// Younger than [`limits::SUSPECT_BELOW`].
    Suspect,
    /// Older, or of unknown age.
    Stale,
}

/// What the driver is to do or to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send this by that link, after what was sent by it before.
    Send(LinkId, Message),
    /// Close that link and back off. It is down already here; `handle_link_down` may or may not be called for it.
    Close(LinkId, Violation),
    /// Another state of an origin is held now.
    Changed {
        /// Which origin.
        origin: RegionName,
        /// Records that are new, changed or gone; empty where only the index moved.
        keys: Vec<RecordKey>,
    },
    /// An origin's freshness, reachability or (by more than a quarter) round trip changed.
    Standing {
        /// Which origin.
        origin: RegionName,
        /// As it is now.
        standing: Standing,
    },
    /// The own region's registry went back: write an incarnation with a counter above `past` by compare-and-set, unless
    /// it has one already. Nothing of the own region is published until the registry shows it.
    Raise {
        /// The greatest life that is known.
        past: Incarnation,
    },
}

/// Counts since the process began, and what there is now; for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// States of origins that were taken.
    pub states_taken: u64,
    /// Heads, updates and claims that were older than what is held.
    pub outdated: u64,
    /// Two states of one origin at one place with different roots: a bug, a lie, or a registry that went back unseen.
    pub divergences: u64,
    /// Updates that could not be put on what is held, so buckets were compared.
    pub bucket_syncs: u64,
    /// Updates that were given up half-way.
    pub transfers_dropped: u64,
    /// Updates that were sent, in parts.
    pub parts_sent: u64,
    /// Signatures that were checked.
    pub signatures_checked: u64,
    /// Links that were closed for a violation.
    pub violations: u64,
    /// How often the registry's incarnation was asked to be raised.
    pub raises: u64,
}

/// The exchange of one process.
pub struct Exchange {
    settings: Settings,
    counters: Counters,
}

impl Exchange {
    /// An exchange that holds nothing.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, counters: Counters::default() }
    }

    /// Takes over what was held before the process ended. `elapsed` is how much time passed since the image was made, by
    /// the wall clock; none if that cannot be told, and then all of it is stale. Signatures are checked again; what fails
    /// is left out. Call it before anything else. Gives the number of origins that were left out.
    pub fn import(&mut self, _now: Monotonic, _image: Image, _elapsed: Option<Duration>) -> usize {
        0
    }

    /// What is to be kept for the next start of the process. Cheap: records are shared, not copied.
    #[must_use]
    pub fn export(&self, _now: Monotonic) -> Image {
        Image::default()
    }

    /// A link came up. The driver has checked the certificate; what it binds is `peer`.
    pub fn handle_link_up(&mut self, _now: Monotonic, _link: LinkId, _peer: Peer) {}

    /// A link is down.
    pub fn handle_link_down(&mut self, _now: Monotonic, _link: LinkId) {}

    /// A message came by a link. On a link that is not up, it does nothing.
    pub fn handle_message(&mut self, _now: Monotonic, _link: LinkId, _message: Message) {}

    /// The own registry changed or proved that it did not. Only for nodes.
    pub fn handle_own(&mut self, _now: Monotonic, _own: Own) {}

    /// The time of [`Exchange::next_timeout`] came. Early and late calls do no harm.
    pub fn handle_timeout(&mut self, _now: Monotonic) {}

    /// When [`Exchange::handle_timeout`] wants to be called; the driver asks again after every input.
    #[must_use]
    pub fn next_timeout(&self) -> Monotonic {
        Monotonic(u64::MAX)
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        None
    }

    /// The other regions of which something is held.
    pub fn origins(&self) -> impl Iterator<Item = &RegionName> {
        std::iter::once(&self.settings.region)
    }

    /// What is held of another region. The state is immutable and may be handed to other threads.
    #[must_use]
    pub fn origin(&self, _region: &RegionName) -> Option<OriginView<'_>> {
        None
    }

    /// How another region stands; none if nothing is held of it and no link leads to it.
    #[must_use]
    pub fn standing(&self, _now: Monotonic, _region: &RegionName) -> Option<Standing> {
        None
    }

    /// Counts for metrics.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }
}

/// What is held of an origin.
pub struct OriginView<'a> {
    /// What it signed.
    pub head: &'a SignedHead,
    /// Its records.
    pub state: &'a Arc<State>,
}

pub use image::Image;
pub use state::State;
pub mod image;
pub mod state;
