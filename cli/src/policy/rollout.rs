//! `meridian policy promote|rollback|diff`: what becomes of a candidate.

use super::bind::{Place, whom};
use super::standing::{self, version};
use super::trial::clamped;
use crate::connection::{Connection, Global, Payload};
use crate::credential::Role;
use crate::failure::Failure;
use crate::output::{self, Table, counted, items_of, percent, printable, text_of};
use meridian_model::names::Namespace;
use reqwest::Method;
use serde_json::{Map, Value, json};

/// Where a binding shows its versions.
const CANDIDATE: &str = "/candidate/version";
const ACTIVE: &str = "/active/version";

/// Let the candidate answer in place of the active version
///
/// Refused (409 not-proven) while the candidate has failed, has been asked too seldom, or would refuse or move too many
/// lookups by what the gateway has seen of it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  meridian policy promote orders-api\n  \
    meridian policy promote orders-api --force --reason \"the shift is wanted: zone a is being emptied\"")]
pub(crate) struct PromoteArguments {
    #[command(flatten)]
    place: PlaceArguments,
    /// Promote against the evidence; needs --reason
    #[arg(long, requires = "reason")]
    force: bool,
    /// Why, for the history (at most 256 bytes)
    #[arg(long)]
    reason: Option<String>,
}

/// Give up the candidate; without one, let answer what answered before
///
/// Takes effect at every gateway of the region within half a second.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  meridian policy rollback orders-api --reason \"latency in zone b\"\n  \
    meridian policy rollback orders-api --active --reason \"the candidate is not what is wrong\"")]
pub(crate) struct RollbackArguments {
    #[command(flatten)]
    place: PlaceArguments,
    /// Roll back the active version, and leave a candidate where it is
    #[arg(long)]
    active: bool,
    /// Why, for the history (at most 256 bytes)
    #[arg(long)]
    reason: Option<String>,
}

/// Show what the candidate would change, by what the gateway has seen of live lookups
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  meridian policy diff orders-api")]
pub(crate) struct DiffArguments {
    #[command(flatten)]
    place: PlaceArguments,
}

#[derive(Debug, clap::Args)]
pub(super) struct PlaceArguments {
    /// Service, or _default for the namespace's binding
    service: Place,
    /// Namespace
    #[arg(long, default_value = "default")]
    namespace: Namespace,
}

impl PlaceArguments {
    /// Where the binding stands in the API.
    pub(super) fn binding(&self) -> String {
        format!("/v1/namespaces/{}/bindings/{}", self.namespace, self.service)
    }

    /// As people say it.
    pub(super) fn target(&self) -> String {
        format!("{}/{}", self.namespace, self.service)
    }

    fn path(&self, last: &str) -> String {
        format!("{}/{last}", self.binding())
    }
}

pub(crate) async fn promote(arguments: PromoteArguments, global: &Global) -> Result<(), Failure> {
    let connection = Connection::open(global, Role::Operator)?;
    let before = connection.get(&arguments.place.binding(), &[]).await?.body;
    let mut body = meant(&before, &[CANDIDATE, ACTIVE]);
    if arguments.force {
        body.insert("force".to_owned(), json!(true));
    }
    body.extend(arguments.reason.map(|reason| ("reason".to_owned(), json!(reason))));
    let after = change(&connection, &arguments.place.path("promote"), body).await?;
    if global.json {
        output::json(&after);
    } else {
        output::say(format_args!("{} answers for {}", version(&after, "/active"), whom(&after)));
    }
    Ok(())
}

pub(crate) async fn rollback(arguments: RollbackArguments, global: &Global) -> Result<(), Failure> {
    let of: &[&str] = if arguments.active { &[ACTIVE] } else { &[CANDIDATE, ACTIVE] };
    let connection = Connection::open(global, Role::Operator)?;
    let before = connection.get(&arguments.place.binding(), &[]).await?.body;
    let mut body = meant(&before, of);
    body.extend(arguments.reason.map(|reason| ("reason".to_owned(), json!(reason))));
    let after = change(&connection, &arguments.place.path("rollback"), body).await?;
    if global.json {
        output::json(&after);
    } else {
        output::say(given_up(&before, &after));
    }
    Ok(())
}

