//! Makes the policies of the region runnable: from a manifest to a compiled module, off every answering path.
//!
//! One module at a time. What is on disk comes first, so that a registry that does not answer holds up nobody who does
//! not need it. A module that is runnable because it was uploaded through this gateway is still kept on disk: after a
//! restart there may be no registry to fetch it from.

use crate::disk::Disk;
use crate::keeper::Command;
use crate::signature::Trust;
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use bytes::{Bytes, BytesMut};
use meridian_model::names::{PolicyName, PolicyVersion};
use meridian_policies::{MAX_MODULE_BYTES, standard_of};
use meridian_registry::limits::MAX_CHUNK_BYTES;
use meridian_registry::{Registry, RegistryError};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Most chunks of a module; 16 are enough for the largest, other versions of the program may cut them smaller.
const MAX_CHUNKS: u32 = 256;

/// Compiles the module and makes it runnable; a sentence why not. Takes as long as it takes: it is called where blocking is
/// allowed.
pub type Compile = Arc<dyn Fn(PolicyVersion, Bytes) -> Result<(), NotRunnable> + Send + Sync>;
/// Whether a version can be run already.
pub type IsRunnable = Arc<dyn Fn(PolicyVersion) -> bool + Send + Sync>;

/// What is asked of the loader.
#[derive(Debug)]
pub enum Wish {
    /// Make a version runnable, and keep its module on disk.
    Load(Wanted),
    /// Of all modules on disk, these are still wanted.
    Keep(BTreeSet<PolicyVersion>),
}

/// What a manifest says of a version.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The policy's name.
    pub name: PolicyName,
    /// Which version.
    pub version: PolicyVersion,
    /// In how many chunks the registry has it.
    pub chunks: u32,
    /// The signature that it was let in with.
    pub signature: Option<String>,
}

/// Counters for the metrics.
#[derive(Debug, Default)]
pub struct LoaderStats {
    /// Versions made runnable.
    pub prepared: AtomicU64,
    /// Modules given up: damaged, missing or refused. They are tried again when their manifest is seen again.
    pub given_up: AtomicU64,
    /// Attempts that the registry did not answer, or for which there was no compiler.
    pub retries: AtomicU64,
    /// Modules that could not be saved to disk.
    pub unsaved: AtomicU64,
    /// Versions that wait to be made runnable, at this moment.
    pub waiting: AtomicU64,
}

/// What the loader needs.
pub struct Loader {
    /// Where the modules are stored.
    pub registry: Arc<dyn Registry>,
    /// Where they are kept.
    pub disk: Arc<Disk>,
    /// Told what can be run now.
    pub commands: mpsc::Sender<Command>,
    /// Makes one runnable.
    pub compile: Compile,
    /// Knows which are.
    pub is_runnable: IsRunnable,
    /// Whose signature a module needs, to be run here.
    pub trust: Trust,
    /// What it counts.
    pub stats: Arc<LoaderStats>,
}

/// A version that is wanted.
struct Pending {
    wanted: Wanted,
    source: Source,
    due: Instant,
    delays: ExponentialBackoff,
}

/// Where a version is looked for next. In the order in which work is done.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Disk,
    Registry,
}

/// What there is of a version.
enum Found {
    /// Its bytes.
    Module(Bytes),
    /// It is runnable and on disk.
    Kept,
    Nothing,
}

/// Why a version cannot be run.
#[derive(Debug)]
pub enum NotRunnable {
    /// The registry does not answer, or this machine cannot compile just now.
    ForNow(String),
    /// Trying again changes nothing.
    ForGood(String),
}

impl Loader {
    /// Takes wishes until the channel ends.
    pub async fn run(self, mut wishes: mpsc::UnboundedReceiver<Wish>) {
        let mut pending = BTreeMap::new();
        loop {
            // Everything that was said is heard before the next piece of work is chosen.
            while let Ok(wish) = wishes.try_recv() {
                self.take(&mut pending, wish).await;
            }
            self.stats.waiting.store(pending.len() as u64, Ordering::Relaxed);
            let now = Instant::now();
            let next = pending.iter().filter(|(_, p)| p.due <= now).min_by_key(|(_, p)| (p.source, p.due));
            if let Some(version) = next.map(|(version, _)| *version) {
                if !self.attempt(&mut pending, version).await {
                    return;
                }
                if wishes.is_closed() && wishes.is_empty() {
                    return;
                }
                continue;
            }
            let soonest = pending.values().map(|p| p.due).min();
            tokio::select! {
                wish = wishes.recv() => match wish {
                    Some(wish) => self.take(&mut pending, wish).await,
                    None => return,
                },
                () = until(soonest) => {}
            }
        }
    }

