//! The system calls that std does not have: epoll, accept4, plain read and write, the limit on
//! descriptors.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// Events taken at once.
const EVENTS: usize = 256;

/// One epoll and its block of events.
pub struct Epoll {
    epoll: OwnedFd,
    events: Box<[libc::epoll_event; EVENTS]>,
}

impl Epoll {
    /// An epoll that watches nothing yet.
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes a flag and returns a descriptor or an error; touches no memory.
        let raw = checked(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: `raw` came from `epoll_create1` just above and nothing else owns it.
        let epoll = unsafe { OwnedFd::from_raw_fd(raw) };
        Ok(Self { epoll, events: Box::new([libc::epoll_event { events: 0, u64: 0 }; EVENTS]) })
    }

    /// Watches a descriptor for what `bits` say, under `token`.
    pub fn add(&self, fd: RawFd, token: u64, bits: i32) -> io::Result<()> {
        let mut event = libc::epoll_event { events: bits as u32, u64: token };
        let epoll = self.epoll.as_raw_fd();
        // SAFETY: `event` lives through the call, which only reads it.
        checked(unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &raw mut event) })?;
        Ok(())
    }

    /// Waits for events, at most `timeout_ms` (-1: for ever), and returns how many have come.
    pub fn wait(&mut self, timeout_ms: i32) -> io::Result<usize> {
        let (epoll, events) = (self.epoll.as_raw_fd(), self.events.as_mut_ptr());
        // SAFETY: `events` has room for `EVENTS` events and lives through the call.
        came(unsafe { libc::epoll_wait(epoll, events, EVENTS as i32, timeout_ms) })
    }

    /// Waits for events, at most so long, to the nanosecond, and returns how many have come.
    pub fn wait_for(&mut self, most: Duration) -> io::Result<usize> {
        let time = libc::timespec {
            tv_sec: most.as_secs().cast_signed(),
            tv_nsec: most.subsec_nanos().into(),
        };
        let (epoll, events) = (self.epoll.as_raw_fd(), self.events.as_mut_ptr());
        let (time, mask) = (&raw const time, std::ptr::null());
        // SAFETY: `events` has room for `EVENTS` events, and it and `time` live through the call. No
        // mask is given, so signals are as they were.
        came(unsafe { libc::epoll_pwait2(epoll, events, EVENTS as i32, time, mask) })
    }

    /// Token and bits of the n-th event of the last wait.
    #[inline]
    pub fn event(&self, n: usize) -> (u64, u32) {
        let event = self.events[n];
        (event.u64, event.events)
    }
}

/// Accepts one connection, non-blocking.
#[inline]
pub fn accept(listener: RawFd) -> io::Result<RawFd> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    let null = std::ptr::null_mut();
    // SAFETY: no address is asked for, so no memory is touched.
    checked(unsafe { libc::accept4(listener, null, null.cast(), flags) })
}

/// `read(2)`.
#[inline]
pub fn read(fd: RawFd, into: &mut [u8]) -> io::Result<usize> {
    // SAFETY: `into` is writable memory of that length, for the whole call.
    let got = unsafe { libc::read(fd, into.as_mut_ptr().cast(), into.len()) };
    usize::try_from(got).map_err(|_| io::Error::last_os_error())
}

