//! The exchange of one process: what it holds of every origin, and its links.
//!
//! A state machine without clock, randomness and I/O. `handle_*` takes what happened and when; afterwards
//! [`Exchange::poll_output`] is called until it gives nothing. `now` is a clock that never goes back and that goes on
//! while the process or the machine sleeps.

mod beats;
mod feed;
mod freshness;
mod gather;
pub mod head;
mod holding;
pub mod image;
pub mod limits;
mod link;
pub mod message;
mod own;
mod publish;
#[cfg(test)]
mod scenarios;
pub mod state;
mod subscribe;
mod verified;
pub mod violation;

pub use image::Image;
pub use state::State;

use crate::planted::planted;
use bytes::Bytes;
use freshness::{PathSeen, Proof};
use head::{NodeId, SignedHead, Signer, Verifier};
use holding::Holding;
use image::Saved;
use limits::Limits;
use link::Link;
use meridian_model::incarnation::Incarnation;
use meridian_model::names::RegionName;
use meridian_model::time::Monotonic;
use message::{Message, Record, RecordKey};
use own::{OwnRegion, Step};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use subscribe::Source;
use verified::Verified;
use violation::Violation;

/// No time at all.
const NEVER: Monotonic = Monotonic(u64::MAX);

/// A link, numbered by the driver; a number is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// What a peer is, by its certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerRole {
    /// Publishes and subscribes.
    Node,
    /// Subscribes only, to nodes of its own region, and lends them what it alone remembers when they ask.
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
    /// Spreads timers and makes nonces; need not be secret.
    pub entropy: u64,
    /// Bounds; the default ones but in simulations.
    pub limits: Limits,
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
    /// Heads that their origin did not sign, or with a certificate that is not trusted.
    pub refused_heads: u64,
    /// States of the own region that were not published, since they pass a limit or the key could not sign.
    pub unpublished: u64,
    /// Links that were closed for a violation.
    pub violations: u64,
    /// How often the registry's incarnation was asked to be raised.
    pub raises: u64,
}

/// The exchange of one process.
pub struct Exchange {
    region: RegionName,
    node: NodeId,
    verifier: Arc<dyn Verifier>,
    limits: Limits,
    spread: Spread,
    /// The latest time that was seen.
    now: Monotonic,
    /// None for a leaf.
    own: Option<OwnRegion>,
    /// Other regions; with the own one, at most [`limits::ORIGINS`].
    held: BTreeMap<RegionName, Holding>,
    /// Moments at which what is held was the newest.
    proofs: BTreeMap<RegionName, Proof>,
    /// When what is held was taken; what came from disk, before the image was made.
    taken: BTreeMap<RegionName, Proof>,
    /// Origins of which another life came than was proven so far. What was proven goes on to count here, or a region
    /// whose registry was raised would be stale for a beat; but it is not passed on, and what is proven of that life
    /// takes its place. It may be an old life that somebody remembered.
    unproven: BTreeSet<RegionName>,
    /// At most [`limits::LINKS`].
    links: BTreeMap<LinkId, Link>,
    /// Of what is held, of regions that links lead to, and of what the latest beats showed.
    sources: BTreeMap<RegionName, Source>,
    /// The last that was known of the way to each origin.
    paths: BTreeMap<RegionName, PathSeen>,
    verified: Verified,
    /// The standings that the driver knows: of what is held, and of regions that links lead to.
    told: BTreeMap<RegionName, Standing>,
    /// When one of them turns if nothing comes; perhaps later than that.
    turn: Monotonic,
    outputs: VecDeque<Output>,
    counters: Counters,
}

