//! The steward: it looks at what lookups show of versions that are tried or have yet to soak, and acts on the judgement of
//! [`meridian_model::rollout`].
//!
//! Every gateway judges by what it saw itself and writes on condition that the binding is still the one that it judged, so
//! whoever sees a failure first ends it for the region, and nobody has to agree with anybody.

use crate::clock;
use crate::history::{Actor, Entry, value_of};
use crate::region::Region;
use futures::StreamExt;
use meridian_model::binding::{Activation, Binding, Bound, Candidate, Source};
use meridian_model::disabled::{Switches, why_not};
use meridian_model::names::{GatewayId, Namespace, ServiceKey, ServiceName};
use meridian_model::rollout::{
    Cause, Evidence, Return, Settings, Trial, Verdict, is_to_be_told, judge, objection,
};
use meridian_model::time::UnixMillis;
use meridian_policies::{Example, Host, Observation, Seen};
use meridian_registry::{Change, Committed, Condition, Key, Revision, Write, record};
use serde_json::{Value, json};
use smol_str::{SmolStr, format_smolstr};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Time between two looks. A roll-back takes effect within half a second of the failure that causes it.
const EVERY: Duration = Duration::from_millis(200);
/// Decisions of one look that are written at once.
const WRITTEN_AT_ONCE: usize = 16;
/// Services and examples that a diff shows, at most.
const MAX_SHOWN: usize = 50;

/// Where a binding stands.
pub type Place = (Namespace, Option<ServiceName>);

/// Counters for the metrics.
#[derive(Debug, Default)]
pub struct StewardStats {
    /// Candidates given up and active versions replaced, in the order of [`Cause::ALL`].
    rolled_back: [AtomicU64; Cause::ALL.len()],
    /// Versions that became known to be good.
    pub soaked: AtomicU64,
    /// Failures of versions told to the region.
    pub reported: AtomicU64,
    /// Decisions that could not be written, or that somebody else had written already.
    pub unwritten: AtomicU64,
    /// Bindings that are observed, now.
    pub observed: AtomicU64,
}

impl StewardStats {
    /// Something was rolled back.
    pub fn count_rollback(&self, cause: Cause) {
        for (counter, counted) in self.rolled_back.iter().zip(Cause::ALL) {
            counter.fetch_add(u64::from(counted == cause), Ordering::Relaxed);
        }
    }

    /// How often something was rolled back, by cause.
    #[must_use]
    pub fn rollbacks(&self) -> Vec<(&'static str, u64)> {
        let counted = self.rolled_back.iter().zip(Cause::ALL);
        counted.map(|(counter, cause)| (cause.as_str(), counter.load(Ordering::Relaxed))).collect()
    }
}

/// Whether this is of the version that a sum is of, and of the same time.
fn is_about(sum: Option<&(Bound, UnixMillis, Evidence)>, seen: &Seen) -> bool {
    sum.is_some_and(|(bound, since, _)| *bound == seen.bound && *since == seen.since)
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

    /// What was seen of the active version by service. A service that has not been prepared since the binding changed still
    /// shows the version before, which says nothing of this one.
    fn each_active(&self) -> impl Iterator<Item = (&ServiceKey, &Seen)> {
        let each = self.services.iter().map(|o| (&o.service, &o.active));
        each.filter(|(_, seen)| is_about(self.active.as_ref(), seen))
    }

    /// The same of the candidate.
    fn each_candidate(&self) -> impl Iterator<Item = (&ServiceKey, &Seen)> {
        let each = self.services.iter().filter_map(|o| Some((&o.service, o.candidate.as_ref()?)));
        each.filter(|(_, seen)| is_about(self.candidate.as_ref(), seen))
    }

    /// The services that the candidate would change most, for people and programs.
    #[must_use]
    pub fn services(&self) -> Vec<Value> {
        let mut services: Vec<Value> = self
            .each_candidate()
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
        let seen = self.each_candidate().flat_map(|(_, seen)| &seen.examples);
        seen.take(MAX_SHOWN).map(example).collect()
    }

    /// The worst verdict on a version: over all services together, then on each of them, since harm to one is little among
    /// many.
    fn judge<'a>(
        &self,
        trial: Trial,
        whole: &Evidence,
        each: impl Iterator<Item = (&'a ServiceKey, &'a Seen)>,
        settings: &Settings,
    ) -> Verdict {
        let verdict = judge(trial, whole, settings);
        if matches!(verdict, Verdict::RollBack(..)) || self.services.len() < 2 {
            return verdict;
        }
        let mut harmed = each.filter_map(|(service, seen)| match judge(trial, &seen.evidence, settings) {
            Verdict::RollBack(cause, why) => {
                Some(Verdict::RollBack(cause, format_smolstr!("{service}: {why}")))
            }
            Verdict::Wait | Verdict::Good => None,
        });
        harmed.next().unwrap_or(verdict)
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
        // Of one service alone it need not have been asked often.
        let few = Settings { promote_lookups: 0, ..settings.clone() };
        let mut each = sight.into_iter().flat_map(Self::each_candidate);
        each.find_map(|(service, seen)| Some(format!("{service}: {}", objection(&seen.evidence, &few)?)))
    }

    fn add(&mut self, observation: Observation) {
        let sum = |place: &mut Option<(Bound, UnixMillis, Evidence)>, seen: &Seen| match place {
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
        "rests": evidence.rests, "lastFault": evidence.last_fault, "clamped": evidence.clamped,
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
#[derive(Debug)]
struct Deed {
    kind: Kind,
    reason: SmolStr,
    after: Binding,
}

/// What is done to a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    RollBack(Cause),
    /// The region is told of a failure of the candidate,
    ReportCandidate,
    /// or of the active version, the last of so many here.
    ReportActive(u64),
    Soak,
}

impl Kind {
    fn action(self) -> &'static str {
        match self {
            Self::RollBack(_) => "rollback",
            Self::ReportCandidate | Self::ReportActive(_) => "report",
            Self::Soak => "soak",
        }
    }
}

