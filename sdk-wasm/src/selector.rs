//! Names a part of a service: one version, one deployment group or one tag.

use std::str::FromStr;

use serde::Deserialize;

use crate::names::same;
use crate::service::{Endpoint, Subset};

/// A part of a service. Reads as `{"version": "1.2"}`, `{"group": "canary"}` or `{"tag": "blue"}` in a config, and as
/// `version:1.2` where it is a key.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Selector {
    /// Endpoints of this version.
    Version(String),
    /// Endpoints of this deployment group.
    Group(String),
    /// Endpoints that carry this tag.
    Tag(String),
}

impl Selector {
    /// Whether the endpoint belongs to it.
    pub fn selects(&self, endpoint: Endpoint<'_>) -> bool {
        match self {
            Selector::Version(version) => same(endpoint.version(), version),
            Selector::Group(group) => same(endpoint.group(), group),
            Selector::Tag(tag) => endpoint.has_tag(tag),
        }
    }

    /// Whether all of another region's subset belongs to it. Tags do not travel between regions, so a tag selects nothing there.
    pub fn selects_subset(&self, subset: Subset<'_>) -> bool {
        match self {
            Selector::Version(version) => subset.version() == version,
            Selector::Group(group) => subset.group() == group,
            Selector::Tag(_) => false,
        }
    }
}

impl FromStr for Selector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some((_, "")) => Err(format!("{text:?} names nothing after the colon")),
            Some(("version", version)) => Ok(Selector::Version(version.to_owned())),
            Some(("group", group)) => Ok(Selector::Group(group.to_owned())),
            Some(("tag", tag)) => Ok(Selector::Tag(tag.to_owned())),
            _ => Err(format!("{text:?} is none of version:…, group:… and tag:…")),
        }
    }
}
