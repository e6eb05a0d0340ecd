//! Drives the guardian: feeds it what happens, makes its checks, and writes its rulings, fenced.

mod loads;

use crate::clock;
use crate::health::Checker;
use meridian_model::guardian::{
    Check, CheckOutcome, Decision, Guardian, Moment, Ruled, Ruling, Settings, TICK,
};
use meridian_model::instance::{Instance, InstanceKey, LeaseId};
use meridian_model::load::Beat;
use meridian_model::names::{GatewayId, ServiceKey};
use meridian_model::time::Monotonic;
use meridian_registry::{
    Change, Committed, Condition, Key, Membership, Registry, RegistryError, Revision, Write, record,
};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

/// Rulings that are being written at once. After a mass death this bounds what one gateway asks of the registry.
const MAX_WRITES: usize = 64;

/// After a write without an answer nothing is written for this long; it doubles with each further one.
const FIRST_BACKOFF: Duration = Duration::from_millis(200);
const LAST_BACKOFF: Duration = Duration::from_secs(5);

/// The record of a service's load, with the revision that wrote it; none where it is gone.
pub type LoadRecord = (ServiceKey, Option<(u64, Revision)>);

/// A record with the revision that wrote it.
pub type Standing = (Arc<Instance>, Revision);

/// What the keeper and the outbox tell the guardian, in the order in which it happened.
#[derive(Debug)]
pub enum GuardianInput {
    /// The live gateways of the region.
    Members(BTreeSet<GatewayId>),
    /// Instances that were written, or removed where there is none.
    Instances(Vec<(InstanceKey, Option<Standing>)>),
    /// All instances: replaces what was known.
    Reset(Vec<(InstanceKey, Arc<Instance>, Revision)>),
    /// Leases that were renewed by a heartbeat, at this gateway or another.
    Beats(Vec<Beat>),
    /// Records of loads that were written or removed; after a reset, all of them.
    Loads(Vec<LoadRecord>),
    /// The registry does not answer.
    Lost,
    /// All that was reported is complete until now.
    Current,
}

