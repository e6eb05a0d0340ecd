//! What is refused when a registry is opened, and in which words.

// Helpers of tests assert by unwrapping, as the tests do; clippy exempts only functions that are marked as tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use meridian_model::names::RegionName;
use meridian_registry::embedded::EmbeddedRegistry;
use meridian_registry::etcd::{EtcdConfig, EtcdRegistry, EtcdTls};
use meridian_registry::{Change, Committed, Key, Registry, RegistryError, Write};
use std::path::Path;

fn here() -> RegionName {
    "here".parse().expect("a name")
}

fn refusal(path: &Path) -> String {
    match EmbeddedRegistry::open(Some(path), &here()) {
        Err(RegistryError::Refused(why)) => why,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("opened"),
    }
}

#[tokio::test]
async fn a_damaged_file_is_named_whatever_was_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("registry.redb");
    let registry = EmbeddedRegistry::open(Some(&path), &here()).unwrap();
    for n in 0..200 {
        let key = Key::decode(&format!("state/instances/default/orders-api/{n}")).unwrap();
        let write = Write { conditions: vec![], changes: vec![Change::Put(key, "x".repeat(500).into())] };
        assert!(matches!(registry.commit(write).await, Ok(Committed::Applied(_))));
    }
    drop(registry);
    let whole = std::fs::read(&path).unwrap();

    std::fs::write(&path, b"not a registry at all, but long enough to be one".repeat(1000)).unwrap();
    assert!(refusal(&path).contains("is damaged or no registry"), "{}", refusal(&path));
    for length in [1, 100, 4096, whole.len() / 2] {
        std::fs::write(&path, &whole[..length]).unwrap();
        assert!(refusal(&path).contains("registry.redb"), "cut to {length}: {}", refusal(&path));
    }
    // Bits flipped all over the file: it is refused, or what is read is what was written. Never a panic, never nonsense.
    let mut refused = 0;
    for place in (0..whole.len()).step_by(whole.len() / 64) {
        let mut damaged = whole.clone();
        damaged[place] ^= 0x41;
        std::fs::write(&path, &damaged).unwrap();
        match EmbeddedRegistry::open(Some(&path), &here()) {
            Err(_) => refused += 1,
            Ok(registry) => {
                for n in 0..200 {
                    let key = Key::decode(&format!("state/instances/default/orders-api/{n}")).unwrap();
                    let found = registry.read(&key).await.unwrap().0.expect("a record");
                    assert_eq!(found.value, "x".repeat(500), "byte {place}");
                }
            }
        }
    }
    assert!(refused > 0, "no damage was noticed");
    std::fs::write(&path, &whole).unwrap();
    assert!(EmbeddedRegistry::open(Some(&path), &here()).is_ok());
}

#[test]
fn a_second_process_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("registry.redb");
    let _first = EmbeddedRegistry::open(Some(&path), &here()).unwrap();
    assert!(refusal(&path).contains("another process has"), "{}", refusal(&path));
    let nowhere = refusal(&dir.path().join("missing").join("registry.redb"));
    assert!(nowhere.starts_with("cannot open"), "{nowhere}");
}

#[tokio::test]
async fn a_wrong_configuration_of_etcd_is_named() {
    let config = |endpoint: &str| EtcdConfig::new(vec![endpoint.to_owned()], here());
    let refused = |config: &EtcdConfig| match EtcdRegistry::connect(config) {
        Err(RegistryError::Refused(why)) => why,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("connected with {config:?}"),
    };
    for endpoint in ["", "localhost:2379", "http://", "http://user@host:1", "ftp://host:1"] {
        assert!(refused(&config(endpoint)).contains("an etcd endpoint is like"), "{endpoint}");
    }
    assert!(refused(&EtcdConfig::new(vec![], here())).contains("no etcd endpoint"));
    assert!(refused(&config("https://host:1")).contains("need the file of a CA"));
    for prefix in ["", "/", "meridian", "/a b"] {
        let config = EtcdConfig { prefix: prefix.into(), ..config("http://host:1") };
        assert!(refused(&config).contains("prefix"), "{prefix:?}");
    }
    let tls = Some(EtcdTls { ca: "/nowhere/ca.pem".into(), identity: None });
    assert!(
        refused(&EtcdConfig { tls: tls.clone(), ..config("https://host:1") }).contains("/nowhere/ca.pem")
    );
    assert!(refused(&EtcdConfig { tls, ..config("http://host:1") }).contains("endpoints are http"));
}
