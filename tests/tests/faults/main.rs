//! What a region does when its parts fail: policies, the registry, gateways, workloads.
//!
//! Real processes and a real etcd. Bounds are the contract's; what a loaded machine adds is named [`SLACK`].

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "unwrap in tests is the assertion itself, in their helpers too"
)]
#![allow(unreachable_pub, reason = "shared by several test binaries, none of which exports anything")]

#[path = "../guests/mod.rs"]
mod guests;
#[path = "../world/mod.rs"]
mod world;

mod gate;
mod gateways;
mod heartbeats;
mod keys;
mod leases;
mod policies;
mod registry;
mod restoration;
mod stages;
mod stopping;
mod switches;
mod versions;
mod watches;

use std::time::Duration;

/// What two busy cores may add to a bound of seconds.
pub const SLACK: Duration = Duration::from_millis(1_000);

/// Time between two lookups of one stream of a load.
pub const PACE: Duration = Duration::from_millis(5);
