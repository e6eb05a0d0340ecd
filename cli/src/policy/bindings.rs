//! `meridian policy bindings|unbind`: what answers where, and the end of a binding.

use super::bind::{regions, remote_share};
use super::push::reason_of;
use super::rollout::PlaceArguments;
use super::standing;
use crate::connection::{Connection, Global, Payload};
use crate::credential::Role;
use crate::failure::Failure;
use crate::output::{self, Table, items_of, short_version, text_of};
use meridian_model::names::Namespace;
use reqwest::Method;
use serde_json::{Value, json};

/// List the bindings of a namespace
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  meridian policy bindings --namespace staging")]
pub(crate) struct Arguments {
    /// Namespace
    #[arg(long, default_value = "default")]
    namespace: Namespace,
}

/// Let the namespace's policy answer for a service again, or the built-in one for a namespace
///
/// What the binding remembers goes with it: its candidate, and the versions that answered before.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  meridian policy unbind orders-api --reason \"the default does it now\"")]
pub(crate) struct UnbindArguments {
    #[command(flatten)]
    place: PlaceArguments,
    /// Why, for the history (at most 256 bytes)
    #[arg(long, default_value = "")]
    reason: String,
}

pub(crate) async fn run(Arguments { namespace }: Arguments, global: &Global) -> Result<(), Failure> {
    let connection = Connection::open(global, Role::Operator)?;
    let bindings = connection.list(&format!("/v1/namespaces/{namespace}/bindings")).await?;
    if global.json {
        output::json(&json!({ "items": bindings }));
    } else if bindings.is_empty() {
        output::say(format_args!("nothing is bound in namespace {namespace}: the built-in policy answers"));
    } else {
        output::say(table(&bindings).render());
    }
    Ok(())
}

pub(crate) async fn unbind(arguments: UnbindArguments, global: &Global) -> Result<(), Failure> {
    let UnbindArguments { place, reason } = arguments;
    let connection = Connection::open(global, Role::Operator)?;
    let path = place.binding();
    let _ = connection.send(Method::DELETE, &path, &reason_of(reason), Payload::Empty).await?;
    if global.json {
        output::json(&json!({ "unbound": place.target() }));
    } else {
        output::say(format_args!("{} has no binding of its own any more", place.target()));
    }
    Ok(())
}

fn table(bindings: &[Value]) -> Table {
    let mut table = Table::new([
        "SERVICE",
        "POLICY",
        "VERSION",
        "STATE",
        "CANDIDATE",
        "REGIONS",
        "REMOTE",
        "LABELS",
        "SINCE",
    ]);
    for binding in bindings {
        let labels: Vec<&str> = items_of(binding, "/callerLabels").iter().filter_map(Value::as_str).collect();
        table.row([
            text_of(binding, "/service"),
            text_of(binding, "/active/policy"),
            short_version(&text_of(binding, "/active/version")),
            standing::word(binding),
            candidate(binding),
            regions(binding),
            remote_share(binding),
            labels.join(", "),
            text_of(binding, "/active/since"),
        ]);
    }
    table
}

fn candidate(binding: &Value) -> String {
    let text = |member: &str| text_of(binding, &format!("/candidate/{member}"));
    match text("stage").as_str() {
        "" => String::new(),
        "canary" => format!("{} (canary, {} %)", text("policy"), text("percent")),
        stage => format!("{} ({stage})", text("policy")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_what_answers_within_which_limits() {
        let binding = json!({ "service": "_default", "callerLabels": ["team"],
            "active": { "policy": "p", "version": "sha256:0123456789abcdef", "since": "now" },
            "candidate": { "policy": "q", "stage": "canary", "percent": 5.0 },
            "limits": { "regions": [], "maxRemoteShare": 0.5 } });
        let text = table(&[binding]).render();
        let line = text.lines().last().unwrap();
        for said in ["_default", "soaking", "q (canary, 5.0 %)", "only its own", "50.0 %", "team"] {
            assert!(line.contains(said), "{said} in {line}");
        }
    }
}
