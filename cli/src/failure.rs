//! How a command ends without success: what people read, what programs read, and the exit code.

use crate::output;
use serde_json::Value;
use std::fmt;
use std::path::Path;

/// The exit codes, for `--help`.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  refused by the gateway, or failed here
  2  the command line, or a file that it names, is wrong
  3  nothing answers: the gateway (or, for demo, `meridian dev`) cannot be reached
  4  not found: no such service, instance, policy or binding
  5  known, but nothing to give now: none-registered, none-healthy, refused-by-policy,
     region-unreachable, too-stale
  6  not now: the gateway is busy, not ready, or cannot write; try again";

/// Why a command did not do what was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The gateway answered with a refusal.
    Refused(Box<Refusal>),
    /// Nobody answers where the command looked.
    Unreachable(String),
    /// The command line or a file that it names is wrong.
    Usage(String),
    /// Something on this machine failed.
    Failed(anyhow::Error),
    /// What is wrong has been printed; the exit code.
    Told(u8),
}

/// A problem (RFC 9457) as a gateway answered it.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// The HTTP status.
    pub(crate) status: u16,
    /// Stable, for programs; empty where the answer was no problem.
    pub(crate) code: String,
    detail: String,
    request_id: String,
    /// As it came.
    body: Value,
}

impl Refusal {
    /// Reads the body of an answer that is no success.
    pub(crate) fn read(status: u16, body: &[u8]) -> Self {
        let parsed = serde_json::from_slice(body).unwrap_or(Value::Null);
        let mut refusal = Self::from_body(status, parsed);
        if refusal.detail.is_empty() {
            // Not a gateway's own words: perhaps a proxy's. A page of HTML helps nobody.
            let text = String::from_utf8_lossy(body);
            let line = text.lines().map(str::trim).find(|l| !l.is_empty()).unwrap_or("an empty body");
            refusal.detail =
                format!("the answer was no problem+json: {}", line.chars().take(200).collect::<String>());
        }
        refusal
    }

    /// A problem that came as an event of a stream.
    pub(crate) fn from_body(status: u16, body: Value) -> Self {
        let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let status =
            body.get("status").and_then(Value::as_u64).and_then(|s| u16::try_from(s).ok()).unwrap_or(status);
        Self { status, code: text("code"), detail: text("detail"), request_id: text("requestId"), body }
    }

    fn exit_code(&self) -> u8 {
        match (self.status, self.code.as_str()) {
            // Also where it is the body that names it.
            (404, _) | (422, "no-such-policy" | "no-such-version") => 4,
            (
                503,
                "none-registered" | "none-healthy" | "refused-by-policy" | "region-unreachable" | "too-stale",
            ) => 5,
            (429 | 503, _) => 6,
            _ => 1,
        }
    }

