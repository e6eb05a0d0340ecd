//! The data directory of `meridian dev`: one process at a time, one issuer for good.

use super::layout::Region;
use crate::failure::Failure;
use anyhow::{Context, anyhow};
use meridian_federation::service::certificates::{Authority, Issued, KeyKind, Lifetime};
use meridian_federation::service::name::{PeerName, Station};
use meridian_gateway::identity::{Issuer, JWKS_FILE, KEY_FILE};
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const LOCK_FILE: &str = "dev.lock";
/// Where `meridian demo` finds the running process.
const SOCKET: &str = "control.sock";
/// Certificates of the federation, and the authority that signs them.
const FEDERATION: &str = "federation";
const AUTHORITY: &str = "meridian dev";
/// A pid has at most 10 digits.
const MAX_LOCK_BYTES: u64 = 32;

/// The control socket of the `meridian dev` that keeps its state in `data_dir`.
pub(crate) fn socket(data_dir: &Path) -> PathBuf {
    data_dir.join(SOCKET)
}

/// The directory, held for this process.
pub(super) struct State {
    directory: PathBuf,
    /// The lock goes with the file; the system takes it back from a process that was killed.
    _lock: File,
}

impl State {
    /// Takes the directory, making it if it is not there.
    pub(super) fn take(directory: &Path) -> Result<Self, Failure> {
        let shown = directory.display();
        // Keys and sockets stand in it; those who are not the owner have no business there.
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.with_context(|| format!("{shown} cannot be made"))?;
        // Of a directory that is made relative, gateways would lose the place if the process changed its own.
        let directory = directory.canonicalize().with_context(|| format!("{shown} cannot be used"))?;
        let path = directory.join(LOCK_FILE);
        let mut lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .with_context(|| format!("{} cannot be opened", path.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Failure::Usage(held(&directory, &lock))),
            Err(TryLockError::Error(error)) => {
                return Err(anyhow!(error).context(format!("{} cannot be locked", path.display())).into());
            }
        }
        // For the sentence that a second process says; nothing depends on it.
        let _ = lock
            .set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| write!(lock, "{}", std::process::id()));
        Ok(Self { directory, _lock: lock })
    }

    /// Its absolute path.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where a region keeps its registry.
    pub(super) fn of_region(&self, region: &Region) -> PathBuf {
        self.directory.join(region.name.as_str())
    }

    /// Removes what earlier runs stored in the regions. The issuer stays: tokens in use depend on it.
    pub(super) fn forget(&self, regions: &[Region]) -> Result<(), Failure> {
        for region in regions {
            let path = self.of_region(region);
            match std::fs::remove_dir_all(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(anyhow!(error)
                        .context(format!("{} cannot be removed", path.display()))
                        .into());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The issuer, made by the first run. Also tells whether it was made now.
    pub(super) fn issuer(&self) -> Result<(Issuer, bool), Failure> {
        let (key, jwks) = (self.directory.join(KEY_FILE), self.jwks());
        if !key.exists() {
            // Without its key, a key set is of no use.
            let _ = std::fs::remove_file(&jwks);
            return Ok((Issuer::init(&self.directory).context("no issuer was made")?, true));
        }
        let advice = "remove it to let a new one be made";
        let issuer = Issuer::load(&key)
            .with_context(|| format!("the issuer of earlier runs cannot be used; {advice}"))?;
        if std::fs::read_to_string(&jwks).ok().as_deref() != Some(&issuer.jwks()) {
            std::fs::write(&jwks, issuer.jwks())
                .with_context(|| format!("{} cannot be written", jwks.display()))?;
        }
        Ok((issuer, false))
    }

    /// Where the certificates of the federation stand.
    pub(super) fn federation(&self) -> PathBuf {
        self.directory.join(FEDERATION)
    }

    /// Certificates for the regions' federation nodes, signed by an authority of this directory that is made once: what
    /// the regions keep of each other carries its signatures.
    pub(super) fn certify(&self, regions: &[Region]) -> Result<(), Failure> {
        let directory = self.federation();
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&directory);
        made.with_context(|| format!("{} cannot be made", directory.display()))?;
        let (now, day) = (SystemTime::now(), Duration::from_secs(24 * 3600));
        let (certificate, key) = (directory.join("ca.pem"), directory.join("ca.key"));
        let kept = std::fs::read_to_string(&certificate).ok().zip(std::fs::read_to_string(&key).ok());
        let kept = kept
            .and_then(|(certificate, key)| Authority::restore(AUTHORITY, Issued { certificate, key }).ok());
        let authority = match kept {
            Some(authority) => authority,
            None => {
                let authority = Authority::new(AUTHORITY, Lifetime::starting(now, day * 3650))
                    .context("no authority was made")?;
                let Issued { certificate: text, key: secret } = authority.kept();
                write_private(&key, &secret)?;
                write_private(&certificate, &text)?;
                authority
            }
        };
        for region in regions {
            let name = PeerName {
                domain: "dev.meridian".into(),
                region: region.name.clone(),
                station: Station::Node,
                id: "dev".into(),
            };
            let issued = authority
                .issue(&name, KeyKind::default(), Lifetime::starting(now, day * 365))
                .with_context(|| format!("no certificate was made for {name}"))?;
            write_private(&directory.join(format!("{}.pem", region.name)), &issued.certificate)?;
            write_private(&directory.join(format!("{}.key", region.name)), &issued.key)?;
        }
        Ok(())
    }

    /// The key set that the gateways verify with.
    pub(super) fn jwks(&self) -> PathBuf {
        self.directory.join(JWKS_FILE)
    }
}

/// For its owner alone; replaced whole.
fn write_private(path: &Path, text: &str) -> Result<(), Failure> {
    let unfinished = path.with_extension("new");
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&unfinished)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| std::fs::rename(&unfinished, path));
    Ok(written.with_context(|| format!("{} cannot be written", path.display()))?)
}

