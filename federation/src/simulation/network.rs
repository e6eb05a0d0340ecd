//! Connections between processes: how messages go over them, and how they come and go.

use super::Broken;
use super::oracle;
use super::world::{Event, World};
use crate::exchange::LinkId;
use crate::exchange::message::{Claim, Held, Message};
use meridian_model::names::RegionName;
use meridian_model::time::Monotonic;
use std::collections::VecDeque;
use std::time::Duration;

/// Messages of one direction that an enemy may send again.
const REMEMBERED: usize = 40;

/// Two processes that talk to each other when they can.
pub(super) struct Pair {
    pub(super) ends: [usize; 2],
    pub(super) conn: Option<usize>,
}

/// One connection of a pair; its number is its link's on both sides.
pub(super) struct Conn {
    pair: usize,
    pub(super) ends: [usize; 2],
    up: [bool; 2],
    since: u64,
    /// When the last message to each end arrives; ordered ones arrive no earlier.
    latest: [u64; 2],
    /// When each end last told all that it holds.
    pub(super) digests: [u64; 2],
    /// How many messages each end sent in this second.
    pub(super) sent: [u32; 2],
    /// Pings of each end that wait for their beat, and when they went by its clock.
    asked: [Vec<(u64, Monotonic)>; 2],
    /// The longest that an answer to each end took, by its clock.
    pub(super) slowest: [Option<Duration>; 2],
    /// Which ends gave it up and listen no more; the other learns it later.
    pub(super) deaf: [bool; 2],
    /// Parts that each end sent and that were not acknowledged to it, nor asked for anew: origin, update, part.
    pub(super) unacked: [Vec<(RegionName, u64, u32)>; 2],
    /// What went to each end lately, where an enemy listens.
    pub(super) recorded: [VecDeque<Message>; 2],
}

impl Conn {
    pub(super) fn is_up(&self) -> bool {
        self.up == [true, true]
    }

    /// Whether an end takes what comes.
    pub(super) fn listens(&self, end: usize) -> bool {
        self.up[end] && !self.deaf[end]
    }

    /// A ping is answered, and those before it count no more.
    fn time(&mut self, end: usize, nonce: u64, now: Monotonic) {
        if let Some(at) = self.asked[end].iter().position(|(asked, _)| *asked == nonce)
            && let Some((_, asked)) = self.asked[end].drain(..=at).next_back()
        {
            self.slowest[end] = self.slowest[end].max(Some(now.since(asked)));
        }
    }
}

impl World {
    pub(super) fn send(&mut self, at: usize, link: LinkId, mut message: Message) -> Result<(), Broken> {
        if let Message::Beat(beat) = &mut message
            && self.faults.iter().any(|fault| fault.is_by(at, self.now))
        {
            self.embellish(beat);
        }
        let process = &self.processes[at];
        oracle::sent(process, &message, self.now)?;
        oracle::vouched(process, &message, &mut self.regions[process.region].1, self.now);
        let number = link.0 as usize;
        let conn = &mut self.conns[number];
        let from = if conn.ends[0] == at { 0 } else { 1 };
        conn.sent[from] += 1;
        if matches!(message, Message::Have(_)) {
            conn.digests[from] = self.now;
        }
        if let Message::Ping(ping) = &message {
            conn.asked[from].push((ping.nonce, process.clock(self.now)));
        }
        if let Message::Update(update) = &message {
            let unacked = &mut conn.unacked[from];
            unacked.push((update.origin.clone(), update.transfer, update.part));
            oracle::windowed(unacked, &update.origin)?;
        }
        self.transmit(number, 1 - from, message);
        Ok(())
    }

