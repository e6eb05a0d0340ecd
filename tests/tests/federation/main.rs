//! Three regions that federate, each with a real etcd, a gateway and a federation node, over links that can be cut.
//! Where the fault is a cut they stand in network namespaces, and what is cut is lost; delays are made by proxies on loopback.
//!
//! A lookup failed if it gave no endpoint although a live one exists that its binding allows. Bounds are the contract's;
//! what a loaded machine adds is named [`SLACK`].

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "unwrap in tests is the assertion itself, in their helpers too"
)]

mod clients;
mod demo;
mod disk;
mod distance;
mod drains;
mod instances;
mod limits;
mod load;
mod memory;
mod namespaces;
mod outages;
mod partitions;
mod propagation;
mod publisher;
mod random;
mod restoration;
mod unheard;
mod world;

use std::time::Duration;
use world::{HEALED, RAMPED};

/// What two busy cores may add to a bound of seconds.
const SLACK: Duration = Duration::from_millis(1_000);

/// Time between two lookups of one stream of a load.
const PACE: Duration = Duration::from_millis(20);

/// A fault shorter than the 30 s after which a region is stale.
const SHORT: Duration = Duration::from_secs(12);
/// One that is longer.
const LONG: Duration = Duration::from_secs(40);

/// Has instances in every region.
const ORDERS: &str = "orders-api";
/// Has instances in the first region only.
const LEDGER: &str = "ledger-api";
/// Has instances in the second region only.
const CATALOG: &str = "catalog-api";
