//! The cases. Each gets a store of its own.

use super::*;
use meridian_model::names::PolicyVersion;
use meridian_model::time::UnixMillis;

pub(crate) async fn a_put_is_read_back_and_reported(subject: &Subject) {
    let registry = subject.open().await;
    let mut watch = Watch::start(&*registry, None).await;
    let key = instance("a");
    let (nothing, before) = registry.read(&key).await.unwrap();
    assert_eq!(nothing, None);
    let revision = applied(&*registry, write([], [put(&key, "one")])).await;
    assert!(revision > before);
    let (found, now) = registry.read(&key).await.unwrap();
    let found = found.unwrap();
    assert_eq!((&found.value[..], found.modified), (&b"one"[..], revision));
    assert!(now >= revision);
    watch.caught_up(revision).await;
    assert_eq!(watch.state[&key], found);
    // The same value again is a write like any other.
    let again = applied(&*registry, write([], [put(&key, "one")])).await;
    assert!(again > revision);
    watch.caught_up(again).await;
    assert_eq!(watch.history.len(), 2);
}

pub(crate) async fn conditions_are_compared(subject: &Subject) {
    let registry = subject.open().await;
    let (a, b) = (instance("a"), instance("b"));
    let first = applied(&*registry, write([Condition::Absent(a.clone())], [put(&a, "1")])).await;
    conflict(&*registry, write([Condition::Absent(a.clone())], [put(&a, "2")])).await;
    conflict(&*registry, write([Condition::Present(b.clone())], [put(&b, "2")])).await;
    let second = applied(&*registry, write([Condition::Unchanged(a.clone(), first)], [put(&a, "2")])).await;
    conflict(&*registry, write([Condition::Unchanged(a.clone(), first)], [put(&a, "3")])).await;
    conflict(&*registry, write([Condition::Unchanged(b.clone(), second)], [put(&a, "3")])).await;
    // Revision 0 is no way to say "absent": nothing was ever written by it.
    conflict(&*registry, write([Condition::Unchanged(b.clone(), Revision(0))], [put(&a, "3")])).await;
    let all = [
        Condition::Present(a.clone()),
        Condition::Absent(b.clone()),
        Condition::Unchanged(a.clone(), second),
    ];
    applied(&*registry, write(all, [put(&a, "3"), put(&b, "3")])).await;
    // Conditions alone are a question.
    applied(&*registry, write([Condition::Present(b.clone())], [])).await;
    conflict(&*registry, write([Condition::Absent(b)], [])).await;
}

pub(crate) async fn a_conflict_shows_what_stands_there_and_changes_nothing(subject: &Subject) {
    let registry = subject.open().await;
    let (a, b, c) = (instance("a"), instance("b"), instance("c"));
    let made = applied(&*registry, write([], [put(&a, "1")])).await;
    let conditions =
        [Condition::Present(a.clone()), Condition::Present(b.clone()), Condition::Absent(a.clone())];
    let (_, before) = registry.read(&a).await.unwrap();
    let standing = conflict(&*registry, write(conditions, [put(&c, "x"), Change::Delete(a.clone())])).await;
    let there = Some(Stored { key: a.clone(), value: "1".into(), modified: made });
    assert_eq!(standing, [there.clone(), None, there.clone()]);
    let (found, after) = registry.read(&a).await.unwrap();
    assert_eq!((found, after), (there, before));
    assert_eq!(registry.read(&c).await.unwrap().0, None);
}

pub(crate) async fn deleting_what_is_absent_is_no_event(subject: &Subject) {
    let registry = subject.open().await;
    let mut watch = Watch::start(&*registry, None).await;
    let (a, b) = (instance("a"), instance("b"));
    let (_, before) = registry.read(&a).await.unwrap();
    let revision = applied(&*registry, write([], [Change::Delete(a.clone())])).await;
    assert_eq!(revision, before, "nothing was changed");
    let made = applied(&*registry, write([], [put(&a, "1"), Change::Delete(b.clone())])).await;
    let gone = applied(&*registry, write([], [Change::Delete(a.clone())])).await;
    watch.caught_up(gone).await;
    let put = Observed::Put(Stored { key: a.clone(), value: "1".into(), modified: made });
    assert_eq!(watch.history, [put, Observed::Deleted(a.clone(), gone)]);
    // Deleting a history record works like any other deletion.
    let old = entry(7, 7);
    applied(&*registry, write([], [super::put(&old, "x")])).await;
    applied(&*registry, write([Condition::Present(old.clone())], [Change::Delete(old.clone())])).await;
    assert_eq!(registry.read(&old).await.unwrap().0, None);
    conflict(&*registry, write([Condition::Present(old)], [])).await;
}

