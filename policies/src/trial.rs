//! A small made-up service that every module is tried on: two zones, every status, one endpoint under doubt.

use meridian_model::binding::{Bound, Effective};
use meridian_model::caller::Caller;
use meridian_model::instance::{Instance, Lease, LeaseId, Owner, RECORD_FORMAT};
use meridian_model::names::{BadName, PolicyVersion, ServiceKey};
use meridian_model::registration::{DEFAULT_LEASE_TTL_SECONDS, Host, Registration, RenewBy};
use meridian_model::snapshot::{Endpoint, Snapshot};
use meridian_model::status::{CheckVerdict, Declared, Status};
use meridian_model::time::UnixMillis;
use smol_str::SmolStr;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The service and a caller in its first zone.
pub(crate) fn service() -> Result<(Snapshot, Caller), BadName> {
    let region: meridian_model::names::RegionName = "trial-1".parse()?;
    let zones = ["trial-1a", "trial-1b"];
    let statuses = [
        ("a-1", 0, Status::Healthy, "stable"),
        ("a-2", 0, Status::Healthy, "canary"),
        ("a-3", 0, Status::Unhealthy, "stable"),
        ("b-1", 1, Status::Healthy, "stable"),
        ("b-2", 1, Status::Draining, "stable"),
        ("b-3", 1, Status::Starting, "canary"),
    ];
    let mut endpoints = Vec::new();
    for (id, zone, status, group) in statuses {
        let instance = instance(id, zones.get(zone).copied().unwrap_or("trial-1a"), group)?;
        endpoints.push(Endpoint::new(Arc::new(instance), status, id == "a-2", Arc::from([])));
    }
    let built_in =
        Bound { policy: "trial".parse()?, version: PolicyVersion::of(b""), config: SmolStr::default() };
    let snapshot = Snapshot {
        key: ServiceKey::new("trial".parse()?, "orders-api".parse()?),
        region: region.clone(),
        slot: 0,
        serial: 0,
        index: 1,
        endpoints,
        binding: Arc::new(Effective::of(None, None, &built_in)),
        draining_zones: Vec::new(),
        ramp: meridian_model::remote::FULL_RAMP,
        remotes: Vec::new(),
        withheld: meridian_model::snapshot::Withheld::default(),
    };
    Ok((snapshot, Caller::in_zone(region, Some("trial-1a".parse()?))))
}

fn instance(id: &str, zone: &str, group: &str) -> Result<Instance, BadName> {
    let bad_host = BadName { kind: "host", grammar: "an IP address" };
    let declared = Registration {
        host: Host::parse("192.0.2.1").map_err(|_| bad_host)?,
        port: 8080,
        zone: zone.parse()?,
        version: SmolStr::new_static("1.0.0"),
        weight: 100,
        deployment_group: SmolStr::new(group),
        protocol: SmolStr::new_static("http"),
        tags: vec![SmolStr::new_static("v1")],
        metadata: BTreeMap::from([(SmolStr::new_static("team"), SmolStr::new_static("trial"))]),
        status: Declared::Healthy,
        lease_ttl_seconds: DEFAULT_LEASE_TTL_SECONDS,
        renew_by: RenewBy::Heartbeat,
        capacity: None,
        health_check: None,
    };
    Ok(Instance {
        format: RECORD_FORMAT,
        id: id.parse()?,
        owner: Owner { issuer: SmolStr::default(), subject: SmolStr::default() },
        declared,
        lease: Lease { id: LeaseId(0), token_expires_at: None, expired_at: None },
        check: CheckVerdict::Pending,
        check_detail: SmolStr::default(),
        registered_at: UnixMillis(0),
        updated_at: UnixMillis(0),
        reason: SmolStr::default(),
        unknown: serde_json::Map::new(),
    })
}
