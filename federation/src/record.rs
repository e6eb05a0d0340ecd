//! Records as bytes: what a region tells of a service and of itself, laid out alike by every node of it.
//!
//! Protocol buffers without maps, so one value has one form; fields that a newer version adds are passed over by an
//! older one. What other regions sent is checked like any input: a record that breaks a bound is refused by name.

use crate::planted::planted;
use arcstr::ArcStr;
use bytes::Bytes;
use meridian_model::registration::{Host, MAX_KEY_BYTES, MAX_PAIRS, MAX_VALUE_BYTES, MAX_WEIGHT};
use meridian_model::summary::{
    IdAndHost, Ingress, Labels, MAX_ENDPOINTS, MAX_SUBSETS, RegionNotice, RemoteEndpoint, Subset, Summary,
};
use prost::Message;
use smol_str::SmolStr;
use std::sync::Arc;

/// At most this many zones of a region, and as many of its ingress addresses, are believed.
const MAX_PLACES: usize = 64;
/// Longest id that is believed: that of an instance.
const MAX_ID_BYTES: usize = 128;

/// Why bytes are not the record that they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRecord {
    /// No protocol buffer.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    /// Longer or more than is believed.
    #[error("{0} is past its bound")]
    Bound(&'static str),
    /// Not what its name says.
    #[error("{0} is not one")]
    Wrong(&'static str),
}

#[derive(Clone, PartialEq, Message)]
struct WireSubset {
    #[prost(string, tag = "1")]
    zone: String,
    #[prost(string, tag = "2")]
    version: String,
    #[prost(string, tag = "3")]
    group: String,
    #[prost(uint32, tag = "4")]
    healthy: u32,
    #[prost(uint32, tag = "5")]
    total: u32,
    #[prost(uint64, tag = "6")]
    weight: u64,
}

#[derive(Clone, PartialEq, Message)]
struct WirePair {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, Message)]
struct WireEndpoint {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    host: String,
    #[prost(uint32, tag = "3")]
    port: u32,
    #[prost(uint32, tag = "4")]
    weight: u32,
    #[prost(uint32, tag = "5")]
    subset: u32,
    #[prost(bool, tag = "6")]
    degraded: bool,
    /// Position among the summary's labels. Tags 7 and 8 were theirs, one by one.
    #[prost(uint32, tag = "9")]
    labels: u32,
}

/// What endpoints that were deployed together declare alike.
#[derive(Clone, PartialEq, Message)]
struct WireLabels {
    #[prost(string, repeated, tag = "1")]
    tags: Vec<String>,
    #[prost(message, repeated, tag = "2")]
    metadata: Vec<WirePair>,
}

#[derive(Clone, PartialEq, Message)]
struct WireSummary {
    #[prost(message, repeated, tag = "1")]
    subsets: Vec<WireSubset>,
    #[prost(message, repeated, tag = "2")]
    endpoints: Vec<WireEndpoint>,
    #[prost(bool, tag = "3")]
    sampled: bool,
    #[prost(uint64, optional, tag = "4")]
    headroom: Option<u64>,
    /// In the order in which endpoints name them first; none where no endpoint has any.
    #[prost(message, repeated, tag = "5")]
    labels: Vec<WireLabels>,
}

#[derive(Clone, PartialEq, Message)]
struct WireIngress {
    #[prost(string, tag = "1")]
    host: String,
    #[prost(uint32, tag = "2")]
    port: u32,
}

#[derive(Clone, PartialEq, Message)]
struct WireNotice {
    #[prost(string, optional, tag = "1")]
    draining: Option<String>,
    #[prost(string, repeated, tag = "2")]
    draining_zones: Vec<String>,
    #[prost(message, repeated, tag = "3")]
    ingress: Vec<WireIngress>,
}

