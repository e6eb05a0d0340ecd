//! `meridian token`: development tokens, and the key that signs them.

use crate::arguments;
use crate::connection::Global;
use crate::credential::{Role, mint};
use crate::failure::Failure;
use crate::output;
use anyhow::Context;
use clap::ValueEnum;
use meridian_gateway::identity::{DEV_AUDIENCE, DEV_ISSUER, Issuer, JWKS_FILE, KEY_FILE};
use meridian_model::names::{Namespace, ServiceName};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Mint a development token and print it, bare
    ///
    /// A workload's token speaks for one service of one namespace; an operator's binds policies and drains; a reader's
    /// looks up where lookups need a token.
    #[command(after_help = "Examples:\n  meridian token mint --service orders-api\n  \
        meridian token mint --namespace staging --service orders-api --ttl 10m\n  \
        curl -H \"Authorization: Bearer $(meridian token mint --role operator)\" http://127.0.0.1:8500/v1/policies")]
    Mint(MintArguments),
    /// Make and keep the key that signs development tokens
    #[command(subcommand)]
    Issuer(IssuerCommand),
}

#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(group(clap::ArgGroup::new("who").required(true).args(["service", "role"])))]
pub(crate) struct MintArguments {
    /// Namespace of the workload
    #[arg(long, default_value = "default", conflicts_with = "role")]
    namespace: Namespace,
    /// Service that the workload is an instance of
    #[arg(long)]
    service: Option<ServiceName>,
    /// A role that is not a workload's
    #[arg(long)]
    role: Option<MintRole>,
    /// How long it is valid, such as 30s, 10m, 8h
    #[arg(long, default_value = "1h", value_parser = arguments::duration)]
    ttl: Duration,
    /// Private key that signs it [default: issuer.key in --data-dir]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum MintRole {
    Operator,
    Reader,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum IssuerCommand {
    /// Make a key and its published key set, and print the configuration that trusts it
    ///
    /// Whoever can read the key can be anybody, so it is made with mode 0600 and never overwritten. It is for
    /// development and tests; in production, tokens come from SPIFFE, Kubernetes or an OIDC issuer.
    Init {
        /// Directory to make them in
        directory: PathBuf,
    },
}

pub(crate) fn run(command: Command, global: &Global) -> Result<(), Failure> {
    match command {
        Command::Mint(arguments) => {
            let token = mint_as_asked(arguments, &global.data_dir)?;
            if global.json {
                output::json(&json!({ "token": token }));
            } else {
                output::say(token);
            }
        }
        Command::Issuer(IssuerCommand::Init { directory }) => {
            let issuer = Issuer::init(&directory).context("no issuer was made")?;
            let (key, jwks) = (directory.join(KEY_FILE), directory.join(JWKS_FILE));
            if global.json {
                output::json(&json!({ "key": key, "jwks": jwks, "kid": issuer.kid() }));
            } else {
                output::say(format_args!(
                    "private key  {}\nkey set      {}\n\n{}",
                    key.display(),
                    jwks.display(),
                    trust(&jwks)
                ));
            }
        }
    }
    Ok(())
}

fn mint_as_asked(arguments: MintArguments, data_dir: &Path) -> Result<String, Failure> {
    let MintArguments { namespace, service, role, ttl, key } = arguments;
    let role = match (service, role) {
        (Some(service), _) => Role::Workload(namespace, service),
        (None, Some(MintRole::Reader)) => Role::Reader,
        (None, _) => Role::Operator,
    };
    let key = key.unwrap_or_else(|| data_dir.join(KEY_FILE));
    if !key.exists() {
        return Err(Failure::Usage(format!(
            "there is no key {}\n  next: `meridian dev` makes one in .meridian of its working directory, \
             `meridian token issuer init DIR` makes one anywhere; name it with --key or --data-dir",
            key.display()
        )));
    }
    let issuer = Issuer::load(&key).context("no token was minted")?;
    mint(&issuer, &role, ttl)
}

/// The configuration that makes a gateway take this issuer's tokens, groups first: see `dev_identity_config`.
fn trust(jwks: &Path) -> String {
    let jwks = std::path::absolute(jwks).unwrap_or_else(|_| jwks.to_owned());
    let rule = |role: &str| {
        format!(
            "[[identity.rules]]\nissuer = \"{DEV_ISSUER}\"\nclaims = {{ groups = \"{role}\" }}\nrole = \"{role}\"\n\n"
        )
    };
    format!(
        "To trust it, add to a gateway's configuration:\n\n\
         [[identity.issuers]]\nissuer = \"{DEV_ISSUER}\"\naudience = \"{DEV_AUDIENCE}\"\nalgorithms = [\"ES256\"]\n\
         jwks_file = {}\n\n{}{}\
         [[identity.rules]]\nissuer = \"{DEV_ISSUER}\"\n\
         subject = \"spiffe://dev.meridian/ns/{{namespace}}/sa/{{service}}\"\nrole = \"workload\"",
        toml::Value::String(jwks.display().to_string()),
        rule("operator"),
        rule("reader"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_gateway::config::Config;

    #[test]
    fn the_printed_configuration_is_taken_by_a_gateway() {
        let directory = tempfile::tempdir().unwrap();
        Issuer::init(directory.path()).unwrap();
        let printed = trust(&directory.path().join(JWKS_FILE));
        let (_, identity) = printed.split_once("\n\n").unwrap();
        let text = format!("region = \"r\"\nzones = [\"r-a\"]\n[registry]\nkind = \"embedded\"\n{identity}");
        let config = Config::parse(&text, "test", directory.path(), std::iter::empty()).unwrap();
        assert_eq!((config.identity.issuers.len(), config.identity.rules.len()), (1, 3));
    }

    #[test]
    fn without_a_key_it_says_how_to_get_one() {
        let directory = tempfile::tempdir().unwrap();
        let arguments = MintArguments {
            namespace: Namespace::default(),
            service: None,
            role: Some(MintRole::Operator),
            ttl: Duration::from_secs(60),
            key: None,
        };
        let failure = mint_as_asked(arguments, directory.path()).unwrap_err();
        assert_eq!(failure.exit_code(), 2);
        assert!(failure.to_string().contains("token issuer init"), "{failure}");
    }
}
