//! The handshake: TLS 1.3 with certificates on both sides, peers known by their SPIFFE ID and never by a host's name.

use super::material::Material;
use super::name::{PeerName, Station};
use super::trust::{Trust, TrustError, Validity};
use meridian_model::names::RegionName;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible,
    ServerConfig, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use smol_str::SmolStr;
use std::fmt;
use std::sync::Arc;
use thiserror::Error as ThisError;

/// gRPC runs on HTTP/2 and on nothing else.
const ALPN: &[u8] = b"h2";

/// Who may be at the other end.
#[derive(Clone, Debug)]
pub(super) enum Expected {
    /// A node of this region: what one dials.
    NodeOf(RegionName),
    /// Any node of the trust domain, or a gateway of this region: what a node accepts.
    NodeOrOwnGateway(RegionName),
}

/// Why a peer whose certificate is good is not talked to.
#[derive(Debug, Clone, PartialEq, Eq, ThisError)]
pub enum PeerError {
    /// Its certificate is not.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// It is somebody else.
    #[error("the peer is {0}, which is not who is expected here")]
    Unexpected(PeerName),
}

impl Expected {
    fn admits(&self, name: &PeerName) -> bool {
        match self {
            Self::NodeOf(region) => name.station == Station::Node && name.region == *region,
            Self::NodeOrOwnGateway(own) => name.station == Station::Node || name.region == *own,
        }
    }
}

/// The name that a peer's chain proves, if it is one that is expected.
pub(super) fn admit(
    trust: &Trust,
    domain: &SmolStr,
    expected: &Expected,
    chain: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<PeerName, PeerError> {
    let name = trust.name_in(domain, chain, Validity::At(now))?;
    if expected.admits(&name) { Ok(name) } else { Err(PeerError::Unexpected(name)) }
}

/// How to accept a connection, by what is in force now.
pub(super) fn server(material: &Material, expected: Expected) -> Result<ServerConfig, Error> {
    let verifier = Arc::new(Verifier::new(material, expected));
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(certified(material)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A resumed session would bring a name that was proven under authorities that may since have been taken away.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// How to open a connection, by what is in force now.
pub(super) fn client(material: &Material, expected: Expected) -> Result<ClientConfig, Error> {
    let verifier = Arc::new(Verifier::new(material, expected));
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(certified(material)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    // The name that is dialled means nothing here, so it is not told to whoever listens on the way.
    config.enable_sni = false;
    Ok(config)
}

fn certified(material: &Material) -> SingleCertAndKey {
    CertifiedKey::new(material.chain.clone(), Arc::clone(&material.key)).into()
}

/// Checks a peer's chain and name, whichever side it is on.
struct Verifier {
    trust: Trust,
    domain: SmolStr,
    expected: Expected,
    provider: CryptoProvider,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("expected", &self.expected).finish_non_exhaustive()
    }
}

impl Verifier {
    fn new(material: &Material, expected: Expected) -> Self {
        Self {
            trust: material.trust.clone(),
            domain: material.name.domain.clone(),
            expected,
            provider: aws_lc_rs::default_provider(),
        }
    }

    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let mut chain = vec![leaf.clone()];
        chain.extend_from_slice(intermediates);
        match admit(&self.trust, &self.domain, &self.expected, &chain, now) {
            Ok(_) => Ok(()),
            Err(error) => Err(refusal(error)),
        }
    }

    fn signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signed, &self.provider.signature_verification_algorithms)
    }
}

/// The alert that the peer sees is short; our side's error says it all.
fn refusal(error: PeerError) -> Error {
    Error::InvalidCertificate(match error {
        PeerError::Trust(TrustError::Untrusted(webpki::Error::CertExpired { .. })) => {
            CertificateError::Expired
        }
        PeerError::Trust(TrustError::Untrusted(webpki::Error::CertNotValidYet { .. })) => {
            CertificateError::NotValidYet
        }
        PeerError::Trust(TrustError::Untrusted(webpki::Error::UnknownIssuer)) => {
            CertificateError::UnknownIssuer
        }
        other => CertificateError::Other(rustls::OtherError(Arc::new(other))),
    })
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(leaf, intermediates, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(PeerIncompatible::Tls12NotOfferedOrEnabled))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(leaf, intermediates, now).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(PeerIncompatible::Tls12NotOfferedOrEnabled))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
