//! The development issuer with the configuration that goes with it.

use crate::forge::{NOW, now};
use meridian_gateway::identity::{
    Issuer, IssuerError, JWKS_FILE, KEY_FILE, MintRequest, Role, Scope, dev_identity_config, dev_subject,
};
use meridian_model::names::{Namespace, ServiceName};
use meridian_model::time::UnixMillis;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

fn names() -> (Namespace, ServiceName) {
    ("prod".parse().unwrap(), "orders-api".parse().unwrap())
}

#[test]
fn tokens_of_the_issuer_give_the_three_roles() {
    let directory = tempfile::tempdir().unwrap();
    let issuer = Issuer::init(directory.path()).unwrap();
    let verifier = dev_identity_config(&directory.path().join(JWKS_FILE)).check(directory.path()).unwrap();
    let (namespace, service) = names();
    let role = |request: &MintRequest| {
        let identity = verifier.verify(&issuer.mint(request).unwrap(), now()).unwrap();
        assert_eq!(identity.expires_at(), UnixMillis::from_secs(NOW + 3600));
        identity.role().clone()
    };
    let workload = MintRequest::dev_workload(&namespace, &service, HOUR, now());
    assert_eq!(
        role(&workload),
        Role::Workload {
            namespace: Scope::Only(namespace.clone()),
            service: Scope::Only(service.clone()),
            zone: None,
            instance: None
        }
    );
    assert_eq!(role(&MintRequest::dev_operator(HOUR, now())), Role::Operator { namespace: None });
    assert_eq!(role(&MintRequest::dev_reader(HOUR, now())), Role::Reader { namespace: None });
    let subject = dev_subject(&namespace, &service);
    assert_eq!(subject, "spiffe://dev.meridian/ns/prod/sa/orders-api");
    let both = MintRequest { groups: vec!["x".to_owned(), "operator".to_owned()], ..workload };
    assert_eq!(role(&both), Role::Operator { namespace: None });
}

#[test]
fn a_key_is_never_overwritten_and_never_shared() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path().join("deep/issuer");
    let issuer = Issuer::init(&dir).unwrap();
    let key = std::fs::read(dir.join(KEY_FILE)).unwrap();
    assert!(matches!(Issuer::init(&dir), Err(IssuerError::Exists(_))));
    std::fs::remove_file(dir.join(KEY_FILE)).unwrap();
    assert!(matches!(Issuer::init(&dir), Err(IssuerError::Exists(_))), "the key set alone is kept too");
    std::fs::write(dir.join(KEY_FILE), key).unwrap();

    let loaded = Issuer::load(&dir.join(KEY_FILE)).unwrap();
    assert_eq!((loaded.kid(), loaded.jwks()), (issuer.kid(), issuer.jwks()));
    assert_eq!(std::fs::read_to_string(dir.join(JWKS_FILE)).unwrap(), issuer.jwks());
    assert!(issuer.jwks().contains("\"sig\"") && !issuer.jwks().contains("\"d\""));
    let fresh = Issuer::init(&directory.path().join("other")).unwrap();
    assert_ne!(fresh.kid(), issuer.kid());
}

#[cfg(unix)]
#[test]
fn the_key_file_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    Issuer::init(directory.path()).unwrap();
    let mode = directory.path().join(KEY_FILE).metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn what_is_not_a_key_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("x.key");
    let error = Issuer::load(&file).unwrap_err();
    assert!(error.to_string().contains("x.key"), "{error}");
    let rsa_header = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    for text in
        ["", "garbage", rsa_header, "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n"]
    {
        std::fs::write(&file, text).unwrap();
        assert!(matches!(Issuer::load(&file), Err(IssuerError::NotAKey(_))), "{text}");
    }
}
