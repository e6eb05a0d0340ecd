//! Regions whose registries began another life: what is still believed of the one before, and who hears of it.

use super::*;

/// A life that somebody remembered may come after one that was proven. It is not passed on as if that proved it; a raised
/// registry's region meanwhile stands as it did.
#[test]
fn another_life_is_vouched_for_when_it_is_proven() {
    let old = Incarnation { counter: 2, random: 7 };
    let (before, first) = update_at("a", "a", Place { incarnation: old, index: 50 }, vec![record(1, 1, 10)]);
    let (after, second) = update_at("a", "a", Place { incarnation: LIFE, index: 9 }, vec![record(1, 2, 10)]);
    let mut b = between_two_relays();
    b.handle_message(Monotonic(1_000), LinkId(1), first);
    claim(&mut b, 2_000, LinkId(1), before, 100);
    assert_eq!(told_age(&mut b, 2_000, LinkId(2)), Some(100));
    b.handle_message(Monotonic(2_500), LinkId(1), second);
    assert_eq!(told_age(&mut b, 2_500, LinkId(2)), None);
    assert_eq!(b.standing(Monotonic(2_500), &region("a")).unwrap().freshness, Freshness::Fresh);
    // What is known of the new life counts, even if that is less.
    claim(&mut b, 3_000, LinkId(1), after, 20_000);
    assert_eq!(told_age(&mut b, 3_000, LinkId(2)), Some(20_000));
    assert_eq!(b.standing(Monotonic(3_000), &region("a")).unwrap().freshness, Freshness::Suspect);
}

/// A restart settles no doubt: what was proven of the life before is kept, and still not passed on.
#[test]
fn a_restart_keeps_the_doubt_about_another_life() {
    let old = Incarnation { counter: 2, random: 7 };
    let (before, first) = update_at("a", "a", Place { incarnation: old, index: 50 }, vec![record(1, 1, 10)]);
    let (after, second) = update_at("a", "a", Place { incarnation: LIFE, index: 9 }, vec![record(1, 2, 10)]);
    let mut b = between_two_relays();
    b.handle_message(Monotonic(1_000), LinkId(1), first);
    claim(&mut b, 2_000, LinkId(1), before, 100);
    b.handle_message(Monotonic(2_500), LinkId(1), second);
    let image = b.export(Monotonic(2_500)).encode();
    let mut b = exchange("b", Node);
    assert_eq!(b.import(Monotonic(50), Image::decode(&image).unwrap(), Some(Duration::ZERO)), 0);
    for (n, name) in [(1, "c"), (2, "d")] {
        b.handle_link_up(Monotonic(50), LinkId(n), peer(name, Node));
    }
    assert_eq!(told_age(&mut b, 60, LinkId(2)), None);
    assert_eq!(b.standing(Monotonic(60), &region("a")).unwrap().freshness, Freshness::Fresh);
    claim(&mut b, 2_000, LinkId(1), after, 20_000);
    assert_eq!(told_age(&mut b, 2_000, LinkId(2)), Some(20_000));
}

/// A registry that was wiped while no node of its region ran, and the node's disk with it: nobody at home knows better,
/// and what others hold is not taken from them by an empty life, whichever of the two is the greater.
#[test]
fn a_wiped_region_asks_before_it_is_believed() {
    for random in [LIFE.random + 2, LIFE.random - 2] {
        let mut line = Line::new(&[("a", Node), ("b", Node), ("c", Node)]);
        line.own(0, 50, OwnChange::All((0..3).map(|n| record(n, 1, 10)).collect()));
        line.pass(2_000);
        // Half a minute later another process, that knows nothing, finds an empty registry.
        line.members[1].handle_link_down(Monotonic(line.now), LinkId(1));
        line.pass(30_000);
        line.members[0] = exchange("a", Node);
        let wiped = Incarnation { random, ..LIFE };
        let say = |line: &mut Line, life, index, change| {
            let now = line.now;
            let own = Own { incarnation: life, ..own(index, now, change) };
            line.members[0].handle_own(Monotonic(now), own);
            line.settle();
        };
        say(&mut line, wiped, 1, OwnChange::All(Vec::new()));
        for (at, other) in [(0, "b"), (1, "a")] {
            line.members[at].handle_link_up(Monotonic(line.now), LinkId(1), peer(other, Node));
        }
        for index in 2..7 {
            line.pass(1_000);
            say(&mut line, wiped, index, OwnChange::Some(Vec::new()));
        }
        let held = |line: &Line, at: usize| {
            let view = line.members[at].origin(&region("a")).unwrap();
            (view.head.head.version.incarnation, view.state.len())
        };
        assert_eq!([held(&line, 1), held(&line, 2)], [(LIFE, 3); 2], "{random}");
        assert!(line.members[0].published().is_none());
        assert_eq!(line.raises, [LIFE.max(wiped)], "{random}: asked for once in five seconds");
        // The registry counts on, its instances are back, and everybody follows.
        let raised = Incarnation { counter: LIFE.counter + 1, random: 0 };
        say(&mut line, raised, 8, OwnChange::All(vec![record(1, 2, 10)]));
        line.pass(2_000);
        assert_eq!([held(&line, 1), held(&line, 2)], [(raised, 1); 2], "{random}");
    }
}

