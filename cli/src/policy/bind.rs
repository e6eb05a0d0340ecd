//! `meridian policy bind`: lets a policy answer.

use crate::arguments;
use crate::connection::{Connection, Global, Payload};
use crate::credential::Role;
use crate::failure::Failure;
use crate::output::{self, items_of, percent, printable, short_version, text_of};
use meridian_model::binding::NAMESPACE_DEFAULT;
use meridian_model::names::{BadName, Namespace, PolicyName, PolicyVersion, RegionName, ServiceName};
use reqwest::Method;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Let a policy answer for a service, or for a namespace, or try it there
///
/// Takes effect at every gateway of the region within a second. The policy that answered before is kept as last good: it
/// answers wherever the new one fails. With --stage shadow the policy is asked beside the one that answers, and changes
/// no answer; with --stage canary it answers a percentage of the lookups. `meridian policy diff` shows what it would
/// change, `promote` lets it answer, `rollback` gives it up.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    meridian policy bind orders-api canary --config '{\"percent\": 10}'\n  \
    meridian policy bind orders-api canary --config @canary.json --label x-canary\n  \
    meridian policy bind orders-api my-policy --stage shadow\n  \
    meridian policy bind orders-api my-policy --stage canary --percent 5\n  \
    meridian policy bind _default zone-fallback --namespace staging --regions eu-west-1,us-east-1")]
pub(crate) struct Arguments {
    /// Service, or _default for every service of the namespace that has no binding of its own
    service: Place,
    /// Policy, standard or uploaded
    policy: PolicyName,
    /// Version, sha256:… [default: the newest]
    #[arg(long)]
    version: Option<PolicyVersion>,
    /// JSON that the policy is opened with, or @FILE
    #[arg(long, value_name = "JSON|@FILE")]
    config: Option<ConfigSource>,
    /// How it takes part: active answers, shadow is only asked, canary answers --percent of the lookups
    #[arg(long, value_enum, default_value = "active")]
    stage: Stage,
    /// Of a canary: the part of the lookups that it answers, 0 to 100
    #[arg(long, value_name = "N", required_if_eq("stage", "canary"))]
    percent: Option<f64>,
    /// Namespace
    #[arg(long, default_value = "default")]
    namespace: Namespace,
    /// Label of callers that may reach the policy; may be repeated
    #[arg(long = "label", value_name = "KEY")]
    labels: Vec<String>,
    #[command(flatten)]
    limits: LimitArguments,
    /// Why, for the history (at most 256 bytes)
    #[arg(long, default_value = "")]
    reason: String,
}

/// What no policy may widen. An active one that is bound without them may use all regions.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct LimitArguments {
    /// Regions that lookups may be answered from besides their own: all, or names with commas
    #[arg(long, value_name = "REGIONS")]
    regions: Option<Regions>,
    /// Greatest part of the lookups that may leave the region, 0 to 1
    #[arg(long, value_name = "PART", value_parser = arguments::part)]
    max_remote_share: Option<f64>,
}

impl LimitArguments {
    /// As bodies hold it, where anything is said.
    pub(crate) fn body(&self) -> Option<Value> {
        let mut limits = Map::new();
        limits.extend(self.regions.as_ref().map(|regions| {
            let named = match regions {
                Regions::All => json!("all"),
                Regions::Only(names) => json!(names),
            };
            ("regions".to_owned(), named)
        }));
        limits.extend(self.max_remote_share.map(|share| ("maxRemoteShare".to_owned(), json!(share))));
        (!limits.is_empty()).then_some(Value::Object(limits))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Stage {
    Active,
    Shadow,
    Canary,
}

impl Stage {
    fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Shadow => "shadow",
            Self::Canary => "canary",
        }
    }
}

/// What a binding is for.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    Service(ServiceName),
    Namespace,
}

