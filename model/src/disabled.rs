//! What operators stop: a version of a policy that must not run, or all of them at once.

use crate::binding::{Bound, Effective};
use crate::names::PolicyVersion;
use crate::time::UnixMillis;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The record of a switch that was thrown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Disabled {
    /// Why, as whoever threw it said.
    pub reason: SmolStr,
    /// Who did: `issuer subject`.
    pub by: SmolStr,
    /// Since when.
    pub since: UnixMillis,
    /// Fields of newer formats, kept as they came.
    #[serde(flatten)]
    pub unknown: serde_json::Map<String, serde_json::Value>,
}

/// What a switch is for: a version, under whatever name it was uploaded, or every version.
pub type Switch = Option<PolicyVersion>;

/// The switches that are thrown, with the revision that wrote each.
pub type Switches = BTreeMap<Switch, (Arc<Disabled>, u64)>;

/// Why a version must not run; the switch for all of them comes first.
#[must_use]
pub fn why_not(switches: &Switches, version: PolicyVersion) -> Option<&Arc<Disabled>> {
    // Nearly always there is none.
    let thrown = switches.get(&None).or_else(|| switches.get(&Some(version)));
    thrown.map(|(disabled, _)| disabled)
}

impl Effective {
    /// Without what must not run: no such candidate takes part, no such former version answers, and of the active one it is
    /// said why it does not.
    #[must_use]
    pub fn heeding(mut self, switches: &Switches) -> Self {
        if switches.is_empty() {
            return self;
        }
        let runs = |bound: &Bound| why_not(switches, bound.version).is_none();
        self.candidate = self.candidate.filter(|candidate| runs(&candidate.bound));
        self.before = self.before.filter(&runs);
        self.last_good.retain(runs);
        self.disabled = why_not(switches, self.active.version).map(|disabled| disabled.reason.clone());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binding::{Candidate, Stage};

    fn bound(module: &[u8]) -> Bound {
        let version = PolicyVersion::of(module);
        Bound { policy: "p".parse().unwrap(), version, config: SmolStr::default() }
    }

    fn thrown(switch: Switch) -> Switches {
        let by = SmolStr::default();
        let reason = "it loops".into();
        let disabled = Disabled { reason, by, since: UnixMillis(0), unknown: Default::default() };
        [(switch, (Arc::new(disabled), 1))].into()
    }

    fn binding() -> Effective {
        let [active, candidate, former] = [b"a", b"c", b"f"].map(|module| bound(module));
        let candidate = Candidate {
            bound: candidate,
            stage: Stage::Canary,
            percent: 5.0,
            since: UnixMillis(0),
            fault: SmolStr::default(),
        };
        Effective {
            candidate: Some(candidate),
            before: Some(former.clone()),
            last_good: vec![former, bound(b"older")],
            ..Effective::only(active)
        }
    }

    #[test]
    fn a_switch_takes_its_version_out_of_every_place() {
        let whole = binding();
        assert_eq!(whole.clone().heeding(&Switches::new()), whole);
        let of = |module: &[u8]| binding().heeding(&thrown(Some(PolicyVersion::of(module))));
        assert_eq!(of(b"another"), whole);
        assert_eq!(of(b"c"), Effective { candidate: None, ..whole.clone() });
        let last_good = vec![bound(b"older")];
        assert_eq!(of(b"f"), Effective { before: None, last_good, ..whole.clone() });
        assert_eq!(of(b"a"), Effective { disabled: Some("it loops".into()), ..whole });
    }

    #[test]
    fn the_switch_for_all_leaves_nothing_to_run() {
        let left = binding().heeding(&thrown(None));
        assert!(left.candidate.is_none() && left.before.is_none() && left.last_good.is_empty());
        assert_eq!(left.disabled.as_deref(), Some("it loops"));
    }
}
