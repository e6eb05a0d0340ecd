//! The custom sections of a module, found without an engine: in the component itself, in the core modules in it, and in
//! the components in it.
//!
//! Only the frame of sections is read. Whether their contents make a module is the compiler's to say.

use serde::{Deserialize, Serialize};

/// Name of the section with [`About`].
pub const ABOUT: &str = "meridian:policy";
/// Name of the section with the JSON schema of the config.
pub const SCHEMA: &str = "meridian:config-schema";
/// Name of the section with the test cases.
pub const CASES: &str = "meridian:test-cases";

/// Largest of these sections: a schema or a list of cases, written by hand.
pub const MAX_SECTION_BYTES: usize = 256 * 1024;
/// The format of [`About`] that this program knows.
pub const ABOUT_FORMAT: u32 = 1;
/// Longest description, in bytes: a line or two in a list.
pub const MAX_DESCRIPTION_BYTES: usize = 512;
/// Components within components. What wit-component makes has two levels.
const MAX_DEPTH: usize = 8;
/// Sections in all. What wit-component makes has some dozens.
const MAX_SECTIONS: usize = 10_000;

const CUSTOM: u8 = 0;
/// Section ids of a component that hold a module or a component whole.
const CORE_MODULE: u8 = 1;
const COMPONENT: u8 = 4;

/// A section that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section<'a> {
    /// Where its contents begin in the module.
    pub offset: usize,
    /// Its contents.
    pub bytes: &'a [u8],
}

/// The sections that a gateway reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sections<'a> {
    /// [`ABOUT`].
    pub about: Option<Section<'a>>,
    /// [`SCHEMA`].
    pub schema: Option<Section<'a>>,
    /// [`CASES`].
    pub cases: Option<Section<'a>>,
}

/// Why the sections cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSections {
    /// The frame is broken: no module has been read.
    #[error("malformed at byte {offset}: {why}")]
    Malformed {
        /// Where.
        offset: usize,
        /// What was expected.
        why: &'static str,
    },
    /// One of the sections that are read is not as it must be.
    #[error("section {name} at byte {offset}: {why}")]
    Section {
        /// Which.
        name: &'static str,
        /// Where its contents begin.
        offset: usize,
        /// What is wrong.
        why: String,
    },
}

/// What a policy says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct About {
    /// Of this section; newer ones may say more.
    pub format: u32,
    /// What its author calls it; it is bound by the name that it was uploaded under.
    pub name: String,
    /// What it does.
    #[serde(default)]
    pub description: String,
}

impl Section<'_> {
    /// An error about this section.
    #[must_use]
    pub fn error(&self, name: &'static str, why: impl std::fmt::Display) -> BadSections {
        BadSections::Section { name, offset: self.offset, why: why.to_string() }
    }
}

impl<'a> Sections<'a> {
    /// Finds them in a component.
    ///
    /// # Errors
    /// A broken frame, and a section that is too large or there twice.
    pub fn find(module: &'a [u8]) -> Result<Self, BadSections> {
        let mut found = Self::default();
        let mut budget = MAX_SECTIONS;
        found.walk(&mut Reader { bytes: module, at: 0, base: 0 }, 0, &mut budget)?;
        Ok(found)
    }

    /// What the policy says of itself, if it does.
    ///
    /// # Errors
    /// The JSON is not that of [`About`].
    pub fn about(&self) -> Result<Option<About>, BadSections> {
        let Some(section) = self.about else { return Ok(None) };
        let about: About =
            serde_json::from_slice(section.bytes).map_err(|error| section.error(ABOUT, error))?;
        if about.format == 0 || about.format > ABOUT_FORMAT {
            let why = format!("format {} is not known; {ABOUT_FORMAT} is", about.format);
            return Err(section.error(ABOUT, why));
        }
        if about.description.len() > MAX_DESCRIPTION_BYTES {
            let why = format!("description: must be at most {MAX_DESCRIPTION_BYTES} bytes");
            return Err(section.error(ABOUT, why));
        }
        Ok(Some(about))
    }

