//! What `meridian dev` runs: regions, their zones and ports, and the demo's instances.

use crate::failure::Failure;
use meridian_model::names::{InstanceId, RegionName, ServiceName, ZoneName};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// Regions, in the order of their ports.
const REGIONS: [&str; 3] = ["ap-south-1", "eu-west-1", "us-east-1"];
/// Zones of a region end so.
const ZONES: [&str; 2] = ["a", "b"];
/// The port of the first region's gateway, where nothing else is said.
pub(super) const DEFAULT_PORT_BASE: u16 = 8500;
/// From a region's gateway to its federation node.
const TO_FEDERATION: u16 = 10;
/// The highest first port that leaves room for the others.
pub(super) const MAX_PORT_BASE: i64 = 65535 - (REGIONS.len() as i64 - 1) - TO_FEDERATION as i64;

/// A kind of instances in every zone.
struct Batch {
    service: &'static str,
    version: &'static str,
    group: &'static str,
    count: usize,
}

/// In every zone. One service has a canary, so that the policies `canary` and `weighted` have something to choose from.
const BATCHES: [Batch; 4] = [
    Batch { service: "orders-api", version: "1.4.0", group: "stable", count: 2 },
    Batch { service: "orders-api", version: "1.5.0", group: "canary", count: 1 },
    Batch { service: "inventory-api", version: "2.0.1", group: "stable", count: 2 },
    Batch { service: "checkout-api", version: "3.2.0", group: "stable", count: 2 },
];

/// One region of the layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) name: RegionName,
    pub(super) zones: Vec<ZoneName>,
    /// Where its gateway listens.
    pub(super) address: SocketAddr,
    /// Where its federation node listens.
    pub(super) federation: SocketAddr,
}

/// One demo instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seat {
    pub(super) region: RegionName,
    pub(super) zone: ZoneName,
    pub(super) service: ServiceName,
    /// The same in every run, so that a new run replaces what an earlier one left in the registry.
    pub(super) id: InstanceId,
    pub(super) version: &'static str,
    pub(super) group: &'static str,
}

/// The names are constants and fit their grammars; a test parses every one.
fn name<T: std::str::FromStr>(text: &str) -> Result<T, Failure>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    text.parse().map_err(|error: T::Err| Failure::Failed(error.into()))
}

/// The regions with their gateways on `port_base` and the ports after it.
pub(super) fn regions(port_base: u16) -> Result<Vec<Region>, Failure> {
    let ports = port_base..=u16::MAX;
    let of = |(region, port): (&str, u16)| {
        Ok(Region {
            name: name(region)?,
            zones: ZONES.iter().map(|zone| name(&format!("{region}{zone}"))).collect::<Result<_, _>>()?,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            federation: SocketAddr::from((Ipv4Addr::LOCALHOST, port.saturating_add(TO_FEDERATION))),
        })
    };
    REGIONS.into_iter().zip(ports).map(of).collect()
}

/// The demo's instances of a region.
pub(super) fn seats(region: &Region) -> Result<Vec<Seat>, Failure> {
    let mut seats = Vec::new();
    for zone in &region.zones {
        for Batch { service, version, group, count } in &BATCHES {
            for number in 1..=*count {
                let id = match *group {
                    "stable" => format!("{service}-{zone}-{number}"),
                    group => format!("{service}-{zone}-{group}-{number}"),
                };
                seats.push(Seat {
                    region: region.name.clone(),
                    zone: zone.clone(),
                    service: name(service)?,
                    id: name(&id)?,
                    version,
                    group,
                });
            }
        }
    }
    Ok(seats)
}

/// Fails if a port is taken, naming all of them, before anything is started.
pub(super) fn require_free(regions: &[Region]) -> Result<(), Failure> {
    let taken: Vec<String> = regions
        .iter()
        .flat_map(|region| [region.address, region.federation])
        .filter_map(|address| TcpListener::bind(address).err().map(|error| (address.port(), error)))
        .map(|(port, error)| match error.kind() {
            std::io::ErrorKind::AddrInUse => format!("{port} is in use"),
            _ => format!("{port}: {error}"),
        })
        .collect();
    if taken.is_empty() {
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "the regions cannot listen on their ports on 127.0.0.1 ({})\n  next: stop what listens there, or choose other \
         ports with --port-base, such as --port-base 9500 for 9500 to 9502 and 9510 to 9512",
        taken.join(", ")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    #[test]
    fn regions_have_the_ports_and_zones_of_the_contract() {
        let regions = regions(DEFAULT_PORT_BASE).unwrap();
        let of = |n: usize| {
            (regions[n].name.as_str(), regions[n].address.to_string(), regions[n].zones[1].as_str())
        };
        assert_eq!(of(0), ("ap-south-1", "127.0.0.1:8500".into(), "ap-south-1b"));
        assert_eq!(of(1), ("eu-west-1", "127.0.0.1:8501".into(), "eu-west-1b"));
        assert_eq!(of(2), ("us-east-1", "127.0.0.1:8502".into(), "us-east-1b"));
    }

    #[test]
    fn the_highest_base_still_has_room() {
        let base = u16::try_from(MAX_PORT_BASE).unwrap();
        assert_eq!(regions(base).unwrap().last().unwrap().federation.port(), u16::MAX);
    }

    #[test]
    fn every_service_has_two_instances_in_each_zone() {
        for region in regions(DEFAULT_PORT_BASE).unwrap() {
            let seats = seats(&region).unwrap();
            let ids: BTreeSet<_> = seats.iter().map(|seat| &seat.id).collect();
            assert_eq!(ids.len(), seats.len(), "ids are distinct");
            let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
            for seat in &seats {
                *counts.entry((seat.service.as_str(), seat.zone.as_str())).or_default() += 1;
            }
            assert_eq!(counts.len(), 3 * 2);
            assert!(counts.values().all(|count| *count >= 2), "{counts:?}");
        }
    }

    #[test]
    fn a_taken_port_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let region = Region { address, ..regions(DEFAULT_PORT_BASE).unwrap().remove(0) };
        let failure = require_free(&[region]).unwrap_err();
        let text = failure.to_string();
        assert!(
            text.contains(&format!("{} is in use", address.port())) && text.contains("--port-base"),
            "{text}"
        );
    }
}
