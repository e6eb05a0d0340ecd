//! What this process proves its name with, and whom it believes: three files, followed as they are replaced.
//!
//! The three are read as one. While they do not fit together (one was replaced and the others not yet, or one is broken)
//! what was last read whole stays in force, and that is said.

use super::name::PeerName;
use super::trust::{MAX_CHAIN, Trust, Validity};
use arc_swap::{ArcSwap, Guard};
use bytes::Bytes;
use rustls::SignatureScheme;
use rustls::sign::{CertifiedKey, SigningKey};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use std::fs::{File, Metadata};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use thiserror::Error;

/// How often the files are looked at.
pub const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Far above any chain or bundle; a bound for a path that turns out to be something else.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Where the files are, all PEM.
#[derive(Clone, Debug)]
pub struct Files {
    /// The certificate of this process, and what stands between it and the authority.
    pub certificate: PathBuf,
    /// Its key: ECDSA P-256 or Ed25519.
    pub key: PathBuf,
    /// The authorities of the trust domain.
    pub ca: PathBuf,
}

/// Why the files cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MaterialError {
    /// Not there, not readable, or not what it should be.
    #[error("{path} {detail}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// Each can be read, but they do not belong together.
    #[error("certificate, key and authorities do not fit together: {0}")]
    Unfit(String),
}

/// One whole reading of the files.
pub struct Material {
    /// Who this process is.
    pub name: PeerName,
    /// Its certificate and what stands between, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The same as it travels with a head.
    pub credential: Bytes,
    /// For the handshake and for heads.
    pub key: Arc<dyn SigningKey>,
    /// Whom it believes.
    pub trust: Trust,
}

impl Material {
    /// From the text of the three files.
    ///
    /// # Errors
    /// Where one cannot be read, or they do not fit together.
    pub fn from_pem(certificate: &[u8], key: &[u8], ca: &[u8], now: UnixTime) -> Result<Self, MaterialError> {
        Self::parse(
            &Files { certificate: "certificate".into(), key: "key".into(), ca: "ca".into() },
            [certificate, key, ca],
            now,
        )
    }

    fn read(files: &Files, now: UnixTime) -> Result<Self, MaterialError> {
        let [certificate, key, ca] = [&files.certificate, &files.key, &files.ca]
            .map(|path| read(path).map_err(|detail| MaterialError::File { path: path.clone(), detail }));
        Self::parse(files, [&certificate?, &key?, &ca?], now)
    }

    fn parse(
        files: &Files,
        [certificate, key, ca]: [&[u8]; 3],
        now: UnixTime,
    ) -> Result<Self, MaterialError> {
        let wrong = |path: &Path, detail: String| MaterialError::File { path: path.to_owned(), detail };
        let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate)
            .collect::<Result<_, _>>()
            .map_err(|e| wrong(&files.certificate, format!("is not PEM: {e}")))?;
        if chain.is_empty() || chain.len() > MAX_CHAIN {
            let detail = format!("holds {} certificates instead of 1 to {MAX_CHAIN}", chain.len());
            return Err(wrong(&files.certificate, detail));
        }
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|e| wrong(&files.key, format!("holds no private key in PEM: {e}")))?;
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key)
            .map_err(|e| wrong(&files.key, format!("cannot be used: {e}")))?;
        if key.choose_scheme(&HEAD_SCHEMES).is_none() {
            let detail = "is neither an ECDSA P-256 nor an Ed25519 key".to_owned();
            return Err(wrong(&files.key, detail));
        }
        let trust = Trust::from_pem(ca).map_err(|detail| wrong(&files.ca, detail))?;
        let unfit = MaterialError::Unfit;
        let pair = CertifiedKey::new(chain.clone(), Arc::clone(&key));
        pair.keys_match().map_err(|e| unfit(format!("the key is not the certificate's ({e})")))?;
        let name = trust.name_of(&chain, Validity::At(now)).map_err(|e| unfit(e.to_string()))?;
        let credential = super::credential::encode(&chain);
        Ok(Self { name, chain, credential, key, trust })
    }
}

impl Material {
    /// When the own certificate runs out.
    #[must_use]
    pub fn ends(&self, now: UnixTime) -> Option<UnixTime> {
        self.trust.ends(&self.chain, now)
    }
}

