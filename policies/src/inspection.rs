//! From a module's bytes to machine code that can be trusted to be a policy: compiled, then tried. It runs in the compiling
//! process, or in tests in their own.

use crate::artefact::Artefact;
use crate::gate::Rejected;
use crate::library::Compiled;
use crate::trial::{self, Findings};
use meridian_model::policy::case;
use meridian_model::policy::schema::Schema;
use meridian_model::policy::sections::{CASES, SCHEMA, Sections};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use wasmtime::Engine;

/// Hears how it goes.
pub(crate) trait Listener {
    /// The machine code; nothing of it has run.
    fn artefact(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// What is tried next.
    fn step(&mut self, check: &'static str, input: &str);
}

/// Compiles the module, and tries it if that is asked for.
pub(crate) fn inspect(
    engine: &Engine,
    module: &[u8],
    with_trial: bool,
    listener: &mut impl Listener,
) -> Result<Findings, Rejected> {
    // A bug of the compiler must not be one of the gateway, where it is compiled there.
    let code = catch_unwind(AssertUnwindSafe(|| engine.precompile_component(module)))
        .map_err(|_| Rejected::new("does-not-compile", "the compiler gave up"))?
        .map_err(|error| {
            let said = format!("{error:#}");
            // Where the engine is refused memory by the system, it says so; a refused allocation ends the process.
            let code =
                if said.contains("Cannot allocate memory") { "compile-limit" } else { "does-not-compile" };
            Rejected::new(code, said)
        })?;
    listener.artefact(&code).map_err(|error| Rejected::new("gate-unavailable", error.to_string()))?;
    if !with_trial {
        return Ok(Findings::default());
    }
    let sections = Sections::find(module).map_err(|bad| Rejected::sections(&bad))?;
    let cases = match sections.cases {
        Some(section) => {
            case::parse(section.bytes).map_err(|why| Rejected::sections(&section.error(CASES, why)))?
        }
        None => Vec::new(),
    };
    let schema = match sections.schema {
        Some(section) => Some(
            Schema::parse(section.bytes).map_err(|why| Rejected::sections(&section.error(SCHEMA, why)))?,
        ),
        None => None,
    };
    let compiled = Compiled::assemble(engine, &Artefact::from_compiler(code), module, false)?;
    trial::run(&compiled, &cases, schema.as_ref(), &mut |check, input| listener.step(check, input))
}
