//! The issuer of development tokens: one ES256 key in a file, and the key set that gateways are given.
//!
//! It serves `meridian dev`, `meridian token` and tests. Whoever can read the key file can be anybody, so it is made with
//! mode 0600 and never overwritten.

use super::config::{Audience, ClaimValue, IdentityConfig, IssuerConfig, RuleConfig};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use meridian_model::names::{Namespace, ServiceName};
use meridian_model::time::UnixMillis;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// `iss` of development tokens.
pub const DEV_ISSUER: &str = "https://dev.meridian";
/// `aud` of development tokens.
pub const DEV_AUDIENCE: &str = "meridian";
/// The private key, within the directory of [`Issuer::init`].
pub const KEY_FILE: &str = "issuer.key";
/// The published keys, beside it.
pub const JWKS_FILE: &str = "issuer.jwks";

/// A key file is below 300 bytes.
const MAX_KEY_FILE_BYTES: u64 = 16 * 1024;

/// Why an issuer cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// A key or key set of an earlier `init` is there: tokens in use may depend on it.
    #[error("{} exists already and is not overwritten: remove it, or choose another directory", .0.display())]
    Exists(PathBuf),
    /// The disk refuses.
    #[error("cannot {doing} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is not what `init` writes.
    #[error("{} is not an ES256 private key in PEM form (PKCS#8)", .0.display())]
    NotAKey(PathBuf),
    /// The cryptographic library failed, which means that the machine gives no randomness.
    #[error("cannot {0}: the system gives no randomness")]
    Crypto(&'static str),
}

/// What a minted token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MintRequest {
    /// `iss`.
    pub issuer: String,
    /// `aud`.
    pub audience: String,
    /// `sub`.
    pub subject: String,
    /// `groups`; left out of the token if empty.
    pub groups: Vec<String>,
    /// From `now` to `exp`.
    pub ttl: Duration,
    /// `iat`.
    pub now: UnixMillis,
}

impl MintRequest {
    /// A development token of a workload.
    #[must_use]
    pub fn dev_workload(
        namespace: &Namespace,
        service: &ServiceName,
        ttl: Duration,
        now: UnixMillis,
    ) -> Self {
        Self::dev(dev_subject(namespace, service), Vec::new(), ttl, now)
    }

    /// A development token of an operator.
    #[must_use]
    pub fn dev_operator(ttl: Duration, now: UnixMillis) -> Self {
        Self::dev(format!("spiffe://{TRUST_DOMAIN}/operator"), vec!["operator".to_owned()], ttl, now)
    }

    /// A development token of a reader.
    #[must_use]
    pub fn dev_reader(ttl: Duration, now: UnixMillis) -> Self {
        Self::dev(format!("spiffe://{TRUST_DOMAIN}/reader"), vec!["reader".to_owned()], ttl, now)
    }

    fn dev(subject: String, groups: Vec<String>, ttl: Duration, now: UnixMillis) -> Self {
        Self { issuer: DEV_ISSUER.to_owned(), audience: DEV_AUDIENCE.to_owned(), subject, groups, ttl, now }
    }
}

const TRUST_DOMAIN: &str = "dev.meridian";

/// `sub` of a workload's development token.
#[must_use]
pub fn dev_subject(namespace: &Namespace, service: &ServiceName) -> String {
    format!("spiffe://{TRUST_DOMAIN}/ns/{namespace}/sa/{service}")
}

/// What a gateway needs to take development tokens. Groups come first: a subject with the form of a workload's is an
/// operator if its groups say so.
#[must_use]
pub fn dev_identity_config(jwks: &Path) -> IdentityConfig {
    let by_group = |group: &str| RuleConfig {
        issuer: DEV_ISSUER.to_owned(),
        claims: BTreeMap::from([("groups".to_owned(), ClaimValue::Text(group.to_owned()))]),
        role: group.to_owned(),
        ..RuleConfig::default()
    };
    let workload = RuleConfig {
        issuer: DEV_ISSUER.to_owned(),
        subject: Some(format!("spiffe://{TRUST_DOMAIN}/ns/{{namespace}}/sa/{{service}}")),
        role: "workload".to_owned(),
        ..RuleConfig::default()
    };
    IdentityConfig {
        issuers: vec![IssuerConfig {
            issuer: DEV_ISSUER.to_owned(),
            audience: Audience::One(DEV_AUDIENCE.to_owned()),
            algorithms: Some(vec!["ES256".to_owned()]),
            jwks_file: Some(jwks.to_owned()),
            ..IssuerConfig::default()
        }],
        rules: vec![by_group("operator"), by_group("reader"), workload],
    }
}

