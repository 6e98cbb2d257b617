//! The setting that makes the C library's allocator return large free blocks to the system.

/// Blocks of this size and more get a mapping of their own. It is the largest block in which unsent bytes
/// wait.
const LARGE: i32 = 64 << 10;

/// The most such mappings at once: half of what a process may have by default (`vm.max_map_count`, 65,530).
/// Blocks beyond that come from the allocator's heap as before.
const MAPPINGS_MAX: i32 = 32 << 10;

/// Makes the allocator return blocks of 64 KiB and more to the system as soon as they are free.
///
/// Unsent bytes wait in such blocks for slow readers. The setting holds for the whole process and cannot be
/// undone. Call it before the first server starts, on any thread. Returns false if the C library does not
/// have the setting: only glibc has it (`M_MMAP_THRESHOLD`, mallopt(3)).
///
/// Without the setting, glibc keeps free blocks for later use. A server of 4 MiB that has had 1,500 clients
/// that did not read stays at 188 MiB after these clients have gone; with the setting it falls to 7 MiB. The
/// cost is a system call or two for each such block that does not come from a pool.
pub fn set_malloc_mmap_threshold() -> bool {
    set()
}

#[cfg(target_env = "gnu")]
fn set() -> bool {
    // SAFETY: it takes no pointers; the allocator locks itself, and both values are within its bounds.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) == 1
            && libc::mallopt(libc::M_MMAP_MAX, MAPPINGS_MAX) == 1
    }
}

#[cfg(not(target_env = "gnu"))]
fn set() -> bool {
    false
}