/// Where nobody can tell the origin what is held, the greater life is taken after a while.
#[test]
fn a_rival_life_is_not_held_off_for_ever() {
    let mut holder = exchange("b", Node);
    holder.handle_link_up(Monotonic(1_000), LinkId(1), peer("c", Node));
    holder.handle_message(Monotonic(1_000), LinkId(1), update_of("a", "a", vec![record(1, 1, 10)]));
    let mut relay = |second: u64, random| {
        let Message::Update(mut update) = update_of("a", "a", Vec::new()) else { unreachable!() };
        let SignedHead { mut head, credential, .. } = update.opening.unwrap().head;
        head.version.incarnation.random = random;
        let key = Key::of(head.origin.clone(), head.node.clone());
        let signature = key.sign(&head.signed_bytes()).unwrap();
        let head = SignedHead { credential, signature, head };
        update.opening = Some(Box::new(Opening { head, basis: Basis::Buckets((0..=255).collect()) }));
        let now = Monotonic(1_000 + second * 1_000);
        holder.handle_message(now, LinkId(1), Message::Update(update));
        while holder.poll_output().is_some() {}
        holder.origin(&region("a")).unwrap().head.head.version.incarnation.random
    };
    let seconds = limits::RIVAL_PATIENCE.as_secs();
    let greater = LIFE.random + 1;
    assert!((1..=seconds).all(|second| relay(second, greater) == LIFE.random));
    assert_eq!(relay(seconds + 1, greater), greater);
}

/// Only the last of a line remembers what a registry held that was wiped, or set back and written to until it came to the
/// same revision. Nobody on the way may keep that to themselves because they have taken the empty state, or because they
/// have no link to its region.
#[test]
fn a_wiped_region_hears_through_others_what_it_was() {
    let lines: [&[(&str, PeerRole)]; 3] = [
        &[("a", Node), ("b", Node), ("c", Node)],
        &[("a", Node), ("b", Node), ("b", Leaf)],
        &[("a", Node), ("b", Node), ("c", Node), ("c", Leaf)],
    ];
    let wiped = |random| (Incarnation { random, ..LIFE }, 1);
    let empty = [wiped(LIFE.random + 2), wiped(LIFE.random - 2), (LIFE, 50)];
    for (members, (life, index)) in lines.iter().flat_map(|line| empty.map(|empty| (*line, empty))) {
        let (mut line, last) = (Line::new(members), members.len() - 1);
        line.own(0, 50, OwnChange::All((0..3).map(|n| record(n, 1, 10)).collect()));
        line.pass(2_000);
        line.members[last].handle_link_down(Monotonic(line.now), LinkId(last as u64));
        line.sent.clear();
        let connect = |line: &mut Line, link: usize| {
            for (at, other) in [(link - 1, link), (link, link - 1)] {
                let (name, role) = members[other];
                line.members[at].handle_link_up(Monotonic(line.now), LinkId(link as u64), peer(name, role));
            }
            line.settle();
        };
        let say = |line: &mut Line, life, index, change| {
            let now = line.now;
            let own = Own { incarnation: life, ..own(index, now, change) };
            line.members[0].handle_own(Monotonic(now), own);
            line.settle();
        };
        let held = |line: &Line, at: usize| {
            let view = line.members[at].origin(&region("a")).unwrap();
            (view.head.head.version.incarnation, view.state.len())
        };
        // The others begin anew, and know the empty registry before they meet the last.
        (0..last).for_each(|at| line.members[at] = exchange(members[at].0, Node));
        (1..last).for_each(|link| connect(&mut line, link));
        say(&mut line, life, index, OwnChange::All(Vec::new()));
        line.pass(1_000);
        assert_eq!(held(&line, last - 1), (life, 0));
        connect(&mut line, last);
        for _ in 0..5 {
            line.pass(1_000);
            say(&mut line, life, index, OwnChange::Some(Vec::new()));
        }
        assert_eq!(held(&line, last), (LIFE, 3), "{members:?} {life}");
        assert_eq!(line.raises, [LIFE.max(life)], "{members:?} {life}");
        assert_eq!(line.closed, []);
        let raised = Incarnation { counter: LIFE.counter + 1, random: 0 };
        say(&mut line, raised, 8, OwnChange::All(vec![record(1, 2, 10)]));
        line.pass(2_000);
        assert!((1..=last).all(|at| held(&line, at) == (raised, 1)), "{members:?} {life}");
        // Then nobody has any more to say of it.
        line.sent.clear();
        line.pass(3_000);
        assert!(line.sent.iter().all(|m| matches!(m, Message::Ping(_) | Message::Beat(_))), "{members:?}");
    }
}