    /// What the command line knows to do, beyond what the gateway said.
    fn advice(&self) -> Option<&'static str> {
        Some(match self.code.as_str() {
            "token-missing" => {
                "give a token with --token, --token-file or MERIDIAN_TOKEN; for development, `meridian token mint` makes one"
            }
            "token-malformed" => {
                "a token is one line of three parts with dots between, at most 8 KiB: is what --token, --token-file or MERIDIAN_TOKEN holds one, and whole?"
            }
            "token-expired" => "get a new token; for development, `meridian token mint --ttl 8h …` makes one",
            "token-key-unknown" | "token-signature" | "token-issuer-unknown" => {
                "the gateway trusts another issuer or key: for development, mint with the key of its own data directory (--data-dir or --key)"
            }
            "role-denied" => {
                "use a token of another role: workloads register, operators bind policies and drain (`meridian token mint --role operator`)"
            }
            "not-owner" => "use the token of the workload that registered it, or an operator's",
            "no-such-service" => {
                "`meridian services` lists what this gateway knows; --namespace chooses another namespace"
            }
            "no-such-instance" => {
                "`meridian resolve SERVICE --explain` lists the instances of a service with their ids"
            }
            "none-healthy" | "refused-by-policy" => {
                "`meridian services` shows the counts and policies of all services"
            }
            "no-such-policy" | "no-such-version" => {
                "`meridian policy list` shows the policies and their versions, `--json` with whole versions"
            }
            "no-such-binding" => {
                "`meridian policy bindings` lists those of a namespace; `meridian policy bind` makes one"
            }
            "invalid" => self.advice_on_field(),
            "no-candidate" => "bind one first: `meridian policy bind SERVICE POLICY --stage shadow`",
            "nothing-to-return-to" => {
                "`meridian policy unbind SERVICE` lets the namespace's policy answer; `meridian policy bind` another one"
            }
            "not-proven" => {
                "`meridian policy diff SERVICE` shows what speaks against it; wait, or promote with --force --reason"
            }
            "another-version" => "`meridian policy diff SERVICE` shows what stands there now",
            "disabled" => "`meridian policy enable POLICY VERSION`, or `--all`, lets it run again",
            "still-bound" => {
                "`meridian policy show POLICY` tells by what it is bound; bind another version there, or unbind it"
            }
            "trial-failed" => "`meridian policy test FILE` runs the same checks here, one by one",
            "not-a-component" | "wrong-world" | "has-imports" | "does-not-compile" | "bad-section" => {
                "`meridian policy build` makes a component that gateways take; `meridian policy test FILE` checks one"
            }
            "compile-limit" | "module-too-large" => {
                "`meridian policy build` strips and shrinks a crate's module"
            }
            "signature-missing" | "signature-invalid" => {
                "`meridian policy sign FILE --key KEY.pem`, then `meridian policy push NAME FILE --signature FILE.sig`"
            }
            "too-many-versions" => "`meridian policy delete POLICY VERSION` takes away what is not bound",
            "already-recording" => "wait until the other recording ends, at most a minute",
            "conflict" | "precondition-failed" => {
                "look at it again (`meridian policy bindings`), then try again"
            }
            "not-runnable" | "gate-busy" | "gate-unavailable" => "try again in some seconds",
            _ => return None,
        })
    }

    /// What to do about the first field that is wrong.
    fn advice_on_field(&self) -> &'static str {
        let field = self.body.pointer("/errors/0/field").and_then(Value::as_str).unwrap_or_default();
        match field.split(['.', '[']).next().unwrap_or_default() {
            "config" => {
                "`meridian policy show POLICY` tells the keys of its config; `meridian policy try` tries one"
            }
            "policy" | "version" => "`meridian policy list` shows the policies and their versions",
            "limits" => "--regions and --max-remote-share set them",
            _ => "correct what it names; the command's --help says what it may be",
        }
    }
}

impl Failure {
    /// A file that the command line names and that cannot be read.
    pub(crate) fn unreadable(file: &Path, error: &std::io::Error) -> Self {
        Self::Usage(format!("{} cannot be read: {error}", file.display()))
    }

    /// The process's exit code, as `--help` lists them.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Refused(refusal) => refusal.exit_code(),
            Self::Unreachable(_) => 3,
            Self::Usage(_) => 2,
            Self::Told(code) => *code,
            Self::Failed(_) => 1,
        }
    }

    /// The same, after something was printed as JSON, to which no second document may be added.
    pub(crate) fn after_json(self, json: bool) -> Self {
        match self {
            Self::Told(_) => self,
            failure if json => {
                output::remark(format_args!("meridian: {failure}"));
                Self::Told(failure.exit_code())
            }
            failure => failure,
        }
    }

    /// The problem as it came, for `--json`; a problem of our own making where there is none.
    pub(crate) fn body(&self) -> Value {
        let own = |code: &str| serde_json::json!({ "code": code, "detail": self.to_string() });
        match self {
            Self::Refused(refusal) if refusal.body.is_object() => refusal.body.clone(),
            Self::Refused(_) => own("refused"),
            Self::Unreachable(_) => own("unreachable"),
            Self::Usage(_) => own("usage"),
            Self::Failed(_) => own("failed"),
            Self::Told(_) => Value::Null,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code.as_str() {
            "" => write!(f, "refused with status {}: {}", self.status, self.detail)?,
            code => write!(f, "{code}: {}", self.detail)?,
        }
        for part in ["check", "input"] {
            if let Some(text) = self.body.get(part).and_then(Value::as_str) {
                write!(f, "\n  {part}: {}", output::printable(text))?;
            }
        }
        if let Some(advice) = self.advice() {
            write!(f, "\n  next: {advice}")?;
        }
        // Only where somebody has to look into the gateway's log.
        if self.status >= 500 && self.exit_code() != 5 && !self.request_id.is_empty() {
            write!(f, "\n  request id: {}", self.request_id)?;
        }
        Ok(())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Unreachable(text) | Self::Usage(text) => f.write_str(text),
            Self::Failed(error) => f.write_str(&causes(error)),
            Self::Told(_) => Ok(()),
        }
    }
}

