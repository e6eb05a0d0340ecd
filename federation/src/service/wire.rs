//! The messages of the exchange as they are laid out on a link, and back with every refusal named.

use crate::exchange::head::{Head, Root, SignedHead, Version};
use crate::exchange::limits;
use crate::exchange::message::{
    Ack, Basis, Beat, Claim, Have, Held, Message, Opening, Path, Ping, Record, RecordKey, Update, Want,
};
use crate::exchange::violation::Violation;
use bytes::Bytes;
use meridian_model::incarnation::Incarnation;
use meridian_model::names::ServiceKey;
use std::str::FromStr;

/// The generated types.
#[allow(missing_docs, unreachable_pub, clippy::all)] // generated, and described in the .proto
pub(super) mod proto {
    tonic::include_proto!("meridian.federation.v1");
}

/// What a message may take on the wire: what its contents may, and the tags and lengths around them (at most 16 bytes a
/// record, which [`limits::MESSAGE_BYTES`] counts with the keys).
pub(super) const WIRE_BYTES: usize = limits::MESSAGE_BYTES + (16 << 10);

/// Half of a bucket's digest, as [`Want`] has it.
const DIGEST_BYTES: usize = 16;

/// Lays a message out.
pub(super) fn encode(message: Message) -> proto::Message {
    use proto::message::Body;
    proto::Message {
        body: Some(match message {
            Message::Have(have) => {
                Body::Have(proto::Have { origins: have.origins.into_iter().map(encode_held).collect() })
            }
            Message::Offer(head) => Body::Offer(encode_signed(*head)),
            Message::Want(want) => Body::Want(proto::Want {
                origin: want.origin.to_string(),
                digests: want.digests.concat().into(),
            }),
            Message::Update(update) => Body::Update(encode_update(update)),
            Message::Ack(Ack { origin, transfer, part }) => {
                Body::Ack(proto::Ack { origin: origin.to_string(), transfer, part })
            }
            Message::Ping(Ping { nonce, own, yours }) => Body::Ping(proto::Ping {
                nonce,
                own: own.map(encode_version),
                yours: yours.map(encode_version),
            }),
            Message::Beat(beat) => Body::Beat(proto::Beat {
                nonce: beat.nonce,
                claims: beat.claims.into_iter().map(encode_claim).collect(),
            }),
        }),
    }
}

fn encode_version(version: Version) -> proto::Version {
    proto::Version {
        counter: version.incarnation.counter,
        random: version.incarnation.random,
        index: version.index,
        root: Bytes::copy_from_slice(&version.root.0),
    }
}

fn encode_signed(signed: SignedHead) -> proto::SignedHead {
    let SignedHead { head, credential, signature } = signed;
    proto::SignedHead {
        head: Some(proto::Head {
            origin: head.origin.to_string(),
            node: head.node.to_string(),
            version: Some(encode_version(head.version)),
            records: head.records,
        }),
        credential,
        signature,
    }
}

fn encode_held(held: Held) -> proto::Held {
    proto::Held {
        origin: held.origin.to_string(),
        version: held.version.map(encode_version),
        follow: held.follow,
    }
}

fn encode_key(key: &RecordKey) -> proto::RecordKey {
    match key {
        RecordKey::Region => proto::RecordKey::default(),
        RecordKey::Service(key) => {
            proto::RecordKey { namespace: key.namespace.to_string(), service: key.service.to_string() }
        }
    }
}

fn encode_update(update: Update) -> proto::Update {
    use proto::opening::Basis as Wire;
    proto::Update {
        origin: update.origin.to_string(),
        transfer: update.transfer,
        part: update.part,
        opening: update.opening.map(|opening| proto::Opening {
            head: Some(encode_signed(opening.head)),
            basis: Some(match opening.basis {
                Basis::Since(index) => Wire::Since(index),
                Basis::Buckets(buckets) => Wire::Buckets(buckets.into()),
            }),
        }),
        last: update.last,
        changed: update
            .changed
            .into_iter()
            .map(|record| proto::Record { key: Some(encode_key(&record.key)), bytes: record.bytes })
            .collect(),
        removed: update.removed.iter().map(encode_key).collect(),
    }
}

fn encode_claim(claim: Claim) -> proto::Claim {
    proto::Claim {
        origin: claim.origin.to_string(),
        version: Some(encode_version(claim.version)),
        age_ms: claim.age_ms,
        path: claim
            .path
            .map(|path| proto::Path { reachable: path.reachable, round_trip_ms: path.round_trip_ms }),
    }
}

