//! What a lookup asks, parsed from a query or from one element of a batch.

use crate::http::request;
use crate::problem::Problem;
use meridian_model::caller::Caller;
use meridian_model::names::{Namespace, RegionName, ServiceKey, ZoneName};
use meridian_model::registration::{MAX_KEY_BYTES, MAX_PAIRS, MAX_VALUE_BYTES};
use meridian_model::selection::key_hash;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use smol_str::SmolStr;
use std::collections::{BTreeMap, BTreeSet};

/// At most this many distinct endpoints by number; `all` gives every one.
pub const MAX_COUNT: usize = 1_000;
/// Longest key of a lookup, in bytes.
pub const MAX_LOOKUP_KEY_BYTES: usize = 4_096;

/// How many endpoints are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Count {
    /// Up to this many distinct ones.
    Some(usize),
    /// Every one, with tier and share.
    All,
}

/// One lookup.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// Of which service.
    pub service: ServiceKey,
    /// From where.
    pub zone: Option<ZoneName>,
    /// Sticky to what: [`key_hash`] of the key.
    pub key: Option<u64>,
    /// How many endpoints.
    pub count: Count,
    /// What the caller says of itself.
    pub labels: BTreeMap<SmolStr, SmolStr>,
    /// Whether every candidate is to be accounted for.
    pub explain: bool,
}

fn count(text: &str) -> Result<Count, Problem> {
    if text == "all" {
        return Ok(Count::All);
    }
    let number = text.parse().ok().filter(|n| (1..=MAX_COUNT).contains(n));
    number
        .map(Count::Some)
        .ok_or_else(|| Problem::bad_query(format!("n must be a number from 1 to {MAX_COUNT}, or all")))
}

fn truth(name: &str, text: &str) -> Result<bool, Problem> {
    match text {
        "" | "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(Problem::bad_query(format!("{name} must be true or false"))),
    }
}

fn hash_key(text: &str) -> Result<u64, Problem> {
    if text.len() > MAX_LOOKUP_KEY_BYTES {
        return Err(Problem::bad_query(format!("key must be at most {MAX_LOOKUP_KEY_BYTES} bytes long")));
    }
    Ok(key_hash(text))
}

fn add_label(labels: &mut BTreeMap<SmolStr, SmolStr>, key: &str, value: &str) -> Result<(), Problem> {
    if key.is_empty() || key.len() > MAX_KEY_BYTES || value.len() > MAX_VALUE_BYTES {
        let detail =
            format!("labels have keys of 1 to {MAX_KEY_BYTES} and values of at most {MAX_VALUE_BYTES} bytes");
        return Err(Problem::bad_query(detail));
    }
    labels.insert(SmolStr::new(key), SmolStr::new(value));
    if labels.len() > MAX_PAIRS {
        return Err(Problem::bad_query(format!("a caller has at most {MAX_PAIRS} labels")));
    }
    Ok(())
}

impl Question {
    /// From `GET /v1/resolve/{service}?…`. Parameters that no lookup knows are left to others (`wait`, `index`, `etag`).
    ///
    /// # Errors
    /// 400 with the parameter that is wrong.
    pub fn from_query(service: &str, query: Option<&str>) -> Result<Self, Problem> {
        let mut namespace = Namespace::default();
        let (mut zone, mut key, mut wanted, mut explain) = (None, None, Count::Some(1), false);
        let mut labels = BTreeMap::new();
        for (name, value) in request::query_pairs(query) {
            match name.as_ref() {
                "ns" => namespace = request::name(&value)?,
                "zone" if !value.is_empty() => zone = Some(request::name(&value)?),
                "key" if !value.is_empty() => key = Some(hash_key(&value)?),
                "n" => wanted = count(&value)?,
                "explain" => explain = truth("explain", &value)?,
                other => {
                    if let Some(label) = other.strip_prefix("label.") {
                        add_label(&mut labels, label, &value)?;
                    }
                }
            }
        }
        let service = ServiceKey::new(namespace, request::name(service)?);
        Ok(Self { service, zone, key, count: wanted, labels, explain })
    }

