//! Many watchers over server-sent events, one connection each, that count what wakes them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// Open streams.
pub struct Watchers {
    counts: Arc<Counts>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Counts {
    snapshots: AtomicU64,
    changes: AtomicU64,
    ended: AtomicU64,
}

impl Watchers {
    /// Opens a stream for every target, such as `/v1/resolve/orders-api?zone=a`.
    #[must_use]
    pub fn open(gateway: SocketAddr, targets: impl IntoIterator<Item = String>) -> Self {
        let counts = Arc::new(Counts::default());
        let tasks = targets.into_iter().map(|target| {
            let counts = Arc::clone(&counts);
            tokio::spawn(async move {
                if let Err(error) = watch(gateway, &target, &counts).await {
                    eprintln!("{target}: {error}");
                }
                counts.ended.fetch_add(1, Ordering::SeqCst);
            })
        });
        let tasks = tasks.collect();
        Self { counts, tasks }
    }

    /// First answers that came.
    #[must_use]
    pub fn snapshots(&self) -> u64 {
        self.counts.snapshots.load(Ordering::SeqCst)
    }

    /// Later answers that came.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.counts.changes.load(Ordering::SeqCst)
    }

    /// Streams that ended.
    #[must_use]
    pub fn ended(&self) -> u64 {
        self.counts.ended.load(Ordering::SeqCst)
    }
}

impl Drop for Watchers {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn watch(gateway: SocketAddr, target: &str, counts: &Counts) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(gateway).await?;
    let request = format!("GET {target} HTTP/1.1\r\nhost: {gateway}\r\naccept: text/event-stream\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut lines = BufReader::new(stream).lines();
    // Events are small enough to come in a chunk each, so that their lines stand alone between the chunks' lengths.
    while let Some(line) = lines.next_line().await? {
        match line.trim_end() {
            "event: snapshot" => counts.snapshots.fetch_add(1, Ordering::SeqCst),
            "event: change" => counts.changes.fetch_add(1, Ordering::SeqCst),
            _ => 0,
        };
    }
    Ok(())
}
