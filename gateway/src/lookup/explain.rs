//! Why an answer is what it is: every endpoint and every region that was a candidate, kept or dropped, and why.

use super::Evaluated;
use super::answer::{Share, shares};
use super::question::Question;
use meridian_model::binding::Limits;
use meridian_model::instance::Instance;
use meridian_model::names::RegionName;
use meridian_model::plan::ReadyPlan;
use meridian_model::remote::{Address, Remote, Standing};
use meridian_model::snapshot::{WithheldBy, WithheldRegion};
use meridian_model::status::Status;
use meridian_policies::View;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// All of it, as the member `explain` of an answer.
pub(super) fn explanation(evaluated: &Evaluated, question: &Question) -> Value {
    let view = evaluated.view();
    let kept = shares(view, evaluated.routed_to(question).map(|(plan, _)| plan)).unwrap_or_default();
    let candidates =
        Candidates { view, kept: kept.into_iter().map(|share| (share.position, share)).collect() };
    json!({
        "caller": { "region": view.caller.region, "zone": view.caller.zone, "labels": view.caller.labels },
        "limits": view.snapshot.binding.limits, "plans": plans(view), "plan": evaluated.evaluation.plan,
        "candidates": candidates.here(), "regions": candidates.elsewhere(),
    })
}

fn plans(view: &View) -> Vec<Value> {
    let plan = |(plan, share): (&ReadyPlan, &u32)| match plan {
        ReadyPlan::Refused => json!({ "share": share, "refused": true, "tiers": [] }),
        ReadyPlan::NothingEligible => json!({ "share": share, "nothingEligible": true, "tiers": [] }),
        ReadyPlan::Tiers(tiers) => json!({ "share": share, "tiers": tiers.iter().map(|t| json!({
            "tier": t.number, "reason": t.reason, "endpoints": t.endpoints.len() })).collect::<Vec<_>>() }),
    };
    view.plans.plans.iter().zip(&view.plans.shares).map(plan).collect()
}

struct Candidates<'a> {
    view: &'a View,
    /// What the caller may be given, by position.
    kept: BTreeMap<u32, Share>,
}

