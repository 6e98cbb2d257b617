//! SIGTERM, SIGINT and SIGQUIT as a count and a ring.

use super::Waker;
use parking_lot::Mutex;
use signal_hook::SigId;
use signal_hook::consts::{SIGINT, SIGQUIT, SIGTERM};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};

/// What ends a server: the system's and the keyboard's, and the one by which servers such as nginx
/// are told to end in peace.
const CAUGHT: [i32; 3] = [SIGTERM, SIGINT, SIGQUIT];

/// Catches these signals while it lives; after that they do again what they did before.
///
/// The handler runs on whichever thread the kernel picks, also on a loop with a descriptor table
/// of its own: so it rings a [`Waker`], whose number is the same in every table. (A pipe's would
/// not be.)
pub(crate) struct Signals {
    ids: Vec<SigId>,
    caught: Arc<Caught>,
}

#[derive(Default)]
struct Caught {
    count: AtomicU32,
    last: AtomicI32,
    /// Somebody looks at the count, and acts.
    is_heard: AtomicBool,
}

impl Caught {
    /// Runs in the handler of a signal: atomic operations, one write(2), and perhaps the end.
    fn signal(&self, signal: i32, waker: &Waker) {
        self.last.store(signal, Ordering::Relaxed);
        // Release: whoever sees the count also sees which signal it was.
        let before = self.count.fetch_add(1, Ordering::Release);
        // The second, if nobody can obey it yet; and the third, since whoever obeys does not get on.
        if before >= 2 || before == 1 && !self.is_heard.load(Ordering::Relaxed) {
            exit_at_once(signal);
        }
        waker.ring();
    }
}

/// Ends the process with 128 and the signal's number, as a shell would have it; nothing else of it runs.
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

    /// Lets the calling thread run the handlers, whatever mask it was born with: a server whose parent
    /// had these signals blocked could otherwise be ended by SIGKILL only.
    pub(crate) fn hear_here(&self) -> io::Result<()> {
        self.caught.is_heard.store(true, Ordering::Relaxed);
        mask_here(libc::SIG_UNBLOCK, &CAUGHT)
    }

    /// How many came so far, and the last one's number.
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

/// Keeps the calling thread from running handlers of these signals: other threads do.
pub(super) fn never_here() -> io::Result<()> {
    mask_here(libc::SIG_BLOCK, &CAUGHT)
}

/// The calling thread is not interrupted, nor the process ended, when it writes to a peer that is gone
/// by a call that has no `MSG_NOSIGNAL`.
pub(super) fn no_sigpipe_here() -> io::Result<()> {
    mask_here(libc::SIG_BLOCK, &[libc::SIGPIPE])
}

fn mask_here(how: i32, signals: &[i32]) -> io::Result<()> {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: `set` is a writable sigset_t, which sigemptyset makes valid; the numbers are.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for &signal in signals {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
    }
    // SAFETY: the set is valid, `how` is one of the call's own, and the old one is not asked for.
    match unsafe { libc::pthread_sigmask(how, set.as_ptr(), std::ptr::null_mut()) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// What the process does with the signals while no server catches them. The handling of a signal
/// belongs to the whole process, so this does too.
static AT_REST: Mutex<Option<AtRest>> = Mutex::new(None);

/// signal-hook stays installed once it was used, and then does nothing by itself. Where the
/// signal's handling was the default one, this gives the default back whenever no server runs.
/// (A former handler of the program's own is called by signal-hook in any case.)
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
    let mut now = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: with no new action given, the call only fills `now`.
    if unsafe { libc::sigaction(signal, std::ptr::null(), now.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: sigaction is plain data, zeroed above and filled by the call.
    Ok(unsafe { now.assume_init() }.sa_sigaction == libc::SIG_DFL)
}
