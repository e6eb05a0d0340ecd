//! What makes failover calm: a region that got worse is believed at once, one that got better only after a while, and
//! then it is given back its traffic in steps. Policies know no time, so the host does this for them.

use crate::remote::{FULL_RAMP, Freshness, RAMP_STEP, Standing};
use crate::time::Monotonic;
use std::time::Duration;

/// How long a region must be heard of without a break before it counts as returned.
pub const RETURN_AFTER: Duration = Duration::from_secs(5);
/// A region that lost what it had regained within this proves itself for twice as long the next time, and so on, so that a
/// link that flaps moves traffic a few times and then not any more.
const RELAPSE_WITHIN: Duration = Duration::from_secs(60);
/// How often the proof doubles: to 40 s at most.
const MAX_DOUBLINGS: u32 = 3;
/// In this many steps a region gets its traffic back: each is a new snapshot of all its services.
const REGION_STEPS: u32 = 5;
const REGION_STEP: Duration = Duration::from_secs(4);
/// In this many steps a service that had nothing healthy in its region gets its traffic back from others.
const SERVICE_STEPS: u32 = 10;
const SERVICE_STEP: Duration = Duration::from_secs(1);
/// A service that had nothing healthy for less than this returns at once: the restart of a single instance is no failover.
pub const EMPTY_FOR: Duration = Duration::from_secs(2);

/// How a region stands by what was heard of it, undamped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// How long ago it was proven to be as it is known; none if that was never proven, or cannot be told.
    pub age_ms: Option<u64>,
    /// Whether it answers directly.
    pub reachable: bool,
    /// Whether anybody who may say so wants it spared.
    pub draining: bool,
    /// Smoothed round trip; none where it was never measured.
    pub round_trip_ms: Option<u32>,
}

impl Heard {
    /// How current what it told is.
    #[must_use]
    pub fn freshness(&self) -> Freshness {
        self.age_ms.map_or(Freshness::Stale, Freshness::of_age_ms)
    }
}

/// Where a region is on its way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    /// Never proven so far: the first proof needs no damping, there is nothing to return from.
    Unknown,
    Up,
    Down,
    /// Heard of again since then.
    Proving(Monotonic),
    /// Given back its traffic since then.
    Ramping(Monotonic),
}

/// Something good about a region: believed at once when it ends, and when it is back only after it lasted.
#[derive(Clone, Copy, Debug, Default)]
enum Steady {
    /// So from the first time that it was heard.
    #[default]
    Never,
    /// Since then, after so many relapses.
    Holds(Option<Monotonic>, u32),
    /// Heard again since then, after so many relapses.
    Lost(Option<Monotonic>, u32),
}

impl Steady {
    fn show(&mut self, good: bool, now: Monotonic) -> bool {
        *self = match (*self, good) {
            (Self::Never, true) => Self::Holds(None, 0),
            (Self::Holds(regained, relapses), false) => {
                let again = regained.is_some_and(|at| now.since(at) < RELAPSE_WITHIN);
                Self::Lost(None, if again { MAX_DOUBLINGS.min(relapses + 1) } else { 0 })
            }
            (Self::Lost(_, relapses), false) => Self::Lost(None, relapses),
            (Self::Lost(since, relapses), true) => {
                let since = since.unwrap_or(now);
                let proven = now.since(since) >= RETURN_AFTER.saturating_mul(1 << relapses);
                if proven { Self::Holds(Some(now), relapses) } else { Self::Lost(Some(since), relapses) }
            }
            (same, _) => same,
        };
        matches!(self, Self::Holds(..))
    }
}

/// The damping of one region.
#[derive(Clone, Copy, Debug)]
pub struct Damper {
    course: Course,
    /// When it was first asked.
    begun: Option<Monotonic>,
    fresh: Steady,
    reachable: Steady,
    /// As it is shown, once it was measured.
    round_trip_ms: Option<u32>,
}

impl Default for Damper {
    fn default() -> Self {
        let steady = Steady::default();
        Self { course: Course::Unknown, begun: None, fresh: steady, reachable: steady, round_trip_ms: None }
    }
}

