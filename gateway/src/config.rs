//! The configuration of a gateway: one TOML file, any key also as `MERIDIAN__SECTION__KEY`, parsed whole and checked
//! whole before anything is bound.

mod reading;

use crate::federation::config::FederationConfig;
use crate::identity::IdentityConfig;
use crate::signature::Trust;
use meridian_model::names::{GatewayId, RegionName, ZoneName};
use meridian_model::rollout::{KEPT, Settings, WINDOW};
use serde::Deserialize;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One mistake, with the key that it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// `http.listen`; empty for the file as a whole.
    pub place: String,
    /// What is wrong and what would be right.
    pub detail: String,
}

/// Everything that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// Where it was read from.
    pub source_name: String,
    /// All mistakes that could be found at once.
    pub mistakes: Vec<Mistake>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cannot be used:", self.source_name)?;
        for Mistake { place, detail } in &self.mistakes {
            match place.as_str() {
                "" => write!(f, "\n  {detail}")?,
                _ => write!(f, "\n  {place}: {detail}")?,
            }
        }
        Ok(())
    }
}

/// Who may look up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reads {
    /// Everyone who reaches the listener.
    Open,
    /// Bearers of a token with the role reader, workload or operator.
    Token,
}

/// Where the region's records live.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum RegistryConfig {
    /// In a file of this process: for a region with one gateway.
    Embedded {
        /// The file; `registry.redb` in the data directory by default.
        #[serde(default)]
        file: Option<PathBuf>,
    },
    /// In etcd, shared by the gateways of the region.
    Etcd(EtcdSection),
}

/// `[registry]` with `kind = "etcd"`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EtcdSection {
    /// Client URLs.
    pub endpoints: Vec<String>,
    /// Before every key.
    #[serde(default = "default_prefix")]
    pub prefix: String,
    /// etcd's user.
    #[serde(default)]
    pub username: Option<String>,
    /// Its password; better given as `MERIDIAN__REGISTRY__PASSWORD`.
    #[serde(default)]
    pub password: Option<String>,
    /// Certificates for etcd.
    #[serde(default)]
    pub tls: Option<EtcdTls>,
    /// Time between two full comparisons of memory with the registry.
    #[serde(default = "default_compare", with = "span")]
    pub compare_every: Duration,
}

/// `[registry.tls]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EtcdTls {
    /// CA that signed etcd's certificate.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// Client certificate.
    #[serde(default)]
    pub certificate: Option<PathBuf>,
    /// Its key.
    #[serde(default)]
    pub key: Option<PathBuf>,
}

/// `[http]`.
#[derive(Clone, Debug, Deserialize)]
pub struct HttpConfig {
    /// Address and port of the API.
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
    /// Who may look up; `open` on loopback by default, and to be said elsewhere.
    #[serde(default)]
    pub reads: Option<Reads>,
    /// Serve without TLS on an address that is not loopback.
    #[serde(default)]
    pub plaintext: bool,
    /// Certificates.
    #[serde(default)]
    pub tls: Option<HttpTls>,
    /// Threads that answer lookups; the number of cores by default.
    #[serde(default)]
    pub workers: Option<usize>,
    /// Connections at once; more wait in the kernel's queue.
    #[serde(default = "default_connections")]
    pub max_connections: usize,
}

/// `[http.tls]`.
#[derive(Clone, Debug, Deserialize)]
pub struct HttpTls {
    /// PEM chain.
    pub certificate: PathBuf,
    /// PEM key.
    pub key: PathBuf,
    /// Require client certificates that this CA signed.
    #[serde(default)]
    pub client_ca: Option<PathBuf>,
}

/// `[health]`.
#[derive(Clone, Debug, Deserialize)]
pub struct HealthConfig {
    /// Check instances on loopback addresses; by default only where the API itself listens there.
    #[serde(default)]
    pub allow_loopback: Option<bool>,
    /// Checks under way at once.
    #[serde(default = "default_checks")]
    pub max_concurrent: usize,
}

/// `[lookups]`.
#[derive(Clone, Debug, Deserialize)]
pub struct LookupsConfig {
    /// Memory of all opened routers, in MiB.
    #[serde(default = "default_router_cache")]
    pub router_cache_mib: usize,
    /// Past this age, state that was read from disk and never confirmed is refused as `too-stale`.
    #[serde(default = "default_max_age", with = "span")]
    pub max_age_from_disk: Duration,
    /// Past this age, what another region told is no longer used: its addresses may belong to others.
    #[serde(default = "default_max_remote_age", with = "span")]
    pub max_remote_age: Duration,
    /// How long a service without instances and binding is still known.
    #[serde(default = "default_known_for", with = "span")]
    pub known_for: Duration,
    /// How long expired instances count as unhealthy before they are removed.
    #[serde(default = "default_expired_kept", with = "span")]
    pub expired_kept: Duration,
}

