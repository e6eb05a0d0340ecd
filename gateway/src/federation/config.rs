//! `[federation]`.

use crate::config::Mistake;
use meridian_federation::service::material::Files;
use meridian_federation::service::{PeerUrl, PeerUrls};
use meridian_model::names::RegionName;
use meridian_model::summary::Ingress;
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// At most this many ingress addresses are told.
const MAX_INGRESS: usize = 16;

/// The nodes of another region.
#[derive(Clone, Debug, Deserialize)]
pub struct PeerConfig {
    /// Which region.
    pub region: RegionName,
    /// `https://host:port` of each of its nodes.
    pub urls: Vec<String>,
}

/// `[federation.tls]`: PEM files, read again when they are replaced.
#[derive(Clone, Debug, Deserialize)]
pub struct FederationTls {
    /// The certificate, whose URI name binds the region: `spiffe://DOMAIN/region/REGION/node/ID` of a node,
    /// `…/gateway/ID` of a gateway.
    pub certificate: PathBuf,
    /// Its key, ECDSA P-256 or Ed25519.
    pub key: PathBuf,
    /// The authorities that all regions' certificates are signed by.
    pub ca: PathBuf,
}

/// `[federation]`.
#[derive(Clone, Debug, Deserialize)]
pub struct FederationConfig {
    /// In a node: where other nodes and the region's gateways connect.
    #[serde(default)]
    pub listen: Option<SocketAddr>,
    /// In a gateway: its region's nodes, `https://host:port`.
    #[serde(default)]
    pub nodes: Vec<String>,
    /// In a node: the nodes of other regions, and further ones of its own.
    #[serde(default)]
    pub peers: Vec<PeerConfig>,
    /// In a node: where the region takes traffic of others for services whose endpoints are not all told.
    #[serde(default)]
    pub ingress: Vec<Ingress>,
    /// In `meridian federation`: where `/livez`, `/readyz` and `/metrics` are served.
    #[serde(default = "default_status")]
    pub status: SocketAddr,
    /// That `status` may be seen by others, without TLS.
    #[serde(default)]
    pub status_plaintext: bool,
    /// Who this process is.
    pub tls: FederationTls,
}

fn default_status() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8511))
}

impl FederationConfig {
    pub(crate) fn resolve_paths(&mut self, base: &Path) {
        for path in [&mut self.tls.certificate, &mut self.tls.key, &mut self.tls.ca] {
            *path = base.join(&*path);
        }
    }

    pub(crate) fn check(&self, region: &RegionName, mistakes: &mut Vec<Mistake>) {
        let mut add =
            |place: String, detail: &str| mistakes.push(Mistake { place, detail: detail.to_owned() });
        let section = |key: &str| format!("federation.{key}");
        match (self.listen, self.nodes.is_empty()) {
            (None, true) => add(
                section("nodes"),
                "must name this region's federation nodes, or listen must make this process one",
            ),
            (Some(_), false) => add(
                section("nodes"),
                "is for gateways that subscribe to nodes; a process that listens is a node itself: name it in peers",
            ),
            (None, false) if !self.peers.is_empty() => {
                add(
                    section("peers"),
                    "is for nodes; a gateway hears of other regions by its own region's nodes",
                );
            }
            _ => {}
        }
        if !self.status.ip().is_loopback() && !self.status_plaintext {
            let detail = format!(
                "{} is not a loopback address, and the page has no TLS: add status_plaintext = true if everyone who \
                 reaches it may see it",
                self.status
            );
            add(section("status"), &detail);
        }
        for url in &self.nodes {
            if let Err(reason) = url.parse::<PeerUrl>() {
                add(section("nodes"), &format!("{url:?} {reason}"));
            }
        }
        for (at, peer) in self.peers.iter().enumerate() {
            if peer.urls.is_empty() {
                add(
                    format!("federation.peers[{at}].urls"),
                    "must name at least one node, as https://host:port",
                );
            }
            for url in &peer.urls {
                if let Err(reason) = url.parse::<PeerUrl>() {
                    add(format!("federation.peers[{at}].urls"), &format!("{url:?} {reason}"));
                }
            }
        }
        let mut seen: Vec<&RegionName> = self.peers.iter().map(|p| &p.region).collect();
        seen.sort();
        if seen.windows(2).any(|pair| pair[0] == pair[1]) {
            add(section("peers"), "must name each region once, with all urls of its nodes");
        }
        if self.listen.is_some() && self.peers.iter().all(|p| p.region == *region) {
            add(section("peers"), "must name the nodes of at least one other region");
        }
        if self.ingress.len() > MAX_INGRESS {
            add(section("ingress"), &format!("must be at most {MAX_INGRESS} addresses"));
        }
        for ingress in &self.ingress {
            if ingress.port == 0 || meridian_model::registration::Host::parse(&ingress.host).is_err() {
                let place = format!("{}:{}", ingress.host, ingress.port);
                add(
                    section("ingress"),
                    &format!("{place:?} must be a host and a port that others can reach"),
                );
            }
        }
    }

    /// The other regions that are named.
    pub(crate) fn others(&self, region: &RegionName) -> impl Iterator<Item = RegionName> {
        self.peers.iter().map(|peer| &peer.region).filter(move |name| *name != region).cloned()
    }

    pub(super) fn files(&self) -> Files {
        Files {
            certificate: self.tls.certificate.clone(),
            key: self.tls.key.clone(),
            ca: self.tls.ca.clone(),
        }
    }

    pub(super) fn peers(&self, region: &RegionName) -> Vec<PeerUrls> {
        // Checked above; what is no URL would only not be dialled.
        let urls = |texts: &[String]| texts.iter().filter_map(|url| url.parse().ok()).collect();
        if self.listen.is_none() {
            return vec![PeerUrls { region: region.clone(), urls: urls(&self.nodes) }];
        }
        self.peers.iter().map(|p| PeerUrls { region: p.region.clone(), urls: urls(&p.urls) }).collect()
    }
}
