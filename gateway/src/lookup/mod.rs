//! Lookups: a question about where to send traffic, its evaluation, and the answer's bytes.

pub mod answer;
mod explain;
pub mod question;
pub mod watch;

use crate::clock;
use crate::http::services::no_such_service;
use crate::problem::Problem;
use crate::region::Region;
use http::StatusCode;
use meridian_model::remote::Freshness;
use meridian_model::snapshot::{Snapshot, WithheldBy};
use meridian_model::status::Status;
use meridian_policies::Evaluation;
use question::Question;
use std::sync::Arc;

/// Refuses what is served from disk once it is so old that addresses may belong to others (invariant 2).
///
/// # Errors
/// 503 `too-stale`.
pub fn require_fresh_enough(region: &Region) -> Result<(), Problem> {
    let currency = &region.directory.currency;
    if !currency.is_from_disk() {
        return Ok(());
    }
    let age = currency.age_ms(clock::monotonic_now());
    if u128::from(age) <= region.max_age_from_disk.as_millis() {
        return Ok(());
    }
    let detail = format!(
        "the registry has not answered since this gateway started, and its state on disk is {} minutes old, past the \
         bound lookups.max_age_from_disk: bring the registry back",
        age / 60_000
    );
    Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too-stale", detail))
}

/// The newest snapshot of a service that may be asked for.
///
/// # Errors
/// 503 `not-ready`, `too-stale`; 404 `no-such-service`.
pub fn snapshot_of(region: &Region, question: &Question) -> Result<Arc<Snapshot>, Problem> {
    crate::http::system::require_ready(region)?;
    require_fresh_enough(region)?;
    match region.directory.get(&question.service) {
        Some(published) => Ok(published.snapshot()),
        None => Err(no_such_service(region, &question.service)),
    }
}

/// A question evaluated against one snapshot, exactly.
pub struct Evaluated {
    /// The snapshot that it was evaluated against.
    pub snapshot: Arc<Snapshot>,
    /// What the policy made of it.
    pub evaluation: Evaluation,
}

/// Evaluates a question against the newest snapshot: off the hot path, for everything but a plain single lookup.
///
/// # Errors
/// As [`snapshot_of`].
pub async fn evaluate(region: &Region, question: &Question) -> Result<Evaluated, Problem> {
    let snapshot = snapshot_of(region, question)?;
    let caller = question.caller(&region.name, &snapshot.binding.caller_labels);
    let evaluation = region.host.evaluate(Arc::clone(&snapshot), caller, question.key).await;
    Ok(Evaluated { snapshot, evaluation })
}

/// Why a known service has nothing to give, and what would change it.
#[must_use]
pub fn nothing_eligible(snapshot: &Snapshot) -> Problem {
    let unavailable = |code, detail: String| Problem::new(StatusCode::SERVICE_UNAVAILABLE, code, detail);
    let name = &snapshot.key;
    let missed = |by| {
        let regions = snapshot.withheld.missed(by).map(|withheld| withheld.region.as_str());
        regions.collect::<Vec<_>>().join(", ")
    };
    let too_old = missed(WithheldBy::Age);
    if !too_old.is_empty() {
        let detail = format!(
            "nothing of {name} in region {} may receive traffic, and what {too_old} told of it is older than \
             lookups.max_remote_age: its addresses may belong to others by now; GET /v1/regions says since when, so mend \
             the link to {too_old}, or register instances here",
            snapshot.region
        );
        return unavailable("too-stale", detail);
    }
    let silent: Vec<&str> = snapshot
        .remotes
        .iter()
        .filter(|r| !r.standing.reachable || r.standing.freshness == Freshness::Stale)
        .map(|r| r.region.as_str())
        .collect();
    if !silent.is_empty() && silent.len() == snapshot.remotes.len() {
        let detail = format!(
            "nothing of {name} in region {} may receive traffic; {} had nothing healthy when last heard of, and cannot be \
             reached: GET /v1/regions says since when",
            snapshot.region,
            silent.join(", ")
        );
        return unavailable("region-unreachable", detail);
    }
    let left_out = missed(WithheldBy::Limits);
    if !left_out.is_empty() {
        let detail = format!(
            "nothing of {name} in region {} may receive traffic; {left_out} could serve it, and the limits of its binding at \
             /v1/namespaces/{}/bindings/{} leave that out",
            snapshot.region, name.namespace, name.service
        );
        return unavailable(
            if snapshot.endpoints.is_empty() { "none-registered" } else { "none-healthy" },
            detail,
        );
    }
    if snapshot.endpoints.is_empty() {
        let detail = format!(
            "{name} has no instances in region {}; one that registers is found at once",
            snapshot.region
        );
        return unavailable("none-registered", detail);
    }
    let count = |status| snapshot.endpoints.iter().filter(|e| e.status == status).count();
    let detail = format!(
        "none of the {} instances of {name} in region {} may receive traffic: {} unhealthy, {} starting, {} draining, {} \
         expired; GET /v1/namespaces/{}/services/{} says why for each",
        snapshot.endpoints.len(),
        snapshot.region,
        count(Status::Unhealthy),
        count(Status::Starting),
        count(Status::Draining),
        count(Status::Expired),
        name.namespace,
        name.service,
    );
    unavailable("none-healthy", detail)
}

/// The policy gave an empty plan on purpose.
#[must_use]
pub fn refused_by_policy(snapshot: &Snapshot, policy: &str) -> Problem {
    let name = &snapshot.key;
    // Mostly why: a policy that keeps traffic at home refuses when nothing is left there.
    let home = match snapshot.eligible_count() {
        0 => format!(", of which nothing in region {} may receive traffic", snapshot.region),
        _ => String::new(),
    };
    let detail = format!(
        "policy {policy} refuses this caller for {name}{home}; its binding is at /v1/namespaces/{}/bindings/{}",
        name.namespace, name.service
    );
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "refused-by-policy", detail)
}
