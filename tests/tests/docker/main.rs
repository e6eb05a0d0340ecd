//! The regions of `terraform/local` on a docker daemon: what an apply does and leaves alone, what is refused, and lookups under
//! random faults of `terraform/faults`. `tests/checks/docker` has daemon, images and terraform ready and runs this.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "unwrap in tests is the assertion itself, in their helpers too"
)]

mod applying;
mod chaos;
mod place;