impl FromStr for Place {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        if text == NAMESPACE_DEFAULT { Ok(Self::Namespace) } else { text.parse().map(Self::Service) }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(service) => service.fmt(f),
            Self::Namespace => f.write_str(NAMESPACE_DEFAULT),
        }
    }
}

/// Where a config comes from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ConfigSource {
    File(PathBuf),
    Inline(Value),
}

impl FromStr for ConfigSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix('@') {
            Some(path) => Ok(Self::File(PathBuf::from(path))),
            None => object(text).map(Self::Inline),
        }
    }
}

fn object(text: &str) -> Result<Value, String> {
    match serde_json::from_str(text) {
        Ok(config @ Value::Object(_)) => Ok(config),
        Ok(_) => Err("must be a JSON object, such as {\"percent\": 10}".to_owned()),
        Err(error) => Err(format!("is no JSON: {error}")),
    }
}

impl ConfigSource {
    pub(crate) fn read(self) -> Result<Value, Failure> {
        match self {
            Self::Inline(config) => Ok(config),
            Self::File(path) => {
                let text =
                    std::fs::read_to_string(&path).map_err(|error| Failure::unreadable(&path, &error))?;
                object(&text).map_err(|wrong| Failure::Usage(format!("{}: {wrong}", path.display())))
            }
        }
    }
}

/// Which regions may answer.
#[derive(Debug, Clone)]
enum Regions {
    All,
    Only(Vec<RegionName>),
}

impl FromStr for Regions {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        if text == "all" {
            return Ok(Self::All);
        }
        text.split(',')
            .filter(|name| !name.is_empty())
            .map(str::parse)
            .collect::<Result<_, _>>()
            .map(Self::Only)
    }
}

impl Arguments {
    fn body(self) -> Result<Value, Failure> {
        let mut body = Map::new();
        body.insert("policy".to_owned(), json!(self.policy));
        if let Some(version) = self.version {
            body.insert("version".to_owned(), json!(version));
        }
        if let Some(config) = self.config {
            body.insert("config".to_owned(), config.read()?);
        }
        body.insert("stage".to_owned(), json!(self.stage.as_str()));
        if let Some(percent) = self.percent {
            body.insert("percent".to_owned(), json!(percent));
        }
        body.extend(self.limits.body().map(|limits| ("limits".to_owned(), limits)));
        if !self.reason.is_empty() {
            body.insert("reason".to_owned(), json!(self.reason));
        }
        if !self.labels.is_empty() {
            body.insert("callerLabels".to_owned(), json!(self.labels));
        }
        Ok(Value::Object(body))
    }
}

pub(crate) async fn run(arguments: Arguments, global: &Global) -> Result<(), Failure> {
    let path = format!("/v1/namespaces/{}/bindings/{}", arguments.namespace, arguments.service);
    let stage = arguments.stage;
    let body = arguments.body()?;
    let connection = Connection::open(global, Role::Operator)?;
    let before = match connection.get(&path, &[]).await {
        Ok(stands) => Some(stands.body),
        // The first binding of its place.
        Err(Failure::Refused(refusal)) if refusal.status == 404 => None,
        Err(failure) => return Err(failure),
    };
    let answer = connection.send(Method::PUT, &path, &[], Payload::Json(body)).await?;
    if global.json {
        output::json(&answer.body);
    } else {
        output::say(render(&answer.body, stage));
    }
    let warning = text_of(&answer.body, "/warning");
    if !warning.is_empty() {
        output::remark(format_args!("warning: {}", printable(&warning)));
    }
    for change in before.iter().flat_map(|before| loosened(before, &answer.body)) {
        output::remark(format_args!("warning: {change}"));
    }
    Ok(())
}

