//! What a region tells others of a service, and of itself: pure functions of its catalog at an index, so that any node
//! of the region says the same.

use crate::names::ZoneName;
use crate::registration::Registration;
use crate::selection::{endpoint_hash, score};
use crate::snapshot::{Endpoint, Snapshot};
use crate::status::Status;
use arcstr::Substr;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use std::collections::BTreeMap;
use std::sync::Arc;

/// At most this many endpoints of a service travel (DESIGN 8); of more, a sample does.
pub const MAX_ENDPOINTS: usize = 32;
/// At most this many subsets of a service travel. A service with more versions at once than that is told of by its
/// largest ones.
pub const MAX_SUBSETS: usize = 256;

/// What is counted together: the instances of one zone, version and group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subset {
    /// Their zone.
    pub zone: ZoneName,
    /// Their version; empty where none is declared.
    pub version: SmolStr,
    /// Their deployment group.
    pub group: SmolStr,
    /// How many may receive traffic.
    pub healthy: u32,
    /// These and the unhealthy and expired ones. Starting and draining ones are on neither side of a fraction.
    pub total: u32,
    /// The weight of the healthy ones.
    pub weight: u64,
}

/// What an instance declares of itself in words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Labels {
    /// As declared.
    pub tags: Box<[SmolStr]>,
    /// As declared, in the order of the keys. A region is 100,000 endpoints: a map of two pairs takes half a kilobyte.
    pub metadata: Box<[(SmolStr, SmolStr)]>,
}

impl Labels {
    fn of(declared: &Registration) -> Self {
        let metadata = declared.metadata.iter().map(|(key, value)| (key.clone(), value.clone()));
        Self { tags: declared.tags.as_slice().into(), metadata: metadata.collect() }
    }
}

/// What an endpoint is called and where it is, side by side in a text that all endpoints of a record share: a region has
/// 100,000 of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Apart", into = "Apart")]
pub struct IdAndHost {
    both: Substr,
    /// Where the host begins.
    host: u16,
}

/// The same to be read and written.
#[derive(Serialize, Deserialize)]
struct Apart {
    id: SmolStr,
    host: SmolStr,
}

impl From<Apart> for IdAndHost {
    fn from(apart: Apart) -> Self {
        Self::new(&apart.id, &apart.host)
    }
}

impl From<IdAndHost> for Apart {
    fn from(names: IdAndHost) -> Self {
        Self { id: names.id().into(), host: names.host().into() }
    }
}

impl IdAndHost {
    /// From two texts.
    #[must_use]
    pub fn new(id: &str, host: &str) -> Self {
        Self::within(format!("{id}{host}").into(), id.len())
    }

    /// From one that begins with an id of so many bytes, and goes on with the host.
    #[must_use]
    pub fn within(both: Substr, id: usize) -> Self {
        Self { both, host: u16::try_from(id).unwrap_or(u16::MAX) }
    }

    fn cut(&self) -> (&str, &str) {
        self.both.split_at_checked(usize::from(self.host)).unwrap_or((&self.both, ""))
    }

    /// Unique in its service and region.
    #[must_use]
    pub fn id(&self) -> &str {
        self.cut().0
    }

    /// Its address.
    #[must_use]
    pub fn host(&self) -> &str {
        self.cut().1
    }
}

/// A healthy endpoint as other regions know it: enough to send traffic to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteEndpoint {
    /// What it is called, and where it is.
    #[serde(flatten)]
    pub names: IdAndHost,
    /// Its port.
    pub port: u16,
    /// Its weight; at most [`crate::registration::MAX_WEIGHT`].
    pub weight: u16,
    /// Position of its subset in the summary; below [`MAX_SUBSETS`].
    pub subset: u16,
    /// Under doubt in its own region.
    pub degraded: bool,
    /// Endpoints that were deployed together declare the same, and share it.
    pub labels: Arc<Labels>,
}

/// What a region tells of one service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// In the order of zone, version, group.
    pub subsets: Vec<Subset>,
    /// Healthy ones, in the order of their ids: all of them, or [`MAX_ENDPOINTS`].
    pub endpoints: Vec<RemoteEndpoint>,
    /// Whether there are more healthy endpoints than these.
    pub sampled: bool,
    /// What the healthy ones can still take, in the unit of their declared capacity; none where no capacity is declared.
    pub headroom: Option<u64>,
}

impl Summary {
    /// How many instances are healthy, and how many there are on both sides of the health fraction.
    #[must_use]
    pub fn health(&self) -> (u64, u64) {
        self.subsets.iter().fold((0, 0), |(healthy, total), subset| {
            (healthy + u64::from(subset.healthy), total + u64::from(subset.total))
        })
    }
}

/// An address at which a whole region takes traffic, for callers from other regions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ingress {
    /// Host name or address.
    pub host: SmolStr,
    /// Port.
    pub port: u16,
}

/// What a region tells of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionNotice {
    /// Why it asks to be spared, where its operators are evacuating it.
    pub draining: Option<SmolStr>,
    /// Zones that its operators are evacuating.
    pub draining_zones: Vec<ZoneName>,
    /// Where it takes traffic for endpoints that are not told one by one, in order of preference.
    pub ingress: Vec<Ingress>,
}

