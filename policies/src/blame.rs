//! What a fault of a policy leads to: it is noted where the binding is observed, and what fails everywhere rests.

use crate::callers::CallerId;
use crate::clerk::{Clerk, Failure};
use crate::entry::Entry;
use crate::fault::{Fault, FaultKind};
use crate::observation::Book;
use crate::preparation::Banned;
use meridian_model::binding::{Bound, Effective};
use meridian_model::snapshot::Snapshot;
use std::cmp::Reverse;
use std::collections::HashSet;
use std::time::Instant;

/// Faults of a version that one preparation counts as, however many callers it failed for: so many callers are not one
/// caller's doing, and a version that fails for all of a hundred has not failed a hundred times.
const FAULTS_OF_PREPARATION: usize = 2;

impl Clerk {
    /// Counts what one preparation found wrong with the versions of a service, of which some work for some callers.
    pub(crate) fn blame(
        &mut self,
        slot: u32,
        whole: &[(Bound, Fault)],
        of_callers: &[(Bound, CallerId, Fault)],
        works: &[Bound],
        now: Instant,
    ) {
        let whole = whole.iter().map(|(bound, fault)| (bound, fault));
        let of_callers = of_callers.iter().map(|(bound, _, fault)| (bound, fault));
        // One that has not come yet has not failed.
        let faults = whole.chain(of_callers).filter(|(_, fault)| fault.kind != FaultKind::Missing);
        let (mut blamed, mut suspected): (Vec<&Bound>, Vec<&Bound>) = (Vec::new(), Vec::new());
        for (bound, fault) in faults {
            // That the service changed before it was to be asked again is no failure of its own.
            let entry = self.services.get(&slot).filter(|_| !fault.ends_instance());
            let known = entry.is_some_and(|entry| entry.is_asked_again(bound, now));
            // What is asked again so soon counts once each time.
            let on_probation = self.services.get(&slot).is_some_and(|entry| entry.is_on_probation(bound));
            let most = if on_probation { 1 } else { FAULTS_OF_PREPARATION };
            if !known && blamed.iter().filter(|other| **other == bound).count() < most {
                blamed.push(bound);
                if let Some(book) = self.books.get_mut(&slot) {
                    book.failed(bound, fault);
                }
            }
            if !works.contains(bound) && is_suspicious(fault) && !suspected.contains(&bound) {
                suspected.push(bound);
                self.suspect(slot, bound, fault, now);
            }
        }
    }

    /// The same of a candidate, which then rests at this service; `works` says whether it does for any caller.
    pub(crate) fn blame_candidate(
        &mut self,
        slot: u32,
        bound: &Bound,
        faults: &[Fault],
        works: bool,
        now: Instant,
    ) {
        for fault in faults.iter().take(FAULTS_OF_PREPARATION) {
            if let Some(book) = self.book_of(slot, bound) {
                book.failed(bound, fault);
            }
        }
        let Some(last) = faults.last() else { return };
        if let Some(entry) = self.services.get_mut(&slot) {
            let until = entry.ban(bound.clone(), None, last.clone(), now);
            self.stage_timers.push(Reverse((until, slot)));
        }
        if let Some(fault) = faults.iter().find(|fault| !works && is_suspicious(fault)) {
            self.suspect(slot, bound, fault, now);
        }
    }

