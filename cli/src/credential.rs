//! Which token goes along with a request: the one that was given, or one of the development issuer.

use crate::failure::Failure;
use anyhow::Context;
use meridian_gateway::clock::unix_now;
use meridian_gateway::identity::{Issuer, KEY_FILE, MintRequest};
use meridian_model::names::{Namespace, ServiceName};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a token lives that the command line mints for itself.
const DEVELOPMENT_TTL: Duration = Duration::from_secs(3600);
/// After which it mints another: early, so that a lease bounded by the token's end is extended in time, and seldom,
/// because the gateway writes the new end into the registry.
const MINT_AGAIN_AFTER: Duration = Duration::from_secs(1800);
/// Longer ones are refused by every gateway; more than this is not read from a file.
const MAX_TOKEN_BYTES: u64 = 8 * 1024;

/// On whose behalf a command speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Role {
    /// Nobody's in particular: lookups.
    Reader,
    /// An operator's.
    Operator,
    /// A workload's.
    Workload(Namespace, ServiceName),
}

impl Role {
    fn words(&self) -> String {
        match self {
            Self::Reader => "reader".to_owned(),
            Self::Operator => "operator".to_owned(),
            Self::Workload(namespace, service) => format!("workload {namespace}/{service}"),
        }
    }

    fn request(&self, ttl: Duration) -> MintRequest {
        match self {
            Self::Reader => MintRequest::dev_reader(ttl, unix_now()),
            Self::Operator => MintRequest::dev_operator(ttl, unix_now()),
            Self::Workload(namespace, service) => {
                MintRequest::dev_workload(namespace, service, ttl, unix_now())
            }
        }
    }
}

/// A development token.
pub(crate) fn mint(issuer: &Issuer, role: &Role, ttl: Duration) -> Result<String, Failure> {
    Ok(issuer.mint(&role.request(ttl)).context("no token was minted")?)
}

/// Development tokens of one role, each used for half of its life.
pub(crate) struct Development {
    issuer: Arc<Issuer>,
    role: Role,
    minted: Mutex<Option<(String, Instant)>>,
}

impl Development {
    /// Tokens of `role`.
    pub(crate) fn new(issuer: Arc<Issuer>, role: Role) -> Self {
        Self { issuer, role, minted: Mutex::new(None) }
    }

    fn token(&self) -> Result<String, Failure> {
        let mut minted = self.minted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((token, _)) = minted.as_ref().filter(|(_, at)| at.elapsed() < MINT_AGAIN_AFTER) {
            return Ok(token.clone());
        }
        let token = mint(&self.issuer, &self.role, DEVELOPMENT_TTL)?;
        *minted = Some((token.clone(), Instant::now()));
        Ok(token)
    }
}

/// Where tokens come from.
pub(crate) enum Credential {
    /// None is sent.
    None,
    /// This one.
    Given(String),
    /// The content of a file, read anew for every request: projected tokens are rotated in place.
    File(PathBuf),
    /// Minted here.
    Development(Development),
}

impl Credential {
    /// The token for the next request.
    pub(crate) fn bearer(&self) -> Result<Option<String>, Failure> {
        match self {
            Self::None => Ok(None),
            Self::Given(token) => Ok(Some(token.clone())),
            Self::File(path) => read_token(path).map(Some),
            Self::Development(tokens) => tokens.token().map(Some),
        }
    }

    /// Tokens of the development issuer in `data_dir`, if there is one, and what to tell the user about it.
    pub(crate) fn development(data_dir: &Path, role: Role) -> Result<Option<(Self, String)>, Failure> {
        let key = data_dir.join(KEY_FILE);
        if !key.is_file() {
            return Ok(None);
        }
        let issuer =
            Issuer::load(&key).context("the development issuer cannot be used; give a token with --token")?;
        let remark = format!("using a development token ({}) minted with {}", role.words(), key.display());
        let tokens = Development::new(Arc::new(issuer), role);
        Ok(Some((Self::Development(tokens), remark)))
    }
}

fn read_token(path: &Path) -> Result<String, Failure> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_TOKEN_BYTES + 2).read_to_string(&mut text))
        .map_err(|error| {
            Failure::Usage(format!("the token file {} cannot be read: {error}", path.display()))
        })?;
    let token = text.trim();
    if token.is_empty() {
        return Err(Failure::Usage(format!("the token file {} is empty", path.display())));
    }
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_token_is_made_up_without_an_issuer() {
        let directory = tempfile::tempdir().unwrap();
        assert!(Credential::development(directory.path(), Role::Operator).unwrap().is_none());
    }

    #[test]
    fn a_development_token_is_used_again() {
        let directory = tempfile::tempdir().unwrap();
        Issuer::init(directory.path()).unwrap();
        let (credential, remark) =
            Credential::development(directory.path(), Role::Operator).unwrap().unwrap();
        let first = credential.bearer().unwrap().unwrap();
        // ES256 signatures are random: an equal token is the same one.
        assert_eq!(credential.bearer().unwrap().unwrap(), first);
        assert!(remark.contains("operator"), "{remark}");
    }

    #[test]
    fn a_token_file_is_read_anew() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("token");
        let credential = Credential::File(file.clone());
        for token in ["a.b.c", "d.e.f"] {
            std::fs::write(&file, format!("{token}\n")).unwrap();
            assert_eq!(credential.bearer().unwrap().as_deref(), Some(token));
        }
        std::fs::write(&file, "\n").unwrap();
        assert!(matches!(credential.bearer(), Err(Failure::Usage(_))));
    }
}
