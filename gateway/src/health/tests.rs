//! Checks against real listeners on loopback.

use super::*;
use meridian_model::instance::LeaseId;
use meridian_model::registration::HealthCheck;
use meridian_model::time::Monotonic;
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

fn check(host: &str, port: u16, probe: Probe) -> Check {
    let check =
        HealthCheck { probe, interval_seconds: 5, timeout_seconds: 1, unhealthy_after: 3, healthy_after: 2 };
    Check { lease: LeaseId(1), host: Host::parse(host).unwrap(), port, check, asked: Monotonic(0) }
}

fn http(path: &str) -> Probe {
    Probe::Http { path: path.into() }
}

async fn ask(host: &str, port: u16, probe: Probe) -> Result<(), SmolStr> {
    match Checker::new(Guard { allow_loopback: true }).run(&check(host, port, probe)).await {
        CheckOutcome::Passed => Ok(()),
        CheckOutcome::Failed(detail) => Err(detail),
    }
}

async fn read_head(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(head)
}

/// Answers each connection with these bytes once its request's head has come, and reports the heads.
async fn serve(address: &str, answer: impl Into<Vec<u8>>) -> (u16, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind(address).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (heads, seen) = mpsc::unbounded_channel();
    let answer = answer.into();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (heads, answer) = (heads.clone(), answer.clone());
            tokio::spawn(async move {
                let Some(head) = read_head(&mut stream).await else { return };
                let _ = heads.send(String::from_utf8_lossy(&head).into_owned());
                let _ = stream.write_all(&answer).await;
            });
        }
    });
    (port, seen)
}

async fn answer(bytes: impl Into<Vec<u8>>) -> Result<(), SmolStr> {
    let (port, _seen) = serve("127.0.0.1:0", bytes).await;
    ask("127.0.0.1", port, http("/")).await
}

#[tokio::test]
async fn any_2xx_passes_and_the_request_says_who_asks() {
    let (port, mut seen) = serve("127.0.0.1:0", "HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(ask("127.0.0.1", port, http("/health/ready?deep=1")).await, Ok(()));
    let head = seen.recv().await.unwrap().to_ascii_lowercase();
    assert!(head.starts_with("get /health/ready?deep=1 http/1.1\r\n"), "{head}");
    assert!(head.contains("user-agent: meridian-health\r\n"), "{head}");
    assert!(head.contains(&format!("host: 127.0.0.1:{port}\r\n")), "{head}");
    assert_eq!(answer("HTTP/1.0 200 OK\r\n\r\nfine").await, Ok(()));
}

#[tokio::test]
async fn other_answers_fail_and_their_bodies_stay_secret() {
    let refused = answer("HTTP/1.1 500 Oops\r\ncontent-length: 6\r\n\r\nsecret").await.unwrap_err();
    assert_eq!(refused, "answered 500");
    assert!(answer("HTTP/1.1 404 Not Found\r\n\r\n").await.is_err());
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let (target, mut asked) = serve("127.0.0.1:0", "HTTP/1.1 200 OK\r\n\r\n").await;
    let redirect =
        format!("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:{target}/\r\ncontent-length: 0\r\n\r\n");
    let detail = answer(redirect).await.unwrap_err();
    assert!(detail.contains("302") && detail.contains("not followed"), "{detail}");
    assert!(asked.try_recv().is_err());
}

#[tokio::test]
async fn a_slow_instance_fails_at_the_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let begun = Instant::now();
    // Connections wait in the backlog: accepted by the kernel, answered by nobody.
    let detail = ask("127.0.0.1", port, http("/")).await.unwrap_err();
    assert_eq!(detail, "no answer within 1 s");
    assert!(begun.elapsed() < Duration::from_secs(3));
    drop(listener);
}

#[tokio::test]
async fn an_endless_body_neither_delays_nor_fills_anything() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let sent = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_head(&mut stream).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        let mut sent = 0u64;
        while sent < 1 << 30 && stream.write_all(&[b'x'; 65_536]).await.is_ok() {
            sent += 65_536;
        }
        sent
    });
    assert_eq!(ask("127.0.0.1", port, http("/")).await, Ok(()));
    // More than the kernel's buffers can hold was never taken.
    assert!(sent.await.unwrap() < 64 << 20);
}

#[tokio::test]
async fn garbage_is_a_failure() {
    for garbage in
        ["", "\r\n", "SSH-2.0-OpenSSH_9.9\r\n", "HTTP/9.9 200 OK\r\n\r\n", "HTTP/1.1 2", "\0\0\0\0\0\0\0\0"]
    {
        let detail = answer(garbage).await.unwrap_err();
        assert!(detail.starts_with("no HTTP answer"), "{garbage:?}: {detail}");
    }
    let endless_head = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(1 << 20));
    assert!(answer(endless_head).await.is_err());
}

#[tokio::test]
async fn a_closed_port_fails_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    for probe in [Probe::Tcp, http("/")] {
        let detail = ask("127.0.0.1", port, probe).await.unwrap_err();
        assert!(detail.contains("connection refused"), "{detail}");
    }
}

#[tokio::test]
async fn a_tcp_check_passes_where_connections_are_accepted() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    assert_eq!(ask("127.0.0.1", port, Probe::Tcp).await, Ok(()));
}

#[tokio::test]
async fn ipv6_addresses_and_names_are_asked_too() {
    let (port, mut seen) = serve("[::1]:0", "HTTP/1.1 200 OK\r\n\r\n").await;
    assert_eq!(ask("::1", port, http("/")).await, Ok(()));
    assert!(seen.recv().await.unwrap().contains(&format!("[::1]:{port}")));
    let (port, mut seen) = serve("127.0.0.1:0", "HTTP/1.1 200 OK\r\n\r\n").await;
    assert_eq!(ask("localhost", port, http("/")).await, Ok(()));
    assert!(seen.recv().await.unwrap().contains(&format!("localhost:{port}")));
}

#[tokio::test]
async fn a_name_that_cannot_be_resolved_fails() {
    let detail = ask("no-such-host.invalid", 80, Probe::Tcp).await.unwrap_err();
    assert!(
        detail.starts_with("no-such-host.invalid cannot be resolved") || detail.starts_with("no answer"),
        "{detail}"
    );
}

#[tokio::test]
async fn what_the_guard_refuses_is_not_connected_to() {
    let (port, mut asked) = serve("127.0.0.1:0", "HTTP/1.1 200 OK\r\n\r\n").await;
    let checker = Checker::new(Guard { allow_loopback: false });
    for (host, needle) in
        [("127.0.0.1", "loopback"), ("localhost", "localhost resolves to"), ("169.254.169.254", "metadata")]
    {
        match checker.run(&check(host, port, http("/"))).await {
            CheckOutcome::Failed(detail) => assert!(detail.contains(needle), "{detail}"),
            CheckOutcome::Passed => panic!("{host} was asked"),
        }
    }
    assert!(asked.try_recv().is_err());
}
