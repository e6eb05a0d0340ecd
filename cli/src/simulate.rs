//! `meridian simulate`: where traffic would go if something were lost, drained or activated.

use crate::arguments;
use crate::connection::{Connection, Global, Payload};
use crate::credential::Role;
use crate::failure::Failure;
use crate::output::{self, Table, items_of, percent, text_of};
use crate::patience;
use crate::policy::{ConfigSource, LimitArguments};
use meridian_model::names::{Namespace, PolicyName, PolicyVersion, RegionName, ServiceName, ZoneName};
use reqwest::Method;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Predict where traffic would go if zones or regions were lost, drained, or another policy answered
///
/// From the gateway's live snapshots, through the real policies; nothing is changed. Where the activated version fails for
/// anybody, what stands in for it is shown, and the exit code is 1.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  meridian simulate --lose-zone ap-south-1a\n  \
    meridian simulate orders-api --lose-region ap-south-1\n  \
    meridian simulate orders-api --activate canary --config '{\"percent\": 10}'\n  \
    meridian simulate --activate my-policy --as-default --label x-canary=always")]
pub(crate) struct Arguments {
    /// Service [default: all of the namespace]
    service: Option<ServiceName>,
    /// Namespace
    #[arg(long, default_value = "default")]
    namespace: Namespace,
    /// Zone of the region whose instances are lost; may be repeated
    #[arg(long = "lose-zone", value_name = "ZONE")]
    lose_zones: Vec<ZoneName>,
    /// Region that is lost; may be repeated, and may be the gateway's own
    #[arg(long = "lose-region", value_name = "REGION")]
    lose_regions: Vec<RegionName>,
    /// Zone or region that is drained; may be repeated
    #[arg(long, value_name = "NAME")]
    drain: Vec<String>,
    /// Policy that answers, for each service as if it were bound to it
    #[arg(long, value_name = "POLICY")]
    activate: Option<PolicyName>,
    /// Activate it as the namespace's binding, _default: services with a binding of their own keep theirs
    #[arg(long, requires = "activate")]
    as_default: bool,
    /// Its version [default: the newest]
    #[arg(long, requires = "activate")]
    version: Option<PolicyVersion>,
    /// Its config, or @FILE
    #[arg(long, value_name = "JSON|@FILE", requires = "activate")]
    config: Option<ConfigSource>,
    /// Zone of callers; may be repeated [default: those of the region]
    #[arg(long = "zone")]
    zones: Vec<ZoneName>,
    /// What callers say of themselves; it reaches policies as bindings let it, or --caller-label does; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = arguments::pair)]
    labels: Vec<(String, String)>,
    /// Label that reaches policies, in place of those of the bindings; may be repeated
    #[arg(long = "caller-label", value_name = "KEY")]
    caller_labels: Vec<String>,
    #[command(flatten)]
    limits: LimitArguments,
}

impl Arguments {
    fn body(self) -> Result<Value, Failure> {
        let mut body = Map::new();
        body.insert("ns".to_owned(), json!(self.namespace));
        body.extend(self.service.map(|service| ("service".to_owned(), json!(service))));
        body.insert("loseZones".to_owned(), json!(self.lose_zones));
        body.insert("loseRegions".to_owned(), json!(self.lose_regions));
        body.insert("drain".to_owned(), json!(self.drain));
        body.insert("zones".to_owned(), json!(self.zones));
        if let Some(policy) = self.activate {
            let mut activate = Map::new();
            activate.insert("policy".to_owned(), json!(policy));
            activate.extend(self.version.map(|version| ("version".to_owned(), json!(version))));
            if let Some(config) = self.config {
                activate.insert("config".to_owned(), config.read()?);
            }
            if self.as_default {
                activate.insert("scope".to_owned(), json!("namespace"));
            }
            body.insert("activate".to_owned(), Value::Object(activate));
        }
        body.extend(self.limits.body().map(|limits| ("limits".to_owned(), limits)));
        if !self.caller_labels.is_empty() {
            body.insert("callerLabels".to_owned(), json!(self.caller_labels));
        }
        let labels: Map<String, Value> =
            self.labels.into_iter().map(|(label, value)| (label, json!(value))).collect();
        body.insert("labels".to_owned(), Value::Object(labels));
        Ok(Value::Object(body))
    }
}

