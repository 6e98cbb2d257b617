//! What a server is to its process: one stuck loop to the others, signals, and children. What changes or ends
//! a process is done in one of its own: the same test again, which finds there what it is to do.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed
#![allow(clippy::disallowed_methods)] // each wait for a child has a bound here

mod children;
mod signals;
mod stuck;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

/// How long anything may take that should take no time at all, on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Names, in the other process, what it is to do.
const PART: &str = "NET_CORE_TEST_PART";

fn part() -> Option<String> {
    std::env::var(PART).ok()
}

/// The same test in a process of its own. Killed on drop.
struct Other {
    child: Child,
    lines: Receiver<String>,
}

impl Other {
    fn new(test: &str, part: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", test, "--nocapture"]).env(PART, part);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (tell, lines) = mpsc::channel();
        std::thread::spawn(move || {
            out.lines().map_while(Result::ok).for_each(|line| _ = tell.send(line));
        });
        Self { child, lines }
    }

    /// Waits until it says the word; what it says behind it.
    fn says(&self, word: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).unwrap_or_else(|_| panic!("no {word}"));
            if let Some((_, rest)) = line.split_once(word) {
                return rest.trim().to_owned();
            }
        }
    }

    fn signal(&self, name: &str) {
        let kill = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(kill.unwrap().success(), "kill -s {name}");
    }

    fn wait(&mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Lets it go on that waits at [`until_told`].
    fn tell(&mut self) {
        self.child.stdin.as_mut().unwrap().write_all(b".").unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it has ended already: as good
        let _ = self.child.wait();
    }
}

/// In the other process: waits until the first tells it to go on, or is gone.
fn until_told() {
    let _ = std::io::stdin().read(&mut [0]);
}

fn connect(to: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(to).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

fn is_served(client: &mut (impl Read + Write)) {
    client.write_all(b"anybody there").unwrap();
    let mut back = [0; 13];
    client.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"anybody there");
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
