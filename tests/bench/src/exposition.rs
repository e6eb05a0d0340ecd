//! One-off requests, and metrics as Prometheus reads them.

use crate::answer::Head;
use anyhow::{Context, Result, bail};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(10);
/// Far above any answer here.
const MAX_ANSWER_BYTES: u64 = 64 << 20;

/// GET on a connection of its own. HTTP/1.0, so that no server answers in chunks.
pub(crate) fn get(address: SocketAddr, path: &str) -> Result<(u16, Vec<u8>)> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n").as_bytes())?;
    let mut bytes = Vec::new();
    stream.take(MAX_ANSWER_BYTES).read_to_end(&mut bytes)?;
    let head = Head::parse(&bytes)?.context("the connection ended within the head")?;
    let body = bytes.split_off(head.body);
    if head.length.is_some_and(|length| length != body.len()) {
        bail!("the connection ended within the body");
    }
    Ok((head.status, body))
}

/// The metrics that a process shows.
pub(crate) struct Exposition(String);

impl Exposition {
    pub(crate) fn read(address: SocketAddr) -> Result<Self> {
        let (status, body) = get(address, "/metrics").with_context(|| format!("no metrics of {address}"))?;
        if status != 200 {
            bail!("{address}/metrics answers {status}");
        }
        Ok(Self(String::from_utf8(body).context("metrics are text")?))
    }

    /// The sum of a metric over its labels.
    pub(crate) fn sum(&self, name: &str) -> Result<f64> {
        let values: Vec<f64> = self.0.lines().filter_map(|line| sample(line, name)).collect();
        if values.is_empty() {
            bail!("there is no metric {name}");
        }
        Ok(values.iter().sum())
    }
}

/// The value of a line, if it is of that metric.
fn sample(line: &str, name: &str) -> Option<f64> {
    let rest = line.strip_prefix(name)?;
    let value = match rest.strip_prefix('{') {
        Some(labelled) => labelled.rsplit_once("} ")?.1,
        None => rest.strip_prefix(' ')?,
    };
    value.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed_over_labels_and_by_their_whole_name() {
        let text = "# TYPE puts counter\nputs_total 3\nputs{a=\"} 9\"} 1\nputs{a=\"y\"} 2e1\nputs_other 7\n";
        let metrics = Exposition(text.to_owned());
        assert_eq!(metrics.sum("puts").unwrap(), 21.0);
        assert_eq!(metrics.sum("puts_total").unwrap(), 3.0);
        assert!(metrics.sum("put").is_err());
    }
}
