//! Why a policy could not answer: one word that is counted, and what stands behind it.

use crate::limits::MAX_DETAIL_BYTES;
use smol_str::SmolStr;
use std::fmt;
use wasmtime::Trap;

/// The kinds of faults, for counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum FaultKind {
    /// The guest trapped, or broke the canonical ABI.
    Trap,
    /// It used up its fuel.
    Fuel,
    /// It ran until the epochs ended it, although it had fuel left.
    Time,
    /// It asked for more memory than it may have, and then trapped.
    Memory,
    /// Its stack overflowed.
    Stack,
    /// `open` refused the config or the service.
    Open,
    /// `admit` refused the caller.
    Admit,
    /// Its plans are nonsense, or differ between two runs.
    Plans,
    /// `route` named a plan that does not exist.
    Route,
    /// The version is not in the library.
    Missing,
    /// An operator disabled the version, or all of them.
    Disabled,
}

impl FaultKind {
    /// Every kind, in the order of the counters.
    pub const ALL: [Self; 11] = [
        Self::Trap,
        Self::Fuel,
        Self::Time,
        Self::Memory,
        Self::Stack,
        Self::Open,
        Self::Admit,
        Self::Plans,
        Self::Route,
        Self::Missing,
        Self::Disabled,
    ];

    /// The word in reasons and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trap => "trap",
            Self::Fuel => "fuel",
            Self::Time => "time",
            Self::Memory => "memory",
            Self::Stack => "stack",
            Self::Open => "open",
            Self::Admit => "admit",
            Self::Plans => "plans",
            Self::Route => "route",
            Self::Missing => "missing",
            Self::Disabled => "disabled",
        }
    }
}

/// One fault of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What it was.
    pub kind: FaultKind,
    /// What exactly; may be empty, and may hold the policy's own words.
    pub detail: SmolStr,
}

impl Fault {
    pub(crate) fn new(kind: FaultKind, detail: impl AsRef<str>) -> Self {
        Self { kind, detail: shorten(detail.as_ref()) }
    }

    /// From an error of the engine; `memory_refused` says whether the guest had been denied memory before it.
    pub(crate) fn from_engine(error: &wasmtime::Error, memory_refused: bool) -> Self {
        let trap = error.downcast_ref::<Trap>().copied();
        match trap {
            Some(Trap::OutOfFuel) => Self::new(FaultKind::Fuel, ""),
            Some(Trap::Interrupt) => Self::new(FaultKind::Time, ""),
            Some(Trap::StackOverflow) => Self::new(FaultKind::Stack, ""),
            _ if memory_refused => Self::new(FaultKind::Memory, ""),
            Some(Trap::UnreachableCodeReached) => Self::new(FaultKind::Trap, "unreachable"),
            Some(trap) => Self::new(FaultKind::Trap, trap.to_string()),
            None => Self::new(FaultKind::Trap, error.root_cause().to_string()),
        }
    }

    /// Whether the instance cannot be entered again.
    pub(crate) fn ends_instance(&self) -> bool {
        match self.kind {
            FaultKind::Trap | FaultKind::Fuel | FaultKind::Time | FaultKind::Memory | FaultKind::Stack => {
                true
            }
            FaultKind::Open
            | FaultKind::Admit
            | FaultKind::Plans
            | FaultKind::Route
            | FaultKind::Missing
            | FaultKind::Disabled => false,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.as_str())?;
        if self.detail.is_empty() { Ok(()) } else { write!(f, ": {}", self.detail) }
    }
}

/// At most [`MAX_DETAIL_BYTES`] on one line: the text may come from a guest.
pub(crate) fn shorten(text: &str) -> SmolStr {
    let mut end = text.len().min(MAX_DETAIL_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let kept = text.get(..end).unwrap_or_default();
    kept.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
