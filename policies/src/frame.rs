//! What the compiling process says to the one that started it: frames of a kind, a length, a digest and contents.

use meridian_model::names::PolicyVersion;
use std::io::{self, ErrorKind, Read, Write};

/// Longest frame that is no artefact.
pub(crate) const MAX_WORDS_BYTES: usize = 64 * 1024;
const DIGEST_BYTES: usize = 64;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The compiled module; once, before anything of it has run.
    Artefact,
    /// What is tried next: check and input. What stands here when the process dies is what it died of.
    Step,
    /// What the trial showed; the last frame of a module that passed.
    Findings,
    /// Why the module is refused; the last frame of one that did not.
    Refusal,
}

impl Kind {
    fn byte(self) -> u8 {
        match self {
            Self::Artefact => b'A',
            Self::Step => b'S',
            Self::Findings => b'F',
            Self::Refusal => b'R',
        }
    }

    fn of(byte: u8) -> Option<Self> {
        [Self::Artefact, Self::Step, Self::Findings, Self::Refusal]
            .into_iter()
            .find(|kind| kind.byte() == byte)
    }
}

/// Writes a frame.
pub(crate) fn write(to: &mut impl Write, kind: Kind, contents: &[u8]) -> io::Result<()> {
    let length = u32::try_from(contents.len()).map_err(|_| io::Error::from(ErrorKind::FileTooLarge))?;
    to.write_all(&[kind.byte()])?;
    to.write_all(&length.to_le_bytes())?;
    to.write_all(PolicyVersion::of(contents).hex().as_bytes())?;
    to.write_all(contents)?;
    to.flush()
}

/// Reads a frame; `None` at the end.
pub(crate) fn read(from: &mut impl Read, max_artefact: usize) -> io::Result<Option<(Kind, Vec<u8>)>> {
    let mut kind = [0];
    if from.read(&mut kind)? == 0 {
        return Ok(None);
    }
    let bad = || io::Error::from(ErrorKind::InvalidData);
    let kind = Kind::of(kind[0]).ok_or_else(bad)?;
    let (mut length, mut digest) = ([0; 4], [0; DIGEST_BYTES]);
    from.read_exact(&mut length)?;
    from.read_exact(&mut digest)?;
    let length = u32::from_le_bytes(length);
    let max = if kind == Kind::Artefact { max_artefact } else { MAX_WORDS_BYTES };
    if length as usize > max {
        return Err(ErrorKind::FileTooLarge.into());
    }
    let mut contents = Vec::new();
    from.take(u64::from(length)).read_to_end(&mut contents)?;
    if contents.len() != length as usize || PolicyVersion::of(&contents).hex().as_bytes() != digest {
        return Err(bad());
    }
    Ok(Some((kind, contents)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_whole_or_not_at_all() {
        let mut sent = Vec::new();
        write(&mut sent, Kind::Artefact, b"code").unwrap();
        write(&mut sent, Kind::Findings, b"{}").unwrap();
        let mut from = sent.as_slice();
        assert_eq!(read(&mut from, 4).unwrap(), Some((Kind::Artefact, b"code".to_vec())));
        assert_eq!(read(&mut from, 4).unwrap(), Some((Kind::Findings, b"{}".to_vec())));
        assert_eq!(read(&mut from, 4).unwrap(), None);
        assert!(read(&mut sent.as_slice(), 3).is_err(), "larger than allowed");
        let first = sent.len() - 1 - 4 - DIGEST_BYTES - 2;
        for at in 0..first {
            let mut bent = sent.clone();
            bent[at] ^= 0x20;
            assert!(read(&mut bent.as_slice(), 1 << 20).is_err(), "byte {at} may be changed");
            if at > 0 {
                assert!(read(&mut &sent[..at], 1 << 20).is_err(), "{at} bytes are enough");
            }
        }
    }
}
