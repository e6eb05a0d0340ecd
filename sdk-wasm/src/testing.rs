//! Ask a policy natively, in ordinary tests: build a service, name a caller, look at where its lookups go.
//!
//! ```
//! use meridian_sdk_wasm::{Answer, Caller, Details, Policy, Service, Tier, testing};
//!
//! struct Anywhere;
//!
//! impl Policy for Anywhere {
//!     type Config = std::collections::BTreeMap<String, String>;
//!     fn open(_: Self::Config, _: &Details<'_>) -> Result<Self, String> {
//!         Ok(Anywhere)
//!     }
//!     fn answer(&self, service: &Service, _: &Caller) -> Result<Answer, String> {
//!         Ok(Tier::new("anywhere").endpoints(service.healthy()).into())
//!     }
//! }
//!
//! let service = testing::Service::named("orders-api")
//!     .endpoint("a-1", |e| e.zone("ap-south-1a"))
//!     .endpoint("b-1", |e| e.zone("ap-south-1b").weight(300))
//!     .endpoint("b-2", |e| e.zone("ap-south-1b").unhealthy());
//! let asked = testing::ask::<Anywhere>("", &service, &testing::caller("ap-south-1a")).unwrap();
//! assert_eq!(asked.share_of_zone("ap-south-1b"), 0.75);
//! assert_eq!(asked.tiers(), [["a-1", "b-1"]]);
//! ```

mod cases;

pub use cases::cases;

use crate::bindings::routing as wire;
use crate::caller::Caller;
use crate::guest::{Admitted, Opened};
use crate::policy::Policy;
use crate::rollout::{PARTS, splitmix64};

/// The region of services and callers for which none is named.
pub const REGION: &str = "ap-south-1";

/// A caller in a zone of [`REGION`]; see [`Caller::with_label`].
pub fn caller(zone: &str) -> Caller {
    Caller::new(REGION, zone)
}

/// A service to ask about.
#[derive(Clone)]
pub struct Service {
    record: wire::Service,
}

impl Service {
    /// A service of namespace `default` in [`REGION`], without endpoints.
    pub fn named(name: &str) -> Self {
        let record = wire::Service {
            namespace: "default".into(),
            name: name.into(),
            region: REGION.into(),
            draining_zones: Vec::new(),
            ramp: 1_000,
            endpoints: Vec::new(),
            remotes: Vec::new(),
            extra: Vec::new(),
        };
        Service { record }
    }

    /// Puts it into a namespace.
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.record.namespace = namespace.into();
        self
    }

    /// Puts it into a region.
    pub fn region(mut self, region: &str) -> Self {
        self.record.region = region.into();
        self
    }

    /// Lets the region recover: the part, of 1,000, of its rightful traffic that it may take.
    pub fn ramp(mut self, ramp: u32) -> Self {
        self.record.ramp = ramp;
        self
    }

    /// Evacuates a zone.
    pub fn draining_zone(mut self, zone: &str) -> Self {
        self.record.draining_zones.push(zone.into());
        self
    }

    /// Adds an endpoint: healthy, of weight 100, in zone `ap-south-1a`, until the closure says otherwise.
    pub fn endpoint(mut self, id: &str, describe: impl FnOnce(Endpoint) -> Endpoint) -> Self {
        let record = wire::Endpoint {
            id: id.into(),
            zone: "ap-south-1a".into(),
            version: String::new(),
            group: String::new(),
            protocol: "http".into(),
            weight: 100,
            capacity: None,
            status: wire::Status::Healthy,
            degraded: false,
            tags: Vec::new(),
            metadata: Vec::new(),
            extra: Vec::new(),
        };
        self.record.endpoints.push(describe(Endpoint { record }).record);
        self
    }

    /// Adds another region: fresh, reachable, 100 ms away, without subsets, until the closure says otherwise.
    pub fn remote(mut self, region: &str, describe: impl FnOnce(Remote) -> Remote) -> Self {
        let record = wire::Remote {
            region: region.into(),
            freshness: wire::Freshness::Fresh,
            reachable: true,
            draining: false,
            ramp: 1_000,
            round_trip_ms: 100,
            headroom: None,
            subsets: Vec::new(),
            extra: Vec::new(),
        };
        self.record.remotes.push(describe(Remote { record }).record);
        self
    }

    /// The same service with all lists turned around; no answer may differ.
    pub fn reversed(&self) -> Self {
        let mut reversed = self.clone();
        reversed.record.endpoints.reverse();
        reversed.record.remotes.reverse();
        for remote in &mut reversed.record.remotes {
            remote.subsets.reverse();
        }
        reversed
    }
}

