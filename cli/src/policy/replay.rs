//! `meridian policy record|replay`: lookups as a gateway answered them, and what another version would have answered.

use super::test::module;
use super::{ConfigSource, show};
use crate::arguments;
use crate::connection::{Connection, Global, Payload};
use crate::credential::Role;
use crate::failure::Failure;
use crate::output::{self, Table, counted, percent, printable, short_version};
use crate::patience;
use anyhow::{Context, anyhow};
use meridian_model::names::{Namespace, PolicyName, PolicyVersion, ServiceName};
use meridian_model::recording::{FORMAT, Noted, Recording};
use meridian_policies::{STANDARD, Workbench};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the answer may take beyond the recording.
const GRACE: Duration = Duration::from_secs(30);
/// Different answers that are shown in words.
const SHOWN: usize = 20;

/// Record lookups of a service, to replay them
///
/// One gateway's lookups for one endpoint, with the snapshots and the entropy that decided them. Neither tokens nor keys are in
/// it: of keys only hashes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  meridian policy record orders-api\n  \
    meridian policy record orders-api --seconds 60 --lookups 10000 --sample 0.1 --output orders.json")]
pub(crate) struct RecordArguments {
    /// Service
    service: ServiceName,
    /// Namespace
    #[arg(long, default_value = "default")]
    namespace: Namespace,
    /// For how long at most, up to 60
    #[arg(long, value_name = "N", default_value_t = 10.0, value_parser = arguments::recorded_seconds)]
    seconds: f64,
    /// How many lookups at most, 1 to 10,000
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    lookups: u32,
    /// The part of the lookups that is recorded, up to 1
    #[arg(long, value_name = "PART", default_value_t = 1.0, value_parser = arguments::sample)]
    sample: f64,
    /// Where to write it [default: SERVICE.recording.json]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Answer recorded lookups again, and show what is different
///
/// Bit for bit: the version that answered gives the same answers, so that every difference is the other version's.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  meridian policy replay orders-api.recording.json zone-fallback\n  \
    meridian policy replay orders-api.recording.json my-policy.wasm --config '{\"percent\": 10}' --require-same\n  \
    meridian policy replay orders-api.recording.json my-policy --version sha256:…")]
pub(crate) struct ReplayArguments {
    /// What `meridian policy record` wrote
    recording: PathBuf,
    /// A component, a crate's directory, a standard policy's name, or that of a policy of the gateway
    policy: PathBuf,
    /// Version that the gateway has of it, sha256:… [default: the newest]
    #[arg(long)]
    version: Option<PolicyVersion>,
    /// JSON that the policy is opened with, or @FILE [default: for each lookup what it was answered with]
    #[arg(long, value_name = "JSON|@FILE")]
    config: Option<ConfigSource>,
    /// Fail where any answer is different
    #[arg(long)]
    require_same: bool,
}

pub(crate) async fn record(arguments: RecordArguments, global: &Global) -> Result<(), Failure> {
    let RecordArguments { service, namespace, seconds, lookups, sample, output } = arguments;
    let connection = Connection::open(global, Role::Operator)?;
    let path = format!("/v1/namespaces/{namespace}/services/{service}/record");
    let body = Payload::Json(json!({ "seconds": seconds, "lookups": lookups, "sample": sample }));
    // It answers at the end.
    let wait = Duration::from_secs_f64(seconds) + GRACE;
    let work = connection.send_within(wait, Method::POST, &path, &[], body);
    let what = format!("the gateway records {lookups} lookups, or {seconds} s");
    let answer = patience::wait_for(&what, work).await?;
    let file = output.unwrap_or_else(|| PathBuf::from(format!("{service}.recording.json")));
    std::fs::write(&file, answer.body.to_string())
        .with_context(|| format!("cannot write {}", file.display()))?;
    let count = |name: &str| {
        answer.body.get(name).map_or(0, |all| match all {
            Value::Array(all) => all.len() as u64,
            Value::Object(all) => all.len() as u64,
            number => number.as_u64().unwrap_or(0),
        })
    };
    let told = json!({ "file": file, "lookups": count("lookups"), "pictures": count("pictures"), "seen": count("seen"), "dropped": count("dropped"), "missed": count("missed") });
    if global.json {
        output::json(&told);
    } else {
        output::say(format_args!(
            "{} of {}, over {} of the service, in {}{}\n  {}",
            told["lookups"],
            counted(count("seen"), "lookup"),
            counted(count("pictures"), "snapshot"),
            file.display(),
            lost(count("dropped"), count("missed")),
            match (count("lookups"), count("seen")) {
                (0, 0) => NOBODY_ASKED.to_owned(),
                (0, _) => NOTHING_KEPT.to_owned(),
                _ => format!("next: meridian policy replay {} POLICY", file.display()),
            }
        ));
    }
    Ok(())
}

/// Why a recording has no lookups, and what to do.
const NOBODY_ASKED: &str = "nobody asked this gateway for an endpoint of the service meanwhile\n  \
    next: record while lookups come, for longer (--seconds), or at the gateway that they go to (--gateway)";
const NOTHING_KEPT: &str = "nothing was recorded of those that came\n  \
    next: record more of them (--sample), or for longer (--seconds)";

/// Lookups that a recording would hold, had it had room and time; empty where there are none.
fn lost(dropped: u64, missed: u64) -> String {
    let words = [(dropped, "dropped for want of room"), (missed, "missed while others were noted")];
    let told = words.into_iter().filter(|(count, _)| *count > 0);
    told.map(|(count, word)| format!("\n  {count} {word}")).collect()
}

fn read(file: &Path) -> Result<Recording, Failure> {
    let text = std::fs::read(file).map_err(|error| Failure::unreadable(file, &error))?;
    let wrong = |why: String| {
        Failure::Usage(format!(
            "{} is no recording: {why}\n  next: meridian policy record SERVICE",
            file.display()
        ))
    };
    let recording: Recording = serde_json::from_slice(&text).map_err(|e| wrong(e.to_string()))?;
    match recording.format {
        FORMAT => Ok(recording),
        other => Err(wrong(format!("its format is {other}, this program reads {FORMAT}"))),
    }
}

/// A lookup that came out differently.
struct Different<'a> {
    noted: &'a Noted,
    /// The new answer, or the fault.
    after: Result<String, String>,
}

