//! What a module must pass before it may be bound, and how one that passed becomes runnable again.

use crate::artefact::{Artefact, Artefacts};
use crate::carried::Carried;
use crate::compiler::{self, Compiler, Refusal, StepWords};
use crate::fault::{Fault, shorten};
use crate::library::{Compiled, Library, LibraryFull};
use crate::limits::{MAX_MODULE_BYTES, MAX_WAITING_UPLOADS};
use crate::standard::standard_of;
use crate::stats::Counters;
use crate::trial::{Check, Cost, Findings};
use meridian_model::names::PolicyVersion;
use meridian_model::policy::sections::BadSections;
use serde::Serialize;
use smol_str::SmolStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use wasmtime::Engine;

/// Every code of a refusal, for counters.
pub(crate) const CODES: [&str; 11] = [
    "module-too-large",
    "not-a-component",
    "bad-section",
    "does-not-compile",
    "compile-limit",
    "has-imports",
    "wrong-world",
    "trial-failed",
    "library-full",
    "gate-busy",
    "gate-unavailable",
];

/// Why a module may not be bound.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct Rejected {
    /// `module-too-large`, `not-a-component`, `bad-section`, `does-not-compile`, `compile-limit`, `has-imports`,
    /// `wrong-world`, `trial-failed` or `library-full`; `gate-busy` and `gate-unavailable` say nothing about the module.
    pub code: &'static str,
    /// What exactly, and what would be right.
    pub detail: SmolStr,
    /// The check of the trial that failed.
    pub check: Option<SmolStr>,
    /// What it was tried on.
    pub input: Option<SmolStr>,
}

impl Rejected {
    pub(crate) fn new(code: &'static str, detail: impl AsRef<str>) -> Self {
        Self { code, detail: shorten(detail.as_ref()), check: None, input: None }
    }

    pub(crate) fn full(full: &LibraryFull) -> Self {
        Self::new("library-full", full.to_string())
    }

    pub(crate) fn sections(bad: &BadSections) -> Self {
        let code = match bad {
            BadSections::Malformed { .. } => "does-not-compile",
            BadSections::Section { .. } => "bad-section",
        };
        Self::new(code, bad.to_string())
    }

    pub(crate) fn trial(check: &str, input: &str, fault: &Fault) -> Self {
        Self::at(&StepWords { check: check.into(), input: shorten(input) }, &fault.to_string())
    }

    pub(crate) fn at(step: &StepWords, why: &str) -> Self {
        let StepWords { check, input } = step;
        let detail = shorten(&format!("{check}: {input}: {why}"));
        Self { code: "trial-failed", detail, check: Some(check.clone()), input: Some(input.clone()) }
    }

    /// One that the compiling process sent.
    pub(crate) fn received(refusal: &Refusal) -> Self {
        let code = CODES.into_iter().find(|code| *code == refusal.code).unwrap_or("does-not-compile");
        Self {
            code,
            detail: shorten(&refusal.detail),
            check: refusal.check.as_deref().map(shorten),
            input: refusal.input.as_deref().map(shorten),
        }
    }
}

/// What a module that passed has shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Size of the module.
    pub size_bytes: u64,
    /// How long the compiler took.
    pub compile_millis: u64,
    /// How the trial went: `answered`, or the words with which the policy refused an empty config.
    pub trial: SmolStr,
    /// What the policy says that it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The checks, in order.
    pub checks: Vec<Check>,
    /// What its calls cost, by the size of the service.
    pub costs: Vec<Cost>,
}

/// Where modules come in.
pub(crate) struct Gate {
    pub(crate) engine: Engine,
    pub(crate) compiler: Compiler,
    /// Compiled modules on disk, where there is one.
    pub(crate) artefacts: Option<Artefacts>,
    pub(crate) library: Arc<Library>,
    pub(crate) counters: Arc<Counters>,
    /// One upload at a time; the loader, which comes one by one of itself, does not wait for them.
    pub(crate) turn: Mutex<()>,
    pub(crate) waiting: AtomicUsize,
}

