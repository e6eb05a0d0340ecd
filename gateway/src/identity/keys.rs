//! The keys that an issuer publishes (RFC 7517), and which of them may verify a token.
//!
//! A key that this gateway cannot use (another curve, another use, a shared secret) is passed over, so that an issuer may
//! publish new kinds beside old ones; a set with none that it can use is an error.

use super::strict_json;
use aws_lc_rs::signature as aws;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// More keys than any issuer rotates through; a bound on the work that one token can cause.
const MAX_KEYS: usize = 100;

/// Identifies a key by what it is rather than by its name: SHA-256 over kind and material.
pub(super) type Fingerprint = [u8; 32];

/// One public key.
pub(super) struct Key {
    kid: Option<String>,
    /// What it may verify: the key's kind and `alg`, within the issuer's list.
    algorithms: Vec<Algorithm>,
    pub(super) fingerprint: Fingerprint,
    verifying: DecodingKey,
}

impl Key {
    /// Whether `signature` (base64url) over `signed` is this key's.
    pub(super) fn verifies(&self, signature: &str, signed: &[u8], algorithm: Algorithm) -> bool {
        // An error here is a signature of impossible length or form.
        jsonwebtoken::crypto::verify(signature, signed, &self.verifying, algorithm).unwrap_or(false)
    }
}

/// What an issuer publishes, as far as it is usable here.
pub(super) struct KeySet {
    keys: Vec<Key>,
}

impl KeySet {
    /// Reads a JWK set for an issuer that may sign with `allowed`.
    pub(super) fn parse(bytes: &[u8], allowed: &[Algorithm]) -> Result<Self, String> {
        let object = strict_json::object(bytes).map_err(|e| format!("is not a JWK set: {e}"))?;
        let Some(Value::Array(published)) = object.get("keys") else {
            return Err("is not a JWK set: it has no list \"keys\"".to_owned());
        };
        if published.is_empty() {
            return Err("holds no keys".to_owned());
        }
        if published.len() > MAX_KEYS {
            return Err(format!("holds {} keys; at most {MAX_KEYS} are taken", published.len()));
        }
        let mut keys = Vec::new();
        let mut passed_over = Vec::new();
        for (position, jwk) in published.iter().enumerate() {
            let Value::Object(jwk) = jwk else {
                return Err(format!("is not a JWK set: keys[{position}] is not an object"));
            };
            if jwk.contains_key("d") {
                return Err(format!(
                    "holds a private key (keys[{position}]): publish the public half only, and replace this key"
                ));
            }
            match usable(jwk, allowed) {
                Ok(key) => keys.push(key),
                Err(reason) => passed_over.push(format!("keys[{position}] {reason}")),
            }
        }
        if keys.is_empty() {
            return Err(format!("holds no usable key: {}", passed_over.join("; ")));
        }
        Ok(Self { keys })
    }

    /// Whether the key is still published.
    pub(super) fn holds(&self, fingerprint: &Fingerprint) -> bool {
        self.keys.iter().any(|key| &key.fingerprint == fingerprint)
    }

    /// How many keys are usable.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn same_as(&self, other: &Self) -> bool {
        self.keys.len() == other.keys.len()
            && self.keys.iter().zip(&other.keys).all(|(a, b)| {
                (a.fingerprint, &a.kid, &a.algorithms) == (b.fingerprint, &b.kid, &b.algorithms)
            })
    }

    /// The keys that may have signed: those of that `kid`, or without one the only key that fits the algorithm.
    /// A doubled `kid` gives several, of which any may verify.
    pub(super) fn candidates(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<Vec<&Key>, NoKey> {
        let fits = |key: &&Key| key.algorithms.contains(&algorithm);
        match kid {
            Some(kid) => {
                let named: Vec<&Key> =
                    self.keys.iter().filter(|key| key.kid.as_deref() == Some(kid)).collect();
                if named.is_empty() {
                    return Err(NoKey::Unknown);
                }
                let fitting: Vec<&Key> = named.into_iter().filter(fits).collect();
                if fitting.is_empty() { Err(NoKey::OtherAlgorithm) } else { Ok(fitting) }
            }
            None => {
                let fitting: Vec<&Key> = self.keys.iter().filter(fits).collect();
                match fitting.len() {
                    0 => Err(NoKey::OtherAlgorithm),
                    1 => Ok(fitting),
                    several => Err(NoKey::Ambiguous(several)),
                }
            }
        }
    }
}

/// Why no key can be tried.
pub(super) enum NoKey {
    /// Nothing is published under that `kid`.
    Unknown,
    /// The token has no `kid` and so many keys could be meant.
    Ambiguous(usize),
    /// The key is not for that algorithm.
    OtherAlgorithm,
}

/// The algorithm of that name, if it is one with a public key.
pub(super) fn asymmetric(name: &str) -> Option<Algorithm> {
    let algorithm = name.parse().ok()?;
    match algorithm {
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => None,
        _ => Some(algorithm),
    }
}

