//! Whom this process believes: the authorities of its trust domain, and what a chain to one of them says.

use super::name::{NameError, PeerName};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use smol_str::SmolStr;
use std::time::Duration;
use thiserror::Error;

/// A leaf and three intermediates: more is nobody's practice, and path building costs the one who checks.
pub const MAX_CHAIN: usize = 4;

/// What a head may be signed with. Both are deterministic in cost and small; RSA is left out.
pub(super) const HEAD_ALGORITHMS: [&dyn SignatureVerificationAlgorithm; 2] =
    [webpki::aws_lc_rs::ECDSA_P256_SHA256, webpki::aws_lc_rs::ED25519];

/// A chain that is not believed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TrustError {
    /// Not a certificate, or too many of them.
    #[error("the certificate chain cannot be read: {0}")]
    Unreadable(String),
    /// No path to an authority of ours, or not now.
    #[error("the certificate is not trusted: {0}")]
    Untrusted(webpki::Error),
    /// It names nobody in the federation.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Another federation's certificate.
    #[error("the certificate is of the trust domain {theirs}, ours is {ours}")]
    Domain {
        /// Its domain.
        theirs: SmolStr,
        /// Ours.
        ours: SmolStr,
    },
}

/// At what time a chain must have been valid.
#[derive(Clone, Copy, Debug)]
pub enum Validity {
    /// Now: a peer that connects, a head that arrives.
    At(UnixTime),
    /// Now or earlier: a head that was checked when it came and was kept since. What its signer said does not become
    /// untrue when its certificate runs out.
    UpTo(UnixTime),
}

/// The authorities of the trust domain.
#[derive(Debug, Clone)]
pub struct Trust {
    anchors: Vec<TrustAnchor<'static>>,
}

impl Trust {
    /// From the PEM text of one or several certificates; several while authorities are being replaced.
    ///
    /// # Errors
    /// A sentence, where it holds none or one that cannot be an authority.
    pub fn from_pem(pem: &[u8]) -> Result<Self, String> {
        let mut anchors = Vec::new();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|e| format!("is not PEM: {e}"))?;
            let anchor = webpki::anchor_from_trusted_cert(&certificate)
                .map_err(|e| format!("holds a certificate that is no authority: {e}"))?;
            anchors.push(anchor.to_owned());
        }
        if anchors.is_empty() {
            return Err("holds no certificate".to_owned());
        }
        Ok(Self { anchors })
    }

    /// Whose chain this is, if it is believed. The names of hosts play no part: the SPIFFE ID is the name.
    ///
    /// # Errors
    /// Named by [`TrustError`].
    pub fn name_of(&self, chain: &[CertificateDer<'_>], valid: Validity) -> Result<PeerName, TrustError> {
        let Some((leaf, intermediates)) = chain.split_first() else {
            return Err(TrustError::Unreadable("it is empty".into()));
        };
        if chain.len() > MAX_CHAIN {
            return Err(TrustError::Unreadable(format!("{} certificates, {MAX_CHAIN} at most", chain.len())));
        }
        let leaf = webpki::EndEntityCert::try_from(leaf).map_err(TrustError::Untrusted)?;
        self.path(&leaf, intermediates, valid).map_err(TrustError::Untrusted)?;
        Ok(PeerName::of_uris(leaf.valid_uri_names())?)
    }

    /// As [`Trust::name_of`], and of the same trust domain.
    ///
    /// # Errors
    /// Named by [`TrustError`].
    pub fn name_in(
        &self,
        domain: &SmolStr,
        chain: &[CertificateDer<'_>],
        valid: Validity,
    ) -> Result<PeerName, TrustError> {
        let name = self.name_of(chain, valid)?;
        if name.domain != *domain {
            return Err(TrustError::Domain { theirs: name.domain, ours: domain.clone() });
        }
        Ok(name)
    }

    /// When a chain that is believed now will be no more: the first end on its path that a check finds.
    pub(super) fn ends(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Option<UnixTime> {
        const CENTURY: Duration = Duration::from_secs(100 * 365 * 86_400);
        let (leaf, intermediates) = chain.split_first()?;
        let leaf = webpki::EndEntityCert::try_from(leaf).ok()?;
        let later = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()).saturating_add(CENTURY));
        match self.path(&leaf, intermediates, Validity::At(later)) {
            Err(webpki::Error::CertExpired { not_after, .. }) => Some(not_after),
            _ => None,
        }
    }

    fn path(
        &self,
        leaf: &webpki::EndEntityCert<'_>,
        intermediates: &[CertificateDer<'_>],
        valid: Validity,
    ) -> Result<(), webpki::Error> {
        let check = |time| {
            leaf.verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                &self.anchors,
                intermediates,
                time,
                BothEnds,
                None,
                None,
            )
            .map(|_| ())
        };
        match valid {
            Validity::At(now) => check(now),
            Validity::UpTo(now) => {
                // Each step back is to the end of one certificate's time, and there are at most so many certificates.
                let mut time = now;
                for _ in 0..MAX_CHAIN {
                    match check(time) {
                        Err(webpki::Error::CertExpired { not_after, .. }) if not_after < time => {
                            time = not_after;
                        }
                        other => return other,
                    }
                }
                check(time)
            }
        }
    }
}

