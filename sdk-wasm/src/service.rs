//! A service as a policy sees it: compact, because a gateway holds thousands of them in one instance.

use std::fmt;
use std::ops::Deref;

use crate::bindings::routing as wire;
use crate::names::{Column, Gathering, Name, Names, same};
use crate::plan::Destination;

/// What the host derived for an endpoint. Only healthy ones receive traffic, whatever a plan says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// May receive traffic.
    Healthy,
    /// Failed its checks or let its lease run out: it belongs into the denominator of a health fraction.
    Unhealthy,
    /// Not ready yet: outside both sides of a health fraction.
    Starting,
    /// Going away: outside both sides of a health fraction.
    Draining,
}

/// This region's own judgement of what it knows about another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Freshness {
    /// Heard of within seconds.
    Fresh,
    /// Silent for some seconds.
    Suspect,
    /// Silent for longer; what is known may be wrong by now.
    Stale,
}

#[derive(Debug)]
struct EndpointRecord {
    zone: Name,
    version: Name,
    group: Name,
    protocol: Name,
    weight: u32,
    first_tag: u32,
    tags: u16,
    status: Status,
    degraded: bool,
}

#[derive(Debug)]
struct RemoteRecord {
    region: Name,
    ramp: u32,
    round_trip_ms: u32,
    headroom: Option<u64>,
    first_subset: u32,
    subsets: u32,
    freshness: Freshness,
    reachable: bool,
    draining: bool,
}

#[derive(Debug)]
struct SubsetRecord {
    zone: Name,
    version: Name,
    group: Name,
    healthy: u32,
    total: u32,
    weight: u64,
}

/// A zone of one [`Service`]; nothing where the service does not know it.
#[derive(Clone, Copy)]
pub(crate) struct ZoneNumber(Option<Name>);

/// One service at one moment: its endpoints in this region and what is known of the others.
///
/// Endpoint ids, capacities and metadata are not kept here; [`Details`] has them while a policy opens.
pub struct Service {
    names: Names,
    namespace: Name,
    name: Name,
    region: Name,
    ramp: u32,
    draining_zones: Box<[Name]>,
    endpoints: Box<[EndpointRecord]>,
    tags: Box<[Name]>,
    remotes: Box<[RemoteRecord]>,
    subsets: Box<[SubsetRecord]>,
}

impl Service {
    pub(crate) fn new(from: &wire::Service) -> Self {
        let mut names = Gathering::new();
        let [mut zones, mut versions, mut groups, mut protocols] = [const { Column::new() }; 4];
        let mut tags = Vec::with_capacity(from.endpoints.iter().map(|endpoint| endpoint.tags.len()).sum());
        let endpoints = from.endpoints.iter().map(|endpoint| {
            let first_tag = tags.len() as u32;
            tags.extend(endpoint.tags.iter().map(|tag| names.number(tag)));
            EndpointRecord {
                zone: names.number_in(&mut zones, &endpoint.zone),
                version: names.number_in(&mut versions, &endpoint.version),
                group: names.number_in(&mut groups, &endpoint.group),
                protocol: names.number_in(&mut protocols, &endpoint.protocol),
                weight: endpoint.weight,
                first_tag,
                // A registration holds at most 16 KiB, so fewer tags than this.
                tags: u16::try_from(endpoint.tags.len()).unwrap_or(u16::MAX),
                status: match endpoint.status {
                    wire::Status::Healthy => Status::Healthy,
                    wire::Status::Unhealthy => Status::Unhealthy,
                    wire::Status::Starting => Status::Starting,
                    wire::Status::Draining => Status::Draining,
                },
                degraded: endpoint.degraded,
            }
        });
        let endpoints = endpoints.collect();
        let mut subsets = Vec::with_capacity(from.remotes.iter().map(|remote| remote.subsets.len()).sum());
        let remotes = from.remotes.iter().map(|remote| {
            let first_subset = subsets.len() as u32;
            subsets.extend(remote.subsets.iter().map(|subset| SubsetRecord {
                zone: names.number(&subset.zone),
                version: names.number(&subset.version),
                group: names.number(&subset.group),
                healthy: subset.healthy,
                total: subset.total,
                weight: subset.weight,
            }));
            RemoteRecord {
                region: names.number(&remote.region),
                ramp: remote.ramp,
                round_trip_ms: remote.round_trip_ms,
                headroom: remote.headroom,
                first_subset,
                subsets: remote.subsets.len() as u32,
                freshness: match remote.freshness {
                    wire::Freshness::Fresh => Freshness::Fresh,
                    wire::Freshness::Suspect => Freshness::Suspect,
                    wire::Freshness::Stale => Freshness::Stale,
                },
                reachable: remote.reachable,
                draining: remote.draining,
            }
        });
        let remotes = remotes.collect();
        Service {
            namespace: names.number(&from.namespace),
            name: names.number(&from.name),
            region: names.number(&from.region),
            ramp: from.ramp,
            draining_zones: from.draining_zones.iter().map(|zone| names.number(zone)).collect(),
            endpoints,
            tags: tags.into(),
            remotes,
            subsets: subsets.into(),
            names: names.finish(),
        }
    }

