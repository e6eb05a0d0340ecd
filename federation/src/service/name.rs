//! Who a peer is: the SPIFFE ID in its certificate, which binds the region that it may speak for.
//!
//! `spiffe://<trust domain>/region/<region>/node/<id>` names a federation node: it originates its region's state and
//! relays that of others. `spiffe://<trust domain>/region/<region>/gateway/<id>` names a gateway: it only listens.

use meridian_model::names::{GatewayId, RegionName};
use smol_str::SmolStr;
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// A certificate that names nobody whom this process could talk to.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    /// An X.509-SVID has exactly one URI among its alternative names.
    #[error("the certificate carries {0} URI names; a federation certificate carries exactly one")]
    Count(usize),
    /// Not of the form that the module names.
    #[error("{0} is not of the form spiffe://DOMAIN/region/REGION/node/ID or …/gateway/ID")]
    Form(String),
}

/// What a peer is allowed to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Station {
    /// A federation node.
    Node,
    /// A gateway, which subscribes to the nodes of its own region.
    Gateway,
}

/// The name of a process in the federation. Ordered, so that both ends of a pair agree who is the lesser.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerName {
    /// The trust domain; all regions that federate share one.
    pub domain: SmolStr,
    /// Its region.
    pub region: RegionName,
    /// What it is.
    pub station: Station,
    /// Unique among the region's nodes, or its gateways.
    pub id: SmolStr,
}

impl PeerName {
    /// The name that a list of URI names gives.
    ///
    /// # Errors
    /// Unless it is exactly one, of the form that the module names.
    pub fn of_uris<'a>(uris: impl Iterator<Item = &'a str>) -> Result<Self, NameError> {
        let uris: Vec<&str> = uris.collect();
        match uris.as_slice() {
            [one] => one.parse(),
            others => Err(NameError::Count(others.len())),
        }
    }
}

/// A trust domain has 1 to 255 characters of `[a-z0-9._-]` (SPIFFE-ID 2.1).
fn is_domain(text: &str) -> bool {
    (1..=255).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
}

/// A path segment has characters of `[A-Za-z0-9._-]` and is neither `.` nor `..` (SPIFFE-ID 2.2); the grammar of ids in
/// Meridian bounds it further.
fn is_id(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        && text.parse::<GatewayId>().is_ok()
}

impl FromStr for PeerName {
    type Err = NameError;
    fn from_str(uri: &str) -> Result<Self, NameError> {
        let wrong = || NameError::Form(uri.chars().take(200).collect::<String>().escape_debug().to_string());
        let rest = uri.strip_prefix("spiffe://").ok_or_else(wrong)?;
        let mut parts = rest.split('/');
        let (Some(domain), Some("region"), Some(region), Some(station), Some(id), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(wrong());
        };
        let station = match station {
            "node" => Station::Node,
            "gateway" => Station::Gateway,
            _ => return Err(wrong()),
        };
        if !is_domain(domain) || !is_id(id) {
            return Err(wrong());
        }
        let region = region.parse().map_err(|_| wrong())?;
        Ok(Self { domain: domain.into(), region, station, id: id.into() })
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let station = match self.station {
            Station::Node => "node",
            Station::Gateway => "gateway",
        };
        write!(f, "spiffe://{}/region/{}/{station}/{}", self.domain, self.region, self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_it_is_written() {
        for good in [
            "spiffe://prod.example/region/eu-west-1/node/a",
            "spiffe://prod.example/region/eu-west-1/gateway/gw-1.zone_b",
            "spiffe://p/region/r/node/_..a",
        ] {
            assert_eq!(good.parse::<PeerName>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "https://prod.example/region/eu-west-1/node/a",
            "SPIFFE://prod.example/region/eu-west-1/node/a",
            "spiffe://Prod.example/region/eu-west-1/node/a",
            "spiffe://prod.example:1/region/eu-west-1/node/a",
            "spiffe:///region/eu-west-1/node/a",
            "spiffe://prod.example/region/eu-west-1/node",
            "spiffe://prod.example/region/eu-west-1/node/",
            "spiffe://prod.example/region/eu-west-1/node/..",
            "spiffe://prod.example/region/eu-west-1/node/.a",
            "spiffe://prod.example/region/eu-west-1/node/a@b",
            "spiffe://prod.example/region/eu-west-1/node/a/b",
            "spiffe://prod.example/region/eu-west-1/node/a?b",
            "spiffe://prod.example/region/EU/node/a",
            "spiffe://prod.example/region//node/a",
            "spiffe://prod.example/region/eu-west-1/operator/a",
            "spiffe://prod.example/zone/eu-west-1/node/a",
            "spiffe://prod.example/region/eu-west-1/node/%61",
        ] {
            assert!(bad.parse::<PeerName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn two_names_are_none() {
        let name = "spiffe://p/region/r/node/a";
        assert_eq!(PeerName::of_uris([name, name].into_iter()), Err(NameError::Count(2)));
        assert_eq!(PeerName::of_uris(std::iter::empty()), Err(NameError::Count(0)));
    }
}
