//! The world: regions, the place where they stand, and who asks what in them.

use crate::{CATALOG, LEDGER, ORDERS, PACE, SLACK};
use meridian_federation::service::certificates::{Authority, KeyKind, Lifetime};
use meridian_federation::service::material::Files;
use meridian_federation::service::name::{PeerName, Station};
use meridian_registry::testing::RealEtcd;
use meridian_tests::client::{Client, registration};
use meridian_tests::etcd::EtcdProcess;
use meridian_tests::federation::FederationProcess;
use meridian_tests::figures;
use meridian_tests::gateway::{GatewayProcess, etcd};
use meridian_tests::home::Home;
use meridian_tests::load::Load;
use meridian_tests::patience::until;
use meridian_tests::place::Place;
use meridian_tests::tokens::Issuer;
use meridian_tests::workload::Workload;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};
use tempfile::TempDir;
use toml::Table;

/// The regions, by position.
pub(crate) const REGIONS: [&str; 3] = ["ap-south-1", "eu-west-1", "us-east-1"];
pub(crate) const AP: usize = 0;
pub(crate) const EU: usize = 1;
pub(crate) const US: usize = 2;

/// Seconds of every lease, heartbeats each third of it.
pub(crate) const TTL: u64 = 3;
/// Longest that three regions may take to know each other after their start.
const MEETING: Duration = Duration::from_secs(30);

/// After a fault, everything is as it should be within this (DESIGN 8).
pub(crate) const HEALED: Duration = Duration::from_secs(10);

/// A region that was stale or drained proves itself for 5 s and gets its traffic back in 5 steps of 4 s.
pub(crate) const RAMPED: Duration = Duration::from_secs(5 + 5 * 4 + 1);

/// A further gateway of a region has a certificate of this name.
const SECOND_GATEWAY: &str = "second";

/// A region's etcd, by where it runs.
pub(crate) enum Registry {
    Loopback(RealEtcd),
    Namespace(EtcdProcess),
}

impl Registry {
    async fn start(home: &Home) -> Self {
        if home.is_loopback() {
            return Self::Loopback(tokio::task::spawn_blocking(RealEtcd::start).await.unwrap());
        }
        Self::Namespace(EtcdProcess::started(home).await)
    }

    fn endpoints(&self) -> Vec<String> {
        match self {
            Self::Loopback(etcd) => etcd.endpoints(),
            Self::Namespace(etcd) => etcd.endpoints(),
        }
    }

    /// The one on loopback, which can be set back.
    pub(crate) fn real(&mut self) -> &mut RealEtcd {
        match self {
            Self::Loopback(etcd) => etcd,
            Self::Namespace(_) => panic!("registries are set back on loopback"),
        }
    }

    pub(crate) fn kill(&mut self) {
        match self {
            Self::Loopback(etcd) => etcd.stop(),
            Self::Namespace(etcd) => etcd.kill(),
        }
    }

    pub(crate) async fn start_again(&mut self) {
        match self {
            Self::Loopback(etcd) => etcd.start_again(),
            Self::Namespace(etcd) => etcd.start().await,
        }
    }

    pub(crate) fn pause(&self) {
        match self {
            Self::Loopback(etcd) => etcd.pause(),
            Self::Namespace(etcd) => etcd.pause(),
        }
    }

    pub(crate) fn resume(&self) {
        match self {
            Self::Loopback(etcd) => etcd.resume(),
            Self::Namespace(etcd) => etcd.resume(),
        }
    }
}

/// One region. It ends before its registry.
pub(crate) struct Region {
    pub(crate) gateway: GatewayProcess,
    pub(crate) node: FederationProcess,
    pub(crate) etcd: Registry,
}

impl Region {
    /// Everything in it is gone at once; its data stay.
    pub(crate) fn kill(&mut self) {
        self.gateway.kill();
        self.node.kill();
        self.etcd.kill();
    }

    pub(crate) async fn start_again(&mut self) {
        self.etcd.start_again().await;
        self.node.start().await;
        self.gateway.start().await;
    }
}

/// All regions and what connects them. They end before their place.
pub(crate) struct World {
    pub(crate) regions: Vec<Region>,
    pub(crate) place: Place,
    issuer: Issuer,
    certificates: TempDir,
}

