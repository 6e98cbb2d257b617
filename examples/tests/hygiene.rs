//! What a server leaves and holds: descriptors, memory, threads, signals, its standard streams.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod common;

use common::*;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

in_every_mode!(
    churn_leaves_no_descriptor,
    a_storm_of_signals_disturbs_no_conversation,
    stopped_and_continued_it_goes_on,
    threads_have_names_and_cores,
    an_idle_server_sleeps,
    a_peer_that_resets_while_it_is_written_to_kills_nobody,
);

fn churn_leaves_no_descriptor(mode: Mode) {
    let server = Start::echo(mode).run();
    is_served(&server);
    server.has_connections(0);
    let before = proc::descriptor_counts(server.pid);
    let at = server.addr;
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                for n in 0..500 {
                    let mut client = connect(at);
                    match (thread + n) % 4 {
                        0 => reset(client),
                        1 => ping(&mut client, b"once"),
                        2 => drop(client),
                        _ => {
                            client.write_all(b"bytes, and away").unwrap();
                            reset(client);
                        }
                    }
                }
            });
        }
    });
    server.has_connections(0);
    eventually("descriptors are as before", PATIENCE, || {
        proc::descriptor_counts(server.pid) == before
    });
    server.finish();
}

/// Signals that are ignored, blocked or stop nothing still interrupt system calls.
fn a_storm_of_signals_disturbs_no_conversation(mode: Mode) {
    let server = Start::echo(mode).run();
    let mut client = server.connect();
    let pid = server.pid.to_string();
    let storm = format!(
        "for i in $(seq 300); do kill -s WINCH {pid}; kill -s URG {pid}; kill -s CONT {pid}; done"
    );
    let mut storm = child::spawn(Command::new("sh").args(["-c", &storm]), child::LIFE);
    let mut n = 0;
    while storm.try_wait().unwrap().is_none() {
        ping(&mut client, &pattern(1000, n));
        n += 1;
    }
    assert!(n > 0);
    drop(client);
    server.finish();
}

fn stopped_and_continued_it_goes_on(mode: Mode) {
    let server = Start::echo(mode).args(&["--idle-timeout", "30s"]).run();
    let mut client = server.connect();
    ping(&mut client, b"before");
    for _ in 0..5 {
        server.signal("STOP");
        client.write_all(b"meanwhile").unwrap();
        let mut newcomer = server.connect();
        newcomer.write_all(b"me too").unwrap();
        std::thread::sleep(Duration::from_millis(50));
        server.signal("CONT");
        let mut back = [0; 9];
        std::io::Read::read_exact(&mut client, &mut back).unwrap();
        assert_eq!(&back, b"meanwhile");
        let mut back = [0; 6];
        std::io::Read::read_exact(&mut newcomer, &mut back).unwrap();
        assert_eq!(&back, b"me too");
    }
    drop(client);
    server.finish();
}

fn threads_have_names_and_cores(mode: Mode) {
    let server = Start::echo(mode).loops(3).args(&["--pin"]).run();
    let threads = proc::loop_threads(server.pid);
    let names: Vec<_> = threads.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["net-loop-0", "net-loop-1", "net-loop-2"]);
    let allowed = cores(&proc::thread_status(server.pid, server.pid, "Cpus_allowed_list"));
    for (n, (_, tid)) in threads.iter().enumerate() {
        let own = cores(&proc::thread_status(server.pid, *tid, "Cpus_allowed_list"));
        assert_eq!(own, [allowed[n % allowed.len()]], "loop {n} of cores {allowed:?}");
    }
    let server = Start::echo(mode).args(&["--no-pin"]).run();
    for (_, tid) in proc::loop_threads(server.pid) {
        let own = cores(&proc::thread_status(server.pid, tid, "Cpus_allowed_list"));
        assert_eq!(own, allowed);
    }
}

/// `0-2,5` as numbers.
fn cores(list: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        from.parse().unwrap()..=to.parse().unwrap()
    };
    list.split(',').flat_map(range).collect()
}

/// With connections, timeouts armed and nothing to do, it uses no processor.
fn an_idle_server_sleeps(mode: Mode) {
    let args = ["--idle-timeout", "60s", "--first-byte-timeout", "60s"];
    let server = Start::echo(mode).args(&args).run();
    let mut clients = server.connect_many(50);
    clients.iter_mut().for_each(|client| ping(client, b"hello"));
    std::thread::sleep(Duration::from_millis(100));
    let before = proc::cpu_time(server.pid);
    std::thread::sleep(Duration::from_millis(700));
    let used = proc::cpu_time(server.pid) - before;
    assert!(used < Duration::from_millis(100), "{used:?} in 700 ms of silence");
}

fn a_peer_that_resets_while_it_is_written_to_kills_nobody(mode: Mode) {
    let server = Start::echo(mode).run();
    for _ in 0..30 {
        let mut client = server.connect();
        client.write_all(&vec![1; 1 << 20]).unwrap();
        reset(client);
    }
    is_served(&server);
    server.has_connections(0);
    server.finish();
}

