//! `meridian regions`: how each region stands, and asking for one to be spared.

use crate::connection::{Connection, Global, Payload};
use crate::credential::Role;
use crate::failure::Failure;
use crate::output::{self, Table, span, text_of};
use clap::Subcommand;
use meridian_model::names::{RegionName, ZoneName};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Show how each region stands, or ask for one to be spared
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  meridian regions\n  \
    meridian regions drain eu-west-1 --reason \"power work\"\n  \
    meridian regions drain ap-south-1 --zone ap-south-1a\n  meridian regions undrain eu-west-1")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Move traffic away from a region or zone; it stays the last resort
    ///
    /// The drain stands in the registry of the region that is asked. Of its own region it is told to all others; of another
    /// it is this region's opinion.
    Drain(Target),
    /// End a drain; traffic returns in steps
    Undrain(Target),
}

#[derive(Debug, clap::Args)]
struct Target {
    /// Region
    region: RegionName,
    /// Only this zone of it
    #[arg(long)]
    zone: Option<ZoneName>,
    /// Why, for the history (at most 256 bytes)
    #[arg(long, default_value = "")]
    reason: String,
}

pub(crate) async fn run(arguments: Arguments, global: &Global) -> Result<(), Failure> {
    match arguments.command {
        None => list(global).await,
        Some(Command::Drain(target)) => change(target, "drain", global).await,
        Some(Command::Undrain(target)) => change(target, "undrain", global).await,
    }
}

async fn list(global: &Global) -> Result<(), Failure> {
    let connection = Connection::open(global, Role::Reader)?;
    let regions = connection.list("/v1/regions").await?;
    if global.json {
        output::json(&json!({ "items": regions }));
    } else {
        output::say(table(&regions).render());
    }
    Ok(())
}

fn table(regions: &[Value]) -> Table {
    let mut table =
        Table::new(["REGION", "FRESHNESS", "AGE", "REACHABLE", "ROUND TRIP", "SERVICES", "HEALTHY", "STATE"]);
    for region in regions {
        let own = region.get("self").and_then(Value::as_bool) == Some(true);
        let number = |place: &str| region.get(place).and_then(Value::as_u64);
        let age = number("ageMs").map_or_else(|| "never".to_owned(), span);
        let round_trip = match number("roundTripMs") {
            _ if own => String::new(),
            Some(ms) => format!("up to {ms} ms"),
            None => String::new(),
        };
        let healthy = match region.get("total") {
            Some(_) => format!("{} of {}", text_of(region, "/healthy"), text_of(region, "/total")),
            None => String::new(),
        };
        table.row([
            format!("{}{}", text_of(region, "/region"), if own { " (own)" } else { "" }),
            text_of(region, "/freshness"),
            age,
            text_of(region, "/reachable"),
            round_trip,
            text_of(region, "/services"),
            healthy,
            state(region),
        ]);
    }
    table
}

/// What keeps traffic from it, if anything does.
fn state(region: &Value) -> String {
    let mut words = Vec::new();
    let drained = |value: Option<&Value>| match value {
        Some(Value::String(reason)) => Some(reason.clone()),
        Some(drain @ Value::Object(_)) => Some(text_of(drain, "/reason")),
        _ => None,
    };
    let own = drained(region.pointer("/told/draining"));
    let ours = drained(region.get("draining"));
    if let Some(reason) = ours.or(own) {
        let reason = output::printable(&reason).to_string();
        words.push(if reason.is_empty() { "draining".to_owned() } else { format!("draining ({reason})") });
    }
    if let Some(Value::Object(zones)) = region.get("drainingZones") {
        words.extend(zones.keys().map(|zone| format!("draining {zone}")));
    }
    let told = region.pointer("/told/drainingZones").and_then(Value::as_array);
    words.extend(told.into_iter().flatten().filter_map(Value::as_str).map(|zone| format!("draining {zone}")));
    match region.get("ramp").and_then(Value::as_u64) {
        Some(ramp) if ramp < 1_000 => words.push(format!("returning, {} %", ramp / 10)),
        _ => {}
    }
    // This region's operators and its own may have asked for the same.
    let mut seen = BTreeSet::new();
    words.retain(|word| seen.insert(word.clone()));
    words.join(", ")
}

async fn change(target: Target, what: &str, global: &Global) -> Result<(), Failure> {
    let Target { region, zone, reason } = target;
    let connection = Connection::open(global, Role::Operator)?;
    let query: Vec<(String, String)> =
        zone.iter().map(|zone| ("zone".to_owned(), zone.to_string())).collect();
    let path = format!("/v1/regions/{region}/{what}");
    let answer =
        connection.send(Method::POST, &path, &query, Payload::Json(json!({ "reason": reason }))).await?;
    if global.json {
        output::json(&answer.body);
        return Ok(());
    }
    let place = zone.map_or_else(|| region.to_string(), |zone| format!("zone {zone} of {region}"));
    output::say(match what {
        "drain" => {
            format!("{place} is drained: its traffic yields to others; `meridian regions undrain` ends it")
        }
        _ => format!("{place} is not drained any more"),
    });
    if answer.body.get("warning").is_some() {
        output::say(format_args!("warning: {}", text_of(&answer.body, "/warning")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_says_what_keeps_traffic_from_it() {
        let region = json!({ "region": "eu-west-1", "self": false, "freshness": "fresh", "ageMs": 400, "reachable": true,
            "roundTripMs": 1, "ramp": 200, "services": 3, "healthy": 13, "total": 14, "draining": null,
            "drainingZones": {"eu-west-1a": {"reason": "x"}, "eu-west-1b": {"reason": "y"}},
            "told": { "draining": "power work", "drainingZones": ["eu-west-1a", "eu-west-1c"], "ingress": [] } });
        let zones = "draining eu-west-1a, draining eu-west-1b, draining eu-west-1c";
        assert_eq!(
            state(&region),
            format!("draining (power work), {zones}, returning, 20 %"),
            "each is said once"
        );
        let text = table(&[region]).render();
        let last = text.lines().last().unwrap();
        assert!(last.contains("up to 1 ms") && last.contains("13 of 14"), "{text}");
    }

    #[test]
    fn a_region_that_was_never_heard_of_is_shown_as_such() {
        let text =
            table(&[json!({ "region": "eu-west-1", "self": false, "freshness": "stale", "ageMs": null,
                "reachable": false, "roundTripMs": null, "draining": null, "drainingZones": {} })])
            .render();
        let last = text.lines().last().unwrap().split_whitespace();
        let told: Vec<&str> = last.filter(|word| *word != "-").collect();
        assert_eq!(told, ["eu-west-1", "stale", "never", "false"], "{text}");
    }
}