/// A private key that signs tokens.
pub struct Issuer {
    key: EncodingKey,
    published: Jwk,
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuer").field("kid", &self.kid()).finish_non_exhaustive()
    }
}

impl Issuer {
    /// Makes a key: [`KEY_FILE`] (mode 0600) and [`JWKS_FILE`] in `directory`, which is made if it is not there.
    pub fn init(directory: &Path) -> Result<Self, IssuerError> {
        let (key_file, jwks_file) = (directory.join(KEY_FILE), directory.join(JWKS_FILE));
        for file in [&key_file, &jwks_file] {
            if file.symlink_metadata().is_ok() {
                return Err(IssuerError::Exists(file.clone()));
            }
        }
        let io = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| IssuerError::Io { doing, path, source }
        };
        std::fs::create_dir_all(directory).map_err(io("make", directory))?;
        let pem = generate()?;
        let issuer = Self::from_pem(pem.as_bytes()).ok_or(IssuerError::Crypto("read back the key"))?;
        write_new(&key_file, &pem, 0o600).map_err(io("write", &key_file))?;
        if let Err(source) = write_new(&jwks_file, &issuer.jwks(), 0o644) {
            // Half of a pair is of no use and would stand in the way of the next attempt.
            let _ = std::fs::remove_file(&key_file);
            return Err(IssuerError::Io { doing: "write", path: jwks_file, source });
        }
        Ok(issuer)
    }

    /// Reads a key that [`Self::init`] made.
    pub fn load(key_file: &Path) -> Result<Self, IssuerError> {
        let mut pem = Vec::new();
        File::open(key_file)
            .and_then(|file| file.take(MAX_KEY_FILE_BYTES).read_to_end(&mut pem))
            .map_err(|source| IssuerError::Io { doing: "read", path: key_file.to_owned(), source })?;
        Self::from_pem(&pem).ok_or_else(|| IssuerError::NotAKey(key_file.to_owned()))
    }

    fn from_pem(pem: &[u8]) -> Option<Self> {
        let key = EncodingKey::from_ec_pem(pem).ok()?;
        let mut published = Jwk::from_encoding_key(&key, Algorithm::ES256).ok()?;
        published.common.key_id = Some(published.thumbprint(ThumbprintHash::SHA256).ok()?);
        published.common.public_key_use = Some(PublicKeyUse::Signature);
        Some(Self { key, published })
    }

    /// The key's id: its RFC 7638 thumbprint.
    #[must_use]
    pub fn kid(&self) -> &str {
        self.published.common.key_id.as_deref().unwrap_or_default()
    }

    /// The key set that gateways verify with, as JSON.
    #[must_use]
    pub fn jwks(&self) -> String {
        let set = JwkSet { keys: vec![self.published.clone()] };
        // Text and lists only: serialisation into memory has no way to fail.
        let mut text = serde_json::to_string_pretty(&set).unwrap_or_default();
        text.push('\n');
        text
    }

    /// A signed token.
    pub fn mint(&self, request: &MintRequest) -> Result<String, IssuerError> {
        #[derive(Serialize)]
        struct Claims<'a> {
            iss: &'a str,
            aud: &'a str,
            sub: &'a str,
            #[serde(skip_serializing_if = "<[String]>::is_empty")]
            groups: &'a [String],
            iat: u64,
            exp: u64,
        }
        let claims = Claims {
            iss: &request.issuer,
            aud: &request.audience,
            sub: &request.subject,
            groups: &request.groups,
            iat: request.now.0 / 1000,
            exp: request.now.plus(request.ttl).0 / 1000,
        };
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.kid().to_owned());
        jsonwebtoken::encode(&header, &claims, &self.key).map_err(|_| IssuerError::Crypto("sign"))
    }
}

/// A fresh key as PEM (RFC 7468: lines of 64).
fn generate() -> Result<String, IssuerError> {
    let failed = |_| IssuerError::Crypto("make a key");
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(failed)?;
    let der = pair.to_pkcs8v1().map_err(failed)?;
    let mut pem = "-----BEGIN PRIVATE KEY-----\n".to_owned();
    for (position, letter) in STANDARD.encode(der.as_ref()).chars().enumerate() {
        if position > 0 && position % 64 == 0 {
            pem.push('\n');
        }
        pem.push(letter);
    }
    pem.push_str("\n-----END PRIVATE KEY-----\n");
    Ok(pem)
}

fn write_new(path: &Path, text: &str, mode: u32) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    let mut file = options.open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
