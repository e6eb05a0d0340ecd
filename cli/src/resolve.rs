//! `meridian resolve`: where to send traffic for a service, right now.

use crate::arguments;
use crate::connection::{Connection, Global};
use crate::credential::Role;
use crate::failure::Failure;
use crate::output::{self, Table, items_of, percent, short_version, span, text_of};
use meridian_model::names::{Namespace, ServiceName, ZoneName};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::str::FromStr;

/// What a caller asks.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Question {
    /// Service
    service: ServiceName,
    /// Namespace of the service
    #[arg(long, default_value = "default")]
    namespace: Namespace,
    /// Zone that the caller is in
    #[arg(long)]
    zone: Option<ZoneName>,
    /// Sticky: the same key is given the same endpoint while that may receive traffic
    #[arg(long)]
    key: Option<String>,
    /// What the caller says of itself; reaches the policy if the binding lets the label through. May be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = arguments::pair)]
    labels: Vec<(String, String)>,
}

impl Question {
    /// The route that answers.
    pub(crate) fn path(&self) -> String {
        format!("/v1/resolve/{}", self.service)
    }

    /// The question as a query.
    pub(crate) fn query(&self) -> Vec<(String, String)> {
        let mut query = vec![("ns".to_owned(), self.namespace.to_string())];
        query.extend(self.zone.iter().map(|zone| ("zone".to_owned(), zone.to_string())));
        query.extend(self.key.iter().map(|key| ("key".to_owned(), key.clone())));
        query.extend(self.labels.iter().map(|(key, value)| (format!("label.{key}"), value.clone())));
        query
    }

    /// The question in words.
    pub(crate) fn words(&self) -> String {
        let mut words = format!("{}/{}", self.namespace, self.service);
        match &self.zone {
            Some(zone) => {
                let _ = write!(words, " for a caller in {zone}");
            }
            None => words.push_str(" for a caller without a zone"),
        }
        if let Some(key) = &self.key {
            let _ = write!(words, ", key {}", output::printable(key));
        }
        for (key, value) in &self.labels {
            let _ = write!(words, ", {}={}", output::printable(key), output::printable(value));
        }
        words
    }
}

/// How many endpoints are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Count {
    Some(u16),
    All,
}

impl FromStr for Count {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text, text.parse()) {
            ("all", _) => Ok(Self::All),
            (_, Ok(count @ 1..=1_000)) => Ok(Self::Some(count)),
            _ => Err("must be a number from 1 to 1000, or all"),
        }
    }
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Some(count) => count.fmt(f),
            Self::All => f.write_str("all"),
        }
    }
}

/// Ask where to send traffic for a service, right now
///
/// The answer is the gateway's own: after the policy, from its memory. `index` is the registry revision that it reflects
/// at least, `age` the time since the registry last proved that the gateway is current.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  meridian resolve orders-api --zone ap-south-1a\n  \
    meridian resolve orders-api --zone ap-south-1a -n all\n  \
    meridian resolve orders-api --key customer-42 --json\n  \
    meridian resolve orders-api --label x-canary=always --explain")]
pub(crate) struct Arguments {
    #[command(flatten)]
    question: Question,
    /// How many distinct endpoints: 1 to 1000, or all, which adds each one's tier and share of lookups
    #[arg(short, value_name = "N", default_value = "1")]
    n: Count,
    /// Add every candidate, kept or dropped, and why
    #[arg(long)]
    explain: bool,
}

/// Ask where to send traffic, with every candidate, kept or dropped, and why
///
/// The same as `meridian resolve -n all --explain`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  meridian explain orders-api --zone ap-south-1a")]
pub(crate) struct ExplainArguments {
    #[command(flatten)]
    question: Question,
}

impl From<ExplainArguments> for Arguments {
    fn from(ExplainArguments { question }: ExplainArguments) -> Self {
        Self { question, n: Count::All, explain: true }
    }
}

pub(crate) async fn run(arguments: Arguments, global: &Global) -> Result<(), Failure> {
    let Arguments { question, n, explain } = arguments;
    let connection = Connection::open(global, Role::Reader)?;
    let mut query = question.query();
    if n != Count::Some(1) {
        query.push(("n".to_owned(), n.to_string()));
    }
    if explain {
        query.push(("explain".to_owned(), "true".to_owned()));
    }
    let answer = connection.get(&question.path(), &query).await?;
    if global.json {
        output::json(&answer.body);
    } else {
        output::say(render(&question.words(), &answer.body));
    }
    Ok(())
}

