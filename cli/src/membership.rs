//! One instance's place in a service: registered, kept alive by heartbeats, given up.

use crate::connection::{Answer, Connection, Payload};
use crate::failure::Failure;
use crate::output::text_of;
use backon::{BackoffBuilder, ExponentialBuilder};
use reqwest::Method;
use serde_json::{Value, json};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// What becomes known while an instance is kept registered.
#[derive(Debug)]
pub(crate) enum Event {
    /// The gateway did not know the lease any more; it is registered anew.
    RegisteredAgain,
    /// A heartbeat or registration failed, and is tried again after this time.
    Trouble(Failure, Duration),
    /// It works again.
    Recovered,
}

/// An instance that this process speaks for.
pub(crate) struct Membership {
    connection: Connection,
    /// Where the instance stands in the API.
    path: String,
    registration: Value,
    /// Of the newest registration; heartbeats and the farewell name it, so that they cannot touch a successor.
    lease: Mutex<Option<String>>,
}

/// Waits between attempts: soon enough that a lease outlives a restart of its gateway, and spread, so that many
/// instances do not return together.
fn waits(heartbeat: Duration) -> impl Iterator<Item = Duration> {
    let longest = heartbeat.max(Duration::from_secs(1));
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(longest)
        .without_max_times()
        .with_jitter()
        .build()
}

/// Whether a later attempt may succeed although nothing is changed here.
fn may_pass(failure: &Failure) -> bool {
    match failure {
        Failure::Unreachable(_) => true,
        Failure::Refused(refusal) => matches!(refusal.status, 408 | 429 | 500..),
        Failure::Usage(_) | Failure::Failed(_) | Failure::Told(_) => false,
    }
}

impl Membership {
    /// An instance that is not registered yet.
    pub(crate) fn new(connection: Connection, path: String, registration: Value) -> Self {
        Self { connection, path, registration, lease: Mutex::new(None) }
    }

    /// Registers or replaces it. The answer holds it as stored, with its lease.
    pub(crate) async fn register(&self) -> Result<Answer, Failure> {
        let body = Payload::Json(self.registration.clone());
        let answer = self.connection.send(Method::PUT, &self.path, &[], body).await?;
        *self.lease.lock().unwrap_or_else(PoisonError::into_inner) = Some(text_of(&answer.body, "/lease/id"));
        Ok(answer)
    }

    fn lease(&self) -> Option<String> {
        self.lease.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn beat(&self) -> Result<(), Failure> {
        let path = format!("{}/heartbeat", self.path);
        let body = Payload::Json(json!({ "lease": self.lease() }));
        self.connection.send(Method::POST, &path, &[], body).await.map(drop)
    }

    /// Beats until that is refused for good: somebody else took the place over, or the token is not good enough.
    pub(crate) async fn keep(&self, heartbeat: Duration, mut tell: impl FnMut(Event)) -> Failure {
        let mut troubled = None;
        let mut wait = heartbeat;
        loop {
            tokio::time::sleep(wait).await;
            let outcome = match self.beat().await {
                Err(Failure::Refused(refusal)) if refusal.code == "lease-unknown" => {
                    self.register().await.map(|_| tell(Event::RegisteredAgain))
                }
                other => other,
            };
            match outcome {
                Ok(()) => {
                    wait = heartbeat;
                    if troubled.take().is_some() {
                        tell(Event::Recovered);
                    }
                }
                Err(failure) if may_pass(&failure) => {
                    let first = troubled.is_none();
                    wait = troubled.get_or_insert_with(|| waits(heartbeat)).next().unwrap_or(heartbeat);
                    if first {
                        tell(Event::Trouble(failure, wait));
                    }
                }
                Err(failure) => return failure,
            }
        }
    }

    /// Says that it goes away, so that it gets no new traffic while it finishes what it has.
    pub(crate) async fn drain(&self, reason: &str) -> Result<(), Failure> {
        let patch = json!({ "status": "draining", "reason": reason, "lease": self.lease() });
        self.connection.send(Method::PATCH, &self.path, &[], Payload::Json(patch)).await.map(drop)
    }

    /// Removes it.
    pub(crate) async fn deregister(&self, reason: &str) -> Result<(), Failure> {
        let mut query = vec![("reason".to_owned(), reason.to_owned())];
        query.extend(self.lease().map(|lease| ("lease".to_owned(), lease)));
        self.connection.send(Method::DELETE, &self.path, &query, Payload::Empty).await.map(drop)
    }
}

/// How often to beat, as the answer to a registration says.
pub(crate) fn heartbeat_of(answer: &Answer) -> Duration {
    let seconds = answer.body.pointer("/lease/heartbeatSeconds").and_then(Value::as_u64);
    Duration::from_secs(seconds.unwrap_or(10).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Refusal;

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let refused = |status| Failure::from(Refusal::read(status, b"{}"));
        for status in [429, 500, 503] {
            assert!(may_pass(&refused(status)), "{status}");
        }
        for status in [400, 401, 403, 404, 409, 422] {
            assert!(!may_pass(&refused(status)), "{status}");
        }
        assert!(may_pass(&Failure::Unreachable(String::new())));
    }

    #[test]
    fn attempts_go_on_and_stay_bounded() {
        let waits: Vec<Duration> = waits(Duration::from_secs(2)).take(100).collect();
        assert_eq!(waits.len(), 100);
        // Jitter adds up to the wait itself.
        assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(4)), "{waits:?}");
    }
}
