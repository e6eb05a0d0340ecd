//! `meridian policy`: from an author's crate to what answers lookups.

mod bench;
mod bind;
mod bindings;
mod build;
pub(crate) mod compiler;
mod component;
mod list;
mod new;
mod push;
mod replay;
mod rollout;
mod sdk;
mod show;
mod signing;
mod snapshot;
mod standing;
mod switch;
mod test;
mod trial;

pub(crate) use bind::{ConfigSource, LimitArguments};

use crate::connection::Global;
use crate::failure::Failure;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Write the crate of a new policy, with tests
    New(new::Arguments),
    /// Build a policy's crate into a component, NAME.wasm
    Build(build::Arguments),
    /// Run a policy's tests, natively and in the real host
    Test(test::Arguments),
    /// Measure what a policy's calls cost
    Bench(bench::Arguments),
    /// Record lookups of a service, to replay them
    Record(replay::RecordArguments),
    /// Answer recorded lookups again, and show what is different
    Replay(replay::ReplayArguments),
    /// Sign a version of a policy
    Sign(signing::SignArguments),
    /// Tell whether a key signed a version of a policy
    Verify(signing::VerifyArguments),
    /// Upload a version of a policy
    Push(push::Arguments),
    /// Let a policy answer for a service or a namespace, or try it there
    Bind(bind::Arguments),
    /// Let the namespace's policy answer for a service again
    Unbind(bindings::UnbindArguments),
    /// List the bindings of a namespace
    Bindings(bindings::Arguments),
    /// Show what a policy would answer right now, without binding it
    Try(trial::Arguments),
    /// Show what the candidate would change
    Diff(rollout::DiffArguments),
    /// Let the candidate answer in place of the active version
    Promote(rollout::PromoteArguments),
    /// Give up the candidate; without one, let answer what answered before
    Rollback(rollout::RollbackArguments),
    /// Let a version, or all policies, run nowhere any more
    Disable(switch::DisableArguments),
    /// Let run again what was disabled
    Enable(switch::EnableArguments),
    /// List policies with their versions
    List(list::Arguments),
    /// Show a policy: what it is, what its config may be, by what it is bound
    Show(show::Arguments),
    /// Take away a version that nothing is bound to
    Delete(show::DeleteArguments),
}

pub(crate) async fn run(command: Command, global: &Global) -> Result<(), Failure> {
    match command {
        Command::New(arguments) => new::run(arguments, global),
        Command::Build(arguments) => build::run(arguments, global).await,
        Command::Test(arguments) => test::run(arguments, global).await,
        Command::Bench(arguments) => bench::run(arguments, global).await,
        Command::Record(arguments) => replay::record(arguments, global).await,
        Command::Replay(arguments) => replay::replay(arguments, global).await,
        Command::Sign(arguments) => signing::sign(arguments, global),
        Command::Verify(arguments) => signing::verify(arguments, global),
        Command::Push(arguments) => push::run(arguments, global).await,
        Command::Bind(arguments) => bind::run(arguments, global).await,
        Command::Unbind(arguments) => bindings::unbind(arguments, global).await,
        Command::Bindings(arguments) => bindings::run(arguments, global).await,
        Command::Try(arguments) => trial::run(arguments, global).await,
        Command::Diff(arguments) => rollout::diff(arguments, global).await,
        Command::Promote(arguments) => rollout::promote(arguments, global).await,
        Command::Rollback(arguments) => rollout::rollback(arguments, global).await,
        Command::Disable(arguments) => switch::disable(arguments, global).await,
        Command::Enable(arguments) => switch::enable(arguments, global).await,
        Command::List(arguments) => list::run(arguments, global).await,
        Command::Show(arguments) => show::run(arguments, global).await,
        Command::Delete(arguments) => show::delete(arguments, global).await,
    }
}
