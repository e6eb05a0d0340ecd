//! What goes over a link. Both ends of a link between nodes publish and subscribe; a leaf only subscribes, but when its
//! node asks for what the leaf holds and the node does not, it answers like a publisher.

use super::head::{SignedHead, Version};
use super::limits::{self, Limits};
use super::violation::Violation;
use bytes::Bytes;
use meridian_model::names::{RegionName, ServiceKey};

/// The longest key: two names, and their lengths.
const KEY_BYTES: usize = 16 + 2 * 63;

/// What a record is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKey {
    /// The region itself: [`meridian_model::summary::RegionNotice`].
    Region,
    /// A service: [`meridian_model::summary::Summary`].
    Service(ServiceKey),
}

impl RecordKey {
    /// What it takes in a message, roughly; never less than in memory of names.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Region => 8,
            Self::Service(key) => 16 + key.namespace.as_str().len() + key.service.as_str().len(),
        }
    }
}

/// A record, opaque to the exchange; see [`crate::record`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What it is about.
    pub key: RecordKey,
    /// Its canonical bytes: any node of the origin lays the same record out alike.
    pub bytes: Bytes,
}

/// One message of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Subscriber to publisher: what is held here.
    Have(Have),
    /// Publisher to subscriber: there is a state for which no delta can be made. The answer is [`Message::Want`]. To a
    /// node of the head's own origin it is the evidence that its region was ahead of what it knows.
    Offer(Box<SignedHead>),
    /// Subscriber to publisher: send the buckets that differ from these.
    Want(Want),
    /// Publisher to subscriber: a new state, or a part of one.
    Update(Update),
    /// Subscriber to publisher: a part arrived.
    Ack(Ack),
    /// Asks how old what the other end tells is.
    Ping(Ping),
    /// Answers a ping.
    Beat(Beat),
}

/// What a subscriber holds: of all origins when a link comes up and every [`limits::DIGEST_EVERY`], of one when
/// something of it is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Have {
    /// At most [`limits::ORIGINS`]. Of others nothing is said.
    pub origins: Vec<Held>,
}

/// What a subscriber holds of one origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Which origin.
    pub origin: RegionName,
    /// Which state; none, if nothing is held.
    pub version: Option<Version>,
    /// Whether updates are to be sent by this link as they come. Else what is missing now is sent, and no more: the
    /// subscriber follows the origin by another link.
    pub follow: bool,
}

/// Asks for whole buckets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// Of which origin.
    pub origin: RegionName,
    /// The first half of the digest of each of the subscriber's buckets: [`super::state::BUCKETS`] of them, or none if it
    /// holds nothing.
    pub digests: Vec<[u8; 16]>,
}

/// A part of a state, or all that changed. The state is shown when the last part came and the root is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// Of which origin.
    pub origin: RegionName,
    /// Numbers the updates of a link; all parts of one have the same.
    pub transfer: u64,
    /// From 0.
    pub part: u32,
    /// The first part says what this is.
    pub opening: Option<Box<Opening>>,
    /// Whether this is the last part.
    pub last: bool,
    /// New or changed records.
    pub changed: Vec<Record>,
    /// Records that are no more.
    pub removed: Vec<RecordKey>,
}

/// What an update leads to, and from where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// The state that comes out.
    pub head: SignedHead,
    /// What the records are put on.
    pub basis: Basis,
}

/// What the records of an update are put on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Basis {
    /// Any state of the head's incarnation with at least this index.
    Since(u64),
    /// Any state, with these buckets emptied first.
    Buckets(Vec<u8>),
}

/// A part arrived, and all before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Of which origin.
    pub origin: RegionName,
    /// Of which update.
    pub transfer: u64,
    /// Which part.
    pub part: u32,
}

/// Asks how old what the other end tells is. Sent every [`limits::BEAT_EVERY`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ping {
    /// Comes back in the beat.
    pub nonce: u64,
    /// What the sender publishes of its own region. If the other end holds a later state, it shows its head in an
    /// [`Message::Offer`].
    pub own: Option<Version>,
    /// What the sender holds of the other end's region. If that is later than what that end publishes, it does not vouch
    /// for its own state.
    pub yours: Option<Version>,
}

/// Answers the ping with the same nonce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    /// That of the ping.
    pub nonce: u64,
    /// What the sender holds, at most [`limits::ORIGINS`].
    pub claims: Vec<Claim>,
}

/// How old an origin's state was when a ping was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Which origin.
    pub origin: RegionName,
    /// Which state.
    pub version: Version,
    /// Milliseconds since that state was known to be the origin's newest; none, if that is not known.
    pub age_ms: Option<u64>,
    /// How the sender's own links to that origin are; for leaves of its region, which have none.
    pub path: Option<Path>,
}

/// How direct links to an origin are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// Whether one of its nodes answers.
    pub reachable: bool,
    /// The smoothed round trip to the nearest of them.
    pub round_trip_ms: Option<u32>,
}

impl Message {
    /// That nothing in it passes a limit. The driver bounds a message's bytes before it reads it at all; this bounds
    /// what is in it.
    ///
    /// # Errors
    /// The limit that it passes.
    pub(super) fn check(&self, limits: &Limits) -> Result<(), Violation> {
        match self {
            Self::Have(have) => at_most(have.origins.len(), limits::ORIGINS, Violation::TooManyOrigins),
            Self::Beat(beat) => at_most(beat.claims.len(), limits::ORIGINS, Violation::TooManyOrigins),
            Self::Offer(head) => check_head(head, limits),
            Self::Want(want) => match want.digests.len() {
                0 | super::state::BUCKETS => Ok(()),
                _ => Err(Violation::Malformed("bucket digests must be none or all")),
            },
            Self::Update(update) => update.check(limits),
            Self::Ack(_) | Self::Ping(_) => Ok(()),
        }
    }
}

impl Update {
    fn check(&self, limits: &Limits) -> Result<(), Violation> {
        if self.opening.is_some() != (self.part == 0) {
            return Err(Violation::Malformed("the first part of an update, and no other, has the head"));
        }
        if let Some(opening) = &self.opening {
            check_head(&opening.head, limits)?;
            if opening.head.head.origin != self.origin {
                return Err(Violation::Malformed("an update with the head of another origin"));
            }
        }
        for record in &self.changed {
            at_most(record.bytes.len(), limits.record_bytes, Violation::RecordTooLarge)?;
        }
        at_most(
            self.changed.len().saturating_add(self.removed.len()),
            2 * limits.records,
            Violation::TooManyRecords,
        )?;
        at_most(
            self.size(),
            limits.part_bytes.saturating_add(limits.record_bytes).saturating_add(KEY_BYTES),
            Violation::MessageTooLarge,
        )
    }

    /// What its records take, roughly.
    pub(super) fn size(&self) -> usize {
        let changed = self.changed.iter().map(|r| r.key.size().saturating_add(r.bytes.len()));
        changed.chain(self.removed.iter().map(RecordKey::size)).fold(0, usize::saturating_add)
    }
}

fn check_head(signed: &SignedHead, limits: &Limits) -> Result<(), Violation> {
    at_most(signed.credential.len(), limits::CREDENTIAL_BYTES, Violation::CredentialTooLarge)?;
    at_most(signed.signature.len(), limits::SIGNATURE_BYTES, Violation::CredentialTooLarge)?;
    at_most(
        usize::try_from(signed.head.records).unwrap_or(usize::MAX),
        limits.records,
        Violation::TooManyRecords,
    )
}

fn at_most(n: usize, limit: usize, otherwise: Violation) -> Result<(), Violation> {
    if n > limit { Err(otherwise) } else { Ok(()) }
}
