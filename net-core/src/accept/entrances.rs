//! `Entrances`: the listeners and datagram endpoints of one server that somebody can still come in by.

use crate::sys::addr::Addr;
use crate::sys::{Errno, Waker};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counted over all threads. Where all that there were have broken, the server is deaf for ever, and may
/// look well otherwise: so it ends, and whoever supervises it hears of it.
#[derive(Debug)]
pub(crate) struct Entrances {
    open: AtomicUsize,
    /// The last one that broke, and why.
    last: Mutex<Option<(Addr, Errno)>>,
    /// Wakes who ends the server.
    acceptor: Arc<Waker>,
}

impl Entrances {
    pub(crate) fn new(acceptor: Arc<Waker>) -> Self {
        Self { open: AtomicUsize::new(0), last: Mutex::new(None), acceptor }
    }

    /// One more takes whoever comes.
    pub(crate) fn opened(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    /// One has ended by itself. Not to be called of those that are shut.
    #[cold]
    pub(crate) fn broke(&self, at: &Addr, errno: Errno) {
        *self.last.lock() = Some((at.clone(), errno));
        if self.open.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.acceptor.ring();
        }
    }

    /// The last one and why it broke, if there were some and none is left. True only once every loop
    /// stands: one that is slow to start may have opened none yet.
    pub(crate) fn all_broken(&self) -> Option<(Addr, Errno)> {
        if self.open.load(Ordering::Relaxed) > 0 {
            return None;
        }
        self.last.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entrances() -> Entrances {
        Entrances::new(Arc::new(Waker::new().unwrap()))
    }

    fn at(port: u16) -> Addr {
        format!("127.0.0.1:{port}").parse().unwrap()
    }

    #[test]
    fn none_at_all_is_not_all_broken() {
        assert_eq!(entrances().all_broken(), None);
    }

    #[test]
    fn the_last_to_break_is_named_and_one_that_is_open_is_enough() {
        let entrances = entrances();
        (0..3).for_each(|_| entrances.opened());
        for port in [1, 2] {
            entrances.broke(&at(port), Errno::new(libc::EINVAL));
            assert_eq!(entrances.all_broken(), None);
        }
        entrances.broke(&at(3), Errno::new(libc::EBADF));
        assert_eq!(entrances.all_broken(), Some((at(3), Errno::new(libc::EBADF))));
    }

    #[test]
    fn one_that_breaks_before_the_next_is_opened_was_not_the_last() {
        let entrances = entrances();
        entrances.opened();
        entrances.broke(&at(1), Errno::new(libc::EINVAL));
        entrances.opened();
        assert_eq!(entrances.all_broken(), None);
        entrances.broke(&at(2), Errno::new(libc::EBADF));
        assert_eq!(entrances.all_broken(), Some((at(2), Errno::new(libc::EBADF))));
    }
}
