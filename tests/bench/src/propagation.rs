//! From a write at one gateway to the watchers of the answer at it and at another gateway of the region.

use crate::load::{expect, request};
use crate::population::{Population, ZONES};
use crate::region::{Region, Start};
use crate::report::{Figure, Report, quantile};
use crate::server::Server;
use crate::stream::Stream;
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::net::Shutdown;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Writes that change the answer
    #[arg(long, default_value_t = 1000)]
    writes: u32,
    /// Writes a second, evenly
    #[arg(long, default_value_t = 50)]
    rate: u32,
    /// Watchers at each of the two gateways
    #[arg(long, default_value_t = 5)]
    watchers: usize,
    /// Other services with 20 instances each
    #[arg(long, default_value_t = 500)]
    services: usize,
}

impl Arguments {
    pub(crate) fn smoke(self) -> Self {
        Self { writes: 20, services: 10, ..self }
    }
}

/// A watcher that has not seen a write so long after the last one lost it, or skipped to a newer one.
const GRACE: Duration = Duration::from_secs(2);

/// A write was seen by a watcher.
struct Seen {
    at_writer: bool,
    number: u32,
    when: Instant,
}

/// The number in `"sequence":"17"`, once it is whole; the last one where several have come.
fn sequence(text: &str) -> Option<u32> {
    let (_, rest) = text.rsplit_once(r#""sequence":""#)?;
    rest.split_once('"')?.0.parse().ok()
}

fn watch(mut stream: Stream, at_writer: bool, seen: Sender<Seen>) {
    // Ends when the socket is shut down, or with the gateway; a watcher that ends early misses writes, which is reported.
    while let Ok(number) = stream.wait_for(sequence) {
        if seen.send(Seen { at_writer, number, when: Instant::now() }).is_err() {
            return;
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<Report> {
    let region = Region::start()?;
    Population::of(arguments.services, 20).write(&region.etcd)?;
    // One more service with one instance, whose record is its answer: registered below.
    let service = Population::service(arguments.services);
    let writer = region.gateway(Start { name: "writer", ..Start::default() })?;
    let other = region.gateway(Start { name: "other", ..Start::default() })?;
    let place = format!("/v1/namespaces/default/services/{service}/instances/i");
    let bearer = region.bearer();
    let headers = [("authorization", bearer.as_str())];
    let body = json!({ "host": "10.0.0.1", "port": 80, "zone": ZONES.first(), "leaseTtlSeconds": 3600 });
    let mut connection = writer.connect(1)?;
    let (status, answer) = connection.ask(&request("PUT", &place, &headers, &body.to_string()))?;
    expect(201, status, &answer)?;
    let path = format!("/v1/resolve/{service}");
    for gateway in [&writer, &other] {
        gateway.get_until(&path, |body| body.contains(r#""outcome":"ok""#))?;
    }

    let (sender, seen) = channel();
    let mut handles = Vec::new();
    for (gateway, at_writer) in [(&writer, true), (&other, false)] {
        for _ in 0..arguments.watchers {
            let mut stream = Stream::open(gateway.address, &path)?;
            stream.wait_for_snapshot()?;
            handles.push(stream.handle()?);
            let sender = sender.clone();
            std::thread::spawn(move || watch(stream, at_writer, sender));
        }
    }
    drop(sender);

    let start = Instant::now();
    let mut sent = Vec::new();
    let mut answered = Vec::new();
    for number in 0..arguments.writes {
        let due = start + Duration::from_secs(1) * number / arguments.rate.max(1);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let body = json!({ "metadata": { "sequence": number.to_string() } }).to_string();
        let asked = request("PATCH", &place, &headers, &body);
        let at = Instant::now();
        let (status, answer) = connection.ask(&asked)?;
        expect(200, status, &answer)?;
        answered.push(at.elapsed().as_secs_f64() * 1e3);
        sent.push(at);
    }
    std::thread::sleep(GRACE);
    for handle in &handles {
        let _ = handle.shutdown(Shutdown::Both);
    }
    let mut millis = (Vec::new(), Vec::new());
    for Seen { at_writer, number, when } in seen {
        let at = sent.get(number as usize).with_context(|| format!("nobody wrote {number}"))?;
        let took = when.saturating_duration_since(*at).as_secs_f64() * 1e3;
        if at_writer { millis.0.push(took) } else { millis.1.push(took) }
    }
    report(arguments, &millis.0, &millis.1, &answered, [&writer, &other])
}

fn report(
    arguments: &Arguments,
    here: &[f64],
    there: &[f64],
    answered: &[f64],
    gateways: [&Server; 2],
) -> Result<Report> {
    gateways.into_iter().try_for_each(Server::check)?;
    let all: Vec<f64> = here.iter().chain(there).copied().collect();
    if all.is_empty() {
        bail!("no watcher saw any write");
    }
    let expected = arguments.writes as usize * arguments.watchers * 2;
    let mut report =
        Report::new("propagation: from a write's request to the watchers of the answer, within a region");
    report.add(Figure::of("p99, all watchers", "ms", quantile(&all, 0.99)).at_most(50.0));
    for (whose, samples) in [("at the writer's gateway", here), ("at another gateway", there)] {
        report.add(Figure::of(format!("p50, {whose}"), "ms", quantile(samples, 0.5)));
        report.add(Figure::of(format!("p99, {whose}"), "ms", quantile(samples, 0.99)));
        report.add(Figure::of(format!("slowest, {whose}"), "ms", quantile(samples, 1.0)));
    }
    report.add(Figure::of("p50 of the write's own answer", "ms", quantile(answered, 0.5)));
    let skipped = expected.saturating_sub(all.len()) as f64 / expected as f64 * 100.0;
    report.add(Figure::of("writes that a watcher did not see on its own", "%", skipped));
    report.remark(format!(
        "{} writes at {}/s, {} watchers at each of two gateways, one etcd, {} other services; a watcher skips to the newest \
         where two writes come at once",
        arguments.writes, arguments.rate, arguments.watchers, arguments.services
    ));
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_whole_number_counts() {
        assert_eq!(sequence(r#"{"metadata":{"sequence":"17"}}"#), Some(17));
        assert_eq!(sequence(r#"..."sequence":"17"}...."sequence":"18"}"#), Some(18));
        assert_eq!(sequence(r#"{"metadata":{"sequence":"1"#), None);
    }
}
