//! `PerSourceLimit`: counts and limits the connections of each source, over all loops.

use crate::config::limits::Limits;
use crate::sys::addr::Addr;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU128;

/// Number of shards. Each has a lock of its own, so loops that count at the same time seldom meet.
const SHARDS: usize = 64;
/// Capacity up to which a shard is never shrunk.
const PLACES_KEPT: usize = 64;

/// All addresses that count as one source: the first bits of an IP address. (The bits are inverted, so that
/// no source is zero, and `Option<Source>` is no larger than the address.)
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Source(NonZeroU128);

/// Counts connections by source. A source has an entry only while it has a connection. So there are never
/// more entries than connections, from whatever addresses clients connect.
#[derive(Debug)]
pub(crate) struct PerSourceLimit {
    shards: Box<[Mutex<HashMap<Source, usize>>]>,
    /// A randomly keyed hash, so that no client can choose addresses that share a shard.
    hashed: RandomState,
    max: usize,
    v4_bits: u32,
    v6_bits: u32,
}

impl PerSourceLimit {
    /// `None`: sources are not limited.
    pub(crate) fn new(limits: &Limits) -> Option<Self> {
        let max = limits.per_source_max?;
        Some(Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hashed: RandomState::new(),
            max,
            v4_bits: u32::from(limits.source_prefix_v4),
            v6_bits: u32::from(limits.source_prefix_v6),
        })
    }

    /// The source of a peer. `None`: the peer has no IP address, as a client on a Unix socket.
    pub(crate) fn of(&self, peer: &Addr) -> Option<Source> {
        // A listener for both families shows an IPv4 client with an IPv6 address.
        let bits = match peer.inet()?.ip().to_canonical() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits() & mask(96 + self.v4_bits),
            IpAddr::V6(v6) => v6.to_bits() & mask(self.v6_bits),
        };
        NonZeroU128::new(!bits).map(Source)
    }

    /// Counts one more connection of `source`. False: the source is at its limit.
    pub(crate) fn enter(&self, source: Source) -> bool {
        let mut shard = self.shard(source).lock();
        let count = shard.entry(source).or_insert(0);
        if *count >= self.max {
            return false;
        }
        *count += 1;
        true
    }

    /// Counts one connection of `source` less.
    pub(crate) fn leave(&self, source: Source) {
        let mut shard = self.shard(source).lock();
        let Some(count) = shard.get_mut(&source) else {
            debug_assert!(false, "more connections of {source:?} left than entered");
            return;
        };
        *count -= 1;
        if *count == 0 {
            shard.remove(&source);
            // After a flood from many sources the shard gives its memory back.
            if shard.capacity() > PLACES_KEPT && shard.len() < shard.capacity() / 8 {
                let twice = 2 * shard.len();
                shard.shrink_to(twice);
            }
        }
    }

    fn shard(&self, source: Source) -> &Mutex<HashMap<Source, usize>> {
        &self.shards[self.hashed.hash_one(source) as usize % SHARDS]
    }

    /// Number of sources that have a connection.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }
}

/// A mask of the first `bits` bits of 128.
fn mask(bits: u32) -> u128 {
    u128::MAX.checked_shl(128 - bits).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(max: usize, v4: u8, v6: u8) -> PerSourceLimit {
        let limits = Limits {
            per_source_max: Some(max),
            source_prefix_v4: v4,
            source_prefix_v6: v6,
            ..Limits::default()
        };
        limits.check().unwrap();
        PerSourceLimit::new(&limits).unwrap()
    }

    fn source(sources: &PerSourceLimit, text: &str) -> Option<Source> {
        sources.of(&text.parse().unwrap())
    }

    #[test]
    fn the_limit_of_a_source_holds_below_at_and_above_and_is_no_other_ones() {
        let sources = sources(2, 32, 64);
        let (a, b) = (source(&sources, "10.0.0.1:1"), source(&sources, "10.0.0.2:1"));
        let (a, b) = (a.unwrap(), b.unwrap());
        for _ in 0..100 {
            assert!(sources.enter(a) && sources.enter(a) && !sources.enter(a));
            assert!(sources.enter(b));
            sources.leave(a);
            assert!(sources.enter(a) && !sources.enter(a));
            [a, a, b].into_iter().for_each(|source| sources.leave(source));
            assert_eq!(sources.len(), 0);
        }
    }

    #[test]
    fn what_has_the_same_first_bits_is_one_source() {
        let sources = sources(1, 24, 48);
        let is_same = |a, b| source(&sources, a) == source(&sources, b);
        assert!(is_same("10.0.0.1:1", "10.0.0.255:9"));
        assert!(!is_same("10.0.0.255:1", "10.0.1.0:1"));
        assert!(is_same("10.0.0.1:1", "[::ffff:10.0.0.2]:1"));
        assert!(is_same("[2001:db8:1::1]:1", "[2001:db8:1:ffff::2]:1"));
        assert!(!is_same("[2001:db8:1::1]:1", "[2001:db8:2::1]:1"));
        // Also if all first bits of an address are zero, and if nothing is masked.
        assert!(source(&sources, "[::1]:1").is_some());
        let whole = self::sources(1, 32, 128);
        assert_ne!(source(&whole, "[::1]:1"), source(&whole, "[::2]:1"));
        assert_ne!(source(&whole, "10.0.0.1:1"), source(&whole, "[::a00:1]:1"));
    }

    #[test]
    fn unix_sockets_have_no_source() {
        assert_eq!(source(&sources(1, 32, 64), "unix:@x"), None);
    }

    #[test]
    fn a_flood_from_everywhere_leaves_no_memory_behind() {
        let sources = sources(1, 32, 64);
        let all: Vec<_> = (0..100_000u32)
            .map(|n| sources.of(&std::net::SocketAddr::from((n.to_be_bytes(), 1)).into()).unwrap())
            .collect();
        assert!(all.iter().all(|source| sources.enter(*source)));
        all.iter().for_each(|source| sources.leave(*source));
        let kept: usize = sources.shards.iter().map(|shard| shard.lock().capacity()).sum();
        assert!(kept <= SHARDS * 2 * PLACES_KEPT, "{kept} places are kept");
    }
}
