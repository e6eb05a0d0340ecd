//! etcd dies, hangs, is cut off, goes back: what the watch and the membership make of it.

// Helpers of tests assert by unwrapping, as the tests do; clippy exempts only functions that are marked as tests.
#![allow(clippy::unwrap_used, clippy::expect_used, dead_code)]

mod suite;

use bytes::Bytes;
use etcd_client::{Client, Compare, CompareOp, Txn, TxnOp, TxnOpResponse};
use meridian_registry::etcd::{EtcdConfig, EtcdRegistry};
use meridian_registry::testing::{Link, RealEtcd};
use meridian_registry::{Condition, Event, Key, Registry, RegistryError, Revision};
use std::time::Duration;
use suite::{PATIENCE, Ticker, Watch, applied, gateway, instance, joined, put, write};
use tokio::time::Instant;

fn connect(config: &EtcdConfig) -> EtcdRegistry {
    EtcdRegistry::connect(config).unwrap()
}

/// A registry that reaches `etcd` over a link.
async fn linked(etcd: &RealEtcd) -> (Link, EtcdRegistry) {
    let link = Link::to(etcd.port()).await;
    let registry = connect(&EtcdConfig { endpoints: vec![link.endpoint()], ..etcd.config("here") });
    (link, registry)
}

async fn value(registry: &dyn Registry, n: u32) -> Revision {
    applied(registry, write([], [put(&instance("a"), &n.to_string())])).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_may_start_before_etcd() {
    let mut etcd = RealEtcd::start();
    etcd.stop();
    let registry = connect(&etcd.config("here"));
    let claimed = registry.claim(None).await;
    assert!(matches!(claimed, Err(RegistryError::Unavailable(_))), "{claimed:?}");
    let mut events = registry.watch(None);
    let first = tokio::time::timeout(PATIENCE, events.recv()).await.unwrap().unwrap();
    assert!(matches!(first, Event::Lost { .. }), "{first:?}");
    etcd.start_again();
    let next = tokio::time::timeout(PATIENCE, events.recv()).await.unwrap().unwrap();
    assert!(matches!(next, Event::Reset { .. }), "{next:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_loses_nothing_and_starts_nothing_over() {
    let mut etcd = RealEtcd::start();
    let registry = connect(&etcd.config("here"));
    let mut watch = Watch::start(&registry, None).await;
    watch.caught_up(value(&registry, 1).await).await;
    for round in 2..5 {
        etcd.start_again();
        // The first calls may still meet the dead connection.
        while registry.read(&Key::Region).await.is_err() {}
        let revision = value(&registry, round).await;
        watch.caught_up(revision).await;
        assert_eq!(watch.text(&instance("a")).unwrap(), round.to_string());
    }
    assert_eq!((watch.resets, watch.incarnation.counter), (1, 1));
    assert!(registry.stats().reconnects.get() >= 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_etcd_is_lost_in_time_and_found_again() {
    let etcd = RealEtcd::start();
    let registry = connect(&etcd.config("here"));
    let mut watch = Watch::start(&registry, None).await;
    let mut membership = registry.join(gateway("g"), Bytes::from_static(b"me"), Duration::from_secs(3));
    let held = joined(&mut membership).await;
    watch.caught_up(held).await;

    let ticker = Ticker::start();
    etcd.pause();
    let paused = Instant::now();
    let write_to_nobody = async {
        let outcome = registry.commit(write([], [put(&instance("a"), "1")])).await;
        assert!(matches!(outcome, Err(RegistryError::Unavailable(_))), "{outcome:?}");
        assert!(paused.elapsed() < Duration::from_secs(7), "a call took {:?}", paused.elapsed());
    };
    let lost_watch = async {
        watch.until("the loss", |w| w.lost > 0).await;
        assert!(paused.elapsed() < Duration::from_secs(6), "noticed after {:?}", paused.elapsed());
    };
    let lost_membership = async {
        membership.wait_for(Option::is_none).await.unwrap();
        // TTL 3 s from the last answered renewal; never later, whatever etcd still thinks.
        let (took, late) = (paused.elapsed(), ticker.lateness());
        assert!(took < Duration::from_millis(3500) + late, "held for {took:?}, tasks {late:?} late");
    };
    tokio::join!(write_to_nobody, lost_watch, lost_membership);

    etcd.resume();
    let again = joined(&mut membership).await;
    assert!(again > held, "a late write based on the first membership must conflict");
    watch.caught_up(again).await;
    assert_eq!((watch.incarnation.counter, watch.lost), (1, 1));
    assert_eq!(watch.state[&Key::Member(gateway("g"))].modified, again);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compaction_behind_a_cut_link_starts_over_in_the_same_life() {
    let etcd = RealEtcd::start();
    let (link, registry) = linked(&etcd).await;
    let direct = connect(&etcd.config("here"));
    let mut watch = Watch::start(&registry, None).await;
    watch.caught_up(value(&direct, 1).await).await;
    applied(&direct, write([], [put(&instance("short-lived"), "1")])).await;

    link.cut();
    watch.until("the loss", |w| w.lost > 0).await;
    applied(&direct, write([], [meridian_registry::Change::Delete(instance("short-lived"))])).await;
    let revision = value(&direct, 2).await;
    etcd.compact().await;
    link.heal();
    watch.caught_up(revision).await;
    assert_eq!((watch.resets, watch.incarnation.counter), (2, 1));
    assert!(!watch.state.contains_key(&instance("short-lived")), "a deletion that was compacted away");
    assert_eq!(watch.text(&instance("a")).unwrap(), "2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hanging_watch_is_found_out_and_replaced() {
    let etcd = RealEtcd::start();
    let (link, registry) = linked(&etcd).await;
    let direct = connect(&etcd.config("here"));
    let mut watch = Watch::start(&registry, None).await;
    watch.caught_up(value(&direct, 1).await).await;
    // Open as before, silent from now on: like a watch on a member that is cut off from the others.
    link.freeze();
    let frozen = Instant::now();
    let revision = value(&direct, 2).await;
    watch.caught_up(revision).await;
    assert!(frozen.elapsed() < Duration::from_secs(15), "took {:?}", frozen.elapsed());
    assert_eq!(watch.resets, 1, "nothing was missed that would need the whole state");
    assert_eq!(watch.text(&instance("a")).unwrap(), "2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_watch_sees_a_wiped_etcd_as_another_life() {
    let mut etcd = RealEtcd::start();
    let registry = connect(&etcd.config("here"));
    let mut watch = Watch::start(&registry, None).await;
    watch.caught_up(value(&registry, 1).await).await;
    etcd.wipe();
    watch.until("the next life", |w| w.incarnation.counter == 2).await;
    assert!(!watch.state.contains_key(&instance("a")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_etcd_that_has_caught_up_is_recognised() {
    let mut etcd = RealEtcd::start();
    let (link, registry) = linked(&etcd).await;
    let mut watch = Watch::start(&registry, None).await;
    watch.caught_up(value(&registry, 1).await).await;
    etcd.snapshot();
    let revision = applied(&registry, write([], [put(&instance("forgotten"), "1")])).await;
    watch.caught_up(revision).await;
    // While this gateway is away, the restored registry passes the revision that it knows: no number shows it.
    link.cut();
    watch.until("the loss", |w| w.lost > 0).await;
    etcd.restore();
    let direct = connect(&etcd.config("here"));
    for n in 2..10 {
        assert!(value(&direct, n).await > Revision(0));
    }
    assert!(direct.read(&Key::Region).await.unwrap().1 > revision);
    link.heal();
    watch.until("the next life", |w| w.incarnation.counter == 2).await;
    assert!(!watch.state.contains_key(&instance("forgotten")), "a record that the registry no longer has");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_full_compare_finds_no_fault_under_load() {
    let etcd = RealEtcd::start();
    let config = EtcdConfig { compare_interval: Duration::from_millis(50), ..etcd.config("here") };
    let registry = connect(&config);
    let mut watch = Watch::start(&registry, None).await;
    let mut n = 0;
    while registry.stats().compares.get() < 10 {
        n += 1;
        let key = instance(&format!("i{}", n % 37));
        let change =
            if n % 5 == 0 { meridian_registry::Change::Delete(key) } else { put(&key, &n.to_string()) };
        let revision = applied(&registry, write([], [change])).await;
        watch.caught_up(revision).await;
        assert!(n < 100_000, "no compare was made");
    }
    assert_eq!((registry.stats().divergences.get(), watch.resets), (0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_region_writes_no_ticks() {
    let etcd = RealEtcd::start();
    let registry = connect(&etcd.config("here"));
    let mut watch = Watch::start(&registry, None).await;
    let revision = applied(&registry, write([], [put(&suite::entry(1, 1), "not watched")])).await;
    watch.caught_up(revision).await;
    for _ in 0..5 {
        while !matches!(watch.next().await, Event::Current { .. }) {}
    }
    let ticks = registry.stats().ticks.get();
    assert!((1..=2).contains(&ticks), "{ticks} ticks for one write that the watch does not show");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_under_one_id_do_not_both_believe() {
    let etcd = RealEtcd::start();
    let (one, other) = (connect(&etcd.config("here")), connect(&etcd.config("here")));
    let join = |registry: &EtcdRegistry| registry.join(gateway("g"), Bytes::new(), Duration::from_secs(3));
    let mut first = join(&one);
    let held = joined(&mut first).await;
    let mut second = join(&other);
    let later = joined(&mut second).await;
    tokio::time::timeout(PATIENCE, first.wait_for(Option::is_none)).await.unwrap().unwrap();
    // Even before it notices, what the first one writes is fenced.
    let late =
        write([Condition::Unchanged(Key::Member(gateway("g")), held)], [put(&instance("a"), "expired")]);
    suite::conflict(&one, late).await;
    assert!(later > held);
}

/// Why writes that touch each other never share a transaction: etcd compares for all of them before it does anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nested_transactions_compare_the_state_of_before() {
    let etcd = RealEtcd::start();
    let mut client = Client::connect(etcd.endpoints(), None).await.unwrap();
    let make = |needs_absent: &str, key: &str| {
        TxnOp::txn(
            Txn::new()
                .when([Compare::create_revision(needs_absent, CompareOp::Equal, 0)])
                .and_then([TxnOp::put(key, "made", None)]),
        )
    };
    let response = client.txn(Txn::new().and_then([make("y", "x"), make("x", "y")])).await.unwrap();
    let passed = response
        .op_responses()
        .iter()
        .filter(|r| matches!(r, TxnOpResponse::Txn(t) if t.succeeded()))
        .count();
    assert_eq!(passed, 2, "etcd has become stricter; sharing could be wider");
    let twice = [TxnOp::put("z", "1", None), TxnOp::put("z", "2", None)]
        .map(|op| TxnOp::txn(Txn::new().and_then([op])));
    let refused = client.txn(Txn::new().and_then(twice)).await.unwrap_err();
    assert!(refused.to_string().contains("duplicate key"), "{refused}");
}
