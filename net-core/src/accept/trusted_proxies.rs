//! `TrustedProxies`: the proxies whose PROXY headers a listener accepts. Pure.

use crate::sys::addr::Addr;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// The proxies that a listener trusts to announce the client's address. They are parsed from a list of
/// address prefixes, like `10.0.0.0/8, 2001:db8::/32, 192.0.2.7, unix`.
///
/// An address without `/` is one host. `unix` is every peer that connects by a Unix socket. The permissions
/// of the socket's file decide which peers can. A prefix within `::ffff:0:0/96` is an IPv4 prefix.
///
/// ```
/// use net_core::socket::TrustedProxies;
///
/// let proxies: TrustedProxies = "10.0.0.0/8, ::1".parse()?;
/// assert!(proxies.trusts(&"10.1.2.3:4".parse()?));
/// assert!(!proxies.trusts(&"11.1.2.3:4".parse()?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedProxies {
    prefixes: Vec<Prefix>,
    unix: bool,
}

/// All addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Prefix {
    /// The address. All bits behind the prefix are zero.
    address: IpAddr,
    /// Length of the prefix in bits: at most 32, or 128 for IPv6.
    bits: u32,
}

impl TrustedProxies {
    /// Whether a connection from `peer` may announce the client's address.
    pub fn trusts(&self, peer: &Addr) -> bool {
        match peer.inet() {
            None => self.unix,
            Some(address) => {
                let ip = address.ip().to_canonical();
                self.prefixes.iter().any(|prefix| prefix.holds(ip))
            }
        }
    }
}

impl Prefix {
    fn holds(self, ip: IpAddr) -> bool {
        self.address.is_ipv4() == ip.is_ipv4() && masked(ip, self.bits) == self.address
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| "it is no IP address")?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => most,
            // `parse` alone would also take a sign.
            Some(text) => text
                .parse()
                .ok()
                .filter(|bits| *bits <= most && !text.starts_with('+'))
                .ok_or("the prefix has 0 to 32 bits, or 0 to 128 of IPv6")?,
        };
        if masked(address, bits) != address {
            return Err("bits are set behind the prefix: which one is wrong?");
        }
        Ok(match address.to_canonical() {
            // An IPv4 prefix written as IPv6. A peer with such an address appears with its IPv4 address.
            IpAddr::V4(v4) if bits >= 96 && address.is_ipv6() => {
                Self { address: v4.into(), bits: bits - 96 }
            }
            _ => Self { address, bits },
        })
    }
}

/// The address with all bits zero except the first `bits`.
fn masked(address: IpAddr, bits: u32) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() & mask(bits + 96) as u32).into()),
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & mask(bits)).into()),
    }
}

/// A mask of the first `bits` bits of 128.
fn mask(bits: u32) -> u128 {
    u128::MAX.checked_shl(128 - bits).unwrap_or(0)
}

impl FromStr for TrustedProxies {
    type Err = ParseTrustedProxiesError;

    fn from_str(text: &str) -> Result<Self, ParseTrustedProxiesError> {
        let mut trusted = Self { prefixes: Vec::new(), unix: false };
        for part in text.split(',').map(str::trim) {
            if part == "unix" {
                trusted.unix = true;
                continue;
            }
            let prefix = Prefix::parse(part);
            trusted
                .prefixes
                .push(prefix.map_err(|what| ParseTrustedProxiesError { text: part.into(), what })?);
        }
        Ok(trusted)
    }
}

/// Why a text is no list of proxies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseTrustedProxiesError {
    text: String,
    what: &'static str,
}

impl fmt::Display for ParseTrustedProxiesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "trusted proxy `{}`: {}", self.text, self.what)
    }
}

impl std::error::Error for ParseTrustedProxiesError {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

    fn trusts(proxies: &str, peer: &str) -> bool {
        proxies.parse::<TrustedProxies>().unwrap().trusts(&peer.parse().unwrap())
    }

    #[test]
    fn a_prefix_holds_its_first_and_last_address_and_no_neighbour() {
        for (address, is_inside) in [
            ("10.1.127.255:1", false),
            ("10.1.128.0:1", true),
            ("10.1.255.255:1", true),
            ("10.2.0.0:1", false),
            ("[::a01:8000]:1", false),
        ] {
            assert_eq!(trusts("10.1.128.0/17", address), is_inside, "{address}");
        }
        assert!(trusts("2001:db8::/33", "[2001:db8:7fff::1]:1"));
        assert!(!trusts("2001:db8::/33", "[2001:db8:8000::1]:1"));
        assert!(trusts("0.0.0.0/0", "255.1.1.1:1") && !trusts("0.0.0.0/0", "[::1]:1"));
        assert!(trusts("::/0", "[ffff::1]:1") && !trusts("::/0", "1.1.1.1:1"));
    }

