//! Source addresses of the swarm: enough that no connect has to search for a free port.
//!
//! A connect without an explicit port tries every second port of `ip_local_port_range` first. Past
//! half of the range, for one (source, destination, port), the search becomes linear and the rate
//! falls from about 73,000 to 300 a second. All of 127.0.0.0/8 is local, so on loopback the remedy
//! is more source addresses.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// The most connections from one source address to one destination port, however wide the range.
pub const CONNECTIONS_PER_SOURCE: u64 = 14_000;

/// The port range of an untuned kernel, used if the real range cannot be read.
pub const PORT_RANGE_DEFAULT: [u64; 2] = [32_768, 60_999];

/// Addresses of 127.0.0.0/8 that [`loopback_source`] can give: 254 × 256 × 250.
pub const LOOPBACK_SOURCES: u64 = 254 * 256 * 250;

/// Connections that one source address can open to one port without a search: the even half of the range,
/// less one in 128 for ports that other sockets hold, and at most [`CONNECTIONS_PER_SOURCE`].
pub fn connections_per_source(port_range: Option<[u64; 2]>) -> u64 {
    let [first, last] = port_range.unwrap_or(PORT_RANGE_DEFAULT);
    let ports = (last + 1).saturating_sub(first);
    let easy = ports / 2;
    CONNECTIONS_PER_SOURCE.min(easy - easy / 128)
}

/// The source address with this number. 127.1.0.1 is number 0. An address never ends in 0 or 255, and is
/// never 127.0.x.y, where the server listens.
///
/// # Panics
/// At [`LOOPBACK_SOURCES`] and above: there is no such address.
pub fn loopback_source(number: u64) -> Ipv4Addr {
    assert!(number < LOOPBACK_SOURCES, "source address {number} of {LOOPBACK_SOURCES}");
    let last = 1 + number % 250;
    let third = number / 250 % 256;
    let second = 1 + number / (250 * 256);
    Ipv4Addr::new(127, second as u8, third as u8, last as u8)
}

/// What one loop of the swarm opens: its connections, and the addresses that no other loop uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Number of the first connection; connections are numbered through the whole swarm.
    pub first_connection: u64,
    /// How many connections this loop opens.
    pub connections: u64,
    /// Number of this loop's first source address, for [`loopback_source`].
    pub first_source: u64,
    /// How many addresses it owns.
    pub sources: u64,
}

impl Share {
    /// The address of this loop's `nth` connection: round-robin over the loop's own addresses, so that none
    /// takes more than its part.
    ///
    /// # Panics
    /// If this loop owns no address.
    pub fn source_of(&self, nth: u64) -> Ipv4Addr {
        loopback_source(self.first_source + nth % self.sources)
    }
}

/// Deals `connections` to `loops` as evenly as whole numbers allow, with disjoint addresses.
pub fn shares(connections: u64, loops: u32, per_source: u64) -> Vec<Share> {
    let loops = u64::from(loops.max(1));
    let (each, rest) = (connections / loops, connections % loops);
    let mut shares = Vec::new();
    let (mut first_connection, mut first_source) = (0, 0);
    for number in 0..loops {
        let connections = each + u64::from(number < rest);
        let sources = connections.div_ceil(per_source.max(1)).max(1);
        shares.push(Share { first_connection, connections, first_source, sources });
        first_connection += connections;
        first_source += sources;
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn usual_range_gives_14_000_and_a_narrow_one_less() {
        assert_eq!(connections_per_source(None), 14_000);
        assert_eq!(connections_per_source(Some([32_768, 60_999])), 14_000);
        assert_eq!(connections_per_source(Some([1_024, 65_535])), 14_000);
        assert_eq!(connections_per_source(Some([50_000, 50_999])), 497);
        assert_eq!(connections_per_source(Some([7, 7])), 0);
    }

    #[test]
    fn addresses_are_distinct_and_unremarkable() {
        assert_eq!(loopback_source(0), Ipv4Addr::new(127, 1, 0, 1));
        assert_eq!(loopback_source(249), Ipv4Addr::new(127, 1, 0, 250));
        assert_eq!(loopback_source(250), Ipv4Addr::new(127, 1, 1, 1));
        assert_eq!(loopback_source(LOOPBACK_SOURCES - 1), Ipv4Addr::new(127, 254, 255, 250));
    }

    #[test]
    fn every_connection_is_dealt_once_and_no_address_is_overfull() {
        for (connections, loops) in [(1, 1), (3, 7), (1_000_000, 52), (2_500_001, 141)] {
            let shares = shares(connections, loops, 14_000);
            assert_eq!(shares.len(), loops as usize);
            let mut next = (0, 0);
            let mut taken: HashMap<Ipv4Addr, u64> = HashMap::new();
            for share in &shares {
                assert_eq!((share.first_connection, share.first_source), next);
                next.0 += share.connections;
                next.1 += share.sources;
                for nth in 0..share.connections {
                    *taken.entry(share.source_of(nth)).or_default() += 1;
                }
            }
            assert_eq!(next.0, connections);
            assert!(taken.values().all(|&count| count <= 14_000));
        }
    }
}
