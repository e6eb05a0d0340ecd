//! A real etcd for tests: a child process on free loopback ports, its data in a temporary directory, gone when dropped;
//! and a link to it that can be cut.

// Only tests are built with this; a failure here is a failed test, whose message is all that is wanted.
#![allow(clippy::panic, clippy::unwrap_used, clippy::expect_used)]

mod link;
mod raw;

pub use link::Link;
pub use raw::RawPuts;

use crate::etcd::EtcdConfig;
use etcd_client::{Client, CompactionOptions};
use meridian_model::names::RegionName;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, ErrorKind};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longest that a start may take on a loaded machine.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// What etcd says where somebody else has the port.
const PORT_TAKEN: &str = "address already in use";

/// An etcd of one member.
pub struct RealEtcd {
    dir: TempDir,
    client_port: u16,
    peer_port: u16,
    child: Option<Child>,
    arguments: Vec<String>,
}

impl RealEtcd {
    /// Starts one and waits until it serves. `MERIDIAN_ETCD` names another binary than `etcd`.
    ///
    /// # Panics
    /// Where there is no etcd to start: install etcd-server.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts one with more arguments.
    ///
    /// # Panics
    /// As [`RealEtcd::start`].
    #[must_use]
    pub fn start_with(arguments: &[&str]) -> Self {
        let arguments: Vec<_> = arguments.iter().map(|a| (*a).to_owned()).collect();
        // In memory where there is such a place: tests are about order and loss of processes, not of power.
        let place = Path::new("/dev/shm");
        for _ in 0..10 {
            let dir = if place.is_dir() { tempfile::tempdir_in(place) } else { tempfile::tempdir() };
            // etcd takes no port 0 that it would tell of, so somebody else may take these between here and there.
            let (client_port, peer_port) = free_ports();
            let mut etcd =
                Self { dir: dir.unwrap(), client_port, peer_port, child: None, arguments: arguments.clone() };
            match etcd.launch() {
                Ok(()) => return etcd,
                Err(log) if log.contains(PORT_TAKEN) => {}
                Err(log) => panic!("etcd did not start:\n{log}"),
            }
        }
        panic!("no free ports for etcd");
    }

    /// Where it listens.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        vec![self.endpoint()]
    }

    fn endpoint(&self) -> String {
        let scheme =
            if self.arguments.iter().any(|a| a.starts_with("--cert-file")) { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.client_port)
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.client_port
    }

    /// How a gateway of `region` would reach it.
    ///
    /// # Panics
    /// If `region` is no name.
    #[must_use]
    pub fn config(&self, region: &str) -> EtcdConfig {
        let region: RegionName = region.parse().unwrap();
        EtcdConfig::new(self.endpoints(), region)
    }

    /// A directory that lives as long as this.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.dir.path()
    }

    /// The process, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Kills it (SIGKILL). Its data stays.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again on the same data and ports.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start_again(&mut self) {
        self.stop();
        let deadline = Instant::now() + START_TIMEOUT;
        // A connection of somebody else may have been given the port meanwhile.
        while let Err(log) = self.launch() {
            let again = log.contains(PORT_TAKEN) && Instant::now() < deadline;
            assert!(again, "etcd did not start again:\n{log}");
        }
    }

    /// Stops its process where it stands (SIGSTOP); connections stay open.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on (SIGCONT).
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("etcd does not run");
        let pid = Pid::from_child(child);
        kill_process(pid, signal).unwrap();
    }

    /// Kills it and starts it without data.
    ///
    /// # Panics
    /// If it does not start.
    pub fn wipe(&mut self) {
        self.stop();
        std::fs::remove_dir_all(self.data()).unwrap();
        self.start_again();
    }

    /// Saves a snapshot, as an operator does.
    ///
    /// # Panics
    /// If etcdctl fails or is missing.
    pub fn snapshot(&self) {
        let _ = std::fs::remove_file(self.saved());
        self.etcdctl(&["snapshot", "save", &self.saved().display().to_string()]);
    }

    /// Kills it, puts the snapshot in place of its data and starts it.
    ///
    /// # Panics
    /// If etcdctl fails or etcd does not start.
    pub fn restore(&mut self) {
        self.stop();
        std::fs::remove_dir_all(self.data()).unwrap();
        let (saved, data) = (self.saved().display().to_string(), self.data().display().to_string());
        let peer = self.peer();
        let cluster = format!("test={peer}");
        let place = ["--name", "test", "--initial-cluster", &cluster, "--initial-advertise-peer-urls", &peer];
        self.etcdctl(&[&["snapshot", "restore", &saved, "--data-dir", &data][..], &place].concat());
        self.start_again();
    }

    /// Throws away every revision but the present one, which it returns.
    ///
    /// # Panics
    /// If etcd does not answer.
    pub async fn compact(&self) -> i64 {
        let mut client = Client::connect(self.endpoints(), None).await.unwrap();
        let revision = client.get("x", None).await.unwrap().header().unwrap().revision();
        client.compact(revision, Some(CompactionOptions::new().with_physical())).await.unwrap();
        revision
    }

    /// Runs etcdctl against it.
    ///
    /// # Panics
    /// If it fails or is missing.
    pub fn etcdctl(&self, arguments: &[&str]) {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").arg("--endpoints").arg(self.endpoint()).args(arguments);
        match command.output() {
            Ok(output) if output.status.success() => {}
            Ok(output) => panic!("etcdctl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)),
            Err(e) => panic!("cannot run etcdctl ({e}): install etcd-client (apt-get install etcd-client)"),
        }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn saved(&self) -> PathBuf {
        self.dir.path().join("snapshot")
    }

    fn peer(&self) -> String {
        format!("http://127.0.0.1:{}", self.peer_port)
    }

    /// Starts the process and waits until it serves, or returns what it said before it ended.
    fn launch(&mut self) -> Result<(), String> {
        let binary = std::env::var("MERIDIAN_ETCD").unwrap_or_else(|_| "etcd".into());
        let (client, peer) = (self.endpoint(), self.peer());
        let mut command = Command::new(&binary);
        command
            .args(["--name", "test", "--data-dir"])
            .arg(self.data())
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("test={peer}")])
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(e) if e.kind() == ErrorKind::NotFound => {
                panic!("cannot run {binary}: install etcd-server (apt-get install etcd-server)")
            }
            Err(e) => panic!("cannot run {binary}: {e}"),
        };
        let log = child.stderr.take().unwrap();
        self.child = Some(child);
        let (said, saying) = channel();
        // Reads on to the end, so that etcd never blocks on its log.
        std::thread::spawn(move || {
            for line in BufReader::new(log).lines().map_while(Result::ok) {
                let _ = said.send(line);
            }
        });
        let deadline = Instant::now() + START_TIMEOUT;
        let mut lines = Vec::new();
        loop {
            match saying.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains("ready to serve client requests") => return Ok(()),
                Ok(line) => lines.push(line),
                Err(RecvTimeoutError::Disconnected | RecvTimeoutError::Timeout) => {
                    self.stop();
                    return Err(lines.join("\n"));
                }
            }
        }
    }
}

impl Drop for RealEtcd {
    fn drop(&mut self) {
        self.stop();
    }
}

fn free_ports() -> (u16, u16) {
    let one = TcpListener::bind("127.0.0.1:0").unwrap();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    (one.local_addr().unwrap().port(), other.local_addr().unwrap().port())
}
