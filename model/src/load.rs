//! Reported load: each instance says with its heartbeats what it carries, and a region tells one total per service.

use crate::instance::LeaseId;
use crate::time::UnixMillis;
use serde::{Deserialize, Serialize};

/// A renewed lease, and what its instance carries if it said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat {
    /// Which lease.
    pub lease: LeaseId,
    /// Requests under way, in the unit of the declared capacity.
    pub load: Option<u32>,
}

impl From<LeaseId> for Beat {
    fn from(lease: LeaseId) -> Self {
        Self { lease, load: None }
    }
}

/// The record of a service's load: what its healthy instances that declare a capacity carry together. Written by one
/// gateway of the region, so that every node computes the same summary of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceLoad {
    /// In the unit of the declared capacities.
    pub total: u64,
    /// When it was written.
    pub at: UnixMillis,
    /// Fields of newer formats, kept as they came.
    #[serde(flatten)]
    pub unknown: serde_json::Map<String, serde_json::Value>,
}
