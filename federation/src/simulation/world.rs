//! The world of one seed: regions with their registries, processes, links between them, and time.

use super::Broken;
use super::dice::Dice;
use super::faults::{Fault, Weather};
use super::gateway::Wishes;
use super::lookups;
use super::network::{Conn, Pair};
use super::oracle;
use super::process::Process;
use super::registry::{Commit, Records, Registry};
use super::workloads::TTL;
use crate::exchange::head::NodeId;
use crate::exchange::message::{Message, RecordKey};
use crate::exchange::{Counters, Exchange, Output, Own, OwnChange, Peer, PeerRole};
use bytes::Bytes;
use meridian_model::incarnation::Incarnation;
use meridian_model::names::{RegionName, ServiceKey};
use meridian_model::time::Monotonic;
use std::cmp::Ordering;
use std::collections::{BTreeSet, BinaryHeap};
use std::sync::Arc;

/// After the last fault, all must be the same within this; milliseconds.
const HEALED_WITHIN: u64 = 10_000;
/// How long the world goes on after that, with changes and without faults.
const CALM: u64 = 8_000;
pub(super) enum Event {
    /// A message arrives at the end `end` of a connection.
    Deliver {
        conn: usize,
        end: usize,
        message: Message,
    },
    /// A process learns that a connection is gone.
    Down {
        conn: usize,
        end: usize,
    },
    Connect {
        pair: usize,
    },
    /// A timeout of a process, if it is still wanted.
    Wake {
        process: usize,
    },
    /// A node asks its registry for what is new.
    Ask {
        process: usize,
    },
    /// And is answered.
    Answer {
        process: usize,
        life: u32,
        asked: Monotonic,
        commit: Box<Commit>,
    },
    Write {
        region: usize,
    },
    /// A lease of an instance of this service ends.
    Expire {
        region: usize,
        service: ServiceKey,
    },
    /// A registry that was set back knows again what runs.
    Reconcile {
        region: usize,
    },
    Raise {
        region: usize,
        past: Incarnation,
    },
    Save {
        process: usize,
    },
    Begin {
        fault: usize,
    },
    End {
        fault: usize,
    },
    /// An enemy acts.
    Enemy {
        fault: usize,
    },
    /// Once a second.
    Check,
    /// All must be the same by now.
    Healed,
    /// The world ends.
    Over,
}

/// Something that happens at a time; what was planned first happens first.
struct Planned {
    at: u64,
    order: u64,
    event: Event,
}

