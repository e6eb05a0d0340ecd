//! The own region of a node: its records as the registry has them, and what of them is published.
//!
//! A registry that was wiped, restored or set back gives out places that other regions have seen with other records. So
//! a node publishes nothing while any head of its region is known that is ahead of its registry: a peer shows it, or the
//! node's disk has it. The same goes for a head of another life with the registry's counter: neither life knew of the other,
//! and which of them is the later one is for the registry to say, by a counter above both. It may just be that the registry's news are slow; if the registry proves that they are not, its
//! incarnation must be raised.

use super::freshness::Proof;
use super::head::{Head, NodeId, Place, SignedHead, Signer, Version};
use super::holding::Holding;
use super::limits::{self, Limits};
use super::state::State;
use super::{Own, OwnChange};
use crate::planted::planted;
use meridian_model::incarnation::Incarnation;
use meridian_model::names::RegionName;
use meridian_model::time::Monotonic;
use std::sync::Arc;
use std::time::Duration;

pub(super) struct OwnRegion {
    signer: Box<dyn Signer>,
    /// What the registry says; none before it said anything.
    registry: Option<Registry>,
    /// What was published last.
    published: Option<Holding>,
    /// The latest head of this region that is known, and when it was heard of.
    known: Option<(SignedHead, Monotonic)>,
    /// A life of this region that was heard of, of the same counter as the registry's and yet another one, and when.
    rival: Option<(Incarnation, Monotonic)>,
    raise_after: Monotonic,
    /// When a head was signed last.
    signed_at: Monotonic,
    /// It was signed anew at the same place, where only new subscribers hear of it.
    untold: bool,
}

struct Registry {
    place: Place,
    state: Arc<State>,
    /// When that was its newest revision.
    proven: Option<Monotonic>,
}

/// What is to be done after something about the own region changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Nothing,
    /// The records pass a limit, or the key cannot sign: the last good state stays.
    Refused,
    /// There is a new head.
    Published,
    Raise(Incarnation),
}

impl OwnRegion {
    pub(super) fn new(signer: Box<dyn Signer>) -> Self {
        let zero = Monotonic(0);
        Self {
            signer,
            registry: None,
            published: None,
            known: None,
            rival: None,
            raise_after: zero,
            signed_at: zero,
            untold: false,
        }
    }

    /// What may be told of the own region now.
    pub(super) fn published(&self) -> Option<&Holding> {
        self.published.as_ref().filter(|_| !self.is_behind() || planted!(PublishedWhileBehind))
    }

    /// The state that the registry shows.
    pub(super) fn version(&self) -> Option<Version> {
        let registry = self.registry.as_ref()?;
        let Place { incarnation, index } = registry.place;
        Some(Version { incarnation, index, root: registry.state.root() })
    }

    /// When what is published was the registry's newest; none if it is not.
    pub(super) fn proof(&self) -> Option<Proof> {
        let (registry, published) = (self.registry.as_ref()?, self.published()?);
        let version = published.version();
        let same = version.root == registry.state.root() && version.incarnation == registry.place.incarnation;
        let same = same || planted!(UnpublishedVouched);
        registry.proven.filter(|_| same).map(|at| Proof::new(at, 0))
    }

    /// The latest head of the own region that is known, to be kept on disk.
    pub(super) fn latest(&self) -> Option<&SignedHead> {
        self.known.as_ref().map(|(head, _)| head)
    }

    /// A head that this region signed, from a peer or the disk.
    pub(super) fn handle_known(&mut self, now: Monotonic, head: SignedHead) {
        let newer = self.known.as_ref().is_none_or(|(known, _)| {
            let (known, new) = (known.head.version, head.head.version);
            // At one place, another root than ours is what matters. What is known already is not heard of anew, or no
            // answer of the registry would ever be later than that.
            let other = new.place() == known.place() && new != known && Some(new) != self.version();
            new.place() > known.place() || other
        });
        if planted!(OwnTakenFromPeers)
            && let Some(registry) = &mut self.registry
        {
            registry.place = registry.place.max(head.head.version.place());
            return;
        }
        let life = head.head.version.incarnation;
        if newer || planted!(HeardAnew) {
            self.known = Some((head, now));
        }
        // It is before what was published under the registry's own life, and still no older life.
        let rivals = self.version().is_some_and(|own| own.incarnation.rivals(&life));
        if rivals && self.rival.is_none_or(|(known, _)| known.counter < life.counter) {
            self.rival = Some((life, now));
        }
    }

    fn is_behind(&self) -> bool {
        self.ahead().is_some()
    }

