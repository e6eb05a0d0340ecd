//! The load generator: one thread, many keep-alive connections, one request under way on each. It is to cost less than
//! what it measures, so requests are bytes, answers are counted by their `content-length`, and nothing is allocated per
//! request.

use crate::answer::Head;
use anyhow::{Context, Result, bail};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// A server that says nothing for so long is broken.
const PATIENCE: Duration = Duration::from_secs(30);
/// Room for an answer at first; it grows for larger ones.
const INPUT_BYTES: usize = 64 * 1024;

/// What is asked, and what becomes of the answers.
pub(crate) trait Work {
    /// Appends the next request to `out`; `false` when there is none left.
    fn request(&mut self, out: &mut Vec<u8>) -> bool;

    /// Takes an answer. An error ends the run.
    fn answer(&mut self, status: u16, body: &[u8]) -> Result<()>;
}

/// Connections to one server, kept open between runs.
pub(crate) struct Connections {
    poll: Poll,
    events: Events,
    open: Vec<Connection>,
}

impl Connections {
    pub(crate) fn open(address: SocketAddr, count: usize) -> Result<Self> {
        let poll = Poll::new().context("cannot poll")?;
        let mut open = Vec::with_capacity(count);
        for number in 0..count {
            let stream = std::net::TcpStream::connect(address);
            let stream = stream.with_context(|| format!("cannot connect to {address}"))?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let mut stream = TcpStream::from_std(stream);
            poll.registry().register(&mut stream, Token(number), Interest::READABLE | Interest::WRITABLE)?;
            open.push(Connection::new(stream));
        }
        Ok(Self { poll, events: Events::with_capacity(count.max(1)), open })
    }

    /// Asks on all connections until there is no request left and everything was answered.
    pub(crate) fn run(&mut self, work: &mut impl Work) -> Result<()> {
        let mut busy = 0;
        for connection in &mut self.open {
            if !connection.ask(work)? {
                break;
            }
            busy += 1;
        }
        while busy > 0 {
            match self.poll.poll(&mut self.events, Some(PATIENCE)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                polled => polled.context("cannot poll")?,
            }
            if self.events.is_empty() {
                bail!("{busy} requests were not answered within {PATIENCE:?}");
            }
            for event in &self.events {
                let Some(connection) = self.open.get_mut(event.token().0) else { continue };
                if event.is_writable() {
                    connection.flush()?;
                }
                if event.is_readable() && !connection.read(work)? {
                    busy -= 1;
                }
            }
        }
        Ok(())
    }

    /// One request on the first connection, and its answer.
    pub(crate) fn ask(&mut self, request: &[u8]) -> Result<(u16, Vec<u8>)> {
        let mut one = One { request: Some(request), answer: None };
        self.run(&mut one)?;
        one.answer.context("no answer")
    }
}

struct One<'a> {
    request: Option<&'a [u8]>,
    answer: Option<(u16, Vec<u8>)>,
}

impl Work for One<'_> {
    fn request(&mut self, out: &mut Vec<u8>) -> bool {
        let request = self.request.take();
        out.extend_from_slice(request.unwrap_or_default());
        request.is_some()
    }

    fn answer(&mut self, status: u16, body: &[u8]) -> Result<()> {
        self.answer = Some((status, body.to_vec()));
        Ok(())
    }
}

struct Connection {
    stream: TcpStream,
    out: Vec<u8>,
    sent: usize,
    input: Vec<u8>,
    filled: usize,
    head: Option<Head>,
    /// A request is under way.
    asked: bool,
}

impl Connection {
    fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            out: Vec::new(),
            sent: 0,
            input: vec![0; INPUT_BYTES],
            filled: 0,
            head: None,
            asked: false,
        }
    }

    /// Sends the next request; `false` if there is none.
    fn ask(&mut self, work: &mut impl Work) -> Result<bool> {
        self.out.clear();
        self.sent = 0;
        self.asked = work.request(&mut self.out);
        if self.asked {
            self.flush()?;
        }
        Ok(self.asked)
    }

    fn flush(&mut self) -> Result<()> {
        while let Some(rest) = self.out.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(0) => bail!("the server takes nothing more"),
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("cannot send"),
            }
        }
        Ok(())
    }

    /// Reads what is there. `false` once the last request was answered.
    ///
    /// Readiness is told once: it is read until less comes than there was room for. What comes after that is told again.
    fn read(&mut self, work: &mut impl Work) -> Result<bool> {
        loop {
            let room = self.input.len() - self.filled;
            let Some(free) = self.input.get_mut(self.filled..) else { bail!("the input is full") };
            let count = match self.stream.read(free) {
                Ok(0) => bail!("the server closed a connection"),
                Ok(count) => count,
                // Counted as busy only while a request is under way.
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context("cannot read"),
            };
            if !self.asked {
                bail!("the server sent what nobody asked for");
            }
            self.filled += count;
            if self.take(work)? && !self.ask(work)? {
                return Ok(false);
            }
            if count < room {
                return Ok(true);
            }
        }
    }

    /// Hands over the answer if it is whole.
    fn take(&mut self, work: &mut impl Work) -> Result<bool> {
        let input = self.input.get(..self.filled).unwrap_or_default();
        if self.head.is_none() {
            self.head = Head::parse(input)?;
        }
        let Some(head) = self.head else { return Ok(false) };
        let length = head.length.context("an answer without content-length")?;
        let whole = head.body + length;
        match self.filled {
            filled if filled < whole => {
                self.input.resize(self.input.len().max(whole + 1), 0);
                return Ok(false);
            }
            filled if filled > whole => bail!("an answer is longer than it says"),
            _ => work.answer(head.status, input.get(head.body..).unwrap_or_default())?,
        }
        self.filled = 0;
        self.head = None;
        Ok(true)
    }
}