/// The zones of a region; each holds one instance of a service, of the same name.
fn zones(region: usize) -> [String; 2] {
    ["a", "b"].map(|zone| format!("{}{zone}", REGIONS[region]))
}

pub(crate) fn tls(directory: &Path, name: &str) -> Table {
    let path = |name: String| directory.join(name).display().to_string().into();
    Table::from_iter([
        ("certificate".to_owned(), path(format!("{name}.pem"))),
        ("key".to_owned(), path(format!("{name}.key"))),
        ("ca".to_owned(), path("ca.pem".to_owned())),
    ])
}

/// The same for a node in this process.
pub(crate) fn files(directory: &Path, name: &str) -> Files {
    Files {
        certificate: directory.join(format!("{name}.pem")),
        key: directory.join(format!("{name}.key")),
        ca: directory.join("ca.pem"),
    }
}

/// One authority, and a certificate for each node and gateway.
pub(crate) fn certificates() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: String, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    let lifetime = Lifetime::starting(SystemTime::now(), Duration::from_secs(24 * 3600));
    let authority = Authority::new("tests", lifetime).unwrap();
    write("ca.pem".to_owned(), authority.certificate());
    for region in REGIONS {
        for (station, word) in
            [(Station::Node, "node"), (Station::Gateway, "gateway"), (Station::Gateway, SECOND_GATEWAY)]
        {
            let name = PeerName {
                domain: "tests.meridian".into(),
                region: region.parse().unwrap(),
                station,
                id: format!("{word}-1").into(),
            };
            let issued = authority.issue(&name, KeyKind::default(), lifetime).unwrap();
            write(format!("{region}-{word}.pem"), &issued.certificate);
            write(format!("{region}-{word}.key"), &issued.key);
        }
    }
    directory
}

impl World {
    /// Three regions on loopback that know each other.
    pub(crate) async fn start() -> Self {
        Self::start_in(Place::on_loopback(REGIONS.len()).await).await
    }

    /// The same in network namespaces, where what is cut is lost.
    pub(crate) async fn apart() -> Self {
        Self::start_in(Place::in_namespaces(REGIONS.len())).await
    }

    async fn start_in(place: Place) -> Self {
        let (issuer, certificates) = (Issuer::init(), certificates());
        let region = async |at: usize| {
            let home = place.home(at);
            let etcd_process = Registry::start(&home).await;
            let registry = etcd(&etcd_process.endpoints());
            let others = (0..REGIONS.len()).filter(|to| *to != at);
            let peers: Vec<(String, Vec<String>)> = others
                .map(|to| (REGIONS[to].to_owned(), vec![format!("https://{}", place.dials(at, to))]))
                .collect();
            let of = |word: &str| tls(certificates.path(), &format!("{}-{word}", REGIONS[at]));
            let mut node =
                FederationProcess::of(REGIONS[at], &zones(at), registry.clone(), &peers, of("node"))
                    .at(&home, place.listens(at));
            node.start().await;
            let gateway = GatewayProcess::of(REGIONS[at], &zones(at), &issuer, registry)
                .at(&home)
                .with("federation", "nodes", vec![format!("https://{}", node.address())])
                .with("federation", "tls", of("gateway"))
                .started()
                .await;
            Region { gateway, node, etcd: etcd_process }
        };
        let (ap, eu, us) = tokio::join!(region(AP), region(EU), region(US));
        let regions = vec![ap, eu, us];
        for (at, region) in regions.iter().enumerate() {
            place.found(at, region.node.address());
        }
        let world = Self { regions, place, issuer, certificates };
        let took = world.settled("the regions meet", MEETING).await;
        println!("the regions know each other {took:?} after the last has started");
        world
    }

    /// Another gateway of a region, which refuses what other regions told when nothing proved it for `max_age`.
    pub(crate) async fn impatient(&self, at: usize, max_age: Duration) -> GatewayProcess {
        let region = &self.regions[at];
        let tls = tls(self.certificates.path(), &format!("{}-{SECOND_GATEWAY}", REGIONS[at]));
        GatewayProcess::of(REGIONS[at], &zones(at), &self.issuer, etcd(&region.etcd.endpoints()))
            .at(&self.place.home(at))
            .with("federation", "nodes", vec![format!("https://{}", region.node.address())])
            .with("federation", "tls", tls)
            .with("lookups", "max_remote_age", format!("{}s", max_age.as_secs()))
            .started()
            .await
    }

