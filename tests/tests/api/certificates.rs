//! Certificates of a small authority, for listeners and nodes that want some.

use meridian_federation::service::certificates::{Authority, KeyKind, Lifetime};
use meridian_federation::service::name::{PeerName, Station};
use meridian_tests::gateway::REGION;
use std::path::Path;
use std::time::{Duration, SystemTime};
use toml::{Table, Value};

/// Writes a certificate of the tests' region with its key and authority; the section of a configuration that names them.
pub(crate) fn write(directory: &Path, station: Station) -> Table {
    let lifetime = Lifetime::starting(SystemTime::now(), Duration::from_secs(24 * 3600));
    let authority = Authority::new("tests", lifetime).unwrap();
    let name = PeerName {
        domain: "tests.meridian".into(),
        region: REGION.parse().unwrap(),
        station,
        id: "lone-1".into(),
    };
    let issued = authority.issue(&name, KeyKind::default(), lifetime).unwrap();
    let files = [
        ("certificate", issued.certificate.as_str()),
        ("key", issued.key.as_str()),
        ("ca", authority.certificate()),
    ];
    let written = files.map(|(name, text)| {
        let path = directory.join(format!("{name}.pem"));
        std::fs::write(&path, text).unwrap();
        (name.to_owned(), Value::from(path.display().to_string()))
    });
    Table::from_iter(written)
}