/// The same request again and again, for a while; every answer must be 200.
pub(crate) struct Repeat<'a> {
    request: &'a [u8],
    until: Instant,
    /// Answers so far.
    pub(crate) answers: u64,
}

impl<'a> Repeat<'a> {
    pub(crate) fn new(request: &'a [u8], span: Duration) -> Self {
        Self { request, until: Instant::now() + span, answers: 0 }
    }
}

impl Work for Repeat<'_> {
    fn request(&mut self, out: &mut Vec<u8>) -> bool {
        out.extend_from_slice(self.request);
        Instant::now() < self.until
    }

    fn answer(&mut self, status: u16, body: &[u8]) -> Result<()> {
        self.answers += 1;
        expect(200, status, body)
    }
}

/// Refuses any other status, with what the server said.
pub(crate) fn expect(wanted: u16, status: u16, body: &[u8]) -> Result<()> {
    if status != wanted {
        let text: String = String::from_utf8_lossy(body).chars().take(500).collect();
        bail!("{status} instead of {wanted}: {text}");
    }
    Ok(())
}

/// Bytes of a request.
pub(crate) fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut out = Vec::new();
    write_request(&mut out, method, path, headers, body);
    out
}

/// As [`request`], appended.
pub(crate) fn write_request(
    out: &mut Vec<u8>,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) {
    // Writing into memory does not fail.
    let _ = write!(out, "{method} {path} HTTP/1.1\r\nhost: meridian\r\n");
    for (name, value) in headers {
        let _ = write!(out, "{name}: {value}\r\n");
    }
    if !body.is_empty() {
        let _ = write!(out, "content-type: application/json\r\ncontent-length: {}\r\n", body.len());
    }
    let _ = write!(out, "\r\n{body}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// A server that answers a request with as many bytes as its path says, in two parts.
    fn server(connections: usize) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().take(connections) {
                std::thread::spawn(move || serve(stream.unwrap()));
            }
        });
        address
    }

    fn serve(mut stream: std::net::TcpStream) {
        let mut input = Vec::new();
        let mut part = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut part) {
            input.extend_from_slice(&part[..count]);
            if input.ends_with(b"\r\n\r\n") {
                let text = String::from_utf8(std::mem::take(&mut input)).unwrap();
                let length: usize = text.split(['/', ' ']).nth(2).unwrap().parse().unwrap();
                let answer =
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{}", "x".repeat(length));
                let (one, other) = answer.as_bytes().split_at(answer.len() - length / 2);
                stream.write_all(one).unwrap();
                std::thread::sleep(Duration::from_millis(1));
                stream.write_all(other).unwrap();
            }
        }
    }

    struct Lengths(Vec<usize>, Vec<usize>);

    impl Work for Lengths {
        fn request(&mut self, out: &mut Vec<u8>) -> bool {
            let next = self.0.pop();
            out.extend(next.iter().flat_map(|n| request("GET", &format!("/{n}"), &[], "")));
            next.is_some()
        }
        fn answer(&mut self, status: u16, body: &[u8]) -> Result<()> {
            self.1.push(body.len());
            expect(200, status, body)
        }
    }

    #[test]
    fn every_request_gets_its_whole_answer() {
        let mut connections = Connections::open(server(3), 3).unwrap();
        for _ in 0..2 {
            let lengths = vec![0, 1, 2, 500, INPUT_BYTES, 3 * INPUT_BYTES, 7];
            let mut work = Lengths(lengths.clone(), Vec::new());
            connections.run(&mut work).unwrap();
            let (mut asked, mut got) = (lengths, work.1);
            asked.sort_unstable();
            got.sort_unstable();
            assert_eq!(asked, got);
        }
    }

    #[test]
    fn a_server_that_hangs_up_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut connections = Connections::open(listener.local_addr().unwrap(), 1).unwrap();
        drop(listener.accept());
        assert!(connections.ask(&request("GET", "/", &[], "")).is_err());
    }
}