    pub(crate) fn address(&self, at: usize) -> SocketAddr {
        self.regions[at].gateway.address()
    }

    /// Waits until a gateway has on disk what it knows now, of its own region and of others.
    pub(crate) async fn all_is_on_disk(&self, at: usize) {
        let client = self.client(at);
        let elsewhere = if at == EU { US } else { EU };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64() * 1_000.0;
        // A save may have begun before the latest news. Whatever the first of these two found known is in the second.
        for news in [1, 2].map(|n| format!("news-{n}-of-{}", REGIONS[at])) {
            let saves = figures::one(&client, "meridian_federation_saves_total").await;
            let _ = self
                .owner(elsewhere, &news)
                .register(&news, "n", &registration(&zones(elsewhere)[0], 1))
                .await
                .expect(201);
            until("other regions are on disk", Duration::from_secs(10), async || {
                client.resolve(&news, "").await.status == 200
                    && figures::one(&client, "meridian_federation_saves_total").await > saves
            })
            .await;
        }
        until("the own region is on disk", Duration::from_secs(15), async || {
            figures::one(&client, "meridian_disk_saved_at_milliseconds").await > now
        })
        .await;
    }

    /// A client of a region's gateway without a token.
    pub(crate) fn client(&self, at: usize) -> Client {
        self.regions[at].gateway.client()
    }

    pub(crate) fn owner(&self, at: usize, service: &str) -> Client {
        self.client(at).bearing(&self.issuer.workload(service))
    }

    pub(crate) fn operator(&self, at: usize) -> Client {
        self.client(at).bearing(&self.issuer.operator())
    }

    /// One instance in each zone of a region, called as the zone, that beats at the region's gateway.
    pub(crate) async fn workloads(&self, at: usize, service: &str) -> Vec<Workload> {
        let token = self.issuer.workload(service);
        let mut workloads = Vec::new();
        for zone in zones(at) {
            workloads.push(Workload::start(&[self.address(at)], &token, service, &zone, &zone, TTL).await);
        }
        workloads
    }

    /// The same in every region.
    pub(crate) async fn everywhere(&self, service: &str) -> Vec<Vec<Workload>> {
        let mut all = Vec::new();
        for at in 0..REGIONS.len() {
            all.push(self.workloads(at, service).await);
        }
        all
    }

    /// Waits until every gateway knows of so many healthy instances in all regions.
    pub(crate) async fn know_of(&self, instances: usize) {
        until("all regions know of all instances", Duration::from_secs(10), async || {
            for at in 0..REGIONS.len() {
                let healthy: u64 = self.shown(at).await.values().filter_map(|r| r["healthy"].as_u64()).sum();
                if usize::try_from(healthy).unwrap() != instances {
                    return false;
                }
            }
            true
        })
        .await;
    }

    /// What each gateway's lookups of a service come to, from now on.
    pub(crate) fn load(&self, at: usize, service: &str) -> Load {
        Load::start(&[self.address(at)], &format!("/v1/resolve/{service}"), PACE)
    }

    /// `GET /v1/regions` of a gateway, by name.
    pub(crate) async fn shown(&self, at: usize) -> BTreeMap<String, Value> {
        let answer = self.client(at).get("/v1/regions").await.expect(200);
        let items = answer["items"].as_array().unwrap();
        items.iter().map(|item| (item["region"].as_str().unwrap().to_owned(), item.clone())).collect()
    }

    /// How one region's gateway shows another region.
    pub(crate) async fn standing(&self, at: usize, of: usize) -> Value {
        self.client(at).get(&format!("/v1/regions/{}", REGIONS[of])).await.expect(200).json
    }

    /// Waits until every region shows every other as fresh, reachable and with all of its traffic.
    pub(crate) async fn settled(&self, what: &str, within: Duration) -> Duration {
        self.all_show(what, within, |shown| {
            shown["freshness"] == "fresh" && shown["reachable"] == true && shown["ramp"] == 1_000
        })
        .await
    }

    /// Waits until every region shows every other so.
    pub(crate) async fn all_show(
        &self,
        what: &str,
        within: Duration,
        so: impl Fn(&Value) -> bool,
    ) -> Duration {
        until(what, within, async || {
            for at in 0..REGIONS.len() {
                let shown = self.shown(at).await;
                if shown.len() != REGIONS.len() || !shown.values().all(&so) {
                    return false;
                }
            }
            true
        })
        .await
    }

