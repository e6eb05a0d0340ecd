//! `meridian services`: what there is.

use crate::connection::{Connection, Global};
use crate::credential::Role;
use crate::failure::Failure;
use crate::output::{self, Table, text_of};
use meridian_model::names::Namespace;
use serde_json::{Value, json};

/// List the services of a namespace with their counts and policies
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  meridian services\n  meridian services --namespace staging --gateway http://127.0.0.1:8501"
)]
pub(crate) struct Arguments {
    /// Namespace
    #[arg(long, default_value = "default")]
    namespace: Namespace,
}

pub(crate) async fn run(arguments: Arguments, global: &Global) -> Result<(), Failure> {
    let namespace = arguments.namespace;
    let connection = Connection::open(global, Role::Reader)?;
    let services = connection.list(&format!("/v1/namespaces/{namespace}/services")).await?;
    if global.json {
        output::json(&json!({ "items": services }));
    } else if services.is_empty() {
        output::say(format_args!("namespace {namespace} has no services at {}", connection.gateway()));
    } else {
        output::say(table(&services).render());
    }
    Ok(())
}

fn table(services: &[Value]) -> Table {
    let mut table = Table::new([
        "SERVICE",
        "HEALTHY",
        "UNHEALTHY",
        "STARTING",
        "DRAINING",
        "EXPIRED",
        "POLICY",
        "VERSION",
    ]);
    for service in services {
        table.row([
            text_of(service, "/name"),
            text_of(service, "/instances/healthy"),
            text_of(service, "/instances/unhealthy"),
            text_of(service, "/instances/starting"),
            text_of(service, "/instances/draining"),
            text_of(service, "/instances/expired"),
            text_of(service, "/policy/name"),
            output::short_version(&text_of(service, "/policy/version")),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_policies_stand_in_columns() {
        let service = json!({ "name": "orders-api",
            "instances": { "healthy": 4, "unhealthy": 0, "starting": 1, "draining": 0, "expired": 2 },
            "policy": { "name": "zone-fallback", "version": "sha256:0123456789abcdef" } });
        let text = table(&[service]).render();
        let cells: Vec<&str> = text.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(cells, ["orders-api", "4", "0", "1", "0", "2", "zone-fallback", "sha256:0123456789ab"]);
    }
}
