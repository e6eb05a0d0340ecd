//! The whole watched state, read in pages that are pinned to one revision.

use super::batch::{revision, stored};
use super::connection::{MAX_MESSAGE_BYTES, is_compacted};
use super::{Shared, batch};
use crate::{Key, RegistryError, Revision, Stored};
use etcd_client::{GetOptions, KeyValue};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::Instant;

/// Records in one answer: 100,000 take 0.34 s so, and no answer holds etcd up for long.
const PAGE: i64 = 20_000;
/// A compaction between two pages makes a relist start over; compactions are minutes apart, so this ends.
const ROUNDS: usize = 3;

/// Which version of which record is known, by hash of the path, to compare with etcd without keeping every record twice.
#[derive(Clone, Default)]
pub(super) struct View {
    hasher: RandomState,
    modified: HashMap<u64, Revision>,
}

impl View {
    pub(super) fn put(&mut self, path: &[u8], modified: Revision) {
        self.modified.insert(self.hasher.hash_one(path), modified);
    }

    pub(super) fn delete(&mut self, path: &[u8]) {
        self.modified.remove(&self.hasher.hash_one(path));
    }

    /// How many records are here and not there, there and not here, or different.
    fn differences<'a>(mut self, there: impl Iterator<Item = (&'a [u8], Revision)>) -> u64 {
        let mut differences = 0;
        for (path, modified) in there {
            if self.modified.remove(&self.hasher.hash_one(path)) != Some(modified) {
                differences += 1;
            }
        }
        differences + self.modified.len() as u64
    }
}

/// The state at a revision.
pub(super) struct Listing {
    pub(super) revision: Revision,
    pub(super) records: Vec<Stored>,
    pub(super) view: View,
    /// Before the first page was asked for, which is read linearizably and fixes the revision.
    pub(super) asked: Instant,
}

/// Reads everything.
pub(super) async fn relist(shared: &Shared) -> Result<Listing, RegistryError> {
    let mut round = 1;
    loop {
        let asked = Instant::now();
        let mut records = Vec::new();
        let mut view = View::default();
        let outcome = pages(shared, None, false, |kv| {
            view.put(kv.key(), revision(kv.mod_revision()));
            if let Some(key) = shared.paths.key(kv.key()) {
                records.push(stored(key, kv));
            }
        })
        .await;
        match outcome {
            Ok(revision) => return Ok(Listing { revision, records, view, asked }),
            Err(e) if is_compacted(&e) && round < ROUNDS => round += 1,
            Err(e) => return Err(e),
        }
    }
}

/// How many records of `view`, which is the state at `at`, differ from etcd's; `None` where etcd no longer has it.
pub(super) async fn compare(shared: &Shared, view: View, at: Revision) -> Result<Option<u64>, RegistryError> {
    let mut there = Vec::new();
    let outcome = pages(shared, Some(at), true, |kv| {
        let modified = revision(kv.mod_revision());
        there.push((kv.into_key_value().0, modified));
    })
    .await;
    match outcome {
        Ok(_) => {
            Ok(Some(view.differences(there.iter().map(|(path, modified)| (path.as_slice(), *modified)))))
        }
        Err(e) if is_compacted(&e) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Hands every record under the watched prefix to `take`, all as of one revision, which it returns.
async fn pages(
    shared: &Shared,
    at: Option<Revision>,
    keys_only: bool,
    mut take: impl FnMut(KeyValue),
) -> Result<Revision, RegistryError> {
    let (mut start, end) = shared.paths.watched();
    let mut pinned = at.map(|at| i64::try_from(at.0).unwrap_or(i64::MAX));
    loop {
        let (from, to) = (&start, &end);
        let mut page = shared
            .connection
            .call(move |client| async move {
                let mut options = GetOptions::new().with_range(to.as_slice()).with_limit(PAGE);
                if let Some(revision) = pinned {
                    options = options.with_revision(revision);
                }
                if keys_only {
                    options = options.with_keys_only();
                }
                let mut kv = client.kv_client().max_decoding_message_size(MAX_MESSAGE_BYTES);
                kv.get(from.as_slice(), Some(options)).await
            })
            .await?;
        let revision = *pinned.get_or_insert(page.header().map_or(0, etcd_client::ResponseHeader::revision));
        let more = page.more();
        for kv in page.take_kvs() {
            start = kv.key().to_vec();
            take(kv);
        }
        if !more {
            return Ok(batch::revision(revision));
        }
        // The first key after the last one.
        start.push(0);
    }
}

/// A record as of its own write: whether the history that was followed is still the registry's.
pub(super) async fn is_still_there(shared: &Shared, key: &Key, at: Revision) -> Result<bool, RegistryError> {
    let path = &shared.paths.path(key);
    let wanted = i64::try_from(at.0).unwrap_or(i64::MAX);
    let outcome = shared
        .connection
        .call(move |client| async move {
            let options = GetOptions::new().with_revision(wanted);
            client.kv_client().get(path.as_slice(), Some(options)).await
        })
        .await;
    match outcome {
        Ok(found) => Ok(found.kvs().first().is_some_and(|kv| kv.mod_revision() == wanted)),
        // Nothing can be said any more.
        Err(e) if is_compacted(&e) => Ok(true),
        // A revision of the future: the registry went back.
        Err(RegistryError::Refused(text)) if text.contains("future revision") => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_difference_is_counted() {
        let mut view = View::default();
        for (path, modified) in [("same", 1), ("changed", 2), ("only here", 3), ("gone", 4)] {
            view.put(path.as_bytes(), Revision(modified));
        }
        view.delete(b"gone");
        let there = [("same", 1), ("changed", 5), ("only there", 6)];
        let there = there.map(|(path, modified)| (path.as_bytes(), Revision(modified)));
        assert_eq!(view.clone().differences(there.into_iter()), 3);
        let same = [("same", 1), ("changed", 2), ("only here", 3)].map(|(p, m)| (p.as_bytes(), Revision(m)));
        assert_eq!(view.differences(same.into_iter()), 0);
    }
}
