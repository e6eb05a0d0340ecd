//! Requests whose head cannot be read: each is told why before its connection ends, though there is no request to answer.

use crate::certificates;
use crate::world::lone_gateway;
use meridian_federation::service::name::Station;
use meridian_tests::client::Answer;
use meridian_tests::gateway::{GatewayProcess, embedded};
use meridian_tests::raw;
use meridian_tests::tokens::Issuer;
use std::collections::BTreeMap;
use std::time::Duration;

const LARGE: usize = 64 * 1024;
const RIGHT: &str = "GET /livez HTTP/1.1\r\nhost: x\r\n\r\n";

/// Heads that are too large, each by another part.
fn too_large() -> BTreeMap<&'static str, String> {
    let get = |target: &str, headers: &str| format!("GET {target} HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
    BTreeMap::from([
        ("a path of 64 KiB", get(&format!("/v1/resolve/{}", "a".repeat(LARGE)), "")),
        ("a query of 64 KiB", get(&format!("/v1/resolve/orders-api?key={}", "a".repeat(LARGE)), "")),
        ("a header of 64 KiB", get("/livez", &format!("x: {}\r\n", "a".repeat(LARGE)))),
        ("a header of 2 MiB", get("/livez", &format!("x: {}\r\n", "a".repeat(2 * 1024 * 1024)))),
        ("200 headers", get("/livez", &"a: b\r\n".repeat(200))),
        ("a line without an end", "a".repeat(LARGE)),
    ])
}

/// What is no request.
fn garbage() -> BTreeMap<&'static str, String> {
    let get = |headers: &str| format!("GET /livez HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
    BTreeMap::from([
        ("zeros", "\0\0\0\0\r\n\r\n".to_owned()),
        ("a handshake of TLS", "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\r\n\r\n".to_owned()),
        ("another protocol", "SSH-2.0-OpenSSH_9.6\r\n\r\n".to_owned()),
        ("another version", "GET /livez HTTP/9.9\r\n\r\n".to_owned()),
        ("a raw NUL in the path", "GET /v1/resolve/a\0b HTTP/1.1\r\nhost: x\r\n\r\n".to_owned()),
        ("a header without a name", get(": x\r\n")),
        ("two lengths", get("content-length: 5\r\ncontent-length: 6\r\n")),
        ("a length below zero", get("content-length: -1\r\n")),
        ("a length, and bytes after it", format!("{}hello", get("content-length: 1e3\r\n"))),
        ("an unknown coding of the body", get("transfer-encoding: gzip\r\n")),
    ])
}

#[track_caller]
fn check(what: &str, answer: std::io::Result<Answer>, status: u16, code: &str) {
    let answer = answer.unwrap_or_else(|e| panic!("{what}: {e}")).refused(status, code);
    assert_eq!(answer.header("connection"), Some("close"), "{what}");
    assert_eq!(answer.header("content-length"), Some(answer.body.len().to_string().as_str()), "{what}");
    assert!(answer.header("date").is_some(), "{what}: no date");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_cannot_be_read_is_refused_with_a_problem() {
    let (gateway, _issuer) = lone_gateway().await;
    for (what, request) in too_large() {
        let answer = raw::spoken(gateway.address(), request.as_bytes(), what).await;
        check(what, answer, 431, "head-too-large");
    }
    for (what, request) in garbage() {
        let answer = raw::spoken(gateway.address(), request.as_bytes(), what).await;
        check(what, answer, 400, "malformed-request");
    }
    // The limit stands in the text.
    let large = raw::spoken(gateway.address(), too_large()["200 headers"].as_bytes(), "200 headers").await;
    let detail = large.unwrap().json["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("16384") && detail.contains("100 headers"), "{detail}");
    let figures = meridian_tests::figures::of(&gateway.client()).await;
    let counted = figures["meridian_http_problems_total{code=\"head-too-large\"}"];
    assert_eq!(counted, (too_large().len() + 1) as f64);
    let _ = gateway.client().get("/livez").await.expect(200);
    assert!(!gateway.log().contains("panicked"), "a handler panicked");
}

/// A client that sends several requests at once takes the first answer for that of the first request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_not_taken_for_the_answer_to_the_request_before_it() {
    let (gateway, _issuer) = lone_gateway().await;
    for (what, request) in too_large().into_iter().chain(garbage()) {
        let both = format!("{RIGHT}{request}");
        // Reset before anything came: nothing was said, so nothing wrong.
        let heard = raw::heard(gateway.address(), both.as_bytes()).await.unwrap_or_default();
        let text = String::from_utf8_lossy(&heard);
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 200 "), "{what}: {text:.200}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_is_too_large_is_refused_over_tls_too() {
    let (issuer, files) = (Issuer::init(), tempfile::tempdir().unwrap());
    let mut tls = certificates::write(files.path(), Station::Gateway);
    tls.remove("ca");
    let mut gateway = GatewayProcess::new(&issuer, embedded()).with("http", "tls", tls);
    gateway.launch().await;
    // The certificate names no host; what is tested here is what comes through it.
    let client = reqwest::Client::builder().no_proxy().http1_only().danger_accept_invalid_certs(true);
    let client = client.timeout(Duration::from_secs(20)).build().unwrap();
    let base = format!("https://{}", gateway.address());
    assert_eq!(client.get(format!("{base}/livez")).send().await.unwrap().status(), 200);
    let requests = [
        client.get(format!("{base}/livez")).header("x", "a".repeat(LARGE)),
        client.get(format!("{base}/v1/resolve/{}", "a".repeat(LARGE - 1024))),
        (0..200)
            .fold(client.get(format!("{base}/livez")), |request, n| request.header(format!("x-{n}"), "y")),
    ];
    for request in requests {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 431);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        assert!(response.text().await.unwrap().contains("head-too-large"));
    }
}
