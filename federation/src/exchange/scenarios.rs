//! What single promises cost and refuse, with a few exchanges that are wired by hand. The simulator has the rest.

mod gathered;
mod lives;
mod renewal;

use super::head::{Head, Place, Root, Version};
use super::message::{Basis, Opening, Update};
use super::*;
use crate::simulation::keys::{Authority, Key};
use meridian_model::names::ServiceKey;
use proptest::prelude::*;

const LIFE: Incarnation = Incarnation { counter: 3, random: 7 };

fn region(name: &str) -> RegionName {
    name.parse().unwrap()
}

fn peer(name: &str, role: PeerRole) -> Peer {
    Peer { region: region(name), node: format!("{name}-1").parse().unwrap(), role }
}

fn key(n: usize) -> RecordKey {
    RecordKey::Service(ServiceKey::new("prod".parse().unwrap(), format!("svc-{n}").parse().unwrap()))
}

fn record(n: usize, fill: u8, size: usize) -> Record {
    Record { key: key(n), bytes: vec![fill; size].into() }
}

fn exchange(name: &str, role: PeerRole) -> Exchange {
    let Peer { region, node, .. } = peer(name, role);
    let role = match role {
        PeerRole::Node => Role::Node(Box::new(Key::of(region.clone(), node.clone()))),
        PeerRole::Leaf => Role::Leaf,
    };
    Exchange::new(Settings {
        region,
        node,
        role,
        verifier: Arc::new(Authority),
        entropy: 1,
        limits: Limits::default(),
    })
}

fn own(index: u64, now: u64, change: OwnChange) -> Own {
    Own { incarnation: LIFE, index, proven: Some(Monotonic(now)), change }
}

/// Exchanges on a line: each has a link to the next, which carries what is sent at once and in order.
struct Line {
    members: Vec<Exchange>,
    now: u64,
    sent: Vec<Message>,
    closed: Vec<Violation>,
    raises: Vec<Incarnation>,
}

impl Line {
    fn new(members: &[(&str, PeerRole)]) -> Self {
        let exchanges = members.iter().map(|(name, role)| exchange(name, *role)).collect();
        let mut line =
            Self { members: exchanges, now: 1_000, sent: Vec::new(), closed: Vec::new(), raises: Vec::new() };
        for n in 1..members.len() {
            let now = Monotonic(line.now);
            for (at, other) in [(n - 1, n), (n, n - 1)] {
                let (name, role) = members[other];
                line.members[at].handle_link_up(now, LinkId(n as u64), peer(name, role));
            }
        }
        line.settle();
        line
    }

    /// Carries messages until nothing is left to say.
    fn settle(&mut self) {
        let mut quiet = false;
        while !quiet {
            quiet = true;
            for at in 0..self.members.len() {
                while let Some(output) = self.members[at].poll_output() {
                    quiet = false;
                    match output {
                        Output::Send(link, message) => {
                            let to = if link.0 as usize == at { at - 1 } else { at + 1 };
                            self.sent.push(message.clone());
                            self.members[to].handle_message(Monotonic(self.now), link, message);
                        }
                        Output::Close(_, violation) => self.closed.push(violation),
                        Output::Raise { past } => self.raises.push(past),
                        _ => {}
                    }
                }
            }
        }
    }

    fn pass(&mut self, ms: u64) {
        for _ in 0..ms / 100 {
            self.now += 100;
            let now = Monotonic(self.now);
            self.members.iter_mut().for_each(|member| member.handle_timeout(now));
            self.settle();
        }
    }

    fn own(&mut self, at: usize, index: u64, change: OwnChange) {
        let now = self.now;
        self.members[at].handle_own(Monotonic(now), own(index, now, change));
        self.settle();
    }

    fn parts(&self) -> Vec<&Update> {
        let updates =
            self.sent.iter().filter_map(|m| if let Message::Update(u) = m { Some(u) } else { None });
        updates.collect()
    }
}

use PeerRole::{Leaf, Node};

