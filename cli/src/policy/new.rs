//! `meridian policy new`: a crate to begin with, which builds wherever Rust does.

use super::sdk;
use crate::connection::Global;
use crate::failure::Failure;
use crate::output;
use anyhow::Context;
use meridian_model::names::PolicyName;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Write the crate of a new policy, with tests
///
/// The crate holds a small policy that works, its tests, its schema, its cases, and a copy of the SDK, so that it needs nothing
/// but Rust. An existing directory is not touched, unless it is empty.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  meridian policy new zone-east\n  meridian policy new zone-east --directory policies/zone-east"
)]
pub(crate) struct Arguments {
    /// Name of the policy and of its package
    name: PolicyName,
    /// Where to write it [default: NAME in the working directory]
    #[arg(long, short, value_name = "DIRECTORY")]
    directory: Option<PathBuf>,
}

/// A file of a new crate, by its path; `NAME` stands for the policy's in each.
const TEMPLATE: &[(&str, &str)] = &[
    ("Cargo.toml", include_str!("../../template/Cargo.toml.in")),
    ("README.md", include_str!("../../template/README.md")),
    (".gitignore", include_str!("../../template/gitignore")),
    ("cases.json", include_str!("../../template/cases.json")),
    ("schema.json", include_str!("../../template/schema.json")),
    ("src/lib.rs", include_str!("../../template/src/lib.rs")),
    ("rust-toolchain.toml", include_str!("../../../rust-toolchain.toml")),
];

/// Names that cargo would take for something else: Rust's own crates and those that the new one depends on.
const TAKEN: [&str; 8] = ["alloc", "core", "meridian-sdk-wasm", "proc-macro", "self", "serde", "std", "test"];

pub(crate) fn run(arguments: Arguments, global: &Global) -> Result<(), Failure> {
    let Arguments { name, directory } = arguments;
    check_name(&name).map_err(Failure::Usage)?;
    let directory = directory.unwrap_or_else(|| PathBuf::from(name.as_str()));
    require_free(&directory)?;
    write_crate(&directory, &name)?;
    let shown = directory.display();
    if global.json {
        output::json(&json!({ "name": name, "directory": directory }));
    } else {
        output::say(format_args!(
            "{shown}\n  src/lib.rs   the policy, and its tests\n  schema.json  what its config may be\n  \
             cases.json   what it must answer; every gateway checks them\n\
             next: meridian policy test {shown}"
        ));
    }
    Ok(())
}

/// A package's name is also a Rust identifier.
fn check_name(name: &PolicyName) -> Result<(), String> {
    let text = name.as_str();
    if !text.starts_with(|c: char| c.is_ascii_lowercase()) {
        return Err(format!("{text}: a package's name begins with a letter"));
    }
    if TAKEN.contains(&text) {
        return Err(format!("{text} is the name of a crate that every policy uses: choose another one"));
    }
    Ok(())
}

fn require_free(directory: &Path) -> Result<(), Failure> {
    let shown = directory.display();
    match std::fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Failure::Usage(format!("{shown} cannot be used: {error}"))),
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(Failure::Usage(format!(
                "{shown} is there already, and nothing in it was touched\n  next: choose another --directory"
            ))),
        },
    }
}

fn write_crate(directory: &Path, name: &PolicyName) -> Result<(), Failure> {
    for (path, contents) in TEMPLATE {
        write(&directory.join(path), &contents.replace("NAME", name.as_str()))?;
    }
    let vendored = directory.join(sdk::DIRECTORY);
    write(&vendored.join("Cargo.toml"), &sdk::manifest()?)?;
    for (path, contents) in sdk::FILES {
        write(&vendored.join(path), contents)?;
    }
    Ok(())
}

fn write(file: &Path, contents: &str) -> Result<(), Failure> {
    let parent = file.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent)
        .and_then(|()| std::fs::write(file, contents))
        .with_context(|| format!("{} cannot be written", file.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_not_touched() {
        let directory = tempfile::tempdir().unwrap();
        assert!(require_free(directory.path()).is_ok(), "an empty directory serves");
        assert!(require_free(&directory.path().join("none")).is_ok());
        std::fs::write(directory.path().join("mine"), "x").unwrap();
        assert_eq!(require_free(directory.path()).unwrap_err().exit_code(), 2);
        assert!(require_free(&directory.path().join("mine")).is_err(), "a file is no directory");
    }

    #[test]
    fn a_crate_bears_its_name_and_holds_the_sdk() {
        let directory = tempfile::tempdir().unwrap();
        write_crate(directory.path(), &"zone-east".parse().unwrap()).unwrap();
        let manifest = std::fs::read_to_string(directory.path().join("Cargo.toml")).unwrap();
        assert!(manifest.contains("name = \"zone-east\""), "{manifest}");
        for path in ["vendor/meridian-sdk-wasm/wit/routing-policy.wit", ".gitignore", "src/lib.rs"] {
            assert!(directory.path().join(path).is_file(), "{path}");
        }
    }

    #[test]
    fn names_that_no_package_can_have_are_refused() {
        for name in ["serde", "std", "7-zones"] {
            assert!(check_name(&name.parse().unwrap()).is_err(), "{name}");
        }
        assert_eq!(check_name(&"zone-east".parse().unwrap()), Ok(()));
    }
}
