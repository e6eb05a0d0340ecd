//! Policies in WebAssembly text, with holes where a test puts what they do wrong.
//!
//! They misbehave only where the binding's config is not empty: so they pass the gate's trial, as a real policy would that
//! goes wrong in production. A service that lacks an endpoint which they name, they refuse.

/// One plan: its share, and tiers of (endpoint, weight).
pub type PlanText = (u32, Vec<Vec<(u32, u32)>>);

/// A policy to be assembled.
#[derive(Clone)]
pub struct Guest {
    /// Text of instructions that run first in each function, when armed. `open` and `admit` may return a pointer.
    pub open: String,
    pub admit: String,
    pub plans: String,
    /// Runs in every `route`, when armed; may return the plan.
    pub route: String,
    /// What `route` returns.
    pub routes_to: String,
    /// Plans handed out.
    pub answer: Vec<PlanText>,
    /// Plans handed out when armed, if others.
    pub armed_answer: Option<Vec<PlanText>>,
    /// Pages of memory at the start.
    pub pages: u32,
}

impl Guest {
    /// All lookups to one endpoint.
    pub fn to_endpoint(endpoint: u32) -> Self {
        Self::answering(vec![(10_000, vec![vec![(endpoint, 1)]])])
    }

    pub fn answering(answer: Vec<PlanText>) -> Self {
        let nothing = String::new;
        Self {
            open: nothing(),
            admit: nothing(),
            plans: nothing(),
            route: nothing(),
            routes_to: "(i32.const 0)".into(),
            answer,
            armed_answer: None,
            pages: 4,
        }
    }

    /// The component.
    pub fn build(&self) -> Vec<u8> {
        let mut data = Data { base: 1024, bytes: Vec::new() };
        let answer = data.plans(&self.answer);
        let armed = self.armed_answer.as_ref().map_or(answer, |plans| data.plans(plans));
        let refuses = data.plans(&[(10_000, vec![])]);
        let named =
            self.answer.iter().flat_map(|(_, tiers)| tiers).flatten().map(|(endpoint, _)| endpoint + 1);
        let end = (data.base as usize + data.bytes.len()).next_multiple_of(16);
        let pages = self.pages.max(end as u32 / 65_536 + 2);
        let text = TEMPLATE
            .replace("$PAGES", &pages.to_string())
            .replace("$HEAP", &end.to_string())
            .replace("$DATA", &data.text())
            .replace("$ANSWER", &answer.to_string())
            .replace("$REFUSES", &refuses.to_string())
            .replace("$NEEDS", &named.max().unwrap_or(0).to_string())
            .replace("$ARMED_ANSWER", &armed.to_string())
            .replace("$OPEN", &self.open)
            .replace("$ADMIT", &self.admit)
            .replace("$PLANS", &self.plans)
            .replace("$ROUTES_TO", &self.routes_to)
            .replace("$ROUTE", &self.route);
        component(&text)
    }
}

/// Endless.
pub const LOOP: &str = "(loop $forever (br $forever))";
/// A trap.
pub const TRAP: &str = "unreachable";
/// Asks for 16 MiB more and traps where it does not get them, as allocators do.
pub const MEMORY_BOMB: &str = "(if (i32.eq (memory.grow (i32.const 256)) (i32.const -1)) (then unreachable))";
/// Recursion without end.
pub const STACK_BOMB: &str = "(call $deeper)";
/// A refusal by `open` or `admit` with words.
pub const REFUSE: &str = r#"
    (i32.store (i32.const 64) (i32.const 1))
    (i32.store offset=4 (i32.const 64) (i32.const 512))
    (i32.store offset=8 (i32.const 64) (i32.const 12))
    (return (i32.const 64))"#;

