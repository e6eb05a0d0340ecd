//! `meridian policy bind`: lets a policy answer.

use crate::connection::{Connection, Global, Payload};
use crate::credential::Role;
use crate::failure::Failure;
use crate::output::{self, items_of, short_version, text_of};
use anyhow::Context;
use meridian_model::binding::NAMESPACE_DEFAULT;
use meridian_model::names::{BadName, Namespace, PolicyName, PolicyVersion, RegionName, ServiceName};
use reqwest::Method;
use serde_json::{Map, Value, json};
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
    /// Regions that lookups may be answered from besides their own: all, or names with commas
    #[arg(long, value_name = "REGIONS")]
    regions: Option<Regions>,
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
                let text = std::fs::read_to_string(&path)
                    .with_context(|| format!("{} cannot be read", path.display()))?;
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
        match self.regions {
            None => None,
            Some(Regions::All) => body.insert("limits".to_owned(), json!({ "regions": "all" })),
            Some(Regions::Only(names)) => body.insert("limits".to_owned(), json!({ "regions": names })),
        };
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
    let answer = connection.send(Method::PUT, &path, &[], Payload::Json(body)).await?;
    if global.json {
        output::json(&answer.body);
    } else {
        output::say(render(&answer.body, stage));
    }
    Ok(())
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
    let labels: Vec<&str> = items_of(binding, "/callerLabels").iter().filter_map(Value::as_str).collect();
    line("labels", labels.join(", "));
    let regions: Vec<&str> = items_of(binding, "/limits/regions").iter().filter_map(Value::as_str).collect();
    line("regions", regions.join(", "));
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
    }

    #[test]
    fn an_answer_says_what_answers_for_whom() {
        let binding = json!({ "namespace": "default", "service": "orders-api", "index": 9, "applied": true,
            "active": { "policy": "canary", "version": "sha256:0123456789abcdef", "config": { "percent": 10 } },
            "lastGood": [{ "policy": "weighted", "version": "sha256:ffffffffffffffff", "config": null }],
            "limits": { "regions": "all" }, "callerLabels": [] });
        assert_eq!(
            render(&binding, Stage::Active),
            "canary sha256:0123456789ab answers for default/orders-api (index 9)\n  config    {\"percent\":10}\n  \
             before    weighted sha256:ffffffffffff"
        );
    }
}