impl Exchange {
    /// An exchange that holds nothing.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            region: settings.region,
            node: settings.node,
            verifier: settings.verifier,
            limits: settings.limits,
            spread: Spread(settings.entropy),
            now: Monotonic(0),
            own: match settings.role {
                Role::Node(signer) => Some(OwnRegion::new(signer)),
                Role::Leaf => None,
            },
            held: BTreeMap::new(),
            proofs: BTreeMap::new(),
            taken: BTreeMap::new(),
            unproven: BTreeSet::new(),
            links: BTreeMap::new(),
            sources: BTreeMap::new(),
            paths: BTreeMap::new(),
            verified: Verified::default(),
            told: BTreeMap::new(),
            turn: NEVER,
            outputs: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Takes over what was held before the process ended. `elapsed` is how much time passed since the image was made, by
    /// the wall clock; none if that cannot be told, and then all of it is stale. Signatures are checked again; what fails
    /// is left out. Call it before anything else. Gives the number of origins that were left out.
    pub fn import(&mut self, now: Monotonic, image: Image, elapsed: Option<Duration>) -> usize {
        let now = self.see(now);
        let mut left_out = 0;
        if let (Some(own), Some(head)) = (&mut self.own, image.own) {
            let mine = head.head.origin == self.region;
            match Verified::check_kept(&*self.verifier, &head) {
                Ok(()) if mine => own.handle_known(now, head),
                _ => left_out += 1,
            }
        }
        for Saved { head, state, age, doubted, round_trip } in image.origins {
            let origin = head.head.origin.clone();
            let good = origin != self.region
                && self.held.len() < limits::ORIGINS - 1
                && state.root() == head.head.version.root
                && (Verified::check_kept(&*self.verifier, &head).is_ok() || planted!(ImageUnchecked));
            if !good {
                left_out += 1;
                continue;
            }
            let written = elapsed.and_then(|elapsed| u64::try_from(elapsed.as_millis()).ok());
            let taken = written.map_or(Proof::LONG_AGO, |written| Proof::new(now, written));
            let age = age.zip(elapsed).map(|(age, elapsed)| age.saturating_add(elapsed));
            let age = age.and_then(|age| u64::try_from(age.as_millis()).ok());
            if let Some(age) = age.or(planted!(ImageFresh).then_some(0)) {
                self.proofs.insert(origin.clone(), Proof::new(now, age));
                // A restart proves nothing of this life.
                if doubted {
                    self.unproven.insert(origin.clone());
                }
            }
            let keys = state.iter().map(|(key, _)| key.clone()).collect();
            self.held.insert(origin.clone(), Holding::new(head, state));
            self.taken.insert(origin.clone(), taken);
            self.paths.insert(origin.clone(), PathSeen { answered: None, round_trip });
            self.outputs.push_back(Output::Changed { origin: origin.clone(), keys });
            self.judge(now, &origin);
        }
        left_out
    }

    /// What is to be kept for the next start of the process. Cheap: records are shared, not copied.
    #[must_use]
    pub fn export(&self, now: Monotonic) -> Image {
        let doubted = |o: &RegionName| self.stand(now.max(self.now), o).freshness != Freshness::Fresh;
        let saved = self.held.iter().filter(|(origin, _)| !planted!(DoubtfulNotSaved) || !doubted(origin));
        let origins = saved.map(|(origin, holding)| Saved {
            head: holding.head.clone(),
            state: Arc::clone(&holding.state),
            age: self.proofs.get(origin).map(|proof| Duration::from_millis(proof.age_ms(now.max(self.now)))),
            doubted: self.unproven.contains(origin),
            round_trip: self.path_to(origin).round_trip,
        });
        let own = self.own.as_ref().and_then(|own| own.latest().cloned());
        Image { own, origins: origins.collect() }
    }

    /// A link came up. The driver has checked the certificate; what it binds is `peer`.
    pub fn handle_link_up(&mut self, now: Monotonic, id: LinkId, peer: Peer) {
        let now = self.see(now);
        let foreign = peer.region != self.region;
        let refusal = match (&self.own, peer.role) {
            _ if self.links.len() >= limits::LINKS => Some(Violation::TooManyLinks),
            (None, PeerRole::Leaf) => Some(Violation::NotAllowed("leaves have nothing to tell each other")),
            (None, _) | (_, PeerRole::Leaf) if foreign => {
                Some(Violation::NotAllowed("leaves subscribe to nodes of their own region"))
            }
            _ => None,
        };
        if let Some(violation) = refusal {
            return self.close(now, id, violation);
        }
        let (region, subscribes) = (peer.region.clone(), peer.role == PeerRole::Node);
        self.links.insert(id, Link::new(now, peer));
        if subscribes {
            self.adopt(now, id);
            self.judge(now, &region);
        }
        self.tick(now);
    }

