//! What every rival server has: flags, a listener, one thread per loop, and the `READY` line.

use clap::Args;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};

/// Completed connections that wait for accept: as many as our own server allows.
const BACKLOG: i32 = 4096;

/// A rival's receive block: as large as our own loop's.
pub const BLOCK_BYTES: usize = 64 << 10;

/// The flags of a rival.
#[derive(Args, Clone, Debug)]
pub struct RivalFlags {
    /// Where to listen: IP:PORT
    #[arg(long, default_value = "127.0.0.1:9000")]
    pub listen: SocketAddr,
    /// Loops, one thread each
    #[arg(long, alias = "threads", default_value_t = 1)]
    pub loops: usize,
}

impl RivalFlags {
    /// Runs `serve` on as many threads as there are loops, each with a listener of its own on the
    /// one address, once all of them listen and `READY` is said. Loop 0 is this thread, so that a
    /// server of one loop is a process of one thread.
    pub fn run(
        &self,
        serve: impl Fn(TcpListener) -> io::Result<()> + Send + Sync,
    ) -> io::Result<()> {
        let first = listener(self.listen)?;
        let at = first.local_addr()?;
        let others: Vec<_> =
            (1..self.loops).map(|_| listener(at)).collect::<io::Result<Vec<TcpListener>>>()?;
        say_ready(at)?;
        std::thread::scope(|scope| {
            for other in others {
                scope.spawn(|| serve(other));
            }
            serve(first)
        })
    }
}

/// A non-blocking listener. Its connections inherit that small messages are sent at once.
pub fn listener(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The one line on standard output.
pub fn say_ready(at: SocketAddr) -> io::Result<()> {
    let mut out = io::stdout();
    writeln!(out, "READY {at}")?;
    out.flush()
}
