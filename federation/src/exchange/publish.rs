//! The publisher's side: what subscribers say they have, and what they are sent.

use super::holding::Holding;
use super::message::{Ack, Have, Message, Want};
use super::own::OwnRegion;
use super::violation::Violation;
use super::{Exchange, LinkId, Output, Peer, PeerRole, limits};
use crate::planted::planted;
use meridian_model::names::RegionName;
use std::collections::BTreeMap;

/// What may be told of an origin to a peer.
pub(super) struct Shelf<'a> {
    pub(super) region: &'a RegionName,
    pub(super) own: Option<&'a OwnRegion>,
    pub(super) held: &'a BTreeMap<RegionName, Holding>,
}

impl<'a> Shelf<'a> {
    /// Nobody is told of its own region: it knows from its registry. Leaves are told by nodes of their own region only,
    /// which the link's beginning has made sure of; and so are these by leaves.
    pub(super) fn of(&self, origin: &RegionName, peer: &Peer) -> Option<&'a Holding> {
        match origin {
            origin if *origin == peer.region => None,
            origin if origin == self.region => self.own?.published(),
            origin => self.held.get(origin),
        }
    }
}

impl Exchange {
    pub(super) fn on_have(&mut self, id: LinkId, have: Have) -> Result<(), Violation> {
        if self.own.is_none() {
            return Err(Violation::NotAllowed("a leaf publishes nothing"));
        }
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        let leaf = link.peer.role == PeerRole::Leaf;
        let mut named = Vec::with_capacity(have.origins.len());
        for held in have.origins {
            if link.feeds.len() >= limits::ORIGINS && !link.feeds.contains_key(&held.origin) {
                // What was named long ago and nobody here ever heard of makes room: the digest names it again if it exists.
                let (region, held) = (&self.region, &self.held);
                link.feeds.retain(|o, _| o == region || held.contains_key(o) || named.contains(o));
                let feeds = &link.feeds;
                link.remembers.retain(|origin, _| feeds.contains_key(origin));
                if link.feeds.len() >= limits::ORIGINS {
                    return Err(Violation::TooManyOrigins);
                }
            }
            // No more of these than of feeds.
            match held.version.filter(|_| leaf && held.origin != self.region) {
                Some(version) if Holding::is_outdone(self.held.get(&held.origin), version) => {
                    link.remembers.insert(held.origin.clone(), version);
                }
                _ => drop(link.remembers.remove(&held.origin)),
            }
            let feed = link.feeds.entry(held.origin.clone()).or_default();
            feed.handle_have(held.version.map(|v| v.place()), held.follow);
            named.push(held.origin);
        }
        named.iter().for_each(|origin| self.pump(id, origin));
        if leaf {
            self.ask_leaf(id);
        }
        Ok(())
    }

    /// A gateway remembers a later state than this node, which was started without a disk perhaps, as all others were; or
    /// one that contradicts this node's. So it is asked, or its region's registry would not be raised past that and the
    /// gateway would never follow it again.
    /// One at a time for each origin: a node that starts has many gateways.
    pub(super) fn ask_leaf(&mut self, id: LinkId) {
        let Some(link) = self.links.get_mut(&id).filter(|_| !planted!(LeafUnasked)) else { return };
        let held = &self.held;
        link.remembers.retain(|origin, version| Holding::is_outdone(held.get(origin), *version));
        let origins: Vec<RegionName> = link.remembers.keys().cloned().collect();
        for origin in origins {
            let room = self.held.contains_key(&origin) || self.held.len() < limits::ORIGINS - 1;
            let mut asked = self.links.values().filter_map(|link| link.wanted.get(&origin));
            let asked = asked.any(|at| self.now.since(*at) < limits::TRANSFER_PATIENCE);
            if !room || asked || self.is_coming(self.now, &origin) {
                continue;
            }
            if let Some(link) = self.links.get_mut(&id) {
                link.lends = true;
            }
            self.compare_buckets(self.now, id, &origin);
        }
    }

