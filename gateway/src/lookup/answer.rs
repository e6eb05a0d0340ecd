//! Answers as bytes. An endpoint's JSON was rendered when its snapshot was made; what is left is to put pieces together.

use super::question::{Count, Question};
use super::{Evaluated, nothing_eligible, refused_by_policy};
use crate::clock;
use crate::directory::Currency;
use crate::problem::Problem;
use crate::region::Region;
use meridian_model::plan::{ReadyPlan, WHOLE_SHARE};
use meridian_model::remote::{Address, Freshness, Remote};
use meridian_model::snapshot::{Place, Snapshot};
use meridian_policies::{Evaluation, NOTHING_ELIGIBLE, Outcome, Pick, Picked, Picks, Routed, View};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The `ETag` of a fingerprint, quotes included.
#[must_use]
pub fn tag(fingerprint: u128) -> String {
    format!("\"{fingerprint:032x}\"")
}

/// The `ETag` of a refusal: it changes when the reason does.
#[must_use]
pub fn problem_tag(problem: &Problem) -> String {
    format!("\"{}\"", problem.code)
}

fn text(out: &mut Vec<u8>, text: &str) {
    // Names and outcomes are plain ASCII by their grammar; a reason may hold anything.
    if text.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'"' && b != b'\\') {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        out.extend_from_slice(&serde_json::to_vec(text).unwrap_or_else(|_| b"\"\"".to_vec()));
    }
}

fn number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// The first endpoint of an answer.
#[derive(Clone, Copy)]
struct Chosen {
    tier: u32,
    position: u32,
    /// Of the view, unless all of them are shown.
    plan: Option<usize>,
}

/// Everything before the endpoints, with `"endpoints":[` at its end.
fn head(
    out: &mut Vec<u8>,
    currency: &Currency,
    snapshot: &Snapshot,
    view: &View,
    outcome: &Outcome,
    chosen: Chosen,
) {
    let Chosen { tier, position, plan } = chosen;
    out.extend_from_slice(b"{\"service\":\"");
    out.extend_from_slice(snapshot.key.service.as_str().as_bytes());
    out.extend_from_slice(b"\",\"namespace\":\"");
    out.extend_from_slice(snapshot.key.namespace.as_str().as_bytes());
    out.extend_from_slice(b"\",\"region\":\"");
    out.extend_from_slice(snapshot.region.as_str().as_bytes());
    out.extend_from_slice(b"\",\"index\":");
    let life = currency.life();
    number(out, life.index());
    out.extend_from_slice(b",\"incarnation\":\"");
    out.extend_from_slice(life.incarnation.as_bytes());
    out.extend_from_slice(b"\",\"ageMs\":");
    number(out, currency.age_ms(clock::monotonic_now()));
    out.extend_from_slice(b",\"policy\":{\"name\":\"");
    out.extend_from_slice(view.policy.as_str().as_bytes());
    out.extend_from_slice(b"\",\"version\":\"");
    out.extend_from_slice(view.version_text().as_bytes());
    out.extend_from_slice(b"\",\"outcome\":\"");
    out.extend_from_slice(outcome.as_str().as_bytes());
    out.push(b'"');
    if let Some(reason) = outcome.reason() {
        out.extend_from_slice(b",\"reason\":");
        text(out, reason);
    }
    out.extend_from_slice(b"},\"tier\":");
    number(out, u64::from(tier));
    // What is not the preferred tier, or leaves the region, says why.
    if tier > 0 || position as usize >= snapshot.endpoints.len() {
        decision(out, view, plan, tier);
    }
    out.extend_from_slice(b",\"endpoints\":[");
}

