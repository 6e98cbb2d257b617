//! The cores on which a thread may run, so that they can be set again later.

use std::io;
use std::mem::size_of;

/// A set of cores. (`core_affinity` sets one core, and cannot set the former cores again.)
pub(crate) struct Affinity(libc::cpu_set_t);

impl Affinity {
    /// The cores of the calling thread.
    pub(crate) fn of_this_thread() -> io::Result<Self> {
        // SAFETY: a cpu_set_t is plain bits, valid when all of them are zero.
        let mut cores: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        // SAFETY: `cores` is writable and as large as said; 0 is the calling thread.
        match unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut cores) } {
            0 => Ok(Self(cores)),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// From now on the calling thread may run on these cores.
    pub(crate) fn set_here(&self) -> io::Result<()> {
        // SAFETY: the set is readable and as large as said; 0 is the calling thread.
        match unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &self.0) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
