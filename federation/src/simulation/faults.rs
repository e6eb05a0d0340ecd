//! What goes wrong, when and where.

use super::Broken;
use super::dice::Dice;
use super::lookups;
use super::process::{Process, Written};
use super::workloads::TTL;
use super::world::{Event, World};
use bytes::Bytes;
use std::sync::atomic::Ordering;

/// How messages travel: percentages, and the longest delay in milliseconds.
#[derive(Clone, Copy)]
pub(super) struct Weather {
    pub(super) lost: u64,
    pub(super) doubled: u64,
    pub(super) delay: u64,
    pub(super) unordered: bool,
}

impl Weather {
    pub(super) const FAIR: Self = Self { lost: 0, doubled: 0, delay: 60, unordered: false };

    pub(super) fn worse(self, other: Self) -> Self {
        Self {
            lost: self.lost.max(other.lost),
            doubled: self.doubled.max(other.doubled),
            delay: self.delay.max(other.delay),
            unordered: self.unordered || other.unordered,
        }
    }
}

pub(super) struct Fault {
    pub(super) at: u64,
    pub(super) until: u64,
    kind: Kind,
}

enum Kind {
    /// Messages to and from these are lost, doubled, late and out of order.
    Storm { processes: Vec<usize>, weather: Weather },
    /// Nothing comes from these to those; both ways, perhaps. Connections may break for good, or just be silent.
    Cut { from: Vec<usize>, to: Vec<usize>, both: bool, breaks: bool },
    /// These crash, and start again at the end, with their disks or without; or with disks whose bits have rotted.
    Crash { processes: Vec<usize>, disk: Disk, registry: Option<Tampering> },
    /// The process does not run.
    Pause { process: usize },
    /// The region's registry is tampered with while its nodes run.
    Registry { region: usize, tampering: Tampering },
    /// A node cannot ask its registry.
    Blind { process: usize },
    /// A node's key cannot sign: what its registry says cannot be published.
    Mute { process: usize },
    /// The region's registry holds a record that nobody would take, so no node of it can publish.
    Swollen { region: usize },
    /// A process's clock jumps forward.
    Jump { process: usize, by: u64 },
    /// A node sends what it should not.
    Rogue { process: usize },
    /// Somebody sends again what was sent before.
    Replay,
}

#[derive(Clone, Copy)]
enum Disk {
    Kept,
    Lost,
    Rotten,
}

#[derive(Clone, Copy)]
enum Tampering {
    Restored,
    Wiped,
}

impl Fault {
    pub(super) fn draw(dice: &mut Dice, processes: &[Process], regions: usize) -> Vec<Self> {
        let count = dice.within(1..6);
        (0..count).map(|_| Self::one(dice, processes, regions)).collect()
    }

    fn one(dice: &mut Dice, processes: &[Process], regions: usize) -> Self {
        let at = dice.within(2_000..25_000);
        let mut until = at + dice.weighted(&[(50, 2_000), (35, 8_000), (15, 20_000)]) + dice.within(0..3_000);
        let nodes: Vec<usize> = (0..processes.len()).filter(|p| !processes[*p].is_leaf()).collect();
        let process = dice.index(processes.len());
        let node = nodes[dice.index(nodes.len())];
        let region = dice.index(regions);
        let of_region = |region: usize| (0..processes.len()).filter(move |p| processes[*p].region == region);
        let nodes_of =
            |region: usize| of_region(region).filter(|p| !processes[*p].is_leaf()).collect::<Vec<_>>();
        let tampering = if dice.chance(70) { Tampering::Restored } else { Tampering::Wiped };
        let disk = dice.weighted(&[(45, Disk::Kept), (40, Disk::Lost), (15, Disk::Rotten)]);
        let kind = match dice.within(0..15) {
            0 => {
                let all = dice.chance(50);
                let processes = (0..processes.len()).filter(|_| all || dice.chance(40)).collect();
                let weather = Weather {
                    lost: dice.weighted(&[(40, 0), (40, 10), (20, 40)]),
                    doubled: dice.weighted(&[(60, 0), (40, 30)]),
                    delay: dice.weighted(&[(50, 60), (30, 600), (20, 4_000)]),
                    unordered: dice.chance(60),
                };
                Kind::Storm { processes, weather }
            }
            1 | 2 => {
                let from: Vec<usize> = match dice.chance(60) {
                    true => of_region(region).collect(),
                    false => (0..processes.len()).filter(|_| dice.chance(40)).collect(),
                };
                let one = dice.index(regions);
                let to = match dice.chance(30) {
                    true => of_region(one).filter(|p| !from.contains(p)).collect(),
                    false => (0..processes.len()).filter(|p| !from.contains(p)).collect(),
                };
                Kind::Cut { from, to, both: dice.chance(60), breaks: dice.chance(50) }
            }
            3 => Kind::Crash { processes: vec![process], disk, registry: None },
            4 => Kind::Crash { processes: of_region(region).collect(), disk, registry: None },
            5 => {
                // Perhaps others go with them, so that few remember what the registry was before.
                let alone = dice.chance(50);
                let disk = if alone { disk } else { dice.weighted(&[(30, disk), (70, Disk::Lost)]) };
                let others = (0..processes.len()).filter(|p| processes[*p].region != region);
                let others: Vec<usize> = others.filter(|_| !alone && dice.chance(50)).collect();
                let processes = nodes_of(region).into_iter().chain(others).collect();
                Kind::Crash { processes, disk, registry: Some(tampering) }
            }
            6 => {
                if dice.chance(15) {
                    until = at + dice.within(60_000..150_000);
                }
                Kind::Pause { process }
            }
            7 | 8 => Kind::Registry { region, tampering },
            9 => Kind::Blind { process: node },
            10 => Kind::Jump { process, by: dice.within(1_000..300_000) },
            11 => Kind::Rogue { process: node },
            12 => Kind::Mute { process: node },
            13 => Kind::Swollen { region },
            _ => Kind::Replay,
        };
        Self { at, until, kind }
    }