/// An endpoint being described.
pub struct Endpoint {
    record: wire::Endpoint,
}

impl Endpoint {
    /// Puts it into a zone.
    pub fn zone(mut self, zone: &str) -> Self {
        self.record.zone = zone.into();
        self
    }

    /// Gives it a version.
    pub fn version(mut self, version: &str) -> Self {
        self.record.version = version.into();
        self
    }

    /// Puts it into a deployment group.
    pub fn group(mut self, group: &str) -> Self {
        self.record.group = group.into();
        self
    }

    /// Gives it a weight.
    pub fn weight(mut self, weight: u32) -> Self {
        self.record.weight = weight;
        self
    }

    /// Gives it a capacity.
    pub fn capacity(mut self, capacity: u64) -> Self {
        self.record.capacity = Some(capacity);
        self
    }

    /// Adds a tag.
    pub fn tag(mut self, tag: &str) -> Self {
        self.record.tags.push(tag.into());
        self
    }

    /// Adds a pair of metadata.
    pub fn metadata(mut self, key: &str, value: &str) -> Self {
        self.record.metadata.push((key.into(), value.into()));
        self
    }

    /// Lets it fail its checks.
    pub fn unhealthy(mut self) -> Self {
        self.record.status = wire::Status::Unhealthy;
        self
    }

    /// Lets it not be ready yet.
    pub fn starting(mut self) -> Self {
        self.record.status = wire::Status::Starting;
        self
    }

    /// Lets it go away.
    pub fn draining(mut self) -> Self {
        self.record.status = wire::Status::Draining;
        self
    }

    /// Puts it under doubt.
    pub fn degraded(mut self) -> Self {
        self.record.degraded = true;
        self
    }
}

/// Another region being described.
pub struct Remote {
    record: wire::Remote,
}

impl Remote {
    /// Adds endpoints of weight 100: how many are healthy, of how many.
    pub fn endpoints(self, zone: &str, healthy: u32, total: u32) -> Self {
        self.subset(zone, "", "", healthy, total)
    }

    /// Adds endpoints of weight 100 of a version and group: how many are healthy, of how many.
    pub fn subset(mut self, zone: &str, version: &str, group: &str, healthy: u32, total: u32) -> Self {
        self.record.subsets.push(wire::Subset {
            zone: zone.into(),
            version: version.into(),
            group: group.into(),
            healthy,
            total,
            weight: u64::from(healthy) * 100,
        });
        self
    }

    /// Lets it fall silent for a while.
    pub fn suspect(mut self) -> Self {
        self.record.freshness = wire::Freshness::Suspect;
        self
    }

    /// Lets it fall silent for long.
    pub fn stale(mut self) -> Self {
        self.record.freshness = wire::Freshness::Stale;
        self
    }

    /// Cuts the link to it.
    pub fn unreachable(mut self) -> Self {
        self.record.reachable = false;
        self
    }

    /// Evacuates it.
    pub fn draining(mut self) -> Self {
        self.record.draining = true;
        self
    }

    /// Lets it recover: the part, of 1,000, of its rightful traffic that it may take.
    pub fn ramp(mut self, ramp: u32) -> Self {
        self.record.ramp = ramp;
        self
    }

    /// Moves it nearer or farther.
    pub fn round_trip_ms(mut self, round_trip_ms: u32) -> Self {
        self.record.round_trip_ms = round_trip_ms;
        self
    }

