//! The subscriber's side: what publishers send, and whom each origin is followed by.
//!
//! Every link tells by beats what its peer holds, but an origin's updates come by one link alone, its source: a direct
//! one where there is one. Whoever shows something newer than what is held and keeps doing so becomes the source, so a
//! message that was lost, a source that lags and a link that is cut are all mended by the same rule.

use super::freshness::Proof;
use super::gather::{Gather, Outcome};
use super::head::{Place, SignedHead};
use super::holding::Holding;
use super::link::Link;
use super::message::{Ack, Have, Held, Message, Update, Want};
use super::state::State;
use super::violation::Violation;
use super::{Exchange, LinkId, Output, PeerRole, limits};
use crate::planted::planted;
use meridian_model::names::RegionName;
use meridian_model::time::Monotonic;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// The link that an origin's updates come by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source {
    link: LinkId,
    since: Monotonic,
}

impl Exchange {
    /// Whether a state would replace what is held. Nothing older ever does.
    fn is_newer(&mut self, now: Monotonic, head: &SignedHead) -> bool {
        let Some(holding) = self.held.get_mut(&head.head.origin) else { return true };
        let (new, held) = (head.head.version, holding.version());
        if planted!(OlderAccepted) {
            return new != held;
        }
        if planted!(IncarnationIgnored) {
            return new.index > held.index;
        }
        holding.yields_to(now, new.place())
    }

    fn subscribed(&self, id: LinkId) -> Result<(), Violation> {
        match self.links.get(&id).map(|link| link.peer.role) {
            Some(PeerRole::Leaf) => Err(Violation::NotAllowed("a leaf publishes nothing")),
            _ => Ok(()),
        }
    }

    pub(super) fn on_offer(&mut self, now: Monotonic, id: LinkId, head: SignedHead) -> Result<(), Violation> {
        self.subscribed(id)?;
        if head.head.origin == self.region {
            return self.on_evidence(now, id, head);
        }
        if !self.is_newer(now, &head) {
            self.note_outdated(&head);
            return self.pass_on_rival(id, &head);
        }
        let link = self.links.get(&id);
        if link.and_then(|l| l.shown.get(&head.head.origin)).is_some_and(|shown| shown.refused) {
            return Ok(());
        }
        self.compare_buckets(now, id, &head.head.origin);
        Ok(())
    }

    /// A head of the own region: perhaps it is ahead of the registry.
    fn on_evidence(&mut self, now: Monotonic, id: LinkId, head: SignedHead) -> Result<(), Violation> {
        if self.own.is_some() && self.is_signed(id, &head)? {
            if let Some(own) = &mut self.own {
                own.handle_known(now, head);
            }
            self.settle_own(now);
        }
        Ok(())
    }

    /// A head that contradicts the one held is not taken, but the origin hears of it: perhaps by this node alone. A
    /// node without a link to the origin hands on what its gateway remembers to where the origin's states come from. It
    /// hands on nothing else, or a head could go round for ever.
    fn pass_on_rival(&mut self, id: LinkId, head: &SignedHead) -> Result<(), Violation> {
        let (origin, version) = (&head.head.origin, head.head.version);
        let held = self.held.get(origin).map(Holding::version);
        let direct = self.links.iter().filter(|(_, link)| link.peer.region == *origin);
        let mut told: Vec<LinkId> =
            direct.filter(|(_, link)| link.peer.role == PeerRole::Node).map(|(id, _)| *id).collect();
        if told.is_empty() && self.links.get(&id).is_some_and(|link| link.lends) {
            told.extend(self.sources.get(origin).map(|source| source.link));
        }
        let rival = held.is_some_and(|held| held.contradicts(&version)) && self.own.is_some();
        if rival && !told.is_empty() && self.is_signed(id, head)? {
            let offer = |to| Output::Send(to, Message::Offer(Box::new(head.clone())));
            self.outputs.extend(told.into_iter().map(offer));
        }
        Ok(())
    }

