//! One link: a gRPC stream in each direction, from the moment it opens until one end closes it.
//!
//! A task of its own reads, decodes and judges what comes, at a bounded rate; the driver sees whole messages, a few of
//! each link at a time. What goes out waits in a bounded queue that the connection drains at its own pace. So whatever a
//! peer does, it does to its own link.

use super::connection::Peer;
use super::driver::Input;
use super::figures::PeerFigures;
use super::limits;
use super::wire::{self, proto};
use crate::exchange::LinkId;
use crate::exchange::message::Message;
use crate::exchange::violation::Violation;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};

/// How long a link that ends may take to hand over its last words.
const LINGER: Duration = Duration::from_millis(500);

/// Which end opened it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// This process did.
    Dialled,
    /// The peer did.
    Accepted,
}

/// Why a link does not come to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum Refusal {
    #[error("this is the process that dialled")]
    Oneself,
    #[error("there is a link between the two already")]
    Twin,
    #[error("there are too many links")]
    Full,
    #[error("the service is stopping")]
    Stopping,
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal {
            Refusal::Oneself => Code::FailedPrecondition,
            Refusal::Twin => Code::AlreadyExists,
            Refusal::Full => Code::ResourceExhausted,
            Refusal::Stopping => Code::Unavailable,
        };
        Self::new(code, refusal.to_string())
    }
}

/// Why a link ended.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum Ending {
    /// It never was one.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// The peer closed it, for the reason it gave.
    #[error("closed by the peer{0}")]
    ByPeer(String),
    /// The connection broke.
    #[error("broken: {0}")]
    Broken(String),
    /// Nothing came for [`limits::SILENCE`].
    #[error("silent for {} s", limits::SILENCE.as_secs())]
    Silent,
    /// The peer does not read what is sent.
    #[error("the peer does not take what is sent to it")]
    Unread,
    /// The peer broke a rule.
    #[error("violation: {0}")]
    Violation(#[from] Violation),
    /// What cannot even be read as a message.
    #[error("violation: unreadable: {0}")]
    Unreadable(String),
    /// Another link took its place.
    #[error("another link to the same peer took its place")]
    Replaced,
    /// Its certificate is no longer believed.
    #[error("{0}")]
    Distrusted(String),
    /// This process ends.
    #[error("the service is stopping")]
    Stopping,
}

impl Ending {
    pub(super) fn is_violation(&self) -> bool {
        matches!(self, Self::Violation(_) | Self::Unreadable(_))
    }

    /// As the peer is told.
    pub(super) fn status(&self) -> Status {
        let code = match self {
            Self::Violation(_) | Self::Unreadable(_) => Code::InvalidArgument,
            Self::Distrusted(_) => Code::Unauthenticated,
            Self::Replaced => Code::Aborted,
            Self::Unread => Code::ResourceExhausted,
            Self::Refused(refusal) => return (*refusal).into(),
            Self::Silent | Self::Stopping | Self::ByPeer(_) | Self::Broken(_) => Code::Unavailable,
        };
        Status::new(code, self.to_string())
    }
}

/// What waits to be sent: messages, and at last, perhaps, why there are no more.
pub(super) type Outgoing = Result<Message, Status>;

/// The driver's end of a link.
pub(super) struct Outbox {
    queue: mpsc::Sender<Outgoing>,
    /// How many messages the connection has taken.
    taken: Arc<AtomicU64>,
    /// Tells the link's task to end.
    ended: CancellationToken,
}

impl Outbox {
    /// Hands over a message; false if the queue is full.
    pub(super) fn send(&self, message: Message) -> bool {
        // A closed queue means that the link's end is on its way to the driver.
        !matches!(self.queue.try_send(Ok(message)), Err(mpsc::error::TrySendError::Full(_)))
    }

    /// Ends the link, with these last words if there is room for them.
    pub(super) fn end(&self, status: Status) {
        let _ = self.queue.try_send(Err(status));
        self.ended.cancel();
    }

    /// How many messages wait, and how many were taken before them.
    pub(super) fn waiting(&self) -> (usize, u64) {
        let waiting = self.queue.max_capacity().saturating_sub(self.queue.capacity());
        (waiting, self.taken.load(Ordering::Relaxed))
    }
}

/// A link that asks to be one.
pub(super) struct NewLink {
    pub(super) peer: Peer,
    pub(super) side: Side,
    pub(super) outbox: Outbox,
    pub(super) figures: Arc<PeerFigures>,
    pub(super) answer: oneshot::Sender<Result<LinkId, Refusal>>,
}

