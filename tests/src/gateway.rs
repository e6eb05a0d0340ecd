//! A gateway as a process: started, killed, paused, stopped and started again on the same data and address.

use crate::binary;
use crate::client::Client;
use crate::patience;
use crate::tokens::Issuer;
use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process, setrlimit};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use toml::{Table, Value};

/// The region of every test's gateway.
pub const REGION: &str = "test-1";
/// Its zones.
pub const ZONES: [&str; 2] = ["test-1a", "test-1b"];

/// Longest that a start may take on a loaded machine.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Lines of the log that a failed test shows.
const SHOWN_LINES: usize = 60;

/// One gateway with its directory.
pub struct GatewayProcess {
    directory: TempDir,
    config: Table,
    address: Option<SocketAddr>,
    child: Option<Child>,
}

/// `[registry]` of the embedded kind.
#[must_use]
pub fn embedded() -> Table {
    Table::from_iter([("kind".to_owned(), Value::from("embedded"))])
}

/// `[registry]` of an etcd.
#[must_use]
pub fn etcd(endpoints: &[String]) -> Table {
    let endpoints = Value::Array(endpoints.iter().map(|url| Value::from(url.as_str())).collect());
    Table::from_iter([("kind".to_owned(), Value::from("etcd")), ("endpoints".to_owned(), endpoints)])
}

fn identity(issuer: &Issuer) -> Table {
    let rule = |role: &str| {
        format!(
            "[[rules]]\nissuer = \"https://dev.meridian\"\nclaims = {{ groups = \"{role}\" }}\nrole = \"{role}\"\n"
        )
    };
    let text = format!(
        "[[issuers]]\nissuer = \"https://dev.meridian\"\naudience = \"meridian\"\nalgorithms = [\"ES256\"]\njwks_file = {}\n{}{}\
         [[rules]]\nissuer = \"https://dev.meridian\"\nsubject = \"spiffe://dev.meridian/ns/{{namespace}}/sa/{{service}}\"\nrole = \"workload\"\n",
        Value::from(issuer.jwks().display().to_string()),
        rule("operator"),
        rule("reader"),
    );
    toml::from_str(&text).unwrap()
}

impl GatewayProcess {
    /// A gateway that is not yet started, with two workers and everything else by default.
    ///
    /// # Panics
    /// Where there is no place for its directory.
    #[must_use]
    pub fn new(issuer: &Issuer, registry: Table) -> Self {
        let http = Table::from_iter([
            ("listen".to_owned(), Value::from("127.0.0.1:0")),
            ("workers".to_owned(), Value::from(2)),
        ]);
        let zones = Value::Array(ZONES.iter().map(|zone| Value::from(*zone)).collect());
        let config = Table::from_iter([
            ("region".to_owned(), Value::from(REGION)),
            ("zones".to_owned(), zones),
            ("data_dir".to_owned(), Value::from("data")),
            ("registry".to_owned(), Value::Table(registry)),
            ("http".to_owned(), Value::Table(http)),
            ("identity".to_owned(), Value::Table(identity(issuer))),
        ]);
        Self { directory: tempfile::tempdir().unwrap(), config, address: None, child: None }
    }

    /// Sets a key of a section for the next start.
    #[must_use]
    pub fn with(mut self, section: &str, key: &str, value: impl Into<Value>) -> Self {
        self.set(section, key, value);
        self
    }

