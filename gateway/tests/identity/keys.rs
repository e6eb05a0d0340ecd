//! Published keys: which one is meant, how they rotate, what is remembered meanwhile.

use crate::forge::{Forge, With, claims, header, jwks, now, verifier, with};
use meridian_gateway::identity::{Refreshed, Verifier};
use meridian_model::time::UnixMillis;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const SUBJECT: &str = "spiffe://prod.example/ns/prod/sa/orders-api";

const CONFIG: &str = r#"
[[issuers]]
issuer = "https://id.prod.example"
audience = "meridian"
jwks_file = "prod.jwks"
algorithms = ["ES256", "RS256"]
keep_keys_for = "1h"

[[rules]]
issuer = "https://id.prod.example"
subject = "spiffe://prod.example/ns/{namespace}/sa/{service}"
role = "workload"
"#;

struct World {
    directory: tempfile::TempDir,
    verifier: Verifier,
}

impl World {
    fn new(keys: &[Value]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let verifier = verifier(directory.path(), keys, CONFIG);
        Self { directory, verifier }
    }

    fn file(&self) -> std::path::PathBuf {
        self.directory.path().join("prod.jwks")
    }

    /// As rotation does it: a new file takes the place of the old one.
    fn publish(&self, text: &str) {
        let new = self.directory.path().join("new.jwks");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.file()).unwrap();
    }

    fn code(&self, token: &str, at: UnixMillis) -> &'static str {
        self.verifier.verify(token, at).map_or_else(|e| e.code().as_str(), |_| "ok")
    }

    fn refresh(&self, at: UnixMillis) -> Vec<Refreshed> {
        self.verifier.refresh(at).into_iter().map(|(_, refreshed)| refreshed).collect()
    }
}

fn after(seconds: u64) -> UnixMillis {
    now().plus(Duration::from_secs(seconds))
}

fn long_lived(forge: &Forge, kid: Option<&str>) -> String {
    let header = with(header(), json!({ "kid": kid }));
    forge.token(&header, &with(claims(SUBJECT), json!({"exp": now().0 / 1000 + 100_000})), With::P256)
}

#[test]
fn which_key_is_meant() {
    let (a, b) = (Forge::new(), Forge::new());
    let no_kid = long_lived(&a, None);
    assert_eq!(World::new(&[a.p256_jwk("a")]).code(&no_kid, now()), "ok");
    assert_eq!(World::new(&[a.p256_jwk("a"), b.rsa_jwk("b")]).code(&no_kid, now()), "ok");
    assert_eq!(World::new(&[a.p256_jwk("a"), b.p256_jwk("b")]).code(&no_kid, now()), "token-key-unknown");
    assert_eq!(World::new(&[b.rsa_jwk("b")]).code(&no_kid, now()), "token-algorithm");

    let doubled = World::new(&[b.p256_jwk("p256"), a.p256_jwk("p256"), b.rsa_jwk("p256")]);
    assert_eq!(doubled.code(&long_lived(&a, Some("p256")), now()), "ok");
    assert_eq!(doubled.code(&long_lived(&b, Some("p256")), now()), "ok");
    assert_eq!(doubled.code(&long_lived(&Forge::new(), Some("p256")), now()), "token-signature");

    let nameless = with(a.p256_jwk("a"), json!({"kid": null}));
    assert_eq!(World::new(&[nameless]).code(&long_lived(&a, Some("a")), now()), "token-key-unknown");
}

#[test]
fn what_is_published_beside_good_keys_is_passed_over() {
    let forge = Forge::new();
    let token =
        |alg: &str, kid: &str, by| forge.token(&json!({"alg": alg, "kid": kid}), &claims(SUBJECT), by);
    let other_use = with(forge.p256_jwk("enc"), json!({"use": "enc"}));
    let other_operations = with(forge.p256_jwk("ops"), json!({"key_ops": ["sign"]}));
    let other_algorithm = with(forge.rsa_jwk("ps"), json!({"alg": "PS256"}));
    let short = with(forge.rsa_jwk("short"), json!({"n": "AQAB"}));
    let unknown = json!({"kty": "AKP", "kid": "new", "alg": "ML-DSA-44", "pub": "AA"});
    let curve = json!({"kty": "EC", "crv": "secp256k1", "kid": "k1", "x": "AA", "y": "AA"});
    let secret = json!({"kty": "oct", "kid": "oct", "k": "AAAA"});
    let keys =
        [unknown, curve, secret, other_use, other_operations, other_algorithm, short, forge.rsa_jwk("rsa")];
    let world = World::new(&keys);
    assert_eq!(world.code(&token("RS256", "rsa", With::RsaPkcs1), now()), "ok");
    for kid in ["enc", "ops", "k1", "oct", "new"] {
        assert_eq!(world.code(&token("ES256", kid, With::P256), now()), "token-key-unknown", "{kid}");
    }
    assert_eq!(world.code(&token("RS256", "ps", With::RsaPkcs1), now()), "token-key-unknown");
}

