//! A gateway put together: what is opened in which order, every long-lived task, and how it all ends.

use crate::beats::{self, BeatStats};
use crate::clock;
use crate::config::{Config, ConfigError, EtcdSection, Mistake, RegistryConfig};
use crate::directory::Directory;
use crate::disk::Disk;
use crate::disk::saver::{Pace, SaveStats, Saver};
use crate::federation::{JoinError, node};
use crate::figures;
use crate::guardian::{self, GuardianStats, HistoryEntry, Office};
use crate::health::{Checker, Guard};
use crate::history::{Actor, Entry, value_of};
use crate::http::Envelope;
use crate::http::server::{ListenError, Server};
use crate::keeper::{Feeds, Keeper, KeeperStats};
use crate::loader::{Loader, LoaderStats, NotRunnable};
use crate::lookup::watch::WatchStats;
use crate::metrics::{HttpMetrics, Metrics};
use crate::region::{Parts, Region};
use crate::steward;
use meridian_model::catalog::Catalog;
use meridian_model::guardian::Settings;
use meridian_model::names::GatewayId;
use meridian_model::time::UnixMillis;
use meridian_policies::{Compiler, Host, HostConfig, HostError, STANDARD};
use meridian_registry::embedded::EmbeddedRegistry;
use meridian_registry::etcd::{EtcdConfig, EtcdRegistry, EtcdTls, Stats as EtcdStats};
use meridian_registry::record::{self, Member};
use meridian_registry::{Known, Registry, RegistryError};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A member that did not renew for this long is gone, and others take over what it guarded.
const MEMBER_TTL: Duration = Duration::from_secs(4);
/// How often key files are looked at.
const REFRESH_KEYS_EVERY: Duration = Duration::from_secs(2);
/// How often history that is too old is removed.
const PRUNE_HISTORY_EVERY: Duration = Duration::from_secs(600);
/// Time for connections to end at a graceful stop.
const DRAIN_WITHIN: Duration = Duration::from_secs(8);
/// Time for the last save and for tasks to end after them.
const END_WITHIN: Duration = Duration::from_secs(2);
/// Events, commands and inputs that may wait for their task.
const QUEUE: usize = 1_024;
/// Heartbeats that may wait for their batch: several seconds of 10,000 a second.
const BEATS_QUEUE: usize = 65_536;

/// The argument with which a gateway starts its own program to compile a module; that program runs
/// [`meridian_policies::policy_compiler`] then.
pub const POLICY_COMPILER: &str = "policy-compiler";
/// Where compiled modules are kept, in the data directory.
const ARTEFACTS: &str = "artefacts";

/// Why a gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data directory.
    #[error("data_dir {path}: {source}")]
    Disk {
        /// Where.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The data directory belongs to another region.
    #[error(transparent)]
    OtherRegion(#[from] crate::disk::Refused),
    /// The registry, for a reason that waiting will not change.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The policy host.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The listener.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The federation.
    #[error(transparent)]
    Federation(#[from] JoinError),
    /// A federation node that does not listen.
    #[error(
        "federation.listen: is missing; a federation node needs an address where other regions' nodes connect"
    )]
    NotANode,
    /// A federation node's status listener.
    #[error("federation.status {address}: {source}")]
    Status {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// Starts gateways.
pub struct Gateway;

/// A gateway that serves.
pub struct Running {
    server: Server,
    region: Arc<Region>,
    stop: CancellationToken,
    /// No request is open any more: what they changed can be saved.
    settled: CancellationToken,
    tasks: TaskTracker,
    /// Tasks that would otherwise go on as long as somebody could still send to them.
    ends: [AbortHandle; 2],
}

impl Running {
    /// Where the HTTP API listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.server.address
    }

    /// This gateway's name in its region.
    #[must_use]
    pub fn id(&self) -> &GatewayId {
        &self.region.me
    }

    /// Waits until a complete snapshot is served.
    pub async fn ready(&self) {
        let mut ready = self.region.directory.currency.subscribe_ready();
        // The sender lives in the region.
        let _ = ready.wait_for(|ready| *ready).await;
    }

    /// Stops accepting, lets requests end, saves what they left, and ends all tasks; at most 10 s.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(DRAIN_WITHIN, self.server.drained()).await.is_err() {
            tracing::warn!("some connections did not end in time and are cut off");
        }
        self.settled.cancel();
        if tokio::time::timeout(END_WITHIN, self.tasks.wait()).await.is_err() {
            tracing::warn!("some tasks did not end in time and are cut off");
        }
        self.ends.iter().for_each(AbortHandle::abort);
    }
}

