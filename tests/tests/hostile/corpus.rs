//! The hostile modules, each with what it does and the verdict that it must get.

use crate::forms;
use crate::guest::{Answer, Guest, When, endpoint, remote, tier};

/// What must come of a module.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Verdict {
    /// Refused with this code; where the trial refuses it, at this check.
    Refused(&'static str, Option<&'static str>),
    /// Let in: it goes wrong only where the gate cannot see it. What lookups then say.
    LetIn(Said),
}

/// What lookups say of a version that is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// `ok`: what it does wrong hurts nobody, or is clamped.
    Ok,
    /// Another answers, with a reason that begins so.
    Other(&'static str),
}

/// One hostile module.
pub(crate) struct Hostile {
    pub(crate) name: String,
    pub(crate) does: &'static str,
    pub(crate) module: Vec<u8>,
    pub(crate) verdict: Verdict,
}

/// What a policy does wrong: at once, which the gate refuses at the check that is named, and for live services only, which
/// the gate cannot see.
struct Misdeed {
    name: &'static str,
    does: &'static str,
    guest: Guest,
    /// The check that refuses it at once; none where it is right to let it in.
    check: Option<&'static str>,
    live: Said,
}

/// The one that is bound with a share for other regions; all others have to stay at home.
pub(crate) const FAR: &str = "too-much-far-away";

/// Endless.
const LOOP: &str = "(loop $forever (br $forever))";
/// Asks for 16 MiB more and traps where it does not get them, as allocators do.
const MEMORY_BOMB: &str = "(if (i32.eq (memory.grow (i32.const 256)) (i32.const -1)) (then unreachable))";
/// Recursion without end.
const STACK_BOMB: &str = "(call $deeper)";
/// Ten gigabytes, 15 MiB at a time.
const BULK: &str = "(drop (memory.grow (i32.const 236)))
  (loop $again (memory.fill (i32.const 65536) (i32.const 7) (i32.const 15000000)) (br $again))";
/// A refusal whose words are 700 KiB of zeros.
const SHOUT: &str = "(drop (memory.grow (i32.const 16)))
  (i32.store (i32.const 64) (i32.const 1)) (i32.store offset=4 (i32.const 64) (i32.const 131072))
  (i32.store offset=8 (i32.const 64) (i32.const 700000)) (return (i32.const 64))";
/// A table of two elements with nothing in them.
const TABLE: &str = "(type $nothing (func)) (table $t 2 30000 funcref)";

fn plan(choices: &[[u32; 5]]) -> Answer {
    Answer::Plans(vec![(10_000, vec![tier(choices)])])
}

fn answer(of: Answer) -> Guest {
    Guest::answering(of)
}

fn reason(at: u32, bytes: u32) -> Guest {
    let mut one = tier(&[endpoint(0, 1)]);
    one.1 = (at, bytes);
    Guest { pages: 200, ..answer(Answer::Plans(vec![(10_000, vec![one])])) }
}

