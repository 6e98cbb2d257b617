//! A rival: an echo over smol, one executor for each thread and one task for each connection.
//!
//! Tuned like `tokio_echo`: an idle connection owns no buffer, and only what the kernel did not
//! take is awaited.

use benches::rival::{BLOCK_BYTES, RivalFlags};
use clap::Parser;
use smol::io::AsyncWriteExt;
use smol::{Async, LocalExecutor};
use std::cell::RefCell;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};

/// Echoes over smol.
#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    rival: RivalFlags,
}

thread_local! {
    static BLOCK: RefCell<Box<[u8]>> = RefCell::new(vec![0; BLOCK_BYTES].into_boxed_slice());
}

/// Reads once and writes once. What the kernel did not take comes back; `None`: the peer is gone.
fn exchange(mut stream: &TcpStream) -> io::Result<Option<Vec<u8>>> {
    BLOCK.with_borrow_mut(|block| {
        let got = stream.read(block)?;
        if got == 0 {
            return Ok(None);
        }
        let sent = match stream.write(&block[..got]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            sent => sent?,
        };
        Ok(Some(block[sent..got].to_vec()))
    })
}

async fn echo(stream: Async<TcpStream>) -> io::Result<()> {
    loop {
        match stream.read_with(exchange).await? {
            None => return Ok(()),
            Some(unsent) if unsent.is_empty() => {}
            Some(unsent) => (&stream).write_all(&unsent).await?,
        }
    }
}

fn serve(listener: TcpListener) -> io::Result<()> {
    let executor = LocalExecutor::new();
    let accepting = async {
        let listener = Async::new(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            let serving = async move {
                let _ = echo(stream).await; // the peer is gone, and its connection with it
            };
            executor.spawn(serving).detach();
        }
    };
    smol::block_on(executor.run(accepting))
}

fn main() -> io::Result<()> {
    Flags::parse().rival.run(serve)
}
