//! A region's registry comes back empty. What other regions know of it has not left: nothing older replaces newer, and its
//! endpoints stay while their owners register again.

use crate::world::{AP, EU, Fleet, Loads, REGIONS, TTL, US, World};
use crate::{HEALED, LEDGER, PACE, RAMPED, SLACK};
use meridian_tests::load::Load;
use meridian_tests::patience::{eventually, throughout, until};
use std::time::{Duration, Instant};

/// A place in a region's history: the counter of the incarnation, and the index.
type Place = (u64, u64);

/// How long a region that cannot know what it lost tells nothing.
const BLIND: Duration = Duration::from_secs(20);

/// What the two other regions show of the first, which may only grow.
struct Places([Place; 2]);

impl Places {
    async fn see(world: &World) -> Self {
        Self([Self::one(world, EU).await, Self::one(world, US).await])
    }

    async fn one(world: &World, at: usize) -> Place {
        let shown = world.standing(at, AP).await;
        let text = shown["incarnation"].as_str().unwrap_or_default();
        let counter = text.split('-').next().and_then(|counter| counter.parse().ok());
        (counter.unwrap_or_else(|| panic!("no incarnation in {shown}")), shown["index"].as_u64().unwrap())
    }

    async fn see_again(&mut self, world: &World) {
        let Self(now) = Self::see(world).await;
        for (at, (before, now)) in [EU, US].into_iter().zip(self.0.iter().zip(&now)) {
            assert!(now >= before, "{} went back from {before:?} to {now:?}", REGIONS[at]);
        }
        self.0 = now;
    }

    fn all_past(&self, life: u64) -> bool {
        self.0.iter().all(|(counter, _)| *counter > life)
    }
}

/// All that the other regions give of the service, which is nothing but what the first region has.
fn everything(world: &World) -> [Load; 2] {
    let path = format!("/v1/resolve/{LEDGER}?n=1000");
    [EU, US].map(|at| Load::start(&[world.address(at)], &path, PACE))
}

/// Everyone was given in every answer, not just somebody.
fn check_everything(loads: [Load; 2]) {
    for report in loads.map(Load::stop) {
        report.check();
        assert_eq!(report.given.len(), 2, "{:?}", report.given);
        for (id, given) in &report.given {
            assert_eq!(*given, report.lookups, "{id} was missing in some answers");
        }
    }
}

/// `told` is how long nothing may be told of the new life, while instances return to it.
async fn forgotten(world: &mut World, loads: Loads, told: Duration, forget: impl AsyncFnOnce(&mut World)) {
    let every = everything(world);
    let mut places = Places::see(world).await;
    let life = places.0[0].0;
    println!("before: {:?}", places.0);
    forget(world).await;
    let back = Instant::now();
    eventually("others hear of the new life", told + HEALED + SLACK, async || {
        places.see_again(world).await;
        places.all_past(life).then_some(())
    })
    .await;
    println!("others hear of the new life {:?} after etcd is back: {:?}", back.elapsed(), places.0);
    world.all_show("all are fresh", HEALED + SLACK, |shown| shown["freshness"] == "fresh").await;
    println!("all are fresh {:?} after etcd is back", back.elapsed());
    throughout("what is told stays", Duration::from_secs(2 * TTL), async || {
        places.see_again(world).await;
        true
    })
    .await;
    until("its own gateway has everything too", HEALED, async || {
        world.client(AP).resolve(LEDGER, "?n=1000").await.endpoints().len() == 2
    })
    .await;
    world.settled("all have their traffic", RAMPED + SLACK).await;
    check_everything(every);
    loads.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_regions_keep_what_a_wiped_registry_forgot() {
    let mut world = World::start().await;
    let _fleet = Fleet::start(&world).await;
    let loads = Loads::all(&world);
    let told = Duration::from_secs(2 * TTL);
    forgotten(&mut world, loads, told, async |world| world.regions[AP].etcd.real().wipe()).await;
}

/// Nobody in the region remembers how far its registry was, and others do. What the registry lost is theirs to keep until
/// its owners have registered again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_set_back_while_nobody_watched_is_raised_past_what_others_saw() {
    let mut world = World::start().await;
    world.regions[AP].etcd.real().snapshot();
    let _fleet = Fleet::start(&world).await;
    let loads = Loads::far(&world);
    forgotten(&mut world, loads, BLIND, async |world| {
        let region = &mut world.regions[AP];
        region.kill();
        region.gateway.forget();
        region.node.forget();
        region.etcd.real().restore();
        region.node.start().await;
        region.gateway.start().await;
    })
    .await;
}