/// A core module of the world as a component.
///
/// Types get their names only by being imported or exported, so a component inside takes everything and exports it again
/// by its name: what wit-component makes of a guest, written out.
pub fn component(core: &str) -> Vec<u8> {
    let define = |name: &str, body: &str| format!("(type ${name} {body})\n");
    let import = |name: &str, body: &str| {
        format!("(type ${name}-def {body}) (import \"type-{name}\" (type ${name} (eq ${name}-def)))\n")
    };
    let pass = |name: &str| format!("(with \"type-{name}\" (type ${name}))\n");
    let all = |of: &dyn Fn(&str, &str) -> String| {
        TYPES.iter().map(|(name, body)| of(name, body)).collect::<String>()
    };
    let named = |text: &str| text.replace('$', "$named-");
    let export = |name: &str, body: &str| {
        format!("(type $of-{name} {}) (export $named-{name} \"{name}\" (type $of-{name}))\n", named(body))
    };
    let functions = |of: &dyn Fn(&str, &str, &str) -> String| {
        FUNCTIONS.iter().map(|(short, long, signature)| of(short, long, signature)).collect::<String>()
    };
    let text = format!(
        r#"
(component
  (core {core})
  (type $router (resource (rep i32)))
  (type $view (resource (rep i32)))
  (core func $new-router (canon resource.new $router))
  (core func $new-view (canon resource.new $view))
  (core instance $core (instantiate $core (with "host" (instance
    (export "new-router" (func $new-router))
    (export "new-view" (func $new-view))))))
  (alias core export $core "memory" (core memory $memory))
  (alias core export $core "cabi_realloc" (core func $realloc))
  {outer_types}
  {lifts}
  (component $shim
    (import "type-router" (type $router (sub resource)))
    (import "type-view" (type $view (sub resource)))
    {inner_types}
    {imports}
    (export $named-router "router" (type $router))
    (export $named-view "view" (type $view))
    {exported_types}
    {exports})
  (instance $routing (instantiate $shim
    (with "type-router" (type $router))
    (with "type-view" (type $view))
    {passed_types}
    {passed}))
  (export "meridian:policy/routing@1.0.0" (instance $routing))
)"#,
        outer_types = all(&define),
        lifts = functions(&|short, _, signature| format!(
            "(func ${short} {signature} (canon lift (core func $core \"{short}\") (memory $memory) (realloc $realloc)))\n"
        )),
        inner_types = all(&import),
        imports = functions(&|short, _, signature| format!(
            "(import \"call-{short}\" (func ${short} {signature}))\n"
        )),
        exported_types = all(&export),
        exports = functions(&|short, long, signature| format!(
            "(export \"{long}\" (func ${short}) (func {}))\n",
            named(signature)
        )),
        passed_types = all(&|name, _| pass(name)),
        passed = functions(&|short, _, _| format!("(with \"call-{short}\" (func ${short}))\n")),
    );
    wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

const FUNCTIONS: [(&str, &str, &str); 4] = [
    (
        "open",
        "[static]router.open",
        r#"(param "config" string) (param "service" $service) (result (result (own $router) (error string)))"#,
    ),
    (
        "admit",
        "[method]router.admit",
        r#"(param "self" (borrow $router)) (param "caller" $caller) (result (result (own $view) (error string)))"#,
    ),
    ("plans", "[method]view.plans", r#"(param "self" (borrow $view)) (result (list $plan))"#),
    (
        "route",
        "[method]view.route",
        r#"(param "self" (borrow $view)) (param "key" u64) (param "entropy" u64) (result u32)"#,
    ),
];

const TYPES: [(&str, &str); 12] = [
    ("status", r#"(enum "healthy" "unhealthy" "starting" "draining")"#),
    (
        "endpoint",
        r#"(record (field "id" string) (field "zone" string) (field "version" string) (field "group" string)
    (field "protocol" string) (field "weight" u32) (field "capacity" (option u64)) (field "status" $status)
    (field "degraded" bool) (field "tags" (list string)) (field "metadata" (list (tuple string string)))
    (field "extra" (list (tuple string string))))"#,
    ),
    ("freshness", r#"(enum "fresh" "suspect" "stale")"#),
    (
        "subset",
        r#"(record (field "zone" string) (field "version" string) (field "group" string) (field "healthy" u32)
    (field "total" u32) (field "weight" u64))"#,
    ),
    (
        "remote",
        r#"(record (field "region" string) (field "freshness" $freshness) (field "reachable" bool)
    (field "draining" bool) (field "ramp" u32) (field "round-trip-ms" u32) (field "headroom" (option u64))
    (field "subsets" (list $subset)) (field "extra" (list (tuple string string))))"#,
    ),
    (
        "service",
        r#"(record (field "namespace" string) (field "name" string) (field "region" string)
    (field "draining-zones" (list string)) (field "ramp" u32) (field "endpoints" (list $endpoint))
    (field "remotes" (list $remote)) (field "extra" (list (tuple string string))))"#,
    ),
    (
        "caller",
        r#"(record (field "region" string) (field "zone" string) (field "labels" (list (tuple string string))))"#,
    ),
    ("target", r#"(record (field "remote" u32) (field "subset" (option u32)))"#),
    ("destination", r#"(variant (case "endpoint" u32) (case "remote" $target))"#),
    ("choice", r#"(record (field "destination" $destination) (field "weight" u32))"#),
    ("tier", r#"(record (field "choices" (list $choice)) (field "reason" string))"#),
    ("plan", r#"(record (field "share" u32) (field "tiers" (list $tier)))"#),
];

const TEMPLATE: &str = r#"module $core
  (import "host" "new-router" (func $new-router (param i32) (result i32)))
  (import "host" "new-view" (func $new-view (param i32) (result i32)))
  (memory (export "memory") $PAGES)
  (global $heap (mut i32) (i32.const $HEAP))
  ;; Whether the config was not empty.
  (global $armed (mut i32) (i32.const 0))
  (global $calls (mut i32) (i32.const 0))
  (data (i32.const 512) "not today :(")
  (data (i32.const 1024) "$DATA")
  (func $deeper (call $deeper) (drop (i32.load (i32.const 0))))
  (func (export "cabi_realloc") (param $old i32) (param $size i32) (param $align i32) (param $new i32) (result i32)
    (local $at i32)
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
  (func (export "open") (param $args i32) (result i32)
    (global.set $armed (i32.ne (i32.load offset=4 (local.get $args)) (i32.const 0)))
    (if (global.get $armed) (then $OPEN))
    (i32.store (i32.const 64) (i32.const 0))
    ;; Routers and views are the number of endpoints that were shown.
    (i32.store offset=4 (i32.const 64) (call $new-router (i32.load offset=48 (local.get $args))))
    (i32.const 64))
  (func (export "admit")
    (param $self i32) (param $region i32) (param $region-len i32) (param $zone i32) (param $zone-len i32)
    (param $labels i32) (param $labels-len i32) (result i32)
    (if (global.get $armed) (then $ADMIT))
    (i32.store (i32.const 64) (i32.const 0))
    (i32.store offset=4 (i32.const 64) (call $new-view (local.get $self)))
    (i32.const 64))
  (func (export "plans") (param $self i32) (result i32)
    (if (global.get $armed) (then $PLANS (return (i32.const $ARMED_ANSWER))))
    (if (i32.lt_u (local.get $self) (i32.const $NEEDS)) (then (return (i32.const $REFUSES))))
    (i32.const $ANSWER))
  (func (export "route")
    (param $self i32) (param $key i64) (param $entropy i64) (result i32)
    (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
    (if (global.get $armed) (then $ROUTE)
      (else (if (i32.lt_u (local.get $self) (i32.const $NEEDS)) (then (return (i32.const 0))))))
    $ROUTES_TO)
"#;

/// Plans as they lie in the guest's memory.
struct Data {
    base: u32,
    bytes: Vec<u8>,
}

impl Data {
    fn put(&mut self, words: &[u32]) -> u32 {
        let at = self.base + self.bytes.len() as u32;
        for word in words {
            self.bytes.extend(word.to_le_bytes());
        }
        at
    }

    /// Where the pair (pointer, length) of the list of plans lies.
    fn plans(&mut self, plans: &[PlanText]) -> u32 {
        let mut records = Vec::new();
        for (share, tiers) in plans {
            let mut tier_records = Vec::new();
            for choices in tiers {
                // An endpoint is case 0; the payload has room for a remote.
                let words: Vec<u32> = choices.iter().flat_map(|(e, w)| [0, *e, 0, 0, *w]).collect();
                let at = self.put(&words);
                tier_records.extend([at, choices.len() as u32, 0, 0]);
            }
            let at = self.put(&tier_records);
            records.extend([*share, at, tiers.len() as u32]);
        }
        let at = self.put(&records);
        self.put(&[at, plans.len() as u32])
    }

    fn text(&self) -> String {
        self.bytes.iter().map(|b| format!("\\{b:02x}")).collect()
    }
}
