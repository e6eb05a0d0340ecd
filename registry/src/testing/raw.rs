//! etcd without the registry around it: what the registry's writes are measured against.

use super::RealEtcd;
use etcd_client::{Client, KvClient};

/// A client that puts; clones share its connection.
#[derive(Clone)]
pub struct RawPuts(KvClient);

impl RealEtcd {
    /// A client of this etcd.
    ///
    /// # Panics
    /// If etcd does not answer.
    pub async fn raw_puts(&self) -> RawPuts {
        RawPuts(Client::connect(self.endpoints(), None).await.unwrap().kv_client())
    }
}

impl RawPuts {
    /// One unconditional put, outside of every registry's prefix.
    ///
    /// # Panics
    /// If etcd refuses it.
    pub async fn put(&mut self, name: &str, value: &[u8]) {
        self.0.put(format!("/raw/{name}"), value, None).await.unwrap();
    }
}