pub(crate) async fn replay(arguments: ReplayArguments, global: &Global) -> Result<(), Failure> {
    let ReplayArguments { recording, policy, version, config, require_same } = arguments;
    let recording = read(&recording)?;
    let module = module_of(&policy, version, global).await?;
    let workbench = Workbench::compile(&module).map_err(|refused| Failure::Failed(anyhow!("{refused}")))?;
    let config = config.map(ConfigSource::read).transpose()?.map(|config| config.to_string());
    // The name is only for messages of the host.
    let name: PolicyName = "replayed".parse().map_err(|e| Failure::Failed(anyhow!("{e}")))?;
    let answers = workbench.replay(&recording, &name, config.as_deref());
    let replayed = Replayed { config, ..Replayed::of(&recording, answers) };
    if global.json {
        output::json(&replayed.document(&recording));
    } else {
        output::say(replayed.render(&recording));
    }
    if replayed.compared == 0 {
        let why = "nothing was compared: no lookup of the recording was answered by a version\n  \
                   next: meridian policy record SERVICE, while lookups come and its policy answers them";
        return Err(Failure::Failed(anyhow!(why)).after_json(global.json));
    }
    if require_same && !replayed.different.is_empty() {
        // They are listed above.
        return Err(Failure::Told(1));
    }
    Ok(())
}

/// The module that is named: of a file or a crate, of this program, or of the gateway.
async fn module_of(
    policy: &Path,
    version: Option<PolicyVersion>,
    global: &Global,
) -> Result<Vec<u8>, Failure> {
    let here = policy.exists() || STANDARD.iter().any(|standard| Path::new(standard.name) == policy);
    if version.is_none() && here {
        return module(policy, false).await;
    }
    let name: PolicyName = policy.to_str().unwrap_or_default().parse().map_err(|error| {
        Failure::Usage(format!("{} is no file, and no policy's name: {error}", policy.display()))
    })?;
    let connection = Connection::open(global, Role::Operator)?;
    let version = match version {
        Some(version) => version,
        None => show::newest(&connection, &name)
            .await?
            .parse()
            .map_err(|error| Failure::Failed(anyhow!("the gateway tells no version of {name}: {error}")))?,
    };
    let module = connection.module(&format!("{}/module", show::path(&name, &version.to_string()))).await?;
    if PolicyVersion::of(&module) != version {
        return Err(Failure::Failed(anyhow!("what the gateway gave for {name} is not {version}")));
    }
    Ok(module)
}

/// What came of it.
#[derive(Default)]
struct Replayed<'a> {
    /// What all were replayed with; else each with what it was answered with.
    config: Option<String>,
    /// Lookups that a version answered. Where a fallback did, there is nothing to compare with.
    compared: usize,
    different: Vec<Different<'a>>,
}

