//! One lookup over HTTP/1.1 keep-alive, against a bare handler that returns the same bytes, in turns.

use crate::load::{Connections, Repeat, request};
use crate::population::{Population, ZONES};
use crate::process::{Cores, Pinned};
use crate::region::{Region, Start};
use crate::report::{Figure, Report};
use crate::server::Server;
use anyhow::{Context, Result};
use std::process::Command;
use std::time::{Duration, Instant};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Rounds of each server; medians are printed
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Length of a round, in seconds
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Keep-alive connections, one request under way on each
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Endpoints of the service, in two zones
    #[arg(long, default_value_t = 20)]
    endpoints: usize,
}

impl Arguments {
    pub(crate) fn smoke(self) -> Self {
        Self { rounds: 2, seconds: 0.2, ..self }
    }
}

/// One round of one server.
pub(crate) struct Round {
    pub(crate) per_second: f64,
    pub(crate) cpu_micros_each: f64,
}

impl Round {
    /// Asks the same for a while.
    pub(crate) fn run(server: &Server, on: &mut Connections, asked: &[u8], seconds: f64) -> Result<Self> {
        let mut work = Repeat::new(asked, Duration::from_secs_f64(seconds));
        let (start, cpu) = (Instant::now(), server.cpu()?);
        on.run(&mut work)?;
        let (took, used) = (start.elapsed().as_secs_f64(), server.cpu()? - cpu);
        server.check()?;
        Ok(Self { per_second: work.answers as f64 / took, cpu_micros_each: used / work.answers as f64 * 1e6 })
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<Report> {
    let cores = Cores::find()?;
    let _pinned = cores.map(|cores| Pinned::to(cores.load)).transpose()?;
    let core = cores.map(|cores| cores.server);
    let region = Region::start()?;
    Population::of(1, arguments.endpoints).write(&region.etcd)?;
    let gateway = region.gateway(Start { name: "gateway", workers: Some(1), core })?;
    let path = format!("/v1/resolve/{}?zone={}", Population::service(0), ZONES.first().context("no zones")?);
    // From then on the bound module answers, not the fallback of a policy that is still being prepared.
    let answer = gateway.get_until(&path, |body| body.contains(r#""outcome":"ok""#))?;
    let file = region.file("answer.json");
    std::fs::write(&file, &answer).context("cannot write the answer")?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["bare", "--file"]).arg(&file);
    let bare = Server::start(command, core)?;

    let asked = request("GET", &path, &[], "");
    let mut to_gateway = gateway.connect(arguments.connections)?;
    let mut to_bare = bare.connect(arguments.connections)?;
    Round::run(&gateway, &mut to_gateway, &asked, arguments.seconds / 4.0)?;
    Round::run(&bare, &mut to_bare, &asked, arguments.seconds / 4.0)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..arguments.rounds {
        ours.push(Round::run(&gateway, &mut to_gateway, &asked, arguments.seconds)?);
        theirs.push(Round::run(&bare, &mut to_bare, &asked, arguments.seconds)?);
    }

    let rates = |rounds: &[Round]| rounds.iter().map(|r| r.per_second).collect::<Vec<_>>();
    let costs = |rounds: &[Round]| rounds.iter().map(|r| r.cpu_micros_each).collect::<Vec<_>>();
    let ratios =
        |some: &[f64], others: &[f64]| some.iter().zip(others).map(|(a, b)| a / b).collect::<Vec<_>>();
    let throughput = ratios(&rates(&ours), &rates(&theirs));
    let cost = ratios(&costs(&theirs), &costs(&ours));
    let mut report =
        Report::new("single: one lookup over HTTP/1.1 keep-alive, against a bare axum::serve handler");
    report.add(Figure::median("throughput, gateway / bare", "", &throughput).at_least(0.75));
    report.add(Figure::median("CPU per request, bare / gateway", "", &cost));
    report.add(Figure::median("gateway", "req/s", &rates(&ours)));
    report.add(Figure::median("bare", "req/s", &rates(&theirs)));
    report.add(Figure::median("gateway CPU per request", "µs", &costs(&ours)));
    report.add(Figure::median("bare CPU per request", "µs", &costs(&theirs)));
    report.remark(format!(
        "{} connections, {} endpoints, answers of {} bytes; one worker; {}",
        arguments.connections,
        arguments.endpoints,
        answer.len(),
        match cores {
            Some(cores) => format!("servers on core {}, generator on core {}", cores.server, cores.load),
            None => "everything on the only core, so that the ratio of CPU counts".to_owned(),
        }
    ));
    Ok(report)
}