/// Makes the history's entry for a ruling: of which instance, the record before and after, the action (`expire`,
/// `remove`, `check`) and the reason.
pub type HistoryEntry = Arc<
    dyn Fn(&InstanceKey, Option<&Instance>, Option<&Instance>, &'static str, &str) -> Option<Change>
        + Send
        + Sync,
>;

/// Counters for the metrics.
#[derive(Debug, Default)]
pub struct GuardianStats {
    /// Instances that this gateway guards now.
    pub guarded: AtomicU64,
    /// Leases that it ended.
    pub expired: AtomicU64,
    /// Expired instances that it removed.
    pub removed: AtomicU64,
    /// Verdicts of checks that it wrote.
    pub verdicts: AtomicU64,
    /// Loads of services that it wrote.
    pub loads: AtomicU64,
    /// Rulings that were overtaken by another write or a lost membership.
    pub conflicts: AtomicU64,
    /// Rulings that the registry did not answer.
    pub unanswered: AtomicU64,
    /// Rulings that the registry refused.
    pub refused: AtomicU64,
    /// Checks that passed.
    pub checks_passed: AtomicU64,
    /// Checks that failed.
    pub checks_failed: AtomicU64,
    /// Checks under way.
    pub checks_running: AtomicU64,
}

/// What the guardian works with.
pub struct Office {
    /// Where it writes.
    pub registry: Arc<dyn Registry>,
    /// This gateway.
    pub me: GatewayId,
    /// Its membership.
    pub membership: Membership,
    /// Makes the checks.
    pub checker: Arc<Checker>,
    /// Checks under way at once.
    pub max_checks: usize,
    /// Times that an operator may set.
    pub settings: Settings,
    /// How its deeds are recorded.
    pub history: HistoryEntry,
    /// What it counts.
    pub stats: Arc<GuardianStats>,
}

/// Starts the guardian. It ends when all senders of `inputs` are gone.
pub fn spawn(office: Office, inputs: mpsc::Receiver<GuardianInput>) -> JoinHandle<()> {
    let guardian = Guardian::new(office.me.clone(), office.settings, moment());
    let driver = Driver {
        guardian,
        office,
        writes: JoinSet::new(),
        loads: JoinSet::new(),
        checks: JoinSet::new(),
        backoff: Backoff::default(),
    };
    tokio::spawn(driver.run(inputs))
}

fn moment() -> Moment {
    Moment { mono: clock::monotonic_now(), wall: clock::unix_now() }
}

struct Written {
    key: InstanceKey,
    lease: LeaseId,
    ruled: Ruled,
}

struct Checked {
    lease: LeaseId,
    asked: Monotonic,
    outcome: CheckOutcome,
}

struct Driver {
    guardian: Guardian,
    office: Office,
    writes: JoinSet<Written>,
    loads: JoinSet<Ruled>,
    checks: JoinSet<Checked>,
    backoff: Backoff,
}

impl Driver {
    async fn run(mut self, mut inputs: mpsc::Receiver<GuardianInput>) {
        let mut membership = self.office.membership.clone();
        let mut joined = true;
        loop {
            // All that has happened already is taken in before anything is ruled: a beat that waits in the channel is
            // a beat that came.
            loop {
                match inputs.try_recv() {
                    Ok(input) => self.take_in(input),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            while let Some(written) = self.writes.try_join_next() {
                self.written(written.ok());
            }
            while let Some(told) = self.loads.try_join_next() {
                self.told(told.ok());
            }
            while let Some(checked) = self.checks.try_join_next() {
                self.checked(checked.ok());
            }
            let revision = *membership.borrow_and_update();
            let held = revision.filter(|_| joined).map(|revision| revision.0);
            self.guardian.handle_membership(held, moment());
            self.hand_out();
            let pause = self.pause();
            tokio::select! {
                input = inputs.recv() => match input {
                    Some(input) => self.take_in(input),
                    None => return,
                },
                changed = membership.changed(), if joined => joined = changed.is_ok(),
                Some(written) = self.writes.join_next() => self.written(written.ok()),
                Some(told) = self.loads.join_next() => self.told(told.ok()),
                Some(checked) = self.checks.join_next() => self.checked(checked.ok()),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn take_in(&mut self, input: GuardianInput) {
        let now = moment();
        match input {
            GuardianInput::Members(members) => self.guardian.handle_members(members, now),
            GuardianInput::Instances(changes) => {
                for (key, record) in changes {
                    match record {
                        Some((instance, modified)) => {
                            self.guardian.handle_put(&key, instance, modified.0, now)
                        }
                        None => self.guardian.handle_removed(&key, now),
                    }
                }
            }
            GuardianInput::Reset(records) => {
                let records =
                    records.into_iter().map(|(key, instance, modified)| (key, instance, modified.0));
                self.guardian.handle_reset(records.collect(), now);
            }
            GuardianInput::Beats(beats) => self.guardian.handle_beats(&beats, now),
            GuardianInput::Loads(records) => {
                let records =
                    records.into_iter().map(|(service, told)| (service, told.map(|(t, m)| (t, m.0))));
                self.guardian.handle_loads(records, now);
            }
            GuardianInput::Lost => self.guardian.handle_lost(now),
            GuardianInput::Current => self.guardian.handle_current(now),
        }
    }

    /// Starts the writes and checks that are due, as many as may run.
    fn hand_out(&mut self) {
        let now = moment();
        while self.writes.len() < MAX_WRITES && self.backoff.is_over() {
            let Some(ruling) = self.guardian.poll_ruling(now) else { break };
            let office = (Arc::clone(&self.office.registry), Arc::clone(&self.office.history));
            let (me, stats) = (self.office.me.clone(), Arc::clone(&self.office.stats));
            self.writes.spawn(async move {
                let (registry, history) = office;
                let ruled = write(&*registry, &history, me, &ruling, &stats).await;
                Written { lease: ruling.instance.lease.id, key: ruling.key, ruled }
            });
        }
        while self.loads.len() < loads::MAX_WRITES && self.backoff.is_over() {
            let Some(write) = self.guardian.poll_load(now) else { break };
            let (registry, me) = (Arc::clone(&self.office.registry), self.office.me.clone());
            let stats = Arc::clone(&self.office.stats);
            self.loads.spawn(async move { loads::write(&*registry, me, write, &stats).await });
        }
        while self.checks.len() < self.office.max_checks {
            let Some(check) = self.guardian.poll_check(now) else { break };
            let checker = Arc::clone(&self.office.checker);
            self.checks.spawn(async move {
                let outcome = checker.run(&check).await;
                let Check { lease, asked, .. } = check;
                Checked { lease, asked, outcome }
            });
        }
        self.office.stats.guarded.store(self.guardian.guarded() as u64, Ordering::Relaxed);
        self.office.stats.checks_running.store(self.checks.len() as u64, Ordering::Relaxed);
    }

    fn pause(&self) -> Duration {
        let due = self.guardian.next_poll().map(|at| at.since(clock::monotonic_now()));
        due.unwrap_or(TICK).clamp(Duration::from_millis(1), TICK)
    }

    /// A write that panicked says nothing; the guardian rules again when no echo comes.
    fn written(&mut self, written: Option<Written>) {
        let Some(Written { key, lease, ruled }) = written else { return };
        self.backoff.note(ruled);
        self.guardian.handle_ruled(&key, lease, ruled, moment());
    }

    /// The guardian comes back to a load whose record is not seen.
    fn told(&mut self, told: Option<Ruled>) {
        told.into_iter().for_each(|ruled| self.backoff.note(ruled));
    }

    /// A check that panicked says nothing; the guardian asks again later.
    fn checked(&mut self, checked: Option<Checked>) {
        let Some(Checked { lease, asked, outcome }) = checked else { return };
        let stats = &self.office.stats;
        let counter =
            if outcome == CheckOutcome::Passed { &stats.checks_passed } else { &stats.checks_failed };
        counter.fetch_add(1, Ordering::Relaxed);
        self.guardian.handle_checked(lease, asked, outcome, moment());
    }
}

/// Keeps writes away from a registry that does not answer.
#[derive(Default)]
struct Backoff {
    until: Option<Instant>,
    last: Duration,
}

impl Backoff {
    fn is_over(&self) -> bool {
        self.until.is_none_or(|until| until <= Instant::now())
    }

    fn note(&mut self, ruled: Ruled) {
        match ruled {
            Ruled::NoAnswer if self.is_over() => {
                self.last = (self.last * 2).clamp(FIRST_BACKOFF, LAST_BACKOFF);
                self.until = Some(Instant::now() + self.last);
            }
            // One of those that were under way together with the one that began the backoff.
            Ruled::NoAnswer => {}
            Ruled::Applied | Ruled::Conflict | Ruled::Refused => *self = Self::default(),
        }
    }
}

/// Writes a ruling on condition that neither the record nor this gateway's membership has changed.
async fn write(
    registry: &dyn Registry,
    history: &HistoryEntry,
    me: GatewayId,
    ruling: &Ruling,
    stats: &GuardianStats,
) -> Ruled {
    let target = || Key::Instance(ruling.key.clone());
    let (before, now) = (&*ruling.instance, clock::unix_now());
    let mut after = before.clone();
    after.updated_at = now;
    let (action, reason, after) = match &ruling.decision {
        Decision::Expire { reason } => {
            after.lease.expired_at = Some(now);
            after.reason = reason.clone();
            ("expire", reason, Some(after))
        }
        Decision::Verdict { verdict, detail } => {
            after.check = *verdict;
            after.check_detail = detail.clone();
            ("check", detail, Some(after))
        }
        Decision::Remove { reason } => ("remove", reason, None),
    };
    let change = match after.as_ref().map(record::encode).transpose() {
        Ok(Some(value)) => Change::Put(target(), value),
        Ok(None) => Change::Delete(target()),
        Err(error) => return unwritten(ruling, &error, stats),
    };
    let entry = history(&ruling.key, Some(before), after.as_ref(), action, reason);
    let write = Write {
        conditions: vec![
            Condition::Unchanged(target(), Revision(ruling.modified)),
            Condition::Unchanged(Key::Member(me), Revision(ruling.membership)),
        ],
        changes: std::iter::once(change).chain(entry).collect(),
    };
    match registry.commit(write).await {
        Ok(Committed::Applied(_)) => {
            let counter = match ruling.decision {
                Decision::Expire { .. } => &stats.expired,
                Decision::Remove { .. } => &stats.removed,
                Decision::Verdict { .. } => &stats.verdicts,
            };
            counter.fetch_add(1, Ordering::Relaxed);
            tracing::info!(instance = %ruling.key, action, reason = reason.as_str(), "ruled");
            Ruled::Applied
        }
        Ok(Committed::Conflict(_)) => {
            stats.conflicts.fetch_add(1, Ordering::Relaxed);
            Ruled::Conflict
        }
        Err(error) => unwritten(ruling, &error, stats),
    }
}

fn unwritten(ruling: &Ruling, error: &RegistryError, stats: &GuardianStats) -> Ruled {
    match error {
        RegistryError::Unavailable(_) => {
            stats.unanswered.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(instance = %ruling.key, %error, "a ruling waits");
            Ruled::NoAnswer
        }
        RegistryError::Refused(_) | RegistryError::OtherRegion { .. } => {
            stats.refused.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(instance = %ruling.key, %error, "a ruling was refused");
            Ruled::Refused
        }
    }
}

#[cfg(test)]
mod tests;
