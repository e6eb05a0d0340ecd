//! A link between two regions: a TCP proxy on loopback that can be cut, both ways or one way, slowed down, and healed.
//!
//! A cut link is a dead network, not a refusal: connections stay open and carry nothing, and new ones are accepted and
//! carry nothing either. What was on its way waits in the kernel's buffers, which bound it. When the link heals, the
//! connections that hung are closed, as a network does that forgot them, and peers have to connect again.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

/// Bytes that are read at once.
const CHUNK: usize = 16 << 10;
/// Chunks of a connection and direction that are on their way while it is slow: 4 MiB.
const IN_FLIGHT: usize = 256;

/// Of a connection's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From who dialled to who was dialled.
    There,
    /// The answers.
    Back,
}

/// What becomes of bytes in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Way {
    cut: bool,
    delay: Duration,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    target: Option<SocketAddr>,
    there: Way,
    back: Way,
    /// How often it healed: connections of before are closed.
    healed: u64,
}

impl State {
    fn way(&mut self, direction: Direction) -> &mut Way {
        match direction {
            Direction::There => &mut self.there,
            Direction::Back => &mut self.back,
        }
    }

    fn is_cut(mut self, direction: Direction) -> bool {
        self.way(direction).cut
    }
}

/// Bytes that were handed on.
#[derive(Default)]
struct Carried {
    there: AtomicU64,
    back: AtomicU64,
}

impl Carried {
    fn of(&self, direction: Direction) -> &AtomicU64 {
        match direction {
            Direction::There => &self.there,
            Direction::Back => &self.back,
        }
    }
}

/// A link that listens from the beginning and is told later where it leads.
pub struct Proxy {
    address: SocketAddr,
    state: watch::Sender<State>,
    carried: Arc<Carried>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// A link that leads nowhere yet: connections are closed.
    ///
    /// # Panics
    /// If loopback cannot be listened on.
    pub async fn listen() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (state, states) = watch::channel(State::default());
        let carried = Arc::new(Carried::default());
        let counts = Arc::clone(&carried);
        let task = tokio::spawn(async move {
            // Connections end with the link.
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(attend(client, states.clone(), Arc::clone(&counts)));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, state, carried, task }
    }

    /// What to connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where connections lead from now on.
    pub fn lead_to(&self, target: SocketAddr) {
        self.state.send_modify(|state| state.target = Some(target));
    }

    /// Nothing is carried any more, in either direction.
    pub fn cut(&self) {
        self.state.send_modify(|state| (state.there.cut, state.back.cut) = (true, true));
    }

    /// Nothing is carried any more in this direction.
    pub fn cut_one_way(&self, direction: Direction) {
        self.state.send_modify(|state| state.way(direction).cut = true);
    }

    /// Everything in this direction takes so much longer. What waits is not reordered.
    pub fn delay(&self, direction: Direction, by: Duration) {
        self.state.send_modify(|state| state.way(direction).delay = by);
    }

    /// Carries again; connections that hung are closed. Delays stay.
    pub fn heal(&self) {
        self.state.send_modify(|state| {
            if state.there.cut || state.back.cut {
                state.healed += 1;
            }
            (state.there.cut, state.back.cut) = (false, false);
        });
    }

