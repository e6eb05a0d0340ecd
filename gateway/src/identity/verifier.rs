//! From a bearer's token to an identity, without I/O.

use super::cache::{self, Cache, Verified};
use super::error::{Quoted, TokenCode, TokenError};
use super::key_file::{KeyFile, Refreshed};
use super::keys::{Key, NoKey, asymmetric};
use super::role::{Identity, Role};
use super::rule::{Miss, Rule};
use super::spiffe;
use super::token::{LEEWAY, MAX_TOKEN_BYTES, Token};
use jsonwebtoken::Algorithm;
use meridian_model::instance::Owner;
use meridian_model::time::UnixMillis;
use std::sync::Arc;

/// Verified tokens that are remembered: one for each instance of a large region. About 250 bytes each.
const CACHED_TOKENS: usize = 100_000;

/// A checked issuer with its keys.
pub(super) struct TrustedIssuer {
    pub(super) name: String,
    pub(super) audience: Vec<String>,
    pub(super) algorithms: Vec<Algorithm>,
    pub(super) keys: KeyFile,
}

/// Verifies tokens by the issuers and rules of one configuration. Shared by all requests.
pub struct Verifier {
    issuers: Vec<TrustedIssuer>,
    rules: Vec<Rule>,
    cache: Cache,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let issuers: Vec<&str> = self.issuers.iter().map(|issuer| issuer.name.as_str()).collect();
        f.debug_struct("Verifier")
            .field("issuers", &issuers)
            .field("rules", &self.rules.len())
            .finish_non_exhaustive()
    }
}

impl Verifier {
    pub(super) fn new(issuers: Vec<TrustedIssuer>, rules: Vec<Rule>) -> Self {
        Self { issuers, rules, cache: Cache::new(CACHED_TOKENS) }
    }

    /// Whether there is an issuer at all; without one every token is refused.
    #[must_use]
    pub fn has_issuers(&self) -> bool {
        !self.issuers.is_empty()
    }

    /// The identity of the bearer of `token` (without `Bearer `). Does no I/O and takes no lock that anybody waits for;
    /// about 100 µs for a token that is new and under 1 µs for one that is remembered.
    pub fn verify(&self, token: &str, now: UnixMillis) -> Result<Arc<Identity>, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::new(TokenCode::Malformed, "the token is larger than 8 KiB"));
        }
        let hash = cache::hash(token);
        if let Some(known) = self.cache.get(&hash) {
            if self.still_holds(&known, now) {
                return Ok(Arc::clone(&known.identity));
            }
            self.cache.remove(&hash);
        }
        let verified = Arc::new(self.verify_anew(token, now)?);
        self.cache.insert(hash, Arc::clone(&verified));
        Ok(Arc::clone(&verified.identity))
    }

    /// Reads the key files that changed, and those where an unknown `kid` asked for it, at most every 30 s each. Does file
    /// I/O: call it every few seconds, beside the requests. Returns what is worth a line in the log, by issuer.
    pub fn refresh(&self, now: UnixMillis) -> Vec<(&str, Refreshed)> {
        let refresh = |issuer: &'_ TrustedIssuer| issuer.keys.refresh(now);
        self.issuers.iter().filter_map(|issuer| Some((issuer.name.as_str(), refresh(issuer)?))).collect()
    }

    /// How many verified tokens are remembered, for metrics.
    #[must_use]
    pub fn cached_tokens(&self) -> usize {
        self.cache.len()
    }

    /// Whether what was found still rests on a key that is published, and on time.
    fn still_holds(&self, known: &Verified, now: UnixMillis) -> bool {
        now < known.valid_before
            && self
                .issuers
                .get(known.issuer)
                .is_some_and(|issuer| issuer.keys.keys().holds(&known.key) && !issuer.keys.is_stale(now))
    }

    /// Cheap checks come before the signature, so that a crowd with expired tokens does not cost a verification each. What
    /// they say rests on nothing yet, but it only ever refuses.
    fn verify_anew(&self, text: &str, now: UnixMillis) -> Result<Verified, TokenError> {
        let token = Token::parse(text)?;
        let (position, issuer) = self.issuer(&token)?;
        let algorithm = issuer.algorithm(&token)?;
        let subject = token.subject()?;
        if spiffe::claimed(subject) && algorithm == Algorithm::EdDSA {
            let detail = "alg is EdDSA, but a JWT-SVID is signed with ES, RS or PS 256 to 512";
            return Err(TokenError::new(TokenCode::Algorithm, detail));
        }
        token.check_kind(subject)?;
        token.check_audience(&issuer.audience)?;
        let expires_at = token.check_time(now)?;
        if issuer.keys.is_stale(now) {
            let detail = format!("the keys of issuer {:?} could not be read for too long", issuer.name);
            return Err(TokenError::new(TokenCode::KeysStale, detail));
        }
        let key = issuer.verify_signature(&token, algorithm)?;
        let role = self.role(position, subject, &token)?;
        let owner = Owner { issuer: issuer.name.as_str().into(), subject: subject.into() };
        let identity = Arc::new(Identity::new(owner, role, expires_at));
        Ok(Verified { identity, issuer: position, key, valid_before: expires_at.plus(LEEWAY) })
    }

    fn issuer(&self, token: &Token<'_>) -> Result<(usize, &TrustedIssuer), TokenError> {
        let name = token.issuer()?;
        let found = self.issuers.iter().enumerate().find(|(_, issuer)| issuer.name == name);
        found.ok_or_else(|| {
            let detail = format!("iss is {}, which is not an issuer that this gateway trusts", Quoted(name));
            TokenError::new(TokenCode::IssuerUnknown, detail)
        })
    }

    fn role(&self, issuer: usize, subject: &str, token: &Token<'_>) -> Result<Role, TokenError> {
        let mut nearest = Miss::Subject;
        for rule in self.rules.iter().filter(|rule| rule.issuer == issuer) {
            match rule.role(subject, &token.claims) {
                Ok(role) => return Ok(role),
                Err(miss) => nearest = nearest.max(miss),
            }
        }
        let why = match nearest {
            Miss::Subject => String::new(),
            Miss::Claim(name) => format!(": the nearest fails on the claim {}", Quoted(&name)),
            Miss::Grammar(detail) => format!(": {detail}"),
        };
        let detail = format!("no rule matches sub {}{why}", Quoted(subject));
        Err(TokenError::new(TokenCode::NoRole, detail))
    }
}