    /// Whether this node acts as it should not now.
    pub(super) fn is_by(&self, node: usize, now: u64) -> bool {
        matches!(self.kind, Kind::Rogue { process } if process == node)
            && (self.at..self.until).contains(&now)
    }

    /// Whether somebody acts during it.
    pub(super) fn is_enemy(&self) -> bool {
        matches!(self.kind, Kind::Rogue { .. } | Kind::Replay)
    }
}

impl World {
    pub(super) fn begin(&mut self, number: usize) -> Result<(), Broken> {
        let fault = std::mem::replace(&mut self.faults[number].kind, Kind::Replay);
        self.hinder(&fault, true);
        let until = self.faults[number].until;
        match &fault {
            Kind::Storm { processes, weather } => {
                self.say(|| format!("a storm around {processes:?}"));
                processes.iter().for_each(|p| self.weather[*p] = *weather);
            }
            Kind::Cut { from, to, both, breaks } => {
                self.say(|| format!("{from:?} are cut off from {to:?}; both ways: {both}"));
                self.change_cut(from, to, *both, 1);
                if *breaks {
                    let numbers: Vec<usize> = self.pairs.iter().filter_map(|pair| pair.conn).collect();
                    for number in numbers {
                        let [a, b] = self.conns[number].ends;
                        if self.cut[a][b] + self.cut[b][a] > 0 {
                            self.close(number);
                        }
                    }
                }
            }
            Kind::Crash { processes, disk, registry } => {
                for process in processes {
                    self.crash(*process);
                    match disk {
                        Disk::Kept => {}
                        Disk::Lost => self.processes[*process].disk = None,
                        Disk::Rotten => self.rot(*process),
                    }
                }
                if let (Some(tampering), Some(first)) = (registry, processes.first()) {
                    self.tamper(self.processes[*first].region, *tampering);
                }
            }
            Kind::Pause { process } => {
                self.say(|| format!("{} stops", self.processes[*process].peer.node));
                self.processes[*process].paused = true;
            }
            Kind::Registry { region, tampering } => self.tamper(*region, *tampering),
            Kind::Blind { process } => self.processes[*process].registry_cut = true,
            Kind::Mute { process } => {
                self.say(|| format!("{} cannot sign", self.processes[*process].peer.node));
                self.processes[*process].mute.store(true, Ordering::Relaxed);
                self.processes[*process].disable(until);
            }
            Kind::Swollen { region } => {
                self.swell(*region, true);
                let nodes = self.processes.iter_mut().filter(|process| process.region == *region);
                nodes.for_each(|process| process.disable(until));
            }
            Kind::Jump { process, by } => {
                self.processes[*process].offset += by;
                // Its timers go by that clock.
                if self.processes[*process].runs() {
                    self.drive(*process, |exchange, now| exchange.handle_timeout(now))?;
                }
            }
            Kind::Rogue { process } => {
                self.say(|| format!("{} turns on the others", self.processes[*process].peer.node));
            }
            Kind::Replay => self.say(|| "somebody replays".into()),
        }
        self.faults[number].kind = fault;
        Ok(())
    }

