//! Who is not let in, and that it costs nobody else anything.

use crate::world::{Process, World, bind, eventually, name, new_authority, peers, record};
use meridian_federation::exchange::OwnChange;
use meridian_federation::service::{self, StartError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// Two linked regions, and the address at which the first can be bothered.
async fn pair(world: &World) -> (Process, Process, std::net::SocketAddr) {
    let eu = bind().await;
    let address = eu.address;
    let eu = world.start("eu/node/a", Some(eu), Vec::new(), vec![record(1, "one")]).await;
    let mut us = world.start("us/node/a", None, peers(&[("eu", address)]), Vec::new()).await;
    us.until_held("eu", 1).await;
    (eu, us, address)
}

/// That the link between the two is the one that was there before, and works.
async fn unharmed(world: &World, eu: &Process, us: &mut Process) {
    eu.say(&world.clock, 2, OwnChange::All(vec![record(1, "two")])).await;
    us.until_held("eu", 2).await;
    assert_eq!((eu.opened("us"), eu.links()), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_and_plain_http_end_at_the_handshake() {
    let world = World::default();
    let (eu, mut us, address) = pair(&world).await;
    let garbage: Vec<u8> = (0..100_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    let plain = b"POST /meridian.federation.v1.Federation/Exchange HTTP/1.1\r\nhost: x\r\n\r\n".to_vec();
    let hello = vec![0x16, 0x03, 0x01, 0x40, 0x00, 0x01, 0x00, 0x3f, 0xfc];
    for (n, bytes) in [garbage, preface, plain, hello, Vec::new()].into_iter().enumerate() {
        let mut stranger = TcpStream::connect(address).await.unwrap();
        // The other side may be gone before all is written.
        let _ = stranger.write_all(&bytes).await;
        let _ = stranger.shutdown().await;
        let _ = stranger.read_to_end(&mut Vec::new()).await;
        eventually("the stranger is counted", || eu.handle.figures().strangers.get() == n as u64 + 1).await;
    }
    unharmed(&world, &eu, &mut us).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_only_opens_connections_keeps_nobody_out() {
    let world = World::default();
    let (eu, mut us, address) = pair(&world).await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        // All of 127.0.0.0/8 is this machine: another address than the peers'.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        silent.push(socket.connect(address).await.unwrap());
    }
    let begun = Instant::now();
    let newcomer = world.start("jp/node/a", None, peers(&[("eu", address)]), Vec::new()).await;
    eventually("the newcomer is let in", || newcomer.links() == 1).await;
    // Less than a silent handshake is waited for.
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    drop(silent);
    eu.say(&world.clock, 2, OwnChange::All(vec![record(1, "two")])).await;
    us.until_held("eu", 2).await;
    assert_eq!(eu.opened("us"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_another_authority_is_none() {
    let world = World::default();
    let (eu, mut us, address) = pair(&world).await;
    let other = new_authority();
    // It believes our authority, but its own certificate is by another.
    let mut config = world.config("mm/node/a", None, peers(&[("eu", address)]));
    let both = format!("{}{}", world.authority.certificate(), other.certificate());
    config.files = world.files_by(&other, "mm/node/a", &both);
    let mallory = Process::start(config);
    eventually("refused", || eu.handle.figures().strangers.get() >= 2).await;
    assert_eq!(mallory.links(), 0);
    unharmed(&world, &eu, &mut us).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_is_who_its_certificate_says_and_not_whom_the_url_is_listed_for() {
    let world = World::default();
    let (eu, mut us, address) = pair(&world).await;
    // The configuration says that eu's URL is one of ap's nodes.
    let third = world.start("jp/node/a", None, peers(&[("ap", address)]), Vec::new()).await;
    eventually("refused", || third.figure("ap", |f| f.dial_failures.get()) >= 2).await;
    assert_eq!(third.links(), 0);
    unharmed(&world, &eu, &mut us).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_of_another_region_is_refused() {
    let world = World::default();
    let (eu, mut us, address) = pair(&world).await;
    // Were its own configuration to allow it, the other end would not: the region that it says is the node's.
    let mut config = world.config("us/gateway/g", None, peers(&[("eu", address)]));
    assert!(
        matches!(service::start(config), Err(StartError::Abroad(abroad)) if abroad == name("eu/node/a").region)
    );
    config = world.config("us/gateway/g", None, peers(&[("us", address)]));
    let gateway = Process::start(config);
    eventually("refused", || gateway.figure("us", |f| f.dial_failures.get()) >= 2).await;
    assert_eq!(gateway.links(), 0);
    unharmed(&world, &eu, &mut us).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_starts_only_as_who_it_is() {
    let world = World::default();
    let mut config = world.config("eu/node/a", None, Vec::new());
    config.files = world.files("us/node/a");
    assert!(matches!(service::start(config), Err(StartError::Name { .. })));
    let mut config = world.config("eu/node/a", None, Vec::new());
    config.files = world.files("eu/gateway/a");
    assert!(matches!(service::start(config), Err(StartError::Name { .. })));
}
