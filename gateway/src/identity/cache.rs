//! Tokens that were verified, by the SHA-256 of their text.
//!
//! Two generations: what is used moves to the young one; when that has half of the capacity, the old one goes as a whole.
//! So what is dropped went unused for at least half a capacity of newcomers, no list is kept in order, and a hit takes no
//! lock. Only tokens that verified get in, so nobody without the issuer's key can push others out.

use super::keys::Fingerprint;
use super::role::Identity;
use arc_swap::ArcSwap;
use meridian_model::time::UnixMillis;
use papaya::HashMap;
use sha2::{Digest, Sha256};
use std::sync::{Arc, Mutex, TryLockError};

/// The hash by which a token is known. A fast hash would let a forger look for a text that collides with a good token.
pub(super) type TokenHash = [u8; 32];

pub(super) fn hash(token: &str) -> TokenHash {
    Sha256::digest(token.as_bytes()).into()
}

/// What verification found, with what it rests on.
pub(super) struct Verified {
    pub(super) identity: Arc<Identity>,
    /// Position of the issuer in the configuration.
    pub(super) issuer: usize,
    /// The key that verified it.
    pub(super) key: Fingerprint,
    /// `exp` with leeway.
    pub(super) valid_before: UnixMillis,
}

type Generation = Arc<HashMap<TokenHash, Arc<Verified>>>;

struct Generations {
    young: Generation,
    old: Generation,
}

pub(super) struct Cache {
    generations: ArcSwap<Generations>,
    /// Held by whoever turns the generations; nobody waits for it.
    turning: Mutex<()>,
    half: usize,
}

impl Cache {
    /// A cache of about `capacity` tokens.
    pub(super) fn new(capacity: usize) -> Self {
        let empty = Generations { young: Arc::default(), old: Arc::default() };
        Self {
            generations: ArcSwap::from_pointee(empty),
            turning: Mutex::new(()),
            half: (capacity / 2).max(1),
        }
    }

    pub(super) fn get(&self, token: &TokenHash) -> Option<Arc<Verified>> {
        let generations = self.generations.load();
        if let Some(found) = generations.young.pin().get(token) {
            return Some(Arc::clone(found));
        }
        let found = generations.old.pin().get(token).cloned()?;
        self.insert(*token, Arc::clone(&found));
        Some(found)
    }

    pub(super) fn insert(&self, token: TokenHash, verified: Arc<Verified>) {
        let generations = self.generations.load();
        generations.young.pin().insert(token, verified);
        if generations.young.len() >= self.half {
            self.turn(&generations.young);
        }
    }

    pub(super) fn remove(&self, token: &TokenHash) {
        let generations = self.generations.load();
        generations.young.pin().remove(token);
        generations.old.pin().remove(token);
    }

    fn turn(&self, full: &Generation) {
        let _turning = match self.turning.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        // Another may have turned between the count and the lock.
        if Arc::ptr_eq(&self.generations.load().young, full) {
            self.generations.store(Arc::new(Generations { young: Arc::default(), old: Arc::clone(full) }));
        }
    }

    pub(super) fn len(&self) -> usize {
        let generations = self.generations.load();
        generations.young.len() + generations.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::role::Role;
    use super::*;
    use meridian_model::instance::Owner;

    fn verified() -> Arc<Verified> {
        let owner = Owner { issuer: "i".into(), subject: "s".into() };
        let identity = Identity::new(owner, Role::Reader { namespace: None }, UnixMillis(1));
        Arc::new(Verified {
            identity: Arc::new(identity),
            issuer: 0,
            key: [0; 32],
            valid_before: UnixMillis(1),
        })
    }

    #[test]
    fn it_stays_bounded_and_keeps_what_is_used() {
        let cache = Cache::new(100);
        let (used, unused) = (hash("used"), hash("unused"));
        cache.insert(used, verified());
        cache.insert(unused, verified());
        for n in 0..10_000 {
            cache.insert(hash(&format!("token {n}")), verified());
            assert!(cache.len() <= 100, "{} after {n}", cache.len());
            if n % 10 == 0 {
                assert!(cache.get(&used).is_some(), "forgotten after {n}");
            }
        }
        assert!(cache.get(&unused).is_none());
        assert!(cache.get(&hash("token 9999")).is_some());
    }

    #[test]
    fn it_stays_bounded_under_many_threads() {
        let cache = Cache::new(100);
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let cache = &cache;
                scope.spawn(move || {
                    for n in 0..2_000 {
                        cache.insert(hash(&format!("{thread} {n}")), verified());
                    }
                });
            }
        });
        // Between the count and the turn, each other thread may put in one more.
        assert!(cache.len() <= 100 + 2 * 8, "{}", cache.len());
    }

    #[test]
    fn what_is_removed_is_gone_from_both_generations() {
        let cache = Cache::new(4);
        for text in ["a", "b", "c"] {
            cache.insert(hash(text), verified());
        }
        for text in ["a", "b", "c"] {
            cache.remove(&hash(text));
            assert!(cache.get(&hash(text)).is_none(), "{text}");
        }
        assert_eq!(cache.len(), 0);
    }
}
