//! Lookups in every region while regions are broken at random, two faults at a time. No gateway dies and instances live in
//! at least one region, so that every lookup has to be answered.

use crate::place::{ORDERS, Place, REGIONS, docker};
use meridian_tests::client::{Answer, Client};
use meridian_tests::draw::Draw;
use meridian_tests::figures;
use meridian_tests::load::{Load, Report};
use meridian_tests::patience::until;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How long faults go on, in seconds, where the default is not wanted. Each comes at least once, however short this is.
const SPAN: &str = "MERIDIAN_CHAOS_SECONDS";
/// Five minutes.
const DEFAULT_SPAN: u64 = 300;
/// Between two lookups of one stream.
const PACE: Duration = Duration::from_millis(40);
/// Instances in all regions: one in each of two zones.
const INSTANCES: u64 = 6;
/// Milliseconds that a fault lasts at least: a lease of 6 s has run out, and a region is suspect after 5 s.
const HELD: u64 = 9_000;
/// Until a fault shows. It lasts longer where that takes longer.
const SHOWN: Duration = Duration::from_secs(60);
/// A round trip that is slowed by 150 ms, smoothed; one that is not takes a few.
const SLOW_MILLIS: u64 = 60;
/// After the last fault: containers that were killed start, 30 s until what is stale is fresh and has all its traffic.
const SETTLED: Duration = Duration::from_secs(120);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Cut,
    CutIn,
    CutOut,
    Slow,
    EtcdMajority,
    PauseNode,
    Drain,
    /// All instances of the region die at once.
    Workloads,
}

impl Fault {
    const ALL: [Self; 8] = [
        Self::Cut,
        Self::CutIn,
        Self::CutOut,
        Self::Slow,
        Self::EtcdMajority,
        Self::PauseNode,
        Self::Drain,
        Self::Workloads,
    ];

    /// What `terraform/faults/fault` calls it.
    fn script(self) -> Option<&'static str> {
        Some(match self {
            Self::Cut => "cut",
            Self::CutIn => "cut-in",
            Self::CutOut => "cut-out",
            Self::Slow => "slow",
            Self::EtcdMajority => "etcd-majority",
            Self::PauseNode => "pause-node",
            Self::Drain => "drain",
            Self::Workloads => return None,
        })
    }

    fn begin(self, place: &Place, region: &str) {
        match self.script() {
            Some(fault) => place.fault("begin", fault, region),
            None => instances(place, region, "kill"),
        }
    }

    fn end(self, place: &Place, region: &str) {
        match self.script() {
            Some(fault) => place.fault("end", fault, region),
            None => instances(place, region, "start"),
        }
    }

    /// Whether it does what it is for, as a region that is whole or the broken one itself tells.
    async fn shows(self, place: &Place, at: usize, whole: usize) -> bool {
        let seen_from = async |from: usize| -> Answer {
            Client::new(place.gateways(from)[0])
                .get(&format!("/v1/regions/{}", REGIONS[at]))
                .await
                .expect(200)
        };
        match self {
            Self::Cut | Self::CutIn | Self::CutOut | Self::PauseNode => {
                seen_from(whole).await["reachable"] == false
            }
            Self::Slow => seen_from(whole).await["roundTripMs"].as_u64() >= Some(SLOW_MILLIS),
            Self::EtcdMajority => {
                let gateway = Client::new(place.gateways(at)[0]);
                figures::of(&gateway).await["meridian_registry_connected"] == 0.0
            }
            Self::Drain => !seen_from(at).await["draining"].is_null(),
            Self::Workloads => seen_from(at).await["healthy"] == 0,
        }
    }
}

fn instances(place: &Place, region: &str, what: &str) {
    let names = place.containers(region, "workload");
    let _ = docker(&[&[what], names.iter().map(String::as_str).collect::<Vec<_>>().as_slice()].concat());
}

/// All faults in a random order, then all again: also a short run has each.
fn next(deck: &mut Vec<Fault>, draw: &mut Draw) -> Fault {
    if deck.is_empty() {
        deck.extend(Fault::ALL);
    }
    deck.swap_remove(draw.below(deck.len()))
}

/// `MERIDIAN_SEED` draws the same faults again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_lookup_fails_while_regions_break() {
    let span = std::env::var(SPAN).map_or(DEFAULT_SPAN, |text| text.parse().expect("a number of seconds"));
    let span = Duration::from_secs(span);
    let mut draw = Draw::of_environment();
    let place = Place::new();
    place.apply();
    println!("settled after {:?}", place.settled(INSTANCES, SETTLED).await);
    for at in 0..REGIONS.len() {
        place.endpoints_answer(at, INSTANCES as usize).await;
    }

    let loads: Vec<Load> = (0..REGIONS.len())
        .map(|at| Load::start(&place.gateways(at), &format!("/v1/resolve/{ORDERS}"), PACE))
        .collect();
    let begun = Instant::now();
    let (mut deck, mut dealt, mut without_instances) = (Vec::new(), 0, BTreeSet::new());
    while begun.elapsed() < span || dealt < Fault::ALL.len() {
        // In different regions: of two cuts of one, the end of one would be the end of both. The third stays whole.
        let at = draw.below(REGIONS.len());
        let other = (at + 1 + draw.below(REGIONS.len() - 1)) % REGIONS.len();
        let whole = (0..REGIONS.len()).find(|third| ![at, other].contains(third)).unwrap();
        let faults = [(next(&mut deck, &mut draw), at), (next(&mut deck, &mut draw), other)];
        let (held, pause) = (HELD + draw.below(2_000) as u64, draw.below(2_000) as u64);
        for (fault, at) in faults {
            // Of an earlier one nothing is left that could be taken for this; and a drain is a write, for which the region's
            // etcd must have a leader again.
            let _ = until("the region is whole", SETTLED, async || {
                !fault.shows(&place, at, whole).await && !Fault::EtcdMajority.shows(&place, at, whole).await
            })
            .await;
        }
        faults.iter().for_each(|(fault, at)| fault.begin(&place, REGIONS[*at]));
        let broken = Instant::now();
        for (fault, at) in faults {
            let what = format!("{fault:?} of {} shows", REGIONS[at]);
            let shown = until(&what, SHOWN, async || fault.shows(&place, at, whole).await).await;
            println!("at {:?}: {what} after {shown:?}", begun.elapsed());
            if fault == Fault::Workloads {
                let _ = without_instances.insert(at);
            }
        }
        dealt += faults.len();
        tokio::time::sleep(Duration::from_millis(held).saturating_sub(broken.elapsed())).await;
        faults.iter().for_each(|(fault, at)| fault.end(&place, REGIONS[*at]));
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    println!("settled after {:?}", place.settled(INSTANCES, SETTLED).await);

    let reports: Vec<Report> = loads.into_iter().map(Load::stop).collect();
    for (at, report) in reports.iter().enumerate() {
        println!(
            "{}: {} lookups, {} failed, the slowest took {:?}, by {:?}",
            REGIONS[at], report.lookups, report.failed, report.slowest, report.outcomes
        );
        report.check();
        let remote = report.last_from.keys().any(|region| region != REGIONS[at]);
        assert!(
            remote || !without_instances.contains(&at),
            "{} had no instances and asked no other",
            REGIONS[at]
        );
    }
    place.destroy();
    assert!(place.objects().is_empty(), "something was left behind");
}
