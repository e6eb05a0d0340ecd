//! Modules that are small and harmless to run, and take a compiler minutes or gigabytes.

#![allow(dead_code, reason = "every test binary uses its own part")]

/// Loops and locals of a module of 21 KB that takes a compiler minutes.
pub(crate) const TIME: (usize, usize) = (3_000, 20);
/// Loops and locals of a module of 17 KB that takes a compiler gigabytes.
pub(crate) const MEMORY: (usize, usize) = (1_000, 1_000);

/// A number in LEB128.
pub(crate) fn number(mut n: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (n & 0x7f) as u8;
        n >>= 7;
        bytes.push(if n == 0 { low } else { low | 0x80 });
        if n == 0 {
            return bytes;
        }
    }
}

/// A section of a module or component.
pub(crate) fn section(id: u8, contents: &[u8]) -> Vec<u8> {
    [&[id][..], &number(contents.len()), contents].concat()
}

/// One function with `locals` locals and this body, in a component.
fn component(locals: usize, body: &[u8]) -> Vec<u8> {
    const I32: u8 = 0x7f;
    let code = [&[1][..], &number(locals), &[I32], body, &[0x0b]].concat();
    let code = [&[1][..], &number(code.len()), &code].concat();
    let types = section(1, b"\x01\x60\0\0");
    let core = [&b"\0asm\x01\0\0\0"[..], &types, &section(3, b"\x01\0"), &section(10, &code)].concat();
    [&b"\0asm\x0d\0\x01\0"[..], &section(1, &core)].concat()
}

/// `local[to] += local[from]`.
fn add(to: usize, from: usize) -> Vec<u8> {
    [&[0x20][..], &number(to), &[0x20], &number(from), &[0x6a, 0x21], &number(to)].concat()
}

/// `depth` loops within one another, around one pass over all locals: each loop carries every local.
pub(crate) fn nested_loops(depth: usize, locals: usize) -> Vec<u8> {
    let enter = [0x03, 0x40].repeat(depth);
    let pass: Vec<u8> = (0..locals).flat_map(|local| add(local, (local + 1) % locals)).collect();
    let leave = [0x20, 0, 0x0d, 0, 0x0b].repeat(depth);
    component(locals, &[enter, pass, leave].concat())
}
