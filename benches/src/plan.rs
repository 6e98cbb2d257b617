//! Who is compared, and under which loads.

use crate::native::{NATIVES, sources};
use crate::program::Program;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The server that all others are held against.
pub const BASELINE: &str = "bare epoll";

/// The same server once more, for the noise.
pub const BASELINE_AGAIN: &str = "bare epoll, again";

/// More bytes under way on a connection would measure the kernel's memory for sockets, not the
/// servers: ten thousand connections hold that much in both directions.
const WINDOW_BYTES_MAX: usize = 16 << 10;

/// A server, and what can be asked of it.
pub struct Rival {
    /// How it is started.
    pub program: Program,
    /// It serves no more connections than these.
    pub connections_max: usize,
    /// Of one that ends a thread with each connection, switches can't be counted from outside.
    pub churns: bool,
    /// Valgrind knows the system calls it uses, and its program.
    pub runs_in_valgrind: bool,
}

impl Rival {
    fn new(program: Program) -> Self {
        Self { program, connections_max: usize::MAX, churns: true, runs_in_valgrind: true }
    }

    fn past_valgrind(self) -> Self {
        Self { runs_in_valgrind: false, ..self }
    }
}

/// A server that cannot run here, and why.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeftOut {
    /// Its name.
    pub server: String,
    /// The reason.
    pub why: String,
}

/// The servers of this workspace: the limit twice, our own in its four ways to get connections,
/// and the rivals in Rust.
pub fn siblings(loops: usize) -> io::Result<Vec<Rival>> {
    let loops = loops.to_string();
    let rival = |name, file, more: &[&str]| -> io::Result<Rival> {
        let flags = [&["--loops", &loops], more].concat();
        Ok(Rival::new(Program::sibling(name, file, &flags)?))
    };
    let own = |name, accept, fd_table| {
        let more = ["--idle-timeout", "60s", "--accept", accept, "--fd-table", fd_table];
        rival(name, "echo", &more)
    };
    let threads = rival("thread per connection", "thread_echo", &[])?;
    Ok(vec![
        rival(BASELINE, "bare_epoll", &[])?,
        own("net-core, acceptor", "acceptor", "shared")?,
        own("net-core, acceptor, private tables", "acceptor", "per-loop")?,
        own("net-core, reuseport", "reuseport", "shared")?,
        own("net-core, reuseport, private tables", "reuseport", "per-loop")?,
        rival("mio", "mio_echo", &[])?,
        rival(BASELINE_AGAIN, "bare_epoll", &[])?,
        rival("bare io_uring", "uring_echo", &[])?.past_valgrind(),
        rival("tokio, multi-thread", "tokio_echo", &[])?,
        rival("tokio, per core", "tokio_echo", &["--flavor", "per-core"])?,
        rival("smol", "smol_echo", &[])?,
        rival("monoio", "monoio_echo", &[])?.past_valgrind(),
        rival("compio", "compio_echo", &[])?.past_valgrind(),
        Rival { connections_max: 1_000, churns: false, ..threads },
    ])
}

/// A rival whose program must first be built or found: its name, and how.
pub type Wanted = (&'static str, Box<dyn FnOnce() -> io::Result<Rival>>);

/// The rivals in other languages.
pub fn foreign(loops: usize) -> Vec<Wanted> {
    let count = loops.to_string();
    let mut wanted: Vec<Wanted> = Vec::new();
    for native in &NATIVES {
        let count = count.clone();
        let build = move || {
            let program = Program::at(native.name, native.build()?, &["--loops", &count]);
            Ok(Rival::new(program))
        };
        wanted.push((native.name, Box::new(build)));
    }
    for (name, interpreter, script) in
        [("Node", "node", "node.mjs"), ("Python asyncio", "python3", "asyncio_echo.py")]
    {
        wanted.push((name, Box::new(move || interpreted(name, interpreter, script, loops))));
    }
    wanted
}

fn interpreted(
    name: &'static str,
    interpreter: &'static str,
    script: &str,
    loops: usize,
) -> io::Result<Rival> {
    if loops > 1 {
        return Err(io::Error::other("it has one loop only"));
    }
    let path = path_of(interpreter)?;
    let path = path.to_string_lossy();
    let program = Program::script(name, &path, sources().join(script), &[]);
    Ok(Rival::new(program).past_valgrind())
}

/// The program itself, not a launcher in front of it: a tool is to see no other process.
fn path_of(interpreter: &str) -> io::Result<PathBuf> {
    let ask = match interpreter {
        "node" => ["-p", "process.execPath"],
        _ => ["-c", "import sys; print(sys.executable)"],
    };
    let answer = Command::new(interpreter).args(ask).stderr(Stdio::null()).output();
    let answer =
        answer.map_err(|error| io::Error::new(error.kind(), format!("no {interpreter}")))?;
    Ok(PathBuf::from(String::from_utf8_lossy(&answer.stdout).trim()))
}

/// A load of connections that stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Messages under way on each connection.
    pub depth: usize,
    /// Bytes of a message.
    pub bytes: usize,
}

impl Shape {
    /// A cell's name.
    pub fn name(self, connections: usize) -> String {
        let Self { depth, bytes } = self;
        let size =
            if bytes < 1024 { format!("{bytes} B") } else { format!("{} KiB", bytes / 1024) };
        format!("{connections} × {size}, depth {depth}")
    }
}

/// Every shape of these, but for those with more than 16 KiB under way on a connection.
pub fn shapes(bytes: &[usize], depths: &[usize]) -> Vec<Shape> {
    let all =
        depths.iter().flat_map(|&depth| bytes.iter().map(move |&bytes| Shape { depth, bytes }));
    all.filter(|shape| shape.bytes * shape.depth <= WINDOW_BYTES_MAX).collect()
}
