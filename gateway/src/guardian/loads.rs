//! Writes what services carry, fenced as rulings are. It is a measurement, repeated many times an hour, and no change of
//! anything that somebody declared: the history does not hold it.

use super::GuardianStats;
use crate::clock;
use meridian_model::guardian::{LoadWrite, Ruled};
use meridian_model::load::ServiceLoad;
use meridian_model::names::GatewayId;
use meridian_registry::{
    Change, Committed, Condition, Key, Registry, RegistryError, Revision, Write, record,
};
use std::sync::atomic::Ordering;

/// Loads that are being written at once: rulings matter more.
pub(super) const MAX_WRITES: usize = 16;

/// Writes a total on condition that neither its record nor this gateway's membership has changed.
pub(super) async fn write(
    registry: &dyn Registry,
    me: GatewayId,
    load: LoadWrite,
    stats: &GuardianStats,
) -> Ruled {
    let key = Key::Load(load.service);
    let new = |total| ServiceLoad { total, at: clock::unix_now(), unknown: serde_json::Map::new() };
    let change = match load.total.map(|total| record::encode(&new(total))).transpose() {
        Ok(Some(value)) => Change::Put(key.clone(), value),
        Ok(None) => Change::Delete(key.clone()),
        Err(_) => return Ruled::Refused,
    };
    let standing = match load.based_on {
        Some(modified) => Condition::Unchanged(key, Revision(modified)),
        None => Condition::Absent(key),
    };
    let member = Condition::Unchanged(Key::Member(me), Revision(load.membership));
    match registry.commit(Write { conditions: vec![standing, member], changes: vec![change] }).await {
        Ok(Committed::Applied(_)) => {
            stats.loads.fetch_add(1, Ordering::Relaxed);
            Ruled::Applied
        }
        Ok(Committed::Conflict(_)) => Ruled::Conflict,
        Err(RegistryError::Unavailable(_)) => Ruled::NoAnswer,
        Err(error) => {
            tracing::debug!(%error, "a service's load was refused");
            Ruled::Refused
        }
    }
}
