//! Makes tokens of every kind, right and wrong, without the library that the gateway verifies with.

use aws_lc_rs::encoding::AsBigEndian;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
    EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA256,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use meridian_gateway::identity::{IdentityConfig, Verifier};
use meridian_model::time::UnixMillis;
use serde_json::{Value, json};
use std::path::Path;

/// The `now` of all tests, in seconds.
pub(crate) const NOW: u64 = 1_800_000_000;
pub(crate) const ISSUER: &str = "https://id.prod.example";

pub(crate) fn now() -> UnixMillis {
    UnixMillis::from_secs(NOW)
}

pub(crate) fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// One issuer's private keys.
pub(crate) struct Forge {
    pub(crate) p256: EcdsaKeyPair,
    pub(crate) p384: EcdsaKeyPair,
    pub(crate) rsa: RsaKeyPair,
    pub(crate) ed25519: Ed25519KeyPair,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum With {
    P256,
    P256InDer,
    P384,
    RsaPkcs1,
    RsaPss,
    Ed25519,
    /// HMAC-SHA256 with the public P-256 point as the secret.
    HmacOfPublicKey,
    Nothing,
}

impl Forge {
    pub(crate) fn new() -> Self {
        Self {
            p256: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
            p384: EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap(),
            rsa: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
            ed25519: Ed25519KeyPair::generate().unwrap(),
        }
    }

    pub(crate) fn sign(&self, message: &str, with: With) -> Vec<u8> {
        let (message, random) = (message.as_bytes(), SystemRandom::new());
        match with {
            With::P256 => self.p256.sign(&random, message).unwrap().as_ref().to_vec(),
            With::P256InDer => {
                let pkcs8 = self.p256.to_pkcs8v1().unwrap();
                let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref()).unwrap();
                pair.sign(&random, message).unwrap().as_ref().to_vec()
            }
            With::P384 => self.p384.sign(&random, message).unwrap().as_ref().to_vec(),
            With::RsaPkcs1 | With::RsaPss => {
                let mut signature = vec![0; self.rsa.public_modulus_len()];
                let padding: &'static dyn aws_lc_rs::signature::RsaEncoding =
                    if matches!(with, With::RsaPss) { &RSA_PSS_SHA256 } else { &RSA_PKCS1_SHA256 };
                self.rsa.sign(padding, &random, message, &mut signature).unwrap();
                signature
            }
            With::Ed25519 => self.ed25519.sign(message).as_ref().to_vec(),
            With::HmacOfPublicKey => {
                let secret = self.p256.public_key().as_ref();
                let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret);
                aws_lc_rs::hmac::sign(&key, message).as_ref().to_vec()
            }
            With::Nothing => Vec::new(),
        }
    }

    /// A token of exactly these texts.
    pub(crate) fn token_of(&self, header: impl AsRef<[u8]>, payload: impl AsRef<[u8]>, with: With) -> String {
        let message = format!("{}.{}", b64(header), b64(payload));
        let signature = self.sign(&message, with);
        format!("{message}.{}", b64(signature))
    }

    /// A token of these objects.
    pub(crate) fn token(&self, header: &Value, claims: &Value, with: With) -> String {
        self.token_of(header.to_string(), claims.to_string(), with)
    }

    /// A good token of `subject`.
    pub(crate) fn good(&self, subject: &str) -> String {
        self.token(&header(), &claims(subject), With::P256)
    }

    pub(crate) fn p256_jwk(&self, kid: &str) -> Value {
        let point = self.p256.public_key().as_ref();
        json!({"kty": "EC", "crv": "P-256", "kid": kid, "use": "sig", "x": b64(&point[1..33]), "y": b64(&point[33..])})
    }

    pub(crate) fn p384_jwk(&self, kid: &str) -> Value {
        let point = self.p384.public_key().as_ref();
        json!({"kty": "EC", "crv": "P-384", "kid": kid, "x": b64(&point[1..49]), "y": b64(&point[49..])})
    }

    pub(crate) fn rsa_jwk(&self, kid: &str) -> Value {
        let public = aws_lc_rs::signature::RsaPublicKeyComponents::<Vec<u8>>::from(self.rsa.public_key());
        json!({"kty": "RSA", "kid": kid, "alg": "RS256", "use": "jwt-svid", "n": b64(public.n), "e": b64(public.e)})
    }

    pub(crate) fn ed25519_jwk(&self, kid: &str) -> Value {
        let x: &[u8] = self.ed25519.public_key().as_ref();
        json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "alg": "EdDSA", "x": b64(x)})
    }

    /// The private half as JWK, which nobody should publish.
    pub(crate) fn p256_private_jwk(&self) -> Value {
        let d: aws_lc_rs::encoding::EcPrivateKeyBin<'_> = self.p256.private_key().as_be_bytes().unwrap();
        let mut jwk = self.p256_jwk("private");
        jwk["d"] = b64(d.as_ref()).into();
        jwk
    }
}

pub(crate) fn header() -> Value {
    json!({"alg": "ES256", "kid": "p256", "typ": "JWT"})
}

pub(crate) fn claims(subject: &str) -> Value {
    json!({"iss": ISSUER, "aud": "meridian", "sub": subject, "iat": NOW - 60, "exp": NOW + 600})
}

/// `base` with members set, or with `null` taken out.
pub(crate) fn with(mut base: Value, changes: Value) -> Value {
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(base.as_object_mut().unwrap().remove(name)),
            value => base[name] = value.clone(),
        }
    }
    base
}

pub(crate) fn jwks(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

/// The verifier that the section `text` gives with `keys` in `prod.jwks`.
pub(crate) fn verifier(directory: &Path, keys: &[Value], text: &str) -> Verifier {
    std::fs::write(directory.join("prod.jwks"), jwks(keys)).unwrap();
    let config: IdentityConfig = toml::from_str(text).unwrap();
    config.check(directory).unwrap()
}
