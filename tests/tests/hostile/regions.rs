//! What passes the gate and goes wrong then, bound active in three regions, all at once.

use crate::corpus::{self, FAR, Hostile, Said, Verdict};
use crate::gate::push;
use crate::stream::{self, Seen, Stream};
use crate::world::{AP, EU, Fleet, Loads, REGIONS, US, World};
use crate::{CATALOG, LEDGER, ORDERS, PACE, SLACK};
use meridian_tests::client::{Client, registration};
use meridian_tests::figures;
use meridian_tests::patience::until;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How long lookups are watched without hostile policies, before and after, and once each region has got its own.
const QUIET: Duration = Duration::from_secs(5);
const WATCHED: Duration = Duration::from_secs(4);
/// From a roll-back's answer, or from the first failure of a version, until the former version answers.
const OFF: Duration = Duration::from_millis(500);
/// What lookups of other services may take longer at p99 before this fails. The goal is 1 ms; here three regions with their
/// registries, what asks them and what compiles share two processors.
const SLOWER: Duration = Duration::from_millis(5);
/// Failures until a version is kept away from a service's lookups, for good.
const MOST_FAULTS: u64 = 10;
/// What [`FAR`] may send to other regions.
const FAR_SHARE: f64 = 0.25;
/// Lookups until a version must have gone wrong.
const MOST_ASKED: usize = 400;
/// Until even a version that burns all its fuel has been prepared. Preparing stands back behind everything else.
const PREPARED: Duration = Duration::from_secs(60);
/// Answers of each service at each region that the streams must have seen.
const LEAST_ASKED: usize = 5;
/// Canaries, and versions bound active, whose end is timed.
const TIMED: usize = 5;
/// What answers before and after.
const FORMER: &str = "spillover";

fn service(n: usize) -> String {
    format!("host-{n:02}")
}

fn path(service: &str) -> String {
    format!("/v1/namespaces/default/bindings/{service}")
}

/// The policy that answers, and what is said of it.
async fn answered(client: &Client, service: &str) -> (String, String) {
    let answer = client.resolve(service, "").await;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (text(&answer["policy"]["name"]), text(&answer["policy"]["outcome"]))
}

fn let_in() -> Vec<Hostile> {
    corpus::all().into_iter().filter(|hostile| matches!(hostile.verdict, Verdict::LetIn(_))).collect()
}

/// Uploads them all in a region, and makes a service for each that another policy answers for.
async fn prepare(world: &World, at: usize, hostile: &[Hostile]) {
    let operator = world.operator(at);
    for (n, one) in hostile.iter().enumerate() {
        let service = service(n);
        let owner = world.owner(at, &service);
        for (port, letter) in [(8_081, 'a'), (8_082, 'b')] {
            let zone = format!("{}{letter}", REGIONS[at]);
            let _ = owner.register(&service, &zone, &registration(&zone, port)).await.expect(201);
        }
        let _ = operator.put(&path(&service), &json!({ "policy": FORMER })).await.expect(201);
        let _ = push(&operator, one).await.expect(201);
    }
    let client = world.client(at);
    for n in 0..hostile.len() {
        until("the former policy answers", Duration::from_secs(10), async || {
            answered(&client, &service(n)).await == (FORMER.into(), "ok".into())
        })
        .await;
    }
}

async fn bind(world: &World, at: usize, hostile: &[Hostile]) {
    let operator = world.operator(at);
    for (n, one) in hostile.iter().enumerate() {
        let share = if one.name == FAR { FAR_SHARE } else { 0.0 };
        let body = json!({ "policy": one.name, "limits": { "maxRemoteShare": share } });
        let _ = operator.put(&path(&service(n)), &body).await.expect(200);
    }
}

async fn faults(world: &World, at: usize) -> f64 {
    let figures = figures::of(&world.client(at)).await;
    figures.iter().filter(|(name, _)| name.starts_with("meridian_policy_faults_total")).map(|(_, n)| n).sum()
}