    /// The namespace, `default` where none was named.
    pub fn namespace(&self) -> &str {
        self.names.get(self.namespace)
    }

    /// The service's name.
    pub fn name(&self) -> &str {
        self.names.get(self.name)
    }

    /// The region that answers: the one these endpoints are in.
    pub fn region(&self) -> &str {
        self.names.get(self.region)
    }

    /// The share of its rightful traffic that this region may take while it recovers: 0 to 1,000.
    pub fn ramp(&self) -> u32 {
        self.ramp
    }

    /// Whether an operator is evacuating this zone: it should yield to others, never empty an answer.
    pub fn is_draining_zone(&self, zone: &str) -> bool {
        self.draining_zones.iter().any(|draining| self.names.get(*draining) == zone)
    }

    /// A zone as a number, for comparing it with those of many endpoints.
    pub(crate) fn zone_number(&self, zone: &str) -> ZoneNumber {
        ZoneNumber(self.names.number(zone).filter(|_| !zone.is_empty()))
    }

    /// Every endpoint of the region, whatever its status, in the order of the host's list.
    pub fn endpoints(&self) -> impl Iterator<Item = Endpoint<'_>> {
        self.endpoints.iter().zip(0..).map(|(record, position)| Endpoint { service: self, record, position })
    }

    /// The endpoints that may receive traffic.
    pub fn healthy(&self) -> impl Iterator<Item = Endpoint<'_>> {
        self.endpoints().filter(Endpoint::is_healthy)
    }

    /// Other regions in which the service is known and to which the binding's limits allow traffic.
    pub fn remotes(&self) -> impl Iterator<Item = Remote<'_>> {
        self.remotes.iter().zip(0..).map(|(record, position)| Remote { service: self, record, position })
    }

    /// How many destinations there are; see [`Service::slot`].
    pub(crate) fn slots(&self) -> usize {
        self.endpoints.len() + self.remotes.len() + self.subsets.len()
    }

    /// The number of a destination among all of them.
    pub(crate) fn slot(&self, destination: Destination) -> usize {
        let remotes = self.endpoints.len();
        match destination {
            Destination::Endpoint(position) => position as usize,
            Destination::Remote(position) => remotes + position as usize,
            Destination::Subset(remote, position) => {
                let first = self.remotes.get(remote as usize).map_or(0, |remote| remote.first_subset);
                remotes + self.remotes.len() + (first + position) as usize
            }
        }
    }

    /// What this service occupies between calls, for tests that keep it small.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn heap_bytes(&self) -> usize {
        self.names.heap_bytes()
            + size_of_val(&*self.draining_zones)
            + size_of_val(&*self.endpoints)
            + size_of_val(&*self.tags)
            + size_of_val(&*self.remotes)
            + size_of_val(&*self.subsets)
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} in {}", self.namespace(), self.name(), self.region())
    }
}

/// An endpoint of the region.
#[derive(Clone, Copy)]
pub struct Endpoint<'a> {
    service: &'a Service,
    record: &'a EndpointRecord,
    position: u32,
}

impl<'a> Endpoint<'a> {
    pub(crate) fn position(&self) -> u32 {
        self.position
    }

    /// The zone it runs in.
    pub fn zone(&self) -> &'a str {
        self.service.names.get(self.record.zone)
    }

    /// Whether it runs in this zone.
    pub(crate) fn is_in(&self, zone: ZoneNumber) -> bool {
        zone.0 == Some(self.record.zone)
    }

    /// Whether an operator is evacuating its zone.
    pub(crate) fn is_in_draining_zone(&self) -> bool {
        self.service.draining_zones.contains(&self.record.zone)
    }

    /// The version it registered, or empty.
    pub fn version(&self) -> &'a str {
        self.service.names.get(self.record.version)
    }

    /// Its deployment group, or empty.
    pub fn group(&self) -> &'a str {
        self.service.names.get(self.record.group)
    }

    /// The protocol it registered, or empty.
    pub fn protocol(&self) -> &'a str {
        self.service.names.get(self.record.protocol)
    }

    /// Its own weight, 1 to 10,000.
    pub fn weight(&self) -> u32 {
        self.record.weight
    }

    /// Its status.
    pub fn status(&self) -> Status {
        self.record.status
    }

    /// Whether it may receive traffic.
    pub fn is_healthy(&self) -> bool {
        self.record.status == Status::Healthy
    }

    /// Healthy but under doubt: held while the registry is away, reported by callers, or with a warning.
    pub fn is_degraded(&self) -> bool {
        self.record.degraded
    }

    /// Its tags.
    pub fn tags(&self) -> impl Iterator<Item = &'a str> {
        let first = self.record.first_tag as usize;
        let service = self.service;
        service
            .tags
            .get(first..first + self.record.tags as usize)
            .unwrap_or_default()
            .iter()
            .map(|tag| service.names.get(*tag))
    }

    /// Whether it carries this tag.
    pub fn has_tag(&self, tag: &str) -> bool {
        self.tags().any(|own| same(own, tag))
    }
}

impl fmt::Debug for Endpoint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "endpoint {} in {}: {:?}", self.position, self.zone(), self.status())
    }
}

