//! Every bound of the exchange, with its reason. What passes one is refused by name and costs the link that it came on,
//! never the state that is held.
//!
//! Not bounded here: how many messages a second a link brings, and how long its queue may grow. The driver does that,
//! since it alone can stop reading.

use std::time::Duration;

/// Bounds of what is held and sent, which a simulation sets lower to reach them with small catalogs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Records of one origin.
    pub records: usize,
    /// Bytes of one record.
    pub record_bytes: usize,
    /// Bytes of all records of one origin, with their keys.
    pub origin_bytes: usize,
    /// Bytes at which a part of an update is full.
    pub part_bytes: usize,
    /// Parts of one origin on their way over one link.
    pub parts_in_flight: usize,
    /// Updates of several parts under way on one link, in each direction.
    pub transfers: usize,
    /// Bytes that all links of one region may have gathered aside.
    pub gathered_bytes: usize,
    /// Changed keys that are remembered for deltas, per origin.
    pub changes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            records: RECORDS,
            record_bytes: RECORD_BYTES,
            origin_bytes: ORIGIN_BYTES,
            part_bytes: PART_BYTES,
            parts_in_flight: PARTS_IN_FLIGHT,
            transfers: TRANSFERS,
            gathered_bytes: GATHERED_BYTES,
            changes: CHANGES,
        }
    }
}

/// Regions that one exchange knows, its own included. Regions are named by operators; a few dozen exist anywhere.
pub const ORIGINS: usize = 64;
/// Records of one origin: four times the services that a region is built for.
pub const RECORDS: usize = 20_000;
/// One record. A summary of 32 endpoints with their full metadata (64 pairs of 64 + 256 bytes) would not fit; the writer
/// of records drops metadata before it passes this.
pub const RECORD_BYTES: usize = 64 << 10;
/// All records of one origin, with their keys. Five times the 5,000 services of 20 instances that a region is built for.
pub const ORIGIN_BYTES: usize = 64 << 20;
/// What one part of an update aims at: large enough that a full sync takes few round trips, small enough that a beat
/// behind it waits for milliseconds.
pub const PART_BYTES: usize = 256 << 10;
/// The most that a message may take: a part whose last record was the largest, and its head.
pub const MESSAGE_BYTES: usize = PART_BYTES + RECORD_BYTES + CREDENTIAL_BYTES + (8 << 10);
/// Parts of one origin on their way over one link. More are cut when one is acknowledged, so a slow reader gets the
/// newest state rather than a queue.
pub const PARTS_IN_FLIGHT: usize = 4;
/// Updates of several parts under way on one link, in each direction: what a peer can make us gather aside is this many
/// origins.
pub const TRANSFERS: usize = 4;
/// What all links of one region may have gathered aside: a region with many links has no more room than one with few. Two
/// origins of the largest size, six of the size that a region is built for. Its own transfers give way, no other region's.
pub const GATHERED_BYTES: usize = 2 * ORIGIN_BYTES;
/// Changed and removed records that are remembered for deltas, per origin: over a minute of 50 changes a second. A
/// subscriber that missed more compares buckets.
pub const CHANGES: usize = 4_096;
/// A certificate chain: a leaf and two intermediates with room.
pub const CREDENTIAL_BYTES: usize = 8 << 10;
/// ECDSA P-256, Ed25519 and RSA-4096 fit.
pub const SIGNATURE_BYTES: usize = 512;
/// Links of one exchange: 16 regions of 4 nodes, and 64 gateways.
pub const LINKS: usize = 128;
/// Pings of one link that wait for their beat. An answer to an older one proves nothing that is worth having.
pub const PINGS: usize = 8;
/// Heads of a link that may fail the check of their signature between two digests. A relay may in good faith show a head
/// whose certificate has expired since, or that an authority signed which is not trusted here yet; an enemy is closed.
pub const REFUSALS: u32 = 16;
/// Heads whose signature was found good and which may come again by another link.
pub const VERIFIED: usize = 64;

/// How often each link is asked how old what it tells is.
pub const BEAT_EVERY: Duration = Duration::from_secs(1);
/// How often a source is asked, at most, how old a state is that was taken and of which nothing is proven yet. Where ages
/// are bounded it is of no use until then.
pub const HASTE_EVERY: Duration = Duration::from_millis(100);
/// For how long it is asked so often: who has no proof by then has none to pass on, and its next beats will do.
pub const HASTE_FOR: Duration = Duration::from_secs(2);
/// The least time that a source has to answer before another link that shows more is followed instead: twice a long way
/// round the world. A source whose way is longer has twice its round trip, and at most [`BEAT_EVERY`].
pub const ANSWER_PATIENCE: Duration = Duration::from_millis(250);
/// How often a link is told all that is held, so that whatever went wrong is found. Up to a quarter of it is added, so
/// that links do not all do it at once.
pub const DIGEST_EVERY: Duration = Duration::from_secs(30);
/// A region is `fresh` below this age.
pub const FRESH_BELOW: Duration = Duration::from_secs(5);
/// A region is `suspect` below this age, then `stale`.
pub const SUSPECT_BELOW: Duration = Duration::from_secs(30);
/// A region is reachable while one of its nodes answered a ping that is younger than this.
pub const REACHABLE_FOR: Duration = Duration::from_secs(5);
/// A transfer without a new part for this long is given up.
pub const TRANSFER_PATIENCE: Duration = Duration::from_secs(3);
/// How often the registry's incarnation is asked to be raised, at most.
pub const RAISE_EVERY: Duration = Duration::from_secs(5);
/// A state of a rival life, with the counter of the one held and yet another one, is taken after this: twice the longest
/// lease that is usual, so that what is held is not given up for an empty registry that nobody put in order.
pub const RIVAL_PATIENCE: Duration = Duration::from_secs(60);
/// What did not change is signed anew after this, so that every head that is held is by a certificate that was good not
/// long ago: far less than certificates live, and one head for a region.
pub const SIGN_EVERY: Duration = Duration::from_secs(600);
