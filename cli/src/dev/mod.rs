//! `meridian dev`: three regions, an issuer and demo workloads in one process. The demo talks to the gateways over HTTP
//! like anybody else; nothing takes a shortcut inside the process.

pub(crate) mod control;
mod fleet;
mod layout;
mod progress;
mod state;
mod tour;
mod workload;

pub(crate) use state::socket;

use crate::connection::{Connection, Global, client};
use crate::credential::Credential;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::output;
use anyhow::Context;
use control::Control;
use fleet::{Fleet, url_of};
use futures::future::join_all;
use layout::Region;
use meridian_gateway::config::{Config, LogFormat, TelemetryConfig};
use meridian_gateway::gateway::{Gateway, Running};
use meridian_gateway::identity::dev_identity_config;
use meridian_gateway::telemetry;
use progress::Progress;
use serde_json::Value;
use state::State;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

/// Everything stops within this time; what has not is cut off, which the registry survives.
const STOP_WITHIN: Duration = Duration::from_secs(2);
/// Until the demo's health checks have passed; after it, it is said and nothing more.
const HEALTHY_WITHIN: Duration = Duration::from_secs(15);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Threads of each gateway that answer lookups: three regions share this machine.
const WORKERS: usize = 1;

/// Run three regions, an identity issuer and demo workloads on this machine
///
/// Regions ap-south-1, eu-west-1 and us-east-1 with two zones each (…a and …b), their gateways on 127.0.0.1, ports 8500
/// to 8502, each with a registry of its own in DATA_DIR/REGION. The regions tell each other what they have over mutual TLS
/// on ports 8510 to 8512, so that lookups move to another region when one has nothing healthy left.
///
/// The demo workloads orders-api, inventory-api and checkout-api are small HTTP servers, at least two in each zone, which
/// register with real tokens and send heartbeats (leases of 6 s). `meridian demo` stops and starts them.
///
/// The issuer's key (DATA_DIR/issuer.key) is made once. Other commands in the same directory find it and mint what tokens
/// they need. Everything listens on loopback only; nothing here is for production.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  meridian dev\n  meridian dev --port-base 9500 --data-dir /tmp/second\n  meridian dev --fresh"
)]
pub(crate) struct Arguments {
    /// Port of the first region's gateway; the others follow
    #[arg(long, value_name = "PORT", default_value_t = layout::DEFAULT_PORT_BASE,
          value_parser = clap::value_parser!(u16).range(1024..=layout::MAX_PORT_BASE))]
    port_base: u16,
    /// Forget what earlier runs stored: instances, policies, bindings and history. The issuer stays
    #[arg(long)]
    fresh: bool,
    /// What to log to standard error, such as warn, info or meridian_gateway=debug
    // Regions start one after the other, so the first ones dial nodes that do not listen yet.
    #[arg(long, value_name = "FILTER", default_value = "warn,meridian_federation::service::dial=error")]
    log: String,
}

pub(crate) async fn run(arguments: Arguments, global: &Global) -> Result<(), Failure> {
    let mut interrupt = Interrupt::listen()?;
    let running = tokio::select! {
        started = Dev::start(&arguments, global) => started?,
        () = interrupt.next() => {
            output::remark("stopped while starting");
            return Ok(());
        }
    };
    interrupt.next().await;
    output::say("\nstopping; Ctrl-C again forces it");
    interrupt.force_at_next();
    running.stop().await;
    Ok(())
}

/// All that runs.
struct Dev {
    gateways: Vec<Running>,
    fleet: Arc<Mutex<Fleet>>,
    control: JoinHandle<()>,
    // Fields are dropped in this order: whoever takes the directory next finds nobody in it.
    _telemetry: telemetry::Guard,
    _state: State,
}

