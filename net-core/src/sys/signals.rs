//! SIGTERM, SIGINT and SIGQUIT as a count and a wake-up.

use super::{Errno, Waker};
use parking_lot::Mutex;
use signal_hook::SigId;
use signal_hook::consts::{SIGINT, SIGQUIT, SIGTERM};
use std::io;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};

/// The signals that end a server: from the system, from the keyboard, and the signal by which servers such as
/// nginx are told to end gracefully.
const CAUGHT: [i32; 3] = [SIGTERM, SIGINT, SIGQUIT];

/// Catches these signals while it lives. Afterwards they do again what they did before.
///
/// The handler runs on any thread that the kernel picks, even on a loop with a descriptor table of its own.
/// So it rings a [`Waker`], whose number is the same in every table. The number of a pipe would not be.
pub(crate) struct Signals {
    ids: Vec<SigId>,
    caught: Arc<Caught>,
}

#[derive(Default)]
struct Caught {
    count: AtomicU32,
    last: AtomicI32,
    /// A thread looks at the count, and obeys.
    is_heard: AtomicBool,
}

impl Caught {
    /// Runs in the signal handler: atomic operations, one write(2), and perhaps the exit.
    fn signal(&self, signal: i32, waker: &Waker) {
        self.last.store(signal, Ordering::Relaxed);
        // Release: a thread that sees the count also sees the signal's number.
        let before = self.count.fetch_add(1, Ordering::Release);
        // The second ends the process if no thread can obey yet. The third always does, since the obeying
        // thread is stuck.
        if before >= 2 || before == 1 && !self.is_heard.load(Ordering::Relaxed) {
            exit_at_once(signal);
        }
        waker.wake();
    }
}

/// Ends the process with 128 plus the signal's number, as a shell reports it. No other code of it runs.
/// Async-signal-safe.
pub(crate) fn exit_at_once(signal: i32) -> ! {
    // SAFETY: _exit takes no pointer, and does not return.
    unsafe { libc::_exit(128 + signal) }
}

impl Signals {
    pub(crate) fn catch(waker: &Arc<Waker>) -> io::Result<Self> {
        AT_REST.lock().get_or_insert_with(AtRest::new).begin()?;
        let mut signals = Self { ids: Vec::new(), caught: Arc::default() };
        for signal in CAUGHT {
            let (caught, waker) = (Arc::clone(&signals.caught), Arc::clone(waker));
            let on_signal = move || caught.signal(signal, &waker);
            // SAFETY: the handler does nothing but some atomic operations and one write(2) or _exit(2), all
            // async-signal-safe (signal-safety(7)); it allocates nothing and takes no lock. The
            // write may change errno, which signal-hook restores.
            signals.ids.push(unsafe { signal_hook::low_level::register(signal, on_signal) }?);
        }
        Ok(signals)
    }

    /// Lets the calling thread run the handlers, whatever mask it has inherited. Otherwise only SIGKILL could
    /// end a server whose parent had these signals blocked.
    pub(crate) fn hear_here(&self) -> io::Result<()> {
        self.caught.is_heard.store(true, Ordering::Relaxed);
        mask_here(libc::SIG_UNBLOCK, &set_of(&CAUGHT)).map(drop)
    }

    /// The number of signals so far, and the number of the last signal.
    pub(crate) fn seen(&self) -> (u32, i32) {
        let count = self.caught.count.load(Ordering::Acquire);
        (count, self.caught.last.load(Ordering::Relaxed))
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for id in self.ids.drain(..) {
            signal_hook::low_level::unregister(id);
        }
        if let Some(at_rest) = AT_REST.lock().as_mut() {
            at_rest.end();
        }
    }
}

/// Keeps the calling thread from running signal handlers. Other threads run them. A thread with a descriptor
/// table of its own must run none, because a handler of the program or of a library may use a descriptor by
/// its number. The thread's own faults still end the process or reach their handlers.
pub(super) fn never_here() -> io::Result<()> {
    const FAULTS: [i32; 6] =
        [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGSYS];
    let mut all = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: `all` is a writable sigset_t, which sigfillset makes valid; the numbers are.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        for fault in FAULTS {
            libc::sigdelset(all.as_mut_ptr(), fault);
        }
    }
    // SAFETY: sigfillset has made it valid.
    mask_here(libc::SIG_BLOCK, &unsafe { all.assume_init() }).map(drop)
}

