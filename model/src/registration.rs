//! What a workload says when it registers, parsed into values that cannot be wrong.

use crate::names::ZoneName;
use crate::status::Declared;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

/// At most this many labels, metadata entries or tags (DESIGN 5).
pub const MAX_PAIRS: usize = 64;
/// Longest key of a label or metadata entry, in bytes.
pub const MAX_KEY_BYTES: usize = 64;
/// Longest value of a label or metadata entry, and longest tag, version, group and protocol, in bytes.
pub const MAX_VALUE_BYTES: usize = 256;
/// Greatest weight of an endpoint.
pub const MAX_WEIGHT: u32 = 10_000;
/// Shortest and longest lease, in seconds. Below 3 s a missed packet is a lost instance; above an hour it is no lease.
pub const LEASE_TTL_SECONDS: std::ops::RangeInclusive<u64> = 3..=3600;
/// Lease where none is asked for.
pub const DEFAULT_LEASE_TTL_SECONDS: u32 = 30;

/// One thing that is wrong with a body, with the field that it is about (as the client wrote it).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// `healthCheck.http.path`, `metadata`, …
    pub field: String,
    /// What is wrong and what would be right.
    pub detail: String,
}

impl FieldError {
    /// An error about `field`.
    pub fn new(field: impl Into<String>, detail: impl fmt::Display) -> Self {
        Self { field: field.into(), detail: detail.to_string() }
    }
}

/// An address or a DNS name where an instance listens.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Host(SmolStr);

impl Host {
    /// Parses an IP address (brackets around IPv6 are dropped) or a DNS name by RFC 1123.
    ///
    /// # Errors
    /// A sentence that says what a host looks like.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
        if let Ok(ip) = bare.parse::<IpAddr>() {
            if ip.is_unspecified() || ip.is_multicast() {
                return Err(
                    "must be an address that callers can reach, not an unspecified or multicast one".into()
                );
            }
            return Ok(Self(SmolStr::new(ip.to_string())));
        }
        let label = |l: &str| {
            !l.is_empty()
                && l.len() <= 63
                && !l.starts_with('-')
                && !l.ends_with('-')
                && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        // All digits and dots that are no address would be read as one by some resolvers (inet_aton's short forms).
        let numeric = bare.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        if bare.len() <= 253 && !numeric && bare.split('.').all(label) {
            Ok(Self(SmolStr::new(bare.to_ascii_lowercase())))
        } else {
            Err("must be an IP address or a DNS name such as 10.42.6.18 or orders-1.internal".into())
        }
    }

    /// The host as text, IPv6 without brackets.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The address, where the host is one.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.0.parse().ok()
    }
}

/// What keeps the lease alive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RenewBy {
    /// The workload beats.
    #[default]
    Heartbeat,
    /// Passing health checks, for registrars and clients that never beat.
    Check,
}

/// How a health check asks.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Probe {
    /// GET; any 2xx passes. Redirects are not followed.
    Http {
        /// Path and query, beginning with `/`.
        path: SmolStr,
    },
    /// A connection that is accepted passes.
    Tcp,
}

/// A health check with its thresholds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheck {
    /// How it asks.
    pub probe: Probe,
    /// Time between two checks, in seconds.
    pub interval_seconds: u32,
    /// Time after which an unanswered check counts as failed, in seconds.
    pub timeout_seconds: u32,
    /// Failures in a row that make it unhealthy.
    pub unhealthy_after: u32,
    /// Passes in a row that make it healthy.
    pub healthy_after: u32,
}

/// The declared part of an instance: everything that its owner may say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Registration {
    /// Where it listens.
    pub host: Host,
    /// Its port, 1 to 65535.
    pub port: u16,
    /// Its zone, one of the region's.
    pub zone: ZoneName,
    /// Version of the software; may be empty.
    #[serde(default, skip_serializing_if = "SmolStr::is_empty")]
    pub version: SmolStr,
    /// 1 to 10,000.
    pub weight: u32,
    /// `stable`, `canary`, `blue`; may be empty.
    #[serde(default, skip_serializing_if = "SmolStr::is_empty")]
    pub deployment_group: SmolStr,
    /// `http`, `grpc`, `tcp`; may be empty.
    #[serde(default, skip_serializing_if = "SmolStr::is_empty")]
    pub protocol: SmolStr,
    /// Words to select by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<SmolStr>,
    /// Pairs to select by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<SmolStr, SmolStr>,
    /// What the owner says of its state.
    pub status: Declared,
    /// How long the lease holds without renewal.
    pub lease_ttl_seconds: u32,
    /// What renews it.
    #[serde(default)]
    pub renew_by: RenewBy,
    /// Requests that it can take at once, if it knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<u64>,
    /// How the guardian checks it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<Box<HealthCheck>>,
}