/// The record of a service in at most `most` bytes. Where it would be longer, tags and metadata are left out first, since
/// addresses matter more; then subsets with their endpoints, the smallest first: a service with hundreds of versions that
/// have long names is still told of, and does not keep the rest of its region from being told.
#[must_use]
pub fn encode_summary(summary: &Summary, most: usize) -> Bytes {
    let subset = |s: &Subset| WireSubset {
        zone: s.zone.as_str().into(),
        version: s.version.as_str().into(),
        group: s.group.as_str().into(),
        healthy: s.healthy,
        total: s.total,
        weight: s.weight,
    };
    // At most 32 of them.
    let mut distinct: Vec<&Arc<Labels>> = Vec::new();
    for endpoint in &summary.endpoints {
        if !distinct.contains(&&endpoint.labels) {
            distinct.push(&endpoint.labels);
        }
    }
    if distinct.iter().all(|labels| ***labels == Labels::default()) {
        distinct.clear();
    }
    let position = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
    let labels = |labels: &&Arc<Labels>| WireLabels {
        tags: labels.tags.iter().map(|tag| tag.as_str().into()).collect(),
        metadata: labels
            .metadata
            .iter()
            .map(|(key, value)| WirePair { key: key.as_str().into(), value: value.as_str().into() })
            .collect(),
    };
    let endpoint = |e: &RemoteEndpoint| WireEndpoint {
        id: e.names.id().into(),
        host: e.names.host().into(),
        port: u32::from(e.port),
        weight: e.weight.into(),
        subset: e.subset.into(),
        degraded: e.degraded,
        labels: distinct.iter().position(|labels| **labels == e.labels).map_or(0, position),
    };
    let mut wire = WireSummary {
        subsets: summary.subsets.iter().map(subset).collect(),
        endpoints: summary.endpoints.iter().map(endpoint).collect(),
        sampled: summary.sampled,
        headroom: summary.headroom,
        labels: distinct.iter().map(labels).collect(),
    };
    if wire.encoded_len() > most {
        wire.labels.clear();
        wire.endpoints.iter_mut().for_each(|endpoint| endpoint.labels = 0);
    }
    while wire.encoded_len() > most && !wire.subsets.is_empty() {
        drop_smallest(&mut wire);
    }
    wire.encode_to_vec().into()
}

/// Removes the smaller half of the subsets, at least one, and their endpoints.
fn drop_smallest(wire: &mut WireSummary) {
    let mut order: Vec<usize> = (0..wire.subsets.len()).collect();
    order.sort_by_key(|at| wire.subsets.get(*at).map(|s| (std::cmp::Reverse((s.healthy, s.total)), *at)));
    order.truncate(wire.subsets.len() / 2);
    order.sort_unstable();
    let endpoints = wire.endpoints.len();
    wire.endpoints.retain_mut(|endpoint| match order.binary_search(&(endpoint.subset as usize)) {
        Ok(moved) => {
            endpoint.subset = u32::try_from(moved).unwrap_or(u32::MAX);
            true
        }
        Err(_) => false,
    });
    wire.subsets = order.iter().filter_map(|at| wire.subsets.get(*at).cloned()).collect();
    wire.sampled |= wire.endpoints.len() < endpoints;
}