impl PartialEq for Planned {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Planned {}
impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Planned {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

pub(super) struct World {
    pub(super) now: u64,
    pub(super) dice: Dice,
    pub(super) regions: Vec<(RegionName, Registry)>,
    /// When each region's registry was last tampered with.
    pub(super) unsettled: Vec<u64>,
    pub(super) processes: Vec<Process>,
    pub(super) pairs: Vec<Pair>,
    pub(super) conns: Vec<Conn>,
    pub(super) faults: Vec<Fault>,
    /// How messages travel to each process now.
    pub(super) weather: Vec<Weather>,
    /// Who cannot send to whom.
    pub(super) cut: Vec<Vec<u32>>,
    pub(super) listening: bool,
    /// The services of all regions.
    pub(super) services: BTreeSet<ServiceKey>,
    queue: BinaryHeap<Planned>,
    planned: u64,
    /// When the last fault ends.
    healed: u64,
    /// How often a region's instances change, in milliseconds.
    pace: u64,
    /// What was counted when all had healed.
    before: Vec<Counters>,
    trace: bool,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let count = dice.weighted(&[(62, 3), (22, 4), (9, 5), (4, 6), (3, 7)]);
        let mut processes = Vec::new();
        let regions: Vec<(RegionName, Registry)> = (0..count)
            .map(|region| {
                let name: RegionName = format!("region-{region}").parse().unwrap();
                // Everyone talks to everyone: large worlds have fewer nodes in each region.
                let nodes = dice.weighted(if count > 4 {
                    &[(75, 1), (20, 2), (5, 3)]
                } else {
                    &[(50, 1), (37, 2), (13, 3)]
                });
                let leaves = dice.weighted(&[(80, 1), (20, 2)]);
                for n in 0..nodes + leaves {
                    let role = if n < nodes { PeerRole::Node } else { PeerRole::Leaf };
                    let kind = if n < nodes { "node" } else { "leaf" };
                    let node: NodeId = format!("{kind}-{region}-{n}").parse().unwrap();
                    let peer = Peer { region: name.clone(), node, role };
                    processes.push(Process::new(region, peer, dice.within(1..1_000_000)));
                }
                (name.clone(), Registry::new(name, &mut dice))
            })
            .collect();
        // Where not every region has a link to every other, all have one to the first.
        let sparse = dice.chance(25);
        let mut pairs = Vec::new();
        for a in 0..processes.len() {
            for b in a + 1..processes.len() {
                let (p, q) = (&processes[a], &processes[b]);
                let linked = match (p.is_leaf(), q.is_leaf()) {
                    (true, true) => false,
                    (false, false) => !sparse || p.region == 0 || p.region == q.region,
                    _ => p.region == q.region,
                };
                if linked {
                    pairs.push(Pair { ends: [a, b], conn: None });
                }
            }
        }
        let n = processes.len();
        let services = regions.iter().flat_map(|(_, registry)| registry.workloads.services()).cloned();
        let services: BTreeSet<ServiceKey> = services.collect();
        for process in processes.iter_mut().filter(|process| process.is_leaf()) {
            let (own, others): (Vec<_>, Vec<_>) =
                regions.iter().map(|(name, _)| name.clone()).partition(|name| *name == process.peer.region);
            let wishes = own.first().map(|own| Wishes::draw(own, &others, &services, &mut dice));
            process.wishes = wishes.map(Arc::new);
        }
        let faults = Fault::draw(&mut dice, &processes, count);
        let healed = faults.iter().map(|fault| fault.until).max().unwrap_or(0).max(10_000) + 1;
        let mut world = Self {
            now: 0,
            unsettled: vec![0; count],
            weather: vec![Weather::FAIR; n],
            cut: vec![vec![0; n]; n],
            listening: faults.iter().any(Fault::is_enemy),
            pace: dice.within(300..4_000),
            conns: Vec::new(),
            queue: BinaryHeap::new(),
            planned: 0,
            before: Vec::new(),
            trace: std::env::var_os("MERIDIAN_TRACE").is_some(),
            dice,
            regions,
            processes,
            pairs,
            faults,
            healed,
            services,
        };
        world.plan_all();
        world
    }

    fn plan_all(&mut self) {
        for process in 0..self.processes.len() {
            let entropy = self.dice.next();
            self.processes[process].start(0, entropy, |_| None);
            if !self.processes[process].is_leaf() {
                self.later(1..500, Event::Ask { process });
            }
            self.later(500..4_000, Event::Save { process });
        }
        for pair in 0..self.pairs.len() {
            self.later(1..800, Event::Connect { pair });
        }
        for region in 0..self.regions.len() {
            self.later(1..2_000, Event::Write { region });
            // What crashed at the very beginning.
            self.plan(TTL, Event::Reconcile { region });
        }
        for fault in 0..self.faults.len() {
            let (at, until) = (self.faults[fault].at, self.faults[fault].until);
            self.plan(at, Event::Begin { fault });
            self.plan(until, Event::End { fault });
            if self.faults[fault].is_enemy() {
                self.plan(at + 50, Event::Enemy { fault });
            }
        }
        self.plan(1_000, Event::Check);
        self.plan(self.healed + HEALED_WITHIN, Event::Healed);
        self.plan(self.healed + HEALED_WITHIN + CALM, Event::Over);
    }

    pub(super) fn plan(&mut self, at: u64, event: Event) {
        self.planned += 1;
        self.queue.push(Planned { at: at.max(self.now), order: self.planned, event });
    }

    pub(super) fn later(&mut self, range: std::ops::Range<u64>, event: Event) {
        let at = self.now + self.dice.within(range);
        self.plan(at, event);
    }

    pub(super) fn run(mut self) -> Result<(), Broken> {
        while let Some(planned) = self.queue.pop() {
            self.now = planned.at;
            if let Event::Over = planned.event {
                break;
            }
            self.happen(planned.event).map_err(|broken| format!("at {} ms: {broken}", self.now))?;
        }
        let end = oracle::converged(&self).and_then(|()| self.was_calm());
        end.map_err(|broken| format!("at the end: {broken}"))
    }

    fn counters(&self) -> Vec<Counters> {
        self.processes.iter().filter_map(|p| p.exchange.as_ref()).map(Exchange::counters).collect()
    }

    /// Without faults, deltas fit, and nobody is accused of anything.
    fn was_calm(&self) -> Result<(), Broken> {
        let after = self.counters();
        let rose = |pick: fn(&Counters) -> u64| {
            let pairs = self.before.iter().zip(&after);
            pairs.map(|(before, after)| pick(after) - pick(before)).sum::<u64>()
        };
        // A subscriber that changes its source may hold a state that the new one skipped.
        if rose(|c| c.bucket_syncs) * 10 > rose(|c| c.states_taken) {
            return Err("without any fault, buckets were compared".into());
        }
        let never = [
            ("updates were dropped", rose(|c| c.transfers_dropped)),
            ("links were closed", rose(|c| c.violations)),
            ("heads were refused", rose(|c| c.refused_heads)),
            ("registries were raised", rose(|c| c.raises)),
            ("states diverged", rose(|c| c.divergences)),
        ];
        match never.iter().find(|(_, count)| *count > 0) {
            Some((what, _)) => Err(format!("without any fault, {what}")),
            None => Ok(()),
        }
    }

    pub(super) fn say(&self, what: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>7} {}", self.now, what());
        }
    }

    fn happen(&mut self, event: Event) -> Result<(), Broken> {
        // What happens to a paused process waits until it goes on.
        let at = match &event {
            Event::Deliver { conn, end, .. } | Event::Down { conn, end } => {
                Some(self.conns[*conn].ends[*end])
            }
            Event::Wake { process } | Event::Ask { process } | Event::Answer { process, .. } => {
                Some(*process)
            }
            Event::Save { process } => Some(*process),
            _ => None,
        };
        if let Some(process) = at.filter(|at| self.processes[*at].paused) {
            self.processes[process].waiting.push(event);
            return Ok(());
        }
        match event {
            Event::Deliver { conn, end, message } => self.deliver(conn, end, message),
            Event::Down { conn, end } => self.down(conn, end),
            Event::Connect { pair } => self.connect(pair),
            Event::Wake { process } => {
                if self.processes[process].wake.is_none_or(|wake| wake > self.now) {
                    return Ok(());
                }
                self.processes[process].wake = None;
                self.drive(process, |exchange, now| exchange.handle_timeout(now))
            }
            Event::Ask { process } => {
                self.ask(process);
                Ok(())
            }
            Event::Answer { process, life, asked, commit } => self.answer(process, life, asked, *commit),
            Event::Write { region } => {
                let same = self.healed + HEALED_WITHIN;
                let calm = same + 1..same + CALM - 3_000;
                if self.now < self.healed || calm.contains(&self.now) {
                    if let Some(service) = self.regions[region].1.write(self.now, &mut self.dice) {
                        self.plan(self.now + TTL, Event::Expire { region, service });
                    }
                    self.say(|| {
                        let commit = self.regions[region].1.now();
                        format!("region-{region} is at {} with {:?}", commit.place, commit.root)
                    });
                    self.later(self.pace / 2..self.pace * 3 / 2, Event::Write { region });
                }
                Ok(())
            }
            Event::Expire { region, service } => {
                self.regions[region].1.expire(self.now, &service);
                Ok(())
            }
            Event::Reconcile { region } => {
                self.regions[region].1.reconcile(self.now);
                Ok(())
            }
            Event::Raise { region, past } => {
                self.regions[region].1.raise(self.now, past, &mut self.dice);
                self.unsettled[region] = self.now;
                self.say(|| format!("region-{region} is raised past {past}"));
                Ok(())
            }
            Event::Save { process } => {
                self.processes[process].save(self.now);
                self.later(500..4_000, Event::Save { process });
                Ok(())
            }
            Event::Begin { fault } => self.begin(fault),
            Event::End { fault } => self.end(fault),
            Event::Enemy { fault } => self.enemy(fault),
            Event::Check => {
                self.plan(self.now + 1_000, Event::Check);
                oracle::current(self)?;
                (0..self.processes.len()).try_for_each(|at| lookups::answered(self, at, None))?;
                self.conns.iter_mut().for_each(|conn| conn.sent = [0, 0]);
                Ok(())
            }
            Event::Healed => {
                oracle::converged(self)?;
                self.before = self.counters();
                // Changes go on from here.
                for region in 0..self.regions.len() {
                    self.later(1..500, Event::Write { region });
                }
                Ok(())
            }
            Event::Over => Ok(()),
        }
    }

    /// Hands something to a process's exchange, and does what it wants done.
    pub(super) fn drive(
        &mut self,
        at: usize,
        input: impl FnOnce(&mut Exchange, Monotonic),
    ) -> Result<(), Broken> {
        let process = &mut self.processes[at];
        let clock = process.clock(self.now);
        let Some(exchange) = &mut process.exchange else { return Ok(()) };
        input(exchange, clock);
        let (mut touched, mut all) = (Vec::new(), false);
        while let Some(output) = self.processes[at].exchange.as_mut().and_then(Exchange::poll_output) {
            match output {
                Output::Send(link, message) => self.send(at, link, message)?,
                Output::Close(link, violation) => {
                    self.say(|| format!("{} closes {link:?}: {violation}", self.processes[at].peer.node));
                    let number = link.0 as usize;
                    if let Some(end) = self.conns[number].ends.iter().position(|end| *end == at) {
                        self.conns[number].deaf[end] = true;
                    }
                    self.close(number);
                }
                Output::Changed { origin, keys } => {
                    let registry = self.regions.iter_mut().enumerate().find(|(_, (name, _))| *name == origin);
                    let Some((number, (_, registry))) = registry else {
                        return Err(format!("{origin} is no region"));
                    };
                    let now = self.now;
                    let process = &mut self.processes[at];
                    let place = oracle::changed(process, &origin, &keys, registry, now)?;
                    registry.taken.insert(place, now);
                    // Somebody remembered what its registry has forgotten: it is not settled before it is raised.
                    if place > registry.now().place {
                        self.unsettled[number] = now;
                    }
                    let view = process.exchange.as_ref().and_then(|exchange| exchange.origin(&origin));
                    if let (Some(gateway), Some(view)) = (&mut process.gateway, view) {
                        gateway.hear(&origin, view.state, &keys, clock)?;
                        all |= keys.contains(&RecordKey::Region);
                        touched.extend(keys);
                    }
                    self.say(|| {
                        let place = self.processes[at].seen.mirrors[&origin].0;
                        format!("{} shows {origin} at {place}", self.processes[at].peer.node)
                    });
                }
                Output::Standing { origin, standing } => {
                    let process = &mut self.processes[at];
                    let before = process.seen.told.insert(origin.clone(), standing);
                    if let Some(gateway) = &mut process.gateway {
                        gateway.judge(&origin, standing, clock);
                        // Round trips alone change only the order.
                        all |= before.is_none_or(|before| {
                            (before.freshness, before.reachable) != (standing.freshness, standing.reachable)
                        });
                    }
                    self.say(|| format!("{} calls {origin} {standing:?}", self.processes[at].peer.node));
                }
                Output::Raise { past } => {
                    let region = self.processes[at].region;
                    oracle::raised(&mut self.processes[at], clock, &self.regions[region].1, past)?;
                    if !self.processes[at].registry_cut {
                        self.later(2..200, Event::Raise { region, past });
                    }
                }
            }
        }
        oracle::honest(self, at)?;
        if all || !touched.is_empty() {
            lookups::answered(self, at, (!all).then_some(&touched))?;
        }
        let process = &mut self.processes[at];
        let Some(exchange) = &process.exchange else { return Ok(()) };
        let wake = exchange.next_timeout().0.saturating_sub(process.offset).max(self.now + 1);
        if process.wake.is_none_or(|planned| wake < planned) {
            process.wake = Some(wake);
            self.plan(wake, Event::Wake { process: at });
        }
        Ok(())
    }

    fn ask(&mut self, at: usize) {
        let process = &self.processes[at];
        if process.exchange.is_some() && !process.registry_cut {
            let commit = Box::new(self.regions[process.region].1.now().clone());
            let (asked, life) = (process.clock(self.now), process.life);
            let latency = self.regions[process.region].1.latency;
            // In the order of the questions, as a watch is.
            let answered = process.answered.max(self.now + self.dice.within(latency / 2..latency));
            self.processes[at].answered = answered;
            self.plan(answered, Event::Answer { process: at, life, asked, commit });
        }
        self.later(30..400, Event::Ask { process: at });
    }

    fn answer(&mut self, at: usize, life: u32, asked: Monotonic, commit: Commit) -> Result<(), Broken> {
        let process = &mut self.processes[at];
        // Answers to questions of an earlier life come to nobody.
        if process.exchange.is_none() || process.registry_cut || process.life != life {
            return Ok(());
        }
        // News come without a proof at times; those of the same life are at least as new as what was proven before.
        let before = process
            .proven
            .filter(|(place, _)| place.incarnation == commit.place.incarnation && *place <= commit.place);
        let proven = if self.dice.chance(90) { Some(asked) } else { before.map(|(_, asked)| asked) };
        process.proven = proven.map(|asked| (commit.place, asked));
        let change = match process.given.replace(Arc::clone(&commit.records)) {
            Some(given) if self.dice.chance(90) => OwnChange::Some(difference(&given, &commit.records)),
            _ => OwnChange::All(
                commit
                    .records
                    .iter()
                    .map(|(key, bytes)| crate::exchange::message::Record {
                        key: key.clone(),
                        bytes: bytes.clone(),
                    })
                    .collect(),
            ),
        };
        self.say(|| format!("{} reads {} of {asked:?}", self.processes[at].peer.node, commit.place));
        let own = Own { incarnation: commit.place.incarnation, index: commit.place.index, proven, change };
        self.drive(at, |exchange, now| exchange.handle_own(now, own))
    }
}

fn difference(old: &Records, new: &Records) -> Vec<(RecordKey, Option<Bytes>)> {
    let gone = old.keys().filter(|key| !new.contains_key(*key)).map(|key| (key.clone(), None));
    let changed = new.iter().filter(|(key, bytes)| old.get(*key) != Some(*bytes));
    gone.chain(changed.map(|(key, bytes)| (key.clone(), Some(bytes.clone())))).collect()
}
