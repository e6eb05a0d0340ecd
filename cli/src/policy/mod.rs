//! `meridian policy`: from an author's crate to what answers lookups.

mod bind;
mod build;
pub(crate) mod compiler;
mod component;
mod list;
mod push;

use crate::connection::Global;
use crate::failure::Failure;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Build a policy's crate into a component, NAME.wasm
    Build(build::Arguments),
    /// Upload a version of a policy
    Push(push::Arguments),
    /// Let a policy answer for a service, or for a namespace
    Bind(bind::Arguments),
    /// List policies with their versions
    List(list::Arguments),
}

pub(crate) async fn run(command: Command, global: &Global) -> Result<(), Failure> {
    match command {
        Command::Build(arguments) => build::run(arguments, global).await,
        Command::Push(arguments) => push::run(arguments, global).await,
        Command::Bind(arguments) => bind::run(arguments, global).await,
        Command::List(arguments) => list::run(arguments, global).await,
    }
}
