//! The trait that a policy is.

use serde::de::DeserializeOwned;

use crate::caller::Caller;
use crate::plan::Answer;
use crate::service::{Details, Service};

/// A routing policy: a pure function of its config, a service and a caller.
///
/// The host opens a policy once per change of a service and asks once per distinct caller; single lookups are then served
/// from the answer. So there is nothing to gain from caching, and nothing may be remembered between calls: the same
/// arguments must give the same answer, in whatever order the service's lists come.
pub trait Policy: Sized + 'static {
    /// Read from the binding's `config`, a JSON object; a binding without one reads `{}`. Derive it with
    /// `#[serde(deny_unknown_fields)]`, so that a mistyped field is refused by name, and with defaults.
    type Config: DeserializeOwned;

    /// Refuses a senseless config, in words that name the field, and takes from `details` what the service will not
    /// say later (ids, metadata, capacities). What is kept here is kept for each service in every gateway: keep it small.
    fn open(config: Self::Config, details: &Details<'_>) -> Result<Self, String>;

    /// Where this caller's lookups of the service go. An error counts as a failure of the policy: the last good version
    /// answers, or the native fallback. To keep traffic away, answer [`Plan::refuse`](crate::Plan::refuse).
    fn answer(&self, service: &Service, caller: &Caller) -> Result<Answer, String>;
}
