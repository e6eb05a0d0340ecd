//! Records as bytes: JSON, so that an operator can read them with etcdctl, except heartbeats, which are many.

use crate::{Key, RegistryError};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use meridian_model::binding::{Binding, Manifest};
use meridian_model::disabled::Disabled;
use meridian_model::instance::{Instance, LeaseId};
use meridian_model::load::{Beat, ServiceLoad};
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
    /// A policy, or all of them, must not run.
    Disabled(Box<Disabled>),
    /// The drain of a region or a zone.
    Drain(Box<Drain>),
    /// A live gateway.
    Member(Member),
    /// What a service carries.
    Load(ServiceLoad),
    /// Heartbeats: the leases that were renewed.
    Beats(Vec<Beat>),
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
        Key::Disabled(_) => Record::Disabled(Box::new(json(key, value)?)),
        Key::Drain(..) => Record::Drain(Box::new(json(key, value)?)),
        Key::Load(_) => Record::Load(json(key, value)?),
        Key::Member(_) => Record::Member(json(key, value)?),
        Key::Beats(_) => Record::Beats(decode_beats(value)?),
        Key::Region | Key::Incarnation | Key::History(..) => return Ok(None),
    }))
}

/// Formats of a batch, its first byte.
const BEATS: u8 = 1;
const BEATS_WITH_LOAD: u8 = 2;
/// Stands for "said nothing".
const NO_LOAD: u32 = u32::MAX;

/// A batch of heartbeats: a byte for the format, then 8 bytes big-endian for each lease (1), or, where any of them reports
/// a load, 12 bytes, with the load behind its lease (2). 10,000 beats are 80 or 120 KB.
#[must_use]
pub fn encode_beats(beats: &[Beat]) -> Bytes {
    let loads = beats.iter().any(|beat| beat.load.is_some());
    let mut bytes = BytesMut::with_capacity(1 + beats.len() * if loads { 12 } else { 8 });
    bytes.put_u8(if loads { BEATS_WITH_LOAD } else { BEATS });
    for Beat { lease, load } in beats {
        bytes.put_u64(lease.0);
        if loads {
            bytes.put_u32(load.map_or(NO_LOAD, |load| load.min(NO_LOAD - 1)));
        }
    }
    bytes.freeze()
}

fn decode_beats(value: &[u8]) -> Result<Vec<Beat>, String> {
    match value.split_first() {
        Some((&BEATS, leases)) if leases.len() % 8 == 0 => {
            Ok(leases.as_chunks::<8>().0.iter().map(|l| LeaseId(u64::from_be_bytes(*l)).into()).collect())
        }
        Some((&BEATS_WITH_LOAD, mut beats)) if beats.len() % 12 == 0 => {
            let mut all = Vec::with_capacity(beats.len() / 12);
            while beats.has_remaining() {
                let (lease, load) = (LeaseId(beats.get_u64()), beats.get_u32());
                all.push(Beat { lease, load: (load != NO_LOAD).then_some(load) });
            }
            Ok(all)
        }
        _ => Err("a batch of heartbeats is in no known format".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beats_survive_the_trip() {
        let leases: Vec<Beat> = (0..100).map(|n| LeaseId(n * 7919).into()).collect();
        let loaded: Vec<Beat> = leases
            .iter()
            .zip(0u32..)
            .map(|(beat, n)| Beat { load: (n % 3 > 0).then_some(n), ..*beat })
            .collect();
        for beats in [leases, loaded] {
            assert_eq!(decode_beats(&encode_beats(&beats)), Ok(beats));
        }
        for foreign in [&b""[..], &[1, 2, 3], &[9], &[2, 0, 0, 0, 0, 0, 0, 0, 0]] {
            assert!(decode_beats(foreign).is_err(), "{foreign:?}");
        }
    }
}
