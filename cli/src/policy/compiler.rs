//! The process in which a gateway compiles an uploaded module; nobody else has a use for it.

use crate::output;
use std::process::ExitCode;

/// What the gateway says of the module.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Size of the module on standard input; the limits depend on it
    #[arg(long)]
    module_bytes: usize,
    /// Try it as well
    #[arg(long)]
    trial: bool,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    match meridian_policies::policy_compiler(arguments.module_bytes, arguments.trial) {
        Ok(code) => code,
        Err(error) => {
            output::remark(format_args!("meridian: {error}"));
            ExitCode::FAILURE
        }
    }
}
