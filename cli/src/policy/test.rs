//! `meridian policy test`: natively, then in the host that gateways have.

use super::ConfigSource;
use super::build;
use super::push;
use super::snapshot::{self, Snapshot};
use crate::connection::Global;
use crate::failure::Failure;
use crate::output::{self, Table};
use anyhow::{Context, anyhow};
use meridian_model::policy::shown::{Caller, Service};
use meridian_policies::{Answer, Rejected, Report, STANDARD, Share, Workbench};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::Command;

/// Run a policy's tests, natively and in the real host
///
/// Of a crate, `cargo test` first: there a panic tells its line. Then the component runs in the host that gateways have: its
/// own cases, one by one; what every gateway tries at an upload; and, with --snapshot, a service as a gateway has it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  meridian policy test\n  \
    curl -s \"$MERIDIAN_GATEWAY/v1/namespaces/default/services/orders-api?limit=1000\" > orders.json\n  \
    meridian policy test my-policy --snapshot orders.json --config '{\"previewVersion\": \"2\"}'")]
pub(crate) struct Arguments {
    /// The crate's directory, a component, or a standard policy's name
    #[arg(default_value = ".")]
    policy: PathBuf,
    /// Instances of services as a gateway lists them; may be repeated
    #[arg(long, value_name = "FILE")]
    snapshot: Vec<PathBuf>,
    /// Config for the snapshots: JSON, or @FILE [default: the first of the cases that the policy takes]
    #[arg(long, value_name = "JSON", requires = "snapshot")]
    config: Option<ConfigSource>,
}

/// One line of the outcome.
struct Row {
    what: String,
    /// Why it failed, or what came.
    told: Result<String, String>,
}

pub(crate) async fn run(arguments: Arguments, global: &Global) -> Result<(), Failure> {
    let Arguments { policy, snapshot, config, .. } = arguments;
    let config = config.map(ConfigSource::read).transpose()?.map(|config| config.to_string());
    // All files are read before anything takes time.
    let mut services = Vec::new();
    for file in &snapshot {
        services.extend(read_snapshot(file)?);
    }
    let module = module(&policy, true).await?;
    let workbench = Workbench::compile(&module).map_err(|refused| Failure::Failed(anyhow!("{refused}")))?;
    let mut rows: Vec<Row> = workbench
        .cases()
        .into_iter()
        .map(|(name, told)| Row { what: format!("case {name:?}"), told: told.map(|()| String::new()) })
        .collect();
    if rows.is_empty() {
        output::remark(
            "the module carries no cases: export!(…, tests = include_bytes!(\"../cases.json\")) adds them",
        );
    }
    if rows.iter().all(|row| row.told.is_ok()) {
        rows.extend(gate_rows(Workbench::check(&module)));
    }
    for of in &services {
        rows.extend(snapshot_rows(&workbench, config.as_deref(), of));
    }
    let failed = rows.iter().filter(|row| row.told.is_err()).count();
    if global.json {
        output::json(&json!({ "failed": failed, "checks": rows.iter().map(Row::json).collect::<Vec<_>>() }));
    } else {
        output::say(table(&rows).render());
    }
    match failed {
        0 => Ok(()),
        _ => Err(Failure::Failed(anyhow!("{failed} of {} failed", rows.len())).after_json(global.json)),
    }
}

/// The component of a crate, of a file or of a standard policy; a crate is tested natively if that is asked for.
pub(super) async fn module(policy: &Path, tested: bool) -> Result<Vec<u8>, Failure> {
    if !policy.exists()
        && let Some(standard) = STANDARD.iter().find(|standard| Path::new(standard.name) == policy)
    {
        return Ok(standard.module.to_vec());
    }
    if !policy.is_dir() {
        return push::read(policy);
    }
    if tested {
        test_natively(policy).await?;
    }
    Ok(build::of_crate(policy).await?.bytes)
}

async fn test_natively(directory: &Path) -> Result<(), Failure> {
    let ran = Command::new(build::cargo())
        .args(["test", "--quiet"])
        .current_dir(directory)
        // What cargo sets for the program that it runs would name that program's package here.
        .env_remove("CARGO_MANIFEST_DIR")
        .stdin(Stdio::null())
        // What it says is for people; standard output is for programs.
        .stdout(std::io::stderr())
        .kill_on_drop(true)
        .status()
        .await
        .context("cargo does not run\n  next: install Rust from https://rustup.rs")?;
    if ran.success() {
        return Ok(());
    }
    Err(Failure::Failed(anyhow!("cargo test failed; what it said stands above")))
}

fn read_snapshot(file: &Path) -> Result<Vec<Snapshot>, Failure> {
    let text = std::fs::read_to_string(file).map_err(|error| Failure::unreadable(file, &error))?;
    snapshot::parse(&text).map_err(|wrong| Failure::Usage(format!("{} {wrong}", file.display())))
}