/// `[policies]`: when a version of a policy is good, and when it is not; see [`Settings`].
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct PoliciesConfig {
    /// How long a version has to be active until it is known to be good.
    #[serde(with = "span")]
    pub soak: Duration,
    /// How many lookups it has to answer until then, at one gateway.
    pub soak_lookups: u64,
    /// How many lookups a candidate has to be asked, at the gateway that is told to promote it.
    pub promote_lookups: u64,
    /// Faults after which a canary, or what was promoted, is rolled back.
    pub max_faults: u64,
    /// Greatest rise of the share of lookups that are refused or given nothing, 0 to 1.
    pub max_refused_rise: f64,
    /// Greatest share of all lookups that a zone or region may lose at once, 0 to 1.
    pub max_shift: f64,
    /// Shares say nothing before so many lookups.
    pub min_lookups: u64,
    /// Public keys in PEM; where some are named, an upload needs a signature by one of them.
    pub trusted_keys: Vec<PathBuf>,
}

impl Default for PoliciesConfig {
    fn default() -> Self {
        let settings = Settings::default();
        Self {
            soak: Duration::from_millis(settings.soak_millis),
            soak_lookups: settings.soak_lookups,
            promote_lookups: settings.promote_lookups,
            max_faults: settings.max_faults,
            max_refused_rise: settings.max_refused_rise,
            max_shift: settings.max_shift,
            min_lookups: settings.min_lookups,
            trusted_keys: Vec::new(),
        }
    }
}

impl PoliciesConfig {
    /// As the judgement takes them.
    #[must_use]
    pub fn settings(&self) -> Settings {
        Settings {
            soak_millis: u64::try_from(self.soak.as_millis()).unwrap_or(u64::MAX),
            soak_lookups: self.soak_lookups,
            promote_lookups: self.promote_lookups,
            max_faults: self.max_faults,
            max_refused_rise: self.max_refused_rise,
            max_shift: self.max_shift,
            min_lookups: self.min_lookups,
        }
    }

    fn check(&self, mistakes: &mut Vec<Mistake>) {
        for (key, share) in [("max_refused_rise", self.max_refused_rise), ("max_shift", self.max_shift)] {
            if !(0.0..=1.0).contains(&share) {
                let place = format!("policies.{key}");
                mistakes.push(Mistake { place, detail: "must be a share from 0 to 1".into() });
            }
        }
        if self.min_lookups > KEPT {
            let detail = format!("must be at most {KEPT}: shares are of the last {KEPT} to {WINDOW} lookups");
            mistakes.push(Mistake { place: "policies.min_lookups".into(), detail });
        }
        for (at, error) in Trust::read(&self.trusted_keys).err().unwrap_or_default() {
            let place = format!("policies.trusted_keys[{at}]");
            mistakes.push(Mistake { place, detail: error.to_string() });
        }
        if self.max_faults == 0 {
            let detail = "must be at least 1: no policy fails less than once before it is rolled back".into();
            mistakes.push(Mistake { place: "policies.max_faults".into(), detail });
        }
    }
}

/// `[history]`.
#[derive(Clone, Debug, Deserialize)]
pub struct HistoryConfig {
    /// How long changes are remembered.
    #[serde(default = "default_history", with = "span")]
    pub keep: Duration,
}

/// `[telemetry]`.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct TelemetryConfig {
    /// OTLP collector (gRPC); no traces without it.
    #[serde(default)]
    pub otlp: Option<String>,
    /// Share of requests that are traced, 0 to 1.
    #[serde(default)]
    pub sample: Option<f64>,
    /// `json` (default) or `text`.
    #[serde(default)]
    pub log_format: LogFormat,
    /// A filter such as `info` or `meridian_gateway=debug,warn`.
    #[serde(default)]
    pub log: Option<String>,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line.
    #[default]
    Json,
    /// For people.
    Text,
}