/// What a region tells of a service.
///
/// # Errors
/// The bound that it breaks.
pub fn decode_summary(bytes: &[u8]) -> Result<Summary, BadRecord> {
    let wire = WireSummary::decode(bytes).map_err(|e| BadRecord::Unreadable(e.to_string()))?;
    bound("the number of subsets", wire.subsets.len(), MAX_SUBSETS)?;
    bound("the number of endpoints", wire.endpoints.len(), MAX_ENDPOINTS)?;
    bound("the number of labels", wire.labels.len(), MAX_ENDPOINTS)?;
    let subset = |s: WireSubset| {
        if s.healthy > s.total {
            return Err(BadRecord::Wrong("the number of healthy instances"));
        }
        if s.weight > u64::from(s.healthy) * u64::from(MAX_WEIGHT) {
            return Err(BadRecord::Wrong("the weight of a subset"));
        }
        Ok(Subset {
            zone: s.zone.parse().map_err(|_| BadRecord::Wrong("a zone"))?,
            version: text("a version", s.version, MAX_VALUE_BYTES)?,
            group: text("a group", s.group, MAX_VALUE_BYTES)?,
            healthy: s.healthy,
            total: s.total,
            weight: s.weight,
        })
    };
    let mut subsets: Vec<Subset> = wire.subsets.into_iter().map(subset).collect::<Result<_, _>>()?;
    let mut labels: Vec<Arc<Labels>> =
        wire.labels.into_iter().map(|l| self::labels(l).map(Arc::new)).collect::<Result<_, _>>()?;
    if labels.is_empty() {
        labels.push(Arc::default());
    }
    let endpoint = |e: WireEndpoint| endpoint(e, subsets.len(), &labels);
    let checked: Vec<(String, SmolStr, RemoteEndpoint)> =
        wire.endpoints.into_iter().map(endpoint).collect::<Result<_, _>>()?;
    let texts = checked.iter().flat_map(|(id, host, _)| [&**id, &**host]);
    let (texts, mut end) = (ArcStr::from(texts.collect::<String>()), 0);
    let named = checked.into_iter().map(|(id, host, endpoint)| {
        let start = end;
        end += id.len() + host.len();
        RemoteEndpoint { names: IdAndHost::within(texts.substr(start..end), id.len()), ..endpoint }
    });
    let mut endpoints: Vec<RemoteEndpoint> = named.collect();
    // They are looked up by id.
    if !endpoints.is_sorted_by(|one, next| one.names.id() < next.names.id()) {
        return Err(BadRecord::Wrong("the order of endpoints"));
    }
    subsets.shrink_to_fit();
    endpoints.shrink_to_fit();
    Ok(Summary { endpoints, sampled: wire.sampled, headroom: wire.headroom, subsets })
}

fn labels(wire: WireLabels) -> Result<Labels, BadRecord> {
    bound("the number of tags", wire.tags.len(), MAX_PAIRS)?;
    bound("the number of metadata pairs", wire.metadata.len(), MAX_PAIRS)?;
    let pair = |pair: WirePair| {
        Ok((text("a key", pair.key, MAX_KEY_BYTES)?, text("a value", pair.value, MAX_VALUE_BYTES)?))
    };
    let metadata: Box<[(SmolStr, SmolStr)]> =
        wire.metadata.into_iter().map(pair).collect::<Result<_, BadRecord>>()?;
    if !metadata.is_sorted_by(|(one, _), (next, _)| one < next) {
        return Err(BadRecord::Wrong("the order of metadata"));
    }
    let tags = wire.tags.into_iter().map(|tag| text("a tag", tag, MAX_VALUE_BYTES));
    Ok(Labels { tags: tags.collect::<Result<_, _>>()?, metadata })
}

/// An endpoint that is yet to be named, its id and its host.
fn endpoint(
    e: WireEndpoint,
    subsets: usize,
    labels: &[Arc<Labels>],
) -> Result<(String, SmolStr, RemoteEndpoint), BadRecord> {
    let subset = u16::try_from(e.subset).ok().filter(|at| usize::from(*at) < subsets);
    let subset = subset.ok_or(BadRecord::Wrong("the subset of an endpoint"))?;
    bound("an id", e.id.len(), MAX_ID_BYTES)?;
    let weight = u16::try_from(e.weight).ok().filter(|w| (1..=MAX_WEIGHT).contains(&u32::from(*w)));
    let weight = weight.ok_or(BadRecord::Wrong("a weight"))?;
    let host = host(&e.host)?;
    let endpoint = RemoteEndpoint {
        names: IdAndHost::default(),
        port: port(e.port)?,
        weight,
        subset: if planted!(SubsetMisread) { 0 } else { subset },
        degraded: e.degraded,
        labels: Arc::clone(
            labels.get(e.labels as usize).ok_or(BadRecord::Wrong("the labels of an endpoint"))?,
        ),
    };
    Ok((e.id, host, endpoint))
}

/// The record of a region.
#[must_use]
pub fn encode_notice(notice: &RegionNotice) -> Bytes {
    let wire = WireNotice {
        draining: notice.draining.as_ref().map(|reason| reason.as_str().into()),
        draining_zones: notice.draining_zones.iter().map(|zone| zone.as_str().into()).collect(),
        ingress: notice
            .ingress
            .iter()
            .map(|i| WireIngress { host: i.host.as_str().into(), port: u32::from(i.port) })
            .collect(),
    };
    wire.encode_to_vec().into()
}

