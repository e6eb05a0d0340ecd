//! The guardian: the one live gateway of a region that counts an instance's heartbeats, checks it, and alone may rule
//! that its lease ended.
//!
//! A state machine without clock and I/O: `handle_*` takes what happened and when, `poll_*` hands out what to do. It
//! errs on the side of life. A lease ends only while this gateway demonstrably hears everything: it is a member of its
//! region, the registry proved within [`PROOF_HOLDS`] that nothing was missed, and the process ran without a pause.
//! Whenever one of these was not so, every lease counts a full TTL again from the moment when it is so again.
//!
//! - Renewed by heartbeat: it ends a TTL after the last beat, or, whatever beats, a TTL after the `exp` of the newest
//!   token that the record names.
//! - Renewed by checks: it ends a TTL after the last passing check, but not before `unhealthyAfter` checks in a row
//!   failed; so it is unhealthy first (or expires at that very failure, where the TTL is the shorter of the two), and a
//!   guardian that cannot keep up with its checks ends nothing. It outlives the token by
//!   [`Settings::check_outlives_token`]. Heartbeats do not renew it.
//!
//! What it rules is a proposal, made again until the registry shows that it was written or that it is moot. Writers
//! fence it by the record's revision and by this gateway's membership, so late or doubled rulings do no harm.

mod checking;
mod duty;
mod loads;
mod population;
mod rendezvous;
#[cfg(test)]
mod scenarios;
mod timers;

pub use checking::CheckOutcome;
pub use loads::{LOAD_EVERY, LoadWrite};

use crate::instance::{EXPIRED_KEPT, Instance, InstanceKey, LeaseId};
use crate::load::Beat;
use crate::names::GatewayId;
use crate::registration::{HealthCheck, Host};
use crate::status::CheckVerdict;
use crate::time::{Monotonic, UnixMillis};
use duty::{Duty, Renewal, renewal};
use loads::Loads;
use population::Population;
use rendezvous::{Ring, instance_hash};
use smol_str::SmolStr;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use timers::{NEVER, Timers};

/// How long the registry's word that nothing was missed is good. It gives it every second while it is connected.
pub const PROOF_HOLDS: Duration = Duration::from_millis(2_500);

/// A longer silence of the driver, which calls at least every [`TICK`], means that the process did not run.
pub const PAUSE: Duration = Duration::from_secs(2);

/// The driver polls at least this often.
pub const TICK: Duration = Duration::from_millis(250);

/// A ruling that was written should come back as a change of the record within this; else it is made again.
const ECHO: Duration = Duration::from_secs(10);
/// After a conflict: the record that won is on its way.
const AFTER_CONFLICT: Duration = Duration::from_secs(1);
/// After no answer: the next try.
const AFTER_NO_ANSWER: Duration = Duration::from_secs(2);
/// After a refusal, which another try alone will hardly change.
const AFTER_REFUSAL: Duration = Duration::from_secs(30);

/// A moment by both clocks. Leases and checks go by the monotonic one; the wall clock serves only for what records say
/// in wall time (the `exp` of a token, the time of expiry), where seconds do not matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// By the clock of this process.
    pub mono: Monotonic,
    /// By the calendar.
    pub wall: UnixMillis,
}

impl Moment {
    /// When `at` comes, by the monotonic clock; now if it has passed.
    fn until(self, at: UnixMillis) -> Monotonic {
        self.mono.plus(at.since(self.wall))
    }
}

/// What an operator may set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long an expired instance stays, as unhealthy, before it is removed.
    pub expired_kept: Duration,
    /// How long a lease that checks renew may outlive the token that it was taken with.
    pub check_outlives_token: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { expired_kept: EXPIRED_KEPT, check_outlives_token: Duration::from_secs(24 * 3600) }
    }
}

/// What is to be done with an instance's record. Reasons are for the record, the history and people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Its lease ended.
    Expire {
        /// Which renewal did not come.
        reason: SmolStr,
    },
    /// It was expired for long enough: delete the record.
    Remove {
        /// For how long.
        reason: SmolStr,
    },
    /// Its checks have established something else than the record says.
    Verdict {
        /// What they established.
        verdict: CheckVerdict,
        /// Why the last one failed; empty if it passed.
        detail: SmolStr,
    },
}

/// A write that the guardian wants made, on condition that the record and the membership are unchanged.
#[derive(Clone, Debug, PartialEq)]
pub struct Ruling {
    /// Which record.
    pub key: InstanceKey,
    /// The record that it is based on.
    pub instance: Arc<Instance>,
    /// The revision of that record.
    pub modified: u64,
    /// The revision of this gateway's membership.
    pub membership: u64,
    /// What to do.
    pub decision: Decision,
}

