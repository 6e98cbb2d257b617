//! Callbacks that take too long: found while they run, named, counted, and felt by nobody else.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod common;

use common::admin::{get, metrics, sum};
use common::{PATIENCE, connect, eventually, ping, read_to_end};
use net_core::handler::Callback;
use net_core::{
    CloseReason, Conn, Handler, Input, Limits, LoopContext, Loops, Peer, Running, Server,
};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::Duration;

/// Sleeps in the callback that the server was made to sleep in; echoes.
struct Sleeper {
    sleeps_in: Callback,
    time: Duration,
}

impl Sleeper {
    fn runs(&self, callback: Callback) {
        if self.sleeps_in == callback {
            sleep(self.time);
        }
    }
}

struct Session(Option<Duration>);

impl Drop for Session {
    fn drop(&mut self) {
        sleep(self.0.unwrap_or_default());
    }
}

impl Handler for Sleeper {
    type Session = Session;
    type Message = ();

    fn admit(&mut self, _peer: &Peer) -> Option<Session> {
        self.runs(Callback::Admit);
        Some(Session((self.sleeps_in == Callback::Drop).then_some(self.time)))
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) {
        self.runs(Callback::Open);
        if self.sleeps_in == Callback::Timer {
            conn.event_loop().after(Duration::from_millis(1), 0);
        }
        if self.sleeps_in == Callback::Deadline {
            conn.set_deadline(Some(Duration::from_millis(1)));
        }
    }

    /// A line that says so makes it sleep; every other is sent back.
    fn on_data(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
        if input.peek() == b"sleep\n" {
            sleep(self.time);
        }
        let _ = conn.echo(input); // refused only when the connection is ending
    }

    fn on_end(&mut self, conn: &mut Conn<'_, Self>) {
        self.runs(Callback::End);
        conn.finish();
    }

    fn on_deadline(&mut self, _conn: &mut Conn<'_, Self>) {
        self.runs(Callback::Deadline);
    }

    fn on_close(&mut self, _conn: &mut Conn<'_, Self>, _why: &CloseReason) {
        self.runs(Callback::Close);
    }

    fn on_message(&mut self, _here: &mut LoopContext<'_, Self>, (): ()) {
        self.runs(Callback::Message);
    }

    fn on_timer(&mut self, _here: &mut LoopContext<'_, Self>, _tag: u64) {
        self.runs(Callback::Timer);
    }
}

fn start(sleeps_in: Callback, time: Duration, threshold: Duration) -> Running<()> {
    let limits = Limits {
        stall_threshold: Some(threshold),
        log_every: Duration::from_millis(1),
        ..Limits::default()
    };
    let server = Server::new().listen("127.0.0.1:0").admin("127.0.0.1:0").loops(Loops::Count(2));
    let server = server.pin(false).limits(limits).drain_timeout(Duration::from_secs(20));
    server.start(move |_place| Sleeper { sleeps_in, time }).unwrap()
}

fn addrs(server: &Running<()>) -> (SocketAddr, SocketAddr) {
    let inet = |addr: &net_core::Addr| addr.inet().unwrap();
    (inet(&server.addrs()[0]), inet(server.admin_addr().unwrap()))
}

/// What this process has logged: the log is one for all tests.
fn log() -> Arc<Mutex<Vec<u8>>> {
    static LOG: std::sync::OnceLock<Arc<Mutex<Vec<u8>>>> = std::sync::OnceLock::new();
    struct Into(Arc<Mutex<Vec<u8>>>);
    impl Write for Into {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let start = || {
        let log = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&log);
        let writer = move || Into(Arc::clone(&into));
        tracing_subscriber::fmt().with_ansi(false).with_writer(writer).init();
        log
    };
    Arc::clone(LOG.get_or_init(start))
}