    /// Lets it say how many further lookups a second it can take.
    pub fn headroom(mut self, headroom: u64) -> Self {
        self.record.headroom = Some(headroom);
        self
    }
}

/// Opens the policy with a config (JSON; empty for none) and asks it for one caller, as a gateway would.
///
/// # Errors
/// Those of the policy, and what is wrong with the config.
///
/// # Panics
/// When the answer differs with the order of the service's lists: gateways would then disagree.
pub fn ask<P: Policy>(config: &str, service: &Service, caller: &Caller) -> Result<Asked, String> {
    let asked = ask_once::<P>(config, service, caller)?;
    let reversed = ask_once::<P>(config, &service.reversed(), caller)?;
    assert_eq!(asked.plans, reversed.plans, "the answer depends on the order of the service's lists");
    Ok(asked)
}

fn ask_once<P: Policy>(config: &str, service: &Service, caller: &Caller) -> Result<Asked, String> {
    let opened = Opened::<P>::new(config, &service.record)?;
    let admitted = opened.admit(caller)?;
    let plans = admitted.plans.iter().zip(&admitted.names).map(|(plan, name)| NamedPlan {
        name: name.clone(),
        share: plan.share,
        tiers: plan.tiers.iter().map(|tier| resolve(&service.record, tier)).collect(),
    });
    let plans = plans.collect();
    Ok(Asked { plans, kept_bytes: opened.service.heap_bytes() + size_of_val(&opened), admitted })
}

#[derive(Debug, PartialEq)]
struct NamedPlan {
    name: String,
    share: u32,
    tiers: Vec<NamedTier>,
}

#[derive(Debug, PartialEq)]
struct NamedTier {
    reason: String,
    places: Vec<Place>,
}

/// A destination by its names, in an order that does not depend on positions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// An endpoint's id, `region` or `region/zone/version/group`.
    id: String,
    region: String,
    zone: String,
    version: String,
    group: String,
    tags: Vec<String>,
    weight: u32,
}

fn resolve(service: &wire::Service, tier: &wire::Tier) -> NamedTier {
    let mut places: Vec<Place> = tier
        .choices
        .iter()
        .map(|choice| match &choice.destination {
            wire::Destination::Endpoint(position) => {
                let endpoint = &service.endpoints[*position as usize];
                Place {
                    id: endpoint.id.clone(),
                    region: service.region.clone(),
                    zone: endpoint.zone.clone(),
                    version: endpoint.version.clone(),
                    group: endpoint.group.clone(),
                    tags: endpoint.tags.clone(),
                    weight: choice.weight,
                }
            }
            wire::Destination::Remote(target) => {
                let remote = &service.remotes[target.remote as usize];
                let subset = target.subset.map(|subset| &remote.subsets[subset as usize]);
                let part = |of: fn(&wire::Subset) -> &String| subset.map(of).cloned().unwrap_or_default();
                let (zone, version, group) = (part(|s| &s.zone), part(|s| &s.version), part(|s| &s.group));
                let id = match subset {
                    Some(_) => format!("{}/{zone}/{version}/{group}", remote.region),
                    None => remote.region.clone(),
                };
                Place {
                    id,
                    region: remote.region.clone(),
                    zone,
                    version,
                    group,
                    tags: Vec::new(),
                    weight: choice.weight,
                }
            }
        })
        .collect();
    places.sort();
    NamedTier { reason: tier.reason.clone(), places }
}

/// What a policy answered.
pub struct Asked {
    plans: Vec<NamedPlan>,
    admitted: Admitted,
    kept_bytes: usize,
}

