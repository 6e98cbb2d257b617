//! An eventfd: how one thread ends another thread's wait.
//!
//! Its number is chosen before any loop gets a descriptor table of its own. Every table keeps it open under
//! the same number. So every thread of the process can ring the `Waker`, and so can a signal handler on any
//! thread.

use super::Errno;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Wakes the one thread that waits for it. Any thread may ring it.
#[derive(Debug)]
pub(crate) struct Waker(OwnedFd);

impl Waker {
    /// Makes an eventfd: the counter is zero, and it is non-blocking.
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: eventfd takes no pointers.
        let raw = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `raw` came from eventfd just above and nothing else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(raw) }))
    }

    /// Makes the waiting thread's descriptor readable. Async-signal-safe.
    ///
    /// The counter can be full only if the waiting thread is due to wake already. So `EAGAIN` is a success.
    /// An open eventfd has no other error.
    pub(crate) fn wake(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: `one` is eight readable bytes, which is what an eventfd takes.
        let ring = || unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        // The kernel never interrupts this write. But a tracer or a sandbox may report an interruption. A
        // lost ring is never repeated.
        let _ = Errno::uninterrupted(ring);
    }

    /// Sets the counter back to zero. Only the waiting thread calls this.
    pub(crate) fn quiet(&self) {
        let mut count = [0u8; 8];
        // SAFETY: `count` is eight writable bytes. EAGAIN means that it was quiet already.
        let _ = unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), 8) };
    }

    pub(crate) fn number(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_counter_still_wakes_and_does_not_block() {
        let waker = Waker::new().unwrap();
        let nearly_full = (u64::MAX - 1).to_ne_bytes();
        // SAFETY: eight readable bytes.
        let n = unsafe { libc::write(waker.number(), nearly_full.as_ptr().cast(), 8) };
        assert_eq!(n, 8);
        waker.wake();
        waker.quiet();
        waker.quiet();
    }

    #[test]
    fn many_rings_are_one_wake_up() {
        let waker = Waker::new().unwrap();
        (0..1000).for_each(|_| waker.wake());
        waker.quiet();
        let mut count = [0u8; 8];
        // SAFETY: eight writable bytes.
        let n = unsafe { libc::read(waker.number(), count.as_mut_ptr().cast(), 8) };
        assert_eq!(n, -1, "the counter was set back to zero");
    }
}
