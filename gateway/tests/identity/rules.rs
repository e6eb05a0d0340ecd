//! What rules make of tokens, what roles may do, and mistakes in the configuration.

use crate::forge::{Forge, ISSUER, With, claims, header, jwks, now, verifier, with};
use meridian_gateway::identity::{Denied, Identity, IdentityConfig, Role, Scope, TokenError};
use meridian_model::instance::Owner;
use meridian_model::names::{InstanceId, Namespace, ServiceKey, ZoneName};
use serde_json::{Value, json};
use std::sync::{Arc, LazyLock};

static FORGE: LazyLock<Forge> = LazyLock::new(Forge::new);

fn identify(rules: &str, claims: &Value) -> Result<Arc<Identity>, TokenError> {
    let directory = tempfile::tempdir().unwrap();
    let issuer = r#"issuer = "https://id.prod.example""#;
    let rules = rules.replace("ISSUER", issuer);
    let text = format!("[[issuers]]\n{issuer}\naudience = \"meridian\"\njwks_file = \"prod.jwks\"\n{rules}");
    let verifier = verifier(directory.path(), &[FORGE.p256_jwk("p256")], &text);
    verifier.verify(&FORGE.token(&header(), claims, With::P256), now())
}

fn key(text: &str) -> ServiceKey {
    let (namespace, service) = text.split_once('/').unwrap();
    ServiceKey::new(namespace.parse().unwrap(), service.parse().unwrap())
}

fn id(text: &str) -> InstanceId {
    text.parse().unwrap()
}

fn zone(text: &str) -> ZoneName {
    text.parse().unwrap()
}

fn code(outcome: Result<(), Denied>) -> &'static str {
    match outcome {
        Ok(()) => "ok",
        Err(denied) => denied.code().as_str(),
    }
}

fn ns(text: &str) -> Namespace {
    text.parse().unwrap()
}

const EVERY: &str = r#"
[[rules]]
ISSUER
claims = { "/realm/roles" = "admin", verified = true }
role = "operator"

[[rules]]
ISSUER
claims = { groups = "staging-team" }
role = "operator"
namespace = "staging"

[[rules]]
ISSUER
subject = "edge:{zone}:{instance}"
role = "workload"
namespace = "prod"
service = "edge"

[[rules]]
ISSUER
subject = "registrar"
role = "workload"
namespace = "*"
service = "*"
zone = "z1"

[[rules]]
ISSUER
subject = "spiffe://prod.example/ns/{namespace}/sa/{service}"
claims = { level = 3 }
role = "workload"

[[rules]]
ISSUER
subject = "viewer:{namespace}"
role = "reader"
"#;

fn role(subject: &str, more: Value) -> String {
    match identify(EVERY, &with(claims(subject), more)) {
        Ok(identity) => format!("{:?}", identity.role()),
        Err(error) => error.code().to_string(),
    }
}

