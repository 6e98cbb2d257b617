//! Restores, in a child process, what a server changed in its process: blocked signals and RLIMIT_NOFILE.

use super::{descriptors, signals};
use std::io;
use std::sync::OnceLock;

/// The values before the first server of this process. Global, because the limit holds for the whole process.
static BEFORE: OnceLock<Before> = OnceLock::new();

struct Before {
    /// The signal mask of the thread that started the server.
    mask: Option<libc::sigset_t>,
    nofile: Option<libc::rlimit>,
}

/// Call it before a server changes anything. Only the first call has an effect.
pub(crate) fn remember() {
    BEFORE.get_or_init(|| Before { mask: signals::here().ok(), nofile: descriptors::limit().ok() });
}

/// Gives a child process the signal mask and the soft RLIMIT_NOFILE that the process had before its first
/// server started.
///
/// It is async-signal-safe, for use in
/// [`CommandExt::pre_exec`](std::os::unix::process::CommandExt::pre_exec). Call it in the child only: it
/// changes the mask of the calling thread and the limit of the whole process. It does nothing if no server
/// has started. An error comes from the kernel, and then the child does not start.
///
/// Without this call a child inherits both changes. A child that is started in a callback of a loop with a
/// private descriptor table has all signals blocked, so that only SIGKILL ends it. A child that is started
/// from any thread has the soft limit raised to the hard limit. With a high limit, programs that use
/// select(2) fail, and programs that close all numbers up to the limit become slow. Nothing else needs to be
/// restored: descriptors are close-on-exec, and SIGPIPE is never left blocked.
///
/// ```
/// use std::os::unix::process::CommandExt;
/// use std::process::Command;
///
/// let mut command = Command::new("true");
/// // SAFETY: the function is async-signal-safe, as it says.
/// unsafe { command.pre_exec(net_core::process::restore_for_child) };
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
