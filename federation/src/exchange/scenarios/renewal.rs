//! Certificates that are renewed: what is signed goes on being believed.

use super::*;
use std::sync::atomic::{AtomicU32, Ordering};

/// A node's key whose certificate is renewed.
struct Renewed {
    key: Key,
    renewals: Arc<AtomicU32>,
}

impl head::Signer for Renewed {
    fn credential(&self) -> Bytes {
        let number = self.renewals.load(Ordering::Relaxed);
        [&self.key.credential()[..], b"#", number.to_string().as_bytes()].concat().into()
    }

    fn sign(&self, message: &[u8]) -> Result<Bytes, head::CannotSign> {
        self.key.sign(message)
    }
}

/// Believes the certificates since a certain renewal; the former ones have ended.
struct Since(Arc<AtomicU32>);

impl Verifier for Since {
    fn verify(
        &self,
        credential: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<head::Signatory, head::Untrusted> {
        let at = credential.iter().position(|byte| *byte == b'#').unwrap_or(credential.len());
        let (credential, number) = credential.split_at(at);
        let number = std::str::from_utf8(number).ok().and_then(|n| n.strip_prefix('#')?.parse().ok());
        if number.is_none_or(|number: u32| number < self.0.load(Ordering::Relaxed)) {
            return Err(head::Untrusted("the certificate has ended".into()));
        }
        Authority.verify(credential, message, signature)
    }
}

/// Whoever comes late must not find a head that nobody may believe any more, not even where nothing ever changes and where
/// it came by a relay.
#[test]
fn a_head_is_signed_with_the_renewed_certificate() {
    let mut line = Line::new(&[("a", Node), ("b", Node)]);
    let (renewals, ended) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let renewing = |name: &str| {
        let Peer { region, node, .. } = peer(name, Node);
        let key = Key::of(region.clone(), node.clone());
        let role = Role::Node(Box::new(Renewed { key, renewals: Arc::clone(&renewals) }));
        let verifier = Arc::new(Since(Arc::clone(&ended)));
        Exchange::new(Settings { region, node, role, verifier, entropy: 1, limits: Limits::default() })
    };
    for (at, (name, other)) in [("a", "b"), ("b", "a")].into_iter().enumerate() {
        line.members[at] = renewing(name);
        line.members[at].handle_link_up(Monotonic(line.now), LinkId(1), peer(other, Node));
    }
    line.own(0, 5, OwnChange::All(vec![record(1, 1, 10)]));
    let credentials = |line: &Line| {
        let held = line.members[1].origin(&region("a")).unwrap().head.credential.clone();
        [line.members[0].published().unwrap().head.credential.clone(), held]
    };
    let with = |n: u32| Bytes::from(format!("a/a-1#{n}"));
    assert_eq!(credentials(&line), [with(0), with(0)]);
    // The registry stands still: who holds the head has it already, whoever asks gets the new one.
    renewals.store(1, Ordering::Relaxed);
    line.members[0].handle_renewed(Monotonic(line.now));
    line.settle();
    assert_eq!(credentials(&line), [with(1), with(0)]);
    line.own(0, 6, OwnChange::Some(Vec::new()));
    assert_eq!(credentials(&line), [with(1), with(1)]);
    // It moves: at once. And a move alone is no reason.
    line.own(0, 7, OwnChange::Some(Vec::new()));
    assert_eq!(line.members[1].origin(&region("a")).unwrap().head.head.version.index, 6);
    renewals.store(2, Ordering::Relaxed);
    line.own(0, 8, OwnChange::Some(Vec::new()));
    assert_eq!(credentials(&line), [with(2), with(2)]);
    // The former ones end. A relay's newcomer believes what it is shown.
    ended.store(2, Ordering::Relaxed);
    let mut late = renewing("c");
    let head = line.members[1].origin(&region("a")).unwrap().head.clone();
    late.handle_link_up(Monotonic(line.now), LinkId(1), peer("b", Node));
    late.handle_message(Monotonic(line.now), LinkId(1), Message::Offer(Box::new(head)));
    assert_eq!(late.counters().refused_heads, 0);
    // A node whose head others hold may be gone; another one's takes its place in time.
    line.now += limits::SIGN_EVERY.as_millis() as u64;
    line.own(0, 9, OwnChange::Some(Vec::new()));
    assert_eq!(line.members[1].origin(&region("a")).unwrap().head.head.version.index, 9);
}
