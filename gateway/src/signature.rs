//! Signatures of policies' modules: made by an author, required by a region that names whom it trusts.
//!
//! What is signed is the version as it is written everywhere, `sha256:` and 64 hexadecimal digits, so that any tool can sign
//! and verify. A signature travels as base64: of 64 bytes for Ed25519 (RFC 8032), of ASN.1 for ECDSA over P-256 with SHA-256.
//! A key is called by the first 16 hexadecimal digits of the SHA-256 of its public half as DER.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    UnparsedPublicKey, VerificationAlgorithm,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use meridian_model::names::PolicyVersion;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivatePkcs8KeyDer, PrivateSec1KeyDer, SubjectPublicKeyInfoDer};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::io::Read;
use std::path::{Path, PathBuf};

/// The header of an upload that carries one.
pub const HEADER: &str = "meridian-signature";

/// Longest signature in base64, with room for line ends: 72 bytes of ASN.1 are 96 characters.
pub const MAX_SIGNATURE_BYTES: usize = 128;

/// The member of a manifest that keeps the signature it was let in with.
const MEMBER: &str = "signature";

/// Keys are a few hundred bytes.
const MAX_KEY_FILE_BYTES: u64 = 16 * 1024;

/// What stands before the key itself in a public key as DER (RFC 8410 and RFC 5480); there is one way to write each.
const ED25519_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
const P256_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Why a key or a signature cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The file of a key.
    #[error("{0} cannot be read: {1}")]
    Unreadable(String, String),
    /// It holds something else.
    #[error("{0} holds no {1} key of Ed25519 or ECDSA P-256 in PEM")]
    NotAKey(String, &'static str),
    /// The library refused.
    #[error("the key cannot sign")]
    CannotSign,
    /// The text is none.
    #[error("the signature is no base64 of at most {MAX_SIGNATURE_BYTES} characters")]
    NotASignature,
    /// It is one of something else, or of somebody else.
    #[error("no trusted key made this signature for this module (trusted: {0})")]
    Untrusted(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ed25519,
    P256,
}

/// A key that signatures are verified with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    kind: Kind,
    key: Vec<u8>,
    id: String,
}

impl PublicKey {
    /// Reads `-----BEGIN PUBLIC KEY-----`.
    ///
    /// # Errors
    /// The file cannot be read, or holds something else.
    pub fn read(file: &Path) -> Result<Self, SignatureError> {
        let name = file.display().to_string();
        let pem = read(file)?;
        let wrong = || SignatureError::NotAKey(name.clone(), "public");
        let der = SubjectPublicKeyInfoDer::from_pem_slice(&pem).map_err(|_| wrong())?;
        Self::from_der(&der).ok_or_else(wrong)
    }

    fn from_der(der: &[u8]) -> Option<Self> {
        let (kind, key) = match (der.strip_prefix(&ED25519_PREFIX), der.strip_prefix(&P256_PREFIX)) {
            (Some(key), _) if key.len() == 32 => (Kind::Ed25519, key),
            // An uncompressed point.
            (_, Some(key)) if key.len() == 65 && key.first() == Some(&4) => (Kind::P256, key),
            _ => return None,
        };
        let digest = hex::encode(Sha256::digest(der));
        Some(Self { kind, key: key.to_vec(), id: digest.get(..16)?.to_owned() })
    }

    fn of(kind: Kind, key: &[u8]) -> Option<Self> {
        let prefix: &[u8] = match kind {
            Kind::Ed25519 => &ED25519_PREFIX,
            Kind::P256 => &P256_PREFIX,
        };
        Self::from_der(&[prefix, key].concat())
    }

    /// How the key is called.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether this key made the signature for the version.
    #[must_use]
    pub fn verifies(&self, version: PolicyVersion, signature: &Signature) -> bool {
        let algorithm: &'static dyn VerificationAlgorithm = match self.kind {
            Kind::Ed25519 => &ED25519,
            Kind::P256 => &ECDSA_P256_SHA256_ASN1,
        };
        let key = UnparsedPublicKey::new(algorithm, &self.key);
        key.verify(version.to_string().as_bytes(), &signature.0).is_ok()
    }
}

/// A key that makes signatures.
pub struct SigningKey(Pair);

enum Pair {
    Ed25519(Box<Ed25519KeyPair>),
    P256(Box<EcdsaKeyPair>),
}

