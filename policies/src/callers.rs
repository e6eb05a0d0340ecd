//! Callers as small numbers, so that a lookup finds its view without copying or comparing strings twice.

use crate::limits::MAX_CALLERS;
use meridian_model::binding::Effective;
use meridian_model::caller::Caller;
use meridian_model::names::{RegionName, ZoneName};
use smol_str::SmolStr;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A number that stands for one caller. Ask for it anew for every request: when too many callers were seen, some are
/// forgotten, and an old number then leads to cold lookups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallerId(u32);

/// A caller with its number.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) id: CallerId,
    pub(crate) caller: Arc<Caller>,
}

/// Callers that are looked at for one to forget.
const LOOKS: usize = 64;

#[derive(Debug, Default)]
struct Table {
    ids: HashMap<Arc<Caller>, CallerId>,
    known: HashMap<CallerId, Arc<Known>>,
    /// The clock that decides who is forgotten: the front is looked at next.
    clock: VecDeque<CallerId>,
    next: u32,
}

impl Table {
    /// Makes room for one more: of those that are next, one goes that nobody else holds, neither a service whose answers it
    /// gets nor a worker's memory. Where all are held, the one that the fewest hold. Returns whether that one was held.
    fn forget_one(&mut self) -> bool {
        let mut fewest: Option<(usize, CallerId)> = None;
        for _ in 0..LOOKS.min(self.clock.len()) {
            let Some(id) = self.clock.pop_front() else { break };
            // One is the table's own.
            let holders = self.known.get(&id).map_or(0, Arc::strong_count);
            if holders <= 1 {
                self.forget(id);
                return false;
            }
            self.clock.push_back(id);
            if fewest.is_none_or(|(least, _)| holders < least) {
                fewest = Some((holders, id));
            }
        }
        if let Some((_, id)) = fewest {
            self.clock.retain(|other| *other != id);
            self.forget(id);
        }
        true
    }

    fn forget(&mut self, id: CallerId) {
        if let Some(known) = self.known.remove(&id) {
            self.ids.remove(&known.caller);
        }
    }
}

/// All callers that the host can tell apart.
#[derive(Debug, Default)]
pub(crate) struct Callers {
    table: Mutex<Table>,
    /// How often one was forgotten that workers may remember.
    generation: AtomicU32,
}

impl Callers {
    pub(crate) fn intern(&self, caller: Caller) -> Arc<Known> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = table.ids.get(&caller).and_then(|id| table.known.get(id)) {
            return Arc::clone(known);
        }
        if table.known.len() >= MAX_CALLERS && table.forget_one() {
            self.generation.fetch_add(1, Ordering::Relaxed);
        }
        let id = CallerId(table.next);
        table.next = table.next.wrapping_add(1);
        let known = Arc::new(Known { id, caller: Arc::new(caller) });
        table.ids.insert(Arc::clone(&known.caller), id);
        table.known.insert(id, Arc::clone(&known));
        table.clock.push_back(id);
        known
    }

    pub(crate) fn get(&self, id: CallerId) -> Option<Arc<Known>> {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.known.get(&id).cloned()
    }

    pub(crate) fn count(&self) -> usize {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).known.len()
    }

    fn generation(&self) -> u32 {
        self.generation.load(Ordering::Relaxed)
    }
}

/// Entries of a worker's own memory of callers. Distinct callers of one gateway are mostly its zones.
const REMEMBERED: usize = 1_024;

/// One worker's memory of callers: from what a request says to a number, without lock or allocation when it is known.
#[derive(Debug)]
pub(crate) struct Memory {
    generation: u32,
    entries: Box<[Option<(u64, Arc<Known>)>]>,
}

impl Memory {
    pub(crate) fn new() -> Self {
        Self { generation: 0, entries: vec![None; REMEMBERED].into() }
    }

    /// The number of the caller in `zone` with those of `labels` that the binding lets through.
    pub(crate) fn id(
        &mut self,
        all: &Callers,
        region: &RegionName,
        binding: &Effective,
        zone: Option<&ZoneName>,
        labels: &[(&str, &str)],
    ) -> CallerId {
        let allowed = &binding.caller_labels;
        let hash = hash(zone, labels, allowed);
        if self.generation != all.generation() {
            self.entries.fill(None);
            self.generation = all.generation();
        }
        let place = hash as usize % REMEMBERED;
        if let Some(Some((known_hash, known))) = self.entries.get(place)
            && *known_hash == hash
            && is(&known.caller, region, zone, labels, allowed)
        {
            return known.id;
        }
        let known = all.intern(Caller {
            region: region.clone(),
            zone: zone.cloned(),
            labels: passing(labels, allowed).map(|(k, v)| (SmolStr::new(k), SmolStr::new(v))).collect(),
        });
        let id = known.id;
        if let Some(entry) = self.entries.get_mut(place) {
            *entry = Some((hash, known));
        }
        id
    }
}

fn passing<'a>(
    labels: &'a [(&'a str, &'a str)],
    allowed: &BTreeSet<SmolStr>,
) -> impl Iterator<Item = (&'a str, &'a str)> {
    labels.iter().copied().filter(|(key, _)| allowed.contains(*key))
}

fn hash(zone: Option<&ZoneName>, labels: &[(&str, &str)], allowed: &BTreeSet<SmolStr>) -> u64 {
    let zone = zone.map_or(0, |z| xxh3_64_with_seed(z.as_str().as_bytes(), 1));
    passing(labels, allowed).fold(zone, |hash, (key, value)| {
        xxh3_64_with_seed(value.as_bytes(), xxh3_64_with_seed(key.as_bytes(), hash))
    })
}

fn is(
    caller: &Caller,
    region: &RegionName,
    zone: Option<&ZoneName>,
    labels: &[(&str, &str)],
    allowed: &BTreeSet<SmolStr>,
) -> bool {
    caller.zone.as_ref() == zone
        && caller.region == *region
        && passing(labels, allowed).count() == caller.labels.len()
        && passing(labels, allowed).all(|(k, v)| caller.labels.get(k).is_some_and(|known| known == v))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(n: usize) -> Caller {
        let labels = [(SmolStr::new_static("n"), n.to_string().into())];
        Caller { region: "ap-south-1".parse().unwrap(), zone: None, labels: labels.into_iter().collect() }
    }

    #[test]
    fn whom_somebody_holds_is_not_forgotten() {
        let callers = Callers::default();
        let held: Vec<_> = (0..10).map(|n| callers.intern(caller(n))).collect();
        let passing: Vec<CallerId> = (10..MAX_CALLERS + 100).map(|n| callers.intern(caller(n)).id).collect();
        assert_eq!((callers.count(), callers.generation()), (MAX_CALLERS, 0));
        assert!(held.iter().all(|known| callers.get(known.id).is_some()));
        assert!(callers.get(passing[0]).is_none(), "the first of those that nobody holds went");
        assert!(callers.get(passing[passing.len() - 1]).is_some());
    }

    #[test]
    fn where_all_are_held_the_one_that_fewest_hold_goes_and_workers_learn_of_it() {
        let callers = Callers::default();
        let first = callers.intern(caller(0));
        let _holders = vec![Arc::clone(&first); 100];
        let held: Vec<_> = (1..=MAX_CALLERS).map(|n| callers.intern(caller(n))).collect();
        assert_eq!((callers.count(), callers.generation()), (MAX_CALLERS, 1));
        assert!(callers.get(first.id).is_some());
        assert!(callers.get(held[0].id).is_none());
        assert_ne!(callers.intern(caller(1)).id, held[0].id);
    }
}