    pub(super) fn on_update(
        &mut self,
        now: Monotonic,
        id: LinkId,
        mut update: Update,
    ) -> Result<(), Violation> {
        let Some(link) = self.links.get(&id) else { return Ok(()) };
        let lent = link.lends;
        if !lent {
            self.subscribed(id)?;
        } else if !link.wanted.contains_key(&update.origin) && !link.gathers.contains_key(&update.origin) {
            // It was asked for, and came too late.
            return Ok(());
        }
        let origin = update.origin.clone();
        let opening = update.opening.take();
        if origin == self.region {
            return match opening {
                Some(opening) => self.on_evidence(now, id, opening.head),
                None => Ok(()),
            };
        }
        // What a leaf lends and is not taken is not acknowledged: its head is all that there was to hear, and it would
        // be asked for all of it again and again while the origin is away.
        let ack = Ack { origin: origin.clone(), transfer: update.transfer, part: update.part };
        let ack = Output::Send(id, Message::Ack(ack));
        let lent_ack = if lent {
            Some(ack)
        } else {
            self.outputs.push_back(ack);
            None
        };
        if let Some(opening) = opening {
            if !self.is_newer(now, &opening.head) {
                self.note_outdated(&opening.head);
                return self.pass_on_rival(id, &opening.head);
            }
            if !self.held.contains_key(&origin) && self.held.len() >= limits::ORIGINS - 1 {
                return Err(Violation::TooManyOrigins);
            }
            if !self.is_signed(id, &opening.head)? {
                return Ok(());
            }
            self.make_room(id, &origin);
            let gather = Gather::new(now, update.transfer, *opening);
            if let Some(link) = self.links.get_mut(&id) {
                if gather.is_of_buckets() {
                    link.wanted.remove(&origin);
                }
                link.gathers.insert(origin.clone(), gather);
            }
        }
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        let Some(mut gather) = link.gathers.remove(&origin) else { return Ok(()) };
        self.outputs.extend(lent_ack);
        if !gather.expects(&update) {
            // A part that came twice, or one that got lost; beats will show what is missing.
            if !gather.had(&update) {
                self.counters.transfers_dropped = self.counters.transfers_dropped.saturating_add(1);
                return Ok(());
            }
            link.gathers.insert(origin, gather);
            return Ok(());
        }
        let last = update.last || planted!(ShownBeforeComplete);
        gather.push(now, update, &self.limits)?;
        if !last {
            link.gathers.insert(origin, gather);
            self.bound_gathers(id);
            return Ok(());
        }
        let place = gather.place();
        if self.held.get_mut(&origin).is_some_and(|held| !held.yields_to(now, place))
            && !planted!(OlderAccepted)
        {
            self.counters.outdated = self.counters.outdated.saturating_add(1);
            return Ok(());
        }
        let partial = gather.is_partial();
        match gather.finish(self.held.get(&origin)) {
            Outcome::State(good) => self.take(now, good.0, good.1),
            Outcome::Misfit if partial => self.want(now, id, &origin, Vec::new()),
            Outcome::Misfit => self.compare_buckets(now, id, &origin),
            Outcome::Wrong => return Err(Violation::WrongRoot),
        }
        Ok(())
    }

    /// Shows another state of an origin.
    fn take(&mut self, now: Monotonic, head: SignedHead, state: State) {
        let origin = head.head.origin.clone();
        let state = Arc::new(state);
        let life = self.held.get(&origin).map(|held| held.version().incarnation);
        if life.is_some_and(|life| life != head.head.version.incarnation) && !planted!(LifeProofKept) {
            self.unproven.insert(origin.clone());
        }
        let keys = match self.held.get_mut(&origin) {
            Some(holding) => holding.replace(head, state, &self.limits),
            None => {
                let keys = state.iter().map(|(key, _)| key.clone()).collect();
                self.held.insert(origin.clone(), Holding::new(head, state));
                keys
            }
        };
        self.taken.insert(origin.clone(), Proof::new(now, 0));
        self.counters.states_taken = self.counters.states_taken.saturating_add(1);
        self.outputs.push_back(Output::Changed { origin: origin.clone(), keys });
        let ids: Vec<LinkId> = self.links.keys().copied().collect();
        ids.into_iter().for_each(|id| self.credit(id, &origin));
        self.note_path(&origin);
        self.judge(now, &origin);
        self.hasten(now, &origin);
        self.publish(&origin);
    }

