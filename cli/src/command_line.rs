//! The commands of the command line, and which module runs each.

use crate::connection::Global;
use crate::failure::{EXIT_CODES, Failure};
use crate::{
    config, demo, dev, drain, federation, gateway, health, history, policy, regions, register, resolve,
    services, simulate, token, top, watch,
};
use clap::{Parser, Subcommand};

/// Service discovery whose routing rules are WebAssembly.
#[derive(Debug, Parser)]
#[command(name = "meridian", version, max_term_width = 110, after_help = EXIT_CODES, arg_required_else_help = true)]
pub(crate) struct CommandLine {
    #[command(flatten)]
    pub(crate) global: Global,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run three regions, an identity issuer and demo workloads on this machine
    Dev(dev::Arguments),
    /// Stop or start demo workloads of a running `meridian dev`
    #[command(subcommand)]
    Demo(demo::Command),
    /// Run a gateway
    Gateway(gateway::Arguments),
    /// Run a federation node
    Federation(federation::Arguments),
    /// Tell whether a gateway or a federation node is ready
    Health(health::Arguments),
    /// Check a gateway's or a federation node's configuration without starting anything
    #[command(subcommand)]
    Config(config::Command),
    /// Make development tokens, and the key that signs them
    #[command(subcommand)]
    Token(token::Command),
    /// Register an instance of a service, and keep it registered with --hold
    Register(register::Arguments),
    /// Take an instance out of traffic, on purpose and without an error
    Drain(drain::Arguments),
    /// Ask where to send traffic for a service, right now
    Resolve(resolve::Arguments),
    /// Ask where to send traffic, with every candidate, kept or dropped, and why
    Explain(resolve::ExplainArguments),
    /// Follow where traffic for a service goes: a line per change
    Watch(watch::Arguments),
    /// List the services of a namespace with their counts and policies
    Services(services::Arguments),
    /// Show where the traffic of every service goes right now, refreshed
    Top(top::Arguments),
    /// Show how each region stands, or ask for one to be spared
    Regions(regions::Arguments),
    /// Show who changed what, when, and why
    History(history::Arguments),
    /// Predict where traffic would go if something were lost, drained or activated
    Simulate(simulate::Arguments),
    /// Build, upload, try, bind, promote and list policies
    #[command(subcommand)]
    Policy(policy::Command),
    /// Compile one module for a gateway, which starts this itself
    #[command(hide = true, name = meridian_gateway::gateway::POLICY_COMPILER)]
    PolicyCompiler(policy::compiler::Arguments),
}

impl Command {
    /// The runtime that suits it: a client needs one thread.
    pub(crate) fn runtime(&self) -> tokio::runtime::Builder {
        match self {
            Self::Dev(_) | Self::Gateway(_) | Self::Federation(_) => {
                tokio::runtime::Builder::new_multi_thread()
            }
            _ => tokio::runtime::Builder::new_current_thread(),
        }
    }

