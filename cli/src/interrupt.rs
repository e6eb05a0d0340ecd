//! Ctrl-C and SIGTERM: the first asks for an orderly end, the second forces it.

use crate::failure::Failure;
use crate::output;
use anyhow::Context;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The exit code of a process that SIGINT ended, as shells report it.
const INTERRUPTED: i32 = 130;
/// Signals that come together are one wish: supervisors signal a process and then its group.
const TOGETHER: Duration = Duration::from_millis(250);

/// The two signals.
pub(crate) struct Interrupt {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupt {
    /// From here on the signals no longer end the process by themselves.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let of = |kind| signal(kind).context("signals cannot be received");
        Ok(Self { interrupt: of(SignalKind::interrupt())?, terminate: of(SignalKind::terminate())? })
    }

    /// Waits for the next of either.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// Ends the process as soon as another signal comes, whatever else still goes on.
    pub(crate) fn force_at_next(mut self) {
        tokio::spawn(async move {
            let begun = tokio::time::Instant::now();
            while begun.elapsed() < TOGETHER {
                self.next().await;
            }
            output::remark("forced to stop");
            std::process::exit(INTERRUPTED);
        });
    }
}
