//! Of two regions that are equal otherwise, the nearer one answers.

use crate::world::{AP, EU, Loads, US, World};
use meridian_tests::patience::until;
use std::time::Duration;

/// In EU and US, so that AP has to choose.
const SEARCH: &str = "search-api";
/// The smoothed round trip takes some beats to follow, one a second.
const NOTICED: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lookups_go_to_the_nearer_of_two_regions() {
    let world = World::start().await;
    let search = [world.workloads(EU, SEARCH).await, world.workloads(US, SEARCH).await];
    world.know_of(search.iter().map(Vec::len).sum()).await;
    let loads = Loads::start(&world, &[(AP, SEARCH)]);
    // Whichever it is while both are as near, it is the other one's turn once it is far.
    let (before, after) = if world.share(AP, SEARCH, EU).await > 0.5 { (EU, US) } else { (US, EU) };
    world.place.slow(AP, before, Duration::from_millis(100));
    let took = until("lookups go to the nearer region", NOTICED, async || {
        world.share(AP, SEARCH, after).await > 1.0 - 1e-9
    })
    .await;
    let trip = async |of| world.standing(AP, of).await["roundTripMs"].as_u64().unwrap();
    println!("lookups went to the nearer region after {took:?}");
    // What a busy machine added to the near one's has to be smoothed away too.
    until("the far region is shown as farther", NOTICED, async || {
        let (far, near) = (trip(before).await, trip(after).await);
        far > near
    })
    .await;
    println!("it is shown as {} ms, the other as {} ms", trip(after).await, trip(before).await);
    // It may all have gone quicker than lookups that say something were asked.
    until("there were lookups enough", NOTICED, async || loads.of(AP, SEARCH).report().lookups > 100).await;
    loads.check();
}
