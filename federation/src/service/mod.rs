//! The exchange as a service: gRPC over mutual TLS, one link for each peer, and one task that drives.
//!
//! ```text
//!  peer ◀─ TLS ─▶ connection ◀─ HTTP/2 ─▶ link: reads, decodes, judges ──▶ driver: the exchange ──▶ news, overview
//!                                            ▲ bounded queue of each link ◀──┘        ▲ own, export
//! ```
//!
//! A peer is known by the SPIFFE ID of its certificate and by nothing else ([`name`]). What it does wrong, and how slowly
//! it reads, costs its own link: everything between a socket and the driver belongs to one link and is bounded
//! (`limits`).

mod accept;
pub mod certificates;
mod connection;
mod credential;
mod dial;
mod driver;
pub mod figures;
#[cfg(test)]
mod hostile;
mod limits;
mod link;
pub mod material;
pub mod name;
pub mod news;
mod places;
#[cfg(test)]
mod rig;
mod signing;
mod tls;
pub mod trust;
mod wire;

pub use dial::{BadUrl, PeerUrl};
pub use figures::Figures;
pub use link::Side;
pub use news::News;
pub use tls::PeerError;

use crate::exchange::limits::Limits;
use crate::exchange::{Counters, Exchange, Image, Own, Role, Settings, Standing};
use accept::Doorway;
use arc_swap::ArcSwap;
use dial::{Claims, Dialler};
use driver::{Driver, Input, Links};
use material::{Files, Followed, LOOK_EVERY, MaterialError, Reloaded};
use meridian_model::names::RegionName;
use meridian_model::time::Monotonic;
use name::{PeerName, Station};
use news::Teller;
use rustls_pki_types::UnixTime;
use signing::{HeadVerifier, NodeSigner, TakenUp};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tls::Expected;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The process's monotonic clock, the one that [`Own::proven`] is told by. It goes on while the machine sleeps.
pub type Clock = Arc<dyn Fn() -> Monotonic + Send + Sync>;

/// What the service is started with.
pub struct Config {
    /// The region; the certificate must be of it.
    pub region: RegionName,
    /// What this process is; the certificate must say so.
    pub station: Station,
    /// Certificate, key and authorities.
    pub files: Files,
    /// Where links are accepted. Gateways accept none.
    pub listener: Option<TcpListener>,
    /// Who is dialled: for a node, nodes of any region, its own included; for a gateway, those of its own.
    pub peers: Vec<PeerUrls>,
    /// The clock.
    pub clock: Clock,
    /// What was held when the process ended, and how long ago that was by the wall clock, if that can be told.
    pub kept: Option<(Image, Option<Duration>)>,
}

/// The nodes of one region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerUrls {
    /// Whose nodes they must be, by their certificates.
    pub region: RegionName,
    /// A link is kept to each.
    pub urls: Vec<PeerUrl>,
}

/// Why the service does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// Certificate, key or authorities cannot be used.
    #[error(transparent)]
    Material(#[from] MaterialError),
    /// They are somebody else's.
    #[error("the certificate is for {name}, the configuration for a {station:?} of {region}")]
    Name {
        /// Whose.
        name: PeerName,
        /// The configured region.
        region: RegionName,
        /// The configured station.
        station: Station,
    },
    /// A gateway that is to dial another region.
    #[error("a gateway subscribes to nodes of its own region, not of {0}")]
    Abroad(RegionName),
    /// More URLs than links are allowed.
    #[error("{0} peer URLs, {max} at most", max = limits::URLS)]
    TooManyUrls(usize),
    /// The name is no node id.
    #[error("the id in {0} is outside the grammar")]
    Id(PeerName),
}

/// How all origins stand and who is linked, as it was at one moment; renewed every second and when a standing or link changes.
#[derive(Clone, Debug, Default)]
pub struct Overview {
    /// When. An origin's age is what stands here and the time since.
    pub at: Monotonic,
    /// By origin.
    pub standings: BTreeMap<RegionName, Standing>,
    /// What the exchange counted.
    pub counters: Counters,
    /// Links that are up.
    pub links: Vec<LinkView>,
}

/// A link that is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkView {
    /// By its certificate.
    pub peer: PeerName,
    /// Where it is.
    pub address: SocketAddr,
    /// Who opened it.
    pub side: Side,
    /// Messages that wait to be sent.
    pub queued: usize,
}

/// The service ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the federation service ended")]
pub struct Ended;

/// What the process around the service talks to. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    inputs: mpsc::Sender<Input>,
    overview: Arc<ArcSwap<Overview>>,
    figures: Arc<Figures>,
}

impl Handle {
    /// Tells what the own registry says. Waits while the driver is busy.
    ///
    /// # Errors
    /// If the service ended.
    pub async fn own(&self, own: Own) -> Result<(), Ended> {
        self.inputs.send(Input::Own(own)).await.map_err(|_| Ended)
    }

    /// What is to be kept on disk. Cheap: records are shared.
    ///
    /// # Errors
    /// If the service ended.
    pub async fn export(&self) -> Result<Image, Ended> {
        let (answer, image) = oneshot::channel();
        self.inputs.send(Input::Export(answer)).await.map_err(|_| Ended)?;
        image.await.map_err(|_| Ended)
    }

    /// How all stands. Never waits.
    #[must_use]
    pub fn overview(&self) -> Arc<Overview> {
        self.overview.load_full()
    }

    /// What is counted.
    #[must_use]
    pub fn figures(&self) -> &Arc<Figures> {
        &self.figures
    }
}

