//! The last local instance of a service leaves: the next lookup is answered from another region, and traffic returns in
//! steps when the instances do.

use crate::world::{AP, EU, Loads, REGIONS, TTL, US, World};
use crate::{ORDERS, SLACK};
use meridian_model::failover::EMPTY_FOR;
use meridian_tests::client::instance_path;
use meridian_tests::patience::eventually;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// First remote answer after the last local instance is gone (DESIGN 10).
const FIRST_REMOTE: Duration = Duration::from_secs(1);
/// In ten steps a service gets its traffic back.
const RAMP: Duration = Duration::from_secs(10);

/// How its instances leave.
#[derive(Clone, Copy)]
enum Goodbye {
    /// They deregister.
    Said,
    /// They die; their leases have to end first.
    Unsaid,
}

async fn leave_and_return(goodbye: Goodbye) {
    let world = World::start().await;
    let mut orders = world.everywhere(ORDERS).await;
    world.know_of(orders.iter().map(Vec::len).sum()).await;
    let loads = Loads::start(&world, &[(AP, ORDERS), (EU, ORDERS), (US, ORDERS)]);
    let client = world.client(AP);
    assert!((world.share(AP, ORDERS, AP).await - 1.0).abs() < 1e-9, "local instances are not preferred");

    let owner = world.owner(AP, ORDERS);
    let mut gone = Instant::now();
    for workload in std::mem::take(&mut orders[AP]) {
        let silent = workload.fall_silent().await;
        gone = match goodbye {
            Goodbye::Said => {
                let _ = owner.delete(&instance_path(ORDERS, &workload.id)).await.expect(204);
                Instant::now()
            }
            Goodbye::Unsaid => gone.max(silent + Duration::from_secs(TTL)),
        };
    }
    let patience = Duration::from_secs(TTL) + FIRST_REMOTE + SLACK;
    let (answer, _) = eventually("lookups are answered from another region", patience, async || {
        let answer = client.resolve(ORDERS, "").await;
        // A lookup without an answer is counted by the load.
        (answer.status == 200 && answer["endpoints"][0]["region"] != REGIONS[AP]).then_some(answer)
    })
    .await;
    let remote = Instant::now();
    let endpoint = &answer["endpoints"][0];
    println!(
        "the first remote answer, {:?} after the last instance is gone: {}",
        gone.elapsed(),
        answer.json
    );
    assert_eq!(answer["region"], REGIONS[AP], "{}", answer.json);
    assert_eq!(endpoint["freshness"], "fresh", "{}", answer.json);
    assert!(endpoint["ageMs"].as_u64().is_some_and(|age| age < 5_000), "{}", answer.json);
    assert!(answer["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{}", answer.json);

    // A service that was without instances for less than this comes back at once. The gateway has seen the last one gone
    // when it answers from another region; where one of two was gone first, that answer may be earlier than the last local one.
    let empty = EMPTY_FOR + SLACK;
    eventually("no lookup is given an instance that is gone", patience + empty, async || {
        let report = loads.of(AP, ORDERS).report();
        let last = report.last_from.get(REGIONS[AP]).copied()?;
        (last.max(remote).elapsed() > empty).then_some(())
    })
    .await;
    let last = loads.of(AP, ORDERS).report().last_from[REGIONS[AP]].saturating_duration_since(gone);
    println!("the last answer with an instance that is gone came {last:?} after it was");
    assert!(last <= FIRST_REMOTE + SLACK, "answered with instances that are gone for {last:?}");

    let back = Instant::now();
    orders[AP] = world.workloads(AP, ORDERS).await;
    let mut steps = BTreeSet::new();
    let mut before = 0.0;
    eventually("all lookups are answered at home again", RAMP + SLACK, async || {
        let share = world.share(AP, ORDERS, AP).await;
        assert!(share >= before - 1e-9, "traffic went away again: from {before} to {share}");
        before = share;
        steps.insert((share * 1_000.0).round() as u64);
        (share > 1.0 - 1e-9).then_some(())
    })
    .await;
    println!(
        "traffic is all local again {:?} after the instances are back, by steps {steps:?}",
        back.elapsed()
    );
    assert!(steps.len() >= 8, "traffic returned by a cliff: {steps:?}");
    loads.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lookups_leave_a_region_whose_instances_deregister() {
    leave_and_return(Goodbye::Said).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lookups_leave_a_region_whose_instances_die() {
    leave_and_return(Goodbye::Unsaid).await;
}
