//! Group commit. Whatever arrives while a transaction is in flight goes together in the next one; nothing waits longer
//! than for that. One at a time: with two or four, the same 64 clients made batches of 21 and 12 instead of 58 writes, and
//! cost more CPU for each write than they gained in overlap.

use super::Shared;
use super::batch::{Queued, gather, outcomes, transaction};
use crate::{Committed, RegistryError};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Writes that wait in the queue before callers have to.
pub(super) const QUEUE: usize = 4096;
/// A transaction's bound; below that of a call, so that its caller still hears how it ended.
const TRANSACTION_TIMEOUT: Duration = Duration::from_millis(4500);

/// Serves until nobody can write any more.
pub(super) async fn run(shared: Arc<Shared>, mut queue: mpsc::Receiver<Queued>) {
    let mut waiting = VecDeque::new();
    loop {
        if waiting.is_empty() {
            match queue.recv().await {
                Some(first) => waiting.push_back(first),
                None => return,
            }
        }
        // Lets those who were just answered, and write again, come along.
        tokio::task::yield_now().await;
        while waiting.len() < QUEUE
            && let Ok(queued) = queue.try_recv()
        {
            waiting.push_back(queued);
        }
        // Who gave up was told that nobody knows; not writing at all is the best that can still be done.
        waiting.retain(|queued: &Queued| !queued.reply.is_closed());
        let batch = gather(&mut waiting);
        if !batch.is_empty() {
            send(&shared, batch).await;
        }
    }
}

async fn send(shared: &Shared, batch: Vec<Queued>) {
    match attempt(shared, &batch).await {
        Ok(results) => {
            for (queued, result) in batch.into_iter().zip(results) {
                let _ = queued.reply.send(result);
            }
        }
        // Refused as a whole, for what may be wrong with one of them only.
        Err(RegistryError::Refused(_)) if batch.len() > 1 => {
            for queued in batch {
                let alone = [queued];
                let result = attempt(shared, &alone).await;
                let [queued] = alone;
                let _ = queued.reply.send(result.and_then(|mut results| match results.pop() {
                    Some(result) => result,
                    None => Err(confused()),
                }));
            }
        }
        Err(error) => {
            let text = match &error {
                RegistryError::Unavailable(text) | RegistryError::Refused(text) => text.clone(),
                other @ RegistryError::OtherRegion { .. } => other.to_string(),
            };
            let refused = matches!(error, RegistryError::Refused(_));
            for queued in batch {
                let _ = queued.reply.send(Err(if refused {
                    RegistryError::Refused(text.clone())
                } else {
                    RegistryError::Unavailable(text.clone())
                }));
            }
        }
    }
}

async fn attempt(
    shared: &Shared,
    batch: &[Queued],
) -> Result<Vec<Result<Committed, RegistryError>>, RegistryError> {
    let transaction = transaction(&shared.paths, batch);
    let response = shared
        .connection
        .once(TRANSACTION_TIMEOUT, move |client| async move { client.kv_client().txn(transaction).await })
        .await?;
    shared.stats.transactions.add(1);
    shared.stats.writes.add(batch.len() as u64);
    Ok(outcomes(batch, &response).into_iter().map(|outcome| outcome.ok_or_else(confused)).collect())
}

fn confused() -> RegistryError {
    RegistryError::Unavailable("etcd answered something else than was asked".into())
}
