//! What a gateway keeps on its own disk: the region's state for a start without registry, the modules of policies, what
//! it knew of the registry, and its name.
//!
//! ```text
//! data_dir/lock                      held while a gateway runs
//! data_dir/gateway-id
//! data_dir/state, state.previous     two generations of the state
//! data_dir/known                     how far the registry had come, and until when that state was confirmed
//! data_dir/modules/<sha256>.wasm
//! data_dir/artefacts/                machine code of modules, and the key that seals it: the policy host's own
//! ```
//! Whatever cannot be read is moved to `<name>.damaged` and said so in the log; nothing here can stop a gateway but a
//! directory that belongs to another.

mod durable;
mod format;
mod kept;
mod modules;
pub mod saver;

use crate::image::Image;
use bytes::Bytes;
use format::Contents;
use meridian_model::names::{GatewayId, RegionName};
use meridian_model::time::UnixMillis;
use meridian_registry::Known;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

const STATE: &str = "state";
const PREVIOUS: &str = "state.previous";
const KNOWN: &str = "known";
const GATEWAY_ID: &str = "gateway-id";
const LOCK: &str = "lock";
const DAMAGED: &str = ".damaged";

/// The data directory of one gateway, locked as long as this lives.
#[derive(Debug)]
pub struct Disk {
    dir: PathBuf,
    modules: PathBuf,
    region: RegionName,
    /// The checksum of the state that was last loaded or saved; held while one is being written.
    current: Mutex<Option<u64>>,
    /// The lock goes with the file.
    _lock: File,
}

/// How a save went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Saved {
    /// Size of the file.
    pub bytes: u64,
    /// How long it took, until it was durable.
    pub millis: u64,
}

/// What was found at the start.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The newest state that is whole. `saved_at` and `revision` are those until which it was confirmed.
    pub image: Option<Image>,
    /// How far the registry had come, for [`meridian_registry::Registry::watch`]; may be ahead of the image.
    pub known: Option<Known>,
    /// What could not be used.
    pub refused: Vec<Refused>,
}

/// A file that could not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} {reason}", file.display())]
pub struct Refused {
    /// Where it stood.
    pub file: PathBuf,
    /// Why.
    pub reason: Refusal,
}

/// Why a file could not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The disk did not give it.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// It does not begin like one.
    #[error("is no saved state")]
    NoState,
    /// Another version of the program wrote it.
    #[error("has format {0}, which this version cannot read")]
    OtherFormat(u32),
    /// It is not what was written.
    #[error("is damaged: {0}")]
    Damaged(&'static str),
    /// The directory was used by a gateway of another region.
    #[error("belongs to region {found}, not {wanted}: give each gateway a data directory of its own")]
    OtherRegion {
        /// Whose it is.
        found: RegionName,
        /// Who asked.
        wanted: RegionName,
    },
}

