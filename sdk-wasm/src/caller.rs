//! Who asks.

use crate::bindings::routing as wire;

/// Who asks: where it runs, and the labels that the binding lets through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// Its region, or empty where it is not known.
    pub region: String,
    /// Its zone, or empty where it is not known.
    pub zone: String,
    /// Its labels.
    pub labels: Vec<(String, String)>,
}

impl Caller {
    /// A caller without labels.
    pub fn new(region: &str, zone: &str) -> Self {
        Caller { region: region.to_owned(), zone: zone.to_owned(), labels: Vec::new() }
    }

    /// The same caller with one more label.
    pub fn with_label(mut self, key: &str, value: &str) -> Self {
        self.labels.push((key.to_owned(), value.to_owned()));
        self
    }

    /// The value of a label, if the caller has it and the binding's `callerLabels` names it.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|(name, _)| name == key).map(|(_, value)| &**value)
    }
}

impl From<wire::Caller> for Caller {
    fn from(from: wire::Caller) -> Self {
        Caller { region: from.region, zone: from.zone, labels: from.labels }
    }
}