    /// A link is down.
    pub fn handle_link_down(&mut self, now: Monotonic, id: LinkId) {
        let now = self.see(now);
        if self.links.remove(&id).is_some() {
            self.abandon(now, id);
            self.forget_strays();
            // A region whose last link it was does not answer any more.
            if !planted!(DownUntold) {
                self.judge_all(now);
            }
        }
    }

    /// A message came by a link. On a link that is not up, it does nothing.
    pub fn handle_message(&mut self, now: Monotonic, id: LinkId, message: Message) {
        let now = self.see(now);
        if !self.links.contains_key(&id) {
            return;
        }
        let checked =
            message.check(&self.limits).or_else(|v| if planted!(LimitOff) { Ok(()) } else { Err(v) });
        let done = checked.and_then(|()| match message {
            Message::Have(have) => self.on_have(id, have),
            Message::Offer(head) => self.on_offer(now, id, *head),
            Message::Want(want) => self.on_want(id, &want),
            Message::Update(update) => self.on_update(now, id, update),
            Message::Ack(ack) => {
                self.on_ack(id, &ack);
                Ok(())
            }
            Message::Ping(ping) => self.on_ping(now, id, ping),
            Message::Beat(beat) => self.on_beat(now, id, beat),
        });
        if let Err(violation) = done {
            self.close(now, id, violation);
        }
    }

    /// The own registry changed or proved that it did not. Only for nodes.
    pub fn handle_own(&mut self, now: Monotonic, own: Own) {
        let now = self.see(now);
        let Some(region) = &mut self.own else { return };
        let was_published = region.published().is_some();
        region.handle_own(own);
        self.settle_own(now);
        if !was_published && self.own.as_ref().is_some_and(|own| own.published().is_some()) {
            // It had only been late: what subscribers asked for meanwhile can be sent.
            let region = self.region.clone();
            self.publish(&region);
        }
    }

    /// The signer has another certificate: what is published is signed with it at once.
    pub fn handle_renewed(&mut self, now: Monotonic) {
        let now = self.see(now);
        self.settle_own(now);
    }

    /// The time of [`Exchange::next_timeout`] came. Early and late calls do no harm.
    pub fn handle_timeout(&mut self, now: Monotonic) {
        let now = self.see(now);
        self.tick(now);
        self.judge_all(now);
    }

    /// When [`Exchange::handle_timeout`] wants to be called; the driver asks again after every input.
    #[must_use]
    pub fn next_timeout(&self) -> Monotonic {
        let subscribed = self.links.values().filter(|link| link.peer.role == PeerRole::Node);
        let turn = if planted!(TurnsForgotten) { NEVER } else { self.turn };
        subscribed.map(|link| link.next_ping.min(link.next_digest)).fold(turn, Monotonic::min)
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The other regions of which something is held.
    pub fn origins(&self) -> impl Iterator<Item = &RegionName> {
        self.held.keys()
    }

    /// What is held of another region. The state is immutable and may be handed to other threads.
    #[must_use]
    pub fn origin(&self, region: &RegionName) -> Option<OriginView<'_>> {
        self.held.get(region).map(|holding| OriginView { head: &holding.head, state: &holding.state })
    }

