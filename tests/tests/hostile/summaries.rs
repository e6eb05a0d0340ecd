//! A region tells others every mutant of a summary: their lookups go on, of that service too where the mutant can be read.

use crate::publisher::node;
use crate::world::{AP, EU, REGIONS, US, certificates, tls};
use crate::{ORDERS, PACE, SLACK};
use meridian_federation::exchange::message::{Record, RecordKey};
use meridian_federation::exchange::{Own, OwnChange};
use meridian_federation::record::encode_summary;
use meridian_federation::service::Clock;
use meridian_model::incarnation::Incarnation;
use meridian_model::names::ServiceKey;
use meridian_model::time::Monotonic;
use meridian_tests::figures;
use meridian_tests::gateway::{GatewayProcess, embedded};
use meridian_tests::load::Load;
use meridian_tests::patience::until;
use meridian_tests::tokens::Issuer;
use mutants::{Mutant, complete};
use std::sync::Arc;
use std::time::{Duration, Instant};

#[path = "../../../federation/tests/mutants/summaries.rs"]
mod mutants;

const SERVICE: &str = "mutants-api";
/// For a change to come from one region to the gateways of two others.
const TOLD: Duration = Duration::from_secs(5);

fn key(service: &str) -> RecordKey {
    RecordKey::Service(ServiceKey::new("default".parse().unwrap(), service.parse().unwrap()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_mutant_of_a_summary_hurts_another_region() {
    let (issuer, directory, begun) = (Issuer::init(), certificates(), Instant::now());
    let clock: Clock = Arc::new(move || Monotonic(1_000).plus(begun.elapsed()));
    let (eu, eu_address) = node(&directory, EU, None, &clock).await;
    let mut nodes = Vec::new();
    let mut gateways = Vec::new();
    for at in [AP, US] {
        let (running, address) = node(&directory, at, Some((EU, eu_address)), &clock).await;
        nodes.push(running);
        let zone = format!("{}a", REGIONS[at]);
        let gateway = GatewayProcess::of(REGIONS[at], &[zone.as_str()], &issuer, embedded())
            .with("federation", "nodes", vec![format!("https://{address}")])
            .with("federation", "tls", tls(directory.path(), &format!("{}-gateway", REGIONS[at])))
            .started()
            .await;
        gateways.push(gateway);
    }
    let good = encode_summary(&complete(), 64 * 1024);
    let say = async |index: u64, change: OwnChange| {
        let incarnation = Incarnation { counter: 1, random: 1 };
        eu.handle().own(Own { incarnation, index, proven: Some(clock()), change }).await.unwrap();
        until("both regions heard of it", TOLD + SLACK, async || {
            for gateway in &gateways {
                let shown = gateway.client().get(&format!("/v1/regions/{}", REGIONS[EU])).await;
                if shown.status != 200 || shown["index"].as_u64() < Some(index) {
                    return false;
                }
            }
            true
        })
        .await;
    };
    let both = [ORDERS, SERVICE].map(|service| Record { key: key(service), bytes: good.clone() });
    say(1, OwnChange::All(both.into())).await;
    for gateway in &gateways {
        // What was told is as old as it gets before a beat proved it.
        until("the region is proven to be so", TOLD + SLACK, async || {
            gateway.client().resolve(ORDERS, "").await.status == 200
        })
        .await;
    }
    let loads: Vec<Load> = gateways
        .iter()
        .map(|gateway| Load::start(&[gateway.address()], &format!("/v1/resolve/{ORDERS}"), PACE))
        .collect();

    let (mut index, mut answered, mut nothing) = (1, 0, 0);
    for Mutant { names, change, bytes } in mutants::all() {
        index += 1;
        say(index, OwnChange::Some(vec![(key(SERVICE), Some(bytes.into()))])).await;
        for gateway in &gateways {
            for query in ["", "?key=k", "?n=all"] {
                let answer = gateway.client().resolve(SERVICE, query).await;
                match answer.status {
                    200 => answered += 1,
                    404 | 503 => nothing += 1,
                    _ => panic!("{names:?} {change}: {} {}", answer.status, answer.json),
                }
            }
        }
    }
    say(index + 1, OwnChange::Some(vec![(key(SERVICE), Some(good.clone()))])).await;
    let mut unreadable = 0.0;
    for gateway in &gateways {
        let answer = gateway.client().resolve(SERVICE, "?n=all").await.expect(200);
        assert_eq!(answer.endpoints().len(), complete().endpoints.len(), "{}", answer.json);
        unreadable += figures::one(&gateway.client(), "meridian_federation_unreadable_total").await;
    }
    println!(
        "{index} mutants at two gateways: {answered} answers, {nothing} without an endpoint, {unreadable} not read"
    );
    assert!(answered > 0 && unreadable > 0.0);
    for load in loads {
        load.stop().check();
    }
}
