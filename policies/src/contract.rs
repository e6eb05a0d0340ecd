//! The host's side of `sdk-wasm/wit/routing-policy.wit`: what a policy is shown, borrowed from the snapshot, and what it
//! hands back. wasmtime compares these with the types of every component, so they cannot drift from the WIT unseen.

use meridian_model::caller::Caller as ModelCaller;
use meridian_model::plan;
use meridian_model::policy::shown;
use meridian_model::registration::Registration;
use meridian_model::remote::{Freshness as ModelFreshness, Remote as ModelRemote};
use meridian_model::snapshot::{Endpoint as ModelEndpoint, Snapshot};
use meridian_model::status::Status as ModelStatus;
use wasmtime::component::{ComponentType, Lift, Lower};

/// The interface that a policy exports.
pub(crate) const INTERFACE: &str = "meridian:policy/routing@1.0.0";
pub(crate) const OPEN: &str = "[static]router.open";
pub(crate) const ADMIT: &str = "[method]router.admit";
pub(crate) const PLANS: &str = "[method]view.plans";
pub(crate) const ROUTE: &str = "[method]view.route";

type Attributes<'a> = Vec<(&'a str, &'a str)>;

#[derive(ComponentType, Lower, Clone, Copy)]
#[component(enum)]
#[repr(u8)]
pub(crate) enum Status {
    #[component(name = "healthy")]
    Healthy,
    #[component(name = "unhealthy")]
    Unhealthy,
    #[component(name = "starting")]
    Starting,
    #[component(name = "draining")]
    Draining,
}

#[derive(ComponentType, Lower)]
#[component(record)]
pub(crate) struct Endpoint<'a> {
    id: &'a str,
    zone: &'a str,
    version: &'a str,
    group: &'a str,
    protocol: &'a str,
    weight: u32,
    capacity: Option<u64>,
    status: Status,
    degraded: bool,
    tags: Vec<&'a str>,
    metadata: Attributes<'a>,
    extra: Attributes<'a>,
}

#[derive(ComponentType, Lower, Clone, Copy)]
#[component(enum)]
#[repr(u8)]
pub(crate) enum Freshness {
    #[component(name = "fresh")]
    Fresh,
    #[component(name = "suspect")]
    Suspect,
    #[component(name = "stale")]
    Stale,
}

#[derive(ComponentType, Lower)]
#[component(record)]
pub(crate) struct Subset<'a> {
    zone: &'a str,
    version: &'a str,
    group: &'a str,
    healthy: u32,
    total: u32,
    weight: u64,
}

#[derive(ComponentType, Lower)]
#[component(record)]
pub(crate) struct Remote<'a> {
    region: &'a str,
    freshness: Freshness,
    reachable: bool,
    draining: bool,
    ramp: u32,
    #[component(name = "round-trip-ms")]
    round_trip_ms: u32,
    headroom: Option<u64>,
    subsets: Vec<Subset<'a>>,
    extra: Attributes<'a>,
}

/// What `open` is shown.
#[derive(ComponentType, Lower)]
#[component(record)]
pub(crate) struct Service<'a> {
    namespace: &'a str,
    name: &'a str,
    region: &'a str,
    #[component(name = "draining-zones")]
    draining_zones: Vec<&'a str>,
    ramp: u32,
    endpoints: Vec<Endpoint<'a>>,
    remotes: Vec<Remote<'a>>,
    extra: Attributes<'a>,
}

impl<'a> Service<'a> {
    /// The snapshot as policies see it: every endpoint, whatever its status, at its position.
    pub(crate) fn of(snapshot: &'a Snapshot) -> Self {
        Self {
            namespace: snapshot.key.namespace.as_str(),
            name: snapshot.key.service.as_str(),
            region: snapshot.region.as_str(),
            draining_zones: snapshot.draining_zones.iter().map(|z| z.as_str()).collect(),
            ramp: snapshot.ramp,
            endpoints: snapshot.endpoints.iter().map(Endpoint::of).collect(),
            remotes: snapshot.remotes.iter().map(Remote::of).collect(),
            extra: Vec::new(),
        }
    }
}

impl<'a> Service<'a> {
    /// A service that exists only as data: a test case's, or the trial's.
    pub(crate) fn shown(service: &'a shown::Service) -> Self {
        Self {
            namespace: &service.namespace,
            name: &service.name,
            region: &service.region,
            draining_zones: service.draining_zones.iter().map(String::as_str).collect(),
            ramp: service.ramp,
            endpoints: service.endpoints.iter().map(Endpoint::shown).collect(),
            remotes: service.remotes.iter().map(Remote::shown).collect(),
            extra: Vec::new(),
        }
    }
}