/// Another region in which the service runs.
#[derive(Clone, Copy)]
pub struct Remote<'a> {
    service: &'a Service,
    record: &'a RemoteRecord,
    position: u32,
}

impl<'a> Remote<'a> {
    pub(crate) fn position(&self) -> u32 {
        self.position
    }

    /// The region's name.
    pub fn region(&self) -> &'a str {
        self.service.names.get(self.record.region)
    }

    /// How recent this region's knowledge of it is.
    pub fn freshness(&self) -> Freshness {
        self.record.freshness
    }

    /// Whether a link to it works right now.
    pub fn is_reachable(&self) -> bool {
        self.record.reachable
    }

    /// Whether an operator is evacuating it.
    pub fn is_draining(&self) -> bool {
        self.record.draining
    }

    /// The share of its rightful traffic that it may take while it recovers: 0 to 1,000.
    pub fn ramp(&self) -> u32 {
        self.record.ramp
    }

    /// Milliseconds there and back, quantised by the host so that noise changes no answer.
    pub fn round_trip_ms(&self) -> u32 {
        self.record.round_trip_ms
    }

    /// Further lookups a second that it says it can take, where it knows.
    pub fn headroom(&self) -> Option<u64> {
        self.record.headroom
    }

    /// Its endpoints, counted by zone, version and group.
    pub fn subsets(&self) -> impl Iterator<Item = Subset<'a>> {
        let first = self.record.first_subset as usize;
        let service = self.service;
        let records = service.subsets.get(first..first + self.record.subsets as usize).unwrap_or_default();
        let remote = self.position;
        records.iter().zip(0..).map(move |(record, position)| Subset { service, record, remote, position })
    }
}

impl fmt::Debug for Remote<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "remote {}: {:?}", self.region(), self.freshness())
    }
}

/// The endpoints of another region that share zone, version and group.
#[derive(Clone, Copy)]
pub struct Subset<'a> {
    service: &'a Service,
    record: &'a SubsetRecord,
    remote: u32,
    position: u32,
}

impl<'a> Subset<'a> {
    pub(crate) fn positions(&self) -> (u32, u32) {
        (self.remote, self.position)
    }

    /// Their zone.
    pub fn zone(&self) -> &'a str {
        self.service.names.get(self.record.zone)
    }

    /// Their version, or empty.
    pub fn version(&self) -> &'a str {
        self.service.names.get(self.record.version)
    }

    /// Their deployment group, or empty.
    pub fn group(&self) -> &'a str {
        self.service.names.get(self.record.group)
    }

    /// How many of them are healthy.
    pub fn healthy(&self) -> u32 {
        self.record.healthy
    }

    /// How many there are on both sides of the health fraction.
    pub fn total(&self) -> u32 {
        self.record.total
    }

    /// The sum of the healthy ones' weights.
    pub fn weight(&self) -> u64 {
        self.record.weight
    }
}

impl fmt::Debug for Subset<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "subset {} of {}/{}", self.position, self.zone(), self.version())
    }
}

/// Everything the host said of a service, for as long as a policy opens. It reads as a [`Service`] and also knows what is
/// too large to keep; what a policy needs of that later it keeps itself, for instance as [`Notes`].
#[derive(Clone, Copy)]
pub struct Details<'a> {
    service: &'a Service,
    from: &'a wire::Service,
}

impl<'a> Details<'a> {
    pub(crate) fn new(service: &'a Service, from: &'a wire::Service) -> Self {
        Details { service, from }
    }

    fn record(&self, endpoint: Endpoint<'_>) -> Option<&'a wire::Endpoint> {
        self.from.endpoints.get(endpoint.position as usize)
    }

    /// The endpoint's id, unique in its service.
    pub fn id(&self, endpoint: Endpoint<'_>) -> &'a str {
        self.record(endpoint).map_or("", |record| &record.id)
    }

    /// Lookups a second that the endpoint can take, where it said so.
    pub fn capacity(&self, endpoint: Endpoint<'_>) -> Option<u64> {
        self.record(endpoint)?.capacity
    }

    /// A value of the endpoint's metadata.
    pub fn metadata(&self, endpoint: Endpoint<'_>, key: &str) -> Option<&'a str> {
        self.record(endpoint)?.metadata.iter().find(|(name, _)| name == key).map(|(_, value)| &**value)
    }

    /// A note on each endpoint, to keep what the service will not say later, or what is dear to work out again.
    pub fn note<T>(&self, note: impl FnMut(Endpoint<'a>) -> T) -> Notes<T> {
        let service = self.service;
        Notes(service.endpoints().map(note).collect())
    }
}

impl Deref for Details<'_> {
    type Target = Service;

    fn deref(&self) -> &Service {
        self.service
    }
}

/// A note on each endpoint of the service that a policy was opened for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notes<T>(Box<[T]>);

impl<T: Copy + Default> Notes<T> {
    /// What was noted of this endpoint.
    pub fn of(&self, endpoint: Endpoint<'_>) -> T {
        self.0.get(endpoint.position as usize).copied().unwrap_or_default()
    }
}
