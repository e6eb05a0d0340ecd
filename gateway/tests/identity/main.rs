//! Identity from the outside: hostile tokens, rules, keys that rotate, the development issuer.

// As in unit tests: unwrap is the assertion itself.
#![allow(clippy::unwrap_used)]

mod development;
mod forge;
mod keys;
mod rules;
mod tokens;
