//! What a process of ours holds in user space, read from outside.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::proc_file::{LookError, Root, kib_line};

/// One process at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessStat {
    /// Pages that this process alone has, clean and dirty, in bytes. Shared libraries are not in
    /// it, so it is what ending the process would give back.
    pub private_bytes: u64,
    /// Pages that are mapped and present, shared ones too, in bytes.
    pub resident_bytes: u64,
    /// Threads.
    pub threads: u64,
}

impl ProcessStat {
    /// Reads process `pid` now; `root` is `/` in production. The kernel walks the process's page
    /// tables for it: milliseconds where it holds gigabytes. `None` once the process has ended.
    ///
    /// # Errors
    /// When a file is there and cannot be read (another user's process) or understood.
    pub fn sample(root: &Path, pid: u32) -> Result<Option<Self>, LookError> {
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
        let threads = status
            .lines()
            .find_map(|line| line.strip_prefix("Threads:"));
        Ok(Some(Self {
            private_bytes: private("Private_Clean")?.saturating_add(private("Private_Dirty")?),
            resident_bytes,
            threads: threads
                .and_then(|text| text.trim().parse().ok())
                .unwrap_or(0),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::proc_file::fake::FakeRoot;
    use super::*;

    #[test]
    fn private_is_clean_and_dirty_together() {
        let fake = FakeRoot::new();
        fake.write(
            "proc/7/status",
            "Name:\tx\nVmRSS:\t    40 kB\nThreads:\t3\n",
        )
        .write(
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
        fake.write(
            "proc/7/status",
            "Name:\tx\nState:\tZ (zombie)\nThreads:\t1\n",
        );
        assert_eq!(ProcessStat::sample(fake.path(), 7).unwrap(), None);
    }

    #[test]
    fn this_process_has_private_memory_and_no_more_than_is_resident() {
        let stat = ProcessStat::sample(Path::new("/"), std::process::id())
            .unwrap()
            .unwrap();
        assert!(stat.private_bytes > 0);
        assert!(stat.threads >= 1);
    }
}
