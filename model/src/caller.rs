//! Who asks: zone, region and the labels that the binding lets through.

use crate::names::{RegionName, ZoneName};
use smol_str::SmolStr;
use std::collections::BTreeMap;

/// A caller as policies see it. Distinct callers are few; lookups are many.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Caller {
    /// The region of the gateway that is asked.
    pub region: RegionName,
    /// Its zone, if it said one.
    pub zone: Option<ZoneName>,
    /// Only those that the binding's `callerLabels` name.
    pub labels: BTreeMap<SmolStr, SmolStr>,
}

impl Caller {
    /// A caller in `zone` without labels.
    #[must_use]
    pub fn in_zone(region: RegionName, zone: Option<ZoneName>) -> Self {
        Self { region, zone, labels: BTreeMap::new() }
    }
}
