//! Which member of the region guards an instance: the one that ranks first for it by rendezvous hashing (Thaler and
//! Ravishankar 1998), so that equal views give equal answers and a member that leaves moves only what it guarded.

use crate::names::{GatewayId, InstanceId, ServiceKey};
use crate::selection::mix;
use std::collections::BTreeSet;
use xxhash_rust::xxh3::xxh3_64;

/// What stands for an instance: XXH3-64 of `namespace/service/id`, which no other instance writes.
pub(crate) fn instance_hash(service: &ServiceKey, id: &InstanceId) -> u64 {
    let mut text = [0u8; MAX_KEY_BYTES];
    let parts = [service.namespace.as_str(), "/", service.service.as_str(), "/", id.as_str()];
    let mut length = 0;
    for part in parts {
        // The grammar of names bounds the sum, so nothing is cut off.
        for (to, from) in text.iter_mut().skip(length).zip(part.bytes()) {
            *to = from;
        }
        length += part.len();
    }
    xxh3_64(text.get(..length).unwrap_or(&text))
}

/// What stands for a service: XXH3-64 of `namespace/service`, which no instance writes.
pub(crate) fn service_hash(service: &ServiceKey) -> u64 {
    let mut hasher = xxhash_rust::xxh3::Xxh3Default::new();
    for part in [service.namespace.as_str(), "/", service.service.as_str()] {
        hasher.update(part.as_bytes());
    }
    hasher.digest()
}

/// Two labels of 63 bytes, an instance id of 128 and the slashes between.
const MAX_KEY_BYTES: usize = 63 + 63 + 128 + 2;

/// The live gateways of a region, as one of them sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ring {
    /// Hash and name of this gateway, if it is a member.
    mine: Option<(u64, GatewayId)>,
    others: Vec<(u64, GatewayId)>,
}

impl Ring {
    /// The members as `me` sees them.
    pub(crate) fn new(me: &GatewayId, members: &BTreeSet<GatewayId>) -> Self {
        let hashed = |id: &GatewayId| (xxh3_64(id.as_str().as_bytes()), id.clone());
        Self {
            mine: members.get(me).map(hashed),
            others: members.iter().filter(|id| *id != me).map(hashed).collect(),
        }
    }

    /// Whether this gateway is the guardian of the instance with this hash.
    pub(crate) fn is_mine(&self, instance: u64) -> bool {
        let Some((hash, name)) = &self.mine else { return false };
        // The name breaks a tie the same way everywhere.
        let own = (mix(hash ^ instance), name);
        self.others.iter().all(|(hash, name)| (mix(hash ^ instance), name) < own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn members(names: &[u16]) -> BTreeSet<GatewayId> {
        names.iter().map(|n| format!("gw-{n}").parse().unwrap()).collect()
    }

    proptest! {
        #[test]
        fn equal_views_give_every_instance_exactly_one_guardian(
            names in proptest::collection::btree_set(any::<u16>(), 1..9),
            instances in proptest::collection::vec(any::<u64>(), 1..200),
        ) {
            let all = members(&names.into_iter().collect::<Vec<_>>());
            for instance in instances {
                let guardians = all.iter().filter(|me| Ring::new(me, &all).is_mine(instance)).count();
                prop_assert_eq!(guardians, 1);
            }
        }
    }

    #[test]
    fn a_member_that_leaves_moves_only_what_it_guarded_about_one_in_n() {
        let all = members(&[1, 2, 3, 4, 5]);
        let gone: GatewayId = "gw-3".parse().unwrap();
        let rest: BTreeSet<_> = all.iter().filter(|id| **id != gone).cloned().collect();
        let service = ServiceKey::new("prod".parse().unwrap(), "orders".parse().unwrap());
        let (mut moved, total) = (0, 20_000);
        for n in 0..total {
            let hash = instance_hash(&service, &format!("pod-{n}").parse().unwrap());
            let guardian = |view: &BTreeSet<GatewayId>| {
                view.iter().find(|me| Ring::new(me, view).is_mine(hash)).cloned()
            };
            if guardian(&all) == Some(gone.clone()) {
                moved += 1;
            } else {
                assert_eq!(guardian(&all), guardian(&rest), "pod-{n} moved although its guardian stayed");
            }
        }
        assert!((total / 6..total / 4).contains(&moved), "{moved} of {total} moved");
    }

    #[test]
    fn an_outsider_guards_nothing() {
        let outsider = "gw-9".parse().unwrap();
        assert!((0..100).all(|n| !Ring::new(&outsider, &members(&[1, 2])).is_mine(mix(n))));
    }

    #[test]
    fn the_longest_key_is_hashed_whole() {
        let label = "a".repeat(63);
        let service = ServiceKey::new(label.parse().unwrap(), label.parse().unwrap());
        let id = |last: char| format!("{}{last}", "b".repeat(127)).parse().unwrap();
        assert_ne!(instance_hash(&service, &id('x')), instance_hash(&service, &id('y')));
        let short = ServiceKey::new("p".parse().unwrap(), "s".parse().unwrap());
        assert_eq!(instance_hash(&short, &"i".parse().unwrap()), xxh3_64(b"p/s/i"));
    }
}
