//! What the host counts, for metrics.

use crate::fault::FaultKind;
use crate::gate::CODES;
use meridian_model::plan::Clamped;
use std::sync::atomic::{AtomicU64, Ordering};

/// A moment's counters. Those without a unit in their name only grow, unless their description says "now".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostStats {
    /// Lookups that a worker answered from a view.
    pub lookups: u64,
    /// Calls of `route`.
    pub calls: u64,
    /// Lookups that found no view and asked for one.
    pub cold_lookups: u64,
    /// Lookups answered with the reason `warming`.
    pub warming_answers: u64,
    /// Lookups that something else than the bound version answered, by outcome.
    pub stood_in: Vec<(&'static str, u64)>,
    /// Faults by kind, in preparation and in `route`.
    pub faults: Vec<(FaultKind, u64)>,
    /// Choices that the host took out of plans of views that it prepared, by limit.
    pub clamped: Vec<(&'static str, u64)>,
    /// Services prepared, again or for the first time.
    pub preparations: u64,
    /// Views prepared.
    pub prepared_views: u64,
    /// Time spent preparing, in microseconds.
    pub preparation_micros: u64,
    /// Services whose routers and views were forgotten to keep the budget.
    pub evictions: u64,
    /// Callers forgotten because a service had more than its views.
    pub forgotten_callers: u64,
    /// Estimated size of all routers and views in bytes, now.
    pub cache_bytes: u64,
    /// Services that have views, now.
    pub services: u64,
    /// Views, now; each counts once, however many workers hold it.
    pub views: u64,
    /// Instances of policies, now, over all workers.
    pub cells: u64,
    /// Distinct callers known, now.
    pub callers: u64,
    /// Modules compiled.
    pub compiled: u64,
    /// Time spent compiling, in microseconds.
    pub compile_micros: u64,
    /// Modules that the gate refused, by code.
    pub rejected: Vec<(&'static str, u64)>,
    /// Compiling processes that were ended at a limit.
    pub compilers_killed: u64,
    /// Versions made runnable from disk, without compiling.
    pub artefacts_used: u64,
    /// Versions that can be run, now.
    pub versions: u64,
    /// Uploaded policies that failed wherever they were bound and rest, now.
    pub quarantined: u64,
    /// Evaluations off the hot path.
    pub evaluations: u64,
    /// Deliveries that were dropped because a worker made no lookups.
    pub undelivered: u64,
}

/// A counter that one thread alone writes: no locked instruction in the path of a lookup.
#[derive(Debug, Default)]
pub(crate) struct Own(AtomicU64);

impl Own {
    #[inline]
    pub(crate) fn add(&self, more: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One worker's counters.
#[derive(Debug, Default)]
pub(crate) struct WorkerCounters {
    pub(crate) lookups: Own,
    pub(crate) calls: Own,
    pub(crate) cold: Own,
    pub(crate) warming: Own,
    pub(crate) last_good: Own,
    pub(crate) fallback: Own,
}

/// Counters that several threads write, off the path of lookups.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) faults: [AtomicU64; FaultKind::ALL.len()],
    pub(crate) ineligible: AtomicU64,
    pub(crate) remote_share: AtomicU64,
    pub(crate) preparations: AtomicU64,
    pub(crate) prepared_views: AtomicU64,
    pub(crate) preparation_micros: AtomicU64,
    pub(crate) evictions: AtomicU64,
    pub(crate) forgotten_callers: AtomicU64,
    pub(crate) cache_bytes: AtomicU64,
    pub(crate) services: AtomicU64,
    pub(crate) views: AtomicU64,
    pub(crate) cells: AtomicU64,
    pub(crate) compiled: AtomicU64,
    pub(crate) compile_micros: AtomicU64,
    pub(crate) rejected: [AtomicU64; CODES.len()],
    pub(crate) compilers_killed: AtomicU64,
    pub(crate) artefacts_used: AtomicU64,
    pub(crate) quarantined: AtomicU64,
    pub(crate) evaluations: AtomicU64,
    pub(crate) undelivered: AtomicU64,
    /// Counters of workers that left.
    pub(crate) left: WorkerTotals,
}

/// Sums over workers.
#[derive(Debug, Default)]
pub(crate) struct WorkerTotals {
    pub(crate) lookups: AtomicU64,
    pub(crate) calls: AtomicU64,
    pub(crate) cold: AtomicU64,
    pub(crate) warming: AtomicU64,
    pub(crate) last_good: AtomicU64,
    pub(crate) fallback: AtomicU64,
}

impl Counters {
    pub(crate) fn fault(&self, kind: FaultKind) {
        let place = FaultKind::ALL.iter().position(|k| *k == kind);
        if let Some(counter) = place.and_then(|at| self.faults.get(at)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn clamped(&self, clamped: Clamped) {
        for (counter, count) in
            [(&self.ineligible, clamped.ineligible), (&self.remote_share, clamped.remote_share)]
        {
            if count > 0 {
                counter.fetch_add(count.into(), Ordering::Relaxed);
            }
        }
    }

    pub(crate) fn worker_left(&self, worker: &WorkerCounters) {
        self.left.lookups.fetch_add(worker.lookups.get(), Ordering::Relaxed);
        self.left.calls.fetch_add(worker.calls.get(), Ordering::Relaxed);
        self.left.cold.fetch_add(worker.cold.get(), Ordering::Relaxed);
        self.left.warming.fetch_add(worker.warming.get(), Ordering::Relaxed);
        self.left.last_good.fetch_add(worker.last_good.get(), Ordering::Relaxed);
        self.left.fallback.fetch_add(worker.fallback.get(), Ordering::Relaxed);
    }

    pub(crate) fn read<'a>(
        &self,
        workers: impl Iterator<Item = &'a WorkerCounters>,
        callers: usize,
        versions: usize,
    ) -> HostStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut stats = HostStats {
            lookups: get(&self.left.lookups),
            calls: get(&self.left.calls),
            cold_lookups: get(&self.left.cold),
            warming_answers: get(&self.left.warming),
            stood_in: Vec::new(),
            faults: FaultKind::ALL.into_iter().zip(self.faults.iter().map(get)).collect(),
            clamped: vec![
                ("eligible-status", get(&self.ineligible)),
                ("max-remote-share", get(&self.remote_share)),
            ],
            preparations: get(&self.preparations),
            prepared_views: get(&self.prepared_views),
            preparation_micros: get(&self.preparation_micros),
            evictions: get(&self.evictions),
            forgotten_callers: get(&self.forgotten_callers),
            cache_bytes: get(&self.cache_bytes),
            services: get(&self.services),
            views: get(&self.views),
            cells: get(&self.cells),
            callers: callers as u64,
            compiled: get(&self.compiled),
            compile_micros: get(&self.compile_micros),
            rejected: CODES.into_iter().zip(self.rejected.iter().map(get)).collect(),
            compilers_killed: get(&self.compilers_killed),
            artefacts_used: get(&self.artefacts_used),
            versions: versions as u64,
            quarantined: get(&self.quarantined),
            evaluations: get(&self.evaluations),
            undelivered: get(&self.undelivered),
        };
        let (mut last_good, mut fallback) = (get(&self.left.last_good), get(&self.left.fallback));
        for worker in workers {
            last_good += worker.last_good.get();
            fallback += worker.fallback.get();
            stats.lookups += worker.lookups.get();
            stats.calls += worker.calls.get();
            stats.cold_lookups += worker.cold.get();
            stats.warming_answers += worker.warming.get();
        }
        stats.stood_in = vec![("last-good", last_good), ("fallback", fallback)];
        stats
    }
}
