//! The server as a child process: how it starts, what is done to it while it runs, and how it ends. No
//! wait is without a bound.

use super::protocol::{Books, Ready};
use crate::memory::private_bytes;
use crate::overload::watch::metrics;
use crate::sys;
use serde::de::DeserializeOwned;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

/// How long it may take to start.
const START_MAX: Duration = Duration::from_secs(20);
/// How long it may take to end once it was told to: its drain timeout, and then some.
const END_MAX: Duration = Duration::from_secs(60);
/// How long the last connection may take to be over once no client is there: the longest deadline of a
/// connection that its clients have left.
const QUIET_MAX: Duration = Duration::from_secs(60);
/// How long it is stopped at most.
pub const STOP_MAX: Duration = Duration::from_millis(300);
/// After the last connection is over: for what ends behind it.
const SETTLE: Duration = Duration::from_millis(300);

/// A child that serves. Killed when it is dropped.
pub struct Server {
    child: Child,
    lines: Receiver<String>,
    /// Where it serves.
    pub ready: Ready,
}

/// What a process has when it is quiet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holds {
    /// Private memory in bytes.
    pub private: u64,
    /// The largest of its descriptor tables: with private tables there are several.
    pub descriptors: usize,
    /// Its threads.
    pub threads: usize,
}

impl Server {
    /// Starts this very program again, with these arguments, and waits until it serves.
    pub fn start(arguments: &[String]) -> io::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::piped()) // which ends with this process
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().expect("standard output is a pipe");
        let (tell, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = tell.send(line); // nobody waits for more
            }
        });
        match next(&lines, START_MAX) {
            Ok(ready) => Ok(Self { child, lines, ready }),
            Err(error) => {
                let _ = child.kill(); // it is of no use
                let _ = child.wait();
                Err(io::Error::other(format!("the server did not get ready: {error}")))
            }
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it has ended, if it has.
    pub fn died(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok()??;
        Some(format!("it ended before it was told to: {status}"))
    }

    /// Waits until it has no connection, and says what it holds then. Its books must balance as far as it
    /// has come.
    pub fn quiet(&self) -> io::Result<Holds> {
        let start = Instant::now();
        while self.sum(&["net_core_connections", "net_core_connections_open"])? > 0.0 {
            if start.elapsed() > QUIET_MAX {
                return Err(io::Error::other(format!(
                    "connections are open {QUIET_MAX:?} after the last client has gone"
                )));
            }
            thread::sleep(Duration::from_millis(20));
        }
        thread::sleep(SETTLE);
        let came = ["accepted", "dialled", "adopted"]
            .map(|way| format!("net_core_connections_{way}_total"));
        let came = self.sum(&came.each_ref().map(String::as_str))?;
        let closed = self.sum(&["net_core_connections_closed_total"])?;
        if came != closed {
            return Err(io::Error::other(format!("{came} connections came, and {closed} closed")));
        }
        thread::sleep(SETTLE); // until the admin endpoint has closed this one, too
        self.holds()
    }

    /// These families of its metrics, over all loops and labels, added up.
    fn sum(&self, families: &[&str]) -> io::Result<f64> {
        let now = metrics(self.ready.admin)?;
        let is_asked = |name: &str| families.contains(&name.split('{').next().unwrap_or(name));
        Ok(now.iter().filter(|(name, _)| is_asked(name)).map(|(_, value)| value).sum())
    }

    /// What it holds now.
    pub fn holds(&self) -> io::Result<Holds> {
        let tasks = format!("/proc/{}/task", self.pid());
        let (mut threads, mut descriptors) = (0, 0);
        for task in fs::read_dir(tasks)? {
            // A thread that ends meanwhile is none.
            let Ok(table) = fs::read_dir(task?.path().join("fd")) else { continue };
            threads += 1;
            descriptors = descriptors.max(table.count());
        }
        Ok(Holds { private: private_bytes(self.pid())?, descriptors, threads })
    }

    /// Stops it for so long (SIGSTOP, SIGCONT).
    pub fn stop_for(&self, time: Duration) -> io::Result<()> {
        sys::signal(self.pid(), libc::SIGSTOP)?;
        thread::sleep(time);
        sys::signal(self.pid(), libc::SIGCONT)
    }

    /// Leaves it no more than so many new descriptors for so long.
    pub fn starve_for(&self, time: Duration, spare: usize) -> io::Result<()> {
        let soft = (self.holds()?.descriptors + spare) as u64;
        let before = sys::limit_descriptors(self.pid(), soft)?;
        thread::sleep(time);
        sys::limit_descriptors(self.pid(), before)?;
        Ok(())
    }

    /// Tells it to end, by so many SIGTERMs, some time between them.
    pub fn terminate(&self, times: usize) -> io::Result<()> {
        for n in 0..times {
            if n > 0 {
                thread::sleep(Duration::from_millis(200));
            }
            sys::terminate(self.pid())?;
        }
        Ok(())
    }

    /// Waits until it has ended, and reads its books.
    pub fn end(mut self) -> io::Result<(ExitStatus, Books)> {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if start.elapsed() > END_MAX {
                return Err(io::Error::other(format!(
                    "it has not ended {END_MAX:?} after its signal"
                )));
            }
            thread::sleep(Duration::from_millis(5));
        };
        let books = next(&self.lines, Duration::from_secs(1));
        let died = |error| io::Error::other(format!("{status}, without books ({error})"));
        Ok((status, books.map_err(died)?))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both do nothing once it has been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How it should have ended, if it did not end so.
pub fn unexpected(status: ExitStatus, expected: i32) -> Option<String> {
    let how = match (status.code(), status.signal()) {
        (Some(code), _) if code == expected => return None,
        (Some(code), _) => format!("exit code {code}"),
        (_, signal) => format!("signal {}", signal.unwrap_or(0)),
    };
    Some(format!("{how} instead of exit code {expected}"))
}

fn next<T: DeserializeOwned>(lines: &Receiver<String>, within: Duration) -> io::Result<T> {
    let line = lines.recv_timeout(within).map_err(io::Error::other)?;
    serde_json::from_str(&line).map_err(io::Error::other)
}
