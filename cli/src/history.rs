//! `meridian history`: who changed what, when, and why.

use crate::arguments;
use crate::connection::{Connection, Global};
use crate::credential::Role;
use crate::failure::Failure;
use crate::output::{self, Table, items_of, text_of};
use meridian_model::names::{Namespace, ServiceName};
use serde_json::{Value, json};
use std::time::Duration;

/// A page of the gateway's, at most.
const PAGE: usize = 1_000;

/// Show who changed what, when, and why, the newest first
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  meridian history orders-api\n  meridian history --since 1h --limit 50\n  \
    meridian history --namespace staging --json   # with what stood there before and after"
)]
pub(crate) struct Arguments {
    /// Service [default: all, and policies, switches and drains too]
    service: Option<ServiceName>,
    /// Namespace [default: that named default for a service, else all]
    #[arg(long)]
    namespace: Option<Namespace>,
    /// Who did it: the subject of a token, or a gateway's id
    #[arg(long, value_name = "SUBJECT")]
    actor: Option<String>,
    /// Only what is younger
    #[arg(long, value_name = "TIME", value_parser = arguments::duration)]
    since: Option<Duration>,
    /// How many changes at most
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
}

impl Arguments {
    fn query(&self) -> Vec<(String, String)> {
        let mut query = Vec::new();
        let mut add = |name: &str, value: String| query.push((name.to_owned(), value));
        match (&self.namespace, &self.service) {
            (Some(namespace), _) => add("ns", namespace.to_string()),
            (None, Some(_)) => add("ns", Namespace::default().to_string()),
            (None, None) => {}
        }
        if let Some(service) = &self.service {
            add("service", service.to_string());
        }
        if let Some(actor) = &self.actor {
            add("actor", actor.clone());
        }
        if let Some(since) = self.since {
            add("since", format!("{}ms", since.as_millis()));
        }
        query
    }
}

pub(crate) async fn run(arguments: Arguments, global: &Global) -> Result<(), Failure> {
    let connection = Connection::open(global, Role::Operator)?;
    let changes = read(&connection, arguments.query(), arguments.limit as usize).await?;
    if global.json {
        output::json(&json!({ "items": changes }));
    } else if changes.is_empty() {
        output::say("no such change is remembered");
    } else {
        output::say(table(&changes).render());
    }
    Ok(())
}

/// The newest changes, page by page: a page may hold less than it was asked for, and yet not be the last.
async fn read(
    connection: &Connection,
    query: Vec<(String, String)>,
    limit: usize,
) -> Result<Vec<Value>, Failure> {
    let mut changes = Vec::new();
    let mut next: Option<String> = None;
    while changes.len() < limit {
        let mut query = query.clone();
        query.push(("limit".to_owned(), (limit - changes.len()).min(PAGE).to_string()));
        query.extend(next.take().map(|next| ("next".to_owned(), next)));
        let page = connection.get("/v1/history", &query).await?.body;
        changes.extend_from_slice(items_of(&page, "/items"));
        match page.get("next").and_then(Value::as_str) {
            Some(more) => next = Some(more.to_owned()),
            None => break,
        }
    }
    Ok(changes)
}

fn table(changes: &[Value]) -> Table {
    let mut table = Table::new(["WHEN", "ACTION", "OF", "BY", "REASON"]);
    for change in changes {
        let (role, subject) = (text_of(change, "/actor/role"), text_of(change, "/actor/subject"));
        table.row([
            text_of(change, "/at"),
            text_of(change, "/action"),
            target(change),
            format!("{role} {subject}"),
            text_of(change, "/reason"),
        ]);
    }
    table
}

/// What was changed; of a policy, with the version, which only the record names.
fn target(change: &Value) -> String {
    let target = text_of(change, "/target");
    let places = match text_of(change, "/action").as_str() {
        "upload" | "delete" => ["/version", "/after/version", "/before/version"],
        _ => return target,
    };
    match places.map(|place| text_of(change, place)).into_iter().find(|version| !version.is_empty()) {
        Some(version) if !target.contains(&version) => {
            format!("{target} {}", output::short_version(&version))
        }
        _ => target,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command_line::{Command, CommandLine};
    use clap::Parser;

    fn query(line: &str) -> String {
        let parsed =
            CommandLine::try_parse_from(format!("meridian history {line}").split_whitespace()).unwrap();
        let Command::History(arguments) = parsed.command else { panic!("not history") };
        arguments
            .query()
            .into_iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect::<Vec<_>>()
            .join("&")
    }

    #[test]
    fn a_service_is_one_of_the_namespace_default_unless_another_is_named() {
        assert_eq!(query(""), "");
        assert_eq!(query("s"), "ns=default&service=s");
        assert_eq!(query("s --namespace n --actor a --since 1h"), "ns=n&service=s&actor=a&since=3600000ms");
    }

    #[test]
    fn a_change_says_who_did_what_to_what_and_why() {
        let change = json!({ "at": "2026-01-01T00:00:00.000Z", "action": "drain", "target": "default/s/i",
            "actor": { "role": "operator", "subject": "me" }, "reason": "power\u{7} work" });
        let text = table(&[change]).render();
        let line = text.lines().last().unwrap();
        assert!(line.contains("drain   default/s/i  operator me  power\u{fffd} work"), "{line}");
        let deleted = json!({ "action": "delete", "target": "p", "after": null,
            "before": { "name": "p", "version": "sha256:0123456789abcdef" } });
        assert_eq!(target(&deleted), "p sha256:0123456789ab");
    }
}