fn render(words: &str, answer: &Value) -> String {
    let mut text = format!("{words}\n\n{}\n\n{}", endpoints(answer), provenance(answer));
    if let Some(explain) = answer.get("explain") {
        let _ = write!(text, "\n\n{}", explanation(explain));
    }
    text
}

/// Where an endpoint listens; IPv6 addresses in brackets.
pub(crate) fn address(endpoint: &Value) -> String {
    let (host, port) = (text_of(endpoint, "/host"), text_of(endpoint, "/port"));
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The region of an endpoint that is in another one than the gateway that answers.
pub(crate) fn other_region<'a>(answer: &Value, endpoint: &'a Value) -> Option<&'a str> {
    let region = endpoint.get("region").and_then(Value::as_str)?;
    (answer.get("region").and_then(Value::as_str) != Some(region)).then_some(region)
}

/// An endpoint of another region adds columns for where it is, and for how current the news of it are.
fn endpoints(answer: &Value) -> String {
    let endpoints = items_of(answer, "/endpoints");
    let is_abroad = endpoints.iter().any(|endpoint| other_region(answer, endpoint).is_some());
    let mut table =
        Table::new(["ADDRESS", "ZONE", "VERSION", "INSTANCE", "REGION", "FRESHNESS", "AGE", "TIER", "SHARE"]);
    for endpoint in endpoints {
        let mut version = text_of(endpoint, "/version");
        if endpoint.get("degraded").and_then(Value::as_bool) == Some(true) {
            version.push_str(" (degraded)");
        }
        table.row([
            address(endpoint),
            text_of(endpoint, "/zone"),
            version,
            text_of(endpoint, "/id"),
            if is_abroad { text_of(endpoint, "/region") } else { String::new() },
            text_of(endpoint, "/freshness"),
            endpoint.get("ageMs").and_then(Value::as_u64).map(span).unwrap_or_default(),
            text_of(endpoint, "/tier"),
            endpoint.get("share").and_then(Value::as_f64).map(percent).unwrap_or_default(),
        ]);
    }
    table.without_blank(&["REGION", "FRESHNESS", "AGE", "TIER", "SHARE"]).render()
}

/// `eu-west-1 53.4 % (fresh, 412 ms old)`: the other regions that lookups go to; empty where all stay.
pub(crate) fn abroad(answer: &Value) -> String {
    let mut regions: BTreeMap<&str, (Option<f64>, String)> = BTreeMap::new();
    for endpoint in items_of(answer, "/endpoints") {
        let Some(region) = other_region(answer, endpoint) else { continue };
        let share = endpoint.get("share").and_then(Value::as_f64);
        // Of a later tier: nothing goes there yet.
        if share == Some(0.0) {
            continue;
        }
        let (sum, news) = regions.entry(region).or_default();
        *sum = share.map(|share| sum.unwrap_or(0.0) + share);
        *news = text_of(endpoint, "/freshness");
        if let Some(age) = endpoint.get("ageMs").and_then(Value::as_u64) {
            let _ = write!(news, ", {} old", span(age));
        }
    }
    let told = regions.iter().map(|(region, (share, news))| {
        let share = share.map(|share| format!(" {}", percent(share))).unwrap_or_default();
        format!("{region}{share} ({news})")
    });
    told.collect::<Vec<_>>().join(", ")
}

/// Who answered, from what, and how current it is.
fn provenance(answer: &Value) -> String {
    let age = answer.get("ageMs").and_then(Value::as_u64).unwrap_or(0);
    let mut text = format!(
        "policy {} · {} · region {} · index {} · age {}",
        policy(answer),
        tier(answer),
        text_of(answer, "/region"),
        text_of(answer, "/index"),
        span(age)
    );
    let abroad = abroad(answer);
    if !abroad.is_empty() {
        let _ = write!(text, "\nout of the region: {abroad}");
    }
    text
}

/// The tier, and why it is not the preferred one or in another region.
pub(crate) fn tier(answer: &Value) -> String {
    let mut text = format!("tier {}", text_of(answer, "/tier"));
    let reason = text_of(answer, "/reason");
    if !reason.is_empty() {
        let _ = write!(text, " ({})", output::printable(&reason));
    }
    text
}

/// The policy and how it answered.
pub(crate) fn policy(answer: &Value) -> String {
    let mut text = format!(
        "{} {} {}",
        text_of(answer, "/policy/name"),
        short_version(&text_of(answer, "/policy/version")),
        text_of(answer, "/policy/outcome"),
    );
    let reason = text_of(answer, "/policy/reason");
    if !reason.is_empty() {
        let _ = write!(text, " ({})", output::printable(&reason));
    }
    text
}