/// The reason that the policy gave for a tier, by the plan that the lookup was routed to, or by any where there is none.
#[cold]
fn decision(out: &mut Vec<u8>, view: &View, routed: Option<usize>, tier: u32) {
    let plans = view.plans.plans.iter().enumerate().filter(|(at, _)| routed.is_none_or(|plan| plan == *at));
    let tiers = plans.filter_map(|(_, plan)| match plan {
        ReadyPlan::Tiers(tiers) => Some(tiers),
        ReadyPlan::Refused | ReadyPlan::NothingEligible => None,
    });
    if let Some(found) = tiers.flatten().find(|t| t.number == tier && !t.reason.is_empty()) {
        out.extend_from_slice(b",\"reason\":");
        text(out, &found.reason);
    }
}

/// An address in another region: as an endpoint of this one, and how current the news of its region are.
#[cold]
fn endpoint_there(out: &mut Vec<u8>, currency: &Currency, remote: &Remote, address: Address<'_>) {
    currency.count_elsewhere();
    let of_region;
    let (id, host, port) = match address {
        Address::Endpoint(e) => (e.names.id(), e.names.host(), e.port),
        Address::Ingress(i) => {
            of_region = smol_str::format_smolstr!("ingress:{}:{}", i.host, i.port);
            (of_region.as_str(), i.host.as_str(), i.port)
        }
    };
    let told = match address {
        Address::Endpoint(e) => Some((e, remote.subset_of(e))),
        Address::Ingress(_) => None,
    };
    let subset = told.and_then(|(_, subset)| subset);
    let mut field = |name: &str, value: &str| {
        out.extend_from_slice(name.as_bytes());
        text(out, value);
    };
    field("{\"id\":", id);
    field(",\"host\":", host);
    field(",\"zone\":", subset.map_or("", |s| s.zone.as_str()));
    field(",\"region\":", remote.region.as_str());
    field(",\"version\":", subset.map_or("", |s| s.version.as_str()));
    out.extend_from_slice(b",\"port\":");
    number(out, u64::from(port));
    out.extend_from_slice(b",\"weight\":");
    number(out, told.map_or(1, |(e, _)| u64::from(e.weight)));
    out.extend_from_slice(b",\"tags\":[");
    let (tags, metadata) = told.map_or((&[][..], &[][..]), |(e, _)| (&*e.labels.tags, &*e.labels.metadata));
    for (at, tag) in tags.iter().enumerate() {
        out.extend_from_slice(if at > 0 { b"," } else { b"" });
        text(out, tag);
    }
    out.extend_from_slice(b"],\"metadata\":{");
    for (at, (key, value)) in metadata.iter().enumerate() {
        out.extend_from_slice(if at > 0 { b"," } else { b"" });
        text(out, key);
        out.push(b':');
        text(out, value);
    }
    out.push(b'}');
    if told.is_some_and(|(e, _)| e.degraded) {
        out.extend_from_slice(b",\"degraded\":true");
    }
    let others = currency.others();
    let region = others.binary_search_by(|other| other.name.cmp(&remote.region)).ok();
    let age = region.and_then(|at| others.get(at)?.age_ms(clock::monotonic_now()));
    // Undamped: the caller is told what is, the policy what it should act on.
    let freshness = age.map_or(Freshness::Stale, Freshness::of_age_ms);
    out.extend_from_slice(b",\"freshness\":\"");
    out.extend_from_slice(freshness.as_str().as_bytes());
    out.extend_from_slice(b"\",\"ageMs\":");
    match age {
        Some(age) => number(out, age),
        None => out.extend_from_slice(b"null"),
    }
    out.push(b'}');
}

/// One endpoint; a degraded one says so.
fn endpoint(out: &mut Vec<u8>, currency: &Currency, snapshot: &Snapshot, position: u32) {
    let endpoint = match snapshot.endpoints.get(position as usize) {
        Some(endpoint) => endpoint,
        None => {
            if let Some(Place::There(remote, address)) = snapshot.place(position) {
                endpoint_there(out, currency, remote, address);
            }
            return;
        }
    };
    match endpoint.rendered.split_last() {
        Some((b'}', body)) if endpoint.degraded => {
            out.extend_from_slice(body);
            out.extend_from_slice(b",\"degraded\":true}");
        }
        _ => out.extend_from_slice(&endpoint.rendered),
    }
}

