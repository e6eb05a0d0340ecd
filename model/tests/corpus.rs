//! The fuzz targets' functions over the corpus that is kept in `fuzz/corpus`, and over damaged copies of it: what fuzzing
//! once found stays found, on every run of the tests and without a fuzzer.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "unwrap in tests is the assertion itself, in their helpers too"
)]
#![allow(unreachable_pub, reason = "shared with the fuzz targets, which are crates of their own")]

mod fuzzed;

use meridian_model::selection::mix;
use std::path::Path;

/// Damaged copies of the whole corpus of a target.
const COPIES: u64 = 4_000;

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files.iter().map(|path| (path.display().to_string(), std::fs::read(path).unwrap())).collect()
}

/// The same bytes with a few of them changed, taken out, repeated, or followed by another file's.
fn damaged(bytes: &[u8], other: &[u8], draw: u64) -> Vec<u8> {
    let mut damaged = bytes.to_vec();
    for step in 0..=mix(draw) % 4 {
        let word = mix(draw.wrapping_mul(31).wrapping_add(step));
        let at = (word >> 8) as usize % (damaged.len() + 1);
        let end = damaged.len().min(at + 1 + (word >> 40) as usize % 16);
        match word % 6 {
            0 | 1 if at < damaged.len() => damaged[at] ^= 1 << (word >> 60 & 7),
            2 => drop(damaged.splice(at..at, [mix(word) as u8; 3])),
            3 => drop(damaged.drain(at..end)),
            4 => {
                let again = damaged[at..end].repeat(3);
                drop(damaged.splice(at..at, again));
            }
            _ => {
                let from = other.len().min((word >> 20) as usize % (other.len() + 1));
                damaged.truncate(at);
                damaged.extend(&other[from..]);
            }
        }
    }
    damaged
}

fn replay(target: &str, least: usize, run: fn(&[u8])) {
    let corpus = corpus(target);
    assert!(corpus.len() >= least, "{target} has {} files", corpus.len());
    for (name, bytes) in &corpus {
        println!("{name}");
        run(bytes);
    }
    for draw in 0..COPIES {
        let (name, bytes) = &corpus[mix(draw) as usize % corpus.len()];
        let (_, other) = &corpus[mix(draw + 7) as usize % corpus.len()];
        let damaged = damaged(bytes, other, draw);
        let whole = std::panic::catch_unwind(|| run(&damaged));
        assert!(whole.is_ok(), "copy {draw} of {name}: {damaged:?}");
    }
}

#[test]
fn plans() {
    replay("plans", 10, fuzzed::plans);
}

#[test]
fn bindings() {
    replay("binding", 5, fuzzed::binding);
}

#[test]
fn sections() {
    replay("sections", 8, fuzzed::sections);
}
