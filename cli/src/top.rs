//! `meridian top`: where the traffic of every service goes right now, again and again.

use crate::arguments;
use crate::connection::{Connection, Global, Payload};
use crate::credential::Role;
use crate::failure::Failure;
use crate::output::{self, Table, items_of, percent, printable, text_of};
use meridian_model::names::{Namespace, ZoneName};
use reqwest::Method;
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::time::Duration;

/// Lookups of a batch, at most.
const BATCH: usize = 1_000;
/// Cursor to the upper left, and everything after it gone.
const CLEAR: &str = "\u{1b}[H\u{1b}[J";

/// Show where the traffic of every service goes right now, refreshed until Ctrl-C
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  meridian top\n  meridian top --zone ap-south-1a --every 5s\n  meridian top --once --json"
)]
pub(crate) struct Arguments {
    /// Namespace
    #[arg(long, default_value = "default")]
    namespace: Namespace,
    /// Zone of the caller [default: nowhere in particular]
    #[arg(long)]
    zone: Option<ZoneName>,
    /// Time between two looks
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = arguments::duration)]
    every: Duration,
    /// Look once, as --json does
    #[arg(long)]
    once: bool,
}

pub(crate) async fn run(arguments: Arguments, global: &Global) -> Result<(), Failure> {
    let connection = Connection::open(global, Role::Reader)?;
    let Arguments { namespace, zone, every, once } = arguments;
    if global.json {
        let (region, services) = look(&connection, &namespace, zone.as_ref()).await?;
        output::json(&json!({ "region": region, "items": services }));
        return Ok(());
    }
    if once {
        return show(&connection, &namespace, zone.as_ref(), "").await;
    }
    // A file keeps what was seen before.
    let before = if std::io::stdout().is_terminal() { CLEAR } else { "" };
    show(&connection, &namespace, zone.as_ref(), before).await?;
    loop {
        tokio::time::sleep(every).await;
        match show(&connection, &namespace, zone.as_ref(), before).await {
            // Whoever watches an outage wants to see its end too.
            Err(failure @ Failure::Unreachable(_)) => output::remark(failure),
            shown => shown?,
        }
    }
}

async fn show(
    connection: &Connection,
    namespace: &Namespace,
    zone: Option<&ZoneName>,
    before: &str,
) -> Result<(), Failure> {
    let (region, services) = look(connection, namespace, zone).await?;
    let from = zone.map_or_else(String::new, |zone| format!(" for a caller in {zone}"));
    let table = table(&services).render();
    output::say(format_args!("{before}{region}, namespace {namespace}{from}\n\n{table}"));
    Ok(())
}

/// The region, and each service with what a caller of this zone gets from it.
async fn look(
    connection: &Connection,
    namespace: &Namespace,
    zone: Option<&ZoneName>,
) -> Result<(String, Vec<Value>), Failure> {
    let regions = connection.list("/v1/regions").await?;
    let own = regions.iter().find(|region| region["self"] == true);
    let region = own.map(|region| text_of(region, "/region")).unwrap_or_default();
    let services = connection.list(&format!("/v1/namespaces/{namespace}/services")).await?;
    let mut seen = Vec::with_capacity(services.len());
    for some in services.chunks(BATCH) {
        let lookup = |service: &Value| {
            let mut lookup = json!({ "service": service["name"], "ns": namespace, "n": "all" });
            if let Some(zone) = zone {
                lookup["zone"] = json!(zone);
            }
            lookup
        };
        let lookups: Vec<Value> = some.iter().map(lookup).collect();
        let body = Payload::Json(json!({ "lookups": lookups }));
        let answer = connection.send(Method::POST, "/v1/resolve", &[], body).await?.body;
        let results = items_of(&answer, "/results");
        seen.extend(some.iter().zip(results).map(|(service, result)| line(&region, service, result)));
    }
    Ok((region, seen))
}

/// What is told of one service.
fn line(region: &str, service: &Value, result: &Value) -> Value {
    let endpoints = items_of(result, "/endpoints");
    let share = |endpoint: &Value| endpoint.get("share").and_then(Value::as_f64).unwrap_or(0.0);
    let remote: f64 = endpoints.iter().filter(|endpoint| endpoint["region"] != region).map(share).sum();
    let answers = !endpoints.is_empty();
    json!({
        "service": service["name"], "instances": service["instances"],
        "policy": service.pointer("/policy/name"),
        "outcome": result.pointer("/policy/outcome"), "reason": result.pointer("/policy/reason"),
        "tier": result.get("tier"),
        "remoteShare": answers.then_some(remote),
        "refused": result.pointer("/error/code"),
    })
}

fn table(services: &[Value]) -> Table {
    let mut table = Table::new(["SERVICE", "HEALTHY", "TOTAL", "POLICY", "OUTCOME", "TIER", "REMOTE"]);
    for service in services {
        let count = |name: &str| service["instances"][name].as_u64().unwrap_or(0);
        let total: u64 =
            ["healthy", "unhealthy", "starting", "draining", "expired"].into_iter().map(count).sum();
        let outcome = match (text_of(service, "/refused"), text_of(service, "/reason")) {
            (refused, _) if !refused.is_empty() => refused,
            (_, reason) if reason.is_empty() => text_of(service, "/outcome"),
            (_, reason) => format!("{}: {}", text_of(service, "/outcome"), printable(&reason)),
        };
        table.row([
            text_of(service, "/service"),
            count("healthy").to_string(),
            total.to_string(),
            text_of(service, "/policy"),
            outcome,
            text_of(service, "/tier"),
            service["remoteShare"].as_f64().map(percent).unwrap_or_default(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_shows_how_much_of_it_leaves_the_region_and_why_there_is_nothing() {
        let service =
            json!({ "name": "s", "instances": { "healthy": 1, "expired": 2 }, "policy": { "name": "p" } });
        let answer = json!({ "policy": { "outcome": "ok" }, "tier": 0, "endpoints": [
            { "region": "here", "share": 0.75 }, { "region": "there", "share": 0.25 } ] });
        let refused = json!({ "error": { "code": "none-healthy" } });
        let services = [line("here", &service, &answer), line("here", &service, &refused)];
        assert_eq!((&services[0]["remoteShare"], &services[1]["remoteShare"]), (&json!(0.25), &Value::Null));
        let text = table(&services).render();
        let rows: Vec<Vec<&str>> =
            text.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[0], ["s", "1", "3", "p", "ok", "0", "25.0", "%"]);
        assert_eq!(rows[1][4..], ["none-healthy", "-", "-"]);
    }
}