#[test]
fn a_callback_that_sleeps_is_named_with_its_connection_while_it_sleeps() {
    let log = log();
    let time = Duration::from_secs(2);
    let server = start(Callback::Writable, time, Duration::from_millis(200));
    let (at, admin) = addrs(&server);
    // In rotation: one on each loop.
    let (mut sleeper, mut other) = (connect(at), connect(at));
    ping(&mut sleeper, b"awake\n");
    ping(&mut other, b"awake\n");
    sleeper.write_all(b"sleep\n").unwrap();
    let of_data = "net_core_stalls_total{loop=\"0\",callback=\"on_data\"}";
    eventually("it is counted", PATIENCE, || metrics(admin)[of_data] == 1.0);
    sleeper.set_nonblocking(true).unwrap();
    assert!(sleeper.read(&mut [0]).is_err(), "it was found only when it was over");
    sleeper.set_nonblocking(false).unwrap();
    // The other loop is not touched.
    (0..10).for_each(|_| ping(&mut other, b"and you?\n"));
    let mut back = [0; 6];
    sleeper.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"sleep\n");
    let now = metrics(admin);
    assert_eq!(sum(&now, "net_core_stalls_total"), 1.0, "one turn is one stall");
    let longest = now["net_core_longest_callback_seconds{loop=\"0\"}"];
    assert!((1.0..10.0).contains(&longest), "{longest} s of 2 s");
    assert_eq!(now["net_core_longest_callback_seconds{loop=\"1\"}"], 0.0);
    let log = String::from_utf8(log.lock().unwrap().clone()).unwrap();
    let line = log.lines().find(|line| line.contains("stalled") && line.contains("on_data"));
    let line = line.unwrap_or_else(|| panic!("no line about it: {log}"));
    assert!(line.contains("connection=\"0/0.") && line.contains("in_loop=0"), "{line}");
    // It sleeps: what its thread had of the CPU says that it does not compute.
    let number = |name: &str| -> u64 {
        let (_, rest) = line.split_once(name).unwrap_or_else(|| panic!("no {name} in {line}"));
        rest.split(' ').next().unwrap().parse().unwrap()
    };
    assert!(number(" cpu_ms=") <= number(" watched_ms=") / 2 + 10, "{line}");
}

/// The loop that hangs is named in the answer, and the others' connections are in it.
#[test]
fn a_loop_that_hangs_does_not_keep_who_asks_about_connections() {
    let _log = log();
    let server = start(Callback::Writable, Duration::from_secs(12), Duration::from_millis(100));
    let (at, admin) = addrs(&server);
    let (mut sleeper, mut other) = (connect(at), connect(at));
    ping(&mut sleeper, b"awake\n");
    ping(&mut other, b"awake\n");
    sleeper.write_all(b"sleep\n").unwrap();
    // The turn of the first ping may not be over yet: what it does is no proof.
    let of_data = "net_core_stalls_total{loop=\"0\",callback=\"on_data\"}";
    eventually("it hangs", PATIENCE, || metrics(admin)[of_data] == 1.0);
    let loops: serde_json::Value = serde_json::from_str(&get(admin, "/loops").body).unwrap();
    assert_eq!(loops[0]["doing"]["callback"], "on_data", "{loops}");
    let connection = loops[0]["doing"]["connection"].as_str();
    assert!(connection.is_some_and(|id| id.starts_with("0/0.")), "{loops}");
    let answer: serde_json::Value =
        serde_json::from_str(&get(admin, "/connections?top=9").body).unwrap();
    assert_eq!(answer["silent_loops"], serde_json::json!([0]), "{answer}");
    let rows = answer["connections"].as_array().unwrap();
    assert_eq!(rows.len(), 1, "{answer}");
    assert!(rows[0]["id"].as_str().is_some_and(|id| id.starts_with("1/0.")), "{answer}");
}

/// Every callback that can be made to come, by its own name.
#[test]
fn each_callback_is_blamed_for_itself() {
    let _log = log();
    let (time, threshold) = (Duration::from_millis(600), Duration::from_millis(100));
    let can_come = [
        Callback::Admit,
        Callback::Open,
        Callback::End,
        Callback::Deadline,
        Callback::Close,
        Callback::Message,
        Callback::Timer,
        Callback::Drop,
    ];
    std::thread::scope(|scope| {
        for callback in can_come {
            scope.spawn(move || {
                let server = start(callback, time, threshold);
                let (at, admin) = addrs(&server);
                let mut client = connect(at);
                ping(&mut client, b"hello\n");
                server.handle().post(0, ()).unwrap();
                // Its deadline comes only while it lives.
                if callback != Callback::Deadline {
                    client.shutdown(std::net::Shutdown::Write).unwrap();
                    read_to_end(&mut client, PATIENCE);
                }
                let label = callback.label();
                let series = format!("net_core_stalls_total{{loop=\"0\",callback=\"{label}\"}}");
                eventually(label, PATIENCE, || metrics(admin)[&series] >= 1.0);
            });
        }
    });
}

#[test]
fn what_is_shorter_than_the_threshold_is_no_stall() {
    let _log = log();
    let server = start(Callback::Writable, Duration::from_millis(20), Duration::from_secs(5));
    let (at, admin) = addrs(&server);
    let mut client = connect(at);
    (0..20).for_each(|_| ping(&mut client, b"sleep\n"));
    assert_eq!(sum(&metrics(admin), "net_core_stalls_total"), 0.0);
}