/// By what a gateway judges, besides what it saw.
struct Court<'a> {
    me: &'a GatewayId,
    settings: &'a Settings,
    switches: &'a Switches,
    now: UnixMillis,
}

impl Court<'_> {
    /// Judges one binding of whose active version `told` failures were told before. At most one thing is done at a time; the
    /// next look sees the rest.
    fn decide(&self, binding: &Binding, sight: &Sight, told: u64) -> Option<Deed> {
        // What must not run has nothing to show, and what it showed before says nothing of it now.
        let may_run = |bound: &Bound| why_not(self.switches, bound.version).is_none();
        let seen_here = |evidence: &Evidence| format_smolstr!("{} at {}", evidence.last_fault, self.me);
        if let Some(candidate) = binding.candidate.as_ref().filter(|candidate| may_run(&candidate.bound))
            && let Some(evidence) = sight.candidate_of(candidate)
        {
            let trial = Trial::Candidate(candidate.stage);
            if let Verdict::RollBack(cause, why) =
                sight.judge(trial, evidence, sight.each_candidate(), self.settings)
            {
                let after = binding.roll_back(Return::Good, may_run, self.now).ok()?;
                let reason = format_smolstr!("candidate: {why}");
                return Some(Deed { kind: Kind::RollBack(cause), reason, after });
            }
            if evidence.faults > 0 && candidate.fault.is_empty() {
                let candidate = Candidate { fault: seen_here(evidence), ..candidate.clone() };
                let after = Binding { candidate: Some(candidate), ..binding.clone() };
                return Some(Deed {
                    kind: Kind::ReportCandidate,
                    reason: evidence.last_fault.clone(),
                    after,
                });
            }
        }
        if binding.activation.soaked || !may_run(&binding.active) {
            return None;
        }
        let evidence = sight.active_of(binding)?;
        let activation = &binding.activation;
        let age = self.now.since(activation.since.max(activation.failed_at));
        let age_millis = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        let trial = Trial::Active { way: activation.way, age_millis };
        let verdict = sight.judge(trial, evidence, sight.each_active(), self.settings);
        let soaks = verdict == Verdict::Good;
        if let Verdict::RollBack(cause, reason) = verdict
            && let Ok(after) = binding.roll_back_active(Return::Good, may_run, self.now)
        {
            return Some(Deed { kind: Kind::RollBack(cause), reason, after });
        }
        // Where there is nothing to return to, at least nobody finds it good.
        // Before it is found to be good: whoever saw no failure must not find that over those that others saw.
        if is_to_be_told(activation, evidence, told, self.settings, self.now) {
            let (failed_at, fault) = (self.now, seen_here(evidence));
            let activation = Activation { failed_at, fault, ..activation.clone() };
            let after = Binding { activation, ..binding.clone() };
            let kind = Kind::ReportActive(evidence.faults);
            return Some(Deed { kind, reason: evidence.last_fault.clone(), after });
        }
        soaks.then(|| Deed { kind: Kind::Soak, reason: SmolStr::default(), after: binding.soaked() })
    }
}

