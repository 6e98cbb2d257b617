//! Runs of the real program: whole, or in the background with a hand on them.
#![allow(unreachable_pub)] // each test file is a crate

use crate::child::{self, Bounded};
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{ChildStderr, Command, Output, Stdio};
use std::time::{Duration, Instant};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_million");
pub const PATIENCE: Duration = Duration::from_secs(40);

/// A directory of its own, removed with the test.
pub struct Directory(pub PathBuf);

impl Directory {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("million-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn json(&self) -> String {
        self.0.join("report.json").to_str().unwrap().to_owned()
    }

    pub fn report(&self) -> serde_json::Value {
        serde_json::from_str(&std::fs::read_to_string(self.json()).unwrap()).unwrap()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0); // the system clears its temporary files
    }
}

/// The program with at most `nofile` descriptors in a table.
pub fn million(nofile: u32, flags: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -n {nofile} && exec {PROGRAM} {flags}")]);
    command
}

pub fn run(nofile: u32, flags: &str) -> Output {
    child::output(&mut million(nofile, flags), child::LIFE)
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The sentence in which a run that ends with `code` says why.
pub fn sentence(output: &Output, code: i32) -> String {
    let all = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{all}\n{}", text(&output.stdout));
    let said = all.lines().filter_map(|line| line.strip_prefix("error: ")).collect::<Vec<_>>();
    assert_eq!(said.len(), 1, "one sentence: {all}");
    said[0].to_owned()
}

/// A run in the background, with what it says on standard error.
pub struct Started {
    pub child: Bounded,
    said: BufReader<ChildStderr>,
}

impl Started {
    pub fn new(flags: &str) -> Self {
        let mut command = million(20_000, flags);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = child::spawn(&mut command, child::LIFE);
        let said = BufReader::new(child.stderr.take().unwrap());
        Self { child, said }
    }

    /// Waits for the line that begins so.
    pub fn wait_for(&mut self, beginning: &str) {
        let mut line = String::new();
        while self.said.read_line(&mut line).unwrap() > 0 {
            if line.starts_with(beginning) {
                return;
            }
            line.clear();
        }
        panic!("it never said `{beginning}`");
    }

    /// Its server and its swarm.
    pub fn halves(&self) -> [u32; 2] {
        let pid = self.child.id();
        let children = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flat_map(|task| {
            let file = task.unwrap().path().join("children");
            let text = std::fs::read_to_string(file).unwrap_or_default();
            text.split_whitespace().map(|id| id.parse().unwrap()).collect::<Vec<u32>>()
        });
        let children: Vec<u32> = children.collect();
        let named = |name: &str| {
            let is_it = |id: &&u32| command_line(**id).contains(name);
            *children.iter().find(is_it).unwrap_or_else(|| panic!("{name} in {children:?}"))
        };
        [named("server-half"), named("swarm-half")]
    }

    pub fn signal(&self, signal: &str) {
        kill(signal, self.child.id());
    }

    /// Its exit code and the rest of what it said.
    pub fn end(mut self) -> (Option<i32>, String) {
        let end = Instant::now() + PATIENCE;
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None if Instant::now() > end => {
                    self.child.kill().unwrap();
                    panic!("it does not end");
                }
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        let mut rest = String::new();
        // A half that is left behind keeps this open, until the bound kills it: `are_gone` finds it before.
        self.said.read_to_string(&mut rest).unwrap();
        (status.code(), rest)
    }
}

pub fn command_line(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default()
}

pub fn kill(signal: &str, pid: u32) {
    let is_sent = child::succeeds(Command::new("kill").args([signal, &pid.to_string()]));
    assert!(is_sent, "kill {signal} {pid}");
}

pub fn are_gone(halves: [u32; 2]) {
    let end = Instant::now() + PATIENCE;
    while halves.iter().any(|&pid| command_line(pid).contains("-half")) {
        assert!(Instant::now() < end, "left behind: {halves:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
