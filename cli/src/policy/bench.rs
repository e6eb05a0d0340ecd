//! `meridian policy bench`: what a policy's calls cost, and what it holds.

use super::ConfigSource;
use super::test;
use crate::connection::Global;
use crate::failure::Failure;
use crate::output::{self, Table};
use anyhow::anyhow;
use meridian_policies::{Bench, Fault, Memory, Workbench};
use serde_json::json;
use std::path::PathBuf;

/// Services whose memory is measured: the goal is named for as many.
const SERVICES: usize = 100;

/// Measure what a policy's calls cost
///
/// In this process, with the host that gateways have, for services of 20 and of 5,000 endpoints. `route` runs at every lookup,
/// in runs of 50; `open` once for each change of a service, `admit` and `plans` once for each distinct caller. Memory is that of
/// 100 services of 20 endpoints, for each worker. Quiet machines give the better numbers.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  meridian policy bench\n  \
    meridian policy bench my-policy.wasm --config '{\"previewVersion\": \"2\"}' --json")]
pub(crate) struct Arguments {
    /// The crate's directory, a component, or a standard policy's name
    #[arg(default_value = ".")]
    policy: PathBuf,
    /// Config: JSON, or @FILE [default: the first of the cases that the policy takes]
    #[arg(long, value_name = "JSON")]
    config: Option<ConfigSource>,
}

pub(crate) async fn run(arguments: Arguments, global: &Global) -> Result<(), Failure> {
    let Arguments { policy, config } = arguments;
    let config = config.map(ConfigSource::read).transpose()?.map(|config| config.to_string());
    let module = test::module(&policy, false).await?;
    let workbench = Workbench::compile(&module).map_err(|refused| Failure::Failed(anyhow!("{refused}")))?;
    output::remark("measuring; this takes some seconds");
    let configs = config.map_or_else(|| workbench.configs(), |config| vec![config]);
    let (config, benches) = measured(&workbench, &configs)?;
    let memory = workbench.memory(config, SERVICES).map_err(failed)?;
    if global.json {
        output::json(&json!({
            "sizeBytes": module.len(), "compileMillis": millis(&workbench), "config": config,
            "calls": benches, "memory": memory,
        }));
    } else {
        output::say(render(module.len(), millis(&workbench), &benches, &memory));
    }
    Ok(())
}

fn millis(workbench: &Workbench) -> f64 {
    workbench.compile_time().as_secs_f64() * 1_000.0
}

fn failed(fault: Fault) -> Failure {
    Failure::Failed(anyhow!("{fault}"))
}

/// The first config with which the policy answers; what it said to the first one, where it answers with none.
fn measured<'a>(workbench: &Workbench, configs: &'a [String]) -> Result<(&'a str, Vec<Bench>), Failure> {
    let mut first = None;
    for config in configs {
        match workbench.bench(config) {
            Ok(benches) => return Ok((config, benches)),
            Err(fault) => {
                first.get_or_insert(fault);
            }
        }
    }
    let said = first.map(|fault| fault.to_string()).unwrap_or_default();
    Err(Failure::Failed(anyhow!("the policy does not answer: {said}\n  next: --config '{{…}}'")))
}

fn render(module_bytes: usize, compile_millis: f64, benches: &[Bench], memory: &Memory) -> String {
    let mut table =
        Table::new(["ENDPOINTS", "ROUTE P50", "P99", "FUEL", "OPEN", "FUEL", "ADMIT", "PLANS", "INSTANCE"]);
    for bench in benches {
        table.row([
            bench.endpoints.to_string(),
            format!("{} ns", bench.route_nanos_p50),
            format!("{} ns", bench.route_nanos_p99),
            bench.route_fuel.to_string(),
            format!("{} µs", bench.open_micros),
            bench.open_fuel.to_string(),
            format!("{} µs", bench.admit_micros),
            format!("{} µs", bench.plans_micros),
            output::size(bench.instance_bytes as u64),
        ]);
    }
    let held = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), output::size);
    let Memory { services, apart_bytes, apart_held_bytes, shared_bytes, shared_held_bytes } = memory;
    format!(
        "{}\n\n{services} services of 20 endpoints, for each worker: an instance for each {} (estimated {}), \
         one for all {} (estimated {})\nmodule {}, compiled in {compile_millis:.1} ms",
        table.render(),
        held(*apart_held_bytes),
        output::size(*apart_bytes as u64),
        held(*shared_held_bytes),
        output::size(*shared_bytes as u64),
        output::size(module_bytes as u64),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_policies_can_be_measured() {
        for standard in meridian_policies::STANDARD {
            let workbench = Workbench::compile(standard.module).unwrap();
            let configs = workbench.configs();
            let (config, benches) = measured(&workbench, &configs).unwrap();
            let memory = workbench.memory(config, 4).unwrap();
            assert_eq!(benches.iter().map(|bench| bench.endpoints).collect::<Vec<_>>(), [20, 5_000]);
            for bench in &benches {
                assert!(bench.route_fuel > 0 && bench.route_fuel < 20_000, "{bench:?}");
                assert!(
                    bench.route_nanos_p50 > 0 && bench.route_nanos_p50 <= bench.route_nanos_p99,
                    "{bench:?}"
                );
            }
            assert!(memory.shared_bytes < memory.apart_bytes, "{memory:?}");
            assert!(render(1, 1.0, &benches, &memory).contains("5000"), "a line for each size");
        }
    }
}
