//! `meridian federation`: one federation node of one region, until it is asked to stop.

use crate::failure::Failure;
use crate::gateway::load;
use crate::interrupt::Interrupt;
use meridian_gateway::federation::JoinError;
use meridian_gateway::federation::node::Node;
use meridian_gateway::gateway::StartError;
use meridian_gateway::telemetry;
use std::path::PathBuf;

/// Run a federation node
///
/// It watches its region's registry, tells the nodes of other regions what the region has, and passes on what they tell to
/// the gateways of its own (which name it in federation.nodes). A region runs one or more; none leads. Everything
/// goes over mutual TLS: the URI name in a node's certificate, spiffe://DOMAIN/region/REGION/node/ID, binds the region that
/// it may speak for. Certificates are read again when their files are replaced.
///
/// /livez, /readyz and /metrics are served on federation.status (127.0.0.1:8511). SIGINT or SIGTERM stops it within 10
/// seconds; what it holds of other regions is kept in data_dir.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  meridian federation --config /etc/meridian/federation.toml\n\n\
    Any key can come from the environment instead: MERIDIAN__FEDERATION__LISTEN=127.0.0.1:8510")]
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
    let running = Node::start(config).await.map_err(not_started)?;
    tracing::info!(%region, address = %running.address(), status = %running.status(), "listening");
    interrupt.next().await;
    tracing::info!("stopping; a second signal forces it");
    interrupt.force_at_next();
    running.stop().await;
    tracing::info!("stopped");
    Ok(())
}

/// Why the node was not started: the configuration, certificates and peers included, or the machine.
fn not_started(error: StartError) -> Failure {
    match error {
        StartError::Config(_) | StartError::NotANode | StartError::Federation(JoinError::Service(_)) => {
            Failure::Usage(error.to_string())
        }
        error => Failure::Failed(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_configuration_is_told_from_a_machine_that_refuses() {
        assert_eq!(not_started(StartError::NotANode).exit_code(), 2);
        let taken = || std::io::Error::from(std::io::ErrorKind::AddrInUse);
        let address = "127.0.0.1:8511".parse().unwrap();
        let failure = not_started(StartError::Status { address, source: taken() });
        assert_eq!(failure.exit_code(), 1);
        assert_eq!(failure.to_string().matches(&taken().to_string()).count(), 1, "{failure}");
    }
}
