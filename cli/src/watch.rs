//! `meridian watch`: follows the final answer to a lookup, a line per change.

use crate::connection::{Connection, Global};
use crate::credential::Role;
use crate::event_stream::{Event, EventStream};
use crate::failure::{Failure, Refusal};
use crate::output::{self, items_of, percent, span, text_of};
use crate::resolve::{self, Question};
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use jiff::Timestamp;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

/// Three times the pause between a gateway's signs of life.
const SILENCE: Duration = Duration::from_secs(45);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Names in one line; more are counted.
const MAX_NAMES: usize = 4;

/// Follow where traffic for a service goes: a line per change
///
/// What is watched is the final answer, after the policy: a change that does not alter it prints nothing. Times are UTC. A
/// lost connection is taken up again where it broke off. Ctrl-C ends it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  meridian watch orders-api --zone ap-south-1a\n  \
    meridian watch orders-api --json | jq .data.endpoints[].id")]
pub(crate) struct Arguments {
    #[command(flatten)]
    question: Question,
}

fn waits() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(250))
        .with_max_delay(Duration::from_secs(4))
        .without_max_times()
        .with_jitter()
        .build()
}

pub(crate) async fn run(arguments: Arguments, global: &Global) -> Result<(), Failure> {
    let question = arguments.question;
    let connection = Connection::open(global, Role::Reader)?;
    let mut watch =
        Watch { connection: &connection, question: &question, last_id: None, seen: None, json: global.json };
    let mut backoff = waits();
    let mut connected_before = false;
    loop {
        let ended = match watch.open().await {
            Ok(response) => {
                if connected_before {
                    output::remark(format_args!("{}  connected again", clock()));
                }
                connected_before = true;
                backoff = waits();
                watch.follow(response).await
            }
            // The first attempt shows whether the command was right; later ones go on.
            Err(failure) if !connected_before || !may_pass(&failure) => return Err(failure),
            Err(failure) => failure.to_string().lines().next().unwrap_or_default().to_owned(),
        };
        let wait = backoff.next().unwrap_or(Duration::from_secs(4));
        let millis = u64::try_from(wait.as_millis()).unwrap_or(0);
        output::remark(format_args!("{}  {ended}; trying again in {}", clock(), span(millis)));
        tokio::time::sleep(wait).await;
    }
}

fn may_pass(failure: &Failure) -> bool {
    matches!(failure.exit_code(), 3 | 5 | 6)
}

fn clock() -> String {
    Timestamp::now().strftime("%H:%M:%S%.3f").to_string()
}

struct Watch<'a> {
    connection: &'a Connection,
    question: &'a Question,
    last_id: Option<String>,
    seen: Option<Seen>,
    json: bool,
}

impl Watch<'_> {
    async fn open(&self) -> Result<reqwest::Response, Failure> {
        let mut query = self.question.query();
        query.push(("n".to_owned(), "all".to_owned()));
        let mut request = self.connection.request(Method::GET, &self.question.path(), &query)?;
        request = request.header("accept", "text/event-stream");
        if let Some(id) = &self.last_id {
            request = request.header("last-event-id", id);
        }
        let gateway = self.connection.gateway();
        let response = match tokio::time::timeout(ANSWER_TIMEOUT, request.send()).await {
            Ok(sent) => sent.map_err(|error| self.connection.unreachable(&error))?,
            Err(_) => return Err(Failure::Unreachable(format!("no answer in time from {gateway}"))),
        };
        if !response.status().is_success() {
            let status = response.status().as_u16();
            return Err(Refusal::read(status, &self.connection.read(response).await?).into());
        }
        let media =
            response.headers().get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
        if !media.starts_with("text/event-stream") {
            return Err(Failure::Failed(anyhow::anyhow!(
                "{gateway} does not answer with an event stream: is it a gateway?"
            )));
        }
        Ok(response)
    }

    /// Prints events until the stream ends; says why it did.
    async fn follow(&mut self, mut response: reqwest::Response) -> String {
        let mut stream = EventStream::default();
        loop {
            let events = match tokio::time::timeout(SILENCE, response.chunk()).await {
                Ok(Ok(Some(bytes))) => stream.push(&bytes),
                Ok(Ok(None)) => return "the gateway ended the stream".to_owned(),
                Ok(Err(_)) => return "the connection broke off".to_owned(),
                Err(_) => return format!("no sign of life for {} s", SILENCE.as_secs()),
            };
            match events {
                Ok(events) => events.into_iter().for_each(|event| self.show(event)),
                Err(_) => return "an event was too long".to_owned(),
            }
        }
    }

    fn show(&mut self, event: Event) {
        let Event { name, id, data } = event;
        let data: Value = serde_json::from_str(&data).unwrap_or(Value::Null);
        self.last_id = id;
        if self.json {
            output::say(json!({ "event": name, "tag": self.last_id, "data": data }));
            return;
        }
        if self.seen.is_none() {
            output::say(self.question.words());
        }
        let now = Seen::of(&data);
        output::say(format_args!("{}  {name:<8}  {}", clock(), line(self.seen.as_ref(), &now, &data)));
        self.seen = Some(now);
    }
}

