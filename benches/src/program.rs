//! A server as a program: how to start it, where it listens, and how it ends.

use crate::sys;
use std::io::{self, BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a server may take to end after SIGTERM, under a tool that slows it down.
const END_MAX: Duration = Duration::from_secs(20);

/// A server program with its flags, and what to call it.
#[derive(Clone, Debug)]
pub struct Program {
    /// As it is named in the tables.
    pub name: &'static str,
    path: PathBuf,
    /// Before the flags: of an interpreter, the script.
    script: Option<PathBuf>,
    flags: Vec<String>,
}

impl Program {
    /// A program of this workspace, from the folder in which the running one lies.
    pub fn sibling(name: &'static str, file: &str, flags: &[&str]) -> io::Result<Self> {
        let path = sibling_path(file)?;
        Ok(Self::at(name, path, flags))
    }

    /// A program anywhere; looked for in PATH if it has no folder.
    pub fn at(name: &'static str, path: PathBuf, flags: &[&str]) -> Self {
        let flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        Self { name, path, script: None, flags }
    }

    /// A script, and the interpreter that runs it.
    pub fn script(name: &'static str, interpreter: &str, script: PathBuf, flags: &[&str]) -> Self {
        Self { script: Some(script), ..Self::at(name, interpreter.into(), flags) }
    }

    /// Starts it on a free port of the loopback device.
    pub fn start(&self) -> io::Result<Process> {
        Process::start(self.add_to(Command::new(&self.path)))
    }

    /// Starts it under a tool: `tool` with its own flags, then this program.
    pub fn start_under(&self, mut tool: Command) -> io::Result<Process> {
        tool.arg(&self.path);
        Process::start(self.add_to(tool))
    }

    fn add_to(&self, mut command: Command) -> Command {
        command.args(&self.script).args(["--listen", "127.0.0.1:0"]).args(&self.flags);
        command
    }
}

/// A program of this workspace, from the folder in which the running one lies.
pub fn sibling_path(file: &str) -> io::Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(file);
    if path.exists() {
        return Ok(path);
    }
    let what = format!("{} is not built: cargo build --release --workspace", path.display());
    Err(io::Error::new(io::ErrorKind::NotFound, what))
}

/// Where a server listens, as its READY line says.
pub fn read_ready(stdout: impl Read) -> io::Result<SocketAddr> {
    let mut line = String::new();
    BufReader::new(stdout.take(1 << 10)).read_line(&mut line)?;
    let at = line.strip_prefix("READY ").and_then(|at| at.trim().parse().ok());
    at.ok_or_else(|| io::Error::other(format!("did not get ready: {line:?}")))
}

/// A server that runs. Killed when it is dropped.
pub struct Process {
    child: Child,
    at: SocketAddr,
}

impl Process {
    fn start(mut command: Command) -> io::Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let stdout = child.stdout.take().expect("standard output is a pipe");
        match read_ready(stdout) {
            Ok(at) => Ok(Self { child, at }),
            Err(error) => {
                let _ = child.kill(); // it is of no use
                let _ = child.wait();
                Err(io::Error::other(format!("{command:?} {error}")))
            }
        }
    }

    /// Where it listens.
    pub fn at(&self) -> SocketAddr {
        self.at
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to end, by SIGTERM, and waits until it has.
    pub fn stop(mut self) -> io::Result<()> {
        sys::terminate(self.child.id())?;
        let start = Instant::now();
        while self.child.try_wait()?.is_none() {
            if start.elapsed() > END_MAX {
                return Err(io::Error::other("the server did not end after SIGTERM"));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both do nothing once it has been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
