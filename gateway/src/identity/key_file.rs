//! An issuer's keys as a file holds them, followed as the file is rotated.
//!
//! Tokens are verified against what was last read; the file itself is only ever touched by `refresh`, which runs beside
//! the requests. While the file is gone or broken the last good keys stay in force for a bounded time.

use super::keys::KeySet;
use arc_swap::{ArcSwap, Guard};
use jsonwebtoken::Algorithm;
use meridian_model::time::UnixMillis;
use std::fs::{File, Metadata};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// A `kid` that is not known causes one more reading in this time, however many tokens carry it.
pub(super) const REREAD_AT_MOST_EVERY: Duration = Duration::from_secs(30);

/// Far above any key set; a bound for a path that turns out to be something else.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// What a reading found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refreshed {
    /// Other keys than before are in force, so many.
    Changed(usize),
    /// The file cannot be used; the keys read before stay for now.
    Failed(String),
    /// The file can be used again after it could not.
    Recovered,
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

/// What only `refresh` needs to remember.
struct Progress {
    stamp: Option<Stamp>,
    failing: bool,
    reread_at: Option<UnixMillis>,
}

pub(super) struct KeyFile {
    path: PathBuf,
    allowed: Vec<Algorithm>,
    keep_for: Duration,
    current: ArcSwap<KeySet>,
    /// Unix milliseconds after which the keys in force are too old; `u64::MAX` while the file is good.
    stale_after: AtomicU64,
    wanted: AtomicBool,
    progress: Mutex<Progress>,
}

impl KeyFile {
    /// Reads the file for the first time; without good keys there is nothing to keep.
    pub(super) fn open(path: PathBuf, allowed: Vec<Algorithm>, keep_for: Duration) -> Result<Self, String> {
        let (keys, stamp) = read(&path, &allowed)?;
        Ok(Self {
            path,
            allowed,
            keep_for,
            current: ArcSwap::from_pointee(keys),
            stale_after: AtomicU64::new(u64::MAX),
            wanted: AtomicBool::new(false),
            progress: Mutex::new(Progress { stamp: Some(stamp), failing: false, reread_at: None }),
        })
    }

    /// The keys in force.
    pub(super) fn keys(&self) -> Guard<Arc<KeySet>> {
        self.current.load()
    }

    /// Whether the file has been unusable for longer than its keys are kept.
    pub(super) fn is_stale(&self, now: UnixMillis) -> bool {
        now.0 > self.stale_after.load(Ordering::Relaxed)
    }

    /// Asks for a reading although the file may look unchanged.
    pub(super) fn want(&self) {
        self.wanted.store(true, Ordering::Relaxed);
    }

    /// Reads the file if it changed, or if that was wanted and is due.
    pub(super) fn refresh(&self, now: UnixMillis) -> Option<Refreshed> {
        // Nothing panics under this lock; were it to, the state would still be whole.
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let due = progress.reread_at.is_none_or(|last| now.since(last) >= REREAD_AT_MOST_EVERY);
        let asked = due && self.wanted.swap(false, Ordering::Relaxed);
        if asked {
            progress.reread_at = Some(now);
        }
        let seen = std::fs::metadata(&self.path).ok().map(|file| Stamp::of(&file));
        // A file that failed is tried again even so: rights and links change without a trace in it.
        if !asked && !progress.failing && seen.is_some() && seen == progress.stamp {
            return None;
        }
        match read(&self.path, &self.allowed) {
            Ok((keys, stamp)) => {
                progress.stamp = Some(stamp);
                let recovered = std::mem::take(&mut progress.failing);
                self.stale_after.store(u64::MAX, Ordering::Relaxed);
                if !keys.same_as(&self.keys()) {
                    let count = keys.len();
                    self.current.store(Arc::new(keys));
                    return Some(Refreshed::Changed(count));
                }
                recovered.then_some(Refreshed::Recovered)
            }
            Err(detail) => {
                if std::mem::replace(&mut progress.failing, true) {
                    return None;
                }
                self.stale_after.store(now.plus(self.keep_for).0, Ordering::Relaxed);
                Some(Refreshed::Failed(detail))
            }
        }
    }
}

fn read(path: &Path, allowed: &[Algorithm]) -> Result<(KeySet, Stamp), String> {
    let unreadable = |e: std::io::Error| format!("cannot read {}: {e}", path.display());
    // Asked before opening: opening a pipe would wait for its writer.
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(format!("{} is not a file", path.display()));
    }
    let file = File::open(path).map_err(unreadable)?;
    let stamp = Stamp::of(&file.metadata().map_err(unreadable)?);
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("{} is larger than 1 MiB", path.display()));
    }
    let keys = KeySet::parse(&bytes, allowed).map_err(|e| format!("{} {e}", path.display()))?;
    Ok((keys, stamp))
}
