//! Hostile modules that do not come as far as a call: what they are made of is wrong, or what their start does.

use crate::corpus::{Hostile, Verdict};
use crate::guest::{Guest, When};
use crate::guests;
use crate::guests::bombs::{self, number, section};

fn text(wat: &str) -> Vec<u8> {
    wat::parse_str(wat).unwrap_or_else(|error| panic!("{error}\n{wat}"))
}

/// One core module in a component of no world.
fn core(wat: &str) -> Vec<u8> {
    let module = text(wat);
    [&b"\0asm\x0d\0\x01\0"[..], &section(1, &module)].concat()
}

fn good() -> Vec<u8> {
    Guest::default().build(When::Live)
}

/// A good policy that also makes `count` instances of a core module.
fn with_instances(module: &str, count: usize) -> Vec<u8> {
    let good = good();
    let own = core_modules(&good);
    let instance = [&[0][..], &number(own), &[0]].concat();
    let instances = [number(count), instance.repeat(count)].concat();
    [good, section(1, &text(module)), section(2, &instances)].concat()
}

/// How many core modules a component has.
fn core_modules(component: &[u8]) -> usize {
    let (mut at, mut found) = (8, 0);
    while at < component.len() {
        found += usize::from(component[at] == 1);
        at += 1;
        let (mut size, mut shift) = (0, 0);
        loop {
            let byte = component[at];
            at += 1;
            size |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                break;
            }
        }
        at += size;
    }
    found
}

fn flipped(bytes: &[u8], at: usize, bit: u8) -> Vec<u8> {
    let mut flipped = bytes.to_vec();
    flipped[at] ^= 1 << bit;
    flipped
}

/// Components within components.
fn nested_components(depth: usize) -> Vec<u8> {
    (0..depth).fold(b"\0asm\x0d\0\x01\0".to_vec(), |inner, _| {
        [&b"\0asm\x0d\0\x01\0"[..], &section(4, &inner)].concat()
    })
}

fn nested_blocks(depth: usize) -> Vec<u8> {
    core(&format!("(module (func {} {}))", "(block ".repeat(depth), ")".repeat(depth)))
}

fn nested_types(depth: usize) -> Vec<u8> {
    let types: String = (1..depth).map(|n| format!("(type $t{n} (list $t{}))", n - 1)).collect();
    text(&format!("(component (type $t0 (list u8)) {types})"))
}

