//! What is kept on disk of all origins. The driver puts a checksum around it and writes it whole; signatures and roots
//! are checked again when it is read.

use super::head::{Head, Root, SignedHead, Version};
use super::limits;
use super::message::{Record, RecordKey};
use super::state::State;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use meridian_model::incarnation::Incarnation;
use meridian_model::names::ServiceKey;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// Stands at the beginning; the last byte is the layout's version.
const MAGIC: &[u8; 8] = b"meridfe\x02";

/// What is kept on disk of all origins.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// The latest head of the own region that is known; its records are in the registry.
    pub(super) own: Option<SignedHead>,
    pub(super) origins: Vec<Saved>,
}

#[derive(Clone, Debug)]
pub(super) struct Saved {
    pub(super) head: SignedHead,
    pub(super) state: Arc<State>,
    /// When the image was made.
    pub(super) age: Option<Duration>,
    /// Whether that was proven of an earlier life than this state's.
    pub(super) doubted: bool,
}

/// Why bytes are not an image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an image of the exchange: {0}")]
pub struct BadImage(pub &'static str);

const SHORT: BadImage = BadImage("it ends too early");

impl Image {
    /// Of how many regions besides the own one it holds a state.
    #[must_use]
    pub fn origins(&self) -> usize {
        self.origins.len()
    }

    /// As bytes. The driver puts a checksum around them.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let size = self.origins.iter().map(|saved| saved.state.size() + saved.state.len() * 16 + 4096).sum();
        let mut out = BytesMut::with_capacity(size);
        out.put_slice(MAGIC);
        out.put_u8(self.own.is_some().into());
        if let Some(head) = &self.own {
            put_head(&mut out, head);
        }
        put_len(&mut out, self.origins.len());
        for saved in &self.origins {
            put_head(&mut out, &saved.head);
            // The greatest number stands for an unknown age.
            out.put_u64(saved.age.and_then(|age| u64::try_from(age.as_millis()).ok()).unwrap_or(u64::MAX));
            out.put_u8(saved.doubted.into());
            put_len(&mut out, saved.state.len());
            for (key, bytes) in saved.state.iter() {
                match key {
                    RecordKey::Region => put_bytes(&mut out, b""),
                    RecordKey::Service(key) => {
                        put_bytes(&mut out, key.namespace.as_str().as_bytes());
                        put_bytes(&mut out, key.service.as_str().as_bytes());
                    }
                }
                put_bytes(&mut out, bytes);
            }
        }
        out.freeze()
    }

    /// From bytes, which are copied.
    ///
    /// # Errors
    /// If they are not those of an image.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadImage> {
        let mut input = bytes;
        if input.split_off(..MAGIC.len()) != Some(MAGIC) {
            return Err(BadImage("it begins otherwise"));
        }
        let own = match input.try_get_u8().map_err(|_| SHORT)? {
            0 => None,
            _ => Some(get_head(&mut input)?),
        };
        let count = get_len(&mut input, limits::ORIGINS)?;
        let mut origins = Vec::with_capacity(count);
        for _ in 0..count {
            let head = get_head(&mut input)?;
            let age = Some(input.try_get_u64().map_err(|_| SHORT)?).filter(|age| *age < u64::MAX);
            let doubted = input.try_get_u8().map_err(|_| SHORT)? != 0;
            let count = get_len(&mut input, limits::RECORDS)?;
            let mut records = Vec::with_capacity(count.min(input.len()));
            for _ in 0..count {
                let key = match get_bytes(&mut input, 63)? {
                    [] => RecordKey::Region,
                    namespace => {
                        let service = get_bytes(&mut input, 63)?;
                        RecordKey::Service(ServiceKey::new(name(namespace)?, name(service)?))
                    }
                };
                let bytes = Bytes::copy_from_slice(get_bytes(&mut input, limits::RECORD_BYTES)?);
                records.push(Record { key, bytes });
            }
            let state = Arc::new(State::from_records(records));
            origins.push(Saved { head, state, age: age.map(Duration::from_millis), doubted });
        }
        match input.is_empty() {
            true => Ok(Self { own, origins }),
            false => Err(BadImage("it goes on after its end")),
        }
    }
}

fn put_len(out: &mut BytesMut, len: usize) {
    // All lengths here have limits far below.
    out.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
}

fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    put_len(out, bytes.len());
    out.put_slice(bytes);
}

fn put_head(out: &mut BytesMut, signed: &SignedHead) {
    let head = &signed.head;
    put_bytes(out, head.origin.as_str().as_bytes());
    put_bytes(out, head.node.as_str().as_bytes());
    out.put_u64(head.version.incarnation.counter);
    out.put_u32(head.version.incarnation.random);
    out.put_u64(head.version.index);
    out.put_slice(&head.version.root.0);
    out.put_u32(head.records);
    put_bytes(out, &signed.credential);
    put_bytes(out, &signed.signature);
}

fn get_len(input: &mut &[u8], limit: usize) -> Result<usize, BadImage> {
    let len = usize::try_from(input.try_get_u32().map_err(|_| SHORT)?).unwrap_or(usize::MAX);
    if len > limit { Err(BadImage("something in it is too large")) } else { Ok(len) }
}

fn get_bytes<'a>(input: &mut &'a [u8], limit: usize) -> Result<&'a [u8], BadImage> {
    let len = get_len(input, limit)?;
    input.split_off(..len).ok_or(SHORT)
}

fn name<T: FromStr>(bytes: &[u8]) -> Result<T, BadImage> {
    let text = std::str::from_utf8(bytes).ok();
    text.and_then(|text| text.parse().ok()).ok_or(BadImage("a name in it is none"))
}

fn get_head(input: &mut &[u8]) -> Result<SignedHead, BadImage> {
    let origin = name(get_bytes(input, 63)?)?;
    let node = name(get_bytes(input, 128)?)?;
    let counter = input.try_get_u64().map_err(|_| SHORT)?;
    let random = input.try_get_u32().map_err(|_| SHORT)?;
    let index = input.try_get_u64().map_err(|_| SHORT)?;
    let mut root = [0; 32];
    input.try_copy_to_slice(&mut root).map_err(|_| SHORT)?;
    let records = input.try_get_u32().map_err(|_| SHORT)?;
    let version = Version { incarnation: Incarnation { counter, random }, index, root: Root(root) };
    let credential = Bytes::copy_from_slice(get_bytes(input, limits::CREDENTIAL_BYTES)?);
    let signature = Bytes::copy_from_slice(get_bytes(input, limits::SIGNATURE_BYTES)?);
    Ok(SignedHead { head: Head { origin, node, version, records }, credential, signature })
}