impl Disk {
    /// Takes the directory for this process, and creates it if need be, for this user alone.
    ///
    /// # Errors
    /// A sentence with the path: another process has it, or it cannot be made or written.
    pub fn open(data_dir: &Path, region: RegionName) -> io::Result<Self> {
        let modules = data_dir.join("modules");
        durable::create_dir(&modules)?;
        let path = data_dir.join(LOCK);
        let mut options = OpenOptions::new();
        let lock = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let lock = lock.map_err(|e| durable::at(&path, &e))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let place = data_dir.display();
                let why =
                    format!("another gateway uses {place}; give each gateway a data directory of its own");
                return Err(io::Error::new(ErrorKind::ResourceBusy, why));
            }
            Err(TryLockError::Error(e)) => return Err(durable::at(&path, &e)),
        }
        let dir = data_dir.to_owned();
        let disk = Self { dir, modules, region, current: Mutex::new(None), _lock: lock };
        disk.remove_unfinished_modules()?;
        Ok(disk)
    }

    /// The name of this gateway among the members of the region: drawn once, then kept.
    ///
    /// # Errors
    /// The disk's.
    pub fn gateway_id(&self) -> io::Result<GatewayId> {
        /// More than the grammar allows.
        const MAX_BYTES: u64 = 256;
        let path = self.dir.join(GATEWAY_ID);
        if let Some(bytes) = durable::read(&path, MAX_BYTES).map_err(|e| durable::at(&path, &e))? {
            match String::from_utf8_lossy(&bytes).trim().parse() {
                Ok(id) => return Ok(id),
                Err(e) => {
                    tracing::warn!(file = %path.display(), reason = %e, "drawing a new gateway id");
                    self.put_aside(GATEWAY_ID);
                }
            }
        }
        let drawn = format!("gw-{:08x}", rand::random::<u32>());
        let id = drawn.parse().map_err(io::Error::other)?;
        durable::replace(&self.dir, GATEWAY_ID, None, |file| writeln!(file, "{drawn}"))?;
        Ok(id)
    }

    /// Writes `image`; what stood there before becomes the previous generation. Returns once it is durable. Blocks.
    ///
    /// # Errors
    /// The disk's. At least one generation is whole whatever happens.
    pub fn save(&self, image: &Image) -> io::Result<Saved> {
        let started = Instant::now();
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let written = durable::replace(&self.dir, STATE, Some(PREVIOUS), |file| {
            format::encode(file, &self.region, image, 0)
        })?;
        *current = Some(written.checksum);
        let millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(Saved { bytes: written.bytes, millis })
    }

    /// Notes that the registry has come to `known`, and that the state last saved or loaded was complete up to there at
    /// `proved_at`. Costs a small file where [`Disk::save`] costs the whole state. Blocks.
    ///
    /// # Errors
    /// The disk's.
    pub fn confirm(&self, known: Known, proved_at: UnixMillis) -> io::Result<()> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let Known { incarnation, revision } = known;
        let note =
            Image { incarnation, revision, saved_at: proved_at, records: Vec::new(), emptied: Vec::new() };
        let confirms = current.unwrap_or(0);
        durable::replace(&self.dir, KNOWN, None, |file| format::encode(file, &self.region, &note, confirms))?;
        Ok(())
    }

    /// Reads the newest state that is whole. Values share one allocation, which lives as long as any of them. Blocks.
    ///
    /// # Errors
    /// Only if the directory belongs to another region, whose state must not be overwritten. Everything else is
    /// reported in [`Loaded::refused`] and in the log, and put aside.
    pub fn load(&self) -> Result<Loaded, Refused> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let mut refused = Vec::new();
        let mut state = self.load_file(STATE, &mut refused)?;
        if state.is_none() {
            state = self.load_file(PREVIOUS, &mut refused)?;
        }
        let note = self.load_file(KNOWN, &mut refused)?;
        *current = state.as_ref().map(|state| state.checksum);
        let known = later(state.as_ref(), note.as_ref());
        let image = state.map(|state| {
            let mut image = state.image;
            if let Some(note) =
                note.filter(|n| n.confirms == state.checksum && n.image.incarnation == image.incarnation)
            {
                image.revision = image.revision.max(note.image.revision);
                image.saved_at = image.saved_at.max(note.image.saved_at);
            }
            image
        });
        Ok(Loaded { image, known, refused })
    }

    fn load_file(&self, name: &str, refused: &mut Vec<Refused>) -> Result<Option<Contents>, Refused> {
        let file = self.dir.join(name);
        let reason = match durable::read(&file, format::MAX_BYTES) {
            Ok(None) => return Ok(None),
            Ok(Some(bytes)) => match format::decode(&Bytes::from(bytes), &self.region) {
                Ok(contents) => return Ok(Some(contents)),
                Err(reason @ Refusal::OtherRegion { .. }) => return Err(Refused { file, reason }),
                Err(reason) => reason,
            },
            Err(e) => Refusal::Unreadable(e.to_string()),
        };
        tracing::warn!(file = %file.display(), %reason, "a saved state cannot be used; it is put aside");
        self.put_aside(name);
        refused.push(Refused { file, reason });
        Ok(None)
    }

    /// For whoever wants to know what happened to it. A failure is no loss: what is written next replaces it.
    fn put_aside(&self, name: &str) {
        let aside = self.dir.join(format!("{name}{DAMAGED}"));
        let moved = fs::rename(self.dir.join(name), aside).and_then(|()| durable::sync_dir(&self.dir));
        if let Err(e) = moved {
            tracing::warn!(name, "cannot put it aside: {e}");
        }
    }
}

