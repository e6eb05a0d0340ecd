//! How links come to be, end and return.

use crate::world::{Cable, Process, World, bind, eventually, new_authority, peers, record};
use meridian_federation::exchange::OwnChange;
use std::sync::atomic::{AtomicU64, Ordering};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_of_one_region_link_and_a_url_that_leads_home_is_left_alone() {
    let world = World::default();
    let (a, b) = (bind().await, bind().await);
    // The same list on every node of the region, as operators write it.
    let mut all = peers(&[("eu", a.address)]);
    all[0].urls.push(format!("https://{}", b.address).parse().unwrap());
    let a = world.start("eu/node/a", Some(a), all.clone(), Vec::new()).await;
    let b = world.start("eu/node/b", Some(b), all, Vec::new()).await;
    eventually("linked", || a.links() == 1 && b.links() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_urls_of_one_node_make_one_link_that_stays() {
    let world = World::default();
    let eu = bind().await;
    let (one, two) = (Cable::to(eu.address).await, Cable::to(eu.address).await);
    let mut to_eu = peers(&[("eu", one.address)]);
    to_eu[0].urls.push(format!("https://{}", two.address).parse().unwrap());
    let eu = world.start("eu/node/a", Some(eu), Vec::new(), vec![record(1, "one")]).await;
    let mut us = world.start("us/node/a", None, to_eu, Vec::new()).await;
    us.until_held("eu", 1).await;
    // Both are tried at the same time, and the one that comes second gives way without having been a link.
    let sum = |of: fn(&Cable) -> &AtomicU64| {
        [&one, &two].map(|c| of(c).load(Ordering::Relaxed)).iter().sum::<u64>()
    };
    eventually("both were tried", || sum(|c| &c.made) >= 2 && sum(|c| &c.ended) >= 1).await;
    eu.say(&world.clock, 2, OwnChange::All(vec![record(1, "two")])).await;
    us.until_held("eu", 2).await;
    assert_eq!((us.links(), us.opened("eu")), (1, 1));
    // One way is cut: the other serves, whichever it was.
    one.cut();
    eu.say(&world.clock, 3, OwnChange::All(vec![record(1, "three")])).await;
    us.until_held("eu", 3).await;
    assert_eq!(us.links(), 1);
}

/// Replaces a process's files as a renewal does.
fn renew(
    world: &World,
    authority: &meridian_federation::service::certificates::Authority,
    short: &str,
    ca: &str,
) {
    let _ = world.files_by(authority, short, ca);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_replaced_under_running_links_and_authorities_end_them() {
    let world = World::default();
    let eu = bind().await;
    let to_eu = peers(&[("eu", eu.address)]);
    let eu = world.start("eu/node/a", Some(eu), Vec::new(), vec![record(1, "one")]).await;
    let mut us = world.start("us/node/a", None, to_eu, Vec::new()).await;
    us.until_held("eu", 1).await;
    let reloads = |p: &Process| p.handle.figures().reloads.get();

    // A renewal by the same authority: the link goes on, and the head is signed with the new key although nothing changed.
    let before = us.changed[&crate::world::region("eu")].head.credential.clone();
    renew(&world, &world.authority, "eu/node/a", world.authority.certificate());
    eventually("reloaded", || reloads(&eu) == 1).await;
    eu.say(&world.clock, 2, OwnChange::Some(Vec::new())).await;
    us.until_held("eu", 2).await;
    assert_ne!(us.changed[&crate::world::region("eu")].head.credential, before);
    assert_eq!((us.links(), us.opened("eu")), (1, 1));

    // A broken file changes nothing but a count.
    let ca = world.dir.path().join("us-node-a.ca");
    let good = std::fs::read_to_string(&ca).unwrap();
    std::fs::write(&ca, "nonsense").unwrap();
    eventually("reported", || us.handle.figures().failed_reloads.get() == 1).await;
    assert_eq!((us.links(), us.opened("eu")), (1, 1));

    // The authority is taken away: the link of whoever it vouched for ends.
    let other = new_authority();
    renew(&world, &other, "us/node/a", other.certificate());
    eventually("the link ended", || us.links() == 0).await;
    eventually("and does not return", || us.figure("eu", |f| f.dial_failures.get()) >= 1).await;
    // Back, and both ends agree again.
    std::fs::write(&ca, good).unwrap();
    renew(&world, &world.authority, "us/node/a", world.authority.certificate());
    eu.say(&world.clock, 3, OwnChange::All(vec![record(1, "three")])).await;
    us.until_held("eu", 3).await;
}
