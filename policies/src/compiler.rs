//! Compiling and trying a module: in a process of its own, whose processor time and memory the system bounds, or here.
//!
//! Compiling some modules takes minutes and gigabytes, and no engine calls that a fault. The process is killed beyond its
//! limits; it gets no environment, no file and no network of the gateway's, only the module, and what it says is bounded too.

use crate::artefact::Artefact;
use crate::fault::shorten;
use crate::frame::{self, Kind};
use crate::gate::Rejected;
use crate::inspection::{self, Listener};
use crate::limits::{self, MAX_ARTEFACT_BYTES, TRIAL_CPU, WALL_FACTOR};
use crate::stats::Counters;
use crate::trial::Findings;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};
use wasmtime::Engine;

/// What the process may say on its standard error before it is no longer listened to.
const MAX_COMPLAINT_BYTES: u64 = 4 * 1024;

/// Where modules are compiled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Compiler {
    /// In this process, on the calling thread: for tests and benchmarks, with modules that are theirs.
    #[default]
    Here,
    /// In a process of its own for each module.
    Program {
        /// The program.
        program: PathBuf,
        /// Its arguments; [`crate::policy_compiler`] is what must run.
        arguments: Vec<OsString>,
    },
}

impl Compiler {
    /// This very program with an argument of its own.
    ///
    /// # Errors
    /// The system does not tell where it is.
    pub fn this_program(argument: &str) -> io::Result<Self> {
        // On Linux this name leads to the running program even after an upgrade has put another in its place; code of
        // another version's engine would be refused.
        let own = PathBuf::from("/proc/self/exe");
        let program = if own.exists() { own } else { std::env::current_exe()? };
        Ok(Self::Program { program, arguments: vec![argument.into()] })
    }
}

/// What compiling gave.
pub(crate) struct Made {
    pub(crate) artefact: Artefact,
    pub(crate) took: Duration,
    /// Of the trial, where there was one.
    pub(crate) findings: Findings,
}

/// A refusal as it crosses between the processes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Refusal {
    pub(crate) code: SmolStr,
    pub(crate) detail: SmolStr,
    pub(crate) check: Option<SmolStr>,
    pub(crate) input: Option<SmolStr>,
}

/// What is tried, as it crosses.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StepWords {
    pub(crate) check: SmolStr,
    pub(crate) input: SmolStr,
}

/// Compiles the module, and tries it if that is asked for.
pub(crate) fn make(
    compiler: &Compiler,
    engine: &Engine,
    counters: &Counters,
    module: &[u8],
    with_trial: bool,
) -> Result<Made, Rejected> {
    match compiler {
        Compiler::Here => here(engine, module, with_trial),
        Compiler::Program { program, arguments } => {
            let mut command = Command::new(program);
            command.args(arguments).arg("--module-bytes").arg(module.len().to_string());
            if with_trial {
                command.arg("--trial");
            }
            elsewhere(command, counters, module)
        }
    }
}

struct Keep {
    begun: Instant,
    made: Option<(Artefact, Duration)>,
}

impl Listener for Keep {
    fn artefact(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.made = Some((Artefact::from_compiler(bytes.to_vec()), self.begun.elapsed()));
        Ok(())
    }

    fn step(&mut self, _: &'static str, _: &str) {}
}

fn here(engine: &Engine, module: &[u8], with_trial: bool) -> Result<Made, Rejected> {
    let mut keep = Keep { begun: Instant::now(), made: None };
    let findings = inspection::inspect(engine, module, with_trial, &mut keep)?;
    let (artefact, took) =
        keep.made.ok_or_else(|| Rejected::new("does-not-compile", "the compiler gave nothing"))?;
    Ok(Made { artefact, took, findings })
}

/// A child that does not outlive its owner.
struct Owned(Child);

impl Owned {
    /// Waits for the end of one that has nothing more to say.
    fn ended(&mut self, deadline: Instant) -> io::Result<ExitStatus> {
        while Instant::now() < deadline {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(1));
        }
        self.end()
    }

