//! A server process: started, asked, watched, and killed on drop.

use super::child::{self, Bounded};
use super::{PATIENCE, connect, eventually, proc};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

/// How a server accepts and which descriptor tables it uses.
#[derive(Clone, Copy, Debug)]
pub struct Mode {
    pub accept: &'static str,
    pub fd_table: &'static str,
}

impl Mode {
    pub const DEFAULT: Mode = Mode { accept: "acceptor", fd_table: "shared" };

    pub fn is_per_loop(self) -> bool {
        self.fd_table == "per-loop"
    }

    pub fn is_reuseport(self) -> bool {
        self.accept == "reuseport"
    }
}

/// A server about to be started.
pub struct Start {
    under: Vec<String>,
    program: String,
    args: Vec<String>,
    listen: String,
    log: &'static str,
}

impl Start {
    /// echo with two loops.
    pub fn echo(mode: Mode) -> Self {
        Self::binary(env!("CARGO_BIN_EXE_echo"), mode)
    }

    pub fn chat(mode: Mode) -> Self {
        Self::binary(env!("CARGO_BIN_EXE_chat"), mode)
    }

    pub fn idle(mode: Mode) -> Self {
        Self::binary(env!("CARGO_BIN_EXE_idle"), mode)
    }

    pub fn unix_echo(mode: Mode) -> Self {
        Self::binary(env!("CARGO_BIN_EXE_unix_echo"), mode)
    }

    pub fn udp_echo(mode: Mode) -> Self {
        Self::binary(env!("CARGO_BIN_EXE_udp_echo"), mode)
    }

    pub fn hub(mode: Mode) -> Self {
        Self::binary(env!("CARGO_BIN_EXE_hub"), mode)
    }

    /// A server that owes on request.
    pub fn owing(mode: Mode) -> Self {
        Self::binary(env!("CARGO_BIN_EXE_owing"), mode)
    }

    /// proxy with two loops, in front of `upstream`.
    pub fn proxy(mode: Mode, upstream: impl std::fmt::Display) -> Self {
        Self::binary(env!("CARGO_BIN_EXE_proxy"), mode).args(&["--upstream", &upstream.to_string()])
    }

    fn binary(binary: &'static str, mode: Mode) -> Self {
        let args = ["--accept", mode.accept, "--fd-table", mode.fd_table];
        let args = args.map(str::to_owned).to_vec();
        let listen = "127.0.0.1:0".to_owned();
        Self { under: Vec::new(), program: binary.to_owned(), args, listen, log: "info" }.loops(2)
    }

    /// Another copy of the same program.
    pub fn program(mut self, at: &str) -> Self {
        self.program = at.to_owned();
        self
    }

    pub fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|&arg| arg.to_owned()));
        self
    }

    /// The last `--loops` that was given holds.
    pub fn loops(mut self, n: usize) -> Self {
        self.args.retain(|arg| !arg.starts_with("--loops="));
        self.args.push(format!("--loops={n}"));
        self
    }

    pub fn listen(mut self, at: &str) -> Self {
        self.listen = at.to_owned();
        self
    }

    pub fn log(mut self, level: &'static str) -> Self {
        self.log = level;
        self
    }

    /// Runs it under another program, such as prlimit or strace.
    pub fn under(mut self, program: &[&str]) -> Self {
        self.under.splice(0..0, program.iter().map(|&arg| arg.to_owned()));
        self
    }

    pub fn command(&self) -> Command {
        let words = self.under.iter().map(String::as_str).chain([self.program.as_str()]);
        let mut words = words.chain(["--listen", &self.listen, "--log", self.log]);
        let mut command = Command::new(words.next().expect("there is a binary"));
        command.args(words).args(&self.args).stdin(Stdio::null());
        command
    }

    /// Runs it to its end, which is to come soon: the start is refused.
    pub fn output(&self) -> Output {
        child::output(&mut self.command(), PATIENCE)
    }

    /// Starts it and waits until it listens.
    pub fn run(self) -> Server {
        let is_traced = self.under.iter().any(|word| word == "strace");
        let mut command = self.command();
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = child::spawn(&mut command, child::LIFE);
        let said = Arc::new(Mutex::new(String::new()));
        let log = collect(child.stderr.take().unwrap(), &said);
        let (tell, ready) = mpsc::channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        let stdout = std::thread::spawn(move || {
            let lines: Vec<String> = out.lines().map_while(Result::ok).collect_and_tell(&tell);
            lines
        });
        let mut server = Server {
            pid: child.id(),
            child,
            ready: String::new(),
            addr: SocketAddr::from(([0, 0, 0, 0], 0)),
            said,
            threads: Some((log, stdout)),
        };
        let Ok(line) = ready.recv_timeout(PATIENCE) else {
            panic!("no READY: {}", server.log());
        };
        let at = line.strip_prefix("READY ").unwrap_or_else(|| panic!("not READY: {line}"));
        server.ready = at.to_owned();
        if !at.starts_with("unix:") {
            server.addr = at.split(' ').next().unwrap().parse().unwrap();
        }
        if is_traced {
            server.pid = proc::only_child(server.pid);
        }
        // A thread gives itself its name, perhaps after READY; the tests go by names.
        eventually("the acceptor's thread has its name", PATIENCE, || {
            proc::threads(server.pid).iter().any(|(name, _)| name == "net-acceptor")
        });
        server
    }
}

