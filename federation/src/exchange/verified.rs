//! Which heads were found to be signed by their origin. The same head comes by several links; it is checked once.

use super::head::{SignedHead, Untrusted, Verifier};
use super::{Counters, limits};
use crate::planted::planted;
use sha2::{Digest, Sha256};
use std::collections::VecDeque;

/// The latest heads that were good; at most [`limits::VERIFIED`].
#[derive(Default)]
pub(super) struct Verified(VecDeque<[u8; 32]>);

impl Verified {
    pub(super) fn check(
        &mut self,
        verifier: &dyn Verifier,
        signed: &SignedHead,
        counters: &mut Counters,
    ) -> Result<(), Untrusted> {
        let mut hasher = Sha256::new();
        let message = if planted!(VerifiedBySignature) { Vec::new() } else { signed.head.signed_bytes() };
        for part in [&*message, &signed.credential, &signed.signature] {
            hasher.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            hasher.update(part);
        }
        let hash = hasher.finalize().into();
        if self.0.contains(&hash) {
            return Ok(());
        }
        counters.signatures_checked = counters.signatures_checked.saturating_add(1);
        let message = signed.head.signed_bytes();
        bound(signed, verifier.verify(&signed.credential, &message, &signed.signature)?)?;
        if self.0.len() >= limits::VERIFIED {
            self.0.pop_front();
        }
        self.0.push_back(hash);
        Ok(())
    }

    /// The same for what was kept on disk since it was checked.
    pub(super) fn check_kept(verifier: &dyn Verifier, signed: &SignedHead) -> Result<(), Untrusted> {
        let message = signed.head.signed_bytes();
        bound(signed, verifier.verify_kept(&signed.credential, &message, &signed.signature)?)
    }
}

fn bound(signed: &SignedHead, by: super::head::Signatory) -> Result<(), Untrusted> {
    if by.region == signed.head.origin && by.node == signed.head.node {
        return Ok(());
    }
    Err(Untrusted(format!(
        "the certificate of {}/{} may not speak for {}/{}",
        by.region, by.node, signed.head.origin, signed.head.node
    )))
}
