//! What `export!` puts into custom sections, made while the policy is compiled: a section is a static array.

/// The format of the section `meridian:policy`.
const HEAD: &[u8] = br#"{"format":1,"name":""#;
const MIDDLE: &[u8] = br#"","description":""#;
const TAIL: &[u8] = br#""}"#;

/// Bytes that a byte takes in a JSON string.
const fn width(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' => 2,
        0..0x20 => 6,
        _ => 1,
    }
}

const fn json_len(text: &str) -> usize {
    let (text, mut at, mut len) = (text.as_bytes(), 0, 0);
    while at < text.len() {
        len += width(text[at]);
        at += 1;
    }
    len
}

/// Length of [`about`].
pub const fn about_len(name: &str, description: &str) -> usize {
    HEAD.len() + json_len(name) + MIDDLE.len() + json_len(description) + TAIL.len()
}

/// The policy's name and description as JSON.
pub const fn about<const N: usize>(name: &str, description: &str) -> [u8; N] {
    let mut out = ([0; N], 0);
    out = raw(out, HEAD);
    out = json(out, name);
    out = raw(out, MIDDLE);
    out = json(out, description);
    raw(out, TAIL).0
}

/// The bytes as an array.
pub const fn copy<const N: usize>(from: &[u8]) -> [u8; N] {
    raw(([0; N], 0), from).0
}

const fn raw<const N: usize>((mut out, mut end): ([u8; N], usize), from: &[u8]) -> ([u8; N], usize) {
    let mut at = 0;
    while at < from.len() {
        out[end] = from[at];
        (end, at) = (end + 1, at + 1);
    }
    (out, end)
}

const fn json<const N: usize>(mut out: ([u8; N], usize), text: &str) -> ([u8; N], usize) {
    const DIGITS: &[u8] = b"0123456789abcdef";
    let (text, mut at) = (text.as_bytes(), 0);
    while at < text.len() {
        let byte = text[at];
        out = match width(byte) {
            1 => raw(out, &[byte]),
            2 => raw(out, &[b'\\', byte]),
            _ => raw(
                out,
                &[b'\\', b'u', b'0', b'0', DIGITS[(byte >> 4) as usize], DIGITS[(byte & 15) as usize]],
            ),
        };
        at += 1;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_with_anything_in_it_is_json() {
        const DESCRIPTION: &str = "says \"zone\\region\"\n\tand ümlauts";
        const ABOUT: [u8; about_len("mine", DESCRIPTION)] = about("mine", DESCRIPTION);
        let read: serde_json::Value = serde_json::from_slice(&ABOUT).unwrap();
        assert_eq!(read, serde_json::json!({ "format": 1, "name": "mine", "description": DESCRIPTION }));
        assert_eq!(copy::<3>(b"abc"), *b"abc");
    }
}
