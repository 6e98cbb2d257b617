//! epoll(7), without policy: add and wait.

use super::Errno;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

pub(crate) const IN: u32 = libc::EPOLLIN as u32;
pub(crate) const PRI: u32 = libc::EPOLLPRI as u32;
pub(crate) const OUT: u32 = libc::EPOLLOUT as u32;
pub(crate) const ERR: u32 = libc::EPOLLERR as u32;
pub(crate) const HUP: u32 = libc::EPOLLHUP as u32;
pub(crate) const RDHUP: u32 = libc::EPOLLRDHUP as u32;
pub(crate) const EDGE: u32 = libc::EPOLLET as u32;

/// One event: the token of the registration, and the kernel's bits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    /// The token with which the descriptor was registered.
    pub(crate) token: u64,
    /// `EPOLLIN` and the other bits.
    pub(crate) bits: u32,
}

/// Room for the events of one wait.
pub(crate) struct Events {
    list: Vec<libc::epoll_event>,
}

impl Events {
    /// Room for `capacity` events. The next wait brings further events that are ready.
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self { list: Vec::with_capacity(capacity.max(1)) }
    }

    /// The event at `position`, if the last wait brought that many.
    #[inline]
    pub(crate) fn get(&self, position: usize) -> Option<Event> {
        self.list.get(position).map(|event| Event { token: event.u64, bits: event.events })
    }

    /// Adds an event, as a wait would. For models of the kernel.
    #[cfg(any(test, feature = "bench"))]
    pub(crate) fn push(&mut self, event: Event) -> bool {
        let has_room = self.list.len() < self.list.capacity();
        if has_room {
            self.list.push(libc::epoll_event { events: event.bits, u64: event.token });
        }
        has_room
    }

    /// How many events one wait may bring.
    #[cfg(test)]
    pub(crate) fn room(&self) -> usize {
        self.list.capacity()
    }

    #[cfg(test)]
    pub(crate) fn clear(&mut self) {
        self.list.clear();
    }
}

/// An epoll instance. Only its own thread uses it.
pub(crate) struct Epoll(OwnedFd);

impl Epoll {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: epoll_create1 takes no pointers.
        let raw = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `raw` came from epoll_create1 just above and nothing else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(raw) }))
    }

    pub(crate) fn add(&self, fd: RawFd, token: u64, bits: u32) -> Result<(), Errno> {
        match self.control(libc::EPOLL_CTL_ADD, fd, token, bits) {
            // The number is registered already, for a file that a copy in another table keeps open. The new
            // owner counts: its token replaces the old token.
            Err(errno) if errno.raw() == libc::EEXIST => {
                self.control(libc::EPOLL_CTL_MOD, fd, token, bits)
            }
            done => done,
        }
    }

    fn control(&self, what: i32, fd: RawFd, token: u64, bits: u32) -> Result<(), Errno> {
        let mut event = libc::epoll_event { events: bits, u64: token };
        // SAFETY: `event` is valid for the call; the kernel copies it.
        let done = unsafe { libc::epoll_ctl(self.0.as_raw_fd(), what, fd, &mut event) };
        if done == 0 { Ok(()) } else { Err(Errno::last()) }
    }

    /// Waits for events, at most `timeout_ms`, or without a limit for −1. A signal that interrupts the wait
    /// ends it without events, so that the caller can act on the signal.
    pub(crate) fn wait(&self, events: &mut Events, timeout_ms: i32) -> io::Result<()> {
        events.list.clear();
        let room = events.list.capacity().min(i32::MAX as usize) as i32;
        let (fd, list) = (self.0.as_raw_fd(), events.list.as_mut_ptr());
        // SAFETY: the list owns `room` places behind its pointer, which the kernel may fill. There is no
        // signal mask, so the kernel does not look at its size. (By number, because the C library's
        // epoll_wait is a cancellation point, as its recv is.)
        let filled = unsafe {
            libc::syscall(libc::SYS_epoll_pwait, fd, list, room, timeout_ms, 0usize, 8usize)
        };
        if filled < 0 {
            let errno = Errno::last();
            return if errno.raw() == libc::EINTR { Ok(()) } else { Err(errno.into()) };
        }
        // SAFETY: the kernel has written `filled` events, and `filled <= room = capacity`.
        unsafe { events.list.set_len(filled as usize) };
        Ok(())
    }
}
