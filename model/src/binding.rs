//! Which policy answers for a namespace or a service, with what config and within which limits.

use crate::names::{PolicyName, PolicyVersion, RegionName};
use crate::time::UnixMillis;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use std::collections::BTreeSet;

/// The name under which a namespace's own binding stands among the services. No service can be called so: names
/// begin with a letter or a digit.
pub const NAMESPACE_DEFAULT: &str = "_default";

/// How many former versions a binding remembers: as many that have soaked, and as many that have not, so that no number of
/// hasty changes pushes out what was known to be good.
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
    /// Whether traffic may go to another region.
    #[must_use]
    pub fn allow(&self, region: &RegionName) -> bool {
        let named = match &self.regions {
            Regions::All => true,
            Regions::Only(regions) => regions.contains(region),
        };
        named && self.max_remote_share > 0.0
    }

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

/// A version that answered before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Former {
    /// What it was.
    #[serde(flatten)]
    pub bound: Bound,
    /// Whether it answered for so long, and so much, that it is known to be good ([`crate::rollout::Settings`]).
    #[serde(default)]
    pub soaked: bool,
}

/// How a candidate takes part in lookups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Beside the active one, without effect on any answer.
    Shadow,
    /// It answers a percentage of the lookups.
    Canary,
}

/// A version on its way to become the active one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Candidate {
    /// What it is.
    #[serde(flatten)]
    pub bound: Bound,
    /// How far it is.
    pub stage: Stage,
    /// Of a canary: the part of the lookups that it answers, 0 to 100.
    #[serde(default)]
    pub percent: f64,
    /// When it became the candidate, or its stage changed.
    #[serde(default)]
    pub since: UnixMillis,
    /// A failure that some gateway of the region saw, in words; empty for none.
    #[serde(default, skip_serializing_if = "SmolStr::is_empty")]
    pub fault: SmolStr,
}

impl Candidate {
    /// Words of [`crate::selection::Words::rollout`] below this are the candidate's.
    #[must_use]
    pub fn threshold(&self) -> u64 {
        match self.stage {
            Stage::Shadow => 0,
            // A whole percentage of 2^64 does not fit; the missing part in 2^53 is nobody's lookup.
            Stage::Canary => (self.percent.clamp(0.0, 100.0) / 100.0 * u64::MAX as f64) as u64,
        }
    }
}

/// How the active one came to be active.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// An operator bound it.
    #[default]
    Bound,
    /// It was a candidate, and was promoted.
    Promoted,
    /// It was promoted against the evidence.
    Forced,
    /// What came after it was rolled back.
    RolledBack,
}

/// Since when the active one is active, and what is known of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Activation {
    /// When it became active.
    #[serde(default)]
    pub since: UnixMillis,
    /// How.
    #[serde(default)]
    pub way: Way,
    /// Whether it has soaked: from then on it is known to be good.
    #[serde(default)]
    pub soaked: bool,
    /// When some gateway of the region last told that it failed; zero for never. The soak counts from there.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failed_at: UnixMillis,
    /// That failure in words, and where it was seen; empty for none.
    #[serde(default, skip_serializing_if = "SmolStr::is_empty")]
    pub fault: SmolStr,
}

fn is_zero(at: &UnixMillis) -> bool {
    at.0 == 0
}

/// The record of a binding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Binding {
    /// What answers.
    pub active: Bound,
    /// Since when.
    #[serde(default)]
    pub activation: Activation,
    /// What is being tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<Candidate>,
    /// Former active ones, newest first: what answers when the active one cannot, see [`Binding::chain`].
    #[serde(default)]
    pub last_good: Vec<Former>,
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

/// Whose binding is in force for a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// The service's own.
    Own,
    /// Its namespace's.
    Namespace,
    /// None was written: the built-in one.
    #[default]
    BuiltIn,
}

/// The binding in force for one service: its own or its namespace's or the built-in one, with limits intersected.
#[derive(Clone, Debug, PartialEq)]
pub struct Effective {
    /// What answers.
    pub active: Bound,
    /// Since when.
    pub activation: Activation,
    /// Why the active one must not run, where an operator disabled it.
    pub disabled: Option<SmolStr>,
    /// What is being tried.
    pub candidate: Option<Candidate>,
    /// What answers when the active one cannot, in that order.
    pub last_good: Vec<Bound>,
    /// What answered before the active one: what that is compared with until it has soaked.
    pub before: Option<Bound>,
    /// Limits of `_default` and the service, intersected.
    pub limits: Limits,
    /// Labels of callers that reach the policy.
    pub caller_labels: BTreeSet<SmolStr>,
    /// Where it is from.
    pub source: Source,
}

impl Effective {
    /// The binding in force, from the service's own, its namespace's default and the built-in one.
    #[must_use]
    pub fn of(own: Option<&Binding>, namespace_default: Option<&Binding>, built_in: &Bound) -> Self {
        let limits = |binding: Option<&Binding>| binding.map(|b| b.limits.clone()).unwrap_or_default();
        let (chosen, source) = match (own, namespace_default) {
            (Some(own), _) => (Some(own), Source::Own),
            (None, Some(default)) => (Some(default), Source::Namespace),
            (None, None) => (None, Source::BuiltIn),
        };
        let built_in = || Self::only(built_in.clone());
        Self {
            limits: limits(own).intersect(&limits(namespace_default)),
            source,
            ..chosen.map_or_else(built_in, |binding| Self {
                active: binding.active.clone(),
                // Reports of failures change no answer.
                activation: Activation {
                    failed_at: UnixMillis(0),
                    fault: SmolStr::default(),
                    ..binding.activation.clone()
                },
                candidate: binding.candidate.clone().map(|c| Candidate { fault: SmolStr::default(), ..c }),
                before: binding.last_good.first().map(|former| former.bound.clone()),
                last_good: binding.chain().cloned().collect(),
                caller_labels: binding.caller_labels.clone(),
                ..Self::only(binding.active.clone())
            })
        }
    }

    /// One that is known to be good, without limits, labels or anything to fall back on.
    #[must_use]
    pub fn only(active: Bound) -> Self {
        Self {
            active,
            activation: Activation { soaked: true, ..Activation::default() },
            disabled: None,
            candidate: None,
            last_good: Vec::new(),
            before: None,
            limits: Limits::default(),
            caller_labels: BTreeSet::new(),
            source: Source::BuiltIn,
        }
    }

    /// Whether what its versions do is to be counted: something is tried, or has yet to soak.
    #[must_use]
    pub fn is_observed(&self) -> bool {
        self.candidate.is_some() || !self.activation.soaked
    }

    /// Every version that it names, the active one first.
    pub fn versions(&self) -> impl Iterator<Item = &Bound> {
        let candidate = self.candidate.iter().map(|c| &c.bound);
        std::iter::once(&self.active).chain(candidate).chain(&self.last_good)
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