    async fn take(&self, pending: &mut BTreeMap<PolicyVersion, Pending>, wish: Wish) {
        match wish {
            Wish::Load(wanted) => self.note(pending, wanted),
            Wish::Keep(kept) => {
                pending.retain(|version, _| kept.contains(version));
                let disk = Arc::clone(&self.disk);
                match tokio::task::spawn_blocking(move || disk.prune_modules(&kept)).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => tracing::warn!(%error, "modules that nobody wants stay on disk"),
                    Err(failed) => tracing::warn!(%failed, "modules that nobody wants stay on disk"),
                }
            }
        }
    }

    fn note(&self, pending: &mut BTreeMap<PolicyVersion, Pending>, wanted: Wanted) {
        if let Err(reason) = self.check_signature(&wanted) {
            self.stats.given_up.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(policy = %wanted.name, version = %wanted.version, reason, "the policy is not run");
            return;
        }
        let due = Instant::now();
        match pending.entry(wanted.version) {
            // A manifest that is seen again is news of the registry: it is there, so there is no reason to wait.
            Entry::Occupied(mut known) => {
                let known = known.get_mut();
                (known.wanted, known.due) = (wanted, due);
            }
            Entry::Vacant(place) => {
                place.insert(Pending { wanted, source: Source::Disk, due, delays: delays() });
            }
        }
    }

    /// What the door asks for holds for what came in before it did, or by another gateway. The standard modules are this
    /// program's own.
    fn check_signature(&self, wanted: &Wanted) -> Result<(), String> {
        let own = standard_of(wanted.version).is_some();
        if own || !self.trust.is_required() {
            return Ok(());
        }
        let undo =
            "policies.trusted_keys asks for one; upload the module again, with its signature, to run it here";
        let Some(signature) = &wanted.signature else {
            return Err(format!("it was stored without a signature, and {undo}"));
        };
        let verified = self.trust.verify(wanted.version, signature);
        verified.map(drop).map_err(|error| format!("{error}, and {undo}"))
    }

    /// One step for `version`; `false` if nobody is left to tell.
    async fn attempt(&self, pending: &mut BTreeMap<PolicyVersion, Pending>, version: PolicyVersion) -> bool {
        let Some(at) = pending.get_mut(&version) else { return true };
        let found = match at.source {
            Source::Disk => match self.look(version).await {
                Found::Nothing => {
                    at.source = Source::Registry;
                    return true;
                }
                found => Ok(found),
            },
            Source::Registry => self.fetch(version, at.wanted.chunks).await.map(Found::Module),
        };
        let prepared = match found {
            Ok(Found::Module(module)) if !(self.is_runnable)(version) => self.prepare(version, module).await,
            Ok(_) => {
                pending.remove(&version);
                return true;
            }
            Err(failed) => Err(failed),
        };
        match prepared {
            Ok(()) => {
                self.stats.prepared.fetch_add(1, Ordering::Relaxed);
                tracing::info!(policy = %at.wanted.name, %version, "the policy can be run");
                pending.remove(&version);
                return self.commands.send(Command::Prepared(version)).await.is_ok();
            }
            Err(NotRunnable::ForNow(reason)) => {
                self.stats.retries.fetch_add(1, Ordering::Relaxed);
                let delay = at.delays.next().unwrap_or(MAX_DELAY);
                tracing::debug!(policy = %at.wanted.name, %version, reason, ?delay, "a module cannot be fetched yet");
                at.due = Instant::now() + delay;
            }
            Err(NotRunnable::ForGood(reason)) => {
                self.stats.given_up.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(policy = %at.wanted.name, %version, reason, "the policy cannot be run");
                pending.remove(&version);
            }
        }
        true
    }

    /// What the disk has. Of a version that is runnable, only whether it is there is of interest.
    async fn look(&self, version: PolicyVersion) -> Found {
        let disk = Arc::clone(&self.disk);
        let runnable = (self.is_runnable)(version);
        let looking = tokio::task::spawn_blocking(move || match runnable {
            true if disk.has_module(version) => Found::Kept,
            true => Found::Nothing,
            false => disk.load_module(version).map_or(Found::Nothing, Found::Module),
        });
        looking.await.unwrap_or(Found::Nothing)
    }

    /// The module from the registry, complete and with the right hash, and from then on also on disk.
    async fn fetch(&self, version: PolicyVersion, chunks: u32) -> Result<Bytes, NotRunnable> {
        if chunks == 0 || chunks > MAX_CHUNKS {
            return Err(NotRunnable::ForGood(format!(
                "its manifest says {chunks} chunks; 1 to {MAX_CHUNKS} are possible"
            )));
        }
        let mut module = BytesMut::new();
        for number in 0..chunks {
            let chunk = match self.registry.get_chunk(version, number).await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => {
                    return Err(NotRunnable::ForGood(format!("chunk {number} of {chunks} is missing")));
                }
                Err(e @ RegistryError::Unavailable(_)) => return Err(NotRunnable::ForNow(e.to_string())),
                Err(e) => return Err(NotRunnable::ForGood(e.to_string())),
            };
            if module.len() + chunk.len() > MAX_MODULE_BYTES {
                return Err(NotRunnable::ForGood(format!("it has more than {MAX_MODULE_BYTES} bytes")));
            }
            module.extend_from_slice(&chunk);
        }
        let module = module.freeze();
        let disk = Arc::clone(&self.disk);
        let bytes = module.clone();
        let kept = tokio::task::spawn_blocking(move || {
            (PolicyVersion::of(&bytes) == version).then(|| disk.save_module(version, &bytes))
        });
        match kept.await {
            Ok(Some(Ok(()))) => {}
            Ok(None) => return Err(NotRunnable::ForGood("its bytes do not have its hash".into())),
            Ok(Some(Err(e))) => {
                self.stats.unsaved.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%version, "cannot keep the module on disk: {e}");
            }
            Err(e) => return Err(NotRunnable::ForGood(e.to_string())),
        }
        Ok(module)
    }

    async fn prepare(&self, version: PolicyVersion, module: Bytes) -> Result<(), NotRunnable> {
        let compile = Arc::clone(&self.compile);
        match tokio::task::spawn_blocking(move || compile(version, module)).await {
            Ok(compiled) => compiled,
            // A panic of the compiler is one module's misfortune.
            Err(e) => Err(NotRunnable::ForGood(format!("compiling it failed: {e}"))),
        }
    }
}

