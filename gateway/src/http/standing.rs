//! Orders that stand until they are taken back: a drain, a switch. A record says why and since when, and its absence ends it.

use super::request;
use crate::history::value_of;
use crate::identity::Identity;
use crate::problem::Problem;
use crate::region::{Deed, Region, first_conflict};
use http::StatusCode;
use meridian_registry::{Change, Condition, Key, Write, record};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Others may write the same record at the same moment.
const MAX_CONFLICTS: usize = 8;

/// Why it is wanted.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReasonBody {
    /// For the history, and for whoever wonders where the traffic went: at most 256 bytes without control characters.
    #[serde(default)]
    reason: Option<String>,
}

impl ReasonBody {
    /// The reason; empty where none was given.
    ///
    /// # Errors
    /// 422 that names the field.
    pub(super) fn checked(self) -> Result<String, Problem> {
        let reason = self.reason.unwrap_or_default();
        request::check_reason(&reason)?;
        Ok(reason)
    }
}

/// What is to stand, and how the history tells of it.
pub(super) struct Order<'a, T> {
    pub(super) key: Key,
    /// None takes back what stands.
    pub(super) new: Option<T>,
    /// What this gateway goes by. A registry that began anew may not know it any more.
    pub(super) held: Option<T>,
    pub(super) action: &'static str,
    pub(super) target: String,
    pub(super) reason: &'a str,
}

/// Writes an order, unless what stands is the `same`. Answers with the index that shows it, and whether it is applied here.
///
/// # Errors
/// The registry's, and 409 where others keep writing the same record.
pub(super) async fn put<T: Serialize + DeserializeOwned>(
    region: &Region,
    identity: &Identity,
    order: Order<'_, T>,
    same: impl Fn(&T, &T) -> bool,
) -> Result<(u64, bool), Problem> {
    let Order { key, new, held, action, target, reason } = order;
    for _ in 0..MAX_CONFLICTS {
        let (stored, at) = region.registry.read(&key).await?;
        if let (None, None, Some(held)) = (&stored, &new, &held) {
            // Written again, so that taking it back is news to everyone who goes by it.
            let changes = vec![Change::Put(key.clone(), record::encode(held)?)];
            let conditions = vec![Condition::Absent(key.clone())];
            let _ = region.registry.commit(Write { conditions, changes }).await?;
            continue;
        }
        let unchanged = match (&stored, &new) {
            (None, None) => true,
            (Some(stored), Some(new)) => {
                serde_json::from_slice::<T>(&stored.value).is_ok_and(|standing| same(&standing, new))
            }
            _ => false,
        };
        if unchanged {
            return Ok((at.0, true));
        }
        let deed = Deed {
            action,
            target: target.clone(),
            reason,
            before: stored.as_ref().and_then(|s| serde_json::from_slice(&s.value).ok()).unwrap_or_default(),
            after: value_of(new.as_ref()),
        };
        let condition = match &stored {
            Some(stored) => Condition::Unchanged(key.clone(), stored.modified),
            None => Condition::Absent(key.clone()),
        };
        let change = match &new {
            Some(new) => Change::Put(key.clone(), record::encode(new)?),
            None => Change::Delete(key.clone()),
        };
        let changes = std::iter::once(change).chain(region.entry(identity, deed).change()).collect();
        let write = Write { conditions: vec![condition], changes };
        if let Ok(revision) = first_conflict(region.registry.commit(write).await?) {
            return Ok((revision.0, region.applied(revision).await));
        }
    }
    Err(Problem::new(StatusCode::CONFLICT, "conflict", format!("others keep writing {target}; try again")))
}
