//! Watchers of an answer by server-sent events, on plain sockets.

use crate::answer::Head;
use crate::load::request;
use anyhow::{Context, Result, bail};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longer than the stream's keep-alive, which comes every 15 s.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Kept of what has come: more than one event of a single answer.
const KEPT_BYTES: usize = 64 * 1024;

/// One watcher.
pub(crate) struct Stream {
    socket: TcpStream,
    input: Vec<u8>,
}

impl Stream {
    /// Asks for `path` as a stream; the answer is awaited by [`Stream::wait_for`].
    pub(crate) fn open(address: SocketAddr, path: &str) -> Result<Self> {
        let mut socket = TcpStream::connect(address).context("cannot connect a watcher")?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        socket.write_all(&request("GET", path, &[("accept", "text/event-stream")], ""))?;
        Ok(Self { socket, input: Vec::new() })
    }

    /// Reads until `find` finds something in what has come and was not yet handed out.
    pub(crate) fn wait_for<T>(&mut self, find: impl Fn(&str) -> Option<T>) -> Result<T> {
        let mut part = [0; 16 * 1024];
        loop {
            let text = String::from_utf8_lossy(&self.input);
            if let Some(found) = find(&text) {
                self.input.clear();
                return Ok(found);
            }
            if let Some(head) = Head::parse(&self.input).ok().flatten().filter(|head| head.status != 200) {
                bail!("a watcher was answered {}: {text}", head.status);
            }
            let excess = self.input.len().saturating_sub(KEPT_BYTES);
            self.input.drain(..excess);
            match self.socket.read(&mut part).context("nothing comes to a watcher")? {
                0 => bail!("the gateway closed a watcher's stream"),
                count => self.input.extend_from_slice(part.get(..count).unwrap_or_default()),
            }
        }
    }

    /// Waits for the first event.
    pub(crate) fn wait_for_snapshot(&mut self) -> Result<()> {
        self.wait_for(|text| {
            let (_, event) = text.split_once("event: snapshot")?;
            event.contains("\n\n").then_some(())
        })
    }

    /// A second handle on the connection, to close it from elsewhere.
    pub(crate) fn handle(&self) -> Result<TcpStream> {
        self.socket.try_clone().context("cannot share a watcher's socket")
    }
}
