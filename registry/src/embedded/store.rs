//! The one thread that owns the state. It takes what is asked in batches: writes are tried in memory in order, made
//! durable together, and only then told to watches and callers. A batch that the disk refuses leaves no trace.

use super::disk::{Contents, Disk, Edit, unavailable};
use crate::limits::MAX_HISTORY;
use crate::{
    Change, Committed, Condition, Incarnation, Key, Known, Observed, RegistryError, Revision, Stored, Write,
    record,
};
use bytes::Bytes;
use meridian_model::names::{GatewayId, PolicyVersion};
use meridian_model::time::UnixMillis;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{broadcast, mpsc, oneshot};

/// Questions that are answered by one fsync at most.
const BATCH: usize = 256;

/// Where an answer goes. Whoever asked may be gone, which is no error.
pub(super) type Reply<T> = oneshot::Sender<Result<T, RegistryError>>;

/// What can be asked of the store.
pub(super) enum Ask {
    Commit(Write, Reply<Committed>),
    Read(Key, Reply<(Option<Stored>, Revision)>),
    History(Option<Key>, usize, Reply<Vec<Stored>>),
    PutChunk(PolicyVersion, u32, Bytes, Reply<()>),
    GetChunk(PolicyVersion, u32, Reply<Option<Bytes>>),
    DeleteChunks(PolicyVersion, Reply<()>),
    PruneHistory(UnixMillis, Reply<()>),
    Join(GatewayId, Bytes, Reply<Revision>),
    Beats(GatewayId, Bytes, Reply<()>),
    /// Ends the membership that began with this revision; one that was taken since is not touched.
    Leave(GatewayId, Revision),
    Subscribe(Option<Known>, Reply<Subscription>),
    Probe(Reply<Revision>),
}

/// The state at a revision, and everything that follows it.
pub(super) struct Subscription {
    pub(super) incarnation: Incarnation,
    pub(super) revision: Revision,
    pub(super) records: Vec<Stored>,
    pub(super) notes: broadcast::Receiver<Note>,
}

/// What watches are told.
#[derive(Clone)]
pub(super) enum Note {
    /// One write's changes.
    Changed(Revision, Arc<[Observed]>),
    /// Another incarnation: subscribe again.
    Reborn,
}

pub(super) struct Store {
    disk: Disk,
    revision: Revision,
    incarnation: Incarnation,
    /// Everything that is watched, the ephemeral included.
    records: BTreeMap<Key, Stored>,
    notes: broadcast::Sender<Note>,
}

/// A batch in the making.
struct Batch {
    before: (Revision, Incarnation),
    /// What stood in memory where the batch changed it, to be put back in reverse if the disk fails.
    undo: Vec<(Key, Option<Stored>)>,
    edits: Vec<Edit>,
    /// The history as the batch leaves it; the file shows it only afterwards.
    history: BTreeMap<Key, Option<Stored>>,
    notes: Vec<Note>,
    /// Told when the batch is durable, in order, or with the reason why it is not.
    answers: Vec<Answer>,
}

type Answer = Box<dyn FnOnce(&mut Store, Result<(), &str>)>;

/// An answer that is known already, unless the batch fails.
fn after<T: 'static>(reply: Reply<T>, outcome: Result<T, RegistryError>) -> Answer {
    Box::new(move |_, durable| {
        let _ = reply.send(match durable {
            Ok(()) => outcome,
            Err(why) => Err(RegistryError::Unavailable(why.to_owned())),
        });
    })
}

/// An answer that is read once the batch is done, so that it shows all that is durable and nothing else.
fn then<T: 'static>(
    reply: Reply<T>,
    read: impl FnOnce(&mut Store) -> Result<T, RegistryError> + 'static,
) -> Answer {
    Box::new(move |store, _| {
        let _ = reply.send(read(store));
    })
}

impl Store {
    /// Takes over what the file holds, which belongs to `region`.
    pub(super) fn new(disk: Disk, contents: Contents, region: &str) -> Result<Self, RegistryError> {
        let Contents { revision, records } = contents;
        let incarnation = match records.get(&Key::Incarnation) {
            Some(stored) => Some(serde_json::from_slice(&stored.value).map_err(|e| {
                RegistryError::Refused(format!("the incarnation in the registry's file is unreadable: {e}"))
            })?),
            None => None,
        };
        let (notes, _) = broadcast::channel(1024);
        let mut store = Self { disk, revision, incarnation: incarnation.unwrap_or_default(), records, notes };
        let mut batch = store.begin();
        // Members and heartbeats of the last run are gone, so this is another state than any that was seen before.
        store.revision.0 += 1;
        if !store.records.contains_key(&Key::Region) {
            let value = record::encode(&region)?;
            store.put(&mut batch, Key::Region, value);
        }
        if incarnation.is_none() {
            store.raise(&mut batch, 1)?;
        }
        store
            .finish(batch)
            .map_err(|why| RegistryError::Refused(format!("cannot write the registry's file: {why}")))?;
        Ok(store)
    }

