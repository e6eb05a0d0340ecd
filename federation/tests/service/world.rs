//! Regions on loopback: real sockets, real TLS, certificates of one authority, and cables that can be cut.

use bytes::Bytes;
use meridian_federation::exchange::head::Place;
use meridian_federation::exchange::message::{Record, RecordKey};
use meridian_federation::exchange::{Image, Own, OwnChange, Standing};
use meridian_federation::service::certificates::{Authority, KeyKind, Lifetime};
use meridian_federation::service::material::Files;
use meridian_federation::service::name::{PeerName, Station};
use meridian_federation::service::news::Changed;
use meridian_federation::service::{self, Clock, Config, Handle, PeerUrls, Running};
use meridian_model::incarnation::Incarnation;
use meridian_model::names::{RegionName, ServiceKey};
use meridian_model::time::Monotonic;
use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What a condition may take before the test says that it never comes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for a condition that nothing announces.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what}: not in {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn region(name: &str) -> RegionName {
    name.parse().unwrap()
}

pub(crate) fn service_key(n: usize) -> RecordKey {
    RecordKey::Service(ServiceKey::new("prod".parse().unwrap(), format!("service-{n:05}").parse().unwrap()))
}

pub(crate) fn record(n: usize, bytes: impl Into<Bytes>) -> Record {
    Record { key: service_key(n), bytes: bytes.into() }
}

pub(crate) struct World {
    pub(crate) authority: Authority,
    pub(crate) dir: TempDir,
    pub(crate) clock: Clock,
}

/// A listener that waits for its process, and its URL.
pub(crate) struct Bound {
    pub(crate) listener: TcpListener,
    pub(crate) address: SocketAddr,
}

impl Default for World {
    fn default() -> Self {
        let begun = Instant::now();
        Self {
            authority: new_authority(),
            dir: tempfile::tempdir().unwrap(),
            clock: Arc::new(move || Monotonic(1_000).plus(begun.elapsed())),
        }
    }
}

pub(crate) fn new_authority() -> Authority {
    Authority::new("test authority", lifetime()).unwrap()
}

pub(crate) fn lifetime() -> Lifetime {
    Lifetime::starting(SystemTime::now(), Duration::from_secs(86_400))
}

pub(crate) async fn bind() -> Bound {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    Bound { listener, address }
}

pub(crate) fn peers(of: &[(&str, SocketAddr)]) -> Vec<PeerUrls> {
    of.iter()
        .map(|(region, address)| PeerUrls {
            region: region.parse().unwrap(),
            urls: vec![format!("https://{address}").parse().unwrap()],
        })
        .collect()
}

/// `eu/node/a` stands for `spiffe://test/region/eu/node/a`.
pub(crate) fn name(short: &str) -> PeerName {
    format!("spiffe://test/region/{short}").parse().unwrap()
}

impl World {
    /// Makes certificate files for a name, by this world's authority.
    pub(crate) fn files(&self, short: &str) -> Files {
        self.files_by(&self.authority, short, self.authority.certificate())
    }

    pub(crate) fn files_by(&self, authority: &Authority, short: &str, ca: &str) -> Files {
        let stem = self.dir.path().join(short.replace('/', "-"));
        let files = Files {
            certificate: stem.with_extension("pem"),
            key: stem.with_extension("key"),
            ca: stem.with_extension("ca"),
        };
        let issued = authority.issue(&name(short), KeyKind::EcdsaP256, lifetime()).unwrap();
        for (path, text) in [
            (&files.certificate, &issued.certificate),
            (&files.key, &issued.key),
            (&files.ca, &ca.to_owned()),
        ] {
            let beside = path.with_extension("new");
            std::fs::write(&beside, text).unwrap();
            std::fs::rename(beside, path).unwrap();
        }
        files
    }

    pub(crate) fn config(&self, short: &str, place: Option<Bound>, peers: Vec<PeerUrls>) -> Config {
        let name = name(short);
        Config {
            region: name.region,
            station: name.station,
            files: self.files(short),
            listener: place.map(|place| place.listener),
            peers,
            clock: Arc::clone(&self.clock),
            kept: None,
        }
    }

    /// A process that speaks for its region from the start, with these records, if it is a node.
    pub(crate) async fn start(
        &self,
        short: &str,
        place: Option<Bound>,
        peers: Vec<PeerUrls>,
        records: Vec<Record>,
    ) -> Process {
        let config = self.config(short, place, peers);
        let node = config.station == Station::Node;
        let process = Process::start(config);
        if node {
            process.say(&self.clock, 1, OwnChange::All(records)).await;
        }
        process
    }
}

/// A federation process, and what it has told.
pub(crate) struct Process {
    running: Running,
    pub(crate) handle: Handle,
    pub(crate) changed: BTreeMap<RegionName, Changed>,
    pub(crate) standing: BTreeMap<RegionName, Standing>,
}

impl Process {
    pub(crate) fn start(config: Config) -> Self {
        let running = service::start(config).unwrap();
        let handle = running.handle().clone();
        Self { running, handle, changed: BTreeMap::new(), standing: BTreeMap::new() }
    }

    /// What the registry of its region says.
    pub(crate) async fn say(&self, clock: &Clock, index: u64, change: OwnChange) {
        let incarnation = Incarnation { counter: 1, random: 1 };
        self.handle.own(Own { incarnation, index, proven: Some(clock()), change }).await.unwrap();
    }

    /// Takes news until what was told satisfies the condition.
    pub(crate) async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let waited = tokio::time::timeout(PATIENCE, async {
            while !holds(self) {
                let batch = self.running.news().next().await;
                for (origin, changed) in batch.changed {
                    self.changed.insert(origin, changed);
                }
                for (origin, (standing, _)) in batch.standing {
                    self.standing.insert(origin, standing);
                }
            }
        });
        assert!(
            waited.await.is_ok(),
            "{what}: not in {PATIENCE:?}; links {:?}",
            self.handle.overview().links
        );
    }

    pub(crate) async fn until_held(&mut self, origin: &str, index: u64) {
        let (what, of) = (format!("{origin} at {index}"), region(origin));
        self.until(&what, |p| p.place(&of).is_some_and(|place| place.index >= index)).await;
    }

    pub(crate) fn place(&self, origin: &RegionName) -> Option<Place> {
        Some(self.changed.get(origin)?.head.head.version.place())
    }

    /// What is held of a service.
    pub(crate) fn get(&self, origin: &str, n: usize) -> Option<Bytes> {
        self.changed.get(&region(origin))?.state.get(&service_key(n)).cloned()
    }

    /// Links that are up.
    pub(crate) fn links(&self) -> usize {
        let peers = self.handle.figures().peers();
        peers.iter().map(|(_, figures)| figures.connected.get() as usize).sum()
    }

    /// Links that came up since the start, to one region.
    pub(crate) fn opened(&self, of: &str) -> u64 {
        self.figure(of, |f| f.opened.get())
    }

    pub(crate) fn figure(&self, of: &str, get: impl Fn(&service::figures::PeerFigures) -> u64) -> u64 {
        let of = region(of);
        self.handle.figures().peers().iter().find(|(region, _)| *region == of).map_or(0, |(_, f)| get(f))
    }

    pub(crate) async fn stop(self) -> Image {
        self.running.stop().await.unwrap()
    }
}