/// A place among the uploads that wait.
struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Gate {
    /// Checks, compiles and tries a module. Blocks for as long as that and the uploads before it take.
    pub(crate) fn check(&self, module: &[u8]) -> Result<(Arc<Compiled>, Report), Rejected> {
        self.counted(self.check_one(module))
    }

    fn check_one(&self, module: &[u8]) -> Result<(Arc<Compiled>, Report), Rejected> {
        let mut checks = Vec::new();
        let mut passed = |name: &'static str, begun: Instant, inputs: u32| {
            let outcome = if inputs == 0 { "none" } else { "passed" };
            checks.push(Check {
                name: name.into(),
                outcome: outcome.into(),
                millis: millis(begun.elapsed()),
                inputs,
            });
        };
        let begun = Instant::now();
        check_size(module)?;
        passed("size", begun, 1);
        check_form(module)?;
        passed("component", begun, 1);
        let carried = Carried::read(module)?;
        passed("sections", begun, carried.count());
        let place = self.waiting.fetch_add(1, Ordering::AcqRel);
        let _place = Place(&self.waiting);
        if place > MAX_WAITING_UPLOADS {
            let detail = format!("{MAX_WAITING_UPLOADS} uploads wait already; try again in a few seconds");
            return Err(Rejected::new("gate-busy", detail));
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let made = compiler::make(&self.compiler, &self.engine, &self.counters, module, true)?;
        checks.push(Check {
            name: "compiles".into(),
            outcome: "passed".into(),
            millis: millis(made.took),
            inputs: 1,
        });
        self.compiled(made.took);
        let begun = Instant::now();
        let compiled = Compiled::assemble(&self.engine, &made.artefact, module, false)?;
        checks.push(Check {
            name: "no-imports".into(),
            outcome: "passed".into(),
            millis: millis(begun.elapsed()),
            inputs: 1,
        });
        let Findings { trial, checks: tried, costs } = made.findings;
        checks.extend(tried);
        self.keep(compiled.version(), &made.artefact);
        let report = Report {
            size_bytes: module.len() as u64,
            compile_millis: millis(made.took),
            trial,
            description: carried.description().map(str::to_owned),
            checks,
            costs,
        };
        Ok((Arc::new(compiled), report))
    }

    /// Makes a module of the registry runnable: some gateway let it in. From disk if it was compiled here before.
    pub(crate) fn load(&self, module: &[u8]) -> Result<Arc<Compiled>, Rejected> {
        self.counted(self.load_one(module, &self.compiler, standard_of(PolicyVersion::of(module)).is_some()))
    }

    /// Makes a module of this program runnable, here and on all cores: lookups may be waiting for it.
    pub(crate) fn standard(&self, module: &[u8]) -> Result<Arc<Compiled>, Rejected> {
        self.counted(self.load_one(module, &Compiler::Here, true))
    }

    fn load_one(
        &self,
        module: &[u8],
        compiler: &Compiler,
        standard: bool,
    ) -> Result<Arc<Compiled>, Rejected> {
        check_size(module)?;
        check_form(module)?;
        let version = PolicyVersion::of(module);
        if let Some(artefact) = self.artefacts.as_ref().and_then(|artefacts| artefacts.load(version)) {
            match Compiled::assemble(&self.engine, &artefact, module, standard) {
                Ok(compiled) => {
                    self.counters.artefacts_used.fetch_add(1, Ordering::Relaxed);
                    return Ok(Arc::new(compiled));
                }
                Err(rejected) => {
                    tracing::warn!(%version, %rejected, "a compiled module on disk does not run; it is compiled anew");
                    self.forget(version);
                }
            }
        }
        let made = compiler::make(compiler, &self.engine, &self.counters, module, false)?;
        self.compiled(made.took);
        let compiled = Compiled::assemble(&self.engine, &made.artefact, module, standard)?;
        self.keep(version, &made.artefact);
        Ok(Arc::new(compiled))
    }

    /// Removes what is kept of a version on disk.
    pub(crate) fn forget(&self, version: PolicyVersion) {
        if let Some(artefacts) = &self.artefacts {
            artefacts.remove(version);
        }
    }

    fn keep(&self, version: PolicyVersion, artefact: &Artefact) {
        let Some(artefacts) = &self.artefacts else { return };
        if let Err(error) = artefacts.save(version, artefact, |version| self.library.contains(version)) {
            tracing::warn!(%version, %error, "a compiled module is not kept on disk; a restart compiles it again");
        }
    }

    fn compiled(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.counters.compile_micros.fetch_add(micros, Ordering::Relaxed);
        self.counters.compiled.fetch_add(1, Ordering::Relaxed);
    }

    fn counted<T>(&self, result: Result<T, Rejected>) -> Result<T, Rejected> {
        if let Err(rejected) = &result
            && let Some(at) = CODES.iter().position(|code| *code == rejected.code)
            && let Some(counter) = self.counters.rejected.get(at)
        {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        result
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn check_size(module: &[u8]) -> Result<(), Rejected> {
    if module.len() <= MAX_MODULE_BYTES {
        return Ok(());
    }
    Err(Rejected::new("module-too-large", format!("{} bytes; at most {MAX_MODULE_BYTES}", module.len())))
}

fn check_form(module: &[u8]) -> Result<(), Rejected> {
    let detail = match module {
        [0, b'a', b's', b'm', _, _, 1, 0, ..] => return Ok(()),
        [0, b'a', b's', b'm', ..] => "a core module; wrap it as a component (`meridian policy build` does)",
        _ => "does not begin like WebAssembly",
    };
    Err(Rejected::new("not-a-component", detail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{self, Threads};
    use std::thread;

    #[test]
    fn one_upload_too_many_is_told_to_come_again() {
        let gate = Gate {
            engine: limits::engine(Threads::All).unwrap(),
            compiler: Compiler::Here,
            artefacts: None,
            library: Arc::default(),
            counters: Arc::default(),
            turn: Mutex::default(),
            waiting: AtomicUsize::new(0),
        };
        let empty = b"\0asm\x0d\0\x01\0";
        thread::scope(|scope| {
            let turn = gate.turn.lock().unwrap();
            let waiting: Vec<_> = (0..=MAX_WAITING_UPLOADS)
                .map(|_| scope.spawn(|| gate.check(empty).unwrap_err().code))
                .collect();
            while gate.waiting.load(Ordering::Acquire) <= MAX_WAITING_UPLOADS {
                thread::yield_now();
            }
            assert_eq!(gate.check(empty).unwrap_err().code, "gate-busy");
            drop(turn);
            for one in waiting {
                assert_eq!(one.join().unwrap(), "wrong-world");
            }
        });
        assert_eq!(gate.waiting.load(Ordering::Acquire), 0);
    }
}