fn explanation(explain: &Value) -> String {
    let mut table = Table::new(["CANDIDATE", "ZONE", "STATUS", "WEIGHT", "TIER", "SHARE", "WHY"]);
    for candidate in items_of(explain, "/candidates") {
        let share = candidate.get("share").and_then(Value::as_f64).unwrap_or(0.0);
        let kept = candidate.get("kept").and_then(Value::as_bool) == Some(true);
        table.row([
            text_of(candidate, "/id"),
            text_of(candidate, "/zone"),
            text_of(candidate, "/status"),
            text_of(candidate, "/weight"),
            text_of(candidate, "/tier"),
            if kept { percent(share) } else { String::new() },
            text_of(candidate, "/why"),
        ]);
    }
    let mut text = table.render();
    if !items_of(explain, "/regions/remotes").is_empty() {
        let _ = write!(text, "\n\n{}", regions(explain));
    }
    let plans = items_of(explain, "/plans");
    for (number, plan) in plans.iter().enumerate() {
        // Parts in 10,000.
        let share = plan.get("share").and_then(Value::as_f64).unwrap_or(0.0) / 10_000.0;
        let _ = write!(text, "\n\nplan {number}, {} of lookups without a key", percent(share));
        if explain.get("plan").and_then(Value::as_u64) == u64::try_from(number).ok() && plans.len() > 1 {
            text.push_str(", chosen for this key");
        }
        if plan.get("refused").is_some() {
            text.push_str(": refuses");
        }
        if plan.get("nothingEligible").is_some() {
            text.push_str(": names nobody who may receive traffic; the native zone fallback answers");
        }
        for tier in items_of(plan, "/tiers") {
            let reason = output::printable(&text_of(tier, "/reason"));
            let _ = write!(
                text,
                "\n  tier {}: {} endpoints, {reason}",
                text_of(tier, "/tier"),
                text_of(tier, "/endpoints")
            );
        }
    }
    text
}

