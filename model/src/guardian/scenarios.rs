//! A region in virtual time: gateways with their guardians, one registry that they share, workloads that beat.

use super::*;
use crate::instance::{Lease, Owner};
use crate::names::ServiceKey;
use crate::registration::RegistrationBody;
use proptest::prelude::*;

const STEP: u64 = 50;

fn gateway(n: usize) -> GatewayId {
    format!("gw-{n}").parse().unwrap()
}

fn key(n: u64) -> InstanceKey {
    let service = ServiceKey::new("prod".parse().unwrap(), "orders".parse().unwrap());
    InstanceKey { service, id: format!("pod-{n}").parse().unwrap() }
}

fn record(n: u64, fields: &str) -> Instance {
    let body = format!(r#"{{"host":"10.0.0.1","port":80,"zone":"z",{fields}}}"#);
    let body: RegistrationBody = serde_json::from_str(&body).unwrap();
    Instance {
        format: 1,
        id: key(n).id,
        owner: Owner { issuer: "i".into(), subject: "s".into() },
        declared: body.parse().unwrap(),
        lease: Lease { id: LeaseId(n), token_expires_at: None, expired_at: None },
        check: CheckVerdict::Pending,
        check_detail: Default::default(),
        registered_at: UnixMillis(0),
        updated_at: UnixMillis(0),
        reason: Default::default(),
        unknown: Default::default(),
    }
}

const TTL_10: &str = r#""leaseTtlSeconds":10"#;
const CHECKED: &str =
    r#""leaseTtlSeconds":10,"healthCheck":{"tcp":{"intervalSeconds":2,"timeoutSeconds":1}}"#;
const BY_CHECK: &str = r#""leaseTtlSeconds":10,"renewBy":"check","healthCheck":{"tcp":{"intervalSeconds":2,"timeoutSeconds":1}}"#;

struct Gateway {
    id: GatewayId,
    guardian: Guardian,
    /// Runs; a paused or dead one is not called.
    up: bool,
    /// Hears the registry.
    linked: bool,
}

struct World {
    now: u64,
    revision: u64,
    records: BTreeMap<InstanceKey, (Instance, u64)>,
    gateways: Vec<Gateway>,
    /// When each instance was ruled expired.
    expired: BTreeMap<InstanceKey, u64>,
    removed: BTreeMap<InstanceKey, u64>,
    /// What a check of this lease gives; passes where nothing is said.
    failing: BTreeSet<LeaseId>,
    checks: Vec<(u64, LeaseId)>,
    /// The next write conflicts.
    conflicts: usize,
    attempts: usize,
}

impl World {
    fn new(gateways: usize) -> Self {
        let start = Moment { mono: Monotonic(5_000), wall: UnixMillis(1_000_000) };
        let gateways = (0..gateways)
            .map(|n| {
                let guardian = Guardian::new(gateway(n), Settings::default(), start);
                Gateway { id: gateway(n), guardian, up: true, linked: true }
            })
            .collect();
        let mut world = Self {
            now: start.mono.0,
            revision: 100,
            records: BTreeMap::new(),
            gateways,
            expired: BTreeMap::new(),
            removed: BTreeMap::new(),
            failing: BTreeSet::new(),
            checks: Vec::new(),
            conflicts: 0,
            attempts: 0,
        };
        world.set_members(|_| true);
        // Until the registry proved for the first time that it is current, nothing counts.
        world.run(1_000);
        world
    }

    fn moment(&self) -> Moment {
        Moment { mono: Monotonic(self.now), wall: UnixMillis(self.now + 995_000) }
    }

    fn set_members(&mut self, is_member: impl Fn(usize) -> bool) {
        let now = self.moment();
        let numbers = (0..self.gateways.len()).filter(|n| is_member(*n));
        let members: BTreeSet<_> = numbers.map(gateway).collect();
        for g in self.gateways.iter_mut().filter(|g| g.up) {
            g.guardian.handle_membership(members.contains(&g.id).then_some(7), now);
            if g.linked {
                g.guardian.handle_members(members.clone(), now);
            }
        }
    }

    fn put(&mut self, key: InstanceKey, instance: Instance) {
        self.revision += 1;
        self.records.insert(key.clone(), (instance.clone(), self.revision));
        let (now, revision) = (self.moment(), self.revision);
        let instance = Arc::new(instance);
        for g in self.gateways.iter_mut().filter(|g| g.up && g.linked) {
            g.guardian.handle_put(&key, Arc::clone(&instance), revision, now);
        }
    }

    fn beat(&mut self, leases: &[LeaseId]) {
        let now = self.moment();
        let beats: Vec<Beat> = leases.iter().copied().map(Beat::from).collect();
        for g in self.gateways.iter_mut().filter(|g| g.up && g.linked) {
            g.guardian.handle_beats(&beats, now);
        }
    }

    fn link(&mut self, n: usize, linked: bool) {
        let now = self.moment();
        let records = self.records.iter().map(|(k, (i, m))| (k.clone(), Arc::new(i.clone()), *m)).collect();
        let g = &mut self.gateways[n];
        if linked && !g.linked {
            g.guardian.handle_reset(records, now);
            g.guardian.handle_current(now);
        } else if !linked {
            g.guardian.handle_lost(now);
        }
        g.linked = linked;
    }

    /// What the registry does with a ruling.
    fn write(&mut self, ruling: &Ruling) -> Ruled {
        self.attempts += 1;
        let Some((stored, modified)) = self.records.get(&ruling.key) else { return Ruled::Conflict };
        if self.conflicts > 0 {
            self.conflicts -= 1;
            return Ruled::Conflict;
        }
        if *modified != ruling.modified {
            return Ruled::Conflict;
        }
        assert_eq!(*stored, *ruling.instance, "a ruling on a record that nobody wrote");
        let mut changed = stored.clone();
        match &ruling.decision {
            Decision::Expire { .. } => {
                assert_eq!(changed.lease.expired_at, None);
                changed.lease.expired_at = Some(self.moment().wall);
                self.expired.insert(ruling.key.clone(), self.now);
            }
            Decision::Verdict { verdict, detail } => {
                changed.check = *verdict;
                changed.check_detail = detail.clone();
            }
            Decision::Remove { .. } => {
                self.records.remove(&ruling.key);
                self.removed.insert(ruling.key.clone(), self.now);
                let now = self.moment();
                for g in self.gateways.iter_mut().filter(|g| g.up && g.linked) {
                    g.guardian.handle_removed(&ruling.key, now);
                }
                return Ruled::Applied;
            }
        }
        self.put(ruling.key.clone(), changed);
        Ruled::Applied
    }

    fn step(&mut self) {
        self.now += STEP;
        let now = self.moment();
        for n in 0..self.gateways.len() {
            if !self.gateways[n].up {
                continue;
            }
            if self.gateways[n].linked && self.now.is_multiple_of(1_000) {
                self.gateways[n].guardian.handle_current(now);
            }
            while let Some(check) = self.gateways[n].guardian.poll_check(now) {
                self.checks.push((self.now, check.lease));
                let outcome = match self.failing.contains(&check.lease) {
                    true => CheckOutcome::Failed("connection refused".into()),
                    false => CheckOutcome::Passed,
                };
                self.gateways[n].guardian.handle_checked(check.lease, check.asked, outcome, now);
            }
            while let Some(ruling) = self.gateways[n].guardian.poll_ruling(now) {
                let ruled = if self.gateways[n].linked { self.write(&ruling) } else { Ruled::NoAnswer };
                let lease = ruling.instance.lease.id;
                self.gateways[n].guardian.handle_ruled(&ruling.key, lease, ruled, now);
            }
        }
    }

    fn run(&mut self, millis: u64) {
        (0..millis / STEP).for_each(|_| self.step());
    }

    fn run_beating(&mut self, millis: u64, leases: &[LeaseId], every: u64) {
        for _ in 0..millis / every {
            self.run(every);
            self.beat(leases);
        }
    }

    fn expired_after(&self, n: u64, since: u64) -> Option<u64> {
        self.expired.get(&key(n)).map(|at| at - since)
    }
}

#[test]
fn a_silent_instance_expires_within_a_second_of_its_ttl_and_a_beating_one_never() {
    let mut world = World::new(1);
    world.put(key(1), record(1, TTL_10));
    world.put(key(2), record(2, TTL_10));
    world.run_beating(60_000, &[LeaseId(1), LeaseId(2)], 3_000);
    let last = world.now;
    world.run_beating(30_000, &[LeaseId(2)], 3_000);
    let after = world.expired_after(1, last).expect("the silent one expires");
    assert!((10_000..=11_000).contains(&after), "{after} ms after the last beat");
    assert_eq!(world.expired.get(&key(2)), None);
}

#[test]
fn an_expired_instance_is_removed_when_it_was_kept_long_enough() {
    let mut world = World::new(1);
    world.put(key(1), record(1, TTL_10));
    world.run(620_000);
    let kept = world.removed[&key(1)] - world.expired[&key(1)];
    assert!((600_000..601_000).contains(&kept), "{kept} ms");
    assert_eq!(world.gateways[0].guardian.guarded(), 0);
}

#[test]
fn the_instances_of_a_dead_guardian_are_taken_over() {
    for dead in 0..2 {
        let mut world = World::new(2);
        (0..20).for_each(|n| world.put(key(n), record(n, TTL_10)));
        let all: Vec<_> = (0..20).map(LeaseId).collect();
        world.run_beating(30_000, &all, 3_000);
        let died = world.now;
        world.gateways[dead].up = false;
        // Its membership lapses a little later.
        world.run(4_000);
        world.set_members(|n| n != dead);
        world.run_beating(30_000, &all[..10], 1_000);
        for n in 0..20 {
            match (n, world.expired_after(n, died)) {
                (0..10, after) => assert_eq!(after, None, "pod-{n} beats"),
                (_, after) => assert!(after.is_some_and(|a| a <= 15_000), "pod-{n} expired after {after:?}"),
            }
        }
    }
}

#[test]
fn nothing_expires_while_the_registry_is_lost_and_a_full_ttl_counts_afterwards() {
    let mut world = World::new(1);
    world.put(key(1), record(1, TTL_10));
    world.run(9_000);
    world.link(0, false);
    world.run(120_000);
    assert!(world.expired.is_empty());
    world.link(0, true);
    let back = world.now;
    world.run(20_000);
    let after = world.expired_after(1, back).unwrap();
    assert!((10_000..=11_000).contains(&after), "{after} ms after the registry came back");
}

#[test]
fn a_registry_that_goes_silent_without_a_word_is_lost_too() {
    let mut world = World::new(1);
    world.put(key(1), record(1, TTL_10));
    world.run(5_000);
    world.gateways[0].linked = false;
    world.run(60_000);
    assert_eq!(world.attempts, 0);
    world.gateways[0].linked = true;
    let back = world.now;
    world.run(20_000);
    let after = world.expired_after(1, back).unwrap();
    assert!((10_000..=12_000).contains(&after), "{after} ms");
}

#[test]
fn a_pause_of_the_process_costs_nobody_the_lease() {
    let mut world = World::new(1);
    world.put(key(1), record(1, TTL_10));
    world.run(9_000);
    world.gateways[0].up = false;
    world.run(60_000);
    world.gateways[0].up = true;
    let woke = world.now;
    world.run(20_000);
    let after = world.expired_after(1, woke).unwrap();
    assert!((10_000..=12_000).contains(&after), "{after} ms after waking");
}

#[test]
fn a_check_that_failed_because_we_slept_proves_nothing() {
    let mut world = World::new(1);
    world.put(
        key(1),
        record(1, &CHECKED.replace("\"timeoutSeconds\":1", "\"timeoutSeconds\":1,\"unhealthyAfter\":1")),
    );
    world.run_beating(6_000, &[LeaseId(1)], 1_000);
    let asked = Monotonic(world.now);
    world.now += 10_000;
    let now = world.moment();
    let timed_out = CheckOutcome::Failed("timed out".into());
    world.gateways[0].guardian.handle_checked(LeaseId(1), asked, timed_out.clone(), now);
    world.run(1_000);
    assert_eq!(world.records[&key(1)].0.check, CheckVerdict::Passing);
    let now = world.moment();
    world.gateways[0].guardian.handle_checked(LeaseId(1), now.mono, timed_out, now);
    world.run(STEP);
    assert_eq!(world.records[&key(1)].0.check, CheckVerdict::Failing);
}

#[test]
fn a_gateway_without_membership_rules_nothing() {
    let mut world = World::new(1);
    world.put(key(1), record(1, TTL_10));
    world.run(9_000);
    let now = world.moment();
    world.gateways[0].guardian.handle_membership(None, now);
    world.run(60_000);
    assert_eq!(world.attempts, 0);
    let now = world.moment();
    world.gateways[0].guardian.handle_membership(Some(9), now);
    world.run(9_900);
    assert_eq!(world.attempts, 0, "a membership taken again counts a full TTL again");
    world.run(1_100);
    assert_eq!(world.expired.len(), 1);
}

#[test]
fn the_beat_of_a_superseded_lease_renews_nothing() {
    let mut world = World::new(1);
    world.put(key(1), record(1, TTL_10));
    let mut successor = record(1, TTL_10);
    successor.lease.id = LeaseId(77);
    world.put(key(1), successor);
    let registered = world.now;
    world.run_beating(20_000, &[LeaseId(1)], 1_000);
    assert!(world.expired_after(1, registered).unwrap() <= 11_000);
}

#[test]
fn a_successor_and_one_that_came_back_have_a_full_ttl() {
    let mut world = World::new(1);
    world.put(key(1), record(1, TTL_10));
    world.run(9_000);
    let mut successor = record(1, TTL_10);
    successor.lease.id = LeaseId(77);
    world.put(key(1), successor.clone());
    world.run(9_900);
    assert!(world.expired.is_empty());
    world.run(1_100);
    assert!(world.expired.remove(&key(1)).is_some());
    world.put(key(1), successor);
    world.run(9_900);
    assert!(world.expired.is_empty(), "its owner came back with the same lease");
    world.run(1_100);
    assert_eq!(world.expired.len(), 1);
}

#[test]
fn a_lease_does_not_outlive_its_token_by_more_than_a_ttl_until_a_newer_token_comes() {
    let mut world = World::new(1);
    let mut instance = record(1, TTL_10);
    instance.lease.token_expires_at = Some(world.moment().wall.plus(Duration::from_secs(30)));
    world.put(key(1), instance.clone());
    let start = world.now;
    world.run_beating(20_000, &[LeaseId(1)], 1_000);
    instance.lease.token_expires_at = Some(world.moment().wall.plus(Duration::from_secs(40)));
    world.put(key(1), instance);
    world.run_beating(80_000, &[LeaseId(1)], 1_000);
    let after = world.expired_after(1, start).unwrap();
    assert!((70_000..=71_000).contains(&after), "{after} ms: 20 + 40 + a TTL of 10 s");
}

#[test]
fn checks_give_verdicts_by_their_thresholds() {
    let mut world = World::new(1);
    world.put(key(1), record(1, CHECKED));
    world.run(2_100);
    assert_eq!(world.records[&key(1)].0.check, CheckVerdict::Passing, "a new instance is checked at once");
    world.failing.insert(LeaseId(1));
    world.run_beating(7_000, &[LeaseId(1)], 1_000);
    assert_eq!(world.records[&key(1)].0.check, CheckVerdict::Failing);
    assert_eq!(world.records[&key(1)].0.check_detail, "connection refused");
    world.failing.clear();
    world.run_beating(5_000, &[LeaseId(1)], 1_000);
    assert_eq!(world.records[&key(1)].0.check, CheckVerdict::Passing);
    assert_eq!(world.records[&key(1)].0.check_detail, "");
    assert_eq!(world.attempts, 3, "one write for each change");
}

#[test]
fn passing_checks_renew_and_failing_ones_make_unhealthy_before_they_expire() {
    let mut world = World::new(1);
    let mut instance = record(1, BY_CHECK);
    instance.lease.token_expires_at = Some(world.moment().wall);
    world.put(key(1), instance);
    world.run(120_000);
    assert_eq!(world.expired.len(), 0, "a dead token ends it a day later");
    world.failing.insert(LeaseId(1));
    let broke = world.now;
    // Beats do not stand in for checks.
    world.run_beating(8_000, &[LeaseId(1)], 1_000);
    assert_eq!(world.records[&key(1)].0.check, CheckVerdict::Failing);
    assert!(world.expired.is_empty());
    world.run_beating(8_000, &[LeaseId(1)], 1_000);
    let after = world.expired_after(1, broke).unwrap();
    assert!((8_000..=11_000).contains(&after), "{after} ms");
    let checks = world.checks.len();
    world.run(20_000);
    assert_eq!(world.checks.len(), checks, "an expired instance is not checked");
}

#[test]
fn a_check_slower_than_the_lease_does_not_end_it() {
    let mut world = World::new(1);
    let slow = BY_CHECK.replace("\"intervalSeconds\":2", "\"intervalSeconds\":60");
    world.put(key(1), record(1, &slow));
    world.run(600_000);
    assert!(world.expired.is_empty());
}

#[test]
fn a_check_renewed_lease_ends_a_day_after_its_token() {
    let mut world = World::new(1);
    let mut instance = record(1, &BY_CHECK.replace("\"intervalSeconds\":2", "\"intervalSeconds\":300"));
    let wall = world.moment().wall;
    instance.lease.token_expires_at = Some(wall);
    let start = world.now;
    world.gateways[0].guardian.settings.check_outlives_token = Duration::from_secs(3600);
    world.put(key(1), instance);
    world.run(3_700_000);
    let after = world.expired_after(1, start).unwrap();
    assert!((3_600_000..3_601_000).contains(&after), "{after} ms");
}

#[test]
fn a_ruling_that_was_not_written_is_made_again() {
    let mut world = World::new(1);
    world.put(key(1), record(1, TTL_10));
    world.conflicts = 3;
    world.run(16_000);
    assert_eq!((world.attempts, world.expired.len()), (4, 1));
}

#[test]
fn a_ruling_of_which_nothing_is_heard_comes_again() {
    let mut world = World::new(1);
    world.put(key(1), record(1, TTL_10));
    world.run(9_000);
    let mut rulings = 0;
    for _ in 0..60 {
        world.now += 250;
        let now = world.moment();
        let guardian = &mut world.gateways[0].guardian;
        guardian.handle_current(now);
        rulings += usize::from(guardian.poll_ruling(now).is_some());
    }
    assert_eq!(rulings, 2, "at once and after the echo did not come");
}

#[test]
fn a_beat_that_comes_before_the_ruling_is_handed_out_saves_the_lease() {
    let mut world = World::new(1);
    world.put(key(1), record(1, TTL_10));
    world.run(9_900);
    world.now += 200;
    let now = world.moment();
    let guardian = &mut world.gateways[0].guardian;
    guardian.advance(now);
    assert_eq!(guardian.rulings.len(), 1);
    guardian.handle_beats(&[LeaseId(1).into()], now);
    assert_eq!(guardian.poll_ruling(now), None);
    world.run(9_900);
    assert!(world.expired.is_empty());
    world.run(1_000);
    assert_eq!(world.expired.len(), 1, "and its deadline is watched again");
}

#[test]
fn checks_of_many_instances_are_spread() {
    let mut world = World::new(1);
    let ten = CHECKED.replace("\"intervalSeconds\":2", "\"intervalSeconds\":10");
    (0..1_000).for_each(|n| world.put(key(n), record(n, &ten)));
    let all: Vec<_> = (0..1_000).map(LeaseId).collect();
    world.run_beating(60_000, &all, 2_000);
    let late = world.now - 20_000;
    let mut per_second = BTreeMap::<u64, usize>::new();
    for (at, _) in world.checks.iter().filter(|(at, _)| *at > late) {
        *per_second.entry((at - late - 1) / 1_000).or_default() += 1;
    }
    assert_eq!(per_second.values().sum::<usize>(), 2_000);
    assert!(per_second.values().all(|n| (60..140).contains(n)), "{per_second:?}");
    let timers = world.gateways[0].guardian.timers.len();
    assert!(timers <= 2_064, "{timers} timers for 1,000 instances");
}

#[test]
fn records_that_come_and_go_leave_nothing_behind() {
    let mut world = World::new(1);
    for n in 0..5_000 {
        world.put(key(n), record(n, r#""leaseTtlSeconds":3600"#));
        let now = world.moment();
        world.gateways[0].guardian.handle_removed(&key(n), now);
    }
    world.records.clear();
    world.run(STEP);
    let guardian = &world.gateways[0].guardian;
    assert_eq!((guardian.guarded(), guardian.leases.len(), guardian.population.slots().count()), (0, 0, 1));
    assert!(guardian.timers.len() <= 64);
}

#[test]
fn a_reset_replaces_everything() {
    let mut world = World::new(1);
    (0..10).for_each(|n| world.put(key(n), record(n, TTL_10)));
    world.records.retain(|k, _| *k >= key(5));
    world.run(9_000);
    world.link(0, false);
    world.link(0, true);
    assert_eq!(world.gateways[0].guardian.guarded(), 5);
    world.run(9_000);
    assert!(world.expired.is_empty(), "beats may have been missed in the gap");
    world.run(2_000);
    assert_eq!(world.expired.len(), 5);
}

#[derive(Clone, Debug)]
enum Trouble {
    Quiet(u64),
    Cut(usize),
    Heal(usize),
    Pause(usize, u64),
    Leave(usize),
    Join,
    Patch(u64),
    Conflicts,
}

fn trouble() -> impl Strategy<Value = Trouble> {
    prop_oneof![
        (1u64..20).prop_map(|s| Trouble::Quiet(s * 500)),
        (0usize..3).prop_map(Trouble::Cut),
        (0usize..3).prop_map(Trouble::Heal),
        (0usize..3, 1u64..40).prop_map(|(n, s)| Trouble::Pause(n, s * 500)),
        (0usize..3).prop_map(Trouble::Leave),
        Just(Trouble::Join),
        (0u64..6).prop_map(Trouble::Patch),
        Just(Trouble::Conflicts),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever happens to gateways and links: who beats in time, as far as gateways hear it, stays; who is silent goes
    /// once all is well.
    #[test]
    fn beats_save_and_silence_ends(troubles in proptest::collection::vec(trouble(), 1..25)) {
        let mut world = World::new(3);
        (0..6).for_each(|n| world.put(key(n), record(n, TTL_10)));
        let beating: Vec<_> = (0..3).map(LeaseId).collect();
        for trouble in troubles {
            match trouble {
                Trouble::Quiet(millis) => world.run_beating(millis, &beating, 500),
                Trouble::Cut(n) => world.link(n, false),
                Trouble::Heal(n) => world.link(n, true),
                Trouble::Pause(n, millis) => {
                    world.gateways[n].up = false;
                    world.run_beating(millis, &beating, 500);
                    world.gateways[n].up = true;
                    // What it missed reaches it after it wakes: its watch starts over.
                    let was_linked = world.gateways[n].linked;
                    world.link(n, false);
                    world.link(n, was_linked);
                }
                Trouble::Leave(gone) => world.set_members(|n| n != gone),
                Trouble::Join => world.set_members(|_| true),
                Trouble::Patch(n) => {
                    if let Some((mut instance, _)) = world.records.get(&key(n)).cloned() {
                        instance.updated_at = world.moment().wall;
                        world.put(key(n), instance);
                    }
                }
                Trouble::Conflicts => world.conflicts = 2,
            }
            world.run_beating(1_000, &beating, 500);
            prop_assert!((0..3).all(|n| !world.expired.contains_key(&key(n))), "a beating instance expired");
        }
        (0..3).for_each(|n| world.link(n, true));
        world.set_members(|_| true);
        let guarded: usize = world.gateways.iter().map(|g| g.guardian.guarded()).sum();
        prop_assert_eq!(guarded, world.records.len(), "equal views: one guardian each");
        world.run_beating(14_000, &beating, 500);
        prop_assert!((3..6).all(|n| world.expired.contains_key(&key(n))), "a silent instance stayed");
        prop_assert!((0..3).all(|n| !world.expired.contains_key(&key(n))));
    }
}
