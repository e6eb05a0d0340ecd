//! A certificate chain as it travels with a head: each certificate's length (32 bits, big-endian) and its DER, leaf first.

use super::trust::MAX_CHAIN;
use bytes::Bytes;
use rustls_pki_types::CertificateDer;

/// The chain as bytes.
pub(super) fn encode(chain: &[CertificateDer<'_>]) -> Bytes {
    let mut bytes = Vec::new();
    for certificate in chain {
        // A certificate comes from a file of at most 1 MiB.
        let len = u32::try_from(certificate.len()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&len.to_be_bytes());
        bytes.extend_from_slice(certificate);
    }
    bytes.into()
}

/// The chain that the bytes hold, if they hold one and nothing else.
pub(super) fn decode(mut bytes: &[u8]) -> Option<Vec<CertificateDer<'_>>> {
    let mut chain = Vec::new();
    while !bytes.is_empty() {
        let (len, rest) = bytes.split_first_chunk::<4>()?;
        let (certificate, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*len)).ok()?)?;
        chain.push(CertificateDer::from(certificate));
        bytes = rest;
        if chain.len() > MAX_CHAIN {
            return None;
        }
    }
    (!chain.is_empty()).then_some(chain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(chain in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 1..=MAX_CHAIN)) {
            let chain: Vec<CertificateDer<'_>> = chain.into_iter().map(CertificateDer::from).collect();
            let bytes = encode(&chain);
            prop_assert_eq!(decode(&bytes), Some(chain));
            prop_assert_eq!(decode(&bytes[..bytes.len() - 1]).is_some_and(|c| encode(&c) == bytes), false);
        }

        #[test]
        fn anything_else_is_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            if let Some(chain) = decode(&bytes) {
                prop_assert_eq!(encode(&chain), bytes);
            }
        }
    }
}