impl Damper {
    /// What policies are shown of a region that was heard so, now. To be asked on every change and twice a second.
    pub fn show(&mut self, heard: Heard, now: Monotonic) -> Standing {
        let heard_freshness = heard.freshness();
        let away = heard_freshness == Freshness::Stale || heard.draining;
        let begun = *self.begun.get_or_insert(now);
        self.course = match (self.course, away) {
            // Who starts while a region is dead and remembers when it was alive has seen it die; but whoever was off itself
            // has not heard of any region yet, and those are well.
            (Course::Unknown, true)
                if heard.age_ms.is_none() || (!heard.draining && now.since(begun) < RETURN_AFTER) =>
            {
                Course::Unknown
            }
            (_, true) => Course::Down,
            (Course::Unknown | Course::Up, false) => Course::Up,
            (Course::Down, false) => Course::Proving(now),
            (Course::Proving(_), false) if heard_freshness != Freshness::Fresh => Course::Proving(now),
            (Course::Proving(since), false) if now.since(since) >= RETURN_AFTER => Course::Ramping(now),
            (Course::Ramping(since), false) if ramp(since, now, REGION_STEP, REGION_STEPS) == FULL_RAMP => {
                Course::Up
            }
            (course, false) => course,
        };
        if let Some(measured) = heard.round_trip_ms {
            self.round_trip_ms = Some(quantised(self.round_trip_ms.unwrap_or(0), measured));
        }
        let fresh = self.fresh.show(heard_freshness == Freshness::Fresh, now);
        let freshness = if fresh { heard_freshness } else { heard_freshness.max(Freshness::Suspect) };
        let ramp = match self.course {
            Course::Proving(_) => 0,
            Course::Ramping(since) => ramp(since, now, REGION_STEP, REGION_STEPS),
            Course::Unknown | Course::Up | Course::Down => FULL_RAMP,
        };
        Standing {
            freshness,
            reachable: self.reachable.show(heard.reachable, now),
            draining: heard.draining,
            ramp,
            round_trip_ms: self.round_trip_ms.unwrap_or(FARTHEST),
        }
    }
}

/// The return of the own region after its operators had it spared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Homecoming {
    /// Nothing to return from.
    #[default]
    Home,
    /// Spared now.
    Away,
    /// Not spared any more since then.
    Ramping(Monotonic),
}

impl Homecoming {
    /// The ramp of all its services, by whether it is spared now. To be asked on every change and twice a second.
    pub fn ramp(&mut self, spared: bool, now: Monotonic) -> u32 {
        *self = match (*self, spared) {
            (_, true) => Self::Away,
            (Self::Away, false) => Self::Ramping(now),
            (Self::Ramping(since), false) if ramp(since, now, REGION_STEP, REGION_STEPS) == FULL_RAMP => {
                Self::Home
            }
            (same, false) => same,
        };
        match *self {
            Self::Ramping(since) => ramp(since, now, REGION_STEP, REGION_STEPS),
            Self::Home | Self::Away => FULL_RAMP,
        }
    }
}

/// The return of one service to its own region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Return {
    /// Nothing to return from.
    #[default]
    Home,
    /// Nothing healthy since then, while other regions have something; and since when it was on its way back before.
    Away(Monotonic, Option<Monotonic>),
    /// Something healthy again since then.
    Ramping(Monotonic),
}

impl Return {
    /// The ramp of a service, by whether anything in the region may receive traffic now and whether anything elsewhere
    /// may. To be asked on every change and twice a second while it is not [`Return::Home`].
    pub fn ramp(&mut self, here: bool, elsewhere: bool, now: Monotonic) -> u32 {
        *self = match (*self, here, elsewhere) {
            (_, _, false) | (Self::Home, true, true) => Self::Home,
            (away @ Self::Away(..), false, true) => away,
            (Self::Ramping(since), false, true) => Self::Away(now, Some(since)),
            (Self::Home, false, true) => Self::Away(now, None),
            (Self::Away(since, before), true, true) if now.since(since) < EMPTY_FOR => {
                before.map_or(Self::Home, Self::Ramping)
            }
            (Self::Away(..), true, true) => Self::Ramping(now),
            (Self::Ramping(since), true, true)
                if ramp(since, now, SERVICE_STEP, SERVICE_STEPS) == FULL_RAMP =>
            {
                Self::Home
            }
            (Self::Ramping(since), true, true) => Self::Ramping(since),
        };
        match *self {
            Self::Ramping(since) => ramp(since, now, SERVICE_STEP, SERVICE_STEPS),
            Self::Home | Self::Away(..) => FULL_RAMP,
        }
    }
}

