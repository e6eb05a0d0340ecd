use super::*;
use crate::names::PolicyVersion;
use proptest::prelude::*;

fn bound(name: &str) -> Bound {
    Bound {
        policy: "p".parse().unwrap(),
        version: PolicyVersion::of(name.as_bytes()),
        config: SmolStr::default(),
    }
}

fn at(millis: u64) -> UnixMillis {
    UnixMillis(millis)
}

fn first(name: &str) -> Binding {
    Binding::new(bound(name), Terms::default(), at(1))
}

fn then(binding: &Binding, name: &str) -> Binding {
    binding.bind(bound(name), Terms::default(), at(2))
}

fn canary(name: &str, percent: f64) -> Candidate {
    Candidate { bound: bound(name), stage: Stage::Canary, percent, since: at(3), fault: SmolStr::default() }
}

fn chain(binding: &Binding) -> Vec<Bound> {
    binding.chain().cloned().collect()
}

#[test]
fn hasty_changes_never_push_out_what_is_known_to_be_good() {
    let mut binding = first("good").soaked();
    for n in 0..20 {
        binding = then(&binding, &format!("hasty-{n}"));
    }
    assert_eq!(chain(&binding)[0], bound("good"));
    assert_eq!(binding.last_good.len(), 1 + LAST_GOOD_KEPT);
    assert_eq!(binding.last_good[0].bound, bound("hasty-18"));
    let back = binding.roll_back(Return::Good, |_| true, at(9)).unwrap();
    assert_eq!(back.active, bound("good"));
    assert!(back.activation.soaked && back.last_good.is_empty());
    assert_eq!(binding.roll_back(Return::Before, |_| true, at(9)).unwrap().active, bound("hasty-18"));
}

#[test]
fn three_good_generations_are_kept() {
    let names = ["a", "b", "c", "d", "e"];
    let binding = names.iter().skip(1).fold(first("a").soaked(), |b, name| then(&b, name).soaked());
    assert_eq!(chain(&binding), [bound("d"), bound("c"), bound("b")]);
}

#[test]
fn a_roll_back_gives_up_the_candidate_first_and_forgets_what_was_bad() {
    let binding = then(&first("a"), "b").try_out(canary("c", 5.0), at(3));
    let without = binding.roll_back(Return::Before, |_| true, at(4)).unwrap();
    assert_eq!((without.active.clone(), without.candidate.clone()), (bound("b"), None));
    let back = without.roll_back(Return::Before, |_| true, at(5)).unwrap();
    assert_eq!((back.active.clone(), chain(&back)), (bound("a"), vec![]));
    assert_eq!(back.activation.way, Way::RolledBack);
    // What was known to be good is not lost by an operator's change of mind.
    let back = then(&first("a"), "b").soaked().roll_back(Return::Before, |_| true, at(6)).unwrap();
    assert_eq!((back.active.clone(), chain(&back)), (bound("a"), vec![bound("b")]));
    let back = without.roll_back(Return::Before, |_| true, at(5)).unwrap();
    assert_eq!(back.roll_back(Return::Before, |_| true, at(6)), Err(NotPossible::NothingToReturnTo));
}

#[test]
fn the_active_version_is_rolled_back_beside_its_candidate() {
    let binding = then(&first("a"), "b").try_out(canary("c", 5.0), at(3));
    let back = binding.roll_back_active(Return::Before, |_| true, at(4)).unwrap();
    assert_eq!((&back.active, &back.candidate), (&bound("a"), &Some(canary("c", 5.0))));
    // What answers again is not tried beside itself.
    let binding = then(&first("a"), "b").try_out(canary("a", 5.0), at(3));
    let back = binding.roll_back_active(Return::Before, |_| true, at(4)).unwrap();
    assert_eq!((&back.active, &back.candidate), (&bound("a"), &None));
    let nothing = first("a").try_out(canary("c", 5.0), at(3)).roll_back_active(Return::Good, |_| true, at(4));
    assert_eq!(nothing, Err(NotPossible::NothingToReturnTo));
}

