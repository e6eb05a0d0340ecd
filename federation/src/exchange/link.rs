//! One link: what was asked by it, what its peer showed, and what is on its way in either direction.

use super::feed::Feed;
use super::freshness::{PathSeen, Proof, RoundTrip};
use super::gather::Gather;
use super::head::Version;
use super::message::Path;
use super::{Peer, limits};
use crate::planted::planted;
use meridian_model::names::RegionName;
use meridian_model::time::Monotonic;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

pub(super) struct Link {
    pub(super) peer: Peer,
    pub(super) next_ping: Monotonic,
    /// When the latest ping went.
    last_ping: Option<Monotonic>,
    pub(super) next_digest: Monotonic,
    /// Pings without a beat yet, the latest last.
    pings: VecDeque<(u64, Monotonic)>,
    /// When the latest ping went that was answered.
    pub(super) answered: Option<Monotonic>,
    pub(super) round_trip: RoundTrip,
    /// What the latest beat said of each origin.
    pub(super) shown: BTreeMap<RegionName, Shown>,
    /// What is sent to the peer; at most [`limits::ORIGINS`].
    pub(super) feeds: BTreeMap<RegionName, Feed>,
    /// What is coming from the peer, in parts.
    pub(super) gathers: BTreeMap<RegionName, Gather>,
    /// When buckets of an origin were asked for that have not begun to come; names that the peer offered, so they are
    /// forgotten when [`Link::drop_stalled`] is called.
    pub(super) wanted: BTreeMap<RegionName, Monotonic>,
    /// Whether the peer is a leaf that was asked for what it remembers.
    pub(super) lends: bool,
    /// What it said it remembers that was later than what is held here, or contradicts it; at most [`limits::ORIGINS`].
    pub(super) remembers: BTreeMap<RegionName, Version>,
    /// Heads of others that failed the check since the last digest.
    pub(super) refusals: u32,
    /// Numbers updates.
    pub(super) transfers: u64,
}

/// What a beat said of an origin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shown {
    pub(super) version: Version,
    /// A moment at which that was the origin's newest.
    pub(super) proof: Option<Proof>,
    /// When the ping went.
    pub(super) asked: Monotonic,
    pub(super) path: Option<Path>,
    /// Whether its head failed the check, so that it is not asked for again.
    pub(super) refused: bool,
}

impl Shown {
    /// What it says of the way to the origin.
    pub(super) fn path_seen(&self) -> Option<PathSeen> {
        let Path { reachable, round_trip_ms } = self.path?;
        Some(PathSeen {
            answered: reachable.then_some(self.asked),
            round_trip: round_trip_ms.map(|ms| Duration::from_millis(ms.into())),
        })
    }
}

impl Link {
    pub(super) fn new(now: Monotonic, peer: Peer) -> Self {
        Self {
            peer,
            next_ping: now,
            last_ping: None,
            next_digest: now,
            pings: VecDeque::new(),
            answered: None,
            round_trip: RoundTrip::default(),
            shown: BTreeMap::new(),
            feeds: BTreeMap::new(),
            gathers: BTreeMap::new(),
            wanted: BTreeMap::new(),
            lends: false,
            remembers: BTreeMap::new(),
            refusals: 0,
            transfers: 0,
        }
    }

    pub(super) fn pinged(&mut self, now: Monotonic, nonce: u64) {
        if self.pings.len() >= limits::PINGS {
            self.pings.pop_front();
        }
        self.pings.push_back((nonce, now));
        self.last_ping = Some(now);
    }

    /// The next ping need not wait for its turn.
    pub(super) fn hasten(&mut self, now: Monotonic) {
        // On a slow link more of them would push out those that are still to be answered, and none ever were.
        if self.pings.len() >= limits::PINGS / 2 {
            return;
        }
        let soonest = self.last_ping.map_or(now, |at| at.plus(limits::HASTE_EVERY).max(now));
        self.next_ping = self.next_ping.min(soonest);
    }

    /// When the ping of `nonce` went. Each is answered once, and none after a later one was.
    pub(super) fn answer(&mut self, nonce: u64) -> Option<Monotonic> {
        let at = self.pings.iter().position(|(sent, _)| *sent == nonce)?;
        self.pings.drain(..=at).next_back().map(|(_, asked)| asked)
    }

    /// How many origins but this one have parts of an update under way.
    pub(super) fn sending(&self, but: &RegionName) -> usize {
        self.feeds.iter().filter(|(origin, feed)| feed.is_sending() && *origin != but).count()
    }

    /// Gives up updates whose next part does not come; says how many.
    pub(super) fn drop_stalled(&mut self, now: Monotonic) -> u64 {
        self.wanted.retain(|_, asked| now.since(*asked) < limits::TRANSFER_PATIENCE);
        let before = self.gathers.len();
        self.gathers.retain(|_, gather| now.since(gather.at) < limits::TRANSFER_PATIENCE);
        u64::try_from(before.saturating_sub(self.gathers.len())).unwrap_or(u64::MAX)
    }

    /// How this link is as a direct one.
    pub(super) fn path(&self) -> PathSeen {
        let forever = planted!(SilentStillReachable).then_some(Monotonic(u64::MAX));
        PathSeen {
            answered: self.answered.map(|at| forever.unwrap_or(at)),
            round_trip: self.round_trip.get(),
        }
    }
}
