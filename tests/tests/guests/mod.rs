//! Policies in WebAssembly text, made into components.

#![allow(dead_code, reason = "every test binary uses its own part")]

pub(crate) mod bombs;

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// Sends everything to the endpoints of zones whose name ends with `letter`, by their weights, and refuses where there are
/// none. `route` traps for services whose name begins with `trap`.
pub(crate) fn only_zone(letter: char) -> Vec<u8> {
    only_zone_but(letter, "")
}

/// The same, which traps where a service has no endpoints: it works until the first one is empty.
pub(crate) fn trapping_when_empty() -> Vec<u8> {
    only_zone_but('a', "(if (i32.eqz (local.get $count)) (then unreachable))")
}

/// The same, which refuses everything.
pub(crate) fn refusing() -> Vec<u8> {
    only_zone_but('a', REFUSE)
}

/// The same, which refuses to work without a config.
pub(crate) fn needing_config() -> Vec<u8> {
    only_zone_but('a', &format!("(if (i32.eqz (i32.load offset=4 (local.get $args))) (then {REFUSE}))"))
}

/// The same, which traps besides where a service has no endpoints.
pub(crate) fn needing_config_and_trapping_when_empty() -> Vec<u8> {
    let empty = "(if (i32.eqz (local.get $count)) (then unreachable))";
    only_zone_but(
        'a',
        &format!("(if (i32.eqz (i32.load offset=4 (local.get $args))) (then {REFUSE})) {empty}"),
    )
}

fn only_zone_but(letter: char, first: &str) -> Vec<u8> {
    let text = ONLY_ZONE.replace("$LETTER", &u32::from(letter).to_string()).replace("$IMPORT", "");
    component(&text.replace("$FIRST", first), "meridian:policy/routing-policy")
}

/// The module with one more custom section.
pub(crate) fn with_section(module: &[u8], name: &str, contents: &str) -> Vec<u8> {
    let body = [&bombs::number(name.len())[..], name.as_bytes(), contents.as_bytes()].concat();
    [module, &bombs::section(0, &body)].concat()
}

/// The same with an import, which no policy may have.
pub(crate) fn importing() -> Vec<u8> {
    let import = r#"(import "hostile:hostile/clock" "now" (func (result i64)))"#;
    let text = ONLY_ZONE.replace("$LETTER", "97").replace("$IMPORT", import).replace("$FIRST", "");
    component(&text, "hostile:hostile/importing")
}

/// A component that exports nothing.
pub(crate) fn of_another_world() -> Vec<u8> {
    component("(module)", "hostile:hostile/nothing")
}

/// An error of `open`, with the words of the reason.
const REFUSE: &str =
    "(i32.store (i32.const 64) (i32.const 1)) (i32.store offset=4 (i32.const 64) (i32.const 512))
  (i32.store offset=8 (i32.const 64) (i32.const 13)) (return (i32.const 64))";

const HOSTILE: &str = "package hostile:hostile;
interface clock { now: func() -> u64; }
world importing { import clock; export meridian:policy/routing@1.0.0; }
world nothing {}";

/// A core module as a component of `world`: one of the contract's package, or of [`HOSTILE`].
pub(crate) fn component(text: &str, world: &str) -> Vec<u8> {
    let mut module = wat::parse_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let mut resolve = Resolve::default();
    let contract = include_str!("../../../sdk-wasm/wit/routing-policy.wit");
    let packages = [
        resolve.push_str("routing-policy.wit", contract).unwrap(),
        resolve.push_str("hostile.wit", HOSTILE).unwrap(),
    ];
    let (package, name) = world.split_once('/').unwrap();
    let package = packages[usize::from(package.starts_with("hostile"))];
    let world = resolve.select_world(&[package], Some(name)).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default().module(&module).unwrap().validate(true).encode().unwrap()
}

