//! Whose registry it is, and which of its lives.

use super::Shared;
use super::batch::{revision, stored};
use crate::{Incarnation, Key, Known, RegistryError, Revision, record};
use etcd_client::{Compare, CompareOp, GetResponse, Txn, TxnOp, TxnOpResponse};

/// Attempts at a compare-and-set that others make at the same time. Each round somebody wins.
const ROUNDS: usize = 20;

/// Takes the registry for the region and agrees on its incarnation, which is created where there is none and raised
/// where `known` shows that the registry went back. Returns it with the revision at which it was read.
pub(super) async fn claim(
    shared: &Shared,
    known: Option<Known>,
) -> Result<(Incarnation, Revision), RegistryError> {
    for _ in 0..ROUNDS {
        let Standing { region, incarnation, revision } = read(shared).await?;
        match region {
            Some(found) if found == shared.region.as_str() => {}
            Some(found) => return Err(RegistryError::OtherRegion { found, wanted: shared.region.clone() }),
            None => {
                let value = record::encode(&shared.region)?;
                replace(shared, &Key::Region, Revision(0), value.to_vec()).await?;
                continue;
            }
        }
        match incarnation {
            None => {
                let counter = known.map_or(1, |known| known.incarnation.counter.saturating_add(1));
                write(shared, Revision(0), counter).await?;
            }
            Some((incarnation, modified)) => match known {
                Some(known) if known.contradicts(incarnation, revision) => {
                    tracing::warn!(shown = %incarnation, known = %known.incarnation, "the registry went back");
                    let counter = incarnation.counter.max(known.incarnation.counter).saturating_add(1);
                    write(shared, modified, counter).await?;
                }
                _ => return Ok((incarnation, revision)),
            },
        }
    }
    Err(RegistryError::Unavailable("no agreement on the incarnation".into()))
}

/// Begins another life, unless somebody else does.
pub(super) async fn raise(shared: &Shared, from: Incarnation) -> Result<(), RegistryError> {
    match read(shared).await?.incarnation {
        Some((incarnation, modified)) if incarnation == from => {
            write(shared, modified, from.counter.saturating_add(1)).await
        }
        _ => Ok(()),
    }
}

struct Standing {
    region: Option<String>,
    incarnation: Option<(Incarnation, Revision)>,
    revision: Revision,
}

async fn read(shared: &Shared) -> Result<Standing, RegistryError> {
    let (region, incarnation) = (&shared.paths.path(&Key::Region), &shared.paths.path(&Key::Incarnation));
    let response = shared
        .connection
        .call(move |client| async move {
            let both = [TxnOp::get(region.as_slice(), None), TxnOp::get(incarnation.as_slice(), None)];
            client.kv_client().txn(Txn::new().and_then(both)).await
        })
        .await?;
    let mut found = response.op_responses().into_iter().map(|response| match response {
        TxnOpResponse::Get(found) => Some(found),
        _ => None,
    });
    let mut record = |key: Key| {
        let found: Option<GetResponse> = found.next().flatten();
        found.and_then(|mut found| found.take_kvs().pop()).map(|kv| stored(key, kv))
    };
    let region = match record(Key::Region) {
        Some(stored) => Some(parse(&Key::Region, &stored.value)?),
        None => None,
    };
    let incarnation = match record(Key::Incarnation) {
        Some(stored) => Some((parse(&Key::Incarnation, &stored.value)?, stored.modified)),
        None => None,
    };
    let revision = revision(response.header().map_or(0, etcd_client::ResponseHeader::revision));
    Ok(Standing { region, incarnation, revision })
}

/// An incarnation's record as value.
pub(super) fn parse<T: serde::de::DeserializeOwned>(key: &Key, value: &[u8]) -> Result<T, RegistryError> {
    serde_json::from_slice(value)
        .map_err(|e| RegistryError::Refused(format!("{} in etcd is unreadable: {e}", key.encode())))
}

async fn write(shared: &Shared, based_on: Revision, counter: u64) -> Result<(), RegistryError> {
    let value = record::encode(&Incarnation { counter, random: rand::random() })?;
    replace(shared, &Key::Incarnation, based_on, value.to_vec()).await
}

/// Compare-and-set; losing is no error, as the caller looks again.
async fn replace(
    shared: &Shared,
    key: &Key,
    based_on: Revision,
    value: Vec<u8>,
) -> Result<(), RegistryError> {
    let (path, value) = (&shared.paths.path(key), &value);
    let based_on = i64::try_from(based_on.0).unwrap_or(i64::MAX);
    shared
        .connection
        .call(move |client| async move {
            let transaction = Txn::new()
                .when([Compare::mod_revision(path.as_slice(), CompareOp::Equal, based_on)])
                .and_then([TxnOp::put(path.as_slice(), value.as_slice(), None)]);
            client.kv_client().txn(transaction).await
        })
        .await?;
    Ok(())
}