    pub(super) fn on_want(&mut self, id: LinkId, want: &Want) -> Result<(), Violation> {
        let shelf = Shelf { region: &self.region, own: self.own.as_ref(), held: &self.held };
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        let Some(holding) = shelf.of(&want.origin, &link.peer) else { return Ok(()) };
        if self.own.is_none() {
            // A leaf has no subscribers but the one that asks. It holds the origin, so there are not too many.
            link.feeds.entry(want.origin.clone()).or_default();
        }
        // A subscriber that asks for more at once than it may will ask again.
        if link.sending(&want.origin) < self.limits.transfers
            && let Some(feed) = link.feeds.get_mut(&want.origin)
        {
            link.transfers = link.transfers.saturating_add(1);
            feed.handle_want(holding, &want.digests, link.transfers);
        }
        self.pump(id, &want.origin);
        Ok(())
    }

    pub(super) fn on_ack(&mut self, id: LinkId, ack: &Ack) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let Some(feed) = link.feeds.get_mut(&ack.origin) else { return };
        let was_sending = feed.is_sending();
        feed.handle_ack(ack);
        self.pump(id, &ack.origin);
        // What waited for an update of several parts to end.
        let Some(link) = self.links.get(&id).filter(|_| was_sending) else { return };
        if link.feeds.get(&ack.origin).is_none_or(|feed| !feed.is_sending()) {
            let others: Vec<RegionName> = link.feeds.keys().filter(|o| **o != ack.origin).cloned().collect();
            others.iter().for_each(|origin| self.pump(id, origin));
        }
    }

    /// Sends what a subscriber lacks of an origin, as far as its window goes.
    fn pump(&mut self, id: LinkId, origin: &RegionName) {
        let shelf = Shelf { region: &self.region, own: self.own.as_ref(), held: &self.held };
        let Some(link) = self.links.get_mut(&id) else { return };
        if link.sending(origin) >= self.limits.transfers {
            return;
        }
        let (Some(holding), Some(feed)) = (shelf.of(origin, &link.peer), link.feeds.get_mut(origin)) else {
            return;
        };
        while let Some(message) = feed.poll(origin, holding, &mut link.transfers, &self.limits) {
            if matches!(message, Message::Update(_)) {
                self.counters.parts_sent = self.counters.parts_sent.saturating_add(1);
            }
            self.outputs.push_back(Output::Send(id, message));
        }
    }

    /// There is a new state of `origin`: whoever follows it is sent it.
    pub(super) fn publish(&mut self, origin: &RegionName) {
        if self.own.is_none() {
            return;
        }
        let ids: Vec<LinkId> = self.links.keys().copied().collect();
        ids.into_iter().for_each(|id| self.pump(id, origin));
    }

    /// Shows a node the head of its own region, if it is later than what its registry has.
    pub(super) fn show_ahead(&mut self, id: LinkId, own: Option<super::head::Version>) {
        let Some(link) = self.links.get(&id).filter(|link| link.peer.role == PeerRole::Node) else { return };
        let Some(holding) = self.held.get(&link.peer.region) else { return };
        let ours = holding.version();
        let contradicts = |own| ours.contradicts(&own) && !planted!(ContradictionUnshown);
        if own.is_none_or(|own| ours.place() > own.place() || contradicts(own)) {
            self.outputs.push_back(Output::Send(id, Message::Offer(Box::new(holding.head.clone()))));
        }
    }

    /// A beat showed that a relay holds what contradicts the state held here. Perhaps nobody with a link to the origin knows
    /// of this one, and whoever holds the greater never asks for the other, so it is shown: the relay tells the origin.
    pub(super) fn show_rival(&mut self, id: LinkId, origin: &RegionName) {
        let Some(link) = self.links.get(&id).filter(|link| link.peer.region != *origin) else { return };
        let Some(holding) = self.held.get(origin).filter(|_| self.own.is_some()) else { return };
        let theirs = link.shown.get(origin).map(|shown| shown.version);
        if theirs.is_some_and(|theirs| theirs.contradicts(&holding.version())) {
            self.outputs.push_back(Output::Send(id, Message::Offer(Box::new(holding.head.clone()))));
        }
    }
}