/// What a third region holds came through a relay, is what the origin signed, and is as old as both say.
#[test]
fn a_relay_forwards_what_the_origin_signed() {
    let mut line = Line::new(&[("a", Node), ("b", Node), ("c", Node), ("c", Leaf)]);
    line.own(0, 5, OwnChange::All((0..50).map(|n| record(n, 1, 300)).collect()));
    line.own(1, 5, OwnChange::All(vec![record(1, 1, 300)]));
    line.pass(4_500);
    let signed = line.members[0].published().unwrap().head.clone();
    for member in &line.members[1..] {
        let view = member.origin(&region("a")).unwrap();
        assert_eq!((view.head, view.state.len()), (&signed, 50));
    }
    // The registry's word is 4.5 s old by now; nobody says less.
    for member in &line.members[1..] {
        let standing = member.standing(Monotonic(line.now), &region("a")).unwrap();
        assert!(standing.age.unwrap() >= Duration::from_millis(4_500), "{standing:?}");
        assert_eq!(standing.freshness, Freshness::Fresh);
    }
    // No direct link of c's leads to a, and its leaf is told so.
    let reachable =
        |at: usize, of: &str| line.members[at].standing(Monotonic(line.now), &region(of)).unwrap().reachable;
    assert_eq!(
        [reachable(1, "a"), reachable(2, "a"), reachable(3, "a"), reachable(3, "b")],
        [true, false, false, true]
    );
}

/// Fifty changes a second must not cost fifty full states.
#[test]
fn a_change_costs_one_record() {
    let mut line = Line::new(&[("a", Node), ("b", Node)]);
    line.own(0, 5, OwnChange::All((0..5_000).map(|n| record(n, 1, 1_700)).collect()));
    let full: usize = line.parts().iter().map(|part| part.size()).sum();
    assert!(full < 5_000 * 1_750, "{full} bytes");
    line.sent.clear();
    line.own(0, 6, OwnChange::Some(vec![(key(7), Some(vec![2; 1_700].into())), (key(8), None)]));
    let parts = line.parts();
    assert_eq!((parts.len(), parts[0].changed.len(), parts[0].removed.len()), (1, 1, 1));
    let view = line.members[1].origin(&region("a")).unwrap();
    assert_eq!((view.state.get(&key(7)).unwrap()[0], view.state.get(&key(8))), (2, None));
    assert_eq!(line.members[1].counters().bucket_syncs, 0);
}

/// After a restart of the origin's node nothing is known of what changed; only buckets that differ are sent.
#[test]
fn a_restart_costs_the_buckets_that_differ() {
    let mut line = Line::new(&[("a", Node), ("b", Node)]);
    let records: Vec<Record> = (0..2_000).map(|n| record(n, 1, 200)).collect();
    line.own(0, 5, OwnChange::All(records.clone()));
    line.members[0] = exchange("a", Node);
    line.members[1].handle_link_down(Monotonic(line.now), LinkId(1));
    for (at, other) in [(0, "b"), (1, "a")] {
        line.members[at].handle_link_up(Monotonic(line.now), LinkId(1), peer(other, Node));
    }
    line.sent.clear();
    let mut changed = records;
    changed[9] = record(9, 2, 200);
    line.own(0, 8, OwnChange::All(changed));
    line.pass(2_000);
    assert_eq!(line.members[1].origin(&region("a")).unwrap().state.get(&key(9)).unwrap()[0], 2);
    let sent: usize = line.parts().iter().map(|part| part.changed.len()).sum();
    assert!(sent < 40, "{sent} records for one that changed");
}

