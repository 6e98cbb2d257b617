//! The traffic of the hold: a share of the connections sends at a fixed rate, by the clock.
//!
//! The load is open: a ping does not wait for the answer before. A round trip counts from the moment at which
//! its ping was due, even if the loop sent the ping late.

use std::time::Duration;

use net_core::LoopContext;

use super::client::{Awaits, Clients};

/// One loop's pings.
pub(super) struct Pinging {
    /// The first `active` connections are active.
    active: usize,
    next: usize,
    /// Nanoseconds between two bursts. `burst` is the pings in each.
    step_ns: u64,
    burst: usize,
    due_ns: u64,
}

/// The least time between two bursts, over all loops together. If a loop woke for each single ping, the run
/// would measure these wake-ups, and those of a hundred other loops.
const BURSTS_APART: Duration = Duration::from_millis(1);

impl Clients {
    /// `active` connections of the whole swarm send once in each `period`.
    pub(super) fn start_pinging(
        &mut self,
        here: &mut LoopContext<'_, Self>,
        active: u64,
        period: Duration,
        tag: u64,
    ) {
        let active = (self.part_of(active) as usize).min(self.ids.len());
        if active == 0 {
            return;
        }
        let apart = BURSTS_APART * here.loops() as u32;
        let step = (period / active as u32).max(apart.min(period));
        let step_ns = step.as_nanos().max(1) as u64;
        let burst = (active as u128 * u128::from(step_ns)).div_ceil(period.as_nanos().max(1));
        // Loops take turns within a step.
        let offset = step_ns * here.number() as u64 / here.loops() as u64;
        let due_ns = self.now_ns() + step_ns + offset;
        self.pinging = Some(Pinging { active, next: 0, step_ns, burst: burst as usize, due_ns });
        self.ping(here, tag);
    }

    /// Sends the pings that are due, and arms the timer for the next burst.
    pub(super) fn ping(&mut self, here: &mut LoopContext<'_, Self>, tag: u64) {
        let Some(mut pinging) = self.pinging.take() else { return };
        let now_ns = self.now_ns();
        while pinging.due_ns <= now_ns {
            for _ in 0..pinging.burst {
                let id = self.ids[pinging.next];
                pinging.next = (pinging.next + 1) % pinging.active;
                let Some(mut conn) = here.connection(id) else { continue };
                match conn.session().awaits {
                    Awaits::Nothing => {
                        self.board.pings.one_more();
                        self.say(&mut conn, Awaits::Pong, pinging.due_ns);
                    }
                    // The answer before is overdue by a whole period. The ping that could not be sent has
                    // waited as long. If it were left out, the worst round trips would not be counted.
                    Awaits::Pong => {
                        let waits_ns = now_ns.saturating_sub(conn.session().due_ns);
                        self.round_trips.saturating_record(waits_ns);
                    }
                    _ => {}
                }
            }
            pinging.due_ns += pinging.step_ns;
        }
        here.after(Duration::from_nanos(pinging.due_ns - now_ns), tag);
        self.pinging = Some(pinging);
    }
}