pub(crate) async fn a_write_is_one_event_in_order(subject: &Subject) {
    let registry = subject.open().await;
    let mut watch = Watch::start(&*registry, None).await;
    let (a, b) = (instance("a"), instance("b"));
    applied(&*registry, write([], [put(&b, "0")])).await;
    let changes = [put(&a, "1"), Change::Delete(b.clone()), put(&entry(1, 1), "told")];
    let revision = applied(&*registry, write([], changes)).await;
    loop {
        if let Event::Changed { revision: at, changes } = watch.next().await
            && at >= revision
        {
            let made = Stored { key: a, value: "1".into(), modified: revision };
            assert_eq!(changes[changes.len() - 2..], [Observed::Put(made), Observed::Deleted(b, revision)]);
            break;
        }
    }
}

pub(crate) async fn concurrent_writes_to_one_key_have_one_winner(subject: &Subject) {
    let registry = subject.open().await;
    let key = instance("contended");
    applied(&*registry, write([], [put(&key, "0")])).await;
    // A counter raised by compare-and-set from many tasks: any lost update or double win makes it wrong.
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let (registry, key) = (registry.clone(), key.clone());
            tokio::spawn(async move {
                for _ in 0..10 {
                    let mut standing = registry.read(&key).await.unwrap().0.unwrap();
                    loop {
                        let count: u64 = std::str::from_utf8(&standing.value).unwrap().parse().unwrap();
                        let based_on = Condition::Unchanged(key.clone(), standing.modified);
                        let raise = write([based_on], [put(&key, &(count + 1).to_string())]);
                        match registry.commit(raise).await.unwrap() {
                            Committed::Applied(_) => break,
                            Committed::Conflict(mut found) => standing = found.pop().unwrap().unwrap(),
                        }
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(&registry.read(&key).await.unwrap().0.unwrap().value[..], b"160");

    // Crossed conditions: of two writes that each need what the other makes absent, only one may pass.
    for round in 0..50 {
        let (x, y) = (instance(&format!("x{round}")), instance(&format!("y{round}")));
        let one = registry.commit(write([Condition::Absent(y.clone())], [put(&x, "1")]));
        let two = registry.commit(write([Condition::Absent(x.clone())], [put(&y, "1")]));
        let (one, two) = tokio::join!(one, two);
        let won = [one.unwrap(), two.unwrap()].iter().filter(|c| matches!(c, Committed::Applied(_))).count();
        assert_eq!(won, 1, "write skew in round {round}");
    }
}

pub(crate) async fn an_unacceptable_write_harms_no_other(subject: &Subject) {
    let registry = subject.open().await;
    let huge = "x".repeat(2 * 1024 * 1024);
    let many: Vec<_> = (0..200).map(|n| put(&instance(&format!("m{n}")), "1")).collect();
    let twice = [put(&instance("t"), "1"), Change::Delete(instance("t"))];
    let member = [put(&Key::Member(gateway("g")), "1")];
    let good: Vec<_> = (0..20).map(|n| instance(&format!("good{n}"))).collect();
    let (refused, written) = tokio::join!(
        futures::future::join_all([
            registry.commit(write([], [put(&instance("huge"), &huge)])),
            registry.commit(write([], many)),
            registry.commit(write([], twice)),
            registry.commit(write([], member)),
        ]),
        futures::future::join_all(good.iter().map(|key| registry.commit(write([], [put(key, "1")])))),
    );
    for outcome in refused {
        assert!(matches!(outcome, Err(RegistryError::Refused(_))), "{outcome:?}");
    }
    for outcome in written {
        assert!(matches!(outcome, Ok(Committed::Applied(_))), "{outcome:?}");
    }
    // As large as it may be, in number and in bytes.
    let most: Vec<_> = (0..128).map(|n| put(&instance(&format!("m{n}")), &"x".repeat(7000))).collect();
    let conditions: Vec<_> = (0..128).map(|n| Condition::Absent(instance(&format!("m{n}")))).collect();
    applied(&*registry, write(conditions, most)).await;
}

pub(crate) async fn history_is_read_newest_first_and_not_watched(subject: &Subject) {
    let registry = subject.open().await;
    let mut watch = Watch::start(&*registry, None).await;
    assert_eq!(registry.history(None, 10).await.unwrap(), []);
    // Spread from the epoch to long after now, as clocks may be wrong.
    let times = [0, 1, 59_000, 1_700_000_000_000, 1_763_690_000_000, 1_763_690_000_001, 4_000_000_000_000];
    for at in times {
        applied(&*registry, write([], [put(&entry(at, 5), &at.to_string()), put(&instance("a"), "x")])).await;
    }
    let last = applied(&*registry, write([], [put(&entry(1, 6), "second of its millisecond")])).await;
    let all = registry.history(None, 100).await.unwrap();
    let keys: Vec<_> = all.iter().map(|s| s.key.clone()).collect();
    let mut expected: Vec<_> = times.iter().map(|at| entry(*at, 5)).chain([entry(1, 6)]).collect();
    expected.sort_by(|a, b| b.cmp(a));
    assert_eq!(keys, expected);
    assert_eq!(all[0].value, "4000000000000");
    // Paged to the end without a gap.
    let (mut paged, mut before) = (Vec::new(), None);
    loop {
        let page = registry.history(before.as_ref(), 3).await.unwrap();
        assert!(page.len() <= 3);
        let Some(oldest) = page.last() else { break };
        before = Some(oldest.key.clone());
        paged.extend(page);
    }
    assert_eq!(paged, all);
    watch.caught_up(last).await;
    assert!(watch.history.iter().all(|c| matches!(c, Observed::Put(s) if s.key.is_watched())));
    // Pruned up to a point, that point itself stays, and nothing but history goes.
    registry.prune_history(UnixMillis(1_763_690_000_000)).await.unwrap();
    let left: Vec<_> = registry.history(None, 100).await.unwrap().into_iter().map(|s| s.key).collect();
    assert_eq!(left, expected[..3]);
    assert!(registry.read(&instance("a")).await.unwrap().0.is_some());
}

pub(crate) async fn chunks_come_and_go(subject: &Subject) {
    let registry = subject.open().await;
    let (one, two) = (PolicyVersion::of(b"one"), PolicyVersion::of(b"two"));
    assert_eq!(registry.get_chunk(one, 0).await.unwrap(), None);
    let large = Bytes::from(vec![7; 512 * 1024]);
    for number in [0, 1, 11] {
        registry.put_chunk(one, number, large.slice(..large.len() - number as usize)).await.unwrap();
    }
    registry.put_chunk(two, 0, Bytes::from_static(b"other")).await.unwrap();
    assert_eq!(registry.get_chunk(one, 11).await.unwrap().unwrap().len(), large.len() - 11);
    assert_eq!(registry.get_chunk(one, 2).await.unwrap(), None);
    let refused = registry.put_chunk(one, 3, Bytes::from(vec![0; 512 * 1024 + 1])).await;
    assert!(matches!(refused, Err(RegistryError::Refused(_))));
    registry.delete_chunks(one).await.unwrap();
    for number in [0, 1, 11] {
        assert_eq!(registry.get_chunk(one, number).await.unwrap(), None);
    }
    assert_eq!(registry.get_chunk(two, 0).await.unwrap().unwrap(), "other");
}

pub(crate) async fn a_watch_starts_with_the_whole_state(subject: &Subject) {
    let registry = subject.open().await;
    let (a, b) = (instance("a"), instance("b"));
    let made = applied(&*registry, write([], [put(&a, "1"), put(&entry(1, 1), "not watched")])).await;
    let gone = applied(&*registry, write([], [put(&b, "1")])).await;
    applied(&*registry, write([], [Change::Delete(b.clone())])).await;
    let watch = Watch::start(&*registry, None).await;
    assert!(watch.revision > gone);
    assert_eq!(watch.state[&a], Stored { key: a.clone(), value: "1".into(), modified: made });
    assert_eq!(watch.state.keys().cloned().collect::<Vec<_>>(), [Key::Region, Key::Incarnation, a]);
    assert_eq!(watch.text(&Key::Region).unwrap(), "\"here\"");
    assert_eq!(watch.text(&Key::Incarnation).unwrap(), format!("\"{}\"", watch.incarnation));
    assert_eq!(watch.incarnation.counter, 1);
}

pub(crate) async fn a_watch_proves_that_it_is_current(subject: &Subject) {
    let registry = subject.open().await;
    let mut watch = Watch::start(&*registry, None).await;
    let (ticker, mut gaps, mut written) = (Ticker::start(), Vec::new(), Revision(0));
    for proof in 0..9 {
        // Neither silence nor writes that the watch does not show may keep it from being current.
        if [0, 2, 4, 6].contains(&proof) {
            written = applied(&*registry, write([], [put(&entry(1, proof), "not watched")])).await;
        }
        let begun = tokio::time::Instant::now();
        while !matches!(watch.next().await, Event::Current { .. }) {}
        gaps.push(begun.elapsed());
    }
    assert!(watch.revision >= written);
    // One second is promised; the rest is the machine's. So is one that was longer: etcd may wait for the disk.
    let late = ticker.lateness();
    gaps.sort_unstable();
    assert!(gaps[7] < Duration::from_secs(2) + late, "{gaps:?} between two proofs, tasks {late:?} late");
}

pub(crate) async fn a_slow_receiver_misses_nothing(subject: &Subject) {
    let registry = subject.open().await;
    let mut watch = Watch::start(&*registry, None).await;
    let mut last = Revision(0);
    for batch in 0..40 {
        let writes = (0..100).map(|n| {
            let key = instance(&format!("i{}", (batch * 7 + n) % 150));
            registry.commit(write([], [put(&key, &format!("{batch}-{n}"))]))
        });
        for outcome in futures::future::join_all(writes).await {
            let Committed::Applied(revision) = outcome.unwrap() else { panic!("conflict") };
            last = last.max(revision);
        }
    }
    watch.caught_up(last).await;
    let fresh = Watch::start(&*registry, None).await;
    assert_eq!(watch.state, fresh.state);
}

pub(crate) async fn members_and_beats_vanish_with_the_membership(subject: &Subject) {
    let registry = subject.open().await;
    let mut watch = Watch::start(&*registry, None).await;
    let id = gateway("g-1");
    let mut membership = registry.join(id.clone(), Bytes::from_static(b"me"), Duration::from_secs(5));
    let revision = joined(&mut membership).await;
    registry.publish_beats(&id, Bytes::from_static(b"beats 1")).await.unwrap();
    registry.publish_beats(&id, Bytes::from_static(b"beats 2")).await.unwrap();
    let (member, beats) = (Key::Member(id.clone()), Key::Beats(id));
    watch.until("the second batch", |w| w.text(&beats).as_deref() == Some("beats 2")).await;
    assert_eq!(watch.text(&member).unwrap(), "me");
    assert_eq!(watch.state[&member].modified, revision);
    drop(membership);
    watch.until("both gone", |w| !w.state.contains_key(&member) && !w.state.contains_key(&beats)).await;
}

pub(crate) async fn beats_need_a_membership(subject: &Subject) {
    let registry = subject.open().await;
    let outcome = registry.publish_beats(&gateway("nobody"), Bytes::from_static(b"x")).await;
    assert!(matches!(outcome, Err(RegistryError::Unavailable(_))), "{outcome:?}");
}

pub(crate) async fn a_member_that_joins_again_has_another_revision(subject: &Subject) {
    let registry = subject.open().await;
    let join = || registry.join(gateway("g"), Bytes::from_static(b"me"), Duration::from_secs(5));
    let mut membership = join();
    let first = joined(&mut membership).await;
    drop(membership);
    let mut membership = join();
    let second = joined(&mut membership).await;
    assert!(second > first);
    let record = registry.read(&Key::Member(gateway("g"))).await.unwrap().0;
    assert_eq!(record.map(|s| s.modified), Some(second));
}

pub(crate) async fn a_write_conditional_on_a_lost_membership_conflicts(subject: &Subject) {
    let registry = subject.open().await;
    let mut watch = Watch::start(&*registry, None).await;
    let member = Key::Member(gateway("g"));
    let mut membership = registry.join(gateway("g"), Bytes::from_static(b"me"), Duration::from_secs(5));
    let revision = joined(&mut membership).await;
    let expiry =
        |n: &str| write([Condition::Unchanged(member.clone(), revision)], [put(&instance(n), "expired")]);
    applied(&*registry, expiry("a")).await;
    drop(membership);
    watch.until("the member", |w| w.revision >= revision).await;
    watch.until("the member gone", |w| !w.state.contains_key(&member)).await;
    assert_eq!(conflict(&*registry, expiry("b")).await, [None]);
}

pub(crate) async fn another_region_is_refused(subject: &Subject) {
    let registry = subject.open().await;
    Watch::start(&*registry, None).await;
    drop(registry);
    match subject.open_as("elsewhere").await {
        Err(RegistryError::OtherRegion { found, wanted }) => {
            assert_eq!((found.as_str(), wanted.as_str()), ("here", "elsewhere"));
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("opened"),
    }
}

pub(crate) async fn the_incarnation_survives_a_restart(subject: &Subject) {
    let registry = subject.open().await;
    let mut watch = Watch::start(&*registry, None).await;
    let key = instance("kept");
    let mut membership = registry.join(gateway("g"), Bytes::from_static(b"me"), Duration::from_secs(3));
    joined(&mut membership).await;
    let kept = applied(&*registry, write([], [put(&key, "1"), put(&entry(1, 1), "told")])).await;
    registry.publish_beats(&gateway("g"), Bytes::from_static(b"x")).await.unwrap();
    watch.until("beats", |w| w.state.contains_key(&Key::Beats(gateway("g")))).await;
    let known = watch.known();
    drop((registry, watch, membership));
    subject.restart();

    let registry = subject.open().await;
    let watch = Watch::start(&*registry, Some(known)).await;
    assert_eq!(watch.incarnation, known.incarnation);
    assert!(watch.revision >= known.revision);
    assert_eq!(watch.state[&key].modified, kept);
    assert_eq!(registry.history(None, 10).await.unwrap().len(), 1);
}

/// What a gateway that was away sees after the store went back.
async fn recognised(subject: &Subject, known: Known) {
    let registry = subject.open().await;
    let mut watch = Watch::start(&*registry, Some(known)).await;
    assert!(
        watch.incarnation.counter > known.incarnation.counter,
        "{} after {}",
        watch.incarnation,
        known.incarnation
    );
    // It is raised once, not by everyone who comes.
    let other = Watch::start(&*registry, Some(known)).await;
    assert_eq!(other.incarnation, watch.incarnation);
    let revision = applied(&*registry, write([], [put(&instance("after"), "1")])).await;
    watch.caught_up(revision).await;
    assert_eq!(watch.resets, 1);
}

pub(crate) async fn a_wiped_registry_is_recognised(subject: &Subject) {
    let registry = subject.open().await;
    let mut watch = Watch::start(&*registry, None).await;
    let revision = applied(&*registry, write([], [put(&instance("a"), "1")])).await;
    watch.caught_up(revision).await;
    let known = watch.known();
    drop((registry, watch));
    subject.wipe();
    recognised(subject, known).await;
}

pub(crate) async fn a_restored_registry_is_recognised(subject: &Subject) {
    let registry = subject.open().await;
    drop((Watch::start(&*registry, None).await, registry));
    subject.save();
    let registry = subject.open().await;
    let mut watch = Watch::start(&*registry, None).await;
    let mut last = Revision(0);
    for n in 0..20 {
        last = applied(&*registry, write([], [put(&instance(&n.to_string()), "1")])).await;
    }
    watch.caught_up(last).await;
    let known = watch.known();
    drop((registry, watch));
    subject.restore();
    recognised(subject, known).await;
}

pub(crate) async fn an_incarnation_raised_by_hand_starts_watches_over(subject: &Subject) {
    let registry = subject.open().await;
    let mut watch = Watch::start(&*registry, None).await;
    let standing = registry.read(&Key::Incarnation).await.unwrap().0.unwrap();
    let raised = Incarnation { counter: 9, random: 1 };
    let based_on = Condition::Unchanged(Key::Incarnation, standing.modified);
    let value = meridian_registry::record::encode(&raised).unwrap();
    applied(&*registry, write([based_on], [Change::Put(Key::Incarnation, value)])).await;
    watch.until("the new life", |w| w.incarnation == raised).await;
    assert_eq!(watch.resets, 2);
}
