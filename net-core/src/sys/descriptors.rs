//! The descriptor table: its limit, a private table for a loop, and the spare descriptors.

use super::{Errno, Socket, Waker, child};
use crate::sys::addr::Addr;
use std::fs::File;
use std::hash::RandomState;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ThreadId};

/// Raises the soft RLIMIT_NOFILE to the hard limit, and returns the limit that now holds: the number of
/// descriptors that *each* table may have. If the kernel refuses, the limit stays as it was.
pub(crate) fn raise_limit() -> io::Result<u64> {
    child::remember();
    let limit = limit()?;
    if limit.rlim_cur < limit.rlim_max {
        let raised = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
        // SAFETY: `raised` is a readable rlimit.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raised) } == 0 {
            return Ok(raised.rlim_cur);
        }
    }
    Ok(limit.rlim_cur)
}

/// Returns RLIMIT_NOFILE. If a seccomp filter refuses getrlimit, reads the limit from `/proc`.
pub(super) fn limit() -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a writable rlimit.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } == 0 {
        return Ok(limit);
    }
    let refused = io::Error::last_os_error();
    let page = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    limit_in(&page).ok_or(refused)
}

/// Returns the limits in a page that has the line
/// `Max open files            1024                 4096      files`.
fn limit_in(page: &str) -> Option<libc::rlimit> {
    let line = page.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let mut numbers = line.split_whitespace().map(|number| number.parse().ok());
    Some(libc::rlimit { rlim_cur: numbers.next()??, rlim_max: numbers.next()?? })
}

/// Returns how many descriptors this process has open now, counted in `/proc/self/fd`.
pub(crate) fn open_now() -> io::Result<usize> {
    // One entry is the descriptor of the directory itself.
    let open = std::fs::read_dir("/proc/self/fd")
        .map_err(|error| io::Error::new(error.kind(), format!("/proc/self/fd: {error}")))?;
    Ok(open.count().saturating_sub(1))
}

/// The promise that is required before loops may have private descriptor tables.
///
/// Signal handlers need no promise: on such a loop's thread every signal is blocked, except signals that
/// report the thread's own faults. Otherwise a signal handler that uses a descriptor by its number, such as
/// the self-pipe of a library, would write to a client. A child process that a callback starts inherits the
/// blocked signals; see [`restore_for_child`](crate::process::restore_for_child).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PrivateTables(());

impl PrivateTables {
    /// Makes the promise.
    ///
    /// # Safety
    /// A value that owns or borrows a descriptor must be used and dropped on the thread that made it. It must
    /// not move from another thread to a loop's thread, nor from a loop's thread to another thread. In the
    /// other table its number is closed, or belongs to a client.
    ///
    /// So the handlers and their factory must hold no `File`, socket or pipe from outside. They must not send
    /// their own descriptors to other threads, must not start threads, and must not use the `ServerHandle` of
    /// another server. The same holds for a subscriber of `tracing`, because the loops call it: it may write
    /// to standard output or error, or hand its lines to a thread of its own. Standard input, output and
    /// error are the exception: 0, 1 and 2 are the same in every table.
    pub const unsafe fn promise() -> Self {
        Self(())
    }

    /// Tests whether this system lets a thread have a private descriptor table. The error says why not.
    ///
    /// The test runs on a new thread that ends at once. Containers often refuse `unshare`. Any thread may
    /// call this; it blocks until the test is done. The new thread's copy of the caller's table may stay open
    /// for a moment after the call returns.
    pub fn probe() -> io::Result<()> {
        let tried = thread::Builder::new().name("net-probe".into()).spawn(|| {
            unshare()?;
            // Closes nothing, because no number is that high. It fails if the system refuses the call.
            close_range(u32::MAX, u32::MAX)
        })?;
        tried.join().unwrap_or_else(|_| Err(io::Error::other("the thread that tried it panicked")))
    }

    /// For tests whose handlers hold no descriptors.
    #[cfg(test)]
    pub(crate) const fn kept_by_test() -> Self {
        Self(())
    }
}

/// A socket that is made in its home table and will move to the table of another thread.
#[derive(Debug)]
pub(crate) struct Traveller {
    socket: Socket,
    has_left: Arc<AtomicBool>,
}

