//! Names that cannot be wrong: whoever holds one knows that it fits the grammar of the contract, so it can stand in a
//! URL, a registry key or a DNS label without escaping.

use serde::{Deserialize, Deserializer, Serialize};
use smol_str::SmolStr;
use std::fmt;
use std::str::FromStr;

/// Why a text is not a name of the wanted kind. The text itself is not repeated: it may be hostile or 64 KiB long.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} must match {grammar}")]
pub struct BadName {
    /// What it should have been, in words: "service", "instance id".
    pub kind: &'static str,
    /// The grammar, as the contract writes it.
    pub grammar: &'static str,
}

const LABEL_GRAMMAR: &str = "[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?";
const INSTANCE_GRAMMAR: &str = "[A-Za-z0-9_][A-Za-z0-9._:@-]{0,127}";

fn is_label(text: &str) -> bool {
    let edge = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    bytes.len() <= 63
        && edge(first)
        && edge(last)
        && bytes.iter().all(|b| edge(b) || *b == b'_' || *b == b'-')
}

fn is_instance_id(text: &str) -> bool {
    let bytes = text.as_bytes();
    let Some(first) = bytes.first() else { return false };
    bytes.len() <= 128
        && (first.is_ascii_alphanumeric() || *first == b'_')
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"._:@-".contains(b))
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $kind:literal, $grammar:expr, $fits:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $type(SmolStr);

        impl $type {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = BadName;
            fn from_str(text: &str) -> Result<Self, BadName> {
                let fits: fn(&str) -> bool = $fits;
                if fits(text) { Ok(Self(SmolStr::new(text))) } else { Err(BadName { kind: $kind, grammar: $grammar }) }
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = SmolStr::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self.0.as_str(), f)
            }
        }

        impl std::borrow::Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name!(
    /// Environment or tenant: `prod`, `staging`; [`Namespace::default`] where none is named.
    Namespace, "namespace", LABEL_GRAMMAR, is_label
);
name!(
    /// What instances are copies of: `orders-api`.
    ServiceName, "service", LABEL_GRAMMAR, is_label
);
name!(
    /// One running copy of a service; unique within it.
    InstanceId, "instance id", INSTANCE_GRAMMAR, is_instance_id
);
name!(
    /// `ap-south-1`.
    RegionName, "region", LABEL_GRAMMAR, is_label
);
name!(
    /// `ap-south-1a`.
    ZoneName, "zone", LABEL_GRAMMAR, is_label
);
name!(
    /// The name under which versions of a policy are uploaded.
    PolicyName, "policy name", LABEL_GRAMMAR, is_label
);
name!(
    /// One gateway process, as a member of its region.
    GatewayId, "gateway id", INSTANCE_GRAMMAR, is_instance_id
);

impl Default for Namespace {
    fn default() -> Self {
        Self(SmolStr::new_static("default"))
    }
}

/// A service within its namespace: the unit of snapshots, lookups and bindings.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ServiceKey {
    /// The namespace.
    pub namespace: Namespace,
    /// The service's name in it.
    pub service: ServiceName,
}

impl ServiceKey {
    /// The key of `service` in `namespace`.
    #[must_use]
    pub fn new(namespace: Namespace, service: ServiceName) -> Self {
        Self { namespace, service }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.service)
    }
}

/// The version of a policy: SHA-256 over the module's bytes, written `sha256:<64 hex digits>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyVersion([u8; 32]);

impl PolicyVersion {
    /// The version that `module` has.
    #[must_use]
    pub fn of(module: &[u8]) -> Self {
        use sha2::Digest;
        Self(sha2::Sha256::digest(module).into())
    }

    /// The hash as lower-case hex, for keys and file names.
    #[must_use]
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }
}

impl FromStr for PolicyVersion {
    type Err = BadName;
    fn from_str(text: &str) -> Result<Self, BadName> {
        let bad = BadName { kind: "policy version", grammar: "sha256:[0-9a-f]{64}" };
        let digits = text.strip_prefix("sha256:").ok_or_else(|| bad.clone())?;
        if digits.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(bad);
        }
        let mut hash = [0; 32];
        hex::decode_to_slice(digits, &mut hash).map_err(|_| bad)?;
        Ok(Self(hash))
    }
}

impl fmt::Display for PolicyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for PolicyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for PolicyVersion {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PolicyVersion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        SmolStr::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_follow_the_grammar() {
        let longest = "a".repeat(63);
        for good in ["a", "0", "orders-api", "a_b", "a--b", longest.as_str()] {
            assert!(good.parse::<ServiceName>().is_ok(), "{good}");
        }
        let too_long = "a".repeat(64);
        for bad in
            ["", "-a", "a-", "_a", "A", "a.b", "a/b", "../x", "a%2fb", "a\0", "аpi", "a b", too_long.as_str()]
        {
            assert!(bad.parse::<ServiceName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn instance_ids_follow_the_grammar() {
        let longest = "a".repeat(128);
        for good in ["a", "_x", "pod-1.ns:8080@node", longest.as_str()] {
            assert!(good.parse::<InstanceId>().is_ok(), "{good}");
        }
        let too_long = "a".repeat(129);
        for bad in ["", "-a", ".", "..", "a/b", "a\0b", "é", "a b", too_long.as_str()] {
            assert!(bad.parse::<InstanceId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn versions_are_the_hash_of_the_bytes() {
        let version = PolicyVersion::of(b"");
        assert_eq!(
            version.to_string(),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert_eq!(version.to_string().parse(), Ok(version));
        assert!("sha256:E3B0".parse::<PolicyVersion>().is_err());
    }
}
