//! `meridian health`: whether a process is ready, as an exit code, for images that hold no shell and no curl.

use crate::connection::{Connection, Global};
use crate::credential::Role;
use crate::failure::{Failure, Refusal};
use crate::output;
use reqwest::Method;
use std::time::Duration;

/// What answers later than this helps no lookup; supervisors ask every few seconds.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Tell whether a gateway or a federation node is ready
///
/// It asks /readyz once. Exit code 0 means ready, any other not ready or not there; see `meridian help`. A federation
/// node answers on federation.status.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  meridian health\n  meridian health --gateway http://127.0.0.1:8511\n\n\
    In an image:\n  HEALTHCHECK CMD [\"meridian\", \"health\"]")]
pub(crate) struct Arguments {}

pub(crate) async fn run(_: Arguments, global: &Global) -> Result<(), Failure> {
    let connection = Connection::open(global, Role::Reader)?;
    let request = connection.request(Method::GET, "/readyz", &[])?.timeout(TIMEOUT);
    let response = request.send().await.map_err(|error| connection.unreachable(&error))?;
    let status = response.status();
    if !status.is_success() {
        let body = connection.read(response).await?;
        return Err(Refusal::read(status.as_u16(), &body).into());
    }
    if global.json {
        output::json(&serde_json::json!({ "ready": true }));
    } else {
        output::say("ready");
    }
    Ok(())
}
