//! The functions that the targets call; they stand with the tests that replay the corpus.

#[path = "../model/tests/fuzzed/mod.rs"]
pub mod fuzzed;