    /// The same; the regions of `pairs`, second of each, must have been given their traffic back in steps on the way.
    pub(crate) async fn settled_in_steps(&self, pairs: &[(usize, usize)], within: Duration) -> Duration {
        let mut least: BTreeMap<(usize, usize), u64> = BTreeMap::new();
        let took = until("all have their traffic again", within, async || {
            let mut settled = true;
            for at in 0..REGIONS.len() {
                let shown = self.shown(at).await;
                for (of, name) in REGIONS.iter().enumerate() {
                    let ramp = shown[*name]["ramp"].as_u64().unwrap_or(0);
                    let known = least.entry((at, of)).or_insert(ramp);
                    *known = ramp.min(*known);
                    settled &= ramp == 1_000 && shown[*name]["freshness"] == "fresh";
                }
            }
            settled
        })
        .await;
        for (at, of) in pairs {
            let least = least[&(*at, *of)];
            assert!(least < 1_000, "{} gave {} all traffic at once", REGIONS[*at], REGIONS[*of]);
        }
        took
    }

    /// Which part of a region's lookups of a service is answered from `from`, by the plan in force.
    pub(crate) async fn share(&self, at: usize, service: &str, from: usize) -> f64 {
        let answer = self.client(at).resolve(service, "?n=all").await;
        if answer.status != 200 {
            return 0.0;
        }
        let endpoints = answer["endpoints"].as_array().unwrap().iter();
        endpoints.filter(|e| e["region"] == REGIONS[from]).filter_map(|e| e["share"].as_f64()).sum()
    }

    /// A region is cut off from all others.
    pub(crate) fn isolate(&self, at: usize) {
        (0..REGIONS.len()).filter(|other| *other != at).for_each(|other| self.place.cut(at, other));
    }
}

/// The three services with their instances.
pub(crate) struct Fleet {
    pub(crate) orders: Vec<Vec<Workload>>,
    _ledger: Vec<Workload>,
    _catalog: Vec<Workload>,
}

impl Fleet {
    /// Starts them and waits until all regions know.
    pub(crate) async fn start(world: &World) -> Self {
        let orders = world.everywhere(ORDERS).await;
        let ledger = world.workloads(AP, LEDGER).await;
        let catalog = world.workloads(EU, CATALOG).await;
        world.know_of(orders.iter().map(Vec::len).sum::<usize>() + ledger.len() + catalog.len()).await;
        Self { orders, _ledger: ledger, _catalog: catalog }
    }
}