/// An error and what caused it. Many errors tell their cause in their own words; it is not said again.
fn causes(error: &anyhow::Error) -> String {
    let mut said = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !said.contains(&cause) {
            said.push_str(&format!(": {cause}"));
        }
    }
    said
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(status: u16, body: &str, exit: u8, text: &str) {
        let failure = Failure::from(Refusal::read(status, body.as_bytes()));
        assert_eq!(failure.exit_code(), exit, "{body}");
        assert!(failure.to_string().starts_with(text), "{failure}");
    }

    #[test]
    fn scripts_tell_the_kinds_of_refusal_apart() {
        check(
            404,
            r#"{"status":404,"code":"no-such-service","detail":"d"}"#,
            4,
            "no-such-service: d\n  next: ",
        );
        check(503, r#"{"status":503,"code":"none-healthy","detail":"d"}"#, 5, "none-healthy: d");
        check(503, r#"{"status":503,"code":"not-ready","detail":"d"}"#, 6, "not-ready: d");
        check(429, r#"{"status":429,"code":"busy","detail":"d"}"#, 6, "busy: d");
        check(403, r#"{"status":403,"code":"role-denied","detail":"d"}"#, 1, "role-denied: d");
        check(
            422,
            r#"{"status":422,"code":"no-such-version","detail":"d"}"#,
            4,
            "no-such-version: d\n  next: ",
        );
    }

    #[test]
    fn a_wrong_field_says_where_to_look() {
        for (field, next) in
            [("config", "`meridian policy show"), ("limits.regions[0]", "--regions"), ("x", "correct")]
        {
            let body = format!(
                r#"{{"status":422,"code":"invalid","detail":"d","errors":[{{"field":"{field}","detail":"d"}}]}}"#
            );
            check(422, &body, 1, &format!("invalid: d\n  next: {next}"));
        }
    }

    #[test]
    fn a_cause_is_told_once() {
        let cause = || std::io::Error::other("no such file");
        let within = anyhow::Error::new(cause()).context("node.pem: no such file");
        assert_eq!(Failure::from(within).to_string(), "node.pem: no such file");
        let apart = anyhow::Error::new(cause()).context("the key cannot be read");
        assert_eq!(Failure::from(apart).to_string(), "the key cannot be read: no such file");
    }

    #[test]
    fn a_refusal_of_the_gate_names_check_and_input_and_says_what_to_run() {
        check(
            422,
            r#"{"status":422,"code":"trial-failed","detail":"d","check":"corpus","input":"no endpoints"}"#,
            1,
            "trial-failed: d\n  check: corpus\n  input: no endpoints\n  next: `meridian policy test",
        );
        check(
            409,
            r#"{"status":409,"code":"not-proven","detail":"d"}"#,
            1,
            "not-proven: d\n  next: `meridian policy diff",
        );
    }

    #[test]
    fn an_answer_of_something_else_is_told_in_one_line() {
        check(
            502,
            "\n<html>\n<h1>Bad gateway</h1>",
            1,
            "refused with status 502: the answer was no problem+json: <html>",
        );
        check(502, "", 1, "refused with status 502: the answer was no problem+json: an empty body");
    }
}