/// What the gate checks; the cases have rows of their own.
fn gate_rows(checked: Result<Report, Rejected>) -> Vec<Row> {
    let report = match checked {
        Ok(report) => report,
        Err(refused) => {
            let what = refused.check.as_deref().unwrap_or(refused.code);
            return vec![Row { what: format!("gate: {what}"), told: Err(refused.detail.to_string()) }];
        }
    };
    let told = |inputs: u32| match inputs {
        0 => "nothing to check".to_owned(),
        1 => String::new(),
        _ => format!("{inputs} inputs"),
    };
    let checks = report.checks.iter().filter(|check| check.name != "test-cases");
    checks.map(|check| Row { what: format!("gate: {}", check.name), told: Ok(told(check.inputs)) }).collect()
}

/// One row for each zone that a caller may be in.
fn snapshot_rows(workbench: &Workbench, config: Option<&str>, of: &Snapshot) -> Vec<Row> {
    let service = &of.service;
    let anyone = Caller::default();
    let configs = workbench.configs();
    let takes = |config: &&str| !matches!(workbench.ask(config, service, &anyone), Ok(Answer::Words(_)));
    let config = config.or_else(|| configs.iter().map(String::as_str).find(takes)).unwrap_or_default();
    let row = |zone: &String| {
        let from = if zone.is_empty() { "no zone" } else { zone };
        let what = format!("{} ({} endpoints) from {from}", service.name, service.endpoints.len());
        let told = match workbench.ask(config, service, &Caller::in_zone(zone)) {
            Ok(Answer::Shares(shares)) => Ok(by_zone(service, &shares)),
            Ok(Answer::Words(words)) => Err(words),
            Err(fault) => Err(fault.to_string()),
        };
        Row { what, told }
    };
    of.zones.iter().map(row).collect()
}

/// `ap-south-1a 75.0 %, ap-south-1b 25.0 %`: of 5,000 endpoints nobody reads the shares one by one.
fn by_zone(service: &Service, shares: &[Share]) -> String {
    let zones: BTreeMap<&str, &str> =
        service.endpoints.iter().map(|endpoint| (endpoint.id.as_str(), endpoint.zone.as_str())).collect();
    let mut sums: BTreeMap<&str, f64> = BTreeMap::new();
    for share in shares {
        let place = zones.get(share.name.as_str()).copied().unwrap_or(&share.name);
        *sums.entry(place).or_default() += share.share;
    }
    if sums.is_empty() {
        return "nothing: refused, or left to the native fallback".into();
    }
    let part = |(place, share): (&&str, &f64)| format!("{place} {:.1} %", share * 100.0);
    sums.iter().map(part).collect::<Vec<_>>().join(", ")
}

impl Row {
    fn json(&self) -> Value {
        match &self.told {
            Ok(told) => json!({ "what": self.what, "outcome": "passed", "detail": told }),
            Err(why) => json!({ "what": self.what, "outcome": "failed", "detail": why }),
        }
    }
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new(["WHAT", "OUTCOME", "DETAIL"]);
    for row in rows {
        let (outcome, detail) = match &row.told {
            Ok(told) => ("passed", told),
            Err(why) => ("FAILED", why),
        };
        table.row([row.what.clone(), outcome.to_owned(), detail.clone()]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_model::policy::shown::Endpoint;

    fn share(name: &str, share: f64) -> Share {
        Share { name: name.into(), share, reason: String::new() }
    }

    #[test]
    fn shares_are_told_by_zone_and_region() {
        let endpoint =
            |id: &str, zone: &str| Endpoint { id: id.into(), zone: zone.into(), ..Endpoint::default() };
        let endpoints = vec![endpoint("a", "z1"), endpoint("b", "z1"), endpoint("c", "z2")];
        let service = Service { endpoints, ..Service::default() };
        let shares = [share("a", 0.25), share("b", 0.25), share("c", 0.25), share("eu-west-1", 0.25)];
        assert_eq!(by_zone(&service, &shares), "eu-west-1 25.0 %, z1 50.0 %, z2 25.0 %");
        assert!(by_zone(&service, &[]).starts_with("nothing"));
    }

    #[test]
    fn a_refusal_of_the_gate_is_a_row_that_failed() {
        let refused = Workbench::check(b"#!/bin/sh").unwrap_err();
        let rows = gate_rows(Err(refused));
        assert_eq!(rows.len(), 1);
        assert!(rows[0].told.is_err() && table(&rows).render().contains("not-a-component"));
    }

    #[test]
    fn the_standard_policies_pass() {
        for standard in meridian_policies::STANDARD {
            let workbench = Workbench::compile(standard.module).unwrap();
            let cases = workbench.cases();
            assert!(!cases.is_empty(), "{}", standard.name);
            assert!(cases.iter().all(|(_, told)| told.is_ok()), "{}: {cases:?}", standard.name);
        }
    }
}
