//! The binary under test.

use crate::home::Home;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The `meridian` binary: `MERIDIAN_BIN`, else the workspace's release build.
///
/// # Panics
/// Where there is none: a test of nothing must not pass.
#[must_use]
pub fn meridian() -> PathBuf {
    let path = match std::env::var_os("MERIDIAN_BIN") {
        Some(path) => PathBuf::from(path),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/meridian"),
    };
    assert!(path.is_file(), "{} is not there; run: cargo build --release --workspace", path.display());
    path
}

/// A command of the binary that hears nothing of the tests' own environment.
#[must_use]
pub fn command() -> Command {
    command_at(&Home::loopback())
}

/// The same, somewhere.
pub(crate) fn command_at(home: &Home) -> Command {
    command_of(home, &meridian())
}

/// Another program there, which hears nothing of that either.
#[must_use]
pub fn command_of(home: &Home, program: &Path) -> Command {
    let mut command = home.command(program);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("MERIDIAN_")) {
            command.env_remove(name);
        }
    }
    command.stdin(std::process::Stdio::null());
    command
}