/// Reads a message. None for one of a later version.
///
/// # Errors
/// The limit that it passes, or what is malformed in it.
pub(super) fn decode(message: proto::Message) -> Result<Option<Message>, Violation> {
    use proto::message::Body;
    let Some(body) = message.body else {
        return Ok(None);
    };
    let message = match body {
        Body::Have(have) => {
            at_most(have.origins.len(), limits::ORIGINS, Violation::TooManyOrigins)?;
            let origins = all(have.origins, decode_held)?;
            Message::Have(Have { origins })
        }
        Body::Offer(head) => Message::Offer(Box::new(decode_signed(head)?)),
        Body::Want(want) => {
            let (digests, rest) = want.digests.as_chunks::<DIGEST_BYTES>();
            if !rest.is_empty() {
                return Err(Violation::Malformed("a digest of a bucket has 16 bytes"));
            }
            Message::Want(Want { origin: name(&want.origin)?, digests: digests.to_vec() })
        }
        Body::Update(update) => Message::Update(decode_update(update)?),
        Body::Ack(proto::Ack { origin, transfer, part }) => {
            Message::Ack(Ack { origin: name(&origin)?, transfer, part })
        }
        Body::Ping(ping) => Message::Ping(Ping {
            nonce: ping.nonce,
            own: ping.own.map(decode_version).transpose()?,
            yours: ping.yours.map(decode_version).transpose()?,
        }),
        Body::Beat(beat) => {
            at_most(beat.claims.len(), limits::ORIGINS, Violation::TooManyOrigins)?;
            Message::Beat(Beat { nonce: beat.nonce, claims: all(beat.claims, decode_claim)? })
        }
    };
    Ok(Some(message))
}

fn at_most(n: usize, limit: usize, otherwise: Violation) -> Result<(), Violation> {
    if n > limit { Err(otherwise) } else { Ok(()) }
}

fn all<W, T>(wire: Vec<W>, decode: impl Fn(W) -> Result<T, Violation>) -> Result<Vec<T>, Violation> {
    wire.into_iter().map(decode).collect()
}

fn name<N: FromStr>(text: &str) -> Result<N, Violation> {
    text.parse().map_err(|_| Violation::Malformed("a name outside its grammar"))
}

fn present<T>(field: Option<T>) -> Result<T, Violation> {
    field.ok_or(Violation::Malformed("a field is missing"))
}

fn decode_version(version: proto::Version) -> Result<Version, Violation> {
    let root = version.root.as_ref().try_into();
    Ok(Version {
        incarnation: Incarnation { counter: version.counter, random: version.random },
        index: version.index,
        root: Root(root.map_err(|_| Violation::Malformed("a root has 32 bytes"))?),
    })
}

fn decode_signed(signed: proto::SignedHead) -> Result<SignedHead, Violation> {
    let proto::SignedHead { head, credential, signature } = signed;
    let head = present(head)?;
    let head = Head {
        origin: name(&head.origin)?,
        node: name(&head.node)?,
        version: decode_version(present(head.version)?)?,
        records: head.records,
    };
    // Copied: these outlive the message, which they would otherwise keep in memory whole.
    let kept = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
    Ok(SignedHead { head, credential: kept(&credential), signature: kept(&signature) })
}

fn decode_held(held: proto::Held) -> Result<Held, Violation> {
    Ok(Held {
        origin: name(&held.origin)?,
        version: held.version.map(decode_version).transpose()?,
        follow: held.follow,
    })
}

fn decode_key(key: proto::RecordKey) -> Result<RecordKey, Violation> {
    if key.namespace.is_empty() && key.service.is_empty() {
        return Ok(RecordKey::Region);
    }
    Ok(RecordKey::Service(ServiceKey { namespace: name(&key.namespace)?, service: name(&key.service)? }))
}