    /// What is published of the own region; none for a leaf, before the registry said anything, and while it is behind
    /// what its region has said before.
    #[must_use]
    pub fn published(&self) -> Option<OriginView<'_>> {
        let holding = self.own.as_ref()?.published()?;
        Some(OriginView { head: &holding.head, state: &holding.state })
    }

    /// How another region stands; none if nothing is held of it and no link leads to it.
    #[must_use]
    pub fn standing(&self, now: Monotonic, region: &RegionName) -> Option<Standing> {
        self.told.get(region).map(|_| self.stand(now.max(self.now), region))
    }

    /// Whether the age of what is held was proven of an earlier life only.
    #[cfg(test)]
    pub(crate) fn doubts(&self, region: &RegionName) -> bool {
        self.unproven.contains(region)
    }

    /// Counts for metrics.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Time never goes back here, whatever the driver's clock does.
    fn see(&mut self, now: Monotonic) -> Monotonic {
        #[cfg(test)]
        self.forgive_pause(now);
        self.now = self.now.max(now);
        self.now
    }

    /// What a machine would do whose ages count its own ticks.
    #[cfg(test)]
    fn forgive_pause(&mut self, now: Monotonic) {
        let gap = now.since(self.now);
        if planted!(PauseForgiven) && gap > Duration::from_secs(4) {
            self.proofs.values_mut().for_each(|proof| proof.forgive(gap));
        }
    }

    fn tick(&mut self, now: Monotonic) {
        let subscribed = self.links.iter().filter(|(_, link)| link.peer.role == PeerRole::Node);
        let due = subscribed.map(|(id, link)| (*id, link.next_ping <= now, link.next_digest <= now));
        let due: Vec<(LinkId, bool, bool)> = due.filter(|(_, ping, digest)| *ping || *digest).collect();
        if due.iter().any(|(_, ping, _)| *ping) {
            self.ask_leaves(now);
        }
        for (id, ping, digest) in due {
            let jitter = limits::DIGEST_EVERY / 4 * u32::from(self.spread.next() as u8) / 256;
            if let Some(link) = self.links.get_mut(&id) {
                if ping {
                    link.next_ping = now.plus(limits::BEAT_EVERY);
                    let dropped = link.drop_stalled(now);
                    self.counters.transfers_dropped = self.counters.transfers_dropped.saturating_add(dropped);
                }
                if digest {
                    link.next_digest = now.plus(limits::DIGEST_EVERY + jitter);
                    link.refusals = 0;
                }
            }
            if digest && !planted!(NoDigest) {
                let have = self.digest(now, id);
                self.outputs.push_back(Output::Send(id, Message::Have(have)));
            }
            if ping {
                self.ping(now, id);
            }
        }
    }

    /// About once a second: what a gateway remembers is asked for again, if it did not come or could not be asked for.
    fn ask_leaves(&mut self, now: Monotonic) {
        let leaves = self.links.iter_mut().filter(|(_, link)| !link.remembers.is_empty());
        let ids = leaves.map(|(id, link)| {
            let dropped = link.drop_stalled(now);
            self.counters.transfers_dropped = self.counters.transfers_dropped.saturating_add(dropped);
            *id
        });
        let ids: Vec<LinkId> = ids.collect();
        ids.into_iter().for_each(|id| self.ask_leaf(id));
    }

    fn settle_own(&mut self, now: Monotonic) {
        let Some(own) = &mut self.own else { return };
        match own.settle(now, &self.region, &self.node, &self.limits) {
            Step::Nothing => {}
            Step::Refused => self.counters.unpublished = self.counters.unpublished.saturating_add(1),
            Step::Published => {
                let region = self.region.clone();
                self.publish(&region);
            }
            Step::Raise(past) => {
                self.counters.raises = self.counters.raises.saturating_add(1);
                self.outputs.push_back(Output::Raise { past });
            }
        }
    }

    fn close(&mut self, now: Monotonic, id: LinkId, violation: Violation) {
        self.counters.violations = self.counters.violations.saturating_add(1);
        self.outputs.push_back(Output::Close(id, violation));
        self.handle_link_down(now, id);
    }
}

/// What is held of an origin.
pub struct OriginView<'a> {
    /// What it signed.
    pub head: &'a SignedHead,
    /// Its records.
    pub state: &'a Arc<State>,
}

/// Numbers that differ from process to process and from call to call: splitmix64.
struct Spread(u64);

impl Spread {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
