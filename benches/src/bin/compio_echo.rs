//! A rival: an echo over compio on io_uring, one runtime for each thread and one task for each
//! connection.
//!
//! Tuned as far as its interface allows: the kernel takes a buffer of the runtime's ring for each
//! receive, so that an idle connection owns none.

use benches::rival::RivalFlags;
use clap::Parser;
use compio::BufResult;
use compio::driver::ProactorBuilder;
use compio::io::{AsyncRead, AsyncReadManaged, AsyncWriteExt};
use compio::net::{TcpListener, TcpStream};
use compio::runtime::RuntimeBuilder;
use std::io::{self, ErrorKind};
use std::num::NonZero;

const ENTRIES: u32 = 1024;
const BUFFERS: NonZero<u16> = NonZero::new(1024).expect("not zero");
const BUFFER_BYTES: usize = 16 << 10;

/// Echoes over compio.
#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    rival: RivalFlags,
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    loop {
        match stream.read_managed(0).await {
            Ok(None) => return Ok(()),
            Ok(Some(filled)) => stream.write_all(filled).await.0?,
            Err(error) if error.kind() == ErrorKind::ResourceBusy => {
                // The ring is empty for the moment.
                let BufResult(got, filled) = stream.read(Vec::with_capacity(BUFFER_BYTES)).await;
                if got? == 0 {
                    return Ok(());
                }
                stream.write_all(filled).await.0?;
            }
            Err(error) => return Err(error),
        }
    }
}

fn serve(listener: std::net::TcpListener) -> io::Result<()> {
    let mut proactor = ProactorBuilder::new();
    proactor.capacity(ENTRIES).buffer_pool_size(BUFFERS).buffer_pool_buffer_len(BUFFER_BYTES);
    proactor.single_issuer(true).defer_taskrun(true).taskrun_flag(true);
    let runtime = RuntimeBuilder::new().with_proactor(proactor).build()?;
    runtime.block_on(async {
        let listener = TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            let serving = async move {
                let _ = echo(stream).await; // the peer is gone, and its connection with it
            };
            compio::runtime::spawn(serving).detach();
        }
    })
}

fn main() -> io::Result<()> {
    Flags::parse().rival.run(serve)
}
