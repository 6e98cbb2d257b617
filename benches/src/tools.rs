//! Instructions, allocations and system calls of a server, by the tools that count them.
//!
//! Each is run twice, with R and with 2R rounds. The difference is what R rounds cost: start,
//! connecting and end are in both.

use crate::lockstep::{Clients, Load};
use crate::program::{Process, Program};
use crate::sys;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// A tool that counts something in a whole run of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// Instructions in user space, by valgrind's callgrind.
    Instructions,
    /// Calls of the allocator, by valgrind's memcheck.
    Allocations,
    /// System calls, by strace.
    Syscalls,
    /// Calls of write(2) only: by it a loop is woken, while bytes to a peer go by send.
    Writes,
}

impl Tool {
    /// Whether its program is there.
    pub fn is_there(self) -> bool {
        let mut command = Command::new(self.program());
        command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }

    /// The program to install.
    pub fn program(self) -> &'static str {
        match self {
            Tool::Instructions | Tool::Allocations => "valgrind",
            Tool::Syscalls | Tool::Writes => "strace",
        }
    }

    fn command(self, report: &Path) -> Command {
        let mut command = Command::new(self.program());
        let report = report.display();
        match self {
            Tool::Instructions => {
                command.arg("--tool=callgrind").arg(format!("--callgrind-out-file={report}"))
            }
            Tool::Allocations => command.arg(format!("--log-file={report}")),
            // -D: the server is our child, so that a signal reaches it and not the tracer.
            Tool::Syscalls => command.args(["-D", "-f", "-c", "-o"]).arg(report.to_string()),
            Tool::Writes => {
                command.args(["-D", "-f", "-c", "-e", "trace=write", "-o"]).arg(report.to_string())
            }
        };
        command
    }

    /// The total in the tool's report, once it is complete.
    pub(crate) fn total(self, report: &str) -> Option<u64> {
        let digits = |word: &str| word.replace(',', "").parse().ok();
        match self {
            Tool::Instructions => {
                let line = report.lines().find(|line| line.starts_with("totals:"))?;
                digits(line.split_whitespace().nth(1)?)
            }
            Tool::Allocations => {
                let (_, rest) = report.split_once("total heap usage: ")?;
                digits(rest.split_whitespace().next()?)
            }
            Tool::Syscalls | Tool::Writes => {
                let line = report.lines().find(|line| line.ends_with(" total"))?;
                digits(line.split_whitespace().nth(3)?)
            }
        }
    }
}

/// What `program` spends on each message of `load`, averaged over `rounds` rounds.
pub fn per_message(program: &Program, tool: Tool, load: Load, rounds: usize) -> io::Result<f64> {
    let round = average(program, tool, rounds, |at, n| Clients::connect(at, load)?.run(n))?;
    Ok(round / load.messages(1) as f64)
}

/// What `program` spends on a connection that comes, has one message echoed, and goes, averaged
/// over so many, one after another.
pub fn per_connection(program: &Program, tool: Tool, connections: usize) -> io::Result<f64> {
    let one = Load { connections: 1, depth: 1, bytes: 64 };
    let drive = |at, n| (0..n).try_for_each(|_| Clients::connect(at, one).map(drop));
    average(program, tool, connections, drive)
}

/// What `program` spends on each of `n` times what `drive` does as often as it is told.
pub fn average(
    program: &Program,
    tool: Tool,
    n: usize,
    drive: impl Fn(SocketAddr, usize) -> io::Result<()> + Sync,
) -> io::Result<f64> {
    let run = |n| whole_run(program, tool, |at| drive(at, n));
    let (once, twice) = (run(n)?, run(2 * n)?);
    Ok((twice as f64 - once as f64) / n as f64)
}

/// Server and load share a core, and the server waits until the load has sent all it means to: so
/// each turn finds what it found in the last run, however fast the machine is.
fn whole_run(
    program: &Program,
    tool: Tool,
    drive: impl FnOnce(SocketAddr) -> io::Result<()> + Send,
) -> io::Result<u64> {
    let report = Report::new(tool);
    let core = *sys::allowed_cores()?.last().expect("this thread runs on some core");
    let start = || {
        sys::be_patient()?;
        program.start_under(tool.command(&report.0))
    };
    let run = || {
        sys::pin(&[core])?;
        let server = thread::scope(|scope| scope.spawn(start).join().expect("no panic"))?;
        drive(server.at())?;
        report.read(server, tool)
    };
    // In a thread of its own, since a pinned thread stays so.
    thread::scope(|scope| scope.spawn(run).join().expect("no panic"))
}

/// The file that a tool writes, removed again.
struct Report(PathBuf);

impl Report {
    fn new(tool: Tool) -> Self {
        let name = format!("benches-{}-{tool:?}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    /// Ends the server and reads the total. A tracer may write on when its server has ended.
    fn read(&self, server: Process, tool: Tool) -> io::Result<u64> {
        server.stop()?;
        let start = Instant::now();
        loop {
            let text = fs::read_to_string(&self.0).unwrap_or_default(); // not there yet
            if let Some(total) = tool.total(&text) {
                return Ok(total);
            }
            if start.elapsed() > Duration::from_secs(10) {
                return Err(io::Error::other(format!("{tool:?}: no total in {text:?}")));
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0); // it may never have been written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_total_is_found() {
        let callgrind = "events: Ir\nsummary: 12\nfn=(1)\ntotals: 1234\n";
        assert_eq!(Tool::Instructions.total(callgrind), Some(1234));
        let memcheck = "==1==   total heap usage: 1,234 allocs, 1,200 frees, 5 bytes allocated\n";
        assert_eq!(Tool::Allocations.total(memcheck), Some(1234));
        let strace = "% time seconds usecs/call calls errors syscall\n\
                      100.00 0.001 1 77 3 read\n------ \n100.00 0.001 1 1234 3 total\n";
        assert_eq!(Tool::Syscalls.total(strace), Some(1234));
        assert_eq!(Tool::Syscalls.total(""), None);
    }
}
