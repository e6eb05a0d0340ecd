//! Heartbeats at a steady pace, in batches and one by one: what they cost the gateway, and how little of them reaches etcd.

use crate::load::{Connections, Work, expect, write_request};
use crate::population::Population;
use crate::region::{Region, Start};
use crate::report::{Figure, Report};
use crate::server::Server;
use anyhow::{Result, bail};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Instances, each beating once a second
    #[arg(long, default_value_t = 10_000)]
    instances: usize,
    /// Services that they belong to, in turn
    #[arg(long, default_value_t = 500)]
    services: usize,
    /// Heartbeats in one request, where they come in batches
    #[arg(long, default_value_t = 500)]
    batch: usize,
    /// Seconds of each kind
    #[arg(long, default_value_t = 15)]
    seconds: u32,
    /// Whether the pace has to be kept, because the numbers mean something
    #[arg(skip = true)]
    judged: bool,
}

impl Arguments {
    pub(crate) fn smoke(self) -> Self {
        Self { instances: 1000, services: 50, batch: 100, seconds: 1, judged: false }
    }
}

/// Parts into which a second is cut, so that beats come evenly and not in one burst.
const PARTS: usize = 20;
const CONNECTIONS: usize = 64;
/// Beats that come later than this are no longer at an even pace.
const LATE: Duration = Duration::from_secs(1);
/// Time without beats, to know what the gateway and etcd do of themselves.
const IDLE: Duration = Duration::from_secs(4);

struct Beats<'a> {
    bearer: &'a str,
    population: Population,
    /// Instances that are to beat now.
    due: std::ops::Range<usize>,
    /// In one request; 0 for the route of single ones.
    batch: usize,
    /// Results without an error.
    taken: usize,
    /// By how much the latest part of a second was late.
    late: Duration,
}

impl Work for Beats<'_> {
    fn request(&mut self, out: &mut Vec<u8>) -> bool {
        if self.due.is_empty() {
            return false;
        }
        let headers = [("authorization", self.bearer)];
        if self.batch == 0 {
            let instance = self.due.start;
            self.due.start += 1;
            let (service, id) = (self.population.home(instance), Population::id(instance));
            let path = format!("/v1/namespaces/default/services/{service}/instances/{id}/heartbeat");
            let body = json!({ "lease": Population::lease(instance) });
            write_request(out, "POST", &path, &headers, &body.to_string());
            return true;
        }
        let some = self.due.start..self.due.end.min(self.due.start + self.batch);
        self.due.start = some.end;
        let beat = |instance| {
            json!({ "namespace": "default", "service": self.population.home(instance),
                    "instanceId": Population::id(instance), "lease": Population::lease(instance) })
        };
        let beats: Vec<Value> = some.map(beat).collect();
        write_request(out, "POST", "/v1/heartbeats", &headers, &json!({ "heartbeats": beats }).to_string());
        true
    }

    fn answer(&mut self, status: u16, body: &[u8]) -> Result<()> {
        expect(200, status, body)?;
        // One by every beat that was taken, in both forms of the answer.
        let taken = br#""expiresAt""#;
        self.taken += body.windows(taken.len()).filter(|window| window == taken).count();
        Ok(())
    }
}

/// What a time of beating, or of idling, cost.
struct Cost {
    beats: f64,
    seconds: f64,
    cpu: f64,
    etcd_puts: f64,
    published: f64,
}

impl Cost {
    fn of(region: &Region, gateway: &Server, beat: impl FnOnce() -> Result<usize>) -> Result<Self> {
        let counts = || -> Result<(f64, f64)> {
            let published = gateway.metrics()?.sum("meridian_heartbeat_batches_total")?;
            Ok((region.etcd_metrics()?.sum("etcd_debugging_mvcc_put_total")?, published))
        };
        let (puts, published) = counts()?;
        let (start, cpu) = (Instant::now(), gateway.cpu()?);
        let beats = beat()? as f64;
        let (seconds, cpu) = (start.elapsed().as_secs_f64(), gateway.cpu()? - cpu);
        let after = counts()?;
        Ok(Self { beats, seconds, cpu, etcd_puts: after.0 - puts, published: after.1 - published })
    }
}

