//! A region for tests: a real etcd, and gateways in front of it.

#![allow(dead_code, reason = "every test binary uses its own part")]

use meridian_registry::testing::RealEtcd;
use meridian_tests::client::{Client, registration};
use meridian_tests::gateway::{GatewayProcess, ZONES, embedded, etcd};
use meridian_tests::tokens::Issuer;
use meridian_tests::workload::Workload;
use std::net::SocketAddr;

/// The region. Gateways end before their registry.
pub(crate) struct World {
    pub(crate) gateways: Vec<GatewayProcess>,
    pub(crate) etcd: RealEtcd,
    pub(crate) issuer: Issuer,
}

impl World {
    /// A region of `count` gateways, all ready.
    pub(crate) async fn start(count: usize) -> Self {
        let (etcd_process, issuer) = (RealEtcd::start(), Issuer::init());
        let mut gateways = Vec::new();
        for _ in 0..count {
            gateways.push(GatewayProcess::new(&issuer, etcd(&etcd_process.endpoints())).started().await);
        }
        Self { gateways, etcd: etcd_process, issuer }
    }

    pub(crate) fn gateway(&mut self) -> &mut GatewayProcess {
        &mut self.gateways[0]
    }

    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.gateways.iter().map(GatewayProcess::address).collect()
    }

    /// A client of the first gateway without a token.
    pub(crate) fn client(&self) -> Client {
        self.gateways[0].client()
    }

    /// Instances `w-0`, `w-1`, … of a service over the zones in turn, that beat at `gateways`.
    pub(crate) async fn workloads(
        &self,
        gateways: &[SocketAddr],
        service: &str,
        count: usize,
        ttl_seconds: u64,
    ) -> Vec<Workload> {
        let token = self.issuer.workload(service);
        let mut workloads = Vec::new();
        for (n, zone) in (0..count).zip(ZONES.iter().cycle()) {
            let id = format!("w-{n}");
            workloads.push(Workload::start(gateways, &token, service, &id, zone, ttl_seconds).await);
        }
        workloads
    }
}

/// One gateway with the embedded registry, for what does not depend on the registry.
pub(crate) async fn lone_gateway() -> (GatewayProcess, Issuer) {
    let issuer = Issuer::init();
    (GatewayProcess::new(&issuer, embedded()).started().await, issuer)
}

/// Registers `{prefix}-0`, `{prefix}-1`, … over the zones in turn, with leases that outlive the test.
pub(crate) async fn register_many(client: &Client, service: &str, prefix: &str, count: u16) {
    for (n, zone) in (0..count).zip(ZONES.iter().cycle()) {
        let answer = client.register(service, &format!("{prefix}-{n}"), &registration(zone, 1000 + n)).await;
        let _ = answer.expect(201);
    }
}