/// All nodes have lost their memory, and a registry went back meanwhile. A gateway that remembers it has its node tell.
#[test]
fn what_a_gateway_alone_remembers_is_heard_of() {
    let members = [("a", Node), ("b", Node), ("b", Leaf)];
    let mut line = Line::new(&members);
    line.own(0, 9, OwnChange::All(vec![record(1, 1, 10)]));
    line.pass(1_000);
    assert!(line.members[2].origin(&region("a")).is_some());
    let now = Monotonic(line.now);
    line.members[2].handle_link_down(now, LinkId(2));
    (line.members[0], line.members[1]) = (exchange("a", Node), exchange("b", Node));
    for (at, link, other) in [(0, 1, 1), (1, 1, 0), (1, 2, 2), (2, 2, 1)] {
        let (name, role) = members[other];
        line.members[at].handle_link_up(now, LinkId(link), peer(name, role));
    }
    line.settle();
    line.own(0, 5, OwnChange::All(vec![record(1, 2, 10)]));
    line.pass(2_000);
    line.own(0, 5, OwnChange::Some(Vec::new()));
    assert_eq!((line.members[0].counters().raises, line.members[0].published().is_none()), (1, true));
    assert_eq!(line.closed, []);
    let raised = Incarnation { counter: LIFE.counter + 1, random: 1 };
    let (now, change) = (Monotonic(line.now), OwnChange::Some(Vec::new()));
    let own = Own { incarnation: raised, index: 6, proven: Some(now), change };
    line.members[0].handle_own(now, own);
    line.settle();
    let bytes = |at: usize| line.members[at].origin(&region("a")).unwrap().state.get(&key(1)).unwrap()[0];
    assert_eq!([bytes(1), bytes(2)], [2, 2]);
}

/// Nothing queues for a subscriber that does not read: it gets a few parts, and later the newest state.
#[test]
fn a_slow_subscriber_skips_to_the_newest() {
    let mut publisher = exchange("a", Node);
    let now = Monotonic(1_000);
    publisher.handle_link_up(now, LinkId(1), peer("b", Node));
    let have = |version| {
        let held = message::Held { origin: region("a"), version, follow: true };
        Message::Have(message::Have { origins: vec![held] })
    };
    publisher.handle_message(now, LinkId(1), have(None));
    let mut sent = Vec::new();
    for index in 1..200 {
        let change = OwnChange::Some(vec![(key(1), Some(vec![index as u8; 100].into()))]);
        publisher.handle_own(now, own(index, 1_000, change));
        while let Some(output) = publisher.poll_output() {
            if let Output::Send(_, Message::Update(update)) = output {
                sent.push(update);
            }
        }
    }
    assert_eq!(sent.len(), limits::PARTS_IN_FLIGHT);
    let last = sent.last().unwrap();
    let ack = message::Ack { origin: region("a"), transfer: last.transfer, part: last.part };
    publisher.handle_message(now, LinkId(1), Message::Ack(ack));
    let next = std::iter::from_fn(|| publisher.poll_output()).find_map(|output| match output {
        Output::Send(_, Message::Update(update)) => Some(update),
        _ => None,
    });
    assert_eq!(next.unwrap().opening.unwrap().head.head.version.index, 199);
}

fn update_of(origin: &str, by: &str, records: Vec<Record>) -> Message {
    update_at(origin, by, Place { incarnation: LIFE, index: 9 }, records).1
}

fn update_at(origin: &str, by: &str, place: Place, records: Vec<Record>) -> (Version, Message) {
    let state = State::from_records(records.iter().cloned());
    let Peer { region: signs, node, .. } = peer(by, Node);
    let version = Version { incarnation: place.incarnation, index: place.index, root: state.root() };
    let key = Key::of(signs, node.clone());
    let head = Head { origin: region(origin), node, version, records: state.len() as u32 };
    let signature = key.sign(&head.signed_bytes()).unwrap();
    let head = SignedHead { credential: key.credential(), signature, head };
    let update = Message::Update(Update {
        origin: region(origin),
        transfer: 1,
        part: 0,
        opening: Some(Box::new(Opening { head, basis: Basis::Buckets((0..=255).collect()) })),
        last: true,
        changed: records,
        removed: Vec::new(),
    });
    (version, update)
}

fn verdict(from: Peer, messages: impl IntoIterator<Item = Message>) -> (Exchange, Option<Violation>) {
    let mut exchange = exchange("b", Node);
    exchange.handle_link_up(Monotonic(1_000), LinkId(1), from);
    messages.into_iter().for_each(|message| exchange.handle_message(Monotonic(1_000), LinkId(1), message));
    let closed = std::iter::from_fn(|| exchange.poll_output()).find_map(|output| match output {
        Output::Close(_, violation) => Some(violation),
        _ => None,
    });
    (exchange, closed)
}

