//! The instances that a benchmark is about, written to the registry as a gateway writes them.

use anyhow::{Context, Result, bail};
use meridian_model::instance::{Instance, InstanceKey, Lease, LeaseId, Owner, RECORD_FORMAT};
use meridian_model::names::{Namespace, ServiceKey};
use meridian_model::registration::{Host, Registration, RenewBy};
use meridian_model::status::{CheckVerdict, Declared};
use meridian_model::time::UnixMillis;
use meridian_registry::etcd::EtcdRegistry;
use meridian_registry::testing::RealEtcd;
use meridian_registry::{Change, Committed, Key, Registry, Write, record};
use std::time::{Duration, SystemTime};

/// The region of every benchmark.
pub(crate) const REGION: &str = "bench-1";
/// Its zones.
pub(crate) const ZONES: [&str; 2] = ["bench-1a", "bench-1b"];
/// Whom the registrar's token names; see the rules of the gateways' configuration.
pub(crate) const ISSUER: &str = "https://dev.meridian";
/// Owner of all instances.
pub(crate) const REGISTRAR: &str = "spiffe://dev.meridian/ns/default/sa/registrar";
/// The longest lease there is: nothing expires during a benchmark unless that is what it is about.
pub(crate) const TTL_SECONDS: u32 = 3600;
/// Changes in one write; the registry takes 128.
const CHANGES: usize = 100;
/// No token outlives this, so that no heartbeat has a newer one to write down.
const TOKENS_END_WITHIN: Duration = Duration::from_secs(365 * 24 * 3600);

/// Services with instances, all healthy, spread over the zones in turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Population {
    pub(crate) services: usize,
    pub(crate) instances: usize,
}

impl Population {
    /// So many instances in each service.
    pub(crate) fn of(services: usize, instances_each: usize) -> Self {
        Self { services, instances: services * instances_each }
    }

    /// The name of a service.
    pub(crate) fn service(number: usize) -> String {
        format!("service-{number}")
    }

    /// The service of an instance.
    pub(crate) fn home(&self, instance: usize) -> String {
        Self::service(instance % self.services.max(1))
    }

    /// The id of an instance, unique in the region too.
    pub(crate) fn id(instance: usize) -> String {
        format!("i-{instance}")
    }

    /// The lease of an instance.
    pub(crate) fn lease(instance: usize) -> LeaseId {
        // An odd factor: different instances have different leases.
        LeaseId((instance as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn record(&self, instance: usize, now: UnixMillis) -> Result<(Key, Instance)> {
        let id = Self::id(instance).parse()?;
        let key = InstanceKey {
            service: ServiceKey::new(Namespace::default(), self.home(instance).parse()?),
            id: Self::id(instance).parse()?,
        };
        let [_, a, b, c] = (instance as u32).to_be_bytes();
        let zone = ZONES.get((instance / self.services.max(1)) % ZONES.len()).context("no zones")?;
        let declared = Registration {
            host: Host::parse(&format!("10.{a}.{b}.{c}")).map_err(anyhow::Error::msg)?,
            port: 8080,
            zone: zone.parse()?,
            version: "2026.04.18.2".into(),
            weight: 100,
            deployment_group: "stable".into(),
            protocol: "http".into(),
            tags: vec!["v2".into()],
            metadata: [("team".into(), "inventory".into())].into(),
            status: Declared::Healthy,
            lease_ttl_seconds: TTL_SECONDS,
            renew_by: RenewBy::Heartbeat,
            capacity: None,
            health_check: None,
        };
        let instance = Instance {
            format: RECORD_FORMAT,
            id,
            owner: Owner { issuer: ISSUER.into(), subject: REGISTRAR.into() },
            declared,
            lease: Lease {
                id: Self::lease(instance),
                token_expires_at: Some(now.plus(TOKENS_END_WITHIN)),
                expired_at: None,
            },
            check: CheckVerdict::Pending,
            check_detail: "".into(),
            registered_at: now,
            updated_at: now,
            reason: "".into(),
            unknown: Default::default(),
        };
        Ok((Key::Instance(key), instance))
    }

    /// Writes all of them, in large transactions.
    pub(crate) fn write(&self, etcd: &RealEtcd) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let registry = EtcdRegistry::connect(&etcd.config(REGION))?;
            registry.claim(None).await?;
            let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
            let now = UnixMillis::default().plus(since_epoch);
            let all: Vec<usize> = (0..self.instances).collect();
            for some in all.chunks(CHANGES) {
                let mut changes = Vec::with_capacity(CHANGES);
                for instance in some {
                    let (key, value) = self.record(*instance, now)?;
                    changes.push(Change::Put(key, record::encode(&value)?));
                }
                match registry.commit(Write { conditions: Vec::new(), changes }).await? {
                    Committed::Applied(_) => {}
                    Committed::Conflict(_) => bail!("a write without conditions was refused"),
                }
            }
            Ok(())
        })
    }
}