impl Asked {
    /// The part, 0 to 1, of lookups without key that go to places that fit, as long as first tiers hold.
    fn share(&self, fits: impl Fn(&Place) -> bool) -> f64 {
        let of_tier = |tier: &NamedTier| {
            let all: f64 = tier.places.iter().map(|place| f64::from(place.weight)).sum();
            let fit: f64 =
                tier.places.iter().filter(|place| fits(place)).map(|place| f64::from(place.weight)).sum();
            if all > 0.0 { fit / all } else { 0.0 }
        };
        let of_plan = |plan: &NamedPlan| {
            plan.tiers.first().map_or(0.0, of_tier) * f64::from(plan.share) / f64::from(PARTS)
        };
        self.plans.iter().map(of_plan).sum()
    }

    /// The part of lookups without key that go to an endpoint, by its id.
    pub fn share_of(&self, id: &str) -> f64 {
        self.share(|place| place.id == id)
    }

    /// The part of lookups without key that go to a zone.
    pub fn share_of_zone(&self, zone: &str) -> f64 {
        self.share(|place| place.zone == zone)
    }

    /// The part of lookups without key that go to a region.
    pub fn share_of_region(&self, region: &str) -> f64 {
        self.share(|place| place.region == region)
    }

    /// The part of lookups without key that go to a version.
    pub fn share_of_version(&self, version: &str) -> f64 {
        self.share(|place| place.version == version)
    }

    /// The part of lookups without key that go to a deployment group.
    pub fn share_of_group(&self, group: &str) -> f64 {
        self.share(|place| place.group == group)
    }

    /// The part of lookups without key that go to endpoints with a tag.
    pub fn share_of_tag(&self, tag: &str) -> f64 {
        self.share(|place| place.tags.iter().any(|own| own == tag))
    }

    /// The names of the plans, and the parts of 10,000 of lookups without key that each gets.
    pub fn plans(&self) -> Vec<(&str, u32)> {
        self.plans.iter().map(|plan| (&*plan.name, plan.share)).collect()
    }

    /// The tiers of the only plan: ids of endpoints, regions, or `region/zone/version/group`, sorted within the tier.
    ///
    /// # Panics
    /// If there are several plans; see [`Asked::tiers_of`].
    pub fn tiers(&self) -> Vec<Vec<&str>> {
        match self.plans.as_slice() {
            [only] => tiers(only),
            several => panic!("{} plans: say which", several.len()),
        }
    }

    /// The tiers of one plan.
    ///
    /// # Panics
    /// If there is no plan of that name.
    pub fn tiers_of(&self, plan: &str) -> Vec<Vec<&str>> {
        tiers(self.named(plan))
    }

    /// Why each tier of one plan is there.
    ///
    /// # Panics
    /// If there is no plan of that name.
    pub fn reasons_of(&self, plan: &str) -> Vec<&str> {
        self.named(plan).tiers.iter().map(|tier| &*tier.reason).collect()
    }

    /// Whether a plan refuses.
    ///
    /// # Panics
    /// If there is no plan of that name.
    pub fn refuses(&self, plan: &str) -> bool {
        self.named(plan).tiers.is_empty()
    }

    /// The name of the plan that lookups with this key get. Gateways hash keys differently, so only what holds for any key is
    /// worth a test.
    pub fn plan_for_key(&self, key: &str) -> &str {
        let hash = key.bytes().fold(0, |hash, byte| splitmix64(hash ^ u64::from(byte)));
        let position = self.admitted.rollout.route(hash.max(1), 0);
        &self.plans[position as usize].name
    }

    /// What the router and this caller's view keep in memory, as counted natively (a component's pointers are half as
    /// wide) and without what the policy itself allocated.
    pub fn kept_bytes(&self) -> usize {
        self.kept_bytes + self.admitted.rollout.heap_bytes()
    }

    fn named(&self, name: &str) -> &NamedPlan {
        let found = self.plans.iter().find(|plan| plan.name == name);
        found.unwrap_or_else(|| panic!("no plan {name:?} among {:?}", self.plans()))
    }
}

fn tiers(plan: &NamedPlan) -> Vec<Vec<&str>> {
    plan.tiers.iter().map(|tier| tier.places.iter().map(|place| &*place.id).collect()).collect()
}