fn usable(jwk: &Map<String, Value>, allowed: &[Algorithm]) -> Result<Key, String> {
    let text = |name: &str| match jwk.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(_) => Err(format!("has a {name} that is not text")),
    };
    // `jwt-svid` is the use that SPIFFE bundles write.
    if let Some(other) = text("use")?.filter(|u| *u != "sig" && *u != "jwt-svid") {
        return Err(format!("is for the use {other:?}"));
    }
    if let Some(operations) = jwk.get("key_ops") {
        let verifies = operations.as_array().is_some_and(|all| all.iter().any(|op| op == "verify"));
        if !verifies {
            return Err("has key_ops without \"verify\"".to_owned());
        }
    }
    let bytes = |name: &str| {
        let encoded = text(name)?.ok_or_else(|| format!("has no {name}"))?;
        URL_SAFE_NO_PAD.decode(encoded).map_err(|_| format!("has an {name} that is not base64url"))
    };
    let kty = text("kty")?.ok_or("has no kty")?;
    let (fits, verifying, material) = match (kty, text("crv")?) {
        ("EC", Some("P-256")) => {
            let point = point(bytes("x")?, bytes("y")?, 32, &aws::ECDSA_P256_SHA256_FIXED)?;
            (vec![Algorithm::ES256], DecodingKey::from_ec_der(&point), point)
        }
        ("EC", Some("P-384")) => {
            let point = point(bytes("x")?, bytes("y")?, 48, &aws::ECDSA_P384_SHA384_FIXED)?;
            (vec![Algorithm::ES384], DecodingKey::from_ec_der(&point), point)
        }
        ("OKP", Some("Ed25519")) => {
            let x = bytes("x")?;
            sound(&aws::ED25519, &x)?;
            (vec![Algorithm::EdDSA], DecodingKey::from_ed_der(&x), x)
        }
        ("RSA", _) => {
            let (n, e) = (bytes("n")?, bytes("e")?);
            let verifying = rsa(&n, &e)?;
            let fits = vec![
                Algorithm::RS256,
                Algorithm::RS384,
                Algorithm::RS512,
                Algorithm::PS256,
                Algorithm::PS384,
                Algorithm::PS512,
            ];
            (fits, verifying, [n, e].concat())
        }
        ("oct", _) => {
            return Err("is a shared secret, which verifies nothing that a bearer could not forge".to_owned());
        }
        (kty, crv) => return Err(format!("is of a kind that is not supported (kty {kty:?}, crv {crv:?})")),
    };
    let own = text("alg")?;
    let algorithms: Vec<Algorithm> = fits
        .into_iter()
        .filter(|algorithm| allowed.contains(algorithm))
        .filter(|algorithm| own.is_none_or(|own| asymmetric(own) == Some(*algorithm)))
        .collect();
    if algorithms.is_empty() {
        return Err(format!("is for none of the issuer's algorithms {allowed:?}"));
    }
    let fingerprint =
        Sha256::new().chain_update(kty).chain_update([0]).chain_update(&material).finalize().into();
    Ok(Key { kid: text("kid")?.map(str::to_owned), algorithms, fingerprint, verifying })
}

/// The uncompressed point, if it has the curve's length and lies on the curve.
fn point(
    x: Vec<u8>,
    y: Vec<u8>,
    length: usize,
    curve: &'static dyn aws::VerificationAlgorithm,
) -> Result<Vec<u8>, String> {
    if x.len() != length || y.len() != length {
        return Err(format!("has coordinates that are not of {length} bytes"));
    }
    let point = [vec![4], x, y].concat();
    sound(curve, &point)?;
    Ok(point)
}

fn sound(algorithm: &'static dyn aws::VerificationAlgorithm, key: &[u8]) -> Result<(), String> {
    aws::ParsedPublicKey::new(algorithm, key).map(drop).map_err(|_| "is not a point of its curve".to_owned())
}

/// 2048 bits is the least that RFC 7518 allows; above 8192 one verification would take milliseconds.
fn rsa(n: &[u8], e: &[u8]) -> Result<DecodingKey, String> {
    let bits = match n.first() {
        Some(first) if *first != 0 => n.len() * 8 - first.leading_zeros() as usize,
        _ => return Err("has a modulus that is empty or begins with a zero".to_owned()),
    };
    if !(2048..=8192).contains(&bits) {
        return Err(format!("has a modulus of {bits} bits; 2048 to 8192 are taken"));
    }
    aws::RsaPublicKeyComponents { n, e }
        .to_parsed_public_key(&aws::RSA_PKCS1_2048_8192_SHA256)
        .map_err(|_| "is not an RSA key".to_owned())?;
    Ok(DecodingKey::from_rsa_raw_components(n, e))
}
