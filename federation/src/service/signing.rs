//! Heads signed with this node's certificate key, and those of others checked against the authorities.

use super::credential;
use super::material::{Followed, HEAD_SCHEMES, Material};
use super::name::Station;
use super::trust::{HEAD_ALGORITHMS, Validity};
use crate::exchange::head::{CannotSign, Signatory, Signer, Untrusted, Verifier};
use bytes::Bytes;
use rustls_pki_types::UnixTime;
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Signs with what is in force.
pub(super) struct NodeSigner {
    followed: Arc<Followed>,
    /// That of the credential that was handed out last: a renewal between the two calls of one head must not give it the
    /// certificate of one key and the signature of another.
    paired: RefCell<Option<Arc<Material>>>,
}

impl NodeSigner {
    pub(super) fn new(followed: Arc<Followed>) -> Self {
        Self { followed, paired: RefCell::new(None) }
    }
}

impl Signer for NodeSigner {
    fn credential(&self) -> Bytes {
        let material = Arc::clone(&self.followed.current());
        let credential = material.credential.clone();
        *self.paired.borrow_mut() = Some(material);
        credential
    }

    fn sign(&self, message: &[u8]) -> Result<Bytes, CannotSign> {
        let paired = self.paired.borrow();
        let current = self.followed.current();
        let material = paired.as_ref().unwrap_or(&current);
        let signer = material.key.choose_scheme(&HEAD_SCHEMES);
        let signer = signer.ok_or_else(|| CannotSign("it is neither ECDSA P-256 nor Ed25519".into()))?;
        signer.sign(message).map(Bytes::from).map_err(|e| CannotSign(e.to_string()))
    }
}

/// Checks heads by what is in force.
pub(super) struct HeadVerifier {
    followed: Arc<Followed>,
    /// Whether what is checked was checked before and kept since; see [`Validity::UpTo`].
    kept: AtomicBool,
}

impl HeadVerifier {
    pub(super) fn new(followed: Arc<Followed>) -> Self {
        Self { followed, kept: AtomicBool::new(false) }
    }

    /// Runs `import`, during which certificates may have run out: what is checked was kept on this disk.
    pub(super) fn importing<T>(&self, import: impl FnOnce() -> T) -> T {
        self.kept.store(true, Ordering::Relaxed);
        let imported = import();
        self.kept.store(false, Ordering::Relaxed);
        imported
    }

    fn check(&self, credential: &[u8], message: &[u8], signature: &[u8]) -> Result<Signatory, String> {
        let material = self.followed.current();
        let chain = credential::decode(credential).ok_or("the credential is no certificate chain")?;
        let leaf = chain.first().ok_or("the credential is empty")?;
        // The signature first: it costs one operation, the path one for each certificate.
        let certificate = webpki::EndEntityCert::try_from(leaf).map_err(|e| e.to_string())?;
        if !HEAD_ALGORITHMS.iter().any(|alg| certificate.verify_signature(*alg, message, signature).is_ok()) {
            return Err("the signature is not by the certificate's key".into());
        }
        let now = UnixTime::now();
        let valid = if self.kept.load(Ordering::Relaxed) { Validity::UpTo(now) } else { Validity::At(now) };
        let name = material.trust.name_in(&material.name.domain, &chain, valid).map_err(|e| e.to_string())?;
        if name.station != Station::Node {
            return Err(format!("{name} is no node and originates nothing"));
        }
        let node = name.id.parse().map_err(|_| format!("{name} has an id outside the grammar"))?;
        Ok(Signatory { region: name.region, node })
    }
}

impl Verifier for HeadVerifier {
    fn verify(&self, credential: &[u8], message: &[u8], signature: &[u8]) -> Result<Signatory, Untrusted> {
        self.check(credential, message, signature).map_err(Untrusted)
    }
}