    /// The caller that asks, with the labels that the binding lets through.
    #[must_use]
    pub fn caller(&self, region: &RegionName, allowed: &BTreeSet<SmolStr>) -> Caller {
        let labels = self
            .labels
            .iter()
            .filter(|(k, _)| allowed.contains(*k))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        Caller { region: region.clone(), zone: self.zone.clone(), labels }
    }
}

/// One element of a batch.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchQuestion<'a> {
    #[serde(borrow)]
    service: std::borrow::Cow<'a, str>,
    #[serde(borrow, default)]
    ns: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow, default)]
    zone: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow, default)]
    key: Option<std::borrow::Cow<'a, str>>,
    #[serde(default, deserialize_with = "batch_count")]
    n: Option<Count>,
    #[serde(default)]
    labels: Option<BTreeMap<SmolStr, SmolStr>>,
}

fn batch_count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Count>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Wire {
        Number(usize),
        Word(String),
    }
    let wrong = || D::Error::custom(format!("n must be a number from 1 to {MAX_COUNT}, or \"all\""));
    match Option::<Wire>::deserialize(deserializer).map_err(|_| wrong())? {
        None => Ok(None),
        Some(Wire::Number(n)) if (1..=MAX_COUNT).contains(&n) => Ok(Some(Count::Some(n))),
        Some(Wire::Word(word)) if word == "all" => Ok(Some(Count::All)),
        Some(_) => Err(wrong()),
    }
}

impl BatchQuestion<'_> {
    /// The question that it is.
    ///
    /// # Errors
    /// As for a single lookup.
    pub fn parse(&self) -> Result<Question, Problem> {
        let namespace = self.ns.as_deref().map_or_else(|| Ok(Namespace::default()), request::name)?;
        let service = ServiceKey::new(namespace, request::name(&self.service)?);
        let zone = self.zone.as_deref().filter(|z| !z.is_empty()).map(request::name).transpose()?;
        let key = self.key.as_deref().filter(|k| !k.is_empty()).map(hash_key).transpose()?;
        let mut labels = BTreeMap::new();
        for (key, value) in self.labels.iter().flatten() {
            add_label(&mut labels, key, value)?;
        }
        Ok(Question { service, zone, key, count: self.n.unwrap_or(Count::Some(1)), labels, explain: false })
    }

    /// The parts of a plain single lookup: service, namespace, zone and key; `None` if it asks for more.
    #[must_use]
    pub fn plain(&self) -> Option<(&str, &str, Option<&str>, Option<&str>)> {
        let long = self.key.as_deref().is_some_and(|key| key.len() > MAX_LOOKUP_KEY_BYTES);
        let plain = self.labels.is_none() && self.n.is_none_or(|n| n == Count::Some(1)) && !long;
        plain.then(|| {
            (
                &*self.service,
                self.ns.as_deref().unwrap_or("default"),
                self.zone.as_deref().filter(|z| !z.is_empty()),
                self.key.as_deref().filter(|k| !k.is_empty()),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_says_everything() {
        let query = "ns=prod&zone=z-a&key=caf%C3%A9+1&n=all&label.x-canary=always&explain=true&wait=5s";
        let question = Question::from_query("orders", Some(query)).unwrap();
        assert_eq!(question.service.to_string(), "prod/orders");
        assert_eq!(question.key, Some(key_hash("café 1")));
        assert_eq!((question.count, question.explain), (Count::All, true));
        assert_eq!(question.labels.get("x-canary").map(SmolStr::as_str), Some("always"));
    }

    #[test]
    fn wrong_parameters_are_refused() {
        for query in ["n=0", "n=1001", "n=-1", "n=NaN", "ns=..%2f", "zone=%00", "explain=maybe", "label.=x"] {
            assert!(Question::from_query("orders", Some(query)).is_err(), "{query}");
        }
        for service in ["../x", "a/b", "A", "", "о"] {
            assert!(Question::from_query(service, None).is_err(), "{service}");
        }
    }
}
