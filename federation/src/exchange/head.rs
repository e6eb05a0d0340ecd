//! Heads: what an origin signs. A head names a state by its root, so whoever has the head can check the records, wherever
//! they came from.

use bytes::Bytes;
use meridian_model::incarnation::Incarnation;
use meridian_model::names::{BadName, GatewayId, RegionName};
use smol_str::SmolStr;
use std::fmt;
use std::str::FromStr;

/// Stands before what is signed, so that the signature is good for nothing else. The number is the layout's version.
const DOMAIN: &[u8] = b"meridian federation head 1\0";

/// One federation node; unique in its region. The grammar is that of instance ids.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(SmolStr);

impl NodeId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeId {
    type Err = BadName;
    fn from_str(text: &str) -> Result<Self, BadName> {
        let checked: GatewayId = text.parse().map_err(|bad| BadName { kind: "federation node id", ..bad })?;
        Ok(Self(checked.as_str().into()))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// SHA-256 over all records of a state; see [`super::state`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Root(pub [u8; 32]);

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(6).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Which state of an origin. Ordered by [`Version::place`] alone: two versions of one place and different roots are a
/// divergence, not an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Version {
    /// The life of the origin's registry.
    pub incarnation: Incarnation,
    /// The registry's revision in it.
    pub index: u64,
    /// What the records must add up to.
    pub root: Root,
}

impl Version {
    /// Where it stands among the origin's states.
    #[must_use]
    pub fn place(&self) -> Place {
        Place { incarnation: self.incarnation, index: self.index }
    }

    /// Whether their places do not say which of the two is the later: they are of lives that knew nothing of each other, or
    /// have one place and other records. Which is the later one is for the origin to say, by a new life above both.
    #[must_use]
    pub fn contradicts(&self, other: &Self) -> bool {
        let diverged = self.place() == other.place() && self.root != other.root;
        diverged || self.incarnation.rivals(&other.incarnation)
    }
}

/// Where a state stands among its origin's: by life, then by index. Of two lives with the same counter, which knew
/// nothing of each other, the greater random number wins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The life of the origin's registry.
    pub incarnation: Incarnation,
    /// The registry's revision in it.
    pub index: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.incarnation, self.index)
    }
}

/// What a node of an origin says of its region's state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Head {
    /// Whose state.
    pub origin: RegionName,
    /// Which of its nodes says so.
    pub node: NodeId,
    /// Which state.
    pub version: Version,
    /// How many records it has.
    pub records: u32,
}

impl Head {
    /// What is signed: every field, each with its length where that varies.
    #[must_use]
    pub fn signed_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(192);
        out.extend_from_slice(DOMAIN);
        for text in [self.origin.as_str(), self.node.as_str()] {
            // Names are at most 128 bytes.
            out.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
            out.extend_from_slice(text.as_bytes());
        }
        out.extend_from_slice(&self.version.incarnation.counter.to_be_bytes());
        out.extend_from_slice(&self.version.incarnation.random.to_be_bytes());
        out.extend_from_slice(&self.version.index.to_be_bytes());
        out.extend_from_slice(&self.version.root.0);
        out.extend_from_slice(&self.records.to_be_bytes());
        out
    }
}

/// A head as it travels, from link to link unchanged.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SignedHead {
    /// What is said.
    pub head: Head,
    /// Who may say it: the node's certificate chain, opaque here.
    pub credential: Bytes,
    /// Over [`Head::signed_bytes`].
    pub signature: Bytes,
}

/// Signs with the node's key.
pub trait Signer: Send {
    /// The certificate chain that [`Verifier`]s elsewhere will check the signature by. Asked at every head, so that a
    /// renewed certificate is used at once.
    fn credential(&self) -> Bytes;
    /// A signature over `message` by the key of that certificate.
    ///
    /// # Errors
    /// If the key cannot sign. The head stays unpublished until the next change.
    fn sign(&self, message: &[u8]) -> Result<Bytes, CannotSign>;
}

/// Checks signatures of other nodes.
pub trait Verifier: Send + Sync {
    /// Whose certificate `credential` is, if it is to be trusted and `signature` over `message` is by its key.
    ///
    /// # Errors
    /// If either is not so.
    fn verify(&self, credential: &[u8], message: &[u8], signature: &[u8]) -> Result<Signatory, Untrusted>;
    /// The same for what was checked when it came and was kept on disk since: the certificate may have expired.
    ///
    /// # Errors
    /// As above.
    fn verify_kept(
        &self,
        credential: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<Signatory, Untrusted> {
        self.verify(credential, message, signature)
    }
}

/// What a certificate binds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signatory {
    /// The region that it may speak for.
    pub region: RegionName,
    /// The node.
    pub node: NodeId,
}

/// The key cannot sign; the text is for the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node's key cannot sign: {0}")]
pub struct CannotSign(pub String);

/// A signature or certificate is not to be trusted; the text is for the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not to be trusted: {0}")]
pub struct Untrusted(pub String);
