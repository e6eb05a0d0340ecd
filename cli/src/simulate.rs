//! `meridian simulate`: where traffic would go if something were lost, drained or activated.

use crate::connection::{Connection, Global, Payload};
use crate::credential::Role;
use crate::failure::Failure;
use crate::output::{self, Table, items_of, percent, text_of};
use crate::policy::ConfigSource;
use meridian_model::names::{Namespace, PolicyName, PolicyVersion, RegionName, ServiceName, ZoneName};
use reqwest::Method;
use serde_json::{Map, Value, json};

/// Predict where traffic would go if zones or regions were lost, drained, or another policy answered
///
/// From the gateway's live snapshots, through the real policies; nothing is changed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  meridian simulate --lose-zone ap-south-1a\n  \
    meridian simulate orders-api --lose-region ap-south-1\n  \
    meridian simulate orders-api --activate canary --config '{\"percent\": 10}'")]
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
    /// Policy that answers
    #[arg(long, value_name = "POLICY")]
    activate: Option<PolicyName>,
    /// Its version [default: the newest]
    #[arg(long, requires = "activate")]
    version: Option<PolicyVersion>,
    /// Its config, or @FILE
    #[arg(long, value_name = "JSON|@FILE", requires = "activate")]
    config: Option<ConfigSource>,
    /// Zone of callers; may be repeated [default: those of the region]
    #[arg(long = "zone")]
    zones: Vec<ZoneName>,
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
            body.insert("activate".to_owned(), Value::Object(activate));
        }
        Ok(Value::Object(body))
    }
}

pub(crate) async fn run(arguments: Arguments, global: &Global) -> Result<(), Failure> {
    let body = arguments.body()?;
    let connection = Connection::open(global, Role::Operator)?;
    let answer = connection.send(Method::POST, "/v1/simulate", &[], Payload::Json(body)).await?;
    if global.json {
        output::json(&answer.body);
        return Ok(());
    }
    output::say(table(&answer.body).render());
    if answer.body.get("truncated") == Some(&Value::Bool(true)) {
        output::remark("there are more services; name one");
    }
    Ok(())
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
    let mut table = Table::new(["SERVICE", "CALLER", "CHANGED", "BEFORE", "AFTER"]);
    for service in items_of(answer, "/services") {
        for caller in items_of(service, "/callers") {
            table.row([
                text_of(service, "/service"),
                text_of(caller, "/zone"),
                percent(caller["changed"].as_f64().unwrap_or(0.0)),
                places(&caller["before"]),
                places(&caller["after"]),
            ]);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