/// Both ends of what goes out: for the driver, and for the connection.
pub(super) fn outgoing(
    figures: &Arc<PeerFigures>,
) -> (Outbox, impl Stream<Item = Result<proto::Message, Status>> + Send + use<>) {
    let (queue, rest) = mpsc::channel(limits::QUEUE);
    let taken = Arc::new(AtomicU64::new(0));
    let outbox = Outbox { queue, taken: Arc::clone(&taken), ended: CancellationToken::new() };
    let figures = Arc::clone(figures);
    let messages = ReceiverStream::new(rest).map(move |message| {
        taken.fetch_add(1, Ordering::Relaxed);
        figures.messages_out.add(1);
        message.map(wire::encode)
    });
    (outbox, messages)
}

/// Reads a link until it ends, and tells the driver of its beginning, its messages and its end.
pub(super) async fn attend(
    driver: mpsc::Sender<Input>,
    peer: Peer,
    side: Side,
    outbox: Outbox,
    figures: Arc<PeerFigures>,
    mut incoming: Streaming<proto::Message>,
) -> Ending {
    let (ended, cut) = (outbox.ended.clone(), peer.cut.clone());
    // Whatever becomes of this task, its connection does not outlive it.
    let _cut = cut.drop_guard();
    let (answer, answered) = oneshot::channel();
    let new = NewLink { peer, side, outbox, figures: Arc::clone(&figures), answer };
    if driver.send(Input::Up(new)).await.is_err() {
        return Ending::Refused(Refusal::Stopping);
    }
    let link = match answered.await.unwrap_or(Err(Refusal::Stopping)) {
        Ok(link) => link,
        Err(refusal) => {
            sleep(LINGER).await;
            return Ending::Refused(refusal);
        }
    };
    let read = read(&driver, link, &figures, &mut incoming);
    let ending = tokio::select! {
        ending = read => {
            let _ = driver.send(Input::Down(link, ending.clone())).await;
            ending
        }
        // The driver knows why, and that it is down.
        () = ended.cancelled() => Ending::Stopping,
    };
    if !matches!(ending, Ending::Broken(_)) {
        // The connection hands over what is queued; nothing more is read.
        sleep(LINGER).await;
    }
    ending
}

async fn read(
    driver: &mpsc::Sender<Input>,
    link: LinkId,
    figures: &PeerFigures,
    incoming: &mut Streaming<proto::Message>,
) -> Ending {
    let places = Arc::new(Semaphore::new(limits::INBOX_OF_ONE));
    let mut rate = Rate::default();
    loop {
        let message = match timeout(limits::SILENCE, incoming.message()).await {
            Err(_) => return Ending::Silent,
            Ok(Ok(None)) => return Ending::ByPeer(String::new()),
            Ok(Err(status)) => return unreadable(&status),
            Ok(Ok(Some(message))) => message,
        };
        figures.messages_in.add(1);
        rate.spend(prost::Message::encoded_len(&message)).await;
        // What is in it is judged by the exchange.
        let message = match wire::decode(message) {
            Ok(Some(message)) => message,
            Ok(None) => continue,
            Err(violation) => return Ending::Violation(violation),
        };
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return Ending::Stopping };
        if driver.send(Input::Message(link, message, Place { _held: place })).await.is_err() {
            return Ending::Stopping;
        }
    }
}

/// A message's place among those of its link that wait for the driver.
pub(super) struct Place {
    _held: OwnedSemaphorePermit,
}

/// What ended a stream: the peer's own words, a message that is none, or a broken connection.
fn unreadable(status: &Status) -> Ending {
    match status.code() {
        // tonic's, for what is over the bound and for what is no protobuf.
        Code::OutOfRange => Ending::Violation(Violation::MessageTooLarge),
        Code::Internal => Ending::Unreadable(printable(status.message())),
        Code::InvalidArgument
        | Code::Unauthenticated
        | Code::Aborted
        | Code::ResourceExhausted
        | Code::AlreadyExists
        | Code::FailedPrecondition => Ending::ByPeer(format!(": {}", printable(status.message()))),
        _ => Ending::Broken(printable(status.message())),
    }
}

/// What a peer said, for the log.
fn printable(text: &str) -> String {
    text.chars().take(200).flat_map(char::escape_debug).collect()
}

/// How much of one link is read in a span of time.
struct Rate {
    until: Instant,
    messages: u32,
    bytes: usize,
}

impl Default for Rate {
    fn default() -> Self {
        Self { until: Instant::now(), messages: 0, bytes: 0 }
    }
}

impl Rate {
    /// Counts a message, and waits for the next span where this one is used up.
    async fn spend(&mut self, bytes: usize) {
        let now = Instant::now();
        if now >= self.until {
            *self = Self { until: now + limits::RATE_SPAN, messages: 0, bytes: 0 };
        }
        self.messages = self.messages.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
        if self.messages > limits::RATE_MESSAGES || self.bytes > limits::RATE_BYTES {
            tokio::time::sleep_until(self.until).await;
        }
    }
}
