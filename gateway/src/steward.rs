//! The steward: it looks at what lookups show of versions that are tried or have yet to soak, and acts on the judgement of
//! [`meridian_model::rollout`].
//!
//! Every gateway judges by what it saw itself and writes on condition that the binding is still the one that it judged, so
//! whoever sees a failure first ends it for the region, and nobody has to agree with anybody.

use crate::clock;
use crate::history::{Actor, Entry, value_of};
use crate::region::Region;
use meridian_model::binding::{Activation, Binding, Bound, Candidate, Source};
use meridian_model::disabled::why_not;
use meridian_model::names::{Namespace, ServiceName};
use meridian_model::rollout::{Evidence, Return, Settings, Trial, Verdict, judge, objection};
use meridian_model::time::UnixMillis;
use meridian_policies::{Example, Host, Observation, Seen};
use meridian_registry::{Change, Committed, Condition, Key, Revision, Write, record};
use serde_json::{Value, json};
use smol_str::format_smolstr;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Time between two looks. A roll-back takes effect within half a second of the failure that causes it.
const EVERY: Duration = Duration::from_millis(200);
/// Services and examples that a diff shows, at most.
const MAX_SHOWN: usize = 50;

/// Where a binding stands.
pub type Place = (Namespace, Option<ServiceName>);

/// Counters for the metrics.
#[derive(Debug, Default)]
pub struct StewardStats {
    /// Candidates given up and active versions replaced.
    pub rolled_back: AtomicU64,
    /// Versions that became known to be good.
    pub soaked: AtomicU64,
    /// First failures of versions told to the region.
    pub reported: AtomicU64,
    /// Decisions that could not be written, or that somebody else had written already.
    pub unwritten: AtomicU64,
    /// Bindings that are observed, now.
    pub observed: AtomicU64,
}

/// What was seen under one binding.
#[derive(Debug, Default)]
pub struct Sight {
    active: Option<(Bound, UnixMillis, Evidence)>,
    candidate: Option<(Bound, UnixMillis, Evidence)>,
    services: Vec<Observation>,
}

impl Sight {
    /// What was seen of the active version since it became active.
    #[must_use]
    pub fn active_of(&self, binding: &Binding) -> Option<&Evidence> {
        let (bound, since, evidence) = self.active.as_ref()?;
        (*bound == binding.active && *since == binding.activation.since).then_some(evidence)
    }

    /// What was seen of this candidate.
    #[must_use]
    pub fn candidate_of(&self, candidate: &Candidate) -> Option<&Evidence> {
        let (bound, since, evidence) = self.candidate.as_ref()?;
        (*bound == candidate.bound && *since == candidate.since).then_some(evidence)
    }

    /// The services that the candidate would change most, for people and programs.
    #[must_use]
    pub fn services(&self) -> Vec<Value> {
        let seen = self.services.iter().filter_map(|o| Some((&o.service, o.candidate.as_ref()?)));
        let mut services: Vec<Value> = seen
            .map(|(name, seen)| {
                let mut service = render(&seen.evidence);
                service["namespace"] = json!(name.namespace);
                service["service"] = json!(name.service);
                service
            })
            .collect();
        let changed = |service: &Value| service["changed"].as_f64().unwrap_or(0.0);
        services.sort_by(|a, b| changed(b).total_cmp(&changed(a)));
        services.truncate(MAX_SHOWN);
        services
    }

    /// Lookups that it would have answered differently.
    #[must_use]
    pub fn examples(&self) -> Vec<Value> {
        let seen = self.services.iter().filter_map(|observation| observation.candidate.as_ref());
        seen.flat_map(|seen| &seen.examples).take(MAX_SHOWN).map(example).collect()
    }

    /// The worst verdict on a version: over all services together, then on each of them, since harm to one is little among
    /// many.
    fn judge(
        &self,
        trial: Trial,
        whole: &Evidence,
        of: impl Fn(&Observation) -> Option<&Seen>,
        settings: &Settings,
    ) -> Verdict {
        let verdict = judge(trial, whole, settings);
        if matches!(verdict, Verdict::RollBack(_)) || self.services.len() < 2 {
            return verdict;
        }
        let each = self.services.iter().filter_map(|observation| Some((observation, of(observation)?)));
        let worst = each.filter_map(|(observation, seen)| match judge(trial, &seen.evidence, settings) {
            Verdict::RollBack(why) => Some(format_smolstr!("{}: {why}", observation.service)),
            Verdict::Wait | Verdict::Good => None,
        });
        worst.into_iter().next().map_or(verdict, Verdict::RollBack)
    }