/// A federation process is a server to those who dial it and a client to those whom it dials: a certificate that lists
/// usages lists both.
struct BothEnds;

impl webpki::ExtendedKeyUsageValidator for BothEnds {
    fn validate(&self, usages: webpki::KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        const SERVER: &[usize] = &[1, 3, 6, 1, 5, 5, 7, 3, 1];
        const CLIENT: &[usize] = &[1, 3, 6, 1, 5, 5, 7, 3, 2];
        let (mut listed, mut server, mut client) = (false, false, false);
        for usage in usages {
            listed = true;
            let usage = usage?.to_decoded_oid();
            server |= usage == SERVER;
            client |= usage == CLIENT;
        }
        if !listed || (server && client) {
            return Ok(());
        }
        let required = webpki::KeyUsage::server_auth();
        Err(webpki::Error::RequiredEkuNotFoundContext(webpki::RequiredEkuNotFoundContext {
            required,
            present: Vec::new(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::certificates::{Authority, Issued, KeyKind, Lifetime};
    use super::super::rig::{authority, ended, lifetime, name, to_come};
    use super::*;

    fn chain(pems: &[&str]) -> Vec<CertificateDer<'static>> {
        pems.iter().map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).collect()
    }

    fn trust(authority: &Authority) -> Trust {
        Trust::from_pem(authority.certificate().as_bytes()).unwrap()
    }

    fn issue(authority: &Authority, lifetime: Lifetime) -> Issued {
        authority.issue(&name("eu/node/a"), KeyKind::EcdsaP256, lifetime).unwrap()
    }

    fn now() -> Validity {
        Validity::At(UnixTime::now())
    }

    #[test]
    fn a_chain_through_an_intermediate_is_believed_when_it_is_whole() {
        let root = authority();
        let regional = root.subordinate("eu authority", lifetime()).unwrap();
        let leaf = issue(&regional, lifetime());
        let whole = chain(&[&leaf.certificate, regional.certificate()]);
        assert_eq!(trust(&root).name_of(&whole, now()), Ok(name("eu/node/a")));
        let of = |trust: Trust, chain| trust.name_of(chain, now());
        assert!(matches!(of(trust(&root), &whole[..1]), Err(TrustError::Untrusted(_))));
        assert!(matches!(of(trust(&authority()), &whole), Err(TrustError::Untrusted(_))));
    }

    #[test]
    fn what_ran_out_is_believed_only_of_what_was_kept() {
        let root = authority();
        let past = Validity::UpTo(UnixTime::now());
        let old = chain(&[&issue(&root, ended()).certificate]);
        assert!(matches!(
            trust(&root).name_of(&old, now()),
            Err(TrustError::Untrusted(webpki::Error::CertExpired { .. }))
        ));
        assert_eq!(trust(&root).name_of(&old, past), Ok(name("eu/node/a")));
        assert!(trust(&authority()).name_of(&old, past).is_err());
        let early = chain(&[&issue(&root, to_come()).certificate]);
        assert!(trust(&root).name_of(&early, now()).is_err());
        assert!(trust(&root).name_of(&early, past).is_err());
    }

    #[test]
    fn an_authority_is_nobody_and_an_empty_chain_is_nothing() {
        let root = authority();
        let own = chain(&[root.certificate()]);
        assert!(trust(&root).name_of(&own, now()).is_err());
        assert!(matches!(trust(&root).name_of(&[], now()), Err(TrustError::Unreadable(_))));
        let leaf = issue(&root, lifetime());
        let long = chain(&[
            &leaf.certificate,
            root.certificate(),
            root.certificate(),
            root.certificate(),
            root.certificate(),
        ]);
        assert!(matches!(trust(&root).name_of(&long, now()), Err(TrustError::Unreadable(_))));
    }

    #[test]
    fn a_certificate_with_two_names_is_nobodys() {
        let root = authority();
        let uris = ["spiffe://test/region/eu/node/a", "spiffe://test/region/us/node/a"].map(String::from);
        let leaf = root.issue_uris(&uris, "a", KeyKind::EcdsaP256, lifetime()).unwrap();
        let refused = trust(&root).name_of(&chain(&[&leaf.certificate]), now());
        assert_eq!(refused, Err(TrustError::Name(NameError::Count(2))));
    }

    #[test]
    fn another_federation_is_another_federation() {
        let root = authority();
        let leaf = issue(&root, lifetime());
        let refused = trust(&root).name_in(&"prod".into(), &chain(&[&leaf.certificate]), now());
        assert_eq!(refused, Err(TrustError::Domain { theirs: "test".into(), ours: "prod".into() }));
    }

    #[test]
    fn the_end_of_a_certificate_is_known() {
        let root = Authority::new(
            "long",
            Lifetime::starting(std::time::SystemTime::now(), Duration::from_secs(1 << 30)),
        )
        .unwrap();
        let until = lifetime().until;
        let leaf = issue(&root, Lifetime { until, ..lifetime() });
        let ends = trust(&root).ends(&chain(&[&leaf.certificate]), UnixTime::now()).unwrap();
        let until = until.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap().as_secs();
        assert_eq!(ends.as_secs(), until);
    }
}
