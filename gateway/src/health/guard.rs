//! Which addresses a health check may ask.
//!
//! Whoever may register an instance names the address that this gateway then connects to. Private networks are where
//! instances live, so they are allowed; what is refused are addresses that mean another machine to the gateway than to
//! the owner, or that answer with secrets: the machine itself, its link, the cloud's metadata service, everybody
//! (CVE-2022-29153 is the class).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The rule for addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard {
    /// Whether this machine's own loopback may be asked: for development and tests, where instances run beside the
    /// gateway.
    pub allow_loopback: bool,
}

impl Guard {
    /// Why `address` must not be asked; none if it may.
    #[must_use]
    pub fn refuses(self, address: IpAddr) -> Option<&'static str> {
        match address {
            IpAddr::V4(v4) => self.refuses_v4(v4),
            IpAddr::V6(v6) => self.refuses_v6(v6),
        }
    }

    fn refuses_v4(self, address: Ipv4Addr) -> Option<&'static str> {
        match address.octets() {
            [127, ..] if self.allow_loopback => None,
            [127, ..] => Some("it is a loopback address"),
            // Linux takes 0.0.0.0 for itself.
            [0, ..] => Some("it is unspecified"),
            [169, 254, ..] => Some("it is link-local, where clouds serve metadata"),
            // Alibaba, Azure.
            [100, 100, 100, 200] | [168, 63, 129, 16] => Some("it is a cloud's metadata address"),
            // IETF protocol assignments (RFC 6890); Oracle's metadata is among them.
            [192, 0, 0, _] => Some("it is reserved"),
            [224..=239, ..] => Some("it is a multicast address"),
            [240..=255, ..] => Some("it is reserved or broadcast"),
            _ => None,
        }
    }

    fn refuses_v6(self, address: Ipv6Addr) -> Option<&'static str> {
        if address.is_loopback() {
            return if self.allow_loopback { None } else { Some("it is a loopback address") };
        }
        if let Some(v4) = embedded(address) {
            return self.refuses_v4(v4);
        }
        match address.segments() {
            [0xff00..=0xffff, ..] => Some("it is a multicast address"),
            [0xfe80..=0xfebf, ..] => Some("it is link-local"),
            [0xfec0..=0xfeff, ..] => Some("it is site-local, which no longer means one site"),
            // AWS (metadata, DNS, time); Google; Scaleway.
            [0xfd00, 0x0ec2, ..]
            | [0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x0254]
            | [0xfd00, 0x0042, 0, 0, 0, 0, 0, 0x0042] => Some("it is a cloud's metadata address"),
            // Where the IPv4 address stands in these, only the local translator knows (RFC 8215, RFC 4380).
            [0x0064, 0xff9b, 1, ..] | [0x2001, 0, ..] => {
                Some("it is translated to an address that cannot be seen")
            }
            _ => None,
        }
    }
}

/// The IPv4 address that a translator, a tunnel or the kernel would take this one for.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let octets = address.octets();
    let [.., a, b, c, d] = octets;
    let tail = Ipv4Addr::new(a, b, c, d);
    match address.segments() {
        // Compatible (`::a.b.c.d`, with `::` as 0.0.0.0), mapped, and translated (RFC 2765) addresses.
        [0, 0, 0, 0, 0, 0, _, _] | [0, 0, 0, 0, 0, 0xffff, _, _] | [0, 0, 0, 0, 0xffff, 0, _, _] => {
            Some(tail)
        }
        // NAT64 (RFC 6052).
        [0x0064, 0xff9b, 0, 0, 0, 0, _, _] => Some(tail),
        // ISATAP (RFC 5214).
        [.., 0x0000 | 0x0200, 0x5efe, _, _] => Some(tail),
        // 6to4 (RFC 3056).
        [0x2002, high, low, ..] => {
            let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
            Some(Ipv4Addr::new(a, b, c, d))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(address: &str, allow_loopback: bool) -> bool {
        Guard { allow_loopback }.refuses(address.parse().unwrap()).is_some()
    }

    #[test]
    fn instances_live_on_ordinary_and_private_addresses() {
        for address in [
            "10.42.6.18",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "8.8.8.8",
            "192.0.2.1",
            "169.253.255.255",
            "169.255.0.0",
            "168.63.129.17",
            "100.100.100.201",
            "2001:db8::1",
            "fd12:3456::1",
            "2a00:1450::1",
            "::ffff:10.0.0.1",
            "64:ff9b::8.8.8.8",
            "2002:0a00:0001::1",
            "fe00::1",
        ] {
            assert!(!refused(address, false), "{address}");
        }
    }

    #[test]
    fn link_metadata_and_everybody_are_refused_in_every_spelling() {
        for address in [
            // As they are.
            "169.254.169.254",
            "169.254.0.0",
            "169.254.170.2",
            "169.254.255.255",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "0.0.0.0",
            "0.1.2.3",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "fe80::1",
            "fe80::a9fe:a9fe",
            "febf::1",
            "fec0::1",
            "ff02::1",
            "ff0e::1",
            "fd00:ec2::254",
            "fd00:ec2::123",
            "fd20:ce::254",
            "fd00:42::42",
            // Mapped, compatible, translated.
            "::ffff:169.254.169.254",
            "::ffff:0.0.0.0",
            "::ffff:224.0.0.1",
            "::ffff:168.63.129.16",
            "::169.254.169.254",
            "::ffff:0:169.254.169.254",
            "::0.0.0.2",
            // 6to4, NAT64, ISATAP, Teredo.
            "2002:a9fe:a9fe::",
            "2002:a9fe:a9fe::1",
            "2002:6464:64c8::1",
            "64:ff9b::169.254.169.254",
            "64:ff9b::a83f:8110",
            "64:ff9b:1::169.254.169.254",
            "64:ff9b:1:a9fe:a9:fe00::",
            "2001:db8::5efe:169.254.169.254",
            "2001:db8::200:5efe:169.254.169.254",
            "2001:0:1234::5601:5601",
        ] {
            assert!(refused(address, false), "{address}");
            assert!(refused(address, true), "{address}, with loopback allowed");
        }
    }

    #[test]
    fn loopback_needs_the_switch() {
        let spellings = [
            "127.0.0.1",
            "127.255.255.254",
            "::1",
            "::ffff:127.0.0.1",
            "64:ff9b::127.0.0.1",
            "2002:7f00:1::",
            "::127.0.0.1",
        ];
        for address in spellings {
            assert!(refused(address, false), "{address}");
            assert!(!refused(address, true), "{address}");
        }
    }
}
