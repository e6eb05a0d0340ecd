//! Peers with a good certificate and bad manners: each costs its own link, and nobody else notices.

use super::certificates::{Authority, KeyKind};
use super::figures::PeerFigures;
use super::limits;
use super::material::Material;
use super::rig::{authority, files, lifetime, name, node, write};
use super::tls::Expected;
use super::wire::proto::federation_client::FederationClient;
use super::wire::proto::message::Body;
use super::wire::{WIRE_BYTES, encode, proto};
use super::{Clock, Config, Handle, PeerUrls, Running, dial, start};
use crate::exchange::head::{Head, Root, SignedHead, Version};
use crate::exchange::message::{Basis, Message, Opening, Record, RecordKey, Update};
use crate::exchange::{Own, OwnChange};
use bytes::Bytes;
use meridian_model::incarnation::Incarnation;
use meridian_model::names::{RegionName, ServiceKey};
use meridian_model::time::Monotonic;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

const PATIENCE: Duration = Duration::from_secs(30);

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what}: not in {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn region(text: &str) -> RegionName {
    text.parse().unwrap()
}

fn key(n: usize) -> RecordKey {
    RecordKey::Service(ServiceKey::new("prod".parse().unwrap(), format!("s{n}").parse().unwrap()))
}

/// `eu` with one good peer, `us`, and room for others.
struct Victim {
    authority: Authority,
    clock: Clock,
    eu: Running,
    us: Running,
    address: SocketAddr,
    index: u64,
    _dirs: [TempDir; 2],
}

impl Victim {
    async fn new() -> Self {
        let (authority, begun) = (authority(), Instant::now());
        let clock: Clock = Arc::new(move || Monotonic(1_000).plus(begun.elapsed()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let process = |short: &str, dir: &TempDir, listener, peers| {
            let issued = authority.issue(&name(short), KeyKind::EcdsaP256, lifetime()).unwrap();
            write(dir.path(), &issued, authority.certificate());
            let (region, station) = (name(short).region, name(short).station);
            let (files, clock) = (files(dir.path()), Arc::clone(&clock));
            start(Config { region, station, files, listener, peers, clock, kept: None }).unwrap()
        };
        let to_eu = vec![PeerUrls {
            region: region("eu"),
            urls: vec![format!("https://{address}").parse().unwrap()],
        }];
        let eu = process("eu/node/a", &dirs[0], Some(listener), Vec::new());
        let us = process("us/node/a", &dirs[1], None, to_eu);
        let mut victim = Self { authority, clock, eu, us, address, index: 0, _dirs: dirs };
        // More than a window of a reader who does not read.
        let all = (0..400).map(|n| Record { key: key(n), bytes: vec![0u8; 1_000].into() }).collect();
        victim.say(OwnChange::All(all)).await;
        victim
    }

    fn handle(&self) -> &Handle {
        self.eu.handle()
    }

    fn of(&self, short: &str) -> Arc<PeerFigures> {
        self.handle().figures().of(&region(short))
    }

    /// Lets the registry of `eu` say something, and waits until `us` knows.
    async fn say(&mut self, change: OwnChange) -> Duration {
        self.index += 1;
        let begun = Instant::now();
        let incarnation = Incarnation { counter: 1, random: 1 };
        let own = Own { incarnation, index: self.index, proven: Some((self.clock)()), change };
        self.handle().own(own).await.unwrap();
        let known = async {
            while self
                .us
                .news()
                .next()
                .await
                .changed
                .get(&region("eu"))
                .is_none_or(|c| c.head.head.version.index < self.index)
            {}
        };
        assert!(tokio::time::timeout(PATIENCE, known).await.is_ok(), "us was not told of {}", self.index);
        begun.elapsed()
    }

    async fn change(&mut self) -> Duration {
        let text = self.index.to_string();
        self.say(OwnChange::Some(vec![(key(0), Some(text.into()))])).await
    }

    /// That `us` is told as before, by the link that it had before.
    async fn unharmed(&mut self) {
        self.change().await;
        assert_eq!((self.of("us").opened.get(), self.of("us").connected.get()), (1, 1));
    }

    async fn enemy(&self, short: &str) -> Enemy {
        let material = node(&self.authority, short, KeyKind::EcdsaP256);
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let expected = Expected::NodeOf(region("eu"));
        let connection = dial::shake_hands(&material, expected, tcp, &Arc::default()).await.unwrap();
        // HTTP/2's default window.
        let channel = dial::channel(connection, 65_535).await.unwrap();
        let (send, queue) = mpsc::channel(64);
        let mut client = FederationClient::new(channel.clone());
        let receive = client.exchange(ReceiverStream::new(queue)).await.unwrap().into_inner();
        Enemy { material, channel, send, receive }
    }
}

/// That changes were known as soon as without the enemy. A driver that waits for it stands still for [`limits::STALLED`];
/// that one of many comes late shows no more than that the machine had other work.
fn undelayed(beside: &str, mut took: Vec<Duration>) {
    took.sort_unstable();
    let (p99, most) = (took[(took.len() - 1) * 99 / 100], took[took.len() - 1]);
    println!("beside {beside}: p99 {p99:?} of {} changes, {most:?} at most", took.len());
    assert!(p99 <= Duration::from_millis(250), "{p99:?}");
    assert!(most <= limits::STALLED / 2, "{most:?}");
}

/// A peer that does by hand what the service does in order.
struct Enemy {
    material: Material,
    channel: tonic::transport::Channel,
    send: mpsc::Sender<proto::Message>,
    receive: Streaming<proto::Message>,
}

impl Enemy {
    async fn send(&self, body: Body) {
        // The link may be closed already.
        let _ = self.send.send(proto::Message { body: Some(body) }).await;
    }

    /// How the victim ends the link.
    async fn ended(&mut self) -> Status {
        let last = async {
            loop {
                match self.receive.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return Status::ok("closed"),
                    Err(status) => return status,
                }
            }
        };
        tokio::time::timeout(PATIENCE, last).await.expect("the link is closed")
    }

    /// A head of `origin`, signed with this peer's own key.
    fn forged(&self, origin: &str, node: &str, index: u64) -> SignedHead {
        let incarnation = Incarnation { counter: 9, random: 9 };
        let version = Version { incarnation, index, root: Root([7; 32]) };
        let head = Head { origin: region(origin), node: node.parse().unwrap(), version, records: 1 };
        let signer = self.material.key.choose_scheme(&super::material::HEAD_SCHEMES).unwrap();
        let signature = signer.sign(&head.signed_bytes()).unwrap().into();
        SignedHead { head, credential: self.material.credential.clone(), signature }
    }

    async fn publish(&self, head: SignedHead) {
        let origin = head.head.origin.clone();
        let transfer = head.head.version.index;
        let opening = Some(Box::new(Opening { head, basis: Basis::Buckets((0..=255).collect()) }));
        let changed = vec![Record { key: key(0), bytes: Bytes::from_static(b"lies") }];
        let update = Update { origin, transfer, part: 0, opening, last: true, changed, removed: Vec::new() };
        let _ = self.send.send(encode(Message::Update(update))).await;
    }
}

/// It shakes hands as often as it likes and makes no link of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_only_shakes_hands_takes_few_places() {
    let mut victim = Victim::new().await;
    let before = victim.handle().figures().strangers.get();
    let material = node(&victim.authority, "xx/node/m", KeyKind::EcdsaP256);
    let mut held = Vec::new();
    for _ in 0..3 * limits::UNOPENED_OF_ONE {
        let tcp = TcpStream::connect(victim.address).await.unwrap();
        let expected = Expected::NodeOf(region("eu"));
        held.push(dial::shake_hands(&material, expected, tcp, &Arc::default()).await);
    }
    eventually("most are refused", || {
        let refused = victim.handle().figures().strangers.get() - before;
        usize::try_from(refused).unwrap() == held.len() - limits::UNOPENED_OF_ONE
    })
    .await;
    // Another one of that region is let in, and nobody else notices.
    let _other = victim.enemy("xx/node/n").await;
    victim.unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_oversize_message_closes_its_link() {
    let mut victim = Victim::new().await;
    let mut enemy = victim.enemy("xx/node/m").await;
    let digests = Bytes::from(vec![0; WIRE_BYTES]);
    enemy.send(Body::Want(proto::Want { origin: "eu".into(), digests })).await;
    let status = enemy.ended().await;
    assert!(status.message().contains("too large"), "{status:?}");
    assert_eq!(victim.of("xx").violations.get(), 1);
    victim.unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_message_closes_its_link() {
    let mut victim = Victim::new().await;
    let enemy = victim.enemy("xx/node/m").await;
    drop(enemy);
    eventually("gone", || victim.of("xx").connected.get() == 0).await;
    // The same call with another message, whose first field is text where a message is expected.
    let enemy = victim.enemy("xx/node/n").await;
    let (material, tcp) = (&enemy.material, TcpStream::connect(victim.address).await.unwrap());
    let connection =
        dial::shake_hands(material, Expected::NodeOf(region("eu")), tcp, &Arc::default()).await.unwrap();
    let mut grpc = tonic::client::Grpc::new(dial::channel(connection, 65_535).await.unwrap());
    grpc.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/meridian.federation.v1.Federation/Exchange");
    let garbage = proto::Ack { origin: "\u{7f}".repeat(9), transfer: 1, part: 2 };
    let codec = tonic_prost::ProstCodec::<proto::Ack, proto::Message>::default();
    // An end of the stream would close the link in good order.
    let messages = tonic::Request::new(tokio_stream::iter([garbage]).chain(tokio_stream::pending()));
    let receive = grpc.streaming(messages, path, codec).await.unwrap().into_inner();
    let mut garbler = Enemy { receive, ..enemy };
    let status = garbler.ended().await;
    assert!(status.message().contains("unreadable"), "{status:?}");
    victim.unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_outside_its_grammar_closes_its_link() {
    let mut victim = Victim::new().await;
    let mut enemy = victim.enemy("xx/node/m").await;
    enemy.send(Body::Ack(proto::Ack { origin: "../../etc".into(), transfer: 1, part: 1 })).await;
    assert!(enemy.ended().await.message().contains("a name outside its grammar"));
    assert_eq!(victim.of("xx").violations.get(), 1);
    victim.unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_speaks_for_another_region() {
    let mut victim = Victim::new().await;
    let mut enemy = victim.enemy("xx/node/m").await;
    // For a region that is linked, for one that nobody knows, and for the victim's own; with every node name.
    for index in 1..=20 {
        for (origin, node) in [("us", "a"), ("jp", "m"), ("eu", "m")] {
            enemy.publish(enemy.forged(origin, node, index)).await;
        }
    }
    let status = enemy.ended().await;
    assert!(status.message().contains("did not sign"), "{status:?}");
    let overview = victim.handle().overview();
    assert_eq!(overview.counters.states_taken, 0, "{overview:?}");
    assert_eq!((overview.counters.raises, victim.of("xx").violations.get()), (0, 1));
    victim.unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_publishes_nothing() {
    let mut victim = Victim::new().await;
    let mut enemy = victim.enemy("eu/gateway/g").await;
    enemy.publish(enemy.forged("eu", "g", 99)).await;
    assert!(enemy.ended().await.message().contains("a leaf publishes nothing"));
    victim.unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_carries_one_link_and_one_without_is_cut() {
    let mut victim = Victim::new().await;
    let enemy = victim.enemy("xx/node/m").await;
    eventually("linked", || victim.of("xx").connected.get() == 1).await;
    // The second stream waits: the first is all that HTTP/2 allows.
    let mut second = FederationClient::new(enemy.channel.clone());
    let (_send, queue) = mpsc::channel(1);
    let more =
        tokio::time::timeout(Duration::from_millis(300), second.exchange(ReceiverStream::new(queue))).await;
    assert!(more.is_err() || more.is_ok_and(|answer| answer.is_err()));
    assert_eq!(victim.of("xx").opened.get(), 1);

    let material = node(&victim.authority, "yy/node/m", KeyKind::EcdsaP256);
    let tcp = TcpStream::connect(victim.address).await.unwrap();
    let mut idle =
        dial::shake_hands(&material, Expected::NodeOf(region("eu")), tcp, &Arc::default()).await.unwrap();
    let begun = Instant::now();
    let mut rest = Vec::new();
    let closed = tokio::io::AsyncReadExt::read_to_end(&mut idle, &mut rest);
    assert!(tokio::time::timeout(PATIENCE, closed).await.is_ok());
    assert!(begun.elapsed() >= limits::OPEN / 2);
    victim.unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_read_loses_its_link_and_delays_nobody() {
    let mut victim = Victim::new().await;
    let enemy = victim.enemy("xx/node/m").await;
    eventually("linked", || victim.of("xx").connected.get() == 1).await;
    let held = proto::Held { origin: "eu".into(), version: None, follow: true };
    enemy.send(Body::Have(proto::Have { origins: vec![held] })).await;
    let mut took = Vec::new();
    let (begun, mut last_ping) = (Instant::now(), Instant::now());
    while victim.of("xx").overflows.get() == 0 {
        assert!(begun.elapsed() < PATIENCE, "an unread link is closed");
        // Often enough not to be silent, too seldom to fill a queue with answers.
        if last_ping.elapsed() >= Duration::from_secs(1) {
            last_ping = Instant::now();
            enemy.send(Body::Ping(proto::Ping { nonce: 1, own: None, yours: None })).await;
        }
        took.push(victim.change().await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    undelayed("a peer that does not read", took);
    assert_eq!(victim.of("xx").connected.get(), 0);
    victim.unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_is_read_slowly_and_delays_nobody() {
    let mut victim = Victim::new().await;
    let enemy = victim.enemy("xx/node/m").await;
    let Enemy { send, mut receive, .. } = enemy;
    let flood = tokio::spawn(async move {
        let ping =
            || proto::Message { body: Some(Body::Ping(proto::Ping { nonce: 1, own: None, yours: None })) };
        while send.send(ping()).await.is_ok() {}
    });
    let answers = tokio::spawn(async move { while let Ok(Some(_)) = receive.message().await {} });
    eventually("the flood", || victim.of("xx").messages_in.get() > 100).await;
    let (begun, before, mut took) = (Instant::now(), victim.of("xx").messages_in.get(), Vec::new());
    for _ in 0..50 {
        took.push(victim.change().await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let rate = (victim.of("xx").messages_in.get() - before) as f64 / begun.elapsed().as_secs_f64();
    undelayed(&format!("a flood, of which {rate:.0} messages/s are read"), took);
    let bound = f64::from(limits::RATE_MESSAGES) / limits::RATE_SPAN.as_secs_f64();
    assert!(rate <= 1.2 * bound, "{rate}");
    flood.abort();
    answers.abort();
    victim.unharmed().await;
}
