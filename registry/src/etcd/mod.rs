//! The registry in etcd (3.4 or later): for regions with several gateways.
//!
//! Under the prefix stand `state/` (watched), `history/` and `chunks/`. Members and their heartbeats hang on one lease per
//! gateway; nothing else has a lease.

mod batch;
mod connection;
mod follow;
mod life;
mod membership;
mod pipeline;
mod relist;
mod stats;

pub use stats::{Count, Stats};

use crate::limits::{self, MAX_HISTORY};
use crate::{
    Committed, Event, Incarnation, Key, Known, Membership, Registry, RegistryError, Revision, Stored, Write,
};
use async_trait::async_trait;
use batch::{Queued, revision, stored};
use bytes::Bytes;
use connection::{CALL_TIMEOUT, Connection, MAX_MESSAGE_BYTES};
use etcd_client::{DeleteOptions, GetOptions, PutOptions, SortOrder, SortTarget};
use meridian_model::names::{GatewayId, PolicyVersion, RegionName};
use meridian_model::time::UnixMillis;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, oneshot, watch};

/// Events that wait for a slow receiver of a watch.
const WATCH_QUEUE: usize = 64;

/// How to reach etcd, and for whom.
#[derive(Clone, Debug)]
pub struct EtcdConfig {
    /// `http://host:2379` or `https://…`, all of one kind. The first is preferred.
    pub endpoints: Vec<String>,
    /// Path under which everything stands, like `/meridian`. Regions that share an etcd need different ones.
    pub prefix: String,
    /// The region that the registry belongs to.
    pub region: RegionName,
    /// For https endpoints.
    pub tls: Option<EtcdTls>,
    /// Name and password.
    pub user: Option<(String, String)>,
    /// How often everything is read again and compared with what the watch has told.
    pub compare_interval: Duration,
}

impl EtcdConfig {
    /// Without TLS and password, under `/meridian`, comparing every 5 minutes.
    #[must_use]
    pub fn new(endpoints: Vec<String>, region: RegionName) -> Self {
        Self {
            endpoints,
            prefix: "/meridian".into(),
            region,
            tls: None,
            user: None,
            compare_interval: Duration::from_secs(300),
        }
    }
}

/// Files in PEM.
#[derive(Clone, Debug)]
pub struct EtcdTls {
    /// The CA that signed etcd's certificates.
    pub ca: PathBuf,
    /// This client's certificate and key, where etcd asks for one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// A registry in etcd.
pub struct EtcdRegistry {
    shared: Arc<Shared>,
    writes: mpsc::Sender<Queued>,
}

/// What the tasks of a registry have in common.
struct Shared {
    connection: Connection,
    paths: Paths,
    region: RegionName,
    stats: Arc<Stats>,
    compare_interval: Duration,
    /// The leases that memberships hold now.
    leases: Mutex<HashMap<GatewayId, i64>>,
    /// The greatest incarnation and revision that any watch of this registry has seen.
    known: Mutex<Option<Known>>,
}

impl Shared {
    fn lease(&self, id: &GatewayId) -> Option<i64> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner).get(id).copied()
    }

    fn set_lease(&self, id: &GatewayId, lease: Option<i64>) {
        let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        match lease {
            Some(lease) => leases.insert(id.clone(), lease),
            None => leases.remove(id),
        };
    }

    fn known(&self) -> Option<Known> {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers what was seen, if it is newer.
    fn learn(&self, seen: Known) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        *known = newer(*known, Some(seen));
    }
}

/// The later of two memories.
fn newer(one: Option<Known>, other: Option<Known>) -> Option<Known> {
    one.into_iter().chain(other).max_by_key(|known| (known.incarnation, known.revision))
}

/// Records' places in etcd.
struct Paths {
    /// With a slash at the end.
    prefix: String,
}

impl Paths {
    fn path(&self, key: &Key) -> Vec<u8> {
        self.under(&key.encode())
    }

    fn under(&self, rest: &str) -> Vec<u8> {
        [self.prefix.as_bytes(), rest.as_bytes()].concat()
    }

    /// The watched record at a path; none for what this version does not know, which is passed over.
    fn key(&self, path: &[u8]) -> Option<Key> {
        let rest = path.strip_prefix(self.prefix.as_bytes())?;
        Key::decode(std::str::from_utf8(rest).ok()?).filter(Key::is_watched)
    }

    /// The range of everything that is watched. "0" follows "/".
    fn watched(&self) -> (Vec<u8>, Vec<u8>) {
        (self.under("state/"), self.under("state0"))
    }