/// Whoever passes a limit or says what it may not loses its link, and nothing that is held changes.
#[test]
fn what_a_peer_may_not_do_closes_its_link() {
    let node = || peer("a", Node);
    let update = |records| update_of("a", "a", records);
    let broken = |change: fn(&mut Update)| {
        let Message::Update(mut update) = update(vec![record(1, 1, 10)]) else { unreachable!() };
        change(&mut update);
        Message::Update(update)
    };
    let many = |n: usize| {
        Message::Have(message::Have {
            origins: (0..n)
                .map(|n| message::Held { origin: region(&format!("r{n}")), version: None, follow: true })
                .collect(),
        })
    };
    let want = message::Want { origin: region("b"), digests: vec![[0; 16]; 3] };
    let cases = [
        (node(), update(vec![record(1, 1, limits::RECORD_BYTES + 1)]), Violation::RecordTooLarge),
        (
            node(),
            update((0..limits::RECORDS + 1).map(|n| record(n, 1, 1)).collect()),
            Violation::TooManyRecords,
        ),
        (node(), update((0..6).map(|n| record(n, 1, 60_000)).collect()), Violation::MessageTooLarge),
        (node(), broken(|u| u.changed[0] = record(1, 2, 10)), Violation::WrongRoot),
        (
            node(),
            broken(|u| u.part = 3),
            Violation::Malformed("the first part of an update, and no other, has the head"),
        ),
        (
            node(),
            broken(|u| u.origin = "z".parse().unwrap()),
            Violation::Malformed("an update with the head of another origin"),
        ),
        (node(), many(limits::ORIGINS + 1), Violation::TooManyOrigins),
        (node(), Message::Want(want), Violation::Malformed("bucket digests must be none or all")),
        (peer("b", Leaf), update(Vec::new()), Violation::NotAllowed("a leaf publishes nothing")),
        (peer("a", Leaf), many(1), Violation::NotAllowed("leaves subscribe to nodes of their own region")),
    ];
    for (from, message, violation) in cases {
        let (exchange, closed) = verdict(from, [message]);
        assert_eq!(closed, Some(violation));
        assert!(exchange.origins().next().is_none());
    }
    assert!(matches!(verdict(node(), [update_of("a", "c", Vec::new())]).1, Some(Violation::Unsigned(_))));
}

/// What a peer asked for once and nobody ever heard of does not keep it from asking for what there is.
#[test]
fn names_that_nobody_knows_make_room() {
    let asks = |names: std::ops::Range<usize>, letter: char| {
        let name = |n| message::Held { origin: region(&format!("{letter}{n}")), version: None, follow: true };
        Message::Have(message::Have { origins: names.map(name).collect() })
    };
    let known = update_of("a", "a", vec![record(1, 1, 10)]);
    let all =
        (0..limits::ORIGINS - 1).map(|n| asks(n..n + 1, 'x')).chain([known, asks(0..limits::ORIGINS, 'y')]);
    let (mut exchange, closed) = verdict(peer("a", Node), all);
    assert_eq!(closed, None);
    // What was named in one message stays together.
    let mut told = |origin: &str| {
        let other = peer(origin, Node);
        exchange.handle_link_up(Monotonic(1_000), LinkId(900), other);
        exchange.handle_message(Monotonic(1_000), LinkId(900), update_of(origin, origin, Vec::new()));
        let sent = std::iter::from_fn(|| exchange.poll_output());
        let updates =
            sent.filter(|o| matches!(o, Output::Send(LinkId(to), Message::Update(_)) if *to != 900));
        updates.count()
    };
    assert_eq!((told("y0"), told("y63"), told("x5")), (1, 1, 0));
}

