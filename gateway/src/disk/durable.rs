//! Files that are there whole or not at all, also after a loss of power.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// What the name of a file ends in while it is being written. Nobody reads it.
pub(super) const UNFINISHED: &str = ".new";

/// Creates `dir` and what leads there, for this user alone; one that exists stays as it is.
pub(super) fn create_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| at(dir, &e))
}

/// Replaces `dir/name` by what `fill` writes. Where `former` is named, the file that stood there gets that name.
pub(super) fn replace<T>(
    dir: &Path,
    name: &str,
    former: Option<&str>,
    fill: impl FnOnce(&mut File) -> io::Result<T>,
) -> io::Result<T> {
    let (unfinished, place) = (dir.join(format!("{name}{UNFINISHED}")), dir.join(name));
    let write = || {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        let filled = fill(&mut file)?;
        file.sync_all()?;
        Ok(filled)
    };
    let filled = write().map_err(|e| {
        // On a full disk, half a file would only be in the way.
        let _ = fs::remove_file(&unfinished);
        at(&unfinished, &e)
    })?;
    if let Some(former) = former {
        match fs::rename(&place, dir.join(former)) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(at(&place, &e)),
            _ => {}
        }
    }
    fs::rename(&unfinished, &place).map_err(|e| at(&place, &e))?;
    sync_dir(dir)?;
    Ok(filled)
}

/// Makes names in `dir` durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| at(dir, &e))
}

/// The whole file; `None` if there is none.
pub(super) fn read(path: &Path, max_bytes: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let length = file.metadata()?.len();
    if length > max_bytes {
        return Err(ErrorKind::FileTooLarge.into());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0).saturating_add(1));
    // It may grow while it is read.
    file.take(max_bytes).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// The same error with the place that it is about.
pub(super) fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
