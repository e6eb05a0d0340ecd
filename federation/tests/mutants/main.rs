//! A summary with one field blank, absent, twice, too large or of another type: it is refused by a word that says where,
//! or read as something that no lookup can be hurt by.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "unwrap in tests is the assertion itself, in their helpers too"
)]
#![allow(unreachable_pub, reason = "shared by several test binaries, none of which exports anything")]

mod summaries;

use meridian_federation::record::{decode_summary, encode_summary};
use meridian_model::binding::{Bound, Effective, Limits};
use meridian_model::locality;
use meridian_model::names::{PolicyVersion, ServiceKey};
use meridian_model::plan::{self, Choice, Destination, Plan, ReadyPlan, ReadyPlans, Tier};
use meridian_model::registration::MAX_WEIGHT;
use meridian_model::remote::{FULL_RAMP, Freshness, Remote, Standing};
use meridian_model::snapshot::{Snapshot, Withheld};
use meridian_model::summary::Summary;
use std::sync::Arc;
use summaries::{Mutant, complete};

fn bound() -> Bound {
    Bound { policy: "mine".parse().unwrap(), version: PolicyVersion::of(b""), config: "".into() }
}

/// A service of this region without instances: all of its traffic goes to where the summary says.
fn snapshot(summary: Summary, max_remote_share: f64) -> Snapshot {
    let limits = Limits { max_remote_share, ..Limits::default() };
    let standing = Standing {
        freshness: Freshness::Fresh,
        reachable: true,
        draining: false,
        ramp: FULL_RAMP,
        round_trip_ms: 20,
    };
    Snapshot {
        key: ServiceKey::new("default".parse().unwrap(), "orders-api".parse().unwrap()),
        region: "ap-south-1".parse().unwrap(),
        slot: 0,
        serial: 1,
        index: 1,
        endpoints: Vec::new(),
        binding: Arc::new(Effective { limits, ..Effective::only(bound()) }),
        draining_zones: Vec::new(),
        ramp: FULL_RAMP,
        remotes: vec![Remote {
            region: "eu-west-1".parse().unwrap(),
            standing,
            summary: Arc::new(summary),
            ingress: Arc::new([]),
        }],
        withheld: Withheld::default(),
    }
}

/// Draws from every tier: each position that comes must be a place.
fn draw(ready: &ReadyPlans, snapshot: &Snapshot) {
    for plan in &ready.plans {
        let ReadyPlan::Tiers(tiers) = plan else { continue };
        for tier in tiers {
            assert!(tier.total_weight() > 0);
            assert!(tier.endpoints.iter().all(|at| snapshot.place(*at).is_some()));
        }
    }
}

/// What a lookup does with it: the native fallback, and a policy that names all there is.
fn look_up(summary: Summary) {
    for max_remote_share in [1.0, 0.3, 0.0] {
        let snapshot = snapshot(summary.clone(), max_remote_share);
        draw(&locality::fallback(&snapshot, None), &snapshot);
        let to = |subset| Choice { destination: Destination::Remote { remote: 0, subset }, weight: u32::MAX };
        let subsets = (0..u32::try_from(snapshot.remotes[0].summary.subsets.len()).unwrap()).map(Some);
        let choices = std::iter::once(None).chain(subsets).map(to).collect();
        let plan = Plan { share: 10_000, tiers: vec![Tier { choices, reason: String::new() }] };
        draw(&plan::expand(&[plan], &snapshot).unwrap(), &snapshot);
    }
}

#[test]
fn no_mutant_of_a_summary_hurts_a_lookup_and_refusals_name_the_field() {
    assert_eq!(decode_summary(&encode_summary(&complete(), 64 * 1024)), Ok(complete()));
    let (mut taken, mut wrong, mut refused) = (0, Vec::new(), 0);
    for Mutant { names, change, bytes } in summaries::all() {
        match decode_summary(&bytes) {
            Ok(summary) => {
                taken += 1;
                look_up(summary);
            }
            Err(bad) => {
                refused += 1;
                let said = bad.to_string();
                if !names.iter().any(|name| said.contains(name)) {
                    wrong.push(format!("{names:?} {change}: {said}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(taken > 50 && refused > 100, "{taken} taken, {refused} refused");
}

/// Sums of what other regions say must not pass what a lookup can add up.
#[test]
fn the_greatest_numbers_everywhere_hurt_no_lookup() {
    let mut summary = complete();
    for subset in &mut summary.subsets {
        (subset.healthy, subset.total) = (u32::MAX, u32::MAX);
        subset.weight = u64::from(u32::MAX) * u64::from(MAX_WEIGHT);
    }
    summary.headroom = Some(u64::MAX);
    for endpoint in &mut summary.endpoints {
        endpoint.weight = 1;
    }
    look_up(decode_summary(&encode_summary(&summary, 64 * 1024)).unwrap());
}
