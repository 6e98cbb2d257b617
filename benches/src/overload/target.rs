//! The server that is attacked, with its log: the last line has its books.

use crate::program::{read_ready, sibling_path};
use crate::sys;
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How long it may take to start.
const START_MAX: Duration = Duration::from_secs(20);

/// A running `echo` with an admin endpoint. Killed when it is dropped.
pub struct Target {
    child: Child,
    /// Where it serves.
    pub at: SocketAddr,
    /// Where its admin endpoint is.
    pub admin: SocketAddr,
    log: Option<JoinHandle<String>>,
}

impl Target {
    /// Starts it with these flags; if asked, with precedence over the other processes of the machine, which
    /// needs root or CAP_SYS_NICE.
    pub fn start(flags: &[String], has_precedence: bool) -> io::Result<Self> {
        let mut command = Command::new(sibling_path("echo")?);
        command
            .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log", "info"])
            .args(flags)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // By a thread of its own, since this one keeps its place.
        let start = move || {
            if has_precedence {
                let given = sys::come_second();
                given.map_err(|e| {
                    io::Error::new(
                        e.kind(),
                        format!("give echo precedence (--no-precedence does without): {e}"),
                    )
                })?;
            }
            command.spawn()
        };
        let mut child = thread::spawn(start).join().expect("a start does not panic")?;
        let (tell, told) = mpsc::channel();
        let stderr = child.stderr.take().expect("standard error is a pipe");
        let log = thread::spawn(move || {
            let mut last = String::new();
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if let Some((_, at)) = line.split_once("the admin endpoint listens on ") {
                    let _ = tell.send(at.trim().to_owned()); // it has waited for too long
                }
                last = line;
            }
            last
        });
        let at = read_ready(child.stdout.take().expect("standard output is a pipe"));
        let admin = told.recv_timeout(START_MAX).ok().and_then(|at| at.parse().ok());
        let (Ok(at), Some(admin)) = (at, admin) else {
            let _ = child.kill(); // it is of no use
            let last = log.join().unwrap_or_default();
            return Err(io::Error::other(format!("echo did not start: {last}")));
        };
        Ok(Self { child, at, admin, log: Some(log) })
    }

    /// Ends it by SIGTERM, and returns the counts of its last line.
    pub fn finish(mut self) -> io::Result<BTreeMap<String, u64>> {
        sys::terminate(self.child.id())?;
        self.child.wait()?;
        let log = self.log.take().expect("it is joined once");
        let last = log.join().unwrap_or_default();
        let (_, counts) = last
            .split_once("ended: ")
            .ok_or_else(|| io::Error::other(format!("its last line is: {last}")))?;
        let pairs = counts.split(' ').filter_map(|pair| pair.split_once('='));
        Ok(pairs.filter_map(|(name, n)| Some((name.to_owned(), n.parse().ok()?))).collect())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // Both do nothing once it has been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
