//! What the clerk knows of one service: who asks for it, what was prepared, and which of its policies rest.

use crate::callers::{CallerId, Known};
use crate::clerk::Waiter;
use crate::fault::Fault;
use crate::limits::{BACKOFF, BACKOFF_FORGOTTEN};
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
    fault: Fault,
    since: Instant,
    until: Instant,
    pause: Duration,
}

/// What is known of one service.
pub(crate) struct Entry {
    pub(crate) latest: Arc<Snapshot>,
    pub(crate) callers: Vec<Arc<Known>>,
    pub(crate) queued: bool,
    pub(crate) building: bool,
    /// Something changed while it was being prepared.
    pub(crate) dirty: bool,
    pub(crate) waiters: Vec<(CallerId, Waiter)>,
    pub(crate) built: Option<Built>,
    bans: Vec<Ban>,
    pub(crate) missing: Vec<PolicyVersion>,
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
            queued: false,
            building: false,
            dirty: false,
            waiters: Vec::new(),
            built: None,
            bans: Vec::new(),
            missing: Vec::new(),
            evaluated: HashMap::new(),
        }
    }

    /// Whether this policy rests at `now`.
    pub(crate) fn rests(&self, bound: &Bound, now: Instant) -> bool {
        self.bans.iter().any(|ban| ban.bound == *bound && ban.until > now)
    }

    pub(crate) fn banned(&self, now: Instant) -> Vec<(Bound, Fault)> {
        let bans = self.bans.iter().filter(|ban| ban.until > now);
        bans.map(|ban| (ban.bound.clone(), ban.fault.clone())).collect()
    }

    /// Lets a policy rest; returns until when.
    pub(crate) fn ban(&mut self, bound: Bound, fault: Fault, now: Instant) -> Instant {
        let binding = &self.latest.binding;
        self.bans.retain(|ban| binding.versions().any(|bound| *bound == ban.bound));
        if let Some(ban) = self.bans.iter_mut().find(|ban| ban.bound == bound) {
            if ban.until > now {
                return ban.until;
            }
            let same_trouble = now.duration_since(ban.since) < BACKOFF_FORGOTTEN;
            ban.pause = if same_trouble { (ban.pause * 2).min(BACKOFF.1) } else { BACKOFF.0 };
            ban.since = now;
            ban.until = now + ban.pause;
            ban.fault = fault;
            return ban.until;
        }
        let until = now + BACKOFF.0;
        self.bans.push(Ban { bound, fault, since: now, until, pause: BACKOFF.0 });
        until
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
