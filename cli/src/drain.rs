//! `meridian drain`: an instance gets no new traffic any more, and nothing counts it as broken.

use crate::connection::{Connection, Global, Payload, instance_path};
use crate::credential::Role;
use crate::failure::Failure;
use crate::output::{self, text_of};
use meridian_model::names::{InstanceId, Namespace, ServiceName};
use reqwest::Method;
use serde_json::json;

/// Take an instance out of traffic, on purpose and without an error
///
/// Callers are no longer sent to it; it stays registered, keeps its lease, and is outside every health fraction. Its
/// owner ends the draining by registering it again, or ends the instance by deregistering it.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  meridian drain orders-api orders-api-ap-south-1a-1 --reason \"kernel update\""
)]
pub(crate) struct Arguments {
    /// Service
    service: ServiceName,
    /// Instance id
    id: InstanceId,
    /// Namespace of the service
    #[arg(long, default_value = "default")]
    namespace: Namespace,
    /// Why, for the history (at most 256 bytes)
    #[arg(long, default_value = "")]
    reason: String,
}

pub(crate) async fn run(arguments: Arguments, global: &Global) -> Result<(), Failure> {
    let Arguments { service, id, namespace, reason } = arguments;
    let connection = Connection::open(global, Role::Operator)?;
    let patch = json!({ "status": "draining", "reason": reason });
    let path = instance_path(&namespace, &service, &id);
    let answer = connection.send(Method::PATCH, &path, &[], Payload::Json(patch)).await?;
    if global.json {
        output::json(&answer.body);
    } else {
        output::say(format_args!(
            "{id} of {service} is {}: no new traffic goes there (index {})\n\
             its owner brings it back by registering it again",
            text_of(&answer.body, "/status"),
            text_of(&answer.body, "/index"),
        ));
    }
    Ok(())
}