    /// A path in the watched range that carries no record, written only to prove watches current.
    fn tick(&self) -> Vec<u8> {
        self.under("state/tick")
    }

    fn chunk(&self, version: PolicyVersion, number: u32) -> Vec<u8> {
        self.under(&format!("chunks/{}/{number:08}", version.hex()))
    }

    fn chunks(&self, version: PolicyVersion) -> (Vec<u8>, Vec<u8>) {
        (self.under(&format!("chunks/{}/", version.hex())), self.under(&format!("chunks/{}0", version.hex())))
    }
}

impl EtcdRegistry {
    /// Prepares the connection; etcd need not be there yet. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Refused: an endpoint or the prefix makes no sense, or a file of TLS cannot be read.
    pub fn connect(config: &EtcdConfig) -> Result<Self, RegistryError> {
        let prefix = config.prefix.trim_end_matches('/');
        if prefix.is_empty() || !prefix.starts_with('/') || !prefix.bytes().all(|b| b.is_ascii_graphic()) {
            let why = format!("etcd's prefix is a path like /meridian, not {:?}", config.prefix);
            return Err(RegistryError::Refused(why));
        }
        let shared = Arc::new(Shared {
            connection: Connection::new(config)?,
            paths: Paths { prefix: format!("{prefix}/") },
            region: config.region.clone(),
            stats: Arc::default(),
            compare_interval: config.compare_interval,
            leases: Mutex::default(),
            known: Mutex::default(),
        });
        let (writes, queue) = mpsc::channel(pipeline::QUEUE);
        tokio::spawn(pipeline::run(shared.clone(), queue));
        Ok(Self { shared, writes })
    }

    /// Takes the registry for the region, as a watch does too. At start it tells a wrong configuration from an etcd that
    /// is down for now: [`RegistryError::Unavailable`] is no reason to stop, everything else is.
    ///
    /// # Errors
    /// The registry belongs to another region, refuses the credentials, or is not there.
    pub async fn claim(&self, known: Option<Known>) -> Result<Incarnation, RegistryError> {
        let known = newer(known, self.shared.known());
        match tokio::time::timeout(CALL_TIMEOUT, life::claim(&self.shared, known)).await {
            Ok(claimed) => Ok(claimed?.0),
            Err(_) => Err(RegistryError::Unavailable("no answer in 5 s".into())),
        }
    }

    /// What was counted so far.
    #[must_use]
    pub fn stats(&self) -> Arc<Stats> {
        self.shared.stats.clone()
    }
}

#[async_trait]
impl Registry for EtcdRegistry {
    async fn commit(&self, write: Write) -> Result<Committed, RegistryError> {
        limits::check(&write)?;
        let (reply, answer) = oneshot::channel();
        let committing = async {
            let closed = || RegistryError::Unavailable("it is closed".into());
            self.writes.send(Queued { write, reply }).await.map_err(|_| closed())?;
            answer.await.map_err(|_| closed())?
        };
        match tokio::time::timeout(CALL_TIMEOUT, committing).await {
            Ok(outcome) => outcome,
            Err(_) => Err(RegistryError::Unavailable("no answer in 5 s".into())),
        }
    }

    async fn read(&self, key: &Key) -> Result<(Option<Stored>, Revision), RegistryError> {
        let path = &self.shared.paths.path(key);
        let mut found = self
            .shared
            .connection
            .call(move |client| async move { client.kv_client().get(path.as_slice(), None).await })
            .await?;
        let at = revision(found.header().map_or(0, etcd_client::ResponseHeader::revision));
        Ok((found.take_kvs().pop().map(|kv| stored(key.clone(), kv)), at))
    }

