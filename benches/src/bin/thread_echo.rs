//! A rival: an echo with one thread for each connection, and blocking calls.

use benches::rival::{RivalFlags, listener, say_ready};
use clap::Parser;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::thread;

/// Enough for two calls and the block.
const STACK_BYTES: usize = 64 << 10;
const BLOCK_BYTES: usize = 16 << 10;

/// Echoes with one thread for each connection.
#[derive(Parser)]
struct Flags {
    /// There is one thread for each connection, whatever number of loops is asked for
    #[command(flatten)]
    rival: RivalFlags,
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut block = [0; BLOCK_BYTES];
    loop {
        let got = stream.read(&mut block)?;
        if got == 0 {
            return Ok(());
        }
        stream.write_all(&block[..got])?;
    }
}

fn main() -> io::Result<()> {
    let listener = listener(Flags::parse().rival.listen)?;
    listener.set_nonblocking(false)?;
    say_ready(listener.local_addr()?)?;
    loop {
        let (stream, _) = listener.accept()?;
        thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
            let _ = echo(stream); // the peer is gone, and its connection with it
        })?;
    }
}