/// What is meant is what stands there now, in the first of these places where there is something: a version that comes in
/// between is not touched.
fn meant(binding: &Value, of: &[&str]) -> Map<String, Value> {
    let version = of.iter().find_map(|at| binding.pointer(at));
    version.map(|version| ("version".to_owned(), version.clone())).into_iter().collect()
}

async fn change(connection: &Connection, path: &str, body: Map<String, Value>) -> Result<Value, Failure> {
    let body = Payload::Json(Value::Object(body));
    Ok(connection.send(Method::POST, path, &[], body).await?.body)
}

/// What a roll-back took away, and what answers now.
fn given_up(before: &Value, after: &Value) -> String {
    let active = |binding: &Value| {
        ["policy", "version", "config"].map(|name| binding.pointer(&format!("/active/{name}")).cloned())
    };
    // What is returned to may have been the candidate, which then is none any more.
    let (at, done) = match active(before) == active(after) {
        true => ("/candidate", "given up"),
        false => ("/active", "rolled back"),
    };
    format!("{} is {done}; {} answers for {}", version(before, at), version(after, "/active"), whom(after))
}

pub(crate) async fn diff(arguments: DiffArguments, global: &Global) -> Result<(), Failure> {
    let connection = Connection::open(global, Role::Operator)?;
    let answer = connection.get(&arguments.place.path("diff"), &[]).await?;
    if global.json {
        output::json(&answer.body);
    } else {
        output::say(render(&answer.body));
    }
    Ok(())
}

fn share(value: Option<&Value>) -> String {
    percent(value.and_then(Value::as_f64).unwrap_or(0.0))
}

fn render(binding: &Value) -> String {
    let Some(candidate) = binding.get("candidate").filter(|candidate| candidate.is_object()) else {
        let told = standing::told(binding);
        let gap = if told.contains('\n') { "\n\n" } else { "; " };
        return format!("{told}{gap}there is no candidate");
    };
    let text = |pointer: &str| text_of(candidate, pointer);
    let number = |pointer: &str| candidate.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
    let stage = match text("/stage").as_str() {
        "canary" => format!("canary, {} %", text("/percent")),
        stage => stage.to_owned(),
    };
    let mut said = standing::told(binding);
    said.push_str(&format!(
        "\n\n{} ({stage}) beside it, as {} saw it\n  asked     {}; {}\n  changed   {} of the answers\n  \
         refused   {} before, {} after\n  faults    {}",
        version(binding, "/candidate"),
        text_of(binding, "/gateway"),
        counted(number("/seen/answered"), "time"),
        // Counts are of all that was seen, while shares forget what is long ago.
        match number("/seen/lookups") {
            0 => "no lookup was compared yet".to_owned(),
            lookups => format!("shares are of the last {}", counted(lookups, "lookup")),
        },
        share(candidate.pointer("/seen/changed")),
        share(candidate.pointer("/seen/refused/before")),
        share(candidate.pointer("/seen/refused/after")),
        text("/seen/faults"),
    ));
    let fault = text("/seen/lastFault");
    if !fault.is_empty() {
        said.push_str(&format!(", last: {}", printable(&fault)));
    }
    let clamped = clamped(candidate.pointer("/seen/clamped"));
    if !clamped.is_empty() {
        said.push_str(&format!("\n  clamped   {clamped}"));
    }
    let mut table = Table::new(["PLACE", "BEFORE", "AFTER"]);
    let places = candidate.pointer("/seen/places").and_then(Value::as_object);
    for (place, pair) in places.into_iter().flatten() {
        table.row([place.clone(), share(pair.get("before")), share(pair.get("after"))]);
    }
    if places.is_some_and(|places| !places.is_empty()) {
        said.push_str(&format!("\n\n{}", table.render()));
    }
    if let Some(services) = services(items_of(candidate, "/seen/services")) {
        said.push_str(&format!("\n\n{services}"));
    }
    let mut examples = Table::new(["SERVICE", "ZONE", "KEY", "BEFORE", "AFTER"]);
    for example in items_of(candidate, "/seen/examples") {
        let cell = |name: &str| printable(&text_of(example, name));
        examples.row([cell("/service"), cell("/zone"), cell("/keyHash"), cell("/before"), cell("/after")]);
    }
    if !items_of(candidate, "/seen/examples").is_empty() {
        said.push_str(&format!("\n\n{}", examples.render()));
    }
    said.push_str("\n\n");
    match candidate.get("objection").and_then(Value::as_str) {
        Some(objection) => said.push_str(&format!("not yet: {}", printable(objection))),
        None => said.push_str(&format!(
            "next: meridian policy promote {} --namespace {}",
            text_of(binding, "/service"),
            text_of(binding, "/namespace")
        )),
    }
    said
}

