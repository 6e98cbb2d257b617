//! Chooses the loop for the next connection. Pure: the caller passes in room and load.

use crate::base::splitmix::mixed;
use crate::sys::addr::Addr;
use std::net::IpAddr;

/// How the acceptor spreads connections over the loops. Each rule passes over a loop that is stuck in a
/// callback, until the loop turns again.
///
/// With [`Accept::ReusePort`](crate::server::Accept::ReusePort) the kernel spreads the TCP connections
/// instead, by a hash of the addresses and ports of both ends. The default value then stands for the kernel's
/// choice, and any other value is an error at start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Balance {
    /// Each loop in turn, in exact rotation.
    #[default]
    RoundRobin,
    /// The loop with the fewest connections, including connections on their way to the loop. Loops with
    /// equal counts take turns. For connections of very different length. The count of a loop is from its
    /// last turn.
    LeastConnections,
    /// By a hash of the client's IP address, without the port. All connections of one address are on one
    /// loop, also after a restart with the same number of loops. State that the clients of one address
    /// share can then live on that loop without a lock.
    ///
    /// A loop without room is passed over for the next loop, and counted (`loop_skipped`). So this rule
    /// is for speed, and is not a promise. Clients without an IP address are spread in rotation.
    SourceHash,
}

/// Picks loops by one [`Balance`] rule.
#[derive(Debug)]
pub(crate) struct LoadBalancer {
    balance: Balance,
    loops: usize,
    /// The first loop to try.
    next: usize,
}

impl LoadBalancer {
    pub(crate) fn new(balance: Balance, loops: usize) -> Self {
        assert!(loops > 0, "a server has at least one loop");
        Self { balance, loops, next: 0 }
    }

    /// Returns the loop for a client at `peer`, and the number of better loops that were passed over
    /// because they have no room. `None` if no loop has room.
    pub(crate) fn pick(
        &mut self,
        peer: &Addr,
        has_room: impl Fn(usize) -> bool,
        load: impl Fn(usize) -> u64,
    ) -> Option<(usize, usize)> {
        match (self.balance, peer.inet()) {
            (Balance::SourceHash, Some(peer)) => {
                let home = home_of(peer.ip(), self.loops);
                self.from(home).enumerate().find(|&(_, k)| has_room(k)).map(|(n, k)| (k, n))
            }
            (Balance::LeastConnections, _) => {
                // The first of the loops with equal loads, in the order of their turns.
                let picked = self.from(self.next).filter(|&k| has_room(k)).min_by_key(|&k| load(k));
                picked.map(|k| {
                    self.next = (k + 1) % self.loops;
                    let is_better = |&other: &usize| load(other) < load(k) && !has_room(other);
                    (k, (0..self.loops).filter(is_better).count())
                })
            }
            (Balance::RoundRobin | Balance::SourceHash, _) => {
                let picked = self.from(self.next).enumerate().find(|&(_, k)| has_room(k));
                picked.map(|(skipped, k)| {
                    self.next = (k + 1) % self.loops;
                    (k, skipped)
                })
            }
        }
    }

    /// Every loop once, starting at `first`.
    fn from(&self, first: usize) -> impl Iterator<Item = usize> + use<> {
        let loops = self.loops;
        (0..loops).map(move |n| (first + n) % loops)
    }
}

