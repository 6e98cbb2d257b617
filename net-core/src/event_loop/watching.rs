//! What a watched loop publishes of its work: its activity, and its CPU accounting.

use super::EventLoop;
use crate::api::handler::Handler;
use crate::base::close_reason::Callback;
use crate::base::id::ConnId;
use crate::driver::Driver;

impl<H: Handler, D: Driver> EventLoop<H, D> {
    /// A turn begins.
    #[cold]
    pub(super) fn watch_begin(&mut self) {
        self.state.inbox.activity.begin(self.state.now);
        if let Some(cpu_accounting) = &mut self.cpu_accounting {
            cpu_accounting.begin(self.driver.nanos());
        }
    }

    /// From here on the loop does its own work, and no callback's.
    pub(super) fn watch_own_work(&mut self) {
        if let Some(cpu_accounting) = &mut self.cpu_accounting {
            cpu_accounting.begin(self.driver.nanos());
        }
    }

    /// The turn is over.
    pub(super) fn watch_rest(&mut self) {
        self.state.inbox.activity.rest();
        if let Some(cpu_accounting) = &mut self.cpu_accounting {
            cpu_accounting.rest(self.driver.nanos());
            self.state.inbox.activity.took(cpu_accounting.by_kind());
        }
    }

    /// A callback is about to run. A watched loop publishes which. The loop's own work between this callback
    /// and the next counts as this callback's: it moves what the callback left.
    #[inline]
    pub(super) fn runs(&mut self, callback: Callback, of: Option<ConnId>) {
        if self.is_watched {
            self.watch_call(callback, of);
        }
    }

    #[cold]
    fn watch_call(&mut self, callback: Callback, of: Option<ConnId>) {
        self.state.inbox.activity.calls(callback, of.map_or(0, ConnId::token));
        if let Some(cpu_accounting) = &mut self.cpu_accounting {
            cpu_accounting.calls(self.driver.nanos(), callback, of);
        }
    }
}
