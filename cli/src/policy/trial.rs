//! `meridian policy try`: what a version would answer, now.

use super::bind::ConfigSource;
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
/// The gateway asks it over the live snapshot of the service, alone: where it fails, the failure is shown.
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
    /// What the caller says of itself; reaches the policy if the service's binding lets the label through
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = arguments::pair)]
    labels: Vec<(String, String)>,
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
        return Ok(());
    }
    let version = short_version(&text_of(&answer.body, "/policy/version"));
    let service = text_of(&answer.body, "/service");
    for (result, zone) in items_of(&answer.body, "/results").iter().zip(zones) {
        let whom =
            zone.map_or_else(|| "a caller without a zone".to_owned(), |zone| format!("a caller in {zone}"));
        output::say(format_args!(
            "{} {version} for {service}, {whom}\n{}",
            text_of(&answer.body, "/policy/policy"),
            render(result)
        ));
    }
    Ok(())
}

fn render(result: &Value) -> String {
    let mut said = String::new();
    let mut line = |name: &str, value: String| said.push_str(&format!("  {name:<9} {value}\n"));
    if let Some(fault) = result.get("fault").and_then(Value::as_str) {
        line("failed", printable(fault));
    }
    if let Some(problem) = result.get("error") {
        line(
            "refused",
            format!("{}: {}", text_of(problem, "/code"), printable(&text_of(problem, "/detail"))),
        );
    }
    line(
        "changed",
        format!("{} of what is answered now", percent(result["changed"].as_f64().unwrap_or(0.0))),
    );
    let clamped =
        |name: &str| result.pointer(&format!("/clamped/{name}")).and_then(Value::as_u64).unwrap_or(0);
    if clamped("ineligible") > 0 {
        line(
            "clamped",
            format!("{} choices of endpoints that may not receive traffic", clamped("ineligible")),
        );
    }
    if clamped("remoteShare") > 0 {
        line("clamped", "more for other regions than the binding's maxRemoteShare".to_owned());
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
    fn a_trial_shows_shares_failures_and_what_was_taken_out() {
        let result = json!({ "fault": "trap: unreachable", "changed": 0.5, "clamped": { "ineligible": 2, "remoteShare": 0 },
            "answer": { "endpoints": [{ "id": "a-1", "zone": "z", "tier": 0, "share": 1.0 }] } });
        let text = render(&result);
        for said in ["failed    trap", "50.0 %", "2 choices", "a-1", "100.0 %"] {
            assert!(text.contains(said), "{said} in\n{text}");
        }
    }
}