    fn walk(&mut self, reader: &mut Reader<'a>, depth: usize, budget: &mut usize) -> Result<(), BadSections> {
        if depth > MAX_DEPTH {
            return Err(reader.malformed("nested too deeply"));
        }
        let is_component = reader.preamble()?;
        while let Some(id) = reader.byte() {
            *budget = budget.checked_sub(1).ok_or_else(|| reader.malformed("too many sections"))?;
            let mut section = reader.sized("a section")?;
            match (id, is_component) {
                (CUSTOM, _) => self.custom(&mut section)?,
                (CORE_MODULE | COMPONENT, true) => self.walk(&mut section, depth + 1, budget)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn custom(&mut self, section: &mut Reader<'a>) -> Result<(), BadSections> {
        let name = section.sized("the name of a section")?;
        let (name, place) = match name.rest() {
            name if name == ABOUT.as_bytes() => (ABOUT, &mut self.about),
            name if name == SCHEMA.as_bytes() => (SCHEMA, &mut self.schema),
            name if name == CASES.as_bytes() => (CASES, &mut self.cases),
            _ => return Ok(()),
        };
        let this = Section { offset: section.base + section.at, bytes: section.rest() };
        if this.bytes.len() > MAX_SECTION_BYTES {
            let why = format!("{} bytes; at most {MAX_SECTION_BYTES}", this.bytes.len());
            return Err(this.error(name, why));
        }
        if place.is_some() {
            return Err(this.error(name, "is there twice"));
        }
        *place = Some(this);
        Ok(())
    }
}

/// A place in the module's bytes.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Where `bytes` begin in the module.
    base: usize,
}

impl<'a> Reader<'a> {
    fn malformed(&self, why: &'static str) -> BadSections {
        BadSections::Malformed { offset: self.base + self.at, why }
    }

    fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    fn byte(&mut self) -> Option<u8> {
        let byte = self.bytes.get(self.at).copied()?;
        self.at += 1;
        Some(byte)
    }

    /// Whether it begins like a component; otherwise like a core module.
    fn preamble(&mut self) -> Result<bool, BadSections> {
        let layer = match self.rest() {
            [0, b'a', b's', b'm', _, _, layer, 0, ..] => *layer,
            _ => return Err(self.malformed("does not begin like WebAssembly")),
        };
        self.at += 8;
        match layer {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.malformed("is neither a core module nor a component")),
        }
    }

    /// A number in LEB128, at most 32 bits.
    fn number(&mut self) -> Option<u32> {
        let mut number = 0u64;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return u32::try_from(number).ok();
            }
        }
        None
    }

    /// What stands behind its own size.
    fn sized(&mut self, what: &'static str) -> Result<Reader<'a>, BadSections> {
        let begun = self.at;
        let size = self.number().and_then(|size| usize::try_from(size).ok());
        let end = size.and_then(|size| self.at.checked_add(size));
        let bytes = end.and_then(|end| self.bytes.get(self.at..end));
        let Some(bytes) = bytes else {
            self.at = begun;
            return Err(self.malformed(match what {
                "a section" => "a section does not fit",
                _ => "the name of a section does not fit",
            }));
        };
        let reader = Reader { bytes, at: 0, base: self.base + self.at };
        self.at += bytes.len();
        Ok(reader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const COMPONENT_HEAD: &[u8] = b"\0asm\x0d\0\x01\0";
    const CORE_HEAD: &[u8] = b"\0asm\x01\0\0\0";

    fn number(mut n: usize) -> Vec<u8> {
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

    fn section(id: u8, contents: &[u8]) -> Vec<u8> {
        [&[id][..], &number(contents.len()), contents].concat()
    }

    fn custom(name: &str, contents: &[u8]) -> Vec<u8> {
        section(CUSTOM, &[&number(name.len())[..], name.as_bytes(), contents].concat())
    }

    fn guest(sections: &[Vec<u8>]) -> Vec<u8> {
        let core = [CORE_HEAD, &sections.concat()].concat();
        [COMPONENT_HEAD, &section(CORE_MODULE, &core)].concat()
    }

    #[test]
    fn sections_of_the_core_module_in_a_component_are_found() {
        let about = br#"{"format": 1, "name": "preview", "description": "for the curious"}"#;
        let module = guest(&[custom("producers", b"x"), custom(ABOUT, about), custom(SCHEMA, b"{}")]);
        let found = Sections::find(&module).unwrap();
        assert_eq!(found.about().unwrap().unwrap().description, "for the curious");
        let schema = found.schema.unwrap();
        assert_eq!(schema.bytes, b"{}");
        assert_eq!(module.get(schema.offset..schema.offset + 2), Some(&b"{}"[..]));
        assert_eq!(found.cases, None);
    }

    #[test]
    fn what_is_large_twice_deep_or_cut_is_refused_with_its_place() {
        let large = guest(&[custom(CASES, &vec![b' '; MAX_SECTION_BYTES + 1])]);
        let twice = guest(&[custom(SCHEMA, b"{}"), custom(SCHEMA, b"{}")]);
        for (module, says) in [(&large, "at most"), (&twice, "twice")] {
            let refused = Sections::find(module).unwrap_err().to_string();
            assert!(refused.contains(says) && refused.contains("at byte"), "{refused}");
        }
        let mut deep = COMPONENT_HEAD.to_vec();
        for _ in 0..20 {
            deep = [COMPONENT_HEAD, &section(COMPONENT, &deep)].concat();
        }
        assert!(Sections::find(&deep).unwrap_err().to_string().contains("deeply"));
        let whole = guest(&[custom(ABOUT, b"{}")]);
        for end in 0..whole.len() {
            // The head alone is a component of nothing.
            assert_eq!(Sections::find(&whole[..end]).is_err(), end != COMPONENT_HEAD.len(), "{end}");
        }
        let many = [COMPONENT_HEAD, &custom("x", b"").repeat(MAX_SECTIONS + 1)].concat();
        assert!(Sections::find(&many).unwrap_err().to_string().contains("too many"));
    }

    #[test]
    fn a_newer_format_and_bad_json_are_refused() {
        for about in
            ["{", "[]", r#"{"format": 2, "name": "x"}"#, r#"{"format": 0, "name": "x"}"#, r#"{"format": 1}"#]
        {
            let module = guest(&[custom(ABOUT, about.as_bytes())]);
            let refused = Sections::find(&module).unwrap().about().unwrap_err();
            assert!(refused.to_string().starts_with("section meridian:policy at byte "), "{refused}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..200), flips in prop::collection::vec((0usize..400, any::<u8>()), 0..4)) {
            let _ = Sections::find(&bytes);
            let mut module = guest(&[custom(ABOUT, br#"{"format": 1, "name": "x"}"#), custom(SCHEMA, b"{}")]);
            for (at, byte) in flips {
                if let Some(place) = module.get_mut(at) {
                    *place = byte;
                }
            }
            let _ = Sections::find(&module).and_then(|found| found.about());
            module.append(&mut bytes);
            let _ = Sections::find(&module);
        }
    }
}
