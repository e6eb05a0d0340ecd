//! Links between regions are cut: nothing is forgotten, everything says how old it is, and lookups go on.

use crate::world::{AP, EU, Fleet, Loads, REGIONS, STALE_AT, US, World, grow_old, observe, returned};
use crate::{HEALED, LEDGER, SHORT, SLACK};
use meridian_tests::client::registration;
use meridian_tests::gateway::GatewayProcess;
use meridian_tests::patience::{eventually, until};
use std::time::{Duration, Instant};

/// A node calls a region that did not answer for 5 s unreachable; its gateways hear of that by the next beat.
const UNREACHABLE: Duration = Duration::from_secs(5 + 1);

/// Both ends of the links to the first region lose sight of each other, whichever way they are cut: who hears but is
/// not heard gets no answer to its own questions.
const SEVERED: [(usize, usize); 4] = [(EU, AP), (US, AP), (AP, EU), (AP, US)];

/// A gateway that is told to wait no longer than until a region is stale gives none of its addresses any more.
async fn refused(gateway: &GatewayProcess) {
    let answer = gateway.client().resolve(LEDGER, "").await.refused(503, "too-stale");
    assert!(answer.json["detail"].as_str().unwrap().contains("max_remote_age"), "{}", answer.json);
}

pub(crate) async fn isolated(span: Duration, cut: impl Fn(&World)) {
    let world = World::apart().await;
    let _fleet = Fleet::start(&world).await;
    let impatient = world.impatient(EU, STALE_AT).await;
    let given = async || impatient.client().resolve(LEDGER, "").await.status == 200;
    until("the second gateway knows the region", HEALED, given).await;
    let loads = Loads::all(&world);
    let before = Instant::now();
    cut(&world);
    let others = async {
        observe(&world, &[(EU, US), (US, EU)], span, |at, of, shown, _| {
            assert_eq!(
                (&shown["freshness"], &shown["reachable"]),
                (&"fresh".into(), &true.into()),
                "{} lost {}, to which nothing happened: {shown}",
                REGIONS[at],
                REGIONS[of]
            );
        })
        .await;
    };
    tokio::join!(grow_old(&world, &SEVERED, before, span), others);
    for (at, of) in SEVERED {
        let shown = world.standing(at, of).await;
        assert_eq!(shown["reachable"], false, "{shown}");
    }
    // Stale beats none, and says so.
    let answer = world.client(EU).resolve(LEDGER, "").await.expect(200);
    let endpoint = &answer["endpoints"][0];
    assert_eq!(endpoint["region"], REGIONS[AP], "{}", answer.json);
    assert_ne!(endpoint["freshness"], "fresh", "{}", answer.json);
    let age = endpoint["ageMs"].as_u64().unwrap();
    assert!(u128::from(age) + 1_000 >= span.as_millis(), "{age} ms, cut off for {span:?}");
    if span > STALE_AT {
        refused(&impatient).await;
    }

    world.place.heal();
    returned(&world, &SEVERED, span).await;
    until("the second gateway uses the region again", SLACK, given).await;
    loads.check();
}

pub(crate) fn cut_both_ways(world: &World) {
    world.isolate(AP);
}

pub(crate) fn cut_off_from_being_heard(world: &World) {
    world.place.cut_one_way(AP, EU);
    world.place.cut_one_way(AP, US);
}

/// The third region passes on what each of the two tells.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_regions_whose_link_is_cut_know_each_other_by_the_third() {
    let world = World::apart().await;
    let _fleet = Fleet::start(&world).await;
    let loads = Loads::all(&world);
    world.place.cut(AP, EU);
    let cut = Instant::now();
    let pairs = [(AP, EU), (EU, AP)];
    let unreachable = until("each sees that the other does not answer", UNREACHABLE + SLACK, async || {
        world.standing(AP, EU).await["reachable"] == false
            && world.standing(EU, AP).await["reachable"] == false
    })
    .await;
    println!("unreachable after {unreachable:?}");
    observe(&world, &pairs, SHORT, |at, of, shown, asked| {
        let since = asked.saturating_duration_since(cut);
        let told = format!("{} of {} after {since:?}: {shown}", REGIONS[at], REGIONS[of]);
        assert_eq!((&shown["freshness"], &shown["reachable"]), (&"fresh".into(), &false.into()), "{told}");
    })
    .await;
    // News travel by the third.
    let owner = world.owner(AP, "news");
    let _ = owner.register("news", "n-1", &registration("ap-south-1a", 1)).await.expect(201);
    let client = world.client(EU);
    let (answer, took) = eventually("news arrive by the third region", Duration::from_secs(2), async || {
        let answer = client.resolve("news", "").await;
        (answer.status == 200).then_some(answer)
    })
    .await;
    println!("news took {took:?} by the third region");
    assert_eq!(answer["endpoints"][0]["region"], REGIONS[AP], "{}", answer.json);
    world.place.heal();
    let took = world.settled("each reaches the other again", HEALED + SLACK).await;
    println!("healed after {took:?}");
    loads.check();
}

/// Another fault that lasts longer than a region takes to be called stale.
mod long {
    use super::isolated;
    use crate::LONG;
    use crate::world::{AP, EU, US, World};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_region_that_hears_nothing_grows_stale_and_comes_back() {
        let cut = |world: &World| {
            world.place.cut_one_way(EU, AP);
            world.place.cut_one_way(US, AP);
        };
        isolated(LONG, cut).await;
    }
}
