//! Idle watchers: what each costs in memory, what all cost in time, and that a write which does not change their answer
//! wakes none.

use crate::load::{Connections, expect, request};
use crate::population::{Population, TTL_SECONDS, ZONES};
use crate::process::{self, Memory};
use crate::region::{Region, Start};
use crate::report::{Figure, Report};
use crate::server::Server;
use crate::stream::Stream;
use anyhow::{Context, Result};
use serde_json::json;
use std::time::{Duration, Instant};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Watchers, each on a connection of its own
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=25_000))]
    watchers: u32,
    /// Services that they watch, in turn
    #[arg(long, default_value_t = 100)]
    services: usize,
    /// Seconds for which their idleness is measured
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Writes in the second half that change no answer
    #[arg(long, default_value_t = 1000)]
    writes: u32,
}

impl Arguments {
    pub(crate) fn smoke(self) -> Self {
        Self { watchers: 200, services: 10, seconds: 1, writes: 20 }
    }
}

/// Opened first, so that what the first ones cost once is not counted.
const FIRST: usize = 200;
/// Time for buffers of answers to be given back.
const SETTLE: Duration = Duration::from_secs(2);

fn open(gateway: &Server, services: usize, count: usize, into: &mut Vec<Stream>) -> Result<()> {
    for number in 0..count {
        let zone = ZONES.get(number % ZONES.len()).context("no zones")?;
        let path = format!("/v1/resolve/{}?zone={zone}", Population::service(number % services.max(1)));
        let mut stream = Stream::open(gateway.address, &path)?;
        stream.wait_for_snapshot()?;
        into.push(stream);
    }
    Ok(())
}

/// An instance in a watched service that is still starting, and so in no answer.
fn register_starting(connection: &mut Connections, place: &str, bearer: &str) -> Result<()> {
    let body = json!({ "host": "10.9.9.9", "port": 80, "zone": ZONES.first(), "status": "starting",
                       "leaseTtlSeconds": TTL_SECONDS });
    let asked = request("PUT", place, &[("authorization", bearer)], &body.to_string());
    let (status, answer) = connection.ask(&asked)?;
    expect(201, status, &answer)
}

/// Writes to it, evenly over `span`.
fn write(connection: &mut Connections, place: &str, bearer: &str, writes: u32, span: Duration) -> Result<()> {
    let start = Instant::now();
    for number in 0..writes {
        std::thread::sleep((start + span * number / writes).saturating_duration_since(Instant::now()));
        let body = json!({ "metadata": { "sequence": number.to_string() } }).to_string();
        let (status, answer) =
            connection.ask(&request("PATCH", place, &[("authorization", bearer)], &body))?;
        expect(200, status, &answer)?;
    }
    std::thread::sleep((start + span).saturating_duration_since(Instant::now()));
    Ok(())
}

/// What a gateway uses of a core while nobody asks anything, in percent.
fn idle(gateway: &Server, span: Duration) -> Result<f64> {
    let cpu = gateway.cpu()?;
    std::thread::sleep(span);
    Ok((gateway.cpu()? - cpu) / span.as_secs_f64() * 100.0)
}

pub(crate) fn run(arguments: &Arguments) -> Result<Report> {
    process::allow_many_files(u64::from(arguments.watchers) + 1000)?;
    let region = Region::start()?;
    Population::of(arguments.services, 20).write(&region.etcd)?;
    let gateway = region.gateway(Start { name: "gateway", ..Start::default() })?;
    let span = Duration::from_secs(arguments.seconds);
    let unwatched = idle(&gateway, span)?;
    let mut streams = Vec::new();
    open(&gateway, arguments.services, FIRST, &mut streams)?;
    std::thread::sleep(SETTLE);
    let before: Memory = gateway.memory()?;
    let opening = Instant::now();
    open(&gateway, arguments.services, arguments.watchers as usize, &mut streams)?;
    let opened = opening.elapsed().as_secs_f64();
    std::thread::sleep(SETTLE);
    let after = gateway.memory()?;

    let wakes = || gateway.metrics()?.sum("meridian_watch_wakes_total");
    let woken = wakes()?;
    let watched = idle(&gateway, span)?;

    let place = format!("/v1/namespaces/default/services/{}/instances/starting", Population::service(0));
    let bearer = region.bearer();
    let mut connection = gateway.connect(1)?;
    register_starting(&mut connection, &place, &bearer)?;
    let cpu = gateway.cpu()?;
    write(&mut connection, &place, &bearer, arguments.writes, span)?;
    let writing = (gateway.cpu()? - cpu) / span.as_secs_f64() * 100.0;
    let woken = wakes()? - woken;
    gateway.check()?;

    let count = f64::from(arguments.watchers);
    let each = |before: f64, after: f64| (after - before) / count;
    let mut report =
        Report::new(format!("watchers: {} idle watchers (server-sent events)", arguments.watchers));
    report.add(Figure::of("memory per watcher", "KiB", each(before.resident, after.resident)).at_most(12.0));
    report.add(Figure::of("CPU with all of them idle", "% of a core", watched).at_most(2.0));
    report.add(Figure::of("CPU without watchers", "% of a core", unwatched));
    report.add(Figure::of("wake-ups by writes that change no answer", "", woken).at_most(0.0));
    report.add(Figure::of("CPU during these writes", "% of a core", writing));
    report.add(Figure::of("opened", "/s", count / opened));
    report.remark(format!(
        "{} services, {} s idle, then {} writes to an instance that is starting in as long; memory is resident memory of the \
         gateway above that with {FIRST} watchers, without the kernel's for sockets",
        arguments.services, arguments.seconds, arguments.writes
    ));
    Ok(report)
}
