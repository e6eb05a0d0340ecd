//! The HTTP API of one gateway, as clients see it.

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

mod authoring;
mod bindings;
mod certificates;
mod configuration;
mod description;
mod heads;
mod identity;
mod lifecycle;
mod lookups;
mod nodes;
mod reads;
mod recordings;
mod refusals;
