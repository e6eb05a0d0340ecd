//! The federation service as it runs: several processes' worth of it over loopback sockets, with real TLS.
#![allow(clippy::unwrap_used, clippy::expect_used)] // in tests they are the assertion

mod links;
mod measures;
mod strangers;
mod sync;
mod world;