/// What a binding allows now and did not before, or no longer lets through. A binding is replaced whole, so that this
/// happens to whoever leaves out what they said last time.
fn loosened(before: &Value, after: &Value) -> Vec<String> {
    let mut told = Vec::new();
    let names = |binding: &Value, at: &str| -> BTreeSet<String> {
        items_of(binding, at).iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let (was, is) = (names(before, "/limits/regions"), names(after, "/limits/regions"));
    let all = |binding: &Value| text_of(binding, "/limits/regions") == "all";
    if !all(before) && (all(after) || !is.is_subset(&was)) {
        told.push(format!("more regions may answer than before, which were: {}", regions(before)));
    }
    let share = |binding: &Value| binding.pointer("/limits/maxRemoteShare").and_then(Value::as_f64);
    if let (Some(was), Some(is)) = (share(before), share(after))
        && is > was
    {
        told.push(format!(
            "up to {} of the lookups may leave the region, before {}",
            percent(is),
            percent(was)
        ));
    }
    let (was, is) = (names(before, "/callerLabels"), names(after, "/callerLabels"));
    let gone: Vec<String> = was.difference(&is).map(|label| printable(label)).collect();
    if !gone.is_empty() {
        told.push(format!("no longer shown to the policy: {}", gone.join(", ")));
    }
    told
}

/// Which regions may answer besides their own.
pub(super) fn regions(binding: &Value) -> String {
    let named: Vec<&str> = items_of(binding, "/limits/regions").iter().filter_map(Value::as_str).collect();
    match (text_of(binding, "/limits/regions") == "all", named.is_empty()) {
        (true, _) => "all".to_owned(),
        (false, true) => "only its own".to_owned(),
        (false, false) => named.join(", "),
    }
}

/// How much may go there.
pub(super) fn remote_share(binding: &Value) -> String {
    percent(binding.pointer("/limits/maxRemoteShare").and_then(Value::as_f64).unwrap_or(1.0))
}

fn render(binding: &Value, stage: Stage) -> String {
    let text = |pointer: &str| text_of(binding, pointer);
    let whom = whom(binding);
    let version = |at: &str| {
        format!("{} {}", text(&format!("{at}/policy")), short_version(&text(&format!("{at}/version"))))
    };
    let tried = (stage != Stage::Active).then_some(stage.as_str());
    let shown = if tried.is_some() { "/candidate" } else { "/active" };
    let mut said = match tried {
        Some("canary") => {
            let percent = text("/candidate/percent");
            format!("{} answers {percent} % of the lookups of {whom}", version(shown))
        }
        Some(_) => format!("{} is asked beside what answers for {whom}", version(shown)),
        None => format!("{} answers for {whom}", version(shown)),
    };
    said.push_str(&format!(" (index {})", text("/index")));
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            said.push_str(&format!("\n  {name:<9} {value}"));
        }
    };
    line("config", text(&format!("{shown}/config")));
    if tried.is_some() {
        line("active", version("/active"));
    }
    line("regions", regions(binding));
    line("remote", format!("up to {} of the lookups", remote_share(binding)));
    let labels: Vec<&str> = items_of(binding, "/callerLabels").iter().filter_map(Value::as_str).collect();
    line("labels", if labels.is_empty() { "none".to_owned() } else { labels.join(", ") });
    if let Some(before) = items_of(binding, "/lastGood").first() {
        line(
            "before",
            format!("{} {}", text_of(before, "/policy"), short_version(&text_of(before, "/version"))),
        );
    }
    if binding.get("applied") == Some(&Value::Bool(false)) {
        line("note", "stored; this gateway does not answer with it yet".to_owned());
    }
    if tried.is_some() {
        said.push_str(&format!(
            "\nnext: meridian policy diff {} --namespace {}",
            text("/service"),
            text("/namespace")
        ));
    }
    said
}

