//! The limits of this machine on the number of connections.
//!
//! This file only reads the limits. [`Server::doctor`](crate::Server::doctor) computes how many
//! connections each limit allows.

mod cgroup;
#[doc(hidden)]
pub mod proc_file;

pub use proc_file::ProbeError;
use proc_file::{Root, kib_line};
use std::path::Path;
use std::time::Duration;

/// The total time for which the CPU quotas of this process's control group, and of the groups above it,
/// have held threads back so far, summed over all cores. `None`: no group reports it.
pub(crate) fn throttled() -> Option<Duration> {
    cgroup::throttled(&Root::new(Path::new("/")))
}

/// The memory of kernel and process that an idle connection takes at the server's end, in bytes, for TCP
/// over IPv4 on Linux 6.18, x86-64. `docs/C10M.md` has the parts of this number, and how they were
/// measured.
pub const BYTES_PER_IDLE_CONNECTION: u64 = 4_151;

/// What the kernel reports about itself. `None` means that the kernel has no such file. Examples are an
/// older kernel, a container's network namespace, and a module that is not loaded.
///
/// With the feature `serde`, serde can write and read this type.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Machine {
    /// The number of cores that this process may use. Affinity and cgroup quota are taken into account.
    pub cores: u32,
    /// The kernel's release, such as `6.18.44`.
    pub kernel: Option<String>,
    /// All memory, in bytes, or the control group's limit if that is lower.
    pub memory_total_bytes: u64,
    /// The memory that could be used without swapping, in bytes, when it was read.
    pub memory_available_bytes: u64,
    /// The control group's file that limits the memory to less than the machine has. `None` if no group
    /// does.
    pub memory_limited_by: Option<String>,
    /// The soft limit on the size of one descriptor table. `u64::MAX` is "unlimited".
    pub nofile_soft: u64,
    /// The hard limit, up to which every process may raise its own soft limit.
    pub nofile_hard: u64,
    /// `fs.nr_open`: how far the hard limit itself can be raised.
    pub nr_open: Option<u64>,
    /// `fs.file-max`: the most open files of the whole system.
    pub file_max: Option<u64>,
    /// The open files of the whole system when they were read, from `fs.file-nr`.
    pub files_open: Option<u64>,
    /// `net.ipv4.ip_local_port_range`: the first and the last port that the kernel picks for a connect.
    pub port_range: Option<[u64; 2]>,
    /// `net.ipv4.tcp_mem`: low, pressure and maximum, in pages of buffered bytes.
    pub tcp_mem_pages: Option<[u64; 3]>,
    /// `fs.epoll.max_user_watches`: the most registrations in all epolls of one user.
    pub max_user_watches: Option<u64>,
    /// The size of the connection-tracking table, if the module is there.
    pub conntrack_max: Option<u64>,
    /// The entries in the connection-tracking table when it was read. Zero if no firewall rule uses it.
    pub conntrack_count: Option<u64>,
    /// `net.core.somaxconn`: the longest accept queue.
    pub somaxconn: Option<u64>,
    /// `net.ipv4.tcp_max_orphans`: the most sockets that no process holds any more and that still have
    /// bytes to send.
    pub tcp_max_orphans: Option<u64>,
    /// `net.ipv4.tcp_max_tw_buckets`: the most sockets in TIME_WAIT.
    pub tcp_max_tw_buckets: Option<u64>,
}