pub(crate) async fn run(arguments: Arguments, global: &Global) -> Result<(), Failure> {
    let namespace = arguments.namespace.clone();
    let body = arguments.body()?;
    let connection = Connection::open(global, Role::Operator)?;
    let work = simulated(&connection, body);
    let answer = patience::wait_for("the gateway simulates", work).await?;
    if global.json {
        output::json(&answer);
    } else if items_of(&answer, "/services").is_empty() {
        output::say(format_args!("namespace {namespace} has no services at {}", connection.gateway()));
    } else {
        output::say(table(&answer).render());
        if let Some(moved) = destinations(&answer) {
            output::say(format_args!("\n{moved}"));
        }
        for remark in held_back(&answer) {
            output::remark(remark);
        }
    }
    let activated = items_of(&answer, "/services").iter().filter(|service| service["activated"] == true);
    let mut callers = activated.flat_map(|service| items_of(service, "/callers"));
    match callers.any(|caller| caller["after"]["outcome"] != "ok") {
        true => Err(Failure::Told(1)),
        false => Ok(()),
    }
}

/// All pages as one answer.
async fn simulated(connection: &Connection, mut body: Value) -> Result<Value, Failure> {
    let mut services = Vec::new();
    loop {
        let sent = Payload::Json(body.clone());
        let mut page = connection.send(Method::POST, "/v1/simulate", &[], sent).await?.body;
        services.extend_from_slice(items_of(&page, "/services"));
        match page.get("next").filter(|next| next.is_string()) {
            Some(next) => body["next"] = next.clone(),
            None => {
                page["services"] = Value::Array(services);
                return Ok(page);
            }
        }
    }
}

/// Labels that no policy was shown, a line for each service.
fn held_back(answer: &Value) -> Vec<String> {
    let line = |service: &Value| {
        let labels: Vec<&str> = items_of(service, "/heldBack").iter().filter_map(Value::as_str).collect();
        let name = text_of(service, "/service");
        let said = format!("{name}: held back {}; --caller-label lets it through", labels.join(", "));
        (!labels.is_empty()).then(|| output::printable(&said))
    };
    items_of(answer, "/services").iter().filter_map(line).collect()
}

/// Whose answers they would be, and what only the native fallback could answer.
fn outcome(after: &Value) -> String {
    let mut said = text_of(after, "/outcome");
    let reason = text_of(after, "/reason");
    if !reason.is_empty() {
        said.push_str(&format!(": {reason}"));
    }
    let left = after.get("nothingEligible").and_then(Value::as_f64).unwrap_or(0.0);
    if left > 0.0 {
        said.push_str(&format!("; {} left to the native fallback: nothing eligible", percent(left)));
    }
    said
}

/// Shares as `zone 50 %, zone 50 %`, the greatest first.
fn places(spread: &Value) -> String {
    let all = spread.get("places").and_then(Value::as_object);
    let mut shares: Vec<(&str, f64)> = all
        .into_iter()
        .flatten()
        .filter_map(|(place, share)| Some((place.as_str(), share.as_f64()?)))
        .collect();
    for (word, name) in [("refused", "refused"), ("nothing", "none")] {
        shares.extend(
            spread.get(name).and_then(Value::as_f64).filter(|share| *share > 0.0).map(|share| (word, share)),
        );
    }
    shares.sort_by(|a, b| b.1.total_cmp(&a.1));
    shares.iter().map(|(place, share)| format!("{place} {}", percent(*share))).collect::<Vec<_>>().join(", ")
}

fn table(answer: &Value) -> Table {
    let mut table = Table::new(["SERVICE", "CALLER", "CHANGED", "BEFORE", "AFTER", "OUTCOME"]);
    for service in items_of(answer, "/services") {
        for caller in items_of(service, "/callers") {
            table.row([
                text_of(service, "/service"),
                text_of(caller, "/zone"),
                percent(caller["changed"].as_f64().unwrap_or(0.0)),
                places(&caller["before"]),
                places(&caller["after"]),
                outcome(&caller["after"]),
            ]);
        }
    }
    table
}

