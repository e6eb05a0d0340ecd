//! An update that is coming in parts, gathered aside. Nothing of it is shown before all of it came and adds up.

use super::head::{Place, SignedHead};
use super::holding::Holding;
use super::limits::Limits;
use super::message::{Basis, Opening, Record, RecordKey, Update};
use super::state::State;
use super::violation::Violation;
use crate::planted::planted;
use bytes::Bytes;
use meridian_model::time::Monotonic;

pub(super) struct Gather {
    transfer: u64,
    head: SignedHead,
    basis: Basis,
    next: u32,
    changed: Vec<Record>,
    removed: Vec<RecordKey>,
    /// Bytes of the parts that came.
    pub(super) size: usize,
    /// When the last part came.
    pub(super) at: Monotonic,
}

/// What a complete update gives.
pub(super) enum Outcome {
    /// The state that the origin signed.
    State(Box<(SignedHead, State)>),
    /// It fits no state that is held; buckets must be compared.
    Misfit,
    /// It needs no state to fit, and is not what the origin signed.
    Wrong,
}

impl Gather {
    pub(super) fn new(now: Monotonic, transfer: u64, opening: Opening) -> Self {
        Self {
            transfer,
            head: opening.head,
            basis: opening.basis,
            next: 0,
            changed: Vec::new(),
            removed: Vec::new(),
            size: 0,
            at: now,
        }
    }

    pub(super) fn place(&self) -> Place {
        self.head.head.version.place()
    }

    /// Whether this is the part that comes next.
    pub(super) fn expects(&self, update: &Update) -> bool {
        (update.transfer, update.part) == (self.transfer, self.next)
    }

    /// Whether this part came before.
    pub(super) fn had(&self, update: &Update) -> bool {
        update.transfer < self.transfer || (update.transfer == self.transfer && update.part < self.next)
    }

    /// Whether whole buckets are replaced, as was asked for.
    pub(super) fn is_of_buckets(&self) -> bool {
        matches!(&self.basis, Basis::Buckets(_))
    }

    /// Whether some buckets only are replaced.
    pub(super) fn is_partial(&self) -> bool {
        matches!(&self.basis, Basis::Buckets(numbers) if numbers.len() < super::state::BUCKETS)
    }

    /// Takes the next part.
    pub(super) fn push(&mut self, now: Monotonic, update: Update, limits: &Limits) -> Result<(), Violation> {
        self.size = self.size.saturating_add(update.size());
        let count = |n: usize| n.saturating_add(self.changed.len()).saturating_add(self.removed.len());
        // Twice: all records may have been replaced by others.
        if count(update.changed.len().saturating_add(update.removed.len())) > 2 * limits.records
            && !planted!(LimitOff)
        {
            return Err(Violation::TooManyRecords);
        }
        if self.size > limits.origin_bytes && !planted!(LimitOff) {
            return Err(Violation::OriginTooLarge);
        }
        // A record must not keep the message alive that brought it.
        let owned = |r: Record| Record { key: r.key, bytes: Bytes::copy_from_slice(&r.bytes) };
        self.changed.extend(update.changed.into_iter().map(owned));
        self.removed.extend(update.removed);
        self.next = self.next.saturating_add(1);
        self.at = now;
        Ok(())
    }

    /// Puts the records on what is held.
    pub(super) fn finish(self, held: Option<&Holding>) -> Outcome {
        let nothing = State::default();
        let base = held.map_or(&nothing, |h| &*h.state);
        let mut edit = base.edit();
        let mut whole = false;
        match &self.basis {
            Basis::Since(index) => {
                let fits = held.map(Holding::place).is_some_and(|place| {
                    place.incarnation == self.place().incarnation && place.index >= *index
                });
                if !fits {
                    return Outcome::Misfit;
                }
            }
            Basis::Buckets(numbers) => {
                whole = numbers.len() >= super::state::BUCKETS;
                numbers.iter().for_each(|number| edit.empty(*number));
            }
        }
        self.removed.iter().for_each(|key| edit.remove(key));
        self.changed.into_iter().for_each(|record| edit.put(record.key, record.bytes));
        let state = edit.finish();
        let head = &self.head.head;
        let adds_up =
            state.root() == head.version.root && u64::try_from(state.len()) == Ok(head.records.into());
        if adds_up || planted!(RootUnchecked) || planted!(ShownBeforeComplete) {
            Outcome::State(Box::new((self.head, state)))
        } else if whole {
            Outcome::Wrong
        } else {
            Outcome::Misfit
        }
    }
}
