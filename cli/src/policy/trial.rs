//! `meridian policy try`: what a version would answer, now.

use super::bind::{ConfigSource, LimitArguments};
use crate::arguments;
use crate::connection::{Connection, Global, Payload};
use crate::credential::Role;
use crate::failure::Failure;
use crate::output::{self, Table, items_of, percent, printable, short_version, text_of};
use meridian_model::names::{Namespace, PolicyName, PolicyVersion, ServiceName, ZoneName};
use reqwest::Method;
use serde_json::{Map, Value, json};

/// Show what a policy would answer right now, without binding it
///
/// The gateway asks it over the live snapshot of the service, alone: where it fails, the failure is shown, and the exit code is 1.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  meridian policy try canary orders-api --config '{\"percent\": 10}'\n  \
    meridian policy try my-policy orders-api --zone ap-south-1a --key customer-42")]
pub(crate) struct Arguments {
    /// Policy, standard or uploaded
    policy: PolicyName,
    /// Service
    service: ServiceName,
    /// Version, sha256:… [default: the newest]
    #[arg(long)]
    version: Option<PolicyVersion>,
    /// JSON that the policy is opened with, or @FILE
    #[arg(long, value_name = "JSON|@FILE")]
    config: Option<ConfigSource>,
    /// Namespace of the service
    #[arg(long, default_value = "default")]
    namespace: Namespace,
    /// Zone of the caller; may be repeated, one trial each
    #[arg(long = "zone")]
    zones: Vec<ZoneName>,
    /// Key of the lookup
    #[arg(long)]
    key: Option<String>,
    /// What the caller says of itself, as if the policy were bound with that label; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = arguments::pair)]
    labels: Vec<(String, String)>,
    #[command(flatten)]
    limits: LimitArguments,
}

impl Arguments {
    fn body(self) -> Result<Value, Failure> {
        let mut body = Map::new();
        body.insert("ns".to_owned(), json!(self.namespace));
        body.insert("service".to_owned(), json!(self.service));
        body.extend(self.version.map(|version| ("version".to_owned(), json!(version))));
        if let Some(config) = self.config {
            body.insert("config".to_owned(), config.read()?);
        }
        body.extend(self.limits.body().map(|limits| ("limits".to_owned(), limits)));
        let labels: Map<String, Value> =
            self.labels.into_iter().map(|(key, value)| (key, json!(value))).collect();
        let lookup = |zone: Option<ZoneName>| {
            let mut lookup = Map::new();
            lookup.extend(zone.map(|zone| ("zone".to_owned(), json!(zone))));
            lookup.extend(self.key.clone().map(|key| ("key".to_owned(), json!(key))));
            lookup.insert("labels".to_owned(), Value::Object(labels.clone()));
            Value::Object(lookup)
        };
        let lookups: Vec<Value> = match self.zones.is_empty() {
            true => vec![lookup(None)],
            false => self.zones.into_iter().map(|zone| lookup(Some(zone))).collect(),
        };
        body.insert("lookups".to_owned(), json!(lookups));
        Ok(Value::Object(body))
    }
}

pub(crate) async fn run(arguments: Arguments, global: &Global) -> Result<(), Failure> {
    let path = format!("/v1/policies/{}/try", arguments.policy);
    let zones: Vec<Option<ZoneName>> = match arguments.zones.is_empty() {
        true => vec![None],
        false => arguments.zones.iter().cloned().map(Some).collect(),
    };
    let body = arguments.body()?;
    let connection = Connection::open(global, Role::Operator)?;
    let answer = connection.send(Method::POST, &path, &[], Payload::Json(body)).await?;
    if global.json {
        output::json(&answer.body);
    } else {
        let version = short_version(&text_of(&answer.body, "/policy/version"));
        let service = text_of(&answer.body, "/service");
        for (result, zone) in items_of(&answer.body, "/results").iter().zip(zones) {
            let whom = zone
                .map_or_else(|| "a caller without a zone".to_owned(), |zone| format!("a caller in {zone}"));
            output::say(format_args!(
                "{} {version} for {service}, {whom}\n{}",
                text_of(&answer.body, "/policy/policy"),
                render(result)
            ));
        }
    }
    // Whoever binds what was tried goes by the exit code.
    match items_of(&answer.body, "/results").iter().any(|result| fault(result).is_some()) {
        true => Err(Failure::Told(1)),
        false => Ok(()),
    }
}

fn fault(result: &Value) -> Option<&str> {
    result.get("fault").and_then(Value::as_str)
}

/// The counts of what the host took out of plans, in words; empty where it took nothing.
pub(super) fn clamped(counts: Option<&Value>) -> String {
    let of = |name: &str| counts.and_then(|counts| counts.get(name)).and_then(Value::as_u64).unwrap_or(0);
    let words = [
        (of("ineligible"), "ineligible (endpoints that may not receive traffic)"),
        (of("remoteShare"), "over maxRemoteShare"),
    ];
    let told = words.into_iter().filter(|(count, _)| *count > 0);
    told.map(|(count, word)| format!("{count} {word}")).collect::<Vec<_>>().join(", ")
}

fn render(result: &Value) -> String {
    let mut said = String::new();
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            said.push_str(&format!("  {name:<9} {value}\n"));
        }
    };
    let labels = |place: &str| {
        let names = items_of(result, place).iter().filter_map(Value::as_str);
        names.map(printable).collect::<Vec<_>>().join(", ")
    };
    if let Some(fault) = fault(result) {
        line("failed", printable(fault));
    }
    if let Some(problem) = result.get("error") {
        line(
            "refused",
            format!("{}: {}", text_of(problem, "/code"), printable(&text_of(problem, "/detail"))),
        );
    }
    if let Some(changed) = result.get("changed").and_then(Value::as_f64) {
        line("changed", format!("{} of what is answered now", percent(changed)));
    }
    line("clamped", clamped(result.get("clamped")));
    line("held back", labels("/heldBack"));
    let to_bind = labels("/labelsToBind");
    if !to_bind.is_empty() {
        line("labels", format!("{to_bind}: not let through now; bind it with --label"));
    }
    let mut table = Table::new(["ENDPOINT", "ZONE", "TIER", "SHARE"]);
    for endpoint in items_of(result, "/answer/endpoints") {
        table.row([
            text_of(endpoint, "/id"),
            text_of(endpoint, "/zone"),
            text_of(endpoint, "/tier"),
            percent(endpoint["share"].as_f64().unwrap_or(0.0)),
        ]);
    }
    if !items_of(result, "/answer/endpoints").is_empty() {
        said.push_str(&table.render());
    }
    said.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_shows_shares_and_what_was_taken_out_and_held_back() {
        let result = json!({ "fault": null, "changed": 0.5, "clamped": { "ineligible": 2, "remoteShare": 1 },
            "heldBack": ["team"], "labelsToBind": ["x-canary"],
            "answer": { "endpoints": [{ "id": "a-1", "zone": "z", "tier": 0, "share": 1.0 }] } });
        let text = render(&result);
        for said in
            ["50.0 %", "2 ineligible", "1 over maxRemoteShare", "team", "x-canary: not let", "a-1", "100.0 %"]
        {
            assert!(text.contains(said), "{said} in\n{text}");
        }
    }

    #[test]
    fn a_failure_stands_alone() {
        let result = json!({ "fault": "trap: unreachable", "changed": null, "clamped": null, "heldBack": [], "labelsToBind": [] });
        assert_eq!(render(&result), "  failed    trap: unreachable");
    }
}
