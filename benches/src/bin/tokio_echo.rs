//! A rival: an echo over tokio, one task for each connection.
//!
//! Tuned as far as its safe interface allows: a task waits until its stream is readable and then
//! reads into its thread's block, so an idle connection owns no buffer; it writes at once, and
//! awaits only what the kernel did not take.

use benches::rival::{BLOCK_BYTES, RivalFlags, listener, say_ready};
use clap::{Parser, ValueEnum};
use std::cell::RefCell;
use std::io::{self, ErrorKind};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;

/// Echoes over tokio.
#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    rival: RivalFlags,
    /// One runtime of several threads, or one of a single thread for each loop
    #[arg(long, value_enum, default_value_t)]
    flavor: Flavor,
}

#[derive(ValueEnum, Clone, Copy, Default, PartialEq)]
enum Flavor {
    #[default]
    MultiThread,
    PerCore,
}

thread_local! {
    static BLOCK: RefCell<Box<[u8]>> = RefCell::new(vec![0; BLOCK_BYTES].into_boxed_slice());
}

/// Reads once and writes once. What the kernel did not take comes back; `None`: the peer is gone.
fn exchange(stream: &TcpStream) -> io::Result<Option<Vec<u8>>> {
    BLOCK.with_borrow_mut(|block| {
        let got = match stream.try_read(block) {
            Ok(0) => return Ok(None),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Some(Vec::new())),
            got => got?,
        };
        let sent = match stream.try_write(&block[..got]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            sent => sent?,
        };
        Ok(Some(block[sent..got].to_vec()))
    })
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    loop {
        stream.readable().await?;
        match exchange(&stream)? {
            None => return Ok(()),
            Some(unsent) if unsent.is_empty() => {}
            Some(unsent) => stream.write_all(&unsent).await?,
        }
    }
}

async fn serve(listener: std::net::TcpListener) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            let _ = echo(stream).await; // the peer is gone, and its connection with it
        });
    }
}

fn main() -> io::Result<()> {
    let flags = Flags::parse();
    if flags.flavor == Flavor::PerCore {
        return flags.rival.run(|listener| {
            Builder::new_current_thread().enable_io().build()?.block_on(serve(listener))
        });
    }
    let listener = listener(flags.rival.listen)?;
    let runtime =
        Builder::new_multi_thread().worker_threads(flags.rival.loops).enable_io().build()?;
    say_ready(listener.local_addr()?)?;
    // Spawned, so that accepting too runs on the workers.
    let serving = runtime.spawn(serve(listener));
    runtime.block_on(serving).map_err(io::Error::other)?
}