#[test]
fn a_rotated_file_is_picked_up_and_old_tokens_end_with_their_key() {
    let (old, new) = (Forge::new(), Forge::new());
    let world = World::new(&[old.p256_jwk("old")]);
    let (old_token, new_token) = (long_lived(&old, Some("old")), long_lived(&new, Some("new")));
    assert_eq!(world.code(&old_token, now()), "ok");
    assert_eq!(world.code(&new_token, now()), "token-key-unknown");

    world.publish(&jwks(&[new.p256_jwk("new"), old.p256_jwk("old")]));
    // Requests never read files: only the refresh does.
    assert_eq!(world.code(&new_token, now()), "token-key-unknown");
    assert_eq!(world.refresh(now()), [Refreshed::Changed(2)]);
    assert_eq!(world.code(&new_token, now()), "ok");
    assert_eq!(world.code(&old_token, now()), "ok");

    world.publish(&jwks(&[new.p256_jwk("new")]));
    assert_eq!(world.refresh(now()), [Refreshed::Changed(1)]);
    assert_eq!(world.code(&old_token, now()), "token-key-unknown");
    assert_eq!(world.code(&new_token, now()), "ok");
    // The name does not save a token whose key was replaced under the same kid.
    world.publish(&jwks(&[old.p256_jwk("new")]));
    assert_eq!(world.refresh(now()), [Refreshed::Changed(1)]);
    assert_eq!(world.code(&new_token, now()), "token-signature");
    assert_eq!(world.refresh(now()), []);
}

#[test]
fn a_broken_file_leaves_the_last_good_keys_for_a_bounded_time() {
    let forge = Forge::new();
    let breaks: [fn(&World); 5] = [
        |world| std::fs::remove_file(world.file()).unwrap(),
        |world| world.publish("{"),
        |world| world.publish(&jwks(&[])),
        |world| world.publish(&" ".repeat(2 << 20)),
        |world| {
            std::fs::remove_file(world.file()).unwrap();
            std::fs::create_dir(world.file()).unwrap();
        },
    ];
    for (which, break_it) in breaks.into_iter().enumerate() {
        let world = World::new(&[forge.p256_jwk("p256")]);
        let (seen, unseen) = (long_lived(&forge, Some("p256")), long_lived(&forge, Some("p256")));
        assert_eq!(world.code(&seen, now()), "ok");
        break_it(&world);
        assert!(matches!(world.refresh(now())[..], [Refreshed::Failed(_)]), "{which}");
        assert_eq!(world.refresh(after(5)), [], "said once ({which})");
        assert_eq!(world.code(&long_lived(&forge, Some("p256")), after(3600)), "ok", "{which}");
        assert_eq!(world.code(&seen, after(3600)), "ok", "{which}");
        for token in [&seen, &unseen] {
            let error = world.verifier.verify(token, after(3601)).unwrap_err();
            assert_eq!((error.code().as_str(), error.code().status()), ("issuer-keys-stale", 503), "{which}");
        }
        if Path::new(&world.file()).is_dir() {
            std::fs::remove_dir(world.file()).unwrap();
        }
        world.publish(&jwks(&[forge.p256_jwk("p256")]));
        assert_eq!(world.refresh(after(3700)), [Refreshed::Recovered], "{which}");
        assert_eq!(world.code(&seen, after(3700)), "ok", "{which}");
    }
}

/// A file that was rewritten in place within the clock's grain looks unchanged; a token with a new kid reveals it, but
/// a flood of made-up kids causes one reading in 30 s.
#[test]
fn an_unknown_kid_asks_for_one_reading_in_thirty_seconds() {
    let (old, new) = (Forge::new(), Forge::new());
    let world = World::new(&[old.p256_jwk("aaa")]);
    let modified = std::fs::metadata(world.file()).unwrap().modified().unwrap();
    let rewrite = |keys: &[Value]| {
        std::fs::write(world.file(), jwks(keys)).unwrap();
        std::fs::File::options().write(true).open(world.file()).unwrap().set_modified(modified).unwrap();
    };
    rewrite(&[new.p256_jwk("bbb")]);
    assert_eq!(world.refresh(now()), [], "looks unchanged");
    let token = long_lived(&new, Some("bbb"));
    assert_eq!(world.code(&token, now()), "token-key-unknown");
    assert_eq!(world.refresh(now()), [Refreshed::Changed(1)]);
    assert_eq!(world.code(&token, now()), "ok");

    rewrite(&[old.p256_jwk("ccc")]);
    for n in 0..100 {
        assert_eq!(
            world.code(&long_lived(&old, Some(&format!("made-up-{n}"))), after(1)),
            "token-key-unknown"
        );
    }
    assert_eq!(world.refresh(after(29)), []);
    assert_eq!(world.refresh(after(30)), [Refreshed::Changed(1)]);
}

#[test]
fn a_verified_token_is_remembered_and_a_refused_one_is_not() {
    let forge = Forge::new();
    let world = World::new(&[forge.p256_jwk("p256")]);
    let token = long_lived(&forge, Some("p256"));
    let first = world.verifier.verify(&token, now()).unwrap();
    assert!(Arc::ptr_eq(&first, &world.verifier.verify(&token, now()).unwrap()));
    assert_eq!(world.verifier.cached_tokens(), 1);
    for n in 0..50 {
        let _ = world.verifier.verify(&format!("{token}{n}"), now()).unwrap_err();
    }
    assert_eq!(world.verifier.cached_tokens(), 1);
    assert_eq!(world.code(&token, after(100_010)), "token-expired");
    assert_eq!(world.verifier.cached_tokens(), 0);
}
