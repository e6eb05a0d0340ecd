//! The gate's verdict on every hostile module.

use crate::PACE;
use crate::corpus::{self, Hostile, Verdict};
use meridian_tests::client::{Answer, Client, registration};
use meridian_tests::figures;
use meridian_tests::gateway::{GatewayProcess, embedded};
use meridian_tests::load::Load;
use meridian_tests::tokens::Issuer;
use reqwest::Method;
use std::time::Instant;

/// Looked up all the while.
const SERVICE: &str = "orders-api";
/// The corpus may not become smaller than was asked for.
const LEAST: usize = 60;

/// Uploads under the module's own name.
pub(crate) async fn push(operator: &Client, hostile: &Hostile) -> Answer {
    let headers = [("content-type", "application/wasm")];
    let path = format!("/v1/policies/{}", hostile.name);
    operator.send(Method::PUT, &path, &headers, Some(hostile.module.clone())).await.unwrap()
}

/// What is wrong with the answer to an upload; nothing if it is the verdict.
fn wrong(verdict: Verdict, answer: &Answer) -> Option<String> {
    let said = || format!("{} {}", answer.status, answer.json);
    match verdict {
        Verdict::LetIn(_) => (answer.status != 201).then(said),
        Verdict::Refused(code, check) => {
            let status = if code == "module-too-large" { 413 } else { 422 };
            let as_said = answer.status == status
                && answer.code() == code
                && check.is_none_or(|check| answer["check"] == check && answer["input"].is_string());
            if as_said {
                answer.problem();
            }
            (!as_said).then(said)
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_hostile_module_gets_its_verdict_while_lookups_go_on() {
    let corpus = corpus::all();
    assert!(corpus.len() >= LEAST, "only {} modules", corpus.len());
    let issuer = Issuer::init();
    let mut gateway = GatewayProcess::new(&issuer, embedded()).started().await;
    let open = gateway.client();
    let owner = open.bearing(&issuer.workload(SERVICE));
    for (id, zone) in [("a", "test-1a"), ("b", "test-1b")] {
        let _ = owner.register(SERVICE, id, &registration(zone, 8080)).await.expect(201);
    }
    let load = Load::start(&[gateway.address()], &format!("/v1/resolve/{SERVICE}"), PACE);
    let operator = open.bearing(&issuer.operator());
    let (mut let_in, mut mistakes) = (0, Vec::new());
    for hostile in &corpus {
        let begun = Instant::now();
        let answer = push(&operator, hostile).await;
        let told = answer["detail"].as_str().unwrap_or("let in");
        println!("{} ({}): {} in {:?}", hostile.name, hostile.does, told, begun.elapsed());
        let_in += u32::from(answer.status == 201);
        mistakes.extend(
            wrong(hostile.verdict, &answer).map(|said| {
                format!("{} ({}): {:?}, but {said}", hostile.name, hostile.does, hostile.verdict)
            }),
        );
    }
    assert!(mistakes.is_empty(), "{} of {}:\n{}", mistakes.len(), corpus.len(), mistakes.join("\n"));
    assert!(gateway.is_running(), "the gateway ended");
    let report = load.stop();
    println!(
        "{} modules, {let_in} let in; {} lookups, slowest {:?}",
        corpus.len(),
        report.lookups,
        report.slowest
    );
    report.check();
    let faults = figures::of(&open).await;
    let faults: f64 = faults
        .iter()
        .filter(|(name, _)| name.starts_with("meridian_policy_faults_total"))
        .map(|(_, n)| n)
        .sum();
    assert_eq!(faults, 0.0, "what is tried is not what answers");
}
