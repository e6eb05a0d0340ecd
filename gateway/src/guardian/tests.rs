//! The guardian and the outbox on a real registry, in real time with leases of three seconds.

use super::*;
use crate::beats::{self, BeatStats};
use crate::health::Guard;
use bytes::Bytes;
use meridian_model::instance::{Lease, Owner};
use meridian_model::names::{RegionName, ServiceKey};
use meridian_model::registration::RegistrationBody;
use meridian_model::status::CheckVerdict;
use meridian_model::time::UnixMillis;
use meridian_registry::embedded::EmbeddedRegistry;
use meridian_registry::record::Record;
use meridian_registry::{Event, Observed, Stored};
use tokio::net::TcpListener;

/// Below what the API takes, to keep tests short; above any pause between two heartbeats that a busy machine makes.
const TTL: Duration = Duration::from_secs(3);

fn key(id: &str) -> InstanceKey {
    let service = ServiceKey::new("prod".parse().unwrap(), "orders".parse().unwrap());
    InstanceKey { service, id: id.parse().unwrap() }
}

fn instance(id: &str, lease: u64, fields: &str) -> Instance {
    let body = format!(r#"{{"host":"127.0.0.1","zone":"z"{fields}}}"#);
    let body: RegistrationBody = serde_json::from_str(&body).unwrap();
    let mut declared = body.parse().unwrap();
    declared.lease_ttl_seconds = TTL.as_secs() as u32;
    Instance {
        format: 1,
        id: id.parse().unwrap(),
        owner: Owner { issuer: "i".into(), subject: "s".into() },
        declared,
        lease: Lease { id: LeaseId(lease), token_expires_at: None, expired_at: None },
        check: CheckVerdict::Pending,
        check_detail: Default::default(),
        registered_at: UnixMillis(1),
        updated_at: UnixMillis(1),
        reason: Default::default(),
        unknown: Default::default(),
    }
}

/// Gives the guardian what the registry reports, as the keeper does.
async fn feed(mut events: mpsc::Receiver<Event>, guardian: mpsc::Sender<GuardianInput>) {
    let mut members = BTreeSet::new();
    while let Some(event) = events.recv().await {
        let mut inputs = Vec::new();
        let mut puts: Vec<Stored> = Vec::new();
        match event {
            Event::Reset { records, .. } => {
                inputs.push(GuardianInput::Reset(Vec::new()));
                puts = records;
            }
            Event::Changed { changes, .. } => {
                for change in changes {
                    match change {
                        Observed::Put(stored) => puts.push(stored),
                        Observed::Deleted(Key::Instance(key), _) => {
                            inputs.push(GuardianInput::Instances(vec![(key, None)]));
                        }
                        Observed::Deleted(Key::Member(id), _) => {
                            members.remove(&id);
                            inputs.push(GuardianInput::Members(members.clone()));
                        }
                        Observed::Deleted(..) => {}
                    }
                }
            }
            Event::Current { .. } => {}
            Event::Lost { .. } => inputs.push(GuardianInput::Lost),
        }
        for stored in puts {
            match (record::decode(&stored.key, &stored.value).unwrap(), stored.key) {
                (Some(Record::Instance(record)), Key::Instance(key)) => {
                    let record = Some((Arc::new(*record), stored.modified));
                    inputs.push(GuardianInput::Instances(vec![(key, record)]));
                }
                (Some(Record::Member(_)), Key::Member(id)) => {
                    members.insert(id);
                    inputs.push(GuardianInput::Members(members.clone()));
                }
                (Some(Record::Beats(beats)), _) => inputs.push(GuardianInput::Beats(beats)),
                (Some(Record::Load(load)), Key::Load(service)) => {
                    let told = Some((load.total, stored.modified));
                    inputs.push(GuardianInput::Loads(vec![(service, told)]));
                }
                _ => {}
            }
        }
        if !matches!(inputs.last(), Some(GuardianInput::Lost)) {
            inputs.push(GuardianInput::Current);
        }
        for input in inputs {
            let _ = guardian.send(input).await;
        }
    }
}

struct Gateway {
    beats: mpsc::Sender<Beat>,
    stats: Arc<GuardianStats>,
    outbox: Arc<BeatStats>,
    tasks: Vec<JoinHandle<()>>,
}

impl Gateway {
    fn start(registry: &Arc<dyn Registry>, name: &str) -> Self {
        let me: GatewayId = name.parse().unwrap();
        let member = record::Member { http: "127.0.0.1:0".into(), version: "0".into() };
        let membership = registry.join(me.clone(), record::encode(&member).unwrap(), Duration::from_secs(3));
        let (inputs, receiver) = mpsc::channel(64);
        let (stats, outbox) = (Arc::default(), Arc::default());
        let settings = Settings { expired_kept: Duration::from_secs(1), ..Settings::default() };
        let office = Office {
            registry: Arc::clone(registry),
            me: me.clone(),
            membership,
            checker: Arc::new(Checker::new(Guard { allow_loopback: true })),
            max_checks: 8,
            settings,
            history: Arc::new(|key, before, after, action, reason| {
                let note = format!("{action} {key} {} {}: {reason}", before.is_some(), after.is_some());
                Some(Change::Put(Key::History(clock::unix_now(), rand::random()), Bytes::from(note)))
            }),
            stats: Arc::clone(&stats),
        };
        let (beats, beaten) = mpsc::channel(64);
        let tasks = vec![
            spawn(office, receiver),
            tokio::spawn(feed(registry.watch(None), inputs.clone())),
            beats::spawn(Arc::clone(registry), me, beaten, inputs, Arc::clone(&outbox)),
        ];
        Self { beats, stats, outbox, tasks }
    }

    /// Ends without goodbye, as far as a task can.
    async fn kill(self) {
        for task in self.tasks {
            task.abort();
            let _ = task.await;
        }
    }
}

fn region() -> Arc<dyn Registry> {
    let name: RegionName = "r1".parse().unwrap();
    Arc::new(EmbeddedRegistry::open(None, &name).unwrap())
}

async fn put(registry: &Arc<dyn Registry>, id: &str, instance: &Instance) {
    let change = Change::Put(Key::Instance(key(id)), record::encode(instance).unwrap());
    let write = Write { conditions: Vec::new(), changes: vec![change] };
    assert!(matches!(registry.commit(write).await, Ok(Committed::Applied(_))));
}

async fn read(registry: &Arc<dyn Registry>, id: &str) -> Option<Instance> {
    let (stored, _) = registry.read(&Key::Instance(key(id))).await.unwrap();
    stored.map(|stored| serde_json::from_slice(&stored.value).unwrap())
}

/// Looks every 20 ms until it is so, for ten seconds at most; gives the time that it took, and by how much the longest
/// round of these exceeded its 20 ms: that late do tasks run on this machine just now.
async fn until<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) -> (Duration, Duration) {
    const NAP: Duration = Duration::from_millis(20);
    let (begun, mut late) = (Instant::now(), Duration::ZERO);
    loop {
        let round = Instant::now();
        if is_so().await {
            return (begun.elapsed(), late.max(round.elapsed()));
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{what} did not happen");
        tokio::time::sleep(NAP).await;
        late = late.max(round.elapsed().saturating_sub(NAP));
    }
}

#[tokio::test]
async fn a_silent_instance_is_expired_then_removed_and_the_history_says_why() {
    let registry = region();
    let gateway = Gateway::start(&registry, "gw-1");
    put(&registry, "silent", &instance("silent", 1, r#","port":80"#)).await;
    put(&registry, "beating", &instance("beating", 2, r#","port":80"#)).await;
    let beats = gateway.beats.clone();
    let beating = tokio::spawn(async move {
        while beats.send(LeaseId(2).into()).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    let expired = || async { read(&registry, "silent").await.is_some_and(|i| i.lease.expired_at.is_some()) };
    let (took, late) = until("the expiry", expired).await;
    assert!(took <= TTL + Duration::from_secs(1) + late, "{took:?} for a TTL of {TTL:?}, {late:?} late");
    assert_eq!(read(&registry, "silent").await.unwrap().reason, "lease expired: no heartbeat for 3 s");
    until("the removal", || async { read(&registry, "silent").await.is_none() }).await;
    assert_eq!(read(&registry, "beating").await.unwrap().lease.expired_at, None);
    let history = registry.history(None, 10).await.unwrap();
    let history: Vec<_> =
        history.iter().rev().map(|s| String::from_utf8_lossy(&s.value).into_owned()).collect();
    assert_eq!(
        history,
        [
            "expire prod/orders/silent true true: lease expired: no heartbeat for 3 s",
            "remove prod/orders/silent true false: expired for 1 s",
        ]
    );
    let stats = &gateway.stats;
    assert_eq!((stats.expired.load(Ordering::Relaxed), stats.removed.load(Ordering::Relaxed)), (1, 1));
    assert_eq!(stats.guarded.load(Ordering::Relaxed), 1);
    let (taken, published) =
        (gateway.outbox.taken.load(Ordering::Relaxed), gateway.outbox.published.load(Ordering::Relaxed));
    assert!(published >= 1 && published * 2 <= taken + 1, "{taken} beats in {published} batches");
    beating.abort();
    gateway.kill().await;
}

#[tokio::test]
async fn checks_of_a_real_listener_become_verdicts() {
    let registry = region();
    let gateway = Gateway::start(&registry, "gw-1");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let fields = format!(
        r#","port":{port},"renewBy":"check","healthCheck":{{"tcp":{{"intervalSeconds":1,"unhealthyAfter":2}}}}"#
    );
    put(&registry, "a", &instance("a", 1, &fields)).await;
    let verdict = |wanted| {
        let registry = Arc::clone(&registry);
        move || {
            let registry = Arc::clone(&registry);
            async move { read(&registry, "a").await.is_some_and(|i| i.check == wanted) }
        }
    };
    until("the first verdict", verdict(CheckVerdict::Passing)).await;
    drop(listener);
    let expired = || async { read(&registry, "a").await.is_some_and(|i| i.lease.expired_at.is_some()) };
    until("the end of a lease that checks renew", expired).await;
    assert!(gateway.stats.checks_failed.load(Ordering::Relaxed) >= 2);
    gateway.kill().await;
}

#[tokio::test]
async fn beats_reach_the_guardian_through_another_gateway_and_survivors_take_over() {
    let registry = region();
    let first = Gateway::start(&registry, "gw-1");
    let second = Gateway::start(&registry, "gw-2");
    let names: Vec<String> = (0..8).map(|n| format!("pod-{n}")).collect();
    for (n, name) in (0u64..).zip(&names) {
        put(&registry, name, &instance(name, n, r#","port":80"#)).await;
    }
    let guarded = |g: &Gateway| g.stats.guarded.load(Ordering::Relaxed);
    until("the division of work", || async {
        guarded(&first) + guarded(&second) == 8 && guarded(&first) > 0
    })
    .await;
    assert!(guarded(&second) > 0);
    // All beat at the second gateway, the last one not at all.
    let beats = second.beats.clone();
    let beating = tokio::spawn(async move {
        loop {
            for n in 0..7 {
                let _ = beats.send(LeaseId(n).into()).await;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    tokio::time::sleep(TTL * 2 + Duration::from_millis(500)).await;
    first.kill().await;
    until("the take-over", || async { guarded(&second) >= 7 }).await;
    let expired = || async { read(&registry, "pod-7").await.is_none() };
    until("the silent one's end", expired).await;
    for name in names.iter().take(7) {
        assert_eq!(read(&registry, name).await.unwrap().lease.expired_at, None, "{name} beats");
    }
    beating.abort();
    second.kill().await;
}

#[tokio::test]
async fn a_ruling_is_not_written_over_a_newer_record_nor_after_the_membership_ended() {
    let registry = region();
    let member = record::encode(&record::Member { http: String::new(), version: "0".into() }).unwrap();
    let me: GatewayId = "gw-1".parse().unwrap();
    let mut membership = registry.join(me.clone(), member, Duration::from_secs(3));
    let held = membership.wait_for(Option::is_some).await.unwrap().unwrap();
    let record = instance("a", 1, r#","port":80"#);
    put(&registry, "a", &record).await;
    let modified = registry.read(&Key::Instance(key("a"))).await.unwrap().0.unwrap().modified;
    let stats = GuardianStats::default();
    let history: HistoryEntry = Arc::new(|_, _, _, _, _| None);
    let ruling = |modified: u64, membership: u64| Ruling {
        key: key("a"),
        instance: Arc::new(record.clone()),
        modified,
        membership,
        decision: Decision::Expire { reason: "test".into() },
    };
    for late in [ruling(modified.0 - 1, held.0), ruling(modified.0, held.0 + 1)] {
        assert_eq!(write(&*registry, &history, me.clone(), &late, &stats).await, Ruled::Conflict);
    }
    assert_eq!(read(&registry, "a").await.unwrap(), record);
    let fit = ruling(modified.0, held.0);
    assert_eq!(write(&*registry, &history, me.clone(), &fit, &stats).await, Ruled::Applied);
    assert_eq!(write(&*registry, &history, me, &fit, &stats).await, Ruled::Conflict);
    assert_eq!((stats.expired.into_inner(), stats.conflicts.into_inner()), (1, 3));
}