    /// Ends it, if it has not ended, and takes its status away.
    fn end(&mut self) -> io::Result<ExitStatus> {
        let _ = self.0.kill();
        self.0.wait()
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

fn unavailable(error: &io::Error) -> Rejected {
    Rejected::new("gate-unavailable", format!("the compiling process cannot be run: {error}"))
}

/// What has been heard of a process so far.
#[derive(Default)]
struct Heard {
    artefact: Option<(Artefact, Duration)>,
    step: Option<StepWords>,
    findings: Option<Findings>,
    refusal: Option<Refusal>,
    /// It said what it may not say.
    nonsense: bool,
    timed_out: bool,
}

fn elsewhere(mut command: Command, counters: &Counters, module: &[u8]) -> Result<Made, Rejected> {
    let begun = Instant::now();
    let cpu = limits::compile_cpu(module.len());
    command.env_clear().current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = Owned(command.spawn().map_err(|error| unavailable(&error))?);
    let pipes = (child.0.stdin.take(), child.0.stdout.take(), child.0.stderr.take());
    let (Some(mut stdin), Some(mut stdout), Some(stderr)) = pipes else {
        return Err(unavailable(&io::Error::other("it has no pipes")));
    };
    let deadline = begun + (cpu + TRIAL_CPU) * WALL_FACTOR;
    let (heard, status, complaint) = thread::scope(|scope| {
        // Dropped at the end, which is how the process knows that it has the whole. If it dies before, so be it.
        scope.spawn(move || stdin.write_all(module));
        let complaint = scope.spawn(move || {
            let mut said = Vec::new();
            let _ = stderr.take(MAX_COMPLAINT_BYTES).read_to_end(&mut said);
            String::from_utf8_lossy(&said).into_owned()
        });
        let (frames, received) = mpsc::sync_channel(4);
        scope.spawn(move || pass_on(&mut stdout, &frames));
        let heard = listen(&received, begun, deadline);
        // Whoever still wants to send ends with the process, or with this.
        drop(received);
        let ends_by_itself = !heard.timed_out && !heard.nonsense;
        let status = if ends_by_itself { child.ended(deadline) } else { child.end() };
        (heard, status, complaint.join().unwrap_or_default())
    });
    let status = status.map_err(|error| unavailable(&error))?;
    let at_a_limit = heard.timed_out || heard.nonsense || lacked_memory(&complaint);
    if at_a_limit || status.signal() == Some(SIGXCPU) {
        counters.compilers_killed.fetch_add(1, Ordering::Relaxed);
    }
    judge(heard, status, &complaint, module.len())
}

fn pass_on(stdout: &mut impl Read, frames: &SyncSender<Option<(Kind, Vec<u8>)>>) {
    loop {
        match frame::read(stdout, MAX_ARTEFACT_BYTES) {
            Ok(Some(frame)) => {
                if frames.send(Some(frame)).is_err() {
                    return;
                }
            }
            Ok(None) => return,
            Err(error) => {
                // Cut off in the middle of a frame is how a killed process ends; anything else is nonsense.
                if error.kind() != io::ErrorKind::UnexpectedEof {
                    let _ = frames.send(None);
                }
                return;
            }
        }
    }
}

fn listen(frames: &Receiver<Option<(Kind, Vec<u8>)>>, begun: Instant, deadline: Instant) -> Heard {
    let mut heard = Heard::default();
    loop {
        let frame = match frames.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(frame) => frame,
            Err(RecvTimeoutError::Disconnected) => return heard,
            Err(RecvTimeoutError::Timeout) => {
                heard.timed_out = true;
                return heard;
            }
        };
        let ended = heard.findings.is_some() || heard.refusal.is_some();
        let understood = match frame {
            Some(_) if ended => false,
            // Only the first, and only before the module has run: from then on the process may be the module's.
            Some((Kind::Artefact, bytes)) => {
                let first = heard.artefact.is_none() && heard.step.is_none();
                if first {
                    heard.artefact = Some((Artefact::from_compiler(bytes), begun.elapsed()));
                }
                first
            }
            Some((Kind::Step, words)) => parsed(&words, &mut heard.step),
            Some((Kind::Findings, words)) => parsed(&words, &mut heard.findings),
            Some((Kind::Refusal, words)) => parsed(&words, &mut heard.refusal),
            None => false,
        };
        if !understood {
            heard.nonsense = true;
            return heard;
        }
    }
}

fn parsed<T: for<'de> Deserialize<'de>>(words: &[u8], place: &mut Option<T>) -> bool {
    *place = serde_json::from_slice(words).ok();
    place.is_some()
}

const SIGABRT: i32 = 6;
const SIGKILL: i32 = 9;
/// On Linux and on macOS.
const SIGXCPU: i32 = 24;

fn judge(heard: Heard, status: ExitStatus, complaint: &str, module_bytes: usize) -> Result<Made, Rejected> {
    if let (Some(refusal), false) = (&heard.refusal, heard.nonsense) {
        return Err(Rejected::received(refusal));
    }
    if let (Some((artefact, took)), Some(findings), true, false) =
        (heard.artefact, heard.findings, status.success(), heard.nonsense)
    {
        return Ok(Made { artefact, took, findings });
    }
    let cpu = limits::compile_cpu(module_bytes).as_secs();
    let memory = limits::compile_memory(module_bytes) >> 20;
    let no_memory = lacked_memory(complaint);
    let why = match status.signal() {
        _ if heard.timed_out => "it did not end in time".to_owned(),
        _ if heard.nonsense => "the process said what none may say".to_owned(),
        // Its limits speak by other signals, and nobody here ended it.
        Some(SIGKILL) => return Err(killed_from_outside(memory)),
        Some(SIGXCPU) if heard.step.is_none() => {
            let detail = format!(
                "compiling took more than {cpu} s of processor time, the limit for {module_bytes} bytes"
            );
            return Err(Rejected::new("compile-limit", detail));
        }
        Some(SIGXCPU) => {
            format!("it took more than {} s of processor time", TRIAL_CPU.as_secs())
        }
        _ if no_memory && heard.step.is_none() => {
            let detail = format!(
                "compiling took more than {memory} MiB of memory, the limit for {module_bytes} bytes"
            );
            return Err(Rejected::new("compile-limit", detail));
        }
        _ if no_memory => format!("it took more than {memory} MiB of memory"),
        Some(SIGABRT) | None => format!("the process failed: {}", last_line(complaint)),
        Some(signal) => format!("the process died of signal {signal}"),
    };
    match &heard.step {
        // The trial had begun: the module's code was running.
        Some(step) => Err(Rejected::at(step, &why)),
        None if heard.timed_out => Err(Rejected::new("compile-limit", why)),
        None => Err(Rejected::new("does-not-compile", format!("the compiler gave up: {why}"))),
    }
}

/// It says nothing of the module: the memory that a module may take is bounded by other means.
fn killed_from_outside(memory: u64) -> Rejected {
    let detail = format!(
        "the compiling process was killed, most likely by a system that is short of memory: it may need {memory} MiB; make room \
         and try again"
    );
    Rejected::new("gate-unavailable", detail)
}

/// What the standard library says before it aborts, or the engine where a mapping was refused.
fn lacked_memory(complaint: &str) -> bool {
    complaint.contains("memory allocation of") || complaint.contains("Cannot allocate memory")
}

fn last_line(complaint: &str) -> SmolStr {
    shorten(complaint.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing"))
}
