//! The bytes of a saved state: a header, the records, and a checksum over both. Little-endian.
//!
//! ```text
//! magic [8]  format u32
//! incarnation counter u64, random u32  revision u64  saved at u64 (Unix ms)  confirms u64
//! region: length u8, text  records: count u64
//! each record: path length u16, path  modified u64  value length u32, value
//! XXH3-64 of all that stands before it, u64
//! ```
//!
//! After the registry's records come the services that are still known without any, as records of no value: their path is
//! `emptied/` and the service, `modified` is since when (Unix ms). A version that does not know them leaves them out.

use super::Refusal;
use crate::image::Image;
use bytes::Bytes;
use meridian_model::names::{RegionName, ServiceKey};
use meridian_model::time::UnixMillis;
use meridian_registry::{Incarnation, Key, Revision, Stored};
use std::io::{self, Write};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// Before the path of a service that has nothing any more. No key of a registry begins so.
const EMPTIED: &str = "emptied/";

const MAGIC: [u8; 8] = *b"MERIDIAN";
/// Of the layout above. A file with another one was written by another version of the program.
const FORMAT: u32 = 1;
const CHECKSUM_BYTES: usize = 8;
/// Of a record with an empty path and an empty value: bounds what a count can make us reserve.
const LEAST_RECORD_BYTES: usize = 2 + 8 + 4;
/// Written at once: large enough that system calls do not count, small enough to stay in the cache while it is hashed.
const BLOCK_BYTES: usize = 256 * 1024;

/// Largest file that is written or read. etcd's default for a whole database is 2 GiB, of which a region's state is a
/// part.
pub(super) const MAX_BYTES: u64 = 2 * 1024 * 1024 * 1024;

/// What a file says.
#[derive(Debug, PartialEq)]
pub(super) struct Contents {
    pub(super) image: Image,
    /// The checksum of the state that this file confirms; 0 in a state itself.
    pub(super) confirms: u64,
    /// This file's own.
    pub(super) checksum: u64,
}

/// What was written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    pub(super) bytes: u64,
    pub(super) checksum: u64,
}

/// Writes `image` in blocks, so that a large state does not stand in memory twice.
pub(super) fn encode(
    out: &mut impl Write,
    region: &RegionName,
    image: &Image,
    confirms: u64,
) -> io::Result<Written> {
    let mut hash = Xxh3::new();
    let mut bytes = 0_u64;
    let mut block = Vec::with_capacity(BLOCK_BYTES * 2);
    let mut flush = |block: &mut Vec<u8>, hash: &mut Xxh3| {
        hash.update(block);
        out.write_all(block)?;
        bytes += block.len() as u64;
        block.clear();
        if bytes > MAX_BYTES { Err(too_large("state")) } else { Ok(()) }
    };
    block.extend_from_slice(&MAGIC);
    block.extend_from_slice(&FORMAT.to_le_bytes());
    block.extend_from_slice(&image.incarnation.counter.to_le_bytes());
    block.extend_from_slice(&image.incarnation.random.to_le_bytes());
    block.extend_from_slice(&image.revision.0.to_le_bytes());
    block.extend_from_slice(&image.saved_at.0.to_le_bytes());
    block.extend_from_slice(&confirms.to_le_bytes());
    let region = region.as_str();
    block.push(u8::try_from(region.len()).map_err(|_| too_large("region's name"))?);
    block.extend_from_slice(region.as_bytes());
    let count = image.records.len().saturating_add(image.emptied.len());
    block.extend_from_slice(&(count as u64).to_le_bytes());
    let records = image.records.iter().map(|r| (r.key.encode(), r.modified.0, &*r.value));
    let emptied =
        image.emptied.iter().map(|(key, since)| (format!("{EMPTIED}{key}"), since.0, [].as_slice()));
    for (path, modified, value) in records.chain(emptied) {
        block.extend_from_slice(&u16::try_from(path.len()).map_err(|_| too_large("key"))?.to_le_bytes());
        block.extend_from_slice(path.as_bytes());
        block.extend_from_slice(&modified.to_le_bytes());
        block.extend_from_slice(&u32::try_from(value.len()).map_err(|_| too_large("record"))?.to_le_bytes());
        block.extend_from_slice(value);
        if block.len() >= BLOCK_BYTES {
            flush(&mut block, &mut hash)?;
        }
    }
    flush(&mut block, &mut hash)?;
    let checksum = hash.digest();
    out.write_all(&checksum.to_le_bytes())?;
    Ok(Written { bytes: bytes + CHECKSUM_BYTES as u64, checksum })
}

fn too_large(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, format!("a {what} is too large to be saved"))
}

