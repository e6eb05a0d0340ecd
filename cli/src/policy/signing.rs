//! `meridian policy sign` and `verify`: who stands behind a version.

use super::component::{self, Kind};
use super::push;
use crate::connection::Global;
use crate::failure::Failure;
use crate::output;
use anyhow::{Context, anyhow};
use meridian_gateway::signature::{MAX_SIGNATURE_BYTES, PublicKey, Signature, SigningKey};
use meridian_model::names::PolicyVersion;
use serde_json::json;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Sign a version of a policy
///
/// Writes the signature beside the component, FILE.sig: base64, over the version's text (sha256:…). Keys are those of
/// `openssl genpkey -algorithm ed25519` or `-algorithm EC -pkeyopt ec_paramgen_curve:P-256`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  openssl genpkey -algorithm ed25519 -out release.pem\n  \
    openssl pkey -in release.pem -pubout -out release.pub.pem\n  meridian policy sign zone-east.wasm --key release.pem\n  \
    meridian policy push zone-east zone-east.wasm --signature zone-east.wasm.sig")]
pub(crate) struct SignArguments {
    /// Component, as `meridian policy build` writes it
    file: PathBuf,
    /// Private key: Ed25519 or ECDSA P-256, PKCS#8 or SEC1 in PEM
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
}

/// Tell whether a key signed a version of a policy
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  meridian policy verify zone-east.wasm --key release.pub.pem")]
pub(crate) struct VerifyArguments {
    /// Component
    file: PathBuf,
    /// Public key in PEM
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The signature [default: FILE.sig]
    #[arg(long, value_name = "FILE")]
    signature: Option<PathBuf>,
}

pub(crate) fn sign(arguments: SignArguments, global: &Global) -> Result<(), Failure> {
    let SignArguments { file, key } = arguments;
    let version = version_of(&file)?;
    let key = SigningKey::read(&key).map_err(|error| {
        // One that cannot be read is no key to convert.
        let pem = std::fs::read_to_string(&key).unwrap_or_default();
        Failure::Usage(format!("{error}{}", conversion(&pem, &key)))
    })?;
    let signature = key.sign(version).map_err(|error| Failure::Failed(anyhow!("{error}")))?;
    let signer = key.public().map_err(|error| Failure::Failed(anyhow!("{error}")))?;
    let to = beside(&file);
    std::fs::write(&to, format!("{signature}\n"))
        .with_context(|| format!("{} cannot be written", to.display()))?;
    if global.json {
        output::json(
            &json!({ "file": to, "version": version, "keyId": signer.id(), "signature": signature.to_string() }),
        );
    } else {
        output::say(format_args!(
            "{}\n  version  {version}\n  key      {}\nnext: meridian policy push NAME {} --signature {}",
            to.display(),
            signer.id(),
            file.display(),
            to.display()
        ));
    }
    Ok(())
}

pub(crate) fn verify(arguments: VerifyArguments, global: &Global) -> Result<(), Failure> {
    let VerifyArguments { file, key, signature } = arguments;
    let version = version_of(&file)?;
    let key = PublicKey::read(&key).map_err(|error| Failure::Usage(error.to_string()))?;
    let from = signature.unwrap_or_else(|| beside(&file));
    let text = read(&from)?;
    let signature =
        Signature::parse(&text).map_err(|error| Failure::Usage(format!("{}: {error}", from.display())))?;
    if !key.verifies(version, &signature) {
        return Err(Failure::Failed(anyhow!(
            "{} is no signature of {} by key {}",
            from.display(),
            file.display(),
            key.id()
        )));
    }
    if global.json {
        output::json(&json!({ "version": version, "keyId": key.id(), "verified": true }));
    } else {
        output::say(format_args!("{version} is signed by key {}", key.id()));
    }
    Ok(())
}

/// The text of a signature's file.
pub(super) fn read(file: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    std::fs::File::open(file)
        .and_then(|opened| opened.take(MAX_SIGNATURE_BYTES as u64 + 8).read_to_string(&mut text))
        .map_err(|error| Failure::unreadable(file, &error))?;
    Ok(text.trim().to_owned())
}

fn beside(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".sig");
    PathBuf::from(name)
}

/// How to take the passphrase from a key, since nobody is there to be asked for it; empty where it has none.
fn conversion(pem: &str, key: &Path) -> String {
    let marks = ["-----BEGIN ENCRYPTED PRIVATE KEY-----", "Proc-Type: 4,ENCRYPTED"];
    if !marks.iter().any(|mark| pem.contains(mark)) {
        return String::new();
    }
    let key = key.display();
    format!("\n  next: openssl pkcs8 -topk8 -nocrypt -in {key} -out {key}.pk8.pem, then sign with that")
}

/// A core module becomes a component only when it is pushed, and a signature is one of bytes.
fn version_of(file: &Path) -> Result<PolicyVersion, Failure> {
    let mut head = Vec::new();
    std::fs::File::open(file)
        .and_then(|opened| opened.take(8).read_to_end(&mut head))
        .map_err(|error| Failure::unreadable(file, &error))?;
    if component::kind_of(&head) == Kind::Core {
        let text = format!("{} is a core module\n  next: meridian policy build --core", file.display());
        return Err(Failure::Usage(text));
    }
    Ok(PolicyVersion::of(&push::read(file)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_stands_beside_its_component_and_only_a_component_has_one() {
        assert_eq!(beside(Path::new("d/x.wasm")), Path::new("d/x.wasm.sig"));
        let directory = tempfile::tempdir().unwrap();
        let core = directory.path().join("core.wasm");
        std::fs::write(&core, b"\0asm\x01\0\0\0").unwrap();
        assert_eq!(version_of(&core).unwrap_err().exit_code(), 2);
        assert_eq!(version_of(&directory.path().join("absent")).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn a_key_with_a_passphrase_says_how_to_convert_it() {
        let key = Path::new("k.pem");
        let sec1 = "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n…";
        assert!(conversion(sec1, key).contains("-in k.pem -out k.pem.pk8.pem"));
        assert_eq!(conversion("-----BEGIN RSA PRIVATE KEY-----", key), "");
    }
}