/// What a region tells of itself.
///
/// # Errors
/// The bound that it breaks.
pub fn decode_notice(bytes: &[u8]) -> Result<RegionNotice, BadRecord> {
    let wire = WireNotice::decode(bytes).map_err(|e| BadRecord::Unreadable(e.to_string()))?;
    bound("the number of zones", wire.draining_zones.len(), MAX_PLACES)?;
    bound("the number of ingress addresses", wire.ingress.len(), MAX_PLACES)?;
    let zone = |zone: String| zone.parse().map_err(|_| BadRecord::Wrong("a zone"));
    let ingress = |i: WireIngress| Ok(Ingress { host: host(&i.host)?, port: port(i.port)? });
    Ok(RegionNotice {
        draining: wire.draining.map(|reason| text("a reason", reason, MAX_VALUE_BYTES)).transpose()?,
        draining_zones: wire.draining_zones.into_iter().map(zone).collect::<Result<_, _>>()?,
        ingress: wire.ingress.into_iter().map(ingress).collect::<Result<_, BadRecord>>()?,
    })
}

fn bound(what: &'static str, count: usize, most: usize) -> Result<(), BadRecord> {
    if count > most { Err(BadRecord::Bound(what)) } else { Ok(()) }
}

fn text(what: &'static str, text: String, most: usize) -> Result<SmolStr, BadRecord> {
    bound(what, text.len(), most)?;
    Ok(text.into())
}

/// Callers will connect to it, so it must be what an instance of this region could have registered.
fn host(text: &str) -> Result<SmolStr, BadRecord> {
    Host::parse(text).map(|host| host.as_str().into()).map_err(|_| BadRecord::Wrong("a host"))
}