/// A relay may have taken a head in good faith whose certificate is not trusted here; only persistence costs its link.
#[test]
fn a_relay_may_err_but_not_for_long() {
    let forged = || update_of("c", "a", vec![record(1, 1, 10)]);
    let (exchange, closed) = verdict(peer("a", Node), (0..limits::REFUSALS).map(|_| forged()));
    assert_eq!((closed, exchange.origin(&region("c")).is_none()), (None, true));
    assert_eq!(exchange.counters().refused_heads, u64::from(limits::REFUSALS));
    let (_, closed) = verdict(peer("a", Node), (0..=limits::REFUSALS).map(|_| forged()));
    assert!(matches!(closed, Some(Violation::Unsigned(_))));
}

/// At `now`, a peer is asked, and says at once how old region a's state is.
fn claim(exchange: &mut Exchange, now: u64, link: LinkId, version: Version, age_ms: u64) {
    exchange.handle_timeout(Monotonic(now));
    let pings = std::iter::from_fn(|| exchange.poll_output()).filter_map(|output| match output {
        Output::Send(to, Message::Ping(ping)) if to == link => Some(ping.nonce),
        _ => None,
    });
    let nonce = pings.last().unwrap();
    let claims = vec![message::Claim { origin: region("a"), version, age_ms: Some(age_ms), path: None }];
    exchange.handle_message(Monotonic(now), link, Message::Beat(message::Beat { nonce, claims }));
}

/// What is told of region a's age to a peer that asks.
fn told_age(exchange: &mut Exchange, now: u64, link: LinkId) -> Option<u64> {
    let ping = message::Ping { nonce: 1, own: None, yours: None };
    exchange.handle_message(Monotonic(now), link, Message::Ping(ping));
    let beat = std::iter::from_fn(|| exchange.poll_output()).find_map(|output| match output {
        Output::Send(to, Message::Beat(beat)) if to == link => Some(beat),
        _ => None,
    });
    beat.unwrap().claims.into_iter().find(|claim| claim.origin == region("a")).unwrap().age_ms
}

fn between_two_relays() -> Exchange {
    let mut exchange = exchange("b", Node);
    for (n, name) in [(1, "c"), (2, "d")] {
        exchange.handle_link_up(Monotonic(1_000), LinkId(n), peer(name, Node));
    }
    exchange
}

/// A registry that went back while its nodes had lost their memory is heard of by some with what it holds now. That does
/// not make what others remember of it current.
#[test]
fn what_was_held_before_is_not_proven_by_an_earlier_state() {
    let place = |index| Place { incarnation: LIFE, index };
    let (earlier, _) = update_at("a", "a", place(5), vec![record(1, 1, 10)]);
    let (held, update) = update_at("a", "a", place(9), vec![record(1, 2, 10)]);
    let freshness =
        |b: &Exchange, now| b.standing(Monotonic(now), &region("a")).map(|standing| standing.freshness);

    let mut b = between_two_relays();
    b.handle_message(Monotonic(1_000), LinkId(1), update.clone());
    claim(&mut b, 2_000, LinkId(1), held, 0);
    assert_eq!(freshness(&b, 2_000), Some(Freshness::Fresh));
    claim(&mut b, 100_000, LinkId(2), earlier, 0);
    assert_eq!(freshness(&b, 100_000), Some(Freshness::Stale));
    claim(&mut b, 101_000, LinkId(2), held, 0);
    assert_eq!(freshness(&b, 101_000), Some(Freshness::Fresh));

    // But what comes after it was said that an earlier one was the newest, is no older than that.
    let mut b = between_two_relays();
    claim(&mut b, 2_000, LinkId(2), earlier, 0);
    b.handle_message(Monotonic(2_500), LinkId(1), update);
    assert_eq!(freshness(&b, 2_500), Some(Freshness::Fresh));
}

