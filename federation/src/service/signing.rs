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

#[cfg(test)]
mod tests {
    use super::super::certificates::{Authority, KeyKind, Lifetime};
    use super::super::material::Reloaded;
    use super::super::rig::{self, authority, ended, lifetime, name, node};
    use super::*;
    use rustls_pki_types::UnixTime;

    fn follow(material: Material) -> Arc<Followed> {
        Arc::new(Followed::fixed(material))
    }

    fn verifier(authority: &Authority) -> HeadVerifier {
        HeadVerifier::new(follow(node(authority, "us/node/z", KeyKind::EcdsaP256)))
    }

    #[test]
    fn what_a_node_signs_is_bound_to_its_region() {
        let root = authority();
        for kind in [KeyKind::EcdsaP256, KeyKind::Ed25519] {
            let signer = NodeSigner::new(follow(node(&root, "eu/node/a", kind)));
            let (credential, signature) = (signer.credential(), signer.sign(b"head").unwrap());
            assert!(credential.len() <= crate::exchange::limits::CREDENTIAL_BYTES);
            let eu = Signatory { region: "eu".parse().unwrap(), node: "a".parse().unwrap() };
            assert_eq!(verifier(&root).verify(&credential, b"head", &signature), Ok(eu));
            assert!(verifier(&root).verify(&credential, b"heat", &signature).is_err());
            assert!(verifier(&root).verify(&credential, b"head", &signature[1..]).is_err());
            assert!(verifier(&root).verify(&credential[1..], b"head", &signature).is_err());
            let other = NodeSigner::new(follow(node(&root, "eu/node/a", kind)));
            assert!(verifier(&root).verify(&other.credential(), b"head", &signature).is_err());
            assert!(verifier(&authority()).verify(&credential, b"head", &signature).is_err());
        }
    }

    #[test]
    fn a_gateway_originates_nothing() {
        let root = authority();
        let signer = NodeSigner::new(follow(node(&root, "eu/gateway/g", KeyKind::EcdsaP256)));
        let refused = verifier(&root).verify(&signer.credential(), b"head", &signer.sign(b"head").unwrap());
        assert!(refused.unwrap_err().0.contains("is no node"));
    }

    #[test]
    fn a_kept_head_outlives_its_certificate_and_a_new_one_does_not() {
        let root = Authority::new("old", Lifetime { from: ended().from, ..lifetime() }).unwrap();
        let issued = root.issue(&name("eu/node/a"), KeyKind::EcdsaP256, ended()).unwrap();
        let then = ended().until.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap();
        let [certificate, key] = [&issued.certificate, &issued.key].map(String::as_bytes);
        let ca = root.certificate().as_bytes();
        let old = Material::from_pem(certificate, key, ca, UnixTime::since_unix_epoch(then)).unwrap();
        let signer = NodeSigner::new(follow(old));
        let (credential, signature) = (signer.credential(), signer.sign(b"head").unwrap());
        let verifier = verifier(&root);
        assert!(verifier.verify(&credential, b"head", &signature).is_err());
        assert!(verifier.importing(|| verifier.verify(&credential, b"head", &signature)).is_ok());
        assert!(verifier.importing(|| verifier.verify(&credential, b"heat", &signature)).is_err());
        assert!(verifier.verify(&credential, b"head", &signature).is_err());
    }

    #[test]
    fn a_renewal_between_credential_and_signature_pairs_neither_with_the_other() {
        let root = authority();
        let dir = tempfile::tempdir().unwrap();
        let issue = || root.issue(&name("eu/node/a"), KeyKind::EcdsaP256, lifetime()).unwrap();
        rig::write(dir.path(), &issue(), root.certificate());
        let files = rig::files(dir.path());
        let followed = Arc::new(Followed::open(files, UnixTime::now()).unwrap());
        let signer = NodeSigner::new(Arc::clone(&followed));
        let credential = signer.credential();
        rig::write(dir.path(), &issue(), root.certificate());
        assert_eq!(followed.look(UnixTime::now()), Some(Reloaded::Changed));
        let signature = signer.sign(b"head").unwrap();
        let check = verifier(&root);
        assert!(check.verify(&credential, b"head", &signature).is_ok());
        assert_ne!(signer.credential(), credential);
        assert!(check.verify(&signer.credential(), b"head", &signer.sign(b"head").unwrap()).is_ok());
    }
}
