//! What a peer may not do. A violation closes its link and changes nothing that is held.

/// Why a link is closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// More links than [`super::limits::LINKS`].
    #[error("too many links")]
    TooManyLinks,
    /// More origins than [`super::limits::ORIGINS`].
    #[error("too many origins")]
    TooManyOrigins,
    /// More records than [`super::limits::RECORDS`].
    #[error("too many records")]
    TooManyRecords,
    /// A record over [`super::limits::RECORD_BYTES`].
    #[error("a record is too large")]
    RecordTooLarge,
    /// A message over [`super::limits::MESSAGE_BYTES`].
    #[error("a message is too large")]
    MessageTooLarge,
    /// A state over [`super::limits::ORIGIN_BYTES`].
    #[error("an origin's records are too large")]
    OriginTooLarge,
    /// A certificate chain or signature over its limit.
    #[error("a credential is too large")]
    CredentialTooLarge,
    /// More unfinished updates than [`super::limits::TRANSFERS`].
    #[error("too many updates at once")]
    TooManyTransfers,
    /// Not a message of this protocol: a newer version, or an enemy.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// A head that its origin did not sign: a relay that forges, or certificates of different authorities.
    #[error("a head that its origin did not sign: {0}")]
    Unsigned(String),
    /// All parts came and the records are not what the origin signed.
    #[error("records that their origin did not sign")]
    WrongRoot,
    /// A peer that may not do this: a leaf that publishes, a leaf of another region.
    #[error("not for this peer: {0}")]
    NotAllowed(&'static str),
}