    #[test]
    fn one_address_is_one_host_and_unix_is_its_own_word() {
        assert!(trusts("192.0.2.7", "192.0.2.7:9") && !trusts("192.0.2.7", "192.0.2.6:9"));
        assert!(trusts("::1, unix", "unix:@x") && !trusts("0.0.0.0/0", "unix:@x"));
        // A listener for both families shows an IPv4 client as IPv4.
        assert!(trusts("127.0.0.1", "[::ffff:127.0.0.1]:9"));
    }

    /// Such a prefix was accepted once, but no peer matched it: an IPv4 client appears with its IPv4 address.
    #[test]
    fn a_prefix_of_ipv4_that_is_written_as_ipv6_is_one_of_ipv4() {
        assert!(
            trusts("::ffff:192.0.2.7", "192.0.2.7:9") && !trusts("::ffff:192.0.2.7", "192.0.2.6:9")
        );
        assert!(trusts("::ffff:10.0.0.0/104", "10.255.0.1:9"));
        assert!(!trusts("::ffff:10.0.0.0/104", "11.0.0.0:9"));
        assert!(trusts("::ffff:0:0/96", "1.2.3.4:9") && !trusts("::ffff:0:0/96", "[::1]:9"));
    }

    #[test]
    fn what_is_wrong_is_said_with_the_part() {
        for (text, part) in [
            ("", "no IP address"),
            ("10.0.0.0/8,", "no IP address"),
            ("10.0.0.0/8, proxy", "`proxy`"),
            ("10.0.0.0/33", "0 to 32"),
            ("::/129", "0 to 128"),
            ("10.0.0.0/-1", "0 to 32"),
            ("10.0.0.0/+8", "0 to 32"),
            ("10.0.0.1/8", "behind the prefix"),
        ] {
            let said = text.parse::<TrustedProxies>().unwrap_err().to_string();
            assert!(said.contains(part), "{said}");
        }
    }

    /// A prefix trusts its first address and its last, and not the address behind its last.
    #[test]
    fn kept_texts_trust_what_they_name_and_nothing_beside_it() {
        crate::fuzzing::each_kept(include_str!("../../tests/corpus/trusted.txt"), |bytes| {
            let Ok(text) = std::str::from_utf8(bytes) else { return };
            let trusts = |text: &str, ip: IpAddr| {
                text.parse::<TrustedProxies>()
                    .is_ok_and(|all| all.trusts(&SocketAddr::new(ip, 1).into()))
            };
            let parts = || text.split(',').map(str::trim);
            let are_right = parts().all(|part| part.parse::<TrustedProxies>().is_ok());
            assert_eq!(text.parse::<TrustedProxies>().is_ok(), are_right, "{text}");
            for part in parts().filter(|part| are_right && *part != "unix") {
                let (first, bits) = part.split_once('/').unwrap_or((part, "128"));
                assert!(bits.bytes().all(|byte| byte.is_ascii_digit()), "{part}");
                let first: IpAddr = first.parse().unwrap();
                let bits: u32 = bits.parse().unwrap();
                assert!(trusts(part, first) && trusts(text, first), "{text}");
                let last = match first {
                    IpAddr::V4(ip) => {
                        (ip | Ipv4Addr::from(u32::MAX.checked_shr(bits).unwrap_or(0))).into()
                    }
                    IpAddr::V6(ip) => {
                        IpAddr::V6(ip | Ipv6Addr::from(u128::MAX.checked_shr(bits).unwrap_or(0)))
                    }
                };
                // An IPv4 address written as IPv6 never appears as a peer's address.
                if last.to_canonical() == last || first.to_canonical() != first {
                    assert!(trusts(part, last), "{part} and {last}");
                }
                let behind = match last {
                    IpAddr::V4(ip) => {
                        u32::from(ip).checked_add(1).map(|ip| Ipv4Addr::from(ip).into())
                    }
                    IpAddr::V6(ip) => {
                        u128::from(ip).checked_add(1).map(|ip| Ipv6Addr::from(ip).into())
                    }
                };
                assert!(behind.is_none_or(|ip| !trusts(part, ip)), "{part} and {behind:?}");
            }
        });
    }
}
