//! The answer to what never became a request: a head that is too large, or bytes that are no HTTP.
//!
//! hyper refuses such a head with an empty answer of its own, or, where more has arrived than it parsed, with none, and
//! shuts the connection down. Here it is only lent the connection: its empty answer is kept back, the connection returns
//! when it is done, and the problem is written then.

use super::Envelope;
use crate::problem::Problem;
use http::StatusCode;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use std::error::Error;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Room for a request's head: a token of 8 KiB and as much for the rest.
pub(super) const HEAD_BYTES: usize = 16 * 1024;
/// Headers of a request: hyper's own bound.
const MAX_HEADERS: usize = 100;
/// Time for the last answer of a connection to leave, and for its client to stop sending.
const FAREWELL: Duration = Duration::from_secs(2);
/// What a client may still send meanwhile. Unread bytes would turn the close into a reset, which takes the answer along.
const DRAINED_BYTES: u64 = 1024 * 1024;
/// Longer than hyper's empty answer, the longest status line and a date included.
const MAX_EMPTY_ANSWER: usize = 192;

/// Where a lent connection comes back, and what is known of it meanwhile.
pub(super) struct Return<I> {
    /// Whether a request was taken whose answer has not been written: another answer would be taken for that one.
    owing: AtomicBool,
    io: Mutex<Option<Box<I>>>,
}

impl<I> Return<I> {
    /// A request was taken from the connection.
    pub(super) fn took_request(&self) {
        // Set and read by the one task of the connection.
        self.owing.store(true, Ordering::Relaxed);
    }

    fn take(&self) -> Option<Box<I>> {
        self.io.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A connection that returns when it is dropped.
pub(super) struct Lent<I> {
    io: Option<TokioIo<I>>,
    back: Arc<Return<I>>,
}

impl<I> Drop for Lent<I> {
    fn drop(&mut self) {
        let io = self.io.take().map(|io| Box::new(io.into_inner()));
        *self.back.io.lock().unwrap_or_else(PoisonError::into_inner) = io;
    }
}

/// Lends a connection.
pub(super) fn lend<I>(io: I) -> (Lent<I>, Arc<Return<I>>) {
    let back = Arc::new(Return { owing: AtomicBool::new(false), io: Mutex::new(None) });
    (Lent { io: Some(TokioIo::new(io)), back: Arc::clone(&back) }, back)
}

/// Where hyper's own empty refusal begins that these bytes end with. It writes an answer's head and a short body at once,
/// and nothing that this API answers ends in these lines.
fn own_refusal(written: &[u8]) -> Option<usize> {
    if !written.ends_with(b"\r\n\r\n") {
        return None;
    }
    let from = written.len().saturating_sub(MAX_EMPTY_ANSWER);
    let tail = written.get(from..)?;
    let start = tail.windows(7).rposition(|window| window == b"HTTP/1.")?;
    let head = tail.get(start..)?;
    let status = head.get(8..13)?;
    let refusal = matches!(status, b" 400 " | b" 414 " | b" 431 ");
    let empty = head.windows(21).any(|window| window == b"\r\ncontent-length: 0\r\n");
    (refusal && empty).then_some(from + start)
}

impl<I: AsyncRead + Unpin> Read for Lent<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.io {
            Some(io) => Pin::new(io).poll_read(cx, buf),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl<I: AsyncWrite + Unpin> Write for Lent<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.back.owing.store(false, Ordering::Relaxed);
        let Some(io) = &mut self.io else { return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())) };
        match own_refusal(buf) {
            None => Pin::new(io).poll_write(cx, buf),
            Some(0) => Poll::Ready(Ok(buf.len())),
            Some(start) => Pin::new(io).poll_write(cx, buf.get(..start).unwrap_or_default()),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Some(io) => Pin::new(io).poll_flush(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    /// Left to [`part`], which may have something to say first.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What to say of a connection that ended so, if it ended for what the client sent as a head.
fn refusal(ended: &(dyn Error + 'static)) -> Option<Problem> {
    let error = ended.downcast_ref::<hyper::Error>().filter(|error| error.is_parse())?;
    if error.is_parse_too_large() {
        let detail = format!(
            "the request line and headers must be at most {HEAD_BYTES} bytes and {MAX_HEADERS} headers; send what is \
             longer in a body, such as POST /v1/resolve"
        );
        return Some(Problem::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "head-too-large", detail));
    }
    let detail = format!("this is no HTTP request: {error}");
    Some(Problem::new(StatusCode::BAD_REQUEST, "malformed-request", detail))
}

/// An HTTP/1.1 answer that is the connection's last.
fn render(problem: &Problem) -> Vec<u8> {
    let body = problem.body();
    let date =
        jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&jiff::Timestamp::now());
    let head = format!(
        "HTTP/1.1 {} {}\r\ncontent-type: application/problem+json\r\nx-request-id: {}\r\ncontent-length: {}\r\n\
         connection: close\r\n{}\r\n",
        problem.status,
        problem.title,
        problem.request_id,
        body.len(),
        date.map(|date| format!("date: {date}\r\n")).unwrap_or_default(),
    );
    let mut answer = head.into_bytes();
    answer.extend_from_slice(&body);
    answer
}

/// Ends a connection that hyper is done with: with a refusal, where it ended for a head that cannot be read.
pub(super) async fn part<I>(
    back: &Return<I>,
    ended: Result<(), Box<dyn Error + Send + Sync>>,
    envelope: &Envelope,
) where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let Some(mut io) = back.take() else { return };
    let problem = ended.err().and_then(|error| refusal(&*error));
    let problem = problem.filter(|_| !back.owing.load(Ordering::Relaxed));
    let farewell = async {
        let Some(problem) = problem else { return io.shutdown().await };
        io.write_all(&render(&envelope.refused(problem))).await?;
        io.shutdown().await?;
        tokio::io::copy(&mut io.take(DRAINED_BYTES), &mut tokio::io::sink()).await.map(|_| ())
    };
    // How it ends is the client's business.
    let _ = tokio::time::timeout(FAREWELL, farewell).await;
}

#[cfg(test)]
mod tests {
    use super::own_refusal;

    const REFUSAL: &[u8] =
        b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\
                             date: Sat, 21 Nov 2026 18:00:00 GMT\r\n\r\n";

    #[test]
    fn only_hypers_empty_refusal_is_kept_back() {
        assert_eq!(own_refusal(REFUSAL), Some(0));
        let before = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        let both = [before.as_slice(), REFUSAL].concat();
        assert_eq!(own_refusal(&both), Some(before.len()));
        assert_eq!(own_refusal(before), None);
        for other in [
            "HTTP/1.1 304 Not Modified\r\netag: \"x\"\r\n\r\n",
            "\r\n\r\n",
            "",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 10\r\n\r\n{\"a\":\r\n\r\n",
        ] {
            assert_eq!(own_refusal(other.as_bytes()), None, "{other}");
        }
    }
}
