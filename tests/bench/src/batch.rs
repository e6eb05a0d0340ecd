//! Many lookups in one request: how many a core answers.

use crate::load::request;
use crate::population::{Population, ZONES};
use crate::process::{Cores, Pinned};
use crate::region::{Region, Start};
use crate::report::{Figure, Report};
use crate::single::Round;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Rounds; medians are printed
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Length of a round, in seconds
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Keep-alive connections, one batch under way on each
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// Lookups in a batch
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    lookups: u32,
    /// Services that they are about, in turn
    #[arg(long, default_value_t = 100)]
    services: usize,
    /// Endpoints of each
    #[arg(long, default_value_t = 20)]
    endpoints: usize,
}

impl Arguments {
    pub(crate) fn smoke(self) -> Self {
        Self { rounds: 2, seconds: 0.2, ..self }
    }
}

/// Longest that all policies may take to be prepared.
const WARM_WITHIN: Duration = Duration::from_secs(30);

pub(crate) fn run(arguments: &Arguments) -> Result<Report> {
    let cores = Cores::find()?;
    let _pinned = cores.map(|cores| Pinned::to(cores.load)).transpose()?;
    let region = Region::start()?;
    Population::of(arguments.services, arguments.endpoints).write(&region.etcd)?;
    let core = cores.map(|cores| cores.server);
    let gateway = region.gateway(Start { name: "gateway", workers: Some(1), core })?;
    let lookups: Vec<Value> = (0..arguments.lookups as usize)
        .map(|n| json!({ "service": Population::service(n % arguments.services), "zone": ZONES[n % ZONES.len()] }))
        .collect();
    let asked = request("POST", "/v1/resolve", &[], &json!({ "lookups": lookups }).to_string());

    let mut connections = gateway.connect(arguments.connections)?;
    let deadline = Instant::now() + WARM_WITHIN;
    let answer = loop {
        let (status, body) = connections.ask(&asked)?;
        let body = String::from_utf8(body).context("an answer is text")?;
        if status == 200 && body.matches(r#""outcome":"ok""#).count() == lookups.len() {
            break body;
        }
        if Instant::now() > deadline {
            bail!("not every lookup of the batch is answered by its policy: {status} {body}");
        }
    };
    Round::run(&gateway, &mut connections, &asked, arguments.seconds / 4.0)?;
    let rounds =
        (0..arguments.rounds).map(|_| Round::run(&gateway, &mut connections, &asked, arguments.seconds));
    let rounds = rounds.collect::<Result<Vec<_>>>()?;

    let each = f64::from(arguments.lookups);
    let per_core: Vec<f64> = rounds.iter().map(|round| each / round.cpu_micros_each * 1e6).collect();
    let by_clock: Vec<f64> = rounds.iter().map(|round| each * round.per_second).collect();
    let nanos: Vec<f64> = rounds.iter().map(|round| round.cpu_micros_each / each * 1e3).collect();
    let mut report = Report::new(format!("batch: POST /v1/resolve of {} lookups", arguments.lookups));
    report.add(Figure::median("lookups per second of server CPU", "/s per core", &per_core).at_least(1e6));
    report.add(Figure::median("lookups by the clock", "/s", &by_clock));
    report.add(Figure::median("server CPU per lookup", "ns", &nanos));
    report.remark(format!(
        "{} connections, {} services of {} endpoints, requests of {} bytes, answers of {} bytes; one worker{}",
        arguments.connections,
        arguments.services,
        arguments.endpoints,
        asked.len(),
        answer.len(),
        if cores.is_some() { " on a core of its own" } else { "" }
    ));
    Ok(report)
}
