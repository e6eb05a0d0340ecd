//! Two gateways of one region on one etcd, each killed and paused in turn.

use crate::world::World;
use crate::{PACE, SLACK};
use meridian_tests::client::Client;
use meridian_tests::load::Load;
use meridian_tests::patience::{throughout, until};
use meridian_tests::workload::Workload;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const SERVICE: &str = "orders-api";
const TTL: u64 = 4;
/// A dead guardian's instances are expired this long after the TTL at most (DESIGN 10).
const TAKEOVER: Duration = Duration::from_secs(5);

async fn healthy(client: &Client) -> usize {
    let statuses = client.statuses(SERVICE).await;
    statuses.iter().filter(|(id, status)| id.starts_with("w-") && status == "healthy").count()
}

/// Instances that fall silent when the guardian does; half of them are the dead one's to expire.
async fn silent_ones(gateway: SocketAddr, token: &str, name: &str) -> Vec<Workload> {
    let mut silent = Vec::new();
    for n in 0..6 {
        let id = format!("{name}-{n}");
        silent.push(Workload::start(&[gateway], token, SERVICE, &id, "test-1b", TTL).await);
    }
    silent
}

async fn expired_in_time(client: &Client, silent: &[Workload], since: Instant) {
    for workload in silent {
        until("a silent instance is expired", Duration::from_secs(30), async || {
            client.status_of(SERVICE, &workload.id).await.as_deref() == Some("expired")
        })
        .await;
    }
    let took = since.elapsed();
    println!("all silent instances are expired {took:?} after the guardian stopped");
    assert!(took <= Duration::from_secs(TTL) + TAKEOVER + SLACK, "expired only after {took:?}");
}

async fn each_in_turn(disturb: impl AsyncFn(&mut World, usize), restore: impl AsyncFn(&mut World, usize)) {
    let mut world = World::start(2).await;
    let addresses = world.addresses();
    let token = world.issuer.workload(SERVICE);
    for turn in 0..2 {
        let survivor = addresses[1 - turn];
        let client = Client::new(survivor);
        let workloads = world.workloads(&[survivor], SERVICE, 8, TTL).await;
        let silent = silent_ones(survivor, &token, &format!("silent-{turn}")).await;
        let load = Load::start(&[survivor], &format!("/v1/resolve/{SERVICE}"), PACE);
        tokio::time::sleep(Duration::from_secs(2)).await;

        disturb(&mut world, turn).await;
        let since = Instant::now();
        for workload in &silent {
            let _ = workload.fall_silent().await;
        }
        let watch = async {
            throughout("beating instances stay", Duration::from_secs(2 * TTL) + TAKEOVER, async || {
                healthy(&client).await == workloads.len()
            })
            .await;
        };
        let ((), ()) = tokio::join!(watch, expired_in_time(&client, &silent, since));

        restore(&mut world, turn).await;
        let other = Client::new(addresses[turn]);
        until("the other gateway serves the same", Duration::from_secs(10), async || {
            matches!(other.try_get("/readyz").await, Ok(ready) if ready.status == 200 && ready["registry"] == "connected")
                && healthy(&other).await == workloads.len()
        })
        .await;
        throughout("it has written nothing stale", Duration::from_secs(2 * TTL), async || {
            let gone = client.statuses(SERVICE).await;
            let gone =
                gone.iter().filter(|(id, status)| id.starts_with("silent") && status == "healthy").count();
            gone == 0 && healthy(&client).await == workloads.len()
        })
        .await;
        for workload in &workloads {
            let diary = workload.diary();
            // The second turn finds them there and registers them anew.
            assert_eq!(diary.registrations, 1, "{} had to register again", workload.id);
            assert!(diary.refused.is_empty(), "{}: {:?}", workload.id, diary.refused);
        }
        load.stop().check();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_gateway_is_replaced_by_the_other() {
    let kill = async |world: &mut World, n: usize| world.gateways[n].kill();
    let start = async |world: &mut World, n: usize| world.gateways[n].start().await;
    each_in_turn(kill, start).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_gateway_is_replaced_and_wakes_up_harmless() {
    let pause = async |world: &mut World, n: usize| world.gateways[n].pause();
    let resume = async |world: &mut World, n: usize| world.gateways[n].resume();
    each_in_turn(pause, resume).await;
}

/// A gateway that slept through a re-registration must not act on what it knew before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_wakes_up_does_not_expire_who_came_back_meanwhile() {
    let world = World::start(2).await;
    let addresses = world.addresses();
    let token = world.issuer.workload(SERVICE);
    let old = silent_ones(addresses[1], &token, "w").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.gateways[0].pause();
    for workload in &old {
        let _ = workload.fall_silent().await;
    }
    // They come back at the other one under the same ids: some as they were, with the lease that they had, some moved to
    // another zone, with another.
    let new = world.workloads(&addresses[1..], SERVICE, old.len(), TTL).await;
    tokio::time::sleep(Duration::from_secs(8)).await;
    world.gateways[0].resume();
    for address in &addresses {
        let client = Client::new(*address);
        throughout("all that came back stay", Duration::from_secs(2 * TTL), async || {
            healthy(&client).await == new.len()
        })
        .await;
    }
    assert!(new.iter().all(|workload| workload.diary().registrations == 1));
}
