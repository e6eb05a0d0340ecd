//! Other regions in plans: where their part goes, and that no policy can widen what the binding allows.

use super::*;
use crate::binding::{Bound, Effective, Limits};
use crate::instance::{Instance, Lease, LeaseId, Owner};
use crate::locality;
use crate::names::{Namespace, PolicyVersion, ServiceKey};
use crate::plan::{Nonsense, Plan, ReadyPlan, ReadyTier, Tier, WHOLE_SHARE, expand};
use crate::registration::RegistrationBody;
use crate::remote::{FULL_RAMP, Freshness, Remote, Standing};
use crate::snapshot::{Endpoint, Place, Withheld};
use crate::status::{CheckVerdict, Status};
use crate::summary::{IdAndHost, Ingress, RemoteEndpoint, Subset, Summary, summarize};
use crate::time::UnixMillis;
use proptest::prelude::*;
use std::sync::Arc;

fn endpoint(id: &str, zone: &str, status: Status) -> Endpoint {
    let body = format!(r#"{{"host":"10.0.0.1","port":80,"zone":"{zone}","version":"v1"}}"#);
    let body: RegistrationBody = serde_json::from_str(&body).unwrap();
    let instance = Instance {
        format: 1,
        id: id.parse().unwrap(),
        owner: Owner { issuer: "i".into(), subject: "s".into() },
        declared: body.parse().unwrap(),
        lease: Lease { id: LeaseId(1), token_expires_at: None, expired_at: None },
        check: CheckVerdict::Pending,
        check_detail: Default::default(),
        registered_at: UnixMillis(0),
        updated_at: UnixMillis(0),
        reason: Default::default(),
        unknown: Default::default(),
    };
    Endpoint::new(Arc::new(instance), status, false, b"{}".to_vec().into())
}

fn remote(region: &str, subsets: &[(&str, u32)], round_trip_ms: u32) -> Remote {
    let mut endpoints = Vec::new();
    for ((zone, healthy), at) in subsets.iter().zip(0u16..) {
        for n in 0..*healthy {
            endpoints.push(RemoteEndpoint {
                names: IdAndHost::new(&format!("{zone}-{n:04}"), "10.9.9.9"),
                port: 80,
                weight: 100,
                subset: at,
                degraded: false,
                labels: Arc::default(),
            });
        }
    }
    endpoints.sort_by(|a, b| a.names.id().cmp(b.names.id()));
    let subset = |(zone, healthy): &(&str, u32)| Subset {
        zone: zone.parse().unwrap(),
        version: "v1".into(),
        group: "".into(),
        healthy: *healthy,
        total: *healthy,
        weight: u64::from(*healthy) * 100,
    };
    let subsets = subsets.iter().map(subset).collect();
    Remote {
        region: region.parse().unwrap(),
        standing: Standing {
            freshness: Freshness::Fresh,
            reachable: true,
            draining: false,
            ramp: FULL_RAMP,
            round_trip_ms,
        },
        summary: Arc::new(Summary { subsets, endpoints, sampled: false, headroom: None }),
        ingress: Arc::new([]),
    }
}

/// So many healthy endpoints of zone `za` before the unhealthy ones.
pub(crate) fn snapshot(
    healthy: u32,
    unhealthy: u32,
    remotes: Vec<Remote>,
    max_remote_share: f64,
) -> Snapshot {
    let status = |n| if n < healthy { Status::Healthy } else { Status::Unhealthy };
    let bound = Bound {
        policy: "zone-fallback".parse().unwrap(),
        version: PolicyVersion::of(b""),
        config: Default::default(),
    };
    let binding = Effective {
        limits: Limits { max_remote_share, ..Limits::default() },
        ..Effective::of(None, None, &bound)
    };
    Snapshot {
        key: ServiceKey::new(Namespace::default(), "orders".parse().unwrap()),
        region: "home".parse().unwrap(),
        slot: 0,
        serial: 1,
        index: 1,
        endpoints: (0..healthy + unhealthy)
            .map(|n| endpoint(&format!("i-{n:04}"), "za", status(n)))
            .collect(),
        binding: Arc::new(binding),
        draining_zones: Vec::new(),
        ramp: FULL_RAMP,
        remotes,
        withheld: Withheld::default(),
    }
}

fn tier(choices: &[(Destination, u32)]) -> Tier {
    let choice =
        |(destination, weight): &(Destination, u32)| Choice { destination: *destination, weight: *weight };
    Tier { choices: choices.iter().map(choice).collect(), reason: "test".into() }
}

fn away(remote: u32) -> Destination {
    Destination::Remote { remote, subset: None }
}

fn tiers(tiers: Vec<Tier>, snapshot: &Snapshot) -> Vec<ReadyTier> {
    let plans = [Plan { share: WHOLE_SHARE, tiers }];
    match &*expand(&plans, snapshot).unwrap().plans {
        [ReadyPlan::Tiers(tiers)] => tiers.to_vec(),
        other => panic!("{other:?}"),
    }
}

fn remote_share(tier: &ReadyTier, snapshot: &Snapshot) -> f64 {
    let there = |at: &u32| *at as usize >= snapshot.endpoints.len();
    let away: u64 =
        tier.endpoints.iter().zip(&tier.weights).filter(|(at, _)| there(at)).map(|(_, weight)| *weight).sum();
    away as f64 / tier.total_weight() as f64
}

#[test]
fn a_remote_s_weight_is_spread_over_its_endpoints() {
    let snapshot = snapshot(1, 0, vec![remote("east", &[("ea", 3), ("eb", 1)], 10)], 1.0);
    let ready = tiers(vec![tier(&[(Destination::Endpoint(0), 300), (away(0), 100)])], &snapshot);
    assert_eq!(ready[0].endpoints.len(), 5);
    assert!((remote_share(&ready[0], &snapshot) - 0.25).abs() < 1e-9);
    let of_subset = Destination::Remote { remote: 0, subset: Some(1) };
    let ready = tiers(vec![tier(&[(of_subset, 1)])], &snapshot);
    assert_eq!(ready[0].endpoints.len(), 1);
    let Some(Place::There(remote, _)) = snapshot.place(ready[0].endpoints[0]) else { panic!("not away") };
    assert_eq!(remote.region.as_str(), "east");
}

#[test]
fn the_ingress_is_preferred_to_a_sample() {
    let mut far = remote("east", &[("ea", 2)], 10);
    far.ingress = Arc::new([Ingress { host: "edge.east".into(), port: 443 }]);
    let all = snapshot(0, 0, vec![far.clone()], 1.0);
    assert_eq!(tiers(vec![tier(&[(away(0), 1)])], &all)[0].endpoints.len(), 2);
    let sampled = Summary { sampled: true, ..(*far.summary).clone() };
    far.summary = Arc::new(sampled);
    let sampled = snapshot(0, 0, vec![far], 1.0);
    let ready = tiers(vec![tier(&[(away(0), 1)])], &sampled);
    assert_eq!(*ready[0].endpoints, [2]);
}

#[test]
fn destinations_that_were_not_shown_are_nonsense() {
    let snapshot = snapshot(1, 0, vec![remote("east", &[("ea", 1)], 10)], 1.0);
    let judge = |destination| {
        let plans = [Plan { share: WHOLE_SHARE, tiers: vec![tier(&[(destination, 1)])] }];
        expand(&plans, &snapshot).map(|_| ())
    };
    let subset = |subset| Destination::Remote { remote: 0, subset: Some(subset) };
    assert_eq!(judge(subset(0)), Ok(()));
    for wrong in [subset(1), subset(u32::MAX), away(1), away(u32::MAX), Destination::Endpoint(1)] {
        assert!(matches!(judge(wrong), Err(Nonsense::OutOfRange { .. })), "{wrong:?}");
    }
    let twice = [Plan { share: WHOLE_SHARE, tiers: vec![tier(&[(away(0), 1), (away(0), 2)])] }];
    assert!(matches!(expand(&twice, &snapshot), Err(Nonsense::Duplicate { .. })));
}

/// Neither by leaving out what is at home nor by giving it no weight.
#[test]
fn a_plan_that_names_nothing_at_home_stays_within_the_bound() {
    let snapshot = snapshot(10, 2, vec![remote("east", &[("ea", 3)], 10)], 0.3);
    let nothing = vec![tier(&[(away(0), 1)])];
    let weightless = vec![tier(&[(Destination::Endpoint(0), 0), (away(0), 1)])];
    for plan in [nothing, weightless] {
        let ready = tiers(plan, &snapshot);
        assert!((remote_share(&ready[0], &snapshot) - 0.3).abs() < 1e-5, "{ready:?}");
    }
    let dead = self::snapshot(0, 2, vec![remote("east", &[("ea", 3)], 10)], 0.3);
    assert_eq!(remote_share(&tiers(vec![tier(&[(away(0), 1)])], &dead)[0], &dead), 1.0, "the last resort");
}

#[test]
fn the_native_fallback_goes_abroad_at_last_and_to_the_best_first() {
    let regions = vec![remote("east", &[("ea", 1)], 100), remote("west", &[("wa", 1)], 10)];
    let far = snapshot(0, 3, regions.clone(), 1.0);
    let ReadyPlan::Tiers(order) = &locality::fallback(&far, None).plans[0] else { panic!("empty") };
    assert_eq!(order.iter().map(|t| t.reason.as_str()).collect::<Vec<_>>(), ["west", "east"]);
    assert_eq!(order.iter().map(|t| t.number).collect::<Vec<_>>(), [2, 3]);
    let near = snapshot(1, 2, regions, 1.0);
    let ReadyPlan::Tiers(order) = &locality::fallback(&near, None).plans[0] else { panic!("empty") };
    assert_eq!(*order[0].endpoints, [0]);
}

/// Zones that are evacuated yield to other regions, but an operator who bounded what leaves the region is not overruled
/// because a policy failed.
#[test]
fn the_native_fallback_holds_the_remote_share() {
    let mut evacuated = snapshot(2, 0, vec![remote("east", &[("ea", 3)], 10)], 0.2);
    evacuated.draining_zones = vec!["za".parse().unwrap()];
    let fallback = |snapshot: &Snapshot| {
        let ready = locality::fallback(snapshot, None);
        let ReadyPlan::Tiers(tiers) = &ready.plans[0] else { panic!("empty") };
        (remote_share(&tiers[0], snapshot), ready.clamped.remote_share)
    };
    let (share, clamped) = fallback(&evacuated);
    assert!((share - 0.2).abs() < 1e-6 && clamped == 1, "{share}, {clamped}");
    evacuated.endpoints.iter_mut().for_each(|endpoint| endpoint.status = Status::Unhealthy);
    assert_eq!(fallback(&evacuated), (1.0, 0), "nothing at home can take the rest");
}

#[test]
fn the_native_fallback_gives_a_recovering_region_its_ramp_s_part() {
    let mut regions = vec![remote("east", &[("ea", 1)], 10), remote("west", &[("wa", 1)], 100)];
    regions[0].standing.ramp = 250;
    let order = |regions: &[Remote]| {
        let snapshot = snapshot(0, 1, regions.to_vec(), 1.0);
        let ReadyPlan::Tiers(tiers) = &locality::fallback(&snapshot, None).plans[0] else { panic!("empty") };
        let share = tiers[0].weights[0] as f64 / tiers[0].total_weight() as f64;
        (tiers.iter().map(|t| t.reason.to_string()).collect::<Vec<_>>(), share)
    };
    let (reasons, share) = order(&regions);
    assert_eq!(reasons, ["east, west"]);
    assert!((share - 0.25).abs() < 1e-6, "{share}");
    assert_eq!(order(&regions[..1]), (vec!["east".into()], 1.0), "nobody else can take the rest");
    regions[1].standing.reachable = false;
    assert_eq!(order(&regions), (vec!["east".into(), "west, not reachable".into()], 1.0));
    regions[1].standing.freshness = Freshness::Suspect;
    assert_eq!(order(&regions).0[1], "west, not heard of lately");
}

proptest! {
    #[test]
    fn no_policy_sends_more_abroad_than_the_binding_allows(
        healthy in 1u32..6, most in 0.0f64..1.0, here in 0u32..1_000, there in 1u32..u32::MAX, split: bool
    ) {
        let snapshot = snapshot(healthy, 2, vec![remote("east", &[("ea", 2)], 10)], most);
        let local: Vec<_> = (0..healthy).map(|at| (Destination::Endpoint(at), here)).collect();
        let plan = if split {
            vec![tier(&[(away(0), there)]), tier(&local)]
        } else {
            vec![tier(&[local, vec![(away(0), there)]].concat())]
        };
        let ready = tiers(plan, &snapshot);
        // Weight 0 gets nothing: then nothing here can take the rest.
        if here > 0 {
            let share = remote_share(&ready[0], &snapshot);
            prop_assert!(share <= most + 1e-5, "{share} of at most {most}");
        }
    }

    #[test]
    fn a_summary_counts_every_instance_and_carries_at_most_its_bound(
        zones in prop::collection::vec((0u8..4, 0u8..5), 0..120)
    ) {
        let mut home = snapshot(0, 0, Vec::new(), 1.0);
        home.endpoints = zones.iter().enumerate().map(|(n, (zone, status))| {
            let status = [Status::Healthy, Status::Unhealthy, Status::Expired, Status::Starting, Status::Draining][usize::from(*status)];
            endpoint(&format!("i-{n:04}"), &format!("z{zone}"), status)
        }).collect();
        let told = summarize(&home, None);
        let count = |of: &[u8]| zones.iter().filter(|(_, status)| of.contains(status)).count();
        let healthy: u32 = told.subsets.iter().map(|s| s.healthy).sum();
        let total: u32 = told.subsets.iter().map(|s| s.total).sum();
        prop_assert_eq!(healthy as usize, count(&[0]));
        prop_assert_eq!(total as usize, count(&[0, 1, 2]));
        prop_assert_eq!(told.endpoints.len(), count(&[0]).min(crate::summary::MAX_ENDPOINTS));
        prop_assert_eq!(told.sampled, count(&[0]) > told.endpoints.len());
        prop_assert!(told.endpoints.is_sorted_by(|a, b| a.names.id() < b.names.id()));
        for endpoint in &told.endpoints {
            prop_assert!(told.subsets[usize::from(endpoint.subset)].healthy > 0);
        }
        // Spread: no zone has two more than another that still has some left.
        if told.sampled {
            let carried = |zone: &str| told.endpoints.iter().filter(|e| told.subsets[usize::from(e.subset)].zone.as_str() == zone).count();
            let most = (0..4).map(|z| carried(&format!("z{z}"))).max().unwrap();
            for zone in 0..4u8 {
                let all = zones.iter().filter(|(z, s)| *z == zone && *s == 0).count();
                let here = carried(&format!("z{zone}"));
                prop_assert!(here + 1 >= most.min(all));
            }
        }
    }
}
