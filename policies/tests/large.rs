//! Services far larger than usual, under the standard policies: a policy that runs out of fuel there would silently be
//! replaced by the native fallback.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "unwrap in tests is the assertion itself, in their helpers too"
)]
#![allow(unreachable_pub, reason = "shared by several test binaries, none of which exports anything")]

mod support;

use meridian_model::status::Status;
use meridian_policies::{Host, HostConfig, Lookup, Outcome, STANDARD};
use support::{bound, caller_in, effective, endpoints, snapshot, warm};

/// DESIGN 10 measures lookups of services up to this size.
const LARGE: usize = 5_000;

/// Configs that make a policy look at everything.
fn demanding(policy: &str) -> &'static str {
    match policy {
        "canary" => r#"{"percent": 10, "canary": {"tag": "v2"}}"#,
        "weighted" => {
            r#"{"weights": {"tag:v2": 60, "version:2026.04.18": 20, "group:stable": 15, "group:none": 5}}"#
        }
        _ => "",
    }
}

#[tokio::test]
async fn every_standard_policy_opens_five_thousand_endpoints() {
    let host = Host::start(HostConfig { router_cache_bytes: 1 << 30, ..HostConfig::default() }).unwrap();
    let mut worker = host.worker();
    let mut slot = 0;
    for standard in &STANDARD {
        host.load_standard(standard).unwrap();
        // Two thirds healthy: traffic spills from the caller's zone, so that tiers are mixed.
        for health in [|_| Status::Healthy, |n| if n % 9 < 3 { Status::Unhealthy } else { Status::Healthy }] {
            let binding = effective(bound(standard.name, standard.module, demanding(standard.name)), vec![]);
            let service = snapshot(slot, endpoints(LARGE, health), &binding);
            slot += 1;
            let caller = caller_in(&mut worker, &service, 'a');
            warm(&mut worker, &service, caller).await;
            let Lookup::Routed(routed) = worker.lookup(&service, caller, None, 1) else { panic!("cold") };
            assert_eq!(routed.view.outcome, Outcome::Ok, "{}", standard.name);
        }
    }
}
