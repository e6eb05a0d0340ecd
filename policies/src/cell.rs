//! One instance of one version of a policy, with the routers and views that live in it.
//!
//! A cell is filled by a preparer and then moved to the worker that alone calls `route` on it: nothing in it is shared,
//! so nothing in it is locked. What shares a cell shares a trap: after one, no call enters the instance again.

use crate::contract::{Caller, Plan, Service};
use crate::fault::{Fault, FaultKind};
use crate::library::Compiled;
use crate::limits::{self, Limiter, Net, PREPARE_NET, ROUTE_NET};
use meridian_model::plan;
use wasmtime::Store;
use wasmtime::component::{Func, ResourceAny, TypedFunc};

/// A router or a view, alive in the cell that made it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handle(ResourceAny);

type Refusable<T> = (Result<T, String>,);

/// An instance with its store.
pub(crate) struct Cell {
    store: Store<Limiter>,
    open: Func,
    admit: Func,
    plans: TypedFunc<(ResourceAny,), (Vec<Plan>,)>,
    route: TypedFunc<(ResourceAny, u64, u64), (u32,)>,
    ended: Option<Fault>,
}

impl Cell {
    /// A fresh instance.
    pub(crate) fn new(compiled: &Compiled) -> Result<Self, Fault> {
        let mut store = limits::store(compiled.engine());
        limits::allow(&mut store, limits::PREPARE_FUEL, PREPARE_NET);
        let made = Self::instantiate(compiled, &mut store);
        let (open, admit, plans, route) =
            made.map_err(|error| Fault::from_engine(&error, store.data().refused()))?;
        Ok(Self { store, open, admit, plans, route, ended: None })
    }

    #[allow(clippy::type_complexity, reason = "the fields of `Cell`, where they are named")]
    fn instantiate(
        compiled: &Compiled,
        store: &mut Store<Limiter>,
    ) -> wasmtime::Result<(
        Func,
        Func,
        TypedFunc<(ResourceAny,), (Vec<Plan>,)>,
        TypedFunc<(ResourceAny, u64, u64), (u32,)>,
    )> {
        let instance = compiled.instantiate(store)?;
        let exports = compiled.exports();
        let func = |store: &mut Store<Limiter>, index| {
            instance
                .get_func(store, index)
                .ok_or_else(|| wasmtime::format_err!("an export is not a function"))
        };
        let open = func(store, &exports.open)?;
        open.typed::<(&str, &Service<'_>), Refusable<ResourceAny>>(&*store)?;
        let admit = func(store, &exports.admit)?;
        admit.typed::<(ResourceAny, &Caller<'_>), Refusable<ResourceAny>>(&*store)?;
        let plans = func(store, &exports.plans)?.typed(&*store)?;
        let route = func(store, &exports.route)?.typed(&*store)?;
        Ok((open, admit, plans, route))
    }

    /// Opens a router over a service.
    pub(crate) fn open(&mut self, config: &str, service: &Service<'_>) -> Result<Handle, Fault> {
        self.begin(limits::PREPARE_FUEL, PREPARE_NET)?;
        let answer = self
            .open
            .typed::<(&str, &Service<'_>), Refusable<ResourceAny>>(&self.store)
            .and_then(|open| open.call(&mut self.store, (config, service)));
        let (opened,) = answer.map_err(|error| self.end(&error))?;
        opened.map(Handle).map_err(|refusal| Fault::new(FaultKind::Open, refusal))
    }

    /// Admits a caller to a router.
    pub(crate) fn admit(&mut self, router: Handle, caller: &Caller<'_>) -> Result<Handle, Fault> {
        self.begin(limits::PREPARE_FUEL, PREPARE_NET)?;
        let answer = self
            .admit
            .typed::<(ResourceAny, &Caller<'_>), Refusable<ResourceAny>>(&self.store)
            .and_then(|admit| admit.call(&mut self.store, (router.0, caller)));
        let (admitted,) = answer.map_err(|error| self.end(&error))?;
        admitted.map(Handle).map_err(|refusal| Fault::new(FaultKind::Admit, refusal))
    }

    /// The plans of a view. Policies may hand them out once only.
    pub(crate) fn plans(&mut self, view: Handle) -> Result<Vec<plan::Plan>, Fault> {
        self.begin(limits::PREPARE_FUEL, PREPARE_NET)?;
        let answer = self.plans.call(&mut self.store, (view.0,));
        let (plans,) = answer.map_err(|error| self.end(&error))?;
        Ok(plans.into_iter().map(Into::into).collect())
    }

    /// Which plan answers: the call of every lookup.
    #[inline]
    pub(crate) fn route(&mut self, view: Handle, key: u64, entropy: u64) -> Result<u32, Fault> {
        self.begin(limits::ROUTE_FUEL, ROUTE_NET)?;
        match self.route.call(&mut self.store, (view.0, key, entropy)) {
            Ok((plan,)) => Ok(plan),
            Err(error) => Err(self.end(&error)),
        }
    }

    /// Drops a router or a view inside the instance.
    pub(crate) fn close(&mut self, handle: Handle) -> Result<(), Fault> {
        self.begin(limits::PREPARE_FUEL, PREPARE_NET)?;
        handle.0.resource_drop(&mut self.store).map_err(|error| self.end(&error))
    }

    /// An estimate of the memory that the cell holds, in bytes.
    ///
    /// The engine tells the size of linear memory, not what of it was touched. A fresh Rust guest has 17 pages, of which it
    /// touches a few. It grows by a page before it has anything to write there, so of the last one a part is counted; what
    /// lies between is full.
    pub(crate) fn estimated_bytes(&self) -> usize {
        const TOUCHED_WHEN_FRESH: usize = 36 * 1024;
        const SIZE_WHEN_FRESH: usize = 17 * PAGE;
        const PAGE: usize = 64 * 1024;
        const TOUCHED_OF_LAST: usize = 8 * 1024;
        let grown = self.store.data().memory_bytes().saturating_sub(SIZE_WHEN_FRESH);
        let untouched = if grown > 0 { PAGE - TOUCHED_OF_LAST } else { 0 };
        TOUCHED_WHEN_FRESH + grown.saturating_sub(untouched)
    }

    /// Fuel that the last call left; the gate's trial tells what calls cost.
    pub(crate) fn fuel_left(&self) -> u64 {
        self.store.get_fuel().unwrap_or(0)
    }

    /// Whether a call ended the instance for good.
    #[inline]
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    #[inline]
    fn begin(&mut self, fuel: u64, net: Net) -> Result<(), Fault> {
        if let Some(fault) = &self.ended {
            return Err(fault.clone());
        }
        limits::allow(&mut self.store, fuel, net);
        Ok(())
    }

    #[cold]
    fn end(&mut self, error: &wasmtime::Error) -> Fault {
        let fault = Fault::from_engine(error, self.store.data().refused());
        self.ended = Some(fault.clone());
        fault
    }
}
