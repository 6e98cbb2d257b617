//! A rival: an echo over monoio on its io_uring driver, one runtime for each thread and one task
//! for each connection.
//!
//! A receive owns its buffer until it completes, so each connection has one of its own.

use benches::rival::RivalFlags;
use clap::Parser;
use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::{TcpListener, TcpStream};
use monoio::{IoUringDriver, RuntimeBuilder};
use std::io;

const ENTRIES: u32 = 1024;
const BUFFER_BYTES: usize = 16 << 10;

/// Echoes over monoio.
#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    rival: RivalFlags,
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(BUFFER_BYTES);
    loop {
        let (got, filled) = stream.read(buffer).await;
        if got? == 0 {
            return Ok(());
        }
        let (sent, emptied) = stream.write_all(filled).await;
        sent?;
        buffer = emptied;
    }
}

fn serve(listener: std::net::TcpListener) -> io::Result<()> {
    let mut runtime = RuntimeBuilder::<IoUringDriver>::new().with_entries(ENTRIES).build()?;
    runtime.block_on(async {
        let listener = TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            monoio::spawn(async move {
                let _ = echo(stream).await; // the peer is gone, and its connection with it
            });
        }
    })
}

fn main() -> io::Result<()> {
    Flags::parse().rival.run(serve)
}
