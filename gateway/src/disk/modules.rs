//! Modules of policies, each in a file under its hash.

use super::{Disk, durable};
use bytes::Bytes;
use meridian_model::names::PolicyVersion;
use meridian_policies::MAX_MODULE_BYTES;
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;

const EXTENSION: &str = ".wasm";

impl Disk {
    /// Keeps the bytes of `version`.
    ///
    /// # Errors
    /// The disk's, and `InvalidData` for bytes that have another version or are too many.
    pub fn save_module(&self, version: PolicyVersion, module: &[u8]) -> io::Result<()> {
        if module.len() > MAX_MODULE_BYTES || PolicyVersion::of(module) != version {
            return Err(io::Error::new(ErrorKind::InvalidData, format!("these bytes are not {version}")));
        }
        durable::replace(&self.modules, &name(version), None, |file| file.write_all(module))
    }

    /// The bytes of `version`, if they are here and whole. A damaged file is removed: the registry has another.
    #[must_use]
    pub fn load_module(&self, version: PolicyVersion) -> Option<Bytes> {
        let path = self.modules.join(name(version));
        let reason = match durable::read(&path, MAX_MODULE_BYTES as u64) {
            Ok(None) => return None,
            Ok(Some(bytes)) if PolicyVersion::of(&bytes) == version => return Some(bytes.into()),
            Ok(Some(_)) => "its hash does not fit".to_owned(),
            Err(e) => e.to_string(),
        };
        tracing::warn!(file = %path.display(), reason, "a saved module cannot be used");
        // Saving it again replaces it as well.
        let _ = fs::remove_file(&path);
        None
    }

    /// Whether a file for `version` is here; only [`Disk::load_module`] tells whether it is whole.
    #[must_use]
    pub fn has_module(&self, version: PolicyVersion) -> bool {
        self.modules.join(name(version)).exists()
    }

    /// Removes the modules that are not among `keep`; answers how many.
    ///
    /// # Errors
    /// The disk's.
    pub fn prune_modules(&self, keep: &BTreeSet<PolicyVersion>) -> io::Result<usize> {
        let unwanted = |name: &str| {
            let version = name.strip_suffix(EXTENSION).and_then(|hex| format!("sha256:{hex}").parse().ok());
            version.is_some_and(|version| !keep.contains(&version))
        };
        self.remove_modules(unwanted)
    }

    /// Removes what a writer left that did not finish.
    pub(super) fn remove_unfinished_modules(&self) -> io::Result<usize> {
        self.remove_modules(|name| name.ends_with(durable::UNFINISHED))
    }

    fn remove_modules(&self, unwanted: impl Fn(&str) -> bool) -> io::Result<usize> {
        let mut removed: Vec<PathBuf> = Vec::new();
        for entry in fs::read_dir(&self.modules).map_err(|e| durable::at(&self.modules, &e))? {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(&unwanted) {
                removed.push(entry.path());
            }
        }
        for path in &removed {
            fs::remove_file(path).map_err(|e| durable::at(path, &e))?;
        }
        Ok(removed.len())
    }
}

fn name(version: PolicyVersion) -> String {
    format!("{}{EXTENSION}", version.hex())
}

#[cfg(test)]
mod tests {
    use super::super::tests::disk;
    use super::*;

    #[test]
    fn a_module_is_kept_under_its_hash() {
        let (dir, disk) = disk();
        let module = b"\0asm and more";
        let version = PolicyVersion::of(module);
        assert_eq!(disk.load_module(version), None);
        disk.save_module(version, module).unwrap();
        assert_eq!(disk.load_module(version).as_deref(), Some(&module[..]));
        let wrong = disk.save_module(PolicyVersion::of(b"other"), module).unwrap_err();
        assert_eq!(wrong.kind(), ErrorKind::InvalidData);

        let path = dir.path().join("modules").join(name(version));
        fs::write(&path, b"\0asm and mare").unwrap();
        assert_eq!(disk.load_module(version), None);
        assert!(!path.exists(), "a damaged module is not kept");
    }

    #[test]
    fn pruning_keeps_what_is_wanted_and_what_is_foreign() {
        let (dir, disk) = disk();
        let versions: Vec<_> = [b"a", b"b", b"c"]
            .map(|module| {
                let version = PolicyVersion::of(module);
                disk.save_module(version, module).unwrap();
                version
            })
            .into();
        fs::write(dir.path().join("modules/README"), "mine").unwrap();
        assert_eq!(disk.prune_modules(&BTreeSet::from([versions[1]])).unwrap(), 2);
        assert!(disk.load_module(versions[1]).is_some());
        assert!(disk.load_module(versions[0]).is_none());
        assert!(dir.path().join("modules/README").exists());
    }
}