fn in_shell(redirection: &str) -> (Command, SocketAddr) {
    in_shell_after("", redirection)
}

fn in_shell_after(first: &str, redirection: &str) -> (Command, SocketAddr) {
    // The address must be known without READY, and nobody else may be given it meanwhile: so it is
    // one at which no other test listens.
    static CALLS: AtomicU8 = AtomicU8::new(1);
    let own = [127, 77, CALLS.fetch_add(1, Ordering::Relaxed), 1];
    let free = TcpListener::bind(SocketAddr::from((own, 0))).unwrap().local_addr().unwrap();
    let mut command = Command::new("sh");
    let script = format!("{first} exec \"$0\" \"$@\" {redirection}");
    let at = free.to_string();
    command.args(["-c", &script, env!("CARGO_BIN_EXE_echo")]);
    command.args(["--listen", &at, "--loops", "2", "--log", "trace"]).stdin(Stdio::null());
    (command, free)
}

/// Serves although nobody hears it, and ends when told.
fn serves_unheard(mut command: Command, at: SocketAddr) {
    let mut server = child::spawn(&mut command, child::LIFE);
    eventually("it listens", PATIENCE, || std::net::TcpStream::connect(at).is_ok());
    for n in 0..300 {
        ping(&mut connect(at), &pattern(100, n)); // each is some lines of log
    }
    let pid = server.id().to_string();
    assert!(child::succeeds(Command::new("kill").args(["-s", "TERM", &pid])));
    let start = Instant::now();
    eventually("it ends", PATIENCE, || server.try_wait().unwrap().is_some());
    assert_eq!(server.end().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(10), "it took {:?}", start.elapsed());
}

#[test]
fn closed_standard_streams_hurt_nobody() {
    for redirection in
        [">&- 2>/dev/null", ">/dev/null 2>&-", ">&- 2>&-", "<&- >&- 2>&-", ">/dev/full 2>/dev/full"]
    {
        let (command, at) = in_shell(redirection);
        serves_unheard(command, at);
    }
}

/// Writing on would end the process by SIGXFSZ.
#[test]
fn files_at_their_size_limit_hurt_nobody() {
    let full = std::env::temp_dir().join(format!("full-{}", std::process::id()));
    let path = full.to_str().unwrap();
    let (command, at) = in_shell_after("ulimit -f 0;", &format!(">{path} 2>{path}"));
    serves_unheard(command, at);
    assert_eq!(std::fs::metadata(&full).unwrap().len(), 0);
    std::fs::remove_file(full).unwrap();
}

/// Pipes that nobody reads: the kernel takes 64 KiB, then nothing.
#[test]
fn stuck_standard_streams_hurt_nobody() {
    let (mut command, at) = in_shell("");
    let full_pipe = || {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(&[b'.'; 65536]).unwrap();
        (reader, writer)
    };
    let ((_reader, out), (_other, err)) = (full_pipe(), full_pipe());
    command.stdout(out).stderr(err);
    serves_unheard(command, at);
}

/// A server that fails says why on standard error. That was a pipe that nobody read, so the server never ended,
/// and no supervisor started it again.
#[test]
fn a_failure_that_cannot_be_said_ends_the_server_all_the_same() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap().to_string();
    let (_reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(&[b'.'; 65536]).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_echo"));
    command.args(["--listen", &at]).stdout(Stdio::null()).stderr(writer);
    let status = child::spawn(&mut command, PATIENCE).end();
    assert_eq!(status.code(), Some(1), "{status}");
}

/// A reader that went away: every write is EPIPE.
#[test]
fn broken_standard_streams_hurt_nobody() {
    let (mut command, at) = in_shell("");
    let (reader, out) = std::io::pipe().unwrap();
    command.stdout(out.try_clone().unwrap()).stderr(out);
    drop(reader);
    serves_unheard(command, at);
}

/// ETOOMANYREFS holds for users without privileges only: so many descriptors in flight.
#[test]
fn an_ordinary_user_hands_over_in_bounds() {
    if !has("setpriv") || !has("prlimit") || !is_root() {
        return;
    }
    let copy = std::env::temp_dir().join(format!("echo-{}", std::process::id()));
    std::fs::copy(env!("CARGO_BIN_EXE_echo"), &copy).unwrap();
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let nobody = [&nobody[..], &["--bounding-set=-all", "--inh-caps=-all"]].concat();
    let mode = Mode { fd_table: "per-loop", ..Mode::DEFAULT };
    let server = Start::echo(mode)
        .loops(4)
        .program(copy.to_str().unwrap())
        .under(&nobody)
        .under(&["prlimit", "--nofile=80:80"])
        .run();
    std::fs::remove_file(&copy).unwrap();
    // Stopped, so that all of them arrive in one turn.
    for _ in 0..3 {
        server.signal("STOP");
        let mut clients = server.connect_many(120);
        server.signal("CONT");
        clients.iter_mut().for_each(|client| ping(client, b"every one is served"));
        server.is_spread(&[30; 4]);
        drop(clients);
        server.has_connections(0);
    }
    server.finish();
}
