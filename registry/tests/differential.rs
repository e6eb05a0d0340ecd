//! The same operations on both registries, while etcd's is compacted, killed, paused and cut off: outcomes, states and
//! what watches tell must not differ. `MERIDIAN_SEED` repeats a run.

// Helpers of tests assert by unwrapping, as the tests do; clippy exempts only functions that are marked as tests.
#![allow(clippy::unwrap_used, clippy::expect_used, dead_code)]

mod suite;

use bytes::Bytes;
use meridian_registry::embedded::EmbeddedRegistry;
use meridian_registry::etcd::{EtcdConfig, EtcdRegistry};
use meridian_registry::testing::{Link, RealEtcd};
use meridian_registry::{
    Change, Committed, Condition, Key, Membership, Observed, Registry, Revision, Stored, Write,
};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use suite::{Watch, entry, gateway, instance, joined};

const ROUNDS: usize = 24;
const WRITES_PER_ROUND: usize = 60;
const CLIENTS: usize = 8;
const TTL: Duration = Duration::from_secs(2);

/// What happens to etcd between two rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Disruption {
    None,
    Compaction,
    CompactionBehindCut,
    Cut,
    Restart,
    Pause,
    Expiry,
}

/// One of the two, with what makes its answers comparable.
struct Side {
    registry: Arc<dyn Registry>,
    /// Which operation made a revision. Revisions themselves differ: etcd's grow with ticks too.
    made: HashMap<Revision, usize>,
    last: Revision,
}

#[derive(Debug, PartialEq)]
enum Outcome {
    Applied { changed: bool },
    Conflict(Vec<Option<(Key, Bytes, Option<usize>)>>),
}

impl Side {
    fn new(registry: Arc<dyn Registry>) -> Self {
        Self { registry, made: HashMap::new(), last: Revision(0) }
    }

    fn compare(&self, stored: &Stored) -> (Key, Bytes, Option<usize>) {
        (stored.key.clone(), stored.value.clone(), self.made.get(&stored.modified).copied())
    }

    /// Whether `write` will change anything, by the state that is known of it.
    async fn commit(&mut self, operation: usize, write: &Plan, known: &BTreeMap<Key, usize>) -> Outcome {
        let revision_of =
            |made: usize| self.made.iter().find(|(_, m)| **m == made).map_or(Revision(0), |(r, _)| *r);
        let conditions = write
            .conditions
            .iter()
            .map(|(key, wanted)| match wanted {
                Wanted::Absent => Condition::Absent(key.clone()),
                Wanted::Present => Condition::Present(key.clone()),
                Wanted::MadeBy(made) => Condition::Unchanged(key.clone(), revision_of(*made)),
            })
            .collect();
        match self.registry.commit(Write { conditions, changes: write.changes.clone() }).await.unwrap() {
            Committed::Applied(revision) => {
                let changed =
                    write.changes.iter().any(|c| matches!(c, Change::Put(..)) || known.contains_key(c.key()));
                if changed {
                    assert!(revision > self.last, "{revision:?} after {:?}", self.last);
                    self.made.insert(revision, operation);
                }
                self.last = self.last.max(revision);
                Outcome::Applied { changed }
            }
            Committed::Conflict(standing) => {
                Outcome::Conflict(standing.iter().map(|s| s.as_ref().map(|s| self.compare(s))).collect())
            }
        }
    }

    fn log(&self, watch: &Watch) -> Vec<(Key, Option<Bytes>, Option<usize>)> {
        let told = watch.history.iter().map(|change| match change {
            Observed::Put(s) => (s.key.clone(), Some(s.value.clone()), self.made.get(&s.modified).copied()),
            Observed::Deleted(key, at) => (key.clone(), None, self.made.get(at).copied()),
        });
        told.filter(|(key, ..)| matches!(key, Key::Instance(_))).collect()
    }

    fn state(&self, watch: &Watch) -> Vec<(Key, Bytes, Option<usize>)> {
        let instances = watch.state.values().filter(|s| matches!(s.key, Key::Instance(_)));
        instances.map(|s| self.compare(s)).collect()
    }
}

#[derive(Debug)]
enum Wanted {
    Absent,
    Present,
    MadeBy(usize),
}

/// A write in terms that hold for both.
#[derive(Debug)]
struct Plan {
    conditions: Vec<(Key, Wanted)>,
    changes: Vec<Change>,
}

fn any_key(random: &mut StdRng) -> Key {
    instance(&format!("k{}", random.random_range(0..12)))
}

