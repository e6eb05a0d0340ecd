//! What the clerk knows of one service: who asks for it, what was prepared, and which of its policies rest.

use crate::callers::{CallerId, Known};
use crate::clerk::Waiter;
use crate::fault::Fault;
use crate::lane::LaneName;
use crate::limits::{BACKOFF, BACKOFF_FORGOTTEN, CALLER_BACKOFF, PROBATION, PROBATION_FAULTS};
use crate::preparation::Banned;
use crate::view::View;
use meridian_model::binding::Bound;
use meridian_model::names::PolicyVersion;
use meridian_model::snapshot::Snapshot;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A policy of a service that rests after a fault.
struct Ban {
    bound: Bound,
    /// For one caller only, where it failed for that one only.
    caller: Option<CallerId>,
    fault: Fault,
    until: Instant,
    pause: Duration,
    /// How often it has failed, of the same trouble.
    times: u32,
    /// Whether it is asked nevertheless when the service changes: what made no sense of one snapshot may of the next.
    asked: bool,
}

/// For how long after a rest a failure may still be one of the cells from before it.
const REMADE: Duration = Duration::from_secs(1);

/// Who prepares a service.
#[derive(Clone, Copy)]
pub(crate) struct Build {
    /// Of the order, so that the answer to one that was given up is known.
    pub(crate) ticket: u64,
    pub(crate) lane: LaneName,
}

/// What is known of one service.
pub(crate) struct Entry {
    pub(crate) latest: Arc<Snapshot>,
    pub(crate) callers: Vec<Arc<Known>>,
    /// Where it waits.
    pub(crate) queued: Option<LaneName>,
    pub(crate) building: Option<Build>,
    /// Something changed while it was being prepared.
    pub(crate) dirty: bool,
    pub(crate) waiters: Vec<(CallerId, Waiter)>,
    pub(crate) built: Option<Built>,
    bans: Vec<Ban>,
    /// Versions that serve some caller, or stand ready to.
    pub(crate) works: Vec<Bound>,
    pub(crate) missing: Vec<PolicyVersion>,
    /// When a policy of it is tried again that rests whatever it is bound to.
    pub(crate) wakes: Option<Instant>,
    /// Views for `n=all` and watches, of callers that no lookup has asked for.
    pub(crate) evaluated: HashMap<CallerId, Arc<View>>,
}

pub(crate) struct Built {
    pub(crate) views: HashMap<CallerId, Arc<View>>,
    pub(crate) workers: Vec<usize>,
    pub(crate) groups: Vec<u64>,
    pub(crate) bytes: usize,
}

impl Entry {
    pub(crate) fn new(latest: Arc<Snapshot>) -> Self {
        Self {
            latest,
            callers: Vec::new(),
            queued: None,
            building: None,
            dirty: false,
            waiters: Vec::new(),
            built: None,
            bans: Vec::new(),
            works: Vec::new(),
            missing: Vec::new(),
            wakes: None,
            evaluated: HashMap::new(),
        }
    }

    /// Whether this policy rests at `now`.
    pub(crate) fn rests(&self, bound: &Bound, now: Instant) -> bool {
        self.bans
            .iter()
            .any(|ban| ban.bound == *bound && ban.caller.is_none() && !ban.asked && ban.until > now)
    }

    pub(crate) fn banned(&self, now: Instant) -> Vec<Banned> {
        let bans = self.bans.iter().filter(|ban| !ban.asked && ban.until > now);
        bans.map(|ban| Banned { bound: ban.bound.clone(), caller: ban.caller, fault: ban.fault.clone() })
            .collect()
    }

    /// Lets a policy rest, for one caller or for all; returns until when.
    pub(crate) fn ban(
        &mut self,
        bound: Bound,
        caller: Option<CallerId>,
        fault: Fault,
        now: Instant,
    ) -> Instant {
        self.put(bound, caller, fault, now, false)
    }

    /// When to ask a policy again that serves nobody here, although it could be asked: else one that makes no sense would be
    /// found out only by as many changes of the service as it has patience.
    pub(crate) fn again(&mut self, bound: Bound, fault: Fault, now: Instant) -> Instant {
        self.put(bound, None, fault, now, true)
    }

