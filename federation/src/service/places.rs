//! Places of connections that were accepted: every region has its share, and who only knocks has few.

use super::connection::Peer;
use super::limits;
use super::name::PeerName;
use meridian_model::names::RegionName;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The places of one listener.
#[derive(Clone)]
pub(super) struct Places {
    /// Whose gateways connect too.
    own: RegionName,
    taken: Arc<Mutex<BTreeMap<u64, Guest>>>,
}

/// Who has a place.
struct Guest {
    name: PeerName,
    /// Whether a link was made of its connection.
    opened: Arc<AtomicBool>,
}

/// One place, until it is dropped.
pub(super) struct Place {
    places: Places,
    number: u64,
}

impl Places {
    pub(super) fn of(own: RegionName) -> Self {
        Self { own, taken: Arc::default() }
    }

    fn taken(&self) -> MutexGuard<'_, BTreeMap<u64, Guest>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection, unless as many are taken as there may be.
    pub(super) fn take(&self, peer: &Peer) -> Result<Place, String> {
        let mut taken = self.taken();
        let of_region = taken.values().filter(|guest| guest.name.region == peer.name.region).count();
        let waiting = |guest: &&Guest| guest.name == peer.name && !guest.opened.load(Ordering::Relaxed);
        let share = if peer.name.region == self.own {
            limits::CONNECTIONS_OF_OWN_REGION
        } else {
            limits::CONNECTIONS_OF_ONE_REGION
        };
        if taken.len() >= limits::CONNECTIONS {
            return Err("too many connections".to_owned());
        }
        if of_region >= share {
            return Err(format!("too many connections of {}", peer.name.region));
        }
        if taken.values().filter(waiting).count() >= limits::UNOPENED_OF_ONE {
            return Err(format!("too many connections without a link of {}", peer.name));
        }
        let number = taken.last_key_value().map_or(0, |(last, _)| last.saturating_add(1));
        taken.insert(number, Guest { name: peer.name.clone(), opened: Arc::clone(&peer.opened) });
        Ok(Place { places: self.clone(), number })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::super::rig::name;
    use super::*;
    use tokio_util::sync::CancellationToken;

    fn peer(short: &str, opened: bool) -> Peer {
        Peer {
            name: name(short),
            chain: Arc::default(),
            address: "127.0.0.1:1".parse().unwrap(),
            cut: CancellationToken::new(),
            opened: Arc::new(AtomicBool::new(opened)),
        }
    }

    #[test]
    fn one_region_cannot_take_the_places_of_others() {
        let places = Places::of(name("eu/node/a").region);
        let take = |region: &str, n: usize| places.take(&peer(&format!("{region}/node/{n}"), true));
        let mut held: Vec<Place> = (0..).map_while(|n| take("xx", n).ok()).collect();
        assert_eq!(held.len(), limits::CONNECTIONS_OF_ONE_REGION);
        held.extend((0..).map_while(|n| take("eu", n).ok()));
        assert_eq!(held.len(), limits::CONNECTIONS_OF_ONE_REGION + limits::CONNECTIONS_OF_OWN_REGION);
        held.push(take("us", 0).unwrap());
        // What is given back can be taken again.
        held.remove(0);
        held.push(take("xx", 900).unwrap());
        assert!(take("xx", 901).is_err());
    }

    #[test]
    fn who_makes_no_links_has_few_places() {
        let places = Places::of(name("eu/node/a").region);
        let waiting: Vec<Peer> = (0..limits::UNOPENED_OF_ONE).map(|_| peer("xx/node/m", false)).collect();
        let _held: Vec<Place> = waiting.iter().map(|peer| places.take(peer).unwrap()).collect();
        assert!(places.take(&peer("xx/node/m", false)).is_err());
        assert!(places.take(&peer("xx/node/n", false)).is_ok(), "another one has its own");
        waiting.iter().for_each(|peer| peer.opened.store(true, Ordering::Relaxed));
        assert!(places.take(&peer("xx/node/m", false)).is_ok());
    }
}
