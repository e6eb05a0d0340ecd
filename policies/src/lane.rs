//! What waits for one preparer, and in which order it is handed out: services, questions and canaries in turn, so that
//! none of them starves another, and among questions one of each service, so that no service starves another.

use crate::clerk::{Evaluate, Job};
use crate::library::Library;
use meridian_model::binding::Effective;
use meridian_model::names::PolicyVersion;
use std::collections::{HashMap, VecDeque};
use std::sync::mpsc::Sender;

/// The preparers, apart so that the slow delay the slow only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LaneName {
    /// Standard policies, and services that no policy can serve.
    House,
    /// Uploaded policies that prepare quickly.
    Quick,
    /// Uploaded policies that do not, and when there is nothing else, bringing services together that share too many cells:
    /// nobody waits for that, and it takes longer than a lookup may.
    Slow,
}

impl LaneName {
    pub(crate) const ALL: [Self; 3] = [Self::House, Self::Quick, Self::Slow];

    /// Where a binding's active version is prepared. A slow former version is prepared along with it, so it counts too.
    pub(crate) fn of(library: &Library, binding: &Effective) -> Self {
        let runs = binding.disabled.is_none();
        let active = if runs { Self::of_version(library, &binding.active.version) } else { Self::House };
        if active == Self::House && binding.activation.soaked && runs {
            return active;
        }
        let formers = binding.last_good.iter().map(|former| Self::of_version(library, &former.version));
        formers.fold(active, Self::max)
    }

    /// Where its canary is, if it has one.
    pub(crate) fn of_canary(library: &Library, binding: &Effective) -> Self {
        let canary = binding.candidate.as_ref().filter(|candidate| candidate.threshold() > 0);
        canary.map_or(Self::House, |canary| Self::of_version(library, &canary.bound.version))
    }

    fn of_version(library: &Library, version: &PolicyVersion) -> Self {
        match library.get(version) {
            Some(compiled) if compiled.is_standard() => Self::House,
            Some(compiled) if compiled.is_slow() => Self::Slow,
            Some(_) => Self::Quick,
            None => Self::House,
        }
    }
}

/// What a preparer is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Services,
    Questions,
    Canaries,
}

impl Kind {
    /// The turns, beginning with the one after this.
    pub(crate) fn turns_after(self) -> [Self; 3] {
        match self {
            Self::Services => [Self::Questions, Self::Canaries, Self::Services],
            Self::Questions => [Self::Canaries, Self::Services, Self::Questions],
            Self::Canaries => [Self::Services, Self::Questions, Self::Canaries],
        }
    }
}

/// One preparer, as the clerk sees it.
pub(crate) struct Lane {
    pub(crate) name: LaneName,
    jobs: Sender<Job>,
    pub(crate) busy: bool,
    /// Services to prepare. One whose entry says that it waits elsewhere by now is passed over.
    pub(crate) services: VecDeque<u32>,
    pub(crate) questions: Questions,
    /// Services whose canary is to be prepared.
    canaries: VecDeque<u32>,
    /// What was handed out last.
    pub(crate) last: Kind,
}

impl Lane {
    pub(crate) fn new(name: LaneName, jobs: Sender<Job>) -> Self {
        Self {
            name,
            jobs,
            busy: false,
            services: VecDeque::new(),
            questions: Questions::default(),
            canaries: VecDeque::new(),
            last: Kind::Canaries,
        }
    }

    pub(crate) fn hand_out(&mut self, job: Job) {
        self.busy = self.jobs.send(job).is_ok();
    }

    pub(crate) fn push_canary(&mut self, slot: u32) {
        if !self.canaries.contains(&slot) {
            self.canaries.push_back(slot);
        }
    }

    pub(crate) fn pop_canary(&mut self) -> Option<u32> {
        self.canaries.pop_front()
    }
}

/// Questions that wait at one preparer, and those of one service among them; one more is answered by the native fallback.
const MAX_QUESTIONS: usize = 4_096;
const MAX_QUESTIONS_OF_ONE: usize = 256;

/// Questions off the hot path.
#[derive(Default)]
pub(crate) struct Questions {
    of: HashMap<u32, VecDeque<Evaluate>>,
    turns: VecDeque<u32>,
    count: usize,
}

impl Questions {
    /// Takes a question in; one too many is dropped, and its caller falls back.
    pub(crate) fn push(&mut self, question: Evaluate) {
        if self.count >= MAX_QUESTIONS {
            return;
        }
        let slot = question.snapshot.slot;
        let waiting = self.of.entry(slot).or_default();
        if waiting.len() >= MAX_QUESTIONS_OF_ONE {
            return;
        }
        if waiting.is_empty() {
            self.turns.push_back(slot);
        }
        waiting.push_back(question);
        self.count += 1;
    }

    /// The next one that somebody still waits for.
    pub(crate) fn pop(&mut self) -> Option<Evaluate> {
        while let Some(slot) = self.turns.pop_front() {
            let Some(mut waiting) = self.of.remove(&slot) else { continue };
            while let Some(question) = waiting.pop_front() {
                self.count -= 1;
                if question.answer.is_closed() {
                    continue;
                }
                if !waiting.is_empty() {
                    self.turns.push_back(slot);
                    self.of.insert(slot, waiting);
                }
                return Some(question);
            }
        }
        None
    }
}
