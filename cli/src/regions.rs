//! `meridian regions`: how each region stands, and asking for one to be spared.

use crate::connection::{Connection, Global, Payload};
use crate::credential::Role;
use crate::failure::Failure;
use crate::output::{self, Table, items_of, span, text_of};
use clap::Subcommand;
use meridian_model::names::{RegionName, ZoneName};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeMap;

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
        words.push(with_reason("draining".to_owned(), &reason));
    }
    // This region's operators and its own may have asked for the same; the region tells no reasons.
    let told = items_of(region, "/told/drainingZones").iter().filter_map(Value::as_str);
    let mut zones: BTreeMap<&str, String> = told.map(|zone| (zone, String::new())).collect();
    zones.extend(drained_zones(region).map(|(zone, drain)| (zone, text_of(drain, "/reason"))));
    words.extend(zones.iter().map(|(zone, reason)| with_reason(format!("draining {zone}"), reason)));
    match region.get("ramp").and_then(Value::as_u64) {
        Some(ramp) if ramp < 1_000 => words.push(format!("returning, {} %", ramp / 10)),
        _ => {}
    }
    words.join(", ")
}

fn with_reason(word: String, reason: &str) -> String {
    if reason.is_empty() { word } else { format!("{word} ({})", output::printable(reason)) }
}

/// Zones that operators of the region that was asked drained.
fn drained_zones(region: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let zones = region.get("drainingZones").and_then(Value::as_object);
    zones.into_iter().flatten().map(|(zone, drain)| (zone.as_str(), drain))
}

async fn change(target: Target, what: &str, global: &Global) -> Result<(), Failure> {
    let Target { region, zone, reason } = target;
    let connection = Connection::open(global, Role::Operator)?;
    let query: Vec<(String, String)> =
        zone.iter().map(|zone| ("zone".to_owned(), zone.to_string())).collect();
    let path = format!("/v1/regions/{region}");
    // What was drained is known only before. Where that is refused, the order will say why, if it is too.
    let before = match what {
        "undrain" if !global.json => connection.get(&path, &[]).await.ok(),
        _ => None,
    };
    let path = format!("{path}/{what}");
    let answer =
        connection.send(Method::POST, &path, &query, Payload::Json(json!({ "reason": reason }))).await?;
    if global.json {
        output::json(&answer.body);
        return Ok(());
    }
    let (region, zone) = (region.as_str(), zone.as_ref().map(ZoneName::as_str));
    output::say(match (what, before) {
        ("drain", _) => {
            let (place, end) = (place(region, zone), undrain(region, zone));
            format!("{place} is drained: its traffic yields to others; `{end}` ends it")
        }
        (_, Some(before)) => ended(region, zone, &before.body),
        (_, None) => format!("{} is not drained now", place(region, zone)),
    });
    if answer.body.get("warning").is_some() {
        output::say(format_args!("warning: {}", text_of(&answer.body, "/warning")));
    }
    Ok(())
}

fn place(region: &str, zone: Option<&str>) -> String {
    zone.map_or_else(|| region.to_owned(), |zone| format!("zone {zone} of {region}"))
}

/// The command that ends a drain.
fn undrain(region: &str, zone: Option<&str>) -> String {
    let zone = zone.map(|zone| format!(" --zone {zone}")).unwrap_or_default();
    format!("meridian regions undrain {region}{zone}")
}

/// What the end of a drain changed, and what stays drained, by how the region stood before.
fn ended(region: &str, zone: Option<&str>, before: &Value) -> String {
    let is_whole = before.get("draining").is_some_and(|drain| !drain.is_null());
    let drained: Vec<Option<&str>> = is_whole
        .then_some(None)
        .into_iter()
        .chain(drained_zones(before).map(|(zone, _)| Some(zone)))
        .collect();
    let mut said = place(region, zone);
    said.push_str(if drained.contains(&zone) { " is not drained any more" } else { " was not drained" });
    for still in drained.into_iter().filter(|drained| *drained != zone) {
        let what = if still.is_none() { " as a whole" } else { "" };
        said.push_str(&format!(
            "\n{}{what} still is: `{}` ends it",
            place(region, still),
            undrain(region, still)
        ));
    }
    if before.pointer("/told/draining").is_some_and(Value::is_string) {
        said.push_str(&format!("\n{region} itself asks to be spared: undrain it at a gateway of its own"));
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_drain_says_what_it_ended_and_what_it_did_not() {
        let zones = json!({ "draining": null, "drainingZones": { "eu-a": { "reason": "x" } }, "told": { "draining": null } });
        assert_eq!(
            ended("eu", None, &zones),
            "eu was not drained\nzone eu-a of eu still is: `meridian regions undrain eu --zone eu-a` ends it"
        );
        assert_eq!(ended("eu", Some("eu-a"), &zones), "zone eu-a of eu is not drained any more");
        let whole =
            json!({ "draining": { "reason": "" }, "drainingZones": {}, "told": { "draining": "power" } });
        let said = ended("eu", None, &whole);
        assert!(said.starts_with("eu is not drained any more\neu itself asks"), "{said}");
        let said = ended("eu", Some("eu-a"), &whole);
        assert!(
            said.contains("was not drained\neu as a whole still is: `meridian regions undrain eu`"),
            "{said}"
        );
    }

    #[test]
    fn a_region_says_what_keeps_traffic_from_it() {
        let region = json!({ "region": "eu-west-1", "self": false, "freshness": "fresh", "ageMs": 400, "reachable": true,
            "roundTripMs": 1, "ramp": 200, "services": 3, "healthy": 13, "total": 14, "draining": null,
            "drainingZones": {"eu-west-1a": {"reason": "x"}, "eu-west-1b": {"reason": "y"}},
            "told": { "draining": "power work", "drainingZones": ["eu-west-1a", "eu-west-1c"], "ingress": [] } });
        let zones = "draining eu-west-1a (x), draining eu-west-1b (y), draining eu-west-1c";
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
