//! The one task that owns the exchange: links, the own registry and time go in, and what the exchange decides goes out.
//!
//! Nothing here waits for a peer. A message is put into its link's queue or, where that is full, the link ends.

use super::connection::Peer;
use super::figures::{Figures, PeerFigures};
use super::limits;
use super::link::{Ending, NewLink, Outbox, Place, Refusal, Side};
use super::material::Followed;
use super::name::{PeerName, Station};
use super::news::Teller;
use super::signing::TakenUp;
use super::tls::{self, Expected};
use super::{Clock, LinkView, Overview};
use crate::exchange::message::Message;
use crate::exchange::{self, Exchange, Image, LinkId, Output, Own, PeerRole};
use arc_swap::ArcSwap;
use meridian_model::names::RegionName;
use meridian_model::time::Monotonic;
use rustls_pki_types::{CertificateDer, UnixTime};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

/// Inputs that are worked off before outputs of time are looked for again.
const AT_ONCE: usize = 32;
/// Ticks between two looks at the certificates of links: what runs out is noticed within half a minute.
const RECHECK_EVERY: u64 = 30;

/// What the driver is told.
pub(super) enum Input {
    /// A link asks to be one.
    Up(NewLink),
    /// A message came; its place is given back when it was worked off.
    Message(LinkId, Message, Place),
    /// A link's task ended.
    Down(LinkId, Ending),
    /// The own registry said something.
    Own(Own),
    /// Somebody wants to keep what is held.
    Export(oneshot::Sender<Image>),
    /// Certificates or authorities were replaced.
    Reloaded,
}

struct Link {
    name: PeerName,
    chain: Arc<[CertificateDer<'static>]>,
    address: SocketAddr,
    side: Side,
    outbox: Outbox,
    figures: Arc<PeerFigures>,
    /// How many messages were taken from its queue when that last grew or was empty, and when.
    progress: (u64, Instant),
    queued: u64,
}

pub(super) struct Driver {
    pub(super) exchange: Exchange,
    pub(super) inbox: mpsc::Receiver<Input>,
    pub(super) clock: Clock,
    pub(super) followed: Arc<Followed>,
    pub(super) taken_up: TakenUp,
    pub(super) figures: Arc<Figures>,
    pub(super) teller: Teller,
    pub(super) overview: Arc<ArcSwap<Overview>>,
    pub(super) linked: watch::Sender<BTreeSet<PeerName>>,
    /// Who may have a link, whichever side opens it.
    pub(super) expected: Expected,
    pub(super) stop: CancellationToken,
    pub(super) links: Links,
}

/// The links that are up.
#[derive(Default)]
pub(super) struct Links {
    by_id: HashMap<LinkId, Link>,
    by_name: BTreeMap<PeerName, LinkId>,
    last: u64,
}

impl Driver {
    /// Drives until it is stopped, and gives the exchange's last image.
    pub(super) async fn run(mut self) -> Image {
        let mut tick = interval(limits::TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ticks: u64 = 0;
        let mut inputs = Vec::with_capacity(AT_ONCE);
        let stop = self.stop.clone();
        self.settle();
        loop {
            let due = self.due();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = tick.tick() => {
                    ticks = ticks.wrapping_add(1);
                    self.tend(ticks.is_multiple_of(RECHECK_EVERY));
                }
                () = sleep_until(due) => {
                    let now = self.now();
                    self.exchange.handle_timeout(now);
                }
                _ = self.inbox.recv_many(&mut inputs, AT_ONCE) => {
                    for input in inputs.drain(..) {
                        self.take(input);
                        self.settle();
                    }
                }
            }
            self.settle();
        }
        for link in self.links.by_id.values() {
            link.outbox.end(Ending::Stopping.status());
        }
        self.exchange.export(self.now())
    }

    fn now(&self) -> Monotonic {
        (self.clock)()
    }

    /// When the exchange wants to be called, by tokio's clock.
    fn due(&self) -> Instant {
        let wait = self.exchange.next_timeout().since(self.now());
        // No timer of the exchange is as long as an hour; none at all is as good.
        Instant::now() + wait.min(Duration::from_secs(3600))
    }

    fn take(&mut self, input: Input) {
        let now = self.now();
        match input {
            Input::Up(new) => self.up(now, new),
            Input::Message(link, message, _place) => {
                if self.links.by_id.contains_key(&link) {
                    self.exchange.handle_message(now, link, message);
                }
            }
            Input::Down(link, ending) => self.end(link, &ending),
            Input::Own(own) => self.exchange.handle_own(now, own),
            Input::Export(answer) => {
                // Who asked may be gone.
                let _ = answer.send(self.exchange.export(now));
            }
            Input::Reloaded => {
                self.taken_up.replace(Arc::clone(&self.followed.current()));
                self.exchange.handle_renewed(now);
                self.recheck();
            }
        }
    }

    /// Does what the exchange wants done.
    fn settle(&mut self) {
        let mut told = false;
        while let Some(output) = self.exchange.poll_output() {
            match output {
                Output::Send(id, message) => {
                    let Some(link) = self.links.by_id.get(&id) else { continue };
                    if !link.outbox.send(message) {
                        self.end(id, &Ending::Unread);
                    }
                }
                Output::Close(id, violation) => self.end(id, &Ending::Violation(violation)),
                Output::Changed { origin, keys } => {
                    if let Some(view) = self.exchange.origin(&origin) {
                        let (head, state) = (view.head.clone(), Arc::clone(view.state));
                        self.teller.changed(origin, head, state, keys);
                    }
                }
                Output::Standing { origin, standing } => {
                    told = true;
                    self.teller.standing(origin, standing, self.now());
                }
                Output::Raise { past } => self.teller.raise(past),
            }
        }
        if told {
            self.publish();
        }
    }