    /// The life of a state of this region that is known and that the registry is not past, and when it was heard of: a
    /// later state than the registry's, another one at the same place, or one of a rival life.
    fn ahead(&self) -> Option<(Incarnation, Monotonic)> {
        let own = self.version()?;
        let later = self.known.as_ref().filter(|(known, _)| {
            let known = known.head.version;
            if planted!(RaiseOnlyForCounter) {
                return known.incarnation.counter > own.incarnation.counter;
            }
            known.place() > own.place() || known.contradicts(&own)
        });
        let later = later.map(|(known, heard)| (known.head.version.incarnation, *heard));
        later.or(self.rival.filter(|(life, _)| life.rivals(&own.incarnation)))
    }

    pub(super) fn handle_own(&mut self, own: Own) {
        let place = Place { incarnation: own.incarnation, index: own.index };
        let before = self.registry.take();
        let state = match (own.change, before.as_ref().map(|b| &b.state)) {
            (OwnChange::All(records), _) => Arc::new(State::from_records(records)),
            (OwnChange::Some(changes), Some(state)) if changes.is_empty() => Arc::clone(state),
            (OwnChange::Some(changes), state) => {
                let nothing = State::default();
                let mut edit = state.map_or(&nothing, |s| &**s).edit();
                for (key, bytes) in changes {
                    match bytes {
                        Some(bytes) => edit.put(key, bytes),
                        None => edit.remove(&key),
                    }
                }
                Arc::new(edit.finish())
            }
        };
        let still = before.filter(|b| b.place == place).and_then(|b| b.proven);
        self.registry = Some(Registry { place, state, proven: own.proven.max(still) });
    }

    /// Whether what was published is to be signed anew although nothing changed. Certificates end, and a head whose
    /// signer's certificate has ended is refused by whoever has not got it yet, so it is signed with a renewed one at once,
    /// and from time to time, since the head that others hold may be another node's. At a later place all who hold it
    /// hear of it; while the registry does not move, only who asks here.
    fn is_to_be_signed(&self, now: Monotonic, moved: bool) -> bool {
        let signed_with = self.published.as_ref().map(|published| &published.head.credential);
        let renewed = signed_with.is_some_and(|credential| *credential != self.signer.credential());
        renewed || (moved && (self.untold || now.since(self.signed_at) >= limits::SIGN_EVERY))
    }

    /// Publishes what the registry shows, or has its incarnation raised.
    pub(super) fn settle(
        &mut self,
        now: Monotonic,
        region: &RegionName,
        node: &NodeId,
        limits: &Limits,
    ) -> Step {
        let (Some(own), Some(registry)) = (self.version(), &self.registry) else { return Step::Nothing };
        if let Some((life, heard)) = self.ahead().filter(|_| !planted!(PublishedWhileBehind)) {
            // Only an answer to a question asked later shows that the registry does not have what was heard of.
            let proven = registry.proven.is_some_and(|at| at > heard) || planted!(RaiseUnproven);
            if !proven || now < self.raise_after {
                return Step::Nothing;
            }
            let pause = if planted!(RaiseUnlimited) { Duration::ZERO } else { limits::RAISE_EVERY };
            self.raise_after = now.plus(pause);
            return Step::Raise(life.max(own.incarnation));
        }
        let said = self.published.as_ref().map(Holding::version);
        let known = self.known.as_ref().map(|(known, _)| known.head.version);
        let mut version = own;
        if let Some(said) = said.filter(|said| said.root == own.root && said.incarnation == own.incarnation) {
            match known {
                // Another node gave the same records a later place: this one does too, and no later one still.
                Some(known) if known.place() > said.place() && known.root == own.root => version = known,
                // A registry that went back and on has passed what peers hold, or came through the same place with other
                // records: they must hear of it.
                Some(known) if known.place() > said.place() || known.contradicts(&said) => {}
                // Nothing changed, and nobody has a later head.
                _ if !self.is_to_be_signed(now, own.place() > said.place()) => return Step::Nothing,
                _ => {}
            }
        }
        let Some(records) =
            u32::try_from(registry.state.len()).ok().filter(|_| fits(&registry.state, limits))
        else {
            return Step::Refused;
        };
        let head = Head { origin: region.clone(), node: node.clone(), version, records };
        let Ok(signature) = self.signer.sign(&head.signed_bytes()) else { return Step::Refused };
        let head = SignedHead { head, credential: self.signer.credential(), signature };
        let state = Arc::clone(&registry.state);
        (self.signed_at, self.untold) = (now, said.is_some_and(|said| said.place() == version.place()));
        match &mut self.published {
            Some(holding) => drop(holding.replace(head.clone(), state, limits)),
            None => self.published = Some(Holding::new(head.clone(), state)),
        }
        self.known = Some((head, now));
        Step::Published
    }
}

/// What no peer would take is not published: the last good state stays.
fn fits(state: &State, limits: &Limits) -> bool {
    state.len() <= limits.records
        && state.size() <= limits.origin_bytes
        && state.iter().all(|(_, bytes)| bytes.len() <= limits.record_bytes)
}
