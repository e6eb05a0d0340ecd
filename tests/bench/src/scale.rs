//! A whole region: memory, and cold starts from etcd and from disk.

use crate::load::{Work, expect, write_request};
use crate::population::{Population, ZONES};
use crate::process::Memory;
use crate::region::{Region, Start};
use crate::report::{Figure, Report};
use crate::server::Server;
use anyhow::{Context, Result, bail};
use std::time::{Duration, Instant};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Instances in the region
    #[arg(long, default_value_t = 100_000)]
    instances: usize,
    /// Services that they belong to, in turn
    #[arg(long, default_value_t = 5000)]
    services: usize,
    /// Cold starts of each kind; medians are printed
    #[arg(long, default_value_t = 5)]
    starts: usize,
}

impl Arguments {
    pub(crate) fn smoke(self) -> Self {
        Self { instances: 2000, services: 100, starts: 1 }
    }
}

/// Longest that the state may take to get on the disk.
const SAVED_WITHIN: Duration = Duration::from_secs(60);
/// Time for a gateway to give back what it used for a moment.
const SETTLE: Duration = Duration::from_secs(5);
const CONNECTIONS: usize = 64;

/// A cold start, in seconds.
#[derive(Clone, Copy)]
struct ColdStart {
    ready: f64,
    resolved: f64,
}

impl ColdStart {
    fn run(region: &Region, name: &str, source: &str, path: &str) -> Result<(Self, Server)> {
        let gateway = region.gateway(Start { name, ..Start::default() })?;
        let ready = gateway.ready_after.as_secs_f64();
        gateway.get_until(path, |body| body.contains(r#""endpoints":[{"#))?;
        let resolved = gateway.age().as_secs_f64();
        let state = gateway.get_until("/readyz", |_| true)?;
        if !state.contains(&format!(r#""source":"{source}""#)) {
            bail!("the gateway does not serve from {source}: {state}");
        }
        Ok((Self { ready, resolved }, gateway))
    }
}

/// One lookup of every service.
struct EveryService {
    services: usize,
    next: usize,
    /// Answered by the bound policy; the rest by the fallback while it was prepared.
    ok: usize,
}

impl Work for EveryService {
    fn request(&mut self, out: &mut Vec<u8>) -> bool {
        let number = self.next;
        self.next += 1;
        let zone = ZONES.first().copied().unwrap_or_default();
        write_request(
            out,
            "GET",
            &format!("/v1/resolve/{}?zone={zone}", Population::service(number)),
            &[],
            "",
        );
        number < self.services
    }

    fn answer(&mut self, status: u16, body: &[u8]) -> Result<()> {
        let ok = br#""outcome":"ok""#;
        self.ok += usize::from(body.windows(ok.len()).any(|window| window == ok));
        expect(200, status, body)
    }
}

/// Waits until the gateway has written its state.
fn wait_until_saved(gateway: &Server) -> Result<f64> {
    let deadline = Instant::now() + SAVED_WITHIN;
    while Instant::now() < deadline {
        let metrics = gateway.metrics()?;
        if metrics.sum("meridian_disk_saves_total")? >= 1.0 {
            return metrics.sum("meridian_disk_state_bytes");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    bail!("the gateway did not write its state to disk within {SAVED_WITHIN:?}")
}

pub(crate) fn run(arguments: &Arguments) -> Result<Report> {
    let mut region = Region::start()?;
    let population = Population { services: arguments.services, instances: arguments.instances };
    let filling = Instant::now();
    population.write(&region.etcd)?;
    let filled = filling.elapsed().as_secs_f64();
    let path = format!("/v1/resolve/{}?zone={}", Population::service(0), ZONES.first().context("no zones")?);

    let mut from_etcd = Vec::new();
    for number in 0..arguments.starts.max(1) {
        let name = format!("gateway-{number}");
        from_etcd.push(ColdStart::run(&region, &name, "registry", &path)?.0);
    }

    let (_, gateway) = ColdStart::run(&region, "lasting", "registry", &path)?;
    let state_bytes = wait_until_saved(&gateway)?;
    std::thread::sleep(SETTLE);
    let untouched: Memory = gateway.memory()?;
    let mut connections = gateway.connect(CONNECTIONS)?;
    let mut work = EveryService { services: arguments.services, next: 0, ok: 0 };
    let asking = Instant::now();
    connections.run(&mut work)?;
    let asked = asking.elapsed().as_secs_f64();
    std::thread::sleep(SETTLE);
    let touched = gateway.memory()?;
    let cache = gateway.metrics()?.sum("meridian_policy_cache_bytes")?;
    gateway.check()?;

    let mut gateway = gateway;
    gateway.kill();
    drop(gateway);
    let dead = |region: &Region| -> Result<Vec<ColdStart>> {
        (0..arguments.starts.max(1))
            .map(|_| {
                let (start, mut gateway) = ColdStart::run(region, "lasting", "disk", &path)?;
                gateway.kill();
                Ok(start)
            })
            .collect()
    };
    region.etcd.pause();
    let from_disk_paused = dead(&region);
    region.etcd.stop();
    let from_disk = dead(&region)?;

    let mut report =
        Report::new(format!("scale: {} instances of {} services", arguments.instances, arguments.services));
    let mib = |kib: f64| kib / 1024.0;
    let ready = |starts: &[ColdStart]| starts.iter().map(|start| start.ready).collect::<Vec<_>>();
    let resolved = |starts: &[ColdStart]| starts.iter().map(|start| start.resolved).collect::<Vec<_>>();
    let memory = "memory after every service was looked up";
    report.add(Figure::of(memory, "MiB", mib(touched.resident)).at_most(250.0));
    report.add(Figure::median("start from etcd until ready", "s", &ready(&from_etcd)).at_most(3.0));
    report
        .add(Figure::median("start from disk, etcd dead, until ready", "s", &ready(&from_disk)).at_most(0.5));
    report.add(Figure::of("router cache then", "MiB", cache / 1024.0 / 1024.0).at_most(64.0));
    report.add(Figure::median("start from etcd until a lookup is answered", "s", &resolved(&from_etcd)));
    report.add(Figure::median("start from disk, etcd dead, until a lookup", "s", &resolved(&from_disk)));
    match &from_disk_paused {
        Ok(starts) => {
            report.add(Figure::median("start from disk, etcd hanging, until ready", "s", &ready(starts)))
        }
        Err(error) => report.remark(format!("FAILED: start from disk with etcd hanging: {error:#}")),
    }
    report.add(Figure::of("memory before any lookup", "MiB", mib(untouched.resident)));
    report.add(Figure::of("of it anonymous, after the lookups", "MiB", mib(touched.anonymous)));
    report.add(Figure::of("most memory since the start", "MiB", mib(touched.peak)));
    report.add(Figure::of("state on disk", "MiB", state_bytes / 1024.0 / 1024.0));
    let share = work.ok as f64 / arguments.services as f64 * 100.0;
    report.add(Figure::of("first lookups that the policy answered", "%", share));
    report.add(Figure::of("first lookups", "/s", arguments.services as f64 / asked));
    report.remark(format!(
        "records written straight to the registry in {filled:.1} s; a start counts from the creation of the process, gateway \
         and etcd share the cores, files are in the page cache"
    ));
    Ok(report)
}
