//! The standard policies: ordinary components, built along with this crate and carried inside the binary.

use meridian_model::names::PolicyVersion;
use std::sync::OnceLock;

/// A policy that every installation has.
#[derive(Clone, Copy, Debug)]
pub struct Standard {
    /// What bindings call it.
    pub name: &'static str,
    /// The component.
    pub module: &'static [u8],
    /// What it does, in a line.
    pub description: &'static str,
}

macro_rules! standard {
    ($name:literal, $description:literal) => {
        Standard {
            name: $name,
            module: include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".wasm")),
            description: $description,
        }
    };
}

/// All of them; the first is the default binding.
pub const STANDARD: [Standard; 4] = [
    standard!(
        "zone-fallback",
        "The caller's zone, its region, then other regions, spilling gradually as health falls"
    ),
    standard!("canary", "A part of the lookups to a canary, by percent or by caller, sticky by key"),
    standard!("spillover", "As zone-fallback; other regions share the rest by headroom and round trip"),
    standard!("weighted", "Lookups split over versions, groups and tags by weight; blue-green"),
];

/// The standard policy of this version, whatever it was uploaded as.
#[must_use]
pub fn standard_of(version: PolicyVersion) -> Option<&'static Standard> {
    // Hashing all of them takes a millisecond.
    static VERSIONS: OnceLock<Vec<(PolicyVersion, &'static Standard)>> = OnceLock::new();
    let versions =
        VERSIONS.get_or_init(|| STANDARD.iter().map(|s| (PolicyVersion::of(s.module), s)).collect());
    versions.iter().find(|(known, _)| *known == version).map(|(_, standard)| *standard)
}

#[cfg(test)]
mod tests {
    use super::STANDARD;

    #[test]
    fn they_import_nothing_and_stay_small() {
        let engine = wasmtime::Engine::default();
        for policy in STANDARD {
            let component = wasmtime::component::Component::new(&engine, policy.module).unwrap();
            let imports: Vec<_> =
                component.component_type().imports(&engine).map(|(name, _)| name.to_owned()).collect();
            assert!(imports.is_empty(), "{}: {imports:?}", policy.name);
            // Compilation takes about 1.2 ms per KB, in every gateway that has no artefact of it yet. More than half
            // of it reads JSON and formats messages.
            assert!(policy.module.len() <= 192 << 10, "{}: {} bytes", policy.name, policy.module.len());
        }
    }
}