impl<'a> Replayed<'a> {
    fn of<A: AsRef<str>, E: fmt::Display>(recording: &'a Recording, answers: Vec<Result<A, E>>) -> Self {
        let by_version = recording.lookups.iter().zip(answers).filter(|(noted, _)| noted.outcome == "ok");
        let mut replayed = Self::default();
        for (noted, after) in by_version {
            replayed.compared += 1;
            if !after.as_ref().is_ok_and(|after| after.as_ref() == noted.answer) {
                let after = after.map(|after| after.as_ref().to_owned()).map_err(|fault| fault.to_string());
                replayed.different.push(Different { noted, after });
            }
        }
        replayed
    }

    fn document(&self, recording: &Recording) -> Value {
        let one = |different: &Different<'_>| {
            let mut value = serde_json::to_value(different.noted).unwrap_or_default();
            match &different.after {
                Ok(after) => value["after"] = json!(after),
                Err(fault) => value["fault"] = json!(fault),
            }
            value
        };
        json!({
            "service": recording.service, "lookups": recording.lookups.len(), "compared": self.compared,
            "config": self.config.as_deref().map(|config| serde_json::from_str::<Value>(config).unwrap_or_default()),
            "answeredBy": recording.answered_by, "different": self.different.iter().map(one).collect::<Vec<_>>(),
        })
    }

    fn render(&self, recording: &Recording) -> String {
        let service = format!("{}/{}", recording.service.namespace, recording.service.service);
        let count = recording.lookups.len();
        let mut said = format!(
            "{} of {service} over {}, answered {}\n",
            counted(count as u64, "lookup"),
            counted(recording.pictures.len() as u64, "snapshot"),
            if count == 0 { "by nobody".to_owned() } else { answered(recording) },
        );
        match &self.config {
            Some(config) => said.push_str(&format!("replayed with {}\n", printable(config))),
            None => said.push_str(&format!(
                "replayed with {}\n",
                if configs(recording) > 1 {
                    "the config that answered each"
                } else {
                    "the config that answered"
                }
            )),
        }
        if self.compared < count {
            said.push_str(&format!(
                "{} were answered by a fallback, and are not compared\n",
                count - self.compared
            ));
        }
        if self.different.is_empty() {
            said.push_str(if self.compared == 0 {
                "no answer is compared"
            } else {
                "every answer is the same"
            });
            return said;
        }
        let part = self.different.len() as f64 / self.compared.max(1) as f64;
        said.push_str(&format!("{} are answered differently ({})\n\n", self.different.len(), percent(part)));
        let mut kinds: BTreeMap<(String, &str, String), u64> = BTreeMap::new();
        for Different { noted, after } in &self.different {
            let zone = noted.zone.as_ref().map_or_else(String::new, ToString::to_string);
            let after = after.clone().unwrap_or_else(|fault| format!("fails: {fault}"));
            *kinds.entry((zone, noted.answer.as_str(), after)).or_default() += 1;
        }
        let mut kinds: Vec<_> = kinds.into_iter().collect();
        kinds.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let mut table = Table::new(["ZONE", "RECORDED", "REPLAYED", "LOOKUPS"]);
        let more = kinds.len().saturating_sub(SHOWN);
        for ((zone, before, after), count) in kinds.into_iter().take(SHOWN) {
            table.row([
                zone,
                printable(before).to_string(),
                printable(&after).to_string(),
                count.to_string(),
            ]);
        }
        said.push_str(&table.render().to_string());
        if more > 0 {
            said.push_str(&format!("\nand {more} more kinds; --json lists every lookup"));
        }
        said
    }
}

/// How many configs answered.
fn configs(recording: &Recording) -> usize {
    recording.answered_by.iter().map(|bound| &bound.config).collect::<BTreeSet<_>>().len()
}

/// Who answered when it was recorded, and how often.
fn answered(recording: &Recording) -> String {
    let mut by: BTreeMap<String, u64> = BTreeMap::new();
    for noted in &recording.lookups {
        let bound = recording.answered_by.get(noted.by as usize);
        let who = bound
            .map_or_else(String::new, |b| format!("{} {} ", b.policy, short_version(&b.version.to_string())));
        *by.entry(format!("{who}({})", noted.outcome)).or_default() += 1;
    }
    let told: Vec<String> = by.into_iter().map(|(who, count)| format!("{count} by {who}")).collect();
    told.join(", ")
}