/// A version that fails now and then at one gateway must not soak at another that sees none of it.
#[test]
fn each_failure_that_is_told_begins_the_soak_anew() {
    let settings = Settings { soak_millis: 60_000, ..Settings::default() };
    let failed = |faults| Evidence { faults, ..evidence(0) };
    let activation = |failed_at| Activation { failed_at: at(failed_at), ..Activation::default() };
    let told = |failed_at, faults, told, now, settings: &Settings| {
        is_to_be_told(&activation(failed_at), &failed(faults), told, settings, at(now))
    };
    assert!(told(0, 1, 0, 1, &settings), "the first one is told at once");
    assert!(!told(0, 0, 0, 1, &settings));
    assert!(!told(1_000, 1, 1, 60_000, &settings), "it is told once");
    assert!(!told(1_000, 2, 1, 1_000 + TELL_EVERY_MILLIS - 1, &settings));
    assert!(told(1_000, 2, 1, 1_000 + TELL_EVERY_MILLIS, &settings));
    // Where the soak is short, before it is over elsewhere.
    let hasty = Settings { soak_millis: 1_000, ..settings };
    assert!(told(1_000, 2, 1, 1_500, &hasty));
}

#[test]
fn promotion_needs_a_candidate_and_begins_a_soak() {
    assert_eq!(first("a").promote(false, at(2)), Err(NotPossible::NoCandidate));
    let promoted = first("a").soaked().try_out(canary("b", 5.0), at(2)).promote(false, at(7)).unwrap();
    assert_eq!(promoted.activation, Activation { since: at(7), way: Way::Promoted, ..Activation::default() });
    assert_eq!((promoted.candidate, chain(&first("a"))), (None, vec![]));
}

#[test]
fn the_same_again_does_not_begin_a_soak() {
    let binding = first("a").soaked();
    assert_eq!(then(&binding, "a").activation, binding.activation);
    // Nor does a version that is known already.
    assert!(then(&then(&binding, "b"), "a").activation.soaked);
}

#[test]
fn thresholds_are_parts_of_all_words() {
    assert_eq!(canary("c", 0.0).threshold(), 0);
    assert_eq!(canary("c", 100.0).threshold(), u64::MAX);
    assert_eq!(canary("c", 50.0).threshold(), 1 << 63);
    assert_eq!(Candidate { stage: Stage::Shadow, ..canary("c", 50.0) }.threshold(), 0);
}

fn evidence(lookups: u64) -> Evidence {
    Evidence { lookups, answered: lookups, clean: lookups, ..Evidence::default() }
}

fn promoted(age_millis: u64) -> Trial {
    Trial::Active { way: Way::Promoted, age_millis }
}

#[test]
fn soaking_takes_time_and_lookups_without_a_fault() {
    let settings = Settings { soak_millis: 1_000, soak_lookups: 100, ..Settings::default() };
    assert_eq!(judge(promoted(999), &evidence(1_000), &settings), Verdict::Wait);
    assert_eq!(judge(promoted(1_000), &evidence(99), &settings), Verdict::Wait);
    assert_eq!(judge(promoted(1_000), &evidence(100), &settings), Verdict::Good);
    // Nothing but lookups without a failure since the last one count.
    let failed_lately = Evidence { faults: 1, clean: 99, ..evidence(1_000) };
    assert_eq!(judge(promoted(1_000), &failed_lately, &settings), Verdict::Wait);
}