    fn set(&mut self, section: &str, key: &str, value: impl Into<Value>) {
        let section = self.config.entry(section).or_insert_with(|| Value::Table(Table::new()));
        section.as_table_mut().unwrap().insert(key.to_owned(), value.into());
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Panics
    /// If it does not get ready.
    pub async fn started(mut self) -> Self {
        self.start().await;
        self
    }

    /// As [`GatewayProcess::started`]; the address stays what it was.
    ///
    /// # Panics
    /// If it does not get ready.
    pub async fn start(&mut self) {
        self.launch().await;
        let client = self.client();
        patience::until("the gateway gets ready", START_TIMEOUT, async || {
            assert!(self.is_running(), "the gateway ended before it was ready");
            matches!(client.try_get("/readyz").await, Ok(answer) if answer.status == 200)
        })
        .await;
    }

    /// Starts it and waits until it listens.
    ///
    /// # Panics
    /// If it ends, or does not listen in time.
    pub async fn launch(&mut self) {
        raise_file_limit();
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let from = self.spawn();
            loop {
                tokio::time::sleep(Duration::from_millis(10)).await;
                let said = self.log_since(from);
                if let Some(address) = listening(&said) {
                    self.address = Some(address);
                    // The next start has to find the clients that this one had.
                    self.set("http", "listen", address.to_string());
                    return;
                }
                if !self.is_running() {
                    // A connection of somebody else may have been given the port meanwhile.
                    let taken = said.contains("cannot listen on") && Instant::now() < deadline;
                    assert!(taken, "the gateway did not start:\n{said}");
                    break;
                }
                assert!(Instant::now() < deadline, "the gateway does not listen:\n{said}");
            }
        }
    }

    fn spawn(&mut self) -> u64 {
        assert!(self.child.is_none(), "it runs already");
        let path = self.directory.path().join("gateway.toml");
        std::fs::write(&path, self.config.to_string()).unwrap();
        let log = File::options().create(true).append(true).open(self.log_path()).unwrap();
        let from = log.metadata().unwrap().len();
        let mut command = binary::command();
        command.args(["gateway", "--config"]).arg(path).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().unwrap());
        from
    }

    fn is_running(&mut self) -> bool {
        match self.child.as_mut().map(|child| child.try_wait().unwrap()) {
            Some(None) => true,
            Some(Some(_)) => {
                self.child = None;
                false
            }
            None => false,
        }
    }

    /// Where it listens.
    ///
    /// # Panics
    /// Before the first start.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address.expect("it was never started")
    }

    /// A client of it without a token.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(self.address())
    }

    /// Its directory, with the configuration and the data.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The process, while it runs.
    ///
    /// # Panics
    /// Where it does not run.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it does not run").id()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
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

    /// Asks it to stop (SIGTERM).
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it does not run");
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    /// Waits until it has ended by itself.
    ///
    /// # Panics
    /// When `within` has passed.
    pub async fn ended(&mut self, within: Duration) -> (ExitStatus, Duration) {
        let mut child = self.child.take().expect("it does not run");
        let start = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return (status, start.elapsed());
            }
            if start.elapsed() > within {
                self.child = Some(child);
                panic!("the gateway still runs after {within:?}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// CPU time that the process has used so far, from `/proc`.
    ///
    /// # Panics
    /// Where there is no such place.
    #[must_use]
    pub fn cpu_time(&self) -> Duration {
        let path = format!("/proc/{}/stat", self.pid());
        let stat =
            std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}; this test needs Linux"));
        // After the name, which may hold anything and ends with the last parenthesis: utime and stime are the 12th and
        // 13th field, in ticks of 10 ms (USER_HZ is 100 on every architecture that Linux still has).
        let (_, fields) = stat.rsplit_once(')').unwrap();
        let ticks: u64 =
            fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 10)
    }

    /// All that it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.log_since(0)
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("gateway.log")
    }

    fn log_since(&self, from: u64) -> String {
        let mut bytes = Vec::new();
        if let Ok(mut file) = File::open(self.log_path()) {
            let _ = file.seek(SeekFrom::Start(from));
            let _ = file.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// The address in the line that says so.
fn listening(log: &str) -> Option<SocketAddr> {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let line = lines.into_iter().find(|line| line["message"] == "listening")?;
    line["address"].as_str()?.parse().ok()
}

/// Watchers are a connection each, in this process and in the gateway, which inherits the limit.
fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}

impl Drop for GatewayProcess {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let shown = lines.get(lines.len().saturating_sub(SHOWN_LINES)..).unwrap_or_default();
            eprintln!("the end of the log of the gateway at {:?}:\n{}", self.address, shown.join("\n"));
        }
    }
}
