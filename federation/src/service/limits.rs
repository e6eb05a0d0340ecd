//! Every bound of the service, with its reason. Those of what is in a message stand in [`crate::exchange::limits`].

use std::time::Duration;

/// A TCP connection and its handshake, together. Two round trips round the world take 0.6 s.
pub(super) const CONNECT: Duration = Duration::from_secs(5);
/// From the handshake to the call that makes a link of a connection.
pub(super) const OPEN: Duration = Duration::from_secs(5);
/// Handshakes under way. One takes some 3 ms of work, so a flood of strangers waits here rather than in memory.
pub(super) const HANDSHAKES: usize = 64;
/// Of these, from one address: strangers who only open connections leave room for others.
pub(super) const HANDSHAKES_OF_ONE: usize = 16;
/// Connections accepted and alive: the exchange's links, and as many that are about to replace one.
pub(super) const CONNECTIONS: usize = 2 * crate::exchange::limits::LINKS;
/// Of these, by one other region: 16 nodes, four times what is usual, and as many that are about to replace one.
pub(super) const CONNECTIONS_OF_ONE_REGION: usize = 32;
/// By the own one, whose gateways connect too. What is left is enough for the nodes of two regions, whoever misbehaves here.
pub(super) const CONNECTIONS_OF_OWN_REGION: usize = CONNECTIONS - 2 * CONNECTIONS_OF_ONE_REGION;
/// Connections without a link yet, by one peer. Who dials in good order has one, and another for a moment.
pub(super) const UNOPENED_OF_ONE: usize = 4;
/// A link on which nothing came for so long is dead: its other end beats every second, or stands still.
pub(super) const SILENCE: Duration = Duration::from_secs(8);
/// A link that took nothing from its queue for so long is not read at its other end.
pub(super) const STALLED: Duration = Duration::from_secs(8);
/// Messages that wait for one link. The exchange keeps at most
/// [`PARTS_IN_FLIGHT`](crate::exchange::limits::PARTS_IN_FLIGHT) parts of an origin on their way; the rest are small, and
/// two a second.
pub(super) const QUEUE: usize = 512;
/// Messages of one link that wait for the driver. Whoever sends faster than it works is read more slowly.
pub(super) const INBOX_OF_ONE: usize = 8;
/// All that waits for the driver, from links and from this process.
pub(super) const INBOX: usize = CONNECTIONS * INBOX_OF_ONE;
/// The span over which the rate of a link is bounded.
pub(super) const RATE_SPAN: Duration = Duration::from_millis(100);
/// Messages of one link in that span: 2,000 a second, where a busy one has some hundred. What is above waits in the
/// peer's kernel.
pub(super) const RATE_MESSAGES: u32 = 200;
/// Bytes of one link in that span: 64 MiB/s, more than most links between regions carry.
pub(super) const RATE_BYTES: usize = (64 << 20) / 10;
/// HTTP/2's window of a stream and a connection: 64 MiB/s over a round trip of 60 ms.
pub(super) const WINDOW: u32 = 4 << 20;
/// HTTP/2's frames: a part of an update in four.
pub(super) const FRAME: u32 = 64 << 10;
/// Header lists: ours are a few hundred bytes.
pub(super) const HEADERS: u32 = 8 << 10;
/// The first wait before a peer is dialled again.
pub(super) const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// The longest, before jitter of up to as much again: what was cut off for long is back in seconds.
pub(super) const BACKOFF_MAX: Duration = Duration::from_secs(4);
/// A link that lived so long was a good one: the next wait is the first again.
pub(super) const GOOD_LINK: Duration = Duration::from_secs(10);
/// How long a URL is left alone that leads to this very process.
pub(super) const OWN_URL: Duration = Duration::from_secs(60);
/// How often links are checked for a certificate that ran out, a queue that stands still, and what else no message tells.
pub(super) const TICK: Duration = Duration::from_secs(1);
/// URLs of all peers.
pub(super) const URLS: usize = crate::exchange::limits::LINKS;
