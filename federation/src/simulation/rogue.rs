//! What an enemy sends: forgeries, replays, what is too large, and garbage. It has the key of its own region's node, but
//! does not lie about ages and does not sign two states for one place: against that there is no proof.

use super::keys::Key;
use super::process::LIMITS;
use super::world::World;
use crate::exchange::State;
use crate::exchange::head::{Head, NodeId, Root, SignedHead, Signer, Version};
use crate::exchange::limits;
use crate::exchange::message::{
    Ack, Basis, Beat, Claim, Have, Held, Message, Opening, Ping, Record, RecordKey, Update, Want,
};
use bytes::Bytes;
use meridian_model::incarnation::Incarnation;
use meridian_model::names::{RegionName, ServiceKey};

/// Whether the node that a head names has signed it.
pub(super) fn is_genuine(signed: &SignedHead) -> bool {
    let key = Key::of(signed.head.origin.clone(), signed.head.node.clone());
    key.sign(&signed.head.signed_bytes()).is_ok_and(|signature| signature == signed.signature)
}

impl World {
    fn up(&self) -> Vec<usize> {
        self.pairs.iter().filter_map(|pair| pair.conn).filter(|conn| self.conns[*conn].is_up()).collect()
    }

    /// Something that went somewhere comes again, to the same end or to another that would believe the sender no more.
    pub(super) fn replay(&mut self) {
        let up = self.up();
        if up.is_empty() {
            return;
        }
        let (to, from) = (up[self.dice.index(up.len())], self.dice.index(self.conns.len()));
        let end = self.dice.index(2);
        let source = if self.dice.chance(50) { to } else { from };
        let recorded = &self.conns[source].recorded[end];
        if let Some(message) = recorded.get(self.dice.index(recorded.len().max(1))).cloned() {
            self.transmit(to, end, message);
        }
    }

    /// A node sends what it should not.
    pub(super) fn attack(&mut self, rogue: usize) {
        let up: Vec<usize> =
            self.up().into_iter().filter(|conn| self.conns[*conn].ends.contains(&rogue)).collect();
        if up.is_empty() {
            return;
        }
        let conn = up[self.dice.index(up.len())];
        let end = if self.conns[conn].ends[0] == rogue { 1 } else { 0 };
        let target = self.processes[self.conns[conn].ends[end]].peer.region.clone();
        let known = self.conns.iter().flat_map(|conn| conn.recorded.iter().flatten());
        let updates: Vec<Update> = known
            .filter_map(|message| match message {
                Message::Update(update) if update.opening.is_some() => Some(update.clone()),
                _ => None,
            })
            .collect();
        let pick = (!updates.is_empty()).then(|| updates[self.dice.index(updates.len())].clone());
        let message = match (self.dice.within(0..10), pick) {
            (0 | 1, Some(update)) => self.forge_head(update),
            (2 | 3, Some(update)) => self.forge_records(update),
            (4, Some(update)) => self.forge_claim_to(update, target),
            (5 | 6, _) => self.oversize(rogue),
            (7, Some(update)) => Message::Update(update),
            _ => self.garbage(target),
        };
        self.transmit(conn, end, message);
    }

    /// It answers pings as it should, and says of regions that nobody has, others each time, that it knows them.
    pub(super) fn embellish(&mut self, beat: &mut Beat) {
        let begin = self.dice.within(0..1_000_000);
        for n in begin..begin + self.dice.within(1..limits::ORIGINS as u64) {
            if beat.claims.len() < limits::ORIGINS {
                beat.claims.push(Claim {
                    origin: format!("nowhere-{n}").parse().unwrap(),
                    version: self.any_version(),
                    age_ms: Some(0),
                    path: None,
                });
            }
        }
    }

    fn any_version(&mut self) -> Version {
        Version {
            incarnation: Incarnation { counter: self.dice.within(0..9), random: self.dice.next() as u32 },
            index: self.dice.next(),
            root: Root([self.dice.next() as u8; 32]),
        }
    }

    /// A later place under the signature of an earlier one.
    fn forge_head(&mut self, mut update: Update) -> Message {
        if let Some(opening) = &mut update.opening {
            opening.head.head.version.index += self.dice.within(1..50);
            let whole: Vec<Record> = std::mem::take(&mut update.changed);
            opening.basis = Basis::Buckets((0..=255).collect());
            opening.head.head.records = whole.len() as u32;
            opening.head.head.version.root = State::from_records(whole.iter().cloned()).root();
            update.changed = whole;
            update.removed.clear();
            update.last = true;
        }
        Message::Update(update)
    }