    /// What speaks against promoting this candidate, by what this gateway saw and what others reported.
    #[must_use]
    pub fn objection(sight: Option<&Self>, candidate: &Candidate, settings: &Settings) -> Option<String> {
        let evidence = sight.and_then(|sight| sight.candidate_of(candidate)).cloned().unwrap_or_default();
        if let Some(against) = objection(&evidence, settings) {
            return Some(against.into());
        }
        if !candidate.fault.is_empty() {
            return Some(format!("it failed: {}", candidate.fault));
        }
        let each = sight.into_iter().flat_map(|sight| &sight.services);
        // Of one service alone it need not have been asked often.
        let few = Settings { promote_lookups: 0, ..settings.clone() };
        each.filter_map(|o| Some((o, o.candidate.as_ref()?)))
            .find_map(|(o, seen)| Some(format!("{}: {}", o.service, objection(&seen.evidence, &few)?)))
    }

    fn add(&mut self, observation: Observation) {
        let sum =
            |place: &mut Option<(Bound, UnixMillis, Evidence)>, seen: &meridian_policies::Seen| match place {
                Some((bound, since, evidence)) if *bound == seen.bound && *since == seen.since => {
                    evidence.add(&seen.evidence);
                }
                // A service that does not yet know the newest binding.
                Some((_, since, _)) if *since > seen.since => {}
                _ => *place = Some((seen.bound.clone(), seen.since, seen.evidence.clone())),
            };
        sum(&mut self.active, &observation.active);
        if let Some(candidate) = &observation.candidate {
            sum(&mut self.candidate, candidate);
        }
        self.services.push(observation);
    }
}

fn example(example: &Example) -> Value {
    let labels: BTreeMap<&str, &str> = example.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    json!({
        "namespace": example.service.namespace, "service": example.service.service, "zone": example.zone,
        "labels": labels, "keyHash": example.key.map(|key| format!("{key:016x}")),
        "before": example.before, "after": example.after,
    })
}

/// Evidence for people and programs: shares instead of sums.
#[must_use]
pub fn render(evidence: &Evidence) -> Value {
    let share = |sum: f64| (sum / evidence.lookups.max(1) as f64 * 10_000.0).round() / 10_000.0;
    // A shadow was asked a sample of the lookups.
    let changed = if evidence.sampled { evidence.answered } else { evidence.lookups };
    let places: BTreeMap<&str, Value> = evidence
        .places
        .iter()
        .map(|(place, pair)| {
            (place.as_str(), json!({ "before": share(pair.before), "after": share(pair.after) }))
        })
        .collect();
    json!({
        "lookups": evidence.lookups, "answered": evidence.answered, "faults": evidence.faults,
        "lastFault": evidence.last_fault, "clamped": evidence.clamped,
        "changed": (evidence.changed / changed.max(1) as f64 * 10_000.0).round() / 10_000.0,
        "refused": { "before": share(evidence.refused.before), "after": share(evidence.refused.after) },
        "places": places,
    })
}

/// What this gateway has seen, by binding.
pub async fn look(host: &Host) -> BTreeMap<Place, Sight> {
    let mut sights: BTreeMap<Place, Sight> = BTreeMap::new();
    for observation in host.observations().await {
        let namespace = observation.service.namespace.clone();
        let service = match observation.source {
            Source::Own => Some(observation.service.service.clone()),
            Source::Namespace => None,
            Source::BuiltIn => continue,
        };
        sights.entry((namespace, service)).or_default().add(observation);
    }
    sights
}

/// What is to be written, and why.
struct Deed {
    action: &'static str,
    reason: String,
    after: Binding,
}

