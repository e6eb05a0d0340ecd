//! Registrations on etcd, history included, against raw puts into the same etcd, in turns.

use crate::load::{Work, expect, write_request};
use crate::population::{Population, TTL_SECONDS, ZONES};
use crate::process;
use crate::region::{Region, Start};
use crate::report::{Figure, Report};
use anyhow::{Context, Result};
use meridian_registry::testing::RealEtcd;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Rounds of each kind; medians are printed
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Length of a round, in seconds
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Clients of each kind, each waiting for its answer
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// Services that the instances belong to, in turn
    #[arg(long, default_value_t = 5000)]
    services: usize,
    /// Bytes of a raw put, about what a record of an instance has
    #[arg(long, default_value_t = 500)]
    bytes: usize,
}

impl Arguments {
    pub(crate) fn smoke(self) -> Self {
        Self { rounds: 2, seconds: 0.3, services: 100, ..self }
    }
}

/// New instances, one after the other.
struct Registrations<'a> {
    bearer: &'a str,
    population: Population,
    next: usize,
    until: Instant,
    registered: u64,
    /// Answered before the gateway itself had seen the write.
    unapplied: u64,
}

impl Work for Registrations<'_> {
    fn request(&mut self, out: &mut Vec<u8>) -> bool {
        let number = self.next;
        self.next += 1;
        let (service, id) = (self.population.home(number), Population::id(number));
        let path = format!("/v1/namespaces/default/services/{service}/instances/{id}");
        let body = json!({
            "host": format!("10.0.{}.{}", number / 256 % 256, number % 256), "port": 8080,
            "zone": ZONES[number % ZONES.len()], "version": "2026.04.18.2", "deploymentGroup": "stable",
            "protocol": "http", "tags": ["v2"], "metadata": { "team": "inventory" }, "leaseTtlSeconds": TTL_SECONDS,
        });
        write_request(out, "PUT", &path, &[("authorization", self.bearer)], &body.to_string());
        Instant::now() < self.until
    }

    fn answer(&mut self, status: u16, body: &[u8]) -> Result<()> {
        self.registered += 1;
        let applied = br#""applied":true"#;
        self.unapplied += u64::from(!body.windows(applied.len()).any(|window| window == applied));
        expect(201, status, body)
    }
}

/// Puts from all clients for a while; how many there were.
fn raw_puts(
    runtime: &tokio::runtime::Runtime,
    etcd: &RealEtcd,
    round: usize,
    arguments: &Arguments,
) -> Result<u64> {
    runtime.block_on(async {
        let (puts, until) =
            (etcd.raw_puts().await, Instant::now() + Duration::from_secs_f64(arguments.seconds));
        let value: Arc<[u8]> = vec![b'x'; arguments.bytes].into();
        let done = Arc::new(AtomicU64::new(0));
        let client = |_| {
            let (mut puts, value, done) = (puts.clone(), Arc::clone(&value), Arc::clone(&done));
            tokio::spawn(async move {
                while Instant::now() < until {
                    let number = done.fetch_add(1, Ordering::Relaxed);
                    puts.put(&format!("{round}/{number}"), &value).await;
                }
            })
        };
        let clients: Vec<_> = (0..arguments.clients).map(client).collect();
        for client in clients {
            client.await.context("a raw put failed")?;
        }
        Ok(done.load(Ordering::Relaxed))
    })
}

pub(crate) fn run(arguments: &Arguments) -> Result<Report> {
    let region = Region::start()?;
    let gateway = region.gateway(Start { name: "gateway", ..Start::default() })?;
    let etcd = region.etcd.pid().context("etcd runs")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut connections = gateway.connect(arguments.clients)?;
    let bearer = region.bearer();
    let mut work = Registrations {
        bearer: &bearer,
        population: Population { services: arguments.services, instances: 0 },
        next: 0,
        until: Instant::now() + Duration::from_secs_f64(arguments.seconds / 4.0),
        registered: 0,
        unapplied: 0,
    };
    connections.run(&mut work)?;

    let mut rates = (Vec::new(), Vec::new());
    let mut costs = (Vec::new(), Vec::new());
    let own = std::process::id();
    for round in 0..arguments.rounds {
        let (start, used) = (Instant::now(), process::cpu(own)? + process::cpu(etcd)?);
        let puts = raw_puts(&runtime, &region.etcd, round, arguments)? as f64;
        let (took, used) = (start.elapsed().as_secs_f64(), process::cpu(own)? + process::cpu(etcd)? - used);
        rates.0.push(puts / took);
        costs.0.push(used / puts * 1e6);

        let before = work.registered;
        let (start, used) = (Instant::now(), gateway.cpu()? + process::cpu(etcd)?);
        work.until = start + Duration::from_secs_f64(arguments.seconds);
        connections.run(&mut work)?;
        let registered = (work.registered - before) as f64;
        let (took, used) = (start.elapsed().as_secs_f64(), gateway.cpu()? + process::cpu(etcd)? - used);
        rates.1.push(registered / took);
        costs.1.push(used / registered * 1e6);
    }

    let ratios: Vec<f64> = rates.1.iter().zip(&rates.0).map(|(ours, raw)| ours / raw).collect();
    let metrics = gateway.metrics()?;
    let batched =
        metrics.sum("meridian_etcd_writes_total")? / metrics.sum("meridian_etcd_transactions_total")?;
    let mut report = Report::new("register: registrations on etcd, history included, against raw puts");
    report.add(Figure::median("registrations / raw puts", "", &ratios).at_least(1.0));
    report.add(Figure::median("registrations", "/s", &rates.1));
    report.add(Figure::median("raw puts", "/s", &rates.0));
    report.add(Figure::median("CPU per registration, gateway and etcd", "µs", &costs.1));
    report.add(Figure::median("CPU per raw put, client and etcd", "µs", &costs.0));
    report.add(Figure::of("writes per transaction of etcd", "", batched));
    report.add(Figure::of("answered before it was applied", "", work.unapplied as f64));
    report.remark(format!(
        "{} clients of each kind on one etcd, in turns; {} instances in {} services at the end; raw puts of {} bytes; \
         nothing is pinned, and the generator takes its part of the cores in both",
        arguments.clients, work.registered, arguments.services, arguments.bytes
    ));
    Ok(report)
}
