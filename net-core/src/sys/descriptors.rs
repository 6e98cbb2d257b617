//! The descriptor table: its limit, a private copy for a loop, and the spare descriptor.

use super::{Errno, Socket, Waker, child};
use crate::sys::addr::Addr;
use std::fs::File;
use std::hash::RandomState;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ThreadId};

/// Raises the soft RLIMIT_NOFILE to the hard one and returns the limit that now holds: the
/// number of descriptors that *each* table may have. A refusal leaves the limit as it was.
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

/// RLIMIT_NOFILE. Where a filter refuses to say it, `/proc` does.
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

/// The limits in such a page: `Max open files            1024                 4096      files`.
fn limit_in(page: &str) -> Option<libc::rlimit> {
    let line = page.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let mut numbers = line.split_whitespace().map(|number| number.parse().ok());
    Some(libc::rlimit { rlim_cur: numbers.next()??, rlim_max: numbers.next()?? })
}

/// How many descriptors this process has open now, counted in `/proc/self/fd`.
pub(crate) fn open_now() -> io::Result<usize> {
    // The directory's own descriptor is among the entries.
    let open = std::fs::read_dir("/proc/self/fd")
        .map_err(|error| io::Error::new(error.kind(), format!("/proc/self/fd: {error}")))?;
    Ok(open.count().saturating_sub(1))
}

/// The promise under which loops may have descriptor tables of their own.
///
/// Handlers of signals are no matter of it: on such a loop's thread every signal is blocked, but for those by
/// which the thread's own faults are told. A handler that knows a descriptor by its number, such as the pipe
/// to itself that a library may have, would write to a client. What a callback starts as a child inherits
/// the blocked signals: [`restore_for_child`](crate::restore_for_child).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PrivateTables(());

impl PrivateTables {
    /// Promises it.
    ///
    /// # Safety
    /// No value that owns or borrows a descriptor and was made on another thread may be used or
    /// dropped on a loop's thread, nor the reverse: in the other table its number is closed, or is
    /// a client's. So the handlers and their factory must hold no `File`, socket or pipe from
    /// outside, must not send theirs out, and must start no thread; they must not use the `Remote`
    /// of another server. The same holds for a subscriber of `tracing`, which the loops call: it
    /// may write to standard output or error, or hand its lines to a thread of its own. Standard
    /// input, output and error are the exception: 0, 1 and 2 stay what they are in every table.
    pub const unsafe fn promise() -> Self {
        Self(())
    }

    /// Whether this system lets a thread have a table of its own, and if not, why: tried on a thread
    /// that ends at once. Containers often refuse `unshare`. Any thread; blocks until that one has
    /// tried. Its copy of the caller's table may outlive this for a moment.
    pub fn probe() -> io::Result<()> {
        let tried = thread::Builder::new().name("net-probe".into()).spawn(|| {
            unshare()?;
            // Empty, since no number is that high; but refused where the call is.
            close_range(u32::MAX, u32::MAX)
        })?;
        tried.join().unwrap_or_else(|_| Err(io::Error::other("the thread that tried it panicked")))
    }

    /// Of tests whose handlers hold memory only.
    #[cfg(test)]
    pub(crate) const fn kept_by_test() -> Self {
        Self(())
    }
}

/// A socket that will live in the table of another thread, made on the thread of its home table.
#[derive(Debug)]
pub(crate) struct Traveller {
    socket: Socket,
    has_left: Arc<AtomicBool>,
}

/// The copy of a traveller that is still open in its home table once it has left, under a number that
/// nothing owns.
#[derive(Debug)]
#[must_use = "left open at home, the traveller's end would never be seen"]
pub(crate) struct LeftBehind {
    number: RawFd,
    home: ThreadId,
    /// The number is nobody's here any more. Stored (Release) as soon as its owner has another table;
    /// pairs with the load in `close`, whose caller has heard of that thread since.
    has_left: Arc<AtomicBool>,
}

