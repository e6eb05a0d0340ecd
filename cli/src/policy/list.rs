//! `meridian policy list`: what can be bound.

use crate::connection::{Connection, Global};
use crate::credential::Role;
use crate::failure::Failure;
use crate::output::{self, Table, items_of, short_version, text_of};
use serde_json::{Value, json};

/// List policies with their versions, newest first
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  meridian policy list\n  meridian policy list --json   # with whole versions"
)]
pub(crate) struct Arguments {}

pub(crate) async fn run(Arguments {}: Arguments, global: &Global) -> Result<(), Failure> {
    let connection = Connection::open(global, Role::Operator)?;
    let policies = connection.list("/v1/policies").await?;
    if global.json {
        output::json(&json!({ "items": policies }));
    } else {
        output::say(table(&policies).render());
    }
    Ok(())
}

fn table(policies: &[Value]) -> Table {
    let mut table =
        Table::new(["POLICY", "VERSION", "SIZE", "UPLOADED", "BY", "BOUND", "STATE", "DESCRIPTION"]);
    for policy in policies {
        for version in items_of(policy, "/versions") {
            let standard = version.get("standard").and_then(Value::as_bool) == Some(true);
            let size = version.get("sizeBytes").and_then(Value::as_u64).unwrap_or(0);
            let by = if standard { "standard".to_owned() } else { text_of(version, "/uploadedBy") };
            table.row([
                text_of(policy, "/name"),
                short_version(&text_of(version, "/version")),
                output::size(size),
                text_of(version, "/uploadedAt"),
                by,
                bound(version),
                match version.pointer("/disabled/reason").and_then(Value::as_str) {
                    Some(reason) => format!("disabled ({})", output::printable(reason)),
                    None => String::new(),
                },
                text_of(version, "/description"),
            ]);
        }
    }
    table
}

/// Bindings that a row names.
const MAX_BOUND: usize = 2;

/// `default/orders-api, default/_default and 3 more`.
fn bound(version: &Value) -> String {
    let named: Vec<&str> = items_of(version, "/boundBy").iter().filter_map(Value::as_str).collect();
    let all = version.get("bindings").and_then(Value::as_u64).unwrap_or(0);
    let shown: Vec<&str> = named.into_iter().take(MAX_BOUND).collect();
    match all.saturating_sub(shown.len() as u64) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_has_a_row() {
        let policy = json!({ "name": "p", "versions": [
            { "version": "sha256:1", "sizeBytes": 1024, "uploadedAt": "2026-01-01T00:00:00Z", "uploadedBy": "i s", "standard": false },
            { "version": "sha256:2", "sizeBytes": 10, "standard": true, "description": "does it", "bindings": 4,
              "boundBy": ["default/a", "default/b", "default/c"] } ] });
        let text = table(&[policy]).render();
        assert_eq!(text.lines().count(), 3);
        let last = text.lines().last().unwrap();
        for said in ["standard", "default/a, default/b and 2 more", "does it"] {
            assert!(last.contains(said), "{said} in {text}");
        }
    }
}
