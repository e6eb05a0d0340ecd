//! The edges of a region: HTTP, identity, health checks, the keeper of the region's state, and what survives a restart.

pub mod beats;
pub mod clock;
pub mod config;
pub mod directory;
pub mod disk;
pub mod duration;
pub mod federation;
pub mod figures;
pub mod gateway;
pub mod guardian;
pub mod health;
pub mod history;
pub mod http;
pub mod identity;
pub mod image;
pub mod keeper;
pub mod loader;
pub mod lookup;
pub mod metrics;
pub mod neighbourhood;
pub mod problem;
pub mod region;
pub mod registrar;
pub mod signature;
pub mod steward;
pub mod telemetry;
