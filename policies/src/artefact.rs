//! Compiled modules: machine code that this installation made, and how it is known again.
//!
//! Loading one runs whatever it says, so none is loaded that another could have made. On disk each carries an HMAC-SHA256
//! under a key that never leaves the data directory, over the engine it is for, the version it was made of, and its bytes.
//! What does not fit is removed, and the module compiled anew. They are never in the registry: whoever can write there
//! could run code in every gateway.
//!
//! This is the one place with `unsafe` in the workspace.

use crate::limits::{MAX_ARTEFACT_BYTES, MAX_ARTEFACTS_BYTES, MAX_VERSIONS};
use aws_lc_rs::{hmac, rand};
use meridian_model::names::PolicyVersion;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{Hash, Hasher};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use wasmtime::Engine;
use wasmtime::component::Component;
use xxhash_rust::xxh3::Xxh3;

const MAGIC: &[u8; 8] = b"meridia\x01";
const KEY: &str = "key";
const KEY_BYTES: usize = 32;
const TAG_BYTES: usize = 32;
/// Magic, engine, tag.
const HEAD_BYTES: usize = MAGIC.len() + 8 + TAG_BYTES;
const EXTENSION: &str = ".artefact";
const UNFINISHED: &str = ".new";

/// Machine code that can be trusted: it came from the compiler a moment ago, or it was found authentic.
pub(crate) struct Artefact(Vec<u8>);

impl Artefact {
    /// What the compiler of this program gave, in this process or in one that it started, before any instruction of the
    /// module had run there.
    pub(crate) fn from_compiler(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    #[cfg(test)]
    fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The component.
    #[allow(unsafe_code, reason = "the engine cannot check machine code; see the module's documentation")]
    pub(crate) fn revive(&self, engine: &Engine) -> wasmtime::Result<Component> {
        // SAFETY: the bytes are what an engine of this program serialized, unchanged: both ways to an `Artefact` see to it.
        // That the engine had the same settings, the engine checks itself.
        unsafe { Component::deserialize(engine, &self.0) }
    }
}

/// What the engine makes code for: two engines with the same number run each other's.
pub(crate) fn engine_number(engine: &Engine) -> u64 {
    let mut hasher = Xxh3::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hasher.finish()
}

/// The artefacts below a data directory.
pub(crate) struct Artefacts {
    dir: PathBuf,
    key: hmac::Key,
    engine: u64,
}

impl Artefacts {
    /// Opens `dir`, and makes it and its key if they are not there, for this user alone.
    ///
    /// # Errors
    /// The disk's.
    pub(crate) fn open(dir: PathBuf, engine: u64) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let key = match read(&dir.join(KEY), KEY_BYTES)? {
            Some(key) if key.len() == KEY_BYTES => key,
            _ => {
                // A key that is cut short opens nothing: what it had sealed is compiled anew.
                let mut key = vec![0; KEY_BYTES];
                rand::fill(&mut key).map_err(|_| io::Error::other("the system gives no randomness"))?;
                write(&dir, KEY, &[&key])?;
                key
            }
        };
        Ok(Self { dir, key: hmac::Key::new(hmac::HMAC_SHA256, &key), engine })
    }

    /// The artefact of `version`, if it is here and authentic. One that is not is removed.
    pub(crate) fn load(&self, version: PolicyVersion) -> Option<Artefact> {
        let path = self.path(version);
        let refused = match read(&path, HEAD_BYTES + MAX_ARTEFACT_BYTES) {
            Ok(None) => return None,
            Ok(Some(mut bytes)) => match self.judge(version, &bytes) {
                Ok(()) => {
                    bytes.drain(..HEAD_BYTES);
                    return Some(Artefact(bytes));
                }
                Err(why) => why.to_owned(),
            },
            Err(error) => error.to_string(),
        };
        tracing::warn!(%version, refused, "a compiled module on disk is not used; it is compiled anew");
        self.remove(version);
        None
    }