impl Machine {
    /// Reads the limits from the files below `root`, which is `/` except in tests. The number of cores
    /// always comes from the running system. Any thread may call this. It reads some twenty small files.
    ///
    /// # Errors
    /// Returns an error if `/proc/meminfo` or `/proc/self/limits` is missing, or if an existing file
    /// cannot be read or understood. The error names the file.
    pub fn probe(root: &Path) -> Result<Self, ProbeError> {
        let root = Root::new(root);
        let memory = Memory::probe(&root)?;
        let [nofile_soft, nofile_hard] = nofile(&root)?;
        let kernel = root.text("/proc/sys/kernel/osrelease")?;
        Ok(Self {
            cores: cores(),
            kernel: kernel.map(|text| text.trim().to_owned()),
            memory_total_bytes: memory.total_bytes,
            memory_available_bytes: memory.available_bytes,
            memory_limited_by: memory.limited_by,
            nofile_soft,
            nofile_hard,
            nr_open: root.number("/proc/sys/fs/nr_open")?,
            file_max: root.number("/proc/sys/fs/file-max")?,
            files_open: root.number("/proc/sys/fs/file-nr")?,
            port_range: root.numbers("/proc/sys/net/ipv4/ip_local_port_range")?,
            tcp_mem_pages: root.numbers("/proc/sys/net/ipv4/tcp_mem")?,
            max_user_watches: root.number("/proc/sys/fs/epoll/max_user_watches")?,
            conntrack_max: root.number("/proc/sys/net/netfilter/nf_conntrack_max")?,
            conntrack_count: root.number("/proc/sys/net/netfilter/nf_conntrack_count")?,
            somaxconn: root.number("/proc/sys/net/core/somaxconn")?,
            tcp_max_orphans: root.number("/proc/sys/net/ipv4/tcp_max_orphans")?,
            tcp_max_tw_buckets: root.number("/proc/sys/net/ipv4/tcp_max_tw_buckets")?,
        })
    }

    /// The number of descriptors that one table can hold after the soft limit is raised to the hard
    /// limit. `fs.nr_open` is a bound too, because it may have been lowered after the hard limit was set.
    pub fn descriptors_per_table(&self) -> u64 {
        self.nofile_hard.min(self.nr_open.unwrap_or(u64::MAX))
    }
}

/// The memory limits: those of `/proc/meminfo`, or of a control group that allows less.
struct Memory {
    total_bytes: u64,
    available_bytes: u64,
    limited_by: Option<String>,
}

impl Memory {
    fn probe(root: &Root<'_>) -> Result<Self, ProbeError> {
        const FILE: &str = "/proc/meminfo";
        let text = root.required_text(FILE)?;
        let bytes_of = |key| kib_line(&text, key).ok_or_else(|| root.strange(FILE, key));
        let total_bytes = bytes_of("MemTotal")?;
        let available_bytes = bytes_of("MemAvailable")?;
        let machine = Self { total_bytes, available_bytes, limited_by: None };
        Ok(match cgroup::memory(root)? {
            Some(group) if group.available_bytes < available_bytes => Self {
                total_bytes: total_bytes.min(group.limit_bytes),
                available_bytes: group.available_bytes,
                limited_by: Some(group.file),
            },
            _ => machine,
        })
    }
}

/// The soft and the hard limit, from the line `Max open files  20000  20000  files`.
fn nofile(root: &Root<'_>) -> Result<[u64; 2], ProbeError> {
    const FILE: &str = "/proc/self/limits";
    const KEY: &str = "Max open files";
    let text = root.required_text(FILE)?;
    let line = text.lines().find_map(|line| line.strip_prefix(KEY));
    let mut words = line.unwrap_or_default().split_whitespace();
    let mut next = || match words.next() {
        Some("unlimited") => Some(u64::MAX),
        Some(word) => word.parse().ok(),
        None => None,
    };
    match (next(), next()) {
        (Some(soft), Some(hard)) => Ok([soft, hard]),
        _ => Err(root.strange(FILE, KEY)),
    }
}

