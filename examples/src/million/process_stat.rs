//! The user-space memory of a process of this run, read from outside.

use std::path::Path;

use serde::{Deserialize, Serialize};

use net_core::process::proc_file::{ProbeError, Root, kib_line};

/// One process at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessStat {
    /// Pages that only this process has, clean and dirty, in bytes. They do not include shared libraries. So
    /// this is the memory that the end of the process would give back.
    pub private_bytes: u64,
    /// Pages that are mapped and present, including shared pages, in bytes.
    pub resident_bytes: u64,
    /// Threads.
    pub threads: u64,
}

impl ProcessStat {
    /// Reads process `pid` now. `root` is `/` in production. The kernel walks the process's page tables for
    /// it, which takes milliseconds for gigabytes. `None`: the process has ended.
    ///
    /// # Errors
    /// If a file is there and cannot be read (another user's process) or understood.
    pub fn sample(root: &Path, pid: u32) -> Result<Option<Self>, ProbeError> {
        let root = Root::new(root);
        let status_file = format!("/proc/{pid}/status");
        let rollup_file = format!("/proc/{pid}/smaps_rollup");
        let Some(status) = root.text(&status_file)? else {
            return Ok(None);
        };
        // A process that has ended and was not waited for still has a status, but no memory.
        let Some(resident_bytes) = kib_line(&status, "VmRSS") else {
            return Ok(None);
        };
        let Some(rollup) = root.text(&rollup_file)?.filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        let private = |key| kib_line(&rollup, key).ok_or_else(|| root.strange(&rollup_file, key));
        let threads = status.lines().find_map(|line| line.strip_prefix("Threads:"));
        Ok(Some(Self {
            private_bytes: private("Private_Clean")?.saturating_add(private("Private_Dirty")?),
            resident_bytes,
            threads: threads.and_then(|text| text.trim().parse().ok()).unwrap_or(0),
        }))
    }
}

/// The CPU time that process `pid` has used so far, in seconds, to the hundredth. It includes kernel time and
/// ended threads. `None`: the process has ended.
///
/// # Errors
/// When the file is there and cannot be read or understood.
pub fn cpu_seconds(root: &Path, pid: u32) -> Result<Option<f64>, ProbeError> {
    /// The unit of `/proc`: USER_HZ, which is 100 on every supported system (time(7)).
    const TICKS_PER_SECOND: f64 = 100.0;
    let root = Root::new(root);
    let file = format!("/proc/{pid}/stat");
    let Some(text) = root.text(&file)? else { return Ok(None) };
    // The name in parentheses may hold anything. Fields 14 and 15 are the 12th and 13th behind it.
    let behind_name = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields = behind_name.split_whitespace().skip(11).take(2);
    let ticks: Vec<u64> = fields.filter_map(|field| field.parse().ok()).collect();
    match ticks[..] {
        [user, system] => Ok(Some((user + system) as f64 / TICKS_PER_SECOND)),
        _ => Err(root.strange(&file, "utime and stime")),
    }
}

/// Descriptors open in all descriptor tables of process `pid`. It is the size that the kernel states for
/// `/proc/PID/fd` (since Linux 6.2), because listing the entries would make an inode for each. Threads called
/// `net-loop-…` may have tables of their own. If they share the process's table, it is counted once. `None`:
/// the kernel does not say.
pub fn descriptors(root: &Path, pid: u32) -> Option<u64> {
    let root = Root::new(root);
    let size = |file: &str| std::fs::metadata(root.path(file)).ok().map(|of| of.len());
    let main = size(&format!("/proc/{pid}/fd")).filter(|&count| count > 0)?;
    let tasks = root.path(&format!("/proc/{pid}/task"));
    let mut own = Vec::new();
    for task in std::fs::read_dir(tasks).ok()? {
        let id = task.ok()?.file_name().into_string().ok()?;
        // A thread that has ended since it was listed has no descriptors.
        let Ok(Some(name)) = root.text(&format!("/proc/{pid}/task/{id}/comm")) else { continue };
        if name.starts_with("net-loop-") {
            own.extend(size(&format!("/proc/{pid}/task/{id}/fd")));
        }
    }
    // A private table lacks the listener and the acceptor's epoll. So equal sizes of all loops and the
    // process mean one table.
    let is_shared = own.iter().all(|&count| count == main);
    Some(main + if is_shared { 0 } else { own.iter().sum() })
}

#[cfg(test)]
mod tests {
    use super::super::fake_root::FakeRoot;
    use super::*;

    #[test]
    fn private_is_clean_and_dirty_together() {
        let fake = FakeRoot::new();
        fake.write("proc/7/status", "Name:\tx\nVmRSS:\t    40 kB\nThreads:\t3\n").write(
            "proc/7/smaps_rollup",
            "1-2 ---p [rollup]\nRss: 40 kB\nPrivate_Clean: 4 kB\nPrivate_Dirty: 16 kB\n",
        );
        let stat = ProcessStat::sample(fake.path(), 7).unwrap().unwrap();
        assert_eq!(stat.private_bytes, 20 * 1024);
        assert_eq!((stat.resident_bytes, stat.threads), (40 * 1024, 3));
    }

    #[test]
    fn process_that_has_ended_is_none() {
        let fake = FakeRoot::new();
        assert_eq!(ProcessStat::sample(fake.path(), 7).unwrap(), None);
        fake.write("proc/7/status", "Name:\tx\nState:\tZ (zombie)\nThreads:\t1\n");
        assert_eq!(ProcessStat::sample(fake.path(), 7).unwrap(), None);
    }

    #[test]
    fn cpu_time_is_found_behind_a_name_with_spaces_and_parentheses() {
        let fake = FakeRoot::new();
        assert_eq!(cpu_seconds(fake.path(), 7).unwrap(), None);
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 9 9 20 0 1 0 100\n";
        fake.write("proc/7/stat", stat);
        assert_eq!(cpu_seconds(fake.path(), 7).unwrap(), Some(2.0));
        fake.write("proc/7/stat", "7 (a) S 1\n");
        assert!(cpu_seconds(fake.path(), 7).is_err());
    }

    #[test]
    fn descriptors_are_counted_without_listing_them() {
        let count = || descriptors(Path::new("/"), std::process::id());
        let Some(before) = count() else { return }; // an older kernel
        let opened: Vec<_> = (0..100).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        // Other tests of this process open and close some files meanwhile.
        assert!(count().unwrap() + 50 >= before + opened.len() as u64);
        assert_eq!(descriptors(FakeRoot::new().path(), 7), None);
    }

    #[test]
    fn this_process_has_private_memory_and_no_more_than_is_resident() {
        let stat = ProcessStat::sample(Path::new("/"), std::process::id()).unwrap().unwrap();
        assert!(stat.private_bytes > 0);
        assert!(stat.threads >= 1);
    }
}