impl Traveller {
    /// With what it will have left behind, should it leave.
    pub(crate) fn new(socket: Socket) -> (Self, LeftBehind) {
        let (number, home) = (socket.number(), thread::current().id());
        let has_left = Arc::new(AtomicBool::new(false));
        let left_behind = LeftBehind { number, home, has_left: Arc::clone(&has_left) };
        (Self { socket, has_left }, left_behind)
    }

    /// Gives the calling thread a descriptor table of its own, in which nothing stays open but 0,
    /// 1, 2, every waker, and this socket. Their numbers stay the same.
    pub(crate) fn settle<'a>(
        self,
        wakers: impl Iterator<Item = &'a Waker>,
        _: PrivateTables,
    ) -> io::Result<Socket> {
        let Self { socket, has_left } = self;
        // The standard library asks for randomness once in a thread. Where the kernel has no getrandom it
        // reads a file that it keeps open, and which this thread is about to close.
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
    /// Closes the copy in the home table. A traveller that has not left is its owner's to close. To be
    /// called when the other thread has said that it stands, or has ended.
    ///
    /// # Panics
    /// On any other thread than the one that made the traveller.
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

/// Makes the calling thread's table its own: a copy, in which every number means the same file as before.
fn unshare() -> io::Result<()> {
    // SAFETY: it takes no pointers, and changes what no number means.
    let done = unsafe { libc::unshare(libc::CLONE_FILES) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Closes all of these numbers that are open. For a thread whose table is its own, and on which nobody
/// uses them any more.
fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: takes no pointers; nobody uses these numbers on this thread.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Opens /dev/null under 0, 1 and 2 where they are closed, so that no connection can get one of
/// these numbers and receive what somebody prints.
pub(crate) fn fill_standard() -> io::Result<()> {
    for number in 0..3 {
        // SAFETY: F_GETFD takes no pointer and changes nothing.
        if unsafe { libc::fcntl(number, libc::F_GETFD) } >= 0 {
            continue;
        }
        // SAFETY: the path is a C string; the descriptor is given up to the number for good.
        let raw = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // The lowest free number is given out first, so it is `number` unless a thread raced us;
        // then the number is taken, which is as good.
    }
    Ok(())
}

/// One descriptor held in reserve, for the moment when the table is full: given up, it makes room
/// to accept the client that waits and to close it, so that it learns at once.
/// (The trick of Marc Lehmann, in libev's documentation.)
#[derive(Debug)]
pub(crate) struct Spare(Option<File>);

impl Spare {
    pub(crate) fn new() -> Self {
        Self(File::open("/dev/null").ok())
    }

    /// Takes it back if another thread was faster when it was given up. To be called before whatever takes
    /// the next free descriptor, or a full table would never have one again.
    pub(crate) fn refill(&mut self) {
        if self.0.is_none() {
            *self = Self::new();
        }
    }

    /// As it is when another thread has been faster.
    #[cfg(test)]
    pub(super) fn lost() -> Self {
        Self(None)
    }

    #[cfg(test)]
    pub(super) fn is_there(&self) -> bool {
        self.0.is_some()
    }

    /// Accepts one client and closes it. False if there was none, or no descriptor for it.
    ///
    /// Another thread may take the freed number first; then this fails, and the caller's pause
    /// keeps it from trying without end.
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

/// Descriptors held for clients who are served also when the table is full: each is given up for
/// one client, and had again when a client has gone.
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

    /// Accepts one client in place of a held descriptor. `EMFILE` if none is left, or if another
    /// thread was faster to take the freed number.
    pub(crate) fn accept(&mut self, listener: &Socket) -> Result<(Socket, Addr), Errno> {
        drop(self.held.pop().ok_or(Errno::new(libc::EMFILE))?);
        let accepted = listener.accept();
        if accepted.is_err() {
            self.refill();
        }
        accepted
    }

    /// Takes back what was given up, as far as there is room.
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
