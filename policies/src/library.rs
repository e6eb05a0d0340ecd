//! The compiled versions that this process knows, standard ones among them.

use crate::artefact::Artefact;
use crate::carried::Carried;
use crate::contract::{ADMIT, INTERFACE, OPEN, PLANS, ROUTE};
use crate::gate::Rejected;
use crate::limits::{self, Limiter};
use meridian_model::names::PolicyVersion;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};
use wasmtime::component::{Component, ComponentExportIndex, Instance, InstancePre, Linker};
use wasmtime::{Engine, Store};

/// Where the four functions of the contract stand in a component.
pub(crate) struct Exports {
    pub(crate) open: ComponentExportIndex,
    pub(crate) admit: ComponentExportIndex,
    pub(crate) plans: ComponentExportIndex,
    pub(crate) route: ComponentExportIndex,
}

impl Exports {
    /// The functions, or the name of the first that is not there.
    pub(crate) fn find(component: &Component) -> Result<Self, &'static str> {
        let (_, interface) = component.get_export(None, INTERFACE).ok_or(INTERFACE)?;
        let find = |name| component.get_export_index(Some(&interface), name).ok_or(name);
        Ok(Self { open: find(OPEN)?, admit: find(ADMIT)?, plans: find(PLANS)?, route: find(ROUTE)? })
    }
}

/// One version, ready to be instantiated.
pub struct Compiled {
    version: PolicyVersion,
    pre: InstancePre<Limiter>,
    exports: Exports,
    /// One of those that this program carries: its instances may be shared among services.
    standard: bool,
    carried: Carried,
    since: Instant,
    /// Milliseconds after `since`.
    slow_until: AtomicU64,
}

impl Compiled {
    /// Machine code of `module`, if it is that of a policy: no imports, and the exports of the contract.
    pub(crate) fn assemble(
        engine: &Engine,
        artefact: &Artefact,
        module: &[u8],
        standard: bool,
    ) -> Result<Self, Rejected> {
        let component = artefact
            .revive(engine)
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
        // The gate reads this strictly before it comes here. Of what another gateway let in, the code is what counts.
        let (version, carried) = (PolicyVersion::of(module), Carried::read(module).unwrap_or_default());
        Ok(Self {
            version,
            pre,
            exports,
            standard,
            carried,
            since: Instant::now(),
            slow_until: AtomicU64::new(0),
        })
    }

    /// Its version.
    #[must_use]
    pub fn version(&self) -> PolicyVersion {
        self.version
    }

    /// What it carries beside its code.
    #[must_use]
    pub fn carried(&self) -> &Carried {
        &self.carried
    }

    /// Whether it is one that this program carries.
    #[must_use]
    pub fn is_standard(&self) -> bool {
        self.standard
    }

    pub(crate) fn engine(&self) -> &Engine {
        self.pre.engine()
    }

    pub(crate) fn exports(&self) -> &Exports {
        &self.exports
    }

    pub(crate) fn instantiate(&self, store: &mut Store<Limiter>) -> wasmtime::Result<Instance> {
        self.pre.instantiate(store)
    }

    /// Remembers how much processor time a preparation took.
    pub(crate) fn took(&self, time: Duration) {
        if time > limits::SLOW_PREPARATION {
            self.slow_until.store(millis(self.since.elapsed() + limits::SLOW_FOR), Ordering::Relaxed);
        }
    }

    pub(crate) fn is_slow(&self) -> bool {
        millis(self.since.elapsed()) < self.slow_until.load(Ordering::Relaxed)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl fmt::Debug for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compiled").field("version", &self.version).finish_non_exhaustive()
    }
}

/// The library holds as many versions as it may.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the library holds {} versions already; delete versions that nothing binds", limits::MAX_VERSIONS)]
pub struct LibraryFull;

/// The compiled versions.
#[derive(Debug, Default)]
pub struct Library {
    versions: RwLock<HashMap<PolicyVersion, Arc<Compiled>>>,
}

impl Library {
    /// Puts a version on the shelf. The same again changes nothing.
    pub(crate) fn insert(&self, compiled: Arc<Compiled>) -> Result<(), LibraryFull> {
        let mut versions = self.versions.write().unwrap_or_else(PoisonError::into_inner);
        if versions.len() >= limits::MAX_VERSIONS && !versions.contains_key(&compiled.version) {
            return Err(LibraryFull);
        }
        versions.entry(compiled.version).or_insert(compiled);
        Ok(())
    }

    /// The version, if it is compiled.
    #[must_use]
    pub fn get(&self, version: &PolicyVersion) -> Option<Arc<Compiled>> {
        self.versions.read().unwrap_or_else(PoisonError::into_inner).get(version).cloned()
    }

    /// Whether the version is compiled.
    #[must_use]
    pub fn contains(&self, version: &PolicyVersion) -> bool {
        self.versions.read().unwrap_or_else(PoisonError::into_inner).contains_key(version)
    }

    /// Takes a version off the shelf. Cells that run it go on.
    pub fn remove(&self, version: &PolicyVersion) {
        self.versions.write().unwrap_or_else(PoisonError::into_inner).remove(version);
    }

    /// The versions that are compiled.
    #[must_use]
    pub fn versions(&self) -> Vec<PolicyVersion> {
        self.versions.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }
}