/// As many regions as are allowed are told to others in messages that they take.
#[test]
fn the_last_region_is_refused_and_the_others_are_told() {
    let mut relay = exchange("relay", Node);
    let mut closed = Vec::new();
    for n in 0..limits::ORIGINS as u64 {
        let name = format!("r{n}");
        relay.handle_link_up(Monotonic(1_000), LinkId(n), peer(&name, Node));
        relay.handle_message(Monotonic(1_000), LinkId(n), update_of(&name, &name, Vec::new()));
        closed.extend(std::iter::from_fn(|| relay.poll_output()).filter(|o| matches!(o, Output::Close(..))));
    }
    let last = LinkId(limits::ORIGINS as u64 - 1);
    assert_eq!(closed, [Output::Close(last, Violation::TooManyOrigins)]);
    relay.handle_own(Monotonic(1_000), own(1, 1_000, OwnChange::All(Vec::new())));
    relay.handle_link_up(Monotonic(1_000), LinkId(900), peer("x", Node));
    let ping = message::Ping { nonce: 1, own: None, yours: None };
    relay.handle_message(Monotonic(1_000), LinkId(900), Message::Ping(ping));
    let sent = std::iter::from_fn(|| relay.poll_output()).filter_map(|output| match output {
        Output::Send(LinkId(900), message) => Some(message),
        _ => None,
    });
    let sent: Vec<Message> = sent.collect();
    assert!(sent.iter().all(|message| message.check(&Limits::default()).is_ok()));
    let told =
        sent.iter().find_map(|m| if let Message::Beat(beat) = m { Some(beat.claims.len()) } else { None });
    assert_eq!(told, Some(limits::ORIGINS));
}

/// A region's records that no peer would take stay at home, with the last good state in place.
#[test]
fn what_passes_the_limits_is_not_published() {
    let mut line = Line::new(&[("a", Node), ("b", Node)]);
    line.own(0, 5, OwnChange::All(vec![record(1, 1, 10)]));
    line.own(0, 6, OwnChange::Some(vec![(key(2), Some(vec![1; limits::RECORD_BYTES + 1].into()))]));
    assert_eq!(line.members[1].origin(&region("a")).unwrap().head.head.version.index, 5);
    assert!(line.members[0].counters().unpublished > 0 && line.closed.is_empty());
    line.own(0, 7, OwnChange::Some(vec![(key(2), None), (key(1), Some(vec![2; 10].into()))]));
    assert_eq!(line.members[1].origin(&region("a")).unwrap().head.head.version.index, 7);
}

/// A gateway is told of a region that begins, by a node that was told of it a moment ago: both ask soon how old it is.
#[test]
fn a_region_that_is_first_heard_of_is_proven_at_once() {
    let mut line = Line::new(&[("a", Node), ("b", Node), ("b", Leaf)]);
    // Everybody's beats have just gone, and told of nothing.
    line.pass(100);
    line.own(0, 5, OwnChange::All(vec![record(1, 1, 10)]));
    let (mut shown, mut proven) = ([None; 2], [None; 2]);
    for _ in 0..20 {
        for (at, member) in line.members[1..].iter().enumerate() {
            let standing =
                member.standing(Monotonic(line.now), &region("a")).filter(|_| member.origins().count() > 0);
            shown[at] = shown[at].or(standing.map(|_| line.now));
            proven[at] = proven[at].or(standing.and_then(|standing| standing.age).map(|_| line.now));
        }
        line.pass(100);
    }
    for (shown, proven) in shown.into_iter().zip(proven) {
        let took = proven.zip(shown).map(|(proven, shown)| proven - shown);
        assert!(took.is_some_and(|took| took <= 200), "shown at {shown:?}, proven at {proven:?}");
    }
    // Who has no proof is not asked for ever.
    let mut blind = Line::new(&[("a", Node), ("b", Node)]);
    let mut unproven = own(5, 0, OwnChange::All(vec![record(1, 1, 10)]));
    unproven.proven = None;
    blind.members[0].handle_own(Monotonic(blind.now), unproven);
    blind.pass(3_000);
    blind.sent.clear();
    blind.pass(5_000);
    let pings = blind.sent.iter().filter(|message| matches!(message, Message::Ping(_))).count();
    assert!(pings <= 2 * 6, "{pings} pings of two nodes in 5 s");
}

