//! Which policies rest on this gateway whatever service they are bound to, since they fail wherever they are tried.
//!
//! A service lets a policy rest by itself after each fault ([`crate::entry`]). That bounds what one service costs; a version
//! that a whole namespace is bound to would still fail once for each of its services.

use crate::fault::Fault;
use crate::limits::{BACKOFF_FORGOTTEN, QUARANTINE, QUARANTINE_FAULTS};
use meridian_model::binding::Bound;
use meridian_model::names::PolicyVersion;
use smol_str::SmolStr;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// Policies whose faults are remembered; beyond, those that rest no longer are forgotten.
const MAX_CASES: usize = 1_024;

/// What is known of one policy's faults.
struct Case {
    faults: usize,
    /// Where they were.
    services: HashSet<u32>,
    last: Instant,
    fault: Fault,
    /// Until when it rests, and how long it was to.
    rest: Option<(Instant, Duration)>,
}

/// The policies that failed lately.
#[derive(Default)]
pub(crate) struct Quarantine {
    /// By version and config: under whatever name, it does the same.
    cases: HashMap<(PolicyVersion, SmolStr), Case>,
}

fn key(bound: &Bound) -> (PolicyVersion, SmolStr) {
    (bound.version, bound.config.clone())
}

impl Quarantine {
    /// Counts a fault at a service. Once there are too many, the policy rests, unless it works in a fair part of the services
    /// (`works` tells in how many, those where it failed left out): then what fails is theirs. Returns how long it rests, if
    /// that begins now.
    pub(crate) fn failed(
        &mut self,
        bound: &Bound,
        slot: u32,
        fault: &Fault,
        now: Instant,
        works: impl FnOnce(&HashSet<u32>) -> usize,
    ) -> Option<Duration> {
        self.make_room(now);
        let case = self.cases.entry(key(bound)).or_insert_with(|| Case {
            faults: 0,
            services: HashSet::new(),
            last: now,
            fault: fault.clone(),
            rest: None,
        });
        if case.is_forgotten(now) {
            (case.faults, case.rest) = (0, None);
            case.services.clear();
        }
        if case.rest.is_some_and(|(until, _)| until > now) {
            // What was under way when it began.
            return None;
        }
        case.faults += 1;
        case.services.insert(slot);
        (case.last, case.fault) = (now, fault.clone());
        if case.faults < QUARANTINE_FAULTS || works(&case.services) * 4 > case.services.len() {
            return None;
        }
        let pause = case.rest.map_or(QUARANTINE.0, |(_, pause)| (pause * 2).min(QUARANTINE.1));
        case.rest = Some((now + pause, pause));
        case.faults = 0;
        case.services.clear();
        Some(pause)
    }

    /// Until when this policy rests, and for which fault.
    pub(crate) fn rests(&self, bound: &Bound, now: Instant) -> Option<(Instant, &Fault)> {
        let case = self.cases.get(&key(bound))?;
        let (until, _) = case.rest.filter(|(until, _)| *until > now)?;
        Some((until, &case.fault))
    }

    /// How many rest.
    pub(crate) fn count(&self, now: Instant) -> usize {
        self.cases.values().filter(|case| case.rest.is_some_and(|(until, _)| until > now)).count()
    }

    fn make_room(&mut self, now: Instant) {
        if self.cases.len() >= MAX_CASES {
            self.cases.retain(|_, case| !case.is_forgotten(now));
        }
    }
}

impl Case {
    /// Whether the next fault is another trouble.
    fn is_forgotten(&self, now: Instant) -> bool {
        let quiet_since = self.rest.map_or(self.last, |(until, _)| self.last.max(until));
        now.saturating_duration_since(quiet_since) > BACKOFF_FORGOTTEN
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::FaultKind;

    fn bound() -> Bound {
        Bound { policy: "mine".parse().unwrap(), version: PolicyVersion::of(b"mine"), config: "".into() }
    }

    fn fault() -> Fault {
        Fault::new(FaultKind::Trap, "")
    }

    fn fail(quarantine: &mut Quarantine, times: u32, works: usize, now: Instant) -> Option<Duration> {
        (0..times).filter_map(|slot| quarantine.failed(&bound(), slot, &fault(), now, |_| works)).last()
    }

    #[test]
    fn what_fails_everywhere_rests_longer_each_time() {
        let (mut quarantine, mut now) = (Quarantine::default(), Instant::now());
        assert_eq!(fail(&mut quarantine, 7, 0, now), None);
        assert!(quarantine.rests(&bound(), now).is_none());
        for pause in [QUARANTINE.0, QUARANTINE.0 * 2, QUARANTINE.0 * 4] {
            let times = if pause == QUARANTINE.0 { 1 } else { 8 };
            assert_eq!(fail(&mut quarantine, times, 0, now), Some(pause));
            assert_eq!((quarantine.count(now), fail(&mut quarantine, 5, 0, now)), (1, None));
            now += pause;
            assert_eq!(quarantine.count(now), 0);
        }
        now += BACKOFF_FORGOTTEN * 2;
        assert_eq!(fail(&mut quarantine, 8, 0, now), Some(QUARANTINE.0), "another trouble");
    }

    #[test]
    fn what_fails_for_some_services_goes_on_for_the_others() {
        let (mut quarantine, now) = (Quarantine::default(), Instant::now());
        assert_eq!(fail(&mut quarantine, 30, 20, now), None);
        assert_eq!(fail(&mut quarantine, 40, 10, now), Some(QUARANTINE.0), "it works nearly nowhere");
    }
}