    /// Of what was just taken nothing may be proven yet: whoever it comes from is asked soon, not with its next beat.
    pub(super) fn hasten(&mut self, now: Monotonic, origin: &RegionName) {
        let proven = self.proofs.contains_key(origin) && !self.unproven.contains(origin);
        let taken = self.taken.get(origin).map(|taken| Duration::from_millis(taken.age_ms(now)));
        if proven || taken.is_none_or(|taken| taken >= limits::HASTE_FOR) {
            return;
        }
        let source = self.sources.get(origin).map(|source| source.link);
        if let Some(link) = source.and_then(|id| self.links.get_mut(&id)) {
            link.hasten(now);
        }
    }

    /// A peer may name origins that nobody has, others with each beat: they have sources only while they are shown.
    pub(super) fn forget_strays(&mut self) {
        if planted!(StraysKept) {
            return;
        }
        let strays: BTreeSet<RegionName> = self.strays().cloned().collect();
        self.sources.retain(|origin, _| !strays.contains(origin));
    }

    /// Origins with a source that are neither held nor shown by anybody, and that no link leads to.
    pub(crate) fn strays(&self) -> impl Iterator<Item = &RegionName> {
        let named =
            |link: &Link, origin: &RegionName| link.peer.region == *origin || link.shown.contains_key(origin);
        self.sources.keys().filter(move |origin| {
            !self.held.contains_key(*origin) && !self.links.values().any(|link| named(link, origin))
        })
    }

    /// Asks a publisher for the buckets that differ.
    pub(super) fn compare_buckets(&mut self, now: Monotonic, id: LinkId, origin: &RegionName) {
        let digests = self.held.get(origin).map(|h| h.state.digests()).unwrap_or_default();
        self.want(now, id, origin, digests);
    }