/// Destinations of a caller that are shown; `--json` holds more.
const MAX_DESTINATIONS: usize = 20;

/// What each endpoint would get more or less, the greatest change first; answers for one service tell it. Another policy may
/// send elsewhere within the same zones.
fn destinations(answer: &Value) -> Option<String> {
    let mut table = Table::new(["CALLER", "DESTINATION", "BEFORE", "AFTER"]);
    let (mut shown, mut more) = (0, 0);
    let change = |[from, to]: [f64; 2]| (from - to).abs();
    for caller in items_of(answer, "/services").iter().flat_map(|service| items_of(service, "/callers")) {
        let mut shares: BTreeMap<&str, [f64; 2]> = BTreeMap::new();
        for (is_after, side) in [(false, "before"), (true, "after")] {
            for (name, share) in caller[side]["endpoints"].as_object().into_iter().flatten() {
                let [from, to] = shares.entry(name.as_str()).or_default();
                *(if is_after { to } else { from }) = share.as_f64().unwrap_or(0.0);
            }
        }
        // The last digits of a sum are no change.
        let mut moved: Vec<_> = shares.into_iter().filter(|(_, pair)| change(*pair) > 1e-6).collect();
        moved.sort_by(|(_, one), (_, other)| change(*other).total_cmp(&change(*one)));
        more += moved.len().saturating_sub(MAX_DESTINATIONS);
        for (name, [from, to]) in moved.into_iter().take(MAX_DESTINATIONS) {
            shown += 1;
            table.row([text_of(caller, "/zone"), name.to_owned(), percent(from), percent(to)]);
        }
    }
    let more = if more == 0 { String::new() } else { format!("\nand {more} more; --json lists all") };
    (shown > 0).then(|| table.render() + &more)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_that_change_are_listed_where_places_do_not() {
        let side = |first: f64, second: f64| json!({ "places": { "z": 1.0 }, "endpoints": { "a": first, "b": second, "c": 0.25 } });
        let answer = |after: Value| json!({ "services": [{ "callers": [{ "zone": "z", "before": side(0.75, 0.0), "after": after }] }] });
        let text = destinations(&answer(side(0.25, 0.5))).unwrap();
        let lines: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(lines, ["z       a            75.0 %  25.0 %", "z       b            0 %     50.0 %"]);
        assert_eq!(destinations(&answer(side(0.75, 0.0))), None);
    }

    #[test]
    fn a_row_says_where_a_caller_would_be_sent() {
        let answer = json!({ "services": [{ "service": "orders-api", "callers": [{ "zone": "z-a", "changed": 1.0,
            "before": { "places": { "z-a": 1.0 }, "none": 0.0 }, "after": { "places": { "z-b": 0.25, "eu": 0.5 }, "none": 0.25 } }] }] });
        let text = table(&answer).render();
        assert!(
            text.contains("z-a 100.0 %") && text.contains("eu 50.0 %, z-b 25.0 %, nothing 25.0 %"),
            "{text}"
        );
    }

    #[test]
    fn what_stands_in_for_a_policy_is_said_with_the_reason() {
        let after = json!({ "outcome": "last-good", "reason": "trap: unreachable", "nothingEligible": 0.0 });
        assert_eq!(outcome(&after), "last-good: trap: unreachable");
        let after = json!({ "outcome": "ok", "reason": null, "nothingEligible": 0.25 });
        assert_eq!(outcome(&after), "ok; 25.0 % left to the native fallback: nothing eligible");
    }

    #[test]
    fn a_label_that_is_held_back_is_named() {
        let answer = json!({ "services": [{ "service": "a", "heldBack": [] }, { "service": "b", "heldBack": ["x"] }] });
        assert_eq!(held_back(&answer), ["b: held back x; --caller-label lets it through"]);
    }
}