impl<'a> Remote<'a> {
    fn shown(remote: &'a shown::Remote) -> Self {
        let subset = |subset: &'a shown::Subset| Subset {
            zone: &subset.zone,
            version: &subset.version,
            group: &subset.group,
            healthy: subset.healthy,
            total: subset.total(),
            weight: subset.weight(),
        };
        Self {
            region: &remote.region,
            freshness: match remote.freshness {
                shown::Freshness::Fresh => Freshness::Fresh,
                shown::Freshness::Suspect => Freshness::Suspect,
                shown::Freshness::Stale => Freshness::Stale,
            },
            reachable: remote.reachable,
            draining: remote.draining,
            ramp: remote.ramp,
            round_trip_ms: remote.round_trip_ms,
            headroom: remote.headroom,
            subsets: remote.subsets.iter().map(subset).collect(),
            extra: Vec::new(),
        }
    }

    fn of(remote: &'a ModelRemote) -> Self {
        let subset = |subset: &'a meridian_model::summary::Subset| Subset {
            zone: subset.zone.as_str(),
            version: &subset.version,
            group: &subset.group,
            healthy: subset.healthy,
            total: subset.total,
            weight: subset.weight,
        };
        Self {
            region: remote.region.as_str(),
            freshness: match remote.standing.freshness {
                ModelFreshness::Fresh => Freshness::Fresh,
                ModelFreshness::Suspect => Freshness::Suspect,
                ModelFreshness::Stale => Freshness::Stale,
            },
            reachable: remote.standing.reachable,
            draining: remote.standing.draining,
            ramp: remote.standing.ramp,
            round_trip_ms: remote.standing.round_trip_ms,
            headroom: remote.summary.headroom,
            subsets: remote.summary.subsets.iter().map(subset).collect(),
            extra: Vec::new(),
        }
    }
}

impl<'a> Endpoint<'a> {
    fn shown(endpoint: &'a shown::Endpoint) -> Self {
        Self {
            id: &endpoint.id,
            zone: &endpoint.zone,
            version: &endpoint.version,
            group: &endpoint.group,
            protocol: &endpoint.protocol,
            weight: endpoint.weight,
            capacity: endpoint.capacity,
            status: match endpoint.status {
                shown::Status::Healthy => Status::Healthy,
                shown::Status::Unhealthy => Status::Unhealthy,
                shown::Status::Starting => Status::Starting,
                shown::Status::Draining => Status::Draining,
            },
            degraded: endpoint.degraded,
            tags: endpoint.tags.iter().map(String::as_str).collect(),
            metadata: endpoint.metadata.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect(),
            extra: Vec::new(),
        }
    }

    fn of(endpoint: &'a ModelEndpoint) -> Self {
        let declared: &Registration = &endpoint.instance.declared;
        Self {
            id: endpoint.id(),
            zone: declared.zone.as_str(),
            version: &declared.version,
            group: &declared.deployment_group,
            protocol: &declared.protocol,
            weight: declared.weight,
            capacity: declared.capacity,
            status: match endpoint.status {
                ModelStatus::Healthy => Status::Healthy,
                // To a policy, an instance whose lease ended is one that should be there and is not.
                ModelStatus::Unhealthy | ModelStatus::Expired => Status::Unhealthy,
                ModelStatus::Starting => Status::Starting,
                ModelStatus::Draining => Status::Draining,
            },
            degraded: endpoint.degraded,
            tags: declared.tags.iter().map(|t| t.as_str()).collect(),
            metadata: declared.metadata.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect(),
            extra: Vec::new(),
        }
    }
}

/// What `admit` is shown.
#[derive(ComponentType, Lower)]
#[component(record)]
pub(crate) struct Caller<'a> {
    region: &'a str,
    zone: &'a str,
    labels: Attributes<'a>,
}

impl<'a> Caller<'a> {
    /// The caller; one without zone shows an empty one.
    pub(crate) fn of(caller: &'a ModelCaller) -> Self {
        Self {
            region: caller.region.as_str(),
            zone: caller.zone.as_ref().map_or("", |z| z.as_str()),
            labels: caller.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect(),
        }
    }
}

impl<'a> Caller<'a> {
    /// A caller that exists only as data, of a service in `region`.
    pub(crate) fn shown(caller: &'a shown::Caller, region: &'a str) -> Self {
        Self {
            region: caller.region.as_deref().unwrap_or(region),
            zone: &caller.zone,
            labels: caller.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect(),
        }
    }
}

#[derive(ComponentType, Lift)]
#[component(record)]
pub(crate) struct Target {
    remote: u32,
    subset: Option<u32>,
}

#[derive(ComponentType, Lift)]
#[component(variant)]
pub(crate) enum Destination {
    #[component(name = "endpoint")]
    Endpoint(u32),
    #[component(name = "remote")]
    Remote(Target),
}

#[derive(ComponentType, Lift)]
#[component(record)]
pub(crate) struct Choice {
    destination: Destination,
    weight: u32,
}

#[derive(ComponentType, Lift)]
#[component(record)]
pub(crate) struct Tier {
    choices: Vec<Choice>,
    reason: String,
}

/// One of the plans that a view hands back.
#[derive(ComponentType, Lift)]
#[component(record)]
pub(crate) struct Plan {
    share: u32,
    tiers: Vec<Tier>,
}

impl From<Plan> for plan::Plan {
    fn from(wire: Plan) -> Self {
        let choice = |c: Choice| plan::Choice {
            destination: match c.destination {
                Destination::Endpoint(position) => plan::Destination::Endpoint(position),
                Destination::Remote(t) => plan::Destination::Remote { remote: t.remote, subset: t.subset },
            },
            weight: c.weight,
        };
        let tier =
            |t: Tier| plan::Tier { choices: t.choices.into_iter().map(choice).collect(), reason: t.reason };
        Self { share: wire.share, tiers: wire.tiers.into_iter().map(tier).collect() }
    }
}