/// A cable between two processes, with a port of its own: what goes through is counted, and it can be cut.
pub(crate) struct Cable {
    pub(crate) address: SocketAddr,
    whole: watch::Sender<bool>,
    /// Connections that were made through it.
    pub(crate) made: Arc<AtomicU64>,
    /// Of these, those that ended.
    pub(crate) ended: Arc<AtomicU64>,
}

impl Cable {
    pub(crate) async fn to(far: SocketAddr) -> Self {
        let Bound { listener, address } = bind().await;
        let (whole, cut) = watch::channel(true);
        let [made, ended] = [(), ()].map(|()| Arc::new(AtomicU64::new(0)));
        let (begins, ends) = (Arc::clone(&made), Arc::clone(&ended));
        tokio::spawn(async move {
            let mut running = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                let mut cut = cut.clone();
                if !*cut.borrow_and_update() {
                    continue;
                }
                begins.fetch_add(1, Ordering::Relaxed);
                let ends = Arc::clone(&ends);
                running.spawn(async move {
                    let Ok(mut far) = TcpStream::connect(far).await else { return };
                    tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => {}
                        _ = cut.wait_for(|whole| !whole) => {}
                    }
                    ends.fetch_add(1, Ordering::Relaxed);
                });
            }
        });
        Self { address, whole, made, ended }
    }

    pub(crate) fn cut(&self) {
        self.whole.send_replace(false);
    }

    pub(crate) fn mend(&self) {
        self.whole.send_replace(true);
    }
}

/// Runs for as long as the other does, and ends with it.
pub(crate) async fn beside<T>(
    background: impl Future<Output = ()>,
    foreground: impl Future<Output = T>,
) -> T {
    tokio::select! {
        biased;
        done = foreground => done,
        () = async { background.await; std::future::pending::<()>().await } => unreachable!("it waits"),
    }
}
