//! A policy in WebAssembly text with holes for what it does wrong: at once, or only where the gate cannot see it.

use crate::guests::component;
use std::collections::HashMap;

/// When a guest does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// Wherever it runs, so that the gate meets it.
    AtOnce,
    /// Only for services whose names begin with [`LIVE`]: the gate's corpus has none.
    Live,
}

/// How the names of services begin for which guests go wrong.
pub(crate) const LIVE: [u8; 4] = *b"host";

/// Tag, position, whether there is a subset, the subset, the weight: a choice as it lies in memory.
type Choice = [u32; 5];

pub(crate) fn endpoint(position: u32, weight: u32) -> Choice {
    [0, position, 0, 0, weight]
}

pub(crate) fn remote(position: u32, subset: Option<u32>, weight: u32) -> Choice {
    [1, position, u32::from(subset.is_some()), subset.unwrap_or(0), weight]
}

/// Choices, and where the reason lies with its length.
#[derive(Clone)]
pub(crate) struct Tier(pub(crate) Vec<Choice>, pub(crate) (u32, u32));

pub(crate) fn tier(choices: &[Choice]) -> Tier {
    Tier(choices.to_vec(), (0, 0))
}

/// Its share, and its tiers.
pub(crate) type Plan = (u32, Vec<Tier>);

/// What `plans` hands out when it goes wrong.
#[derive(Clone)]
pub(crate) enum Answer {
    /// Lists that are what they say.
    Plans(Vec<Plan>),
    /// Pointer and length of the list of plans.
    Raw(u32, u32),
    /// One plan, whose tiers are this pointer and length.
    Tiers(u32, u32),
    /// One plan of one tier, whose choices are this pointer and length.
    Choices(u32, u32),
}

/// One that sends everything to the first endpoint until it goes wrong, and refuses where there is none. The texts are instructions that run first in each
/// function then; `open`, `admit` and `plans` may return a pointer, `route` a plan.
#[derive(Clone, Default)]
pub(crate) struct Guest {
    pub(crate) open: String,
    pub(crate) admit: String,
    pub(crate) plans: String,
    pub(crate) route: String,
    pub(crate) answer: Option<Answer>,
    /// More fields of the module; these are there at once, whatever [`When`] says.
    pub(crate) module: String,
    /// Runs in the allocator, at once too.
    pub(crate) realloc: String,
    /// Pages of memory at the start, if not as many as the data need.
    pub(crate) pages: u32,
}

impl Guest {
    pub(crate) fn open(text: &str) -> Self {
        Self { open: text.into(), ..Self::default() }
    }

    pub(crate) fn admit(text: &str) -> Self {
        Self { admit: text.into(), ..Self::default() }
    }

    pub(crate) fn plans(text: &str) -> Self {
        Self { plans: text.into(), ..Self::default() }
    }

    pub(crate) fn route(text: &str) -> Self {
        Self { route: text.into(), ..Self::default() }
    }

    pub(crate) fn answering(answer: Answer) -> Self {
        Self { answer: Some(answer), ..Self::default() }
    }

    pub(crate) fn module(text: &str) -> Self {
        Self { module: text.into(), ..Self::default() }
    }

    /// The component.
    pub(crate) fn build(&self, when: When) -> Vec<u8> {
        let mut data = Data::default();
        let good = data.plans(&[(10_000, vec![tier(&[endpoint(0, 1)])])]);
        let refuses = data.plans(&[(10_000, vec![])]);
        let wrong = self.answer.as_ref().map_or(good, |answer| data.answer(answer));
        let end = (BASE as usize + data.bytes.len()).next_multiple_of(16);
        let pages = self.pages.max(end as u32 / 65_536 + 2);
        let armed = match when {
            When::AtOnce => "(i32.const 1)".to_owned(),
            When::Live => IS_LIVE.replace("$LIVE", &u32::from_le_bytes(LIVE).to_string()),
        };
        let text = TEMPLATE
            .replace("$PAGES", &pages.to_string())
            .replace("$HEAP", &end.to_string())
            .replace("$DATA", &data.text())
            .replace("$ARMED", &armed)
            .replace("$GOOD", &good.to_string())
            .replace("$REFUSES", &refuses.to_string())
            .replace("$WRONG", &wrong.to_string())
            .replace("$MODULE", &self.module)
            .replace("$REALLOC", &self.realloc)
            .replace("$OPEN", &self.open)
            .replace("$ADMIT", &self.admit)
            .replace("$PLANS", &self.plans)
            .replace("$ROUTE", &self.route);
        component(&text, "meridian:policy/routing-policy")
    }
}

/// Where data begin.
const BASE: u32 = 1024;

const IS_LIVE: &str = "(if (result i32) (i32.ge_u (i32.load offset=20 (local.get $args)) (i32.const 4))
  (then (i32.eq (i32.load align=1 (i32.load offset=16 (local.get $args))) (i32.const $LIVE)))
  (else (i32.const 0)))";