impl Registration {
    /// The lease as a span.
    #[must_use]
    pub fn lease_ttl(&self) -> Duration {
        Duration::from_secs(u64::from(self.lease_ttl_seconds))
    }

    /// How often the owner should beat: a third of the lease, so that two may be lost.
    #[must_use]
    pub fn heartbeat_seconds(&self) -> u32 {
        (self.lease_ttl_seconds / 3).max(1)
    }
}

/// The body of a registration as it stands on the wire.
///
/// Numbers are wide and signed here, so that `-1` or `2^31` are refused by name and bound instead of as a parse error.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "the fields are those of `Registration`, where they are described")]
pub struct RegistrationBody {
    pub host: String,
    pub port: i64,
    pub zone: String,
    #[serde(default)]
    pub version: Option<String>,
    #[serde(default)]
    pub weight: Option<i64>,
    #[serde(default)]
    pub deployment_group: Option<String>,
    #[serde(default)]
    pub protocol: Option<String>,
    #[serde(default)]
    pub tags: Option<Vec<String>>,
    #[serde(default)]
    pub metadata: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub status: Option<Declared>,
    #[serde(default)]
    pub lease_ttl_seconds: Option<i64>,
    #[serde(default)]
    pub renew_by: Option<RenewBy>,
    #[serde(default)]
    pub capacity: Option<u64>,
    #[serde(default)]
    pub health_check: Option<HealthCheckBody>,
    /// Short form of an HTTP check with the defaults.
    #[serde(default)]
    pub health_endpoint: Option<String>,
    /// May repeat the path's; must then agree with it.
    #[serde(default)]
    pub service: Option<String>,
    #[serde(default)]
    pub instance_id: Option<String>,
    #[serde(default)]
    pub namespace: Option<String>,
    #[serde(default)]
    pub region: Option<String>,
}

/// A health check on the wire: exactly one of its kinds.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "the kinds are those of `Probe`")]
pub struct HealthCheckBody {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<ProbeBody>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<ProbeBody>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<ProbeBody>,
}

/// Path and thresholds on the wire.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "the fields are those of `HealthCheck`, where they are described")]
pub struct ProbeBody {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_seconds: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unhealthy_after: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthy_after: Option<i64>,
}

struct Problems(Vec<FieldError>);

impl Problems {
    fn add(&mut self, field: &str, detail: impl fmt::Display) {
        self.0.push(FieldError::new(field, detail));
    }

    fn number(
        &mut self,
        field: &str,
        given: Option<i64>,
        default: u32,
        range: std::ops::RangeInclusive<u64>,
    ) -> u32 {
        let Some(given) = given else { return default };
        match u64::try_from(given).ok().filter(|n| range.contains(n)).and_then(|n| u32::try_from(n).ok()) {
            Some(number) => number,
            None => {
                self.add(
                    field,
                    format_args!("must be from {} to {}, not {given}", range.start(), range.end()),
                );
                default
            }
        }
    }

    fn text(&mut self, field: &str, given: Option<String>) -> SmolStr {
        let text = given.unwrap_or_default();
        self.value(field, &text);
        SmolStr::new(text)
    }

    fn value(&mut self, field: &str, text: &str) {
        if text.len() > MAX_VALUE_BYTES {
            self.add(field, format_args!("must be at most {MAX_VALUE_BYTES} bytes long, not {}", text.len()));
        } else if text.chars().any(char::is_control) {
            self.add(field, "must not contain control characters");
        }
    }
}

/// Tags by their limits.
///
/// # Errors
/// What is wrong, under the field `tags`.
pub fn parse_tags(tags: Vec<String>) -> Result<Vec<SmolStr>, Vec<FieldError>> {
    let mut problems = Problems(Vec::new());
    if tags.len() > MAX_PAIRS {
        problems.add("tags", format_args!("must be at most {MAX_PAIRS}, not {}", tags.len()));
    }
    let mut parsed: Vec<SmolStr> = Vec::with_capacity(tags.len().min(MAX_PAIRS));
    for tag in tags.into_iter().take(MAX_PAIRS) {
        if tag.is_empty() {
            problems.add("tags", "must not contain an empty tag");
        }
        let tag = problems.text("tags", Some(tag));
        if !parsed.contains(&tag) {
            parsed.push(tag);
        }
    }
    if problems.0.is_empty() { Ok(parsed) } else { Err(problems.0) }
}