/// What heads are signed with, whatever the handshake uses.
pub(super) const HEAD_SCHEMES: [SignatureScheme; 2] =
    [SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ED25519];

/// What a look at the files found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reloaded {
    /// Others than before are in force.
    Changed,
    /// They cannot be used; those read before stay.
    Failed(MaterialError),
    /// They can be used again, and are those that stayed in force.
    Recovered,
}

/// The files and what was last read of them.
pub struct Followed {
    files: Option<Files>,
    current: ArcSwap<Material>,
    progress: Mutex<Progress>,
}

/// What only a look needs to remember.
struct Progress {
    stamps: [Option<Stamp>; 3],
    /// What was wrong at the last look, and whether that was said.
    failing: Option<(MaterialError, bool)>,
}

impl Followed {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// Where they cannot be used: there is nothing yet that could stay in force.
    pub fn open(files: Files, now: UnixTime) -> Result<Self, MaterialError> {
        let stamps = stamps(&files);
        let material = Material::read(&files, now)?;
        Ok(Self {
            files: Some(files),
            current: ArcSwap::from_pointee(material),
            progress: Mutex::new(Progress { stamps, failing: None }),
        })
    }

    /// What does not come from files and stays as it is.
    #[must_use]
    pub fn fixed(material: Material) -> Self {
        let progress = Mutex::new(Progress { stamps: [None, None, None], failing: None });
        Self { files: None, current: ArcSwap::from_pointee(material), progress }
    }

    /// What is in force.
    pub fn current(&self) -> Guard<Arc<Material>> {
        self.current.load()
    }

    /// Reads the files if one of them changed since the last look. Files that do not fit together are reported when they
    /// still do not at the next look, since three files are not replaced at one instant.
    pub fn look(&self, now: UnixTime) -> Option<Reloaded> {
        let files = self.files.as_ref()?;
        // Nothing panics under this lock; were it to, the state would still be whole.
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = stamps(files);
        if progress.failing.is_none() && seen == progress.stamps {
            return None;
        }
        let ours = self.current();
        let read = Material::read(files, now).and_then(|material| {
            // Links, heads and the machine are built upon the name.
            if material.name == ours.name { Ok(material) } else { Err(renamed(&ours.name, &material.name)) }
        });
        match read {
            Ok(material) => {
                let failed = progress.failing.take();
                let same_files = seen == progress.stamps;
                progress.stamps = seen;
                if same_files {
                    return failed.filter(|(_, said)| *said).map(|_| Reloaded::Recovered);
                }
                self.current.store(Arc::new(material));
                Some(Reloaded::Changed)
            }
            Err(error) => {
                let before = progress.failing.take();
                let say = before.as_ref().is_some_and(|(_, said)| !said);
                let said = say || before.as_ref().is_some_and(|(_, said)| *said);
                progress.failing = Some((error.clone(), said));
                say.then_some(Reloaded::Failed(error))
            }
        }
    }
}

fn renamed(ours: &PeerName, theirs: &PeerName) -> MaterialError {
    MaterialError::Unfit(format!("the new certificate is for {theirs}, this process is {ours}; restart it"))
}

/// Tells one state of a file from the next without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    bytes: u64,
    #[cfg(unix)]
    inode: (u64, u64),
}

impl Stamp {
    fn of(file: &Metadata) -> Self {
        Self {
            modified: file.modified().ok(),
            bytes: file.len(),
            #[cfg(unix)]
            inode: {
                use std::os::unix::fs::MetadataExt;
                (file.dev(), file.ino())
            },
        }
    }
}

