//! What /proc says of a process.

use super::{PATIENCE, child, eventually};
use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::Duration;

/// Clock ticks in a second, in /proc/PID/stat (sysconf _SC_CLK_TCK; 100 on every Linux).
const TICKS: u64 = 100;

/// Processor time that it has used, all threads together.
pub fn cpu_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after_name = stat.rsplit_once(')').unwrap().1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 1000 / TICKS)
}

/// Resident memory, in KiB.
pub fn rss_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Memory that it shares with nobody, in KiB.
pub fn private_kib(pid: u32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let private = rollup.lines().filter(|line| line.starts_with("Private_"));
    private.map(|line| line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()).sum()
}

/// Its threads: name and number.
pub fn threads(pid: u32) -> Vec<(String, u32)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let mut threads: Vec<_> = tasks
        .filter_map(|task| {
            let name = fs::read_to_string(task.path().join("comm")).ok()?;
            Some((name.trim().to_owned(), task.file_name().to_str()?.parse().ok()?))
        })
        .collect();
    threads.sort();
    threads
}

/// The loops' threads.
pub fn loop_threads(pid: u32) -> Vec<(String, u32)> {
    threads(pid).into_iter().filter(|(name, _)| name.starts_with("net-loop")).collect()
}

/// One line of a thread's status, without its name.
pub fn thread_status(pid: u32, tid: u32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/task/{tid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_start_matches(':').trim().to_owned()
}

/// What the descriptors of one thread's table are: by number. Empty if the thread has ended,
/// as the one does that says READY.
pub fn descriptors(pid: u32, tid: u32) -> BTreeMap<u32, String> {
    let entries = match fs::read_dir(format!("/proc/{pid}/task/{tid}/fd")) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return BTreeMap::new(),
        entries => entries.unwrap(),
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.parse().ok()?;
            let target = fs::read_link(entry.path()).ok()?;
            Some((number, target.to_string_lossy().into_owned()))
        })
        .collect()
}

/// How many descriptors each thread's table has. Threads of one table say the same.
pub fn descriptor_counts(pid: u32) -> Vec<(String, usize)> {
    let threads = threads(pid).into_iter().filter(|(name, _)| name.starts_with("net-"));
    threads.map(|(name, tid)| (name, descriptors(pid, tid).len())).collect()
}

/// Of every loop, how many connections its epoll watches. (An epoll's fdinfo has a line for each
/// descriptor that it watches.) The acceptor's epoll, with none, is left out.
pub fn watched_connections(pid: u32) -> Vec<usize> {
    let mut counts: BTreeMap<(String, u32), usize> = BTreeMap::new();
    let threads: Vec<_> =
        threads(pid).into_iter().filter(|(name, _)| name.starts_with("net-")).collect();
    let mut tables: Vec<BTreeMap<u32, String>> = Vec::new();
    for (name, tid) in &threads {
        let table = descriptors(pid, *tid);
        if tables.contains(&table) {
            continue; // the same table, seen from another of its threads
        }
        for number in table.iter().filter(|(_, to)| to.contains("eventpoll")).map(|(n, _)| *n) {
            let info = fs::read_to_string(format!("/proc/{pid}/task/{tid}/fdinfo/{number}"));
            let info = info.unwrap_or_default();
            let watched = info.lines().filter(|line| is_connection(line)).count();
            counts.insert((name.clone(), number), watched);
        }
        tables.push(table);
    }
    let mut counts: Vec<usize> = counts.into_values().collect();
    counts.sort_unstable();
    let loops = threads.iter().filter(|(name, _)| name.starts_with("net-loop")).count();
    counts.drain(..counts.len().saturating_sub(loops));
    counts
}

/// `tfd: 9 events: 8000201f data: 2000000001 …`: the token of a connection has its generation in
/// the lower half; those of listeners and wakers have 0 there.
fn is_connection(line: &str) -> bool {
    let token = line.split("data:").nth(1).and_then(|rest| rest.split_whitespace().next());
    let token = token.and_then(|token| u64::from_str_radix(token, 16).ok());
    line.starts_with("tfd:") && token.is_some_and(|token| token as u32 != 0)
}

/// Connections to `port` in a state, by its number in /proc/net/tcp (8: CLOSE_WAIT).
pub fn count_in_state(port: u16, state: u8) -> usize {
    let state = format!("{state:02X}");
    sockets_at(port).iter().filter(|fields| fields[3] == state).count()
}

/// Bytes that the kernel holds for the peers of the connections to `port`: all that they have not
/// acknowledged, sent or not.
pub fn unacknowledged(port: u16) -> u64 {
    let of = |fields: &Vec<String>| u64::from_str_radix(fields[4].split(':').next()?, 16).ok();
    sockets_at(port).iter().filter(|fields| fields[3] == "01").filter_map(of).sum()
}

/// The lines of /proc/net/tcp of sockets whose own port this is, in fields.
fn sockets_at(port: u16) -> Vec<Vec<String>> {
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let port = format!(":{port:04X}");
    let lines = table.lines().skip(1);
    lines
        .map(|line| line.split_whitespace().map(ToOwned::to_owned).collect::<Vec<_>>())
        .filter(|fields| fields[1].ends_with(&port))
        .collect()
}

/// The one process that `pid` has started.
pub fn only_child(pid: u32) -> u32 {
    let mut child = None;
    eventually("it has a child", super::PATIENCE, || {
        let path = format!("/proc/{pid}/task/{pid}/children");
        let children = fs::read_to_string(path).unwrap_or_default();
        child = children.split_whitespace().next().and_then(|pid| pid.parse().ok());
        child.is_some()
    });
    child.unwrap()
}

/// The ports on which this process listens, by /proc/net/tcp or tcp6.
pub fn listening(pid: u32, file: &str) -> Vec<u16> {
    let own: Vec<String> = threads(pid)
        .into_iter()
        .flat_map(|(_, tid)| descriptors(pid, tid).into_values())
        .filter(|target| target.starts_with("socket:["))
        .collect();
    let table = fs::read_to_string(format!("/proc/{pid}/net/{file}")).unwrap_or_default();
    let lines = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines
        .filter(|fields| fields[3] == "0A" && own.contains(&format!("socket:[{}]", fields[9])))
        .map(|fields| u16::from_str_radix(fields[1].rsplit(':').next().unwrap(), 16).unwrap())
        .collect()
}

/// Sets the limit of open descriptors of a running process.
pub fn limit_descriptors(pid: u32, limit: usize) {
    let limit = format!("--nofile={limit}:");
    let mut prlimit = Command::new("prlimit");
    let is_set = child::succeeds(prlimit.args(["--pid", &pid.to_string(), &limit]));
    assert!(is_set, "prlimit --pid {pid} {limit}");
}

/// Raises this test's own limit of open descriptors to the hard one, and returns it.
pub fn raise_own_limit() -> usize {
    let pid = std::process::id().to_string();
    let mut prlimit = Command::new("prlimit");
    prlimit.args(["--pid", &pid, "--nofile", "--output=HARD", "--noheadings"]);
    let hard = child::output(&mut prlimit, PATIENCE).stdout;
    let hard = String::from_utf8(hard).ok().and_then(|hard| hard.trim().parse().ok());
    let Some(hard) = hard else { return 1024 };
    limit_descriptors(std::process::id(), hard);
    hard
}