/// The copy of a traveller that stays open in the home table after the traveller has left. Nothing owns its
/// number.
#[derive(Debug)]
#[must_use = "left open at home, the traveller's end would never be seen"]
pub(crate) struct LeftBehind {
    number: RawFd,
    home: ThreadId,
    /// The number has no owner in the home table any more. Stored (Release) as soon as the owner's thread has
    /// another table. Pairs with the load in `close`, whose caller has heard from that thread since.
    has_left: Arc<AtomicBool>,
}

impl Traveller {
    /// Makes a traveller, and the handle to the copy that it leaves behind if it leaves.
    pub(crate) fn new(socket: Socket) -> (Self, LeftBehind) {
        let (number, home) = (socket.number(), thread::current().id());
        let has_left = Arc::new(AtomicBool::new(false));
        let left_behind = LeftBehind { number, home, has_left: Arc::clone(&has_left) };
        (Self { socket, has_left }, left_behind)
    }

    /// Gives the calling thread a private descriptor table. Only 0, 1, 2, every waker and this socket stay
    /// open in it, under the same numbers.
    pub(crate) fn settle<'a>(
        self,
        wakers: impl Iterator<Item = &'a Waker>,
        _: PrivateTables,
    ) -> io::Result<Socket> {
        let Self { socket, has_left } = self;
        // The standard library asks for randomness once per thread. If the kernel has no getrandom, it reads
        // a file that it keeps open, and this thread is about to close that file. So ask for it now.
        let _ = RandomState::new();
        super::signals::never_here()?;
        unshare()?;
        has_left.store(true, Ordering::Release);
        let mut kept: Vec<RawFd> = wakers.map(Waker::number).collect();
        kept.push(socket.number());
        kept.sort_unstable();
        let mut from: u32 = 3;
        for number in kept {
            let number = number as u32;
            if number > from {
                close_range(from, number - 1)?;
            }
            from = from.max(number + 1);
        }
        close_range(from, u32::MAX)?;
        Ok(socket)
    }
}

impl LeftBehind {
    /// Closes the copy in the home table. Does nothing if the traveller has not left: then its owner closes
    /// the socket. Call it when the other thread has reported that it is set up, or has ended.
    ///
    /// # Panics
    /// On any thread other than the thread that made the traveller.
    pub(crate) fn close(self) {
        assert_eq!(thread::current().id(), self.home, "a copy is closed in its home table");
        if !self.has_left.load(Ordering::Acquire) {
            return;
        }
        // SAFETY: the number is open in this thread's table, since the traveller's owner never
        // closed it here; and nothing here owns it, since the owner now lives in another table.
        unsafe { libc::close(self.number) };
    }
}

