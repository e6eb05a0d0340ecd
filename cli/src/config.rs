//! `meridian config check`: what a gateway would make of a configuration file.

use crate::connection::Global;
use crate::failure::Failure;
use crate::{gateway, output};
use meridian_gateway::config::{Config, ConfigError, Mistake, Reads, RegistryConfig};
use meridian_gateway::federation::config::FederationConfig;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Read a configuration and name every mistake with its place; exit code 2 if there is one
    ///
    /// The environment (MERIDIAN__SECTION__KEY) is laid over the file, as a gateway would do, and files that the
    /// configuration names are read. Nothing is bound and nothing is written.
    Check {
        /// Configuration file (TOML)
        file: PathBuf,
    },
}

pub(crate) fn run(Command::Check { file }: &Command, global: &Global) -> Result<(), Failure> {
    match gateway::load(file).and_then(|config| with_its_files(file, config)) {
        Ok(config) if global.json => {
            let summary: serde_json::Map<String, Value> = facts(&config)
                .into_iter()
                .map(|(name, value)| (name.to_owned(), Value::String(value)))
                .collect();
            output::json(&json!({ "ok": true, "file": file, "summary": summary }));
        }
        Ok(config) => output::say(summary(&file.display().to_string(), &config)),
        Err(error) if global.json => {
            output::json(&mistakes(&error));
            return Err(Failure::Told(2));
        }
        Err(error) => return Err(Failure::Usage(error.to_string())),
    }
    Ok(())
}

/// The configuration, where the certificates and keys that it names can be read. What is in them is told at a start.
fn with_its_files(source: &Path, config: Config) -> Result<Config, ConfigError> {
    let mut files: Vec<(&str, &Path)> = Vec::new();
    if let Some(tls) = &config.http.tls {
        files.extend([("http.tls.certificate", &*tls.certificate), ("http.tls.key", &*tls.key)]);
        files.extend(tls.client_ca.as_deref().map(|file| ("http.tls.client_ca", file)));
    }
    if let RegistryConfig::Etcd(etcd) = &config.registry
        && let Some(tls) = &etcd.tls
    {
        let named = [
            ("registry.tls.ca", &tls.ca),
            ("registry.tls.certificate", &tls.certificate),
            ("registry.tls.key", &tls.key),
        ];
        files.extend(named.into_iter().filter_map(|(place, file)| Some((place, file.as_deref()?))));
    }
    if let Some(FederationConfig { tls, .. }) = &config.federation {
        files.extend([
            ("federation.tls.certificate", &*tls.certificate),
            ("federation.tls.key", &*tls.key),
            ("federation.tls.ca", &*tls.ca),
        ]);
    }
    let unreadable = files.into_iter().filter_map(|(place, file)| {
        let error = std::fs::File::open(file).err()?;
        Some(Mistake {
            place: place.to_owned(),
            detail: format!("{} cannot be read: {error}", file.display()),
        })
    });
    let mistakes: Vec<Mistake> = unreadable.collect();
    if mistakes.is_empty() {
        return Ok(config);
    }
    Err(ConfigError { source_name: source.display().to_string(), mistakes })
}

fn mistakes(error: &ConfigError) -> Value {
    let mistakes: Vec<Value> =
        error.mistakes.iter().map(|m| json!({ "place": m.place, "detail": m.detail })).collect();
    json!({ "ok": false, "file": error.source_name, "mistakes": mistakes })
}

/// What a gateway would do, most important first.
fn facts(config: &Config) -> Vec<(&'static str, String)> {
    let zones: Vec<&str> = config.zones.iter().map(|zone| zone.as_str()).collect();
    let registry = match &config.registry {
        RegistryConfig::Embedded { file } => {
            let file = file.clone().unwrap_or_else(|| config.data_dir.join("registry.redb"));
            format!("embedded, in {}", file.display())
        }
        RegistryConfig::Etcd(etcd) => format!("etcd at {}, under {}", etcd.endpoints.join(", "), etcd.prefix),
    };
    let tls = if config.http.tls.is_some() { "https" } else { "http" };
    let reads = match config.reads() {
        Reads::Open => "open to everyone who reaches the listener",
        Reads::Token => "with a token",
    };
    let issuers: Vec<&str> = config.identity.issuers.iter().map(|issuer| issuer.issuer.as_str()).collect();
    let issuers =
        if issuers.is_empty() { "none: nobody can register".to_owned() } else { issuers.join(", ") };
    let mut facts = vec![
        ("region", config.region.to_string()),
        ("zones", zones.join(", ")),
        ("registry", registry),
        ("listens", format!("{tls}://{}", config.http.listen)),
        ("lookups", reads.to_owned()),
        ("issuers", issuers),
        ("rules", config.identity.rules.len().to_string()),
        ("data", config.data_dir.display().to_string()),
        ("traces", config.telemetry.otlp.clone().unwrap_or_else(|| "off".to_owned())),
    ];
    match &config.federation {
        None => facts.push(("federation", "none: other regions are not heard of".to_owned())),
        Some(section) => facts.extend(federation(section)),
    }
    facts
}