fn plan(random: &mut StdRng, operation: usize, known: &BTreeMap<Key, usize>) -> Plan {
    let mut changes = BTreeMap::new();
    for _ in 0..random.random_range(1..5) {
        let key = any_key(random);
        let change = if random.random_bool(0.3) {
            Change::Delete(key.clone())
        } else {
            Change::Put(key.clone(), Bytes::from(format!("{operation}-{}", random.random::<u16>())))
        };
        changes.insert(key, change);
    }
    if random.random_bool(0.5) {
        let key = entry(1_763_000_000_000 + operation as u64 * 60_000, 1);
        changes.insert(key.clone(), Change::Put(key, Bytes::from(format!("history {operation}"))));
    }
    let mut changes: Vec<_> = changes.into_values().collect();
    changes.shuffle(random);
    let conditions = (0..random.random_range(0..4))
        .map(|_| {
            let key = any_key(random);
            // Mostly right, as callers are; sometimes stale.
            let wanted = match (known.get(&key), random.random_range(0..10)) {
                (Some(made), 0..6) => Wanted::MadeBy(*made),
                (Some(made), 6) => Wanted::MadeBy(made.saturating_sub(1)),
                (Some(_), 7..9) | (None, 9) => Wanted::Present,
                _ => Wanted::Absent,
            };
            (key, wanted)
        })
        .collect();
    Plan { conditions, changes }
}

/// What each client of a concurrent round does, on records of its own and one that all want.
async fn clients(registry: Arc<dyn Registry>, seed: u64, round: usize) -> Vec<Vec<bool>> {
    let tasks: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let registry = registry.clone();
            tokio::spawn(async move {
                let mut random = StdRng::seed_from_u64(seed ^ ((round * CLIENTS + client) as u64));
                let mut outcomes = Vec::new();
                for step in 0..10 {
                    let key = instance(&format!("c{client}-{}", random.random_range(0..3)));
                    let condition = if random.random_bool(0.5) {
                        Condition::Absent(key.clone())
                    } else {
                        Condition::Present(key.clone())
                    };
                    let change = if random.random_bool(0.3) {
                        Change::Delete(key)
                    } else {
                        Change::Put(key, Bytes::from(format!("{round}-{step}")))
                    };
                    let write = Write { conditions: vec![condition], changes: vec![change] };
                    outcomes.push(matches!(registry.commit(write).await.unwrap(), Committed::Applied(_)));
                }
                // Everybody wants this one; exactly one gets it.
                let prize = instance(&format!("prize-{round}"));
                let write = Write {
                    conditions: vec![Condition::Absent(prize.clone())],
                    changes: vec![Change::Put(prize, Bytes::from_static(b"won"))],
                };
                let won = matches!(registry.commit(write).await.unwrap(), Committed::Applied(_));
                (outcomes, won)
            })
        })
        .collect();
    let mut all = Vec::new();
    let mut winners = 0;
    for task in tasks {
        let (outcomes, won) = task.await.unwrap();
        all.push(outcomes);
        winners += usize::from(won);
    }
    assert_eq!(winners, 1, "winners of the prize of round {round}");
    all
}

/// Per record what a log says, as the order between records depends on who was faster.
fn by_key(log: &[(Key, Option<Bytes>, Option<usize>)]) -> BTreeMap<&Key, Vec<Option<&Bytes>>> {
    let mut told: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (key, value, _) in log {
        told.entry(key).or_default().push(value.as_ref());
    }
    told
}

