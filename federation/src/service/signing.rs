//! Heads signed with this node's certificate key, and those of others checked against the authorities.

use super::credential;
use super::material::{Followed, HEAD_SCHEMES, Material};
use super::name::Station;
use super::trust::{HEAD_ALGORITHMS, Validity};
use crate::exchange::head::{CannotSign, Signatory, Signer, Untrusted, Verifier};
use arc_swap::ArcSwap;
use bytes::Bytes;
use rustls_pki_types::UnixTime;
use std::sync::Arc;

/// Signs with what the driver last took up.
pub(super) struct NodeSigner {
    taken_up: TakenUp,
}

/// What heads are signed with. Only the driver replaces it, between two inputs of the exchange: a renewal in the midst of
/// a head would give it the certificate of one key and the signature of another.
#[derive(Clone)]
pub(super) struct TakenUp(Arc<ArcSwap<Material>>);

impl TakenUp {
    pub(super) fn new(material: Arc<Material>) -> Self {
        Self(Arc::new(ArcSwap::new(material)))
    }

    pub(super) fn replace(&self, material: Arc<Material>) {
        self.0.store(material);
    }
}

impl NodeSigner {
    pub(super) fn new(taken_up: TakenUp) -> Self {
        Self { taken_up }
    }
}

impl Signer for NodeSigner {
    fn credential(&self) -> Bytes {
        self.taken_up.0.load().credential.clone()
    }

    fn sign(&self, message: &[u8]) -> Result<Bytes, CannotSign> {
        let signer = self.taken_up.0.load().key.choose_scheme(&HEAD_SCHEMES);
        let signer = signer.ok_or_else(|| CannotSign("it is neither ECDSA P-256 nor Ed25519".into()))?;
        signer.sign(message).map(Bytes::from).map_err(|e| CannotSign(e.to_string()))
    }
}

/// Checks heads by what is in force.
pub(super) struct HeadVerifier {
    followed: Arc<Followed>,
}

impl HeadVerifier {
    pub(super) fn new(followed: Arc<Followed>) -> Self {
        Self { followed }
    }

    fn check(
        &self,
        credential: &[u8],
        message: &[u8],
        signature: &[u8],
        valid: Validity,
    ) -> Result<Signatory, String> {
        let material = self.followed.current();
        let chain = credential::decode(credential).ok_or("the credential is no certificate chain")?;
        let leaf = chain.first().ok_or("the credential is empty")?;
        // The signature first: it costs one operation, the path one for each certificate.
        let certificate = webpki::EndEntityCert::try_from(leaf).map_err(|e| e.to_string())?;
        if !HEAD_ALGORITHMS.iter().any(|alg| certificate.verify_signature(*alg, message, signature).is_ok()) {
            return Err("the signature is not by the certificate's key".into());
        }
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
        self.check(credential, message, signature, Validity::At(UnixTime::now())).map_err(Untrusted)
    }

    fn verify_kept(
        &self,
        credential: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<Signatory, Untrusted> {
        self.check(credential, message, signature, Validity::UpTo(UnixTime::now())).map_err(Untrusted)
    }
}

#[cfg(test)]
mod tests {
    use super::super::certificates::{Authority, KeyKind, Lifetime};
    use super::super::rig::{authority, ended, lifetime, name, node};
    use super::*;
    use rustls_pki_types::UnixTime;

    fn follow(material: Material) -> Arc<Followed> {
        Arc::new(Followed::fixed(material))
    }

    fn signing(material: Material) -> NodeSigner {
        NodeSigner::new(TakenUp::new(Arc::new(material)))
    }

    fn verifier(authority: &Authority) -> HeadVerifier {
        HeadVerifier::new(follow(node(authority, "us/node/z", KeyKind::EcdsaP256)))
    }

    #[test]
    fn what_a_node_signs_is_bound_to_its_region() {
        let root = authority();
        for kind in [KeyKind::EcdsaP256, KeyKind::Ed25519] {
            let signer = signing(node(&root, "eu/node/a", kind));
            let (credential, signature) = (signer.credential(), signer.sign(b"head").unwrap());
            assert!(credential.len() <= crate::exchange::limits::CREDENTIAL_BYTES);
            let eu = Signatory { region: "eu".parse().unwrap(), node: "a".parse().unwrap() };
            assert_eq!(verifier(&root).verify(&credential, b"head", &signature), Ok(eu));
            assert!(verifier(&root).verify(&credential, b"heat", &signature).is_err());
            assert!(verifier(&root).verify(&credential, b"head", &signature[1..]).is_err());
            assert!(verifier(&root).verify(&credential[1..], b"head", &signature).is_err());
            let other = signing(node(&root, "eu/node/a", kind));
            assert!(verifier(&root).verify(&other.credential(), b"head", &signature).is_err());
            assert!(verifier(&authority()).verify(&credential, b"head", &signature).is_err());
        }
    }

    #[test]
    fn a_gateway_originates_nothing() {
        let root = authority();
        let signer = signing(node(&root, "eu/gateway/g", KeyKind::EcdsaP256));
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
        let signer = signing(old);
        let (credential, signature) = (signer.credential(), signer.sign(b"head").unwrap());
        let verifier = verifier(&root);
        assert!(verifier.verify(&credential, b"head", &signature).is_err());
        assert!(verifier.verify_kept(&credential, b"head", &signature).is_ok());
        assert!(verifier.verify_kept(&credential, b"heat", &signature).is_err());
    }
}