/// The endpoints of an answer, by id.
#[derive(Debug, Default)]
struct Seen {
    ids: BTreeSet<String>,
}

impl Seen {
    fn of(answer: &Value) -> Self {
        Self { ids: items_of(answer, "/endpoints").iter().map(|endpoint| text_of(endpoint, "/id")).collect() }
    }
}

/// One answer in one line: where lookups go, what would be next, who came and went.
fn line(before: Option<&Seen>, now: &Seen, answer: &Value) -> String {
    let mut text = match answer.get("code").and_then(Value::as_str) {
        Some(_) => {
            let problem = Refusal::from_body(503, answer.clone()).to_string();
            problem.lines().next().unwrap_or_default().to_owned()
        }
        None => tiers(answer) + &versions(answer),
    };
    if let Some(before) = before {
        for (word, names) in
            [("gone", before.ids.difference(&now.ids)), ("new", now.ids.difference(&before.ids))]
        {
            let names: Vec<&str> = names.map(String::as_str).collect();
            if !names.is_empty() {
                let _ = write!(text, " · {word} {}", some_of(&names));
            }
        }
    }
    if answer.get("policy").is_some() {
        if answer.get("reason").is_some_and(Value::is_string) {
            let _ = write!(text, " · {}", resolve::tier(answer));
        }
        let abroad = resolve::abroad(answer);
        if !abroad.is_empty() {
            let _ = write!(text, " · out of the region: {abroad}");
        }
        let (name, outcome) = (text_of(answer, "/policy/name"), text_of(answer, "/policy/outcome"));
        let _ = write!(text, " · {name} {outcome}");
        let reason = text_of(answer, "/policy/reason");
        if !reason.is_empty() {
            let _ = write!(text, " ({})", output::printable(&reason));
        }
        let _ = write!(text, " · index {}", text_of(answer, "/index"));
    }
    text
}

