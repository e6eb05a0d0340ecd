//! What is kept on disk of all origins. The driver puts a checksum around it and writes it whole; signatures and roots
//! are checked again when it is read.

use super::head::{Head, Root, SignedHead, Version};
use super::limits;
use super::message::{Record, RecordKey};
use super::state::State;
use bytes::{Buf, Bytes};
use meridian_model::incarnation::Incarnation;
use meridian_model::names::ServiceKey;
use std::io::{self, Write};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// Stands at the beginning; the last byte is the layout's version.
const MAGIC: &[u8; 8] = b"meridfe\x03";
/// The layout before, without round trips: what an older version of the program left is read.
const MAGIC_2: &[u8; 8] = b"meridfe\x02";

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
    /// The last that was measured.
    pub(super) round_trip: Option<Duration>,
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

    /// Lays it out piece by piece, so that no copy of all of it is made. The driver puts a checksum around it.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(MAGIC)?;
        out.write_all(&[self.own.is_some().into()])?;
        if let Some(head) = &self.own {
            put_head(out, head)?;
        }
        put_len(out, self.origins.len())?;
        for saved in &self.origins {
            put_head(out, &saved.head)?;
            // The greatest number stands for what is unknown.
            let age = saved.age.and_then(|age| u64::try_from(age.as_millis()).ok()).unwrap_or(u64::MAX);
            out.write_all(&age.to_be_bytes())?;
            out.write_all(&[saved.doubted.into()])?;
            let millis = saved.round_trip.and_then(|trip| u32::try_from(trip.as_millis()).ok());
            out.write_all(&millis.unwrap_or(u32::MAX).to_be_bytes())?;
            put_len(out, saved.state.len())?;
            for (key, bytes) in saved.state.iter() {
                match key {
                    RecordKey::Region => put_bytes(out, b"")?,
                    RecordKey::Service(key) => {
                        put_bytes(out, key.namespace.as_str().as_bytes())?;
                        put_bytes(out, key.service.as_str().as_bytes())?;
                    }
                }
                put_bytes(out, bytes)?;
            }
        }
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        self.write_to(&mut out).expect("memory takes everything");
        out.into()
    }

    /// From bytes, which are copied.
    ///
    /// # Errors
    /// If they are not those of an image.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadImage> {
        let mut input = bytes;
        let measured = match input.split_off(..MAGIC.len()) {
            Some(begin) if begin == MAGIC => true,
            Some(begin) if begin == MAGIC_2 => false,
            _ => return Err(BadImage("it begins otherwise")),
        };
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
            let round_trip = match measured {
                true => Some(input.try_get_u32().map_err(|_| SHORT)?).filter(|millis| *millis < u32::MAX),
                false => None,
            };
            let round_trip = round_trip.map(|millis| Duration::from_millis(millis.into()));
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
            origins.push(Saved { head, state, age: age.map(Duration::from_millis), doubted, round_trip });
        }
        match input.is_empty() {
            true => Ok(Self { own, origins }),
            false => Err(BadImage("it goes on after its end")),
        }
    }
}

fn put_len(out: &mut impl Write, len: usize) -> io::Result<()> {
    // All lengths here have limits far below.
    out.write_all(&u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes())
}

fn put_bytes(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    put_len(out, bytes.len())?;
    out.write_all(bytes)
}

fn put_head(out: &mut impl Write, signed: &SignedHead) -> io::Result<()> {
    let head = &signed.head;
    put_bytes(out, head.origin.as_str().as_bytes())?;
    put_bytes(out, head.node.as_str().as_bytes())?;
    out.write_all(&head.version.incarnation.counter.to_be_bytes())?;
    out.write_all(&head.version.incarnation.random.to_be_bytes())?;
    out.write_all(&head.version.index.to_be_bytes())?;
    out.write_all(&head.version.root.0)?;
    out.write_all(&head.records.to_be_bytes())?;
    put_bytes(out, &signed.credential)?;
    put_bytes(out, &signed.signature)
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
