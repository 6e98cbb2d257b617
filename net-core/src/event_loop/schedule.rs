//! What is due by the clock beside the deadlines of connections: quiet times, awaited PROXY headers, notices
//! of a drain, endpoints that rest. A turn looks at one number, when the soonest of these is due.

use super::{DrainNotice, EventLoop, ProxyHeaderWait, sooner};
use crate::api::handler::Handler;
use crate::driver::Driver;
use net_timer::Tick;

impl<H: Handler, D: Driver> EventLoop<H, D> {
    /// Serves what is due, some of each kind.
    #[cold]
    #[inline(never)]
    pub(super) fn serve_due(&mut self) {
        self.end_quiet_times();
        if let Some(endpoints) = &mut self.endpoints {
            endpoints.end_rests(self.state.now);
        }
        self.end_overdue_headers();
        self.set_next_due();
    }

    /// Notes when the soonest of these is due. Code that adds a sooner one calls this, or lowers `next_due`.
    pub(super) fn set_next_due(&mut self) {
        let flowing = self.flowing.front().map(|&(until, _)| until);
        let waiting = self.proxy_headers.as_deref().and_then(ProxyHeaderWait::next_due);
        let told = self.drain_notice.as_ref().map(DrainNotice::next);
        let rested = self.endpoints.as_ref().and_then(|endpoints| endpoints.first_rested());
        let soonest = sooner(sooner(flowing, waiting), sooner(told, rested));
        self.next_due = soonest.unwrap_or(Tick::MAX);
    }
}
