//! The five commands that `meridian dev` prints: they work when pasted, in the order in which they stand.

use super::layout::{DEFAULT_PORT_BASE, Region};
use std::fmt::Write as _;
use std::path::Path;

/// How the user can call this program again, and what has to be said besides because it is not the default.
pub(super) struct Invocation {
    program: &'static str,
    gateway: Option<String>,
    data_dir: Option<String>,
}

/// As this process was called: `cargo run` sets CARGO for what it runs, and then there may be no `meridian` in PATH.
fn program() -> &'static str {
    match (std::env::var_os("CARGO").is_some(), cfg!(debug_assertions)) {
        (false, _) => "meridian",
        (true, false) => "cargo run -q --release --",
        (true, true) => "cargo run -q --",
    }
}

impl Invocation {
    /// For commands that are to reach these regions.
    pub(super) fn of(regions: &[Region], data_dir: &Path) -> Self {
        let first = regions.first().map(|region| region.address);
        Self {
            program: program(),
            gateway: first.filter(|at| at.port() != DEFAULT_PORT_BASE).map(|at| format!("http://{at}")),
            data_dir: (data_dir != Path::new(".meridian")).then(|| quoted(&data_dir.display().to_string())),
        }
    }

    fn asks(&self, command: &str) -> String {
        let gateway = self.gateway.iter().map(|url| format!(" --gateway {url}"));
        std::iter::once(format!("{} {command}", self.program)).chain(gateway).collect()
    }

    fn with_state(&self, mut command: String) -> String {
        if let Some(directory) = &self.data_dir {
            let _ = write!(command, " --data-dir {directory}");
        }
        command
    }
}

/// For a POSIX shell.
fn quoted(text: &str) -> String {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b));
    if plain { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

/// Each command with what it shows. No `#` comments: zsh takes none from a prompt.
pub(super) fn commands(invocation: &Invocation, region: &Region) -> Vec<(String, String)> {
    let Some(zone) = region.zones.first() else { return Vec::new() };
    let (name, address) = (&region.name, region.address);
    let demo = |what: &str| {
        let command =
            format!("{} demo {what} --region {name} --zone {zone} --service orders-api", invocation.program);
        invocation.with_state(command)
    };
    vec![
        (
            "Where should a caller in this zone send traffic for orders-api, and what share goes where?"
                .to_owned(),
            invocation.asks(&format!("resolve orders-api --zone {zone} -n all")),
        ),
        (
            "The same over HTTP, for one endpoint:".to_owned(),
            format!("curl -s 'http://{address}/v1/resolve/orders-api?zone={zone}'"),
        ),
        (
            "Follow it, a line per change; leave it running, and paste the others elsewhere:".to_owned(),
            invocation.asks(&format!("watch orders-api --zone {zone}")),
        ),
        (
            "Crash orders-api in that zone: lookups move to the next one (`demo start` brings it back):"
                .to_owned(),
            demo("stop"),
        ),
        (
            "Send a fifth of the lookups to the canary, version 1.5.0, by a policy in WebAssembly:"
                .to_owned(),
            invocation
                .with_state(invocation.asks("policy bind orders-api canary --config '{\"percent\": 20}'")),
        ),
    ]
}

/// What stands below the progress.
pub(super) fn text(invocation: &Invocation, region: &Region) -> String {
    let mut text = "In another terminal, try:\n".to_owned();
    for (why, command) in commands(invocation, region) {
        let _ = write!(text, "\n  {why}\n    {command}\n");
    }
    text.push_str("\nCtrl-C stops everything.");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command_line::CommandLine;
    use crate::dev::layout;
    use clap::Parser;

    fn check(port_base: u16, data_dir: &str) -> Vec<String> {
        let regions = layout::regions(port_base).unwrap();
        let invocation = Invocation { program: "meridian", ..Invocation::of(&regions, Path::new(data_dir)) };
        let commands = commands(&invocation, &regions[0]);
        assert_eq!(commands.len(), 5);
        for (_, command) in &commands {
            // Enough of a shell: words, and quotes around whole words.
            let words = command.split('\'').enumerate().flat_map(|(n, part)| match n % 2 {
                0 => part.split_whitespace().map(str::to_owned).collect(),
                _ => vec![part.to_owned()],
            });
            if command.starts_with("meridian ") {
                CommandLine::try_parse_from(words).unwrap_or_else(|error| panic!("{command}: {error}"));
            }
        }
        commands.into_iter().map(|(_, command)| command).collect()
    }

    #[test]
    fn the_printed_commands_are_understood() {
        let plain = check(layout::DEFAULT_PORT_BASE, ".meridian");
        assert_eq!(plain[0], "meridian resolve orders-api --zone ap-south-1a -n all");
    }

    #[test]
    fn another_port_and_directory_are_passed_on() {
        let commands = check(9500, "/tmp/my dev");
        assert!(commands[0].ends_with("--gateway http://127.0.0.1:9500"));
        assert!(commands[3].ends_with("--data-dir '/tmp/my dev'"));
        assert!(commands[4].contains("--gateway http://127.0.0.1:9500 --data-dir '/tmp/my dev'"));
    }

    #[test]
    fn a_quote_in_a_path_stays_in_it() {
        assert_eq!(quoted("a'b"), "'a'\\''b'");
        assert_eq!(quoted("/tmp/x-1"), "/tmp/x-1");
    }
}
