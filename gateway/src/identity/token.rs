//! A JWT taken apart: form, headers and claims, before and apart from any key.
//!
//! RFC 7519 for the form, RFC 8725 for what to distrust. Of the headers only `alg`, `kid` and `typ` are used; those that
//! carry or point to keys (`jwk`, `jku`, `x5c`, `x5u`) are never followed.

use super::error::{Quoted, TokenCode, TokenError};
use super::{spiffe, strict_json};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use meridian_model::time::UnixMillis;
use serde_json::{Map, Value};
use std::time::Duration;

/// The largest token that is looked at.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// How far the clocks of an issuer and a gateway may be apart.
pub const LEEWAY: Duration = Duration::from_secs(10);

/// What an owner's record may hold; the longest SPIFFE ID.
const MAX_SUBJECT_BYTES: usize = 2048;

/// The last second of the year 9999. What lies beyond is a mistake in the unit, most likely milliseconds.
const LAST_SECOND: u64 = 253_402_300_799;

/// A token's parts. Nothing in it is verified.
pub(super) struct Token<'a> {
    header: Map<String, Value>,
    pub(super) claims: Map<String, Value>,
    /// What the signature is over.
    pub(super) signed: &'a [u8],
    /// Base64url, and known to be.
    pub(super) signature: &'a str,
}

impl<'a> Token<'a> {
    pub(super) fn parse(token: &'a str) -> Result<Self, TokenError> {
        let malformed = |detail: &str| TokenError::new(TokenCode::Malformed, detail);
        if token.len() > MAX_TOKEN_BYTES {
            return Err(malformed("the token is larger than 8 KiB"));
        }
        let mut parts = token.split('.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(malformed("a token is three parts of base64url, joined by dots (a signed JWT)"));
        };
        let signed = token.as_bytes().get(..header.len() + 1 + claims.len()).unwrap_or_default();
        let header = part(header).map_err(|e| malformed(&format!("the token's header {e}")))?;
        let claims = part(claims).map_err(|e| malformed(&format!("the token's payload {e}")))?;
        if URL_SAFE_NO_PAD.decode(signature).is_err() {
            return Err(malformed("the token's signature is not base64url without padding"));
        }
        let token = Self { header, claims, signed, signature };
        token.check_header()?;
        Ok(token)
    }

    fn check_header(&self) -> Result<(), TokenError> {
        if self.header.contains_key("crit") {
            return Err(TokenError::new(
                TokenCode::CriticalHeader,
                "the header crit is not supported, whatever it lists",
            ));
        }
        if self.header.get("b64").is_some_and(|b64| b64 != &Value::Bool(true)) {
            return Err(TokenError::new(TokenCode::CriticalHeader, "the header b64 may only be true"));
        }
        for name in ["alg", "kid", "typ"] {
            if self.header.get(name).is_some_and(|value| !value.is_string()) {
                return Err(TokenError::new(TokenCode::Malformed, format!("the header {name} is not text")));
            }
        }
        Ok(())
    }

    /// The header `alg`, as written.
    pub(super) fn algorithm(&self) -> Result<&str, TokenError> {
        let missing = || TokenError::new(TokenCode::Malformed, "the token has no header alg");
        self.header.get("alg").and_then(Value::as_str).ok_or_else(missing)
    }

    /// The header `kid`.
    pub(super) fn kid(&self) -> Option<&str> {
        self.header.get("kid").and_then(Value::as_str)
    }

    /// The claim `iss`.
    pub(super) fn issuer(&self) -> Result<&str, TokenError> {
        self.text("iss")
    }

    /// The claim `sub`, which is a well-formed SPIFFE ID if it claims to be one.
    pub(super) fn subject(&self) -> Result<&str, TokenError> {
        let subject = self.text("sub")?;
        if subject.len() > MAX_SUBJECT_BYTES {
            return Err(claims("sub has more than 2048 bytes"));
        }
        if subject.chars().any(char::is_control) {
            return Err(claims("sub holds control characters"));
        }
        if spiffe::claimed(subject) {
            spiffe::check(subject).map_err(|e| claims(format!("sub is {}: {e}", Quoted(subject))))?;
        }
        Ok(subject)
    }

