//! `meridian policy disable|enable`: what must not run from now on.

use crate::connection::{Connection, Global, Payload};
use crate::credential::Role;
use crate::failure::Failure;
use crate::output;
use meridian_model::names::{PolicyName, PolicyVersion};
use reqwest::Method;
use serde_json::json;

/// Let a version, or all policies, run nowhere in the region any more
///
/// For a version that does harm, wherever it is bound: lookups are answered by the last good version of their binding that
/// may run, else by the native zone fallback, and say why. Nothing is unbound. With --all every lookup is answered by the
/// native zone fallback.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    meridian policy disable my-policy sha256:… --reason \"loops on empty services\"\n  \
    meridian policy disable --all --reason \"answers differ between gateways\"")]
pub(crate) struct DisableArguments {
    #[command(flatten)]
    target: Target,
    /// Why: it stands in every answer that this changes (at most 256 bytes)
    #[arg(long)]
    reason: String,
}

/// Let run again what was disabled
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  meridian policy enable my-policy sha256:…\n  meridian policy enable --all"
)]
pub(crate) struct EnableArguments {
    #[command(flatten)]
    target: Target,
    /// Why, for the history (at most 256 bytes)
    #[arg(long, default_value = "")]
    reason: String,
}

#[derive(Debug, clap::Args)]
struct Target {
    /// Policy
    #[arg(required_unless_present = "all", requires = "version")]
    policy: Option<PolicyName>,
    /// Version, sha256:…, as `meridian policy list --json` shows it
    version: Option<PolicyVersion>,
    /// Every version of every policy, the standard ones too
    #[arg(long, conflicts_with_all = ["policy", "version"])]
    all: bool,
}

pub(crate) async fn disable(arguments: DisableArguments, global: &Global) -> Result<(), Failure> {
    change(arguments.target, "disable", &arguments.reason, global).await
}

pub(crate) async fn enable(arguments: EnableArguments, global: &Global) -> Result<(), Failure> {
    change(arguments.target, "enable", &arguments.reason, global).await
}

async fn change(target: Target, what: &str, reason: &str, global: &Global) -> Result<(), Failure> {
    let path = match (target.policy, target.version) {
        (Some(policy), Some(version)) => format!("/v1/policies/{policy}/versions/{version}/{what}"),
        _ => format!("/v1/policies/_all/{what}"),
    };
    let connection = Connection::open(global, Role::Operator)?;
    let body = Payload::Json(json!({ "reason": reason }));
    let answer = connection.send(Method::POST, &path, &[], body).await?;
    if global.json {
        output::json(&answer.body);
    } else {
        let target = output::text_of(&answer.body, "/target");
        output::say(format_args!("{target}: {what}d"));
    }
    Ok(())
}
