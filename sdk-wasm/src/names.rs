//! Every distinct string of a service once, in one allocation: endpoints then hold numbers.
//!
//! A guest pays some fifteen units of fuel for each byte that is compared one by one, and a large service names its
//! versions and zones thousands of times. So a name is found by a hash, eight bytes at a time.

/// The number of a name in [`Names`], in the order in which names were gathered.
pub(crate) type Name = u32;

/// Distinct names.
#[derive(Debug, Default)]
pub(crate) struct Names {
    text: Box<str>,
    /// Where each name ends in `text`; it begins where the one before it ends.
    ends: Box<[u32]>,
}

impl Names {
    /// The name with this number; empty for a number that was never given out.
    pub(crate) fn get(&self, name: Name) -> &str {
        let position = name as usize;
        let start = match position.checked_sub(1) {
            Some(before) => self.ends.get(before).copied().unwrap_or(0),
            None => 0,
        };
        self.ends.get(position).and_then(|end| self.text.get(start as usize..*end as usize)).unwrap_or("")
    }

    /// The number of a name. It looks at all of them: not for use on every endpoint.
    pub(crate) fn number(&self, wanted: &str) -> Option<Name> {
        (0..self.ends.len() as Name).find(|name| self.get(*name) == wanted)
    }

    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn heap_bytes(&self) -> usize {
        self.text.len() + std::mem::size_of_val(&*self.ends)
    }
}

/// Gives names their numbers while a service is read.
///
/// Names that were chosen to share their hashes make this slow; that exhausts the fuel of the service that they belong to,
/// and of no other.
#[derive(Debug)]
pub(crate) struct Gathering<'a> {
    names: Vec<&'a str>,
    /// By hash: a name's number and one more, or 0. A power of two of places, at most half of them taken.
    places: Vec<Name>,
}

impl<'a> Gathering<'a> {
    pub(crate) fn new() -> Self {
        Gathering { names: Vec::new(), places: vec![0; 32] }
    }

    /// The number of this name, given out now if it is new.
    pub(crate) fn number(&mut self, text: &'a str) -> Name {
        let place = match self.find(text) {
            Ok(name) => return name,
            Err(place) => place,
        };
        // The instance's memory is far below 4 GiB.
        let name = self.names.len() as Name;
        self.names.push(text);
        if let Some(place) = self.places.get_mut(place) {
            *place = name + 1;
        }
        if self.names.len() * 2 > self.places.len() {
            self.grow();
        }
        name
    }

    /// As [`Gathering::number`], cheaper where the text is the same as it was the last time in its column.
    #[inline]
    pub(crate) fn number_in(&mut self, column: &mut Column<'a>, text: &'a str) -> Name {
        match column.last {
            Some((last, name)) if same(last, text) => name,
            _ => {
                let name = self.number(text);
                column.last = Some((text, name));
                name
            }
        }
    }

    /// All of them, by their numbers.
    pub(crate) fn finish(self) -> Names {
        let mut text = String::with_capacity(self.names.iter().map(|name| name.len()).sum());
        let mut ends = Vec::with_capacity(self.names.len());
        for name in self.names {
            text.push_str(name);
            ends.push(text.len() as u32);
        }
        Names { text: text.into(), ends: ends.into() }
    }

    /// The number of a name that was gathered, or the free place where it belongs.
    fn find(&self, text: &str) -> Result<Name, usize> {
        let mut place = hash(text) as usize & (self.places.len() - 1);
        // Ends, because half of the places are free.
        while let Some(name) = self.places.get(place).and_then(|taken| taken.checked_sub(1)) {
            if self.names.get(name as usize).is_some_and(|known| same(known, text)) {
                return Ok(name);
            }
            place = (place + 1) & (self.places.len() - 1);
        }
        Err(place)
    }

    fn grow(&mut self) {
        self.places = vec![0; self.places.len() * 2];
        for (name, number) in self.names.iter().zip(1..) {
            if let Err(place) = self.find(name)
                && let Some(place) = self.places.get_mut(place)
            {
                *place = number;
            }
        }
    }
}

/// One attribute of one endpoint after the other: mostly the same version, group and protocol again.
#[derive(Debug)]
pub(crate) struct Column<'a> {
    last: Option<(&'a str, Name)>,
}

impl Column<'_> {
    pub(crate) const fn new() -> Self {
        Column { last: None }
    }
}

/// Equality, eight bytes at a time where `==` has it byte by byte in a guest.
#[inline]
pub(crate) fn same(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    one.len() == other.len()
        && ends(one) == ends(other)
        && middle(one).zip(middle(other)).all(|(one, other)| one == other)
}

/// The first and the last eight bytes, which are all of most names. Of shorter ones every byte is in one of the two, in the
/// same place for the same length.
#[inline]
fn ends(bytes: &[u8]) -> (u64, u64) {
    if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        return (u64::from_le_bytes(*first), u64::from_le_bytes(*last));
    }
    if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        return (u32::from_le_bytes(*first).into(), u32::from_le_bytes(*last).into());
    }
    (bytes.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)), 0)
}

/// What [`ends`] leaves out of a longer name, and some of its end again.
#[inline]
fn middle(bytes: &[u8]) -> impl Iterator<Item = u64> {
    let inner = bytes.len().saturating_sub(8);
    let (chunks, _) = bytes.as_chunks::<8>();
    // One chunk at a time from the second on, as long as it begins before the last eight bytes.
    chunks.iter().skip(1).take(inner.saturating_sub(1) / 8).map(|chunk| u64::from_le_bytes(*chunk))
}

#[inline]
fn hash(text: &str) -> u32 {
    // Any odd number with bits all over; this one is 2^64 divided by the golden ratio.
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |hash: u64, word: u64| (hash.rotate_left(23) ^ word).wrapping_mul(ODD);
    let bytes = text.as_bytes();
    let (first, last) = ends(bytes);
    let hash = middle(bytes).fold(mix(mix(bytes.len() as u64, first), last), mix);
    // Multiplication carries upwards only.
    (hash >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn each_name_is_found_under_its_number(all in proptest::collection::vec("[a-cé]{0,11}", 0..200)) {
            let mut gathering = Gathering::new();
            let numbers: Vec<Name> = all.iter().map(|name| gathering.number(name)).collect();
            let names = gathering.finish();
            for (name, number) in all.iter().zip(&numbers) {
                prop_assert_eq!(names.get(*number), name);
                prop_assert_eq!(names.number(name), Some(*number));
            }
            let distinct: BTreeSet<&String> = all.iter().collect();
            prop_assert_eq!(numbers.iter().collect::<BTreeSet<_>>().len(), distinct.len());
            prop_assert_eq!(names.number("0"), None);
            prop_assert_eq!(names.get(1_000), "");
        }

        #[test]
        fn texts_are_the_same_where_they_are_equal(text in "[ab\0]{0,40}", at in 0usize..40, other in "[ab\0]{0,3}") {
            let mut changed = text.clone();
            changed.replace_range(at.min(text.len())..(at + other.len()).min(text.len()).max(at.min(text.len())), &other);
            prop_assert_eq!(same(&text, &changed), text == changed);
            prop_assert!(same(&text, &text.clone()));
        }
    }
}