/// The whole file.
#[derive(Clone, Debug, Deserialize)]
pub struct Config {
    /// The region that this gateway belongs to.
    pub region: RegionName,
    /// Its zones; an instance and a caller belong to one of them.
    pub zones: Vec<ZoneName>,
    /// Where this process keeps what must survive it.
    #[serde(default = "default_data_dir")]
    pub data_dir: PathBuf,
    /// This gateway's name among the members of the region; drawn once and kept in the data directory by default.
    #[serde(default)]
    pub gateway_id: Option<GatewayId>,
    /// `[registry]`.
    pub registry: RegistryConfig,
    /// `[http]`.
    #[serde(default = "default_http")]
    pub http: HttpConfig,
    /// `[identity]`.
    #[serde(default)]
    pub identity: IdentityConfig,
    /// `[health]`.
    #[serde(default = "default_health")]
    pub health: HealthConfig,
    /// `[lookups]`.
    #[serde(default = "default_lookups")]
    pub lookups: LookupsConfig,
    /// `[policies]`.
    #[serde(default)]
    pub policies: PoliciesConfig,
    /// `[history]`.
    #[serde(default = "default_history_section")]
    pub history: HistoryConfig,
    /// `[federation]`; without it the region knows of no other.
    #[serde(default)]
    pub federation: Option<FederationConfig>,
    /// `[telemetry]`.
    #[serde(default)]
    pub telemetry: TelemetryConfig,
    /// The folder that relative paths in `[identity]` are meant from.
    #[serde(skip)]
    pub base: PathBuf,
}

fn default_prefix() -> String {
    "/meridian".into()
}
fn default_compare() -> Duration {
    Duration::from_secs(300)
}
fn default_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8500))
}
fn default_connections() -> usize {
    100_000
}
fn default_checks() -> usize {
    512
}
fn default_router_cache() -> usize {
    64
}
fn default_max_age() -> Duration {
    Duration::from_secs(24 * 3600)
}
fn default_max_remote_age() -> Duration {
    Duration::from_secs(3600)
}
fn default_known_for() -> Duration {
    Duration::from_secs(24 * 3600)
}
fn default_expired_kept() -> Duration {
    meridian_model::instance::EXPIRED_KEPT
}
fn default_data_dir() -> PathBuf {
    "data".into()
}
/// The section as an empty table gives it.
fn default_http() -> HttpConfig {
    HttpConfig {
        listen: default_listen(),
        reads: None,
        plaintext: false,
        tls: None,
        workers: None,
        max_connections: default_connections(),
    }
}
fn default_history() -> Duration {
    Duration::from_secs(7 * 24 * 3600)
}
fn default_history_section() -> HistoryConfig {
    HistoryConfig { keep: default_history() }
}
fn default_health() -> HealthConfig {
    HealthConfig { allow_loopback: None, max_concurrent: default_checks() }
}
fn default_lookups() -> LookupsConfig {
    LookupsConfig {
        router_cache_mib: default_router_cache(),
        max_age_from_disk: default_max_age(),
        max_remote_age: default_max_remote_age(),
        known_for: default_known_for(),
        expired_kept: default_expired_kept(),
    }
}

mod span {
    use serde::{Deserialize, Deserializer};
    use std::time::Duration;

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        crate::duration::parse(&text).map_err(serde::de::Error::custom)
    }
}