/// The part in the federation: that of a node, or of a gateway that subscribes to its region's nodes.
fn federation(section: &FederationConfig) -> Vec<(&'static str, String)> {
    let certificate = ("certificate", section.tls.certificate.display().to_string());
    let Some(listen) = section.listen else {
        return vec![("federation", format!("subscribes to {}", section.nodes.join(", "))), certificate];
    };
    let peers: Vec<String> =
        section.peers.iter().map(|peer| format!("{} at {}", peer.region, peer.urls.join(", "))).collect();
    let mut facts = vec![
        ("federation", format!("a node at https://{listen}")),
        ("status", format!("http://{} (meridian federation)", section.status)),
        ("peers", peers.join("; ")),
        certificate,
    ];
    if !section.ingress.is_empty() {
        let ingress: Vec<String> = section.ingress.iter().map(|i| format!("{}:{}", i.host, i.port)).collect();
        facts.push(("ingress", ingress.join(", ")));
    }
    facts
}

fn summary(file: &str, config: &Config) -> String {
    let mut text = format!("{file} is in order");
    for (name, value) in facts(config) {
        let _ = write!(text, "\n  {name:<11} {value}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_cannot_be_read_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("c.toml");
        let text = "region = \"ap-south-1\"\nzones = [\"ap-south-1a\"]\n[registry]\nkind = \"embedded\"\n[http]\n\
                    [http.tls]\ncertificate = \"a.pem\"\nkey = \"c.toml\"\n";
        std::fs::write(&file, text).unwrap();
        let config = Config::load(&file, std::iter::empty()).unwrap();
        let error = with_its_files(&file, config).unwrap_err();
        let places: Vec<&str> = error.mistakes.iter().map(|mistake| &*mistake.place).collect();
        assert_eq!(places, ["http.tls.certificate"], "{error}");
    }

    #[test]
    fn the_summary_says_what_a_gateway_would_do() {
        let text = "region = \"eu-west-1\"\nzones = [\"eu-west-1a\"]\n[registry]\nkind = \"embedded\"\n";
        let config = Config::parse(text, "f.toml", Path::new("/etc/m"), std::iter::empty()).unwrap();
        let summary = summary("f.toml", &config);
        for part in [
            "f.toml is in order",
            "eu-west-1a",
            "/etc/m/data/registry.redb",
            "http://127.0.0.1:8500",
            "nobody can register",
        ] {
            assert!(summary.contains(part), "{part} in {summary}");
        }
        assert!(summary.contains("other regions are not heard of"), "{summary}");
    }

    #[test]
    fn the_summary_of_a_node_says_whom_it_speaks_to() {
        let text = "region = \"eu-west-1\"\nzones = [\"eu-west-1a\"]\n[registry]\nkind = \"embedded\"\n[federation]\n\
            listen = \"127.0.0.1:8510\"\npeers = [{ region = \"ap-south-1\", urls = [\"https://ap:8510\"] }]\n\
            ingress = [{ host = \"edge.example\", port = 443 }]\n[federation.tls]\ncertificate = \"node.pem\"\nkey = \"k\"\nca = \"a\"\n";
        let config = Config::parse(text, "f.toml", Path::new("/etc/m"), std::iter::empty()).unwrap();
        let summary = summary("f.toml", &config);
        for part in [
            "a node at https://127.0.0.1:8510",
            "http://127.0.0.1:8511",
            "ap-south-1 at https://ap:8510",
            "/etc/m/node.pem",
            "edge.example:443",
        ] {
            assert!(summary.contains(part), "{part} in {summary}");
        }
    }
}