impl Gateway {
    /// Opens everything and returns once the listener is bound; [`Running::ready`] tells when there is something to serve.
    ///
    /// # Errors
    /// What makes starting pointless. A registry that does not answer is no reason.
    pub async fn start(config: Config) -> Result<Running, StartError> {
        // Two crates bring a TLS provider each; without a choice the first handshake panics.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let verifier = config.identity.check(&config.base).map_err(|errors| ConfigError {
            source_name: "identity".into(),
            mistakes: errors.into_iter().map(|e| Mistake { place: e.place, detail: e.detail }).collect(),
        })?;
        let verifier = Arc::new(verifier);
        let disk_error = |source| StartError::Disk { path: config.data_dir.display().to_string(), source };
        let disk = Arc::new(Disk::open(&config.data_dir, config.region.clone()).map_err(disk_error)?);
        let me = match &config.gateway_id {
            Some(id) => id.clone(),
            None => disk.gateway_id().map_err(disk_error)?,
        };
        let loaded = disk.load()?;
        let Opened { registry, etcd_stats, claim } =
            open_registry(&config, loaded.known, loaded.image.is_some()).await?;

        let workers = config
            .http
            .workers
            .unwrap_or_else(|| std::thread::available_parallelism().map_or(2, usize::from));
        let host = Host::start(HostConfig {
            router_cache_bytes: config.lookups.router_cache_mib * 1024 * 1024,
            compiler: Compiler::this_program(POLICY_COMPILER).map_err(HostError::Thread)?,
            artefacts: Some(config.data_dir.join(ARTEFACTS)),
        })?;
        // Compiled beside the reading of the disk, so that the first lookup already runs it.
        let compiler = Arc::clone(&host);
        let [built_in, ..] = &STANDARD;
        let built_in = tokio::task::spawn_blocking(move || compiler.load_standard(built_in));
        let directory = Arc::new(Directory::default());
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());

        let (guardian_inputs, guardian_queue) = mpsc::channel(QUEUE);
        let (modules, wishes) = mpsc::unbounded_channel();
        let (commands, command_queue) = mpsc::channel(QUEUE);
        let (beats, beats_queue) = mpsc::channel(BEATS_QUEUE);

        let keeper_stats = Arc::new(KeeperStats::default());
        let catalog = Catalog::new(config.region.clone(), Host::built_in());
        let feeds = Feeds { guardian: guardian_inputs.clone(), modules };
        let mut keeper = Keeper::new(
            catalog,
            Arc::clone(&directory),
            Arc::clone(&host),
            feeds,
            Arc::clone(&keeper_stats),
            config.lookups.known_for,
            config.lookups.max_remote_age,
        );
        if let Some(image) = loaded.image {
            tracing::info!(
                records = image.records.len(),
                "serving the state from disk until the registry answers"
            );
            keeper.start_from(image);
        }

        let mut joined = None;
        if let Some(section) = &config.federation {
            let parts = node::Parts {
                config: section,
                region: config.region.clone(),
                registry: Arc::clone(&registry),
                disk: Arc::clone(&disk),
                keeper: Some(commands.clone()),
            };
            let mut part = node::spawn(parts, &tasks, &stop).await?;
            // Before anybody is answered: a service that only other regions have is known.
            keeper.remember(std::mem::take(&mut part.remembered));
            joined = Some(part);
        }

        let loader_stats = Arc::new(LoaderStats::default());
        let save_stats = Arc::new(SaveStats::default());
        let saver = saver(&disk, &commands, &directory, &keeper_stats, &save_stats);
        let watch_stats = Arc::new(WatchStats::default());
        let region = Region::new(
            &config,
            Parts {
                me: me.clone(),
                directory: Arc::clone(&directory),
                host: Arc::clone(&host),
                registry: Arc::clone(&registry),
                verifier: Arc::clone(&verifier),
                beats,
                keeper: commands,
                runtime: tokio::runtime::Handle::current(),
                watch_stats: Arc::clone(&watch_stats),
                stop: stop.clone(),
            },
        );
        let loader = loader(&region, &disk, &loader_stats);
        let http = Arc::new(HttpMetrics::default());
        let envelope = Arc::new(Envelope::new(Arc::clone(&region), Arc::clone(&http)));
        match built_in.await {
            Ok(loaded) => drop(loaded?),
            Err(failed) => {
                tracing::error!(%failed, "the built-in policy did not compile; the native fallback answers")
            }
        }
        if let Some(claim) = claim {
            claim.settle().await?;
        }
        let server = Server::start(&config.http, envelope, &host, workers, stop.clone()).await?;

        let member = Member { http: server.address.to_string(), version: env!("CARGO_PKG_VERSION").into() };
        let membership = registry.join(me.clone(), record::encode(&member)?, MEMBER_TTL);
        let guardian_stats = Arc::new(GuardianStats::default());
        let beat_stats = Arc::new(BeatStats::default());

        // Every long-lived task of the control runtime.
        let events = registry.watch(loaded.known);
        let until = |task| {
            let stop = stop.clone();
            async move { stop.run_until_cancelled_owned(task).await }
        };
        // The keeper goes after the saver, which asks it for the state once more at the end: after the last request, since
        // a gateway that starts without its registry has nothing else of what that request changed.
        let (kept, settled) = (CancellationToken::new(), CancellationToken::new());
        let (keeping, saved) = (kept.clone(), settled.clone());
        tasks
            .spawn(async move { keeping.run_until_cancelled_owned(keeper.run(events, command_queue)).await });
        tasks.spawn(async move {
            let _released = kept.drop_guard();
            saver.run(saved).await;
        });
        tasks.spawn(until(boxed(loader.run(wishes))));
        tasks.spawn(until(boxed(steward::run(Arc::clone(&region)))));
        tasks.spawn(until(boxed(refresh_keys(verifier))));
        tasks.spawn(until(boxed(prune_history(Arc::clone(&registry), config.history.keep))));
        let office = Office {
            registry: Arc::clone(&registry),
            me: me.clone(),
            membership,
            checker: Arc::new(Checker::new(Guard { allow_loopback: config.checks_loopback() })),
            max_checks: config.health.max_concurrent,
            settings: Settings { expired_kept: config.lookups.expired_kept, ..Settings::default() },
            history: guardian_history(me.clone()),
            stats: Arc::clone(&guardian_stats),
        };
        let ends = [
            guardian::spawn(office, guardian_queue).abort_handle(),
            beats::spawn(registry, me, beats_queue, guardian_inputs, Arc::clone(&beat_stats)).abort_handle(),
        ];

        let mut sources = vec![
            figures::regions(region.name.clone(), region.peers.clone(), Arc::clone(&directory)),
            figures::directory(directory),
            figures::keeper(keeper_stats),
            figures::host(host),
            figures::watches(watch_stats),
            figures::disk(save_stats, loader_stats),
            figures::guardian(guardian_stats),
            figures::beats(beat_stats),
            figures::steward(Arc::clone(&region.steward)),
        ];
        sources.extend(etcd_stats.map(figures::etcd));
        sources.extend(joined.map(|joined| joined.source));
        region.set_metrics(Metrics { http, sources });
        Ok(Running { server, region, stop, settled, tasks, ends })
    }
}