impl Config {
    /// Reads and checks a file, with the environment laid over it. Relative paths are meant from the file's folder.
    ///
    /// # Errors
    /// All mistakes that can be found at once.
    pub fn load(
        path: &Path,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|e| ConfigError {
            source_name: name.clone(),
            mistakes: vec![Mistake { place: String::new(), detail: format!("cannot be read: {e}") }],
        })?;
        let base = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Self::parse(&text, &name, base, environment)
    }

    /// As [`Config::load`], from a text.
    ///
    /// # Errors
    /// All mistakes that can be found at once.
    pub fn parse(
        text: &str,
        name: &str,
        base: &Path,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let fail = |mistakes| ConfigError { source_name: name.to_owned(), mistakes };
        let one = |place: String, detail: String| fail(vec![Mistake { place, detail }]);
        if text.trim().is_empty() {
            return Err(one(
                String::new(),
                "is blank: at least region, zones and [registry] are needed".into(),
            ));
        }
        let mut table: toml::Table = toml::from_str(text).map_err(|e| one(String::new(), e.to_string()))?;
        let mut mistakes = Vec::new();
        for (variable, value) in environment {
            if let Some(keys) = variable.strip_prefix("MERIDIAN__") {
                overlay(&mut table, &keys.to_ascii_lowercase(), &value).unwrap_or_else(|detail| {
                    mistakes.push(Mistake { place: variable.clone(), detail });
                });
            }
        }
        let mut read = reading::read(table);
        mistakes.append(&mut read.mistakes);
        if let Some(mut config) = read.config.take() {
            config.resolve_paths(base);
            let mut found = Vec::new();
            config.check(&mut found);
            found.retain(|mistake| !read.is_due_to_a_cut(&mistake.place));
            mistakes.append(&mut found);
            if mistakes.is_empty() {
                return Ok(config);
            }
        }
        Err(fail(mistakes))
    }

    fn resolve_paths(&mut self, base: &Path) {
        let place = |path: &mut PathBuf| *path = base.join(&*path);
        place(&mut self.data_dir);
        match &mut self.registry {
            RegistryConfig::Embedded { file } => file.iter_mut().for_each(place),
            RegistryConfig::Etcd(etcd) => {
                if let Some(tls) = &mut etcd.tls {
                    [&mut tls.ca, &mut tls.certificate, &mut tls.key].into_iter().flatten().for_each(place);
                }
            }
        }
        self.policies.trusted_keys.iter_mut().for_each(place);
        if let Some(tls) = &mut self.http.tls {
            place(&mut tls.certificate);
            place(&mut tls.key);
            tls.client_ca.iter_mut().for_each(place);
        }
        if let Some(federation) = &mut self.federation {
            federation.resolve_paths(base);
        }
        self.base = base.to_owned();
    }

    fn check(&self, mistakes: &mut Vec<Mistake>) {
        if let Err(errors) = self.identity.check(&self.base) {
            mistakes.extend(errors.into_iter().map(|e| Mistake { place: e.place, detail: e.detail }));
        }
        self.policies.check(mistakes);
        if let Some(federation) = &self.federation {
            federation.check(&self.region, mistakes);
        }
        let mut add = |place: &str, detail: String| mistakes.push(Mistake { place: place.into(), detail });
        if self.zones.is_empty() {
            add("zones", "must name at least one zone".into());
        }
        if self.zones.iter().enumerate().any(|(at, zone)| self.zones[..at].contains(zone)) {
            add("zones", "must name each zone once".into());
        }
        if self.lookups.max_remote_age < Duration::from_secs(30) {
            add(
                "lookups.max_remote_age",
                "must be at least 30s, when a region that is silent becomes stale".into(),
            );
        }
        if let RegistryConfig::Etcd(etcd) = &self.registry {
            if etcd.endpoints.is_empty() {
                add("registry.endpoints", "must name at least one client URL of etcd".into());
            }
            for url in &etcd.endpoints {
                if !(url.starts_with("http://") || url.starts_with("https://")) {
                    add("registry.endpoints", format!("{url:?} must begin with http:// or https://"));
                }
            }
            if !etcd.prefix.starts_with('/') || etcd.prefix.ends_with('/') {
                add("registry.prefix", "must begin with / and not end with it, such as /meridian".into());
            }
            if etcd.username.is_some() != etcd.password.is_some() {
                add("registry.username", "username and password go together".into());
            }
        }
        let public = !self.http.listen.ip().is_loopback();
        if public && self.http.tls.is_none() && !self.http.plaintext {
            let detail = format!(
                "{} is not a loopback address: add [http.tls], or plaintext = true if something in front of the \
                 gateway ends TLS",
                self.http.listen
            );
            add("http.listen", detail);
        }
        if public && self.http.reads.is_none() {
            add(
                "http.reads",
                "must be said where the listener is not on loopback: \"token\", or \"open\" if everyone may look up"
                    .into(),
            );
        }
        if self.http.workers == Some(0) {
            add("http.workers", "must be at least 1".into());
        }
        if self.telemetry.sample.is_some_and(|s| !(0.0..=1.0).contains(&s)) {
            add("telemetry.sample", "must be from 0 to 1".into());
        }
        if let Some(url) = self.telemetry.otlp.as_deref().filter(|url| !url.starts_with("http")) {
            add("telemetry.otlp", format!("{url:?} must begin with http:// or https://"));
        }
    }

    /// Who may look up, with the default for the listener applied.
    #[must_use]
    pub fn reads(&self) -> Reads {
        self.http.reads.unwrap_or(Reads::Open)
    }

    /// Whether instances on loopback are checked.
    #[must_use]
    pub fn checks_loopback(&self) -> bool {
        self.health.allow_loopback.unwrap_or(self.http.listen.ip().is_loopback())
    }
}