/// The summary of a service in its own region. `load` is the service's reported load, where it is known.
#[must_use]
pub fn summarize(snapshot: &Snapshot, load: Option<u64>) -> Summary {
    let declared = |e: &Endpoint| {
        let r = &e.instance.declared;
        (r.zone.clone(), r.version.clone(), r.deployment_group.clone())
    };
    let mut subsets: BTreeMap<(ZoneName, SmolStr, SmolStr), Subset> = BTreeMap::new();
    for endpoint in &snapshot.endpoints {
        let healthy = endpoint.status.is_eligible();
        if !healthy && !matches!(endpoint.status, Status::Unhealthy | Status::Expired) {
            continue;
        }
        let key = declared(endpoint);
        let (zone, version, group) = key.clone();
        let subset =
            subsets.entry(key).or_insert(Subset { zone, version, group, healthy: 0, total: 0, weight: 0 });
        subset.total = subset.total.saturating_add(1);
        if healthy {
            subset.healthy = subset.healthy.saturating_add(1);
            subset.weight = subset.weight.saturating_add(u64::from(endpoint.instance.declared.weight));
        }
    }
    let all = subsets.into_values().collect();
    let subsets = largest(all);
    let chosen = choose(snapshot, &subsets);
    let healthy: u64 = subsets.iter().map(|s| u64::from(s.healthy)).sum();
    let endpoints = chosen.into_iter().map(|(endpoint, subset)| RemoteEndpoint {
        names: IdAndHost::new(endpoint.instance.id.as_str(), endpoint.instance.declared.host.as_str()),
        port: endpoint.instance.declared.port,
        weight: u16::try_from(endpoint.instance.declared.weight).unwrap_or(u16::MAX),
        subset,
        degraded: endpoint.degraded,
        labels: Labels::of(&endpoint.instance.declared).into(),
    });
    let endpoints: Vec<RemoteEndpoint> = endpoints.collect();
    Summary {
        sampled: (endpoints.len() as u64) < healthy,
        endpoints,
        headroom: headroom(snapshot, load),
        subsets,
    }
}

/// What the service can still take where it is: the capacities that its healthy instances declare, without what they
/// carry. None where none is declared.
#[must_use]
pub fn headroom(snapshot: &Snapshot, load: Option<u64>) -> Option<u64> {
    let healthy = snapshot.endpoints.iter().filter(|endpoint| endpoint.status.is_eligible());
    let capacity = healthy.filter_map(|e| e.instance.declared.capacity).reduce(u64::saturating_add)?;
    Some(capacity.saturating_sub(load.unwrap_or(0)))
}

/// The largest [`MAX_SUBSETS`], in their order.
fn largest(mut subsets: Vec<Subset>) -> Vec<Subset> {
    if subsets.len() > MAX_SUBSETS {
        subsets.sort_by(|a, b| (b.healthy, b.total).cmp(&(a.healthy, a.total)).then(key(a).cmp(&key(b))));
        subsets.truncate(MAX_SUBSETS);
        subsets.sort_by(|a, b| key(a).cmp(&key(b)));
    }
    subsets
}

fn key(subset: &Subset) -> (&ZoneName, &SmolStr, &SmolStr) {
    (&subset.zone, &subset.version, &subset.group)
}

/// The endpoints that travel with the position of their subset: one of each subset first, as far as there is room, so that
/// none is without an address; then in turn of one zone after the other, so that a sample is spread. Within a zone by
/// weighted rendezvous hashing, so that it changes as little as possible.
fn choose<'a>(snapshot: &'a Snapshot, subsets: &[Subset]) -> Vec<(&'a Endpoint, u16)> {
    let mut zones: BTreeMap<&ZoneName, Vec<(&Endpoint, u16)>> = BTreeMap::new();
    for endpoint in snapshot.endpoints.iter().filter(|e| e.status.is_eligible()) {
        let declared = &endpoint.instance.declared;
        let wanted = (&declared.zone, &declared.version, &declared.deployment_group);
        if let Ok(at) = subsets.binary_search_by(|s| key(s).cmp(&wanted))
            && let Ok(at) = u16::try_from(at)
        {
            zones.entry(endpoint.zone()).or_default().push((endpoint, at));
        }
    }
    let rank = |e: &Endpoint| score(endpoint_hash(e.id()), u64::from(e.instance.declared.weight.max(1)));
    for members in zones.values_mut() {
        if members.len() > 1 {
            members.sort_by(|(a, _), (b, _)| rank(b).total_cmp(&rank(a)).then(a.id().cmp(b.id())));
        }
    }
    let mut chosen = Vec::new();
    let mut seen = vec![false; subsets.len()];
    for members in zones.values_mut() {
        // One of each subset moves to the front; the order is otherwise kept.
        let (mut firsts, mut others) = (Vec::new(), Vec::new());
        for member in members.drain(..) {
            match seen.get_mut(usize::from(member.1)) {
                Some(seen @ false) => {
                    *seen = true;
                    firsts.push(member);
                }
                _ => others.push(member),
            }
        }
        firsts.extend(others);
        *members = firsts;
    }
    let mut round = 0;
    while chosen.len() < MAX_ENDPOINTS {
        let before = chosen.len();
        for members in zones.values() {
            if let Some(member) = members.get(round)
                && chosen.len() < MAX_ENDPOINTS
            {
                chosen.push(*member);
            }
        }
        if chosen.len() == before {
            break;
        }
        round += 1;
    }
    chosen.sort_by(|(a, _), (b, _)| a.id().cmp(b.id()));
    chosen
}
