//! The kernel's own counts at this moment: sockets, memory, objects.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::slabs::Slabs;
use net_core::process::proc_file::{ProbeError, Root, kib_line};

/// `/proc/net/sockstat` and `sockstat6`.
///
/// The counts have different scopes. Sockets *in use* and in TIME_WAIT are counted for the reader's network
/// namespace. Allocated and orphaned sockets and buffers are counted for the whole system. The kernel keeps
/// counters per core, and sums them while they change. So a reading during a burst is close and not exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketStat {
    /// TCP sockets over IPv4 with an address. Listeners and *both* ends of a loopback connection count.
    /// TIME_WAIT and unfinished handshakes do not.
    pub in_use: u64,
    /// The same over IPv6. A connection that a dual-stack listener accepts from an IPv4 client is counted
    /// here.
    pub in_use_v6: u64,
    /// TCP sockets that no process holds, and that still have to send or wait. System-wide.
    pub orphans: u64,
    /// Connections in TIME_WAIT, which are not sockets any more.
    pub time_wait: u64,
    /// TCP sockets that exist, also sockets without an address. System-wide.
    pub allocated: u64,
    /// Pages charged to TCP for buffered bytes, against `tcp_mem`. System-wide.
    pub buffered_pages: u64,
}

impl SocketStat {
    /// Reads it now.
    ///
    /// # Errors
    /// When `/proc/net/sockstat` is missing, or either file cannot be read or understood.
    pub fn sample(root: &Root<'_>) -> Result<Self, ProbeError> {
        const FILE: &str = "/proc/net/sockstat";
        let v4 = root.required_text(FILE)?;
        let v6 = root.text("/proc/net/sockstat6")?.unwrap_or_default();
        let number = |name| field(&v4, "TCP:", name).ok_or_else(|| root.strange(FILE, "TCP line"));
        Ok(Self {
            in_use: number("inuse")?,
            in_use_v6: field(&v6, "TCP6:", "inuse").unwrap_or(0),
            orphans: number("orphan")?,
            time_wait: number("tw")?,
            allocated: number("alloc")?,
            buffered_pages: number("mem")?,
        })
    }

    /// TCP sockets in use over either protocol.
    pub fn in_use_in_all(&self) -> u64 {
        self.in_use.saturating_add(self.in_use_v6)
    }

    /// Open connections by the kernel's count. `before` is a reading from before the first connection, and
    /// must include all listeners. `ends` of each connection are on this machine.
    pub fn connections_since(&self, before: &Self, ends: u64) -> u64 {
        self.in_use_in_all().saturating_sub(before.in_use_in_all()) / ends.max(1)
    }
}

/// The number after `name` on the line that starts with `line`: `TCP: inuse 2 orphan 0 …`.
fn field(text: &str, line: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|text| text.strip_prefix(line))?;
    let mut words = rest.split_whitespace();
    words.find(|&word| word == name)?;
    words.next()?.parse().ok()
}

/// The values of `/proc/meminfo` that sockets change. All in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryStat {
    /// The memory that the kernel believes to be usable. It takes the inodes and dentries of open sockets for
    /// reclaimable. That is too much by about 2.1 KB for each loopback pair.
    pub available_bytes: u64,
    /// Memory that is not used at all.
    pub free_bytes: u64,
    /// All object caches.
    pub slab_bytes: u64,
    /// The caches that are never given back under pressure.
    pub slab_unreclaimable_bytes: u64,
}

impl MemoryStat {
    /// Reads it now.
    ///
    /// # Errors
    /// When `/proc/meminfo` is missing, or cannot be read or understood.
    pub fn sample(root: &Root<'_>) -> Result<Self, ProbeError> {
        const FILE: &str = "/proc/meminfo";
        let text = root.required_text(FILE)?;
        let bytes_of = |key| kib_line(&text, key).ok_or_else(|| root.strange(FILE, key));
        Ok(Self {
            available_bytes: bytes_of("MemAvailable")?,
            free_bytes: bytes_of("MemFree")?,
            slab_bytes: bytes_of("Slab")?,
            slab_unreclaimable_bytes: bytes_of("SUnreclaim")?,
        })
    }
}

/// All counts, read together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelStat {
    /// Sockets.
    pub sockets: SocketStat,
    /// Memory.
    pub memory: MemoryStat,
    /// Objects. `None` unless the reader is root.
    pub slabs: Option<Slabs>,
}

