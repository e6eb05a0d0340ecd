//! A gateway's membership: one lease, the member's record on it, and a judgement by the local clock that errs early.

use super::Shared;
use super::batch::revision;
use super::connection::classify;
use crate::{Key, RegistryError, Revision};
use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::Bytes;
use etcd_client::PutOptions;
use meridian_model::names::GatewayId;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

/// A membership that was taken.
struct Held {
    lease: i64,
    revision: Revision,
    ttl: Duration,
    /// Until when etcd certainly keeps the record: counted from when the last answered renewal was sent.
    until: Instant,
}

enum End {
    /// Nobody wants it any more.
    Dropped,
    Lost(String),
    /// The record is another process's: it would only be fought over.
    Taken,
}

/// Takes the membership, keeps it, and takes it again, until nobody holds its receiver.
pub(super) async fn hold(
    shared: Arc<Shared>,
    id: GatewayId,
    record: Bytes,
    ttl: Duration,
    holds: watch::Sender<Option<Revision>>,
) {
    let backoff = || {
        ExponentialBuilder::new()
            .with_min_delay(Duration::from_millis(100))
            .with_max_delay(Duration::from_secs(3))
            .with_jitter()
            .without_max_times()
            .build()
    };
    let mut delays = backoff();
    loop {
        let taken = tokio::select! {
            () = holds.closed() => return,
            taken = take(&shared, &id, &record, ttl) => taken,
        };
        let mut pause = delays.next().unwrap_or(ttl);
        match taken {
            Ok(held) => {
                shared.set_lease(&id, Some(held.lease));
                holds.send_replace(Some(held.revision));
                let lease = held.lease;
                let end = keep(&shared, &id, held, &holds).await;
                holds.send_replace(None);
                shared.set_lease(&id, None);
                match end {
                    End::Dropped => {
                        // Without it the record goes with the lease, only later.
                        let _ = timeout(
                            ttl,
                            shared
                                .connection
                                .call(move |c| async move { c.lease_client().revoke(lease).await }),
                        )
                        .await;
                        return;
                    }
                    End::Lost(reason) => tracing::warn!(%id, "lost the membership of the region: {reason}"),
                    End::Taken => {
                        tracing::error!(%id, "another process is a member under the same id; give each gateway its own");
                        pause = ttl;
                    }
                }
                delays = backoff();
            }
            Err(error) => tracing::warn!(%id, "cannot become a member of the region: {error}"),
        }
        tokio::select! {
            () = holds.closed() => return,
            () = sleep(pause) => {}
        }
    }
}

async fn take(shared: &Shared, id: &GatewayId, record: &Bytes, ttl: Duration) -> Result<Held, RegistryError> {
    let asked = Instant::now();
    let seconds = i64::try_from(ttl.as_millis().div_ceil(1000)).unwrap_or(i64::MAX).max(1);
    let lease = shared
        .connection
        .call(move |c| async move { c.lease_client().grant(seconds, None).await })
        .await?
        .id();
    let path = &shared.paths.path(&Key::Member(id.clone()));
    let written = shared
        .connection
        .call(move |c| async move {
            let options = PutOptions::new().with_lease(lease);
            c.kv_client().put(path.as_slice(), record.as_ref(), Some(options)).await
        })
        .await?;
    let revision = revision(written.header().map_or(0, etcd_client::ResponseHeader::revision));
    Ok(Held { lease, revision, ttl, until: asked + ttl })
}

async fn keep(
    shared: &Shared,
    id: &GatewayId,
    mut held: Held,
    holds: &watch::Sender<Option<Revision>>,
) -> End {
    let mut next = Instant::now() + held.ttl / 3;
    loop {
        tokio::select! {
            () = holds.closed() => return End::Dropped,
            () = sleep_until(next.min(held.until)) => {}
        }
        let asked = Instant::now();
        if asked >= held.until {
            return End::Lost("it was not renewed in time".into());
        }
        let renewed = tokio::select! {
            () = holds.closed() => return End::Dropped,
            renewed = timeout_at(held.until, renew(shared, id, &held)) => renewed,
        };
        match renewed {
            Ok(Ok(())) => {
                held.until = asked + held.ttl;
                next = asked + held.ttl / 3;
            }
            Ok(Err(Failure::Taken)) => return End::Taken,
            Ok(Err(Failure::Gone)) => return End::Lost("its lease has ended".into()),
            Ok(Err(Failure::Unanswered)) => next = Instant::now() + held.ttl / 20,
            Err(_) => return End::Lost("it could not be renewed in time".into()),
        }
    }
}

enum Failure {
    Gone,
    Taken,
    Unanswered,
}

async fn renew(shared: &Shared, id: &GatewayId, held: &Held) -> Result<(), Failure> {
    let failure = |error: RegistryError| match error {
        RegistryError::Refused(_) => Failure::Gone,
        _ => Failure::Unanswered,
    };
    // A third of the TTL for each attempt leaves time for another endpoint.
    let attempt = shared.connection.once(held.ttl / 3, move |client| async move {
        // The stream would be kept for all renewals, but then its endpoint's failure would have to be told from etcd's.
        Ok(client.lease_client().keep_alive(held.lease).await.map(|_| ()))
    });
    match attempt.await.map_err(failure)? {
        Ok(()) => {}
        // What the client makes of an answer with TTL 0.
        Err(etcd_client::Error::LeaseKeepAliveError(_)) => return Err(Failure::Gone),
        Err(error) => return Err(failure(classify(error))),
    }
    let path = &shared.paths.path(&Key::Member(id.clone()));
    let found = shared
        .connection
        .once(held.ttl / 3, move |client| async move { client.kv_client().get(path.as_slice(), None).await })
        .await
        .map_err(failure)?;
    match found.kvs().first() {
        None => Err(Failure::Gone),
        Some(kv) if revision(kv.mod_revision()) != held.revision => Err(Failure::Taken),
        Some(_) => Ok(()),
    }
}
