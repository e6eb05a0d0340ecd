//! The Wasm host: it compiles policies, opens them over services off the answering path, and answers lookups from them.
//!
//! The way of a service through this crate: the keeper tells [`Host::published`]; the clerk (one thread) decides what is
//! to be prepared; a preparer opens routers and views in a fresh instance, a *cell*, and expands the plans; each worker
//! takes its cells from its inbox and from then on alone calls `route` on them. So a lookup touches nothing that another
//! thread changes: no lock, no allocation, no waiting ([`Worker::lookup`]).
//!
//! What a policy cannot do, each with its place: be large, import anything, or take the compiler hostage ([`Host::check`] and
//! [`policy_compiler`]), run long or grow
//! (`limits`), name what was not shown (`meridian_model::plan::expand`), send traffic to what may not receive it
//! ([`Routed::pick`] looks at the current snapshot again), take others down with it (uploaded policies have a cell per
//! service; only the standard ones share). Where it fails, its predecessor answers, then the native fallback, in the same
//! lookup, and [`Outcome`] says so.
//!
//! State that a policy keeps between calls is not undone: it lives as long as its cell, on one worker. The gate refuses
//! policies that show it, but cannot prove that there is none.
//!
//! Only this crate knows the engine; nothing of it is in the public interface.

mod artefact;
mod blame;
mod callers;
mod canary;
mod carried;
mod cell;
mod clerk;
mod compiler;
mod contract;
mod corpus;
mod drawn;
mod entry;
mod fault;
mod fingerprint;
mod frame;
mod gate;
mod host;
mod inbox;
mod inspection;
mod jail;
mod lane;
mod library;
mod limits;
mod observation;
mod pick;
mod preparation;
mod processor;
mod quarantine;
mod remains;
mod replay;
mod shadow;
mod standard;
mod stats;
mod trial;
mod trials;
mod view;
mod workbench;
mod worker;

pub use callers::CallerId;
pub use carried::Carried;
pub use compiler::Compiler;
pub use fault::{Fault, FaultKind};
pub use gate::{Rejected, Report};
pub use host::{ConfigRefused, Evaluation, Host, HostConfig, HostError};
pub use jail::policy_compiler;
pub use library::{Compiled, Library, LibraryFull};
pub use limits::{COLD_WAIT, MAX_MEMORY_BYTES, MAX_MODULE_BYTES, MAX_VERSIONS, MAX_VIEWS};
pub use observation::{Observation, Seen};
pub use pick::{ChosenBy, Pick, Picked, Picks, Routed};
pub use replay::answer_of;
pub use shadow::Example;
pub use standard::{STANDARD, Standard, standard_of};
pub use stats::HostStats;
pub use trial::{Check, Cost};
pub use view::{NOTHING_ELIGIBLE, Outcome, View, WARMING};
pub use workbench::{Answer, Bench, Memory, Share, Workbench};
pub use worker::{Lookup, Pending, Worker};
