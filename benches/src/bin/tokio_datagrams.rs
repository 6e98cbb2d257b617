//! A rival: datagrams sent back over tokio, one task for each socket.
//!
//! Tuned as far as its safe interface allows: it receives and sends until there is nothing left to
//! do, and only then waits.

use benches::rival::say_ready;
use clap::Parser;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use tokio::net::UdpSocket;
use tokio::runtime::Builder;

/// Sends datagrams back over tokio.
#[derive(Parser)]
struct Flags {
    /// Where to receive: IP:PORT
    #[arg(long, default_value = "127.0.0.1:9000")]
    listen: SocketAddr,
}

async fn serve(socket: std::net::UdpSocket) -> io::Result<()> {
    let socket = UdpSocket::from_std(socket)?;
    let mut block = vec![0; 1 << 16];
    loop {
        socket.readable().await?;
        loop {
            match socket.try_recv_from(&mut block) {
                Ok((got, peer)) => _ = socket.send_to(&block[..got], peer).await?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
    }
}

fn main() -> io::Result<()> {
    let socket = std::net::UdpSocket::bind(Flags::parse().listen)?;
    socket.set_nonblocking(true)?;
    say_ready(socket.local_addr()?)?;
    Builder::new_current_thread().enable_io().build()?.block_on(serve(socket))
}