#[test]
fn faults_roll_back_whoever_answers() {
    let settings = Settings::default();
    let faults = |faults| Evidence { faults, last_fault: "trap".into(), ..evidence(0) };
    let canary = Trial::Candidate(Stage::Canary);
    assert_eq!(judge(canary, &faults(1), &settings), Verdict::Wait);
    let why = "2 faults, the last one trap".into();
    assert_eq!(judge(canary, &faults(2), &settings), Verdict::RollBack(Cause::Faults, why));
    let bound = Trial::Active { way: Way::Bound, age_millis: 0 };
    assert_eq!(judge(bound, &faults(7), &settings), Verdict::Wait);
    assert!(matches!(judge(bound, &faults(8), &settings), Verdict::RollBack(Cause::Faults, _)));
    // A shadow answers nobody.
    assert_eq!(judge(Trial::Candidate(Stage::Shadow), &faults(99), &settings), Verdict::Wait);
}

#[test]
fn a_rise_of_refusals_and_a_sudden_drain_roll_back_what_was_not_forced() {
    let settings = Settings::default();
    let refusing = Evidence { refused: Pair { before: 0.0, after: 11.0 }, ..evidence(100) };
    let mut draining = evidence(100);
    draining.place(&"ap-south-1a".into(), Pair { before: 90.0, after: 30.0 });
    draining.place(&"ap-south-1b".into(), Pair { before: 10.0, after: 70.0 });
    for (seen, cause, said) in [
        (&refusing, Cause::Refused, "11 % of lookups would be refused"),
        (&draining, Cause::Shift, "ap-south-1a would lose 60 %"),
    ] {
        for trial in [Trial::Candidate(Stage::Canary), promoted(0)] {
            let Verdict::RollBack(by, why) = judge(trial, seen, &settings) else {
                panic!("{trial:?} {seen:?}")
            };
            assert!(by == cause && why.contains(said), "{by:?}: {why}");
        }
        for way in [Way::Bound, Way::Forced, Way::RolledBack] {
            assert_eq!(judge(Trial::Active { way, age_millis: 0 }, seen, &settings), Verdict::Wait);
        }
        assert!(objection(seen, &settings).unwrap().contains(said));
        // Too little was seen to say anything.
        let few = Evidence { lookups: 9, ..seen.clone() };
        assert_eq!(judge(promoted(0), &few, &settings), Verdict::Wait);
    }
}

#[test]
fn a_candidate_is_promoted_on_evidence_only() {
    let settings = Settings::default();
    assert!(objection(&evidence(99), &settings).unwrap().contains("99 lookups; 100 are needed"));
    assert_eq!(objection(&evidence(100), &settings), None);
    let failed = Evidence { faults: 1, last_fault: "fuel".into(), ..evidence(1_000) };
    assert!(objection(&failed, &settings).unwrap().contains("last: fuel"));
}

#[test]
fn records_of_former_formats_are_read() {
    let old =
        serde_json::json!({ "active": bound("a"), "lastGood": [bound("b")], "updatedAt": 5, "future": 1 });
    let binding: Binding = serde_json::from_value(old).unwrap();
    assert_eq!(chain(&binding), [bound("b")]);
    assert_eq!(binding.activation, Activation::default());
    assert_eq!(serde_json::to_value(&binding).unwrap()["future"], 1);
    let with = binding.try_out(canary("c", 12.5), at(3));
    let read: Binding = serde_json::from_value(serde_json::to_value(&with).unwrap()).unwrap();
    assert_eq!(read, with);
}

