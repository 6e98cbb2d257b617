//! `ListenerHealth`: how many listeners and datagram endpoints of one server still work.

use crate::sys::addr::Addr;
use crate::sys::{Errno, Waker};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts working listeners and endpoints over all threads. When all of them have failed, the server ends
/// with an error. It could never accept again, and its supervisor would otherwise see a healthy process.
#[derive(Debug)]
pub(crate) struct ListenerHealth {
    open: AtomicUsize,
    /// The last listener that failed, and its error.
    last: Mutex<Option<(Addr, Errno)>>,
    /// Wakes the acceptor's thread, which ends the server.
    acceptor: Arc<Waker>,
}

impl ListenerHealth {
    pub(crate) fn new(acceptor: Arc<Waker>) -> Self {
        Self { open: AtomicUsize::new(0), last: Mutex::new(None), acceptor }
    }

    /// One more listener accepts.
    pub(crate) fn opened(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    /// A listener failed. Do not call this when a listener is closed on purpose.
    #[cold]
    pub(crate) fn mark_failed(&self, at: &Addr, errno: Errno) {
        *self.last.lock() = Some((at.clone(), errno));
        if self.open.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.acceptor.wake();
        }
    }

    /// The last listener that failed and its error, if all listeners have failed. Call it only after every
    /// loop has started, because a loop may not have opened its listeners before that.
    pub(crate) fn all_failed(&self) -> Option<(Addr, Errno)> {
        if self.open.load(Ordering::Relaxed) > 0 {
            return None;
        }
        self.last.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener_health() -> ListenerHealth {
        ListenerHealth::new(Arc::new(Waker::new().unwrap()))
    }

    fn at(port: u16) -> Addr {
        format!("127.0.0.1:{port}").parse().unwrap()
    }

    #[test]
    fn none_at_all_is_not_all_failed() {
        assert_eq!(listener_health().all_failed(), None);
    }

    #[test]
    fn the_last_to_break_is_named_and_one_that_is_open_is_enough() {
        let listener_health = listener_health();
        (0..3).for_each(|_| listener_health.opened());
        for port in [1, 2] {
            listener_health.mark_failed(&at(port), Errno::INVAL);
            assert_eq!(listener_health.all_failed(), None);
        }
        listener_health.mark_failed(&at(3), Errno::BADF);
        assert_eq!(listener_health.all_failed(), Some((at(3), Errno::BADF)));
    }

    #[test]
    fn one_that_breaks_before_the_next_is_opened_was_not_the_last() {
        let listener_health = listener_health();
        listener_health.opened();
        listener_health.mark_failed(&at(1), Errno::INVAL);
        listener_health.opened();
        assert_eq!(listener_health.all_failed(), None);
        listener_health.mark_failed(&at(2), Errno::BADF);
        assert_eq!(listener_health.all_failed(), Some((at(2), Errno::BADF)));
    }
}
