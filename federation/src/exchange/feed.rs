//! What a publisher sends of one origin by one link: never more than a few parts ahead of what was acknowledged, and
//! always on to the newest state, so a slow subscriber skips what lies between.

use super::head::Place;
use super::holding::Holding;
use super::limits::Limits;
use super::message::{Ack, Basis, Message, Opening, Record, RecordKey, Update};
use crate::planted::planted;
use bytes::Bytes;
use meridian_model::names::RegionName;
use std::collections::VecDeque;

/// The state of one origin on its way to one subscriber.
#[derive(Default)]
pub(super) struct Feed {
    /// Whether the subscriber wants every state; else only what it lacked when it last said what it has.
    follow: bool,
    lacks: bool,
    /// What the subscriber has, or will have when all that was sent has come.
    base: Option<Place>,
    /// Parts that were sent and not acknowledged: update and part.
    unacked: VecDeque<(u64, u32)>,
    stage: Stage,
}

#[derive(Default)]
enum Stage {
    #[default]
    Idle,
    /// The subscriber is to say which buckets it needs.
    Offered,
    /// Parts are being sent.
    Sending(Sending),
}

/// An update that is being cut into parts. It shares the records with the state that it was made from.
struct Sending {
    transfer: u64,
    place: Place,
    opening: Option<Box<Opening>>,
    items: std::vec::IntoIter<(RecordKey, Option<Bytes>)>,
    part: u32,
}

impl Feed {
    /// The subscriber says what it has; whatever was on its way may be lost.
    pub(super) fn handle_have(&mut self, base: Option<Place>, follow: bool) {
        let unacked = if planted!(WindowKept) { std::mem::take(&mut self.unacked) } else { VecDeque::new() };
        *self = Self { follow, lacks: true, base, unacked, ..Self::default() };
    }

    /// The subscriber says which buckets it has.
    pub(super) fn handle_want(&mut self, holding: &Holding, digests: &[[u8; 16]], transfer: u64) {
        self.unacked.clear();
        self.send_buckets(holding, digests, transfer);
    }

    pub(super) fn handle_ack(&mut self, ack: &Ack) {
        while self.unacked.front().is_some_and(|oldest| *oldest <= (ack.transfer, ack.part)) {
            self.unacked.pop_front();
        }
    }

    /// Whether an update of several parts is under way.
    pub(super) fn is_sending(&self) -> bool {
        matches!(self.stage, Stage::Sending(_))
    }

    /// The next message, if the subscriber lacks something and the window is open. `transfer` numbers a new update.
    pub(super) fn poll(
        &mut self,
        origin: &RegionName,
        holding: &Holding,
        transfer: &mut u64,
        limits: &Limits,
    ) -> Option<Message> {
        if self.unacked.len() >= limits.parts_in_flight && !planted!(WindowIgnored) {
            return None;
        }
        if let Stage::Idle = self.stage {
            if self.base.is_some_and(|base| holding.place() <= base) {
                self.lacks = false;
            }
            let newer = self.base.is_none_or(|base| holding.place() > base);
            if !newer || !(self.follow || self.lacks) {
                return None;
            }
            *transfer = transfer.saturating_add(1);
            match self.base {
                None => self.send_buckets(holding, &[], *transfer),
                Some(base) => match holding.since(base) {
                    Some(items) => {
                        let basis = Basis::Since(base.index);
                        self.stage = Stage::Sending(Sending::new(holding, basis, items, *transfer));
                    }
                    None => {
                        self.stage = Stage::Offered;
                        return Some(Message::Offer(Box::new(holding.head.clone())));
                    }
                },
            }
        }
        let Stage::Sending(sending) = &mut self.stage else { return None };
        let update = sending.cut(origin, limits);
        self.unacked.push_back((update.transfer, update.part));
        if update.last {
            self.base = Some(sending.place);
            self.stage = Stage::Idle;
        }
        Some(Message::Update(update))
    }

    fn send_buckets(&mut self, holding: &Holding, digests: &[[u8; 16]], transfer: u64) {
        let numbers = holding.state.differing(digests);
        let records = numbers.iter().flat_map(|number| holding.state.bucket(*number));
        let items = records.map(|(key, bytes)| (key.clone(), Some(bytes.clone()))).collect();
        self.stage = Stage::Sending(Sending::new(holding, Basis::Buckets(numbers), items, transfer));
    }
}

impl Sending {
    fn new(holding: &Holding, basis: Basis, items: Vec<(RecordKey, Option<Bytes>)>, transfer: u64) -> Self {
        Self {
            transfer,
            place: holding.place(),
            opening: Some(Box::new(Opening { head: holding.head.clone(), basis })),
            items: items.into_iter(),
            part: 0,
        }
    }

    fn cut(&mut self, origin: &RegionName, limits: &Limits) -> Update {
        let mut update = Update {
            origin: origin.clone(),
            transfer: self.transfer,
            part: self.part,
            opening: self.opening.take(),
            last: false,
            changed: Vec::new(),
            removed: Vec::new(),
        };
        let mut size = 0usize;
        while size < limits.part_bytes
            && let Some((key, bytes)) = self.items.next()
        {
            size = size.saturating_add(key.size());
            match bytes {
                Some(bytes) => {
                    size = size.saturating_add(bytes.len());
                    update.changed.push(Record { key, bytes });
                }
                None => update.removed.push(key),
            }
        }
        self.part = self.part.saturating_add(1);
        update.last = self.items.len() == 0;
        update
    }
}