/// How a ruling's write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruled {
    /// It was written; the changed record will be seen.
    Applied,
    /// The record or the membership had changed.
    Conflict,
    /// The registry did not answer.
    NoAnswer,
    /// The registry refused the write as such.
    Refused,
}

/// A health check that is due now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Of which lease.
    pub lease: LeaseId,
    /// Where to ask.
    pub host: Host,
    /// Where to ask.
    pub port: u16,
    /// How to ask.
    pub check: HealthCheck,
    /// When it was given out; comes back with the result.
    pub asked: Monotonic,
}

/// The guardian's state. An instance costs about 100 bytes besides its record, and about 30 more if it is guarded.
#[derive(Debug)]
pub struct Guardian {
    me: GatewayId,
    settings: Settings,
    members: BTreeSet<GatewayId>,
    ring: Ring,
    /// The revision of our own membership while we hold it.
    membership: Option<u64>,
    connected: bool,
    /// When the registry last proved that nothing was missed.
    proved: Monotonic,
    /// When anything was last called.
    seen: Monotonic,
    /// Every lease counts a full TTL from here at least.
    floor: Monotonic,
    /// When the process last woke from a pause.
    woke: Monotonic,
    population: Population,
    /// Slots by lease, of all instances: loads are summed of those that others guard too.
    leases: BTreeMap<LeaseId, u32>,
    guarded: usize,
    loads: Loads,
    timers: Timers,
    /// Slots with a ruling that was due when they were looked at; looked at again when it is handed out.
    rulings: VecDeque<u32>,
    checks: VecDeque<u32>,
}

impl Guardian {
    /// A guardian of nothing yet, for the gateway `me`.
    #[must_use]
    pub fn new(me: GatewayId, settings: Settings, now: Moment) -> Self {
        let members = BTreeSet::new();
        Self {
            ring: Ring::new(&me, &members),
            me,
            settings,
            members,
            membership: None,
            connected: false,
            proved: now.mono,
            seen: now.mono,
            floor: now.mono,
            woke: now.mono,
            population: Population::default(),
            leases: BTreeMap::new(),
            guarded: 0,
            loads: Loads::default(),
            timers: Timers::default(),
            rulings: VecDeque::new(),
            checks: VecDeque::new(),
        }
    }

    /// How many instances this gateway guards.
    #[must_use]
    pub fn guarded(&self) -> usize {
        self.guarded
    }

    /// The live gateways of the region, as the registry's watch shows them.
    pub fn handle_members(&mut self, members: BTreeSet<GatewayId>, now: Moment) {
        self.observe(now);
        if members == self.members {
            return;
        }
        self.ring = Ring::new(&self.me, &members);
        self.members = members;
        for slot in self.population.slots() {
            self.assign(slot, now);
        }
        self.weigh_all(now);
    }

    /// The revision of this gateway's own membership; none while it holds none.
    pub fn handle_membership(&mut self, membership: Option<u64>, now: Moment) {
        self.observe(now);
        if membership != self.membership {
            self.membership = membership;
            self.floor = now.mono;
        }
    }

    /// An instance's record is now this, by the write of revision `modified`.
    pub fn handle_put(&mut self, key: &InstanceKey, instance: Arc<Instance>, modified: u64, now: Moment) {
        self.observe(now);
        if instance.id != key.id {
            // A foreign record; nothing could be found under its key again.
            return;
        }
        let Some(slot) = self.population.find(key) else {
            let lease = instance.lease.id;
            if let Some(slot) = self.population.insert(&key.service, instance, modified) {
                self.leases.insert(lease, slot);
                self.assign(slot, now);
            }
            return;
        };
        let Some(entry) = self.population.get_mut(slot) else { return };
        entry.modified = modified;
        let before = std::mem::replace(&mut entry.instance, instance);
        let lease = entry.instance.lease.id;
        if let Some(duty) = &mut entry.duty {
            duty.follow(&before, &entry.instance, now.mono);
        }
        let weighed = entry.load.is_some().then(|| Arc::clone(&entry.service));
        if before.lease.id != lease {
            entry.load = None;
            self.forget_lease(before.lease.id, slot);
            self.leases.insert(lease, slot);
        }
        self.examine(slot, now);
        weighed.into_iter().for_each(|service| self.weigh(&service, now));
    }

    /// An instance's record is gone.
    pub fn handle_removed(&mut self, key: &InstanceKey, now: Moment) {
        self.observe(now);
        if let Some(slot) = self.population.find(key) {
            self.remove(slot, now);
        }
    }

