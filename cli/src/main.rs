//! The `meridian` binary: it composes a gateway, and talks to gateways.

mod arguments;
mod command_line;
mod config;
mod connection;
mod credential;
mod demo;
mod dev;
mod drain;
mod event_stream;
mod failure;
mod federation;
mod gateway;
mod health;
mod history;
mod interrupt;
mod membership;
mod output;
mod patience;
mod policy;
mod regions;
mod register;
mod resolve;
mod services;
mod simulate;
mod token;
mod top;
mod watch;

use clap::Parser;
use command_line::CommandLine;
use failure::Failure;
use std::process::ExitCode;

fn main() -> ExitCode {
    let CommandLine { global, command } = CommandLine::parse();
    // Alone in its process and on one thread: what it bounds would bound others too.
    if let command_line::Command::PolicyCompiler(arguments) = &command {
        return policy::compiler::run(arguments);
    }
    // Two providers of TLS are linked; without a choice rustls panics at its first use. It can only be made once, and
    // nobody was here before.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = match command.runtime().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::remark(format_args!("meridian: the system gives no threads: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(command.run(&global));
    // What still runs is of no use to anybody: all that has to end well has been awaited.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(&failure, global.json),
    }
}

fn report(failure: &Failure, json: bool) -> ExitCode {
    match failure {
        Failure::Told(_) => {}
        told if json => output::json(&told.body()),
        told => output::remark(format_args!("meridian: {told}")),
    }
    ExitCode::from(failure.exit_code())
}
