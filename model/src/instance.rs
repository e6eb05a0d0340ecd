//! One running copy of a service, as the registry stores it.

use crate::names::{InstanceId, RegionName, ServiceKey};
use crate::registration::Registration;
use crate::status::{self, CheckVerdict, LeaseState, Status};
use crate::time::UnixMillis;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// How long an expired instance still counts as unhealthy, so that a dying zone does not look whole again.
pub const EXPIRED_KEPT: Duration = Duration::from_secs(600);

/// The format of the record that this program writes. A reader keeps the fields that it does not know.
pub const RECORD_FORMAT: u32 = 1;

/// Who may change an instance.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Owner {
    /// The token's `iss`.
    pub issuer: SmolStr,
    /// The token's `sub`.
    pub subject: SmolStr,
}

/// Names one registration; a new one is drawn each time an instance registers. Written as 16 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for LeaseId {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let whole = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !whole {
            return Err("a lease id is 16 lower-case hex digits");
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| "a lease id is 16 lower-case hex digits")
    }
}

impl Serialize for LeaseId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for LeaseId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        SmolStr::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The promise that ends unless it is renewed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lease {
    /// Its id.
    pub id: LeaseId,
    /// The `exp` of the token that it was taken with: a lease renewed by heartbeat never outlives it by more than one TTL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_expires_at: Option<UnixMillis>,
    /// When the guardian ruled that it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expired_at: Option<UnixMillis>,
}

/// The record of an instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Instance {
    /// [`RECORD_FORMAT`] of the program that wrote it.
    pub format: u32,
    /// Its id.
    pub id: InstanceId,
    /// Who registered it.
    pub owner: Owner,
    /// What the owner says.
    pub declared: Registration,
    /// Its lease.
    pub lease: Lease,
    /// What the guardian's checks have established.
    #[serde(default)]
    pub check: CheckVerdict,
    /// The last failure's reason, for people.
    #[serde(default, skip_serializing_if = "SmolStr::is_empty")]
    pub check_detail: SmolStr,
    /// When it was first registered under this lease.
    pub registered_at: UnixMillis,
    /// When the record was last written.
    pub updated_at: UnixMillis,
    /// Why it drains or was changed, as the last writer said.
    #[serde(default, skip_serializing_if = "SmolStr::is_empty")]
    pub reason: SmolStr,
    /// Fields of newer formats, kept as they came.
    #[serde(flatten)]
    pub unknown: serde_json::Map<String, serde_json::Value>,
}

impl Instance {
    /// The status by the record alone.
    #[must_use]
    pub fn status(&self) -> Status {
        let lease = if self.lease.expired_at.is_some() { LeaseState::Expired } else { LeaseState::Alive };
        status::derive(self.declared.status, self.check, lease)
    }
}

/// An instance with the place where it stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceKey {
    /// Its service.
    pub service: ServiceKey,
    /// Its id there.
    pub id: InstanceId,
}

impl fmt::Display for InstanceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service, self.id)
    }
}

/// The bytes of one endpoint in an answer, rendered once when its snapshot is made.
///
/// The members are those of DESIGN 5: id, host, port, zone, region, version, weight, tags, metadata.
#[must_use]
pub fn render_endpoint(instance: &Instance, region: &RegionName) -> Box<[u8]> {
    #[derive(Serialize)]
    struct Rendered<'a> {
        id: &'a str,
        host: &'a str,
        port: u16,
        zone: &'a str,
        region: &'a str,
        version: &'a str,
        weight: u32,
        tags: &'a [SmolStr],
        metadata: &'a std::collections::BTreeMap<SmolStr, SmolStr>,
    }
    let declared = &instance.declared;
    let rendered = Rendered {
        id: instance.id.as_str(),
        host: declared.host.as_str(),
        port: declared.port,
        zone: declared.zone.as_str(),
        region: region.as_str(),
        version: &declared.version,
        weight: declared.weight,
        tags: &declared.tags,
        metadata: &declared.metadata,
    };
    // Strings and integers only: serialisation into memory has no way to fail.
    serde_json::to_vec(&rendered).unwrap_or_default().into_boxed_slice()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_keeps_what_it_does_not_know() {
        let text = r#"{"format":2,"id":"a","owner":{"issuer":"i","subject":"s"},
            "declared":{"host":"h","port":1,"zone":"z","weight":5,"status":"healthy","leaseTtlSeconds":30},
            "lease":{"id":"00000000000000ff"},"registeredAt":1,"updatedAt":2,"moodRing":{"colour":"blue"}}"#;
        let record: Instance = serde_json::from_str(text).unwrap();
        assert_eq!(record.lease.id, LeaseId(255));
        let back = serde_json::to_value(&record).unwrap();
        assert_eq!(back["moodRing"]["colour"], "blue");
        assert_eq!(back["format"], 2);
    }
}