fn held(directory: &Path, mut lock: &File) -> String {
    let mut pid = String::new();
    let _ = lock.rewind().and_then(|()| lock.take(MAX_LOCK_BYTES).read_to_string(&mut pid));
    let who = if pid.is_empty() { String::new() } else { format!(" (process {})", pid.trim()) };
    format!(
        "another `meridian dev`{who} keeps its state in {}\n  next: stop it, or start this one with another --data-dir \
         and --port-base",
        directory.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dev::layout;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_second_process_is_refused_until_the_first_has_gone() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("state");
        let first = State::take(&directory).unwrap();
        let refused = State::take(&directory).err().unwrap().to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        drop(first);
        assert!(State::take(&directory).is_ok());
    }

    #[test]
    fn the_issuer_stays_and_is_private() {
        let parent = tempfile::tempdir().unwrap();
        let state = State::take(&parent.path().join("state")).unwrap();
        let (first, made) = state.issuer().unwrap();
        assert!(made);
        std::fs::remove_file(state.jwks()).unwrap();
        let (again, made) = state.issuer().unwrap();
        assert!(!made && again.kid() == first.kid());
        assert_eq!(std::fs::read_to_string(state.jwks()).unwrap(), first.jwks());
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&state.directory().join(KEY_FILE)), 0o600);
        assert_eq!(mode(state.directory()), 0o700);
    }

    #[test]
    fn forgetting_takes_the_regions_and_leaves_the_issuer() {
        let parent = tempfile::tempdir().unwrap();
        let state = State::take(parent.path()).unwrap();
        let regions = layout::regions(layout::DEFAULT_PORT_BASE).unwrap();
        state.issuer().unwrap();
        std::fs::create_dir_all(state.of_region(&regions[0]).join("x")).unwrap();
        state.forget(&regions).unwrap();
        assert!(!state.of_region(&regions[0]).exists() && state.jwks().exists());
    }
}
