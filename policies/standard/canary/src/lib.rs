//! `canary`: a part of the lookups goes to one deployment group, version or tag, by percent or by the caller's labels.
//!
//! A lookup with a key stays on its side, and a growing percentage only adds keys to the canary. Within a side the caller's
//! zone comes before its region. A canary never draws traffic out of the region: what it cannot carry, and everything when
//! none of it is healthy, goes to stable. What leaves the region all the same, because nothing in it can carry it, stays on
//! its side where the other region has one. Stable falls back to the canary only when there is nothing else anywhere.

use meridian_sdk_wasm::locality::{Levels, Settings, Side};
use meridian_sdk_wasm::{Answer, Caller, Details, Endpoint, Plan, Policy, Selector, Service, Subset, export};
use serde::Deserialize;

/// How the lookups are parted. Every field has a default; together they send everything to what is not in group `canary`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Config {
    /// What the canary is: `{"group": "canary"}`, `{"version": "1.3"}` or `{"tag": "blue"}`. Everything else is stable.
    canary: Canary,
    /// The part of the lookups that goes to the canary, 0 to 100, in steps of 0.01.
    percent: Percent,
    /// Callers that always get one side; the first rule that fits decides. The binding's `callerLabels` must name the label.
    callers: Vec<CallerRule>,
    /// Which keys come first. By default each service draws its own; services with the same salt draw the same ones.
    salt: Option<String>,
    /// Zones and regions, as in `zone-fallback`.
    locality: Settings,
}

#[derive(Debug, Deserialize)]
#[serde(transparent)]
struct Canary(Selector);

impl Default for Canary {
    fn default() -> Self {
        Canary(Selector::Group("canary".into()))
    }
}

/// Parts of 10,000.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(try_from = "f64")]
struct Percent(u32);

impl TryFrom<f64> for Percent {
    type Error = &'static str;

    fn try_from(percent: f64) -> Result<Self, Self::Error> {
        if !(0.0..=100.0).contains(&percent) {
            return Err("a number from 0 to 100 is expected");
        }
        let parts = (percent * 100.0 + 0.5) as u32;
        if parts == 0 && percent > 0.0 { Err("0.01 is the smallest part") } else { Ok(Percent(parts)) }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CallerRule {
    label: String,
    /// Without it, any value fits.
    #[serde(default)]
    value: Option<String>,
    #[serde(default)]
    side: Preference,
}

impl CallerRule {
    fn fits(&self, caller: &Caller) -> bool {
        match (caller.label(&self.label), &self.value) {
            (Some(actual), Some(wanted)) => actual == wanted,
            (Some(_), None) => true,
            (None, _) => false,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Preference {
    #[default]
    Canary,
    Stable,
}

struct OfCanary<'c>(&'c Selector);

impl Side for OfCanary<'_> {
    fn has(&self, endpoint: Endpoint<'_>) -> bool {
        self.0.selects(endpoint)
    }

    fn has_subset(&self, subset: Subset<'_>) -> bool {
        self.0.selects_subset(subset)
    }

    fn name(&self) -> &str {
        "canary"
    }
}

struct OfStable<'c>(&'c Selector);

impl Side for OfStable<'_> {
    fn has(&self, endpoint: Endpoint<'_>) -> bool {
        !self.0.selects(endpoint)
    }

    fn has_subset(&self, subset: Subset<'_>) -> bool {
        !self.0.selects_subset(subset)
    }

    fn name(&self) -> &str {
        "stable"
    }
}

/// The policy.
pub struct CanaryPolicy {
    config: Config,
}

impl CanaryPolicy {
    fn canary<'a>(&self, service: &'a Service, caller: &Caller) -> Levels<'a> {
        Levels::of(service, caller, self.config.locality, &OfCanary(&self.config.canary.0))
    }

    fn stable<'a>(&self, service: &'a Service, caller: &Caller) -> Levels<'a> {
        Levels::of(service, caller, self.config.locality, &OfStable(&self.config.canary.0))
    }

    fn plan(&self, side: Preference, service: &Service, caller: &Caller) -> Plan {
        let (canary, stable) = (self.canary(service, caller), self.stable(service, caller));
        match side {
            Preference::Canary => canary.then(stable).plan(),
            Preference::Stable => stable.or_at_last(canary).plan(),
        }
    }
}

impl Policy for CanaryPolicy {
    type Config = Config;

    fn open(config: Config, _: &Details<'_>) -> Result<Self, String> {
        Ok(CanaryPolicy { config })
    }

    fn answer(&self, service: &Service, caller: &Caller) -> Result<Answer, String> {
        let percent = match self.config.callers.iter().find(|rule| rule.fits(caller)) {
            Some(CallerRule { side: Preference::Canary, .. }) => 10_000,
            Some(CallerRule { side: Preference::Stable, .. }) => 0,
            None => self.config.percent.0,
        };
        let answer = Answer::split([
            ("canary", percent, self.plan(Preference::Canary, service, caller)),
            ("stable", 10_000 - percent, self.plan(Preference::Stable, service, caller)),
        ]);
        Ok(match &self.config.salt {
            Some(salt) => answer.salted(salt.as_str()),
            None => answer,
        })
    }
}

export!(
    CanaryPolicy,
    description = "A part of the lookups to a canary, by percent or by caller, sticky by key",
    schema = include_bytes!("schema.json"),
    tests = include_bytes!("cases.json"),
);

#[cfg(test)]
mod tests;