impl Dev {
    async fn start(arguments: &Arguments, global: &Global) -> Result<Self, Failure> {
        let mut progress = Progress::begin();
        let regions = layout::regions(arguments.port_base)?;
        // Before the ports, which are taken too if another one runs here.
        let state = State::take(&global.data_dir)?;
        layout::require_free(&regions)?;
        let telemetry = telemetry::init(&TelemetryConfig {
            log_format: LogFormat::Text,
            log: Some(arguments.log.clone()),
            ..TelemetryConfig::default()
        });
        let telemetry = telemetry.map_err(|error| Failure::Usage(format!("--log: {error}")))?;
        output::say(format_args!(
            "Meridian, three regions on this machine; state in {}\n",
            state.directory().display()
        ));
        if arguments.fresh {
            state.forget(&regions)?;
            progress.done("fresh", "what earlier runs stored is forgotten");
        }
        let (issuer, made) = state.issuer()?;
        progress.done(
            "issuer",
            if made { "a key for development tokens, made now" } else { "the key of earlier runs" },
        );
        let issuer = Arc::new(issuer);
        state.certify(&regions)?;
        let mut gateways = Vec::with_capacity(regions.len());
        for region in &regions {
            let gateway = Gateway::start(config(&state, &regions, region)?).await;
            let gateway = gateway
                .map_err(|error| anyhow::Error::from(error).context(format!("region {}", region.name)))?;
            gateway.ready().await;
            let zones: Vec<&str> = region.zones.iter().map(|zone| zone.as_str()).collect();
            progress.done(
                region.name.as_str(),
                &format!("http://{}, zones {}", gateway.address(), zones.join(" and ")),
            );
            gateways.push(gateway);
        }
        let mut fleet = Fleet::new(&regions, issuer)?;
        let count = fleet.start_all().await?;
        progress.done("demo", &format!("{count} workloads of 3 services have registered"));
        let healthy =
            join_all(regions.iter().map(|region| all_healthy(region, fleet.seats_of(&region.name)))).await;
        let healthy =
            healthy.into_iter().collect::<Result<Vec<bool>, Failure>>()?.into_iter().all(|healthy| healthy);
        progress.done(
            "health",
            if healthy { "all have passed their checks" } else { "not all pass their checks; going on" },
        );
        let heard = join_all(regions.iter().map(|region| hears(region, regions.len()))).await;
        let heard = heard.into_iter().collect::<Result<Vec<bool>, Failure>>()?.into_iter().all(|heard| heard);
        progress.done(
            "federation",
            if heard {
                "every region hears the others"
            } else {
                "not every region hears the others; going on"
            },
        );
        let fleet = Arc::new(Mutex::new(fleet));
        let control = Control::listen(&socket(state.directory()))?;
        let control = tokio::spawn(control.serve(Arc::clone(&fleet)));
        output::say(format_args!("\nReady after {:.1} s.\n", progress.total().as_secs_f64()));
        if let Some(first) = regions.first() {
            output::say(tour::text(&tour::Invocation::of(&regions, &global.data_dir), first));
        }
        Ok(Self { gateways, fleet, control, _telemetry: telemetry, _state: state })
    }

    /// Stops the demo as a crash would, then the gateways in good order.
    async fn stop(self) {
        self.control.abort();
        // The socket and the last order in work end with the task.
        let _ = self.control.await;
        drop(self.fleet);
        let stopping = join_all(self.gateways.into_iter().map(Running::stop));
        if tokio::time::timeout(STOP_WITHIN, stopping).await.is_err() {
            output::remark("a gateway did not stop in time and is cut off");
        }
    }
}