#[test]
fn the_first_rule_that_matches_gives_the_role() {
    let workload = "spiffe://prod.example/ns/a/sa/b";
    let operator = "Operator { namespace: None }";
    let cases = [
        (
            workload,
            json!({"level": 3}),
            r#"Workload { namespace: Only("a"), service: Only("b"), zone: None, instance: None }"#,
        ),
        (
            workload,
            json!({"level": [1, 3]}),
            r#"Workload { namespace: Only("a"), service: Only("b"), zone: None, instance: None }"#,
        ),
        (workload, json!({"level": "3"}), "no-role"),
        (workload, json!({"level": 3.0}), "no-role"),
        (workload, json!({}), "no-role"),
        (workload, json!({"level": 3, "verified": true, "realm": {"roles": ["admin"]}}), operator),
        ("anyone", json!({"verified": true, "realm": {"roles": "admin"}}), operator),
        ("anyone", json!({"verified": "true", "realm": {"roles": "admin"}}), "no-role"),
        ("anyone", json!({"verified": true, "realm": {"roles": ["administrator"]}}), "no-role"),
        ("anyone", json!({"verified": true, "realm": {"roles": [["admin"]]}}), "no-role"),
        ("anyone", json!({"verified": true, "/realm/roles": "admin"}), "no-role"),
        ("anyone", json!({"groups": ["x", "staging-team"]}), r#"Operator { namespace: Some("staging") }"#),
        ("anyone", json!({"groups": "x staging-team"}), "no-role"),
        ("anyone", json!({"groups": {"staging-team": true}}), "no-role"),
        (
            "edge:z1:pod-1.x",
            json!({}),
            r#"Workload { namespace: Only("prod"), service: Only("edge"), zone: Some("z1"), instance: Some("pod-1.x") }"#,
        ),
        ("edge:z1:pod:1", json!({}), "no-role"),
        (
            "registrar",
            json!({}),
            r#"Workload { namespace: Any, service: Any, zone: Some("z1"), instance: None }"#,
        ),
        ("viewer:prod", json!({}), r#"Reader { namespace: Some("prod") }"#),
        ("viewer:*", json!({}), "no-role"),
    ];
    for (subject, more, expected) in cases {
        assert_eq!(role(subject, more.clone()), expected, "{subject} with {more}");
    }
}

#[test]
fn a_workload_speaks_for_itself_only() {
    let me = identify(EVERY, &claims("edge:z1:pod-1")).unwrap();
    let (mine, own) = (key("prod/edge"), id("pod-1"));
    assert_eq!(code(me.may_register(&mine, &own, &zone("z1"))), "ok");
    assert_eq!(code(me.may_register(&mine, &own, &zone("z2"))), "zone-denied");
    assert_eq!(code(me.may_register(&mine, &id("pod-2"), &zone("z1"))), "instance-denied");
    assert_eq!(code(me.may_register(&key("prod/orders"), &own, &zone("z1"))), "service-denied");
    assert_eq!(code(me.may_register(&key("staging/edge"), &own, &zone("z1"))), "namespace-denied");

    let other = Owner { issuer: ISSUER.into(), subject: "edge:z1:pod-9".into() };
    let elsewhere = Owner { issuer: "https://other.example".into(), subject: me.subject().into() };
    assert_eq!(code(me.may_change(&mine, &own, me.owner())), "ok");
    assert_eq!(code(me.may_beat(&mine, &own, me.owner())), "ok");
    for owner in [&other, &elsewhere] {
        assert_eq!(code(me.may_change(&mine, &own, owner)), "not-owner");
        assert_eq!(code(me.may_beat(&mine, &own, owner)), "not-owner");
    }
    // A token that no longer covers the service does not change what an earlier one registered there.
    assert_eq!(code(me.may_change(&key("prod/orders"), &own, me.owner())), "service-denied");
    assert_eq!(code(me.may_operate(&ns("prod"))), "role-denied");
    assert_eq!(code(me.may_operate_region()), "role-denied");
    assert_eq!(code(me.may_read(&ns("staging"))), "ok");

    let registrar = identify(EVERY, &claims("registrar")).unwrap();
    assert_eq!(code(registrar.may_register(&key("any/thing"), &id("x"), &zone("z1"))), "ok");
    assert_eq!(code(registrar.may_register(&key("any/thing"), &id("x"), &zone("z2"))), "zone-denied");
    assert_eq!(code(registrar.may_change(&mine, &own, me.owner())), "not-owner");
}

#[test]
fn operators_change_but_do_not_register() {
    let team = identify(EVERY, &with(claims("anyone"), json!({"groups": ["staging-team"]}))).unwrap();
    assert_eq!(team.role(), &Role::Operator { namespace: Some(ns("staging")) });
    let (there, elsewhere) = (key("staging/a"), key("prod/a"));
    let owner = Owner { issuer: ISSUER.into(), subject: "someone".into() };
    assert_eq!(code(team.may_change(&there, &id("i"), &owner)), "ok");
    assert_eq!(code(team.may_change(&elsewhere, &id("i"), &owner)), "namespace-denied");
    assert_eq!(code(team.may_register(&there, &id("i"), &zone("z1"))), "role-denied");
    assert_eq!(code(team.may_beat(&there, &id("i"), team.owner())), "role-denied");
    assert_eq!(code(team.may_operate(&ns("staging"))), "ok");
    assert_eq!(code(team.may_operate(&ns("prod"))), "namespace-denied");
    assert_eq!(code(team.may_operate_region()), "namespace-denied");
    assert_eq!(code(team.may_read(&ns("prod"))), "namespace-denied");

    let all =
        identify(EVERY, &with(claims("x"), json!({"verified": true, "realm": {"roles": "admin"}}))).unwrap();
    assert_eq!(code(all.may_operate_region()), "ok");
    assert_eq!(code(all.may_operate(&ns("prod"))), "ok");
    assert_eq!(code(all.may_register(&elsewhere, &id("i"), &zone("z1"))), "role-denied");
}

#[test]
fn readers_read() {
    let viewer = identify(EVERY, &claims("viewer:prod")).unwrap();
    assert_eq!(code(viewer.may_read(&ns("prod"))), "ok");
    assert_eq!(code(viewer.may_read(&ns("staging"))), "namespace-denied");
    assert_eq!(code(viewer.may_operate(&ns("prod"))), "role-denied");
    assert_eq!(code(viewer.may_change(&key("prod/a"), &id("i"), viewer.owner())), "role-denied");
    assert_eq!(code(viewer.may_register(&key("prod/a"), &id("i"), &zone("z1"))), "role-denied");
}

#[test]
fn scopes_cover_names() {
    assert!(Scope::Any.covers(&ns("a")) && Scope::Only(ns("a")).covers(&ns("a")));
    assert!(!Scope::Only(ns("a")).covers(&ns("b")));
}

fn mistakes(text: &str) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("good.jwks"), jwks(&[FORGE.p256_jwk("p256")])).unwrap();
    std::fs::write(directory.path().join("empty.jwks"), jwks(&[])).unwrap();
    std::fs::write(directory.path().join("blank.jwks"), "").unwrap();
    std::fs::write(directory.path().join("p384.jwks"), jwks(&[FORGE.p384_jwk("a")])).unwrap();
    std::fs::write(directory.path().join("private.jwks"), jwks(&[FORGE.p256_private_jwk()])).unwrap();
    std::fs::write(directory.path().join("secret.jwks"), jwks(&[json!({"kty": "oct", "k": "AAAA"})]))
        .unwrap();
    let mut off_curve = FORGE.p256_jwk("a");
    off_curve["y"] = off_curve["x"].clone();
    std::fs::write(directory.path().join("off-curve.jwks"), jwks(&[off_curve])).unwrap();
    let config: IdentityConfig = toml::from_str(text).unwrap();
    config
        .check(directory.path())
        .map(|_| ())
        .err()
        .unwrap_or_default()
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[track_caller]
fn check_mistakes(text: &str, expected: &[(&str, &str)]) {
    let found = mistakes(text);
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (line, (place, words)) in found.iter().zip(expected) {
        assert!(
            line.starts_with(&format!("{place}: ")) && line.contains(words),
            "{line}\nexpected {place}: …{words}…"
        );
    }
}

#[test]
fn all_mistakes_are_reported_together() {
    check_mistakes(
        r#"
[[issuers]]
issuer = " "
audience = []
algorithms = ["HS256", "none", "ES512", "ES256"]
keep_keys_for = "soon"
jwks_file = "nowhere.jwks"

[[issuers]]
issuer = "a"
audience = ["x", ""]
jwks_url = "https://a.example/keys"

[[issuers]]
issuer = "a"
audience = "x"
discovery = true

[[issuers]]
issuer = "b"
audience = "x"

[[rules]]
issuer = "c"
role = "admin"
subject = "x-{service}"

[[rules]]
issuer = "a"
role = "workload"
subject = "{namespace}/fixed"

[[rules]]
issuer = "a"
role = "workload"
claims = { a = "b" }

[[rules]]
issuer = "a"
role = "operator"
service = "x"

[[rules]]
issuer = "a"
role = "workload"
subject = "{namespace}/{service}"
namespace = "prod"
zone = "No Zone"
"#,
        &[
            ("identity.issuers[0].issuer", "blank"),
            ("identity.issuers[0].audience", "blank"),
            ("identity.issuers[0].algorithms", "shared secret"),
            ("identity.issuers[0].algorithms", "signs nothing"),
            ("identity.issuers[0].algorithms", "not supported"),
            ("identity.issuers[0].keep_keys_for", "24h"),
            ("identity.issuers[0].jwks_file", "cannot read"),
            ("identity.issuers[1].audience", "blank"),
            ("identity.issuers[1].jwks_url", "jwks_file is what works now"),
            ("identity.issuers[2].issuer", "twice"),
            ("identity.issuers[2].discovery", "jwks_file is what works now"),
            ("identity.issuers[3].jwks_file", "missing"),
            ("identity.rules[0].issuer", "\"c\""),
            ("identity.rules[0].subject", "whole segment"),
            ("identity.rules[0].role", "workload, operator or reader"),
            ("identity.rules[1].service", "service = \"*\""),
            ("identity.rules[2].namespace", "namespace = \"*\""),
            ("identity.rules[2].service", "{service}"),
            ("identity.rules[3]", "every token"),
            ("identity.rules[3].service", "only the role workload"),
            ("identity.rules[4].namespace", "captured"),
            ("identity.rules[4].zone", "zone must match"),
        ],
    );
}

#[test]
fn key_files_that_cannot_serve_are_named() {
    for (file, words) in [
        ("empty.jwks", "holds no keys"),
        ("blank.jwks", "not a JWK set"),
        ("p384.jwks", "none of the issuer's algorithms"),
        ("private.jwks", "private key"),
        ("secret.jwks", "shared secret"),
        ("off-curve.jwks", "not a point"),
        (".", "not a file"),
        ("missing.jwks", "cannot read"),
    ] {
        let text = format!("[[issuers]]\nissuer = \"a\"\naudience = \"x\"\njwks_file = \"{file}\"");
        check_mistakes(&text, &[("identity.issuers[0].jwks_file", words)]);
        assert!(mistakes(&text)[0].contains(file), "{file}");
    }
    check_mistakes("[[issuers]]\nissuer = \"a\"\naudience = \"x\"\njwks_file = \"good.jwks\"", &[]);
    check_mistakes("", &[]);
}

#[test]
fn unknown_keys_of_the_section_are_refused() {
    for text in [
        "issuer = []",
        "[[issuers]]\nissuer = \"a\"\naudience = \"b\"\njwksFile = \"c\"",
        "[[rules]]\nissuer = \"a\"\nrole = \"reader\"\nsub = \"x\"",
    ] {
        assert!(toml::from_str::<IdentityConfig>(text).is_err(), "{text}");
    }
}

#[test]
fn without_issuers_nobody_is_known() {
    let verifier = IdentityConfig::default().check(std::path::Path::new(".")).unwrap();
    assert!(!verifier.has_issuers());
    let error = verifier.verify(&FORGE.good("x"), now()).unwrap_err();
    assert_eq!(error.code().as_str(), "token-issuer-unknown");
}