trait CollectAndTell: Iterator<Item = String> + Sized {
    /// Collects all, and tells the first as soon as it comes.
    fn collect_and_tell(self, tell: &mpsc::Sender<String>) -> Vec<String> {
        self.inspect(|line| {
            let _ = tell.send(line.clone()); // only the first has a listener
        })
        .collect()
    }
}

impl<I: Iterator<Item = String>> CollectAndTell for I {}

fn collect(
    mut from: impl Read + Send + 'static,
    into: &Arc<Mutex<String>>,
) -> std::thread::JoinHandle<()> {
    let into = Arc::clone(into);
    std::thread::spawn(move || {
        let mut part = [0; 4096];
        while let Ok(n @ 1..) = from.read(&mut part) {
            into.lock().unwrap().push_str(&String::from_utf8_lossy(&part[..n]));
        }
    })
}

type Reading = (std::thread::JoinHandle<()>, std::thread::JoinHandle<Vec<String>>);

/// A running server.
pub struct Server {
    child: Bounded,
    /// Of the server itself, also where another program runs it.
    pub pid: u32,
    /// What it said after READY.
    pub ready: String,
    /// Where it listens, if that is no Unix socket.
    pub addr: SocketAddr,
    said: Arc<Mutex<String>>,
    threads: Option<Reading>,
}

/// How a server ended.
pub struct Ended {
    pub status: ExitStatus,
    pub after: Duration,
    /// Standard error, whole.
    pub log: String,
    /// The lines on standard output.
    pub lines: Vec<String>,
}

impl Server {
    pub fn connect(&self) -> TcpStream {
        connect(self.addr)
    }

    pub fn connect_many(&self, n: usize) -> Vec<TcpStream> {
        (0..n).map(|_| self.connect()).collect()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// Where its admin endpoint listens, by its log.
    pub fn admin(&self) -> SocketAddr {
        const SAYS: &str = "the admin endpoint listens on ";
        let mut at = None;
        eventually("it says where the endpoint is", PATIENCE, || {
            let log = self.log();
            let line = log.lines().find_map(|line| line.split_once(SAYS));
            at = line.and_then(|(_, at)| at.trim().parse().ok());
            at.is_some()
        });
        at.unwrap()
    }

    pub fn signal(&self, name: &str) {
        let mut kill = Command::new("kill");
        assert!(child::succeeds(kill.args(["-s", name, &self.pid.to_string()])), "kill -s {name}");
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end.
    pub fn wait(mut self, within: Duration) -> Ended {
        let start = Instant::now();
        let mut status = None;
        eventually("the server ends", within, || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        let after = start.elapsed();
        let (log, stdout) = self.threads.take().unwrap();
        log.join().unwrap();
        let lines = stdout.join().unwrap();
        Ended { status: status.unwrap(), after, log: self.log(), lines }
    }

    /// Drains it: it must end with 0 and its books must balance. Call it when no client is open,
    /// or any that is may be closed.
    pub fn finish(self) -> Counts {
        self.signal("TERM");
        let ended = self.wait(PATIENCE);
        assert!(ended.status.success(), "{:?}: {}", ended.status, ended.log);
        assert_eq!(ended.lines.len(), 1, "more than READY on standard output: {:?}", ended.lines);
        Counts::of(&ended.log)
    }

    /// Connections that each loop watches: by what the loops' epolls hold.
    pub fn watched_by_loop(&self) -> Vec<usize> {
        proc::watched_connections(self.pid)
    }

    /// Waits until the loops watch so many connections each, the fewest first. A loop may have a connection
    /// before it watches it, and on a busy machine that takes time.
    pub fn is_spread(&self, expected: &[usize]) {
        let (mut now, end) = (Vec::new(), Instant::now() + PATIENCE);
        while Instant::now() < end {
            now = self.watched_by_loop();
            if now == expected {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(now, expected);
    }

    /// Waits until all loops together have so many connections.
    pub fn has_connections(&self, n: usize) {
        let mut now = 0;
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            now = self.watched_by_loop().iter().sum();
            if now == n {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{now} connections, not {n}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("--- the server's log:\n{}", self.log());
        }
    }
}

/// The last counts of a server, from its last log line.
#[derive(Debug)]
pub struct Counts(BTreeMap<String, u64>);

impl Counts {
    /// Also checks that the books balance: what came in has been closed for a reason.
    pub fn of(log: &str) -> Self {
        let line = log.lines().rev().find_map(|line| line.split_once("ended: "));
        let (_, line) = line.unwrap_or_else(|| panic!("no last line: {log}"));
        let pairs = line.split(' ').filter_map(|pair| pair.split_once('='));
        let counts = Self(pairs.map(|(k, v)| (k.to_owned(), v.parse().unwrap())).collect());
        let came = counts.get("accepted") + counts.get("dialled");
        assert_eq!(came, counts.closed(), "the books: {counts:?}");
        assert_eq!(counts.get("open"), 0, "{counts:?}");
        counts
    }

    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    pub fn closed(&self) -> u64 {
        self.0.iter().filter(|(k, _)| k.starts_with("closed(")).map(|(_, n)| n).sum()
    }
}