impl TrustedIssuer {
    fn algorithm(&self, token: &Token<'_>) -> Result<Algorithm, TokenError> {
        let name = token.algorithm()?;
        asymmetric(name).filter(|algorithm| self.algorithms.contains(algorithm)).ok_or_else(|| {
            let detail = format!("alg is {}, expected one of {:?}", Quoted(name), self.algorithms);
            TokenError::new(TokenCode::Algorithm, detail)
        })
    }

    /// The fingerprint of the key whose signature it is.
    fn verify_signature(
        &self,
        token: &Token<'_>,
        algorithm: Algorithm,
    ) -> Result<super::keys::Fingerprint, TokenError> {
        let keys = self.keys.keys();
        let refuse = |code, detail: String| Err(TokenError::new(code, detail));
        let candidates: Vec<&Key> = match (keys.candidates(token.kid(), algorithm), token.kid()) {
            (Ok(candidates), _) => candidates,
            (Err(NoKey::Unknown), kid) => {
                self.keys.want();
                let kid = Quoted(kid.unwrap_or_default());
                return refuse(
                    TokenCode::KeyUnknown,
                    format!("kid is {kid}, which the issuer has not published"),
                );
            }
            (Err(NoKey::Ambiguous(several)), _) => {
                let detail = format!("the token has no kid, and {several} keys of the issuer could be meant");
                return refuse(TokenCode::KeyUnknown, detail);
            }
            (Err(NoKey::OtherAlgorithm), Some(kid)) => {
                let detail = format!("the key {} is not for alg {algorithm:?}", Quoted(kid));
                return refuse(TokenCode::Algorithm, detail);
            }
            (Err(NoKey::OtherAlgorithm), None) => {
                return refuse(
                    TokenCode::Algorithm,
                    format!("the issuer publishes no key for alg {algorithm:?}"),
                );
            }
        };
        match candidates.iter().find(|key| key.verifies(token.signature, token.signed, algorithm)) {
            Some(key) => Ok(key.fingerprint),
            None => {
                refuse(TokenCode::Signature, "the signature does not verify with the issuer's key".to_owned())
            }
        }
    }
}
