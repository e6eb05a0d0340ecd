//! The functions that the targets call; they stand with the tests that replay the corpus.
//!
//! `cargo +nightly fuzz run plans` in the top folder (or `RUSTC_BOOTSTRAP=1 cargo fuzz run plans`); `binding` and `sections`
//! likewise. What it finds goes into `corpus/` by a name that says what it is; `seeds` writes what was made by hand.

#[path = "../model/tests/fuzzed/mod.rs"]
pub mod fuzzed;
