//! No call that a thread of the server makes may hold it up: each that is seen, by strace, is a line of
//! the table in docs/RELIABILITY.md, which says why it does not.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod common;

use common::admin::get;
use common::*;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Where the table is, and the head by which it is found.
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/RELIABILITY.md");
const HEAD: &str = "| call | on the thread of | blocks nobody, since |";

/// Calls that are only for descriptors of these kinds, by strace's word for them.
const ONLY_OF: [(&str, &str); 4] = [
    ("write", "<anon_inode:[eventfd]>"),
    ("read", "<anon_inode:[eventfd]>"),
    ("pread64", "/proc/"),
    ("openat", "\"/dev/null\""),
];

in_every_mode!(what_the_threads_of_an_echo_server_call_blocks_nobody);

/// Each call, and on which threads it may be made.
fn table() -> BTreeMap<String, BTreeSet<String>> {
    let page = fs::read_to_string(PAGE).unwrap();
    let rows = page.lines().skip_while(|line| *line != HEAD).skip(2);
    let rows = rows.take_while(|line| line.starts_with('|'));
    let mut table = BTreeMap::new();
    for row in rows {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let threads: BTreeSet<_> = cells[2].split(", ").map(str::to_owned).collect();
        assert!(cells[3].len() > 10, "a reason: {row}");
        for call in cells[1].split(", ") {
            let call = call.trim_matches('`').to_owned();
            assert!(table.insert(call, threads.clone()).is_none(), "twice: {row}");
        }
    }
    assert!(table.len() > 20, "the table is not found in {PAGE}");
    table
}

/// A server whose every call is written down.
struct Traced {
    server: Server,
    /// Threads that serve, by number.
    roles: BTreeMap<u32, &'static str>,
    folder: Folder,
}

/// `None`: this system does not let it be traced.
fn traced(start: Start) -> Option<Traced> {
    if !can_trace() {
        assert!(std::env::var_os("CI").is_none(), "under CI it must be possible to trace");
        return None;
    }
    let folder = Folder::new();
    let log = folder.0.join("calls");
    let strace = ["strace", "-f", "-qq", "-yy", "-o", log.to_str().unwrap()];
    let server = start.args(&["--no-pin", "--admin", "127.0.0.1:0"]).under(&strace).run();
    let mut roles = BTreeMap::new();
    eventually("all threads have their names", PATIENCE, || {
        let role = |name: &str| match name {
            "net-acceptor" => Some("acceptor"),
            "net-admin" => Some("admin"),
            name if name.starts_with("net-loop-") => Some("loop"),
            _ => None,
        };
        let threads = proc::threads(server.pid).into_iter();
        roles = threads.filter_map(|(name, tid)| Some((tid, role(&name)?))).collect();
        roles.len() == 4
    });
    Some(Traced { server, roles, folder })
}

impl Traced {
    /// Drains it, and looks at all that its threads have called since each waited first.
    fn finish(self) {
        let Self { server, roles, folder } = self;
        server.signal("TERM");
        let ended = server.wait(3 * PATIENCE);
        assert!(ended.status.success(), "{}", ended.log);
        let calls = fs::read_to_string(folder.0.join("calls")).unwrap();
        let (found, serving) = not_in(&table(), &roles, &calls);
        assert_eq!(serving.len(), roles.len(), "each thread has waited: {serving:?}");
        assert!(found.is_empty(), "not in the table:\n  {}", found.join("\n  "));
    }
}

/// Calls that no line of the table allows, and the threads that have waited for signals.
fn not_in(
    table: &BTreeMap<String, BTreeSet<String>>,
    roles: &BTreeMap<u32, &'static str>,
    calls: &str,
) -> (Vec<String>, BTreeSet<u32>) {
    let (mut found, mut serving) = (BTreeMap::new(), BTreeSet::new());
    for line in calls.lines() {
        let Some((tid, call)) = line.split_once(' ') else { continue };
        let (Ok(tid), call) = (tid.parse(), call.trim()) else { continue };
        let Some(&role) = roles.get(&tid) else { continue };
        // The rest of a call that was told of already, a signal, or the thread's end.
        let Some((name, arguments)) = call.split_once('(') else { continue };
        if name.contains(|c: char| !(c.is_ascii_alphanumeric() || c == '_')) {
            continue;
        }
        if name.starts_with("epoll_") && name.contains("wait") {
            serving.insert(tid);
        }
        if !serving.contains(&tid) {
            continue; // it still gets ready
        }
        let may = table.get(name).is_some_and(|threads| threads.contains(role));
        let kinds = ONLY_OF.iter().find(|(only, _)| *only == name);
        let is_of_kind = kinds.is_none_or(|(_, kind)| arguments.contains(kind));
        if !may || !is_of_kind {
            found.entry((role, name)).or_insert_with(|| format!("{role}: {call}"));
        }
    }
    (found.into_values().collect(), serving)
}

