//! What this process uses of the machine. No read opens a descriptor, so it works when no descriptor is left.

use super::descriptors;
use std::fs::{self, File};
use std::mem::MaybeUninit;
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// Reads the usage. Make it early, because it opens the files that it needs.
#[derive(Debug)]
pub(crate) struct Process {
    /// `None`, also below: this system has no such file in /proc.
    statm: Option<File>,
    sockstat: Option<File>,
    page_bytes: u64,
}

/// The usage. `None`: this system does not report the value.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    /// Memory in RAM, including shared pages.
    pub(crate) resident_bytes: Option<u64>,
    /// Open descriptors in the caller's descriptor table (Linux 6.2).
    pub(crate) open_descriptors: Option<u64>,
    /// RLIMIT_NOFILE: how many descriptors each table may have.
    pub(crate) descriptors_max: Option<u64>,
    /// The kernel's memory for the TCP sockets of all processes.
    pub(crate) tcp_memory_bytes: Option<u64>,
    /// CPU time of all threads, in user mode and in the kernel.
    pub(crate) cpu: Option<Duration>,
}

impl Process {
    pub(crate) fn new() -> Self {
        // SAFETY: sysconf takes no pointer.
        let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        let page_bytes = u64::try_from(page_bytes).unwrap_or(4096);
        let open = |path| File::open(path).ok();
        let (statm, sockstat) = (open("/proc/self/statm"), open("/proc/net/sockstat"));
        Self { statm, sockstat, page_bytes }
    }

    pub(crate) fn usage(&self) -> Usage {
        Usage {
            resident_bytes: self.resident_pages().map(|pages| pages * self.page_bytes),
            open_descriptors: open_descriptors(),
            descriptors_max: descriptors_max(),
            tcp_memory_bytes: self.tcp_pages().map(|pages| pages * self.page_bytes),
            cpu: cpu(),
        }
    }

    /// The second number of proc_pid_statm(5).
    fn resident_pages(&self) -> Option<u64> {
        let mut text = [0; 128];
        let text = read(self.statm.as_ref()?, &mut text)?;
        text.split_whitespace().nth(1)?.parse().ok()
    }

    /// The `mem` of the TCP line, in pages: proc(5), /proc/net/sockstat.
    fn tcp_pages(&self) -> Option<u64> {
        let mut text = [0; 512];
        let text = read(self.sockstat.as_ref()?, &mut text)?;
        let line = text.lines().find_map(|line| line.strip_prefix("TCP:"))?;
        let mut words = line.split_whitespace();
        words.find(|word| *word == "mem").and_then(|_| words.next())?.parse().ok()
    }
}

/// Reads the present text of the file, without opening it again.
fn read<'t>(file: &File, into: &'t mut [u8]) -> Option<&'t str> {
    let length = file.read_at(into, 0).ok()?;
    std::str::from_utf8(&into[..length]).ok()
}

/// Since Linux 6.2 the size of the directory is the number of descriptors (proc_pid_fd(5)). Before, the size
/// is 0, and counting a million entries would take longer than a scrape may.
fn open_descriptors() -> Option<u64> {
    let length = fs::metadata("/proc/thread-self/fd").ok()?.len();
    Some(length).filter(|length| *length > 0)
}

fn descriptors_max() -> Option<u64> {
    descriptors::limit().ok().map(|limit| limit.rlim_cur)
}

fn cpu() -> Option<Duration> {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: `usage` is a writable rusage.
    if unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: rusage is plain integers, valid when zeroed and as the kernel fills it.
    let usage = unsafe { usage.assume_init() };
    let time = |t: libc::timeval| {
        Duration::from_secs(t.tv_sec as u64) + Duration::from_micros(t.tv_usec as u64)
    };
    Some(time(usage.ru_utime) + time(usage.ru_stime))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_descriptors_follow_what_the_process_does() {
        let process = Process::new();
        let before = process.usage();
        let block = std::hint::black_box(vec![1u8; 64 << 20]);
        let files: Vec<File> = (0..500).map(|_| File::open("/dev/null").unwrap()).collect();
        let after = process.usage();
        // It does not check the growth, because other tests of this process free more memory meanwhile.
        let resident = after.resident_bytes.unwrap();
        assert!(resident >= block.len() as u64, "{resident} of {} bytes", block.len());
        if let (Some(before), Some(after)) = (before.open_descriptors, after.open_descriptors) {
            // Other tests of this process open and close some hundred descriptors meanwhile.
            assert!(after + 300 >= before + files.len() as u64, "{before} and {after}");
        }
        assert!(after.descriptors_max.unwrap() > 50);
        assert!(after.tcp_memory_bytes.is_some());
        assert!(after.cpu >= before.cpu && after.cpu.unwrap() > Duration::ZERO);
    }
}
