//! The compiling process: `meridian policy-compiler`. It bounds itself before it reads a byte, compiles one module from
//! its standard input, and says what came of it on its standard output.

use crate::compiler::{Refusal, StepWords};
use crate::frame::{self, Kind};
use crate::inspection::{self, Listener};
use crate::limits::{self, MAX_MEMORY_BYTES, MAX_MODULE_BYTES, TRIAL_CPU, Threads};
use crate::processor;
use rustix::process::{Resource, Rlimit, setrlimit};
use smol_str::SmolStr;
use std::io::{self, Read, StdoutLock};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

/// Time beyond the trial's own bound until the system ends the process: the trial says better what took so long.
const GRACE: Duration = Duration::from_secs(2);
/// Between the soft limit of processor time, whose signal is its own, and the hard one, which kills as anybody may.
const TOLD_APART: Duration = Duration::from_secs(1);
/// Standard streams, and images of memories that instances of the trial make.
const MAX_FILES: u64 = 32;

/// Compiles a module of `module_bytes` bytes from standard input, tries it if `with_trial`, and answers in frames on
/// standard output. The process must do nothing else, before or after: its limits stay.
///
/// # Errors
/// The process cannot be bounded, or nobody listens.
pub fn policy_compiler(module_bytes: usize, with_trial: bool) -> io::Result<ExitCode> {
    let module_bytes = module_bytes.min(MAX_MODULE_BYTES);
    enter(module_bytes)?;
    // Before any thread is started: they inherit it.
    processor::stand_back(limits::BESIDE_NICENESS);
    let mut module = Vec::with_capacity(module_bytes);
    io::stdin().lock().take(module_bytes as u64).read_to_end(&mut module)?;
    let mut told = Told { out: io::stdout().lock(), module_bytes };
    let engine = limits::engine(Threads::One).map_err(|error| io::Error::other(format!("{error:#}")))?;
    let ticking = engine.clone();
    thread::Builder::new().name("epochs".into()).stack_size(64 * 1024).spawn(move || {
        loop {
            thread::sleep(limits::EPOCH_TICK);
            ticking.increment_epoch();
        }
    })?;
    match inspection::inspect(&engine, &module, with_trial, &mut told) {
        Ok(findings) => frame::write(&mut told.out, Kind::Findings, &serde_json::to_vec(&findings)?)?,
        Err(rejected) => {
            let refusal = Refusal {
                code: rejected.code.into(),
                detail: rejected.detail,
                check: rejected.check,
                input: rejected.input,
            };
            frame::write(&mut told.out, Kind::Refusal, &serde_json::to_vec(&refusal)?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The limits while it compiles; what the trial needs more of is let through by [`leave_compiling`].
fn enter(module_bytes: usize) -> io::Result<()> {
    // A machine that is short of memory is to end this process, not a gateway. Where the system does not let it be said, it
    // chooses by size, as for any other.
    #[cfg(target_os = "linux")]
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    let cpu = limits::compile_cpu(module_bytes);
    let memory = limits::compile_memory(module_bytes);
    bound(Resource::Cpu, cpu.as_secs(), (whole_cpu(module_bytes) + TOLD_APART).as_secs())?;
    bound(Resource::Data, memory, memory)?;
    bound(Resource::Core, 0, 0)?;
    // A memory's image is a file without a name; while compiling there is none.
    bound(Resource::Fsize, 0, MAX_MEMORY_BYTES as u64)?;
    bound(Resource::Nofile, MAX_FILES, MAX_FILES)?;
    // A gateway that dies takes it along; its processor time would end it too, but later.
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    Ok(())
}

fn leave_compiling(module_bytes: usize) -> io::Result<()> {
    let all = whole_cpu(module_bytes);
    bound(Resource::Cpu, all.as_secs(), (all + TOLD_APART).as_secs())?;
    bound(Resource::Fsize, MAX_MEMORY_BYTES as u64, MAX_MEMORY_BYTES as u64)
}

fn whole_cpu(module_bytes: usize) -> Duration {
    limits::compile_cpu(module_bytes) + TRIAL_CPU + GRACE
}

fn bound(resource: Resource, soft: u64, hard: u64) -> io::Result<()> {
    Ok(setrlimit(resource, Rlimit { current: Some(soft), maximum: Some(hard) })?)
}

struct Told {
    out: StdoutLock<'static>,
    module_bytes: usize,
}

impl Listener for Told {
    fn artefact(&mut self, bytes: &[u8]) -> io::Result<()> {
        frame::write(&mut self.out, Kind::Artefact, bytes)?;
        leave_compiling(self.module_bytes)
    }

    fn step(&mut self, check: &'static str, input: &str) {
        let words = StepWords { check: SmolStr::new_static(check), input: crate::fault::shorten(input) };
        let words = serde_json::to_vec(&words).unwrap_or_default();
        // If nobody listens any more, the end of the work shows it.
        let _ = frame::write(&mut self.out, Kind::Step, &words);
    }
}
