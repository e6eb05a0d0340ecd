//! Lookups as they were answered, with all that decided them, so that they can be answered again, bit for bit.
//!
//! Of an instance only what policies are shown is in it, and where it listens: not who owns it, nor its lease.

use crate::binding::{Bound, Effective, Limits};
use crate::caller::Caller;
use crate::instance::{Instance, Lease, LeaseId, Owner, render_endpoint};
use crate::names::{RegionName, ServiceKey, ZoneName};
use crate::remote::{Remote, Standing};
use crate::snapshot::{Endpoint, Snapshot, Withheld};
use crate::status::Status;
use crate::summary::{Ingress, Summary};
use crate::time::UnixMillis;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The only format.
pub const FORMAT: u32 = 1;

/// What a gateway recorded of one service.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recording {
    /// [`FORMAT`].
    pub format: u32,
    /// Of which service.
    pub service: ServiceKey,
    /// In which region.
    pub region: RegionName,
    /// By which gateway.
    pub gateway: SmolStr,
    /// When it began.
    pub started_at: UnixMillis,
    /// Lookups of the service while it ran.
    pub seen: u64,
    /// Sampled lookups for which there was no room.
    pub dropped: u64,
    /// Lookups that came while another thread noted its own: they were neither seen nor sampled.
    pub missed: u64,
    /// The versions that answered, with their configs.
    pub answered_by: Vec<Bound>,
    /// What lookups were answered from, by serial.
    pub pictures: BTreeMap<u64, Picture>,
    /// The lookups.
    pub lookups: Vec<Noted>,
}

/// One lookup and its answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Noted {
    /// The caller's zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<ZoneName>,
    /// Its labels that reach policies.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<SmolStr, SmolStr>,
    /// The hash of its key, if it had one. All 64 bits count, which a JSON number may not keep.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "hex_or_none")]
    pub key: Option<u64>,
    /// What it was answered by besides: the gateway's entropy.
    #[serde(with = "hex")]
    pub entropy: u64,
    /// The picture that the plan was made from.
    pub planned: u64,
    /// The picture that was current: what may receive traffic.
    pub current: u64,
    /// Whose plan it was: a position in [`Recording::answered_by`].
    pub by: u32,
    /// `ok`, `last-good` or `fallback`.
    pub outcome: SmolStr,
    /// Where it went: an endpoint's id, `region/id` elsewhere, or [`REFUSED`] or [`NOTHING`].
    pub answer: SmolStr,
}

/// The policy refused on purpose.
pub const REFUSED: &str = "(refused)";
/// Nothing may receive traffic.
pub const NOTHING: &str = "(nothing)";

impl Noted {
    /// Who asked.
    #[must_use]
    pub fn caller(&self, region: &RegionName) -> Caller {
        Caller { region: region.clone(), zone: self.zone.clone(), labels: self.labels.clone() }
    }
}

/// A service at one moment, as policies were shown it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Picture {
    /// The registry revision that it reflects.
    pub index: u64,
    /// All instances.
    pub endpoints: Vec<Shown>,
    /// Zones under evacuation.
    pub draining_zones: Vec<ZoneName>,
    /// What the service may take of its own traffic.
    pub ramp: u32,
    /// The service in other regions.
    pub remotes: Vec<Elsewhere>,
    /// What no policy may widen.
    pub limits: Limits,
}

/// An instance in a picture.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Shown {
    /// Its record, without owner and lease.
    pub instance: Instance,
    /// Its status then.
    pub status: Status,
    /// Under doubt then.
    pub degraded: bool,
}

/// Another region in a picture.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Elsewhere {
    /// Which.
    pub region: RegionName,
    /// How it stood.
    pub standing: Standing,
    /// What it told.
    pub summary: Summary,
    /// Where it takes traffic.
    pub ingress: Vec<Ingress>,
}

impl Picture {
    /// What a snapshot shows.
    #[must_use]
    pub fn of(snapshot: &Snapshot) -> Self {
        let shown = |endpoint: &Endpoint| {
            let mut instance = (*endpoint.instance).clone();
            instance.owner = Owner { issuer: SmolStr::default(), subject: SmolStr::default() };
            instance.lease = Lease { id: LeaseId(0), token_expires_at: None, expired_at: None };
            instance.declared.health_check = None;
            (instance.check_detail, instance.reason) = (SmolStr::default(), SmolStr::default());
            instance.unknown.clear();
            Shown { instance, status: endpoint.status, degraded: endpoint.degraded }
        };
        let elsewhere = |remote: &Remote| Elsewhere {
            region: remote.region.clone(),
            standing: remote.standing,
            summary: (*remote.summary).clone(),
            ingress: remote.ingress.to_vec(),
        };
        Self {
            index: snapshot.index,
            endpoints: snapshot.endpoints.iter().map(shown).collect(),
            draining_zones: snapshot.draining_zones.clone(),
            ramp: snapshot.ramp,
            remotes: snapshot.remotes.iter().map(elsewhere).collect(),
            limits: snapshot.binding.limits.clone(),
        }
    }

    /// The snapshot again, under a binding of one version alone.
    #[must_use]
    pub fn snapshot(&self, of: &Recording, serial: u64, bound: &Bound) -> Snapshot {
        let endpoint = |shown: &Shown| {
            let rendered = render_endpoint(&shown.instance, &of.region).into();
            Endpoint::new(Arc::new(shown.instance.clone()), shown.status, shown.degraded, rendered)
        };
        let remote = |elsewhere: &Elsewhere| Remote {
            region: elsewhere.region.clone(),
            standing: elsewhere.standing,
            summary: Arc::new(elsewhere.summary.clone()),
            ingress: elsewhere.ingress.clone().into(),
        };
        Snapshot {
            key: of.service.clone(),
            region: of.region.clone(),
            slot: 0,
            serial,
            index: self.index,
            endpoints: self.endpoints.iter().map(endpoint).collect(),
            binding: Arc::new(Effective { limits: self.limits.clone(), ..Effective::only(bound.clone()) }),
            draining_zones: self.draining_zones.clone(),
            ramp: self.ramp,
            remotes: self.remotes.iter().map(remote).collect(),
            withheld: Withheld::default(),
        }
    }
}

mod hex {
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;
    use std::borrow::Cow;

    pub(super) fn serialize<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{value:016x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map_err(|_| D::Error::custom("not 64 bits in hexadecimal"))
    }
}

mod hex_or_none {
    use serde::de::Deserializer;
    use serde::ser::Serializer;

    pub(super) fn serialize<S: Serializer>(value: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => super::hex::serialize(value, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
        super::hex::deserialize(deserializer).map(Some)
    }
}