fn cores() -> u32 {
    // If the system cannot report the number, one core is the safe answer.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    u32::try_from(cores).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::proc_file::fake::FakeRoot;
    use super::*;

    const LIMITS: &str = "Limit                     Soft Limit           Hard Limit           Units\n\
        Max file size             unlimited            unlimited            bytes\n\
        Max open files            1024                 20000                files\n";

    fn smallest() -> FakeRoot {
        let fake = FakeRoot::new();
        fake.write("proc/meminfo", "MemTotal: 2000 kB\nMemFree: 5 kB\nMemAvailable: 1000 kB\n")
            .write("proc/self/limits", LIMITS);
        fake
    }

    #[test]
    fn files_that_are_missing_are_none() {
        let machine = Machine::probe(smallest().path()).unwrap();
        assert_eq!(machine.memory_total_bytes, 2000 * 1024);
        assert_eq!(machine.memory_available_bytes, 1000 * 1024);
        assert_eq!((machine.nofile_soft, machine.nofile_hard), (1024, 20000));
        assert!(machine.cores >= 1);
        assert_eq!(machine.file_max, None);
        assert_eq!(machine.conntrack_count, None);
        assert_eq!(machine.descriptors_per_table(), 20000);
    }

    #[test]
    fn every_file_lands_in_its_field() {
        let fake = smallest();
        fake.write("proc/sys/kernel/osrelease", "6.18.44\n")
            .write("proc/sys/fs/nr_open", "15000\n")
            .write("proc/sys/fs/file-max", "2466183\n")
            .write("proc/sys/fs/file-nr", "497\t0\t2466183\n")
            .write("proc/sys/fs/epoll/max_user_watches", "5491533\n")
            .write("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n")
            .write("proc/sys/net/ipv4/tcp_mem", "287901\t383869\t575802\n")
            .write("proc/sys/net/ipv4/tcp_max_orphans", "131072\n")
            .write("proc/sys/net/ipv4/tcp_max_tw_buckets", "131073\n")
            .write("proc/sys/net/core/somaxconn", "4096\n")
            .write("proc/sys/net/netfilter/nf_conntrack_max", "262144\n")
            .write("proc/sys/net/netfilter/nf_conntrack_count", "7\n");
        let machine = Machine::probe(fake.path()).unwrap();
        assert_eq!(machine.kernel.as_deref(), Some("6.18.44"));
        assert_eq!(machine.file_max, Some(2_466_183));
        assert_eq!(machine.files_open, Some(497));
        assert_eq!(machine.max_user_watches, Some(5_491_533));
        assert_eq!(machine.port_range, Some([32768, 60999]));
        assert_eq!(machine.tcp_mem_pages, Some([287_901, 383_869, 575_802]));
        assert_eq!(machine.tcp_max_orphans, Some(131_072));
        assert_eq!(machine.tcp_max_tw_buckets, Some(131_073));
        assert_eq!(machine.somaxconn, Some(4096));
        assert_eq!((machine.conntrack_max, machine.conntrack_count), (Some(262_144), Some(7)));
        assert_eq!(machine.descriptors_per_table(), 15000, "nr_open is lower than the hard limit");
    }

    #[test]
    fn control_group_below_the_machine_binds() {
        let fake = smallest();
        fake.write("proc/self/cgroup", "0::/box\n")
            .write("sys/fs/cgroup/box/memory.max", "102400\n")
            .write("sys/fs/cgroup/box/memory.current", "2400\n");
        let machine = Machine::probe(fake.path()).unwrap();
        assert_eq!(machine.memory_total_bytes, 102_400);
        assert_eq!(machine.memory_available_bytes, 100_000);
        assert_eq!(machine.memory_limited_by.as_deref(), Some("/sys/fs/cgroup/box/memory.max"));
    }

    #[test]
    fn unlimited_descriptors_are_bound_by_nr_open_alone() {
        let fake = smallest();
        fake.write("proc/self/limits", "Max open files  unlimited  unlimited  files\n")
            .write("proc/sys/fs/nr_open", "1048576\n");
        let machine = Machine::probe(fake.path()).unwrap();
        assert_eq!(machine.nofile_hard, u64::MAX);
        assert_eq!(machine.descriptors_per_table(), 1_048_576);
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said_with_its_name() {
        let fake = FakeRoot::new();
        let error = Machine::probe(fake.path()).unwrap_err().to_string();
        assert!(error.contains("proc/meminfo"), "{error}");
        let fake = smallest();
        fake.write("proc/self/limits", "Max open files  few  many  files\n");
        let error = Machine::probe(fake.path()).unwrap_err().to_string();
        assert!(error.contains("limits: found no Max open files"), "{error}");
        let fake = smallest();
        fake.write("proc/meminfo", "MemTotal: 2000 kB\n");
        let error = Machine::probe(fake.path()).unwrap_err().to_string();
        assert!(error.contains("found no MemAvailable"), "{error}");
    }

    #[test]
    fn this_machine_can_be_looked_at() {
        let machine = Machine::probe(Path::new("/")).unwrap();
        assert!(machine.memory_total_bytes >= machine.memory_available_bytes);
        assert!(machine.nofile_hard >= machine.nofile_soft);
    }
}