/// Puts one variable's value at its dotted place. A value that is no TOML is a string.
fn overlay(table: &mut toml::Table, keys: &str, value: &str) -> Result<(), String> {
    let mut parts: Vec<&str> = keys.split("__").collect();
    let Some(last) = parts.pop().filter(|last| !last.is_empty()) else {
        return Err("must name a key, such as MERIDIAN__HTTP__LISTEN".into());
    };
    let mut at = table;
    for part in parts {
        let inner = at.entry(part).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        at = inner.as_table_mut().ok_or_else(|| format!("{part} is no section"))?;
    }
    let parsed: Option<toml::Table> = toml::from_str(&format!("value = {value}")).ok();
    let parsed =
        parsed.and_then(|mut t| t.remove("value")).unwrap_or_else(|| toml::Value::String(value.into()));
    at.insert(last.to_owned(), parsed);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, environment: &[(&str, &str)]) -> Result<Config, Vec<String>> {
        let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Config::parse(text, "test.toml", Path::new("/etc/meridian"), environment)
            .map_err(|e| e.mistakes.into_iter().map(|m| m.place).collect())
    }

    const SMALL: &str = "region = \"eu-west-1\"\nzones = [\"eu-west-1a\"]\n[registry]\nkind = \"embedded\"\n";

    #[test]
    fn little_is_needed_and_the_defaults_are_the_contract() {
        let config = check(SMALL, &[]).unwrap();
        assert_eq!(config.http.listen.to_string(), "127.0.0.1:8500");
        assert_eq!(config.data_dir, Path::new("/etc/meridian/data"));
        assert_eq!(config.reads(), Reads::Open);
    }

    #[test]
    fn any_key_can_come_from_the_environment() {
        let config =
            check(SMALL, &[("MERIDIAN__HTTP__LISTEN", "127.0.0.1:1"), ("MERIDIAN__HTTP__WORKERS", "3")]);
        let config = config.unwrap();
        assert_eq!((config.http.listen.port(), config.http.workers), (1, Some(3)));
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        for (text, places) in [
            ("", vec![""]),
            ("region = ", vec![""]),
            ("region = \"EU\"\nzones = []\n", vec!["", "region", "zones"]),
            ("zones = 5\n[http]\nlisten = 5\nworkers = 0\n", vec!["", "", "http.listen", "zones"]),
            (&format!("{SMALL}[http]\nlisten = \"0.0.0.0:80\"\n"), vec!["http.listen", "http.reads"]),
            (&format!("{SMALL}[http]\nlisten = 5\n"), vec!["http.listen"]),
            // What cannot be read, what nobody knows and what is wrong by its meaning, all in one go.
            (
                &format!(
                    "{SMALL}[http]\nworkers = \"many\"\nreds = 1\n[telemetry]\nsample = 2.0\n[health]\nmax_concurrent = -1\n\
                     [federation]\nlisten = \"127.0.0.1:0\"\n[lookups]\nknown_for = \"soon\"\nmax_remote_age = \"1s\"\n"
                ),
                vec![
                    "federation",
                    "health.max_concurrent",
                    "http.reds",
                    "http.workers",
                    "lookups.known_for",
                    "telemetry.sample",
                ],
            ),
            (
                &format!("{SMALL}[federation]\n[federation.tls]\ncertificate = \"c\"\nkey = 1\nca = \"a\"\n"),
                vec!["federation.tls.key"],
            ),
            (
                &format!(
                    "{SMALL}[federation]\nnodes = [\"https://10.0.0.1:1\"]\nstatus = \"0.0.0.0:8511\"\n[federation.tls]\n\
                     certificate = \"c\"\nkey = \"k\"\nca = \"a\"\n"
                ),
                vec!["federation.status"],
            ),
            (&format!("{SMALL}endpionts = []\n"), vec!["registry"]),
            (&format!("{SMALL}[htpp]\nlisten = \"x\"\n[http]\nreds = 1\n"), vec!["http.reds", "htpp"]),
        ] {
            let mut found = check(text, &[]).unwrap_err();
            let mut wanted: Vec<String> = places.into_iter().map(str::to_owned).collect();
            found.sort();
            wanted.sort();
            assert_eq!(found, wanted, "{text}");
        }
    }
}
