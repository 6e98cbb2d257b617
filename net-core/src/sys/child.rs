//! What a server changes of its process, and a child would inherit: blocked signals, and RLIMIT_NOFILE.

use super::{descriptors, signals};
use std::io;
use std::sync::OnceLock;

/// As it was before the first server of this process. Process-wide, as what it keeps is.
static BEFORE: OnceLock<Before> = OnceLock::new();

struct Before {
    /// Of the thread that started the server.
    mask: Option<libc::sigset_t>,
    nofile: Option<libc::rlimit>,
}

/// To be called before a server changes anything; the first call counts.
pub(crate) fn remember() {
    BEFORE.get_or_init(|| Before { mask: signals::here().ok(), nofile: descriptors::limit().ok() });
}

/// Gives a child the signal mask and the soft RLIMIT_NOFILE that the process had before its first server
/// started. For [`CommandExt::pre_exec`](std::os::unix::process::CommandExt::pre_exec): async-signal-safe.
///
/// A child inherits both. Started in a callback of a loop with a descriptor table of its own, it has all
/// signals blocked, so that it cannot be ended but by SIGKILL; and from any thread it has the limit raised to
/// the hard one, with which programs that use select(2), or close all numbers up to it, go wrong or slow.
/// Everything else is as before: descriptors are close-on-exec, and SIGPIPE is never left blocked.
///
/// To be called in the child only: it changes the calling thread, and the whole process's limit. Before any
/// server has started it does nothing. An error is the kernel's, and then the child does not start.
///
/// ```
/// use std::os::unix::process::CommandExt;
/// use std::process::Command;
///
/// let mut command = Command::new("true");
/// // SAFETY: the function is async-signal-safe, as it says.
/// unsafe { command.pre_exec(net_core::restore_for_child) };
/// assert!(command.status()?.success());
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn restore_for_child() -> io::Result<()> {
    let Some(before) = BEFORE.get() else { return Ok(()) };
    if let Some(mask) = &before.mask {
        signals::mask_here(libc::SIG_SETMASK, mask)?;
    }
    let Some(nofile) = before.nofile else { return Ok(()) };
    // SAFETY: the limit is readable.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &nofile) } == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error())
}
