//! Pings and beats: how old what is held is, and which regions answer.

use super::freshness::{PathSeen, Proof};
use super::head::Place;
use super::holding::Holding;
use super::link::{Link, Shown};
use super::message::{Beat, Claim, Message, Path, Ping};
use super::publish::Shelf;
use super::violation::Violation;
use super::{Exchange, LinkId, NEVER, Output, PeerRole, Standing, limits};
use crate::planted::planted;
use meridian_model::names::RegionName;
use meridian_model::time::Monotonic;

impl Exchange {
    pub(super) fn ping(&mut self, now: Monotonic, id: LinkId) {
        let nonce = self.spread.next();
        let own = self.own.as_ref().and_then(|own| own.published()).map(Holding::version);
        let Some(link) = self.links.get_mut(&id) else { return };
        link.pinged(now, nonce);
        let yours = self.held.get(&link.peer.region).map(Holding::version);
        self.outputs.push_back(Output::Send(id, Message::Ping(Ping { nonce, own, yours })));
    }

    pub(super) fn on_ping(&mut self, now: Monotonic, id: LinkId, ping: Ping) -> Result<(), Violation> {
        let Some(own) = &self.own else { return Err(Violation::NotAllowed("a leaf publishes nothing")) };
        let Some(link) = self.links.get(&id) else { return Ok(()) };
        // Whoever knows a later state of this region is not told that its own is the newest.
        let said = own.published().map(Holding::version);
        let doubted = ping
            .yours
            .zip(said)
            .is_some_and(|(yours, said)| yours.place() > said.place() || yours.contradicts(&said));
        let own_region = Some(&self.region).filter(|_| !doubted || planted!(PublishedWhileBehind));
        let shelf = Shelf { region: &self.region, own: Some(own), held: &self.held };
        let leaf = link.peer.role == PeerRole::Leaf;
        let claims = own_region.into_iter().chain(self.held.keys()).filter_map(|origin| {
            let version = shelf.of(origin, &link.peer)?.version();
            let proof = match *origin == self.region {
                true => own.proof(),
                false => self.proofs.get(origin).filter(|_| !self.unproven.contains(origin)).copied(),
            };
            let mut age_ms = proof.map(|proof| proof.age_ms(now));
            if planted!(RelayAgeDropped) && *origin != self.region {
                age_ms = Some(0);
            }
            let path = leaf.then(|| {
                let standing = self.stand(now, origin);
                Path {
                    reachable: standing.reachable,
                    round_trip_ms: standing.round_trip.and_then(|rtt| u32::try_from(rtt.as_millis()).ok()),
                }
            });
            Some(Claim { origin: origin.clone(), version, age_ms, path })
        });
        let beat = Beat { nonce: ping.nonce, claims: claims.take(limits::ORIGINS).collect() };
        self.outputs.push_back(Output::Send(id, Message::Beat(beat)));
        if !leaf {
            self.show_ahead(id, ping.own);
        }
        Ok(())
    }

    pub(super) fn on_beat(&mut self, now: Monotonic, id: LinkId, beat: Beat) -> Result<(), Violation> {
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        if link.peer.role == PeerRole::Leaf {
            return Err(Violation::NotAllowed("a leaf publishes nothing"));
        }
        let asked = link.answer(beat.nonce).or(planted!(NonceUnchecked).then_some(now));
        let Some(asked) = asked else {
            self.counters.outdated = self.counters.outdated.saturating_add(1);
            return Ok(());
        };
        link.answered = link.answered.max(Some(asked));
        link.round_trip.push(now.since(asked));
        let before = std::mem::take(&mut link.shown);
        for claim in beat.claims {
            if claim.origin == self.region {
                continue;
            }
            let old = before.get(&claim.origin);
            let since = if planted!(BeatTimeOfArrival) { now } else { asked };
            let shown = Shown {
                version: claim.version,
                proof: claim.age_ms.map(|age| Proof::new(since, age)),
                asked,
                path: claim.path,
                refused: old.is_some_and(|old| old.refused && old.version == claim.version),
            };
            link.shown.insert(claim.origin, shown);
        }
        let direct = link.peer.region.clone();
        let origins: Vec<RegionName> = link.shown.keys().cloned().collect();
        for origin in &origins {
            self.credit(id, origin);
            self.note_path(origin);
            self.hasten(now, origin);
            let before: Option<Place> = before.get(origin).map(|shown| shown.version.place());
            self.chase(now, id, origin, before);
            self.show_rival(id, origin);
            self.judge(now, origin);
        }
        // What the beat before spoke of and this one does not, may not be reachable any more.
        before.keys().chain([&direct]).for_each(|origin| self.judge(now, origin));
        self.forget_strays();
        Ok(())
    }

