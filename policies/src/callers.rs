//! Callers as small numbers, so that a lookup finds its view without copying or comparing strings twice.

use crate::limits::MAX_CALLERS;
use meridian_model::binding::Effective;
use meridian_model::caller::Caller;
use meridian_model::names::{RegionName, ZoneName};
use smol_str::SmolStr;
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A number that stands for one caller. Ask for it anew for every request: when too many callers were seen, numbers are
/// given anew, and an old one then leads to cold lookups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallerId(u32);

/// A caller with its number.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) id: CallerId,
    pub(crate) caller: Arc<Caller>,
}

#[derive(Debug, Default)]
struct Table {
    ids: HashMap<Arc<Caller>, CallerId>,
    known: HashMap<CallerId, Arc<Known>>,
    /// Those of the generation before, so that a number stays good while the request lasts that asked for it.
    former: HashMap<CallerId, Arc<Known>>,
    next: u32,
}

/// All callers that the host can tell apart.
#[derive(Debug, Default)]
pub(crate) struct Callers {
    table: Mutex<Table>,
    generation: AtomicU32,
}

impl Callers {
    pub(crate) fn intern(&self, caller: Caller) -> Arc<Known> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = table.ids.get(&caller).and_then(|id| table.known.get(id)) {
            return Arc::clone(known);
        }
        if table.known.len() >= MAX_CALLERS {
            table.ids.clear();
            table.former = std::mem::take(&mut table.known);
            self.generation.fetch_add(1, Ordering::Relaxed);
        }
        let id = CallerId(table.next);
        table.next = table.next.wrapping_add(1);
        let known = Arc::new(Known { id, caller: Arc::new(caller) });
        table.ids.insert(Arc::clone(&known.caller), id);
        table.known.insert(id, Arc::clone(&known));
        known
    }

    pub(crate) fn get(&self, id: CallerId) -> Option<Arc<Known>> {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.known.get(&id).or_else(|| table.former.get(&id)).cloned()
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
