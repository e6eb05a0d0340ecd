//! What hostile modules and hostile documents cannot do: stop a process, fail a lookup, slow others.
//!
//! The modules are data ([`corpus`]): each has the verdict that it must get from the gate, and what lookups say where it is
//! let in and bound.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "unwrap in tests is the assertion itself, in their helpers too"
)]
#![allow(unreachable_pub, reason = "shared by several test binaries, none of which exports anything")]

#[path = "../guests/mod.rs"]
mod guests;
#[path = "../federation/publisher.rs"]
mod publisher;
#[allow(dead_code, reason = "links are not cut here")]
#[path = "../federation/world.rs"]
mod world;

mod corpus;
mod forms;
mod gate;
mod guest;
mod mutants;
mod regions;
mod stream;
mod summaries;

use std::time::Duration;

/// What two busy cores may add to a bound of seconds.
const SLACK: Duration = Duration::from_millis(1_000);

/// Time between two lookups of one stream of a load.
const PACE: Duration = Duration::from_millis(20);

/// Has instances in every region.
const ORDERS: &str = "orders-api";
/// Has instances in the first region only.
const LEDGER: &str = "ledger-api";
/// Has instances in the second region only.
const CATALOG: &str = "catalog-api";
