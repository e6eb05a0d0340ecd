//! A whole region dies, with its processes or with its power, or its federation node stands still, or all that stands
//! behind the gateways restarts at once; all come back.

use crate::partitions::{cut_both_ways, cut_off_from_being_heard, isolated};
use crate::world::{AP, EU, Fleet, Loads, REGIONS, Region, TTL, US, World, grow_old, returned};
use crate::{CATALOG, HEALED, LONG, ORDERS, RAMPED, SHORT, SLACK};
use meridian_tests::patience::until;
use std::time::{Duration, Instant};

/// How a region ends.
#[derive(Clone, Copy)]
enum End {
    /// Its processes die, and the kernel tells everyone.
    Killed,
    /// So does the machine, and nobody is told.
    Unpowered,
}

async fn ended(end: End, span: Duration) {
    let mut world = match end {
        End::Killed => World::start().await,
        End::Unpowered => World::apart().await,
    };
    let fleet = Fleet::start(&world).await;
    let loads = Loads::far(&world);
    world.all_is_on_disk(AP).await;
    let before = Instant::now();
    if let End::Unpowered = end {
        world.isolate(AP);
    }
    world.regions[AP].kill();
    grow_old(&world, &[(EU, AP), (US, AP)], before, span).await;
    for at in [EU, US] {
        let shown = world.standing(at, AP).await;
        assert_eq!(shown["reachable"], false, "{shown}");
    }

    let began = Instant::now();
    world.place.heal();
    world.regions[AP].start_again().await;
    println!("the region runs again {:?} after its start", began.elapsed());
    let returned = Loads::start(&world, &[(AP, ORDERS), (AP, CATALOG)]);
    let fresh = world
        .all_show("all are fresh again", HEALED + SLACK, |shown| {
            shown["freshness"] == "fresh" && shown["reachable"] == true
        })
        .await;
    until("its own lookups stay at home", HEALED + SLACK, async || {
        world.share(AP, ORDERS, AP).await > 1.0 - 1e-9
    })
    .await;
    world.settled("all have their traffic again", RAMPED + SLACK).await;
    println!("started again: fresh after {fresh:?}, all traffic after {:?}", began.elapsed());
    until("its own lookups are counted", HEALED, async || {
        [ORDERS, CATALOG].iter().all(|service| returned.of(AP, service).report().lookups > 50)
    })
    .await;
    // Nobody could beat; that is no reason to have to register again.
    for workload in fleet.orders.iter().flatten() {
        assert_eq!(workload.diary().registrations, 1, "{} had to register again", workload.id);
    }
    returned.check();
    loads.check();
}

async fn paused(span: Duration) {
    let world = World::apart().await;
    let _fleet = Fleet::start(&world).await;
    let loads = Loads::all(&world);
    let before = Instant::now();
    world.regions[AP].node.pause();
    let severed = [(EU, AP), (US, AP), (AP, EU), (AP, US)];
    grow_old(&world, &severed, before, span).await;
    // Its region goes on without it, also where leases would have ended.
    assert!(span > Duration::from_secs(2 * TTL));
    assert!(world.share(AP, ORDERS, AP).await > 1.0 - 1e-9, "its own lookups left {}", REGIONS[AP]);

    world.regions[AP].node.resume();
    returned(&world, &severed, span).await;
    loads.check();
}

/// Every registry and every federation node is killed; gateways are alone with what they know. They are restarted too while
/// they are, one after the other, and have nothing but their disks then.
async fn restarted(span: Duration) {
    let mut world = World::apart().await;
    let fleet = Fleet::start(&world).await;
    let mut loads = Loads::all(&world);
    for at in 0..REGIONS.len() {
        world.all_is_on_disk(at).await;
    }
    let before = Instant::now();
    for region in &mut world.regions {
        region.node.kill();
        region.etcd.kill();
    }
    let pairs = [(AP, EU), (EU, US), (US, AP)];
    grow_old(&world, &pairs, before, span).await;
    for at in 0..REGIONS.len() {
        // Whoever asked it meanwhile would ask nobody.
        let restart = async |region: &mut Region| {
            region.gateway.kill();
            region.gateway.start().await;
        };
        loads.without(&mut world, at, restart).await;
    }

    let began = Instant::now();
    let [ap, eu, us] = &mut world.regions[..] else { panic!("three regions") };
    let start = async |region: &mut Region| {
        region.etcd.start_again().await;
        region.node.start().await;
    };
    tokio::join!(start(ap), start(eu), start(us));
    println!("everything runs again {:?} after its start", began.elapsed());
    let fresh = world
        .all_show("all are fresh again", HEALED + SLACK, |shown| {
            shown["freshness"] == "fresh" && shown["reachable"] == true
        })
        .await;
    world.settled("all have their traffic again", RAMPED + SLACK).await;
    println!("started again: fresh after {fresh:?}, all traffic after {:?}", began.elapsed());
    // Beats went unheard; that is no reason to have to register again.
    for workload in fleet.orders.iter().flatten() {
        assert_eq!(workload.diary().registrations, 1, "{} had to register again", workload.id);
    }
    loads.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lookups_go_on_while_everything_behind_the_gateways_restarts() {
    restarted(SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_others_go_on_without_a_killed_region() {
    ended(End::Killed, SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_others_go_on_without_a_region_that_lost_its_power() {
    ended(End::Unpowered, SHORT).await;
}

/// A region that is cut off, one that is not heard, and one whose federation node stands still, each in a world of its own and
/// for longer than it takes to be called stale: it comes back in steps. At once, since all of it is waiting.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_is_silent_grows_stale_and_comes_back_in_steps() {
    tokio::join!(isolated(LONG, cut_both_ways), isolated(LONG, cut_off_from_being_heard), paused(LONG));
}

/// Faults that last longer than a region takes to be called stale.
mod long {
    use super::{End, ended, restarted};
    use crate::LONG;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_others_go_on_without_a_killed_region() {
        ended(End::Killed, LONG).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn lookups_go_on_while_everything_behind_the_gateways_restarts() {
        restarted(LONG).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_others_go_on_without_a_region_that_lost_its_power() {
        ended(End::Unpowered, LONG).await;
    }
}