    /// Bytes that were handed on in a direction since the beginning.
    #[must_use]
    pub fn carried(&self, direction: Direction) -> u64 {
        self.carried.of(direction).load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One connection, until it ends or hung while the link healed.
async fn attend(client: TcpStream, states: watch::Receiver<State>, carried: Arc<Carried>) {
    let before = states.borrow().healed;
    let mut healing = states.clone();
    tokio::select! {
        // Either end sees an error of the other as the end of its connection.
        _ = carry(client, states, &carried) => {}
        // The link's end is the connection's too.
        _ = healing.wait_for(|state| state.healed != before) => {}
    }
}

async fn carry(client: TcpStream, mut states: watch::Receiver<State>, carried: &Carried) -> io::Result<()> {
    open(&mut states, Direction::There).await?;
    let target = states.borrow().target.ok_or(io::ErrorKind::ConnectionRefused)?;
    let server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let there = pump(from_client, to_server, Direction::There, states.clone(), carried);
    let back = pump(from_server, to_client, Direction::Back, states, carried);
    tokio::try_join!(there, back).map(|_| ())
}

/// Waits until the direction carries.
async fn open(states: &mut watch::Receiver<State>, direction: Direction) -> io::Result<()> {
    let opened = states.wait_for(|state| !state.is_cut(direction)).await;
    opened.map(|_| ()).map_err(|_| io::ErrorKind::ConnectionAborted.into())
}

async fn pump(
    from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    direction: Direction,
    states: watch::Receiver<State>,
    carried: &Carried,
) -> io::Result<()> {
    let (queue, mut queued) = mpsc::channel(IN_FLIGHT);
    let reading = read(from, queue, direction, states.clone());
    let writing = async {
        let mut states = states;
        while let Some((due, bytes)) = queued.recv().await {
            tokio::time::sleep_until(due).await;
            // What was on its way when the link was cut is lost with it.
            open(&mut states, direction).await?;
            to.write_all(&bytes).await?;
            carried.of(direction).fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        open(&mut states, direction).await?;
        to.shutdown().await
    };
    tokio::try_join!(reading, writing).map(|_| ())
}

/// Puts what comes into the queue, with the moment at which it is due at the other end.
async fn read(
    mut from: OwnedReadHalf,
    queue: mpsc::Sender<(Instant, Vec<u8>)>,
    direction: Direction,
    mut states: watch::Receiver<State>,
) -> io::Result<()> {
    let mut cuts = states.clone();
    let mut buffer = vec![0; CHUNK];
    loop {
        open(&mut states, direction).await?;
        let length = tokio::select! {
            biased;
            _ = cuts.wait_for(|state| state.is_cut(direction)) => continue,
            length = from.read(&mut buffer) => length?,
        };
        let due = Instant::now() + states.borrow().clone().way(direction).delay;
        let bytes = buffer.get(..length).unwrap_or_default();
        if bytes.is_empty() || queue.send((due, bytes.to_vec())).await.is_err() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Longer than loopback ever takes.
    const SOON: Duration = Duration::from_secs(5);
    /// Too short to pass for silence by chance.
    const SILENCE: Duration = Duration::from_millis(200);

    /// A server that sends back what it is sent, behind a link.
    async fn echo() -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::listen().await;
        proxy.lead_to(listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut reading, mut writing) = stream.into_split();
                    let _ = tokio::io::copy(&mut reading, &mut writing).await;
                });
            }
        });
        proxy
    }

    /// What came back of `text`; none where nothing did.
    async fn say(stream: &mut TcpStream, text: &[u8], within: Duration) -> Option<Vec<u8>> {
        stream.write_all(text).await.unwrap();
        let mut back = vec![0; text.len()];
        let heard = tokio::time::timeout(within, stream.read_exact(&mut back)).await;
        heard.ok().map(|read| read.map(|_| back).unwrap())
    }

    async fn connect(proxy: &Proxy) -> TcpStream {
        TcpStream::connect(proxy.address()).await.unwrap()
    }

    /// Whether the other end closes it, in order or not.
    async fn is_closed(mut stream: TcpStream) -> bool {
        let read = tokio::time::timeout(SOON, stream.read(&mut [0; 8])).await;
        matches!(read, Ok(Ok(0) | Err(_)))
    }

    #[tokio::test]
    async fn a_cut_link_hangs_and_a_healed_one_wants_new_connections() {
        let proxy = echo().await;
        let mut old = connect(&proxy).await;
        assert_eq!(say(&mut old, b"one", SOON).await.unwrap(), b"one");
        proxy.cut();
        assert_eq!(say(&mut old, b"two", SILENCE).await, None);
        let mut new = connect(&proxy).await;
        assert_eq!(say(&mut new, b"three", SILENCE).await, None);
        proxy.heal();
        assert!(is_closed(old).await && is_closed(new).await);
        assert_eq!(say(&mut connect(&proxy).await, b"four", SOON).await.unwrap(), b"four");
        assert_eq!((proxy.carried(Direction::There), proxy.carried(Direction::Back)), (7, 7));
    }

    #[tokio::test]
    async fn one_direction_may_be_cut_alone() {
        let proxy = echo().await;
        proxy.cut_one_way(Direction::Back);
        let mut stream = connect(&proxy).await;
        assert_eq!(say(&mut stream, b"heard", SILENCE).await, None);
        assert_eq!((proxy.carried(Direction::There), proxy.carried(Direction::Back)), (5, 0));
        proxy.heal();
        proxy.cut_one_way(Direction::There);
        assert_eq!(say(&mut connect(&proxy).await, b"unheard", SILENCE).await, None);
        assert_eq!((proxy.carried(Direction::There), proxy.carried(Direction::Back)), (5, 0));
    }

    #[tokio::test]
    async fn a_slow_link_delays_each_way_and_keeps_order() {
        let proxy = echo().await;
        proxy.delay(Direction::There, Duration::from_millis(60));
        proxy.delay(Direction::Back, Duration::from_millis(40));
        let mut stream = connect(&proxy).await;
        let text: Vec<u8> = (0..200_000u32).map(|n| (n % 251) as u8).collect();
        let began = Instant::now();
        assert!(say(&mut stream, &text, SOON).await.unwrap() == text);
        assert!(began.elapsed() >= Duration::from_millis(100), "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn who_is_not_there_ends_the_connection() {
        let proxy = Proxy::listen().await;
        assert!(is_closed(connect(&proxy).await).await);
    }
}
