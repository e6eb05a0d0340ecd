//! What is held of one origin: its state as it signed it, and what changed lately, for deltas.

use super::head::{Place, SignedHead, Version};
use super::limits::{self, Limits};
use super::message::RecordKey;
use super::state::State;
use crate::planted::planted;
use bytes::Bytes;
use meridian_model::time::Monotonic;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A state that its origin signed.
pub(super) struct Holding {
    pub(super) head: SignedHead,
    pub(super) state: Arc<State>,
    recent: Recent,
    /// When a rival life of the same origin was first shown.
    rivalled: Option<Monotonic>,
}

impl Holding {
    /// The first state that is held of an origin.
    pub(super) fn new(head: SignedHead, state: Arc<State>) -> Self {
        let recent = Recent::from(head.head.version.index);
        Self { head, state, recent, rivalled: None }
    }

    pub(super) fn version(&self) -> Version {
        self.head.head.version
    }

    pub(super) fn place(&self) -> Place {
        self.version().place()
    }

    /// Whether a state of that place takes the place of the one held: nothing older ever does. Nor does one of a rival
    /// life, whichever is the greater: the origin hears of what is held here and raises its counter above both. Only where
    /// nobody can tell it that, the greater one is taken after a while.
    pub(super) fn yields_to(&mut self, now: Monotonic, place: Place) -> bool {
        if place <= self.place() {
            return false;
        }
        if !place.incarnation.rivals(&self.place().incarnation) {
            return true;
        }
        let since = *self.rivalled.get_or_insert(now);
        now.since(since) >= limits::RIVAL_PATIENCE
    }

    /// Whether that state is one that its origin should hear of, if this is held of it: a later one, or one that
    /// contradicts it, which may be the later one whatever its place.
    pub(super) fn is_outdone(held: Option<&Self>, version: Version) -> bool {
        held.is_none_or(|held| version.place() > held.place() || version.contradicts(&held.version()))
    }

    /// Another state takes the place of the one held; gives the keys that differ.
    pub(super) fn replace(&mut self, head: SignedHead, state: Arc<State>, limits: &Limits) -> Vec<RecordKey> {
        let keys = self.state.diff(&state);
        let index = head.head.version.index;
        if head.head.version.incarnation == self.version().incarnation {
            self.recent.push(&keys, index, limits.changes);
        } else {
            self.recent = Recent::from(index);
        }
        self.head = head;
        self.state = state;
        self.rivalled = None;
        keys
    }

    /// What changed since `place`, with no bytes where a record is gone; none if that cannot be told.
    pub(super) fn since(&self, place: Place) -> Option<Vec<(RecordKey, Option<Bytes>)>> {
        if place.incarnation != self.version().incarnation {
            return None;
        }
        let keys = self.recent.since(place.index)?;
        let items = keys.map(|key| (key.clone(), self.state.get(key).cloned()));
        Some(items.filter(|(_, bytes)| bytes.is_some() || !planted!(RemovalsDropped)).collect())
    }
}

/// Which keys changed at which index, as this holder saw it. A subscriber may hold a state that this holder skipped: it
/// then gets more than it lacks, or a record is missing from the delta, the root tells, and buckets are compared.
struct Recent {
    /// Nothing is known of changes at this index and before.
    floor: u64,
    stamps: BTreeMap<RecordKey, u64>,
    order: BTreeSet<(u64, RecordKey)>,
}

impl Recent {
    fn from(floor: u64) -> Self {
        Self { floor, stamps: BTreeMap::new(), order: BTreeSet::new() }
    }

    fn push(&mut self, keys: &[RecordKey], index: u64, limit: usize) {
        if keys.len() > limit {
            *self = Self::from(index);
            return;
        }
        for key in keys {
            if let Some(old) = self.stamps.insert(key.clone(), index) {
                self.order.remove(&(old, key.clone()));
            }
            self.order.insert((index, key.clone()));
        }
        // All of one index go together.
        while self.order.len() > limit {
            let Some((oldest, _)) = self.order.first().cloned() else { break };
            while let Some((index, _)) = self.order.first()
                && *index == oldest
                && let Some((_, key)) = self.order.pop_first()
            {
                self.stamps.remove(&key);
            }
            self.floor = oldest;
        }
    }

    fn since(&self, index: u64) -> Option<impl Iterator<Item = &RecordKey>> {
        if index < self.floor {
            return None;
        }
        Some(self.order.range((index.saturating_add(1), RecordKey::Region)..).map(|(_, key)| key))
    }
}
