//! Mutants of a summary's bytes: one field blank, absent, twice, too large or of another type.
//!
//! Protocol buffers have no null: an absent field is one. The mutants come from a complete record by walking its bytes.

use meridian_federation::record::encode_summary;
use meridian_model::summary::{IdAndHost, Labels, RemoteEndpoint, Subset, Summary};

/// A message's fields: number and value.
type Message = Vec<(u64, Value)>;

#[derive(Clone, Debug, PartialEq)]
enum Value {
    Number(u64),
    Bytes(Vec<u8>),
    Message(Message),
    /// Eight bytes: no field of a record is.
    Fixed(u64),
}

/// What a field is called in refusals, and the fields of the message that it holds.
struct Field {
    number: u64,
    names: &'static [&'static str],
    within: &'static [Field],
}

const fn field(number: u64, names: &'static [&'static str], within: &'static [Field]) -> Field {
    Field { number, names, within }
}

/// Of `WireSummary` in `record.rs`.
const SUMMARY: &[Field] = &[
    field(
        1,
        // Of a blank message it is the first blank field that is told.
        &["subset", "zone"],
        &[
            field(1, &["zone"], &[]),
            field(2, &["version"], &[]),
            field(3, &["group"], &[]),
            field(4, &["healthy", "weight"], &[]),
            field(5, &["total", "healthy"], &[]),
            field(6, &["weight"], &[]),
        ],
    ),
    field(
        2,
        &["endpoint", "weight"],
        &[
            field(1, &["id", "order of endpoints"], &[]),
            field(2, &["host"], &[]),
            field(3, &["port"], &[]),
            field(4, &["weight"], &[]),
            field(5, &["subset"], &[]),
            field(6, &["degraded"], &[]),
            field(9, &["labels"], &[]),
        ],
    ),
    field(3, &["sampled"], &[]),
    field(4, &["headroom"], &[]),
    field(
        5,
        &["labels"],
        &[
            field(1, &["tag"], &[]),
            field(2, &["metadata"], &[field(1, &["key", "metadata"], &[]), field(2, &["value"], &[])]),
        ],
    ),
];

fn put_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn take_number(bytes: &mut &[u8]) -> u64 {
    let mut number = 0;
    for shift in (0..).step_by(7) {
        let byte = bytes[0];
        *bytes = &bytes[1..];
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    number
}

fn read(mut bytes: &[u8], fields: &[Field]) -> Message {
    let mut message = Vec::new();
    while !bytes.is_empty() {
        let key = take_number(&mut bytes);
        let known = fields.iter().find(|field| field.number == key >> 3).expect("the table lacks a field");
        let value = match key & 7 {
            0 => Value::Number(take_number(&mut bytes)),
            2 => {
                let length = take_number(&mut bytes) as usize;
                let (within, rest) = bytes.split_at(length);
                bytes = rest;
                match known.within {
                    [] => Value::Bytes(within.to_vec()),
                    fields => Value::Message(read(within, fields)),
                }
            }
            other => panic!("no record has wire type {other}"),
        };
        message.push((known.number, value));
    }
    message
}

fn write(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (number, value) in message {
        let mut whole = |contents: &[u8]| {
            put_number(&mut bytes, number << 3 | 2);
            put_number(&mut bytes, contents.len() as u64);
            bytes.extend(contents);
        };
        match value {
            Value::Bytes(contents) => whole(contents),
            Value::Message(within) => whole(&write(within)),
            Value::Number(value) => {
                put_number(&mut bytes, number << 3);
                put_number(&mut bytes, *value);
            }
            Value::Fixed(value) => {
                put_number(&mut bytes, number << 3 | 1);
                bytes.extend(value.to_le_bytes());
            }
        }
    }
    bytes
}

/// Other values than the one that stands there.
fn changes(value: &Value) -> Vec<(&'static str, Vec<Value>)> {
    let blank = match value {
        Value::Number(_) | Value::Fixed(_) => Value::Number(0),
        Value::Bytes(_) | Value::Message(_) => Value::Bytes(Vec::new()),
    };
    vec![
        ("absent", vec![]),
        ("blank", vec![blank]),
        ("twice", vec![value.clone(), value.clone()]),
        ("a text", vec![Value::Bytes(b"mutant".to_vec())]),
        ("no text", vec![Value::Bytes(vec![0xff, 0xfe])]),
        ("a long text", vec![Value::Bytes(vec![b'x'; 20_000])]),
        ("a number", vec![Value::Number(7)]),
        ("the greatest number", vec![Value::Number(u64::MAX)]),
        ("the greatest of half as many bits", vec![Value::Number(u64::from(u32::MAX))]),
        ("of fixed length", vec![Value::Fixed(1)]),
    ]
}

/// Every mutant, with the names of the changed field and of those around it.
fn mutate(message: &Message, fields: &'static [Field]) -> Vec<(Vec<&'static str>, &'static str, Message)> {
    let mut all = Vec::new();
    for (at, (number, value)) in message.iter().enumerate() {
        let known = fields.iter().find(|field| field.number == *number).unwrap();
        let mut add = |names: Vec<&'static str>, change, values: Vec<Value>| {
            let mut mutant = message.clone();
            mutant.splice(at..=at, values.into_iter().map(|value| (*number, value)));
            all.push((names, change, mutant));
        };
        for (change, values) in changes(value) {
            add(known.names.to_vec(), change, values);
        }
        if let Value::Message(within) = value {
            for (names, change, mutant) in mutate(within, known.within) {
                add(names, change, vec![Value::Message(mutant)]);
            }
        }
    }
    all
}

/// A summary that has every field.
pub fn complete() -> Summary {
    let subset = |zone: &str, healthy| Subset {
        zone: zone.parse().unwrap(),
        version: "1.4.2".into(),
        group: "stable".into(),
        healthy,
        total: 4,
        weight: 300,
    };
    let endpoint = |id: &str, subset| RemoteEndpoint {
        names: IdAndHost::new(id, &format!("10.0.0.{}", subset + 1)),
        port: 8080,
        weight: 100,
        subset,
        degraded: true,
        labels: Labels {
            tags: ["v2".into()].into(),
            metadata: [("rack".into(), id.into()), ("team".into(), "inventory".into())].into(),
        }
        .into(),
    };
    Summary {
        subsets: vec![subset("eu-west-1a", 3), subset("eu-west-1b", 2)],
        endpoints: vec![endpoint("a", 0), endpoint("b", 1)],
        sampled: true,
        headroom: Some(2_000),
    }
}

/// A mutant.
pub struct Mutant {
    /// What the changed field and those around it are called in refusals.
    pub names: Vec<&'static str>,
    /// What was done to it.
    pub change: &'static str,
    pub bytes: Vec<u8>,
}

/// All mutants of [`complete`].
pub fn all() -> Vec<Mutant> {
    let bytes = encode_summary(&complete(), 64 * 1024);
    let message = read(&bytes, SUMMARY);
    assert_eq!(write(&message), bytes);
    let mutants = mutate(&message, SUMMARY).into_iter();
    mutants.map(|(names, change, mutant)| Mutant { names, change, bytes: write(&mutant) }).collect()
}
