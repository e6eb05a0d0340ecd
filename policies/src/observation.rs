//! What lookups show of a version that is being tried, or has yet to soak.
//!
//! Workers count, each for itself; preparers compare plans, once per snapshot and caller. The clerk multiplies the two
//! when it is asked, so that nothing is computed where lookups run.

use crate::callers::CallerId;
use crate::fault::Fault;
use crate::shadow::Example;
use crate::stats::Own;
use meridian_model::binding::{Bound, Effective, Source, Stage};
use meridian_model::contrast::Contrast;
use meridian_model::names::ServiceKey;
use meridian_model::rollout::Evidence;
use meridian_model::snapshot::Snapshot;
use meridian_model::time::UnixMillis;
use smol_str::format_smolstr;
use std::sync::Arc;

/// What one worker counts of one caller of an observed service, on a cache line that no other worker writes.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Counts {
    pub(crate) lookups: Own,
    /// Those that the canary was asked in.
    pub(crate) canary: Own,
}

/// One caller of an observed service, as one preparation left it.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) caller: CallerId,
    /// One for each worker.
    pub(crate) counts: Vec<Arc<Counts>>,
    /// Whether the active version answers this caller, and not what stands in for it.
    pub(crate) answers: bool,
    /// The active version beside the one before it.
    pub(crate) active: Option<Contrast>,
}

/// What was seen of one version.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The version.
    pub bound: Bound,
    /// Since when it is what it is.
    pub since: UnixMillis,
    /// What was seen.
    pub evidence: Evidence,
    /// Lookups that a shadow answered differently.
    pub examples: Vec<Example>,
}

/// What was seen of the versions of one service.
#[derive(Clone, Debug)]
pub struct Observation {
    /// The service.
    pub service: ServiceKey,
    /// Whose binding is in force for it.
    pub source: Source,
    /// The active version.
    pub active: Seen,
    /// The candidate.
    pub candidate: Option<Seen>,
}

/// Sets of counters that workers may still write, at most.
const MAX_SETS: usize = 8;

/// What is noted of one service until its binding changes.
#[derive(Debug)]
pub(crate) struct Book {
    service: ServiceKey,
    binding: Arc<Effective>,
    active: Evidence,
    candidate: Evidence,
    examples: Vec<Example>,
    sets: Vec<Vec<Row>>,
}

#[derive(Debug)]
struct Row {
    caller: CallerId,
    counts: Vec<(Arc<Counts>, u64, u64)>,
    /// Lookups that were not made at a worker.
    asked: u64,
    answers: bool,
    active: Option<Contrast>,
    candidate: Option<Contrast>,
}

/// What the evidence of an active version is about.
fn active_of(binding: &Effective) -> (&Bound, UnixMillis, Source, bool) {
    (&binding.active, binding.activation.since, binding.source, binding.disabled.is_some())
}

impl Book {
    pub(crate) fn new(snapshot: &Snapshot) -> Self {
        Self {
            service: snapshot.key.clone(),
            binding: Arc::clone(&snapshot.binding),
            active: Evidence::default(),
            candidate: Evidence::default(),
            examples: Vec::new(),
            sets: Vec::new(),
        }
    }

    /// Whether it is about the versions of this binding. A percentage may change without anything beginning anew.
    pub(crate) fn is_about(&self, binding: &Effective) -> bool {
        let candidate =
            |binding: &Effective| binding.candidate.as_ref().map(|c| (c.bound.clone(), c.stage, c.since));
        active_of(&self.binding) == active_of(binding) && candidate(&self.binding) == candidate(binding)
    }

    /// Goes on with another binding: what was seen of its active version counts on where that stands as it did.
    pub(crate) fn turn_to(&mut self, snapshot: &Snapshot) {
        let stands = active_of(&self.binding) == active_of(&snapshot.binding);
        self.collect();
        let before = std::mem::replace(self, Self::new(snapshot));
        if stands {
            self.active = before.active;
        }
    }

    /// Whether this is the candidate that it is about.
    pub(crate) fn has_candidate(&self, bound: &Bound) -> bool {
        self.binding.candidate.as_ref().is_some_and(|candidate| candidate.bound == *bound)
    }