/// Judges one binding. At most one thing is done at a time; the next look sees the rest.
fn decide(region: &Region, binding: &Binding, sight: &Sight) -> Option<Deed> {
    let now = clock::unix_now();
    let rules = region.directory.rules();
    // What must not run has nothing to show, and what it showed before says nothing of it now.
    let may_run = |bound: &Bound| why_not(&rules.switches, bound.version).is_none();
    if let Some(candidate) = binding.candidate.as_ref().filter(|candidate| may_run(&candidate.bound))
        && let Some(evidence) = sight.candidate_of(candidate)
    {
        let trial = Trial::Candidate(candidate.stage);
        match sight.judge(trial, evidence, |o| o.candidate.as_ref(), &region.rollout) {
            Verdict::RollBack(why) => {
                let after = binding.roll_back(Return::Good, may_run, now).ok()?;
                return Some(Deed { action: "rollback", reason: format!("candidate: {why}"), after });
            }
            Verdict::Wait | Verdict::Good => {}
        }
        if evidence.faults > 0 && candidate.fault.is_empty() {
            let fault = format_smolstr!("{} at {}", evidence.last_fault, region.me);
            let candidate = Candidate { fault, ..candidate.clone() };
            let after = Binding { candidate: Some(candidate), ..binding.clone() };
            return Some(Deed { action: "report", reason: evidence.last_fault.to_string(), after });
        }
    }
    if binding.activation.soaked || !may_run(&binding.active) {
        return None;
    }
    let evidence = sight.active_of(binding)?;
    let activation = binding.activation;
    let age = now.since(activation.since.max(activation.failed_at));
    let age_millis = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    let trial = Trial::Active { way: activation.way, age_millis };
    match sight.judge(trial, evidence, |o| Some(&o.active), &region.rollout) {
        // The first failure is told to the region: whoever saw none must not find the version good over it.
        Verdict::Wait if evidence.faults > 0 && activation.failed_at.0 == 0 => {
            let activation = Activation { failed_at: now, ..activation };
            let after = Binding { activation, ..binding.clone() };
            Some(Deed { action: "report", reason: evidence.last_fault.to_string(), after })
        }
        Verdict::Wait => None,
        Verdict::Good => Some(Deed { action: "soak", reason: String::new(), after: binding.soaked() }),
        Verdict::RollBack(why) => {
            // The candidate was tried beside what turns out to be bad; it stays to be tried beside what was good.
            let alone = Binding { candidate: None, ..binding.clone() };
            let back = alone.roll_back(Return::Good, may_run, now).ok()?;
            let after = Binding { candidate: binding.candidate.clone(), ..back };
            Some(Deed { action: "rollback", reason: why.to_string(), after })
        }
    }
}

async fn write(region: &Region, place: &Place, before: &Binding, modified: u64, deed: &Deed) -> bool {
    let key = Key::Binding(place.0.clone(), place.1.clone());
    let Ok(value) = record::encode(&deed.after) else { return false };
    let service = place.1.as_ref().map_or(meridian_model::binding::NAMESPACE_DEFAULT, |s| s.as_str());
    let entry = Entry {
        at: clock::unix_now(),
        actor: Actor::guardian(&region.me),
        action: deed.action.to_owned(),
        target: format!("{}/{service}", place.0),
        reason: deed.reason.clone(),
        gateway: region.me.to_string(),
        before: value_of(Some(before)),
        after: value_of(Some(&deed.after)),
    };
    let write = Write {
        conditions: vec![Condition::Unchanged(key.clone(), Revision(modified))],
        changes: std::iter::once(Change::Put(key, value)).chain(entry.change()).collect(),
    };
    match region.registry.commit(write).await {
        Ok(Committed::Applied(revision)) => {
            tracing::info!(binding = %format_args!("{}/{service}", place.0), action = deed.action, reason = deed.reason,
                "the steward changed a binding");
            region.applied(revision).await;
            true
        }
        Ok(Committed::Conflict(_)) => false,
        Err(error) => {
            tracing::debug!(%error, "a decision of the steward waits");
            false
        }
    }
}

/// Looks and acts until the gateway ends.
pub async fn run(region: Arc<Region>, stats: Arc<StewardStats>) {
    let mut looks = tokio::time::interval(EVERY);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let sights = look(&region.host).await;
        stats.observed.store(sights.len() as u64, Ordering::Relaxed);
        for (place, sight) in &sights {
            let found = region.directory.rules().bindings.get(place).cloned();
            let Some((binding, modified)) = found else { continue };
            let Some(deed) = decide(&region, &binding, sight) else { continue };
            let counter = match deed.action {
                _ if !write(&region, place, &binding, modified, &deed).await => &stats.unwritten,
                "soak" => &stats.soaked,
                "report" => &stats.reported,
                _ => &stats.rolled_back,
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}
