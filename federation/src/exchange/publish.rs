//! The publisher's side: what subscribers say they have, and what they are sent.

use super::head::Place;
use super::holding::Holding;
use super::message::{Ack, Have, Message, Want};
use super::violation::Violation;
use super::{Exchange, LinkId, Output, Peer, PeerRole, limits};
use meridian_model::names::RegionName;

impl Exchange {
    /// What may be told of `origin` to `peer`. Nobody is told of its own region: it knows from its registry. Leaves are
    /// told by nodes of their own region only, which the link's beginning has made sure of.
    pub(super) fn publishable(&self, origin: &RegionName, peer: &Peer) -> Option<&Holding> {
        let own = self.own.as_ref()?;
        match origin {
            origin if *origin == peer.region => None,
            origin if *origin == self.region => own.published(),
            origin => self.held.get(origin),
        }
    }

    pub(super) fn on_have(&mut self, id: LinkId, have: Have) -> Result<(), Violation> {
        if self.own.is_none() {
            return Err(Violation::NotAllowed("a leaf publishes nothing"));
        }
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        let mut named = Vec::with_capacity(have.origins.len());
        for held in have.origins {
            if link.feeds.len() >= limits::ORIGINS && !link.feeds.contains_key(&held.origin) {
                return Err(Violation::TooManyOrigins);
            }
            let feed = link.feeds.entry(held.origin.clone()).or_default();
            feed.handle_have(held.version.map(|v| v.place()), held.follow);
            named.push(held.origin);
        }
        named.iter().for_each(|origin| self.pump(id, origin));
        Ok(())
    }

    pub(super) fn on_want(&mut self, id: LinkId, want: &Want) -> Result<(), Violation> {
        let Some(link) = self.links.get(&id) else { return Ok(()) };
        if self.publishable(&want.origin, &link.peer).is_none() {
            return Ok(());
        }
        let busy = self.sending(id, &want.origin) >= self.limits.transfers;
        let Some(mut link) = self.links.remove(&id) else { return Ok(()) };
        // A subscriber that asks for more at once than it may will ask again.
        if !busy && let Some(holding) = self.publishable(&want.origin, &link.peer) {
            link.transfers = link.transfers.saturating_add(1);
            let feed = link.feeds.get_mut(&want.origin);
            if let Some(feed) = feed {
                feed.handle_want(holding, &want.digests, link.transfers);
            }
        }
        self.links.insert(id, link);
        self.pump(id, &want.origin);
        Ok(())
    }

    pub(super) fn on_ack(&mut self, id: LinkId, ack: &Ack) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if let Some(feed) = link.feeds.get_mut(&ack.origin) {
            feed.handle_ack(ack);
        }
        self.pump(id, &ack.origin);
        // What waited for an update of several parts to end.
        let feeds = self.links.get(&id).into_iter().flat_map(|link| link.feeds.keys());
        let others: Vec<RegionName> = feeds.filter(|origin| **origin != ack.origin).cloned().collect();
        others.iter().for_each(|origin| self.pump(id, origin));
    }

    /// How many other origins have parts under way by a link.
    fn sending(&self, id: LinkId, but: &RegionName) -> usize {
        let feeds = self.links.get(&id).into_iter().flat_map(|link| &link.feeds);
        feeds.filter(|(origin, feed)| *origin != but && feed.is_sending()).count()
    }

    /// Sends what a subscriber lacks of an origin, as far as its window goes.
    fn pump(&mut self, id: LinkId, origin: &RegionName) {
        if self.sending(id, origin) >= self.limits.transfers {
            return;
        }
        // Out of its place, so that what is sent can be read while the link is written.
        let Some(mut link) = self.links.remove(&id) else { return };
        let mut messages = Vec::new();
        if let Some(holding) = self.publishable(origin, &link.peer)
            && let Some(feed) = link.feeds.get_mut(origin)
        {
            while let Some(message) = feed.poll(origin, holding, &mut link.transfers, &self.limits) {
                messages.push(message);
            }
        }
        self.links.insert(id, link);
        for message in messages {
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
        let (place, theirs): (Place, Option<Place>) = (ours.place(), own.map(|v| v.place()));
        if theirs.is_none_or(|theirs| place > theirs) || (theirs == Some(place) && own != Some(ours)) {
            self.outputs.push_back(Output::Send(id, Message::Offer(Box::new(holding.head.clone()))));
        }
    }
}
