//! An origin's records at one place, and the root that names them.
//!
//! Records lie in buckets by the hash of their key. A bucket's digest is SHA-256 over its keys and the SHA-256 of their
//! bytes, in order; the root is SHA-256 over the numbers and digests of the buckets that are not empty. A change costs
//! the digests of the buckets that it touches, and states share the others.

use super::head::Root;
use super::message::{Record, RecordKey};
use crate::planted::planted;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Buckets of a state: one for each first byte of a key's hash. With 5,000 services, a bucket has some 20.
pub const BUCKETS: usize = 256;

#[derive(Clone, Debug)]
struct Stored {
    bytes: Bytes,
    hash: [u8; 32],
}

#[derive(Debug, Default)]
struct Bucket {
    records: BTreeMap<RecordKey, Stored>,
    digest: [u8; 32],
    /// Keys and bytes.
    size: usize,
}

impl Bucket {
    fn of(records: BTreeMap<RecordKey, Stored>) -> Self {
        let mut hasher = Sha256::new();
        let mut size = 0usize;
        for (key, stored) in &records {
            hasher.update(key_bytes(key));
            hasher.update(stored.hash);
            size = size.saturating_add(key.size()).saturating_add(stored.bytes.len());
        }
        Self { records, digest: hasher.finalize().into(), size }
    }
}

/// All records of an origin; immutable. A clone costs at most 256 pointers.
#[derive(Clone, Debug)]
pub struct State {
    /// Those that are not empty.
    buckets: BTreeMap<u8, Arc<Bucket>>,
    root: Root,
    len: usize,
    size: usize,
}

impl Default for State {
    fn default() -> Self {
        Self::of(BTreeMap::new())
    }
}

impl State {
    fn of(buckets: BTreeMap<u8, Arc<Bucket>>) -> Self {
        let mut hasher = Sha256::new();
        for (number, bucket) in &buckets {
            hasher.update([*number]);
            hasher.update(bucket.digest);
        }
        Self {
            root: Root(hasher.finalize().into()),
            len: buckets.values().map(|b| b.records.len()).sum(),
            size: buckets.values().map(|b| b.size).fold(0, usize::saturating_add),
            buckets,
        }
    }

    /// One record.
    #[must_use]
    pub fn get(&self, key: &RecordKey) -> Option<&Bytes> {
        let bucket = self.buckets.get(&bucket_of(key))?;
        bucket.records.get(key).map(|stored| &stored.bytes)
    }

    /// All records, in no useful order.
    pub fn iter(&self) -> impl Iterator<Item = (&RecordKey, &Bytes)> {
        self.buckets.values().flat_map(|b| b.records.iter().map(|(key, stored)| (key, &stored.bytes)))
    }

    /// How many records there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What the records add up to.
    #[must_use]
    pub fn root(&self) -> Root {
        self.root
    }

    /// The bytes of all records and keys.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// What a publisher needs to find the buckets that differ; none if there are no records.
    pub(super) fn digests(&self) -> Vec<[u8; 16]> {
        if self.is_empty() {
            Vec::new()
        } else {
            (0..=255).map(|number| half(&self.digest(number))).collect()
        }
    }

    /// The buckets that are not as `digests` say; without digests all of them, since then nothing is known.
    pub(super) fn differing(&self, digests: &[[u8; 16]]) -> Vec<u8> {
        let theirs = |number: u8| digests.get(usize::from(number)).copied();
        (0..=255).filter(|number| theirs(*number) != Some(half(&self.digest(*number)))).collect()
    }

    /// All zeros where there is no record.
    fn digest(&self, bucket: u8) -> [u8; 32] {
        self.buckets.get(&bucket).map(|bucket| bucket.digest).unwrap_or_default()
    }

    /// The records of one bucket.
    pub(super) fn bucket(&self, number: u8) -> impl Iterator<Item = (&RecordKey, &Bytes)> {
        let bucket = self.buckets.get(&number);
        bucket.into_iter().flat_map(|b| b.records.iter().map(|(key, stored)| (key, &stored.bytes)))
    }

    /// The keys whose records are not the same in both states.
    pub(super) fn diff(&self, other: &Self) -> Vec<RecordKey> {
        let mut keys = Vec::new();
        let (nothing, mut both) =
            (Bucket::default(), self.buckets.keys().chain(other.buckets.keys()).collect::<Vec<_>>());
        both.sort_unstable();
        both.dedup();
        for number in both {
            let [ours, theirs] =
                [self, other].map(|s| s.buckets.get(number).map_or(&nothing, |bucket| &**bucket));
            if ours.digest == theirs.digest || (planted!(VanishedBucketUntold) && theirs.records.is_empty()) {
                continue;
            }
            let gone = ours.records.keys().filter(|key| !theirs.records.contains_key(*key));
            let new = theirs
                .records
                .iter()
                .filter(|(key, theirs)| ours.records.get(*key).is_none_or(|ours| ours.hash != theirs.hash));
            keys.extend(gone.chain(new.map(|(key, _)| key)).cloned());
        }
        keys
    }

