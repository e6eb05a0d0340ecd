//! Tokens, minted by the binary itself.

use crate::binary;
use serde_json::Value;
use std::path::PathBuf;
use tempfile::TempDir;

/// A development issuer: a key of its own, in a directory that goes with it.
pub struct Issuer {
    key: PathBuf,
    jwks: PathBuf,
    _directory: TempDir,
}

impl Default for Issuer {
    fn default() -> Self {
        Self::init()
    }
}

impl Issuer {
    /// `meridian token issuer init`.
    ///
    /// # Panics
    /// Where the binary refuses.
    #[must_use]
    pub fn init() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("issuer");
        let said = run(&["--json", "token", "issuer", "init", &place.display().to_string()]);
        let said: Value = serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}"));
        let path =
            |name: &str| PathBuf::from(said[name].as_str().unwrap_or_else(|| panic!("no {name} in {said}")));
        Self { key: path("key"), jwks: path("jwks"), _directory: directory }
    }

    /// Where its public keys are.
    #[must_use]
    pub fn jwks(&self) -> &std::path::Path {
        &self.jwks
    }

    /// A token for instances of `service` in the namespace `default`.
    #[must_use]
    pub fn workload(&self, service: &str) -> String {
        self.mint(&["--service", service])
    }

    /// A token of role `operator`.
    #[must_use]
    pub fn operator(&self) -> String {
        self.mint(&["--role", "operator"])
    }

    /// A token of role `reader`.
    #[must_use]
    pub fn reader(&self) -> String {
        self.mint(&["--role", "reader"])
    }

    /// `meridian token mint` with these arguments.
    ///
    /// # Panics
    /// Where the binary refuses.
    #[must_use]
    pub fn mint(&self, arguments: &[&str]) -> String {
        let key = self.key.display().to_string();
        run(&[&["token", "mint", "--key", &key], arguments].concat()).trim().to_owned()
    }
}

fn run(arguments: &[&str]) -> String {
    let output = binary::command().args(arguments).output().unwrap();
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "meridian {}: {complained}", arguments.join(" "));
    said.into_owned()
}