/// Whom a binding is for, in words.
pub(super) fn whom(binding: &Value) -> String {
    let (namespace, service) = (text_of(binding, "/namespace"), text_of(binding, "/service"));
    match service.as_str() {
        NAMESPACE_DEFAULT => format!("every service of {namespace} without a binding of its own"),
        _ => format!("{namespace}/{service}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command_line::{Command, CommandLine};
    use clap::Parser;

    fn body(line: &[&str]) -> Value {
        let words = ["meridian", "policy", "bind"].iter().chain(line);
        let parsed = CommandLine::try_parse_from(words).unwrap();
        let Command::Policy(super::super::Command::Bind(arguments)) = parsed.command else {
            panic!("not bind")
        };
        arguments.body().unwrap()
    }

    #[test]
    fn limits_and_labels_are_sent_only_when_said() {
        assert_eq!(body(&["orders", "canary"]), json!({ "policy": "canary", "stage": "active" }));
        assert_eq!(
            body(&[
                "_default",
                "canary",
                "--regions",
                "eu-west-1,us-east-1",
                "--label",
                "a",
                "--config",
                "{\"percent\":1}"
            ]),
            json!({ "policy": "canary", "stage": "active", "limits": { "regions": ["eu-west-1", "us-east-1"] },
                "callerLabels": ["a"], "config": { "percent": 1 } })
        );
        assert_eq!(body(&["s", "canary", "--regions", "all"])["limits"], json!({ "regions": "all" }));
        let limited = body(&["s", "canary", "--max-remote-share", "0.2", "--reason", "x"]);
        assert_eq!(limited["limits"], json!({ "maxRemoteShare": 0.2 }));
        assert_eq!(limited["reason"], "x");
    }

    #[test]
    fn what_a_binding_loses_or_opens_is_told() {
        let binding = |regions: Value, share: f64, labels: Value| json!({ "limits": { "regions": regions, "maxRemoteShare": share }, "callerLabels": labels });
        let narrow = binding(json!(["eu"]), 0.2, json!(["team"]));
        assert_eq!(loosened(&narrow, &narrow), Vec::<String>::new());
        let told = loosened(&narrow, &binding(json!("all"), 1.0, json!([])));
        assert!(told[0].ends_with("which were: eu") && told[1].ends_with("before 20.0 %"), "{told:?}");
        assert!(told[2].ends_with(": team") && told.len() == 3, "{told:?}");
        assert_eq!(loosened(&narrow, &binding(json!(["us"]), 0.1, json!(["team", "x"]))).len(), 1);
        assert!(loosened(&binding(json!("all"), 1.0, json!([])), &narrow).is_empty());
    }

    #[test]
    fn a_config_is_an_object_here_or_in_a_file() {
        assert_eq!("@x.json".parse(), Ok(ConfigSource::File("x.json".into())));
        for bad in ["[]", "1", "{", ""] {
            assert!(bad.parse::<ConfigSource>().is_err(), "{bad}");
        }
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("c.json");
        std::fs::write(&file, "{\"percent\": 5}").unwrap();
        assert_eq!(ConfigSource::File(file.clone()).read().unwrap(), json!({ "percent": 5 }));
        std::fs::write(&file, "[]").unwrap();
        assert_eq!(ConfigSource::File(file).read().unwrap_err().exit_code(), 2);
        let absent = ConfigSource::File(directory.path().join("absent"));
        assert_eq!(absent.read().unwrap_err().exit_code(), 2);
    }

    #[test]
    fn an_answer_says_what_answers_for_whom() {
        let binding = json!({ "namespace": "default", "service": "orders-api", "index": 9, "applied": true,
            "active": { "policy": "canary", "version": "sha256:0123456789abcdef", "config": { "percent": 10 } },
            "lastGood": [{ "policy": "weighted", "version": "sha256:ffffffffffffffff", "config": null }],
            "limits": { "regions": "all", "maxRemoteShare": 1.0 }, "callerLabels": [] });
        assert_eq!(
            render(&binding, Stage::Active),
            "canary sha256:0123456789ab answers for default/orders-api (index 9)\n  config    {\"percent\":10}\n  \
             regions   all\n  remote    up to 100.0 % of the lookups\n  labels    none\n  before    weighted sha256:ffffffffffff"
        );
    }
}
