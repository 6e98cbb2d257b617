//! What a child inherits of a server, and what signals reach a loop with a descriptor table of its own.

use super::*;
use net_core::handler::FileRange;
use net_core::process::restore_for_child;
use net_core::server::{FdTable, PrivateTables};
use net_core::{Conn, Handler, Input, Loops, Peer, Server};
use std::convert::Infallible;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::sync::Arc;

/// Answers with what a child of its own has: `p` a plain one, `r` one that was restored. `f` is answered
/// with a file, which may not be sent by a call that raises no SIGPIPE.
struct Parent;

impl Handler for Parent {
    type Session = ();
    type Message = Infallible;

    fn admit(&mut self, _peer: &Peer) -> Option<()> {
        Some(())
    }

    fn on_data(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
        let _ = match input.take_all()[0] {
            b'f' => {
                let file = Arc::new(File::open("/proc/self/exe").unwrap());
                conn.send_file(FileRange::new(file, 0, 4))
            }
            kind => conn.send(child(kind == b'r').as_bytes()),
        };
    }
}

/// The signals that a child has blocked, and its RLIMIT_NOFILE, in a line.
fn child(is_restored: bool) -> String {
    let mut command = Command::new("sh");
    command.args(["-c", "echo $(grep SigBlk /proc/self/status) $(ulimit -n)"]);
    if is_restored {
        // SAFETY: the function is async-signal-safe, as it says.
        unsafe { command.pre_exec(restore_for_child) };
    }
    String::from_utf8(command.output().unwrap().stdout).unwrap()
}

fn asks(client: &mut TcpStream, what: u8) -> String {
    client.write_all(&[what]).unwrap();
    let mut line = String::new();
    BufReader::new(client).read_line(&mut line).unwrap();
    line
}

/// Signals blocked on the threads of this process that are called so.
fn blocked_on(name: &str) -> Vec<u64> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let statuses =
        tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("status")).ok());
    let of_name = statuses.filter(|status| status.starts_with(&format!("Name:\t{name}")));
    let line = |status: String| {
        let line = status.lines().find_map(|line| line.strip_prefix("SigBlk:\t"));
        u64::from_str_radix(line.unwrap(), 16).unwrap()
    };
    of_name.map(line).collect()
}

/// A child of a callback could not be ended by SIGTERM where the loop had a table of its own, wrote to a
/// closed pipe for ever after a file had been sent, and had the limit of descriptors that the server had
/// raised.
#[test]
fn a_child_has_what_the_server_was_started_with() {
    let test = "children::a_child_has_what_the_server_was_started_with";
    if part().is_none() {
        let mut other = Other::new(test, "parent");
        assert!(other.wait().success());
        return;
    }
    // As whoever starts the process may have set them: SIGUSR2 blocked, a low soft limit.
    // SAFETY: the sets and limits are plain values, made valid and alive through the calls.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGUSR2);
        assert_eq!(libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()), 0);
        let mut limit: libc::rlimit = std::mem::zeroed();
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit), 0);
        limit.rlim_cur = limit.rlim_max.min(500);
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0);
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
    let before = child(false);
    assert!(before.trim().ends_with(" 500"), "{before}");
    // SAFETY: the handlers open and close their files on their own threads, and start no thread.
    let private = FdTable::PerLoop(unsafe { PrivateTables::promise() });
    for fd_table in [FdTable::Shared, private] {
        let server = Server::new().listen("127.0.0.1:0").loops(Loops::Count(2)).fd_table(fd_table);
        let server = server.start(|_| Parent).unwrap();
        let mut client = connect(server.addrs()[0].inet().unwrap());
        client.write_all(b"f").unwrap();
        client.read_exact(&mut [0; 4]).unwrap();
        assert_eq!(asks(&mut client, b'r'), before, "{fd_table:?}");
        if fd_table == FdTable::Shared {
            let signals = |line: &str| line.split(' ').nth(1).unwrap().to_owned();
            assert_eq!(
                signals(&asks(&mut client, b'p')),
                signals(&before),
                "nothing is left blocked"
            );
        }
    }
}

/// A library's handler wrote to its own pipe, by a number that on the loop's thread was a client's socket.
#[test]
fn no_handler_runs_on_a_loop_with_a_descriptor_table_of_its_own() {
    let test = "children::no_handler_runs_on_a_loop_with_a_descriptor_table_of_its_own";
    if part().is_none() {
        let mut other = Other::new(test, "masks");
        assert!(other.wait().success());
        return;
    }
    let bit = |signal: i32| 1_u64 << (signal - 1);
    let faults =
        [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGSYS];
    let faults = faults.into_iter().fold(0, |set, fault| set | bit(fault));
    // The kernel blocks two never, and the C library keeps two for itself.
    let others = [libc::SIGKILL, libc::SIGSTOP, 32, 33].into_iter();
    let others = others.fold(0, |set, signal| set | bit(signal));
    // SAFETY: the handlers hold nothing, and start no thread.
    let private = FdTable::PerLoop(unsafe { PrivateTables::promise() });
    let server = || Server::new().listen("127.0.0.1:0").loops(Loops::Count(2));
    let running = server().fd_table(private).start(|_| Parent).unwrap();
    let loops = blocked_on("net-loop-");
    assert_eq!(loops.len(), 2);
    for blocked in loops {
        assert_eq!(blocked & faults, 0, "faults are told: {blocked:x}");
        assert_eq!(blocked | faults | others, u64::MAX, "all else is blocked: {blocked:x}");
    }
    // A thread gives itself its name, perhaps after the start.
    eventually("somebody takes them", || blocked_on("net-acceptor") == [0]);
    drop(running);
    let _running = server().start(|_| Parent).unwrap();
    assert_eq!(blocked_on("net-loop-"), [0, 0], "with one table there is no need");
}