    /// Other records under a head that is right.
    fn forge_records(&mut self, mut update: Update) -> Message {
        match (update.changed.first_mut(), self.dice.chance(50)) {
            (Some(record), true) => record.bytes = Bytes::from_static(b"forged"),
            _ => drop(update.changed.pop()),
        }
        if let Some(opening) = &mut update.opening {
            opening.basis = Basis::Since(0);
        }
        update.last = true;
        Message::Update(update)
    }

    /// The target's own region, far in the future.
    fn forge_claim_to(&mut self, mut update: Update, target: RegionName) -> Message {
        if let Some(opening) = &mut update.opening {
            opening.head.head.origin = target;
            opening.head.head.version.incarnation.counter += 1_000;
            return Message::Offer(Box::new(opening.head.clone()));
        }
        Message::Update(update)
    }

    /// A state of the rogue's own region that passes the limits, signed as it should be.
    fn oversize(&mut self, rogue: usize) -> Message {
        let peer = &self.processes[rogue].peer;
        let (count, bytes) = match self.dice.chance(50) {
            true => (LIMITS.records * 3, 4),
            false => (2, LIMITS.record_bytes * 3),
        };
        let record = |n: usize| {
            let key = ServiceKey::new("huge".parse().unwrap(), format!("svc-{n}").parse().unwrap());
            Record { key: RecordKey::Service(key), bytes: vec![7; bytes].into() }
        };
        let changed: Vec<Record> = (0..count).map(record).collect();
        let state = State::from_records(changed.iter().cloned());
        let place = self.regions[self.processes[rogue].region].1.now().place;
        let version =
            Version { incarnation: place.incarnation, index: place.index + 1_000_000, root: state.root() };
        let head = Head {
            origin: peer.region.clone(),
            node: peer.node.clone(),
            version,
            records: u32::try_from(state.len()).unwrap(),
        };
        let key = Key::of(peer.region.clone(), peer.node.clone());
        let signature = key.sign(&head.signed_bytes()).unwrap();
        let head = SignedHead { head, credential: key.credential(), signature };
        let basis = Basis::Buckets((0..=255).collect());
        Message::Update(Update {
            origin: peer.region.clone(),
            transfer: u64::MAX / 2,
            part: 0,
            opening: Some(Box::new(Opening { head, basis })),
            last: true,
            changed,
            removed: Vec::new(),
        })
    }

    /// What no node would say.
    fn garbage(&mut self, target: RegionName) -> Message {
        let region: RegionName = format!("region-{}", self.dice.within(0..9)).parse().unwrap();
        let version = self.any_version();
        let node: NodeId = "nobody".parse().unwrap();
        match self.dice.within(0..9) {
            0 => Message::Want(Want {
                origin: region,
                digests: vec![[1; 16]; self.dice.within(0..3) as usize],
            }),
            1 => Message::Want(Want { origin: region, digests: vec![[self.dice.next() as u8; 16]; 256] }),
            2 => {
                let held = |n: u64| Held {
                    origin: format!("nowhere-{n}").parse().unwrap(),
                    version: Some(version),
                    follow: true,
                };
                Message::Have(Have { origins: (0..self.dice.within(1..100)).map(held).collect() })
            }
            3 => Message::Have(Have {
                origins: vec![Held { origin: region, version: Some(version), follow: true }],
            }),
            4 => Message::Ack(Ack {
                origin: region,
                transfer: self.dice.next(),
                part: self.dice.next() as u32,
            }),
            5 => Message::Beat(Beat { nonce: self.dice.next(), claims: Vec::new() }),
            6 => Message::Ping(Ping { nonce: 1, own: Some(version), yours: Some(version) }),
            7 => {
                let head = Head { origin: target, node, version, records: 1 };
                let signed = SignedHead { head, credential: Bytes::new(), signature: Bytes::new() };
                Message::Offer(Box::new(signed))
            }
            _ => Message::Update(Update {
                origin: region,
                transfer: self.dice.within(0..9),
                part: self.dice.within(0..3) as u32,
                opening: None,
                last: true,
                changed: Vec::new(),
                removed: vec![RecordKey::Region],
            }),
        }
    }
}
