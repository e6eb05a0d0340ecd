//! Where records stand: a key per kind, with one injective text form that both registries use.

use meridian_model::binding::NAMESPACE_DEFAULT;
use meridian_model::instance::InstanceKey;
use meridian_model::names::{
    GatewayId, Namespace, PolicyName, PolicyVersion, RegionName, ServiceKey, ServiceName, ZoneName,
};
use meridian_model::time::UnixMillis;

/// Stands for all zones of a region. No zone can be called so: names begin with a letter or a digit.
const WHOLE_REGION: &str = "_region";

/// Stands for all versions of all policies. No version is written so: they are hashes.
const ALL_VERSIONS: &str = "_all";

/// The place of a record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// The name of the region that the registry belongs to.
    Region,
    /// The registry's life.
    Incarnation,
    /// An instance.
    Instance(InstanceKey),
    /// The binding of a service, or of a namespace where none is named.
    Binding(Namespace, Option<ServiceName>),
    /// The manifest of an uploaded version.
    Policy(PolicyName, PolicyVersion),
    /// Operators disabled a version, or all where none is named.
    Disabled(Option<PolicyVersion>),
    /// Operators want a region spared, or one of its zones.
    Drain(RegionName, Option<ZoneName>),
    /// What a service's instances carry together, as they report it.
    Load(ServiceKey),
    /// A live gateway; ephemeral.
    Member(GatewayId),
    /// The newest batch of heartbeats that a gateway took; ephemeral.
    Beats(GatewayId),
    /// One entry of the history: when, and a random number that tells entries of one millisecond apart.
    History(UnixMillis, u32),
}

impl Key {
    /// Whether [`crate::Registry::watch`] reports it. The history is only read.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        !matches!(self, Self::History(..))
    }

    /// The key as a path without leading slash. No part can contain a slash, so different keys have different paths;
    /// history keys sort by time.
    #[must_use]
    pub fn encode(&self) -> String {
        match self {
            Self::Region => "state/region".into(),
            Self::Incarnation => "state/incarnation".into(),
            Self::Instance(InstanceKey { service, id }) => {
                format!("state/instances/{}/{}/{}", service.namespace, service.service, id)
            }
            Self::Binding(namespace, Some(service)) => format!("state/bindings/{namespace}/{service}"),
            Self::Binding(namespace, None) => format!("state/bindings/{namespace}/{NAMESPACE_DEFAULT}"),
            Self::Policy(name, version) => format!("state/policies/{name}/{}", version.hex()),
            Self::Disabled(Some(version)) => format!("state/disabled/{}", version.hex()),
            Self::Disabled(None) => format!("state/disabled/{ALL_VERSIONS}"),
            Self::Drain(region, Some(zone)) => format!("state/drains/{region}/{zone}"),
            Self::Drain(region, None) => format!("state/drains/{region}/{WHOLE_REGION}"),
            Self::Load(service) => format!("state/loads/{}/{}", service.namespace, service.service),
            Self::Member(id) => format!("state/members/{id}"),
            Self::Beats(id) => format!("state/beats/{id}"),
            Self::History(at, random) => format!("history/{:020}-{random:08x}", at.0),
        }
    }

    /// The key with this path; `None` for paths that this version does not know (a newer version's, or foreign ones).
    #[must_use]
    pub fn decode(path: &str) -> Option<Self> {
        let mut parts = path.split('/');
        let key = match (parts.next()?, parts.next()?) {
            ("state", "region") => Self::Region,
            ("state", "incarnation") => Self::Incarnation,
            ("state", "instances") => {
                let namespace = parts.next()?.parse().ok()?;
                let service = parts.next()?.parse().ok()?;
                let id = parts.next()?.parse().ok()?;
                Self::Instance(InstanceKey { service: ServiceKey::new(namespace, service), id })
            }
            ("state", "bindings") => {
                let namespace = parts.next()?.parse().ok()?;
                match parts.next()? {
                    NAMESPACE_DEFAULT => Self::Binding(namespace, None),
                    service => Self::Binding(namespace, Some(service.parse().ok()?)),
                }
            }
            ("state", "policies") => {
                let name = parts.next()?.parse().ok()?;
                Self::Policy(name, format!("sha256:{}", parts.next()?).parse().ok()?)
            }
            ("state", "disabled") => match parts.next()? {
                ALL_VERSIONS => Self::Disabled(None),
                version => Self::Disabled(Some(format!("sha256:{version}").parse().ok()?)),
            },
            ("state", "drains") => {
                let region = parts.next()?.parse().ok()?;
                match parts.next()? {
                    WHOLE_REGION => Self::Drain(region, None),
                    zone => Self::Drain(region, Some(zone.parse().ok()?)),
                }
            }
            ("state", "loads") => {
                Self::Load(ServiceKey::new(parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
            }
            ("state", "members") => Self::Member(parts.next()?.parse().ok()?),
            ("state", "beats") => Self::Beats(parts.next()?.parse().ok()?),
            ("history", entry) => {
                let (at, random) = entry.split_once('-')?;
                // Rust's parsers take a sign and both cases of hex; only the form that `encode` writes is a key.
                let canonical = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
                if at.len() != 20 || random.len() != 8 || !entry.bytes().all(|b| canonical(b) || b == b'-') {
                    return None;
                }
                Self::History(UnixMillis(at.parse().ok()?), u32::from_str_radix(random, 16).ok()?)
            }
            _ => return None,
        };
        parts.next().is_none().then_some(key)
    }
}
