//! `meridian-bench`: measures a built `meridian` as users meet it, through its sockets, against the numbers of the design.

mod answer;
mod bare;
mod batch;
mod exposition;
mod heartbeats;
mod load;
mod population;
mod process;
mod propagation;
mod region;
mod register;
mod report;
mod scale;
mod server;
mod single;
mod stream;
mod watchers;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use process::Neighbours;
use report::{Report, Table};
use serde_json::{Value, json};
use std::process::ExitCode;

/// Measure a built `meridian` through its sockets, against the numbers of the design.
///
/// Every command starts its own etcd (data in memory, on /dev/shm), gateways and issuer, and ends them. The program that is
/// measured is MERIDIAN_BIN, or else `meridian` beside this program or in the workspace's target/release. Ratios are printed
/// first, then absolute numbers; medians of rounds come with the least and greatest round in brackets. Linux only; needs
/// etcd and taskset (util-linux).
#[derive(Parser)]
#[command(name = "meridian-bench", version, max_term_width = 110, arg_required_else_help = true)]
#[command(
    after_help = "Exit codes: 0 measured, whether numbers were reached or not; 1 it could not be measured; 2 usage.\n\
    Figures are only as good as the machine was quiet: each report says how many cores others used meanwhile."
)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,

    /// Print JSON: {command, title, figures: [{what, unit, value, low, high, atLeast|atMost, reached}], remarks, othersCores}
    #[arg(long, global = true)]
    json: bool,

    /// Take seconds instead of minutes: shows that the drivers work; its numbers mean nothing and are not judged
    #[arg(long, global = true)]
    smoke: bool,
}

#[derive(Subcommand)]
enum Command {
    /// One lookup over HTTP/1.1 keep-alive against a bare axum handler with the same bytes: ratios of req/s and of CPU
    Single(single::Arguments),
    /// POST /v1/resolve of 100 lookups: lookups per second of server CPU (1/s per core), and by the clock (1/s)
    Batch(batch::Arguments),
    /// Registrations by 64 clients on etcd against raw puts by as many: ratio, 1/s, CPU µs each
    Register(register::Arguments),
    /// 10,000 heartbeats a second, in batches and singly: etcd writes and gateway CPU (ms) per 1,000
    Heartbeats(heartbeats::Arguments),
    /// From a write to the watchers of the answer, at the same and at another gateway: p50 and p99 in ms
    Propagation(propagation::Arguments),
    /// Idle watchers: memory of each (KiB), CPU of all (% of a core), wake-ups by writes that change nothing
    Watchers(watchers::Arguments),
    /// 100,000 instances: gateway memory (MiB), cold starts from etcd and from disk with etcd dead (s)
    Scale(scale::Arguments),
    /// All of the above with their defaults, and a summary of the figures that have a number to reach
    All,
    #[command(hide = true)]
    Bare(bare::Arguments),
}

/// The commands that `all` runs.
const ALL: [&str; 7] = ["single", "batch", "register", "heartbeats", "propagation", "watchers", "scale"];

/// What DESIGN 10 names and is not measured here.
const ELSEWHERE: &str = "not measured here: lookups in process (cargo bench -p meridian-policies), propagation across \
    regions, the loss of a region";

fn measure(command: Command, smoke: bool) -> Result<Report> {
    let shrunk = |report: Result<Report>| if smoke { Ok(report?.without_goals()) } else { report };
    shrunk(match command {
        Command::Single(a) => single::run(&if smoke { a.smoke() } else { a }),
        Command::Batch(a) => batch::run(&if smoke { a.smoke() } else { a }),
        Command::Register(a) => register::run(&if smoke { a.smoke() } else { a }),
        Command::Heartbeats(a) => heartbeats::run(&if smoke { a.smoke() } else { a }),
        Command::Propagation(a) => propagation::run(&if smoke { a.smoke() } else { a }),
        Command::Watchers(a) => watchers::run(&if smoke { a.smoke() } else { a }),
        Command::Scale(a) => scale::run(&if smoke { a.smoke() } else { a }),
        Command::All | Command::Bare(_) => bail!("this command is no measurement"),
    })
}

/// A report with the conditions under which it came about.
struct Measured {
    report: Report,
    command_line: String,
    others: f64,
}

impl Measured {
    fn run(command: Command, smoke: bool, command_line: String) -> Result<Self> {
        let neighbours = Neighbours::watch()?;
        let report = measure(command, smoke).with_context(|| command_line.clone())?;
        Ok(Self { report, command_line, others: neighbours.cores()? })
    }

    fn print(&self) {
        print!("{}", self.report);
        println!("  others used {:.2} cores meanwhile; command: {}\n", self.others, self.command_line);
    }

    fn json(&self) -> Value {
        let mut value = self.report.json();
        value["command"] = json!(self.command_line);
        value["othersCores"] = json!(self.others);
        value
    }
}

/// Every measurement; one that fails does not keep the others from being made.
fn all(smoke: bool, json: bool) -> Result<()> {
    let (mut done, mut failures) = (Vec::new(), Vec::new());
    for name in ALL {
        let CommandLine { command, .. } = CommandLine::try_parse_from(["meridian-bench", name])?;
        let command_line = format!("meridian-bench {name}{}", if smoke { " --smoke" } else { "" });
        match Measured::run(command, smoke, command_line) {
            Ok(measured) => {
                if !json {
                    measured.print();
                }
                done.push(measured);
            }
            Err(error) => {
                eprintln!("meridian-bench: FAILED: {error:#}\n");
                failures.push(name);
            }
        }
    }
    if json {
        let reports: Vec<Value> = done.iter().map(Measured::json).collect();
        println!("{}", json!({ "reports": reports, "failed": failures }));
    } else {
        println!("summary");
        print!("{}", Table(done.iter().flat_map(|measured| measured.report.judged()).collect()));
        println!("  {ELSEWHERE}");
    }
    if !failures.is_empty() {
        bail!("could not be measured: {}", failures.join(", "));
    }
    Ok(())
}

fn run(CommandLine { command, json, smoke }: CommandLine) -> Result<()> {
    match command {
        Command::Bare(arguments) => bare::run(arguments),
        Command::All => all(smoke, json),
        command => {
            let command_line: Vec<String> = std::env::args().skip(1).collect();
            let measured =
                Measured::run(command, smoke, format!("meridian-bench {}", command_line.join(" ")))?;
            if json {
                println!("{}", measured.json());
            } else {
                measured.print();
            }
            Ok(())
        }
    }
}

fn main() -> ExitCode {
    match run(CommandLine::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("meridian-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn every_measurement_has_defaults() {
        for name in ALL {
            assert!(CommandLine::try_parse_from(["meridian-bench", name]).is_ok(), "{name}");
        }
    }
}