/// A region's configuration: what a file would say, and the issuer of this directory.
fn config(state: &State, regions: &[Region], region: &Region) -> Result<Config, Failure> {
    let mut table = toml::Table::new();
    let zones = region.zones.iter().map(|zone| toml::Value::from(zone.as_str())).collect();
    table.insert("region".to_owned(), toml::Value::from(region.name.as_str()));
    table.insert("zones".to_owned(), toml::Value::Array(zones));
    table.insert("data_dir".to_owned(), toml::Value::from(state.of_region(region).display().to_string()));
    let section = |pairs: [(&str, toml::Value); 1]| {
        toml::Value::Table(pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    };
    table.insert("registry".to_owned(), section([("kind", "embedded".into())]));
    let mut http = toml::Table::new();
    http.insert("listen".to_owned(), toml::Value::from(region.address.to_string()));
    http.insert("workers".to_owned(), toml::Value::Integer(i64::try_from(WORKERS).unwrap_or(1)));
    table.insert("http".to_owned(), toml::Value::Table(http));
    table.insert("federation".to_owned(), federation(state, regions, region));
    // The environment is a gateway's; three regions could not share it.
    let text = table.to_string();
    let mut config = Config::parse(&text, region.name.as_str(), state.directory(), std::iter::empty())
        .context(
            "the configuration of a region of `meridian dev` is wrong, which is a mistake in meridian",
        )?;
    config.identity = dev_identity_config(&state.jwks());
    Ok(config)
}

/// The section of a node that peers with all other regions.
fn federation(state: &State, regions: &[Region], region: &Region) -> toml::Value {
    let text = |text: String| toml::Value::from(text);
    let directory = state.federation();
    let file = |name: String| text(directory.join(name).display().to_string());
    let mut tls = toml::Table::new();
    tls.insert("certificate".to_owned(), file(format!("{}.pem", region.name)));
    tls.insert("key".to_owned(), file(format!("{}.key", region.name)));
    tls.insert("ca".to_owned(), file("ca.pem".to_owned()));
    let peer = |other: &Region| {
        let mut peer = toml::Table::new();
        peer.insert("region".to_owned(), text(other.name.to_string()));
        let url = text(format!("https://{}", other.federation));
        peer.insert("urls".to_owned(), toml::Value::Array(vec![url]));
        toml::Value::Table(peer)
    };
    let peers = regions.iter().filter(|other| other.name != region.name).map(peer).collect();
    let mut section = toml::Table::new();
    section.insert("listen".to_owned(), text(region.federation.to_string()));
    section.insert("peers".to_owned(), toml::Value::Array(peers));
    section.insert("tls".to_owned(), toml::Value::Table(tls));
    toml::Value::Table(section)
}

/// Waits until a region has fresh news of all others, and knows their services.
async fn hears(region: &Region, regions: usize) -> Result<bool, Failure> {
    let gateway = url_of(region)?;
    let connection = Connection::new(gateway.clone(), client(&gateway)?, Credential::None);
    let deadline = tokio::time::Instant::now() + HEALTHY_WITHIN;
    loop {
        let known = connection.list("/v1/regions").await?;
        let fresh = known.iter().filter(|region| {
            region.get("freshness").and_then(Value::as_str) == Some("fresh")
                && region.get("healthy").and_then(Value::as_u64).is_some_and(|healthy| healthy > 0)
        });
        if fresh.count() >= regions {
            return Ok(true);
        }
        if tokio::time::Instant::now() >= deadline {
            return Ok(false);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Waits until so many instances of a region are healthy, as its gateway tells everybody.
async fn all_healthy(region: &Region, wanted: usize) -> Result<bool, Failure> {
    let gateway = url_of(region)?;
    let connection = Connection::new(gateway.clone(), client(&gateway)?, Credential::None);
    let deadline = tokio::time::Instant::now() + HEALTHY_WITHIN;
    loop {
        let services = connection.list("/v1/namespaces/default/services").await?;
        let healthy = services
            .iter()
            .filter_map(|service| service.pointer("/instances/healthy").and_then(Value::as_u64));
        if usize::try_from(healthy.sum::<u64>()).unwrap_or(usize::MAX) >= wanted {
            return Ok(true);
        }
        if tokio::time::Instant::now() >= deadline {
            return Ok(false);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_gateway::config::{Reads, RegistryConfig};

    #[test]
    fn a_region_is_configured_with_its_own_directory_and_the_shared_issuer() {
        let parent = tempfile::tempdir().unwrap();
        let state = State::take(&parent.path().join("it's \"here\"")).unwrap();
        state.issuer().unwrap();
        let regions = layout::regions(9000).unwrap();
        state.certify(&regions).unwrap();
        let config = config(&state, &regions, &regions[2]).unwrap();
        let federation = config.federation.as_ref().unwrap();
        assert_eq!((federation.listen.unwrap().port(), federation.peers.len()), (9012, 2));
        assert_eq!((config.region.as_str(), config.http.listen.port()), ("us-east-1", 9002));
        assert_eq!(config.data_dir, state.directory().join("us-east-1"));
        assert!(matches!(config.registry, RegistryConfig::Embedded { .. }) && config.reads() == Reads::Open);
        assert!(config.checks_loopback(), "the demo's workloads listen there");
        assert!(config.identity.check(&config.base).is_ok());
    }
}
