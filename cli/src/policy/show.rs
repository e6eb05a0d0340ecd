//! `meridian policy show|delete`: one policy, or one version of it.

use super::push::reason_of;
use crate::connection::{Connection, Global, Payload};
use crate::credential::Role;
use crate::failure::Failure;
use crate::output::{self, items_of, printable, text_of};
use meridian_model::names::{PolicyName, PolicyVersion};
use reqwest::Method;
use serde_json::{Value, json};

/// Show a policy: what it is, what its config may be, by what it is bound
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  meridian policy show canary\n  meridian policy show canary --json   # with its whole schema"
)]
pub(crate) struct Arguments {
    /// Policy, standard or uploaded
    policy: PolicyName,
    /// Version, sha256:… [default: the newest]
    #[arg(long)]
    version: Option<PolicyVersion>,
}

/// Take away a version that nothing is bound to
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  meridian policy delete my-policy sha256:… --reason \"never used\"")]
pub(crate) struct DeleteArguments {
    /// Policy
    policy: PolicyName,
    /// Version, sha256:…, as `meridian policy list --json` shows it
    version: PolicyVersion,
    /// Why, for the history (at most 256 bytes)
    #[arg(long, default_value = "")]
    reason: String,
}

pub(crate) async fn run(arguments: Arguments, global: &Global) -> Result<(), Failure> {
    let Arguments { policy, version } = arguments;
    let connection = Connection::open(global, Role::Operator)?;
    let version = match version {
        Some(version) => version.to_string(),
        None => newest(&connection, &policy).await?,
    };
    let answer = connection.get(&path(&policy, &version), &[]).await?;
    if global.json {
        output::json(&answer.body);
    } else {
        output::say(render(&answer.body));
    }
    Ok(())
}

pub(crate) async fn delete(arguments: DeleteArguments, global: &Global) -> Result<(), Failure> {
    let DeleteArguments { policy, version, reason } = arguments;
    let connection = Connection::open(global, Role::Operator)?;
    let path = path(&policy, &version.to_string());
    let _ = connection.send(Method::DELETE, &path, &reason_of(reason), Payload::Empty).await?;
    if global.json {
        output::json(&json!({ "deleted": version, "policy": policy }));
    } else {
        output::say(format_args!("{policy} {version} is deleted"));
    }
    Ok(())
}

/// Where a version stands in the API.
pub(super) fn path(policy: &PolicyName, version: &str) -> String {
    format!("/v1/policies/{policy}/versions/{version}")
}

/// The version that was uploaded last.
pub(super) async fn newest(connection: &Connection, policy: &PolicyName) -> Result<String, Failure> {
    let answer = connection.get(&format!("/v1/policies/{policy}"), &[]).await?;
    Ok(text_of(&answer.body, "/versions/0/version"))
}

fn render(version: &Value) -> String {
    let text = |pointer: &str| text_of(version, pointer);
    let mut said = format!("{} {}", text("/name"), text("/version"));
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            said.push_str(&format!("\n  {name:<10} {}", printable(&value)));
        }
    };
    line("does", text("/description"));
    line(
        "is",
        match text("/aliasOf") {
            standard if !standard.is_empty() => format!("the standard policy {standard}, under another name"),
            _ if version["standard"] == true => "a standard policy".to_owned(),
            _ => format!("uploaded {} by {}", text("/uploadedAt"), text("/uploadedBy")),
        },
    );
    line("size", output::size(version.get("sizeBytes").and_then(Value::as_u64).unwrap_or(0)));
    line("signed by", text("/signature/keyId"));
    line("config", keys(version.get("schema").unwrap_or(&Value::Null)));
    let bound: Vec<&str> = items_of(version, "/boundBy").iter().filter_map(Value::as_str).collect();
    line("bound by", if bound.is_empty() { "nothing".to_owned() } else { bound.join(", ") });
    line("disabled", text("/disabled/reason"));
    if version["runnable"] == false {
        line("note", "this gateway has not loaded it: it does when something is bound to it".to_owned());
    }
    said
}

/// The keys of a config by its schema, those that must be there marked.
fn keys(schema: &Value) -> String {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
        return "it carries no schema".to_owned();
    };
    let required: Vec<&str> = items_of(schema, "/required").iter().filter_map(Value::as_str).collect();
    let key = |(name, property): (&String, &Value)| {
        let kind = match property.get("type") {
            Some(Value::String(kind)) => format!(" ({kind})"),
            _ => String::new(),
        };
        let must = if required.contains(&name.as_str()) { ", required" } else { "" };
        format!("{name}{kind}{must}")
    };
    match properties.is_empty() {
        true => "none".to_owned(),
        false => properties.iter().map(key).collect::<Vec<_>>().join("; "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_says_what_it_is_and_by_what_it_is_bound() {
        let version = json!({ "name": "p", "version": "sha256:00", "description": "sends east", "standard": false,
            "sizeBytes": 1024, "uploadedAt": "then", "uploadedBy": "i s", "signature": { "keyId": "k-1" },
            "boundBy": ["default/orders-api"], "runnable": true, "disabled": null,
            "schema": { "properties": { "percent": { "type": "number" }, "to": {} }, "required": ["to"] } });
        let text = render(&version);
        for said in [
            "does       sends east",
            "uploaded then by i s",
            "signed by  k-1",
            "percent (number); to, required",
            "bound by   default/orders-api",
        ] {
            assert!(text.contains(said), "{said} in\n{text}");
        }
        assert!(!text.contains("disabled") && !text.contains("note"), "{text}");
        assert_eq!(keys(&Value::Null), "it carries no schema");
    }
}