    /// Counts what a link's last beat said of an origin, if it was about what is held, or about something before it. Of
    /// another life it says nothing. That something earlier was the newest when a later state had already been taken, is
    /// true only of a registry that went back: then the claim says nothing of what is held.
    pub(super) fn credit(&mut self, id: LinkId, origin: &RegionName) {
        let Some(held) = self.held.get(origin).map(Holding::version) else { return };
        let Some(shown) = self.links.get(&id).and_then(|link| link.shown.get(origin)) else { return };
        if shown.version.place() == held.place() && shown.version != held {
            self.counters.divergences = self.counters.divergences.saturating_add(1);
            return;
        }
        let Some(proof) = shown.proof else { return };
        let taken = self.taken.get(origin).copied();
        let earlier = shown.version.incarnation == held.incarnation
            && shown.version.index < held.index
            && (Some(proof) <= taken || planted!(EarlierCredited));
        let earlier = earlier || (planted!(OlderLifeCredited) && shown.version.place() < held.place());
        if shown.version == held || earlier || planted!(ClaimAhead) {
            let before = self.proofs.get(origin).copied().filter(|_| !self.unproven.remove(origin));
            self.proofs.insert(origin.clone(), before.map_or(proof, |before| before.max(proof)));
        }
    }

    /// How an origin stands.
    pub(super) fn stand(&self, now: Monotonic, origin: &RegionName) -> Standing {
        Standing::of(now, self.proofs.get(origin).copied(), self.path_to(origin))
    }

    /// Direct links, for a node; what the nodes of the own region say of theirs, for a leaf. A leaf that lost its nodes
    /// knows what they said last: that it cannot ask them says nothing of other regions. Distances stay for either.
    pub(super) fn path_to(&self, origin: &RegionName) -> PathSeen {
        let last = self.paths.get(origin).copied().unwrap_or_default();
        let seen = match &self.own {
            Some(_) => {
                let direct = self.links.values().filter(|link| link.peer.region == *origin);
                direct.map(Link::path).reduce(PathSeen::or).unwrap_or_default()
            }
            None => {
                let paths = self.links.values().filter_map(|link| link.shown.get(origin)?.path_seen());
                paths.reduce(PathSeen::or).unwrap_or(last)
            }
        };
        PathSeen { round_trip: seen.round_trip.or(last.round_trip), ..seen }
    }

    /// Keeps what is known of the way to an origin for when nothing tells of it any more.
    pub(super) fn note_path(&mut self, origin: &RegionName) {
        let path = self.path_to(origin);
        if self.held.contains_key(origin) {
            self.paths.insert(origin.clone(), path);
        }
    }

    /// Tells the driver if an origin stands otherwise than it was told.
    pub(super) fn judge(&mut self, now: Monotonic, origin: &RegionName) {
        let known = self.held.contains_key(origin) || self.links.values().any(|l| l.peer.region == *origin);
        if *origin == self.region || (!known && !self.told.contains_key(origin)) {
            return;
        }
        let (proof, path) = (self.proofs.get(origin).copied(), self.path_to(origin));
        let standing = Standing::of(now, proof, path);
        self.turn = Standing::turns(now, proof, path).unwrap_or(NEVER).min(self.turn);
        if self.told.get(origin).is_none_or(|told| standing.differs(told)) {
            self.told.insert(origin.clone(), standing);
            self.outputs.push_back(Output::Standing { origin: origin.clone(), standing });
        }
        if !known {
            self.told.remove(origin);
        }
    }

    /// Tells the driver of every origin that stands otherwise than it was told.
    pub(super) fn judge_all(&mut self, now: Monotonic) {
        self.turn = NEVER;
        let told: Vec<RegionName> = self.told.keys().cloned().collect();
        told.iter().for_each(|origin| self.judge(now, origin));
    }
}