    /// Runs it to its end.
    pub(crate) async fn run(self, global: &Global) -> Result<(), Failure> {
        match self {
            Self::Dev(arguments) => dev::run(arguments, global).await,
            Self::Demo(command) => demo::run(command, global).await,
            Self::Gateway(arguments) => gateway::run(arguments).await,
            Self::Federation(arguments) => federation::run(arguments).await,
            Self::Health(arguments) => health::run(arguments, global).await,
            Self::Config(command) => config::run(&command, global),
            Self::Token(command) => token::run(command, global),
            Self::Register(arguments) => register::run(arguments, global).await,
            Self::Drain(arguments) => drain::run(arguments, global).await,
            Self::Resolve(arguments) => resolve::run(arguments, global).await,
            Self::Explain(arguments) => resolve::run(arguments.into(), global).await,
            Self::Watch(arguments) => watch::run(arguments, global).await,
            Self::Services(arguments) => services::run(arguments, global).await,
            Self::Top(arguments) => top::run(arguments, global).await,
            Self::Regions(arguments) => regions::run(arguments, global).await,
            Self::History(arguments) => history::run(arguments, global).await,
            Self::Simulate(arguments) => simulate::run(arguments, global).await,
            Self::Policy(command) => policy::run(command, global).await,
            // Has ended before there was a runtime.
            Self::PolicyCompiler(_) => Ok(()),
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

    fn accepts(line: &str) -> bool {
        CommandLine::try_parse_from(line.split(' ')).is_ok()
    }

    #[test]
    fn global_options_stand_before_or_after_the_command() {
        assert!(accepts("meridian --json --gateway http://h:1 services"));
        assert!(accepts("meridian services --json --gateway http://h:1 --token t"));
        assert!(!accepts("meridian services --token t --token-file f"));
        assert!(!accepts("meridian services --gateway h:1"));
    }

    #[test]
    fn names_and_numbers_are_checked_before_anything_is_sent() {
        for good in [
            "meridian resolve orders-api --zone ap-south-1a -n all --label x-canary=always",
            "meridian resolve orders-api -n 1000",
            "meridian register s --id a-1 --host h --port 80 --zone z --check-http /ready --ttl 6s",
            "meridian token mint --service s --namespace prod",
            "meridian token mint --role operator --ttl 30m",
            "meridian policy bind _default canary --config {}",
            "meridian demo stop --region ap-south-1 --graceful",
            "meridian regions",
            "meridian policy bind s p --stage canary --percent 5",
            "meridian policy promote s --force --reason x",
            "meridian policy rollback _default",
            "meridian policy disable p sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef --reason x",
            "meridian policy disable --all --reason x",
            "meridian policy enable --all",
            "meridian policy try p s --zone ap-south-1a --zone ap-south-1b",
            "meridian simulate --lose-zone ap-south-1a",
            "meridian simulate --activate p --as-default --label a=b --caller-label a --max-remote-share 0.2",
            "meridian history orders-api --actor me --since 1h --limit 5",
            "meridian policy try p s --label a=b --regions eu-west-1",
            "meridian policy bind s p --max-remote-share 0.5 --reason x",
            "meridian policy unbind s --reason x",
            "meridian top --zone ap-south-1a --every 1s",
            "meridian policy bindings --namespace prod",
            "meridian policy show p",
            "meridian policy record s --seconds 0.5 --sample 0.1",
            "meridian policy replay f.json p --version sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
            "meridian register s --id a-1 --host h --port 80 --zone z --capacity 500",
            "meridian regions drain eu-west-1 --zone eu-west-1a --reason x",
            "meridian federation --config f.toml",
            "meridian health --gateway http://127.0.0.1:8511",
        ] {
            assert!(accepts(good), "{good}");
        }
        for bad in [
            "meridian policy disable p --reason x",
            "meridian policy disable --all",
            "meridian resolve ../x",
            "meridian resolve Orders",
            "meridian resolve s -n 0",
            "meridian resolve s -n 1001",
            "meridian resolve s --label x",
            "meridian register s --id a/b --host h --port 80 --zone z",
            "meridian register s --id a --host h --port 0 --zone z",
            "meridian register s --id a --host h --port 65536 --zone z",
            "meridian register s --id a --host h --port 80 --zone z --check-http / --check-tcp",
            "meridian register s --id a --host h --port 80 --zone z --ttl 30",
            "meridian token mint",
            "meridian token mint --role admin",
            "meridian token mint --role operator --service s",
            "meridian demo stop",
            "meridian dev --port-base 65535",
            "meridian policy bind s p --stage canary",
            "meridian policy promote s --force",
            "meridian simulate --config {}",
            "meridian simulate --as-default",
            "meridian history --since 5",
            "meridian policy bind s p --max-remote-share 2",
            "meridian policy bind s p --max-remote-share nan",
            "meridian policy record s --seconds nan",
            "meridian policy record s --seconds 0",
            "meridian policy record s --sample 2",
            "meridian policy record s --lookups 0",
            "meridian regions drain",
            "meridian regions drain Eu",
        ] {
            assert!(!accepts(bad), "{bad}");
        }
    }
}
