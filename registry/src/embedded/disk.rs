//! The file: records and history by key, chunks, and the revision. redb gives transactions, checksums and the lock that
//! keeps a second process out.

use crate::{Key, RegistryError, Revision, Stored};
use bytes::Bytes;
use meridian_model::names::PolicyVersion;
use meridian_model::time::UnixMillis;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Path of the key → revision of the write, value.
const RECORDS: TableDefinition<&str, (u64, &[u8])> = TableDefinition::new("records");
/// Like [`RECORDS`], apart because it is long and never needed as a whole.
const HISTORY: TableDefinition<&str, (u64, &[u8])> = TableDefinition::new("history");
/// Version of a module in hex, number → bytes.
const CHUNKS: TableDefinition<(&str, u32), &[u8]> = TableDefinition::new("chunks");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

const REVISION: &str = "revision";
const FORMAT: &str = "format";
/// Of the tables above. A file with a greater one was written by a newer program.
const CURRENT_FORMAT: u64 = 1;

/// What is watched stands in memory as well, so the file's pages need no large cache (redb's default is 1 GiB).
const CACHE_BYTES: usize = 16 * 1024 * 1024;

/// One change of the file.
pub(super) enum Edit {
    Put(Stored),
    Delete(Key),
    Chunk(PolicyVersion, u32, Bytes),
    DropChunks(PolicyVersion),
    DropHistory(UnixMillis),
}

/// What a file holds when it is opened; the history and the chunks stay in it.
pub(super) struct Contents {
    pub(super) revision: Revision,
    pub(super) records: BTreeMap<Key, Stored>,
}

pub(super) struct Disk {
    database: Database,
}

impl Disk {
    /// Opens or creates the file, or a store in memory where there is none.
    pub(super) fn open(path: Option<&Path>) -> Result<(Self, Contents), RegistryError> {
        let place = path.map_or_else(|| "memory".to_owned(), |p| p.display().to_string());
        // A damaged file may run into an assertion of redb instead of an error; to the operator both are the same.
        let opened = catch_unwind(AssertUnwindSafe(|| Self::open_unguarded(path)));
        opened.unwrap_or_else(|_| Err(redb::Error::Corrupted("an assertion failed".into()))).map_err(|e| {
            RegistryError::Refused(match e {
                redb::Error::DatabaseAlreadyOpen => {
                    format!(
                        "another process has {place} open; each gateway needs a data directory of its own"
                    )
                }
                redb::Error::UpgradeRequired(format) => {
                    format!("{place} has format {format}, which this version cannot read")
                }
                redb::Error::Io(e) if e.kind() != std::io::ErrorKind::InvalidData => {
                    format!("cannot open {place}: {e}")
                }
                e => {
                    format!("{place} is damaged or no registry ({e}); restore it from a copy or move it away")
                }
            })
        })
    }

    fn open_unguarded(path: Option<&Path>) -> Result<(Self, Contents), redb::Error> {
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES);
        let mut database = match path {
            Some(path) => builder.create(path)?,
            None => builder.create_with_backend(redb::backends::InMemoryBackend::new())?,
        };
        // redb verifies checksums only when it repairs; a flipped bit in a file that was closed well would be believed.
        if path.is_some() && !database.check_integrity()? {
            tracing::warn!("the registry's file was not closed cleanly and has been repaired");
        }
        let transaction = database.begin_write()?;
        {
            let mut meta = transaction.open_table(META)?;
            let format = meta.get(FORMAT)?.map(|v| v.value());
            match format {
                None => drop(meta.insert(FORMAT, CURRENT_FORMAT)?),
                Some(CURRENT_FORMAT) => {}
                Some(other) => {
                    return Err(redb::Error::UpgradeRequired(u8::try_from(other).unwrap_or(u8::MAX)));
                }
            }
            transaction.open_table(RECORDS)?;
            transaction.open_table(HISTORY)?;
            transaction.open_table(CHUNKS)?;
        }
        transaction.commit()?;

        let reading = database.begin_read()?;
        let revision = Revision(reading.open_table(META)?.get(REVISION)?.map_or(0, |v| v.value()));
        let mut records = BTreeMap::new();
        for entry in reading.open_table(RECORDS)?.iter()? {
            let (path, value) = entry?;
            // What a newer version keeps here stays in the file, unseen.
            if let Some(key) = Key::decode(path.value()) {
                records.insert(key.clone(), stored(key, value.value()));
            }
        }
        drop(reading);
        Ok((Self { database }, Contents { revision, records }))
    }

    /// Makes `edits` and the revision durable, all or none.
    pub(super) fn commit(&self, revision: Revision, edits: &[Edit]) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        {
            let mut records = transaction.open_table(RECORDS)?;
            let mut history = transaction.open_table(HISTORY)?;
            let mut chunks = transaction.open_table(CHUNKS)?;
            for edit in edits {
                match edit {
                    Edit::Put(Stored { key, value, modified }) => {
                        let table = if key.is_watched() { &mut records } else { &mut history };
                        table.insert(key.encode().as_str(), (modified.0, value.as_ref()))?;
                    }
                    Edit::Delete(key) => {
                        let table = if key.is_watched() { &mut records } else { &mut history };
                        table.remove(key.encode().as_str())?;
                    }
                    Edit::Chunk(version, number, bytes) => {
                        chunks.insert((version.hex().as_str(), *number), bytes.as_ref())?;
                    }
                    Edit::DropHistory(before) => {
                        let end = Key::History(*before, 0).encode();
                        history.retain_in(..end.as_str(), |_, _| false)?;
                    }
                    Edit::DropChunks(version) => {
                        let hex = version.hex();
                        chunks.retain_in((hex.as_str(), 0)..=(hex.as_str(), u32::MAX), |_, _| false)?;
                    }
                }
            }
            transaction.open_table(META)?.insert(REVISION, revision.0)?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// A history record.
    pub(super) fn entry(&self, key: &Key) -> Result<Option<Stored>, redb::Error> {
        let table = self.database.begin_read()?.open_table(HISTORY)?;
        Ok(table.get(key.encode().as_str())?.map(|v| stored(key.clone(), v.value())))
    }

    /// The newest `limit` history records before `before`, newest first.
    pub(super) fn history(&self, before: Option<&Key>, limit: usize) -> Result<Vec<Stored>, redb::Error> {
        let table = self.database.begin_read()?.open_table(HISTORY)?;
        let end = before.map(Key::encode);
        let range = match &end {
            Some(end) => table.range(..end.as_str())?,
            None => table.range::<&str>(..)?,
        };
        let mut entries = Vec::new();
        for entry in range.rev().take(limit) {
            let (path, value) = entry?;
            if let Some(key) = Key::decode(path.value()) {
                entries.push(stored(key, value.value()));
            }
        }
        Ok(entries)
    }

    pub(super) fn chunk(&self, version: PolicyVersion, number: u32) -> Result<Option<Bytes>, redb::Error> {
        let table = self.database.begin_read()?.open_table(CHUNKS)?;
        Ok(table.get((version.hex().as_str(), number))?.map(|v| Bytes::copy_from_slice(v.value())))
    }
}

fn stored(key: Key, (modified, value): (u64, &[u8])) -> Stored {
    Stored { key, value: Bytes::copy_from_slice(value), modified: Revision(modified) }
}

/// A failure while running. The file may be full or its disk gone: trying again later is right.
pub(super) fn unavailable(error: redb::Error) -> RegistryError {
    RegistryError::Unavailable(format!("its file cannot be used: {error}"))
}