    async fn history(&self, before: Option<&Key>, limit: usize) -> Result<Vec<Stored>, RegistryError> {
        // etcd sorts after it has read the whole range, so the past is asked for in growing pieces.
        const PIECES: [Duration; 6] = [
            Duration::from_secs(60),
            Duration::from_secs(8 * 60),
            Duration::from_secs(3600),
            Duration::from_secs(8 * 3600),
            Duration::from_secs(3 * 24 * 3600),
            Duration::from_secs(24 * 24 * 3600),
        ];
        let limit = limit.min(MAX_HISTORY);
        let newest = match before {
            Some(Key::History(at, _)) => *at,
            _ => {
                let since_epoch =
                    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                UnixMillis::default().plus(since_epoch)
            }
        };
        let mut end = match before {
            Some(before) => self.shared.paths.path(before),
            None => self.shared.paths.under("history0"),
        };
        let mut entries = Vec::new();
        let starts = PIECES.iter().map(|piece| {
            let piece = u64::try_from(piece.as_millis()).unwrap_or(u64::MAX);
            Key::History(UnixMillis(newest.0.saturating_sub(piece)), 0)
        });
        for start in starts.chain([Key::History(UnixMillis(0), 0)]) {
            if entries.len() >= limit {
                break;
            }
            let start = self.shared.paths.path(&start);
            if start >= end {
                continue;
            }
            let wanted = i64::try_from(limit - entries.len()).unwrap_or(i64::MAX);
            let (from, to) = (&start, &end);
            let mut found = self
                .shared
                .connection
                .call(move |client| async move {
                    let options = GetOptions::new()
                        .with_range(to.as_slice())
                        .with_sort(SortTarget::Key, SortOrder::Descend)
                        .with_limit(wanted);
                    let mut kv = client.kv_client().max_decoding_message_size(MAX_MESSAGE_BYTES);
                    kv.get(from.as_slice(), Some(options)).await
                })
                .await?;
            for kv in found.take_kvs() {
                let rest = kv.key().strip_prefix(self.shared.paths.prefix.as_bytes());
                if let Some(key) = rest.and_then(|rest| Key::decode(std::str::from_utf8(rest).ok()?)) {
                    entries.push(stored(key, kv));
                }
            }
            end = start;
        }
        Ok(entries)
    }

    async fn prune_history(&self, before: UnixMillis) -> Result<(), RegistryError> {
        let start = self.shared.paths.path(&Key::History(UnixMillis(0), 0));
        let end = self.shared.paths.path(&Key::History(before, 0));
        let (start, end) = (&start, &end);
        self.shared
            .connection
            .call(move |client| async move {
                let options = DeleteOptions::new().with_range(end.as_slice());
                client.kv_client().delete(start.as_slice(), Some(options)).await
            })
            .await?;
        Ok(())
    }

    async fn put_chunk(
        &self,
        version: PolicyVersion,
        number: u32,
        bytes: Bytes,
    ) -> Result<(), RegistryError> {
        limits::check_chunk(&bytes)?;
        let (path, bytes) = (&self.shared.paths.chunk(version, number), &bytes);
        self.shared
            .connection
            .call(move |client| async move { client.kv_client().put(path.as_slice(), bytes.as_ref(), None).await })
            .await?;
        Ok(())
    }

    async fn get_chunk(&self, version: PolicyVersion, number: u32) -> Result<Option<Bytes>, RegistryError> {
        let path = &self.shared.paths.chunk(version, number);
        let mut found = self
            .shared
            .connection
            .call(move |client| async move { client.kv_client().get(path.as_slice(), None).await })
            .await?;
        Ok(found.take_kvs().pop().map(|kv| Bytes::from(kv.into_key_value().1)))
    }

    async fn delete_chunks(&self, version: PolicyVersion) -> Result<(), RegistryError> {
        let (start, end) = &self.shared.paths.chunks(version);
        self.shared
            .connection
            .call(move |client| async move {
                let options = DeleteOptions::new().with_range(end.as_slice());
                client.kv_client().delete(start.as_slice(), Some(options)).await
            })
            .await?;
        Ok(())
    }

    fn join(&self, id: GatewayId, record: Bytes, ttl: Duration) -> Membership {
        let (holds, membership) = watch::channel(None);
        tokio::spawn(membership::hold(self.shared.clone(), id, record, ttl, holds));
        membership
    }

    async fn publish_beats(&self, id: &GatewayId, batch: Bytes) -> Result<(), RegistryError> {
        if batch.len() > limits::MAX_WRITE_BYTES {
            return Err(RegistryError::Refused(format!(
                "a write has at most {} bytes",
                limits::MAX_WRITE_BYTES
            )));
        }
        let lost = || RegistryError::Unavailable(format!("{id} is no member now"));
        let lease = self.shared.lease(id).ok_or_else(lost)?;
        let (path, batch) = (&self.shared.paths.path(&Key::Beats(id.clone())), &batch);
        let outcome = self
            .shared
            .connection
            .call(move |client| async move {
                let options = PutOptions::new().with_lease(lease);
                client.kv_client().put(path.as_slice(), batch.as_ref(), Some(options)).await
            })
            .await;
        match outcome {
            Ok(_) => Ok(()),
            Err(RegistryError::Refused(text)) if text.contains("lease not found") => Err(lost()),
            Err(error) => Err(error),
        }
    }

    fn watch(&self, known: Option<Known>) -> mpsc::Receiver<Event> {
        let (events, receiver) = mpsc::channel(WATCH_QUEUE);
        tokio::spawn(follow::Follower::new(self.shared.clone(), known, events).run());
        receiver
    }
}