    pub(super) fn end(&mut self, number: usize) -> Result<(), Broken> {
        let fault = std::mem::replace(&mut self.faults[number].kind, Kind::Replay);
        match &fault {
            Kind::Storm { processes, .. } => {
                self.say(|| "the storm ends".into());
                processes.iter().for_each(|p| self.weather[*p] = Weather::FAIR);
            }
            Kind::Cut { from, to, both, .. } => {
                self.say(|| "the cut ends".into());
                self.change_cut(from, to, *both, -1);
            }
            Kind::Crash { processes, .. } => {
                for process in processes
                    .iter()
                    .filter(|p| self.processes[**p].exchange.is_none())
                    .copied()
                    .collect::<Vec<_>>()
                {
                    self.restart(process)?;
                }
            }
            Kind::Pause { process } => {
                self.say(|| format!("{} goes on", self.processes[*process].peer.node));
                self.processes[*process].paused = false;
                let now = self.now;
                for event in std::mem::take(&mut self.processes[*process].waiting) {
                    self.plan(now, event);
                }
                // Its clock may have jumped meanwhile.
                self.drive(*process, |exchange, now| exchange.handle_timeout(now))?;
            }
            Kind::Blind { process } => self.processes[*process].registry_cut = false,
            Kind::Mute { process } => self.processes[*process].mute.store(false, Ordering::Relaxed),
            Kind::Swollen { region } => self.swell(*region, false),
            Kind::Registry { .. } | Kind::Jump { .. } | Kind::Rogue { .. } | Kind::Replay => {}
        }
        self.hinder(&fault, false);
        self.faults[number].kind = fault;
        Ok(())
    }

    fn restart(&mut self, process: usize) -> Result<(), Broken> {
        self.say(|| format!("{} starts", self.processes[process].peer.node));
        let (entropy, offset) = (self.dice.next(), self.dice.within(1..1_000_000));
        // A calendar that is not to be trusted says nothing; one that is ahead makes all older.
        let elapsed = match self.dice.within(0..10) {
            0..3 => None,
            3..5 => Some(self.dice.within(0..100_000)),
            _ => Some(0),
        };
        let now = self.now;
        let started = &mut self.processes[process];
        started.offset = offset;
        started.start(now, entropy, |since| elapsed.map(|ahead| since + ahead));
        self.drive(process, |exchange, now| exchange.handle_timeout(now))?;
        // Before anybody was met, there is what the disk has.
        lookups::answered(self, process, None)
    }

    fn change_cut(&mut self, from: &[usize], to: &[usize], both: bool, by: i32) {
        for a in from {
            for b in to {
                self.cut[*a][*b] = self.cut[*a][*b].saturating_add_signed(by);
                if both {
                    self.cut[*b][*a] = self.cut[*b][*a].saturating_add_signed(by);
                }
            }
        }
    }

    fn tamper(&mut self, region: usize, tampering: Tampering) {
        let (now, registry) = (self.now, &mut self.regions[region].1);
        match tampering {
            Tampering::Restored => registry.restore(now, &mut self.dice),
            Tampering::Wiped => registry.wipe(now, &mut self.dice),
        }
        // Leases run their full time again, and what is not listed registers anew.
        self.later(TTL..3 * TTL, Event::Reconcile { region });
        self.say(|| format!("region-{region}'s registry is back at {}", self.regions[region].1.now().place));
    }

    fn swell(&mut self, region: usize, begins: bool) {
        self.regions[region].1.swell(self.now, begins);
        self.say(|| format!("region-{region} holds what nobody would take: {begins}"));
    }

    fn rot(&mut self, process: usize) {
        if let Some(Written { image, kept, .. }) = &mut self.processes[process].disk {
            kept.clear();
            let mut bytes = image.to_vec();
            for _ in 0..self.dice.within(1..4) {
                let at = self.dice.index(bytes.len());
                bytes[at] ^= 1 << self.dice.within(0..8);
            }
            *image = Bytes::from(bytes);
        }
    }

    /// Whom a fault touches, so that nothing is expected of them.
    fn hinder(&mut self, fault: &Kind, begins: bool) {
        let all = || (0..self.processes.len()).collect::<Vec<_>>();
        let touched = match fault {
            Kind::Storm { processes, .. } | Kind::Crash { processes, .. } => processes.clone(),
            Kind::Cut { from, to, .. } => from.iter().chain(to).copied().collect(),
            Kind::Pause { process }
            | Kind::Blind { process }
            | Kind::Mute { process }
            | Kind::Jump { process, .. } => vec![*process],
            Kind::Swollen { region } => {
                (0..self.processes.len()).filter(|p| self.processes[*p].region == *region).collect()
            }
            Kind::Registry { .. } => Vec::new(),
            Kind::Rogue { .. } | Kind::Replay => all(),
        };
        for process in touched {
            let process = &mut self.processes[process];
            process.hindered = process.hindered.saturating_add_signed(if begins { 1 } else { -1 });
            process.hindered_until = self.now;
        }
        match fault {
            Kind::Registry { region, .. } => self.unsettled[*region] = self.now,
            Kind::Crash { registry: Some(_), processes, .. } => {
                if let Some(first) = processes.first() {
                    self.unsettled[self.processes[*first].region] = self.now;
                }
            }
            _ => {}
        }
    }

    /// An enemy acts, and again soon.
    pub(super) fn enemy(&mut self, number: usize) -> Result<(), Broken> {
        if self.now >= self.faults[number].until {
            return Ok(());
        }
        match self.faults[number].kind {
            Kind::Rogue { process } => self.attack(process),
            _ => self.replay(),
        }
        self.later(20..400, Event::Enemy { fault: number });
        Ok(())
    }
}
