//! The clerk's part in candidates: who is prepared as a canary or a shadow, and what is noted of observed bindings.

use crate::callers::{CallerId, Known};
use crate::canary::Split;
use crate::clerk::{Clerk, Group, Job};
use crate::inbox::{CanaryParcel, News};
use crate::lane::LaneName;
use crate::observation::{Book, Watched};
use crate::preparation::{Canary, CanaryOrder};
use crate::shadow;
use crate::view::View;
use meridian_model::binding::{Bound, Stage};
use meridian_model::contrast::Contrast;
use meridian_model::snapshot::Snapshot;
use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

impl Clerk {
    /// Notes what was prepared of an observed binding.
    pub(crate) fn observe(&mut self, slot: u32, snapshot: &Snapshot, watched: Vec<Watched>) {
        if !snapshot.binding.is_observed() {
            self.books.remove(&slot);
            return;
        }
        let book = self.books.entry(slot).or_insert_with(|| Book::new(snapshot));
        if !book.is_about(&snapshot.binding) {
            book.turn_to(snapshot);
        }
        book.begin(watched);
    }

    /// The notes on a service, if they are about this candidate.
    pub(crate) fn book_of(&mut self, slot: u32, bound: &Bound) -> Option<&mut Book> {
        self.books.get_mut(&slot).filter(|book| book.has_candidate(bound))
    }

    /// The service has no shadow, if it had one.
    pub(crate) fn end_shadow(&mut self, slot: u32) {
        if self.shadowed.remove(&slot) {
            self.shadows.forget(slot);
        }
    }

    /// The active version is prepared: now the candidate, if there is one.
    pub(crate) fn stage(&mut self, slot: u32, now: Instant) {
        let Some(entry) = self.services.get(&slot) else { return };
        let binding = &entry.latest.binding;
        let Some(candidate) = &binding.candidate else {
            return self.end_shadow(slot);
        };
        let bound = candidate.bound.clone();
        if entry.rests(&bound, now) {
            return;
        }
        if let Some((until, _)) = self.quarantine.rests(&bound, now) {
            return self.stage_timers.push(Reverse((until, slot)));
        }
        if !self.library.contains(&bound.version) {
            // It is prepared along with the service when it comes.
            if let Some(entry) = self.services.get_mut(&slot) {
                entry.missing.push(bound.version);
            }
            return;
        }
        match candidate.stage {
            Stage::Canary if candidate.threshold() > 0 => {
                let name = LaneName::of_canary(&self.library, binding);
                if let Some(lane) = self.lane_mut(name) {
                    lane.push_canary(slot);
                }
                self.end_shadow(slot);
            }
            Stage::Canary => {}
            Stage::Shadow => {
                if let Some((snapshot, callers)) = self.seated(slot) {
                    self.shadowed.insert(slot);
                    self.shadows.prepare(shadow::Order { snapshot, bound, callers });
                }
            }
        }
    }

    /// The callers of a service with the views that answer them, and the snapshot of these.
    fn seated(&self, slot: u32) -> Option<(Arc<Snapshot>, Vec<(Arc<Known>, Arc<View>)>)> {
        let entry = self.services.get(&slot)?;
        let built = entry.built.as_ref()?;
        let callers: Vec<_> = entry
            .callers
            .iter()
            .filter_map(|known| Some((Arc::clone(known), Arc::clone(built.views.get(&known.id)?))))
            .collect();
        let snapshot = Arc::clone(&callers.first()?.1.snapshot);
        Some((snapshot, callers))
    }

    pub(crate) fn next_canary(&mut self, lane: usize, now: Instant) -> Option<Job> {
        while let Some(slot) = self.lanes.get_mut(lane)?.pop_canary() {
            let Some((snapshot, callers)) = self.seated(slot) else { continue };
            let Some(entry) = self.services.get(&slot) else { continue };
            let candidate = snapshot.binding.candidate.as_ref();
            if candidate
                .is_none_or(|c| entry.rests(&c.bound, now) || self.quarantine.rests(&c.bound, now).is_some())
            {
                continue;
            }
            let workers = entry.built.as_ref().map(|built| built.workers.clone()).unwrap_or_default();
            return Some(Job::Canary { order: CanaryOrder { snapshot, callers }, workers });
        }
        None
    }

    /// A canary was prepared: it goes to the workers, and what failed is noted.
    pub(crate) fn bred(&mut self, order: &CanaryOrder, canary: Canary, workers: &[usize], now: Instant) {
        let slot = order.snapshot.slot;
        let Some(bound) = order.snapshot.binding.candidate.as_ref().map(|c| c.bound.clone()) else { return };
        let Canary { cells, views, contrasts, faults, bytes } = canary;
        self.compared(slot, &bound, contrasts);
        views.iter().for_each(|(_, view, _)| self.counters.clamped(view.plans.clamped));
        faults.iter().for_each(|fault| self.counters.fault(fault.kind));
        self.blame_candidate(slot, &bound, &faults, !views.is_empty(), now);
        if !views.is_empty() {
            self.works(slot, &bound);
        }
        let Some(split) = Split::of(&order.snapshot) else { return };
        let Some(built) = self.services.get_mut(&slot).and_then(|entry| entry.built.as_mut()) else { return };
        if views.is_empty() {
            return;
        }
        let active: HashMap<CallerId, &Arc<View>> =
            order.callers.iter().map(|(known, view)| (known.id, view)).collect();
        let tag = |(caller, view, _): &(CallerId, Arc<View>, Vec<crate::cell::Handle>)| {
            Some((*caller, split.merge(active.get(caller)?, view).fingerprint(None)))
        };
        let tags: HashMap<CallerId, u128> = views.iter().filter_map(tag).collect();
        let bytes = bytes + views.iter().map(|(_, view, _)| view.estimated_bytes()).sum::<usize>();
        let group = self.next_group;
        self.next_group += 1;
        built.groups.push(group);
        let members = HashSet::from([slot]);
        self.groups.insert(group, Group { members, bytes, cells: cells.len(), shared: None });
        self.bytes += bytes;
        for (at, (cell, worker)) in cells.into_iter().zip(workers).enumerate() {
            let Some(inbox) = self.workers.get(worker) else { continue };
            let seat = |(caller, view, handles): &(CallerId, Arc<View>, Vec<crate::cell::Handle>)| {
                Some((*caller, Arc::clone(view), *handles.get(at)?, *tags.get(caller)?))
            };
            let views = views.iter().filter_map(seat).collect();
            let dropped = inbox.put(News::Canary(CanaryParcel { slot, cell, views }));
            self.counters.undelivered.fetch_add(dropped.len() as u64, Ordering::Relaxed);
        }
        self.evict(now);
    }

    /// A candidate was compared with the active version.
    pub(crate) fn compared(&mut self, slot: u32, bound: &Bound, contrasts: Vec<(CallerId, Contrast)>) {
        if !contrasts.is_empty() {
            self.works(slot, bound);
        }
        if let Some(book) = self.book_of(slot, bound) {
            contrasts.into_iter().for_each(|(caller, contrast)| book.compared(caller, contrast));
        }
    }
}