    /// A message goes towards one end of a connection, through whatever weather there is.
    pub(super) fn transmit(&mut self, number: usize, end: usize, message: Message) {
        let conn = &mut self.conns[number];
        if self.listening {
            let recorded = &mut conn.recorded[end];
            if recorded.len() == REMEMBERED {
                recorded.pop_front();
            }
            recorded.push_back(message.clone());
        }
        let (from, to) = (conn.ends[1 - end], conn.ends[end]);
        if !conn.is_up() || self.cut[from][to] > 0 {
            return;
        }
        let weather = self.weather[from].worse(self.weather[to]);
        let copies = 1 + u64::from(self.dice.chance(weather.doubled));
        for _ in 0..copies {
            if self.dice.chance(weather.lost) {
                continue;
            }
            let mut at = self.now + self.dice.within(1..weather.delay);
            if !weather.unordered {
                at = at.max(self.conns[number].latest[end]);
                self.conns[number].latest[end] = at;
            }
            self.plan(at, Event::Deliver { conn: number, end, message: message.clone() });
        }
    }

    pub(super) fn deliver(&mut self, number: usize, end: usize, message: Message) -> Result<(), Broken> {
        let conn = &self.conns[number];
        if !conn.listens(end) {
            return Ok(());
        }
        let (from, to) = (conn.ends[1 - end], conn.ends[end]);
        let sender = &self.processes[from].peer;
        if !self.processes[from].is_leaf() {
            let region = sender.region.clone();
            self.processes[to].seen.heard.insert(region, self.now);
        }
        self.remember_evidence(to, &message);
        let clock = self.processes[to].clock(self.now);
        if let Message::Beat(beat) = &message {
            self.conns[number].time(end, beat.nonce, clock);
        }
        let unacked = &mut self.conns[number].unacked[end];
        match &message {
            Message::Ack(ack) => unacked.retain(|(origin, transfer, part)| {
                *origin != ack.origin || (*transfer, *part) > (ack.transfer, ack.part)
            }),
            Message::Want(want) => unacked.retain(|(origin, ..)| *origin != want.origin),
            Message::Have(have) => {
                unacked.retain(|(origin, ..)| have.origins.iter().all(|held| held.origin != *origin));
            }
            _ => {}
        }
        self.say(|| {
            let [from, to] = [from, to].map(|at| &self.processes[at].peer.node);
            format!("{from} -> {to}: {}", brief(&message))
        });
        self.drive(to, |exchange, now| exchange.handle_message(now, LinkId(number as u64), message))
    }

    /// A head of its own region that a node is shown, if it is one that the region signed.
    fn remember_evidence(&mut self, to: usize, message: &Message) {
        let head = match message {
            Message::Offer(head) => head,
            Message::Update(update) => match &update.opening {
                Some(opening) => &opening.head,
                None => return,
            },
            _ => return,
        };
        let process = &mut self.processes[to];
        let version = head.head.version;
        if head.head.origin == process.peer.region
            && self.regions[process.region].1.computed.contains(&(version.place(), version.root))
            && super::rogue::is_genuine(head)
        {
            process.seen.evidence = process.seen.evidence.max(Some(version.place()));
        }
    }

    pub(super) fn connect(&mut self, pair: usize) -> Result<(), Broken> {
        let [a, b] = self.pairs[pair].ends;
        let open = self.cut[a][b] == 0 && self.cut[b][a] == 0;
        if !(self.processes[a].runs() && self.processes[b].runs() && open) {
            self.later(300..1_500, Event::Connect { pair });
            return Ok(());
        }
        if let Some(old) = self.pairs[pair].conn {
            for end in 0..2 {
                self.down(old, end)?;
            }
        }
        let number = self.conns.len();
        self.conns.push(Conn {
            pair,
            ends: [a, b],
            up: [true, true],
            since: self.now,
            latest: [0, 0],
            digests: [self.now, self.now],
            sent: [0, 0],
            asked: Default::default(),
            slowest: [None, None],
            deaf: [false, false],
            unacked: Default::default(),
            recorded: Default::default(),
        });
        self.pairs[pair].conn = Some(number);
        for (at, other) in [(a, b), (b, a)] {
            let peer = self.processes[other].peer.clone();
            self.drive(at, |exchange, now| exchange.handle_link_up(now, LinkId(number as u64), peer))?;
        }
        Ok(())
    }