    /// The whole set of instances, after a gap in what the registry reported: beats may have been missed.
    pub fn handle_reset(&mut self, mut records: Vec<(InstanceKey, Arc<Instance>, u64)>, now: Moment) {
        self.observe(now);
        self.floor = now.mono;
        self.loads.forget();
        // In the order of keys each insertion is an append.
        records.sort_by(|(a, ..), (b, ..)| a.cmp(b));
        for slot in self.population.slots() {
            let known = self.population.get(slot).map(population::Entry::key);
            if known.is_some_and(|known| records.binary_search_by(|(key, ..)| key.cmp(&known)).is_err()) {
                self.remove(slot, now);
            }
        }
        for (key, instance, modified) in records {
            self.handle_put(&key, instance, modified, now);
        }
    }

    /// These leases were renewed, here or at another gateway. Unknown, superseded and expired ones renew nothing. A load
    /// counts until the lease reports another or ends.
    pub fn handle_beats(&mut self, beats: &[Beat], now: Moment) {
        self.observe(now);
        for Beat { lease, load } in beats {
            let Some(slot) = self.leases.get(lease).copied() else { continue };
            let Some(entry) = self.population.get_mut(slot) else { continue };
            if let (Some(duty), Renewal::Beats) = (&mut entry.duty, renewal(&entry.instance)) {
                // The timer stays where it is: it fires too early and is set anew.
                duty.renewed = now.mono;
            }
            if load.is_some() && entry.load != *load {
                entry.load = *load;
                let service = Arc::clone(&entry.service);
                self.weigh(&service, now);
            }
        }
    }

    /// The registry does not answer: beats and changes may be missed from now on.
    pub fn handle_lost(&mut self, now: Moment) {
        self.observe(now);
        self.connected = false;
        self.floor = now.mono;
    }

    /// The registry proved that everything which it reported until now is complete.
    pub fn handle_current(&mut self, now: Moment) {
        self.observe(now);
        self.connected = true;
        self.proved = now.mono;
    }

    /// How the check of `lease` that was given out at `asked` ended.
    pub fn handle_checked(&mut self, lease: LeaseId, asked: Monotonic, outcome: CheckOutcome, now: Moment) {
        self.observe(now);
        let Some(slot) = self.leases.get(&lease).copied() else { return };
        let Some(entry) = self.population.get_mut(slot) else { return };
        let instance = &entry.instance;
        let Some(check) = instance.declared.health_check.as_deref() else { return };
        let Some(Duty { checking: Some(checking), renewed, .. }) = &mut entry.duty else { return };
        if asked < self.woke && outcome != CheckOutcome::Passed {
            // The time that it took was ours, not the instance's.
            checking.discard(lease.0, now.mono);
        } else {
            if outcome == CheckOutcome::Passed && matches!(renewal(instance), Renewal::Checks(_)) {
                *renewed = now.mono;
            }
            checking.handle(outcome, check, lease.0, now.mono);
        }
        self.examine(slot, now);
    }

    /// How the write of a ruling ended.
    pub fn handle_ruled(&mut self, key: &InstanceKey, lease: LeaseId, ruled: Ruled, now: Moment) {
        self.observe(now);
        let Some(slot) = self.population.find(key) else { return };
        let Some(entry) = self.population.get_mut(slot).filter(|e| e.instance.lease.id == lease) else {
            return;
        };
        // Where the record has changed meanwhile, nothing is waited for any more.
        let Some(duty) = entry.duty.as_mut().filter(|duty| duty.wait > now.mono) else { return };
        duty.wait = now.mono.plus(match ruled {
            Ruled::Applied => ECHO,
            Ruled::Conflict => AFTER_CONFLICT,
            Ruled::NoAnswer => AFTER_NO_ANSWER,
            Ruled::Refused => AFTER_REFUSAL,
        });
        self.examine(slot, now);
    }

    /// The next ruling that is due. Each is handed out once; it comes again if nothing is heard of it.
    pub fn poll_ruling(&mut self, now: Moment) -> Option<Ruling> {
        if !self.advance(now) {
            return None;
        }
        let membership = self.membership?;
        while let Some(slot) = self.rulings.pop_front() {
            let Some(entry) = self.population.get_mut(slot) else { continue };
            let Some(duty) = entry.duty.as_mut().filter(|duty| duty.ruling_queued) else { continue };
            duty.ruling_queued = false;
            let prospect = duty
                .prospect(&entry.instance, &self.settings, self.floor, now)
                .filter(|prospect| prospect.at <= now.mono && duty.wait <= now.mono);
            let ruling = prospect.map(|prospect| {
                duty.wait = now.mono.plus(ECHO);
                let decision = prospect.cause.decision(&entry.instance, &self.settings);
                (Arc::clone(&entry.instance), entry.modified, decision)
            });
            let key = ruling.is_some().then(|| entry.key());
            self.examine(slot, now);
            if let (Some((instance, modified, decision)), Some(key)) = (ruling, key) {
                return Some(Ruling { key, instance, modified, membership, decision });
            }
        }
        None
    }