const MAX_DELAY: Duration = Duration::from_secs(30);

fn delays() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(250))
        .with_max_delay(MAX_DELAY)
        .with_jitter()
        .without_max_times()
        .build()
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Stores the bytes of `version` and answers in how many chunks, for its manifest. That must be written afterwards:
/// whoever sees it fetches them. Storing the same bytes twice does no harm.
///
/// # Errors
/// The registry's, and `Refused` for a module that is empty or too large.
pub async fn store_module(
    registry: &dyn Registry,
    version: PolicyVersion,
    bytes: Bytes,
) -> Result<u32, RegistryError> {
    if bytes.is_empty() || bytes.len() > MAX_MODULE_BYTES {
        return Err(RegistryError::Refused(format!("a module has 1 to {MAX_MODULE_BYTES} bytes")));
    }
    let mut left = bytes;
    let mut number = 0;
    while !left.is_empty() {
        let chunk = left.split_to(left.len().min(MAX_CHUNK_BYTES));
        registry.put_chunk(version, number, chunk).await?;
        number += 1;
    }
    Ok(number)
}

/// Whether the registry has all chunks of a version; not whether they are whole.
///
/// # Errors
/// The registry's.
pub async fn is_stored(
    registry: &dyn Registry,
    version: PolicyVersion,
    chunks: u32,
) -> Result<bool, RegistryError> {
    for number in 0..chunks.min(MAX_CHUNKS) {
        if registry.get_chunk(version, number).await?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_model::names::GatewayId;
    use meridian_registry::embedded::EmbeddedRegistry;
    use meridian_registry::{Committed, Event, Key, Known, Membership, Revision, Stored, Write};
    use std::sync::Mutex;
    use std::sync::atomic::AtomicBool;
    use tempfile::TempDir;
    use tokio::task::JoinHandle;

    /// The embedded registry behind a link that can be cut.
    struct Linked {
        registry: EmbeddedRegistry,
        is_cut: AtomicBool,
    }

    #[async_trait::async_trait]
    impl Registry for Linked {
        async fn get_chunk(
            &self,
            version: PolicyVersion,
            number: u32,
        ) -> Result<Option<Bytes>, RegistryError> {
            if self.is_cut.load(Ordering::SeqCst) {
                return Err(RegistryError::Unavailable("the link is cut".into()));
            }
            self.registry.get_chunk(version, number).await
        }
        async fn prune_history(&self, before: meridian_model::time::UnixMillis) -> Result<(), RegistryError> {
            self.registry.prune_history(before).await
        }

        async fn put_chunk(
            &self,
            version: PolicyVersion,
            number: u32,
            b: Bytes,
        ) -> Result<(), RegistryError> {
            self.registry.put_chunk(version, number, b).await
        }
        async fn delete_chunks(&self, version: PolicyVersion) -> Result<(), RegistryError> {
            self.registry.delete_chunks(version).await
        }
        async fn commit(&self, write: Write) -> Result<Committed, RegistryError> {
            self.registry.commit(write).await
        }
        async fn read(&self, key: &Key) -> Result<(Option<Stored>, Revision), RegistryError> {
            self.registry.read(key).await
        }
        async fn history(&self, before: Option<&Key>, limit: usize) -> Result<Vec<Stored>, RegistryError> {
            self.registry.history(before, limit).await
        }
        fn join(&self, id: GatewayId, record: Bytes, ttl: Duration) -> Membership {
            self.registry.join(id, record, ttl)
        }
        async fn publish_beats(&self, id: &GatewayId, batch: Bytes) -> Result<(), RegistryError> {
            self.registry.publish_beats(id, batch).await
        }
        fn watch(&self, known: Option<Known>) -> mpsc::Receiver<Event> {
            self.registry.watch(known)
        }
    }

    struct World {
        dir: TempDir,
        registry: Arc<Linked>,
        disk: Arc<Disk>,
        wanted: mpsc::UnboundedSender<Wish>,
        prepared: mpsc::Receiver<Command>,
        compiled: Arc<Mutex<Vec<PolicyVersion>>>,
        runnable: Arc<Mutex<BTreeSet<PolicyVersion>>>,
        stats: Arc<LoaderStats>,
        running: JoinHandle<()>,
    }

    /// Compiles everything but what begins with `refuse` or `panic`.
    fn world() -> World {
        world_that_trusts(Trust::default())
    }

    fn world_that_trusts(trust: Trust) -> World {
        let dir = tempfile::tempdir().unwrap();
        let region = "eu-central-1".parse().unwrap();
        let registry = EmbeddedRegistry::open(None, &region).unwrap();
        let registry = Arc::new(Linked { registry, is_cut: AtomicBool::new(false) });
        let disk = Arc::new(Disk::open(dir.path(), region).unwrap());
        let runnable = Arc::new(Mutex::new(BTreeSet::new()));
        let compiled = Arc::new(Mutex::new(Vec::new()));
        let stats = Arc::new(LoaderStats::default());
        let (commands, prepared) = mpsc::channel(8);
        let (wanted, receiver) = mpsc::unbounded_channel();
        let (calls, known, seen) = (Arc::clone(&compiled), Arc::clone(&runnable), Arc::clone(&runnable));
        let loader = Loader {
            registry: Arc::clone(&registry) as _,
            disk: Arc::clone(&disk),
            commands,
            compile: Arc::new(move |version, module| {
                calls.lock().unwrap().push(version);
                assert!(!module.starts_with(b"panic"), "as it was told to");
                if module.starts_with(b"refuse") {
                    return Err(NotRunnable::ForGood("it has imports".into()));
                }
                known.lock().unwrap().insert(version);
                Ok(())
            }),
            is_runnable: Arc::new(move |version| seen.lock().unwrap().contains(&version)),
            trust,
            stats: Arc::clone(&stats),
        };
        let running = tokio::spawn(loader.run(receiver));
        World { dir, registry, disk, wanted, prepared, compiled, runnable, stats, running }
    }

    impl World {
        fn want(&self, version: PolicyVersion, chunks: u32) {
            self.want_signed(version, chunks, None);
        }

        fn want_signed(&self, version: PolicyVersion, chunks: u32, signature: Option<String>) {
            let wanted = Wanted { name: "canary".parse().unwrap(), version, chunks, signature };
            self.wanted.send(Wish::Load(wanted)).unwrap();
        }

        async fn prepared(&mut self) -> PolicyVersion {
            let waiting = tokio::time::timeout(Duration::from_secs(20), self.prepared.recv());
            match waiting.await.expect("nothing was prepared") {
                Some(Command::Prepared(version)) => version,
                other => panic!("{other:?}"),
            }
        }

        async fn counted(&self, times: u64, counter: impl Fn(&LoaderStats) -> &AtomicU64) {
            let waiting = async {
                while counter(&self.stats).load(Ordering::Relaxed) < times {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("it was not counted");
        }

        async fn given_up(&self, times: u64) {
            self.counted(times, |stats| &stats.given_up).await;
        }

        async fn store(&self, module: impl Into<Bytes>) -> (PolicyVersion, u32) {
            let module = module.into();
            let version = PolicyVersion::of(&module);
            (version, store_module(&*self.registry, version, module).await.unwrap())
        }
    }

    #[tokio::test]
    async fn a_module_in_several_chunks_is_fetched_kept_and_prepared_once() {
        let mut world = world();
        let module: Vec<u8> = (0..MAX_CHUNK_BYTES * 2 + 17).map(|n| (n % 251) as u8).collect();
        let (version, chunks) = world.store(module.clone()).await;
        assert_eq!(chunks, 3);
        world.want(version, chunks);
        assert_eq!(world.prepared().await, version);
        assert_eq!(world.disk.load_module(version).as_deref(), Some(&module[..]));
        world.want(version, chunks);
        let (other, chunks) = world.store("another").await;
        world.want(other, chunks);
        assert_eq!(world.prepared().await, other);
        assert_eq!(*world.compiled.lock().unwrap(), [version, other]);
    }

    #[tokio::test]
    async fn the_disk_is_enough() {
        let mut world = world();
        let version = PolicyVersion::of(b"module");
        world.disk.save_module(version, b"module").unwrap();
        // The registry has no such chunks, so asking it would give up.
        world.want(version, 1);
        assert_eq!(world.prepared().await, version);
    }

    #[tokio::test]
    async fn a_registry_that_does_not_answer_is_asked_again_and_holds_up_nobody() {
        let mut world = world();
        let (remote, chunks) = world.store("only in the registry").await;
        world.registry.is_cut.store(true, Ordering::SeqCst);
        world.want(remote, chunks);
        world.counted(2, |stats| &stats.retries).await;
        let local = PolicyVersion::of(b"local");
        world.disk.save_module(local, b"local").unwrap();
        world.want(local, 1);
        assert_eq!(world.prepared().await, local);
        world.registry.is_cut.store(false, Ordering::SeqCst);
        assert_eq!(world.prepared().await, remote);
        assert_eq!(world.stats.given_up.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_module_that_is_damaged_on_disk_comes_from_the_registry() {
        let mut world = world();
        let (version, chunks) = world.store("module").await;
        let path = world.dir.path().join("modules").join(format!("{}.wasm", version.hex()));
        std::fs::write(&path, "mobule").unwrap();
        world.want(version, chunks);
        assert_eq!(world.prepared().await, version);
        assert_eq!(std::fs::read(&path).unwrap(), b"module");
    }

    #[tokio::test]
    async fn what_cannot_be_run_is_given_up_until_its_manifest_comes_again() {
        let mut world = world();
        let missing = PolicyVersion::of(b"late");
        world.want(missing, 1);
        world.given_up(1).await;
        for module in ["refuse this", "panic at this"] {
            let (version, chunks) = world.store(module).await;
            world.want(version, chunks);
        }
        world.given_up(3).await;
        // Bytes of another version under this one's name.
        let forged = PolicyVersion::of(b"good");
        world.registry.put_chunk(forged, 0, Bytes::from_static(b"evil")).await.unwrap();
        world.want(forged, 1);
        world.want(PolicyVersion::of(b"endless"), u32::MAX);
        world.given_up(5).await;
        assert!(world.disk.load_module(forged).is_none());
        assert_eq!(world.compiled.lock().unwrap().len(), 2, "the forged one must not reach the compiler");

        let (_, chunks) = world.store("late").await;
        world.want(missing, chunks);
        assert_eq!(world.prepared().await, missing);
    }

    /// Who uploads through this gateway compiles at once; a restart without registry needs the bytes all the same.
    #[tokio::test]
    async fn what_is_runnable_already_is_kept_on_disk_too() {
        let mut world = world();
        let (uploaded, chunks) = world.store("uploaded here").await;
        world.runnable.lock().unwrap().insert(uploaded);
        world.want(uploaded, chunks);
        let (other, chunks) = world.store("another").await;
        world.want(other, chunks);
        assert_eq!(world.prepared().await, other);
        let World { wanted, running, .. } = world;
        drop(wanted);
        running.await.unwrap();
        assert_eq!(world.disk.load_module(uploaded).as_deref(), Some(&b"uploaded here"[..]));
        assert_eq!(*world.compiled.lock().unwrap(), [other]);
    }

    #[tokio::test]
    async fn what_is_not_wanted_any_more_leaves_the_disk_and_is_not_waited_for() {
        let mut world = world();
        let (kept, chunks) = world.store("kept").await;
        world.want(kept, chunks);
        let (deleted, chunks) = world.store("deleted").await;
        world.want(deleted, chunks);
        assert_eq!((world.prepared().await, world.prepared().await), (kept, deleted));
        world.registry.is_cut.store(true, Ordering::SeqCst);
        let (waiting, chunks) = world.store("waiting").await;
        world.want(waiting, chunks);
        world.counted(1, |stats| &stats.retries).await;
        world.wanted.send(Wish::Keep(BTreeSet::from([kept]))).unwrap();
        let World { wanted, running, disk, stats, .. } = world;
        drop(wanted);
        running.await.unwrap();
        assert!(disk.has_module(kept) && !disk.has_module(deleted));
        assert_eq!(stats.waiting.load(Ordering::Relaxed), 0);
    }

    /// What was stored before keys were named, or past the door, does not run.
    #[tokio::test]
    async fn where_keys_are_trusted_only_what_they_signed_is_run() {
        let directory = tempfile::tempdir().unwrap();
        let (key, trust) = crate::signature::for_tests(directory.path());
        let mut world = world_that_trusts(trust);
        let (unsigned, chunks) = world.store("unsigned").await;
        world.want(unsigned, chunks);
        let (signed, chunks) = world.store("signed").await;
        let signature = key.sign(signed).unwrap().to_string();
        world.want_signed(unsigned, 1, Some(signature.clone()));
        world.want_signed(signed, chunks, Some(signature));
        assert_eq!(world.prepared().await, signed);
        world.given_up(2).await;
        assert_eq!(*world.compiled.lock().unwrap(), [signed]);
        // Uploaded again with its signature, it is.
        let signature = key.sign(unsigned).unwrap().to_string();
        world.want_signed(unsigned, 1, Some(signature));
        assert_eq!(world.prepared().await, unsigned);
    }

    #[tokio::test]
    async fn it_ends_with_the_keeper() {
        let World { wanted, running, .. } = world();
        drop(wanted);
        running.await.unwrap();
    }

    #[tokio::test]
    async fn an_empty_and_an_oversized_module_are_not_stored() {
        let world = world();
        for module in [Bytes::new(), Bytes::from(vec![0; MAX_MODULE_BYTES + 1])] {
            let version = PolicyVersion::of(&module);
            let refused = store_module(&*world.registry, version, module).await.unwrap_err();
            assert!(matches!(refused, RegistryError::Refused(_)), "{refused}");
            assert_eq!(world.registry.get_chunk(version, 0).await.unwrap(), None);
        }
    }
}
