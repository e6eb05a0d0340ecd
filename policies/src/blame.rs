//! What a fault of a policy leads to: it is noted where the binding is observed, and what fails everywhere rests.

use crate::callers::CallerId;
use crate::clerk::Clerk;
use crate::entry::Entry;
use crate::fault::{Fault, FaultKind};
use crate::preparation::Banned;
use crate::view::{Outcome, View};
use crate::worker::is_of;
use meridian_model::binding::{Bound, Effective};
use std::cmp::Reverse;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

/// Faults of a version that one preparation counts as, however many callers it failed for: so many callers are not one
/// caller's doing, and a version that fails for all of a hundred has not failed a hundred times.
const FAULTS_OF_PREPARATION: usize = 2;

impl Clerk {
    /// Counts what one preparation found wrong with the versions of a service.
    pub(crate) fn blame(
        &mut self,
        slot: u32,
        whole: &[(Bound, Fault)],
        of_callers: &[(Bound, CallerId, Fault)],
        views: &[(CallerId, Arc<View>)],
        now: Instant,
    ) {
        let ran =
            |bound: &Bound| views.iter().any(|(_, view)| view.outcome == Outcome::Ok && is_of(view, bound));
        let whole = whole.iter().map(|(bound, fault)| (bound, fault));
        let of_callers = of_callers.iter().map(|(bound, _, fault)| (bound, fault));
        let mut blamed: Vec<&Bound> = Vec::new();
        // One that has not come yet has not failed.
        for (bound, fault) in whole.chain(of_callers).filter(|(_, fault)| fault.kind != FaultKind::Missing) {
            let times = blamed.iter().filter(|other| **other == bound).count();
            if times == FAULTS_OF_PREPARATION {
                continue;
            }
            blamed.push(bound);
            if let Some(book) = self.books.get_mut(&slot) {
                book.failed(bound, fault);
            }
            if times == 0 && !ran(bound) {
                self.suspect(slot, bound, fault, now);
            }
        }
    }

    /// The policies of a binding that rest whatever they are bound to, and until when.
    pub(crate) fn quarantined(
        &self,
        binding: &Effective,
        now: Instant,
    ) -> impl Iterator<Item = (Instant, Banned)> {
        binding.versions().filter_map(move |bound| {
            let (until, fault) = self.quarantine.rests(bound, now)?;
            Some((until, Banned { bound: bound.clone(), caller: None, fault: fault.clone() }))
        })
    }

    /// An uploaded policy failed at a service as a whole: if it does so everywhere, it rests everywhere.
    pub(crate) fn suspect(&mut self, slot: u32, bound: &Bound, fault: &Fault, now: Instant) {
        // What it refuses with its own words may be wanted.
        if matches!(fault.kind, FaultKind::Open | FaultKind::Admit | FaultKind::Disabled) {
            return;
        }
        if self.library.get(&bound.version).is_none_or(|compiled| compiled.is_standard()) {
            return;
        }
        let works = |failed: &HashSet<u32>| {
            let ran = |view: &Arc<View>| view.outcome == Outcome::Ok && is_of(view, bound);
            let works = |(slot, entry): &(&u32, &Entry)| {
                !failed.contains(slot) && entry.built.as_ref().is_some_and(|b| b.views.values().any(ran))
            };
            self.services.iter().filter(works).count()
        };
        if let Some(pause) = self.quarantine.failed(bound, slot, fault, now, works) {
            let Bound { policy, version, .. } = bound;
            tracing::warn!(%policy, %version, %fault, ?pause, "a policy fails everywhere: it rests on this gateway");
        }
    }

    /// A policy failed in `route`.
    pub(crate) fn failed(&mut self, slot: u32, culprit: Option<Bound>, fault: Fault, now: Instant) {
        let Some(entry) = self.services.get_mut(&slot) else { return };
        if let Some(bound) = culprit {
            self.counters.fault(fault.kind);
            let candidate = entry.latest.binding.candidate.as_ref().is_some_and(|c| c.bound == bound);
            // Each worker has a cell of its own: what fails in the next before that is told is the same failure.
            let counts = candidate || !entry.rests(&bound, now);
            let until = entry.ban(bound.clone(), None, fault.clone(), now);
            // Whoever shared a cell with it has lost that cell too; of a candidate, nothing of the active version is lost.
            let groups = entry.built.as_ref().map(|b| b.groups.clone()).unwrap_or_default();
            if counts {
                if let Some(book) = self.books.get_mut(&slot) {
                    book.failed(&bound, &fault);
                }
                self.suspect(slot, &bound, &fault, now);
            }
            if candidate {
                self.stage_timers.push(Reverse((until, slot)));
                return;
            }
            self.timers.push(Reverse((until, slot)));
            let others: Vec<u32> =
                groups.iter().filter_map(|g| self.groups.get(g)).flat_map(|g| &g.members).copied().collect();
            others.into_iter().for_each(|other| self.enqueue(other, false));
        }
        self.enqueue(slot, true);
    }
}