    /// Serves until nobody can ask any more.
    pub(super) fn run(mut self, mut asks: mpsc::Receiver<Ask>) {
        while let Some(first) = asks.blocking_recv() {
            let mut batch = self.begin();
            self.take(&mut batch, first);
            while batch.answers.len() < BATCH {
                match asks.try_recv() {
                    Ok(ask) => self.take(&mut batch, ask),
                    Err(_) => break,
                }
            }
            if let Err(why) = self.finish(batch) {
                tracing::error!("the registry's file cannot be written: {why}");
            }
        }
    }

    fn begin(&self) -> Batch {
        Batch {
            before: (self.revision, self.incarnation),
            undo: Vec::new(),
            edits: Vec::new(),
            history: BTreeMap::new(),
            notes: Vec::new(),
            answers: Vec::new(),
        }
    }

    fn take(&mut self, batch: &mut Batch, ask: Ask) {
        let answer = match ask {
            Ask::Commit(write, reply) => {
                let outcome = self.commit(batch, write);
                after(reply, outcome)
            }
            Ask::Read(key, reply) => then(reply, move |store| {
                let found = if key.is_watched() {
                    store.records.get(&key).cloned()
                } else {
                    store.disk.entry(&key).map_err(unavailable)?
                };
                Ok((found, store.revision))
            }),
            Ask::History(before, limit, reply) => {
                let limit = limit.min(MAX_HISTORY);
                then(reply, move |store| store.disk.history(before.as_ref(), limit).map_err(unavailable))
            }
            Ask::PutChunk(version, number, bytes, reply) => {
                self.revision.0 += 1;
                batch.edits.push(Edit::Chunk(version, number, bytes));
                after(reply, Ok(()))
            }
            Ask::GetChunk(version, number, reply) => {
                then(reply, move |store| store.disk.chunk(version, number).map_err(unavailable))
            }
            Ask::DeleteChunks(version, reply) => {
                self.revision.0 += 1;
                batch.edits.push(Edit::DropChunks(version));
                after(reply, Ok(()))
            }
            Ask::PruneHistory(before, reply) => {
                self.revision.0 += 1;
                batch.edits.push(Edit::DropHistory(before));
                after(reply, Ok(()))
            }
            Ask::Join(id, value, reply) => {
                let revision = self.write(batch, vec![Change::Put(Key::Member(id), value)]);
                after(reply, Ok(revision))
            }
            Ask::Beats(id, value, reply) => {
                let joined = self.records.contains_key(&Key::Member(id.clone()));
                let outcome = if joined {
                    self.write(batch, vec![Change::Put(Key::Beats(id), value)]);
                    Ok(())
                } else {
                    Err(RegistryError::Unavailable(format!("{id} is no member now")))
                };
                after(reply, outcome)
            }
            Ask::Leave(id, revision) => {
                let member = Key::Member(id.clone());
                if self.records.get(&member).is_some_and(|stored| stored.modified == revision) {
                    self.write(batch, vec![Change::Delete(member), Change::Delete(Key::Beats(id))]);
                }
                return;
            }
            Ask::Subscribe(known, reply) => {
                if let Err(e) = self.recognise(batch, known) {
                    let _ = reply.send(Err(e));
                    return;
                }
                Box::new(|store: &mut Store, durable: Result<(), &str>| {
                    let _ = reply.send(match durable {
                        Ok(()) => Ok(store.subscription()),
                        // A new incarnation that did not become durable must not be shown.
                        Err(why) => Err(RegistryError::Unavailable(why.to_owned())),
                    });
                })
            }
            Ask::Probe(reply) => then(reply, |store| Ok(store.revision)),
        };
        batch.answers.push(answer);
    }

    fn commit(&mut self, batch: &mut Batch, write: Write) -> Result<Committed, RegistryError> {
        let mut standing = Vec::with_capacity(write.conditions.len());
        let mut holds = true;
        for condition in &write.conditions {
            let found = self.standing(batch, condition.key())?;
            holds &= match condition {
                Condition::Absent(_) => found.is_none(),
                Condition::Present(_) => found.is_some(),
                Condition::Unchanged(_, revision) => found.as_ref().is_some_and(|s| s.modified == *revision),
            };
            standing.push(found);
        }
        if !holds {
            return Ok(Committed::Conflict(standing));
        }
        let mut effective = Vec::with_capacity(write.changes.len());
        for change in write.changes {
            if matches!(change, Change::Put(..)) || self.standing(batch, change.key())?.is_some() {
                effective.push(change);
            }
        }
        Ok(Committed::Applied(self.write(batch, effective)))
    }

