//! The SDK, as this program carries it: it is on no registry, so a new crate gets a copy.

use anyhow::{Context, anyhow};
use toml::{Table, Value};

/// Where a crate keeps it.
pub(super) const DIRECTORY: &str = "vendor/meridian-sdk-wasm";

macro_rules! files {
    ($($path:literal),* $(,)?) => {
        /// Every file of it but the manifest, by its path.
        pub(super) const FILES: &[(&str, &str)] =
            &[$(($path, include_str!(concat!("../../../sdk-wasm/", $path)))),*];
    };
}

files!(
    "README.md",
    "src/bindings.rs",
    "src/caller.rs",
    "src/carried.rs",
    "src/guest.rs",
    "src/lib.rs",
    "src/locality.rs",
    "src/names.rs",
    "src/order.rs",
    "src/plan.rs",
    "src/policy.rs",
    "src/rollout.rs",
    "src/selector.rs",
    "src/service.rs",
    "src/testing.rs",
    "src/testing/cases.rs",
    "wit/routing-policy.wit",
);

const WORKSPACE: &str = include_str!("../../../Cargo.toml");
const MANIFEST: &str = include_str!("../../../sdk-wasm/Cargo.toml");

/// The SDK's manifest, fit to stand alone: what it takes from this workspace is written out, and what only this workspace's
/// checks need is left away.
pub(super) fn manifest() -> anyhow::Result<String> {
    let (workspace, member): (Table, Table) = (WORKSPACE.parse()?, MANIFEST.parse()?);
    let shared = workspace.get("workspace").and_then(Value::as_table).context("no [workspace]")?;
    let section =
        |of: &Table, name: &str| of.get(name).and_then(Value::as_table).cloned().unwrap_or_default();
    let mut package = written_out(&section(&member, "package"), &section(shared, "package"))?;
    // The author's compiler decides.
    package.remove("rust-version");
    let dependencies = written_out(&section(&member, "dependencies"), &section(shared, "dependencies"))?;
    let mut alone = Table::new();
    alone.insert("package".into(), Value::Table(package));
    alone.insert("dependencies".into(), Value::Table(dependencies));
    Ok(alone.to_string())
}

/// The entries, those with `workspace = true` replaced by the workspace's.
fn written_out(entries: &Table, shared: &Table) -> anyhow::Result<Table> {
    let one = |(name, value): (&String, &Value)| {
        if value.get("workspace").and_then(Value::as_bool) != Some(true) {
            return Ok((name.clone(), value.clone()));
        }
        let value = shared.get(name).ok_or_else(|| anyhow!("the workspace has no {name}"))?;
        Ok((name.clone(), value.clone()))
    };
    entries.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    /// A new crate carries it into somebody's repository, and this program into memory.
    const MAX_BYTES: usize = 256 * 1024;

    fn collect(directory: &Path, root: &Path, into: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                collect(&path, root, into);
            } else {
                into.insert(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }

    #[test]
    fn every_file_of_the_sdk_is_carried() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sdk-wasm");
        let mut there = BTreeSet::new();
        for part in ["src", "wit"] {
            collect(&root.join(part), &root, &mut there);
        }
        there.insert("README.md".into());
        let carried: BTreeSet<String> = FILES.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(carried, there, "list what is new in sdk.rs");
        let bytes: usize = FILES.iter().map(|(_, contents)| contents.len()).sum();
        assert!(bytes < MAX_BYTES, "{bytes} bytes");
    }

    #[test]
    fn the_manifest_stands_alone() {
        let manifest: Table = manifest().unwrap().parse().unwrap();
        assert!(!manifest.to_string().contains("workspace"), "{manifest}");
        assert_eq!(manifest["package"]["name"].as_str(), Some("meridian-sdk-wasm"));
        for name in ["serde", "serde_json", "serde_path_to_error", "wit-bindgen"] {
            assert!(manifest["dependencies"].get(name).is_some(), "{name}: {manifest}");
        }
    }
}
