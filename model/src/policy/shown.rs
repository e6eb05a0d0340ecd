//! What a policy is shown, as data: the records of the contract (`sdk-wasm/wit/routing-policy.wit`) in JSON, with
//! defaults that keep a test case short. They are those of the SDK's `testing`.

use serde::Deserialize;
use std::collections::BTreeMap;

/// The region where none is named.
pub const REGION: &str = "ap-south-1";
/// The zone of endpoints where none is named.
const ZONE: &str = "ap-south-1a";
const WHOLE: u32 = 1_000;
const WEIGHT: u32 = 100;

/// A service.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The region that is asked.
    pub region: String,
    /// Zones of the region that are being evacuated.
    pub draining_zones: Vec<String>,
    /// The part, of 1,000, of its rightful traffic that the region may take.
    pub ramp: u32,
    /// Its endpoints in the region.
    pub endpoints: Vec<Endpoint>,
    /// What is known of it in other regions.
    pub remotes: Vec<Remote>,
}

impl Default for Service {
    fn default() -> Self {
        Self {
            namespace: "default".into(),
            name: "orders-api".into(),
            region: REGION.into(),
            draining_zones: Vec::new(),
            ramp: WHOLE,
            endpoints: Vec::new(),
            remotes: Vec::new(),
        }
    }
}

/// An endpoint: healthy, of weight 100, in zone `ap-south-1a`, unless it says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Endpoint {
    /// Its id; the name by which expectations call it.
    pub id: String,
    /// Its zone.
    #[serde(default = "zone")]
    pub zone: String,
    /// Its version.
    #[serde(default)]
    pub version: String,
    /// Its deployment group.
    #[serde(default)]
    pub group: String,
    /// What it speaks.
    #[serde(default = "protocol")]
    pub protocol: String,
    /// Its weight.
    #[serde(default = "weight")]
    pub weight: u32,
    /// What it says that it can take.
    #[serde(default)]
    pub capacity: Option<u64>,
    /// Its status.
    #[serde(default)]
    pub status: Status,
    /// Whether it is under doubt.
    #[serde(default)]
    pub degraded: bool,
    /// Its tags.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Its metadata.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
}

fn zone() -> String {
    ZONE.into()
}

fn protocol() -> String {
    "http".into()
}

fn weight() -> u32 {
    WEIGHT
}

/// As the contract has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the words are the status itself")]
pub enum Status {
    #[default]
    Healthy,
    Unhealthy,
    Starting,
    Draining,
}

/// Another region: fresh, reachable, 100 ms away, without subsets, unless it says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Remote {
    /// Its name.
    pub region: String,
    /// How old what is known of it is.
    pub freshness: Freshness,
    /// Whether it is reachable from here.
    pub reachable: bool,
    /// Whether it is being evacuated.
    pub draining: bool,
    /// The part, of 1,000, of its rightful traffic that it may take.
    pub ramp: u32,
    /// How far away it is.
    pub round_trip_ms: u32,
    /// How many further lookups a second it can take.
    pub headroom: Option<u64>,
    /// What it has.
    pub subsets: Vec<Subset>,
}

impl Default for Remote {
    fn default() -> Self {
        Self {
            region: String::new(),
            freshness: Freshness::Fresh,
            reachable: true,
            draining: false,
            ramp: WHOLE,
            round_trip_ms: 100,
            headroom: None,
            subsets: Vec::new(),
        }
    }
}

/// As the contract has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the words are the freshness itself")]
pub enum Freshness {
    #[default]
    Fresh,
    Suspect,
    Stale,
}

/// A part of what another region has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Subset {
    /// Its zone.
    #[serde(default)]
    pub zone: String,
    /// Its version.
    #[serde(default)]
    pub version: String,
    /// Its deployment group.
    #[serde(default)]
    pub group: String,
    /// How many are healthy.
    pub healthy: u32,
    /// Of how many; by default all are healthy.
    #[serde(default)]
    pub total: Option<u32>,
    /// The weight of the healthy ones; by default 100 each.
    #[serde(default)]
    pub weight: Option<u64>,
}

impl Subset {
    /// How many there are.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.total.unwrap_or(self.healthy)
    }

    /// What they weigh.
    #[must_use]
    pub fn weight(&self) -> u64 {
        self.weight.unwrap_or(u64::from(self.healthy) * u64::from(WEIGHT))
    }
}

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Caller {
    /// Its region; by default the service's.
    pub region: Option<String>,
    /// Its zone; empty where it is not known.
    pub zone: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

impl Caller {
    /// A caller in this zone.
    #[must_use]
    pub fn in_zone(zone: &str) -> Self {
        Self { region: None, zone: zone.into(), labels: BTreeMap::new() }
    }
}

impl Service {
    /// How a destination is called in expectations and reports: an endpoint's id, a region, or
    /// `region/zone/version/group`; `None` for one that was not shown.
    #[must_use]
    pub fn name_of(&self, destination: crate::plan::Destination) -> Option<String> {
        use crate::plan::Destination;
        match destination {
            Destination::Endpoint(at) => self.endpoints.get(at as usize).map(|e| e.id.clone()),
            Destination::Remote { remote, subset } => {
                let remote = self.remotes.get(remote as usize)?;
                match subset {
                    None => Some(remote.region.clone()),
                    Some(at) => {
                        let of = remote.subsets.get(at as usize)?;
                        Some(format!("{}/{}/{}/{}", remote.region, of.zone, of.version, of.group))
                    }
                }
            }
        }
    }
}
