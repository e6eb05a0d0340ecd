//! How regions tell each other what they have: every region is the single writer of its own summaries, and whoever holds
//! them can pass them on, but change nothing.
//!
//! [`record`] lays summaries out as bytes; [`exchange`] moves such bytes between regions as a state machine without
//! clock, randomness and I/O; [`service`] drives it over gRPC and mutual TLS.

pub mod exchange;
mod planted;
pub mod record;
pub mod service;
#[cfg(test)]
mod simulation;
