//! `meridian demo`: stops and starts demo workloads of a running `meridian dev`.

use crate::connection::Global;
use crate::dev::control::{Action, Deed, Order, Outcome, ask};
use crate::dev::socket;
use crate::failure::Failure;
use crate::output::{self, Table};
use meridian_model::names::{RegionName, ServiceName, ZoneName};
use serde_json::json;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Crash demo workloads: their sockets close, their heartbeats stop, nobody is told
    #[command(after_help = "Examples:\n  meridian demo stop --region ap-south-1 --zone ap-south-1a\n  \
        meridian demo stop --region eu-west-1 --service orders-api --graceful")]
    Stop {
        #[command(flatten)]
        whom: Whom,
        /// Leave in good order instead: drain, wait 1.5 s, deregister, stop
        #[arg(long)]
        graceful: bool,
    },
    /// Start demo workloads that were stopped; those that run register again, which ends a drain
    #[command(after_help = "Example:\n  meridian demo start --region ap-south-1")]
    Start {
        #[command(flatten)]
        whom: Whom,
    },
}

/// Which workloads.
#[derive(Debug, clap::Args)]
pub(crate) struct Whom {
    /// Region
    #[arg(long)]
    region: RegionName,
    /// Zone [default: all of the region]
    #[arg(long)]
    zone: Option<ZoneName>,
    /// Service [default: all]
    #[arg(long)]
    service: Option<ServiceName>,
}

pub(crate) async fn run(command: Command, global: &Global) -> Result<(), Failure> {
    let (Whom { region, zone, service }, action) = match command {
        Command::Stop { whom, graceful } => (whom, Action::Stop { graceful }),
        Command::Start { whom } => (whom, Action::Start),
    };
    let order = Order { action, region, zone, service };
    let outcomes = ask(&socket(&global.data_dir), &order).await?;
    if global.json {
        output::json(&json!({ "workloads": outcomes }));
    } else {
        output::say(render(&order, &outcomes));
    }
    let failed = outcomes.iter().filter(|outcome| matches!(outcome.deed, Deed::Failed { .. })).count();
    match failed {
        0 => Ok(()),
        failed => Err(Failure::Failed(anyhow::anyhow!(
            "{failed} of {} workloads did not do as they were told",
            outcomes.len()
        ))
        .after_json(global.json)),
    }
}

fn words(deed: &Deed) -> String {
    match deed {
        Deed::Crashed => "crashed".to_owned(),
        Deed::Left => "drained, deregistered, stopped".to_owned(),
        Deed::WasStopped => "was stopped already".to_owned(),
        Deed::Started => "started".to_owned(),
        Deed::RegisteredAgain => "was running; registered again".to_owned(),
        Deed::Failed { reason } => format!("failed: {}", reason.lines().next().unwrap_or_default()),
    }
}

fn render(order: &Order, outcomes: &[Outcome]) -> String {
    let mut table = Table::new(["INSTANCE", "ZONE", "ADDRESS", "DONE"]);
    for outcome in outcomes {
        let address = outcome.address.map(|address| address.to_string()).unwrap_or_default();
        table.row([outcome.instance.to_string(), outcome.zone.to_string(), address, words(&outcome.deed)]);
    }
    let mut text = table.render();
    let back = || {
        let mut command = format!("meridian demo start --region {}", order.region);
        command.extend(order.zone.iter().map(|zone| format!(" --zone {zone}")));
        command.extend(order.service.iter().map(|service| format!(" --service {service}")));
        command
    };
    match order.action {
        Action::Stop { graceful: false } => text.push_str(&format!(
            "\nchecks notice within about 3 s; leases end 6 s after the last heartbeat\nback with: {}",
            back()
        )),
        Action::Stop { graceful: true } => text.push_str(&format!("\nback with: {}", back())),
        Action::Start => {
            text.push_str("\nthey get traffic as soon as their first check has passed, within about a second")
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_stands_in_a_table_with_the_way_back() {
        let order = Order {
            action: Action::Stop { graceful: false },
            region: "r".parse().unwrap(),
            zone: Some("r-a".parse().unwrap()),
            service: None,
        };
        let outcome = Outcome {
            region: "r".parse().unwrap(),
            zone: "r-a".parse().unwrap(),
            service: "s".parse().unwrap(),
            instance: "s-1".parse().unwrap(),
            address: None,
            deed: Deed::Crashed,
        };
        let text = render(&order, &[outcome]);
        let cells: Vec<&str> = text.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(cells, ["s-1", "r-a", "-", "crashed"]);
        assert!(text.ends_with("back with: meridian demo start --region r --zone r-a"), "{text}");
    }
}