impl SigningKey {
    /// Reads `-----BEGIN PRIVATE KEY-----` (PKCS#8), or `-----BEGIN EC PRIVATE KEY-----` (SEC1).
    ///
    /// # Errors
    /// The file cannot be read, or holds something else.
    pub fn read(file: &Path) -> Result<Self, SignatureError> {
        let name = file.display().to_string();
        let pem = read(file)?;
        let wrong = || SignatureError::NotAKey(name.clone(), "private");
        if let Ok(der) = PrivateSec1KeyDer::from_pem_slice(&pem) {
            let pair =
                EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_ASN1_SIGNING, der.secret_sec1_der());
            return pair.map(|pair| Self(Pair::P256(Box::new(pair)))).map_err(|_| wrong());
        }
        let der = PrivatePkcs8KeyDer::from_pem_slice(&pem).map_err(|_| wrong())?;
        let der = der.secret_pkcs8_der();
        if let Ok(pair) = Ed25519KeyPair::from_pkcs8(der) {
            return Ok(Self(Pair::Ed25519(Box::new(pair))));
        }
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der).map_err(|_| wrong())?;
        Ok(Self(Pair::P256(Box::new(pair))))
    }

    /// The public half, and how it is called.
    ///
    /// # Errors
    /// The library gave a key of another shape.
    pub fn public(&self) -> Result<PublicKey, SignatureError> {
        let public = match &self.0 {
            Pair::Ed25519(pair) => PublicKey::of(Kind::Ed25519, pair.public_key().as_ref()),
            Pair::P256(pair) => PublicKey::of(Kind::P256, pair.public_key().as_ref()),
        };
        public.ok_or(SignatureError::CannotSign)
    }

    /// Signs a version.
    ///
    /// # Errors
    /// The library refused.
    pub fn sign(&self, version: PolicyVersion) -> Result<Signature, SignatureError> {
        let text = version.to_string();
        let signature = match &self.0 {
            Pair::Ed25519(pair) => pair.try_sign(text.as_bytes()),
            Pair::P256(pair) => pair.sign(&SystemRandom::new(), text.as_bytes()),
        };
        signature.map(|made| Signature(made.as_ref().to_vec())).map_err(|_| SignatureError::CannotSign)
    }
}

/// A signature; who made it is not known yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature(Vec<u8>);

impl Signature {
    /// Reads base64; white space around it is no part of it.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(text: &str) -> Result<Self, SignatureError> {
        let text = text.trim();
        if text.is_empty() || text.len() > MAX_SIGNATURE_BYTES {
            return Err(SignatureError::NotASignature);
        }
        STANDARD.decode(text).map(Self).map_err(|_| SignatureError::NotASignature)
    }
}

impl std::fmt::Display for Signature {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&STANDARD.encode(&self.0))
    }
}

/// Whom a region trusts. Where it names nobody, uploads need no signature.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    required: bool,
    keys: Vec<PublicKey>,
}

impl Trust {
    /// Reads the keys.
    ///
    /// # Errors
    /// Each that cannot be used, with its position.
    pub fn read(files: &[PathBuf]) -> Result<Self, Vec<(usize, SignatureError)>> {
        let (mut keys, mut wrong) = (Vec::new(), Vec::new());
        for (at, file) in files.iter().enumerate() {
            match PublicKey::read(file) {
                Ok(key) => keys.push(key),
                Err(error) => wrong.push((at, error)),
            }
        }
        if wrong.is_empty() { Ok(Self { required: !files.is_empty(), keys }) } else { Err(wrong) }
    }

    /// One that lets nothing in: for keys that were there when the configuration was checked and are not any more.
    #[must_use]
    pub fn nobody() -> Self {
        Self { required: true, keys: Vec::new() }
    }

    /// Whether uploads need a signature.
    #[must_use]
    pub fn is_required(&self) -> bool {
        self.required
    }

    /// What a manifest keeps of a signature where none is asked for: so that it is there once one is.
    ///
    /// # Errors
    /// It is no signature.
    pub fn keep(text: &str) -> Result<Map<String, Value>, SignatureError> {
        let kept = json!({ "keyId": null, "value": Signature::parse(text)?.to_string() });
        Ok(Map::from_iter([(MEMBER.to_owned(), kept)]))
    }

    /// What a manifest keeps of a signature by a trusted key.
    ///
    /// # Errors
    /// It is no signature, or nobody's who is trusted.
    pub fn verify(&self, version: PolicyVersion, text: &str) -> Result<Map<String, Value>, SignatureError> {
        let signature = Signature::parse(text)?;
        let signer = self.keys.iter().find(|key| key.verifies(version, &signature));
        let Some(signer) = signer else {
            let ids: Vec<&str> = self.keys.iter().map(PublicKey::id).collect();
            return Err(SignatureError::Untrusted(ids.join(", ")));
        };
        let kept = json!({ "keyId": signer.id(), "value": signature.to_string() });
        Ok(Map::from_iter([(MEMBER.to_owned(), kept)]))
    }
}