    /// A version serves some caller of a service.
    pub(crate) fn works(&mut self, slot: u32, bound: &Bound) {
        if let Some(entry) = self.services.get_mut(&slot)
            && !entry.works.contains(bound)
        {
            entry.works.push(bound.clone());
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
    fn suspect(&mut self, slot: u32, bound: &Bound, fault: &Fault, now: Instant) {
        if self.library.get(&bound.version).is_none_or(|compiled| compiled.is_standard()) {
            return;
        }
        let works = |failed: &HashSet<u32>| {
            let works =
                |(slot, entry): &(&u32, &Entry)| !failed.contains(slot) && entry.works.contains(bound);
            self.services.iter().filter(works).count()
        };
        if let Some(pause) = self.quarantine.failed(bound, slot, fault, now, works) {
            let Bound { policy, version, .. } = bound;
            tracing::warn!(%policy, %version, %fault, ?pause, "a policy fails everywhere: it rests on this gateway");
        }
    }

    /// A policy failed in `route`; without culprit, what failed was another's, with whose cell this service lost its own.
    pub(crate) fn failed(&mut self, slot: u32, culprit: Option<Bound>, fault: Fault, now: Instant) {
        let Some(entry) = self.services.get_mut(&slot) else { return };
        if let Some(bound) = culprit {
            self.counters.fault(fault.kind);
            // Whoever shared a cell with it has lost that cell too; of a candidate, nothing of the active version is lost.
            let groups = entry.built.as_ref().map(|b| b.groups.clone()).unwrap_or_default();
            if is_candidate(&entry.latest.binding, &bound) {
                return self.blame_candidate(slot, &bound, &[fault], false, now);
            }
            self.failed_as_a_whole(slot, &bound, &fault, now);
            let others: Vec<u32> =
                groups.iter().filter_map(|g| self.groups.get(g)).flat_map(|g| &g.members).copied().collect();
            others.into_iter().for_each(|other| self.enqueue(other, false));
        }
        self.enqueue(slot, true);
    }

    fn failed_as_a_whole(&mut self, slot: u32, bound: &Bound, fault: &Fault, now: Instant) {
        let Some(entry) = self.services.get_mut(&slot) else { return };
        // Each worker has a cell of its own: what fails in the next before that is told is the same failure.
        let known = entry.is_known_to_fail(bound, now);
        let until = entry.ban(bound.clone(), None, fault.clone(), now);
        self.timers.push(Reverse((until, slot)));
        if !known {
            if let Some(book) = self.books.get_mut(&slot) {
                book.failed(bound, fault);
            }
            self.suspect(slot, bound, fault, now);
        }
    }

    /// What failed where no worker was asked, as for `n=all` and watches: it is as much a failure.
    pub(crate) fn failed_off_path(&mut self, snapshot: &Snapshot, failures: Vec<Failure>, now: Instant) {
        let slot = snapshot.slot;
        let failed = |failure: &Failure| {
            !matches!(failure.fault.kind, FaultKind::Missing | FaultKind::Disabled) && slot != u32::MAX
        };
        for Failure { bound, caller, fault } in failures.into_iter().filter(failed) {
            self.counters.fault(fault.kind);
            if snapshot.binding.is_observed() {
                // Of a service that is only watched, nothing else is noted.
                self.books.entry(slot).or_insert_with(|| Book::new(snapshot));
            }
            if is_candidate(&snapshot.binding, &bound) {
                self.blame_candidate(slot, &bound, &[fault], caller.is_some(), now);
                continue;
            }
            let ended = fault.ends_instance() || fault.kind == FaultKind::Route;
            if !ended && bound != snapshot.binding.active {
                // A refusal by one that stands ready is nobody's trouble.
                continue;
            }
            if ended && caller.is_none() && self.services.contains_key(&slot) {
                self.failed_as_a_whole(slot, &bound, &fault, now);
                continue;
            }
            match self.services.get_mut(&slot) {
                Some(entry) => {
                    let Some(until) = entry.fails_for(&bound, caller, &fault, now) else { continue };
                    self.timers.push(Reverse((until, slot)));
                }
                None if is_suspicious(&fault) => self.suspect(slot, &bound, &fault, now),
                None => {}
            }
            if let Some(book) = self.books.get_mut(&slot) {
                book.failed(&bound, &fault);
            }
        }
    }
}

fn is_candidate(binding: &Effective, bound: &Bound) -> bool {
    binding.candidate.as_ref().is_some_and(|candidate| candidate.bound == *bound)
}

/// Whether it speaks for a policy that fails everywhere; what a policy refuses with its own words may be wanted.
fn is_suspicious(fault: &Fault) -> bool {
    !matches!(fault.kind, FaultKind::Open | FaultKind::Admit | FaultKind::Missing | FaultKind::Disabled)
}
