//! The cases that travel with a policy, run natively: gateways run the same, but here a panic tells its line.

use super::{Asked, Service, ask};
use crate::bindings::routing as wire;
use crate::caller::Caller;
use crate::policy::Policy;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// As gateways compare: shares are parts of 10,000, of which several may be added up.
const TOLERANCE: f64 = 0.001;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Case {
    name: String,
    #[serde(default)]
    config: Value,
    #[serde(default)]
    service: ServiceText,
    #[serde(default)]
    caller: CallerText,
    #[serde(default)]
    key: Option<String>,
    expect: Expectation,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
enum Expectation {
    Tiers(Vec<Vec<String>>),
    Shares(BTreeMap<String, f64>),
    Refused(Value),
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct ServiceText {
    namespace: Option<String>,
    name: Option<String>,
    region: Option<String>,
    draining_zones: Vec<String>,
    ramp: Option<u32>,
    endpoints: Vec<EndpointText>,
    remotes: Vec<RemoteText>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct EndpointText {
    id: String,
    zone: Option<String>,
    #[serde(default)]
    version: String,
    #[serde(default)]
    group: String,
    protocol: Option<String>,
    weight: Option<u32>,
    capacity: Option<u64>,
    #[serde(default)]
    status: StatusText,
    #[serde(default)]
    degraded: bool,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
enum StatusText {
    #[default]
    Healthy,
    Unhealthy,
    Starting,
    Draining,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RemoteText {
    #[serde(default)]
    region: String,
    #[serde(default)]
    freshness: FreshnessText,
    reachable: Option<bool>,
    #[serde(default)]
    draining: bool,
    ramp: Option<u32>,
    round_trip_ms: Option<u32>,
    headroom: Option<u64>,
    #[serde(default)]
    subsets: Vec<SubsetText>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
enum FreshnessText {
    #[default]
    Fresh,
    Suspect,
    Stale,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SubsetText {
    #[serde(default)]
    zone: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    group: String,
    healthy: u32,
    total: Option<u32>,
    weight: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct CallerText {
    region: Option<String>,
    zone: String,
    labels: BTreeMap<String, String>,
}

impl ServiceText {
    fn shown(&self) -> Service {
        let mut service = Service::named(self.name.as_deref().unwrap_or("orders-api"));
        let record = &mut service.record;
        if let Some(namespace) = &self.namespace {
            record.namespace.clone_from(namespace);
        }
        if let Some(region) = &self.region {
            record.region.clone_from(region);
        }
        record.draining_zones.clone_from(&self.draining_zones);
        record.ramp = self.ramp.unwrap_or(record.ramp);
        for endpoint in &self.endpoints {
            service = service.endpoint(&endpoint.id, |shown| endpoint.describe(shown));
        }
        for remote in &self.remotes {
            service = service.remote(&remote.region, |shown| remote.describe(shown));
        }
        service
    }
}

impl EndpointText {
    fn describe(&self, mut shown: super::Endpoint) -> super::Endpoint {
        let record = &mut shown.record;
        if let Some(zone) = &self.zone {
            record.zone.clone_from(zone);
        }
        if let Some(protocol) = &self.protocol {
            record.protocol.clone_from(protocol);
        }
        record.version.clone_from(&self.version);
        record.group.clone_from(&self.group);
        record.weight = self.weight.unwrap_or(record.weight);
        record.capacity = self.capacity;
        record.status = match self.status {
            StatusText::Healthy => wire::Status::Healthy,
            StatusText::Unhealthy => wire::Status::Unhealthy,
            StatusText::Starting => wire::Status::Starting,
            StatusText::Draining => wire::Status::Draining,
        };
        record.degraded = self.degraded;
        record.tags.clone_from(&self.tags);
        record.metadata = self.metadata.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        shown
    }
}

impl RemoteText {
    fn describe(&self, mut shown: super::Remote) -> super::Remote {
        let record = &mut shown.record;
        record.freshness = match self.freshness {
            FreshnessText::Fresh => wire::Freshness::Fresh,
            FreshnessText::Suspect => wire::Freshness::Suspect,
            FreshnessText::Stale => wire::Freshness::Stale,
        };
        record.reachable = self.reachable.unwrap_or(record.reachable);
        record.draining = self.draining;
        record.ramp = self.ramp.unwrap_or(record.ramp);
        record.round_trip_ms = self.round_trip_ms.unwrap_or(record.round_trip_ms);
        record.headroom = self.headroom;
        let subset = |text: &SubsetText| wire::Subset {
            zone: text.zone.clone(),
            version: text.version.clone(),
            group: text.group.clone(),
            healthy: text.healthy,
            total: text.total.unwrap_or(text.healthy),
            weight: text.weight.unwrap_or(u64::from(text.healthy) * 100),
        };
        record.subsets = self.subsets.iter().map(subset).collect();
        shown
    }
}

/// Runs the cases that travel with the policy, mostly `include_str!("../cases.json")`.
///
/// A case with a key and several plans is left to gateways, which hash keys in their own way.
///
/// # Panics
/// Where they are no cases, and when a case fails; the words name it.
pub fn cases<P: Policy>(text: &str) {
    let cases: Vec<Case> = serde_json::from_str(text).unwrap_or_else(|error| panic!("the cases: {error}"));
    for case in &cases {
        // The panic itself has been printed by now, with its line; this names the case.
        let answered = catch_unwind(AssertUnwindSafe(|| case.ask::<P>()))
            .unwrap_or_else(|_| panic!("case {:?}: the policy panicked; where, stands above", case.name));
        if let Err(why) = case.judge(answered) {
            panic!("case {:?}: {why}", case.name);
        }
    }
}

impl Case {
    fn ask<P: Policy>(&self) -> Result<Asked, String> {
        let config = if self.config.is_null() { String::new() } else { self.config.to_string() };
        let service = self.service.shown();
        let region = self.caller.region.as_deref().unwrap_or(&service.record.region);
        let mut caller = Caller::new(region, &self.caller.zone);
        for (key, value) in &self.caller.labels {
            caller = caller.with_label(key, value);
        }
        ask::<P>(&config, &service, &caller)
    }

    fn judge(&self, answered: Result<Asked, String>) -> Result<(), String> {
        match (&self.expect, answered) {
            (Expectation::Refused(Value::String(wanted)), Err(words)) if !words.contains(wanted) => {
                Err(format!("should refuse with {wanted:?}, and refused with {words:?}"))
            }
            (Expectation::Refused(_), Err(_)) => Ok(()),
            (_, Err(words)) => Err(format!("refused with {words:?}")),
            (Expectation::Refused(wanted), Ok(asked)) => {
                let refuses = asked.plans.iter().all(|plan| plan.tiers.is_empty());
                if refuses && !wanted.is_string() {
                    Ok(())
                } else {
                    Err("should refuse, and answered".into())
                }
            }
            (Expectation::Tiers(wanted), Ok(asked)) => match asked.plans.as_slice() {
                [only] => {
                    let mut wanted = wanted.clone();
                    wanted.iter_mut().for_each(|tier| tier.sort());
                    let tiers = super::tiers(only);
                    if tiers == wanted {
                        return Ok(());
                    }
                    Err(format!("should give tiers {wanted:?}, and gave {tiers:?}"))
                }
                several if self.key.is_none() => {
                    Err(format!("{} plans: name a key, or expect shares", several.len()))
                }
                _ => Ok(()),
            },
            (Expectation::Shares(wanted), Ok(asked)) => {
                let first = asked.plans.iter().filter_map(|plan| plan.tiers.first());
                let mut names: Vec<&str> =
                    first.flat_map(|tier| tier.places.iter().map(|place| &*place.id)).collect();
                names.extend(wanted.keys().map(String::as_str));
                for name in names {
                    let (should, does) = (wanted.get(name).copied().unwrap_or(0.0), asked.share_of(name));
                    if (should - does).abs() > TOLERANCE {
                        return Err(format!("{name} should get a share of {should}, and gets {does:.4}"));
                    }
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Answer, Details, Tier};

    struct Anywhere;

    impl Policy for Anywhere {
        type Config = BTreeMap<String, String>;
        fn open(config: Self::Config, _: &Details<'_>) -> Result<Self, String> {
            match config.is_empty() {
                true => Ok(Anywhere),
                false => Err("nothing can be configured".into()),
            }
        }
        fn answer(&self, service: &crate::Service, _: &Caller) -> Result<Answer, String> {
            assert!(service.name() != "panics", "on purpose");
            Ok(Tier::new("anywhere").endpoints(service.healthy()).into())
        }
    }

    fn fails(cases: &str) -> String {
        let failed = catch_unwind(|| super::cases::<Anywhere>(cases)).unwrap_err();
        failed.downcast_ref::<String>().cloned().unwrap_or_default()
    }

    #[test]
    fn cases_hold_or_are_named() {
        let service = r#""service": {"endpoints": [{"id": "a", "weight": 300}, {"id": "b"}, {"id": "c", "status": "starting"}]}"#;
        cases::<Anywhere>(&format!(
            r#"[{{"name": "x", {service}, "expect": {{"tiers": [["b", "a"]]}}}},
                {{"name": "y", {service}, "expect": {{"shares": {{"a": 0.75, "b": 0.25}}}}}},
                {{"name": "z", "config": {{"a": "b"}}, "expect": {{"refused": "nothing can"}}}}]"#
        ));
        for (expect, says) in [
            (r#"{"tiers": [["a"]]}"#, "tiers"),
            (r#"{"shares": {"a": 0.75}}"#, "share of 0"),
            (r#"{"refused": true}"#, "should refuse"),
        ] {
            let failed = fails(&format!(r#"[{{"name": "mine", {service}, "expect": {expect}}}]"#));
            assert!(failed.contains("\"mine\"") && failed.contains(says), "{failed}");
        }
        assert!(fails(r#"[{"name": "x"}]"#).contains("expect"));
    }

    #[test]
    fn a_panic_names_its_case() {
        let case = r#"[{"name": "mine", "service": {"name": "panics"}, "expect": {"refused": true}}]"#;
        assert!(fails(case).contains("\"mine\": the policy panicked"));
    }
}
