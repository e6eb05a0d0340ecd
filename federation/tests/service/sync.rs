//! What regions say reaches the others: whole, as changes, by relay, to gateways, and from disk.

use crate::world::{Cable, World, bind, eventually, peers, record, region, service_key};
use bytes::Bytes;
use meridian_federation::exchange::message::RecordKey;
use meridian_federation::exchange::{Freshness, OwnChange};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_regions_tell_each_other_all_and_then_what_changes() {
    let world = World::default();
    let (eu, us) = (bind().await, bind().await);
    let (to_eu, to_us) = (peers(&[("eu", eu.address)]), peers(&[("us", us.address)]));
    let mut eu = world.start("eu/node/a", Some(eu), to_us, vec![record(1, "one"), record(2, "two")]).await;
    let mut us = world.start("us/node/a", Some(us), to_eu, vec![record(7, "seven")]).await;
    us.until_held("eu", 1).await;
    eu.until_held("us", 1).await;
    assert_eq!(us.get("eu", 1).as_deref(), Some(&b"one"[..]));
    assert_eq!(eu.get("us", 7).as_deref(), Some(&b"seven"[..]));

    let change = vec![
        (service_key(1), Some(Bytes::from("uno"))),
        (service_key(2), None),
        (service_key(3), Some("three".into())),
    ];
    eu.say(&world.clock, 5, OwnChange::Some(change)).await;
    us.until_held("eu", 5).await;
    let texts = |n| us.get("eu", n).map(|b| String::from_utf8(b.to_vec()).unwrap());
    assert_eq!([1, 2, 3].map(texts), [Some("uno".into()), None, Some("three".into())]);
    let keys: Vec<RecordKey> = us.changed[&region("eu")].keys.iter().cloned().collect();
    assert_eq!(keys, [service_key(1), service_key(2), service_key(3)]);

    us.until("eu is fresh and near", |us| {
        us.standing.get(&region("eu")).is_some_and(|s| s.freshness == Freshness::Fresh && s.reachable)
    })
    .await;
    // Both dial, and one link carries both directions.
    eventually("one link", || eu.links() == 1 && us.links() == 1).await;
    let overview = us.handle.overview();
    assert_eq!(
        overview.links.iter().map(|l| &l.peer).collect::<Vec<_>>(),
        [&crate::world::name("eu/node/a")]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_is_cut_off_from_one_is_known_through_another() {
    let world = World::default();
    let (a, b, c) = (bind().await, bind().await, bind().await);
    let cable = Cable::to(a.address).await;
    let (from_b, from_c) = (peers(&[("aa", a.address)]), peers(&[("aa", cable.address), ("bb", b.address)]));
    let mut a = world.start("aa/node/1", Some(a), Vec::new(), vec![record(1, "one")]).await;
    let mut b = world.start("bb/node/1", Some(b), from_b, Vec::new()).await;
    let mut c = world.start("cc/node/1", Some(c), from_c, Vec::new()).await;
    b.until_held("aa", 1).await;
    c.until_held("aa", 1).await;
    eventually("the triangle", || [&a, &b, &c].iter().all(|p| p.links() == 2)).await;
    let clock = world.clock.clone();
    // The registry of aa proves itself, as a driver does.
    let handle = a.handle.clone();
    let beats = tokio::spawn(async move {
        loop {
            let own = meridian_federation::exchange::Own {
                incarnation: meridian_model::incarnation::Incarnation { counter: 1, random: 1 },
                index: 2,
                proven: Some(clock()),
                change: OwnChange::Some(vec![(service_key(1), Some("two".into()))]),
            };
            if handle.own(own).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    });
    cable.cut();
    c.until_held("aa", 2).await;
    assert_eq!(c.get("aa", 1).as_deref(), Some(&b"two"[..]));
    c.until("link-down is told from region-down", |c| {
        c.standing.get(&region("aa")).is_some_and(|s| !s.reachable && s.freshness == Freshness::Fresh)
    })
    .await;
    cable.mend();
    c.until("the link returns", |c| c.standing.get(&region("aa")).is_some_and(|s| s.reachable)).await;
    beats.abort();
    // Nobody took what they were told of themselves.
    a.until_held("bb", 1).await;
    assert!(!a.changed.contains_key(&region("aa")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_learns_of_other_regions_from_its_own() {
    let world = World::default();
    let (eu, us) = (bind().await, bind().await);
    let (to_eu, from_gateway) = (peers(&[("eu", eu.address)]), peers(&[("us", us.address)]));
    let _eu = world.start("eu/node/a", Some(eu), Vec::new(), vec![record(1, "one")]).await;
    let us_node = world.start("us/node/a", Some(us), to_eu, vec![record(2, "two")]).await;
    let mut gateway = world.start("us/gateway/g", None, from_gateway, Vec::new()).await;
    gateway.until_held("eu", 1).await;
    assert_eq!(gateway.get("eu", 1).as_deref(), Some(&b"one"[..]));
    gateway.until("the node's path", |g| g.standing.get(&region("eu")).is_some_and(|s| s.reachable)).await;
    assert!(!gateway.changed.contains_key(&region("us")), "its own region is in its registry");
    assert_eq!(us_node.links(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_held_survives_a_restart_with_all_peers_dead() {
    let world = World::default();
    let eu = bind().await;
    let to_eu = peers(&[("eu", eu.address)]);
    let eu = world.start("eu/node/a", Some(eu), Vec::new(), vec![record(1, "one")]).await;
    let mut us = world.start("us/node/a", None, to_eu.clone(), Vec::new()).await;
    us.until_held("eu", 1).await;
    let image = us.stop().await;
    eu.stop().await;
    let mut config = world.config("us/node/a", None, to_eu);
    config.kept = Some((image, Some(Duration::from_secs(60))));
    let mut us = crate::world::Process::start(config);
    us.until_held("eu", 1).await;
    assert_eq!(us.get("eu", 1).as_deref(), Some(&b"one"[..]));
    let standing = us.handle.overview().standings[&region("eu")];
    assert_eq!(standing.freshness, Freshness::Stale);
    assert!(standing.age.is_some_and(|age| age >= Duration::from_secs(60)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_restarts_is_found_again() {
    let world = World::default();
    let eu = bind().await;
    let address = eu.address;
    let first = world.start("eu/node/a", Some(eu), Vec::new(), vec![record(1, "one")]).await;
    let mut us = world.start("us/node/a", None, peers(&[("eu", address)]), Vec::new()).await;
    us.until_held("eu", 1).await;
    first.stop().await;
    eventually("the link is down", || us.links() == 0).await;
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    let eu = world
        .start("eu/node/a", Some(crate::world::Bound { listener, address }), Vec::new(), Vec::new())
        .await;
    eu.say(&world.clock, 9, OwnChange::All(vec![record(1, "nine")])).await;
    us.until_held("eu", 9).await;
    assert_eq!(us.get("eu", 1).as_deref(), Some(&b"nine"[..]));
    assert_eq!(us.opened("eu"), 2);
}
