//! Tools of the whole-system tests: gateways and federation nodes as processes that can be killed and paused, links
//! between regions that can be cut (by proxies, or by network namespaces that lose packets), clients, workloads that beat, and a stream of lookups that counts what failed.
//!
//! Everything here starts the real binary and speaks to it over loopback, or over links that this machine made itself. What a test started ends with it, also when it
//! panics. The region with its etcd stands beside the tests (`tests/tests/world`).

// Only tests are built with this; a failure here is a failed test, whose message is all that is wanted.
#![allow(clippy::panic, clippy::unwrap_used, clippy::expect_used)]

pub mod binary;
pub mod client;
pub mod draw;
pub mod etcd;
pub mod federation;
pub mod figures;
pub mod gateway;
pub mod home;
pub mod load;
pub mod namespaces;
pub mod patience;
pub mod place;
pub mod process;
pub mod proxy;
pub mod raw;
pub mod tokens;
pub mod watchers;
pub mod workload;
