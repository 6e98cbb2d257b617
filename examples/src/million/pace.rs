//! Limits on a rate or on a moment, and not on the number of connections that can be held.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::figures::grouped;
use net_core::process::Machine;

/// The most closes per second from either side. Connections that close pass through states that the kernel
/// bounds for the whole system (orphans, TIME_WAIT).
pub const CLOSES_PER_SECOND_MAX: u64 = 20_000;

/// How fast the run may go where the kernel would otherwise drop something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    /// Messages that may be unread at once, system-wide. The smallest unread message charges a whole page
    /// against `tcp_mem`. It is half of the number at which memory pressure begins.
    pub unread_messages_max: u64,
    /// Closes per second from either side: an eighth of the sockets that may be orphaned at once, because an
    /// orphan lives a few milliseconds on loopback.
    pub closes_per_second: u64,
    /// Connects that may wait for the server's accept: half of the longest accept queue. Beyond that queue,
    /// handshakes are dropped and retried a second later.
    pub connects_in_flight_max: u64,
}

impl Pace {
    /// The pace for this machine. An unknown limit counts as the default of an untuned small kernel.
    pub fn of(machine: &Machine) -> Self {
        let pressure = machine.tcp_mem_pages.map_or(65_536, |[_, pressure, _]| pressure);
        let orphans = machine.tcp_max_orphans.unwrap_or(65_536);
        let backlog = machine.somaxconn.unwrap_or(4_096);
        Self {
            unread_messages_max: (pressure / 2).max(1),
            closes_per_second: CLOSES_PER_SECOND_MAX.min(orphans / 8).max(1),
            connects_in_flight_max: (backlog / 2).max(1),
        }
    }
}

impl fmt::Display for Pace {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{} messages unread, {} closes a second, {} connects in flight",
            grouped(self.unread_messages_max),
            grouped(self.closes_per_second),
            grouped(self.connects_in_flight_max),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_limits_leave_the_close_rate_at_its_maximum() {
        let machine = Machine {
            tcp_mem_pages: Some([287_901, 383_869, 575_802]),
            tcp_max_orphans: Some(1_000_000),
            somaxconn: Some(4_096),
            ..Machine::default()
        };
        let pace = Pace::of(&machine);
        assert_eq!(pace.unread_messages_max, 191_934);
        assert_eq!(pace.closes_per_second, 20_000);
        assert_eq!(pace.connects_in_flight_max, 2_048);
    }

    #[test]
    fn small_limits_slow_down_and_never_stop() {
        let machine = Machine {
            tcp_mem_pages: Some([0, 1, 2]),
            tcp_max_orphans: Some(4),
            somaxconn: Some(1),
            ..Machine::default()
        };
        let pace = Pace::of(&machine);
        assert_eq!(pace.closes_per_second, 1);
        assert_eq!((pace.unread_messages_max, pace.connects_in_flight_max), (1, 1));
    }
}
