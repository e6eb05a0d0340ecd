//! The history: who changed what, when, where and why, with before and after, written in the same transaction as the
//! change itself.

use crate::clock;
use crate::identity::Identity;
use meridian_model::names::GatewayId;
use meridian_model::time::UnixMillis;
use meridian_registry::{Change, Key, record};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Who did it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Actor {
    /// `workload`, `operator`, or `guardian` for what a gateway does by itself.
    pub role: String,
    /// The token's `iss`; empty for the guardian.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub issuer: String,
    /// The token's `sub`, or the gateway's id.
    pub subject: String,
}

impl Actor {
    /// The bearer of a token.
    #[must_use]
    pub fn bearer(identity: &Identity) -> Self {
        Self {
            role: identity.role().name().to_owned(),
            issuer: identity.issuer().to_owned(),
            subject: identity.subject().to_owned(),
        }
    }

    /// This gateway, as guardian.
    #[must_use]
    pub fn guardian(id: &GatewayId) -> Self {
        Self { role: "guardian".into(), issuer: String::new(), subject: id.to_string() }
    }
}

/// One change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// When, by the clock of the gateway that wrote it.
    pub at: UnixMillis,
    /// Who.
    pub actor: Actor,
    /// What: `register`, `replace`, `patch`, `deregister`, `expire`, `remove`, `check`, `bind`, `unbind`, `stage`, `promote`,
    /// `force-promote`, `rollback`, `soak`, `report`, `upload`, `delete`, `drain`, `undrain`.
    pub action: String,
    /// Of what: `ns/service/id`, `ns/service`, or a policy's name.
    pub target: String,
    /// Why, as the actor said or the guardian found.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Through which gateway.
    pub gateway: String,
    /// What stood there.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub before: Value,
    /// What stands there now.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub after: Value,
}

impl Entry {
    /// The change that writes this entry.
    ///
    /// An entry that cannot be encoded is left out rather than losing the write that it is about; its parts are strings
    /// and JSON, so that does not happen.
    #[must_use]
    pub fn change(&self) -> Option<Change> {
        let key = Key::History(self.at, clock::entropy() as u32);
        record::encode(self).ok().map(|value| Change::Put(key, value))
    }
}

/// A record as it stands in the history.
#[must_use]
pub fn value_of<T: Serialize>(record: Option<&T>) -> Value {
    record.and_then(|r| serde_json::to_value(r).ok()).unwrap_or_default()
}