/// Every instance beats once a second.
fn beat(connections: &mut Connections, work: &mut Beats<'_>, seconds: u32) -> Result<usize> {
    let instances = work.population.instances;
    let (before, start) = (work.taken, Instant::now());
    for part in 0..seconds as usize * PARTS {
        let due = start + Duration::from_secs(1) * part as u32 / PARTS as u32;
        match due.checked_duration_since(Instant::now()) {
            Some(early) => std::thread::sleep(early),
            None => work.late = work.late.max(due.elapsed()),
        }
        let place = part % PARTS;
        work.due = instances * place / PARTS..instances * (place + 1) / PARTS;
        connections.run(work)?;
    }
    let (taken, sent) = (work.taken - before, instances * seconds as usize);
    if taken != sent {
        bail!("{sent} heartbeats were sent, but {taken} taken");
    }
    Ok(taken)
}

pub(crate) fn run(arguments: &Arguments) -> Result<Report> {
    let region = Region::start()?;
    let population = Population { services: arguments.services, instances: arguments.instances };
    population.write(&region.etcd)?;
    let gateway = region.gateway(Start { name: "gateway", ..Start::default() })?;
    let bearer = region.bearer();
    let mut connections = gateway.connect(CONNECTIONS)?;
    let mut work = Beats {
        bearer: &bearer,
        population,
        due: 0..0,
        batch: arguments.batch,
        taken: 0,
        late: Duration::ZERO,
    };
    beat(&mut connections, &mut work, 1)?;

    let idle = Cost::of(&region, &gateway, || {
        std::thread::sleep(IDLE);
        Ok(0)
    })?;
    let batched = Cost::of(&region, &gateway, || beat(&mut connections, &mut work, arguments.seconds))?;
    work.batch = 0;
    let single = Cost::of(&region, &gateway, || beat(&mut connections, &mut work, arguments.seconds))?;
    gateway.check()?;

    let mut report =
        Report::new(format!("heartbeats: {} instances, each once a second", arguments.instances));
    if work.late > LATE {
        let why = format!("the gateway or this machine cannot keep up: beats were {:?} late", work.late);
        if arguments.judged {
            bail!(why);
        }
        report.remark(why);
    }
    let per_thousand = |cost: &Cost, of: f64| of / cost.beats * 1e3;
    let kinds = [(format!("in batches of {}", arguments.batch), batched), ("one by one".to_owned(), single)];
    for (kind, cost) in &kinds {
        let puts = per_thousand(cost, cost.etcd_puts);
        report.add(Figure::of(format!("etcd writes per 1,000, {kind}"), "", puts));
    }
    for (kind, cost) in &kinds {
        let above_idle = cost.cpu - idle.cpu / idle.seconds * cost.seconds;
        report.add(Figure::of(
            format!("gateway CPU per 1,000, {kind}"),
            "ms",
            per_thousand(cost, above_idle) * 1e3,
        ));
        let share = cost.cpu / cost.seconds * 100.0;
        report.add(Figure::of(format!("gateway CPU, {kind}"), "% of a core", share));
        let published = per_thousand(cost, cost.published);
        report.add(Figure::of(format!("batches published per 1,000, {kind}"), "", published));
    }
    report.add(Figure::of("gateway CPU without beats", "% of a core", idle.cpu / idle.seconds * 100.0));
    report.add(Figure::of("etcd writes without beats", "/s", idle.etcd_puts / idle.seconds));
    report.remark(format!(
        "{} services, {} s of each kind at an even pace over {CONNECTIONS} connections, one token; etcd writes are all that \
         it counted, CPU per 1,000 is above that without beats",
        arguments.services, arguments.seconds
    ));
    Ok(report)
}