fn first(routed: &Routed<'_>, picked: &Picked) -> Chosen {
    Chosen { tier: picked.tier, position: picked.position, plan: Some(routed.plan) }
}

/// The answer to a plain single lookup.
///
/// # Errors
/// 503 where there is nothing to give.
pub fn single(
    out: &mut Vec<u8>,
    currency: &Currency,
    current: &Snapshot,
    routed: &Routed<'_>,
) -> Result<(), Problem> {
    match routed.pick(current) {
        Pick::Endpoint(picked) => {
            let outcome = routed.outcome(picked.by);
            head(out, currency, current, routed.view, &outcome, first(routed, &picked));
            endpoint(out, currency, current, picked.position);
            out.extend_from_slice(b"]}");
            Ok(())
        }
        Pick::Refused => Err(refused_by_policy(current, routed.view.policy.as_str())),
        Pick::NothingEligible => Err(nothing_eligible(current)),
    }
}

fn several(
    out: &mut Vec<u8>,
    currency: &Currency,
    current: &Snapshot,
    routed: &Routed<'_>,
    count: usize,
) -> Result<(), Problem> {
    let picks = match routed.pick_many(current, count) {
        Picks::Endpoints(picks) => picks,
        Picks::Refused => return Err(refused_by_policy(current, routed.view.policy.as_str())),
        Picks::NothingEligible => return Err(nothing_eligible(current)),
    };
    // There is one: no pick at all is not `Endpoints`.
    let Some(best) = picks.first() else { return Err(nothing_eligible(current)) };
    head(out, currency, current, routed.view, &routed.outcome(best.by), first(routed, best));
    for (n, picked) in picks.iter().enumerate() {
        if n > 0 {
            out.push(b',');
        }
        endpoint(out, currency, current, picked.position);
    }
    out.extend_from_slice(b"]}");
    Ok(())
}

/// An endpoint among all that a caller may be given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Share {
    pub(super) position: u32,
    pub(super) tier: u32,
    pub(super) share: f64,
    /// Whether only the native fallback gives it, because a plan names nobody who may receive traffic.
    pub(super) native: bool,
}

/// What every plan (without a key) or the routed plan (with one) gives to each endpoint.
pub(super) fn shares(view: &View, only: Option<usize>) -> Result<Vec<Share>, Problem> {
    let native = meridian_model::locality::fallback(&view.snapshot, view.caller.zone.as_ref());
    let mut found: BTreeMap<u32, Share> = BTreeMap::new();
    let mut refused = false;
    let plans = view.plans.plans.iter().zip(&view.plans.shares).enumerate();
    for (_, (plan, share)) in plans.filter(|(n, _)| only.is_none_or(|only| only == *n)) {
        let whole = if only.is_some() { 1.0 } else { f64::from(*share) / f64::from(WHOLE_SHARE) };
        let (tiers, native) = match (plan, native.plans.first()) {
            (ReadyPlan::Tiers(tiers), _) => (tiers, false),
            (ReadyPlan::NothingEligible, Some(ReadyPlan::Tiers(tiers))) => (tiers, true),
            (ReadyPlan::Refused, _) => {
                refused = true;
                continue;
            }
            (ReadyPlan::NothingEligible, _) => continue,
        };
        for (rank, tier) in tiers.iter().enumerate() {
            let total = tier.total_weight() as f64;
            for (at, weight) in tier.endpoints.iter().zip(&tier.weights) {
                let share = if rank == 0 { whole * *weight as f64 / total } else { 0.0 };
                let new = Share { position: *at, tier: tier.number, share: 0.0, native };
                let entry = found.entry(*at).or_insert(new);
                entry.tier = entry.tier.min(tier.number);
                entry.share += share;
                entry.native &= native;
            }
        }
    }
    if found.is_empty() {
        return Err(if refused {
            refused_by_policy(&view.snapshot, view.policy.as_str())
        } else {
            nothing_eligible(&view.snapshot)
        });
    }
    let mut shares: Vec<Share> = found.into_values().collect();
    shares.sort_by(|a, b| {
        a.tier.cmp(&b.tier).then(b.share.total_cmp(&a.share)).then(a.position.cmp(&b.position))
    });
    Ok(shares)
}