    /// Whether it is known that this policy makes no sense here, and when it is asked again.
    pub(crate) fn is_asked_again(&self, bound: &Bound, now: Instant) -> bool {
        self.bans.iter().any(|ban| ban.asked && ban.bound == *bound && ban.until > now)
    }

    /// Whether anything rests: who forgets that asks again at once.
    pub(crate) fn has_resting(&self, now: Instant) -> bool {
        self.bans.iter().any(|ban| ban.caller.is_none() && ban.until > now)
    }

    /// A question found that it fails for this caller: until when it then rests or is not asked of again, unless that is known.
    pub(crate) fn fails_for(
        &mut self,
        bound: &Bound,
        caller: Option<CallerId>,
        fault: &Fault,
        now: Instant,
    ) -> Option<Instant> {
        let known = |ban: &Ban| {
            ban.bound == *bound && (ban.caller.is_none() || ban.caller == caller) && ban.until > now
        };
        if self.bans.iter().any(known) {
            return None;
        }
        Some(self.put(bound.clone(), caller, fault.clone(), now, !fault.ends_instance()))
    }

    fn put(
        &mut self,
        bound: Bound,
        caller: Option<CallerId>,
        fault: Fault,
        now: Instant,
        asked: bool,
    ) -> Instant {
        let (binding, callers) = (&self.latest.binding, &self.callers);
        let (shortest, longest) = if caller.is_some() { CALLER_BACKOFF } else { BACKOFF };
        let on_probation = caller.is_none() && self.is_on_probation(&bound);
        self.bans.retain(|ban| {
            let asks = ban.caller.is_none_or(|id| callers.iter().any(|known| known.id == id));
            asks && binding.versions().any(|bound| *bound == ban.bound)
        });
        let of_same = |ban: &Ban| ban.bound == bound && ban.caller == caller;
        let at = self.bans.iter().position(|ban| of_same(ban) && ban.asked == asked);
        let known = at.and_then(|at| self.bans.get(at));
        if let Some(ban) = known.filter(|ban| ban.until > now) {
            return ban.until;
        }
        // One that fails now in this way and now in that is the same trouble.
        let recent =
            |ban: &&Ban| of_same(ban) && now.saturating_duration_since(ban.until) < BACKOFF_FORGOTTEN;
        let times = self.bans.iter().filter(recent).map(|ban| ban.times).max().unwrap_or(0).saturating_add(1);
        let before = known.filter(recent).map(|ban| ban.pause);
        let pause = match (times, before) {
            (1..PROBATION_FAULTS, _) if on_probation => PROBATION.0,
            (PROBATION_FAULTS, _) if on_probation => PROBATION.1,
            (_, Some(before)) => (before * 2).clamp(shortest, longest),
            (_, None) => shortest,
        };
        let ban = Ban { bound, caller, fault, until: now + pause, pause, times, asked };
        let until = ban.until;
        match at.and_then(|at| self.bans.get_mut(at)) {
            Some(old) => *old = ban,
            None => self.bans.push(ban),
        }
        until
    }

    /// Whether this is what was bound lately and has yet to prove itself.
    pub(crate) fn is_on_probation(&self, bound: &Bound) -> bool {
        let binding = &self.latest.binding;
        !binding.activation.soaked && *bound == binding.active
    }

    /// Whether what failed in a worker's cell is known to fail: it rests, or rested a moment ago and what is made since then has
    /// not come to all workers.
    pub(crate) fn is_known_to_fail(&self, bound: &Bound, now: Instant) -> bool {
        let remade = self.queued.is_some() || self.building.is_some();
        self.bans.iter().any(|ban| {
            let over = now.saturating_duration_since(ban.until);
            ban.bound == *bound
                && ban.caller.is_none()
                && !ban.asked
                && (over.is_zero() || (remade && over < REMADE))
        })
    }

    /// Makes room for one more caller: the first that was not used lately goes.
    pub(crate) fn forget_a_caller(&mut self) {
        let built = self.built.as_ref();
        let unused = self.callers.iter().position(|known| {
            built.and_then(|b| b.views.get(&known.id)).is_none_or(|view| !view.take_used())
        });
        // Where all were used, the marks are gone now, and the oldest goes.
        self.callers.remove(unused.unwrap_or(0));
    }
}