/// Services that a text shows; `--json` holds more.
const MAX_SERVICES: usize = 10;

/// Of a binding for several services, those that would change most, as they come.
fn services(seen: &[Value]) -> Option<String> {
    if seen.len() < 2 {
        return None;
    }
    let mut table = Table::new(["SERVICE", "CHANGED", "REFUSED", "FAULTS", "LOOKUPS"]);
    for service in seen.iter().take(MAX_SERVICES) {
        table.row([
            text_of(service, "/service"),
            share(service.get("changed")),
            share(service.pointer("/refused/after")),
            text_of(service, "/faults"),
            text_of(service, "/lookups"),
        ]);
    }
    let more = match seen.len().saturating_sub(MAX_SERVICES) {
        0 => String::new(),
        more => format!("\nand {more} more, which change less"),
    };
    Some(format!("{}{more}", table.render()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diff_says_what_would_change_and_what_speaks_against_it() {
        let binding = json!({ "namespace": "default", "service": "orders-api", "gateway": "g-1",
            "active": { "policy": "p", "version": "sha256:0123456789abcdef", "soaked": true },
            "candidate": { "policy": "p", "version": "sha256:ffffffffffffffff", "stage": "canary", "percent": 5.0,
                "objection": "it failed 1 times",
                "seen": { "lookups": 200, "answered": 10, "changed": 0.25, "faults": 1, "lastFault": "trap",
                    "clamped": { "ineligible": 3, "remoteShare": 1 },
                    "services": [{ "service": "most", "changed": 0.5, "refused": { "before": 0.0, "after": 0.0 },
                        "faults": 0, "lookups": 7 }, { "service": "least", "changed": 0.0 }],
                    "refused": { "before": 0.0, "after": 0.5 }, "places": { "z-a": { "before": 1.0, "after": 0.5 } },
                    "examples": [{ "service": "orders-api", "zone": "z-a", "keyHash": null, "before": "a", "after": "b" }] } } });
        let text = render(&binding);
        for said in [
            "canary, 5.0 %",
            "p sha256:0123456789ab answers for default/orders-api and is known to be good\n\n",
            "10 times; shares are of the last 200 lookups",
            "25.0 % of the answers",
            "50.0 % after",
            "last: trap",
            "3 ineligible (endpoints that may not receive traffic), 1 over maxRemoteShare",
            "most     50.0 %",
            "least    0 %",
            "z-a",
            "not yet: it failed",
        ] {
            assert!(text.contains(said), "{said} in\n{text}");
        }
        let mut without = binding;
        without["candidate"] = Value::Null;
        assert!(render(&without).contains("is known to be good; there is no candidate"));
    }

    #[test]
    fn a_roll_back_says_what_went() {
        let bound = |policy: &str| json!({ "policy": policy, "version": "1" });
        let binding = |active: &str, candidate: Value| json!({ "namespace": "n", "service": "s", "active": bound(active), "candidate": candidate });
        let (plain, tried) = (binding("a", Value::Null), binding("a", bound("c")));
        assert_eq!(given_up(&tried, &plain), "c 1 is given up; a 1 answers for n/s");
        assert_eq!(given_up(&plain, &binding("b", Value::Null)), "a 1 is rolled back; b 1 answers for n/s");
        assert_eq!(given_up(&tried, &binding("b", bound("c"))), "a 1 is rolled back; b 1 answers for n/s");
    }
}
