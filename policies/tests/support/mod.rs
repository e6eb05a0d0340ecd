//! Services and guests for the host's tests and benches.

#![allow(dead_code, reason = "every test binary uses its own part")]

pub mod guests;

use meridian_model::binding::{Bound, Effective};
use meridian_model::caller::Caller;
use meridian_model::instance::{Instance, Lease, LeaseId, Owner, RECORD_FORMAT, render_endpoint};
use meridian_model::names::{PolicyVersion, RegionName, ServiceKey, ZoneName};
use meridian_model::registration::{Host, Registration, RenewBy};
use meridian_model::snapshot::{Endpoint, Snapshot};
use meridian_model::status::{CheckVerdict, Declared, Status};
use meridian_model::time::UnixMillis;
use meridian_policies::{CallerId, Evaluation, Lookup, Routed, Worker};
use smol_str::SmolStr;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

static SERIAL: AtomicU64 = AtomicU64::new(1);

pub fn region() -> RegionName {
    "ap-south-1".parse().unwrap()
}

pub fn zone(letter: char) -> ZoneName {
    format!("ap-south-1{letter}").parse().unwrap()
}

/// A binding of `module` by the name `policy`.
pub fn bound(policy: &str, module: &[u8], config: &str) -> Bound {
    Bound { policy: policy.parse().unwrap(), version: PolicyVersion::of(module), config: config.into() }
}

pub fn effective(active: Bound, last_good: Vec<Bound>) -> Arc<Effective> {
    let caller_labels = BTreeSet::from([SmolStr::new_static("team")]);
    Arc::new(Effective { last_good, caller_labels, ..Effective::only(active) })
}

/// Endpoints `e-000`, `e-001`, … over zones a, b and c in turn.
pub fn endpoints(count: usize, status: impl Fn(usize) -> Status) -> Vec<Endpoint> {
    (0..count)
        .map(|n| {
            let zone = zone(['a', 'b', 'c'][n % 3]);
            let declared = Registration {
                host: Host::parse(&format!("10.0.{}.{}", n / 250, n % 250 + 1)).unwrap(),
                port: 8080,
                zone,
                version: "2026.04.18".into(),
                weight: 100,
                deployment_group: "stable".into(),
                protocol: "http".into(),
                tags: vec!["v2".into()],
                metadata: BTreeMap::from([("team".into(), "inventory".into())]),
                status: Declared::Healthy,
                lease_ttl_seconds: 30,
                renew_by: RenewBy::Heartbeat,
                capacity: None,
                health_check: None,
            };
            let instance = Instance {
                format: RECORD_FORMAT,
                id: format!("orders-api-{n:05}").parse().unwrap(),
                owner: Owner { issuer: "i".into(), subject: "s".into() },
                declared,
                lease: Lease { id: LeaseId(1), token_expires_at: None, expired_at: None },
                check: CheckVerdict::Pending,
                check_detail: SmolStr::default(),
                registered_at: UnixMillis(0),
                updated_at: UnixMillis(0),
                reason: SmolStr::default(),
                unknown: serde_json::Map::new(),
            };
            let rendered = render_endpoint(&instance, &region()).into();
            Endpoint::new(Arc::new(instance), status(n), false, rendered)
        })
        .collect()
}

/// A snapshot that is newer than every one before.
pub fn snapshot(slot: u32, endpoints: Vec<Endpoint>, binding: &Arc<Effective>) -> Arc<Snapshot> {
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    Arc::new(Snapshot {
        key: ServiceKey::new("default".parse().unwrap(), format!("service-{slot}").parse().unwrap()),
        region: region(),
        slot,
        serial,
        index: serial,
        endpoints,
        binding: Arc::clone(binding),
        draining_zones: Vec::new(),
        ramp: meridian_model::remote::FULL_RAMP,
        remotes: Vec::new(),
        withheld: meridian_model::snapshot::Withheld::default(),
    })
}

/// A healthy service of `count` endpoints.
pub fn healthy(slot: u32, count: usize, binding: &Arc<Effective>) -> Arc<Snapshot> {
    snapshot(slot, endpoints(count, |_| Status::Healthy), binding)
}

pub fn caller_in(worker: &mut Worker, snapshot: &Snapshot, letter: char) -> CallerId {
    worker.caller(&snapshot.region, &snapshot.binding, Some(&zone(letter)), &[])
}

/// Looks up until something other than `warming` answers. Fails after a minute.
pub async fn warm(worker: &mut Worker, snapshot: &Arc<Snapshot>, caller: CallerId) {
    until(worker, snapshot, caller, |routed| routed.view.outcome.reason() != Some("warming")).await;
}

/// Looks up until the answer is as wanted. Fails after a minute.
pub async fn until(
    worker: &mut Worker,
    snapshot: &Arc<Snapshot>,
    caller: CallerId,
    wanted: impl Fn(&Routed<'_>) -> bool,
) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let mut seen = String::new();
    while std::time::Instant::now() < deadline {
        let pending = match worker.lookup(snapshot, caller, None, 1) {
            Lookup::Routed(routed) if wanted(&routed) => return,
            Lookup::Routed(routed) => {
                seen = format!("{:?} of {}", routed.view.outcome, routed.view.version);
                None
            }
            Lookup::Cold(pending) => Some(pending),
        };
        match pending {
            Some(pending) => pending.wait().await,
            None => tokio::time::sleep(std::time::Duration::from_millis(1)).await,
        }
    }
    panic!("not within a minute; last seen: {seen}");
}

/// What the policy itself gives a caller: where the machine is too busy for an answer in time, it is asked again. Fails after
/// a minute.
pub async fn evaluated(
    host: &meridian_policies::Host,
    snapshot: &Arc<Snapshot>,
    caller: &Caller,
    key: Option<u64>,
) -> Evaluation {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let evaluation = host.evaluate(Arc::clone(snapshot), caller.clone(), key).await;
        if evaluation.view.outcome.reason() != Some("warming") {
            return evaluation;
        }
        assert!(std::time::Instant::now() < deadline, "not within a minute");
    }
}
