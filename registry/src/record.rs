//! Records as bytes: JSON, so that an operator can read them with etcdctl, except heartbeats, which are many.

use crate::{Key, RegistryError};
use bytes::{BufMut, Bytes, BytesMut};
use meridian_model::binding::{Binding, Manifest};
use meridian_model::instance::{Instance, LeaseId};
use meridian_model::neighbours::Drain;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// What a gateway says of itself to the other members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// Where its HTTP API listens, for people.
    pub http: String,
    /// The version of the program.
    pub version: String,
}

/// A decoded record of the kinds that a gateway keeps.
#[derive(Clone, Debug)]
pub enum Record {
    /// An instance.
    Instance(Box<Instance>),
    /// A binding.
    Binding(Box<Binding>),
    /// A policy's manifest.
    Policy(Box<Manifest>),
    /// The drain of a region or a zone.
    Drain(Box<Drain>),
    /// A live gateway.
    Member(Member),
    /// Heartbeats: the leases that were renewed.
    Beats(Vec<LeaseId>),
}

/// A record as JSON.
///
/// # Errors
/// Only if the value has a map with keys that are no strings, which no record has.
pub fn encode<T: Serialize>(record: &T) -> Result<Bytes, RegistryError> {
    serde_json::to_vec(record)
        .map(Bytes::from)
        .map_err(|e| RegistryError::Refused(format!("cannot encode: {e}")))
}

/// The record that stands at `key`; `None` for keys that carry none of these.
///
/// # Errors
/// A sentence for the log: the record is foreign or damaged. Readers keep what they had.
pub fn decode(key: &Key, value: &[u8]) -> Result<Option<Record>, String> {
    fn json<T: DeserializeOwned>(key: &Key, value: &[u8]) -> Result<T, String> {
        serde_json::from_slice(value).map_err(|e| format!("record at {} is unreadable: {e}", key.encode()))
    }
    Ok(Some(match key {
        Key::Instance(_) => Record::Instance(Box::new(json(key, value)?)),
        Key::Binding(..) => Record::Binding(Box::new(json(key, value)?)),
        Key::Policy(..) => Record::Policy(Box::new(json(key, value)?)),
        Key::Drain(..) => Record::Drain(Box::new(json(key, value)?)),
        Key::Member(_) => Record::Member(json(key, value)?),
        Key::Beats(_) => Record::Beats(decode_beats(value)?),
        Key::Region | Key::Incarnation | Key::History(..) => return Ok(None),
    }))
}

/// A batch of heartbeats: a byte for the format (1), then 8 bytes big-endian for each lease. 10,000 beats are 80 KB.
#[must_use]
pub fn encode_beats(leases: &[LeaseId]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(1 + leases.len() * 8);
    bytes.put_u8(1);
    for lease in leases {
        bytes.put_u64(lease.0);
    }
    bytes.freeze()
}

fn decode_beats(value: &[u8]) -> Result<Vec<LeaseId>, String> {
    match value.split_first() {
        Some((1, leases)) if leases.len() % 8 == 0 => {
            Ok(leases.as_chunks::<8>().0.iter().map(|chunk| LeaseId(u64::from_be_bytes(*chunk))).collect())
        }
        _ => Err("a batch of heartbeats is in no known format".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beats_survive_the_trip() {
        let leases: Vec<_> = (0..100).map(|n| LeaseId(n * 7919)).collect();
        assert_eq!(decode_beats(&encode_beats(&leases)), Ok(leases));
        assert!(decode_beats(b"").is_err());
        assert!(decode_beats(&[1, 2, 3]).is_err());
        assert!(decode_beats(&[9]).is_err());
    }
}
