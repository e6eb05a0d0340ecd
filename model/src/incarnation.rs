//! The lives of a registry: what tells an index of one from the same number in another.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// One life of a registry. A wiped, restored or set-back registry gets a greater counter; written `3-9f2c01aa`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation {
    /// Orders the lives.
    pub counter: u64,
    /// Tells two lives apart that were given the same number while they knew nothing of each other.
    pub random: u32,
}

impl Incarnation {
    /// Whether these are two lives that knew nothing of each other: nobody has put them in order yet.
    #[must_use]
    pub fn rivals(&self, other: &Self) -> bool {
        self.counter == other.counter && self.random != other.random
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:08x}", self.counter, self.random)
    }
}

impl FromStr for Incarnation {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "an incarnation is a number, a dash and 8 hex digits";
        let (counter, random) = text.split_once('-').ok_or(WRONG)?;
        let random = u32::from_str_radix(random, 16).map_err(|_| WRONG)?;
        Ok(Self { counter: counter.parse().map_err(|_| WRONG)?, random })
    }
}

impl Serialize for Incarnation {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Incarnation {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