/// Failures of the version that was bound to a service: those that it was rolled back for, or those so far.
async fn faults_of(world: &World, at: usize, service: &str) -> u64 {
    let operator = world.operator(at);
    let history = operator.get(&format!("/v1/history?ns=default&service={service}")).await.expect(200);
    let rolled_back = history["items"].as_array().unwrap().iter().find(|entry| entry["action"] == "rollback");
    match rolled_back {
        Some(entry) => {
            let reason = entry["reason"].as_str().unwrap();
            let count = reason.split(" faults").next().unwrap();
            count.parse().unwrap_or_else(|error| panic!("{reason}: {error}"))
        }
        None => {
            let diff = operator.get(&format!("{}/diff", path(service))).await.expect(200);
            diff["active"]["seen"]["faults"].as_u64().unwrap()
        }
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// What is wrong with what lookups said of a service; nothing if it is what they must say.
async fn judge(world: &World, at: usize, n: usize, hostile: &Hostile, seen: &Seen) -> Option<String> {
    let (service, region) = (service(n), REGIONS[at]);
    let asked = seen.count_of(&service, |_| true);
    if asked < LEAST_ASKED {
        return Some(format!("{region}: {} was asked for {asked} times only", hostile.name));
    }
    let none = |is: &dyn Fn(&stream::Said) -> bool| seen.count_of(&service, is) == 0;
    let as_said = match hostile.verdict {
        // It is what answered, and not what stands in for it.
        Verdict::LetIn(Said::Ok) => {
            none(&|said| said.outcome != "ok" && said.reason != "warming")
                && !none(&|said| said.outcome == "ok" && said.policy == hostile.name)
        }
        // The version may have been off before the stream came by.
        Verdict::LetIn(Said::Other(begins)) => {
            !none(&|said| said.outcome != "ok" && said.reason.starts_with(begins))
                || rolled_back_for(world, at, &service, begins).await
        }
        Verdict::Refused(..) => false,
    };
    // Before it was bound there were no limits, and a service that other regions had first gets its traffic back in steps.
    let before = |said: &stream::Said| said.policy == FORMER && said.outcome == "ok";
    let at_home = none(&|said| said.region != region && !before(said));
    if as_said && (hostile.name == FAR || at_home) {
        return None;
    }
    let Hostile { name, does, verdict, .. } = hostile;
    Some(format!("{region}: {name} ({does}): {verdict:?}, but {:?}", seen.said.get(&service)))
}

/// The same, after enough lookups for what comes up at some of them only, and for what waits until the machine has time for it.
async fn judged(world: &World, at: usize, n: usize, hostile: &Hostile, stream: &Stream) -> Option<String> {
    let client = world.client(at);
    let (mut seen, begun) = (stream.seen(), Instant::now());
    for key in 0.. {
        let failed = seen.failures.first().cloned();
        let wrong = failed.or(judge(world, at, n, hostile, &seen).await);
        if wrong.is_none() || (key >= MOST_ASKED && begun.elapsed() > PREPARED) {
            return wrong;
        }
        if key >= MOST_ASKED {
            tokio::time::sleep(PACE).await;
        }
        let service = service(n);
        seen.count(&service, client.try_get(&format!("/v1/resolve/{service}?key={key}")).await);
    }
    None
}

/// Whether the guardian took the version off for a failure that begins so.
async fn rolled_back_for(world: &World, at: usize, service: &str, begins: &str) -> bool {
    let path = format!("/v1/history?ns=default&service={service}");
    let history = world.operator(at).get(&path).await.expect(200);
    let mut entries = history["items"].as_array().unwrap().iter();
    entries.any(|entry| {
        entry["action"] == "rollback"
            && entry["reason"].as_str().is_some_and(|why| why.contains(&format!("the last one {begins}")))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bound_active_in_three_regions_they_hurt_nobody() {
    let mut world = World::start().await;
    let _fleet = Fleet::start(&world).await;
    let hostile = let_in();
    let loads = Loads::all(&world);
    let begun = Instant::now();
    tokio::join!(prepare(&world, AP, &hostile), prepare(&world, EU, &hostile), prepare(&world, US, &hostile));
    println!("{} modules uploaded to three regions in {:?}", hostile.len(), begun.elapsed());

    let services: Vec<String> = (0..hostile.len()).map(service).collect();
    let others = [ORDERS, LEDGER, CATALOG].map(str::to_owned).to_vec();
    let stream =
        |at: usize, services: &Vec<String>, pace| Stream::start(world.client(at), services.clone(), pace);
    let mut streams = Vec::new();
    for at in [AP, EU, US] {
        streams.push((at, stream(at, &others, PACE / 8), stream(at, &services, PACE / 4)));
    }
    let quiet = Instant::now();
    tokio::time::sleep(QUIET).await;

    // All at once in a region; one region after the other, since all three share the processors of this machine, and each
    // keeps what it was given.
    let binding = Instant::now();
    for at in [AP, EU, US] {
        let begun = Instant::now();
        bind(&world, at, &hostile).await;
        println!("{}: {} services bound in {:?}", REGIONS[at], hostile.len(), begun.elapsed());
        tokio::time::sleep(WATCHED).await;
    }
    let end = Instant::now();

    let mut mistakes = Vec::new();
    for (at, other, own) in &streams {
        let (other, own) = (other.seen(), own.seen());
        println!("{}: {} lookups of others, {} of theirs", REGIONS[*at], other.lookups(), own.lookups());
        mistakes.extend([&other.failures[..], &own.failures].concat());
    }
    for (at, _, own) in &streams {
        for (n, one) in hostile.iter().enumerate() {
            mistakes.extend(judged(&world, *at, n, one, own).await);
        }
    }
    assert!(mistakes.is_empty(), "{}:\n{}", mistakes.len(), mistakes.join("\n"));

    let far = hostile.iter().position(|one| one.name == FAR).unwrap();
    let failing = hostile.iter().filter(|one| matches!(one.verdict, Verdict::LetIn(Said::Other(_)))).count();
    for at in [AP, EU, US] {
        let share = 1.0 - world.share(at, &service(far), at).await;
        assert!((0.01..=FAR_SHARE + 0.01).contains(&share), "{share} of the lookups leave {}", REGIONS[at]);
        let over = "meridian_policy_clamped_total{limit=\"max-remote-share\"}";
        assert!(figures::one(&world.client(at), over).await > 0.0, "{}: nothing was clamped", REGIONS[at]);
        let all = faults(&world, at).await;
        println!("{}: {all} faults of {failing} versions", REGIONS[at]);
        let mut most = 0;
        for (n, one) in hostile.iter().enumerate() {
            let faults = faults_of(&world, at, &service(n)).await;
            assert!(faults <= MOST_FAULTS, "{}: {faults} faults of {}", REGIONS[at], one.name);
            most = most.max(faults);
        }
        println!("{}: at most {most} of one version", REGIONS[at]);
        let region = &mut world.regions[at];
        assert!(
            region.gateway.is_running() && region.node.is_running(),
            "a process of {} ended",
            REGIONS[at]
        );
    }

    off_in_time(&world, &hostile).await;
    let off = Instant::now();
    tokio::time::sleep(QUIET).await;

    let mut all = Seen::default();
    streams.iter().for_each(|(_, other, _)| all.add_times(&other.seen()));
    let during = all.p99s(binding, end);
    let without = [all.p99s(quiet, binding), all.p99s(off, off + QUIET)].concat();
    println!("p99 of other services, each second: {without:?} without them, {during:?} with all of them");
    let (during, usual, worst) =
        (median(during), median(without.clone()), without.into_iter().max().unwrap());
    println!("medians: {usual:?} and {during:?}; the worst without them {worst:?}");
    // What seconds without them differ by is the machine's.
    assert!(during <= worst + SLOWER, "p99 is {during:?}, without them {usual:?}, at worst {worst:?}");
    for (_, other, own) in &streams {
        assert_eq!([other.seen().failures, own.seen().failures].concat(), [""; 0]);
    }
    loads.check();
}

/// A roll-back, by an operator and by itself.
async fn off_in_time(world: &World, hostile: &[Hostile]) {
    let (operator, client) = (world.operator(AP), world.client(AP));
    let mut took = Vec::new();
    for (n, one) in hostile.iter().enumerate() {
        let service = service(n);
        let active = operator.get(&path(&service)).await.expect(200)["active"].clone();
        if active["policy"] != one.name {
            continue;
        }
        let begun = Instant::now();
        let body = json!({ "version": active["version"], "reason": "it is hostile" });
        let answer = operator.post(&format!("{}/rollback", path(&service)), &body).await;
        // A gateway may have been quicker.
        let by_itself = answer.status == 409 && answer["code"] == "another-version";
        assert!(answer.status == 200 || by_itself, "{service}: {} {}", answer.status, answer.json);
        // By itself to what is known to be good, and that is what answered before anything was bound.
        until("another policy answers again", OFF + SLACK, async || {
            let (policy, outcome) = answered(&client, &service).await;
            policy != one.name && outcome == "ok"
        })
        .await;
        took.push(begun.elapsed());
    }
    let (slowest, usual) = (took.iter().max().copied().unwrap_or_default(), median(took));
    println!("roll-backs by an operator took effect after {usual:?}, the slowest after {slowest:?}");
    assert!(slowest <= OFF, "a roll-back took effect after {slowest:?}, usually {usual:?}");

    // Services that nothing has gone wrong for yet; the median, since a busy machine may keep one of them waiting.
    for staged in [true, false] {
        let mut took = Vec::new();
        for n in 0..TIMED {
            took.push(off_by_itself(world, n, staged).await);
        }
        let what = if staged { "canaries" } else { "active versions" };
        println!("{what} were off after {took:?} from their first failure");
        let took = median(took);
        assert!(took <= OFF, "{what} were off {took:?} after their first failure");
    }
}

/// How long after its first failure a version is off by itself, a canary or one that an operator bound active.
async fn off_by_itself(world: &World, n: usize, staged: bool) -> Duration {
    let (operator, client) = (world.operator(AP), world.client(AP));
    let service = format!("host-timed-{n}-{staged}");
    let owner = world.owner(AP, &service);
    let zone = format!("{}a", REGIONS[AP]);
    let _ = owner.register(&service, &zone, &registration(&zone, 8_083)).await.expect(201);
    let _ = operator.put(&path(&service), &json!({ "policy": FORMER })).await.expect(201);
    until("the former policy answers", Duration::from_secs(5), async || {
        answered(&client, &service).await == (FORMER.into(), "ok".into())
    })
    .await;
    // With a config of its own: as it was bound above, it rests by now on this gateway.
    let hostile = "route-traps";
    let mut body = json!({ "policy": hostile, "config": { "timed": service } });
    if staged {
        (body["stage"], body["percent"]) = (json!("canary"), json!(100));
    }
    let _ = operator.put(&path(&service), &body).await.expect(200);
    // A version fails where it is asked.
    let _lookups = Stream::start(world.client(AP), vec![service.clone()], PACE / 8);
    until("it fails", Duration::from_secs(5), async || answered(&client, &service).await.1 == "last-good")
        .await;
    // By itself to what is known to be good; the former policy had no time to become it.
    until("it is off", OFF + 2 * SLACK, async || {
        let binding = operator.get(&path(&service)).await.expect(200);
        let (policy, outcome) = answered(&client, &service).await;
        policy != hostile
            && outcome == "ok"
            && binding["candidate"].is_null()
            && binding["active"]["policy"] != hostile
    })
    .await
}