    /// What the kind of `subject` asks of the headers: `typ`, and for a JWT-SVID that there are no others.
    pub(super) fn check_kind(&self, subject: &str) -> Result<(), TokenError> {
        let svid = spiffe::claimed(subject);
        if svid && let Some(other) = self.header.keys().find(|name| !spiffe::HEADERS.contains(&name.as_str()))
        {
            let detail =
                format!("a JWT-SVID has no headers but alg, kid and typ; this has {}", Quoted(other));
            return Err(TokenError::new(TokenCode::Header, detail));
        }
        let Some(typ) = self.header.get("typ").and_then(Value::as_str) else { return Ok(()) };
        let short = typ.to_ascii_lowercase();
        let short = short.strip_prefix("application/").unwrap_or(&short);
        let expected: &[&str] = if svid { &["jwt", "jose"] } else { &["jwt", "at+jwt"] };
        if expected.contains(&short) {
            return Ok(());
        }
        let detail = format!("typ is {}, expected one of {expected:?} or none", Quoted(typ));
        Err(TokenError::new(TokenCode::Type, detail))
    }

    /// That `aud`, a text or a list of texts, names one of `expected`.
    pub(super) fn check_audience(&self, expected: &[String]) -> Result<(), TokenError> {
        let named: Vec<&str> = match self.claims.get("aud") {
            None => return Err(claims("aud is missing")),
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(all)) => {
                let texts: Option<Vec<&str>> = all.iter().map(Value::as_str).collect();
                texts.ok_or_else(|| claims("aud is a list of something other than texts"))?
            }
            Some(_) => return Err(claims("aud is neither a text nor a list of texts")),
        };
        if named.iter().any(|name| expected.iter().any(|e| e == name)) {
            return Ok(());
        }
        let first = named.first().map_or_else(|| "empty".to_owned(), |name| Quoted(name).to_string());
        let more = if named.len() > 1 { format!(" and {} more", named.len() - 1) } else { String::new() };
        let detail = format!("aud is {first}{more}, expected {}", expected.join(" or "));
        Err(TokenError::new(TokenCode::Audience, detail))
    }

    /// That `now` lies between `nbf` and `exp` and not before `iat`, give or take [`LEEWAY`]. Returns `exp`.
    pub(super) fn check_time(&self, now: UnixMillis) -> Result<UnixMillis, TokenError> {
        let expires_at = self.time("exp")?.ok_or_else(|| claims("exp is missing"))?;
        if now >= expires_at.plus(LEEWAY) {
            let detail = format!("exp passed {} s ago", now.since(expires_at).as_secs());
            return Err(TokenError::new(TokenCode::Expired, detail));
        }
        for name in ["nbf", "iat"] {
            if let Some(from) = self.time(name)?
                && from > now.plus(LEEWAY)
            {
                let detail = format!("{name} is {} s in the future", from.since(now).as_secs());
                return Err(TokenError::new(TokenCode::NotYetValid, detail));
            }
        }
        Ok(expires_at)
    }

    fn text(&self, name: &str) -> Result<&str, TokenError> {
        match self.claims.get(name) {
            Some(Value::String(text)) if !text.is_empty() => Ok(text),
            Some(Value::String(_)) => Err(claims(format!("{name} is empty"))),
            Some(_) => Err(claims(format!("{name} is not text"))),
            None => Err(claims(format!("{name} is missing"))),
        }
    }

    /// A NumericDate: seconds, which may have a fraction.
    fn time(&self, name: &str) -> Result<Option<UnixMillis>, TokenError> {
        let Some(value) = self.claims.get(name) else { return Ok(None) };
        let bad = || {
            claims(format!(
                "{name} is not a time: expected seconds since 1970, before the year 10000, as a number"
            ))
        };
        if let Some(secs) = value.as_u64() {
            return if secs <= LAST_SECOND { Ok(Some(UnixMillis::from_secs(secs))) } else { Err(bad()) };
        }
        let secs = value.as_f64().filter(|secs| (0.0..=LAST_SECOND as f64).contains(secs)).ok_or_else(bad)?;
        Ok(Some(UnixMillis((secs * 1000.0) as u64)))
    }
}

fn claims(detail: impl Into<String>) -> TokenError {
    TokenError::new(TokenCode::Claims, detail)
}

fn part(text: &str) -> Result<Map<String, Value>, String> {
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| "is not base64url without padding".to_owned())?;
    strict_json::object(&bytes).map_err(|e| format!("is not a JSON object with each member once ({e})"))
}