    fn judge(&self, version: PolicyVersion, bytes: &[u8]) -> Result<(), &'static str> {
        let (Some((head, code)), true) = (bytes.split_at_checked(HEAD_BYTES), bytes.starts_with(MAGIC))
        else {
            return Err("it is no artefact of this program");
        };
        let (_, rest) = head.split_at_checked(MAGIC.len()).unwrap_or_default();
        let (engine, tag) = rest.split_at_checked(8).unwrap_or_default();
        if engine != self.engine.to_le_bytes() {
            return Err("it is for another engine");
        }
        hmac::verify(&self.key, &self.sealed(version, code), tag).map_err(|_| "it is not authentic")
    }

    /// What the seal is over. The digest stands for the code, so that 100 MiB are not copied.
    fn sealed(&self, version: PolicyVersion, code: &[u8]) -> Vec<u8> {
        let digest = PolicyVersion::of(code);
        [&MAGIC[..], &self.engine.to_le_bytes(), version.hex().as_bytes(), digest.hex().as_bytes()].concat()
    }

    /// Keeps an artefact. Where there are too many, the oldest go that `wanted` does not name.
    ///
    /// # Errors
    /// The disk's.
    pub(crate) fn save(
        &self,
        version: PolicyVersion,
        artefact: &Artefact,
        wanted: impl Fn(&PolicyVersion) -> bool,
    ) -> io::Result<()> {
        self.make_room(artefact.0.len() as u64, wanted)?;
        let tag = hmac::sign(&self.key, &self.sealed(version, &artefact.0));
        let parts = [&MAGIC[..], &self.engine.to_le_bytes(), tag.as_ref(), &artefact.0];
        write(&self.dir, &name(version), &parts)
    }

    /// Removes an artefact.
    pub(crate) fn remove(&self, version: PolicyVersion) {
        let _ = fs::remove_file(self.path(version));
    }

    fn path(&self, version: PolicyVersion) -> PathBuf {
        self.dir.join(name(version))
    }

    fn make_room(&self, more: u64, wanted: impl Fn(&PolicyVersion) -> bool) -> io::Result<()> {
        let mut held: Vec<(SystemTime, u64, PathBuf, bool)> = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let file_name = entry.file_name();
            let Some(hex) = file_name.to_str().and_then(|name| name.strip_suffix(EXTENSION)) else {
                continue;
            };
            let version: Option<PolicyVersion> = format!("sha256:{hex}").parse().ok();
            let metadata = entry.metadata()?;
            let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            held.push((modified, metadata.len(), entry.path(), version.is_some_and(|v| wanted(&v))));
        }
        held.sort();
        let mut count = held.len();
        let mut bytes: u64 = held.iter().map(|(_, bytes, ..)| bytes).sum();
        for (_, size, path, wanted) in held {
            if count < MAX_VERSIONS && bytes.saturating_add(more) <= MAX_ARTEFACTS_BYTES {
                return Ok(());
            }
            if !wanted {
                fs::remove_file(&path)?;
                (count, bytes) = (count - 1, bytes.saturating_sub(size));
            }
        }
        if count < MAX_VERSIONS && bytes.saturating_add(more) <= MAX_ARTEFACTS_BYTES {
            Ok(())
        } else {
            Err(ErrorKind::QuotaExceeded.into())
        }
    }
}

fn name(version: PolicyVersion) -> String {
    format!("{}{EXTENSION}", version.hex())
}

/// The whole file; `None` if there is none.
fn read(path: &Path, max_bytes: usize) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::with_capacity(usize::try_from(file.metadata()?.len()).unwrap_or(0).min(max_bytes));
    file.take(max_bytes as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > max_bytes { Err(ErrorKind::FileTooLarge.into()) } else { Ok(Some(bytes)) }
}

