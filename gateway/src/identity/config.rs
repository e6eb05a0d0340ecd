//! The section `[identity]` of the configuration, and its check: issuers, their keys, and rules.

use super::key_file::KeyFile;
use super::keys::asymmetric;
use super::rule::Rule;
use super::verifier::{TrustedIssuer, Verifier};
use jsonwebtoken::Algorithm;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where an issuer names none: what SPIFFE and Kubernetes sign with.
const DEFAULT_ALGORITHMS: [Algorithm; 2] = [Algorithm::ES256, Algorithm::RS256];

/// How long the last good keys outlive their file: longer than a night, shorter than anybody would leave a revoked key.
const DEFAULT_KEEP_KEYS_FOR: Duration = Duration::from_secs(24 * 3600);

/// Who may issue tokens, and what they give.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IdentityConfig {
    /// Trusted issuers. With none, every token is refused.
    pub issuers: Vec<IssuerConfig>,
    /// The first that matches gives the role.
    pub rules: Vec<RuleConfig>,
}

/// One trusted issuer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// What `iss` must be, to the byte.
    pub issuer: String,
    /// What `aud` must name: one or several, of which one suffices.
    pub audience: Audience,
    /// Names of RFC 7518 and RFC 8037; default `ES256` and `RS256`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub algorithms: Option<Vec<String>>,
    /// The published keys, relative to the directory of the configuration file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_file: Option<PathBuf>,
    /// Not built yet; refused by the check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_url: Option<String>,
    /// Not built yet; refused by the check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discovery: Option<bool>,
    /// How long the last good keys are used while they cannot be read again, as in `24h` (the default).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_keys_for: Option<String>,
}

/// One audience, or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "audience is a text or a list of texts")]
pub enum Audience {
    /// `audience = "meridian"`
    One(String),
    /// `audience = ["meridian", "https://meridian.example"]`
    Several(Vec<String>),
}

impl Default for Audience {
    fn default() -> Self {
        Self::Several(Vec::new())
    }
}

/// One rule.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleConfig {
    /// Whose tokens it is about.
    pub issuer: String,
    /// A pattern over `sub`: literal text in which `{namespace}`, `{service}`, `{zone}` and `{instance}` stand for whole segments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Claims that must equal or, if they are lists, contain a value. A name that begins with `/` is a JSON Pointer.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub claims: BTreeMap<String, ClaimValue>,
    /// `workload`, `operator` or `reader`.
    pub role: String,
    /// The namespace, where the subject does not say it; `*` for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The service, likewise (workloads only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The zone that instances must be in (workloads only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The only instance id (workloads only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
}

/// What a claim is compared with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a claim is compared with a text, an integer or a boolean")]
pub enum ClaimValue {
    /// `groups = "platform"`
    Text(String),
    /// `level = 3`
    Integer(i64),
    /// `email_verified = true`
    Boolean(bool),
}

/// A mistake, with its place in the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {detail}")]
pub struct ConfigError {
    /// As in `identity.rules[2].subject`; positions count from 0.
    pub place: String,
    /// What is wrong and what would be right.
    pub detail: String,
}

impl ConfigError {
    pub(super) fn new(place: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { place: place.into(), detail: detail.into() }
    }
}

impl IdentityConfig {
    /// Reads the keys and checks everything; all mistakes are reported together. `directory` is what relative files are
    /// relative to.
    pub fn check(&self, directory: &Path) -> Result<Verifier, Vec<ConfigError>> {
        let mut mistakes = Vec::new();
        let mut issuers = Vec::new();
        let mut seen = BTreeSet::new();
        for (position, config) in self.issuers.iter().enumerate() {
            let place = format!("identity.issuers[{position}]");
            if !seen.insert(&config.issuer) {
                let detail = format!("{:?} is configured twice", config.issuer);
                mistakes.push(ConfigError::new(format!("{place}.issuer"), detail));
            }
            issuers.extend(check_issuer(config, &place, directory, &mut mistakes));
        }
        let known: Vec<&str> = self.issuers.iter().map(|issuer| issuer.issuer.as_str()).collect();
        let mut rules = Vec::new();
        for (position, config) in self.rules.iter().enumerate() {
            rules.extend(Rule::check(config, &format!("identity.rules[{position}]"), &known, &mut mistakes));
        }
        if mistakes.is_empty() { Ok(Verifier::new(issuers, rules)) } else { Err(mistakes) }
    }
}

