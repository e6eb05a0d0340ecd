//! Test cases that a policy carries: what it must answer to what it is shown. The gate runs them before anything else.

use super::shown::{Caller, Service};
use crate::plan::{Destination, Plan, WHOLE_SHARE};
use crate::selection::key_hash;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Cases of one policy, at most: each costs an instance.
pub const MAX_CASES: usize = 64;
/// Shares are compared to within this: they are parts of 10,000, of which several may be added up.
const TOLERANCE: f64 = 0.001;

/// One case.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Case {
    /// What it is about; reports name it.
    pub name: String,
    /// The binding's config; empty for none.
    #[serde(default)]
    pub config: Value,
    /// The service.
    #[serde(default)]
    pub service: Service,
    /// The caller.
    #[serde(default)]
    pub caller: Caller,
    /// The key of the lookup.
    #[serde(default)]
    pub key: Option<String>,
    /// What must come of it.
    pub expect: Expectation,
}

/// What a case expects.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Expectation {
    /// The destinations of each tier, in any order within a tier, of the plan that the key gets, or of the only one.
    Tiers(Vec<Vec<String>>),
    /// The part of lookups without key that each destination gets as long as first tiers hold; those that are not named get
    /// none.
    Shares(BTreeMap<String, f64>),
    /// It refuses: `true`, or words that the refusal must contain.
    #[serde(deserialize_with = "refusal")]
    Refused(Refusal),
}

/// How it refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// By a plan without tiers, or by words of any kind.
    Any,
    /// By words of `open` or `admit` that contain these.
    Words(String),
}

fn refusal<'de, D: Deserializer<'de>>(from: D) -> Result<Refusal, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Is(bool),
        Words(String),
    }
    match Written::deserialize(from)? {
        Written::Is(true) => Ok(Refusal::Any),
        Written::Words(words) => Ok(Refusal::Words(words)),
        Written::Is(false) => Err(serde::de::Error::custom("refused: `true` or some words are expected")),
    }
}