    /// Begins another state that has most of this one's records.
    pub(super) fn edit(&self) -> Edit<'_> {
        Edit { base: self, touched: BTreeMap::new() }
    }

    /// The state with these records.
    pub(crate) fn from_records(records: impl IntoIterator<Item = Record>) -> Self {
        let empty = Self::default();
        let mut edit = empty.edit();
        records.into_iter().for_each(|record| edit.put(record.key, record.bytes));
        edit.finish()
    }
}

/// Another state in the making; the one that it is based on stays as it is.
pub(super) struct Edit<'a> {
    base: &'a State,
    touched: BTreeMap<u8, BTreeMap<RecordKey, Stored>>,
}

impl Edit<'_> {
    pub(super) fn put(&mut self, key: RecordKey, bytes: Bytes) {
        let hash = Sha256::digest(&bytes).into();
        self.bucket(bucket_of(&key)).insert(key, Stored { bytes, hash });
    }

    pub(super) fn remove(&mut self, key: &RecordKey) {
        self.bucket(bucket_of(key)).remove(key);
    }

    pub(super) fn empty(&mut self, bucket: u8) {
        self.touched.insert(bucket, BTreeMap::new());
    }

    fn bucket(&mut self, number: u8) -> &mut BTreeMap<RecordKey, Stored> {
        let base = self.base;
        self.touched.entry(number).or_insert_with(|| {
            base.buckets.get(&number).map(|bucket| bucket.records.clone()).unwrap_or_default()
        })
    }

    pub(super) fn finish(self) -> State {
        if self.touched.is_empty() {
            return self.base.clone();
        }
        let mut buckets = self.base.buckets.clone();
        for (number, records) in self.touched {
            if records.is_empty() {
                buckets.remove(&number);
            } else {
                buckets.insert(number, Arc::new(Bucket::of(records)));
            }
        }
        State::of(buckets)
    }
}

fn half(digest: &[u8; 32]) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&digest[..16]);
    half
}

/// A key as it is hashed: its kind, then each name with its length.
fn key_bytes(key: &RecordKey) -> Vec<u8> {
    match key {
        RecordKey::Region => vec![0],
        RecordKey::Service(key) => {
            let mut out = Vec::with_capacity(key.namespace.as_str().len() + key.service.as_str().len() + 3);
            out.push(1);
            for name in [key.namespace.as_str(), key.service.as_str()] {
                // Names are at most 63 bytes.
                out.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
                out.extend_from_slice(name.as_bytes());
            }
            out
        }
    }
}

fn bucket_of(key: &RecordKey) -> u8 {
    let hash: [u8; 32] = Sha256::digest(key_bytes(key)).into();
    hash[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_model::names::ServiceKey;
    use proptest::prelude::*;

    fn key(n: u8) -> RecordKey {
        match n {
            0 => RecordKey::Region,
            n => RecordKey::Service(ServiceKey::new(
                "prod".parse().unwrap(),
                format!("svc-{n}").parse().unwrap(),
            )),
        }
    }

    fn record(n: u8, v: u8) -> Record {
        Record { key: key(n), bytes: Bytes::copy_from_slice(&[v; 3]) }
    }

    proptest! {
        /// However a state was reached, its root is that of its records; and only then.
        #[test]
        fn the_root_is_that_of_the_records(
            steps in prop::collection::vec((0u8..20, prop::option::of(0u8..4)), 0..60),
            batch in 1usize..7,
        ) {
            let (mut state, mut model) = (State::default(), BTreeMap::new());
            for steps in steps.chunks(batch) {
                let before = state.clone();
                let mut edit = state.edit();
                for (n, value) in steps {
                    match value {
                        Some(v) => { edit.put(key(*n), record(*n, *v).bytes); model.insert(*n, *v); }
                        None => { edit.remove(&key(*n)); model.remove(n); }
                    }
                }
                state = edit.finish();
                let fresh = State::from_records(model.iter().map(|(n, v)| record(*n, *v)));
                prop_assert_eq!(state.root(), fresh.root());
                prop_assert_eq!((state.len(), state.size()), (fresh.len(), fresh.size()));
                // What differs is what is told, and buckets that differ mend any other state.
                let diff = before.diff(&state);
                let wrong: Vec<RecordKey> = (0..20).map(key).filter(|k| before.get(k) != state.get(k)).collect();
                prop_assert_eq!(diff.len(), wrong.len());
                prop_assert!(wrong.iter().all(|k| diff.contains(k)));
                let mut mended = before.edit();
                for bucket in state.differing(&before.digests()) {
                    mended.empty(bucket);
                    state.bucket(bucket).for_each(|(k, b)| mended.put(k.clone(), b.clone()));
                }
                prop_assert_eq!(mended.finish().root(), state.root());
            }
            let different = State::from_records(model.iter().map(|(n, v)| record(*n, v.wrapping_add(1))));
            prop_assert_eq!(different.root() == state.root(), model.is_empty());
        }
    }
}
