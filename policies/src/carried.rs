//! What a policy carries beside its code, read for people and for binding.

use crate::gate::Rejected;
use meridian_model::policy::case;
use meridian_model::policy::schema::{ConfigError, Schema};
use meridian_model::policy::sections::{About, CASES, SCHEMA, Sections};
use serde_json::Value;

/// Name, description and schema of a policy; any may be missing.
#[derive(Clone, Debug, Default)]
pub struct Carried {
    about: Option<About>,
    /// As it was written: parsed it may be twenty times as large, and it is wanted only when something is bound.
    schema: Option<Box<[u8]>>,
    cases: usize,
}

impl Carried {
    /// Reads a module's custom sections.
    ///
    /// # Errors
    /// One of them is not as it must be; the detail says which and where.
    pub fn read(module: &[u8]) -> Result<Self, Rejected> {
        let sections = Sections::find(module).map_err(|bad| Rejected::sections(&bad))?;
        let about = sections.about().map_err(|bad| Rejected::sections(&bad))?;
        if let Some(section) = sections.schema {
            Schema::parse(section.bytes).map_err(|why| Rejected::sections(&section.error(SCHEMA, why)))?;
        }
        let cases = match sections.cases {
            Some(section) => case::parse(section.bytes)
                .map_err(|why| Rejected::sections(&section.error(CASES, why)))?
                .len(),
            None => 0,
        };
        Ok(Self { about, schema: sections.schema.map(|section| section.bytes.into()), cases })
    }

    /// What it says that it does.
    #[must_use]
    pub fn description(&self) -> Option<&str> {
        self.about.as_ref().map(|about| about.description.as_str()).filter(|text| !text.is_empty())
    }

    /// The JSON schema of its config.
    #[must_use]
    pub fn schema(&self) -> Option<Value> {
        self.schema.as_deref().and_then(|schema| serde_json::from_slice(schema).ok())
    }

    /// How many test cases it has.
    #[must_use]
    pub fn cases(&self) -> usize {
        self.cases
    }

    /// What its schema says is wrong with a config, JSON or empty for none. Nothing, where it has no schema.
    #[must_use]
    pub fn config_errors(&self, config: &str) -> Vec<ConfigError> {
        let Some(schema) = self.schema.as_deref().and_then(|schema| Schema::parse(schema).ok()) else {
            return Vec::new();
        };
        let config = if config.trim().is_empty() { "{}" } else { config };
        match serde_json::from_str(config) {
            Ok(config) => schema.errors(&config),
            Err(error) => vec![ConfigError { pointer: String::new(), message: error.to_string() }],
        }
    }

    /// How many of the sections are there.
    pub(crate) fn count(&self) -> u32 {
        u32::from(self.about.is_some()) + u32::from(self.schema.is_some()) + u32::from(self.cases > 0)
    }
}
