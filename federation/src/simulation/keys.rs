//! Keys of nodes, and who checks what they signed: as good as certificates among those who do not look inside, and cheap.

use crate::exchange::head::{CannotSign, NodeId, Signatory, Signer, Untrusted, Verifier};
use bytes::Bytes;
use meridian_model::names::RegionName;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A stand-in for a node's key: a keyed hash that only the simulation can make.
pub(crate) struct Key {
    pub(crate) region: RegionName,
    pub(crate) node: NodeId,
    /// Whether it cannot sign now.
    pub(crate) mute: Arc<AtomicBool>,
}

impl Key {
    /// One that can always sign.
    pub(crate) fn of(region: RegionName, node: NodeId) -> Self {
        Self { region, node, mute: Arc::default() }
    }
}

fn keyed(region: &str, node: &str, message: &[u8]) -> [u8; 8] {
    let mut hasher = DefaultHasher::new();
    ("a secret of the simulation", region, node, message).hash(&mut hasher);
    hasher.finish().to_be_bytes()
}

impl Signer for Key {
    fn credential(&self) -> Bytes {
        format!("{}/{}", self.region, self.node).into()
    }

    fn sign(&self, message: &[u8]) -> Result<Bytes, CannotSign> {
        if self.mute.load(Ordering::Relaxed) {
            return Err(CannotSign("it is mute".into()));
        }
        Ok(Bytes::copy_from_slice(&keyed(self.region.as_str(), self.node.as_str(), message)))
    }
}

/// Knows all keys.
pub(crate) struct Authority;

impl Verifier for Authority {
    fn verify(&self, credential: &[u8], message: &[u8], signature: &[u8]) -> Result<Signatory, Untrusted> {
        let bad = || Untrusted("a forgery".into());
        let (region, node) =
            std::str::from_utf8(credential).ok().and_then(|c| c.split_once('/')).ok_or_else(bad)?;
        if keyed(region, node, message) != signature {
            return Err(bad());
        }
        Ok(Signatory { region: region.parse().map_err(|_| bad())?, node: node.parse().map_err(|_| bad())? })
    }
}