    /// Once, until the answer begins: deltas that are on their way meanwhile do not fit either.
    fn want(&mut self, now: Monotonic, id: LinkId, origin: &RegionName, digests: Vec<[u8; 16]>) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let asked = link.wanted.get(origin);
        if asked.is_some_and(|at| now.since(*at) < limits::BEAT_EVERY) || link.wanted.len() >= limits::ORIGINS
        {
            return;
        }
        link.wanted.insert(origin.clone(), now);
        self.counters.bucket_syncs = self.counters.bucket_syncs.saturating_add(1);
        let want = Want { origin: origin.clone(), digests };
        self.outputs.push_back(Output::Send(id, Message::Want(want)));
    }

    fn note_outdated(&mut self, head: &SignedHead) {
        self.counters.outdated = self.counters.outdated.saturating_add(1);
        let held = self.held.get(&head.head.origin).map(Holding::version);
        if held.is_some_and(|held| held.place() == head.head.version.place() && held != head.head.version) {
            self.counters.divergences = self.counters.divergences.saturating_add(1);
        }
    }

    /// At most so many updates are gathered by one link; the one that waited longest gives way.
    fn make_room(&mut self, id: LinkId, origin: &RegionName) {
        let Some(link) = self.links.get_mut(&id) else { return };
        while link.gathers.len() >= self.limits.transfers && !link.gathers.contains_key(origin) {
            let oldest =
                link.gathers.iter().min_by_key(|(_, gather)| gather.at).map(|(origin, _)| origin.clone());
            let Some(oldest) = oldest else { break };
            link.gathers.remove(&oldest);
            self.counters.transfers_dropped = self.counters.transfers_dropped.saturating_add(1);
        }
    }

    /// At most so many bytes are gathered by all links of a region: what waited longest of them gives way.
    fn bound_gathers(&mut self, id: LinkId) {
        let Some(region) = self.links.get(&id).map(|link| link.peer.region.clone()) else { return };
        loop {
            let gathers = || {
                let links = self.links.iter().filter(|(_, link)| link.peer.region == region);
                links.flat_map(|(id, link)| {
                    link.gathers.iter().map(move |(origin, gather)| (*id, origin, gather))
                })
            };
            if gathers().map(|(.., gather)| gather.size).sum::<usize>() <= self.limits.gathered_bytes {
                return;
            }
            let oldest = gathers().min_by_key(|(.., gather)| gather.at);
            let Some((id, origin)) = oldest.map(|(id, origin, _)| (id, origin.clone())) else { return };
            if let Some(link) = self.links.get_mut(&id) {
                link.gathers.remove(&origin);
            }
            self.counters.transfers_dropped = self.counters.transfers_dropped.saturating_add(1);
        }
    }

    /// Whether a head is signed by a node of its origin. A peer that shows a bad head of its own region is closed; one
    /// that relays a bad one may have taken it in good faith, so it may do that a few times.
    fn is_signed(&mut self, id: LinkId, signed: &SignedHead) -> Result<bool, Violation> {
        if planted!(SignatureUnchecked) {
            return Ok(true);
        }
        let reason = match self.verified.check(&*self.verifier, signed, &mut self.counters) {
            Ok(()) => return Ok(true),
            Err(reason) => reason,
        };
        self.counters.refused_heads = self.counters.refused_heads.saturating_add(1);
        let Some(link) = self.links.get_mut(&id) else { return Ok(false) };
        link.refusals = link.refusals.saturating_add(1);
        if link.peer.region == signed.head.origin || link.refusals > limits::REFUSALS {
            return Err(Violation::Unsigned(reason.0));
        }
        if let Some(shown) = link.shown.get_mut(&signed.head.origin)
            && shown.version == signed.head.version
        {
            shown.refused = true;
        }
        Ok(false)
    }

    /// What is held of everything that the peer may tell, for a new link and from time to time. An origin that is just
    /// coming by this link is left out, or it would begin anew.
    pub(super) fn digest(&mut self, now: Monotonic, id: LinkId) -> Have {
        let Some(link) = self.links.get(&id) else { return Have { origins: Vec::new() } };
        let direct = Some(&link.peer.region).filter(|region| **region != self.region);
        let known = self.held.keys().filter(|origin| Some(*origin) != direct);
        let coming = |o: &RegionName| {
            link.gathers.get(o).is_some_and(|gather| now.since(gather.at) < limits::TRANSFER_PATIENCE)
        };
        let origins = known.chain(direct).filter(|o| !coming(o)).map(|origin| Held {
            origin: origin.clone(),
            version: self.held.get(origin).map(Holding::version),
            follow: self.sources.get(origin).is_some_and(|source| source.link == id),
        });
        Have { origins: origins.collect() }
    }

    /// A link came up: it becomes the source of what has none, and of its own region if that came by a relay. The digest
    /// that follows says so.
    pub(super) fn adopt(&mut self, now: Monotonic, id: LinkId) {
        let Some(link) = self.links.get(&id) else { return };
        let region = link.peer.region.clone();
        let orphans: Vec<RegionName> =
            self.held.keys().filter(|origin| !self.sources.contains_key(*origin)).cloned().collect();
        for origin in orphans {
            self.sources.insert(origin, Source { link: id, since: now });
        }
        if region != self.region && !self.is_followed_directly(&region) {
            let old = self.sources.insert(region.clone(), Source { link: id, since: now });
            self.unfollow(old, id, &region);
        }
    }

    fn is_followed_directly(&self, origin: &RegionName) -> bool {
        let source = self.sources.get(origin).and_then(|source| self.links.get(&source.link));
        source.is_some_and(|link| link.peer.region == *origin)
    }

    /// A link is gone: what came by it comes by another.
    pub(super) fn abandon(&mut self, now: Monotonic, id: LinkId) {
        if planted!(SourceKept) {
            return;
        }
        let orphans: Vec<RegionName> = self
            .sources
            .iter()
            .filter(|(_, source)| source.link == id)
            .map(|(origin, _)| origin.clone())
            .collect();
        for origin in orphans {
            self.sources.remove(&origin);
            let candidates = self.links.iter().filter_map(|(id, link)| {
                let direct = link.peer.region == origin;
                let shown = link.shown.get(&origin).map(|shown| shown.version.place());
                (direct || shown.is_some()).then_some((direct, shown, *id))
            });
            if let Some((_, _, id)) = candidates.max() {
                self.follow(now, id, &origin);
            }
        }
    }

    /// Makes a link the source of an origin.
    fn follow(&mut self, now: Monotonic, id: LinkId, origin: &RegionName) {
        let old = self.sources.insert(origin.clone(), Source { link: id, since: now });
        self.say_have(id, origin, true);
        self.unfollow(old, id, origin);
    }

    fn unfollow(&mut self, old: Option<Source>, new: LinkId, origin: &RegionName) {
        if let Some(old) = old.filter(|old| old.link != new && self.links.contains_key(&old.link)) {
            self.say_have(old.link, origin, false);
        }
    }

    fn say_have(&mut self, id: LinkId, origin: &RegionName, follow: bool) {
        let version = self.held.get(origin).map(Holding::version);
        let have = Have { origins: vec![Held { origin: origin.clone(), version, follow }] };
        self.outputs.push_back(Output::Send(id, Message::Have(have)));
    }

    /// A beat showed a state: what is missing is asked for. `before` is what the beat before had shown: what has come
    /// since is not missing, it was under way.
    pub(super) fn chase(&mut self, now: Monotonic, id: LinkId, origin: &RegionName, before: Option<Place>) {
        let Some(link) = self.links.get(&id) else { return };
        let Some(shown) = link.shown.get(origin) else { return };
        let holding = self.held.get_mut(origin);
        let (held, yields) = match holding {
            Some(holding) => (Some(holding.version()), holding.yields_to(now, shown.version.place())),
            None => (None, true),
        };
        let direct = link.peer.region == *origin;
        let source = self.sources.get(origin).copied();
        if !yields {
            let equal = held == Some(shown.version);
            if source.is_none() || (equal && direct && !self.is_followed_directly(origin)) {
                self.follow(now, id, origin);
            }
            return;
        }
        if shown.refused || (planted!(MissingNotAsked) && held.is_some()) || self.is_coming(now, origin) {
            return;
        }
        if planted!(SourceKept) && source.is_some_and(|source| !self.links.contains_key(&source.link)) {
            return;
        }
        let late = before.is_some_and(|before| held.is_none_or(|held| before > held.place()));
        let patient = source.is_none_or(|source| now.since(source.since) >= self.patience(source.link));
        if source.is_none() || (late && patient) {
            self.follow(now, id, origin);
        }
    }

    /// How long a link may take over what it was asked for. Where several links are bad, one that is good has its turn
    /// before they have each been waited for.
    fn patience(&self, id: LinkId) -> Duration {
        let round_trip = self.links.get(&id).and_then(|link| link.round_trip.get()).unwrap_or_default();
        round_trip.saturating_mul(2).clamp(limits::ANSWER_PATIENCE, limits::BEAT_EVERY)
    }

    /// Whether an update of several parts is coming by any link.
    pub(super) fn is_coming(&self, now: Monotonic, origin: &RegionName) -> bool {
        let mut gathers = self.links.values().filter_map(|link| link.gathers.get(origin));
        gathers.any(|gather| now.since(gather.at) < limits::TRANSFER_PATIENCE)
    }
}