/// The ramp after some time: the first step at once, then one more every `step`.
fn ramp(since: Monotonic, now: Monotonic, step: Duration, steps: u32) -> u32 {
    let taken = now.since(since).as_millis() / step.as_millis().max(1) + 1;
    let part = FULL_RAMP / steps;
    debug_assert!(part.is_multiple_of(RAMP_STEP));
    u32::try_from(taken).map_or(FULL_RAMP, |taken| taken.saturating_mul(part).min(FULL_RAMP))
}

/// Round trips in these steps, in milliseconds.
const ROUND_TRIPS: [u32; 12] = [1, 2, 5, 10, 20, 35, 50, 75, 100, 150, 250, 500];
/// What is above all steps; also what was never measured, so that it is not taken for the nearest.
const FARTHEST: u32 = 1_000;

/// The step above `measured`; the one shown before, while the measured one is within a fifth of it.
fn quantised(shown: u32, measured: u32) -> u32 {
    let above = |ms: u32| ROUND_TRIPS.into_iter().find(|step| ms <= *step).unwrap_or(FARTHEST);
    let (low, high) = (measured.saturating_sub(measured / 5), measured.saturating_add(measured / 5));
    if shown == above(low) || shown == above(high) { shown } else { above(measured) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn heard(freshness: Freshness) -> Heard {
        let age = match freshness {
            Freshness::Fresh => 500,
            Freshness::Suspect => 8_000,
            Freshness::Stale => 60_000,
        };
        Heard { age_ms: Some(age), reachable: true, draining: false, round_trip_ms: Some(30) }
    }

    fn at(ms: u64) -> Monotonic {
        Monotonic(1_000_000 + ms)
    }

    #[test]
    fn a_region_falls_at_once_and_returns_in_steps() {
        let mut damper = Damper::default();
        assert_eq!(damper.show(heard(Freshness::Fresh), at(0)).ramp, FULL_RAMP, "nothing to return from");
        assert_eq!(damper.show(heard(Freshness::Stale), at(1)).freshness, Freshness::Stale);
        let proving = damper.show(heard(Freshness::Fresh), at(100));
        assert_eq!((proving.freshness, proving.ramp), (Freshness::Suspect, 0));
        // A break begins the proof anew.
        damper.show(heard(Freshness::Suspect), at(4_000));
        assert_eq!(damper.show(heard(Freshness::Fresh), at(6_000)).ramp, 0);
        let ramps: Vec<u32> =
            (0..30).map(|s| damper.show(heard(Freshness::Fresh), at(9_000 + s * 1_000)).ramp).collect();
        assert_eq!((ramps[0], ramps[4], ramps[8], ramps[29]), (200, 400, 600, FULL_RAMP));
        assert!(ramps.is_sorted());
    }

    /// A process that starts while a region is dead has missed its end, not its return.
    #[test]
    fn a_region_that_was_dead_at_the_start_returns_in_steps() {
        let mut remembered = Damper::default();
        assert_eq!(
            remembered.show(heard(Freshness::Stale), at(0)).ramp,
            FULL_RAMP,
            "the last resort takes all"
        );
        remembered.show(heard(Freshness::Stale), at(6_000));
        assert_eq!(remembered.show(heard(Freshness::Fresh), at(7_000)).ramp, 0);
        assert_eq!(remembered.show(heard(Freshness::Fresh), at(12_000)).ramp, 200);
        // The one that starts was off, and this one was not.
        let mut well = Damper::default();
        well.show(heard(Freshness::Stale), at(0));
        assert_eq!(well.show(heard(Freshness::Fresh), at(1_000)).ramp, FULL_RAMP);
        // Nobody ever heard of it: it begins.
        let mut unknown = Damper::default();
        unknown.show(Heard { age_ms: None, ..heard(Freshness::Stale) }, at(0));
        assert_eq!(unknown.show(heard(Freshness::Fresh), at(1_000)).ramp, FULL_RAMP);
    }

    /// Who loses the only one that measured knows no less of distances than before.
    #[test]
    fn a_distance_that_is_not_measured_any_more_stays() {
        let mut damper = Damper::default();
        let unmeasured = Heard { round_trip_ms: None, reachable: false, ..heard(Freshness::Fresh) };
        assert_eq!(damper.show(unmeasured, at(0)).round_trip_ms, FARTHEST, "not the nearest of all");
        assert_eq!(damper.show(heard(Freshness::Fresh), at(500)).round_trip_ms, 35);
        assert_eq!(damper.show(unmeasured, at(1_000)).round_trip_ms, 35);
    }

    /// Whoever sends its traffic to the best region would send it to and fro with the link.
    #[test]
    fn a_link_that_flaps_does_not_swing_traffic() {
        for (up, down, changes) in [(2, 2, 1), (4, 6, 1), (8, 6, 3), (30, 10, 7), (120, 10, 4)] {
            let mut damper = Damper::default();
            let mut shown = Vec::new();
            for second in 0..300 {
                let good = second % (up + down) < up;
                let freshness = if good { Freshness::Fresh } else { Freshness::Suspect };
                let news = Heard { reachable: good, ..heard(freshness) };
                let standing = damper.show(news, at(second * 1_000));
                assert!(good || !standing.reachable, "worse at once");
                assert_eq!(standing.reachable, standing.freshness == Freshness::Fresh);
                shown.push(standing.reachable);
            }
            shown.dedup();
            assert_eq!(shown.len() - 1, changes, "up for {up} s, down for {down} s");
        }
    }

    #[test]
    fn the_own_region_is_given_its_traffic_back_in_steps() {
        let mut own = Homecoming::default();
        assert_eq!([own.ramp(false, at(0)), own.ramp(true, at(1_000))], [FULL_RAMP; 2]);
        let ramps = [60_000, 64_000, 69_000, 76_000, 80_000].map(|ms| own.ramp(false, at(ms)));
        assert_eq!(ramps, [200, 400, 600, FULL_RAMP, FULL_RAMP]);
        assert_eq!(own, Homecoming::Home);
    }

    #[test]
    fn the_end_of_a_drain_is_a_return() {
        let mut damper = Damper::default();
        damper.show(heard(Freshness::Fresh), at(0));
        damper.show(Heard { draining: true, ..heard(Freshness::Fresh) }, at(10));
        assert_eq!(damper.show(heard(Freshness::Fresh), at(20)).ramp, 0);
    }

    #[test]
    fn a_restart_is_no_failover_and_an_outage_is() {
        let mut service = Return::default();
        assert_eq!(service.ramp(true, true, at(0)), FULL_RAMP);
        service.ramp(false, true, at(10));
        assert_eq!(service.ramp(true, true, at(1_500)), FULL_RAMP);
        service.ramp(false, true, at(2_000));
        assert_eq!(service.ramp(true, true, at(6_000)), 100);
        assert_eq!(service.ramp(true, true, at(10_900)), 500);
        assert_eq!(service.ramp(true, true, at(15_000)), FULL_RAMP);
        assert_eq!(service, Return::Home);
        // A blip on the way back is no reason to skip the rest of it.
        service.ramp(false, true, at(16_000));
        assert_eq!(service.ramp(true, true, at(19_000)), 100);
        service.ramp(false, true, at(20_500));
        assert_eq!(service.ramp(true, true, at(21_200)), 300);
        service.ramp(true, true, at(40_000));
        assert_eq!(service, Return::Home);
        // Where there is nobody to share with, everything is carried here at once.
        service.ramp(false, true, at(50_000));
        assert_eq!(service.ramp(true, false, at(60_000)), FULL_RAMP);
    }

    proptest! {
        #[test]
        fn what_is_shown_keeps_to_the_contract(news in prop::collection::vec((0u64..4_000, 0u64..60_000, any::<[bool; 2]>(), 0u32..2_000), 1..60)) {
            let (mut damper, mut now) = (Damper::default(), 0);
            for (later, age, [draining, reachable], round_trip_ms) in news {
                now += later;
                let news = Heard { age_ms: Some(age), reachable, draining, round_trip_ms: Some(round_trip_ms) };
                let shown = damper.show(news, at(now));
                prop_assert!(shown.ramp <= FULL_RAMP && shown.ramp.is_multiple_of(RAMP_STEP));
                prop_assert!(shown.freshness >= news.freshness(), "never better than what was heard");
                prop_assert!(news.reachable || !shown.reachable);
                prop_assert_eq!(shown.draining, draining);
            }
        }
    }

    #[test]
    fn round_trips_do_not_flap_at_a_boundary() {
        let mut shown = 0;
        let mut changes = 0;
        for n in 0..100 {
            let next = quantised(shown, if n % 2 == 0 { 48 } else { 52 });
            changes += u32::from(next != shown);
            shown = next;
        }
        assert_eq!(changes, 1);
    }
}