/// A file that is there whole or not at all, also after a loss of power, for this user alone.
fn write(dir: &Path, name: &str, parts: &[&[u8]]) -> io::Result<()> {
    let (unfinished, place) = (dir.join(format!("{name}{UNFINISHED}")), dir.join(name));
    let written = || {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        parts.iter().try_for_each(|part| file.write_all(part))?;
        file.sync_all()?;
        fs::rename(&unfinished, &place)?;
        File::open(dir)?.sync_all()
    };
    written().inspect_err(|_| {
        let _ = fs::remove_file(&unfinished);
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{self, Threads};
    use std::os::unix::fs::PermissionsExt;

    fn dir(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("meridian-artefacts-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        dir
    }

    fn artefact() -> Artefact {
        Artefact(b"machine code".to_vec())
    }

    #[test]
    fn only_what_was_sealed_here_comes_back() {
        let place = dir("seal");
        let (one, other) = (PolicyVersion::of(b"one"), PolicyVersion::of(b"other"));
        let artefacts = Artefacts::open(place.clone(), 7).unwrap();
        artefacts.save(one, &artefact(), |_| true).unwrap();
        assert_eq!(artefacts.load(one).unwrap().bytes(), b"machine code");
        assert!(artefacts.load(other).is_none());
        // The same directory, the same key: a restart.
        assert!(Artefacts::open(place.clone(), 7).unwrap().load(one).is_some());
        let whole = fs::read(artefacts.path(one)).unwrap();
        for at in 0..whole.len() {
            let mut tampered = whole.clone();
            tampered[at] ^= 1;
            fs::write(artefacts.path(one), &tampered).unwrap();
            assert!(artefacts.load(one).is_none(), "byte {at} may be changed");
            assert!(!artefacts.path(one).exists(), "it stays");
        }
        for length in [0, 7, HEAD_BYTES - 1, HEAD_BYTES, whole.len() - 1] {
            fs::write(artefacts.path(one), whole.get(..length).unwrap()).unwrap();
            assert!(artefacts.load(one).is_none(), "{length} bytes are enough");
        }
        // Under the name of another version.
        fs::write(artefacts.path(other), &whole).unwrap();
        assert!(artefacts.load(other).is_none());
        fs::write(artefacts.path(one), &whole).unwrap();
        assert!(Artefacts::open(place.clone(), 8).unwrap().load(one).is_none(), "another engine");
        fs::write(artefacts.path(one), &whole).unwrap();
        fs::remove_file(place.join(KEY)).unwrap();
        assert!(Artefacts::open(place.clone(), 7).unwrap().load(one).is_none(), "another key");
        fs::remove_dir_all(place).unwrap();
    }

    #[test]
    fn nobody_else_reads_the_key() {
        let place = dir("mode");
        let artefacts = Artefacts::open(place.clone(), 7).unwrap();
        artefacts.save(PolicyVersion::of(b"one"), &artefact(), |_| true).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&place), 0o700);
        assert_eq!(mode(&place.join(KEY)), 0o600);
        assert_eq!(mode(&artefacts.path(PolicyVersion::of(b"one"))), 0o600);
        fs::remove_dir_all(place).unwrap();
    }

    #[test]
    fn the_oldest_that_nobody_wants_makes_room() {
        let place = dir("room");
        let artefacts = Artefacts::open(place.clone(), 7).unwrap();
        let version = |n: usize| PolicyVersion::of(&n.to_le_bytes());
        for n in 0..=MAX_VERSIONS {
            artefacts.save(version(n), &artefact(), |v| *v == version(0)).unwrap();
        }
        assert!(artefacts.load(version(0)).is_some(), "one that is wanted went");
        assert!(artefacts.load(version(MAX_VERSIONS)).is_some(), "the newest went");
        let held = fs::read_dir(&place).unwrap().count() - 1;
        assert_eq!(held, MAX_VERSIONS);
        let full = artefacts.save(version(MAX_VERSIONS + 1), &artefact(), |_| true);
        assert_eq!(full.unwrap_err().kind(), ErrorKind::QuotaExceeded);
        fs::remove_dir_all(place).unwrap();
    }

    /// What the compiling process makes on one thread must run in the gateway.
    #[test]
    fn engines_differ_in_nothing_but_their_threads() {
        let numbers = [Threads::All, Threads::One].map(|t| engine_number(&limits::engine(t).unwrap()));
        assert_eq!(numbers[0], numbers[1]);
        assert_ne!(numbers[0], engine_number(&Engine::default()));
    }
}