fn all(out: &mut Vec<u8>, currency: &Currency, view: &View, plan: Option<usize>) -> Result<(), Problem> {
    let shares = shares(view, plan)?;
    let snapshot = &view.snapshot;
    let first = shares.first().map_or((0, 0), |s| (s.tier, s.position));
    let first = Chosen { tier: first.0, position: first.1, plan };
    let outcome = match &view.outcome {
        Outcome::Ok | Outcome::LastGood { .. } if shares.iter().all(|share| share.native) => {
            Cow::Owned(Outcome::Fallback { reason: NOTHING_ELIGIBLE.into() })
        }
        outcome => Cow::Borrowed(outcome),
    };
    head(out, currency, snapshot, view, &outcome, first);
    for (n, Share { position, tier, share, .. }) in shares.into_iter().enumerate() {
        if n > 0 {
            out.push(b',');
        }
        endpoint(out, currency, snapshot, position);
        // Inside the endpoint's own object: its last byte is the closing brace.
        out.pop();
        out.extend_from_slice(b",\"tier\":");
        number(out, u64::from(tier));
        out.extend_from_slice(b",\"share\":");
        out.extend_from_slice(serde_json::to_string(&share).unwrap_or_else(|_| "0".into()).as_bytes());
        out.push(b'}');
    }
    out.extend_from_slice(b"]}");
    Ok(())
}

/// The whole answer of a version that is only tried, with every candidate.
///
/// # Errors
/// What a lookup would be refused with.
pub fn render_trial(
    region: &Region,
    question: &Question,
    snapshot: &Arc<Snapshot>,
    evaluation: &Evaluation,
) -> Result<Value, Problem> {
    let evaluated = Evaluated { snapshot: Arc::clone(snapshot), evaluation: evaluation.clone() };
    let bytes = evaluated.render(region, question)?;
    Ok(serde_json::from_slice(&bytes).unwrap_or_default())
}

impl Evaluated {
    /// The view that answered.
    #[must_use]
    pub fn view(&self) -> &View {
        &self.evaluation.view
    }

    /// Where its key was routed, if it has one.
    #[must_use]
    pub fn routed_to(&self, question: &Question) -> Option<(usize, u64)> {
        self.evaluation.plan.zip(question.key)
    }

    /// The `ETag` of the final answer.
    #[must_use]
    pub fn tag(&self, question: &Question) -> String {
        match shares(self.view(), self.routed_to(question).map(|(plan, _)| plan)) {
            Ok(_) => tag(self.view().fingerprint(self.routed_to(question))),
            Err(problem) => problem_tag(&problem),
        }
    }

    /// The answer's bytes.
    ///
    /// # Errors
    /// 503 where there is nothing to give.
    pub fn render(&self, region: &Region, question: &Question) -> Result<Vec<u8>, Problem> {
        let currency = &region.directory.currency;
        let mut out = Vec::with_capacity(1024);
        match question.count {
            Count::All => {
                all(&mut out, currency, self.view(), self.routed_to(question).map(|(plan, _)| plan))?
            }
            Count::Some(count) => {
                let seed = question.key.unwrap_or_else(clock::entropy);
                let routed = self.evaluation.routed(question.key, seed);
                several(&mut out, currency, &self.snapshot, &routed, count)?;
            }
        }
        if question.explain {
            let explain = super::explain::explanation(self, question);
            // Inside the answer's own object: its last byte is the closing brace.
            out.pop();
            out.extend_from_slice(b",\"explain\":");
            out.extend_from_slice(explain.to_string().as_bytes());
            out.push(b'}');
        }
        Ok(out)
    }
}