/// That it cannot ask its own region's node says nothing of other regions.
#[test]
fn a_gateway_that_loses_its_node_knows_what_that_said_last() {
    let mut line = Line::new(&[("a", Node), ("b", Node), ("b", Leaf)]);
    line.own(0, 5, OwnChange::All(vec![record(1, 1, 10)]));
    line.pass(3_000);
    let stands = |line: &Line| line.members[2].standing(Monotonic(line.now), &region("a")).unwrap();
    let before = stands(&line);
    assert!(before.reachable && before.round_trip.is_some(), "{before:?}");
    line.members[2].handle_link_down(Monotonic(line.now), LinkId(2));
    let told: Vec<Output> = std::iter::from_fn(|| line.members[2].poll_output()).collect();
    assert!(told.is_empty(), "nothing is different: {told:?}");
    let lost = |line: &mut Line, ms: u64| {
        line.now += ms;
        line.members[2].handle_timeout(Monotonic(line.now));
        stands(line)
    };
    assert!(lost(&mut line, 3_000).reachable);
    let after = lost(&mut line, 3_000);
    assert_eq!((after.reachable, after.round_trip), (false, before.round_trip), "but not for ever");
}

/// Names that a peer makes up, others with each beat, take no memory.
#[test]
fn names_that_a_peer_makes_up_are_not_followed_for_ever() {
    let mut exchange = exchange("b", Node);
    exchange.handle_link_up(Monotonic(1_000), LinkId(1), peer("a", Node));
    for round in 0..50u64 {
        let now = Monotonic(1_000 + round * 1_000);
        exchange.handle_timeout(now);
        let pings = std::iter::from_fn(|| exchange.poll_output()).filter_map(|output| match output {
            Output::Send(_, Message::Ping(ping)) => Some(ping.nonce),
            _ => None,
        });
        let nonce = pings.last().unwrap();
        let version = Version { incarnation: LIFE, index: 1, root: Root([1; 32]) };
        let named = (0..limits::ORIGINS).map(|n| message::Claim {
            origin: region(&format!("nowhere-{round}-{n}")),
            version,
            age_ms: Some(0),
            path: None,
        });
        let beat = message::Beat { nonce, claims: named.collect() };
        exchange.handle_message(now, LinkId(1), Message::Beat(beat));
        assert!(exchange.sources.len() <= limits::ORIGINS + 1, "{} after {round}", exchange.sources.len());
    }
    exchange.handle_link_down(Monotonic(60_000), LinkId(1));
    assert!(exchange.sources.is_empty());
}

/// Nor do states that a gateway claims to remember.
#[test]
fn states_that_a_gateway_makes_up_are_not_remembered_for_ever() {
    let mut exchange = exchange("b", Node);
    exchange.handle_link_up(Monotonic(1_000), LinkId(1), peer("b", Leaf));
    let version = Version { incarnation: LIFE, index: 1, root: Root([1; 32]) };
    for round in 0..50u64 {
        let held = |n| message::Held {
            origin: region(&format!("nowhere-{round}-{n}")),
            version: Some(version),
            follow: true,
        };
        let have = message::Have { origins: (0..limits::ORIGINS).map(held).collect() };
        exchange.handle_message(Monotonic(1_000 + round), LinkId(1), Message::Have(have));
        let closed = std::iter::from_fn(|| exchange.poll_output()).find(|o| matches!(o, Output::Close(..)));
        assert!(closed.is_none(), "{closed:?}");
        let remembered = exchange.links[&LinkId(1)].remembers.len();
        assert!((1..=limits::ORIGINS).contains(&remembered), "{remembered} after {round}");
    }
}