fn decode_update(update: proto::Update) -> Result<Update, Violation> {
    use proto::opening::Basis as Wire;
    let records = update.changed.len().saturating_add(update.removed.len());
    at_most(records, 2 * limits::RECORDS, Violation::TooManyRecords)?;
    let opening = match update.opening {
        None => None,
        Some(opening) => Some(Box::new(Opening {
            head: decode_signed(present(opening.head)?)?,
            basis: match present(opening.basis)? {
                Wire::Since(index) => Basis::Since(index),
                Wire::Buckets(buckets) => Basis::Buckets(buckets.to_vec()),
            },
        })),
    };
    let record = |record: proto::Record| {
        // Copied: a record that stays for months would keep the whole message that brought it.
        let bytes = Bytes::copy_from_slice(&record.bytes);
        Ok(Record { key: decode_key(record.key.unwrap_or_default())?, bytes })
    };
    Ok(Update {
        origin: name(&update.origin)?,
        transfer: update.transfer,
        part: update.part,
        opening,
        last: update.last,
        changed: all(update.changed, record)?,
        removed: all(update.removed, decode_key)?,
    })
}

fn decode_claim(claim: proto::Claim) -> Result<Claim, Violation> {
    Ok(Claim {
        origin: name(&claim.origin)?,
        version: decode_version(present(claim.version)?)?,
        age_ms: claim.age_ms,
        path: claim.path.map(|path| Path { reachable: path.reachable, round_trip_ms: path.round_trip_ms }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use prost::Message as _;

    fn bytes(max: usize) -> impl Strategy<Value = Bytes> {
        prop::collection::vec(any::<u8>(), 0..max).prop_map(Bytes::from)
    }

    fn a_name<N: FromStr + std::fmt::Debug>() -> impl Strategy<Value = N> {
        "[a-z0-9]([a-z0-9-]{0,9}[a-z0-9])?".prop_filter_map("a name", |text| text.parse().ok())
    }

    fn version() -> impl Strategy<Value = Version> {
        (any::<u64>(), any::<u32>(), any::<u64>(), any::<[u8; 32]>()).prop_map(
            |(counter, random, index, root)| Version {
                incarnation: Incarnation { counter, random },
                index,
                root: Root(root),
            },
        )
    }

    fn signed() -> impl Strategy<Value = SignedHead> {
        (a_name(), a_name(), version(), any::<u32>(), bytes(40), bytes(40)).prop_map(
            |(origin, node, version, records, credential, signature)| SignedHead {
                head: Head { origin, node, version, records },
                credential,
                signature,
            },
        )
    }

    fn key() -> impl Strategy<Value = RecordKey> {
        prop_oneof![
            Just(RecordKey::Region),
            (a_name(), a_name())
                .prop_map(|(namespace, service)| RecordKey::Service(ServiceKey { namespace, service })),
        ]
    }

    fn update() -> impl Strategy<Value = Update> {
        let basis = prop_oneof![
            any::<u64>().prop_map(Basis::Since),
            prop::collection::vec(any::<u8>(), 0..9).prop_map(Basis::Buckets)
        ];
        let opening =
            prop::option::of((signed(), basis).prop_map(|(head, basis)| Box::new(Opening { head, basis })));
        let record = (key(), bytes(20)).prop_map(|(key, bytes)| Record { key, bytes });
        let records = (prop::collection::vec(record, 0..5), prop::collection::vec(key(), 0..5));
        (a_name(), any::<(u64, u32, bool)>(), opening, records).prop_map(
            |(origin, (transfer, part, last), opening, (changed, removed))| Update {
                origin,
                transfer,
                part,
                opening,
                last,
                changed,
                removed,
            },
        )
    }

    fn claim() -> impl Strategy<Value = Claim> {
        let path = prop::option::of(
            any::<(bool, Option<u32>)>()
                .prop_map(|(reachable, round_trip_ms)| Path { reachable, round_trip_ms }),
        );
        (a_name(), version(), any::<Option<u64>>(), path).prop_map(|(origin, version, age_ms, path)| Claim {
            origin,
            version,
            age_ms,
            path,
        })
    }

    fn message() -> impl Strategy<Value = Message> {
        let held = (a_name(), prop::option::of(version()), any::<bool>())
            .prop_map(|(origin, version, follow)| Held { origin, version, follow });
        let digests = prop::collection::vec(any::<[u8; DIGEST_BYTES]>(), 0..4);
        prop_oneof![
            prop::collection::vec(held, 0..4).prop_map(|origins| Message::Have(Have { origins })),
            signed().prop_map(|head| Message::Offer(Box::new(head))),
            (a_name(), digests).prop_map(|(origin, digests)| Message::Want(Want { origin, digests })),
            update().prop_map(Message::Update),
            (a_name(), any::<(u64, u32)>()).prop_map(|(origin, (transfer, part))| Message::Ack(Ack {
                origin,
                transfer,
                part
            })),
            (any::<u64>(), prop::option::of(version()), prop::option::of(version()))
                .prop_map(|(nonce, own, yours)| Message::Ping(Ping { nonce, own, yours })),
            (any::<u64>(), prop::collection::vec(claim(), 0..4))
                .prop_map(|(nonce, claims)| Message::Beat(Beat { nonce, claims })),
        ]
    }

    proptest! {
        #[test]
        fn what_is_sent_is_what_comes(message in message()) {
            let wire = encode(message.clone()).encode_to_vec();
            let read = decode(proto::Message::decode(&*wire).unwrap());
            prop_assert_eq!(read, Ok(Some(message)));
        }

        #[test]
        fn a_damaged_message_is_another_message_or_a_refusal(
            message in message(),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut wire = encode(message).encode_to_vec();
            prop_assume!(!wire.is_empty());
            for (at, byte) in damage {
                let at = at.index(wire.len());
                wire[at] ^= byte;
            }
            wire.truncate(cut.index(wire.len()) + 1);
            if let Ok(read) = proto::Message::decode(&*wire) {
                // No panic, and what is taken can be sent on.
                if let Ok(Some(read)) = decode(read) {
                    prop_assert_eq!(decode(encode(read.clone())), Ok(Some(read)));
                }
            }
        }
    }

    #[test]
    fn the_largest_message_fits_the_wire() {
        // The most tags and lengths for the fewest bytes: records that are nothing but names.
        let name = |n: usize| format!("{n:0>16}");
        let record = |n: usize| Record {
            key: RecordKey::Service(ServiceKey {
                namespace: name(n).parse().unwrap(),
                service: name(n).parse().unwrap(),
            }),
            bytes: Bytes::from_static(b"1"),
        };
        let mut update = Update {
            origin: "eu".parse().unwrap(),
            transfer: u64::MAX,
            part: u32::MAX,
            opening: None,
            last: true,
            changed: Vec::new(),
            removed: Vec::new(),
        };
        let mut size = 0;
        for n in 0.. {
            let record = record(n);
            size += 16 + 32 + record.bytes.len();
            if size > limits::PART_BYTES {
                break;
            }
            update.changed.push(record);
        }
        assert!(encode(Message::Update(update)).encoded_len() <= limits::PART_BYTES + 64);
    }

    #[test]
    fn a_message_of_a_later_version_is_skipped() {
        // Field 15, two bytes.
        let later = proto::Message::decode(&[0x7a, 0x02, 0x01, 0x02][..]).unwrap();
        assert_eq!(decode(later), Ok(None));
    }

    #[test]
    fn what_is_malformed_is_named() {
        use proto::message::Body;
        let of = |body| decode(proto::Message { body: Some(body) });
        let version = || proto::Version { root: Bytes::from_static(&[0; 32]), ..proto::Version::default() };
        let held = || proto::Held { origin: "eu".into(), version: Some(version()), follow: true };
        for (what, body) in [
            ("no head", Body::Offer(proto::SignedHead::default())),
            (
                "no version",
                Body::Offer(proto::SignedHead {
                    head: Some(proto::Head {
                        origin: "eu".into(),
                        node: "a".into(),
                        ..proto::Head::default()
                    }),
                    ..proto::SignedHead::default()
                }),
            ),
            (
                "a short root",
                Body::Ping(proto::Ping { own: Some(proto::Version::default()), ..proto::Ping::default() }),
            ),
            ("a name", Body::Ack(proto::Ack { origin: "EU".into(), ..proto::Ack::default() })),
            (
                "half a digest",
                Body::Want(proto::Want { origin: "eu".into(), digests: Bytes::from_static(&[0; 17]) }),
            ),
            (
                "no basis",
                Body::Update(proto::Update {
                    origin: "eu".into(),
                    opening: Some(proto::Opening::default()),
                    ..proto::Update::default()
                }),
            ),
        ] {
            assert!(matches!(of(body), Err(Violation::Malformed(_))), "{what}");
        }
        let many = Body::Have(proto::Have { origins: (0..65).map(|_| held()).collect() });
        assert_eq!(of(many), Err(Violation::TooManyOrigins));
    }
}
