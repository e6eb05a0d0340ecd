//! Which policy answers for a namespace or a service, with what config and within which limits.

use crate::names::{PolicyName, PolicyVersion, RegionName};
use crate::time::UnixMillis;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use std::collections::BTreeSet;

/// The name under which a namespace's own binding stands among the services. No service can be called so: names
/// begin with a letter or a digit.
pub const NAMESPACE_DEFAULT: &str = "_default";

/// How many former versions a binding remembers.
pub const LAST_GOOD_KEPT: usize = 3;

/// Longest config of a binding, in bytes of JSON.
pub const MAX_CONFIG_BYTES: usize = 64 * 1024;

/// One version of a policy with the config that it is opened with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bound {
    /// Its name.
    pub policy: PolicyName,
    /// Its version, pinned when it was bound.
    pub version: PolicyVersion,
    /// JSON, as text; empty for none. Only the policy understands it.
    #[serde(default, skip_serializing_if = "SmolStr::is_empty")]
    pub config: SmolStr,
}

/// Which regions a lookup may be answered from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Regions {
    /// Any.
    #[default]
    All,
    /// These, besides the region that is asked.
    Only(BTreeSet<RegionName>),
}

impl Serialize for Regions {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => serializer.serialize_str("all"),
            Self::Only(regions) => regions.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Regions {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Wire {
            Word(String),
            List(BTreeSet<RegionName>),
        }
        match Wire::deserialize(deserializer) {
            Ok(Wire::Word(word)) if word == "all" => Ok(Self::All),
            Ok(Wire::List(regions)) => Ok(Self::Only(regions)),
            _ => Err(serde::de::Error::custom("must be \"all\" or a list of region names")),
        }
    }
}

/// What the host enforces under every policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limits {
    /// Where traffic may go.
    #[serde(default)]
    pub regions: Regions,
    /// Greatest share of lookups that may leave the region, 0 to 1.
    #[serde(default = "whole")]
    pub max_remote_share: f64,
}

fn whole() -> f64 {
    1.0
}

impl Default for Limits {
    fn default() -> Self {
        Self { regions: Regions::All, max_remote_share: 1.0 }
    }
}

impl Limits {
    /// What both allow.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Self {
        let regions = match (&self.regions, &other.regions) {
            (Regions::All, r) | (r, Regions::All) => r.clone(),
            (Regions::Only(a), Regions::Only(b)) => Regions::Only(a.intersection(b).cloned().collect()),
        };
        Self { regions, max_remote_share: self.max_remote_share.min(other.max_remote_share) }
    }
}

/// The record of a binding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Binding {
    /// What answers.
    pub active: Bound,
    /// Former active ones, newest first: what answers when the active one cannot.
    #[serde(default)]
    pub last_good: Vec<Bound>,
    /// What no policy may widen.
    #[serde(default)]
    pub limits: Limits,
    /// Labels of callers that reach the policy.
    #[serde(default)]
    pub caller_labels: BTreeSet<SmolStr>,
    /// When it was last written.
    #[serde(default)]
    pub updated_at: UnixMillis,
    /// Fields of newer formats, kept as they came.
    #[serde(flatten)]
    pub unknown: serde_json::Map<String, serde_json::Value>,
}

/// The binding in force for one service: its own or its namespace's or the built-in one, with limits intersected.
#[derive(Clone, Debug, PartialEq)]
pub struct Effective {
    /// What answers.
    pub active: Bound,
    /// What answers when the active one cannot, newest first.
    pub last_good: Vec<Bound>,
    /// Limits of `_default` and the service, intersected.
    pub limits: Limits,
    /// Labels of callers that reach the policy.
    pub caller_labels: BTreeSet<SmolStr>,
}

impl Effective {
    /// The binding in force, from the service's own, its namespace's default and the built-in one.
    #[must_use]
    pub fn of(own: Option<&Binding>, namespace_default: Option<&Binding>, built_in: &Bound) -> Self {
        let limits = |binding: Option<&Binding>| binding.map(|b| b.limits.clone()).unwrap_or_default();
        let chosen = own.or(namespace_default);
        Self {
            active: chosen.map_or_else(|| built_in.clone(), |b| b.active.clone()),
            last_good: chosen.map(|b| b.last_good.clone()).unwrap_or_default(),
            limits: limits(own).intersect(&limits(namespace_default)),
            caller_labels: chosen.map(|b| b.caller_labels.clone()).unwrap_or_default(),
        }
    }
}

/// What the registry knows of an uploaded version; the module's bytes stand apart, in chunks under its hash.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Under which name it was uploaded.
    pub name: PolicyName,
    /// The hash of its bytes.
    pub version: PolicyVersion,
    /// Length of the module.
    pub size_bytes: u64,
    /// How many chunks it is stored in.
    pub chunks: u32,
    /// When it was uploaded.
    pub uploaded_at: UnixMillis,
    /// Who uploaded it: `issuer subject`.
    pub uploaded_by: SmolStr,
    /// Fields of newer formats, kept as they came.
    #[serde(flatten)]
    pub unknown: serde_json::Map<String, serde_json::Value>,
}
