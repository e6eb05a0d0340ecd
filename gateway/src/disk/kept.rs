//! Bytes that somebody else lays out, kept in two generations: a magic word, when they were saved, the bytes, and a
//! checksum over all of that.

use super::{Disk, durable};
use bytes::Bytes;
use meridian_model::time::UnixMillis;
use std::io::{self, BufWriter, IntoInnerError, Write};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

const MAGIC: [u8; 8] = *b"MERIDKPT";
const HEAD: usize = 16;
const CHECKSUM: usize = 8;
/// Written at once.
const CHUNK: usize = 64 * 1024;
/// More than any region's federation holds: 64 origins of 5,000 services.
const MAX_BYTES: u64 = 4 * 1024 * 1024 * 1024;

impl Disk {
    /// Writes what `fill` writes as `name`; what stood there becomes the previous generation. Returns once it is durable.
    /// Blocks.
    ///
    /// # Errors
    /// The disk's. At least one generation is whole whatever happens.
    pub fn save_kept(
        &self,
        name: &str,
        saved_at: UnixMillis,
        fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        let previous = format!("{name}.previous");
        durable::replace(&self.dir, name, Some(&previous), |file| {
            let mut out = BufWriter::with_capacity(CHUNK, Hashed { file, hash: Xxh3::new() });
            out.write_all(&MAGIC)?;
            out.write_all(&saved_at.0.to_le_bytes())?;
            fill(&mut out)?;
            let Hashed { file, hash } = out.into_inner().map_err(IntoInnerError::into_error)?;
            file.write_all(&hash.digest().to_le_bytes())
        })
    }

    /// The newest generation of `name` that is whole, and when it was saved. What is damaged is put aside. Blocks.
    #[must_use]
    pub fn load_kept(&self, name: &str) -> Option<(Bytes, UnixMillis)> {
        [name.to_owned(), format!("{name}.previous")].into_iter().find_map(|name| {
            let found = durable::read(&self.dir.join(&name), MAX_BYTES);
            let reason = match found.map(|found| found.map(|bytes| check(Bytes::from(bytes)))) {
                Ok(None) => return None,
                Ok(Some(Some(kept))) => return Some(kept),
                Ok(Some(None)) => "its checksum does not fit".to_owned(),
                Err(e) => e.to_string(),
            };
            tracing::warn!(name, reason, "a saved file cannot be used; it is put aside");
            self.put_aside(&name);
            None
        })
    }
}

/// Sums up what passes.
struct Hashed<W> {
    file: W,
    hash: Xxh3,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(bytes.get(..written).unwrap_or(bytes));
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn check(file: Bytes) -> Option<(Bytes, UnixMillis)> {
    let (body, checksum) = file.split_last_chunk::<CHECKSUM>()?;
    let (head, _) = body.split_first_chunk::<HEAD>()?;
    let (magic, saved_at) = head.split_first_chunk::<8>()?;
    if *magic != MAGIC || xxh3_64(body) != u64::from_le_bytes(*checksum) {
        return None;
    }
    let saved_at = UnixMillis(u64::from_le_bytes(saved_at.try_into().ok()?));
    Some((file.slice(HEAD..file.len() - CHECKSUM), saved_at))
}

#[cfg(test)]
mod tests {
    use super::super::tests::disk;
    use super::*;

    #[test]
    fn the_newest_generation_that_is_whole_is_read() {
        let (dir, disk) = disk();
        assert!(disk.load_kept("x").is_none());
        disk.save_kept("x", UnixMillis(1), |out| out.write_all(b"one")).unwrap();
        disk.save_kept("x", UnixMillis(2), |out| out.write_all(b"two")).unwrap();
        assert_eq!(disk.load_kept("x"), Some((Bytes::from_static(b"two"), UnixMillis(2))));
        let mut torn = std::fs::read(dir.path().join("x")).unwrap();
        torn[17] ^= 1;
        std::fs::write(dir.path().join("x"), torn).unwrap();
        assert_eq!(disk.load_kept("x"), Some((Bytes::from_static(b"one"), UnixMillis(1))));
        assert!(dir.path().join("x.damaged").exists());
        for short in [&b""[..], b"MERIDKPT", &[0; 23], &[0; 24]] {
            std::fs::write(dir.path().join("y"), short).unwrap();
            assert!(disk.load_kept("y").is_none());
        }
    }
}