/// The later of what the two say of the registry. Of two lives with one number, the one that was seen last.
fn later(state: Option<&Contents>, note: Option<&Contents>) -> Option<Known> {
    let order = |c: &&Contents| (c.image.incarnation.counter, c.image.saved_at);
    let last = [state, note].into_iter().flatten().max_by_key(order)?;
    let incarnation = last.image.incarnation;
    let same_life = [state, note].into_iter().flatten().filter(|c| c.image.incarnation == incarnation);
    let revision = same_life.map(|c| c.image.revision).max()?;
    Some(Known { incarnation, revision })
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_registry::{Incarnation, Key, Revision, Stored};
    use std::os::unix::fs::PermissionsExt;
    use tempfile::TempDir;

    fn region() -> RegionName {
        "eu-central-1".parse().unwrap()
    }

    pub(super) fn disk() -> (TempDir, Disk) {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::open(dir.path(), region()).unwrap();
        (dir, disk)
    }

    pub(super) fn image(revision: u64, records: u64) -> Image {
        let records = (0..records).map(|n| Stored {
            key: Key::decode(&format!("state/instances/default/s/i{n}")).unwrap(),
            value: Bytes::from(vec![b'v'; 500]),
            modified: Revision(n),
        });
        Image {
            incarnation: Incarnation { counter: 2, random: 7 },
            revision: Revision(revision),
            saved_at: UnixMillis(revision * 1000),
            records: records.collect(),
            emptied: Vec::new(),
        }
    }

    fn known(revision: u64) -> Known {
        Known { incarnation: Incarnation { counter: 2, random: 7 }, revision: Revision(revision) }
    }

    #[test]
    fn an_empty_directory_has_nothing_to_load() {
        let (_dir, disk) = disk();
        let loaded = disk.load().unwrap();
        assert!(loaded.image.is_none() && loaded.known.is_none() && loaded.refused.is_empty());
    }

    #[test]
    fn the_newest_state_is_loaded() {
        let (_dir, disk) = disk();
        for revision in [5, 6, 7] {
            disk.save(&image(revision, revision)).unwrap();
        }
        let loaded = disk.load().unwrap();
        assert_eq!(loaded.image, Some(image(7, 7)));
        assert_eq!(loaded.known, Some(known(7)));
    }

    /// A gateway that starts beside a torn file would otherwise answer with nothing.
    #[test]
    fn a_damaged_state_gives_way_to_the_one_before_and_is_kept_for_people() {
        let (dir, disk) = disk();
        disk.save(&image(5, 2)).unwrap();
        disk.save(&image(6, 3)).unwrap();
        let path = dir.path().join(STATE);
        let torn = fs::read(&path).unwrap()[..700].to_vec();
        fs::write(&path, &torn).unwrap();
        let loaded = disk.load().unwrap();
        assert_eq!(loaded.image, Some(image(5, 2)));
        let reason = Refusal::Damaged("its checksum does not fit");
        assert_eq!(loaded.refused, [Refused { file: path, reason }]);
        assert_eq!(fs::read(dir.path().join("state.damaged")).unwrap(), torn);

        disk.save(&image(8, 1)).unwrap();
        fs::write(dir.path().join(STATE), b"").unwrap();
        assert_eq!(disk.load().unwrap().image, Some(image(5, 2)), "the previous one was kept meanwhile");
        fs::write(dir.path().join(PREVIOUS), b"x").unwrap();
        let loaded = disk.load().unwrap();
        assert_eq!((loaded.image, loaded.refused.len()), (None, 1));
    }

    #[test]
    fn a_crash_between_the_two_renames_loses_no_state() {
        let (dir, disk) = disk();
        disk.save(&image(5, 2)).unwrap();
        fs::rename(dir.path().join(STATE), dir.path().join(PREVIOUS)).unwrap();
        fs::write(dir.path().join("state.new"), b"half").unwrap();
        assert_eq!(disk.load().unwrap().image, Some(image(5, 2)));
        disk.save(&image(6, 2)).unwrap();
        assert_eq!(disk.load().unwrap().image, Some(image(6, 2)));
    }

    #[test]
    fn a_note_confirms_only_the_state_that_it_was_written_for() {
        let (_dir, disk) = disk();
        disk.save(&image(5, 2)).unwrap();
        disk.confirm(known(9), UnixMillis(9_999)).unwrap();
        let confirmed = disk.load().unwrap().image.unwrap();
        assert_eq!((confirmed.revision, confirmed.saved_at), (Revision(9), UnixMillis(9_999)));

        disk.save(&image(7, 3)).unwrap();
        let loaded = disk.load().unwrap();
        assert_eq!(loaded.image, Some(image(7, 3)), "the note is about the one before");
        assert_eq!(loaded.known, Some(known(9)), "but the registry had come that far");
    }

    #[test]
    fn a_later_life_of_the_registry_counts_however_low_its_revision() {
        let (_dir, disk) = disk();
        disk.save(&image(500, 2)).unwrap();
        disk.confirm(known(600), UnixMillis(600_000)).unwrap();
        let incarnation = Incarnation { counter: 3, random: 1 };
        disk.save(&Image { incarnation, revision: Revision(4), ..image(700, 1) }).unwrap();
        assert_eq!(disk.load().unwrap().known, Some(Known { incarnation, revision: Revision(4) }));
    }

    #[test]
    fn another_regions_state_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::open(dir.path(), region()).unwrap();
        disk.save(&image(5, 2)).unwrap();
        drop(disk);
        let other = Disk::open(dir.path(), "us-east-1".parse().unwrap()).unwrap();
        let refused = other.load().unwrap_err().to_string();
        assert!(refused.contains("belongs to region eu-central-1, not us-east-1"), "{refused}");
        drop(other);
        assert_eq!(Disk::open(dir.path(), region()).unwrap().load().unwrap().image, Some(image(5, 2)));
    }

    #[test]
    fn a_directory_has_one_gateway_at_a_time() {
        let (dir, disk) = disk();
        let refused = Disk::open(dir.path(), region()).unwrap_err().to_string();
        assert!(refused.contains("another gateway uses"), "{refused}");
        drop(disk);
        Disk::open(dir.path(), region()).unwrap();
    }

    #[test]
    fn the_gateway_id_is_drawn_once() {
        let (dir, disk) = disk();
        let id = disk.gateway_id().unwrap();
        assert!(id.as_str().len() == 11 && id.as_str().starts_with("gw-"), "{id}");
        assert_eq!(disk.gateway_id().unwrap(), id);
        fs::write(dir.path().join(GATEWAY_ID), "../../etc\n").unwrap();
        assert_ne!(disk.gateway_id().unwrap(), id);
    }

    #[test]
    fn only_this_user_can_read_it() {
        let outer = tempfile::tempdir().unwrap();
        let dir = outer.path().join("a/data");
        let disk = Disk::open(&dir, region()).unwrap();
        disk.save(&image(5, 2)).unwrap();
        disk.gateway_id().unwrap();
        for (path, mode) in
            [(".", 0o700), ("modules", 0o700), (STATE, 0o600), (GATEWAY_ID, 0o600), (LOCK, 0o600)]
        {
            let found = fs::metadata(dir.join(path)).unwrap().permissions().mode() & 0o777;
            assert_eq!(found, mode, "{path}");
        }
    }

    #[test]
    fn a_full_disk_leaves_the_state_that_was_there() {
        let (dir, disk) = disk();
        disk.save(&image(5, 2)).unwrap();
        // Writing to /dev/full fails as a full disk does.
        std::os::unix::fs::symlink("/dev/full", dir.path().join("state.new")).unwrap();
        let failed = disk.save(&image(6, 2)).unwrap_err();
        assert_eq!(failed.kind(), ErrorKind::StorageFull, "{failed}");
        assert_eq!(disk.load().unwrap().image, Some(image(5, 2)));
        disk.save(&image(6, 2)).unwrap();
        assert_eq!(disk.load().unwrap().image, Some(image(6, 2)));
    }
}
