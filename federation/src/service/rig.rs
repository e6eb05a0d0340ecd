//! Names, authorities and files for the tests of this module.

use super::certificates::{Authority, Issued, KeyKind, Lifetime};
use super::material::{Files, Material};
use super::name::PeerName;
use rustls_pki_types::UnixTime;
use std::path::Path;
use std::time::{Duration, SystemTime};

const DAY: Duration = Duration::from_secs(86_400);

/// `eu/node/a` stands for `spiffe://test/region/eu/node/a`.
pub(super) fn name(short: &str) -> PeerName {
    format!("spiffe://test/region/{short}").parse().unwrap()
}

pub(super) fn authority() -> Authority {
    Authority::new("test authority", lifetime()).unwrap()
}

pub(super) fn lifetime() -> Lifetime {
    Lifetime::starting(SystemTime::now(), DAY)
}

/// One that ended an hour ago.
pub(super) fn ended() -> Lifetime {
    let now = SystemTime::now();
    Lifetime { from: now - DAY, until: now - Duration::from_secs(3600) }
}

/// One that begins in an hour.
pub(super) fn to_come() -> Lifetime {
    let now = SystemTime::now();
    Lifetime { from: now + Duration::from_secs(3600), until: now + DAY }
}

pub(super) fn material(authority: &Authority, issued: &Issued) -> Material {
    let [certificate, key] = [&issued.certificate, &issued.key].map(String::as_bytes);
    Material::from_pem(certificate, key, authority.certificate().as_bytes(), UnixTime::now()).unwrap()
}

pub(super) fn node(authority: &Authority, short: &str, kind: KeyKind) -> Material {
    material(authority, &authority.issue(&name(short), kind, lifetime()).unwrap())
}

/// Where [`write`] puts them.
pub(super) fn files(dir: &Path) -> Files {
    Files { certificate: dir.join("node.pem"), key: dir.join("node.key"), ca: dir.join("ca.pem") }
}

/// Replaces the files one by one, as deployments do: a new file under the old name.
pub(super) fn write(dir: &Path, issued: &Issued, ca: &str) {
    let files = files(dir);
    for (path, text) in
        [(&files.certificate, issued.certificate.as_str()), (&files.key, &issued.key), (&files.ca, ca)]
    {
        replace(path, text);
    }
}

pub(super) fn replace(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(beside, path).unwrap();
}
