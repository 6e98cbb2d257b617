//! What the C library's allocator does with memory that is free again.

/// The largest block that bytes wait in.
const LARGE: i32 = 64 << 10;

/// Of those that are mappings of their own at once: half of what a process may have by default
/// (`vm.max_map_count`, 65,530). Beyond, they are the allocator's as before.
const MAPPINGS_MAX: i32 = 32 << 10;

/// Has blocks of 64 KiB and more, in which unsent bytes wait for slow readers, go back to the system as soon
/// as they are free, for the whole process and for good. Call it before the first server starts, on any
/// thread. False: the C library has no such setting, which is glibc's (`M_MMAP_THRESHOLD`, mallopt(3)).
///
/// Left alone, glibc keeps them for the next ones: a server of 4 MiB that has had 1,500 readers who did
/// not read stays at 188 MiB when they have gone, and at 7 MiB with this. It costs a system call or two for
/// each such block that comes from no pool.
pub fn return_large_blocks() -> bool {
    set()
}

#[cfg(target_env = "gnu")]
fn set() -> bool {
    // SAFETY: takes no pointers; the allocator locks itself, and both are within its bounds.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) == 1
            && libc::mallopt(libc::M_MMAP_MAX, MAPPINGS_MAX) == 1
    }
}

#[cfg(not(target_env = "gnu"))]
fn set() -> bool {
    false
}
