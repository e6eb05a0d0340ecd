//! A region for a benchmark: a real etcd in memory, an issuer, and gateways as their own processes. All of it ends, and its
//! data goes, with its owner.

use crate::exposition::Exposition;
use crate::population::{ISSUER, REGION, REGISTRAR, ZONES};
use crate::server::Server;
use anyhow::{Context, Result, bail};
use meridian_registry::testing::RealEtcd;
use serde_json::Value;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// An etcd, an issuer, and a place for gateways' data.
pub(crate) struct Region {
    pub(crate) etcd: RealEtcd,
    meridian: PathBuf,
    directory: TempDir,
    /// May register for every service, and owns every instance.
    pub(crate) token: String,
    jwks: String,
}

/// How a gateway is started.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Start<'a> {
    /// Names its data directory: the same name finds the same data.
    pub(crate) name: &'a str,
    /// Threads that answer lookups; as many as cores if none is said.
    pub(crate) workers: Option<usize>,
    /// The core that it stays on.
    pub(crate) core: Option<usize>,
}

impl Region {
    /// Starts etcd and makes an issuer.
    pub(crate) fn start() -> Result<Self> {
        let meridian = binary()?;
        let directory = tempfile::tempdir().context("no temporary directory")?;
        let issuer = directory.path().join("issuer");
        let made = ask(Command::new(&meridian).args(["--json", "token", "issuer", "init"]).arg(&issuer))?;
        let made: Value = serde_json::from_str(&made).context("`token issuer init --json` prints no JSON")?;
        let file = |name: &str| {
            let path = made.get(name).and_then(Value::as_str);
            path.map(str::to_owned).with_context(|| format!("`token issuer init --json` names no {name}"))
        };
        let mint = ["token", "mint", "--service", "registrar", "--ttl", "8h", "--key"];
        let token = ask(Command::new(&meridian).args(mint).arg(file("key")?))?;
        let jwks = file("jwks")?;
        // Several runs of 100,000 instances with their history fit.
        let etcd = RealEtcd::start_with(&["--quota-backend-bytes", "8000000000"]);
        Ok(Self { etcd, meridian, directory, token, jwks })
    }

    /// A file in the region's directory.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The value of the header `authorization` for writes.
    pub(crate) fn bearer(&self) -> String {
        format!("Bearer {}", self.token)
    }

    /// What etcd counts of itself.
    pub(crate) fn etcd_metrics(&self) -> Result<Exposition> {
        Exposition::read(SocketAddr::from((Ipv4Addr::LOCALHOST, self.etcd.port())))
    }

    /// Starts a gateway and returns once it is ready.
    pub(crate) fn gateway(&self, start: Start<'_>) -> Result<Server> {
        let file = self.file(&format!("{}.toml", start.name));
        std::fs::write(&file, self.configuration(start)).context("cannot write a configuration")?;
        let mut command = Command::new(&self.meridian);
        command.arg("gateway").arg("--config").arg(&file);
        // Nothing of the caller's environment may change what is measured.
        for (name, _) in std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("MERIDIAN_")) {
            command.env_remove(name);
        }
        let mut gateway = Server::start(command, start.core)?;
        gateway.wait_until_ready()?;
        Ok(gateway)
    }

    fn configuration(&self, start: Start<'_>) -> String {
        let text = |text: &str| Value::from(text).to_string();
        let zones = ZONES.map(text).join(", ");
        let workers = start.workers.map(|n| format!("workers = {n}\n")).unwrap_or_default();
        let data = text(&self.file(start.name).display().to_string());
        let endpoints = self.etcd.endpoints().iter().map(|url| text(url)).collect::<Vec<_>>().join(", ");
        format!(
            "region = {region}\nzones = [{zones}]\ndata_dir = {data}\n\
             [registry]\nkind = \"etcd\"\nendpoints = [{endpoints}]\n\
             [http]\nlisten = \"127.0.0.1:0\"\n{workers}\
             [[identity.issuers]]\nissuer = {issuer}\naudience = \"meridian\"\nalgorithms = [\"ES256\"]\n\
             jwks_file = {jwks}\n\
             [[identity.rules]]\nissuer = {issuer}\nsubject = {registrar}\nrole = \"workload\"\n\
             namespace = \"*\"\nservice = \"*\"\n",
            region = text(REGION),
            issuer = text(ISSUER),
            registrar = text(REGISTRAR),
            jwks = text(&self.jwks),
        )
    }
}

/// The program that is measured.
fn binary() -> Result<PathBuf> {
    if let Some(given) = std::env::var_os("MERIDIAN_BIN") {
        let given = PathBuf::from(given);
        if !given.is_file() {
            bail!("MERIDIAN_BIN names {}, which is no file", given.display());
        }
        return Ok(given);
    }
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join("meridian")));
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/release/meridian");
    let found = beside.into_iter().chain([workspace]).find(|path| path.is_file());
    found.context(
        "there is no meridian to measure: cargo build --release -p meridian, or name one in MERIDIAN_BIN",
    )
}

/// Runs a command to its end and returns what it printed.
fn ask(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {:?}", command.get_program()))?;
    if !output.status.success() {
        bail!("{command:?} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout).context("it printed no text")?.trim().to_owned())
}