#[rustfmt::skip] // a table
fn misdeeds() -> Vec<Misdeed> {
    use Said::{Ok, Other};
    let wrong = |name, does, guest, check: &'static str, live| Misdeed { name, does, guest, check: Some(check), live };
    let legal = |name, does, guest, live| Misdeed { name, does, guest, check: None, live };
    let two_halves = || vec![(5_000, vec![tier(&[endpoint(0, 1)])]), (5_000, vec![tier(&[endpoint(0, 2)])])];
    vec![
        wrong("open-loops", "never returns from open", Guest::open(LOOP), "corpus", Other("fuel")),
        wrong("open-traps", "traps in open", Guest::open("unreachable"), "corpus", Other("trap: unreachable")),
        wrong("open-takes-memory", "asks for more memory than there is", Guest::open(MEMORY_BOMB), "corpus", Other("memory")),
        wrong("open-recurses", "overflows its stack in open", Guest::open(STACK_BOMB), "corpus", Other("stack")),
        wrong("open-fills", "fills memory again and again", Guest::open(BULK), "corpus", Other("fuel")),
        wrong("open-copies-beyond", "copies a gigabyte that it does not have", Guest::open("(memory.copy (i32.const 0) (i32.const 65536) (i32.const 0x40000000))"), "corpus", Other("fuel")),
        wrong("open-gives-no-router", "returns a resource that does not exist", Guest::open("(i32.store (i32.const 64) (i32.const 0)) (i32.store offset=4 (i32.const 64) (i32.const 77)) (return (i32.const 64))"), "corpus", Other("trap")),
        wrong("open-gives-a-view", "returns a view in place of a router", Guest::open("(i32.store (i32.const 64) (i32.const 0)) (i32.store offset=4 (i32.const 64) (call $new-view (i32.const 1))) (return (i32.const 64))"), "corpus", Other("trap")),
        wrong("open-answers-neither", "returns a result that is neither of its cases", Guest::open("(i32.store (i32.const 64) (i32.const 9)) (return (i32.const 64))"), "corpus", Other("trap")),
        wrong("open-returns-beyond", "returns a pointer beyond its memory", Guest::open("(return (i32.const 0x7ffffff0))"), "corpus", Other("trap")),
        legal("open-shouts", "refuses with 700 KB of words", Guest::open(SHOUT), Other("open")),
        wrong("open-makes-handles", "makes resources without end", Guest::open("(loop $more (drop (call $new-router (i32.const 1))) (br $more))"), "corpus", Other("trap: cannot allocate")),
        wrong("table-bomb", "grows a table without end", Guest { module: TABLE.into(), ..Guest::open("(if (i32.eq (table.grow $t (ref.null func) (i32.const 29000)) (i32.const -1)) (then unreachable))") }, "corpus", Other("memory")),
        wrong("calls-nothing", "calls an empty place of its table", Guest { module: TABLE.into(), ..Guest::open("(call_indirect $t (type $nothing) (i32.const 1))") }, "corpus", Other("trap")),
        wrong("admit-loops", "never returns from admit", Guest::admit(LOOP), "corpus", Other("fuel")),
        wrong("admit-traps", "traps in admit", Guest::admit("unreachable"), "corpus", Other("trap: unreachable")),
        wrong("admit-divides-by-zero", "divides by zero in admit", Guest::admit("(drop (i32.div_u (i32.const 1) (i32.const 0)))"), "corpus", Other("trap")),
        wrong("plans-loops", "never returns from plans", Guest::plans(LOOP), "corpus", Other("fuel")),
        wrong("plans-traps", "traps in plans", Guest::plans("unreachable"), "corpus", Other("trap: unreachable")),
        wrong("no-plans", "has no plan", answer(Answer::Plans(vec![])), "corpus", Other("plans")),
        wrong("too-many-plans", "has 257 plans", answer(Answer::Plans(vec![(0, vec![tier(&[endpoint(0, 1)])]); 257])), "corpus", Other("plans")),
        wrong("too-many-tiers", "has 65 tiers", answer(Answer::Plans(vec![(10_000, vec![tier(&[endpoint(0, 1)]); 65])])), "corpus", Other("plans")),
        wrong("endless-plans", "says that it has 2^32 - 1 plans", answer(Answer::Raw(1024, u32::MAX)), "corpus", Other("trap")),
        wrong("endless-tiers", "says that it has 2^32 - 1 tiers", answer(Answer::Tiers(1024, u32::MAX)), "corpus", Other("trap")),
        wrong("endless-choices", "says that it has 2^32 - 1 choices", answer(Answer::Choices(1024, u32::MAX)), "corpus", Other("trap")),
        wrong("a-million-tiers", "has a million tiers that fit its memory", Guest { pages: 254, ..answer(Answer::Tiers(65_536, 1_000_000)) }, "corpus", Other("trap")),
        wrong("plans-beyond", "points to plans beyond its memory", answer(Answer::Raw(0xffff_fff0, 1)), "corpus", Other("trap")),
        wrong("plans-askew", "points to plans at an odd address", answer(Answer::Raw(1025, 1)), "corpus", Other("trap")),
        wrong("aliased-lists", "256 plans of 64 tiers that are one list of 1,000 choices", answer(Answer::Plans(vec![(39, vec![tier(&[endpoint(0, 1); 1_000]); 64]); 256])), "corpus", Other("trap")),
        wrong("endpoint-beyond", "names an endpoint that was not shown", answer(plan(&[endpoint(5_000, 1)])), "corpus", Other("plans")),
        wrong("endpoint-last", "names endpoint 2^32 - 1", answer(plan(&[endpoint(u32::MAX, 1)])), "corpus", Other("plans")),
        wrong("endpoint-twice", "names an endpoint twice", answer(plan(&[endpoint(0, 1), endpoint(0, 2)])), "corpus", Other("plans")),
        wrong("remote-beyond", "names a region that was not shown", answer(plan(&[remote(99, None, 1)])), "corpus", Other("plans")),
        wrong("subset-beyond", "names a subset that was not shown", answer(plan(&[remote(0, Some(u32::MAX), 1)])), "corpus", Other("plans")),
        wrong("destination-of-no-case", "names a destination that is neither endpoint nor remote", answer(plan(&[[7, 0, 0, 0, 1]])), "corpus", Other("trap")),
        wrong("shares-too-small", "has shares that add up to 9,999", answer(Answer::Plans(vec![(5_000, vec![tier(&[endpoint(0, 1)])]), (4_999, vec![])])), "corpus", Other("plans")),
        wrong("shares-of-nothing", "has shares that add up to nothing", answer(Answer::Plans(vec![(0, vec![tier(&[endpoint(0, 1)])]), (0, vec![])])), "corpus", Other("plans")),
        wrong("shares-overflow", "has shares that add up beyond 2^32", answer(Answer::Plans(vec![(u32::MAX, vec![tier(&[endpoint(0, 1)])]), (10_001, vec![])])), "corpus", Other("plans")),
        wrong("reason-beyond", "points to a reason beyond its memory", reason(0xffff_0000, 0xffff), "corpus", Other("trap")),
        wrong("reason-not-text", "has a reason that is not UTF-8", Guest { module: r#"(data (i32.const 700) "\ff\fe\c0")"#.into(), ..reason(700, 3) }, "corpus", Other("trap")),
        // `open` of a service without endpoints shows it first: the plan names one all the same.
        legal("reason-of-megabytes", "has a reason of 10 MB", reason(70_000, 10_000_000), Ok),
        legal("weights-of-nothing", "gives every endpoint the weight 0", answer(plan(&[endpoint(0, 0), endpoint(1, 0)])), Other("nothing-eligible")),
        legal("weights-overflow", "gives weights whose sum passes 2^32", answer(plan(&[endpoint(0, u32::MAX), endpoint(1, u32::MAX)])), Ok),
        legal("weights-not-a-number", "gives the bits of NaN and infinity as weights", answer(plan(&[endpoint(0, 0x7fc0_0000), endpoint(1, 0x7f80_0000)])), Ok),
        legal("most-plans", "has 256 plans of 64 tiers", answer(Answer::Plans((0..256).map(|n| (if n == 0 { 10_000 } else { 0 }, vec![tier(&[endpoint(0, 1), endpoint(1, 1)]); 64])).collect())), Ok),
        legal("far-away-unseen", "names another region, which the binding does not show it", answer(plan(&[remote(0, None, 1)])), Other("plans")),
        legal(FAR, "sends everything to another region, beyond what the binding allows", answer(Answer::Plans(vec![(10_000, vec![tier(&[remote(0, None, 1)]), tier(&[endpoint(0, 1), endpoint(1, 1)])])])), Ok),
        wrong("route-loops", "never returns from route", Guest::route(LOOP), "corpus", Other("fuel")),
        wrong("route-traps", "traps in every route", Guest::route("unreachable"), "corpus", Other("trap: unreachable")),
        wrong("route-traps-at-times", "traps for one word of entropy in four", Guest::route("(if (i64.eqz (i64.and (local.get $entropy) (i64.const 3))) (then unreachable))"), "corpus", Other("trap: unreachable")),
        wrong("route-takes-memory", "asks for more memory in route", Guest::route(MEMORY_BOMB), "corpus", Other("memory")),
        wrong("route-recurses", "overflows its stack in route", Guest::route(STACK_BOMB), "corpus", Other("stack")),
        wrong("route-fills", "fills a gigabyte in route", Guest::route(BULK), "corpus", Other("fuel")),
        wrong("route-names-nothing", "names plan 2^32 - 1", Guest::route("(return (i32.const -1))"), "corpus", Other("route")),
        wrong("good-then-bad", "answers 8 lookups of an instance and then traps", Guest::route("(if (i32.gt_u (global.get $calls) (i32.const 8)) (then unreachable))"), "corpus", Other("trap: unreachable")),
        wrong("bad-in-the-end", "answers 4,000 lookups of an instance and then loops", Guest::route("(if (i32.gt_u (global.get $calls) (i32.const 4000)) (then (loop $forever (br $forever))))"), "purity", Ok),
        legal("good-for-a-million", "answers a million lookups of an instance and then traps", Guest::route("(if (i32.gt_u (global.get $calls) (i32.const 1000000)) (then unreachable))"), Ok),
        legal("route-burns", "uses nearly all its fuel in every route", Guest::route("(local.set $key (i64.const 1200)) (loop $burn (local.set $key (i64.sub (local.get $key) (i64.const 1))) (br_if $burn (i64.ne (local.get $key) (i64.const 0))))"), Ok),
        wrong("counts", "answers by how often it was asked", Guest { answer: Some(Answer::Plans(two_halves())), ..Guest::route("(return (i32.rem_u (global.get $calls) (i32.const 2)))") }, "corpus", Ok),
        wrong("leaks-callers", "answers one caller by what others were", Guest { answer: Some(Answer::Plans(two_halves())), ..Guest::route("(return (i32.gt_u (global.get $callers) (i32.const 5)))") }, "purity", Ok),
    ]
}

/// All of it.
pub(crate) fn all() -> Vec<Hostile> {
    let mut all = forms::all();
    for misdeed in misdeeds() {
        let Misdeed { name, does, guest, check, live } = misdeed;
        if let Some(check) = check {
            all.push(Hostile {
                name: format!("{name}-at-once"),
                does,
                module: guest.build(When::AtOnce),
                verdict: Verdict::Refused("trial-failed", Some(check)),
            });
        }
        all.push(Hostile {
            name: name.into(),
            does,
            module: guest.build(When::Live),
            verdict: Verdict::LetIn(live),
        });
    }
    all
}