/// Metadata or labels by their limits.
///
/// # Errors
/// What is wrong, under `field`.
pub fn parse_pairs<'a>(
    field: &str,
    pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<BTreeMap<SmolStr, SmolStr>, Vec<FieldError>> {
    let mut problems = Problems(Vec::new());
    let mut parsed = BTreeMap::new();
    for (key, value) in pairs {
        if key.is_empty() || key.len() > MAX_KEY_BYTES || key.chars().any(char::is_control) {
            problems.add(
                field,
                format_args!("keys must be 1 to {MAX_KEY_BYTES} bytes without control characters"),
            );
        }
        problems.value(field, value);
        parsed.insert(SmolStr::new(key), SmolStr::new(value));
        if parsed.len() > MAX_PAIRS {
            problems.add(field, format_args!("must be at most {MAX_PAIRS} pairs"));
            break;
        }
    }
    if problems.0.is_empty() { Ok(parsed) } else { Err(problems.0) }
}

impl RegistrationBody {
    /// The registration that this body means, checked whole: every mistake is named.
    ///
    /// # Errors
    /// All fields that are wrong.
    pub fn parse(self) -> Result<Registration, Vec<FieldError>> {
        let mut problems = Problems(Vec::new());
        let host = Host::parse(&self.host).map_err(|detail| problems.add("host", detail)).ok();
        let port = u16::try_from(self.port).ok().filter(|p| *p != 0);
        if port.is_none() {
            problems.add("port", format_args!("must be from 1 to 65535, not {}", self.port));
        }
        let zone = self.zone.parse::<ZoneName>().map_err(|e| problems.add("zone", e)).ok();
        let weight = problems.number("weight", self.weight, 100, 1..=u64::from(MAX_WEIGHT));
        let lease_ttl_seconds = problems.number(
            "leaseTtlSeconds",
            self.lease_ttl_seconds,
            DEFAULT_LEASE_TTL_SECONDS,
            LEASE_TTL_SECONDS,
        );
        let version = problems.text("version", self.version);
        let deployment_group = problems.text("deploymentGroup", self.deployment_group);
        let protocol = problems.text("protocol", self.protocol);
        let tags = parse_tags(self.tags.unwrap_or_default()).unwrap_or_else(|errors| {
            problems.0.extend(errors);
            Vec::new()
        });
        let metadata = self.metadata.unwrap_or_default();
        let metadata = parse_pairs("metadata", metadata.iter().map(|(k, v)| (k.as_str(), v.as_str())))
            .unwrap_or_else(|errors| {
                problems.0.extend(errors);
                BTreeMap::new()
            });
        if self.health_check.is_some() && self.health_endpoint.is_some() {
            problems.add("healthEndpoint", "is the short form of healthCheck: give one of the two");
        }
        let check = match (self.health_check, self.health_endpoint) {
            (Some(body), _) => body.parse(&mut problems),
            (None, Some(path)) => HealthCheckBody {
                http: Some(ProbeBody { path: Some(path), ..ProbeBody::default() }),
                ..Default::default()
            }
            .parse(&mut problems),
            (None, None) => None,
        };
        let renew_by = self.renew_by.unwrap_or_default();
        if renew_by == RenewBy::Check && check.is_none() && problems.0.is_empty() {
            problems.add("renewBy", "\"check\" needs a healthCheck that can renew the lease");
        }
        let status =
            self.status.unwrap_or(if check.is_some() { Declared::Starting } else { Declared::Healthy });
        match (host, port, zone) {
            (Some(host), Some(port), Some(zone)) if problems.0.is_empty() => Ok(Registration {
                host,
                port,
                zone,
                version,
                weight,
                deployment_group,
                protocol,
                tags,
                metadata,
                status,
                lease_ttl_seconds,
                renew_by,
                capacity: self.capacity,
                health_check: check.map(Box::new),
            }),
            _ => Err(problems.0),
        }
    }
}

