//! What a module must pass before it may be bound.

use crate::cell::Cell;
use crate::contract::{Caller, INTERFACE, Service};
use crate::fault::{Fault, FaultKind, shorten};
use crate::library::{Compiled, Exports, LibraryFull};
use crate::limits::MAX_MODULE_BYTES;
use crate::trial;
use meridian_model::names::PolicyVersion;
use meridian_model::plan::{self, Plan};
use meridian_model::selection::Words;
use serde::Serialize;
use smol_str::SmolStr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;
use wasmtime::Engine;
use wasmtime::component::{Component, Linker};

/// Why a module may not be bound.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct Rejected {
    /// `module-too-large`, `not-a-component`, `does-not-compile`, `has-imports`, `wrong-world`,
    /// `trial-failed` or `library-full`.
    pub code: &'static str,
    /// What exactly, and what would be right.
    pub detail: SmolStr,
}

impl Rejected {
    fn new(code: &'static str, detail: impl AsRef<str>) -> Self {
        Self { code, detail: shorten(detail.as_ref()) }
    }

    pub(crate) fn full(full: &LibraryFull) -> Self {
        Self::new("library-full", full.to_string())
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
    /// The checks, in order.
    pub checks: Vec<&'static str>,
}

/// Checks and compiles a module.
pub(crate) fn check(
    engine: &Engine,
    module: &[u8],
    standard: bool,
) -> Result<(Arc<Compiled>, Report), Rejected> {
    let begun = Instant::now();
    let compiled = Arc::new(compile(engine, module, standard)?);
    let compile_millis = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    // The standard policies have their own tests; a trial would only delay the first answers.
    let trial = if standard { "standard".into() } else { try_out(&compiled)? };
    let report = Report {
        size_bytes: module.len() as u64,
        compile_millis,
        trial,
        checks: vec!["size", "component", "no-imports", "world", "compiles", "trial"],
    };
    Ok((compiled, report))
}

fn compile(engine: &Engine, module: &[u8], standard: bool) -> Result<Compiled, Rejected> {
    if module.len() > MAX_MODULE_BYTES {
        let detail = format!("{} bytes; at most {MAX_MODULE_BYTES}", module.len());
        return Err(Rejected::new("module-too-large", detail));
    }
    match module {
        [0, b'a', b's', b'm', _, _, 1, 0, ..] => {}
        [0, b'a', b's', b'm', ..] => {
            let detail = "a core module; wrap it as a component (`meridian policy build` does)";
            return Err(Rejected::new("not-a-component", detail));
        }
        _ => return Err(Rejected::new("not-a-component", "does not begin like WebAssembly")),
    }
    // A bug of the compiler must not be one of the gateway.
    let component = catch_unwind(AssertUnwindSafe(|| Component::from_binary(engine, module)))
        .map_err(|_| Rejected::new("does-not-compile", "the compiler gave up"))?
        .map_err(|error| Rejected::new("does-not-compile", format!("{error:#}")))?;
    if let Some((import, _)) = component.component_type().imports(engine).next() {
        let detail =
            format!("imports {import:?}; a policy may import nothing (no WASI, no clock, no randomness)");
        return Err(Rejected::new("has-imports", detail));
    }
    let exports = Exports::find(&component).map_err(|missing| {
        let detail =
            format!("does not export {missing}; the world is routing-policy of meridian:policy@1.0.0");
        Rejected::new("wrong-world", detail)
    })?;
    // The linker is empty on purpose: it is the wall behind `has-imports`.
    let pre = Linker::new(engine)
        .instantiate_pre(&component)
        .map_err(|error| Rejected::new("has-imports", format!("{error:#}")))?;
    Ok(Compiled::new(PolicyVersion::of(module), pre, exports, standard))
}

/// Opens, admits, plans and routes over a small made-up service, twice, in two instances.
fn try_out(compiled: &Compiled) -> Result<SmolStr, Rejected> {
    let failed = |fault: &Fault| Rejected::new("trial-failed", fault.to_string());
    let first = match run(compiled, "", 1) {
        Ok(answer) => answer,
        // A policy that cannot do without config is a good one; that it said so shows that it runs.
        Err(fault) if matches!(fault.kind, FaultKind::Open | FaultKind::Admit) => {
            return Ok(shorten(&fault.to_string()));
        }
        Err(fault) if fault.detail.contains(INTERFACE) || fault.detail.starts_with("type mismatch") => {
            return Err(Rejected::new("wrong-world", fault.to_string()));
        }
        Err(fault) => return Err(failed(&fault)),
    };
    // Every route is asked twice here, so a policy that counts its calls answers differently.
    let second = run(compiled, "", 2).map_err(|fault| failed(&fault))?;
    if first != second {
        let detail = "two runs gave different answers; a policy must be a pure function of what it is shown";
        return Err(Rejected::new("trial-failed", detail));
    }
    Ok("answered".into())
}

/// Opens the policy with `config` over the made-up service, for whoever wants to bind it.
pub(crate) fn try_config(compiled: &Compiled, config: &str) -> Result<(), Fault> {
    run(compiled, config, 1).map(|_| ())
}

fn run(compiled: &Compiled, config: &str, times: usize) -> Result<(Vec<Plan>, Vec<u32>), Fault> {
    let (snapshot, caller) = trial::service().map_err(|bad| Fault::new(FaultKind::Trap, bad.to_string()))?;
    let mut cell = Cell::new(compiled)?;
    let router = cell.open(config, &Service::of(&snapshot))?;
    let view = cell.admit(router, &Caller::of(&caller))?;
    let plans = cell.plans(view)?;
    let ready = plan::expand(&plans, &snapshot)
        .map_err(|nonsense| Fault::new(FaultKind::Plans, nonsense.to_string()))?;
    let mut routes = Vec::new();
    for seed in 0..16 {
        let words = Words::of(seed);
        for _ in 0..times {
            let route = cell.route(view, seed % 2 * words.pick, words.route)?;
            if route as usize >= ready.plans.len() {
                let detail = format!("plan {route} of {}", ready.plans.len());
                return Err(Fault::new(FaultKind::Route, detail));
            }
            if routes.len() <= seed as usize {
                routes.push(route);
            } else if routes.last() != Some(&route) {
                return Err(Fault::new(FaultKind::Plans, "the same key and entropy gave two plans"));
            }
        }
    }
    Ok((plans, routes))
}
