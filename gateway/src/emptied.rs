//! Services that have nothing, and until when each of them is known all the same: who asks for one hears that it has nothing
//! rather than that there is none.

use meridian_model::names::ServiceKey;
use meridian_model::time::Monotonic;
use std::collections::BTreeMap;
use std::time::Duration;

/// What is known without instances here. Pure: the time comes in.
pub(crate) struct Emptied {
    known_for: Duration,
    /// Until when each service is known that nobody has.
    nowhere: BTreeMap<ServiceKey, Monotonic>,
    /// Until when each would be known that only other regions have.
    elsewhere: BTreeMap<ServiceKey, Monotonic>,
}

impl Emptied {
    pub(crate) fn new(known_for: Duration) -> Self {
        Self { known_for, nowhere: BTreeMap::new(), elsewhere: BTreeMap::new() }
    }

    /// Takes over that a service has had nothing for so long, and says whether it is still known.
    pub(crate) fn restore(&mut self, service: ServiceKey, empty_for: Duration, now: Monotonic) -> bool {
        let left = self.known_for.saturating_sub(empty_for);
        if left.is_zero() {
            return false;
        }
        self.nowhere.insert(service, now.plus(left));
        true
    }

    /// Who has instances of the service by now.
    pub(crate) fn note(&mut self, service: &ServiceKey, here: bool, elsewhere: bool, now: Monotonic) {
        let until = now.plus(self.known_for);
        if here {
            self.nowhere.remove(service);
            self.elsewhere.remove(service);
        } else if elsewhere {
            let until = self.nowhere.remove(service).unwrap_or(until);
            self.elsewhere.entry(service.clone()).or_insert(until);
        } else {
            // What others took back has been gone for no time, unless they were given up.
            self.nowhere.entry(service.clone()).or_insert(until);
        }
    }

    /// The regions that had the service have been silent for as long as a service is known without anything, and are given up:
    /// what counts is since when nothing is here.
    pub(crate) fn give_up(&mut self, service: &ServiceKey, now: Monotonic) {
        if let Some(until) = self.nowhere.get_mut(service) {
            *until = self.elsewhere.remove(service).unwrap_or(now);
        }
    }

    /// Services that nobody has, with the time since when.
    pub(crate) fn ages(&self, now: Monotonic) -> impl Iterator<Item = (&ServiceKey, Duration)> {
        self.nowhere
            .iter()
            .map(move |(service, until)| (service, self.known_for.saturating_sub(until.since(now))))
    }

    /// Those that are to be forgotten. Each is told once.
    pub(crate) fn take_over(&mut self, now: Monotonic) -> Vec<ServiceKey> {
        let over: Vec<ServiceKey> =
            self.nowhere.extract_if(.., |_, until| *until <= now).map(|(service, _)| service).collect();
        self.elsewhere.retain(|service, _| over.binary_search(service).is_err());
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600;

    fn at(hours: u64) -> Monotonic {
        Monotonic(1_000).plus(Duration::from_secs(hours * HOUR))
    }

    fn service() -> ServiceKey {
        ServiceKey::new("prod".parse().unwrap(), "ledger-api".parse().unwrap())
    }

    /// A day, told since when the service has been where.
    fn forgotten_at(notes: &[(u64, bool, bool)], given_up: Option<u64>) -> u64 {
        let mut emptied = Emptied::new(Duration::from_secs(24 * HOUR));
        for hour in 0..200 {
            for (_, here, elsewhere) in notes.iter().filter(|(when, ..)| *when == hour) {
                emptied.note(&service(), *here, *elsewhere, at(hour));
            }
            if given_up == Some(hour) {
                emptied.give_up(&service(), at(hour));
            }
            if !emptied.take_over(at(hour)).is_empty() {
                assert!(emptied.nowhere.is_empty() && emptied.elsewhere.is_empty());
                return hour;
            }
        }
        panic!("never forgotten");
    }

    #[test]
    fn a_service_is_known_for_a_day_after_the_last_instance() {
        assert_eq!(forgotten_at(&[(0, true, false), (5, false, false)], None), 29);
        assert_eq!(forgotten_at(&[(5, false, false), (9, true, false), (11, false, false)], None), 35);
        // Others had it, and took it back.
        assert_eq!(forgotten_at(&[(0, false, true), (50, false, false)], None), 74);
    }

    #[test]
    fn what_a_silent_region_had_is_known_for_a_day_after_the_last_instance_here() {
        assert_eq!(forgotten_at(&[(0, false, true), (50, false, false)], Some(50)), 50);
        assert_eq!(forgotten_at(&[(0, true, true), (40, false, true), (50, false, false)], Some(50)), 64);
        assert_eq!(forgotten_at(&[(30, false, false), (40, false, true), (50, false, false)], Some(50)), 54);
    }

    #[test]
    fn ages_are_taken_over() {
        let mut emptied = Emptied::new(Duration::from_secs(24 * HOUR));
        assert!(emptied.restore(service(), Duration::from_secs(23 * HOUR), at(0)));
        let ages: Vec<_> = emptied.ages(at(0)).collect();
        assert_eq!(ages, [(&service(), Duration::from_secs(23 * HOUR))]);
        assert!(emptied.take_over(at(0)).is_empty());
        assert_eq!(emptied.take_over(at(1)), [service()]);
        assert!(!emptied.restore(service(), Duration::from_secs(25 * HOUR), at(0)));
    }
}
