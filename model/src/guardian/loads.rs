//! The load of services: which gateway sums it, and when the sum is worth a write.
//!
//! Every gateway hears every heartbeat and so knows every load that was reported; of each service one of them, by the
//! rendezvous hashing that also chooses guardians, keeps the record of the total.

use super::rendezvous::service_hash;
use super::{Guardian, Moment};
use crate::names::ServiceKey;
use crate::status::Status;
use crate::time::Monotonic;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// A service's total is written at most this often (DESIGN 8).
pub const LOAD_EVERY: Duration = Duration::from_secs(10);
/// It is worth a write if it changed by one part in this many.
const LOAD_STEP: u64 = 10;

/// The total of a service is to be written, on condition that nobody wrote it meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadWrite {
    /// Of which service.
    pub service: ServiceKey,
    /// What it carries; none where nothing of it reports a load any more, and the record is to go.
    pub total: Option<u64>,
    /// The revision of the record that this replaces; none where there is none.
    pub based_on: Option<u64>,
    /// The revision of this gateway's own membership.
    pub membership: u64,
}

#[derive(Debug, Default)]
struct Course {
    /// The record's total and revision.
    told: Option<(u64, u64)>,
    not_before: Monotonic,
    due: Option<Monotonic>,
}

/// What stands in the registry, and which services are to be looked at when.
#[derive(Debug, Default)]
pub(super) struct Loads {
    courses: BTreeMap<Arc<ServiceKey>, Course>,
    due: BTreeSet<(Monotonic, Arc<ServiceKey>)>,
}

impl Loads {
    /// Everything that stands in the registry is told anew.
    pub(super) fn forget(&mut self) {
        self.courses.values_mut().for_each(|course| course.told = None);
    }

    fn arm(&mut self, service: &Arc<ServiceKey>, at: Monotonic) {
        if !self.courses.contains_key(service) {
            self.courses.insert(Arc::clone(service), Course::default());
        }
        let Some(course) = self.courses.get_mut(service) else { return };
        let at = at.max(course.not_before);
        if course.due.is_some_and(|due| due <= at) {
            return;
        }
        if let Some(due) = course.due.replace(at) {
            self.due.remove(&(due, Arc::clone(service)));
        }
        self.due.insert((at, Arc::clone(service)));
    }

    fn next_due(&mut self, now: Monotonic) -> Option<Arc<ServiceKey>> {
        if self.due.first().is_none_or(|(at, _)| *at > now) {
            return None;
        }
        let (_, service) = self.due.pop_first()?;
        if let Some(course) = self.courses.get_mut(&service) {
            course.due = None;
        }
        Some(service)
    }
}

/// What the instances of a service add up to.
enum Sum {
    /// Some have not yet had the time to say.
    Unheard(Monotonic),
    Of(Option<u64>),
}

impl Guardian {
    /// Records of loads as they now stand, with the revisions that wrote them; none where a record is gone.
    pub fn handle_loads(
        &mut self,
        records: impl IntoIterator<Item = (ServiceKey, Option<(u64, u64)>)>,
        now: Moment,
    ) {
        self.observe(now);
        for (service, told) in records {
            let service = Arc::new(service);
            self.loads.arm(&service, now.mono);
            if let Some(course) = self.loads.courses.get_mut(&service) {
                course.told = told;
                course.not_before = course.not_before.max(now.mono.plus(LOAD_EVERY));
            }
        }
    }

    /// The next total that is worth a write. It comes again if no such record is seen.
    pub fn poll_load(&mut self, now: Moment) -> Option<LoadWrite> {
        if !self.observe(now) {
            return None;
        }
        let membership = self.membership?;
        while let Some(service) = self.loads.next_due(now.mono) {
            let mine = self.ring.is_mine(service_hash(&service));
            let told = self.loads.courses.get(&service).and_then(|course| course.told);
            let total = match self.sum(&service, now) {
                _ if !mine => continue,
                Sum::Unheard(until) => {
                    self.loads.arm(&service, until);
                    continue;
                }
                Sum::Of(total) => total,
            };
            if !is_worth_telling(told.map(|(total, _)| total), total) {
                if told.is_none()
                    && self.loads.courses.get(&service).is_some_and(|course| course.not_before <= now.mono)
                {
                    self.loads.courses.remove(&service);
                }
                continue;
            }
            let next = now.mono.plus(LOAD_EVERY);
            if let Some(course) = self.loads.courses.get_mut(&service) {
                course.not_before = next;
            }
            // In case that the write is lost, or that more changed meanwhile.
            self.loads.arm(&service, next);
            let based_on = told.map(|(_, modified)| modified);
            return Some(LoadWrite { service: ServiceKey::clone(&service), total, based_on, membership });
        }
        None
    }

