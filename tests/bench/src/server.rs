//! A server as a process of its own, which tells its address in its log: a gateway, or the bare handler.

use crate::exposition::{Exposition, get};
use crate::load::{Connections, request};
use crate::process::{self, Memory, Process};
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{ChildStderr, Command};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

/// Longest that a server may take to listen, or to be ready after that.
const START_WITHIN: Duration = Duration::from_secs(60);
/// Between two questions whether it is ready: the error of times of start.
const ASK_EVERY: Duration = Duration::from_millis(2);
/// Lines of the log that an error shows.
const LAST_LINES: usize = 10;

/// A running server; it ends with its owner.
pub(crate) struct Server {
    process: Process,
    log: Receiver<String>,
    pub(crate) address: SocketAddr,
    started: Instant,
    /// From the start of the process until it was found ready; zero before.
    pub(crate) ready_after: Duration,
}

impl Server {
    /// Starts it, on one core if one is named, and returns once it listens.
    pub(crate) fn start(command: Command, core: Option<usize>) -> Result<Self> {
        let started = Instant::now();
        let mut process = Process::start(command, core)?;
        let log = follow(process.child().stderr.take().context("a piped log is there")?);
        let mut last = Vec::new();
        while let Ok(line) = log.recv_timeout(START_WITHIN.saturating_sub(started.elapsed())) {
            if let Some(address) = told_address(&line) {
                return Ok(Self { process, log, address, started, ready_after: Duration::ZERO });
            }
            last.push(line);
        }
        bail!("it does not listen; its log ends with\n{}", tail(&last))
    }

    /// Waits until a gateway serves a complete snapshot.
    pub(crate) fn wait_until_ready(&mut self) -> Result<()> {
        loop {
            let answer = get(self.address, "/readyz");
            match answer {
                Ok((200, _)) => break,
                other if self.started.elapsed() > START_WITHIN => {
                    bail!("it is not ready: {other:?}; its log ends with\n{}", self.last_lines())
                }
                _ => std::thread::sleep(ASK_EVERY),
            }
        }
        self.ready_after = self.started.elapsed();
        Ok(())
    }

    /// Since its process was started.
    pub(crate) fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// CPU seconds so far.
    pub(crate) fn cpu(&self) -> Result<f64> {
        process::cpu(self.process.pid())
    }

    pub(crate) fn memory(&self) -> Result<Memory> {
        process::memory(self.process.pid())
    }

    pub(crate) fn metrics(&self) -> Result<Exposition> {
        Exposition::read(self.address)
    }

    pub(crate) fn connect(&self, count: usize) -> Result<Connections> {
        Connections::open(self.address, count)
    }

    /// GETs until `good` accepts the body of a 200; returns that body.
    pub(crate) fn get_until(&self, path: &str, good: impl Fn(&str) -> bool) -> Result<String> {
        let mut connection = self.connect(1)?;
        let request = request("GET", path, &[], "");
        let deadline = Instant::now() + START_WITHIN;
        loop {
            let (status, body) = connection.ask(&request)?;
            let body = String::from_utf8(body).context("an answer is text")?;
            if status == 200 && good(&body) {
                return Ok(body);
            }
            if Instant::now() > deadline {
                bail!("{path} still answers {status}: {body}");
            }
            std::thread::sleep(ASK_EVERY);
        }
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    fn last_lines(&self) -> String {
        let mut lines = Vec::new();
        while let Ok(line) = self.log.try_recv() {
            lines.push(line);
        }
        tail(&lines)
    }

    /// Fails if it has ended on its own.
    pub(crate) fn check(&self) -> Result<()> {
        // The log's end is the process's.
        loop {
            match self.log.try_recv() {
                Ok(_) => {}
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => bail!("a server ended while it was measured"),
            }
        }
    }
}

/// Reads a log to its end, so that its writer never waits. Lines are few: a gateway tells of its start and of faults.
fn follow(log: ChildStderr) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(log).lines().map_while(Result::ok) {
            // A receiver that is gone wants no more lines, but the log is still to be drained.
            let _ = sender.send(line);
        }
    });
    lines
}

/// The address in `{"message":"listening",…,"address":"127.0.0.1:8500"}`.
fn told_address(line: &str) -> Option<SocketAddr> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    line.get("address")?.as_str()?.parse().ok()
}

fn tail(lines: &[String]) -> String {
    lines.get(lines.len().saturating_sub(LAST_LINES)..).unwrap_or_default().join("\n")
}
