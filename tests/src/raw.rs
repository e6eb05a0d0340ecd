//! Requests as bytes, for what no client would send.

use crate::client::Answer;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const TIMEOUT: Duration = Duration::from_secs(20);
/// Above any answer to a hostile request.
const MAX_ANSWER: u64 = 4 * 1024 * 1024;

/// Sends a request line, headers and a body as they are, and reads the answer to its end.
///
/// # Errors
/// Where no whole answer came in time.
pub async fn exchange(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<Answer> {
    let mut request =
        format!("{method} {target} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n").into_bytes();
    for (name, value) in headers {
        request.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    if !body.is_empty() || matches!(method, "PUT" | "POST" | "PATCH") {
        request.extend_from_slice(format!("content-length: {}\r\n", body.len()).as_bytes());
    }
    request.extend_from_slice(b"\r\n");
    request.extend_from_slice(body);
    let shown: String = target.chars().take(120).collect();
    spoken(address, &request, &format!("{method} {shown}")).await
}

/// Sends bytes as they are, and reads the first answer until the connection closes. `asked` is for messages.
///
/// # Errors
/// Where no whole answer came in time.
pub async fn spoken(address: SocketAddr, request: &[u8], asked: &str) -> io::Result<Answer> {
    let bytes = heard(address, request).await?;
    parse(&bytes, asked.to_owned())
        .ok_or_else(|| io::Error::other(format!("no HTTP answer: {:?}", String::from_utf8_lossy(&bytes))))
}

/// Sends bytes as they are, and returns all that comes back until the connection closes.
///
/// # Errors
/// Where it did not close in time, or was reset before anything came.
pub async fn heard(address: SocketAddr, request: &[u8]) -> io::Result<Vec<u8>> {
    tokio::time::timeout(TIMEOUT, send(address, request)).await.map_err(io::Error::other)?
}

async fn send(address: SocketAddr, request: &[u8]) -> io::Result<Vec<u8>> {
    let stream = TcpStream::connect(address).await?;
    let (mut reading, mut writing) = stream.into_split();
    let mut bytes = Vec::new();
    let written = async {
        // A refusal may come before the end of what it refuses, and the connection with it.
        let _ = writing.write_all(request).await;
        writing
    };
    let read = async {
        match (&mut reading).take(MAX_ANSWER).read_to_end(&mut bytes).await {
            Err(error) if bytes.is_empty() => Err(error),
            _ => Ok(()),
        }
    };
    let (_writing, read) = tokio::join!(written, read);
    read.map(|()| bytes)
}

fn parse(bytes: &[u8], asked: String) -> Option<Answer> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(bytes.get(..end)?).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(':')?;
        headers
            .append(HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_str(value.trim()).ok()?);
    }
    let body = bytes.get(end + 4..)?.to_vec();
    let json = serde_json::from_slice(&body).unwrap_or(Value::Null);
    Some(Answer { status, headers, body, json, asked })
}