impl Candidates<'_> {
    /// Why something is in the answer, or is not although it may receive traffic.
    fn why(&self, found: Option<&Share>) -> String {
        match found {
            Some(share) if share.native => {
                "given by the native fallback: no plan names who may receive traffic".into()
            }
            Some(_) => "in the plan".to_owned(),
            None => format!("not in the plan of policy {}", self.view.policy),
        }
    }

    fn here(&self) -> Vec<Value> {
        let endpoints = self.view.snapshot.endpoints.iter().zip(0u32..);
        let candidates = endpoints.map(|(endpoint, position)| {
            let found = self.kept.get(&position);
            let why = match endpoint.status.is_eligible() {
                true => self.why(found),
                false => format!("dropped by the host: {}", why_not(&endpoint.instance, endpoint.status)),
            };
            json!({
                "id": endpoint.id(), "zone": endpoint.zone(), "status": endpoint.status.as_str(),
                "degraded": endpoint.degraded, "weight": endpoint.instance.declared.weight,
                "kept": found.is_some(), "tier": found.map(|s| s.tier), "share": found.map_or(0.0, |s| s.share),
                "why": why,
            })
        });
        candidates.collect()
    }

    /// Every region that told of the service, in the order of their names.
    fn elsewhere(&self) -> Value {
        let snapshot = &self.view.snapshot;
        let remotes = snapshot.remotes.iter().enumerate().map(|(at, remote)| {
            (&remote.region, self.region(remote, snapshot.first_position(at).unwrap_or(usize::MAX)))
        });
        let withheld = &snapshot.withheld;
        let limits = &snapshot.binding.limits;
        let left_out = withheld.regions.iter().map(|region| (&region.region, self::withheld(region, limits)));
        let regions: BTreeMap<_, Value> = remotes.chain(left_out).collect();
        json!({
            "remotes": regions.into_values().collect::<Vec<_>>(),
            "outsideLimits": withheld.by(WithheldBy::Limits).count(), "tooOld": withheld.by(WithheldBy::Age).count(),
            "ownRamp": snapshot.ramp,
        })
    }

    /// A region that may be sent traffic; its first address stands at this position.
    fn region(&self, remote: &Remote, first: usize) -> Value {
        let (healthy, total) = remote.summary.health();
        let found = |at: usize| self.kept.get(&u32::try_from(first.checked_add(at)?).ok()?);
        let shares: Vec<&Share> = (0..remote.address_count()).filter_map(found).collect();
        let why = match shares.first() {
            None if healthy == 0 => "nothing healthy there".to_owned(),
            first => self.why(first.copied()),
        };
        let mut region = region(&remote.region, &remote.standing, (healthy, total), &shares, why);
        let addresses = (0..remote.address_count()).filter_map(|at| Some((remote.address(at)?, found(at))));
        region["endpoints"] = addresses
            .map(|(address, found)| self.address(remote, address, found, !shares.is_empty()))
            .collect();
        region
    }

    fn address(&self, remote: &Remote, address: Address<'_>, found: Option<&Share>, is_kept: bool) -> Value {
        let sampled = remote.summary.sampled;
        let mut value = match address {
            Address::Endpoint(endpoint) => {
                let subset = remote.subset_of(endpoint);
                json!({
                    "id": endpoint.names.id(), "host": endpoint.names.host(), "port": endpoint.port,
                    "zone": subset.map(|s| &s.zone), "version": subset.map(|s| &s.version), "weight": endpoint.weight,
                })
            }
            Address::Ingress(ingress) => json!({
                "id": format!("ingress:{}:{}", ingress.host, ingress.port), "host": ingress.host, "port": ingress.port,
            }),
        };
        let why = match (address, found) {
            (Address::Ingress(_), None) if !sampled => {
                "not needed: every endpoint is known by its address".to_owned()
            }
            (Address::Endpoint(_), None) if sampled && is_kept && !remote.ingress.is_empty() => {
                "the ingress stands for it: the endpoints are a sample".to_owned()
            }
            (_, found) => self.why(found),
        };
        value["kept"] = json!(found.is_some());
        value["tier"] = json!(found.map(|share| share.tier));
        value["share"] = json!(found.map_or(0.0, |share| share.share));
        value["why"] = json!(why);
        value
    }
}

fn withheld(withheld: &WithheldRegion, limits: &Limits) -> Value {
    let why = match withheld.by {
        WithheldBy::Limits if limits.max_remote_share > 0.0 => "outside the binding's limits.regions",
        WithheldBy::Limits => "the binding's limits.maxRemoteShare lets no lookup leave the region",
        WithheldBy::Age => {
            "last heard of longer ago than lookups.max_remote_age: its addresses may belong to others"
        }
    };
    region(&withheld.region, &withheld.standing, (withheld.healthy, withheld.total), &[], why.to_owned())
}

/// How a region stands and what it gets, and why; what speaks against it is told either way. Its endpoints are to follow.
fn region(
    name: &RegionName,
    standing: &Standing,
    (healthy, total): (u64, u64),
    shares: &[&Share],
    why: String,
) -> Value {
    let why = match standing.doubt() {
        Some(doubt) => format!("{why}; {doubt}"),
        None => why,
    };
    json!({
        "region": name, "freshness": standing.freshness, "reachable": standing.reachable, "draining": standing.draining,
        "ramp": standing.ramp, "roundTripMs": standing.round_trip_ms, "healthy": healthy, "total": total,
        "kept": !shares.is_empty(), "tier": shares.iter().map(|share| share.tier).min(),
        "share": shares.iter().map(|share| share.share).sum::<f64>(), "why": why, "endpoints": [],
    })
}

fn why_not(instance: &Instance, status: Status) -> String {
    let because = [&instance.reason, &instance.check_detail].into_iter().find(|text| !text.is_empty());
    match because {
        Some(text) => format!("{}, {text}", status.as_str()),
        None => status.as_str().to_owned(),
    }
}