/// Offsets are those of the canonical ABI: `open` finds the service's name at 16 of its arguments, and the number of its
/// endpoints at 48. What `open` and `admit` return lies at 64; `not today :(` at 512.
const TEMPLATE: &str = r#"
(module
  (import "[export]meridian:policy/routing@1.0.0" "[resource-new]router" (func $new-router (param i32) (result i32)))
  (import "[export]meridian:policy/routing@1.0.0" "[resource-new]view" (func $new-view (param i32) (result i32)))
  (memory (export "memory") $PAGES)
  (global $heap (mut i32) (i32.const $HEAP))
  (global $armed (mut i32) (i32.const 0))
  (global $calls (mut i32) (i32.const 0))
  (global $callers (mut i32) (i32.const 0))
  (data (i32.const 512) "not today :(")
  (data (i32.const 1024) "$DATA")
  (func $deeper (call $deeper) (drop (i32.load (i32.const 0))))
  $MODULE
  (func (export "cabi_realloc") (param $old i32) (param $size i32) (param $align i32) (param $new i32) (result i32)
    (local $at i32)
    $REALLOC
    (local.set $at (i32.and
      (i32.add (global.get $heap) (i32.sub (local.get $align) (i32.const 1)))
      (i32.sub (i32.const 0) (local.get $align))))
    (global.set $heap (i32.add (local.get $at) (local.get $new)))
    (block $fits
      (loop $grow
        (br_if $fits (i32.le_u (global.get $heap) (i32.mul (memory.size) (i32.const 65536))))
        (br_if $grow (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))
        unreachable))
    (local.get $at))
  (func (export "meridian:policy/routing@1.0.0#[static]router.open") (param $args i32) (result i32)
    (global.set $armed $ARMED)
    (if (global.get $armed) (then $OPEN))
    (i32.store (i32.const 64) (i32.const 0))
    ;; Routers and views are the number of endpoints that were shown.
    (i32.store offset=4 (i32.const 64) (call $new-router (i32.load offset=48 (local.get $args))))
    (i32.const 64))
  (func (export "meridian:policy/routing@1.0.0#[method]router.admit")
    (param $self i32) (param $region i32) (param $region-len i32) (param $zone i32) (param $zone-len i32)
    (param $labels i32) (param $labels-len i32) (result i32)
    (global.set $callers (i32.add (global.get $callers) (i32.const 1)))
    (if (global.get $armed) (then $ADMIT))
    (i32.store (i32.const 64) (i32.const 0))
    (i32.store offset=4 (i32.const 64) (call $new-view (local.get $self)))
    (i32.const 64))
  (func (export "meridian:policy/routing@1.0.0#[method]view.plans") (param $self i32) (result i32)
    (if (i32.eqz (local.get $self)) (then (return (i32.const $REFUSES))))
    (if (global.get $armed) (then $PLANS (return (i32.const $WRONG))))
    (i32.const $GOOD))
  (func (export "meridian:policy/routing@1.0.0#[method]view.route")
    (param $self i32) (param $key i64) (param $entropy i64) (result i32)
    (if (i32.eqz (local.get $self)) (then (return (i32.const 0))))
    (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
    (if (global.get $armed) (then $ROUTE))
    (i32.const 0))
)
"#;

/// Plans as they lie in memory. What is the same lies there once: lists that alias one another cost a guest nothing.
#[derive(Default)]
struct Data {
    bytes: Vec<u8>,
    known: HashMap<Vec<u32>, u32>,
}

impl Data {
    fn put(&mut self, words: &[u32]) -> u32 {
        if let Some(at) = self.known.get(words) {
            return *at;
        }
        let at = BASE + u32::try_from(self.bytes.len()).unwrap();
        self.bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        self.known.insert(words.to_vec(), at);
        at
    }

    /// Where pointer and length of the list of plans lie.
    fn plans(&mut self, plans: &[Plan]) -> u32 {
        let mut records = Vec::new();
        for (share, tiers) in plans {
            let mut row = Vec::new();
            for Tier(choices, reason) in tiers {
                let at = self.put(choices.as_flattened());
                row.extend([at, choices.len() as u32, reason.0, reason.1]);
            }
            let at = self.put(&row);
            records.extend([*share, at, tiers.len() as u32]);
        }
        let at = self.put(&records);
        self.put(&[at, plans.len() as u32])
    }

    fn answer(&mut self, answer: &Answer) -> u32 {
        let tiers = match answer {
            Answer::Plans(plans) => return self.plans(plans),
            Answer::Raw(at, count) => return self.put(&[*at, *count]),
            Answer::Tiers(at, count) => (*at, *count),
            Answer::Choices(at, count) => (self.put(&[*at, *count, 0, 0]), 1),
        };
        let plan = self.put(&[10_000, tiers.0, tiers.1]);
        self.put(&[plan, 1])
    }

    fn text(&self) -> String {
        self.bytes.iter().map(|byte| format!("\\{byte:02x}")).collect()
    }
}
