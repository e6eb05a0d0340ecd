//! Odd tokens, each with what must become of it.

use crate::forge::{Forge, ISSUER, NOW, With, b64, claims, header, now, verifier, with};
use meridian_gateway::identity::{LEEWAY, MAX_TOKEN_BYTES, Verifier};
use meridian_model::time::UnixMillis;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::LazyLock;

const SUBJECT: &str = "spiffe://prod.example/ns/prod/sa/orders-api";
const PLAIN: &str = "system:serviceaccount:prod:orders-api";

const CONFIG: &str = r#"
[[issuers]]
issuer = "https://id.prod.example"
audience = ["meridian", "meridian.prod"]
jwks_file = "prod.jwks"
algorithms = ["ES256", "ES384", "RS256", "EdDSA"]

[[rules]]
issuer = "https://id.prod.example"
subject = "spiffe://prod.example/ns/{namespace}/sa/{service}"
role = "workload"

[[rules]]
issuer = "https://id.prod.example"
subject = "system:serviceaccount:{namespace}:{service}"
role = "workload"
"#;

struct World {
    forge: Forge,
    verifier: Verifier,
    _directory: tempfile::TempDir,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let (forge, directory) = (Forge::new(), tempfile::tempdir().unwrap());
    let keys =
        [forge.p256_jwk("p256"), forge.p384_jwk("p384"), forge.rsa_jwk("rsa"), forge.ed25519_jwk("ed")];
    let verifier = verifier(directory.path(), &keys, CONFIG);
    World { forge, verifier, _directory: directory }
});

fn outcome(verifier: &Verifier, token: &str) -> String {
    match verifier.verify(token, now()) {
        Ok(_) => "ok".to_owned(),
        Err(error) => {
            assert!(!error.detail().is_empty() && error.detail().len() < 600, "{error}");
            error.code().to_string()
        }
    }
}

