//! The binary as a process: started, killed, paused, stopped and started again on the same configuration and data. Etcd is
//! one too where it runs beside the binary in a namespace.

use crate::binary;
use crate::home::Home;
use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process, setrlimit};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use toml::{Table, Value};

/// Longest that a start may take on a loaded machine.
pub const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Lines of the log that a failed test shows.
const SHOWN_LINES: usize = 60;
/// What is said where somebody else has the port: by a gateway, and by the operating system.
const PORT_TAKEN: [&str; 2] = ["cannot listen on", "Address already in use"];

/// What runs.
enum Program {
    /// `meridian SUBCOMMAND --config`.
    Meridian { subcommand: &'static str, config: Table },
    /// Somebody else's program, which says these words once it serves.
    Foreign { binary: String, arguments: Vec<String>, serves: &'static str },
}

/// A program in a directory of its own.
pub struct Process {
    program: Program,
    home: Home,
    directory: TempDir,
    child: Option<Child>,
}

impl Process {
    /// `meridian SUBCOMMAND`, not yet started.
    ///
    /// # Panics
    /// Where there is no place for its directory.
    #[must_use]
    pub fn new(subcommand: &'static str, config: Table) -> Self {
        let program = Program::Meridian { subcommand, config };
        Self { program, home: Home::loopback(), directory: tempfile::tempdir().unwrap(), child: None }
    }

    /// Another program, not yet started, that logs `serves` once it can be used.
    pub(crate) fn foreign(
        binary: String,
        arguments: Vec<String>,
        serves: &'static str,
        directory: TempDir,
    ) -> Self {
        let program = Program::Foreign { binary, arguments, serves };
        Self { program, home: Home::loopback(), directory, child: None }
    }

    /// Where it runs from the next start on.
    pub fn stand_at(&mut self, home: &Home) {
        self.home = home.clone();
    }

    fn name(&self) -> &str {
        match &self.program {
            Program::Meridian { subcommand, .. } => subcommand,
            Program::Foreign { binary, .. } => binary.rsplit('/').next().unwrap_or(binary),
        }
    }

    /// Sets a key of a section for the next start.
    ///
    /// # Panics
    /// Where the section is a plain value, and of a program that has no such configuration.
    pub fn set(&mut self, section: &str, key: &str, value: impl Into<Value>) {
        let Program::Meridian { config, .. } = &mut self.program else {
            panic!("{} has no sections", self.name())
        };
        let section = config.entry(section).or_insert_with(|| Value::Table(Table::new()));
        section.as_table_mut().unwrap().insert(key.to_owned(), value.into());
    }

    /// Starts it and waits until it listens; the line of its log that says so.
    ///
    /// # Panics
    /// If it ends, or does not listen in time.
    pub async fn launch(&mut self) -> serde_json::Value {
        raise_file_limit();
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let from = self.spawn();
            loop {
                tokio::time::sleep(Duration::from_millis(10)).await;
                let said = self.log_since(from);
                if let Some(line) = self.program.serving(&said) {
                    return line;
                }
                if !self.is_running() {
                    // A connection of somebody else may have been given the port meanwhile.
                    let taken = PORT_TAKEN.iter().any(|sign| said.contains(sign));
                    assert!(taken && Instant::now() < deadline, "{} did not start:\n{said}", self.name());
                    break;
                }
                assert!(Instant::now() < deadline, "{} does not listen:\n{said}", self.name());
            }
        }
    }

    fn spawn(&mut self) -> u64 {
        assert!(self.child.is_none(), "it runs already");
        let log = File::options().create(true).append(true).open(self.log_path()).unwrap();
        let from = log.metadata().unwrap().len();
        let mut command = match &self.program {
            Program::Meridian { subcommand, config } => {
                let path = self.directory.path().join(format!("{subcommand}.toml"));
                std::fs::write(&path, config.to_string()).unwrap();
                let mut command = binary::command_at(&self.home);
                command.args([subcommand, "--config"]).arg(path);
                command
            }
            Program::Foreign { binary, arguments, .. } => {
                let mut command = self.home.command(binary);
                command.args(arguments).stdin(Stdio::null());
                command
            }
        };
        command.stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().unwrap());
        from
    }

    /// Whether it has not ended.
    ///
    /// # Panics
    /// Where that cannot be asked.
    pub fn is_running(&mut self) -> bool {
        match self.child.as_mut().map(|child| child.try_wait().unwrap()) {
            Some(None) => true,
            Some(Some(_)) => {
                self.child = None;
                false
            }
            None => false,
        }
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

    /// Loses its data, as on a new machine. The next start is a first one.
    ///
    /// # Panics
    /// While it runs.
    pub fn forget(&mut self) {
        assert!(self.child.is_none(), "it runs");
        // There are none before the first start.
        let _ = std::fs::remove_dir_all(self.directory.path().join("data"));
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
                panic!("it still runs after {within:?}");
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

    /// Memory of the process that is resident, in KiB, from `/proc`.
    ///
    /// # Panics
    /// Where there is no such place.
    #[must_use]
    pub fn resident_kib(&self) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let status =
            std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}; this test needs Linux"));
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// All that it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.log_since(0)
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join(format!("{}.log", self.name()))
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

/// The address that a line tells under this name.
///
/// # Panics
/// Where there is none.
#[must_use]
pub fn told_address(line: &serde_json::Value, name: &str) -> SocketAddr {
    let told = line[name].as_str().and_then(|text| text.parse().ok());
    told.unwrap_or_else(|| panic!("no {name} in {line}"))
}

impl Program {
    /// The line of its log that says that it can be used. Ours says where it listens.
    fn serving(&self, log: &str) -> Option<serde_json::Value> {
        match self {
            Self::Meridian { .. } => {
                let mut lines =
                    log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
                lines.find(|line| line["message"] == "listening")
            }
            Self::Foreign { serves, .. } => {
                log.lines().find(|line| line.contains(serves)).map(serde_json::Value::from)
            }
        }
    }
}

/// Watchers are a connection each, in this process and in the gateway, which inherits the limit.
fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let shown = lines.get(lines.len().saturating_sub(SHOWN_LINES)..).unwrap_or_default();
            eprintln!("the end of the log of {}:\n{}", self.name(), shown.join("\n"));
        }
    }
}