/// The signature that a manifest keeps.
#[must_use]
pub fn kept(manifest: &Map<String, Value>) -> Option<&Value> {
    manifest.get(MEMBER)
}

/// The signature that a manifest keeps, as it travels.
#[must_use]
pub fn value(manifest: &Map<String, Value>) -> Option<String> {
    kept(manifest)?.get("value")?.as_str().map(str::to_owned)
}

fn read(file: &Path) -> Result<Vec<u8>, SignatureError> {
    let mut bytes = Vec::new();
    std::fs::File::open(file)
        .and_then(|opened| opened.take(MAX_KEY_FILE_BYTES).read_to_end(&mut bytes))
        .map_err(|error| SignatureError::Unreadable(file.display().to_string(), error.to_string()))?;
    Ok(bytes)
}

/// A key, and a region that trusts nobody else.
#[cfg(test)]
pub(crate) fn for_tests(directory: &Path) -> (SigningKey, Trust) {
    let [(private, public), _] = tests::keys(directory);
    (SigningKey::read(&private).unwrap(), Trust::read(&[public]).unwrap())
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED_SIGNING;

    fn pem(directory: &Path, name: &str, label: &str, der: &[u8]) -> PathBuf {
        let file = directory.join(name);
        let text = format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der));
        std::fs::write(&file, text).unwrap();
        file
    }

    /// The files of a key and its public half, of both kinds.
    pub(super) fn keys(directory: &Path) -> [(PathBuf, PathBuf); 2] {
        let edwards = Ed25519KeyPair::generate().unwrap();
        let point = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let public = |prefix: &[u8], key: &[u8]| [prefix, key].concat();
        [
            (
                pem(directory, "e", "PRIVATE KEY", edwards.to_pkcs8v1().unwrap().as_ref()),
                pem(
                    directory,
                    "e.pub",
                    "PUBLIC KEY",
                    &public(&ED25519_PREFIX, edwards.public_key().as_ref()),
                ),
            ),
            (
                pem(directory, "p", "PRIVATE KEY", point.to_pkcs8v1().unwrap().as_ref()),
                pem(directory, "p.pub", "PUBLIC KEY", &public(&P256_PREFIX, point.public_key().as_ref())),
            ),
        ]
    }

    #[test]
    fn only_the_key_that_signed_this_version_is_believed() {
        let directory = tempfile::tempdir().unwrap();
        let [edwards, point] = keys(directory.path());
        let (ours, other) = (PolicyVersion::of(b"ours"), PolicyVersion::of(b"other"));
        for ((private, public), (_, stranger)) in [(&edwards, &point), (&point, &edwards)] {
            let key = SigningKey::read(private).unwrap();
            let signature = key.sign(ours).unwrap().to_string();
            let trust = Trust::read(&[stranger.clone(), public.clone()]).unwrap();
            let kept_with = trust.verify(ours, &format!("{signature}\n")).unwrap();
            let id = key.public().unwrap().id().to_owned();
            assert_eq!(kept(&kept_with).unwrap(), &json!({ "keyId": id, "value": signature }));
            assert!(matches!(trust.verify(other, &signature), Err(SignatureError::Untrusted(_))));
            let strangers = Trust::read(std::slice::from_ref(stranger)).unwrap();
            assert!(matches!(strangers.verify(ours, &signature), Err(SignatureError::Untrusted(_))));
            let mut bent = STANDARD.decode(&signature).unwrap();
            bent[40] ^= 1;
            assert!(trust.verify(ours, &STANDARD.encode(bent)).is_err(), "a flipped bit");
        }
        assert!(Trust::nobody().is_required() && !Trust::default().is_required());
    }

    #[test]
    fn what_is_no_signature_or_no_key_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let [(private, public), _] = keys(directory.path());
        for text in ["", "!", &"A".repeat(MAX_SIGNATURE_BYTES + 4)] {
            assert_eq!(Signature::parse(text), Err(SignatureError::NotASignature), "{text}");
        }
        assert!(matches!(PublicKey::read(&private), Err(SignatureError::NotAKey(_, "public"))));
        assert!(SigningKey::read(&public).is_err());
        let wrong = Trust::read(&[public, directory.path().join("none")]).unwrap_err();
        assert!(matches!(wrong.as_slice(), [(1, SignatureError::Unreadable(..))]), "{wrong:?}");
    }
}
