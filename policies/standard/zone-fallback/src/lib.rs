//! `zone-fallback`, the default binding: the caller's zone, then its region, then other regions, spilling gradually as
//! health falls. Its config is that of [`meridian_sdk_wasm::locality::Settings`].

use meridian_sdk_wasm::locality::{Everyone, Levels, Settings};
use meridian_sdk_wasm::{Answer, Caller, Details, Policy, Service, export};

/// The policy.
pub struct ZoneFallback {
    settings: Settings,
}

impl Policy for ZoneFallback {
    type Config = Settings;

    fn open(settings: Settings, _: &Details<'_>) -> Result<Self, String> {
        Ok(ZoneFallback { settings })
    }

    fn answer(&self, service: &Service, caller: &Caller) -> Result<Answer, String> {
        Ok(Levels::of(service, caller, self.settings, &Everyone).plan().into())
    }
}

export!(
    ZoneFallback,
    description = "The caller's zone, its region, then other regions, spilling gradually as health falls",
    schema = include_bytes!("schema.json"),
    tests = include_bytes!("cases.json"),
);

#[cfg(test)]
mod tests;