    fn up(&mut self, now: Monotonic, new: NewLink) {
        let NewLink { peer, side, outbox, figures, answer } = new;
        if let Err(refusal) = self.room_for(&peer.name, side) {
            self.figures.refused.add(1);
            tracing::debug!(peer = %peer.name, ?side, %refusal, "link refused");
            outbox.end(refusal.into());
            let _ = answer.send(Err(refusal));
            return;
        }
        let Ok(node) = peer.name.id.parse() else {
            // The grammar of names is narrower than that of node ids.
            let _ = answer.send(Err(Refusal::Full));
            return;
        };
        if let Some(twin) = self.links.by_name.get(&peer.name).copied() {
            self.end(twin, &Ending::Replaced);
        }
        self.links.last += 1;
        let id = LinkId(self.links.last);
        if answer.send(Ok(id)).is_err() {
            return;
        }
        let role = match peer.name.station {
            Station::Node => PeerRole::Node,
            Station::Gateway => PeerRole::Leaf,
        };
        tracing::info!(peer = %peer.name, address = %peer.address, ?side, "link up");
        figures.connected.add(1);
        figures.opened.add(1);
        self.links.by_name.insert(peer.name.clone(), id);
        self.linked.send_modify(|linked| {
            linked.insert(peer.name.clone());
        });
        let of = exchange::Peer { region: peer.name.region.clone(), node, role };
        let progress = (0, Instant::now());
        let Peer { name, chain, address, .. } = peer;
        self.links
            .by_id
            .insert(id, Link { name, chain, address, side, outbox, figures, progress, queued: 0 });
        self.exchange.handle_link_up(now, id, of);
        self.publish();
    }

    /// Whether a link may come up. Of two processes that dial each other at the same time both keep the link that the
    /// lesser name opened; one that is opened again by the same side takes the place of what must be a dead one.
    fn room_for(&self, name: &PeerName, side: Side) -> Result<(), Refusal> {
        let own = &self.followed.current().name;
        if name == own {
            return Err(Refusal::Oneself);
        }
        if let Some(twin) = self.links.by_name.get(name).and_then(|id| self.links.by_id.get(id)) {
            let preferred = match side {
                Side::Dialled => own < name,
                Side::Accepted => name < own,
            };
            return if twin.side == side || preferred { Ok(()) } else { Err(Refusal::Twin) };
        }
        // Gateways cannot crowd out nodes.
        let alike = self.links.by_name.keys().filter(|other| other.station == name.station).count();
        if alike >= exchange::limits::LINKS / 2 { Err(Refusal::Full) } else { Ok(()) }
    }

    fn end(&mut self, id: LinkId, ending: &Ending) {
        let Some(link) = self.links.by_id.remove(&id) else { return };
        self.links.by_name.remove(&link.name);
        self.linked.send_modify(|linked| {
            linked.remove(&link.name);
        });
        link.figures.connected.take(1);
        link.figures.queued.take(link.queued);
        match ending {
            ending if ending.is_violation() => link.figures.violations.add(1),
            Ending::Unread => link.figures.overflows.add(1),
            Ending::Silent => link.figures.silences.add(1),
            _ => {}
        }
        if ending.is_violation() {
            tracing::warn!(peer = %link.name, address = %link.address, %ending, "link closed");
        } else {
            tracing::info!(peer = %link.name, address = %link.address, %ending, "link down");
        }
        link.outbox.end(ending.status());
        let now = self.now();
        self.exchange.handle_link_down(now, id);
        self.publish();
    }

    /// What no message tells: queues that stand still, certificates that ran out, ages that grow.
    fn tend(&mut self, recheck: bool) {
        let now = Instant::now();
        let mut unread = Vec::new();
        for (id, link) in &mut self.links.by_id {
            let (waiting, taken) = link.outbox.waiting();
            if waiting == 0 || taken != link.progress.0 {
                link.progress = (taken, now);
            } else if now.duration_since(link.progress.1) >= limits::STALLED {
                unread.push(*id);
            }
            let waiting = waiting as u64;
            link.figures.queued.take(link.queued);
            link.figures.queued.add(waiting);
            link.queued = waiting;
        }
        for id in unread {
            self.end(id, &Ending::Unread);
        }
        if recheck {
            self.recheck();
        }
        self.publish();
    }

    /// Ends links whose certificate is believed no more: it ran out, or its authority was taken away.
    fn recheck(&mut self) {
        let material = Arc::clone(&self.followed.current());
        let now = UnixTime::now();
        let mut ends = Vec::new();
        for (id, link) in &self.links.by_id {
            if let Err(error) =
                tls::admit(&material.trust, &material.name.domain, &self.expected, &link.chain, now)
            {
                ends.push((*id, Ending::Distrusted(error.to_string())));
            }
        }
        for (id, ending) in ends {
            self.end(id, &ending);
        }
    }

    fn publish(&self) {
        let at = self.now();
        let linked = self.links.by_name.keys().map(|name| &name.region);
        let origins: BTreeSet<_> = self.exchange.origins().chain(linked).collect();
        let standing = |origin: &RegionName| Some((origin.clone(), self.exchange.standing(at, origin)?));
        let standings = origins.into_iter().filter_map(standing).collect();
        let links = self.links.by_id.values().map(|link| LinkView {
            peer: link.name.clone(),
            address: link.address,
            side: link.side,
            queued: link.outbox.waiting().0,
        });
        let overview = Overview { at, standings, counters: self.exchange.counters(), links: links.collect() };
        self.overview.store(Arc::new(overview));
    }
}