    fn standing(&self, batch: &Batch, key: &Key) -> Result<Option<Stored>, RegistryError> {
        if key.is_watched() {
            return Ok(self.records.get(key).cloned());
        }
        match batch.history.get(key) {
            Some(changed) => Ok(changed.clone()),
            None => self.disk.entry(key).map_err(unavailable),
        }
    }

    /// Makes changes at one new revision; deletions of what is not there are left out, and nothing at all is no write.
    fn write(&mut self, batch: &mut Batch, changes: Vec<Change>) -> Revision {
        let revision = Revision(self.revision.0 + 1);
        let mut observed = Vec::with_capacity(changes.len());
        let mut reborn = false;
        let mut changed = false;
        for change in changes {
            let key = change.key().clone();
            let now = match change {
                Change::Put(key, value) => Some(Stored { key, value, modified: revision }),
                Change::Delete(_) => None,
            };
            if key.is_watched() {
                let before = match &now {
                    Some(stored) => self.records.insert(key.clone(), stored.clone()),
                    None => self.records.remove(&key),
                };
                if now.is_none() && before.is_none() {
                    continue;
                }
                batch.undo.push((key.clone(), before));
                if let (Key::Incarnation, Some(stored)) = (&key, &now)
                    && let Ok(incarnation) = serde_json::from_slice(&stored.value)
                {
                    self.incarnation = incarnation;
                    reborn = true;
                }
                observed.push(match &now {
                    Some(stored) => Observed::Put(stored.clone()),
                    None => Observed::Deleted(key.clone(), revision),
                });
            } else {
                batch.history.insert(key.clone(), now.clone());
            }
            changed = true;
            if !matches!(key, Key::Member(_) | Key::Beats(_)) {
                batch.edits.push(now.map_or(Edit::Delete(key), Edit::Put));
            }
        }
        if !changed {
            return self.revision;
        }
        self.revision = revision;
        if reborn {
            batch.notes.push(Note::Reborn);
        } else if !observed.is_empty() {
            batch.notes.push(Note::Changed(revision, observed.into()));
        }
        revision
    }

    fn put(&mut self, batch: &mut Batch, key: Key, value: Bytes) {
        self.write(batch, vec![Change::Put(key, value)]);
    }

    fn subscription(&self) -> Subscription {
        Subscription {
            incarnation: self.incarnation,
            revision: self.revision,
            records: self.records.values().cloned().collect(),
            notes: self.notes.subscribe(),
        }
    }

    /// Begins another life if the file is not what was known: wiped, restored from an older copy, or another's.
    fn recognise(&mut self, batch: &mut Batch, known: Option<Known>) -> Result<(), RegistryError> {
        match known {
            Some(known) if known.contradicts(self.incarnation, self.revision) => {
                let counter = self.incarnation.counter.max(known.incarnation.counter).saturating_add(1);
                tracing::warn!(was = %self.incarnation, known = %known.incarnation, counter, "the registry went back");
                self.raise(batch, counter)
            }
            _ => Ok(()),
        }
    }

    fn raise(&mut self, batch: &mut Batch, counter: u64) -> Result<(), RegistryError> {
        let value = record::encode(&Incarnation { counter, random: rand::random() })?;
        self.put(batch, Key::Incarnation, value);
        Ok(())
    }

    /// Makes the batch durable and tells everybody, or undoes it.
    fn finish(&mut self, batch: Batch) -> Result<(), String> {
        let mut durable = Ok(());
        if self.revision != batch.before.0 {
            // The revision is stored with ephemeral writes too: after a restart it must not be lower than what was seen.
            durable = self.disk.commit(self.revision, &batch.edits).map_err(|e| e.to_string());
        }
        match &durable {
            Ok(()) => {
                for note in batch.notes {
                    let _ = self.notes.send(note);
                }
            }
            Err(_) => {
                (self.revision, self.incarnation) = batch.before;
                for (key, before) in batch.undo.into_iter().rev() {
                    match before {
                        Some(stored) => self.records.insert(key, stored),
                        None => self.records.remove(&key),
                    };
                }
            }
        }
        for answer in batch.answers {
            answer(self, durable.as_ref().copied().map_err(String::as_str));
        }
        durable
    }
}