/// What a policy answered, as far as cases look at it.
#[derive(Clone, Copy, Debug)]
pub enum Answered<'a> {
    /// These plans, and the position of the one that the case's key gets.
    Plans(&'a [Plan], usize),
    /// These words of `open` or `admit`.
    Words(&'a str),
}

/// Reads the section.
///
/// # Errors
/// A sentence with line and column, or with the case.
pub fn parse(section: &[u8]) -> Result<Vec<Case>, String> {
    let cases: Vec<Case> = serde_json::from_slice(section).map_err(|error| error.to_string())?;
    if cases.len() > MAX_CASES {
        return Err(format!("{} cases; at most {MAX_CASES}", cases.len()));
    }
    let mut names = BTreeSet::new();
    for case in &cases {
        if case.name.is_empty() || !names.insert(case.name.as_str()) {
            return Err(format!("each case needs a name of its own, and {:?} is none", case.name));
        }
        if !matches!(case.config, Value::Null | Value::Object(_)) {
            return Err(format!("case {:?}: config must be a JSON object", case.name));
        }
    }
    Ok(cases)
}

impl Case {
    /// The config as `open` gets it.
    #[must_use]
    pub fn config(&self) -> String {
        match &self.config {
            Value::Null => String::new(),
            config => config.to_string(),
        }
    }

    /// What `route` gets as key: 0 for none.
    #[must_use]
    pub fn key_hash(&self) -> u64 {
        self.key.as_deref().map_or(0, key_hash)
    }

    /// Compares.
    ///
    /// # Errors
    /// A sentence that says what was expected and what came.
    pub fn judge(&self, answered: Answered<'_>) -> Result<(), String> {
        match (&self.expect, answered) {
            (Expectation::Refused(Refusal::Words(wanted)), Answered::Words(words))
                if words.contains(wanted) =>
            {
                Ok(())
            }
            (Expectation::Refused(Refusal::Words(wanted)), Answered::Words(words)) => {
                Err(format!("should refuse with {wanted:?}, and refused with {words:?}"))
            }
            (Expectation::Refused(Refusal::Any), Answered::Words(_)) => Ok(()),
            (_, Answered::Words(words)) => Err(format!("refused with {words:?}")),
            (Expectation::Refused(Refusal::Words(wanted)), Answered::Plans(..)) => {
                Err(format!("should refuse with {wanted:?}, and answered"))
            }
            (Expectation::Refused(Refusal::Any), Answered::Plans(plans, at)) => match plans.get(at) {
                Some(plan) if plan.tiers.is_empty() => Ok(()),
                _ => Err("should refuse, and answered".into()),
            },
            (Expectation::Tiers(wanted), Answered::Plans(plans, at)) => self.judge_tiers(wanted, plans, at),
            (Expectation::Shares(wanted), Answered::Plans(plans, _)) => self.judge_shares(wanted, plans),
        }
    }

    fn judge_tiers(&self, wanted: &[Vec<String>], plans: &[Plan], at: usize) -> Result<(), String> {
        if plans.len() > 1 && self.key.is_none() {
            return Err(format!("{} plans: name a key, or expect shares", plans.len()));
        }
        let tiers: Vec<Vec<String>> = plans.get(at).map_or_else(Vec::new, |plan| {
            let names = |t: &crate::plan::Tier| {
                let mut names: Vec<String> = t.choices.iter().map(|c| self.called(c.destination)).collect();
                names.sort();
                names
            };
            plan.tiers.iter().map(names).collect()
        });
        let mut wanted = wanted.to_vec();
        wanted.iter_mut().for_each(|tier| tier.sort());
        if tiers == wanted {
            Ok(())
        } else {
            Err(format!("should give tiers {wanted:?}, and gave {tiers:?}"))
        }
    }

    fn judge_shares(&self, wanted: &BTreeMap<String, f64>, plans: &[Plan]) -> Result<(), String> {
        let mut shares: BTreeMap<String, f64> = BTreeMap::new();
        for plan in plans {
            let share = if plans.len() == 1 { WHOLE_SHARE } else { plan.share };
            let Some(first) = plan.tiers.first() else { continue };
            let all: f64 = first.choices.iter().map(|c| f64::from(c.weight)).sum();
            for choice in first.choices.iter().filter(|c| c.weight > 0) {
                let part = f64::from(choice.weight) / all * f64::from(share) / f64::from(WHOLE_SHARE);
                *shares.entry(self.called(choice.destination)).or_default() += part;
            }
        }
        for name in wanted.keys().chain(shares.keys()) {
            let of = |map: &BTreeMap<String, f64>| map.get(name).copied().unwrap_or(0.0);
            let (should, does) = (of(wanted), of(&shares));
            if (should - does).abs() > TOLERANCE {
                return Err(format!(
                    "{name} should get a share of {should}, and gets {does:.4} of {shares:.4?}"
                ));
            }
        }
        Ok(())
    }

    fn called(&self, destination: Destination) -> String {
        self.service.name_of(destination).unwrap_or_else(|| "?".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Choice, Tier};

    const CASES: &str = r#"[
        {"name": "own zone first", "service": {"endpoints": [{"id": "a"}, {"id": "b", "zone": "ap-south-1b"}],
         "remotes": [{"region": "eu-west-1", "subsets": [{"healthy": 2}]}]},
         "caller": {"zone": "ap-south-1a"}, "expect": {"tiers": [["a"], ["b", "eu-west-1"]]}},
        {"name": "halves", "service": {"endpoints": [{"id": "a"}, {"id": "b"}]}, "expect": {"shares": {"a": 0.25, "b": 0.75}}},
        {"name": "no", "config": {"x": 1}, "expect": {"refused": "unknown field"}},
        {"name": "nobody", "expect": {"refused": true}}
    ]"#;

    fn tier(choices: &[(Destination, u32)]) -> Tier {
        let choices =
            choices.iter().map(|(destination, weight)| Choice { destination: *destination, weight: *weight });
        Tier { choices: choices.collect(), reason: String::new() }
    }

    const REMOTE: Destination = Destination::Remote { remote: 0, subset: None };
    const A: Destination = Destination::Endpoint(0);
    const B: Destination = Destination::Endpoint(1);

    #[test]
    fn a_case_tells_what_it_wanted_from_what_it_does_not() {
        let cases = parse(CASES.as_bytes()).unwrap();
        let tiers = [Plan { share: 10_000, tiers: vec![tier(&[(A, 1)]), tier(&[(REMOTE, 1), (B, 1)])] }];
        let halves = [
            Plan { share: 5_000, tiers: vec![tier(&[(A, 1), (B, 1)])] },
            Plan { share: 5_000, tiers: vec![tier(&[(B, 7)])] },
        ];
        let refuses = [Plan { share: 10_000, tiers: vec![] }];
        let good = [
            Answered::Plans(&tiers, 0),
            Answered::Plans(&halves, 0),
            Answered::Words("config: unknown field `x`"),
            Answered::Plans(&refuses, 0),
        ];
        for (case, right) in cases.iter().zip(&good) {
            assert_eq!(case.judge(*right), Ok(()), "{}", case.name);
        }
        for (case, wrong) in cases.iter().zip(good.iter().skip(1)) {
            assert!(case.judge(*wrong).is_err(), "{}", case.name);
        }
        assert_eq!(cases[3].judge(Answered::Words("anything")), Ok(()));
        assert!(cases[2].judge(Answered::Words("something else")).is_err());
        assert!(cases[1].judge(Answered::Plans(&tiers[..0], 0)).is_err());
    }

    #[test]
    fn bad_cases_are_refused_with_their_place() {
        for (text, says) in [
            ("[", "line 1"),
            ("{}", "line 1"),
            (r#"[{"name": "x"}]"#, "expect"),
            (r#"[{"name": "", "expect": {"refused": true}}]"#, "name"),
            (r#"[{"name": "x", "expect": {"refused": false}}]"#, "refused"),
            (r#"[{"name": "x", "expect": {"tier": []}}]"#, "tier"),
            (r#"[{"name": "x", "config": 3, "expect": {"refused": true}}]"#, "config"),
            (r#"[{"name": "x", "service": {"endpoint": []}, "expect": {"refused": true}}]"#, "endpoint"),
        ] {
            let refused = parse(text.as_bytes()).unwrap_err();
            assert!(refused.contains(says), "{text}: {refused}");
        }
        let one = r#"{"name": "NAME", "expect": {"refused": true}}"#;
        let many: Vec<String> = (0..=MAX_CASES).map(|n| one.replace("NAME", &n.to_string())).collect();
        assert!(parse(format!("[{}]", many.join(",")).as_bytes()).unwrap_err().contains("at most"));
        assert!(parse(format!("[{one},{one}]").as_bytes()).is_err(), "two of one name");
    }
}
