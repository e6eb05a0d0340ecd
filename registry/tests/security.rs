//! TLS and passwords, against an etcd that asks for them.

// Helpers of tests assert by unwrapping, as the tests do; clippy exempts only functions that are marked as tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use meridian_registry::etcd::{EtcdConfig, EtcdRegistry, EtcdTls};
use meridian_registry::testing::RealEtcd;
use meridian_registry::{Event, Key, Registry, RegistryError};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

fn openssl(dir: &Path, arguments: &str) {
    let output = Command::new("openssl").args(arguments.split(' ')).current_dir(dir).output();
    let output = output.expect("cannot run openssl: install it (apt-get install openssl)");
    assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A CA, and a certificate of it for etcd and its clients.
fn certificates(dir: &Path) {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(dir, &format!("req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=test-ca"));
    std::fs::write(
        dir.join("extensions"),
        "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=CA:FALSE\n",
    )
    .expect("a file");
    openssl(dir, &format!("req {key} -keyout etcd.key -out etcd.csr -subj /CN=etcd"));
    openssl(
        dir,
        "x509 -req -in etcd.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out etcd.pem -days 2 -extfile extensions",
    );
}

async fn works(config: &EtcdConfig) {
    let registry = EtcdRegistry::connect(config).expect("a configuration that makes sense");
    registry.claim(None).await.expect("etcd takes it");
    let first = registry.watch(None).recv().await;
    assert!(matches!(first, Some(Event::Reset { .. })), "{first:?}");
    assert!(registry.read(&Key::Region).await.expect("an answer").0.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_over_tls_with_client_certificates() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    openssl(
        dir.path(),
        "req -x509 -newkey rsa:2048 -nodes -keyout other.key -out other.pem -days 2 -subj /CN=other",
    );
    let file = |name: &str| dir.path().join(name);
    let argument = |name: &str, value: &str| format!("--{name}={}", file(value).display());
    let arguments = [
        argument("cert-file", "etcd.pem"),
        argument("key-file", "etcd.key"),
        argument("trusted-ca-file", "ca.pem"),
        "--client-cert-auth".to_owned(),
    ];
    let etcd = RealEtcd::start_with(&arguments.each_ref().map(String::as_str));
    let tls = |ca: &str, identity: Option<&str>| {
        let identity = identity.map(|name| (file(&format!("{name}.pem")), file(&format!("{name}.key"))));
        EtcdConfig { tls: Some(EtcdTls { ca: file(ca), identity }), ..etcd.config("here") }
    };
    works(&tls("ca.pem", Some("etcd"))).await;
    for (ca, identity) in [("other.pem", Some("etcd")), ("ca.pem", None), ("ca.pem", Some("other"))] {
        let registry = EtcdRegistry::connect(&tls(ca, identity)).unwrap();
        let outcome = registry.claim(None).await;
        assert!(matches!(outcome, Err(RegistryError::Unavailable(_))), "{ca} {identity:?}: {outcome:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_with_passwords() {
    let mut etcd = RealEtcd::start_with(&["--auth-token-ttl=1"]);
    for command in ["user add root:secret", "role add root", "user grant-role root root", "auth enable"] {
        etcd.etcdctl(&command.split(' ').collect::<Vec<_>>());
    }
    let as_user = |etcd: &RealEtcd, password: &str| EtcdConfig {
        user: Some(("root".into(), password.into())),
        ..etcd.config("here")
    };
    works(&as_user(&etcd, "secret")).await;
    // Wrong or missing credentials are told from an etcd that is down: waiting would not help.
    for config in [as_user(&etcd, "wrong"), etcd.config("here")] {
        let outcome = EtcdRegistry::connect(&config).unwrap().claim(None).await;
        assert!(matches!(outcome, Err(RegistryError::Refused(_))), "{outcome:?}");
    }
    // Tokens do not survive a restart of etcd: they are taken anew, without anybody noticing.
    let registry = EtcdRegistry::connect(&as_user(&etcd, "secret")).unwrap();
    let mut membership = registry.join("g".parse().unwrap(), "me".into(), Duration::from_secs(5));
    membership.wait_for(Option::is_some).await.unwrap();
    let mut events = registry.watch(None);
    assert!(matches!(events.recv().await, Some(Event::Reset { .. })));
    etcd.start_again();
    while !matches!(events.recv().await, Some(Event::Lost { .. })) {}
    while !matches!(events.recv().await, Some(Event::Current { .. })) {}
    registry.read(&Key::Region).await.unwrap();
    assert!(membership.borrow().is_some(), "the lease outlived the restart");
}