fn boxed<T>(task: impl Future<Output = T> + Send + 'static) -> futures::future::BoxFuture<'static, T> {
    Box::pin(task)
}

pub(crate) struct Opened {
    pub(crate) registry: Arc<dyn Registry>,
    pub(crate) etcd_stats: Option<Arc<EtcdStats>>,
    claim: Option<Claim>,
}

/// With an image from disk there is something to serve already, and it does not wait for etcd.
pub(crate) async fn open_registry(
    config: &Config,
    known: Option<Known>,
    has_image: bool,
) -> Result<Opened, StartError> {
    match &config.registry {
        RegistryConfig::Embedded { file } => {
            let file = file.clone().unwrap_or_else(|| config.data_dir.join("registry.redb"));
            let registry = Arc::new(EmbeddedRegistry::open(Some(&file), &config.region)?);
            Ok(Opened { registry, etcd_stats: None, claim: None })
        }
        RegistryConfig::Etcd(section) => {
            let registry = Arc::new(EtcdRegistry::connect(&etcd(section, config))?);
            let claim = Claim::begin(Arc::clone(&registry), known);
            let etcd_stats = Some(registry.stats());
            let claim = if has_image {
                Some(claim)
            } else {
                claim.end().await?;
                None
            };
            Ok(Opened { registry, etcd_stats, claim })
        }
    }
}

/// The taking of etcd for this region, under way.
struct Claim(JoinHandle<Result<(), RegistryError>>);

impl Claim {
    fn begin(registry: Arc<EtcdRegistry>, known: Option<Known>) -> Self {
        Self(tokio::spawn(async move {
            match registry.claim(known).await {
                Ok(_) => Ok(()),
                Err(RegistryError::Unavailable(reason)) => {
                    tracing::warn!(reason, "etcd does not answer; starting without it");
                    Ok(())
                }
                Err(error) => Err(error),
            }
        }))
    }

    /// # Errors
    /// What waiting will not change.
    async fn end(self) -> Result<(), RegistryError> {
        self.0.await.unwrap_or_else(|failed| Err(RegistryError::Unavailable(failed.to_string())))
    }

    /// Ends the start for what is known to be wrong by now. What turns out later is told; the watch tells it again.
    async fn settle(self) -> Result<(), RegistryError> {
        if self.0.is_finished() {
            return self.end().await;
        }
        tokio::spawn(async move {
            if let Err(error) = self.end().await {
                tracing::error!(%error, "the registry cannot be used until this is put right; serving from disk alone");
            }
        });
        Ok(())
    }
}

fn guardian_history(me: GatewayId) -> HistoryEntry {
    Arc::new(move |key, before, after, action, reason| {
        let entry = Entry {
            at: clock::unix_now(),
            actor: Actor::guardian(&me),
            action: action.to_owned(),
            target: key.to_string(),
            reason: reason.to_owned(),
            gateway: me.to_string(),
            before: value_of(before),
            after: value_of(after),
        };
        entry.change()
    })
}

fn etcd(section: &EtcdSection, config: &Config) -> EtcdConfig {
    let tls = section.tls.as_ref().and_then(|tls| {
        let identity = tls.certificate.clone().zip(tls.key.clone());
        tls.ca.clone().map(|ca| EtcdTls { ca, identity })
    });
    EtcdConfig {
        endpoints: section.endpoints.clone(),
        prefix: section.prefix.clone(),
        region: config.region.clone(),
        tls,
        user: section.username.clone().zip(section.password.clone()),
        compare_interval: section.compare_every,
    }
}

fn loader(region: &Region, disk: &Arc<Disk>, stats: &Arc<LoaderStats>) -> Loader {
    let (compiler, library) = (Arc::clone(&region.host), Arc::clone(&region.host));
    Loader {
        registry: Arc::clone(&region.registry),
        disk: Arc::clone(disk),
        commands: region.keeper.clone(),
        compile: Arc::new(move |_, module| {
            compiler.load(&module).map_err(|rejected| match rejected.code {
                // Room comes when versions are deleted; the machine code is kept until then.
                "gate-unavailable" | "library-full" => NotRunnable::ForNow(rejected.to_string()),
                _ => NotRunnable::ForGood(rejected.to_string()),
            })
        }),
        is_runnable: Arc::new(move |version| library.library().contains(&version)),
        trust: region.trust.clone(),
        stats: Arc::clone(stats),
    }
}

fn saver(
    disk: &Arc<Disk>,
    commands: &mpsc::Sender<crate::keeper::Command>,
    directory: &Arc<Directory>,
    keeper: &Arc<KeeperStats>,
    stats: &Arc<SaveStats>,
) -> Saver {
    let keeper = Arc::clone(keeper);
    Saver {
        disk: Arc::clone(disk),
        commands: commands.clone(),
        directory: Arc::clone(directory),
        generation: Arc::new(move || keeper.content.load(Ordering::Acquire)),
        pace: Pace::default(),
        stats: Arc::clone(stats),
    }
}

/// Keeps the history within its bound. Every gateway does; the second finds nothing left to remove.
async fn prune_history(registry: Arc<dyn Registry>, keep: Duration) {
    let mut tick = tokio::time::interval(PRUNE_HISTORY_EVERY);
    loop {
        tick.tick().await;
        let now = clock::unix_now();
        let before = UnixMillis(now.0.saturating_sub(u64::try_from(keep.as_millis()).unwrap_or(u64::MAX)));
        if let Err(error) = registry.prune_history(before).await {
            tracing::debug!(%error, "old history stays for now");
        }
    }
}

async fn refresh_keys(verifier: Arc<crate::identity::Verifier>) {
    let mut tick = tokio::time::interval(REFRESH_KEYS_EVERY);
    loop {
        tick.tick().await;
        let verifier = Arc::clone(&verifier);
        let refresh = move || {
            for (issuer, news) in verifier.refresh(clock::unix_now()) {
                tracing::info!(issuer, ?news, "the issuer's keys");
            }
        };
        // A panic in there is reported by the runtime; the keys that are known stay.
        let _ = tokio::task::spawn_blocking(refresh).await;
    }
}
