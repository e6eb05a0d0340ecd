//! One GET over one connection.

use http::{Method, Request, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use meridian_model::registration::Host;
use smol_str::{SmolStr, format_smolstr};
use std::convert::Infallible;
use std::time::Duration;
use tokio::net::TcpStream;

/// Head of an answer, in bytes; hyper takes no less.
const MAX_HEAD_BYTES: usize = 8 * 1024;
/// So much of a body is read and thrown away, and for so long, to leave the instance with a clean end of its connection.
const MAX_BODY_BYTES: usize = 4 * 1024;
const MAX_BODY_TIME: Duration = Duration::from_millis(100);

/// Asks for `path`; any 2xx passes. Redirects are not followed: they could lead anywhere.
pub(super) async fn get(stream: TcpStream, host: &Host, port: u16, path: &str) -> Result<(), SmolStr> {
    let request = request(host, port, path)?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD_BYTES)
        .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
        .await
        .map_err(|e| format_smolstr!("no HTTP connection: {e}"))?;
    let exchange = async {
        let answer =
            sender.send_request(request).await.map_err(|e| format_smolstr!("no HTTP answer: {e}"))?;
        let status = answer.status();
        drain(answer.into_body()).await;
        if status.is_success() {
            Ok(())
        } else if status.is_redirection() {
            Err(format_smolstr!("answered {}; redirects are not followed", status.as_u16()))
        } else {
            Err(format_smolstr!("answered {}", status.as_u16()))
        }
    };
    // The connection does the work. If it ends, the exchange hears of it and says why.
    let drive = async {
        let _ = connection.await;
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        outcome = exchange => outcome,
        never = drive => match never {},
    }
}

fn request(host: &Host, port: u16, path: &str) -> Result<Request<Empty<Bytes>>, SmolStr> {
    let invalid = |e: &dyn std::fmt::Display| format_smolstr!("the path cannot be asked for: {e}");
    let uri: Uri = path.parse().map_err(|e| invalid(&e))?;
    let authority = match host.ip() {
        Some(std::net::IpAddr::V6(ip)) => format!("[{ip}]:{port}"),
        _ => format!("{}:{port}", host.as_str()),
    };
    Request::builder()
        .method(Method::GET)
        .uri(uri)
        .header(header::HOST, authority)
        .header(header::USER_AGENT, "meridian-health")
        .header(header::ACCEPT, "*/*")
        .header(header::CONNECTION, "close")
        .body(Empty::new())
        .map_err(|e| invalid(&e))
}

async fn drain(mut body: Incoming) {
    let read = async {
        let mut left = MAX_BODY_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(length) {
                Some(rest) => left = rest,
                None => break,
            }
        }
    };
    // The status has decided already; how the body ends changes nothing.
    let _ = tokio::time::timeout(MAX_BODY_TIME, read).await;
}