/// The home loop of connections from `ip`.
///
/// The 64 bits of a well-mixed hash of the address are scaled down to the number of loops. Addresses of
/// one network, which differ only in the last bits, are spread as well as unrelated addresses. The hash
/// has no secret, so a restart changes nothing. A secret would protect nothing: a client that wants to
/// fill one loop needs only one address.
fn home_of(ip: IpAddr, loops: usize) -> usize {
    let bits = match ip {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    };
    let hash = mixed(mixed((bits >> 64) as u64) ^ bits as u64);
    ((u128::from(hash) * loops as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    fn at(text: &str) -> Addr {
        Addr::from(text.parse::<SocketAddr>().unwrap())
    }

    #[test]
    fn forty_connections_over_four_loops_are_ten_each() {
        let mut load_balancer = LoadBalancer::new(Balance::RoundRobin, 4);
        let mut counts = [0; 4];
        for _ in 0..40 {
            counts[load_balancer.pick(&at("10.0.0.1:1"), |_| true, |_| 0).unwrap().0] += 1;
        }
        assert_eq!(counts, [10; 4]);
    }

    #[test]
    fn a_loop_without_room_is_passed_over_and_counted() {
        let peer = at("10.0.0.1:1");
        let mut load_balancer = LoadBalancer::new(Balance::RoundRobin, 3);
        let mut pick = |room: &dyn Fn(usize) -> bool| load_balancer.pick(&peer, room, |_| 0);
        let picked: Vec<_> = (0..4).map(|_| pick(&|k| k != 1).unwrap()).collect();
        assert_eq!(picked, [(0, 0), (2, 1), (0, 0), (2, 1)]);
        assert_eq!(pick(&|_| false), None);
    }

    #[test]
    fn the_fewest_get_the_next_and_equal_ones_take_turns() {
        let peer = at("10.0.0.1:1");
        let mut load_balancer = LoadBalancer::new(Balance::LeastConnections, 4);
        let mut loads = [0_u64; 4];
        let mut order = Vec::new();
        for _ in 0..8 {
            let (k, skipped) = load_balancer.pick(&peer, |_| true, |k| loads[k]).unwrap();
            assert_eq!(skipped, 0);
            loads[k] += 1;
            order.push(k);
        }
        assert_eq!(order, [0, 1, 2, 3, 0, 1, 2, 3]);
        // The same number of connections, but closed unevenly. The gaps are filled before any other loop
        // gets more.
        loads = [5, 0, 9, 3];
        (0..11)
            .for_each(|_| loads[load_balancer.pick(&peer, |_| true, |k| loads[k]).unwrap().0] += 1);
        loads.sort_unstable();
        assert_eq!(loads, [6, 6, 7, 9]);
        // With connections that come and go one by one, each loop has its turn.
        let one_by_one: Vec<_> =
            (0..8).map(|_| load_balancer.pick(&peer, |_| true, |_| 1).unwrap().0).collect();
        let mut seen = one_by_one[..4].to_vec();
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2, 3]);
        assert_eq!(one_by_one[..4], one_by_one[4..]);
    }

    #[test]
    fn the_fewest_without_room_are_passed_over_and_counted() {
        let peer = at("10.0.0.1:1");
        let mut load_balancer = LoadBalancer::new(Balance::LeastConnections, 4);
        let loads = [1_u64, 2, 3, 0];
        let mut pick = |room: &dyn Fn(usize) -> bool| load_balancer.pick(&peer, room, |k| loads[k]);
        assert_eq!(pick(&|k| k == 1), Some((1, 2)));
        assert_eq!(pick(&|k| k != 2), Some((3, 0)));
        assert_eq!(pick(&|_| false), None);
    }

    #[test]
    fn one_source_has_one_home_whatever_its_port_and_its_transport() {
        for loops in [1, 2, 3, 7, 256] {
            let mut load_balancer = LoadBalancer::new(Balance::SourceHash, loops);
            let mut pick = |text: &str| {
                load_balancer.pick(&at(text), |_| true, |_| 0).expect("there is room").0
            };
            for host in 0..50 {
                let home = pick(&format!("10.0.0.{host}:1"));
                assert!(home < loops);
                for port in [2, 40_000, 65_535] {
                    assert_eq!(pick(&format!("10.0.0.{host}:{port}")), home);
                    assert_eq!(pick(&format!("[::ffff:10.0.0.{host}]:{port}")), home);
                }
                assert_eq!(
                    pick(&format!("[2001:db8::{host}]:1")),
                    pick(&format!("[2001:db8::{host}]:9"))
                );
            }
        }
    }

    #[test]
    fn sources_that_differ_little_are_spread_over_all_loops() {
        for network in ["10.1.2.", "2001:db8:1:2::", "2001:db8:1:2:3:4:5:"] {
            let mut counts = [0; 8];
            for host in 0..=255 {
                let ip: IpAddr = format!("{network}{host:x}")
                    .parse()
                    .or_else(|_| format!("{network}{host}").parse())
                    .unwrap();
                counts[home_of(ip, 8)] += 1;
            }
            // 32 on average, and a margin of five standard deviations of a random spread.
            assert!(counts.iter().all(|n| (5..=60).contains(n)), "{network}: {counts:?}");
        }
    }

    #[test]
    fn a_home_without_room_is_passed_over_for_its_neighbour() {
        let peer = at("10.0.0.1:1");
        let home = home_of(peer.inet().unwrap().ip(), 3);
        let mut load_balancer = LoadBalancer::new(Balance::SourceHash, 3);
        let mut pick = |room: &dyn Fn(usize) -> bool| load_balancer.pick(&peer, room, |_| 0);
        assert_eq!(pick(&|_| true), Some((home, 0)));
        assert_eq!(pick(&|k| k != home), Some(((home + 1) % 3, 1)));
        assert_eq!(pick(&|_| false), None);
        assert_eq!(pick(&|_| true), Some((home, 0)));
    }
}
