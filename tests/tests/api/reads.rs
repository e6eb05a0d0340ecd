//! Reads that clients repeat: entity tags that they have, lists of them, and streams of what changes.

use crate::world::{lone_gateway, register_many};
use meridian_tests::client::{instance_path, registration};
use meridian_tests::gateway::GatewayProcess;
use serde_json::json;
use std::time::{Duration, Instant};

const SERVICE: &str = "orders-api";
const LIST: &str = "/v1/namespaces/default/services/orders-api";
/// Longest that an event may take on a loaded machine.
const HEARD: Duration = Duration::from_secs(10);

/// The ways in which a client may say that it has `tag`.
fn ways(tag: &str) -> [String; 4] {
    [tag.to_owned(), format!("W/{tag}"), format!("\"other\", {tag}"), "*".to_owned()]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_has_an_answer_is_told_that_it_stands() {
    let (gateway, issuer) = lone_gateway().await;
    let open = gateway.client();
    let owner = open.bearing(&issuer.workload(SERVICE));
    register_many(&owner, SERVICE, "o", 2).await;
    open.warm(&format!("/v1/resolve/{SERVICE}?zone=test-1a")).await;
    for path in
        [format!("/v1/resolve/{SERVICE}?zone=test-1a"), LIST.to_owned(), instance_path(SERVICE, "o-0")]
    {
        let tag = open.get(&path).await.expect(200).etag();
        for has in ways(&tag) {
            let unchanged = open.get_with(&path, &[("if-none-match", &has)]).await;
            assert_eq!((unchanged.status, unchanged.etag()), (304, tag.clone()), "{path} {has}");
            assert!(unchanged.body.is_empty());
        }
        for has in ["\"other\"", "W/\"other\", \"another\"", "other", ""] {
            let answer = open.get_with(&path, &[("if-none-match", has)]).await.expect(200);
            assert_eq!(answer.etag(), tag, "{path} {has:?}");
        }
    }
    // A refusal is nothing that a client could have.
    let _ =
        open.get_with("/v1/resolve/nobody", &[("if-none-match", "*")]).await.refused(404, "no-such-service");
    let nobody = "/v1/namespaces/default/services/nobody";
    let _ = open.get_with(nobody, &[("if-none-match", "*")]).await.refused(404, "no-such-service");
    let absent = instance_path(SERVICE, "o-9");
    let _ = open.get_with(&absent, &[("if-none-match", "*")]).await.refused(404, "no-such-instance");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_with_a_list_of_tags_hears_of_what_is_not_in_it() {
    let (gateway, issuer) = lone_gateway().await;
    let open = gateway.client();
    let owner = open.bearing(&issuer.workload(SERVICE));
    register_many(&owner, SERVICE, "o", 2).await;
    open.warm(&format!("/v1/resolve/{SERVICE}?n=all")).await;
    let mut port = 2000;
    for path in [format!("/v1/resolve/{SERVICE}?n=all"), LIST.to_owned()] {
        let join = if path.contains('?') { '&' } else { '?' };
        for way in 0..4 {
            let tag = open.get(&path).await.expect(200).etag();
            let has = &ways(&tag)[way];
            let start = Instant::now();
            let quiet = open.get_with(&format!("{path}{join}wait=200ms"), &[("if-none-match", has)]).await;
            assert_eq!((quiet.status, quiet.etag()), (304, tag.clone()), "{path} {has}");
            assert!(
                start.elapsed() >= Duration::from_millis(190),
                "{path} {has}: waited {:?}",
                start.elapsed()
            );
            if has == "*" {
                continue;
            }
            let waiting = {
                let (open, target, has) = (open.clone(), format!("{path}{join}wait=15s"), has.clone());
                tokio::spawn(async move { open.get_with(&target, &[("if-none-match", &has)]).await })
            };
            port += 1;
            let _ = owner.register(SERVICE, "o-0", &registration("test-1a", port)).await.expect(200);
            let changed = waiting.await.unwrap().expect(200);
            assert_ne!(changed.etag(), tag, "{path} {has}");
        }
    }
}

/// Reads events from a stream until there are `count`; each as its name, id and data.
async fn events(response: &mut reqwest::Response, count: usize) -> Vec<(String, String, serde_json::Value)> {
    let mut text = String::new();
    while text.matches("\n\n").count() < count {
        let chunk = tokio::time::timeout(HEARD, response.chunk()).await.expect("no event came").unwrap();
        text.push_str(std::str::from_utf8(&chunk.expect("the stream ended")).unwrap());
    }
    let field = |event: &str, name: &str| {
        let line = event.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default().trim().to_owned()
    };
    let whole = text.split("\n\n").filter(|event| !event.is_empty());
    let parsed = whole.map(|event| {
        (field(event, "event"), field(event, "id"), serde_json::from_str(&field(event, "data")).unwrap())
    });
    parsed.collect()
}

async fn listen(gateway: &GatewayProcess, path: &str, last: Option<&str>) -> reqwest::Response {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut request =
        client.get(format!("http://{}{path}", gateway.address())).header("accept", "text/event-stream");
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    let response = request.send().await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["content-type"]),
        (200, &"text/event-stream".parse().unwrap())
    );
    response
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_instances_of_a_service_come_as_a_stream() {
    let (gateway, issuer) = lone_gateway().await;
    let open = gateway.client();
    let owner = open.bearing(&issuer.workload(SERVICE));
    register_many(&owner, SERVICE, "o", 2).await;
    let mut stream = listen(&gateway, LIST, None).await;
    let first = events(&mut stream, 1).await.remove(0);
    assert_eq!((first.0.as_str(), first.2["items"].as_array().unwrap().len()), ("snapshot", 2));
    assert_eq!(format!("\"{}\"", first.1), open.get(LIST).await.expect(200).etag());

    let _ = owner.patch(&instance_path(SERVICE, "o-0"), &json!({ "status": "draining" })).await.expect(200);
    let change = events(&mut stream, 1).await.remove(0);
    assert_eq!((change.0.as_str(), &change.2["items"][0]["status"]), ("change", &json!("draining")));

    // Resumed: nothing that was seen comes again.
    let mut resumed = listen(&gateway, LIST, Some(&change.1)).await;
    let _ = owner.delete(&instance_path(SERVICE, "o-1")).await.expect(204);
    let next = events(&mut resumed, 1).await.remove(0);
    assert_eq!((next.0.as_str(), next.2["items"].as_array().unwrap().len()), ("change", 1));

    // Not known yet: that is the first event, and its registration the next.
    let mut early = listen(&gateway, "/v1/namespaces/default/services/later-api?health=passing", None).await;
    let nothing = events(&mut early, 1).await.remove(0);
    assert_eq!((nothing.0.as_str(), &nothing.2["code"]), ("snapshot", &json!("no-such-service")));
    let later = open.bearing(&issuer.workload("later-api"));
    let _ = later.register("later-api", "l-0", &registration("test-1a", 1)).await.expect(201);
    let there = events(&mut early, 1).await.remove(0);
    assert_eq!((there.0.as_str(), &there.2["items"][0]["id"]), ("change", &json!("l-0")));
}