    /// The next check that is due. Checks go on while the registry is lost: what they establish is written later.
    pub fn poll_check(&mut self, now: Moment) -> Option<Check> {
        self.advance(now);
        while let Some(slot) = self.checks.pop_front() {
            let Some(entry) = self.population.get_mut(slot) else { continue };
            let Some(duty) = entry.duty.as_mut().filter(|duty| duty.check_queued) else { continue };
            duty.check_queued = false;
            let instance = &entry.instance;
            let due = match (&instance.declared.health_check, &mut duty.checking, instance.lease.expired_at) {
                (Some(check), Some(checking), None) if checking.next <= now.mono => {
                    checking.asked(check, now.mono);
                    Some(Check {
                        lease: instance.lease.id,
                        host: instance.declared.host.clone(),
                        port: instance.declared.port,
                        check: (**check).clone(),
                        asked: now.mono,
                    })
                }
                _ => None,
            };
            self.examine(slot, now);
            if due.is_some() {
                return due;
            }
        }
        None
    }

    /// When to poll again at the latest, if nothing happens before; the driver also polls every [`TICK`].
    #[must_use]
    pub fn next_poll(&self) -> Option<Monotonic> {
        self.timers.next()
    }

    /// Notices pauses, and lets every lease begin anew for as long as this gateway does not hear everything. True if it
    /// does, and may rule.
    fn observe(&mut self, now: Moment) -> bool {
        let paused = now.mono.since(self.seen) > PAUSE;
        if paused {
            self.woke = now.mono;
        }
        let hears = self.connected && now.mono.since(self.proved) <= PROOF_HOLDS && self.membership.is_some();
        let rules = hears && !paused;
        if !rules {
            self.floor = self.floor.max(now.mono);
        }
        self.seen = self.seen.max(now.mono);
        rules
    }

    fn advance(&mut self, now: Moment) -> bool {
        let rules = self.observe(now);
        let population = &self.population;
        self.timers.compact(self.guarded, |at, slot| {
            population.get(slot).and_then(|e| e.duty.as_ref()).is_some_and(|duty| duty.armed == at)
        });
        while let Some((at, slot)) = self.timers.pop(now.mono) {
            let Some(duty) = self.population.get_mut(slot).and_then(|e| e.duty.as_mut()) else { continue };
            if duty.armed == at {
                duty.armed = NEVER;
                self.examine(slot, now);
            }
        }
        rules
    }

    /// Queues what is due for a guarded instance and sets its timer for what comes next.
    fn examine(&mut self, slot: u32, now: Moment) {
        let Some(entry) = self.population.get_mut(slot) else { return };
        let Some(duty) = &mut entry.duty else { return };
        let mut next = NEVER;
        if !duty.ruling_queued
            && let Some(prospect) = duty.prospect(&entry.instance, &self.settings, self.floor, now)
        {
            let at = prospect.at.max(duty.wait);
            if at <= now.mono {
                duty.ruling_queued = true;
                self.rulings.push_back(slot);
            } else {
                next = next.min(at);
            }
        }
        let checked = entry.instance.lease.expired_at.is_none();
        if let Some(checking) = duty.checking.as_ref().filter(|_| checked && !duty.check_queued) {
            if checking.next <= now.mono {
                duty.check_queued = true;
                self.checks.push_back(slot);
            } else {
                next = next.min(checking.next);
            }
        }
        self.timers.arm(slot, next, &mut duty.armed);
    }

    /// Begins or ends the guardianship of an instance, as the members have it.
    fn assign(&mut self, slot: u32, now: Moment) {
        let Some(entry) = self.population.get_mut(slot) else { return };
        let mine = self.ring.is_mine(instance_hash(&entry.service, &entry.instance.id));
        match (mine, &entry.duty) {
            (true, None) => {
                entry.duty = Some(Duty::begin(&entry.instance, now.mono));
                self.guarded += 1;
                self.examine(slot, now);
            }
            (false, Some(_)) => {
                entry.duty = None;
                self.guarded = self.guarded.saturating_sub(1);
            }
            _ => {}
        }
    }

    fn remove(&mut self, slot: u32, now: Moment) {
        let Some(entry) = self.population.remove(slot) else { return };
        self.forget_lease(entry.instance.lease.id, slot);
        if entry.duty.is_some() {
            self.guarded = self.guarded.saturating_sub(1);
        }
        if entry.load.is_some() {
            self.weigh(&entry.service, now);
        }
    }

    fn forget_lease(&mut self, lease: LeaseId, slot: u32) {
        if self.leases.get(&lease) == Some(&slot) {
            self.leases.remove(&lease);
        }
    }
}
