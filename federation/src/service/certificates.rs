//! A small authority: certificates for `meridian dev`, for tests, and for whoever has no authority of their own yet.

use super::name::PeerName;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use std::time::{Duration, SystemTime};
use thiserror::Error;

/// A certificate that could not be made.
#[derive(Debug, Error)]
#[error("cannot make the certificate: {0}")]
pub struct IssueError(#[from] rcgen::Error);

/// Which kind of key a certificate gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyKind {
    /// ECDSA on P-256.
    #[default]
    EcdsaP256,
    /// Ed25519.
    Ed25519,
}

/// From when to when a certificate is valid.
#[derive(Clone, Copy, Debug)]
pub struct Lifetime {
    /// Not before.
    pub from: SystemTime,
    /// Not after.
    pub until: SystemTime,
}

impl Lifetime {
    /// From an hour before `now`, since clocks differ, until `span` after it.
    #[must_use]
    pub fn starting(now: SystemTime, span: Duration) -> Self {
        Self { from: now.checked_sub(Duration::from_secs(3600)).unwrap_or(now), until: now + span }
    }
}

/// A certificate and its key, as the files of a configuration hold them.
#[derive(Clone)]
pub struct Issued {
    /// PEM.
    pub certificate: String,
    /// PEM, PKCS #8.
    pub key: String,
}

/// An authority with its key in memory.
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new one, signed by itself.
    ///
    /// # Errors
    /// Where no key can be made.
    pub fn new(common_name: &str, lifetime: Lifetime) -> Result<Self, IssueError> {
        let (key, params) = (KeyPair::generate()?, authority(common_name, lifetime));
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { certificate, issuer: Issuer::new(params, key) })
    }

    /// One below this one: what it issues is believed where its own certificate stands behind the leaf's.
    ///
    /// # Errors
    /// Where no key can be made.
    pub fn subordinate(&self, common_name: &str, lifetime: Lifetime) -> Result<Self, IssueError> {
        let (key, params) = (KeyPair::generate()?, authority(common_name, lifetime));
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Self { certificate, issuer: Issuer::new(params, key) })
    }

    /// One that was kept, under the name that it was made with: an issuer is found by its name.
    ///
    /// # Errors
    /// Where the key cannot be read.
    pub fn restore(common_name: &str, kept: Issued) -> Result<Self, IssueError> {
        let key = KeyPair::from_pem(&kept.key)?;
        let now = SystemTime::UNIX_EPOCH;
        let params = authority(common_name, Lifetime { from: now, until: now });
        Ok(Self { certificate: kept.certificate, issuer: Issuer::new(params, key) })
    }

    /// Its certificate and key, to be kept. Whoever has the key can speak for every region.
    #[must_use]
    pub fn kept(&self) -> Issued {
        Issued { certificate: self.certificate.clone(), key: self.issuer.key().serialize_pem() }
    }

    /// Its certificate, PEM.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A certificate for `name`. It names no host: peers are known by their SPIFFE ID.
    ///
    /// # Errors
    /// Where no key can be made.
    pub fn issue(&self, name: &PeerName, kind: KeyKind, lifetime: Lifetime) -> Result<Issued, IssueError> {
        self.issue_uris(&[name.to_string()], &name.id, kind, lifetime)
    }

    pub(super) fn issue_uris(
        &self,
        uris: &[String],
        common_name: &str,
        kind: KeyKind,
        lifetime: Lifetime,
    ) -> Result<Issued, IssueError> {
        let key = KeyPair::generate_for(match kind {
            KeyKind::EcdsaP256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            KeyKind::Ed25519 => &rcgen::PKCS_ED25519,
        })?;
        let mut params = dated(common_name, lifetime);
        for uri in uris {
            params.subject_alt_names.push(SanType::URI(uri.as_str().try_into()?));
        }
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Issued { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

fn authority(common_name: &str, lifetime: Lifetime) -> CertificateParams {
    let mut params = dated(common_name, lifetime);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn dated(common_name: &str, lifetime: Lifetime) -> CertificateParams {
    let date = |time: SystemTime| {
        let unix = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(unix.as_secs())
    };
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = date(lifetime.from);
    params.not_after = date(lifetime.until);
    params
}