async fn write(region: &Region, place: &Place, before: &Binding, modified: u64, deed: &Deed) -> bool {
    let key = Key::Binding(place.0.clone(), place.1.clone());
    let Ok(value) = record::encode(&deed.after) else { return false };
    let service = place.1.as_ref().map_or(meridian_model::binding::NAMESPACE_DEFAULT, |s| s.as_str());
    let entry = Entry {
        at: clock::unix_now(),
        actor: Actor::guardian(&region.me),
        action: deed.kind.action().to_owned(),
        target: format!("{}/{service}", place.0),
        reason: deed.reason.to_string(),
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
            tracing::info!(binding = %format_args!("{}/{service}", place.0), action = deed.kind.action(), reason = %deed.reason,
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
pub async fn run(region: Arc<Region>) {
    let stats = &region.steward;
    let mut looks = tokio::time::interval(EVERY);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // Since when the active version of a place answers, and how many of its failures were told.
    let mut told: BTreeMap<Place, (UnixMillis, u64)> = BTreeMap::new();
    loop {
        looks.tick().await;
        let sights = look(&region.host).await;
        stats.observed.store(sights.len() as u64, Ordering::Relaxed);
        told.retain(|place, _| sights.contains_key(place));
        let rules = region.directory.rules();
        let mut deeds = Vec::new();
        for (place, sight) in &sights {
            let Some((binding, modified)) = rules.bindings.get(place) else { continue };
            let court = Court {
                me: &region.me,
                settings: &region.rollout,
                switches: &rules.switches,
                now: clock::unix_now(),
            };
            let since = binding.activation.since;
            // Where counting began anew, as when a service came back, nothing of it was told.
            let seen = sight.active_of(binding).map_or(0, |evidence| evidence.faults);
            let before = told.get(place).filter(|(of, told)| *of == since && *told <= seen);
            if let Some(deed) = court.decide(binding, sight, before.map_or(0, |(_, told)| *told)) {
                deeds.push((place.clone(), Arc::clone(binding), *modified, deed));
            }
            if before.is_none() {
                told.remove(place);
            }
        }
        // What does harm first, and none waits for the writing of all others.
        deeds.sort_by_key(|(.., deed)| !matches!(deed.kind, Kind::RollBack(_)));
        let writes = deeds.into_iter().map(|(place, binding, modified, deed)| {
            let region = &region;
            async move {
                let written = write(region, &place, &binding, modified, &deed).await;
                (place, binding.activation.since, deed.kind, written)
            }
        });
        let mut writes = futures::stream::iter(writes).buffer_unordered(WRITTEN_AT_ONCE);
        while let Some((place, since, kind, written)) = writes.next().await {
            match kind {
                _ if !written => drop(stats.unwritten.fetch_add(1, Ordering::Relaxed)),
                Kind::RollBack(cause) => stats.count_rollback(cause),
                Kind::Soak => drop(stats.soaked.fetch_add(1, Ordering::Relaxed)),
                Kind::ReportCandidate => drop(stats.reported.fetch_add(1, Ordering::Relaxed)),
                Kind::ReportActive(faults) => {
                    stats.reported.fetch_add(1, Ordering::Relaxed);
                    told.insert(place, (since, faults));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_model::binding::Stage;
    use meridian_model::names::PolicyVersion;
    use meridian_model::rollout::Terms;

    fn bound(name: &str) -> Bound {
        let version = PolicyVersion::of(name.as_bytes());
        Bound { policy: "p".parse().unwrap(), version, config: SmolStr::default() }
    }

    /// What was seen of the active version of a binding.
    fn sight(binding: &Binding, faults: u64, clean: u64) -> Sight {
        let evidence = Evidence {
            lookups: faults + clean,
            answered: faults + clean,
            clean,
            faults,
            last_fault: "trap".into(),
            ..Evidence::default()
        };
        let seen = Seen {
            bound: binding.active.clone(),
            since: binding.activation.since,
            evidence,
            examples: vec![],
        };
        let mut sight = Sight::default();
        sight.add(Observation {
            service: ServiceKey::new("default".parse().unwrap(), "orders-api".parse().unwrap()),
            source: Source::Own,
            active: seen,
            candidate: None,
        });
        sight
    }

    struct Gateway {
        me: GatewayId,
        settings: Settings,
        told: u64,
    }

    impl Gateway {
        fn called(me: &str) -> Self {
            let settings = Settings { soak_millis: 60_000, soak_lookups: 10, ..Settings::default() };
            Self { me: me.parse().unwrap(), settings, told: 0 }
        }

        /// What it does at this moment, and what becomes of the binding.
        fn looks(&mut self, binding: &mut Binding, now: u64, faults: u64, clean: u64) -> Option<Kind> {
            let (switches, now) = (Switches::default(), UnixMillis(now));
            let court = Court { me: &self.me, settings: &self.settings, switches: &switches, now };
            let deed = court.decide(binding, &sight(binding, faults, clean), self.told)?;
            if let Kind::ReportActive(told) = deed.kind {
                self.told = told;
            }
            *binding = deed.after;
            Some(deed.kind)
        }
    }

    #[test]
    fn what_fails_now_and_then_at_one_gateway_soaks_at_none() {
        let former = Binding::new(bound("former"), Terms::default(), UnixMillis(0));
        let mut binding = former.bind(bound("faulty"), Terms::default(), UnixMillis(1_000));
        let (mut here, mut there) = (Gateway::called("here"), Gateway::called("there"));
        // One failure in 50 s, and a soak of 60 s.
        for faults in 1..8 {
            let now = 1_000 + faults * 50_000;
            let kind = there.looks(&mut binding, now, faults, 0);
            assert_eq!(kind, Some(Kind::ReportActive(faults)), "failure {faults}");
            assert_eq!(binding.activation.fault, "trap at there");
            assert_eq!(there.looks(&mut binding, now + 10_000, faults, 100), None, "it is told once");
            assert_eq!(here.looks(&mut binding, now + 49_000, 0, 1_000), None, "failure {faults}");
        }
        let kind = there.looks(&mut binding, 401_000, 8, 0);
        assert_eq!((kind, binding.active), (Some(Kind::RollBack(Cause::Faults)), bound("former")));
    }

    #[test]
    fn what_fails_no_more_soaks_once_its_time_is_over() {
        let former = Binding::new(bound("former"), Terms::default(), UnixMillis(0));
        let mut binding = former.bind(bound("new"), Terms::default(), UnixMillis(1_000));
        let mut there = Gateway::called("there");
        assert_eq!(there.looks(&mut binding, 50_000, 1, 0), Some(Kind::ReportActive(1)));
        assert_eq!(there.looks(&mut binding, 109_000, 1, 500), None);
        assert_eq!(there.looks(&mut binding, 110_000, 1, 500), Some(Kind::Soak));
        assert!(binding.activation.soaked);
    }

    /// Services that nobody looked up since the binding changed still show what came before.
    #[test]
    fn nobody_is_judged_by_what_an_earlier_version_did() {
        let former = Binding::new(bound("former"), Terms::default(), UnixMillis(0)).soaked();
        let candidate = |since| Candidate {
            bound: bound("new"),
            stage: Stage::Canary,
            percent: 5.0,
            since: UnixMillis(since),
            fault: SmolStr::default(),
        };
        let of = |service: &str, since, faults| {
            let evidence = Evidence { faults, last_fault: "trap".into(), ..Evidence::default() };
            let seen = |bound, since| Seen { bound, since, evidence: evidence.clone(), examples: Vec::new() };
            Observation {
                service: ServiceKey::new("default".parse().unwrap(), service.parse().unwrap()),
                source: Source::Namespace,
                active: Seen { evidence: Evidence::default(), ..seen(bound("former"), UnixMillis(0)) },
                candidate: Some(seen(bound("new"), UnixMillis(since))),
            }
        };
        let binding = former.try_out(candidate(2_000), UnixMillis(2_000));
        let settings = Settings { promote_lookups: 0, ..Settings::default() };
        let (switches, me) = (Switches::default(), "here".parse().unwrap());
        let court = Court { me: &me, settings: &settings, switches: &switches, now: UnixMillis(3_000) };
        let sight = |faults: [u64; 2]| {
            let mut sight = Sight::default();
            sight.add(of("orders-api", 1_000, faults[0]));
            sight.add(of("ledger", 2_000, faults[1]));
            sight
        };
        assert!(court.decide(&binding, &sight([9, 0]), 0).is_none(), "rolled back for what it did not do");
        assert_eq!(sight([9, 0]).services().len(), 1);
        let proposed = binding.candidate.as_ref().unwrap();
        let objection = Sight::objection(Some(&sight([9, 0])), proposed, &settings);
        assert_eq!(objection, None);
        let deed = court.decide(&binding, &sight([0, 9]), 0).unwrap();
        assert_eq!(deed.kind, Kind::RollBack(Cause::Faults));
    }
}
