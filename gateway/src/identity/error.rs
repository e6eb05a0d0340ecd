//! What a token is refused for: a stable code for programs and a sentence for people that names the claim and what
//! was expected of it, never the token itself.

use std::fmt;

/// Why a token gives no identity. The code is part of the contract; new ones may be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TokenCode {
    /// Not a JWT in compact form, or larger than 8 KiB.
    Malformed,
    /// `exp` has passed.
    Expired,
    /// `nbf` or `iat` lies in the future.
    NotYetValid,
    /// `iss` is not a configured issuer.
    IssuerUnknown,
    /// `aud` names nobody that this gateway is.
    Audience,
    /// `alg` is not one that the issuer, the key or the kind of subject allows.
    Algorithm,
    /// No published key has this `kid`, or none can be told from the others.
    KeyUnknown,
    /// The signature is not the key's.
    Signature,
    /// `typ` says that it is something other than an identity token.
    Type,
    /// `crit` or `b64` demand extensions that nobody here understands.
    CriticalHeader,
    /// A header that a SPIFFE JWT-SVID must not carry.
    Header,
    /// A claim is missing, doubled or of the wrong form.
    Claims,
    /// Everything verifies, but no rule of the configuration gives it a role.
    NoRole,
    /// The issuer's keys could not be read for longer than they are kept.
    KeysStale,
}

impl TokenCode {
    /// The code as it stands in a problem and in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "token-malformed",
            Self::Expired => "token-expired",
            Self::NotYetValid => "token-not-yet-valid",
            Self::IssuerUnknown => "token-issuer-unknown",
            Self::Audience => "token-audience",
            Self::Algorithm => "token-algorithm",
            Self::KeyUnknown => "token-key-unknown",
            Self::Signature => "token-signature",
            Self::Type => "token-type",
            Self::CriticalHeader => "token-critical-header",
            Self::Header => "token-header",
            Self::Claims => "token-claims",
            Self::NoRole => "no-role",
            Self::KeysStale => "issuer-keys-stale",
        }
    }

    /// The HTTP status that goes with it: 401, but 403 where the bearer is known and has no role, and 503 where the
    /// fault is not the bearer's.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::NoRole => 403,
            Self::KeysStale => 503,
            _ => 401,
        }
    }
}

impl fmt::Display for TokenCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refused token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct TokenError {
    code: TokenCode,
    detail: String,
}

impl TokenError {
    pub(super) fn new(code: TokenCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }

    /// What kind of refusal it is.
    #[must_use]
    pub fn code(&self) -> TokenCode {
        self.code
    }

    /// What failed and what was expected. Fit for the bearer to see: it repeats claims, never signatures or keys.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }
}

/// Text from a token as it may stand in a sentence: quoted, escaped and at most 80 characters.
pub(super) struct Quoted<'a>(pub(super) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.char_indices().nth(80) {
            Some((end, _)) => write!(f, "{:?}…", self.0.get(..end).unwrap_or_default()),
            None => write!(f, "{:?}", self.0),
        }
    }
}
