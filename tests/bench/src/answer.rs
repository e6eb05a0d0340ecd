//! The head of an HTTP/1.1 answer, read from bytes as they come.

use anyhow::{Context, Result, bail};

/// Longest head that is taken.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// What a head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// 200, 503, …
    pub(crate) status: u16,
    /// Where the body begins.
    pub(crate) body: usize,
    /// How long it is, if that is said.
    pub(crate) length: Option<usize>,
}

impl Head {
    /// The head at the beginning of `input`; `None` until it is whole.
    pub(crate) fn parse(input: &[u8]) -> Result<Option<Self>> {
        let Some(end) = input.windows(4).position(|window| window == b"\r\n\r\n") else {
            if input.len() > MAX_HEAD_BYTES {
                bail!("the head of an answer is longer than {MAX_HEAD_BYTES} bytes");
            }
            return Ok(None);
        };
        let head = std::str::from_utf8(input.get(..end).unwrap_or_default()).context("a head is no text")?;
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok());
        let status = status.with_context(|| format!("no answer of HTTP/1: {head:?}"))?;
        let mut length = None;
        for line in lines {
            let Some((name, value)) = line.split_once(':') else { bail!("no header: {line:?}") };
            if name.eq_ignore_ascii_case("content-length") {
                length = Some(value.trim().parse().context("content-length is no number")?);
            }
        }
        Ok(Some(Self { status, body: end + 4, length }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_once_it_is_whole() {
        let text = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 12\r\nx: y\r\n\r\n{}";
        let whole = text.len() - 2;
        for cut in 0..whole {
            assert_eq!(Head::parse(text.get(..cut).unwrap()).unwrap(), None);
        }
        assert_eq!(Head::parse(text).unwrap(), Some(Head { status: 503, body: whole, length: Some(12) }));
    }

    #[test]
    fn what_is_no_http_is_refused() {
        for bad in
            [&b"SSH-2.0\r\n\r\n"[..], b"HTTP/1.1 x\r\n\r\n", b"HTTP/1.1 200\r\ncontent-length: -1\r\n\r\n"]
        {
            assert!(Head::parse(bad).is_err());
        }
        assert!(Head::parse(&vec![b'a'; 2 * MAX_HEAD_BYTES]).is_err());
    }
}
