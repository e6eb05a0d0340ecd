//! The domain of Meridian, pure: names, instances, their status, the catalog of a region, snapshots of services, plans
//! and how a destination is chosen from them.
//!
//! Nothing here reads a clock, draws randomness or does I/O: `now` and entropy are arguments, so all of it runs in
//! simulation and builds for `wasm32-unknown-unknown`.

pub mod binding;
pub mod caller;
pub mod catalog;
pub mod contrast;
pub mod disabled;
pub mod failover;
pub mod guardian;
pub mod incarnation;
pub mod instance;
pub mod load;
pub mod locality;
pub mod names;
pub mod neighbours;
pub mod plan;
pub mod policy;
pub mod recording;
pub mod registration;
pub mod remote;
pub mod rollout;
pub mod selection;
pub(crate) mod share;
pub mod snapshot;
pub mod status;
pub mod summary;
pub mod time;
