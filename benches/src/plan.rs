//! Who is compared, and under which loads.

use crate::program::Program;
use crate::swarm::Work;
use std::io;

/// The server that all others are held against.
pub const BASELINE: &str = "bare epoll";

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
    /// Valgrind knows the system calls it uses.
    pub runs_in_valgrind: bool,
}

/// Our own in its two ways to accept, the limit twice, and the rivals.
pub fn rivals(loops: usize) -> io::Result<Vec<Rival>> {
    let loops = loops.to_string();
    let rival = |name, file, more: &[&str]| -> io::Result<Rival> {
        let flags = [&["--loops", &loops], more].concat();
        let program = Program::sibling(name, file, &flags)?;
        Ok(Rival { program, connections_max: usize::MAX, churns: true, runs_in_valgrind: true })
    };
    let own = ["--idle-timeout", "60s"];
    let threads = rival("thread per connection", "thread_echo", &[])?;
    Ok(vec![
        rival(BASELINE, "bare_epoll", &[])?,
        rival("net-core, acceptor", "echo", &own)?,
        rival("net-core, reuseport", "echo", &[&own[..], &["--accept", "reuseport"]].concat())?,
        rival("mio", "mio_echo", &[])?,
        rival("bare epoll, again", "bare_epoll", &[])?,
        Rival { runs_in_valgrind: false, ..rival("bare io_uring", "uring_echo", &[])? },
        rival("tokio, multi-thread", "tokio_echo", &[])?,
        rival("tokio, per core", "tokio_echo", &["--flavor", "per-core"])?,
        rival("smol", "smol_echo", &[])?,
        Rival { connections_max: 1_000, churns: false, ..threads },
    ])
}

impl Rival {
    /// Whether this load is one for it.
    pub fn takes(&self, work: Work) -> bool {
        match work {
            Work::Echo { connections, .. } => connections <= self.connections_max,
            Work::Churn => self.churns,
        }
    }
}

/// Every load of these, but for those with more than 16 KiB under way on a connection; and churn.
pub fn works(connections: &[usize], bytes: &[usize], depths: &[usize]) -> Vec<Work> {
    let mut works = Vec::new();
    for &depth in depths {
        for &bytes in bytes.iter().filter(|&&bytes| bytes * depth <= WINDOW_BYTES_MAX) {
            works.extend(connections.iter().map(|&connections| Work::Echo {
                connections,
                depth,
                bytes,
            }));
        }
    }
    works.push(Work::Churn);
    works
}

/// A load in a few words.
pub fn name_of(work: Work) -> String {
    match work {
        Work::Churn => "churn".into(),
        Work::Echo { connections, depth, bytes } => {
            let size =
                if bytes < 1024 { format!("{bytes} B") } else { format!("{} KiB", bytes / 1024) };
            format!("{connections} × {size}, depth {depth}")
        }
    }
}