impl KernelStat {
    /// Reads everything now; `root` is `/` in production. Takes about a millisecond.
    ///
    /// # Errors
    /// When a file that every kernel has is missing, or one cannot be read or understood.
    pub fn sample(root: &Path) -> Result<Self, ProbeError> {
        let root = Root::new(root);
        Ok(Self {
            sockets: SocketStat::sample(&root)?,
            memory: MemoryStat::sample(&root)?,
            slabs: Slabs::sample(&root)?,
        })
    }

    /// The kernel memory taken since `before`, in bytes: by the caches of sockets if both readings have them,
    /// otherwise by all slab memory. Never below zero.
    pub fn kernel_bytes_since(&self, before: &Self) -> u64 {
        match (&self.slabs, &before.slabs) {
            (Some(now), Some(before)) => now.bytes_since(before),
            _ => self.slab_bytes_since(before),
        }
    }

    /// All slab memory taken since `before`, in bytes. It includes what other programs took meanwhile.
    pub fn slab_bytes_since(&self, before: &Self) -> u64 {
        self.memory.slab_bytes.saturating_sub(before.memory.slab_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake_root::FakeRoot;
    use super::*;

    fn fake() -> FakeRoot {
        let fake = FakeRoot::new();
        let tcp = "TCP: inuse 2002 orphan 1 tw 3 alloc 2005 mem 154\n";
        fake.write("proc/net/sockstat", &format!("sockets: used 18\n{tcp}UDP: inuse 9 mem 8\n"))
            .write("proc/net/sockstat6", "TCP6: inuse 4\nUDP6: inuse 1\n")
            .write(
                "proc/meminfo",
                "MemFree: 3 kB\nMemAvailable: 5 kB\nSlab: 7 kB\nSUnreclaim: 2 kB\n",
            );
        fake
    }

    #[test]
    fn sockets_are_read_from_the_tcp_lines() {
        let stat = SocketStat::sample(&fake().root()).unwrap();
        assert_eq!((stat.in_use, stat.in_use_v6, stat.in_use_in_all()), (2002, 4, 2006));
        assert_eq!((stat.orphans, stat.time_wait), (1, 3));
        assert_eq!((stat.allocated, stat.buffered_pages), (2005, 154));
    }

    #[test]
    fn both_ends_on_loopback_are_one_connection() {
        let stat = SocketStat::sample(&fake().root()).unwrap();
        let before = SocketStat { in_use: 2, in_use_v6: 4, ..SocketStat::default() };
        assert_eq!(stat.connections_since(&before, 2), 1000);
        assert_eq!(stat.connections_since(&before, 1), 2000);
    }

    #[test]
    fn growth_is_by_slab_where_objects_cannot_be_read() {
        let fake = fake();
        let before = KernelStat::sample(fake.path()).unwrap();
        let mut now = before;
        now.memory.slab_bytes += 1000;
        assert_eq!(now.kernel_bytes_since(&before), 1000);
        assert_eq!(before.kernel_bytes_since(&now), 0);
    }

    #[test]
    fn growth_is_by_the_caches_of_sockets_where_both_readings_have_them() {
        let with = |socket_bytes| KernelStat {
            slabs: Some(Slabs { socket_bytes, ..Slabs::default() }),
            ..KernelStat::default()
        };
        assert_eq!(with(75).kernel_bytes_since(&with(5)), 70);
        assert_eq!(with(5).kernel_bytes_since(&with(75)), 0);
        assert_eq!(with(75).kernel_bytes_since(&KernelStat::default()), 0);
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = KernelStat::sample(FakeRoot::new().path()).unwrap_err().to_string();
        assert!(error.contains("sockstat"), "{error}");
        let fake = fake();
        fake.write("proc/net/sockstat", "sockets: used 18\n");
        let error = KernelStat::sample(fake.path()).unwrap_err().to_string();
        assert!(error.contains("sockstat: found no TCP line"), "{error}");
    }

    #[test]
    fn this_machine_can_be_sampled() {
        let stat = KernelStat::sample(Path::new("/")).unwrap();
        assert!(stat.memory.slab_bytes >= stat.memory.slab_unreclaimable_bytes);
    }
}
