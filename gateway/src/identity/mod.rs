//! Who is asking: from a signed token to what its bearer may do.
//!
//! A token is a JWT of an issuer that the configuration names. [`IdentityConfig::check`] turns the section `[identity]`
//! into a [`Verifier`]; that turns a token into an [`Identity`], which answers what may be registered, changed, read and
//! operated. [`Issuer`] makes tokens for development and tests.
//!
//! Nothing on the way of a request does I/O or waits: keys are read beside it, by [`Verifier::refresh`].

mod cache;
mod config;
mod error;
mod issuer;
mod key_file;
mod keys;
mod pattern;
mod role;
mod rule;
mod spiffe;
mod strict_json;
mod token;
mod verifier;

pub use config::{Audience, ClaimValue, ConfigError, IdentityConfig, IssuerConfig, RuleConfig};
pub use error::{TokenCode, TokenError};
pub use issuer::{
    DEV_AUDIENCE, DEV_ISSUER, Issuer, IssuerError, JWKS_FILE, KEY_FILE, MintRequest, dev_identity_config,
    dev_subject,
};
pub use key_file::Refreshed;
pub use role::{Denied, DeniedCode, Identity, Role, Scope};
pub use token::{LEEWAY, MAX_TOKEN_BYTES};
pub use verifier::Verifier;