/// What comes from the disk is as old as it was and the time since; of a time that is not known, nothing is believed.
#[test]
fn an_image_keeps_states_and_ages() {
    let mut line = Line::new(&[("a", Node), ("b", Node)]);
    line.own(0, 5, OwnChange::All((0..30).map(|n| record(n, 1, 50)).collect()));
    line.pass(1_500);
    let now = Monotonic(line.now);
    let bytes = line.members[1].export(now).encode();
    let before = line.members[1].standing(now, &region("a")).unwrap();
    let age = before.age.unwrap();
    assert!(before.round_trip.is_some());
    for (elapsed, expected) in
        [(Some(Duration::from_secs(9)), Some(age + Duration::from_secs(9))), (None, None)]
    {
        let mut started = exchange("b", Node);
        assert_eq!(started.import(Monotonic(40), Image::decode(&bytes).unwrap(), elapsed), 0);
        let standing = started.standing(Monotonic(40), &region("a")).unwrap();
        assert_eq!((standing.age, started.origin(&region("a")).unwrap().state.len()), (expected, 30));
        assert!(standing.freshness > Freshness::Fresh && !standing.reachable);
        assert_eq!(standing.round_trip, before.round_trip, "how far it is has not changed");
    }
}

/// A registry that came back older is found out by the node's own disk, and nothing is said until it was raised.
#[test]
fn a_restored_registry_is_raised_before_anything_is_said() {
    let mut before = exchange("a", Node);
    before.handle_own(Monotonic(1_000), own(50, 1_000, OwnChange::All(vec![record(1, 1, 10)])));
    let image = before.export(Monotonic(2_000)).encode();
    let mut node = exchange("a", Node);
    node.import(Monotonic(10), Image::decode(&image).unwrap(), None);
    // Late news are no proof: asked before the image was read.
    node.handle_own(Monotonic(20), own(30, 10, OwnChange::All(vec![record(1, 2, 10)])));
    assert!(node.published().is_none() && node.poll_output().is_none());
    node.handle_own(Monotonic(30), own(31, 25, OwnChange::Some(Vec::new())));
    assert_eq!(node.poll_output(), Some(Output::Raise { past: LIFE }));
    node.handle_own(Monotonic(900), own(32, 850, OwnChange::Some(Vec::new())));
    assert_eq!(node.poll_output(), None, "asked for again too soon");
    let raised = Incarnation { counter: 4, random: 1 };
    let own = Own { incarnation: raised, ..own(33, 950, OwnChange::Some(Vec::new())) };
    node.handle_own(Monotonic(1_000), own);
    assert_eq!(node.published().unwrap().head.head.version.incarnation, raised);
}

proptest! {
    /// The disk is not trusted more than a peer.
    #[test]
    fn damaged_images_do_no_harm(at: prop::sample::Index, bit in 0u8..8, cut: prop::sample::Index) {
        let mut line = Line::new(&[("a", Node), ("b", Node)]);
        line.own(0, 5, OwnChange::All((0..3).map(|n| record(n, 1, 20)).collect()));
        let mut bytes = line.members[1].export(Monotonic(line.now)).encode().to_vec();
        prop_assert!(Image::decode(&bytes[..cut.index(bytes.len())]).is_err());
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(image) = Image::decode(&bytes) {
            let mut started = exchange("b", Node);
            started.import(Monotonic(1), image, Some(Duration::ZERO));
            if let Some(view) = started.origin(&region("a")) {
                let genuine = line.members[0].published().unwrap();
                prop_assert_eq!((view.head, view.state.root()), (genuine.head, genuine.state.root()));
            }
        }
    }

    #[test]
    fn no_bytes_make_an_image_panic(tail in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut bytes = Image::default().encode().to_vec();
        bytes.truncate(8);
        bytes.extend(tail);
        let _ = Image::decode(&bytes);
    }

    /// Two heads never share what is signed, or a signature for one would be good for the other.
    #[test]
    fn signed_bytes_tell_heads_apart(
        a in ("[a-z]{1,3}", "[a-z]{1,3}", 0u64..3, 0u64..3, 0u32..3),
        b in ("[a-z]{1,3}", "[a-z]{1,3}", 0u64..3, 0u64..3, 0u32..3),
    ) {
        let head = |(origin, node, counter, index, records): (String, String, u64, u64, u32)| Head {
            origin: region(&origin),
            node: node.parse().unwrap(),
            version: Version { incarnation: Incarnation { counter, random: 0 }, index, root: Root([1; 32]) },
            records,
        };
        let (a, b) = (head(a), head(b));
        prop_assert_eq!(a == b, a.signed_bytes() == b.signed_bytes());
    }
}
