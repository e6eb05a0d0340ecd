//! What a write may be, the same for both registries, so that nothing works in `dev` that etcd would refuse.

use crate::{Change, Key, RegistryError, Write};
use std::collections::HashSet;

/// Conditions and changes of one write, each. etcd's default for `--max-txn-ops`.
pub const MAX_OPERATIONS: usize = 128;

/// Bytes of keys and values in one write. Below etcd's request limit of 1.5 MiB with room for the envelope.
pub const MAX_WRITE_BYTES: usize = 1024 * 1024;

/// Bytes of one chunk of a module.
pub const MAX_CHUNK_BYTES: usize = 512 * 1024;

/// History records in one answer; asking for more gives this many.
pub const MAX_HISTORY: usize = 1000;

/// How many bytes `write` takes in a transaction, about: keys of conditions count, as they are compared and read.
pub(crate) fn size(write: &Write) -> usize {
    let conditions: usize = write.conditions.iter().map(|c| 2 * c.key().encode().len() + 32).sum();
    let changes: usize = write
        .changes
        .iter()
        .map(|change| match change {
            Change::Put(key, value) => key.encode().len() + value.len() + 16,
            Change::Delete(key) => key.encode().len() + 16,
        })
        .sum();
    conditions + changes
}

/// Refuses what no registry takes.
pub(crate) fn check(write: &Write) -> Result<(), RegistryError> {
    if write.conditions.len() > MAX_OPERATIONS || write.changes.len() > MAX_OPERATIONS {
        return Err(RegistryError::Refused(format!(
            "a write has at most {MAX_OPERATIONS} conditions and changes"
        )));
    }
    if size(write) > MAX_WRITE_BYTES {
        return Err(RegistryError::Refused(format!("a write has at most {MAX_WRITE_BYTES} bytes")));
    }
    let mut changed = HashSet::new();
    for change in &write.changes {
        let key = change.key();
        if matches!(key, Key::Member(_) | Key::Beats(_)) {
            let why = "members and heartbeats are written by joining and by publishing, not by commits";
            return Err(RegistryError::Refused(why.into()));
        }
        if !changed.insert(key) {
            return Err(RegistryError::Refused(format!("a write changes {} more than once", key.encode())));
        }
    }
    Ok(())
}

/// Refuses a chunk that is too large.
pub(crate) fn check_chunk(bytes: &[u8]) -> Result<(), RegistryError> {
    if bytes.len() > MAX_CHUNK_BYTES {
        return Err(RegistryError::Refused(format!("a chunk has at most {MAX_CHUNK_BYTES} bytes")));
    }
    Ok(())
}