    /// Something changed what a service carries.
    pub(super) fn weigh(&mut self, service: &Arc<ServiceKey>, now: Moment) {
        if self.ring.is_mine(service_hash(service)) {
            self.loads.arm(service, now.mono);
        }
    }

    /// Other members: services may have become this gateway's.
    pub(super) fn weigh_all(&mut self, now: Moment) {
        let services: Vec<_> = self.population.services().cloned().collect();
        for service in services.iter().chain(&self.loads.courses.keys().cloned().collect::<Vec<_>>()) {
            self.weigh(service, now);
        }
    }

    fn sum(&self, service: &ServiceKey, now: Moment) -> Sum {
        let (mut total, mut unheard) = (None, None);
        for entry in self.population.of(service) {
            let declared = &entry.instance.declared;
            // What cannot serve has no headroom that its load would take up.
            if declared.capacity.is_none() || entry.instance.status() != Status::Healthy {
                continue;
            }
            match entry.load {
                Some(load) => total = Some(total.unwrap_or(0u64).saturating_add(u64::from(load))),
                None => unheard = unheard.max(Some(self.floor.plus(declared.lease_ttl()))),
            }
        }
        match unheard {
            Some(until) if until > now.mono => Sum::Unheard(until),
            _ => Sum::Of(total),
        }
    }
}