fn check_issuer(
    config: &IssuerConfig,
    place: &str,
    directory: &Path,
    mistakes: &mut Vec<ConfigError>,
) -> Option<TrustedIssuer> {
    let before = mistakes.len();
    let mut mistake =
        |field: &str, detail: String| mistakes.push(ConfigError::new(format!("{place}.{field}"), detail));
    if config.issuer.trim().is_empty() {
        mistake("issuer", "is blank: it is the iss of the tokens".to_owned());
    }
    let audience = match &config.audience {
        Audience::One(one) => vec![one.clone()],
        Audience::Several(all) => all.clone(),
    };
    if audience.is_empty() || audience.iter().any(|name| name.trim().is_empty()) {
        mistake("audience", "is blank: name what tokens for this gateway carry in aud".to_owned());
    }
    let mut algorithms = Vec::new();
    match &config.algorithms {
        None => algorithms.extend(DEFAULT_ALGORITHMS),
        Some(names) if names.is_empty() => {
            mistake("algorithms", "is empty: leave it out for ES256 and RS256".to_owned())
        }
        Some(names) => {
            for name in names {
                match asymmetric(name) {
                    Some(algorithm) => algorithms.push(algorithm),
                    None => mistake("algorithms", refused_algorithm(name)),
                }
            }
        }
    }
    let keep_for = match config.keep_keys_for.as_deref().map(parse_span) {
        None => DEFAULT_KEEP_KEYS_FOR,
        Some(Ok(span)) => span,
        Some(Err(detail)) => {
            mistake("keep_keys_for", detail);
            DEFAULT_KEEP_KEYS_FOR
        }
    };
    let absent = "is not built yet; jwks_file is what works now";
    if config.jwks_url.is_some() {
        mistake("jwks_url", absent.to_owned());
    }
    if config.discovery.is_some() {
        mistake("discovery", absent.to_owned());
    }
    let keys = match &config.jwks_file {
        None => {
            if config.jwks_url.is_none() && config.discovery.is_none() {
                mistake("jwks_file", "is missing: name the file of the issuer's published keys".to_owned());
            }
            None
        }
        // With no algorithm, every key would be called unusable, which is not what is wrong.
        Some(_) if algorithms.is_empty() => None,
        Some(file) => KeyFile::open(directory.join(file), algorithms.clone(), keep_for)
            .map_err(|detail| mistake("jwks_file", detail))
            .ok(),
    };
    let keys = keys?;
    (mistakes.len() == before).then(|| TrustedIssuer {
        name: config.issuer.clone(),
        audience,
        algorithms,
        keys,
    })
}

fn refused_algorithm(name: &str) -> String {
    let why = match name.to_ascii_lowercase().as_str() {
        "none" => "is refused: it signs nothing",
        "hs256" | "hs384" | "hs512" => "is refused: whoever can verify with a shared secret can forge",
        _ => "is not supported",
    };
    format!("{name:?} {why}; choose from ES256, ES384, RS256, RS384, RS512, PS256, PS384, PS512, EdDSA")
}

fn parse_span(text: &str) -> Result<Duration, String> {
    let span = text.parse::<jiff::SignedDuration>().ok().and_then(|span| Duration::try_from(span).ok());
    span.filter(|span| !span.is_zero())
        .ok_or_else(|| format!("{text:?} is not a time span as in \"24h\" or \"90m\""))
}
