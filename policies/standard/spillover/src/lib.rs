//! `spillover`: the caller's zone and region first, as `zone-fallback` does it; what they cannot carry is shared among other
//! regions by what each can still take, less for the distant ones.

use meridian_sdk_wasm::locality::{
    Everyone, Levels, Overprovisioning, RegionFallback, RegionShare, Settings,
};
use meridian_sdk_wasm::{Answer, Caller, Details, Policy, Service, export};
use serde::Deserialize;

/// Next door is within a data centre or a metropolitan area; this is about the width of a continent.
const HALF_AT_MS: u32 = 50;

/// The config. Every field has a default.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Config {
    /// As of `zone-fallback`.
    overprovisioning_factor: Overprovisioning,
    /// At this round trip, in milliseconds, a region gets half of what it would get next door; 1 to 10,000, by default 50.
    round_trip_half_ms: Option<u32>,
}

/// The policy.
pub struct Spillover {
    settings: Settings,
}

impl Policy for Spillover {
    type Config = Config;

    fn open(config: Config, _: &Details<'_>) -> Result<Self, String> {
        let round_trip_half_ms = config.round_trip_half_ms.unwrap_or(HALF_AT_MS);
        if !(1..=10_000).contains(&round_trip_half_ms) {
            return Err(format!("roundTripHalfMs: must be from 1 to 10,000, not {round_trip_half_ms}"));
        }
        let settings = Settings {
            overprovisioning_factor: config.overprovisioning_factor,
            region_fallback: RegionFallback::Gradual,
            region_share: RegionShare::ByHeadroom { round_trip_half_ms },
        };
        Ok(Spillover { settings })
    }

    fn answer(&self, service: &Service, caller: &Caller) -> Result<Answer, String> {
        Ok(Levels::of(service, caller, self.settings, &Everyone).plan().into())
    }
}

export!(
    Spillover,
    description = "As zone-fallback; other regions share the rest by headroom and round trip",
    schema = include_bytes!("schema.json"),
    tests = include_bytes!("cases.json"),
);

#[cfg(test)]
mod tests;