/// Lookups of services at gateways, by what they are.
pub(crate) struct Loads(Vec<((usize, &'static str), Load)>);

impl Loads {
    pub(crate) fn start(world: &World, what: &[(usize, &'static str)]) -> Self {
        Self(what.iter().map(|(at, service)| ((*at, *service), world.load(*at, service))).collect())
    }

    /// In every region, of the service that is everywhere and of those that are far away.
    pub(crate) fn all(world: &World) -> Self {
        let mut loads = Self::far(world);
        loads.0.extend(Self::start(world, &[(AP, ORDERS), (AP, CATALOG)]).0);
        loads
    }

    /// The same without the first region, which is about to die.
    pub(crate) fn far(world: &World) -> Self {
        Self::start(world, &[(EU, ORDERS), (US, ORDERS), (EU, LEDGER), (US, LEDGER), (US, CATALOG)])
    }

    pub(crate) fn of(&self, at: usize, service: &str) -> &Load {
        &self.0.iter().find(|(what, _)| *what == (at, service)).unwrap().1
    }

    /// Ends those at one gateway, of which none may have failed, and starts them again after what is done to it.
    pub(crate) async fn without(
        &mut self,
        world: &mut World,
        at: usize,
        done: impl AsyncFnOnce(&mut Region),
    ) {
        let (ended, rest) =
            std::mem::take(&mut self.0).into_iter().partition(|((where_, _), _)| *where_ == at);
        let ended = Self(ended);
        let what: Vec<(usize, &'static str)> = ended.0.iter().map(|(what, _)| *what).collect();
        ended.check();
        done(&mut world.regions[at]).await;
        self.0 = rest;
        self.0.extend(Self::start(world, &what).0);
    }

    /// Ends them; none of their lookups may have failed.
    pub(crate) fn check(self) {
        let mut lookups = 0;
        for ((at, service), load) in self.0 {
            let report = load.stop();
            println!(
                "{} of {service}: {} lookups, {} failed, the slowest took {:?}",
                REGIONS[at], report.lookups, report.failed, report.slowest
            );
            report.check();
            lookups += report.lookups;
        }
        println!("{lookups} lookups in all");
    }
}

/// What the contract says of freshness as time goes by without news: at which age a region is called so.
pub(crate) const SUSPECT_AT: Duration = Duration::from_secs(5);
pub(crate) const STALE_AT: Duration = Duration::from_secs(30);
/// How old what is fresh may be when a silence begins: the registry's proof and the node's telling of it, a second each for the
/// beats of the next node and of its gateway, and their ways.
const BEATEN: Duration = Duration::from_millis(1_000 + 2 * 1_000 + 500);

/// How certain regions are shown to others, looked at again and again, with when each look began.
pub(crate) async fn observe(
    world: &World,
    pairs: &[(usize, usize)],
    span: Duration,
    mut each: impl FnMut(usize, usize, &Value, Instant),
) {
    let start = Instant::now();
    while start.elapsed() < span {
        for (at, of) in pairs {
            let asked = Instant::now();
            let shown = world.standing(*at, *of).await;
            each(*at, *of, &shown, asked);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Waits until all are fresh and reachable again after a silence of `span` between `pairs`, and have their traffic; where the
/// silence was long, that comes back in steps.
pub(crate) async fn returned(world: &World, pairs: &[(usize, usize)], span: Duration) {
    let began = Instant::now();
    let fresh = world.all_show("all are fresh again", HEALED + SLACK, |shown| {
        shown["freshness"] == "fresh" && shown["reachable"] == true
    });
    let steps = if span > STALE_AT { pairs } else { &[] };
    let (fresh, _) = tokio::join!(fresh, world.settled_in_steps(steps, HEALED + RAMPED + 2 * SLACK));
    println!("healed: fresh after {fresh:?}, all traffic after {:?}", began.elapsed());
}

/// What each pair is shown as during a silence of `span`, checked against what the contract says. `before` is from before the
/// silence, whose last part has begun by now.
pub(crate) async fn grow_old(world: &World, pairs: &[(usize, usize)], before: Instant, span: Duration) {
    let begun = Instant::now();
    let mut first: BTreeMap<(usize, usize, String), Duration> = BTreeMap::new();
    let mut last: BTreeMap<(usize, usize, String), Duration> = BTreeMap::new();
    observe(world, pairs, span, |at, of, shown, asked| {
        let word = (at, of, shown["freshness"].as_str().unwrap().to_owned());
        first.entry(word.clone()).or_insert(before.elapsed());
        last.insert(word, asked.saturating_duration_since(begun));
    })
    .await;
    for (at, of) in pairs {
        let word = |word: &str| (*at, *of, word.to_owned());
        let (suspect, stale) = (first.get(&word("suspect")).copied(), first.get(&word("stale")).copied());
        println!("{} shows {}: suspect after {suspect:?}, stale after {stale:?}", REGIONS[*at], REGIONS[*of]);
        // A test that stands still sees a word late. What counts is that no look began too late and saw the better one.
        let in_time = |better: &[&str], bound: Duration| {
            better.iter().filter_map(|better| last.get(&word(better))).all(|asked| *asked <= bound + SLACK)
        };
        // What was proven last may be a while ago when the silence begins, and no longer.
        let not_early =
            |when: Option<Duration>, bound: Duration| when.is_some_and(|when| when + BEATEN >= bound);
        let (of, told) = (REGIONS[*of], format!("first {first:?}, last {last:?}"));
        assert!(not_early(suspect, SUSPECT_AT), "{of} is not suspect, or too early: {told}");
        assert!(in_time(&["fresh"], SUSPECT_AT), "{of} is suspect too late: {told}");
        if span > STALE_AT {
            assert!(not_early(stale, STALE_AT), "{of} is not stale, or too early: {told}");
            assert!(in_time(&["fresh", "suspect"], STALE_AT), "{of} is stale too late: {told}");
        } else {
            assert_eq!(stale, None, "{of} is called stale too early: {told}");
        }
    }
}
