//! Reading a table into a configuration, past its first mistake.
//!
//! serde stops at what it cannot read. That is noted and taken out, and the rest is read again, so that whoever wrote the
//! file hears of all of its mistakes at once.

use super::{Config, Mistake};
use serde_path_to_error::{Path, Segment};
use std::collections::BTreeSet;
use toml::{Table, Value};

/// More mistakes than this are not looked for.
const MAX_ROUNDS: usize = 64;

/// What a table gives.
pub(super) struct Read {
    /// The configuration, without what could not be read: whole only where there are no mistakes.
    pub(super) config: Option<Config>,
    /// What could not be read, and keys that nobody knows.
    pub(super) mistakes: Vec<Mistake>,
    /// Top-level keys under which something was taken out: what is missing there now says nothing.
    cut: BTreeSet<String>,
}

impl Read {
    /// Whether a check's finding may be due to what was taken out.
    pub(super) fn is_due_to_a_cut(&self, place: &str) -> bool {
        let key = place.split(['.', '[']).next().unwrap_or_default();
        self.cut.contains(key)
    }
}

/// Stands in for a key of the top level that is needed and cannot be read.
fn stand_in(key: &str) -> Option<Value> {
    let name = || Value::from("unknown");
    match key {
        "region" => Some(name()),
        "zones" => Some(Value::Array(vec![name()])),
        "registry" => Some(Value::Table(Table::from_iter([("kind".to_owned(), Value::from("embedded"))]))),
        _ => None,
    }
}

/// Removes what stands at a path, the document's root excepted.
fn take_out(table: &mut Table, path: &[Segment]) -> Option<Value> {
    let (last, parents) = path.split_last()?;
    let mut at: Option<&mut Value> = None;
    for segment in parents {
        let inner = match (at, segment) {
            (None, Segment::Map { key }) => table.get_mut(key),
            (Some(Value::Table(inner)), Segment::Map { key }) => inner.get_mut(key),
            (Some(Value::Array(inner)), Segment::Seq { index }) => inner.get_mut(*index),
            _ => None,
        };
        at = Some(inner?);
    }
    match (at, last) {
        (None, Segment::Map { key }) => table.remove(key),
        (Some(Value::Table(inner)), Segment::Map { key }) => inner.remove(key),
        // The whole list: without one element the places of the others would be wrong.
        (Some(Value::Array(_)), Segment::Seq { .. }) => take_out(table, parents),
        _ => None,
    }
}

fn place_of(path: &Path) -> String {
    let place = path.to_string();
    if place == "." { String::new() } else { place }
}

/// The field that is missing, if that is what an error says.
fn missing(detail: &str) -> Option<&str> {
    detail.strip_prefix("missing field `")?.strip_suffix('`')
}

/// Reads as much of a table as can be read.
pub(super) fn read(mut table: Table) -> Read {
    let mut found = Read { config: None, mistakes: Vec::new(), cut: BTreeSet::new() };
    let mut unknown = BTreeSet::new();
    let mut taken_out: BTreeSet<String> = BTreeSet::new();
    for _ in 0..MAX_ROUNDS {
        let mut track = serde_path_to_error::Track::new();
        let tracked = serde_path_to_error::Deserializer::new(Value::Table(table.clone()), &mut track);
        let parsed = serde_ignored::deserialize(tracked, |path| {
            unknown.insert(path.to_string());
        });
        let error: toml::de::Error = match parsed {
            Ok(config) => {
                found.config = Some(config);
                break;
            }
            Err(error) => error,
        };
        // The parser adds the place on a line of its own, which `place` already says.
        let detail = error.to_string().lines().next().unwrap_or_default().trim().to_owned();
        let path = track.path();
        let place = place_of(&path);
        let field = missing(&detail).map(|field| match place.as_str() {
            "" => field.to_owned(),
            place => format!("{place}.{field}"),
        });
        // A needed key that was taken out is missing now; that was said.
        if !field.as_ref().is_some_and(|field| taken_out.contains(field)) {
            found.mistakes.push(Mistake { place: place.clone(), detail });
        }
        let segments: Vec<Segment> = path.iter().cloned().collect();
        let went_on = match (&field, segments.first()) {
            (Some(field), None) => match stand_in(field) {
                Some(value) => {
                    found.cut.insert(field.clone());
                    table.insert(field.clone(), value).is_none()
                }
                None => false,
            },
            (_, Some(Segment::Map { key })) => {
                found.cut.insert(key.clone());
                taken_out.insert(place);
                take_out(&mut table, &segments).is_some()
            }
            _ => false,
        };
        if !went_on {
            break;
        }
    }
    found.mistakes.extend(unknown.into_iter().map(|place| Mistake {
        place,
        detail: "is no key that this version knows; docs/configuration.md lists them all".into(),
    }));
    found
}
