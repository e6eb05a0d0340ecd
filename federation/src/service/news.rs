//! What the exchange tells the process around it: the newest of everything since it last asked.
//!
//! Nothing queues for a slow reader. What changed twice is told once, with the value that it has now, so what waits is
//! never more than what is held.

use crate::exchange::head::SignedHead;
use crate::exchange::message::RecordKey;
use crate::exchange::{Standing, State};
use meridian_model::incarnation::Incarnation;
use meridian_model::names::RegionName;
use meridian_model::time::Monotonic;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;

/// What is new since the last time.
#[derive(Debug, Default)]
pub struct Batch {
    /// Origins of which another state is held.
    pub changed: BTreeMap<RegionName, Changed>,
    /// Origins that stand otherwise, and when they were judged.
    pub standing: BTreeMap<RegionName, (Standing, Monotonic)>,
    /// The own registry went back: write an incarnation above this one by compare-and-set.
    pub raise: Option<Incarnation>,
}

/// Another state of an origin.
#[derive(Debug, Clone)]
pub struct Changed {
    /// What its origin signed.
    pub head: SignedHead,
    /// The state, whole.
    pub state: Arc<State>,
    /// Records that are new, changed or gone since the reader last asked.
    pub keys: BTreeSet<RecordKey>,
}

#[derive(Default)]
struct Shared {
    batch: Mutex<Option<Batch>>,
    filled: Notify,
}

/// The driver's end.
#[derive(Clone, Default)]
pub(super) struct Teller(Arc<Shared>);

impl Teller {
    pub(super) fn changed(
        &self,
        origin: RegionName,
        head: SignedHead,
        state: Arc<State>,
        keys: Vec<RecordKey>,
    ) {
        self.tell(|batch| match batch.changed.get_mut(&origin) {
            Some(changed) => {
                changed.head = head;
                changed.state = state;
                changed.keys.extend(keys);
            }
            None => {
                let keys = keys.into_iter().collect();
                batch.changed.insert(origin, Changed { head, state, keys });
            }
        });
    }

    pub(super) fn standing(&self, origin: RegionName, standing: Standing, at: Monotonic) {
        self.tell(|batch| {
            batch.standing.insert(origin, (standing, at));
        });
    }

    pub(super) fn raise(&self, past: Incarnation) {
        self.tell(|batch| batch.raise = Some(batch.raise.map_or(past, |before| before.max(past))));
    }

    fn tell(&self, add: impl FnOnce(&mut Batch)) {
        let mut batch = self.0.batch.lock().unwrap_or_else(PoisonError::into_inner);
        add(batch.get_or_insert_with(Batch::default));
        drop(batch);
        self.0.filled.notify_one();
    }

    pub(super) fn news(&self) -> News {
        News(Arc::clone(&self.0))
    }
}

/// The reader's end. There is one: what it takes is gone.
pub struct News(Arc<Shared>);

impl News {
    /// Waits until something is new, and takes all of it. May be cancelled without loss.
    pub async fn next(&mut self) -> Batch {
        loop {
            if let Some(batch) = self.0.batch.lock().unwrap_or_else(PoisonError::into_inner).take() {
                return batch;
            }
            self.0.filled.notified().await;
        }
    }
}
