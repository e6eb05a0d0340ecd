//! How `meridian demo` talks to the running `meridian dev`: one JSON line each way over a Unix socket, which only the
//! owner may open.

use super::fleet::Fleet;
use super::layout::Seat;
use crate::failure::Failure;
use anyhow::Context;
use meridian_model::names::{InstanceId, RegionName, ServiceName, ZoneName};
use serde::{Deserialize, Serialize};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Mutex;

/// An order is some 200 bytes, a reply some 10 KiB.
const MAX_LINE_BYTES: u64 = 256 * 1024;
/// A client writes its order at once; one that does not must not keep others waiting.
const ORDER_TIMEOUT: Duration = Duration::from_secs(2);
/// Longer than a graceful stop of a whole region.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Action {
    /// Crash, or leave in good order.
    Stop {
        /// Drain and deregister first.
        graceful: bool,
    },
    /// Bring back.
    Start,
}

/// What is to be done with which workloads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Order {
    pub(crate) action: Action,
    pub(crate) region: RegionName,
    pub(crate) zone: Option<ZoneName>,
    pub(crate) service: Option<ServiceName>,
}

impl Order {
    /// Whether the order is about this one.
    pub(super) fn names(&self, seat: &Seat) -> bool {
        self.region == seat.region
            && self.zone.as_ref().is_none_or(|zone| *zone == seat.zone)
            && self.service.as_ref().is_none_or(|service| *service == seat.service)
    }
}

/// What was done with one workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "did")]
pub(crate) enum Deed {
    /// Sockets closed, heartbeats stopped.
    Crashed,
    /// Drained, deregistered, stopped.
    Left,
    /// It was not running.
    WasStopped,
    /// It runs, on another port than before.
    Started,
    /// It was running, and registered again.
    RegisteredAgain,
    /// It did not work.
    Failed {
        /// Why.
        reason: String,
    },
}

/// What was done with which workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Outcome {
    pub(crate) region: RegionName,
    pub(crate) zone: ZoneName,
    pub(crate) service: ServiceName,
    pub(crate) instance: InstanceId,
    /// Where it listens, if it runs.
    pub(crate) address: Option<SocketAddr>,
    #[serde(flatten)]
    pub(crate) deed: Deed,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Reply {
    Done(Vec<Outcome>),
    Refused(String),
}