fn stamps(files: &Files) -> [Option<Stamp>; 3] {
    [&files.certificate, &files.key, &files.ca]
        .map(|path| std::fs::metadata(path).ok().map(|file| Stamp::of(&file)))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let unreadable = |e: std::io::Error| format!("cannot be read: {e}");
    // Asked before opening: opening a pipe would wait for its writer.
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err("is not a file".to_owned());
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err("is larger than 1 MiB".to_owned());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::certificates::{Authority, Issued, KeyKind};
    use super::super::rig::{authority, ended, files, lifetime, name, replace, write};
    use super::*;

    fn issue(authority: &Authority, short: &str) -> Issued {
        authority.issue(&name(short), KeyKind::Ed25519, lifetime()).unwrap()
    }

    fn now() -> UnixTime {
        UnixTime::now()
    }

    #[test]
    fn files_that_do_not_fit_together_leave_the_old_in_force_until_they_do() {
        let (dir, root) = (tempfile::tempdir().unwrap(), authority());
        write(dir.path(), &issue(&root, "eu/node/a"), root.certificate());
        let followed = Followed::open(files(dir.path()), now()).unwrap();
        let first = followed.current().credential.clone();
        assert_eq!(followed.look(now()), None);

        let renewed = issue(&root, "eu/node/a");
        replace(&files(dir.path()).certificate, &renewed.certificate);
        assert_eq!(followed.look(now()), None, "the key may be on its way");
        assert!(matches!(followed.look(now()), Some(Reloaded::Failed(MaterialError::Unfit(_)))));
        assert_eq!(followed.look(now()), None, "it was said");
        assert_eq!(followed.current().credential, first);
        replace(&files(dir.path()).key, &renewed.key);
        assert_eq!(followed.look(now()), Some(Reloaded::Changed));
        assert_ne!(followed.current().credential, first);
        assert_eq!(followed.look(now()), None);
    }

    #[test]
    fn a_broken_or_missing_file_is_reported_and_leaves_the_old_in_force() {
        let (dir, root) = (tempfile::tempdir().unwrap(), authority());
        write(dir.path(), &issue(&root, "eu/node/a"), root.certificate());
        let followed = Followed::open(files(dir.path()), now()).unwrap();
        let first = followed.current().credential.clone();
        let ca = files(dir.path()).ca;
        for broken in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "nonsense"] {
            replace(&ca, broken);
            let reports = [followed.look(now()), followed.look(now()), followed.look(now())];
            let failed = reports.iter().flatten().filter(|r| matches!(r, Reloaded::Failed(_))).count();
            assert_eq!(failed, 1, "{broken:?}: {reports:?}");
            replace(&ca, root.certificate());
            assert_eq!(followed.look(now()), Some(Reloaded::Changed));
        }
        std::fs::remove_file(&ca).unwrap();
        assert_eq!(followed.look(now()), None);
        assert!(matches!(followed.look(now()), Some(Reloaded::Failed(MaterialError::File { .. }))));
        assert_eq!(followed.current().credential, first);
    }

    #[test]
    fn a_process_keeps_its_name() {
        let (dir, root) = (tempfile::tempdir().unwrap(), authority());
        write(dir.path(), &issue(&root, "eu/node/a"), root.certificate());
        let followed = Followed::open(files(dir.path()), now()).unwrap();
        write(dir.path(), &issue(&root, "us/node/a"), root.certificate());
        followed.look(now());
        assert!(matches!(followed.look(now()), Some(Reloaded::Failed(MaterialError::Unfit(_)))));
        assert_eq!(followed.current().name, name("eu/node/a"));
    }

    #[test]
    fn what_cannot_be_used_is_refused_at_the_start() {
        let (dir, root) = (tempfile::tempdir().unwrap(), authority());
        let good = issue(&root, "eu/node/a");
        let open = |issued: &Issued, ca: &str| {
            write(dir.path(), issued, ca);
            Followed::open(files(dir.path()), now()).map(|_| ())
        };
        assert_eq!(open(&good, root.certificate()), Ok(()));
        let old = root.issue(&name("eu/node/a"), KeyKind::EcdsaP256, ended()).unwrap();
        let other = issue(&root, "eu/node/a");
        let mixed = Issued { certificate: good.certificate.clone(), key: other.key };
        let nameless = root.issue_uris(&[], "a", KeyKind::EcdsaP256, lifetime()).unwrap();
        let keyless = Issued { certificate: good.certificate.clone(), key: good.certificate.clone() };
        for (what, issued, ca) in [
            ("expired", &old, root.certificate()),
            ("another key", &mixed, root.certificate()),
            ("no name", &nameless, root.certificate()),
            ("no key", &keyless, root.certificate()),
            ("another authority", &good, authority().certificate()),
        ] {
            assert!(open(issued, ca).is_err(), "{what}");
        }
    }
}