/// What the test finds, it finds: a lookup on a loop's thread, a file that is read, a write that is no ring.
#[test]
fn a_call_that_is_not_in_the_table_is_found() {
    let roles = BTreeMap::from([(7, "loop"), (8, "admin")]);
    let calls = "7 openat(AT_FDCWD, \"/etc/hosts\", O_RDONLY) = 9\n\
                 7 epoll_pwait(3, [], 256, 0, NULL, 8) = 0\n\
                 7 write(5<anon_inode:[eventfd]>, \"\\1\", 8) = 8\n\
                 7 recvfrom(9<TCP:[1->2]>, \"x\", 1, 0, NULL, NULL) = 1\n\
                 9 nanosleep({tv_sec=1}, NULL) = 0\n";
    let (found, serving) = not_in(&table(), &roles, calls);
    assert!(found.is_empty() && serving == BTreeSet::from([7]), "{found:?}");
    for call in [
        "7 write(2<pipe:[1]>, \"a line\", 6 <unfinished ...>",
        "7 nanosleep({tv_sec=1}, NULL) = 0",
        "7 openat(AT_FDCWD, \"/etc/hosts\", O_RDONLY) = 9",
        "7 accept4(3<TCP:[1]>, NULL, NULL, 0) = 4\n8 epoll_pwait(3) = 0\n8 recvmsg(3) = 0",
    ] {
        let (found, _) = not_in(&table(), &roles, &format!("{calls}{call}\n"));
        assert_eq!(found.len(), 1, "{call}: {found:?}");
    }
}

fn exchange(mut client: TcpStream, bytes: usize) {
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let (back, end) = send_all_and_read(client.try_clone().unwrap(), &pattern(bytes, 1));
    assert_eq!((back.len(), end), (bytes, End::Fin));
    let _ = client.read(&mut [0]); // it has ended
}

fn asks_the_admin(at: SocketAddr) {
    for page in ["/metrics", "/healthz", "/loops", "/connections?top=5&by=bytes", "/"] {
        assert_eq!(get(at, page).status, 200, "{page}");
    }
}

fn what_the_threads_of_an_echo_server_call_blocks_nobody(mode: Mode) {
    let place = Folder::new();
    let path = place.0.join("socket");
    let unix = format!("unix:{}", path.display());
    let start = Start::echo(mode).args(&["--listen", &unix, "--idle-timeout", "500ms"]);
    let Some(traced) = traced(start) else { return };
    let server = &traced.server;
    for n in 0..6 {
        let mut client = server.connect();
        ping(&mut client, b"word");
        if n % 2 == 0 {
            reset(client);
        }
    }
    exchange(server.connect(), 2 << 20);
    exchange(TcpStream::from(OwnedFd::from(UnixStream::connect(&path).unwrap())), 200_000);
    let mut idle = server.connect();
    assert_eq!(read_to_end(&mut idle, PATIENCE).1, End::Fin);
    asks_the_admin(server.admin());
    traced.finish();
}

/// Dials by a name, which is looked up elsewhere, and splices.
#[test]
fn what_the_threads_of_a_proxy_call_blocks_nobody() {
    let upstream = Start::echo(Mode::DEFAULT).run();
    let to = format!("localhost:{}", upstream.addr.port());
    let Some(traced) = traced(Start::proxy(Mode::DEFAULT, to)) else { return };
    let mut client = traced.server.connect();
    ping(&mut client, b"a word");
    exchange(traced.server.connect(), 2 << 20);
    let mut gone = traced.server.connect();
    ping(&mut gone, b"a word");
    reset(gone);
    asks_the_admin(traced.server.admin());
    drop(client);
    traced.server.has_connections(0);
    traced.finish();
}

#[test]
fn what_the_threads_of_a_udp_server_call_blocks_nobody() {
    let Some(traced) = traced(Start::udp_echo(Mode::DEFAULT)) else { return };
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut back = [0; 9];
    // One may be lost.
    let mut echo = || {
        let _ = client.send_to(b"a message", traced.server.addr);
        client.recv(&mut back).is_ok()
    };
    (0..5).for_each(|_| eventually("it comes back", PATIENCE, &mut echo));
    asks_the_admin(traced.server.admin());
    traced.finish();
}
