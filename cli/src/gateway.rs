//! `meridian gateway`: one gateway of one region, until it is asked to stop.

use crate::failure::Failure;
use crate::interrupt::Interrupt;
use meridian_gateway::config::{Config, ConfigError};
use meridian_gateway::gateway::Gateway;
use meridian_gateway::telemetry;
use std::path::{Path, PathBuf};

/// Run a gateway
///
/// The configuration is read and checked whole before anything starts; all mistakes are printed. The gateway logs to
/// standard error, one JSON object a line unless [telemetry] log_format = "text". SIGINT or SIGTERM stops it within
/// 10 seconds: it leaves the region's members, finishes requests under way and closes streams.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  meridian gateway --config /etc/meridian/gateway.toml\n\n\
    Any key can come from the environment instead: MERIDIAN__HTTP__LISTEN=127.0.0.1:8500")]
pub(crate) struct Arguments {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let config = load(&arguments.config).map_err(|error| Failure::Usage(error.to_string()))?;
    let mut interrupt = Interrupt::listen()?;
    let _telemetry = telemetry::init(&config.telemetry).map_err(|error| Failure::Usage(error.to_string()))?;
    let region = config.region.clone();
    let running = Gateway::start(config).await.map_err(|error| Failure::Failed(error.into()))?;
    tracing::info!(%region, gateway = %running.id(), address = %running.address(), "listening");
    tokio::select! {
        () = running.ready() => {
            tracing::info!("ready");
            interrupt.next().await;
        }
        () = interrupt.next() => {}
    }
    tracing::info!("stopping; a second signal forces it");
    interrupt.force_at_next();
    running.stop().await;
    tracing::info!("stopped");
    Ok(())
}

/// Reads a file with the environment laid over it. Variables that are no text cannot be meant for it.
pub(crate) fn load(path: &Path) -> Result<Config, ConfigError> {
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    Config::load(path, environment)
}