fn is_worth_telling(told: Option<u64>, total: Option<u64>) -> bool {
    match (told, total) {
        (None, None) => false,
        (Some(told), Some(total)) => told != total && told.abs_diff(total).saturating_mul(LOAD_STEP) >= told,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guardian::Settings;
    use crate::instance::{Instance, InstanceKey, LeaseId};
    use crate::load::Beat;
    use crate::names::GatewayId;
    use crate::time::UnixMillis;

    fn service() -> ServiceKey {
        ServiceKey::new("prod".parse().unwrap(), "orders".parse().unwrap())
    }

    fn record(n: u64, fields: &str) -> Arc<Instance> {
        let record = format!(
            r#"{{"format":1,"id":"pod-{n}","owner":{{"issuer":"i","subject":"s"}},"lease":{{"id":"{n:016x}"}},
                "declared":{{"host":"h","port":1,"zone":"z","leaseTtlSeconds":10,"weight":1,{fields}}},
                "registeredAt":0,"updatedAt":0}}"#
        );
        Arc::new(serde_json::from_str(&record).unwrap())
    }

    /// Gateways of a region in virtual time, and the one record that they share.
    struct World {
        now: u64,
        guardians: Vec<Guardian>,
        revision: u64,
        standing: Option<(u64, u64)>,
        /// When which total was written, in milliseconds since the start.
        writes: Vec<(u64, Option<u64>)>,
    }

    impl World {
        fn new(gateways: usize) -> Self {
            let mut world =
                Self { now: 0, guardians: Vec::new(), revision: 1, standing: None, writes: Vec::new() };
            let names: BTreeSet<GatewayId> =
                (0..gateways).map(|n| format!("gw-{n}").parse().unwrap()).collect();
            for name in &names {
                let mut guardian = Guardian::new(name.clone(), Settings::default(), world.moment());
                guardian.handle_membership(Some(7), world.moment());
                guardian.handle_members(names.clone(), world.moment());
                world.guardians.push(guardian);
            }
            world
        }

        fn moment(&self) -> Moment {
            Moment { mono: Monotonic(5_000 + self.now), wall: UnixMillis(1_000_000 + self.now) }
        }

        fn put(&mut self, n: u64, fields: &str) {
            self.revision += 1;
            let (now, instance) = (self.moment(), record(n, fields));
            let key = InstanceKey { service: service(), id: instance.id.clone() };
            for guardian in &mut self.guardians {
                guardian.handle_put(&key, Arc::clone(&instance), self.revision, now);
            }
        }

        fn beat(&mut self, loads: &[(u64, Option<u32>)]) {
            let now = self.moment();
            let beats: Vec<Beat> =
                loads.iter().map(|(lease, load)| Beat { lease: LeaseId(*lease), load: *load }).collect();
            self.guardians.iter_mut().for_each(|guardian| guardian.handle_beats(&beats, now));
        }

        /// Runs, with a beat of each every second.
        fn run(&mut self, millis: u64, loads: &[(u64, Option<u32>)]) {
            for _ in 0..millis / 250 {
                self.now += 250;
                let now = self.moment();
                if self.now.is_multiple_of(1_000) {
                    self.beat(loads);
                }
                for at in 0..self.guardians.len() {
                    self.guardians[at].handle_current(now);
                    while let Some(write) = self.guardians[at].poll_load(now) {
                        assert_eq!(write.based_on, self.standing.map(|(_, modified)| modified));
                        self.revision += 1;
                        self.standing = write.total.map(|total| (total, self.revision));
                        self.writes.push((self.now, write.total));
                        let told = [(service(), self.standing)];
                        self.guardians.iter_mut().for_each(|g| g.handle_loads(told.clone(), now));
                    }
                }
            }
        }

        fn totals(&mut self) -> Vec<Option<u64>> {
            std::mem::take(&mut self.writes).into_iter().map(|(_, total)| total).collect()
        }
    }

    const CAPABLE: &str = r#""status":"healthy","capacity":100"#;

    #[test]
    fn one_gateway_writes_the_total_once_all_have_said_theirs() {
        let mut world = World::new(3);
        [1, 2, 3].into_iter().for_each(|n| world.put(n, CAPABLE));
        world.run(3_000, &[(1, Some(10)), (2, Some(20))]);
        assert_eq!(world.totals(), [], "one of them has not had its time to say");
        world.run(2_000, &[(1, Some(10)), (2, Some(20)), (3, Some(5))]);
        assert_eq!(world.totals(), [Some(35)]);
        // Whoever beats without a word of its load carries what it carried.
        world.run(30_000, &[(1, None), (2, Some(21)), (3, Some(5))]);
        assert_eq!(world.totals(), [], "less than a tenth more");
        world.run(30_000, &[(1, None), (2, Some(25)), (3, Some(5))]);
        assert_eq!(world.totals(), [Some(40)]);
    }

    #[test]
    fn one_that_never_says_a_word_holds_the_others_up_for_its_lease_only() {
        let mut world = World::new(1);
        [1, 2].into_iter().for_each(|n| world.put(n, CAPABLE));
        world.run(9_000, &[(1, Some(10)), (2, None)]);
        assert_eq!(world.totals(), []);
        world.run(2_000, &[(1, Some(10)), (2, None)]);
        assert_eq!(world.totals(), [Some(10)]);
    }

    #[test]
    fn a_load_that_swings_is_written_every_ten_seconds() {
        let mut world = World::new(2);
        world.put(1, CAPABLE);
        for second in 0..60 {
            world.run(1_000, &[(1, Some(10 + 40 * (second % 2)))]);
        }
        let times: Vec<u64> = world.writes.iter().map(|(at, _)| *at).collect();
        assert!((5..=7).contains(&times.len()), "{times:?}");
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= 10_000), "{times:?}");
    }

    #[test]
    fn what_cannot_serve_or_has_no_capacity_carries_nothing_that_counts() {
        let mut world = World::new(1);
        world.put(1, CAPABLE);
        world.put(2, CAPABLE);
        world.put(3, r#""status":"healthy""#);
        let loads = [(1, Some(10)), (2, Some(20)), (3, Some(70))];
        world.run(2_000, &loads);
        assert_eq!(world.totals(), [Some(30)]);
        world.put(2, r#""status":"draining","capacity":100"#);
        world.run(12_000, &loads);
        assert_eq!(world.totals(), [Some(10)]);
        // Nothing is left that could carry anything: the record goes with it.
        world.put(1, r#""status":"draining","capacity":100"#);
        world.run(12_000, &loads);
        assert_eq!(world.totals(), [None]);
    }

    #[test]
    fn another_gateway_goes_on_where_one_ended() {
        let mut world = World::new(2);
        world.put(1, CAPABLE);
        world.run(2_000, &[(1, Some(10))]);
        assert_eq!(world.totals(), [Some(10)]);
        let writer = world.guardians.iter().position(|g| g.ring.is_mine(service_hash(&service()))).unwrap();
        world.guardians.remove(writer);
        let (now, left) = (world.moment(), world.guardians[0].me.clone());
        world.guardians[0].handle_members(BTreeSet::from([left]), now);
        world.run(20_000, &[(1, Some(10))]);
        assert_eq!(world.totals(), [], "nothing changed");
        world.run(2_000, &[(1, Some(50))]);
        assert_eq!(world.totals(), [Some(50)]);
    }

    #[test]
    fn a_tenth_is_worth_a_write() {
        for (told, total, worth) in [
            (None, None, false),
            (None, Some(0), true),
            (Some(0), Some(1), true),
            (Some(100), Some(100), false),
            (Some(100), Some(109), false),
            (Some(100), Some(110), true),
            (Some(100), Some(90), true),
            (Some(100), None, true),
            (Some(u64::MAX), Some(0), true),
        ] {
            assert_eq!(is_worth_telling(told, total), worth, "{told:?} {total:?}");
        }
    }
}
