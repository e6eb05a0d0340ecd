//! `meridian policy push`: uploads a version.

use super::component::{self, Kind, MAX_MODULE_BYTES};
use super::signing;
use crate::connection::{Connection, Global, Payload};
use crate::credential::Role;
use crate::failure::Failure;
use crate::output::{self, text_of};
use crate::patience;
use meridian_model::names::PolicyName;
use reqwest::Method;
use serde_json::Value;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Upload a version of a policy
///
/// The gateway checks it before it is stored: size, form, compilation within limits, no imports, world; then it runs the
/// module's own test cases and tries it on services at the edges of what gateways show. A refusal names the check and the
/// input. The same bytes again change nothing. A core module of the SDK is made a component first.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  meridian policy push zone-east zone-east.wasm")]
pub(crate) struct Arguments {
    /// Name to upload it under
    name: PolicyName,
    /// Component, as `meridian policy build` writes it
    file: PathBuf,
    /// Its signature, as `meridian policy sign` writes it; a region may ask for one
    #[arg(long, value_name = "FILE")]
    signature: Option<PathBuf>,
    /// Why, for the history (at most 256 bytes)
    #[arg(long, default_value = "")]
    reason: String,
}

pub(crate) async fn run(arguments: Arguments, global: &Global) -> Result<(), Failure> {
    let Arguments { name, file, signature, reason } = arguments;
    let module = read(&file)?;
    let payload = match signature {
        Some(signature) => Payload::Signed(module, signing::read(&signature)?),
        None => Payload::Wasm(module),
    };
    let connection = Connection::open(global, Role::Operator)?;
    let path = format!("/v1/policies/{name}");
    let query = reason_of(reason);
    let work = connection.send(Method::PUT, &path, &query, payload);
    let answer = patience::wait_for("the gateway compiles and tries it", work).await?;
    if global.json {
        output::json(&answer.body);
    } else {
        output::say(render(answer.status == 201, &answer.body));
    }
    Ok(())
}

/// A reason as the query of a request without a body of its own.
pub(super) fn reason_of(reason: String) -> Vec<(String, String)> {
    if reason.is_empty() { Vec::new() } else { vec![("reason".to_owned(), reason)] }
}

/// A module of a file, as a component.
pub(super) fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    let mut module = Vec::new();
    std::fs::File::open(file)
        // A byte more than is allowed tells a file that is too large.
        .and_then(|opened| opened.take(MAX_MODULE_BYTES + 1).read_to_end(&mut module))
        .map_err(|error| Failure::unreadable(file, &error))?;
    if module.len() as u64 > MAX_MODULE_BYTES {
        return Err(Failure::Usage(format!(
            "{} is larger than the 8 MiB that gateways take",
            file.display()
        )));
    }
    let wrong = |text: String| Failure::Usage(format!("{}: {text}", file.display()));
    match component::kind_of(&module) {
        Kind::Component => Ok(module),
        Kind::Core => {
            output::remark("a core module: making it a component");
            component::encode(&module).map_err(wrong)
        }
        Kind::Other => {
            Err(wrong("is no WebAssembly; `meridian policy build` makes a component of a crate".to_owned()))
        }
    }
}

fn render(created: bool, body: &Value) -> String {
    let name = text_of(body, "/name");
    let size = body.get("sizeBytes").and_then(Value::as_u64).unwrap_or(0);
    let done = if created { "uploaded" } else { "was there already, byte for byte" };
    let mut text = format!("{name} {} {done}\n  size     {}", text_of(body, "/version"), output::size(size));
    let report = |pointer| text_of(body, pointer);
    let checks: Vec<String> = output::items_of(body, "/report/checks").iter().filter_map(check).collect();
    if !checks.is_empty() {
        text.push_str(&format!("\n  passed   {}", checks.join(", ")));
        text.push_str(&format!(
            "\n  compiled in {} ms; trial with an empty config: {}",
            report("/report/compileMillis"),
            report("/report/trial")
        ));
    }
    for cost in output::items_of(body, "/report/costs") {
        let of = |member: &str| cost.get(member).and_then(Value::as_u64).unwrap_or(0);
        text.push_str(&format!(
            "\n  costs    {} endpoints: route {} ns (fuel {}), open {} µs, admit {} µs, plans {} µs",
            of("endpoints"),
            of("routeNanos"),
            of("routeFuel"),
            of("openMicros"),
            of("admitMicros"),
            of("plansMicros"),
        ));
    }
    if let Some(standard) = body.pointer("/report/aliasOf").and_then(Value::as_str) {
        text.push_str(&format!("\n  is       the standard policy {standard}, under another name"));
    }
    text.push_str(&format!("\nnext: meridian policy bind SERVICE {name} --config '{{…}}'"));
    text
}

/// `corpus (91 inputs)`; a check that had nothing to look at was not passed.
fn check(check: &Value) -> Option<String> {
    let name = check.get("name")?.as_str()?;
    match check.get("inputs").and_then(Value::as_u64) {
        Some(0) => None,
        Some(inputs) if inputs > 1 => Some(format!("{name} ({inputs} inputs)")),
        _ => Some(name.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_no_module_is_not_sent() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("x.wasm");
        std::fs::write(&file, "#!/bin/sh").unwrap();
        assert_eq!(read(&file).unwrap_err().exit_code(), 2);
        std::fs::write(&file, vec![0; usize::try_from(MAX_MODULE_BYTES).unwrap() + 1]).unwrap();
        assert!(read(&file).unwrap_err().to_string().contains("8 MiB"));
        assert_eq!(read(&directory.path().join("none")).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn an_upload_shows_what_was_checked() {
        let body = json!({ "name": "p", "version": "sha256:00", "sizeBytes": 2048,
            "report": { "compileMillis": 12, "trial": "answered", "checks": [
                { "name": "size", "outcome": "passed", "millis": 0, "inputs": 1 },
                { "name": "test-cases", "outcome": "none", "millis": 0, "inputs": 0 },
                { "name": "corpus", "outcome": "passed", "millis": 80, "inputs": 91 },
            ], "costs": [{ "endpoints": 20, "routeNanos": 180, "routeFuel": 90 }] } });
        let text = render(true, &body);
        for part in ["uploaded", "2.0 KiB", "passed   size, corpus (91 inputs)", "route 180 ns"] {
            assert!(text.contains(part), "{text}");
        }
        let again = render(
            false,
            &json!({ "name": "p", "version": "sha256:00", "sizeBytes": 1, "report": { "unchanged": true } }),
        );
        assert!(again.contains("was there already") && !again.contains("compiled"), "{again}");
    }
}