impl HealthCheckBody {
    fn parse(self, problems: &mut Problems) -> Option<HealthCheck> {
        let (kind, body) = match (self.http, self.tcp, self.grpc) {
            (Some(body), None, None) => ("http", body),
            (None, Some(body), None) => ("tcp", body),
            (None, None, Some(_)) => {
                problems.add("healthCheck.grpc", "is not supported yet: use http or tcp");
                return None;
            }
            _ => {
                problems.add("healthCheck", "must hold exactly one of http and tcp");
                return None;
            }
        };
        let probe = match (kind, body.path) {
            ("http", Some(path)) => {
                let whole = path.starts_with('/')
                    && path.len() <= MAX_VALUE_BYTES
                    && path.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
                if !whole {
                    problems.add(
                        "healthCheck.http.path",
                        format_args!(
                            "must begin with / and be at most {MAX_VALUE_BYTES} printable ASCII characters"
                        ),
                    );
                }
                Probe::Http { path: SmolStr::new(path) }
            }
            ("http", None) => Probe::Http { path: SmolStr::new_static("/") },
            (_, Some(_)) => {
                problems.add("healthCheck.tcp.path", "has no meaning for a TCP check");
                Probe::Tcp
            }
            (_, None) => Probe::Tcp,
        };
        let field = |name: &str| format!("healthCheck.{kind}.{name}");
        let interval_seconds = problems.number(&field("intervalSeconds"), body.interval_seconds, 5, 1..=300);
        let timeout_seconds = problems.number(&field("timeoutSeconds"), body.timeout_seconds, 3, 1..=60);
        let unhealthy_after = problems.number(&field("unhealthyAfter"), body.unhealthy_after, 3, 1..=100);
        let healthy_after = problems.number(&field("healthyAfter"), body.healthy_after, 2, 1..=100);
        Some(HealthCheck { probe, interval_seconds, timeout_seconds, unhealthy_after, healthy_after })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str) -> Result<Registration, Vec<String>> {
        let body: RegistrationBody = serde_json::from_str(body).map_err(|e| vec![e.to_string()])?;
        body.parse().map_err(|errors| errors.into_iter().map(|e| e.field).collect())
    }

    #[test]
    fn the_defaults_are_those_of_the_contract() {
        let plain = check(r#"{"host":"10.0.0.1","port":80,"zone":"z-a"}"#).unwrap();
        assert_eq!((plain.weight, plain.lease_ttl_seconds, plain.heartbeat_seconds()), (100, 30, 10));
        assert_eq!(plain.status, Declared::Healthy);
        let checked = check(r#"{"host":"h","port":80,"zone":"z-a","healthEndpoint":"/ready"}"#).unwrap();
        assert_eq!(checked.status, Declared::Starting);
        let hc = checked.health_check.unwrap();
        assert_eq!(
            (hc.interval_seconds, hc.timeout_seconds, hc.unhealthy_after, hc.healthy_after),
            (5, 3, 3, 2)
        );
    }

    #[test]
    fn bad_fields_are_refused_by_name() {
        for (fields, wrong) in [
            (r#""port":0"#, "port"),
            (r#""port":65536"#, "port"),
            (r#""port":-1"#, "port"),
            (r#""port":80,"weight":0"#, "weight"),
            (r#""port":80,"weight":-1"#, "weight"),
            (r#""port":80,"weight":2147483648"#, "weight"),
            (r#""port":80,"leaseTtlSeconds":0"#, "leaseTtlSeconds"),
            (r#""port":80,"renewBy":"check""#, "renewBy"),
            (r#""port":80,"healthEndpoint":"http://evil/""#, "healthCheck.http.path"),
            (r#""port":80,"tags":[""]"#, "tags"),
            (r#""port":80,"version":"a\u0000b""#, "version"),
            (r#""port":80,"metadata":{"":"v"}"#, "metadata"),
            (r#""port":80,"healthCheck":{}"#, "healthCheck"),
        ] {
            let errors = check(&format!(r#"{{"host":"h","zone":"z",{fields}}}"#)).unwrap_err();
            assert_eq!(errors, [wrong], "{fields}");
        }
    }

    #[test]
    fn every_mistake_is_reported_at_once() {
        let errors = check(r#"{"host":"http://x","port":0,"zone":"Z","weight":0}"#).unwrap_err();
        assert_eq!(errors, ["host", "port", "zone", "weight"]);
    }

    #[test]
    fn unknown_fields_and_wrong_types_are_refused_by_name() {
        for (body, needle) in [
            (r#"{"host":"h","port":80,"zone":"z","wieght":1}"#, "wieght"),
            (r#"{"host":"h","port":"80","zone":"z"}"#, "invalid type"),
            (r#"{"host":"h","port":80,"zone":"z","status":"gone"}"#, "gone"),
        ] {
            let errors = check(body).unwrap_err();
            assert!(errors[0].contains(needle), "{errors:?}");
        }
    }

    #[test]
    fn hosts_are_addresses_or_names() {
        for good in ["10.0.0.1", "::1", "[2001:db8::1]", "orders-1.internal", "localhost", "a_b.c"] {
            assert!(Host::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "0.0.0.0",
            "a b",
            "http://h",
            "h:80",
            "10.1",
            "127.1",
            "-a",
            "a..b",
            "224.0.0.1",
            "é.com",
            "a/b",
        ] {
            assert!(Host::parse(bad).is_err(), "{bad}");
        }
    }
}