async fn serves(registry: &dyn Registry) {
    while registry.read(&Key::Region).await.is_err() {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_registries_do_the_same() {
    let seed = match std::env::var("MERIDIAN_SEED") {
        Ok(seed) => seed.parse().expect("MERIDIAN_SEED is a number"),
        Err(_) => rand::random(),
    };
    println!("MERIDIAN_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);

    let mut etcd = RealEtcd::start();
    let link = Link::to(etcd.port()).await;
    let direct = Arc::new(EtcdRegistry::connect(&etcd.config("here")).unwrap());
    let cut_off =
        EtcdRegistry::connect(&EtcdConfig { endpoints: vec![link.endpoint()], ..etcd.config("here") })
            .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("registry.redb");
    let here = "here".parse().unwrap();
    let mut one = Side::new(direct.clone());
    let mut other = Side::new(Arc::new(EmbeddedRegistry::open(Some(&file), &here).unwrap()));

    let mut told_by_etcd = Watch::start(&*direct, None).await;
    let mut told_by_file = Watch::start(&*other.registry, None).await;
    // At the end of the link that is cut: misses things, and must know that it does.
    let mut told_late = Watch::start(&cut_off, None).await;

    // Every disruption at least once, in an order of the seed's.
    use Disruption::{Compaction, CompactionBehindCut, Cut, Expiry, None as Nothing, Pause, Restart};
    let mut script = vec![Compaction, CompactionBehindCut, Cut, Restart, Pause, Expiry];
    while script.len() < ROUNDS {
        let any = [Nothing, Nothing, Nothing, Compaction, CompactionBehindCut, Cut, Restart];
        script.push(any[random.random_range(0..any.len())]);
    }
    script.shuffle(&mut random);
    let mut occurred = BTreeSet::new();

    let mut known: BTreeMap<Key, usize> = BTreeMap::new();
    let mut operation = 0;
    for (round, disruption) in script.into_iter().enumerate() {
        let resets = told_late.resets;
        let losses = told_late.lost;
        let mut lost: Option<Membership> = None;
        match disruption {
            Nothing | Compaction | Pause => {}
            CompactionBehindCut | Cut => {
                link.cut();
                told_late.until("the cut", |w| w.lost > losses).await;
            }
            Restart => {
                etcd.start_again();
                serves(&*direct).await;
            }
            Expiry => {
                let mut membership = cut_off.join(gateway("g"), Bytes::from_static(b"me"), TTL);
                let revision = joined(&mut membership).await;
                told_by_etcd.caught_up(revision).await;
                assert!(told_by_etcd.state.contains_key(&Key::Member(gateway("g"))));
                link.cut();
                lost = Some(membership);
            }
        }

        for _ in 0..WRITES_PER_ROUND {
            operation += 1;
            let plan = plan(&mut random, operation, &known);
            let by_etcd = one.commit(operation, &plan, &known).await;
            let by_file = other.commit(operation, &plan, &known).await;
            assert_eq!(by_etcd, by_file, "operation {operation} of seed {seed}: {plan:?}");
            if by_etcd == (Outcome::Applied { changed: true }) {
                for change in &plan.changes {
                    match change {
                        Change::Put(key, _) => known.insert(key.clone(), operation),
                        Change::Delete(key) => known.remove(key),
                    };
                }
            }
        }
        let outcomes = tokio::join!(
            clients(one.registry.clone(), seed, round),
            clients(other.registry.clone(), seed, round)
        );
        assert_eq!(outcomes.0, outcomes.1, "clients of round {round} of seed {seed}");

        match disruption {
            Nothing => {}
            Compaction => drop(etcd.compact().await),
            CompactionBehindCut => {
                etcd.compact().await;
                link.heal();
                told_late.until("a new start", |w| w.resets > resets).await;
            }
            Cut => link.heal(),
            Restart => {}
            Pause => {
                let losses = told_by_etcd.lost;
                etcd.pause();
                told_by_etcd.until("the pause", |w| w.lost > losses).await;
                etcd.resume();
                serves(&*direct).await;
            }
            Expiry => {
                let member = Key::Member(gateway("g"));
                told_by_etcd.until("the expiry", |w| !w.state.contains_key(&member)).await;
                // That etcd told first is the machine's doing, as long as the loss is known a moment later.
                let mut lost = lost.unwrap();
                let told = tokio::time::timeout(Duration::from_millis(250), lost.wait_for(Option::is_none));
                assert!(matches!(told.await, Ok(Ok(_))), "believed in longer than etcd did");
                drop(lost);
                link.heal();
            }
        }
        occurred.insert(disruption);

        // Everything told, everything the same.
        let (now, at) =
            (direct.read(&Key::Region).await.unwrap().1, other.registry.read(&Key::Region).await.unwrap().1);
        told_by_etcd.caught_up(now).await;
        told_by_file.caught_up(at).await;
        told_late.caught_up(now).await;
        let (etcd_log, file_log) = (one.log(&told_by_etcd), other.log(&told_by_file));
        let sequential = |log: &[(Key, Option<Bytes>, Option<usize>)]| {
            log.iter().filter(|(.., made)| made.is_some()).cloned().collect::<Vec<_>>()
        };
        assert_eq!(sequential(&etcd_log), sequential(&file_log), "told in round {round} of seed {seed}");
        assert_eq!(by_key(&etcd_log), by_key(&file_log), "told in round {round} of seed {seed}");
        assert_eq!(one.state(&told_by_etcd), other.state(&told_by_file), "round {round} of seed {seed}");
        assert_eq!(
            one.state(&told_late),
            one.state(&told_by_etcd),
            "round {round} of seed {seed}, told late"
        );
        let (newest, oldest) =
            (direct.history(None, 50).await.unwrap(), other.registry.history(None, 50).await.unwrap());
        let compared =
            |side: &Side, entries: &[Stored]| entries.iter().map(|s| side.compare(s)).collect::<Vec<_>>();
        assert_eq!(
            compared(&one, &newest),
            compared(&other, &oldest),
            "history in round {round} of seed {seed}"
        );
    }
    assert_eq!(told_by_etcd.resets, 1, "the undisturbed watch never had to start over");
    assert!(told_late.resets > 1);
    assert_eq!((told_by_etcd.incarnation.counter, told_by_file.incarnation.counter), (1, 1));
    for wanted in [Compaction, CompactionBehindCut, Cut, Restart, Pause, Expiry] {
        assert!(occurred.contains(&wanted), "{wanted:?} did not occur");
    }
    assert!(direct.stats().reconnects.get() >= 2 && cut_off.stats().relists.get() >= 2);

    // The embedded one's own restart: the same state from its file.
    let before = other.state(&told_by_file);
    let known = told_by_file.known();
    drop((told_by_file, std::mem::replace(&mut other.registry, direct.clone())));
    other.registry = Arc::new(EmbeddedRegistry::open(Some(&file), &here).unwrap());
    let again = Watch::start(&*other.registry, Some(known)).await;
    assert_eq!(other.state(&again), before);
    assert_eq!(again.incarnation, known.incarnation);
}
