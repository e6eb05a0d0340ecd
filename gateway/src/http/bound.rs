//! A version of a policy with its config, as requests name it and answers show it.

use super::{policies, switches};
use crate::problem::Problem;
use crate::region::Region;
use http::StatusCode;
use meridian_model::binding::{Bound, MAX_CONFIG_BYTES};
use meridian_model::names::{PolicyName, PolicyVersion};
use meridian_model::policy::schema::ConfigError;
use meridian_model::registration::FieldError;
use meridian_policies::{ConfigRefused, STANDARD};
use serde_json::{Value, json};
use smol_str::SmolStr;
use std::sync::Arc;

/// What a request names; the newest version where it names none.
///
/// # Errors
/// 422 with the field.
pub(super) fn parse(
    region: &Region,
    policy: &str,
    version: Option<&str>,
    config: &Value,
) -> Result<Bound, Problem> {
    let policy: PolicyName = policy.parse().map_err(|e| Problem::field("policy", e))?;
    let version = match version {
        None => newest(region, &policy)?,
        Some(text) => {
            let version = text.parse().map_err(|e| Problem::field("version", e))?;
            require_version(region, &policy, version)?;
            version
        }
    };
    let config = match config {
        Value::Null => SmolStr::default(),
        Value::Object(_) => SmolStr::new(config.to_string()),
        _ => return Err(Problem::field("config", "must be a JSON object")),
    };
    if config.len() > MAX_CONFIG_BYTES {
        let detail = format_args!("must be at most {MAX_CONFIG_BYTES} bytes of JSON");
        return Err(Problem::field("config", detail));
    }
    Ok(Bound { policy, version, config })
}

/// Refuses a path with a policy that is none.
///
/// # Errors
/// 404.
pub(super) fn require_policy(region: &Region, policy: &PolicyName) -> Result<(), Problem> {
    let missing = newest(region, policy).err();
    missing.map_or(Ok(()), |problem| {
        Err(Problem { status: StatusCode::NOT_FOUND.as_u16(), code: "no-such-policy", ..problem })
    })
}

fn standard_version(policy: &PolicyName) -> Option<PolicyVersion> {
    STANDARD.iter().find(|s| s.name == policy.as_str()).map(|s| PolicyVersion::of(s.module))
}

/// The newest version: what was uploaded last under the name, else the standard policy of that name.
fn newest(region: &Region, policy: &PolicyName) -> Result<PolicyVersion, Problem> {
    let rules = region.directory.rules();
    let uploaded = rules.policies.values().map(|(m, _)| m).filter(|m| m.name == *policy);
    let newest = uploaded.max_by_key(|m| m.uploaded_at).map(|m| m.version);
    newest.or_else(|| standard_version(policy)).ok_or_else(|| {
        let detail = format!("no policy is called {policy}: upload it with PUT /v1/policies/{policy} first");
        Problem::field("policy", detail)
    })
}

fn require_version(region: &Region, policy: &PolicyName, version: PolicyVersion) -> Result<(), Problem> {
    if policies::is_known(region, policy, version) {
        return Ok(());
    }
    let detail = format!("{policy} has no version {version}: GET /v1/policies/{policy} lists what it has");
    Err(Problem::field("version", detail))
}

/// Tries the policy with the config on made-up services: what it cannot read, or fails with, is refused now, not at lookups.
pub(super) async fn try_config(region: &Arc<Region>, bound: &Bound) -> Result<(), Problem> {
    switches::require_enabled(region, bound)?;
    let (own, wanted) = (Arc::clone(region), bound.clone());
    // Compiling a standard policy, and reading a schema, take long.
    let found = tokio::task::spawn_blocking(move || {
        let (region, bound) = (own, wanted);
        if let Some(standard) = STANDARD.iter().find(|s| PolicyVersion::of(s.module) == bound.version) {
            let loaded = region.host.load_standard(standard);
            loaded
                .map_err(|e| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not-runnable", e.to_string()))?;
        }
        let Some(compiled) = region.host.library().get(&bound.version) else {
            let detail = "this gateway has not yet loaded that version; try again in a second";
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not-runnable", detail));
        };
        let errors = region.host.config_errors(bound.version, &bound.config);
        if !errors.is_empty() {
            // The field of the request, as where the policy itself refuses; where in it, the detail says.
            let field =
                |e: ConfigError| FieldError::new("config", format!("{} {}", e.pointer, e.message).trim());
            return Err(Problem::fields(errors.into_iter().map(field).collect()));
        }
        Ok(compiled)
    });
    let compiled =
        found.await.map_err(|_| Problem::field("config", "the policy could not be tried with it"))??;
    region.host.try_config(compiled, bound.config.clone()).await.map_err(|refused| match refused {
        ConfigRefused::Rejected(rejected) => {
            let (check, input) = (rejected.check.map(String::from), rejected.input.map(String::from));
            Problem { check, input, ..Problem::field("config", rejected.detail) }
        }
        busy @ ConfigRefused::Busy => {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "gate-busy", busy.to_string())
        }
    })
}

pub(super) fn render(region: &Region, bound: &Bound) -> Value {
    let config: Value = serde_json::from_str(&bound.config).unwrap_or(Value::Null);
    let disabled = switches::render(region, bound.version);
    json!({ "policy": bound.policy, "version": bound.version, "config": config, "disabled": disabled })
}