    pub(super) fn down(&mut self, number: usize, end: usize) -> Result<(), Broken> {
        if !std::mem::replace(&mut self.conns[number].up[end], false) {
            return Ok(());
        }
        let at = self.conns[number].ends[end];
        self.drive(at, |exchange, now| exchange.handle_link_down(now, LinkId(number as u64)))
    }

    /// A connection breaks: both ends learn it after a while, and it is made again.
    pub(super) fn close(&mut self, number: usize) {
        let pair = self.conns[number].pair;
        if self.pairs[pair].conn != Some(number) {
            return;
        }
        self.pairs[pair].conn = None;
        for end in 0..2 {
            self.later(1..300, Event::Down { conn: number, end });
        }
        self.later(400..1_500, Event::Connect { pair });
    }

    /// The process is gone with its connections; the others learn it.
    pub(super) fn crash(&mut self, at: usize) {
        self.say(|| format!("{} crashes", self.processes[at].peer.node));
        (self.processes[at].exchange, self.processes[at].gateway) = (None, None);
        let numbers: Vec<usize> = self.pairs.iter().filter_map(|pair| pair.conn).collect();
        for number in numbers {
            let Some(end) = self.conns[number].ends.iter().position(|end| *end == at) else { continue };
            self.conns[number].up[end] = false;
            self.close(number);
        }
    }

    /// Since when two processes have been connected.
    pub(super) fn linked_since(&self, x: usize, y: usize) -> Option<u64> {
        let pair = self.pairs.iter().find(|pair| pair.ends == [x.min(y), x.max(y)])?;
        pair.conn.map(|number| &self.conns[number]).filter(|conn| conn.is_up()).map(|conn| conn.since)
    }

    /// The longest that an answer by each link of a process took, and the peer.
    pub(super) fn links_of(&self, at: usize) -> impl Iterator<Item = (Option<Duration>, usize)> {
        let conns = self.pairs.iter().filter_map(|pair| pair.conn).map(|number| &self.conns[number]);
        conns.filter_map(move |conn| {
            let end = conn.ends.iter().position(|end| *end == at)?;
            conn.listens(end).then_some((conn.slowest[end], conn.ends[1 - end]))
        })
    }

    pub(super) fn has_direct_link(&self, x: usize, origin: usize) -> bool {
        let nodes = (0..self.processes.len()).filter(|y| self.processes[*y].region == origin);
        let mut nodes = nodes.filter(|y| !self.processes[*y].is_leaf());
        nodes.any(|y| self.linked_since(x, y).is_some())
    }

    pub(super) fn has_path_of_node(&self, leaf: usize, origin: usize) -> bool {
        let region = self.processes[leaf].region;
        let nodes = (0..self.processes.len()).filter(|y| self.processes[*y].region == region);
        let mut nodes = nodes.filter(|y| !self.processes[*y].is_leaf());
        nodes.any(|y| self.has_direct_link(y, origin))
    }
}

/// A message in a line, for people.
fn brief(message: &Message) -> String {
    match message {
        Message::Update(update) => {
            let opening =
                update.opening.as_ref().map(|o| (o.head.head.version.place().to_string(), &o.basis));
            let (part, last) = (update.part, update.last);
            format!("update {} of {}, part {part}, last {last}, {opening:?}", update.transfer, update.origin)
        }
        Message::Offer(head) => format!("offer {} at {}", head.head.origin, head.head.version.place()),
        Message::Want(want) => format!("want {} with {} digests", want.origin, want.digests.len()),
        Message::Have(have) => {
            let one = |held: &Held| {
                format!("{} {:?} {}", held.origin, held.version.map(|v| v.place().to_string()), held.follow)
            };
            format!("have {:?}", have.origins.iter().map(one).collect::<Vec<_>>())
        }
        Message::Beat(beat) => {
            let one =
                |claim: &Claim| format!("{} {} {:?}", claim.origin, claim.version.place(), claim.age_ms);
            format!("beat {:?}", beat.claims.iter().map(one).collect::<Vec<_>>())
        }
        other => format!("{other:?}"),
    }
}