/// Makes a call that raises SIGPIPE if the peer is gone. (Unlike send, it has no flag against SIGPIPE.) The
/// signal reaches no thread and not the process, and no child inherits a blocked signal.
pub(super) fn without_sigpipe(call: impl FnOnce() -> Result<usize, Errno>) -> Result<usize, Errno> {
    // Every Rust program ignores SIGPIPE, unless it has changed that.
    if handling_of(libc::SIGPIPE).is_ok_and(|handling| handling == libc::SIG_IGN) {
        return call();
    }
    let sigpipe = set_of(&[libc::SIGPIPE]);
    let before = mask_here(libc::SIG_BLOCK, &sigpipe).map_err(|error| Errno::of(&error))?;
    let was_pending = is_sigpipe_pending();
    let result = call();
    if !was_pending && result.is_err_and(|errno| errno.raw() == libc::EPIPE) {
        let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: set and time are readable, and the signal's details are not asked for. The signal is this
        // thread's own, raised by the call above. It is taken here, or it is not there (EAGAIN).
        unsafe { libc::sigtimedwait(&sigpipe, std::ptr::null_mut(), &at_once) };
    }
    mask_here(libc::SIG_SETMASK, &before).map_err(|error| Errno::of(&error))?;
    result
}

/// The calling thread's mask.
pub(super) fn here() -> io::Result<libc::sigset_t> {
    mask_here(libc::SIG_BLOCK, &set_of(&[]))
}

fn is_sigpipe_pending() -> bool {
    let mut pending = set_of(&[]);
    // SAFETY: `pending` is a writable and valid set, and the number a signal's.
    unsafe {
        libc::sigpending(&mut pending) == 0 && libc::sigismember(&pending, libc::SIGPIPE) == 1
    }
}

fn set_of(signals: &[i32]) -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: `set` is a writable sigset_t, which sigemptyset makes valid; the numbers are.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for &signal in signals {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
    }
    // SAFETY: sigemptyset has made it valid.
    unsafe { set.assume_init() }
}

/// Changes the calling thread's mask. Returns the mask before.
pub(super) fn mask_here(how: i32, set: &libc::sigset_t) -> io::Result<libc::sigset_t> {
    let mut before = set_of(&[]);
    // SAFETY: both sets are valid, the old one is writable, and `how` is one of the call's own.
    match unsafe { libc::pthread_sigmask(how, set, &mut before) } {
        0 => Ok(before),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// What the process does with the signals while no server catches them. It is global, because the handling of
/// a signal belongs to the whole process.
static AT_REST: Mutex<Option<AtRest>> = Mutex::new(None);

/// signal-hook stays installed after its first use, and then does nothing by itself. If the handling of a
/// signal was the default, this restores the default while no server runs. (signal-hook calls a former
/// handler of the program in any case.)
struct AtRest {
    servers: usize,
    defaults: Option<Arc<AtomicBool>>,
}

impl AtRest {
    fn new() -> Self {
        Self { servers: 0, defaults: None }
    }

    fn begin(&mut self) -> io::Result<()> {
        let flag = match &self.defaults {
            Some(flag) => flag,
            None => {
                let flag = Arc::new(AtomicBool::new(false));
                for signal in CAUGHT {
                    if is_default(signal)? {
                        let flag = Arc::clone(&flag);
                        signal_hook::flag::register_conditional_default(signal, flag)?;
                    }
                }
                self.defaults.insert(flag)
            }
        };
        flag.store(false, Ordering::SeqCst);
        self.servers += 1;
        Ok(())
    }

    fn end(&mut self) {
        self.servers -= 1;
        if let (0, Some(flag)) = (self.servers, &self.defaults) {
            flag.store(true, Ordering::SeqCst);
        }
    }
}

fn is_default(signal: i32) -> io::Result<bool> {
    Ok(handling_of(signal)? == libc::SIG_DFL)
}

fn handling_of(signal: i32) -> io::Result<libc::sighandler_t> {
    let mut now = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: with no new action given, the call only fills `now`.
    if unsafe { libc::sigaction(signal, std::ptr::null(), now.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: sigaction is plain data, zeroed above and filled by the call.
    Ok(unsafe { now.assume_init() }.sa_sigaction)
}