/// Gives the calling thread a private copy of its descriptor table. Every number means the same file as
/// before.
fn unshare() -> io::Result<()> {
    // SAFETY: it takes no pointers, and does not change which file a number means.
    let done = unsafe { libc::unshare(libc::CLONE_FILES) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Closes all open descriptors from `first` to `last`. Only for a thread with a private table on which these
/// numbers are not used any more.
fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: it takes no pointers, and these numbers are not used on this thread.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Opens /dev/null under each of 0, 1 and 2 that is closed. Otherwise a connection could get one of these
/// numbers, and its peer would receive what the process prints.
pub(crate) fn fill_standard() -> io::Result<()> {
    for number in 0..3 {
        // SAFETY: F_GETFD takes no pointer and changes nothing.
        if unsafe { libc::fcntl(number, libc::F_GETFD) } >= 0 {
            continue;
        }
        // SAFETY: the path is a C string; the descriptor stays open under this number for good.
        let raw = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // The kernel gives out the lowest free number, so it is `number`. If another thread was faster, that
        // number is taken now, which is as good.
    }
    Ok(())
}

/// One descriptor held in reserve for a full table. When it is given up, there is room to accept a waiting
/// client and close it, so that the client learns at once that it is not served.
/// (The trick of Marc Lehmann, in libev's documentation.)
#[derive(Debug)]
pub(crate) struct Spare(Option<File>);

impl Spare {
    pub(crate) fn new() -> Self {
        Self(File::open("/dev/null").ok())
    }

    /// Opens the spare descriptor again if another thread took its number after it was given up. Call it
    /// before anything takes the next free descriptor. Otherwise a full table would never have a spare again.
    pub(crate) fn refill(&mut self) {
        if self.0.is_none() {
            *self = Self::new();
        }
    }

    /// A spare in the state in which another thread has taken its number.
    #[cfg(test)]
    pub(super) fn lost() -> Self {
        Self(None)
    }

    #[cfg(test)]
    pub(super) fn is_there(&self) -> bool {
        self.0.is_some()
    }

    /// Accepts one client and closes it. Returns false if no client waits, or if there is no descriptor.
    ///
    /// Another thread may take the freed number first. Then this call returns false. The caller pauses, so it
    /// does not try again without end.
    pub(crate) fn shed(&mut self, listener: &Socket) -> bool {
        self.refill();
        if self.0.take().is_none() {
            return false;
        }
        let shed = listener.accept().is_ok();
        *self = Self::new();
        shed
    }
}

/// Descriptors held in reserve, so that some clients are served even if the table is full. Each descriptor is
/// given up for one client, and opened again when a client has gone.
#[derive(Debug)]
pub(crate) struct Reserve {
    held: Vec<File>,
    most: usize,
}

impl Reserve {
    pub(crate) fn new(most: usize) -> Self {
        let mut reserve = Self { held: Vec::with_capacity(most), most };
        reserve.refill();
        reserve
    }

    /// Gives up a held descriptor and accepts one client. `EMFILE` if no descriptor is left, or if another
    /// thread took the freed number first.
    pub(crate) fn accept(&mut self, listener: &Socket) -> Result<(Socket, Addr), Errno> {
        drop(self.held.pop().ok_or(Errno::new(libc::EMFILE))?);
        let accepted = listener.accept();
        if accepted.is_err() {
            self.refill();
        }
        accepted
    }

    /// Opens descriptors again until the reserve is full or the table is.
    pub(crate) fn refill(&mut self) {
        while self.held.len() < self.most {
            let Ok(file) = File::open("/dev/null") else { return };
            self.held.push(file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::ListenOptions;
    use std::net::TcpStream;

    #[test]
    fn a_limit_is_read_from_its_page() {
        let page = std::fs::read_to_string("/proc/self/limits").unwrap();
        assert_eq!(limit_in(&page).unwrap().rlim_max, limit().unwrap().rlim_max);
        let page = "Max processes             7       8       processes\n\
                    Max open files            1024                 4096                 files     \n";
        assert_eq!(
            limit_in(page).map(|limit| (limit.rlim_cur, limit.rlim_max)),
            Some((1024, 4096))
        );
        for page in ["", "Max open files\n", "Max open files  1024", "Max open files  many  4096"] {
            assert!(limit_in(page).is_none(), "{page:?}");
        }
    }

    #[test]
    fn a_probe_leaves_the_callers_table_as_it_was() {
        let file = File::open("/dev/null").unwrap();
        PrivateTables::probe().unwrap();
        assert!(file.metadata().is_ok());
    }

    #[test]
    fn a_reserve_serves_as_many_as_it_holds_and_is_whole_again_after() {
        let at: Addr = "127.0.0.1:0".parse().unwrap();
        let listener = Socket::listen(&at, &ListenOptions::default()).unwrap();
        let to = listener.local().unwrap().inet().unwrap();
        let mut reserve = Reserve::new(2);
        let nobody = reserve.accept(&listener).unwrap_err();
        assert_eq!(nobody.raw(), libc::EAGAIN);
        assert_eq!(reserve.held.len(), 2, "nobody came, so nothing was given up");
        let _clients: Vec<_> = (0..3).map(|_| TcpStream::connect(to).unwrap()).collect();
        let served: Vec<_> = (0..3).map(|_| reserve.accept(&listener)).collect();
        let served: Vec<_> = served.iter().map(|r| r.as_ref().err().map(|e| e.raw())).collect();
        assert_eq!(served, [None, None, Some(libc::EMFILE)]);
        reserve.refill();
        assert_eq!(reserve.held.len(), 2);
    }
}