#[track_caller]
fn check(cases: &[(&str, String, &str)]) {
    let wrong: Vec<_> = cases
        .iter()
        .filter_map(|(name, token, expected)| {
            let found = outcome(&WORLD.verifier, token);
            (found != *expected).then(|| format!("{name}: {found}, expected {expected}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn claiming(changes: Value) -> String {
    WORLD.forge.token(&header(), &with(claims(SUBJECT), changes), With::P256)
}

fn headed(changes: Value) -> String {
    WORLD.forge.token(&with(header(), changes), &claims(SUBJECT), With::P256)
}

fn headed_plain(changes: Value) -> String {
    WORLD.forge.token(&with(header(), changes), &claims(PLAIN), With::P256)
}

#[test]
fn form() {
    let forge = &WORLD.forge;
    let good = forge.good(SUBJECT);
    let (message, signature) = good.rsplit_once('.').unwrap();
    let (head, payload) = message.split_once('.').unwrap();
    let bomb = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
    let goods = claims(SUBJECT).to_string();
    let doubled = goods.replacen('{', r#"{"sub":"spiffe://prod.example/ns/prod/sa/victim","#, 1);
    let doubled_escaped = goods.replacen('{', r#"{"\u0073ub":"spiffe://prod.example/ns/prod/sa/victim","#, 1);
    let padded = with(claims(SUBJECT), json!({"pad": "x".repeat(MAX_TOKEN_BYTES)})).to_string();
    check(&[
        ("good", good.clone(), "ok"),
        ("empty", String::new(), "token-malformed"),
        ("one part", head.to_owned(), "token-malformed"),
        ("two parts", message.to_owned(), "token-malformed"),
        ("only dots", "..".to_owned(), "token-malformed"),
        ("trailing dot", format!("{good}."), "token-malformed"),
        ("leading dot", format!(".{good}"), "token-malformed"),
        ("five parts, encrypted", format!("{good}.a.b"), "token-malformed"),
        ("truncated in the signature", good[..good.len() - 6].to_owned(), "token-signature"),
        (
            "truncated in the payload",
            format!("{head}.{}.{signature}", &payload[..payload.len() - 8]),
            "token-malformed",
        ),
        ("larger than 8 KiB", forge.token_of(header().to_string(), padded, With::P256), "token-malformed"),
        ("64 KiB of A", "A".repeat(65_536), "token-malformed"),
        ("64 KiB of dots", ".".repeat(65_536), "token-malformed"),
        ("leading blank", format!(" {good}"), "token-malformed"),
        ("trailing newline", format!("{good}\n"), "token-malformed"),
        ("blank inside", good.replacen('.', ". ", 1), "token-malformed"),
        ("with its scheme", format!("Bearer {good}"), "token-malformed"),
        ("NUL", format!("{good}\0"), "token-malformed"),
        ("not ASCII", format!("{good}é"), "token-malformed"),
        ("padded base64", format!("{good}=="), "token-malformed"),
        ("standard base64", format!("{head}.{payload}.{}", "+/".repeat(43)), "token-malformed"),
        ("header is not JSON", forge.token_of("alg", &goods, With::P256), "token-malformed"),
        ("header is a list", forge.token_of("[]", &goods, With::P256), "token-malformed"),
        ("payload is a text", forge.token_of(header().to_string(), "\"x\"", With::P256), "token-malformed"),
        ("payload is empty", forge.token_of(header().to_string(), "", With::P256), "token-malformed"),
        (
            "payload is not UTF-8",
            forge.token_of(header().to_string(), b"{\"a\":\"\xff\xfe\"}", With::P256),
            "token-malformed",
        ),
        (
            "payload with a BOM",
            forge.token_of(header().to_string(), format!("\u{feff}{goods}"), With::P256),
            "token-malformed",
        ),
        (
            "two payloads",
            forge.token_of(header().to_string(), format!("{goods}{goods}"), With::P256),
            "token-malformed",
        ),
        ("a token in a token", forge.token_of(header().to_string(), &good, With::P256), "token-malformed"),
        ("lists 2000 deep", forge.token_of(header().to_string(), bomb(2000), With::P256), "token-malformed"),
        ("header 2000 deep", forge.token_of(bomb(2000), &goods, With::P256), "token-malformed"),
        ("doubled claim", forge.token_of(header().to_string(), doubled, With::P256), "token-malformed"),
        (
            "doubled claim, escaped",
            forge.token_of(header().to_string(), doubled_escaped, With::P256),
            "token-malformed",
        ),
        (
            "doubled header",
            forge.token_of(r#"{"alg":"none","alg":"ES256","kid":"p256"}"#, &goods, With::P256),
            "token-malformed",
        ),
    ]);
}

#[test]
fn headers() {
    let forge = &WORLD.forge;
    let signed =
        |alg: &str, kid: &str, by: With| forge.token(&json!({"alg": alg, "kid": kid}), &claims(PLAIN), by);
    check(&[
        ("alg none", headed(json!({"alg": "none"})), "token-algorithm"),
        ("alg None", headed(json!({"alg": "None"})), "token-algorithm"),
        (
            "alg none, no signature",
            forge.token(&json!({"alg": "none"}), &claims(SUBJECT), With::Nothing),
            "token-algorithm",
        ),
        ("no alg", headed(json!({"alg": null})), "token-malformed"),
        ("alg is a number", headed(json!({"alg": 1})), "token-malformed"),
        ("alg in lower case", headed(json!({"alg": "es256"})), "token-algorithm"),
        ("alg nobody knows", headed(json!({"alg": "XS1"})), "token-algorithm"),
        ("HS256 with the public key", signed("HS256", "p256", With::HmacOfPublicKey), "token-algorithm"),
        ("alg not in the issuer's list", signed("PS256", "rsa", With::RsaPss), "token-algorithm"),
        ("ES384 with the P-384 key", signed("ES384", "p384", With::P384), "ok"),
        ("RS256", signed("RS256", "rsa", With::RsaPkcs1), "ok"),
        ("EdDSA", signed("EdDSA", "ed", With::Ed25519), "ok"),
        ("ES384 with the P-256 key: wrong curve", signed("ES384", "p256", With::P256), "token-algorithm"),
        ("ES256 with the P-384 key: wrong curve", signed("ES256", "p384", With::P384), "token-algorithm"),
        ("RS256 with an EC key", signed("RS256", "p256", With::P256), "token-algorithm"),
        ("RS256 over a PSS signature", signed("RS256", "rsa", With::RsaPss), "token-signature"),
        ("unknown kid", headed(json!({"kid": "other"})), "token-key-unknown"),
        ("empty kid", headed(json!({"kid": ""})), "token-key-unknown"),
        ("kid is a path", headed(json!({"kid": "../../dev/null"})), "token-key-unknown"),
        ("kid is a number", headed(json!({"kid": 7})), "token-malformed"),
        ("kid of another key", headed(json!({"kid": "ed"})), "token-algorithm"),
        ("no kid, one key for the algorithm", headed(json!({"kid": null})), "ok"),
        ("no typ", headed(json!({"typ": null})), "ok"),
        ("typ jwt", headed(json!({"typ": "jwt"})), "ok"),
        ("typ application/jwt", headed(json!({"typ": "application/JWT"})), "ok"),
        ("typ JOSE of a SPIFFE ID", headed(json!({"typ": "JOSE"})), "ok"),
        ("typ JOSE of another subject", headed_plain(json!({"typ": "JOSE"})), "token-type"),
        ("typ at+jwt of a SPIFFE ID", headed(json!({"typ": "at+jwt"})), "token-type"),
        ("typ at+jwt of another subject", headed_plain(json!({"typ": "at+jwt"})), "ok"),
        ("typ of a logout token", headed_plain(json!({"typ": "logout+jwt"})), "token-type"),
        ("typ is a list", headed(json!({"typ": ["JWT"]})), "token-malformed"),
        ("crit", headed_plain(json!({"crit": ["exp"]})), "token-critical-header"),
        ("empty crit", headed_plain(json!({"crit": []})), "token-critical-header"),
        ("b64 false", headed_plain(json!({"b64": false})), "token-critical-header"),
        (
            "b64 false, critical",
            headed_plain(json!({"b64": false, "crit": ["b64"]})),
            "token-critical-header",
        ),
        ("jku of a SPIFFE ID", headed(json!({"jku": "https://evil.example"})), "token-header"),
        ("cty of a SPIFFE ID", headed(json!({"cty": "JWT"})), "token-header"),
        ("jku is not followed", headed_plain(json!({"jku": "https://evil.example"})), "ok"),
    ]);
}

#[test]
fn keys_in_headers_are_not_used() {
    let stranger = Forge::new();
    let headers = with(
        header(),
        json!({"jwk": stranger.p256_jwk("p256"), "x5u": "https://evil.example", "x5c": ["AA"]}),
    );
    check(&[
        ("own jwk", stranger.token(&headers, &claims(PLAIN), With::P256), "token-signature"),
        ("a stranger's key", stranger.good(SUBJECT), "token-signature"),
    ]);
}

#[test]
fn claims_of_every_form() {
    check(&[
        ("no iss", claiming(json!({"iss": null})), "token-claims"),
        ("iss is a list", claiming(json!({"iss": [ISSUER]})), "token-claims"),
        ("iss is empty", claiming(json!({"iss": ""})), "token-claims"),
        ("iss of another", claiming(json!({"iss": "https://id.evil.example"})), "token-issuer-unknown"),
        ("iss with a slash more", claiming(json!({"iss": format!("{ISSUER}/")})), "token-issuer-unknown"),
        ("iss in upper case", claiming(json!({"iss": ISSUER.to_uppercase()})), "token-issuer-unknown"),
        ("no aud", claiming(json!({"aud": null})), "token-claims"),
        ("aud of another", claiming(json!({"aud": "vault"})), "token-audience"),
        ("aud as a part", claiming(json!({"aud": "meridian.prod.x"})), "token-audience"),
        ("aud in a list", claiming(json!({"aud": ["vault", "meridian.prod"]})), "ok"),
        ("aud not in the list", claiming(json!({"aud": ["vault", "consul"]})), "token-audience"),
        ("aud is an empty list", claiming(json!({"aud": []})), "token-audience"),
        ("aud is a mixed list", claiming(json!({"aud": ["meridian", 1]})), "token-claims"),
        ("aud is a list in a list", claiming(json!({"aud": [["meridian"]]})), "token-claims"),
        ("aud is an object", claiming(json!({"aud": {"meridian": true}})), "token-claims"),
        ("no exp", claiming(json!({"exp": null})), "token-claims"),
        ("exp as text", claiming(json!({"exp": (NOW + 600).to_string()})), "token-claims"),
        ("exp with a fraction", claiming(json!({"exp": NOW as f64 + 600.5})), "ok"),
        ("exp negative", claiming(json!({"exp": -1})), "token-claims"),
        ("exp zero", claiming(json!({"exp": 0})), "token-expired"),
        ("exp in milliseconds", claiming(json!({"exp": (NOW + 600) * 1000})), "token-claims"),
        ("exp 2^64 - 1", claiming(json!({"exp": u64::MAX})), "token-claims"),
        ("exp 1e300", claiming(json!({"exp": 1e300})), "token-claims"),
        ("exp true", claiming(json!({"exp": true})), "token-claims"),
        ("exp a list", claiming(json!({"exp": [NOW + 600]})), "token-claims"),
        ("exp past", claiming(json!({"exp": NOW - 60})), "token-expired"),
        ("nbf future", claiming(json!({"nbf": NOW + 60})), "token-not-yet-valid"),
        ("nbf as text", claiming(json!({"nbf": "0"})), "token-claims"),
        ("iat future", claiming(json!({"iat": NOW + 60})), "token-not-yet-valid"),
        ("iat as text", claiming(json!({"iat": "0"})), "token-claims"),
        ("no iat", claiming(json!({"iat": null})), "ok"),
        ("no sub", claiming(json!({"sub": null})), "token-claims"),
        ("sub is empty", claiming(json!({"sub": ""})), "token-claims"),
        ("sub is a number", claiming(json!({"sub": 1})), "token-claims"),
        ("sub with a newline", claiming(json!({"sub": "a\nb"})), "token-claims"),
        ("sub with NUL", claiming(json!({"sub": "a\0"})), "token-claims"),
        ("sub of 4 KiB", claiming(json!({"sub": "a".repeat(4096)})), "token-claims"),
    ]);
}

#[test]
fn subjects_that_pose_as_others() {
    let sub = |subject: &str| claiming(json!({ "sub": subject }));
    check(&[
        ("traversal", sub("spiffe://prod.example/ns/prod/sa/x/../orders-api"), "token-claims"),
        ("traversal of the namespace", sub("spiffe://prod.example/ns/../sa/orders-api"), "token-claims"),
        ("dot segment", sub("spiffe://prod.example/./ns/prod/sa/orders-api"), "token-claims"),
        ("percent", sub("spiffe://prod.example/ns/prod/sa/orders%2dapi"), "token-claims"),
        ("percent slash", sub("spiffe://prod.example/ns/prod/sa%2forders-api"), "token-claims"),
        ("cyrillic twin", sub("spiffe://prod.example/ns/prod/sa/оrders-api"), "token-claims"),
        ("empty segment", sub("spiffe://prod.example/ns//sa/orders-api"), "token-claims"),
        ("trailing slash", sub("spiffe://prod.example/ns/prod/sa/orders-api/"), "token-claims"),
        ("trust domain in upper case", sub("spiffe://PROD.example/ns/prod/sa/orders-api"), "token-claims"),
        ("scheme in upper case", sub("SPIFFE://prod.example/ns/prod/sa/orders-api"), "token-claims"),
        ("port", sub("spiffe://prod.example:443/ns/prod/sa/orders-api"), "token-claims"),
        ("user", sub("spiffe://a@prod.example/ns/prod/sa/orders-api"), "token-claims"),
        ("query", sub("spiffe://prod.example/ns/prod/sa/orders-api?x"), "token-claims"),
        ("blank before", sub(" spiffe://prod.example/ns/prod/sa/orders-api"), "no-role"),
        ("other trust domain", sub("spiffe://prodXexample/ns/prod/sa/orders-api"), "token-claims"),
        ("dot of the pattern is no wildcard", sub("spiffe://prod-example/ns/prod/sa/orders-api"), "no-role"),
        ("longer path", sub("spiffe://prod.example/ns/prod/sa/orders-api/x"), "no-role"),
        ("prefix only", sub("spiffe://prod.example/ns/prod/sa"), "no-role"),
        ("capture out of the grammar", sub("spiffe://prod.example/ns/prod/sa/Orders"), "no-role"),
        ("capture ends in a dash", sub("spiffe://prod.example/ns/prod-/sa/orders"), "no-role"),
        (
            "capture of 64 bytes",
            sub(&format!("spiffe://prod.example/ns/prod/sa/{}", "a".repeat(64))),
            "no-role",
        ),
        ("account with a colon", sub("system:serviceaccount:prod:orders:api"), "no-role"),
        ("account with a slash", sub("system:serviceaccount:prod:orders/api"), "no-role"),
        ("empty account", sub("system:serviceaccount:prod:"), "no-role"),
        ("twin of an account", sub("system:serviceaccount:prod:оrders"), "no-role"),
    ]);
    let error = WORLD.verifier.verify(&sub("spiffe://prod.example/ns/prod/sa/Orders"), now()).unwrap_err();
    assert_eq!(error.code().status(), 403);
    assert!(error.detail().contains("{service}") && error.detail().contains("Orders"), "{error}");
}

#[test]
fn a_jwt_svid_is_not_signed_with_eddsa() {
    let forge = &WORLD.forge;
    let token = forge.token(&json!({"alg": "EdDSA", "kid": "ed"}), &claims(SUBJECT), With::Ed25519);
    check(&[("EdDSA", token, "token-algorithm")]);
}

#[test]
fn signatures_that_were_bent() {
    let forge = &WORLD.forge;
    let message = format!("{}.{}", b64(header().to_string()), b64(claims(SUBJECT).to_string()));
    let signature = forge.sign(&message, With::P256);
    let with_signature = |bytes: &[u8]| format!("{message}.{}", b64(bytes));
    let high_s: Vec<u8> = [&signature[..32], &minus(&P256_ORDER, &signature[32..])].concat();
    let mut flipped = signature.clone();
    flipped[40] ^= 1;

    let ed_message = format!("{}.{}", b64(r#"{"alg":"EdDSA","kid":"ed"}"#), b64(claims(PLAIN).to_string()));
    let ed = forge.sign(&ed_message, With::Ed25519);
    let bent_ed = [&ed[..32], &plus_little_endian(&ed[32..], &ED25519_ORDER)].concat();

    // In ECDSA (r, n - s) is as good as (r, s), and half of all signers' signatures look so: it must stay valid, and is
    // the same identity.
    let twin = with_signature(&high_s);
    assert_eq!(
        WORLD.verifier.verify(&twin, now()).unwrap(),
        WORLD.verifier.verify(&with_signature(&signature), now()).unwrap()
    );
    let changed = format!(
        "{}.{}",
        b64(header().to_string()),
        b64(claims("spiffe://prod.example/ns/prod/sa/x").to_string())
    );
    let unused_bits = {
        // The last character of 64 bytes carries four bits that nobody reads.
        let good = with_signature(&signature);
        let last = good.chars().last().unwrap();
        let next = char::from(last as u8 + 1);
        format!("{}{next}", &good[..good.len() - 1])
    };
    check(&[
        ("flipped bit", with_signature(&flipped), "token-signature"),
        ("no signature", with_signature(&[]), "token-signature"),
        ("all zero", with_signature(&[0; 64]), "token-signature"),
        ("r = s = n", with_signature(&[P256_ORDER, P256_ORDER].concat()), "token-signature"),
        ("a byte more", with_signature(&[&signature[..], &[0]].concat()), "token-signature"),
        ("leading zero byte", with_signature(&[&[0], &signature[..]].concat()), "token-signature"),
        ("as DER", with_signature(&forge.sign(&message, With::P256InDer)), "token-signature"),
        ("over other claims", format!("{changed}.{}", b64(&signature)), "token-signature"),
        ("other text of the same bytes", unused_bits, "token-malformed"),
        ("Ed25519", format!("{ed_message}.{}", b64(&ed)), "ok"),
        ("Ed25519 with s + l", format!("{ed_message}.{}", b64(bent_ed)), "token-signature"),
    ]);
}

const P256_ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa,
    0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];

/// Little-endian.
const ED25519_ORDER: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

fn minus(a: &[u8], b: &[u8]) -> Vec<u8> {
    let mut borrow = 0;
    let mut difference: Vec<u8> = a
        .iter()
        .zip(b)
        .rev()
        .map(|(a, b)| {
            let digit = i16::from(*a) - i16::from(*b) - borrow;
            borrow = i16::from(digit < 0);
            digit.rem_euclid(256) as u8
        })
        .collect();
    difference.reverse();
    difference
}

fn plus_little_endian(a: &[u8], b: &[u8]) -> Vec<u8> {
    let mut carry = 0;
    a.iter()
        .zip(b)
        .map(|(a, b)| {
            let digit = u16::from(*a) + u16::from(*b) + carry;
            carry = digit >> 8;
            (digit & 0xff) as u8
        })
        .collect()
}

/// The edge is the same for a token that is remembered.
#[test]
fn the_leeway_is_ten_seconds_to_the_millisecond() {
    assert_eq!(LEEWAY.as_secs(), 10);
    let token = claiming(json!({"exp": NOW}));
    let verify = |millis| WORLD.verifier.verify(&token, UnixMillis(millis)).map_err(|e| e.code().as_str());
    for _ in 0..2 {
        assert_eq!(verify(NOW * 1000 + 9_999).unwrap().expires_at(), UnixMillis::from_secs(NOW));
        assert_eq!(verify(NOW * 1000 + 10_000), Err("token-expired"));
    }
    for claim in ["nbf", "iat"] {
        let token = claiming(json!({ claim: NOW }));
        let verify =
            |millis| WORLD.verifier.verify(&token, UnixMillis(millis)).map_err(|e| e.code().as_str());
        assert_eq!(verify(NOW * 1000 - 10_001), Err("token-not-yet-valid"), "{claim}");
        assert!(verify(NOW * 1000 - 10_000).is_ok(), "{claim}");
    }
}

#[test]
fn refusals_name_the_claim_and_repeat_no_secrets() {
    let token = claiming(json!({"aud": "vault", "secret": "hunter2"}));
    let signature = token.rsplit('.').next().unwrap();
    let error = WORLD.verifier.verify(&token, now()).unwrap_err();
    assert_eq!(error.detail(), r#"aud is "vault", expected meridian or meridian.prod"#);
    assert!(!error.to_string().contains("hunter2") && !error.to_string().contains(signature));
    let error = WORLD.verifier.verify(&claiming(json!({"exp": NOW - 60})), now()).unwrap_err();
    assert_eq!(error.detail(), "exp passed 60 s ago");
}

proptest! {
    #[test]
    fn no_text_panics_or_passes(text in ".{0,400}") {
        prop_assert!(WORLD.verifier.verify(&text, now()).is_err());
    }

    #[test]
    fn no_parts_panic_or_pass(header in any::<Vec<u8>>(), payload in any::<Vec<u8>>(), signature in any::<Vec<u8>>()) {
        let token = format!("{}.{}.{}", b64(header), b64(payload), b64(signature));
        prop_assert!(WORLD.verifier.verify(&token, now()).is_err());
    }

    #[test]
    fn no_change_of_a_good_token_passes(position in any::<prop::sample::Index>(), byte in 0x20_u8..0x7f) {
        let good = WORLD.forge.good(SUBJECT);
        let mut bytes = good.clone().into_bytes();
        let at = position.index(bytes.len());
        prop_assume!(bytes[at] != byte);
        bytes[at] = byte;
        let changed = String::from_utf8(bytes).unwrap();
        prop_assert!(WORLD.verifier.verify(&changed, now()).is_err());
    }

    #[test]
    fn signed_nonsense_gives_nothing(subject in "\\PC{0,60}", exp in any::<i64>(), nbf in any::<f64>(), aud in "[a-z]{0,8}") {
        let claims = json!({"iss": ISSUER, "sub": subject, "exp": exp, "nbf": nbf, "aud": aud});
        let token = WORLD.forge.token(&header(), &claims, With::P256);
        prop_assert!(WORLD.verifier.verify(&token, now()).is_err());
    }
}