fn port(port: u32) -> Result<u16, BadRecord> {
    u16::try_from(port).ok().filter(|port| *port > 0).ok_or(BadRecord::Wrong("a port"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MOST: usize = 64 * 1024;

    fn summary() -> impl Strategy<Value = Summary> {
        let subset = ("[a-z]{1,8}", "[a-z0-9.]{0,12}", 0u32..50, 0u32..50).prop_map(
            |(zone, version, healthy, more)| {
                let (zone, weight) = (zone.parse().unwrap(), u64::from(healthy) * 100);
                Subset {
                    zone,
                    version: version.into(),
                    group: "stable".into(),
                    healthy,
                    total: healthy + more,
                    weight,
                }
            },
        );
        let endpoint = ("[a-z0-9-]{1,36}", any::<[u8; 3]>(), 1u16.., 1u16..=10_000, any::<(bool, u16)>());
        let endpoints = prop::collection::btree_map("[a-z0-9-]{1,36}", endpoint, 0..MAX_ENDPOINTS);
        (prop::collection::vec(subset, 1..8), endpoints, any::<bool>(), any::<Option<u64>>()).prop_map(
            |(subsets, endpoints, sampled, headroom)| {
                let count = u16::try_from(subsets.len()).unwrap();
                let endpoints =
                    endpoints.into_iter().map(|(id, (word, [a, b, c], port, weight, (degraded, at)))| {
                        let metadata = [("team".into(), word.as_str().into())].into();
                        // Some are alike, and some declare nothing.
                        let tags = if a % 3 == 0 {
                            Box::default()
                        } else {
                            [["x", "y"][usize::from(b % 2)].into()].into()
                        };
                        let labels = if c % 4 == 0 { Labels::default() } else { Labels { tags, metadata } };
                        let host = format!("10.{a}.{b}.{c}");
                        RemoteEndpoint {
                            names: IdAndHost::new(&id, &host),
                            port,
                            weight,
                            subset: at % count,
                            degraded,
                            labels: labels.into(),
                        }
                    });
                Summary { endpoints: endpoints.collect(), subsets, sampled, headroom }
            },
        )
    }

    proptest! {
        #[test]
        fn a_summary_survives_the_trip(summary in summary()) {
            let bytes = encode_summary(&summary, MOST);
            prop_assert_eq!(decode_summary(&bytes), Ok(summary.clone()));
            prop_assert_eq!(encode_summary(&summary, MOST), bytes);
        }

        #[test]
        fn no_bytes_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = (decode_summary(&bytes), decode_notice(&bytes));
        }

        #[test]
        fn damaged_records_are_refused_or_keep_the_bounds(summary in summary(), at: prop::sample::Index, bit in 0u8..8) {
            let mut bytes = encode_summary(&summary, MOST).to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            if let Ok(read) = decode_summary(&bytes) {
                prop_assert!(read.endpoints.iter().all(|e| usize::from(e.subset) < read.subsets.len() && e.port > 0));
            }
        }
    }

    #[test]
    fn a_notice_survives_the_trip() {
        let notice = RegionNotice {
            draining: Some("maintenance".into()),
            draining_zones: vec!["za".parse().unwrap()],
            ingress: vec![Ingress { host: "edge.example".into(), port: 443 }],
        };
        assert_eq!(decode_notice(&encode_notice(&notice)), Ok(notice));
        assert_eq!(decode_notice(&encode_notice(&RegionNotice::default())), Ok(RegionNotice::default()));
    }

    /// A caller would send its traffic wherever this points.
    #[test]
    fn hosts_and_ports_of_others_are_checked() {
        let told = |host: &str, port: u32| {
            let wire =
                WireNotice { ingress: vec![WireIngress { host: host.into(), port }], ..Default::default() };
            decode_notice(&wire.encode_to_vec())
        };
        assert!(told("edge.example", 443).is_ok());
        for (host, port) in [("0.0.0.0", 80), ("a b", 80), ("", 80), ("h/../x", 80), ("h", 0), ("h", 65_536)]
        {
            assert!(matches!(told(host, port), Err(BadRecord::Wrong(_))), "{host}:{port}");
        }
    }

    /// One workload's registrations must not silence its region.
    #[test]
    fn a_service_of_many_long_versions_still_fits() {
        let subset = |n: u32| Subset {
            zone: "za".parse().unwrap(),
            version: format!("{n:0256}").into(),
            group: "g".repeat(256).into(),
            healthy: 1 + n % 3,
            total: 4,
            weight: 100,
        };
        let endpoint = |n: u16| RemoteEndpoint {
            names: IdAndHost::new(&format!("i-{n:04}"), "10.0.0.1"),
            port: 80,
            weight: 100,
            subset: n,
            degraded: false,
            labels: Labels { tags: vec!["t".repeat(256).into(); 8].into(), ..Labels::default() }.into(),
        };
        let summary = Summary {
            subsets: (0..256).map(subset).collect(),
            endpoints: (0..32).map(endpoint).collect(),
            sampled: true,
            headroom: None,
        };
        let bytes = encode_summary(&summary, MOST);
        assert!(bytes.len() <= MOST, "{}", bytes.len());
        let told = decode_summary(&bytes).unwrap();
        assert!(told.subsets.len() >= 64 && told.subsets.iter().all(|s| s.healthy == 3), "the largest stay");
    }

    #[test]
    fn an_endpoint_takes_less_than_a_hundred_bytes() {
        let endpoints = (0..20).map(|n| RemoteEndpoint {
            names: IdAndHost::new(&format!("orders-api-7d9f8b-{n:05}"), "10.42.6.18"),
            port: 8080,
            weight: 100,
            subset: 0,
            degraded: false,
            labels: Labels {
                tags: ["v2".into()].into(),
                metadata: [("team".into(), "inventory".into())].into(),
            }
            .into(),
        });
        let zone = "ap-south-1a".parse().unwrap();
        let subset = Subset {
            zone,
            version: "2026.04.18.2".into(),
            group: "stable".into(),
            healthy: 20,
            total: 20,
            weight: 2000,
        };
        let summary =
            Summary { subsets: vec![subset], endpoints: endpoints.collect(), sampled: false, headroom: None };
        assert!(encode_summary(&summary, MOST).len() < 20 * 100);
    }
}