    /// A preparation gave workers new counters.
    pub(crate) fn begin(&mut self, watched: Vec<Watched>) {
        self.collect();
        // Workers let go of counters when they take the next; what they count until then is collected too.
        self.sets.retain(|set| {
            set.iter().flat_map(|row| &row.counts).any(|(counts, ..)| Arc::strong_count(counts) > 1)
        });
        if self.sets.len() >= MAX_SETS {
            self.sets.remove(0);
        }
        let rows = watched.into_iter().map(|Watched { caller, counts, answers, active }| {
            // Until it is compared anew, the candidate's answer is taken to be as it was.
            let last = self.sets.last().and_then(|set| set.iter().find(|row| row.caller == caller));
            let candidate = last.and_then(|row| row.candidate.clone());
            let counts = counts.into_iter().map(|c| (c, 0, 0)).collect();
            Row { caller, counts, asked: 0, answers, active, candidate }
        });
        let rows = rows.collect();
        self.sets.push(rows);
    }

    /// The candidate was compared with the active version, for this caller.
    pub(crate) fn compared(&mut self, caller: CallerId, contrast: Contrast) {
        self.candidate.clamped = self.candidate.clamped.max(contrast.clamped);
        if let Some(row) =
            self.sets.last_mut().and_then(|set| set.iter_mut().find(|row| row.caller == caller))
        {
            row.candidate = Some(contrast);
        }
    }

    /// A lookup was answered off the workers' path: several endpoints, all of them, or for a watch.
    pub(crate) fn asked(&mut self, caller: CallerId) {
        if let Some(row) =
            self.sets.last_mut().and_then(|set| set.iter_mut().find(|row| row.caller == caller))
        {
            row.asked += 1;
        }
    }

    /// One of the versions failed.
    pub(crate) fn failed(&mut self, bound: &Bound, fault: &Fault) {
        // What was answered before it is no clean time after it.
        self.collect();
        let candidate = self.binding.candidate.as_ref().is_some_and(|c| c.bound == *bound);
        let evidence = match candidate {
            true => &mut self.candidate,
            false if self.binding.active == *bound => &mut self.active,
            false => return,
        };
        evidence.faults += 1;
        evidence.clean = 0;
        evidence.last_fault = format_smolstr!("{fault}");
    }

    /// A shadow was asked, so often; its answer would have been another, so often.
    pub(crate) fn shadowed(&mut self, asked: u64, changed: f64, examples: Vec<Example>) {
        self.candidate.sampled = true;
        self.candidate.answered += asked;
        self.candidate.changed += changed;
        self.examples.extend(examples);
        let surplus = self.examples.len().saturating_sub(crate::shadow::MAX_EXAMPLES);
        self.examples.drain(..surplus);
    }

    fn collect(&mut self) {
        let canary = self.binding.candidate.as_ref().is_some_and(|c| c.stage == Stage::Canary);
        for row in self.sets.iter_mut().flatten() {
            let (mut lookups, mut tried) = (std::mem::take(&mut row.asked), 0);
            for (counts, seen, seen_tried) in &mut row.counts {
                let (now, now_tried) = (counts.lookups.get(), counts.canary.get());
                lookups += now.saturating_sub(*seen);
                tried += now_tried.saturating_sub(*seen_tried);
                (*seen, *seen_tried) = (now, now_tried);
            }
            if row.answers {
                self.active.answered += lookups.saturating_sub(tried);
                self.active.clean += lookups.saturating_sub(tried);
            }
            if let Some(contrast) = &row.active {
                self.active.lookups += lookups;
                self.active.clamped = self.active.clamped.max(contrast.clamped);
                contrast.weigh(lookups, &mut self.active);
            }
            self.candidate.answered += tried;
            self.candidate.clean += tried;
            if let Some(contrast) = &row.candidate {
                self.candidate.lookups += lookups;
                let changed = self.candidate.changed;
                contrast.weigh(lookups, &mut self.candidate);
                if !canary {
                    // The shadow is asked for real, with the keys of real lookups.
                    self.candidate.changed = changed;
                }
            }
        }
        self.active.fade();
        if canary {
            self.candidate.fade();
        }
    }

    /// All that was seen until now.
    pub(crate) fn read(&mut self) -> Observation {
        self.collect();
        let candidate = self.binding.candidate.as_ref().map(|candidate| Seen {
            bound: candidate.bound.clone(),
            since: candidate.since,
            evidence: self.candidate.clone(),
            examples: self.examples.clone(),
        });
        let stands_in = self.sets.last().is_some_and(|set| set.iter().any(|row| !row.answers));
        Observation {
            service: self.service.clone(),
            source: self.binding.source,
            active: Seen {
                bound: self.binding.active.clone(),
                since: self.binding.activation.since,
                evidence: Evidence { rests: stands_in, ..self.active.clone() },
                examples: Vec::new(),
            },
            candidate,
        }
    }
}