/// The listening end; the socket's file goes with it.
pub(super) struct Control {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for Control {
    fn drop(&mut self) {
        // What stays is removed by the next run, which holds the directory then.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Control {
    /// Listens. The caller holds the directory, so a socket that is there was left by a process that was killed.
    pub(super) fn listen(path: &Path) -> Result<Self, Failure> {
        let _ = std::fs::remove_file(path);
        let said =
            || format!("no control socket can be made at {}; a shorter --data-dir may help", path.display());
        let listener = UnixListener::bind(path).with_context(said)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).with_context(said)?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Takes orders for the fleet, until it is dropped.
    pub(super) async fn serve(self, fleet: Arc<Mutex<Fleet>>) {
        loop {
            let Ok((stream, _)) = self.listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let fleet = Arc::clone(&fleet);
            // One at a time: two orders at once would only wait for each other.
            let _ = tokio::time::timeout(PATIENCE, attend(stream, &fleet)).await;
        }
    }
}

async fn attend(stream: UnixStream, fleet: &Mutex<Fleet>) -> io::Result<()> {
    let (reading, mut writing) = stream.into_split();
    let line = tokio::time::timeout(ORDER_TIMEOUT, read_line(reading)).await??;
    let reply = match serde_json::from_slice::<Order>(&line) {
        Ok(order) => match fleet.lock().await.carry_out(order).await {
            Ok(outcomes) => Reply::Done(outcomes),
            Err(refused) => Reply::Refused(refused),
        },
        Err(error) => {
            Reply::Refused(format!("the order is not understood: {error}; are both of one version?"))
        }
    };
    write_line(&mut writing, &reply).await
}

async fn read_line(reading: impl AsyncRead + Unpin) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    BufReader::new(reading.take(MAX_LINE_BYTES)).read_until(b'\n', &mut line).await?;
    if line.last() == Some(&b'\n') { Ok(line) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

async fn write_line(writing: &mut (impl AsyncWriteExt + Unpin), value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    writing.write_all(&line).await?;
    writing.shutdown().await
}

/// Gives an order to the running `meridian dev`.
pub(crate) async fn ask(socket: &Path, order: &Order) -> Result<Vec<Outcome>, Failure> {
    let stream = UnixStream::connect(socket).await.map_err(|error| {
        Failure::Unreachable(format!(
            "no `meridian dev` answers at {} ({error})\n  next: start one with `meridian dev`, or name its directory with \
             --data-dir",
            socket.display()
        ))
    })?;
    let (reading, mut writing) = stream.into_split();
    let spoken = async {
        write_line(&mut writing, order).await?;
        read_line(reading).await
    };
    let broken = || Failure::Unreachable("`meridian dev` broke off: is it being stopped?".to_owned());
    let line = match tokio::time::timeout(PATIENCE, spoken).await {
        Ok(Ok(line)) => line,
        Ok(Err(_)) => return Err(broken()),
        Err(_) => return Err(Failure::Unreachable("`meridian dev` does not answer in time".to_owned())),
    };
    match serde_json::from_slice(&line)
        .context("the reply of `meridian dev` is not understood: are both of one version?")?
    {
        Reply::Done(outcomes) => Ok(outcomes),
        Reply::Refused(reason) => Err(Failure::Usage(reason)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dev::layout;
    use meridian_gateway::identity::Issuer;

    fn order(region: &str) -> Order {
        Order {
            action: Action::Stop { graceful: true },
            region: region.parse().unwrap(),
            zone: None,
            service: None,
        }
    }

    #[test]
    fn an_order_is_one_line_that_people_can_read() {
        let text = serde_json::to_string(&order("eu-west-1")).unwrap();
        assert_eq!(
            text,
            r#"{"action":{"stop":{"graceful":true}},"region":"eu-west-1","zone":null,"service":null}"#
        );
        assert_eq!(serde_json::from_str::<Order>(&text).unwrap(), order("eu-west-1"));
        assert!(serde_json::from_str::<Order>(r#"{"action":"start","region":"../x"}"#).is_err());
        assert!(serde_json::from_str::<Order>(r#"{"action":"start","region":"r","zones":"z"}"#).is_err());
    }

    fn fleet(directory: &Path) -> Arc<Mutex<Fleet>> {
        let issuer = Arc::new(Issuer::init(directory).unwrap());
        Arc::new(Mutex::new(
            Fleet::new(&layout::regions(layout::DEFAULT_PORT_BASE).unwrap(), issuer).unwrap(),
        ))
    }

    #[tokio::test]
    async fn orders_are_carried_out_refused_or_not_understood() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        // What a killed process left.
        std::fs::write(&path, "").unwrap();
        let control = Control::listen(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let serving = tokio::spawn(control.serve(fleet(directory.path())));
        let outcomes = ask(&path, &order("eu-west-1")).await.unwrap();
        assert!(!outcomes.is_empty() && outcomes.iter().all(|outcome| outcome.deed == Deed::WasStopped));
        assert_eq!(ask(&path, &order("mars")).await.unwrap_err().exit_code(), 2);
        let (reading, mut writing) = UnixStream::connect(&path).await.unwrap().into_split();
        writing.write_all(b"shutdown\n").await.unwrap();
        assert!(String::from_utf8(read_line(reading).await.unwrap()).unwrap().contains("not understood"));
        serving.abort();
        assert!(serving.await.unwrap_err().is_cancelled());
        assert!(!path.exists(), "the socket goes with its owner");
        assert_eq!(ask(&path, &order("eu-west-1")).await.unwrap_err().exit_code(), 3);
    }
}