/// Reads what [`encode`] wrote for `region`. Values share the memory of `file`. Records whose keys this version does not
/// know are left out: a newer version of the program may have saved them.
pub(super) fn decode(file: &Bytes, region: &RegionName) -> Result<Contents, Refusal> {
    let Some((body, checksum)) = file.split_last_chunk::<CHECKSUM_BYTES>() else {
        return Err(Refusal::NoState);
    };
    let mut reader = Reader { body, at: 0 };
    if reader.array() != Some(MAGIC) {
        return Err(Refusal::NoState);
    }
    let format = reader.u32().ok_or(Refusal::NoState)?;
    if format != FORMAT {
        return Err(Refusal::OtherFormat(format));
    }
    let checksum = u64::from_le_bytes(*checksum);
    if xxh3_64(body) != checksum {
        return Err(Refusal::Damaged("its checksum does not fit"));
    }
    reader.contents(file, region, checksum)
}

fn service_of(path: &str) -> Option<ServiceKey> {
    let (namespace, service) = path.split_once('/')?;
    Some(ServiceKey::new(namespace.parse().ok()?, service.parse().ok()?))
}

struct Reader<'a> {
    body: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(length)?;
        let taken = self.body.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn left(&self) -> usize {
        self.body.len().saturating_sub(self.at)
    }

    fn contents(&mut self, file: &Bytes, region: &RegionName, checksum: u64) -> Result<Contents, Refusal> {
        const SHORT: Refusal = Refusal::Damaged("it ends too early");
        let incarnation = Incarnation { counter: self.u64().ok_or(SHORT)?, random: self.u32().ok_or(SHORT)? };
        let revision = Revision(self.u64().ok_or(SHORT)?);
        let saved_at = UnixMillis(self.u64().ok_or(SHORT)?);
        let confirms = self.u64().ok_or(SHORT)?;
        let [length] = self.array().ok_or(SHORT)?;
        let found = self.take(usize::from(length)).ok_or(SHORT)?;
        if found != region.as_str().as_bytes() {
            let found = std::str::from_utf8(found).ok().and_then(|text| text.parse().ok());
            let found = found.ok_or(Refusal::Damaged("its region is no name"))?;
            return Err(Refusal::OtherRegion { found, wanted: region.clone() });
        }
        let count = self.u64().ok_or(SHORT)?;
        let most = self.left() / LEAST_RECORD_BYTES;
        let count = usize::try_from(count).ok().filter(|count| *count <= most).ok_or(SHORT)?;
        let (mut records, mut emptied) = (Vec::with_capacity(count), Vec::new());
        for _ in 0..count {
            let length = self.array().map(u16::from_le_bytes).ok_or(SHORT)?;
            let path = self.take(usize::from(length)).ok_or(SHORT)?;
            let modified = Revision(self.u64().ok_or(SHORT)?);
            let length = self.u32().and_then(|n| usize::try_from(n).ok()).ok_or(SHORT)?;
            let value = self.take(length).ok_or(SHORT)?;
            let path = std::str::from_utf8(path).map_err(|_| Refusal::Damaged("a key is no text"))?;
            if let Some(key) = Key::decode(path) {
                records.push(Stored { key, value: file.slice_ref(value), modified });
            } else if let Some(key) = path.strip_prefix(EMPTIED).and_then(service_of) {
                emptied.push((key, UnixMillis(modified.0)));
            }
        }
        if self.left() != 0 {
            return Err(Refusal::Damaged("something follows its last record"));
        }
        let image = Image { incarnation, revision, saved_at, records, emptied };
        Ok(Contents { image, confirms, checksum })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn region() -> RegionName {
        "eu-central-1".parse().unwrap()
    }

    fn image() -> Image {
        let paths = [
            "state/instances/default/orders/pod-1",
            "state/instances/prod/a/x",
            "state/bindings/prod/_default",
            "state/bindings/prod/orders",
            "state/policies/canary/e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        ];
        let records = paths.iter().zip(1_u64..).map(|(path, n)| Stored {
            key: Key::decode(path).unwrap(),
            value: Bytes::from(vec![b'v'; usize::try_from(n * 7 - 7).unwrap()]),
            modified: Revision(n),
        });
        Image {
            incarnation: Incarnation { counter: 3, random: 0x9f2c_01aa },
            revision: Revision(77),
            saved_at: UnixMillis(1_790_000_000_000),
            records: records.collect(),
            emptied: vec![(service_of("prod/former").unwrap(), UnixMillis(1_789_999_000_000))],
        }
    }

    fn encoded(image: &Image) -> Vec<u8> {
        let mut bytes = Vec::new();
        let written = encode(&mut bytes, &region(), image, 5).unwrap();
        assert_eq!(written.bytes, bytes.len() as u64);
        bytes
    }

    /// The same bytes with a checksum that fits, as nobody but an attacker or a faulty writer makes them.
    fn signed(mut body: Vec<u8>) -> Bytes {
        let checksum = xxh3_64(&body);
        body.extend_from_slice(&checksum.to_le_bytes());
        body.into()
    }

    #[test]
    fn what_is_written_is_read() {
        let image = image();
        let read = decode(&encoded(&image).into(), &region()).unwrap();
        assert_eq!(read.image, image);
        assert_eq!(read.confirms, 5);
    }

    #[test]
    fn every_truncation_is_refused() {
        let whole = encoded(&image());
        let body = &whole[..whole.len() - CHECKSUM_BYTES];
        for length in 0..whole.len() {
            assert!(decode(&Bytes::copy_from_slice(&whole[..length]), &region()).is_err(), "{length} bytes");
        }
        for length in 0..body.len() {
            assert!(decode(&signed(body[..length].to_vec()), &region()).is_err(), "{length} bytes, signed");
        }
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let whole = encoded(&image());
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&flipped.into(), &region()).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_refusal_names_its_reason() {
        let whole = encoded(&image());
        let other: RegionName = "us-east-1".parse().unwrap();
        let refusal = decode(&whole.clone().into(), &other).unwrap_err();
        assert_eq!(refusal, Refusal::OtherRegion { found: region(), wanted: other });
        assert_eq!(decode(&Bytes::from_static(b"#!/bin/sh\nexit 0\n"), &region()), Err(Refusal::NoState));
        let mut newer = whole;
        newer[8] = 2;
        assert_eq!(decode(&newer.into(), &region()), Err(Refusal::OtherFormat(2)));
    }

    #[test]
    fn a_count_reserves_no_more_than_the_file_can_hold() {
        let mut empty = image();
        empty.records.clear();
        empty.emptied.clear();
        let mut body = encoded(&empty);
        body.truncate(body.len() - CHECKSUM_BYTES - 8);
        body.extend_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(decode(&signed(body), &region()), Err(Refusal::Damaged("it ends too early")));
    }

    #[test]
    fn records_of_a_newer_version_are_left_out() {
        let whole = encoded(&image());
        let at = whole.windows(15).position(|w| w == b"state/instances").unwrap();
        let mut body = whole[..whole.len() - CHECKSUM_BYTES].to_vec();
        body[at..at + 15].copy_from_slice(b"state/inventory");
        let read = decode(&signed(body), &region()).unwrap();
        assert_eq!(read.image.records, image().records[1..]);
    }

    /// A gateway must start from what the one before it left, and go back to it.
    #[test]
    fn a_state_without_emptied_services_is_the_one_of_before() {
        let (with, mut without) = (image(), image());
        without.emptied.clear();
        let former = encoded(&without);
        assert_eq!(decode(&former.clone().into(), &region()).unwrap().image, without);
        // What an older version does with the records that it does not know: it leaves them out.
        assert!(Key::decode("emptied/prod/former").is_none());
        let added = encoded(&with).len() - former.len();
        assert_eq!(added, LEAST_RECORD_BYTES + "emptied/prod/former".len());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_no_harm(bytes: Vec<u8>, signed_too: bool) {
            let mut body = MAGIC.to_vec();
            body.extend_from_slice(&FORMAT.to_le_bytes());
            body.extend_from_slice(&bytes);
            let _ = decode(&if signed_too { signed(body) } else { bytes.into() }, &region());
        }

        #[test]
        fn overwritten_bytes_do_no_harm(at: prop::sample::Index, with: [u8; 8]) {
            let mut body = encoded(&image());
            body.truncate(body.len() - CHECKSUM_BYTES);
            let start = at.index(body.len());
            for (byte, new) in body[start..].iter_mut().zip(with) {
                *byte = new;
            }
            let _ = decode(&signed(body), &region());
        }

        #[test]
        fn any_image_survives(
            counter: u64, random: u32, revision: u64, saved_at: u64,
            values in prop::collection::vec((0_u64..1000, prop::collection::vec(any::<u8>(), 0..2000)), 0..300),
        ) {
            let records = values.into_iter().map(|(n, value)| Stored {
                key: Key::decode(&format!("state/instances/default/s{n}/i")).unwrap(),
                value: value.into(),
                modified: Revision(n),
            });
            let image = Image {
                incarnation: Incarnation { counter, random },
                revision: Revision(revision),
                saved_at: UnixMillis(saved_at),
                records: records.collect(),
                emptied: Vec::new(),
            };
            prop_assert_eq!(decode(&encoded(&image).into(), &region()).unwrap().image, image);
        }
    }
}