fn some_of(names: &[&str]) -> String {
    let shown = names.iter().take(MAX_NAMES).copied().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(MAX_NAMES) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// `ap-south-1a 100.0 % (2), then ap-south-1b (2)`: zones with what they get, then the next tiers.
fn tiers(answer: &Value) -> String {
    let mut tiers: BTreeMap<u64, BTreeMap<String, (f64, usize)>> = BTreeMap::new();
    for endpoint in items_of(answer, "/endpoints") {
        let tier = endpoint.get("tier").and_then(Value::as_u64).unwrap_or(0);
        let zone = tiers.entry(tier).or_default().entry(zone(answer, endpoint)).or_default();
        zone.0 += endpoint.get("share").and_then(Value::as_f64).unwrap_or(0.0);
        zone.1 += 1;
    }
    let tier = |zones: &BTreeMap<String, (f64, usize)>| {
        let zones = zones.iter().map(|(zone, (share, count))| match *share {
            0.0 => format!("{zone} ({count})"),
            share => format!("{zone} {} ({count})", percent(share)),
        });
        zones.collect::<Vec<_>>().join(", ")
    };
    tiers.values().map(tier).collect::<Vec<_>>().join(", then ")
}

/// The zone of an endpoint, with the region where that is another and the zone's own name does not tell it.
fn zone(answer: &Value, endpoint: &Value) -> String {
    let zone = text_of(endpoint, "/zone");
    match resolve::other_region(answer, endpoint) {
        // An ingress stands for all zones.
        Some(region) if zone.is_empty() => region.to_owned(),
        Some(region) if !zone.starts_with(region) => format!("{region}/{zone}"),
        _ => zone,
    }
}

/// What each version gets, where there are several.
fn versions(answer: &Value) -> String {
    let mut shares: BTreeMap<String, f64> = BTreeMap::new();
    for endpoint in items_of(answer, "/endpoints") {
        let share = endpoint.get("share").and_then(Value::as_f64).unwrap_or(0.0);
        *shares.entry(output::printable(&text_of(endpoint, "/version"))).or_default() += share;
    }
    if shares.len() < 2 {
        return String::new();
    }
    let shares = shares.iter().map(|(version, share)| format!("{version} {}", percent(*share)));
    format!(" · versions {}", shares.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(endpoints: &[(&str, &str, u64, f64)]) -> Value {
        let endpoints: Vec<Value> = endpoints
            .iter()
            .map(|(id, zone, tier, share)| json!({ "id": id, "zone": zone, "tier": tier, "share": share, "version": "1" }))
            .collect();
        json!({ "index": 7, "policy": { "name": "zone-fallback", "outcome": "ok" }, "endpoints": endpoints })
    }

    #[test]
    fn a_line_says_where_lookups_go_and_who_came_and_went() {
        let first = answer(&[("a-1", "za", 0, 0.5), ("a-2", "za", 0, 0.5), ("b-1", "zb", 1, 0.0)]);
        let then = answer(&[("b-1", "zb", 0, 0.5), ("b-2", "zb", 0, 0.5)]);
        let seen = Seen::of(&first);
        assert_eq!(line(None, &seen, &first), "za 100.0 % (2), then zb (1) · zone-fallback ok · index 7");
        assert_eq!(
            line(Some(&seen), &Seen::of(&then), &then),
            "zb 100.0 % (2) · gone a-1, a-2 · new b-2 · zone-fallback ok · index 7"
        );
    }

    #[test]
    fn a_shift_between_versions_is_seen() {
        let mut shifted = answer(&[("a-1", "za", 0, 0.8), ("a-2", "za", 0, 0.2)]);
        shifted["endpoints"][1]["version"] = json!("2");
        let text = line(None, &Seen::of(&shifted), &shifted);
        assert!(text.starts_with("za 100.0 % (2) · versions 1 80.0 %, 2 20.0 % · "), "{text}");
    }

    #[test]
    fn what_leaves_the_region_is_said() {
        let mut shifted = answer(&[("a-1", "za", 0, 0.75), ("b-1", "zb", 0, 0.25), ("c-1", "us-a", 1, 0.0)]);
        shifted["tier"] = json!(0);
        (shifted["region"], shifted["reason"]) = (json!("ap"), json!("own zone is short"));
        for (at, region) in ["ap", "eu", "us"].into_iter().enumerate() {
            shifted["endpoints"][at]["region"] = json!(region);
        }
        shifted["endpoints"][1]["freshness"] = json!("suspect");
        shifted["endpoints"][1]["ageMs"] = json!(7_000);
        assert_eq!(
            line(None, &Seen::of(&shifted), &shifted),
            "eu/zb 25.0 % (1), za 75.0 % (1), then us-a (1) · tier 0 (own zone is short) · out of the region: \
             eu 25.0 % (suspect, 7.0 s old) · zone-fallback ok · index 7"
        );
    }

    #[test]
    fn a_refusal_is_a_line_like_any_other() {
        let seen = Seen::of(&answer(&[("a-1", "za", 0, 1.0)]));
        let problem = json!({ "status": 503, "code": "none-healthy", "detail": "d", "requestId": "r" });
        assert_eq!(line(Some(&seen), &Seen::of(&problem), &problem), "none-healthy: d · gone a-1");
    }

    #[test]
    fn many_names_are_counted() {
        assert_eq!(some_of(&["a", "b", "c", "d", "e", "f"]), "a, b, c, d and 2 more");
    }
}
