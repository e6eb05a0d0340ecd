//! Lookups in every region while regions are broken at random, one or two faults at a time. No gateway dies and instances live in
//! at least one region, so that every lookup has to be answered.

use crate::place::{ORDERS, Place, REGIONS, docker};
use meridian_tests::draw::Draw;
use meridian_tests::load::{Load, Report};
use std::time::{Duration, Instant};

/// How long faults go on, in seconds, where the default is not wanted.
const SPAN: &str = "MERIDIAN_CHAOS_SECONDS";
/// Five minutes.
const DEFAULT_SPAN: u64 = 300;
/// Between two lookups of one stream.
const PACE: Duration = Duration::from_millis(40);
/// Instances in all regions: one in each of two zones.
const INSTANCES: u64 = 6;
/// Milliseconds that a fault lasts at least: a lease of 6 s has run out, and a region is suspect after 5 s.
const HELD: u64 = 9_000;
/// After the last fault: containers that were killed start, 30 s until what is stale is fresh and has all its traffic.
const SETTLED: Duration = Duration::from_secs(120);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// One of `terraform/faults/fault`.
    Scripted(&'static str),
    /// All instances of the region die at once.
    Workloads,
}

impl Fault {
    const ALL: [Self; 8] = [
        Self::Scripted("cut"),
        Self::Scripted("cut-in"),
        Self::Scripted("cut-out"),
        Self::Scripted("slow"),
        Self::Scripted("etcd-majority"),
        Self::Scripted("pause-node"),
        Self::Scripted("drain"),
        Self::Workloads,
    ];

    fn begin(self, place: &Place, region: &str) {
        match self {
            Self::Scripted(fault) => place.fault("begin", fault, region),
            Self::Workloads => instances(place, region, "kill"),
        }
    }

    fn end(self, place: &Place, region: &str) {
        match self {
            Self::Scripted(fault) => place.fault("end", fault, region),
            Self::Workloads => instances(place, region, "start"),
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
    let (mut deck, mut felt) = (Vec::new(), false);
    while begun.elapsed() < span {
        let at = draw.below(REGIONS.len());
        let other = (at + 1 + draw.below(REGIONS.len() - 1)) % REGIONS.len();
        // In different regions: of two cuts of one, the end of one would be the end of both.
        let faults =
            [(next(&mut deck, &mut draw), REGIONS[at]), (next(&mut deck, &mut draw), REGIONS[other])];
        let (held, pause) = (HELD + draw.below(2_000) as u64, draw.below(2_000) as u64);
        faults.iter().for_each(|(fault, region)| fault.begin(&place, region));
        tokio::time::sleep(Duration::from_millis(held)).await;
        felt |= place.somebody_misses_a_region().await;
        faults.iter().for_each(|(fault, region)| fault.end(&place, region));
        println!("at {:?}: {faults:?} for {held} ms", begun.elapsed());
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    println!("settled after {:?}", place.settled(INSTANCES, SETTLED).await);

    let reports: Vec<Report> = loads.into_iter().map(Load::stop).collect();
    for (region, report) in REGIONS.iter().zip(&reports) {
        println!(
            "{region}: {} lookups, {} failed, the slowest took {:?}, by {:?}",
            report.lookups, report.failed, report.slowest, report.outcomes
        );
    }
    reports.iter().for_each(Report::check);
    // Faults that nobody felt prove nothing.
    assert!(felt, "no gateway ever missed a region");
    let left = |(home, report): (&&str, &Report)| report.last_from.keys().any(|region| region != home);
    assert!(REGIONS.iter().zip(&reports).any(left), "no lookup was ever answered from another region");
    place.destroy();
    assert!(place.objects().is_empty(), "something was left behind");
}