fn nested_json(depth: usize) -> String {
    [r#"{"a":"#.repeat(depth), "1".into(), "}".repeat(depth)].concat()
}

fn many_functions(count: usize) -> Vec<u8> {
    core(&format!("(module {})", "(func)".repeat(count)))
}

fn wide_branch(targets: usize) -> Vec<u8> {
    core(&format!("(module (func (param i32) (block (br_table {} (local.get 0)))))", "0 ".repeat(targets)))
}

/// The contract's exports under another name, or with other functions.
fn of_other_functions(name: &str, function: &str) -> Vec<u8> {
    text(&format!(
        r#"(component
          (core module $m (func (export "f") (param i32) (result i32) (local.get 0)))
          (core instance $i (instantiate $m))
          (func $f (param "a" u32) (result u32) (canon lift (core func $i "f")))
          (instance $routing {})
          (export "{name}" (instance $routing)))"#,
        function.split_whitespace().map(|name| format!(r#"(export "{name}" (func $f))"#)).collect::<String>()
    ))
}

#[rustfmt::skip] // a table
pub(crate) fn all() -> Vec<Hostile> {
    let good = good();
    let middle = good.len() / 2;
    let carrying = |name: &str, contents: &str| guests::with_section(&good, name, contents);
    let (code, world) = ("does-not-compile", "wrong-world");
    let start = |body: &str| Guest::module(&format!("(func $start {body}) (start $start)")).build(When::Live);
    let cases: [(&str, &str, Vec<u8>, &str, Option<&str>); 56] = [
        // Not a component at all.
        ("nothing", "is empty", vec![], "not-a-component", None),
        ("a-page", "is HTML", b"<html>sorry</html>".to_vec(), "not-a-component", None),
        ("an-archive", "is a ZIP archive", b"PK\x03\x04policy.wasm".to_vec(), "not-a-component", None),
        ("text-form", "is WebAssembly text", b"(component)".to_vec(), "not-a-component", None),
        ("native", "is a program of this machine", b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x3e\0".to_vec(), "not-a-component", None),
        ("machine-code", "is an engine's compiled module", [&b"\x7fELF\x02\x01\x01\xc8"[..], b"\0.wasmtime.engine\0\x0248.0.0", &good].concat(), "not-a-component", None),
        ("magic-only", "ends after the magic", b"\0asm".to_vec(), "not-a-component", None),
        ("a-core-module", "is no component", text("(module)"), "not-a-component", None),
        ("large", "is one byte larger than modules may be", [&good[..], &vec![0; (8 << 20) + 1 - good.len()]].concat(), "module-too-large", None),
        // Broken files.
        ("of-the-future", "says that it is of another version", flipped(&good, 4, 6), code, None),
        ("half", "ends in the middle", good[..middle].to_vec(), code, None),
        ("truncated", "lacks its last byte", good[..good.len() - 1].to_vec(), code, None),
        ("flipped-section", "has the id of a section flipped", flipped(&good, 8, 7), code, None),
        ("flipped-length", "has the length of a section flipped", flipped(&good, 9, 3), code, None),
        ("endless-length", "has a section whose length does not end", [&good[..], &[1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]].concat(), code, None),
        ("section-beyond", "has a section that is longer than the file", [&good[..], &[1, 0xff, 0x7f]].concat(), code, None),
        ("name-beyond", "has a section whose name is longer than it", [&good[..], &section(0, &[0x7f, b'x'])].concat(), code, None),
        ("rubbish-behind", "has rubbish behind its end", [&good[..], b"\xde\xad\xbe\xef"].concat(), code, None),
        ("rubbish-code", "has code that is none", core_with_rubbish(), code, None),
        ("a-million-sections", "has 100,000 empty sections", [&good[..], &section(0, &[1, b'x']).repeat(100_000)].concat(), code, None),
        // What it carries.
        ("cases-no-json", "carries cases that are not JSON", carrying("meridian:test-cases", "[{"), "bad-section", None),
        ("cases-deep", "carries cases nested 10,000 deep", carrying("meridian:test-cases", &nested_json(10_000)), "bad-section", None),
        ("cases-many", "carries 65 cases", carrying("meridian:test-cases", &format!("[{}]", vec![r#"{"name":"a","expect":{"tiers":[]}}"#; 65].join(","))), "bad-section", None),
        ("cases-large", "carries 300 KB of cases", carrying("meridian:test-cases", &" ".repeat(300_000)), "bad-section", None),
        ("schema-deep", "carries a schema nested 10,000 deep", carrying("meridian:config-schema", &nested_json(10_000)), "bad-section", None),
        ("schema-pattern", "carries a schema with a regular expression", carrying("meridian:config-schema", r#"{"properties":{"a":{"pattern":"(a+)+$"}}}"#), "bad-section", None),
        ("schema-twice", "carries two schemas", guests::with_section(&carrying("meridian:config-schema", "{}"), "meridian:config-schema", "{}"), "bad-section", None),
        ("about-of-the-future", "carries a description of a format of the future", carrying("meridian:policy", r#"{"format":9,"name":"x"}"#), "bad-section", None),
        ("about-null", "carries null for a description", carrying("meridian:policy", "null"), "bad-section", None),
        ("own-case-fails", "fails its own test case", carrying("meridian:test-cases", r#"[{"name":"mine","service":{"endpoints":[{"id":"x"}]},"expect":{"tiers":[["y"]]}}]"#), "trial-failed", Some("test-cases")),
        // Another world.
        ("no-exports", "exports nothing", guests::of_another_world(), world, None),
        ("empty-component", "is an empty component", text("(component)"), world, None),
        ("other-version", "exports another version of the contract", of_other_functions("meridian:policy/routing@2.0.0", "f"), world, None),
        ("half-the-contract", "exports the contract without its functions", of_other_functions("meridian:policy/routing@1.0.0", "f"), world, None),
        ("imports-a-clock", "imports a clock", guests::importing(), "has-imports", None),
        ("imports-wasi", "imports the environment of WASI", text(r#"(component (import "wasi:cli/environment@0.2.0" (instance)))"#), "has-imports", None),
        ("imports-a-function", "imports a function", text(r#"(component (import "now" (func (result u64))))"#), "has-imports", None),
        ("imports-code", "imports a core module", text(r#"(component (import "code" (core module)))"#), "has-imports", None),
        // What engines had bugs in.
        ("simd", "uses vectors", core("(module (func (drop (v128.const i32x4 0 0 0 0))))"), code, None),
        ("memory64", "has a memory of 64 bits", core("(module (memory i64 1))"), code, None),
        ("threads", "has a shared memory", core("(module (memory 1 1 shared))"), code, None),
        ("tail-calls", "calls in its tail", core("(module (func $f (return_call $f)))"), code, None),
        ("exceptions", "throws", core("(module (tag $t) (func (throw $t)))"), code, None),
        ("garbage-collection", "has types of the collector", core("(module (type (struct (field i32))))"), code, None),
        // Deep and wide.
        ("components-deep", "nests 1,000 components", nested_components(1_000), code, None),
        ("blocks-deep", "nests 30,000 blocks", nested_blocks(30_000), world, None),
        ("types-deep", "nests 1,000 lists", nested_types(1_000), code, None),
        ("branch-wide", "has a branch with 200,000 targets", wide_branch(200_000), code, None),
        ("functions-many", "has 20,000 functions", many_functions(20_000), world, None),
        ("compile-memory", "takes a compiler gigabytes", bombs::nested_loops(bombs::MEMORY.0, bombs::MEMORY.1), "compile-limit", None),
        // The start.
        ("start-loops", "never ends its start", start("(loop $forever (br $forever))"), "trial-failed", Some("world")),
        ("start-traps", "traps in its start", start("unreachable"), "trial-failed", Some("world")),
        ("start-recurses", "overflows its stack in its start", start("(call $deeper)"), "trial-failed", Some("world")),
        ("memory-large", "wants 300 pages of memory", Guest { pages: 300, ..Guest::default() }.build(When::Live), "trial-failed", Some("world")),
        ("memory-whole", "wants 4 GiB of memory", Guest { pages: 65_536, ..Guest::default() }.build(When::Live), "trial-failed", Some("world")),
        ("table-large", "wants a table of 10 million elements", Guest::module("(table 10000000 funcref)").build(When::Live), "trial-failed", Some("world")),
    ];
    let more: [(&str, &str, Vec<u8>, &str, Option<&str>); 9] = [
        ("data-beyond", "puts data beyond its memory", Guest::module(r#"(data (i32.const 0x7fffffff) "x")"#).build(When::Live), "trial-failed", Some("world")),
        ("instances-many", "makes 50 instances", with_instances("(module)", 50), "trial-failed", Some("world")),
        ("memories-many", "makes 10 memories", with_instances("(module (memory 1))", 10), "trial-failed", Some("world")),
        ("memories-sum", "makes three memories that are too large together", with_instances("(module (memory 100))", 3), "trial-failed", Some("world")),
        ("tables-many", "makes 19 tables too many", with_instances("(module (table 1 funcref) (table 1 funcref) (table 1 funcref))", 13), "trial-failed", Some("world")),
        ("another-starts", "brings a second module whose start loops", with_instances("(module (func $s (loop $l (br $l))) (start $s))", 1), "trial-failed", Some("world")),
        ("allocator-beyond", "allocates beyond its memory", Guest { realloc: "(return (i32.const 0x7ffffff0))".into(), ..Guest::default() }.build(When::Live), "trial-failed", Some("corpus")),
        ("allocator-loops", "never ends its allocation", Guest { realloc: "(loop $forever (br $forever))".into(), ..Guest::default() }.build(When::Live), "trial-failed", Some("corpus")),
        ("other-signatures", "exports functions of the right names that take something else", of_other_functions("meridian:policy/routing@1.0.0", "[static]router.open [method]router.admit [method]view.plans [method]view.route"), code, None),
    ];
    cases.into_iter().chain(more).map(|(name, does, module, code, check)| {
        Hostile { name: name.into(), does, module, verdict: Verdict::Refused(code, check) }
    }).collect()
}

fn core_with_rubbish() -> Vec<u8> {
    let body = [1, 4, 0, 0xfe, 0xff, 0x0b];
    let module =
        [&b"\0asm\x01\0\0\0"[..], &section(1, b"\x01\x60\0\0"), &section(3, b"\x01\0"), &section(10, &body)];
    [&b"\0asm\x0d\0\x01\0"[..], &section(1, &module.concat())].concat()
}