/// The service, until it is stopped.
pub struct Running {
    handle: Handle,
    news: News,
    name: PeerName,
    left_out: usize,
    driver: JoinHandle<Image>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Running {
    /// What the process talks to.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// What the exchange tells; it has one reader.
    pub fn news(&mut self) -> &mut News {
        &mut self.news
    }

    /// Who this process is in the federation.
    #[must_use]
    pub fn name(&self) -> &PeerName {
        &self.name
    }

    /// Origins of the kept image whose signatures are not believed any more.
    #[must_use]
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// Ends all links and tasks within moments, and gives what is to be kept.
    pub async fn stop(self) -> Option<Image> {
        self.stop.cancel();
        let image = self.driver.await.ok();
        self.tasks.close();
        self.tasks.wait().await;
        image
    }
}

/// Opens the files, takes over what was kept, and begins to dial and accept.
///
/// # Errors
/// What makes starting pointless. A peer that does not answer is no reason.
pub fn start(config: Config) -> Result<Running, StartError> {
    let Config { region, station, files, listener, peers, clock, kept } = config;
    let followed = Arc::new(Followed::open(files, UnixTime::now())?);
    let name = followed.current().name.clone();
    if name.region != region || name.station != station {
        return Err(StartError::Name { name, region, station });
    }
    let urls: usize = peers.iter().map(|peer| peer.urls.len()).sum();
    if urls > limits::URLS {
        return Err(StartError::TooManyUrls(urls));
    }
    if let Some(abroad) = peers.iter().find(|peer| station == Station::Gateway && peer.region != region) {
        return Err(StartError::Abroad(abroad.region.clone()));
    }
    let taken_up = TakenUp::new(Arc::clone(&followed.current()));
    let mut exchange = Exchange::new(Settings {
        region: region.clone(),
        node: name.id.parse().map_err(|_| StartError::Id(name.clone()))?,
        role: match station {
            Station::Node => Role::Node(Box::new(NodeSigner::new(taken_up.clone()))),
            Station::Gateway => Role::Leaf,
        },
        verifier: Arc::new(HeadVerifier::new(Arc::clone(&followed))),
        entropy: entropy(),
        limits: Limits::default(),
    });
    let left_out = match kept {
        None => 0,
        Some((image, elapsed)) => exchange.import(clock(), image, elapsed),
    };

    let figures = Arc::new(Figures::default());
    let (inputs, inbox) = mpsc::channel(limits::INBOX);
    let (linked, linked_names) = watch::channel(BTreeSet::new());
    let overview = Arc::new(ArcSwap::from_pointee(Overview::default()));
    let (tasks, stop, teller) = (TaskTracker::new(), CancellationToken::new(), Teller::default());
    let news = teller.news();

    // Every task of the service that lives as long as it does begins here; those of a connection begin where it does.
    let expected = match station {
        Station::Node => Expected::NodeOrOwnGateway(region.clone()),
        Station::Gateway => Expected::NodeOf(region.clone()),
    };
    let driver = Driver {
        exchange,
        inbox,
        clock,
        followed: Arc::clone(&followed),
        taken_up,
        figures: Arc::clone(&figures),
        teller,
        overview: Arc::clone(&overview),
        linked,
        expected: expected.clone(),
        stop: stop.clone(),
        links: Links::default(),
    };
    let driver = tokio::spawn(driver.run());
    if let Some(listener) = listener {
        let doorway = Doorway {
            region: region.clone(),
            followed: Arc::clone(&followed),
            figures: Arc::clone(&figures),
            driver: inputs.clone(),
            expected,
            tasks: tasks.clone(),
            stop: stop.clone(),
        };
        tasks.spawn(doorway.run(listener));
    }
    let claims = Claims::default();
    for peer in peers {
        for url in peer.urls {
            let dialler = Dialler {
                region: peer.region.clone(),
                url,
                followed: Arc::clone(&followed),
                figures: Arc::clone(&figures),
                driver: inputs.clone(),
                linked: linked_names.clone(),
                claims: claims.clone(),
            };
            tasks.spawn(stop.clone().run_until_cancelled_owned(dialler.run()));
        }
    }
    let follow = follow(followed, Arc::clone(&figures), inputs.clone());
    tasks.spawn(stop.clone().run_until_cancelled_owned(follow));

    let handle = Handle { inputs, overview, figures };
    Ok(Running { handle, news, name, left_out, driver, tasks, stop })
}

/// Looks at the certificate files every [`LOOK_EVERY`].
async fn follow(followed: Arc<Followed>, figures: Arc<Figures>, driver: mpsc::Sender<Input>) {
    loop {
        let ends = followed.current().ends(UnixTime::now()).map_or(0, |ends| ends.as_secs());
        figures.certificate_ends.set(ends);
        tokio::time::sleep(LOOK_EVERY).await;
        let files = Arc::clone(&followed);
        // Disks may be slow or remote.
        let looked = tokio::task::spawn_blocking(move || files.look(UnixTime::now())).await;
        match looked {
            Ok(Some(Reloaded::Changed)) => {
                figures.reloads.add(1);
                tracing::info!(name = %followed.current().name, "certificates reloaded");
                if driver.send(Input::Reloaded).await.is_err() {
                    return;
                }
            }
            Ok(Some(Reloaded::Failed(error))) => {
                figures.failed_reloads.add(1);
                tracing::error!(%error, "new certificate files cannot be used; the old ones stay in force");
            }
            Ok(Some(Reloaded::Recovered)) => tracing::info!("the certificate files can be used again"),
            Ok(None) | Err(_) => {}
        }
    }
}

/// Where nonces and timers begin. A system without randomness gets the clock: nonces need not be secret, since they come
/// back over the link that they went out on.
fn entropy() -> u64 {
    getrandom::u64().unwrap_or_else(|_| UnixTime::now().as_secs())
}
