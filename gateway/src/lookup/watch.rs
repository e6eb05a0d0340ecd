//! Watching final answers: one task for each distinct question, however many watch it. It wakes when the service's
//! snapshot changes, evaluates once, and wakes the watchers only if the answer's tag is another.

use super::answer::problem_tag;
use super::question::{Count, Question};
use super::{Evaluated, evaluate};
use crate::problem::Problem;
use crate::region::Region;
use meridian_policies::{FaultKind, WARMING};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;

/// The final answer to a question at one moment.
#[derive(Clone)]
pub struct Final {
    /// Its `ETag`.
    pub tag: Arc<str>,
    /// What it is made of, or why there is nothing.
    pub outcome: Result<Arc<Evaluated>, Problem>,
}

impl Final {
    /// The answer as it is now.
    pub async fn of(region: &Region, question: &Question) -> Self {
        match evaluate(region, question).await {
            Ok(evaluated) => Self { tag: evaluated.tag(question).into(), outcome: Ok(Arc::new(evaluated)) },
            Err(problem) => Self { tag: problem_tag(&problem).into(), outcome: Err(problem) },
        }
    }

    /// How soon it is to be evaluated again although no snapshot tells that there is another: where the policy was not ready,
    /// or rests after a failure.
    fn stands_for(&self) -> Option<Duration> {
        let reason = self.outcome.as_ref().ok()?.view().outcome.reason()?;
        match reason {
            WARMING => Some(NOT_READY),
            reason if reason == FaultKind::Missing.as_str() => Some(NOT_READY),
            // Enabling it is a change that is told.
            reason if reason.starts_with(FaultKind::Disabled.as_str()) => None,
            _ => Some(RESTS),
        }
    }
}

/// How soon an answer is evaluated again that was given before the policy was ready,
const NOT_READY: Duration = Duration::from_millis(250);
/// or while it rests after a failure: as lookups of one second are.
const RESTS: Duration = Duration::from_secs(1);

/// The watched questions.
pub struct Hub {
    region: Weak<Region>,
    subjects: Mutex<HashMap<Question, Weak<watch::Sender<Option<Final>>>>>,
    /// Where the tasks run: not on a thread that answers lookups.
    runtime: Handle,
    stats: Arc<WatchStats>,
}

/// Counters for the metrics.
#[derive(Debug, Default)]
pub struct WatchStats {
    /// Questions that are watched now.
    pub subjects: AtomicU64,
    /// Watchers that wait now.
    pub watchers: AtomicU64,
    /// Evaluations made for watchers.
    pub evaluations: AtomicU64,
    /// Answers that changed and woke their watchers.
    pub wakes: AtomicU64,
}

/// One watcher's place; dropping it leaves.
pub struct Watching {
    receiver: watch::Receiver<Option<Final>>,
    /// Keeps the subject's task alive.
    _subject: Arc<watch::Sender<Option<Final>>>,
    stats: Arc<WatchStats>,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.stats.watchers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Watching {
    /// The newest answer, if there has been one.
    #[must_use]
    pub fn newest(&self) -> Option<Final> {
        self.receiver.borrow().clone()
    }

    /// The newest answer of which `wanted` is true; waits for it. A slow reader skips to the newest.
    pub async fn until(&mut self, wanted: impl Fn(&Final) -> bool) -> Final {
        loop {
            let newest = self.receiver.borrow_and_update().clone();
            if let Some(newest) = newest.filter(&wanted) {
                return newest;
            }
            if self.receiver.changed().await.is_err() {
                // The sender lives as long as `self`.
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Hub {
    /// A hub without watchers.
    #[must_use]
    pub fn new(region: Weak<Region>, runtime: Handle, stats: Arc<WatchStats>) -> Self {
        Self { region, subjects: Mutex::default(), runtime, stats }
    }

    /// Watches a question's final answer. Questions that differ only in how many endpoints they want share it.
    pub fn watch(&self, question: &Question) -> Watching {
        let subject = Question { count: Count::All, explain: false, ..question.clone() };
        let mut subjects = self.subjects.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = subjects.get(&subject).and_then(Weak::upgrade).unwrap_or_else(|| {
            let sender = Arc::new(watch::Sender::new(None));
            subjects.retain(|_, sender| sender.strong_count() > 0);
            subjects.insert(subject.clone(), Arc::downgrade(&sender));
            self.stats.subjects.store(subjects.len() as u64, Ordering::Relaxed);
            let task = follow(self.region.clone(), subject, Arc::downgrade(&sender), Arc::clone(&self.stats));
            self.runtime.spawn(task);
            sender
        });
        self.stats.watchers.fetch_add(1, Ordering::Relaxed);
        Watching { receiver: sender.subscribe(), _subject: sender, stats: Arc::clone(&self.stats) }
    }
}

/// Keeps one subject's answer up to date until nobody watches it.
async fn follow(
    region: Weak<Region>,
    question: Question,
    sender: Weak<watch::Sender<Option<Final>>>,
    stats: Arc<WatchStats>,
) {
    loop {
        let Some(shared) = region.upgrade() else { return };
        // Subscribed before the evaluation, so that a change during it is seen after it.
        let mut changes = shared.directory.changes(&question.service);
        let answer = Final::of(&shared, &question).await;
        drop(shared);
        stats.evaluations.fetch_add(1, Ordering::Relaxed);
        let stands_for = answer.stands_for();
        let Some(subject) = sender.upgrade() else { return };
        let changed = subject.send_if_modified(|known| {
            let changed = known.as_ref().is_none_or(|known| known.tag != answer.tag);
            // The newest evaluation is kept even where its tag is the same: its bytes are the current ones.
            *known = Some(answer);
            changed
        });
        if changed {
            stats.wakes.fetch_add(1, Ordering::Relaxed);
        }
        let gone = Arc::downgrade(&subject);
        drop(subject);
        tokio::select! {
            () = changes.next() => {}
            () = tokio::time::sleep(stands_for.unwrap_or_default()), if stands_for.is_some() => {}
            () = abandoned(gone) => return,
        }
    }
}

/// Resolves some seconds after the last watcher left.
async fn abandoned(sender: Weak<watch::Sender<Option<Final>>>) {
    loop {
        tokio::time::sleep(Duration::from_secs(30)).await;
        if sender.strong_count() == 0 {
            return;
        }
    }
}