/// Every other region that told of the service.
fn regions(explain: &Value) -> String {
    let mut table = Table::new(["REGION", "STANDING", "HEALTHY", "ROUND TRIP", "TIER", "SHARE", "WHY"]);
    for region in items_of(explain, "/regions/remotes") {
        let says = |member: &str| region.get(member).and_then(Value::as_bool);
        let mut standing = text_of(region, "/freshness");
        let remarks =
            [(says("reachable") == Some(false), "unreachable"), (says("draining") == Some(true), "draining")];
        for (_, remark) in remarks.iter().filter(|(holds, _)| *holds) {
            let _ = write!(standing, ", {remark}");
        }
        // Parts in 1,000 of its rightful traffic.
        if let Some(ramp) = region.get("ramp").and_then(Value::as_u64).filter(|ramp| *ramp < 1_000) {
            let _ = write!(standing, ", recovering at {} %", ramp / 10);
        }
        let share = region.get("share").and_then(Value::as_f64).unwrap_or(0.0);
        table.row([
            text_of(region, "/region"),
            standing,
            format!("{} of {}", text_of(region, "/healthy"), text_of(region, "/total")),
            format!("{} ms", text_of(region, "/roundTripMs")),
            text_of(region, "/tier"),
            if says("kept") == Some(true) { percent(share) } else { String::new() },
            text_of(region, "/why"),
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn answer() -> Value {
        json!({ "service": "orders-api", "namespace": "default", "region": "ap-south-1", "index": 31, "incarnation": "1-a",
            "ageMs": 40, "policy": { "name": "zone-fallback", "version": "sha256:0123456789abcdef", "outcome": "ok" }, "tier": 0,
            "endpoints": [
                { "id": "a-1", "host": "10.0.0.1", "port": 80, "zone": "ap-south-1a", "version": "1.0", "tier": 0, "share": 1.0 },
                { "id": "b-1", "host": "::1", "port": 81, "zone": "ap-south-1b", "version": "", "tier": 1, "share": 0.0,
                  "degraded": true } ] })
    }

    #[test]
    fn an_answer_is_a_table_and_where_it_comes_from() {
        let text = render("default/orders-api", &answer());
        let lines: Vec<&str> = text.lines().collect();
        let cells = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(cells(lines[3]), ["10.0.0.1:80", "ap-south-1a", "1.0", "a-1", "0", "100.0", "%"]);
        assert_eq!(cells(lines[4]), ["[::1]:81", "ap-south-1b", "(degraded)", "b-1", "1", "0", "%"]);
        assert_eq!(
            lines[6],
            "policy zone-fallback sha256:0123456789ab ok · tier 0 · region ap-south-1 · index 31 · age 40 ms"
        );
    }

    #[test]
    fn an_answer_of_another_region_says_so() {
        let mut answer = answer();
        answer["reason"] = json!("eu-west-1");
        answer["endpoints"][0]["region"] = json!("ap-south-1");
        let remote = &mut answer["endpoints"][1];
        for (name, value) in [
            ("region", json!("eu-west-1")),
            ("freshness", json!("fresh")),
            ("ageMs", json!(412)),
            ("share", json!(0.25)),
        ] {
            remote[name] = value;
        }
        let text = render("default/orders-api", &answer);
        for said in [
            "INSTANCE  REGION      FRESHNESS  AGE     TIER  SHARE",
            "a-1       ap-south-1  -          -       0     100.0 %",
            "b-1       eu-west-1   fresh      412 ms  1     25.0 %",
            "tier 0 (eu-west-1) · region ap-south-1",
            "\nout of the region: eu-west-1 25.0 % (fresh, 412 ms old)",
        ] {
            assert!(text.contains(said), "{said} in\n{text}");
        }
        // One endpoint has no shares.
        let remote = answer["endpoints"].as_array_mut().unwrap().split_off(1);
        answer["endpoints"] = json!(remote);
        let _ = answer["endpoints"][0].as_object_mut().unwrap().remove("share");
        assert_eq!(abroad(&answer), "eu-west-1 (fresh, 412 ms old)");
    }

    #[test]
    fn an_outcome_other_than_ok_says_why() {
        let mut answer = answer();
        answer["policy"]["outcome"] = json!("fallback");
        answer["policy"]["reason"] = json!("trap: out of fuel");
        assert!(provenance(&answer).contains("fallback (trap: out of fuel)"));
    }

    #[test]
    fn an_explanation_accounts_for_every_candidate() {
        let explain = json!({ "plan": null,
            "plans": [{ "share": 10000, "tiers": [{ "tier": 0, "reason": "own zone", "endpoints": 1 }] }],
            "candidates": [
                { "id": "a-1", "zone": "z", "status": "healthy", "weight": 100, "kept": true, "tier": 0, "share": 1.0, "why": "in the plan" },
                { "id": "a-2", "zone": "z", "status": "draining", "weight": 100, "kept": false, "tier": null, "share": 0.0, "why": "dropped" }] });
        let text = explanation(&explain);
        assert!(
            text.contains("plan 0, 100.0 % of lookups without a key\n  tier 0: 1 endpoints, own zone"),
            "{text}"
        );
        assert!(
            text.lines().nth(2).is_some_and(|line| line.starts_with("a-2") && line.ends_with("dropped")),
            "{text}"
        );
    }

    #[test]
    fn an_explanation_tells_of_every_region() {
        let region = |name: &str, reachable: bool, kept: bool, why: &str| {
            json!({ "region": name, "freshness": "fresh", "reachable": reachable, "draining": false, "ramp": 250,
                "roundTripMs": 40, "healthy": 3, "total": 4, "kept": kept, "tier": if kept { json!(1) } else { json!(null) },
                "share": 0.0, "why": why })
        };
        let explain = json!({ "plans": [], "candidates": [], "regions": { "remotes": [
            region("eu-west-1", true, true, "in the plan"),
            region("us-east-1", false, false, "outside the binding's limits.regions; not reachable") ] } });
        let text = explanation(&explain);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[2].starts_with("REGION "), "{text}");
        for told in ["eu-west-1", "fresh, recovering at 25 %", "3 of 4", "40 ms", "0 %", "in the plan"] {
            assert!(lines[3].contains(told), "{told}: {text}");
        }
        let told = ["us-east-1", "fresh, unreachable", "limits.regions; not reachable"];
        assert!(told.iter().all(|told| lines[4].contains(told)), "{text}");
    }

    #[test]
    fn labels_and_keys_reach_the_query() {
        let question = Question {
            service: "s".parse().unwrap(),
            namespace: Namespace::default(),
            zone: None,
            key: Some("a b".into()),
            labels: vec![("x".into(), "1".into())],
        };
        let query = question.query();
        assert!(
            query.contains(&("key".into(), "a b".into())) && query.contains(&("label.x".into(), "1".into()))
        );
    }
}
