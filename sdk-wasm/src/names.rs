//! Every distinct string of a service once, in one allocation: endpoints then hold numbers.

use std::collections::BTreeSet;

/// The number of a name in [`Names`]. Numbers follow the order of the names, whatever order they came in.
pub(crate) type Name = u32;

/// Distinct names, sorted.
#[derive(Debug, Default)]
pub(crate) struct Names {
    text: Box<str>,
    /// Where each name ends in `text`; it begins where the one before it ends.
    ends: Box<[u32]>,
}

impl Names {
    pub(crate) fn new(all: &BTreeSet<&str>) -> Self {
        let mut text = String::with_capacity(all.iter().map(|name| name.len()).sum());
        let mut ends = Vec::with_capacity(all.len());
        for name in all {
            text.push_str(name);
            // The instance's memory is far below 4 GiB.
            ends.push(text.len() as u32);
        }
        Names { text: text.into(), ends: ends.into() }
    }

    /// The name with this number; empty for a number that was never given out.
    pub(crate) fn get(&self, name: Name) -> &str {
        let position = name as usize;
        let start = match position.checked_sub(1) {
            Some(before) => self.ends.get(before).copied().unwrap_or(0),
            None => 0,
        };
        self.ends.get(position).and_then(|end| self.text.get(start as usize..*end as usize)).unwrap_or("")
    }

    pub(crate) fn find(&self, wanted: &str) -> Option<Name> {
        let (mut low, mut high) = (0, self.ends.len() as u32);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.get(middle).cmp(wanted) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Some(middle),
            }
        }
        None
    }

    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn heap_bytes(&self) -> usize {
        self.text.len() + std::mem::size_of_val(&*self.ends)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn each_name_is_found_under_its_number(all in proptest::collection::vec("[a-zé]{0,4}", 0..40)) {
            let names = Names::new(&all.iter().map(String::as_str).collect());
            for name in &all {
                let number = names.find(name).unwrap();
                prop_assert_eq!(names.get(number), name);
            }
            prop_assert_eq!(names.find("0"), None);
            prop_assert_eq!(names.get(1_000), "");
        }
    }
}
