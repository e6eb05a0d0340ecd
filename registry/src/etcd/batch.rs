//! Writes as etcd transactions. Writes that touch different records share one, each as a nested transaction of its own,
//! so that one that fails its comparison does not stop the others.
//!
//! etcd evaluates the comparisons of all nested transactions before it does anything. Two writes of which one changes
//! what the other compares would therefore both see the state of before, and both might pass; so they never share.

use super::Paths;
use crate::{Change, Committed, Condition, Key, RegistryError, Revision, Stored, Write, limits};
use bytes::Bytes;
use etcd_client::{Compare, CompareOp, KeyValue, Txn, TxnOp, TxnOpResponse, TxnResponse};
use std::collections::{HashSet, VecDeque};
use tokio::sync::oneshot;

/// Writes in one transaction. Together with [`MAX_INNER`] within etcd's default of 128 operations: it counts the nested
/// transactions as operations of the outer one, and takes the outer count off what each nested one may have.
const MAX_WRITES: usize = 64;
/// Conditions or changes of a write that shares a transaction. Larger ones go alone.
const MAX_INNER: usize = 64;
/// Changes in one transaction: etcd applies it in one piece, and everything else waits.
const MAX_CHANGES: usize = 128;
/// Bytes in one transaction; etcd takes 1.5 MiB.
const MAX_BYTES: usize = 512 * 1024;

/// A write that waits, and who waits for it.
pub(super) struct Queued {
    pub(super) write: Write,
    pub(super) reply: oneshot::Sender<Result<Committed, RegistryError>>,
}

/// Takes from `waiting` what may go together. Takes at least one where there is one.
pub(super) fn gather(waiting: &mut VecDeque<Queued>) -> Vec<Queued> {
    let mut taken: Vec<Queued> = Vec::new();
    let mut left = VecDeque::with_capacity(waiting.len());
    let (mut compared, mut changed) = (HashSet::new(), HashSet::new());
    let (mut bytes, mut changes) = (0, 0);
    let mut full = false;
    for queued in waiting.drain(..) {
        let write = &queued.write;
        let size = limits::size(write);
        let shares = |limit| write.conditions.len() <= limit && write.changes.len() <= limit;
        let fits = taken.is_empty()
            || !full
                && taken.len() < MAX_WRITES
                && shares(MAX_INNER)
                && bytes + size <= MAX_BYTES
                && changes + write.changes.len() <= MAX_CHANGES
                && !write.conditions.iter().any(|c| changed.contains(c.key()))
                && !write.changes.iter().any(|c| changed.contains(c.key()) || compared.contains(c.key()));
        if !fits {
            left.push_back(queued);
            continue;
        }
        full = !shares(MAX_INNER);
        bytes += size;
        changes += write.changes.len();
        compared.extend(write.conditions.iter().map(|c| c.key().clone()));
        changed.extend(write.changes.iter().map(|c| c.key().clone()));
        taken.push(queued);
    }
    *waiting = left;
    taken
}

/// One transaction for all of them, in order.
pub(super) fn transaction(paths: &Paths, writes: &[Queued]) -> Txn {
    match writes {
        [only] => single(paths, &only.write),
        several => {
            let nested: Vec<_> = several.iter().map(|q| TxnOp::txn(single(paths, &q.write))).collect();
            Txn::new().and_then(nested)
        }
    }
}

fn single(paths: &Paths, write: &Write) -> Txn {
    let compares: Vec<_> = write
        .conditions
        .iter()
        .map(|condition| match condition {
            Condition::Absent(key) => Compare::create_revision(paths.path(key), CompareOp::Equal, 0),
            Condition::Present(key) => Compare::create_revision(paths.path(key), CompareOp::Greater, 0),
            // A record that is absent compares as revision 0, which no write has; nothing has a negative one.
            Condition::Unchanged(key, Revision(0)) => {
                Compare::mod_revision(paths.path(key), CompareOp::Equal, -1)
            }
            Condition::Unchanged(key, revision) => {
                let revision = i64::try_from(revision.0).unwrap_or(-1);
                Compare::mod_revision(paths.path(key), CompareOp::Equal, revision)
            }
        })
        .collect();
    let changes: Vec<_> = write
        .changes
        .iter()
        .map(|change| match change {
            Change::Put(key, value) => TxnOp::put(paths.path(key), value.as_ref(), None),
            Change::Delete(key) => TxnOp::delete(paths.path(key), None),
        })
        .collect();
    let standing: Vec<_> = write.conditions.iter().map(|c| TxnOp::get(paths.path(c.key()), None)).collect();
    Txn::new().when(compares).and_then(changes).or_else(standing)
}