proptest! {
    /// Whatever happens to a binding, its lists stay bounded, hold nothing twice, and not the active one; and what was
    /// good once is forgotten only for three that are good too, or because it was rolled back.
    #[test]
    fn lists_stay_sound(steps in proptest::collection::vec((0u8..6, 0u8..6), 0..40)) {
        let mut binding = first("0").soaked();
        for (step, which) in steps {
            let name = which.to_string();
            binding = match step {
                0 => then(&binding, &name),
                1 => binding.try_out(canary(&name, 10.0), at(3)),
                2 => binding.promote(which > 2, at(4)).unwrap_or(binding),
                3 => binding.roll_back(Return::Before, |_| true, at(5)).unwrap_or(binding),
                4 => binding.roll_back(Return::Good, |_| true, at(5)).unwrap_or(binding),
                _ => binding.soaked(),
            };
            let list = chain(&binding);
            prop_assert!(list.len() <= 2 * LAST_GOOD_KEPT);
            prop_assert!(!list.contains(&binding.active));
            let distinct: std::collections::BTreeSet<_> = list.iter().map(|b| b.version).collect();
            prop_assert_eq!(distinct.len(), list.len());
            let good = binding.last_good.iter().filter(|f| f.soaked).count();
            prop_assert!(list.iter().take(good).all(|b| binding.last_good.iter().any(|f| f.soaked && f.bound == *b)));
        }
    }

    #[test]
    fn evidence_adds_up_in_any_order_and_stays_bounded(parts in proptest::collection::vec((0u64..1000, 0u64..5, "[a-z]{1,8}"), 0..100)) {
        let all: Vec<Evidence> = parts.iter().map(|(lookups, faults, place)| {
            let mut e = Evidence { faults: *faults, ..evidence(*lookups) };
            e.place(&place.as_str().into(), Pair { before: *lookups as f64, after: 0.0 });
            e
        }).collect();
        let sum = |parts: &mut dyn Iterator<Item = &Evidence>| {
            let mut sum = Evidence::default();
            parts.for_each(|part| sum.add(part));
            sum
        };
        let (forth, back) = (sum(&mut all.iter()), sum(&mut all.iter().rev()));
        prop_assert_eq!(forth.lookups, back.lookups);
        prop_assert_eq!(forth.faults, back.faults);
        prop_assert!(forth.places.len() <= MAX_PLACES + 1);
        let total: f64 = forth.places.values().map(|p| p.before).sum();
        prop_assert!((total - forth.lookups as f64).abs() < 1e-6);
    }
}

#[test]
fn what_is_disabled_is_not_returned_to_and_not_forgotten() {
    let binding = then(&then(&then(&first("a").soaked(), "b").soaked(), "c"), "d");
    let back = binding.roll_back(Return::Good, |b| *b != bound("b"), at(9)).unwrap();
    assert_eq!(back.active, bound("a"));
    let left: Vec<&Bound> = back.last_good.iter().map(|former| &former.bound).collect();
    assert_eq!(left, [&bound("b")], "c was younger than what is returned to; b may be enabled again");
    let back = binding.roll_back(Return::Before, |b| *b != bound("c"), at(9)).unwrap();
    assert_eq!((&back.active, &back.last_good[0].bound), (&bound("b"), &bound("c")));
    assert_eq!(binding.roll_back(Return::Before, |_| false, at(9)), Err(NotPossible::Disabled));
}

#[test]
fn a_long_good_time_hides_nothing() {
    let (settings, canary) = (Settings::default(), Trial::Candidate(Stage::Canary));
    let mut seen = Evidence::default();
    let mut lookups = |count: u64, refused: f64| {
        seen.lookups += count;
        seen.answered += count;
        seen.refused.after += refused * count as f64;
        seen.fade();
        (judge(canary, &seen, &settings), seen.answered)
    };
    assert_eq!(lookups(1_000_000, 0.0), (Verdict::Wait, 1_000_000));
    let (verdict, answered) = lookups(WINDOW / 4, 1.0);
    assert!(matches!(verdict, Verdict::RollBack(..)), "{verdict:?}");
    assert_eq!(answered, 1_000_000 + WINDOW / 4);
}

#[test]
fn a_bound_of_one_is_never_passed() {
    let settings =
        Settings { max_refused_rise: 1.0, max_shift: 1.0, min_lookups: KEPT, ..Settings::default() };
    let mut seen = Evidence::default();
    for count in (1..60).map(|n| n * n) {
        seen.lookups += count;
        seen.refused.after += count as f64;
        seen.place(&"ap-south-1a".into(), Pair { before: count as f64, after: 0.0 });
        seen.fade();
        assert_eq!(judge(Trial::Candidate(Stage::Canary), &seen, &settings), Verdict::Wait, "{count}");
    }
}
