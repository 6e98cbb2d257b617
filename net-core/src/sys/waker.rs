//! An eventfd: how one thread ends another thread's wait.
//!
//! Its number is chosen before any loop gets a descriptor table of its own, and every table keeps
//! it open under that same number. So one `Waker` rings from every thread of the process, and
//! also from a signal handler, whichever thread the signal lands on.

use super::Errno;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Wakes the one thread that waits on it. Any thread may ring.
#[derive(Debug)]
pub(crate) struct Waker(OwnedFd);

impl Waker {
    /// A new eventfd, counter at zero, non-blocking.
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
    /// The counter can only be full if the sleeper is already due to wake, so `EAGAIN` is success;
    /// no other error is possible on an open eventfd.
    pub(crate) fn wake(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: `one` is eight readable bytes, which is what an eventfd takes.
        let ring = || unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        // The kernel itself is never interrupted here, but what stands between may say so (a tracer, a
        // sandbox); and a ring that is lost is never made up for.
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