/// How each of the writes ended, in order; `None` where etcd answered something else than was asked.
pub(super) fn outcomes(writes: &[Queued], response: &TxnResponse) -> Vec<Option<Committed>> {
    let Some(revision) = response.header().map(|h| revision(h.revision())) else {
        return writes.iter().map(|_| None).collect();
    };
    if let [only] = writes {
        return vec![outcome(&only.write, response, revision)];
    }
    let mut responses = response.op_responses().into_iter();
    writes
        .iter()
        .map(|queued| match responses.next() {
            Some(TxnOpResponse::Txn(nested)) => outcome(&queued.write, &nested, revision),
            _ => None,
        })
        .collect()
}

fn outcome(write: &Write, response: &TxnResponse, revision: Revision) -> Option<Committed> {
    if response.succeeded() {
        return Some(Committed::Applied(revision));
    }
    let responses = response.op_responses();
    let mut standing = Vec::with_capacity(write.conditions.len());
    for (condition, response) in write.conditions.iter().zip(responses) {
        let TxnOpResponse::Get(mut found) = response else { return None };
        standing.push(found.take_kvs().pop().map(|kv| stored(condition.key().clone(), kv)));
    }
    (standing.len() == write.conditions.len()).then_some(Committed::Conflict(standing))
}

/// A record as etcd has it.
pub(super) fn stored(key: Key, kv: KeyValue) -> Stored {
    let modified = revision(kv.mod_revision());
    Stored { key, value: Bytes::from(kv.into_key_value().1), modified }
}

/// etcd's revisions are signed but never negative.
pub(super) fn revision(from: i64) -> Revision {
    Revision(u64::try_from(from).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Key;
    use meridian_model::time::UnixMillis;

    fn key(n: u32) -> Key {
        Key::History(UnixMillis(0), n)
    }

    fn queued(compared: &[u32], changed: &[u32]) -> Queued {
        let write = Write {
            conditions: compared.iter().map(|n| Condition::Present(key(*n))).collect(),
            changes: changed.iter().map(|n| Change::Put(key(*n), Bytes::from_static(b"x"))).collect(),
        };
        Queued { write, reply: oneshot::channel().0 }
    }

    fn sizes(waiting: Vec<Queued>) -> Vec<usize> {
        let mut waiting = VecDeque::from(waiting);
        std::iter::from_fn(|| Some(gather(&mut waiting).len()).filter(|n| *n > 0)).collect()
    }

    #[test]
    fn writes_that_touch_each_other_do_not_share() {
        assert_eq!(sizes(vec![queued(&[], &[1]), queued(&[], &[2])]), [2]);
        assert_eq!(sizes(vec![queued(&[], &[1]), queued(&[], &[1])]), [1, 1]);
        assert_eq!(sizes(vec![queued(&[1], &[2]), queued(&[2], &[3])]), [1, 1]);
        assert_eq!(sizes(vec![queued(&[1], &[2]), queued(&[3], &[1])]), [1, 1]);
        // What both only compare, as expiries do with the membership, is shared.
        assert_eq!(sizes(vec![queued(&[9], &[1]), queued(&[9], &[2])]), [2]);
        // Others pass by the one that must wait.
        assert_eq!(sizes(vec![queued(&[], &[1]), queued(&[], &[1]), queued(&[], &[3])]), [2, 1]);
    }

    #[test]
    fn transactions_are_bounded() {
        assert_eq!(sizes((0..150).map(|n| queued(&[n], &[n])).collect()), [64, 64, 22]);
        assert_eq!(
            sizes((0..100).map(|n| queued(&[], &[3 * n, 3 * n + 1, 3 * n + 2])).collect()),
            [42, 42, 16]
        );
        // Too large to be nested: alone, wherever it stands.
        let large: Vec<u32> = (1000..1100).collect();
        assert_eq!(sizes(vec![queued(&[], &large), queued(&[], &[1])]), [1, 1]);
        assert_eq!(sizes(vec![queued(&[], &[1]), queued(&[], &large), queued(&[], &[2])]), [2, 1]);
    }
}