/// `write(2)`. Rust programs ignore SIGPIPE, so a closed socket is an error like any other.
#[inline]
pub fn write(fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: `bytes` is readable memory of that length, for the whole call.
    let sent = unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Closes a descriptor that the caller owns as a bare number, and forgets.
pub fn close(fd: RawFd) {
    // SAFETY: touches no memory. The caller made `fd` by `accept` and owns it.
    let _ = unsafe { libc::close(fd) }; // on Linux the descriptor is free even after an error
}

/// Raises the limit on descriptors to its hard limit, for this process and those it starts.
/// Returns the limit.
pub fn raise_descriptor_limit() -> io::Result<usize> {
    let mut limit = MaybeUninit::<libc::rlimit>::uninit();
    // SAFETY: the kernel fills the whole struct, which lives through the call.
    checked(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, limit.as_mut_ptr()) })?;
    // SAFETY: the call above has succeeded, so it is filled.
    let mut limit = unsafe { limit.assume_init() };
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` is a valid struct that the kernel only reads.
    checked(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })?;
    Ok(usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX))
}

/// Asks a child process to end, by SIGTERM.
pub fn terminate(pid: u32) -> io::Result<()> {
    signal(pid, libc::SIGTERM)
}

/// Sends a signal to a child process for which the caller has not waited.
pub fn signal(pid: u32, signal: i32) -> io::Result<()> {
    // SAFETY: touches no memory. The caller has not waited for its child, so the id is still its.
    checked(unsafe { libc::kill(pid as libc::pid_t, signal) })?;
    Ok(())
}

/// Sets the soft limit on descriptors of another process (prlimit(2)), up to the hard one, which stays.
/// Returns the soft limit from before. Descriptors above it stay open.
pub fn limit_descriptors(pid: u32, soft: u64) -> io::Result<u64> {
    let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let (pid, what) = (pid as libc::pid_t, libc::RLIMIT_NOFILE);
    // SAFETY: no new limit is given, and `before` is writable and lives through the call.
    checked(unsafe { libc::prlimit(pid, what, std::ptr::null(), &raw mut before) })?;
    let limit = libc::rlimit { rlim_cur: soft.min(before.rlim_max), ..before };
    // SAFETY: `limit` is a valid struct that the kernel only reads, and the old one is not asked for.
    checked(unsafe { libc::prlimit(pid, what, &raw const limit, std::ptr::null_mut()) })?;
    Ok(before.rlim_cur)
}

/// The socket may be bound to an address without a port, which connect(2) then chooses
/// (`IP_BIND_ADDRESS_NO_PORT`): so each pair of addresses has all ports.
pub fn bind_without_port(socket: RawFd) -> io::Result<()> {
    let (one, size) = (1_i32, size_of::<i32>() as libc::socklen_t);
    // SAFETY: `one` is readable and of that size, and the kernel keeps no pointer to it.
    checked(unsafe {
        let value = (&raw const one).cast();
        libc::setsockopt(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, value, size)
    })?;
    Ok(())
}

/// Events of a wait: none, if a signal has ended it.
fn came(result: i32) -> io::Result<usize> {
    match checked(result) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
        came => Ok(came? as usize),
    }
}

fn checked(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Keeps the calling thread, and the processes it starts from now on, on these cores.
pub fn pin(cores: &[usize]) -> io::Result<()> {
    // SAFETY: all zeros is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for &core in cores {
        assert!(core < libc::CPU_SETSIZE as usize, "core {core} is beyond what a set holds");
        // SAFETY: the number is within the set, as was just checked.
        unsafe { libc::CPU_SET(core, &mut set) };
    }
    let size = size_of::<libc::cpu_set_t>();
    // SAFETY: `set` is a valid set of that size, which the kernel only reads; 0 is this thread.
    checked(unsafe { libc::sched_setaffinity(0, size, &raw const set) })?;
    Ok(())
}

/// From now on the calling thread, and the processes it starts, wait for the core when they are
/// woken, instead of taking it from who runs (`SCHED_BATCH`).
pub fn be_patient() -> io::Result<()> {
    be_scheduled(libc::SCHED_BATCH, 0)
}

/// From now on the calling thread runs only while a core has nothing else to do (`SCHED_IDLE`).
pub fn come_last() -> io::Result<()> {
    be_scheduled(libc::SCHED_IDLE, 0)
}

/// From now on the calling thread takes its core from whoever has it as soon as it is woken
/// (`SCHED_FIFO`). Needs root or CAP_SYS_NICE.
pub fn come_first() -> io::Result<()> {
    be_scheduled(libc::SCHED_FIFO, 2)
}

/// From now on the calling thread, and the processes it starts, take their cores from whoever has them but
/// [those that come first](come_first). Needs the same.
pub fn come_second() -> io::Result<()> {
    be_scheduled(libc::SCHED_FIFO, 1)
}

fn be_scheduled(policy: libc::c_int, sched_priority: libc::c_int) -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority };
    // SAFETY: `parameters` is a valid struct, which the kernel only reads; 0 is this thread.
    checked(unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) })?;
    Ok(())
}

/// From now on what this socket sends is cut into datagrams of so many bytes (`UDP_SEGMENT`).
pub fn segment_datagrams(socket: RawFd, bytes: i32) -> io::Result<()> {
    let size = size_of::<i32>() as libc::socklen_t;
    // SAFETY: `bytes` is readable and of that size, and the kernel keeps no pointer to it.
    checked(unsafe {
        let value = (&raw const bytes).cast();
        libc::setsockopt(socket, libc::SOL_UDP, libc::UDP_SEGMENT, value, size)
    })?;
    Ok(())
}

/// The cores that this thread may use.
pub fn allowed_cores() -> io::Result<Vec<usize>> {
    // SAFETY: all zeros is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    let size = size_of::<libc::cpu_set_t>();
    // SAFETY: `set` is writable and of that size; 0 is this thread.
    checked(unsafe { libc::sched_getaffinity(0, size, &raw mut set) })?;
    let all = 0..libc::CPU_SETSIZE as usize;
    // SAFETY: every number asked for is within the set.
    Ok(all.filter(|&core| unsafe { libc::CPU_ISSET(core, &set) }).collect())
}

/// CPU time that all threads of a process have used so far, those that have ended included.
pub fn cpu_time(pid: u32) -> io::Result<Duration> {
    let mut clock = 0;
    // SAFETY: `clock` is writable and lives through the call.
    let error = unsafe { libc::clock_getcpuclockid(pid as libc::pid_t, &raw mut clock) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is writable and lives through the call.
    checked(unsafe { libc::clock_gettime(clock, &raw mut time) })?;
    Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}