/// Offsets are those of the canonical ABI for the records of the contract: `open` finds config at 0 and the service at 8 of
/// its arguments (its name at 16, its endpoints at 44); an endpoint takes 96 bytes (its zone at 8, its weight at 40); a
/// choice takes 20 bytes (the case at 0, the endpoint at 4, the weight at 16).
const ONLY_ZONE: &str = r#"
(module
  (import "[export]meridian:policy/routing@1.0.0" "[resource-new]router" (func $new-router (param i32) (result i32)))
  (import "[export]meridian:policy/routing@1.0.0" "[resource-new]view" (func $new-view (param i32) (result i32)))
  $IMPORT
  (memory (export "memory") 2)
  (global $heap (mut i32) (i32.const 1024))
  (data (i32.const 512) "only one zone")
  (func $alloc (param $align i32) (param $size i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and
      (i32.add (global.get $heap) (i32.sub (local.get $align) (i32.const 1)))
      (i32.sub (i32.const 0) (local.get $align))))
    (global.set $heap (i32.add (local.get $at) (local.get $size)))
    (block $fits
      (loop $grow
        (br_if $fits (i32.le_u (global.get $heap) (i32.mul (memory.size) (i32.const 65536))))
        (br_if $grow (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))
        unreachable))
    (local.get $at))
  (func (export "cabi_realloc") (param $old i32) (param $size i32) (param $align i32) (param $new i32) (result i32)
    (call $alloc (local.get $align) (local.get $new)))

  ;; A router is the address of: pointer and length of the list of plans, whether to trap.
  (func (export "meridian:policy/routing@1.0.0#[static]router.open") (param $args i32) (result i32)
    (local $endpoint i32) (local $n i32) (local $count i32) (local $choice i32) (local $choices i32)
    (local $kept i32) (local $tier i32) (local $plan i32) (local $router i32)
    (local.set $endpoint (i32.load offset=44 (local.get $args)))
    (local.set $count (i32.load offset=48 (local.get $args)))
    $FIRST
    (local.set $choices (call $alloc (i32.const 4) (i32.mul (local.get $count) (i32.const 20))))
    (local.set $choice (local.get $choices))
    (block $done
      (loop $next
        (br_if $done (i32.eq (local.get $n) (local.get $count)))
        (if (i32.eq
              (i32.load8_u (i32.sub
                (i32.add (i32.load offset=8 (local.get $endpoint)) (i32.load offset=12 (local.get $endpoint)))
                (i32.const 1)))
              (i32.const $LETTER))
          (then
            (i32.store (local.get $choice) (i32.const 0))
            (i32.store offset=4 (local.get $choice) (local.get $n))
            (i32.store offset=8 (local.get $choice) (i32.const 0))
            (i32.store offset=12 (local.get $choice) (i32.const 0))
            (i32.store offset=16 (local.get $choice) (i32.load offset=40 (local.get $endpoint)))
            (local.set $choice (i32.add (local.get $choice) (i32.const 20)))
            (local.set $kept (i32.add (local.get $kept) (i32.const 1)))))
        (local.set $endpoint (i32.add (local.get $endpoint) (i32.const 96)))
        (local.set $n (i32.add (local.get $n) (i32.const 1)))
        (br $next)))
    (local.set $tier (call $alloc (i32.const 4) (i32.const 16)))
    (i32.store (local.get $tier) (local.get $choices))
    (i32.store offset=4 (local.get $tier) (local.get $kept))
    (i32.store offset=8 (local.get $tier) (i32.const 512))
    (i32.store offset=12 (local.get $tier) (i32.const 13))
    (local.set $plan (call $alloc (i32.const 4) (i32.const 12)))
    (i32.store (local.get $plan) (i32.const 10000))
    (i32.store offset=4 (local.get $plan) (local.get $tier))
    (i32.store offset=8 (local.get $plan) (i32.ne (local.get $kept) (i32.const 0)))
    (local.set $router (call $alloc (i32.const 4) (i32.const 12)))
    (i32.store (local.get $router) (local.get $plan))
    (i32.store offset=4 (local.get $router) (i32.const 1))
    ;; 0x70617274 is "trap", little end first.
    (if (i32.ge_u (i32.load offset=20 (local.get $args)) (i32.const 4))
      (then (i32.store offset=8 (local.get $router)
        (i32.eq (i32.load align=1 (i32.load offset=16 (local.get $args))) (i32.const 0x70617274)))))
    (i32.store (i32.const 64) (i32.const 0))
    (i32.store offset=4 (i32.const 64) (call $new-router (local.get $router)))
    (i32.const 64))
  (func (export "meridian:policy/routing@1.0.0#[method]router.admit")
    (param $self i32) (param $region i32) (param $region-len i32) (param $zone i32) (param $zone-len i32)
    (param $labels i32) (param $labels-len i32) (result i32)
    (i32.store (i32.const 64) (i32.const 0))
    (i32.store offset=4 (i32.const 64) (call $new-view (local.get $self)))
    (i32.const 64))
  (func (export "meridian:policy/routing@1.0.0#[method]view.plans") (param $self i32) (result i32)
    (local.get $self))
  (func (export "meridian:policy/routing@1.0.0#[method]view.route")
    (param $self i32) (param $key i64) (param $entropy i64) (result i32)
    (if (i32.load offset=8 (local.get $self)) (then unreachable))
    (i32.const 0))
)
"#;
