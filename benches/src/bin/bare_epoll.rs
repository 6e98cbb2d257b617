//! The limit: an echo over epoll and nothing else. No framework, no timers, no counters.
//!
//! Edge-triggered and registered once; a short read ends the drain; all connections of a loop
//! receive into one block, and what the kernel does not take is kept beside the descriptor.

use benches::rival::{BLOCK_BYTES, RivalFlags};
use benches::sys::{self, Epoll};
use clap::Parser;
use std::io::{self, ErrorKind};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, RawFd};

const LISTENER: u64 = u64::MAX;
const OVER: u32 = (libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) as u32;

/// Echoes over bare epoll.
#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    rival: RivalFlags,
}

struct Bare {
    epoll: Epoll,
    listener: TcpListener,
    block: Box<[u8]>,
    /// Unsent bytes, by descriptor. While there are any, the connection is not read.
    unsent: Vec<Option<Box<Unsent>>>,
}

struct Unsent {
    bytes: Vec<u8>,
    sent: usize,
}

/// What has become of a connection.
#[derive(PartialEq)]
enum Then {
    Open,
    Over,
}

impl Bare {
    fn new(listener: TcpListener) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        epoll.add(listener.as_raw_fd(), LISTENER, libc::EPOLLIN | libc::EPOLLET)?;
        let block = vec![0; BLOCK_BYTES].into_boxed_slice();
        Ok(Self { epoll, listener, block, unsent: Vec::new() })
    }

    fn run(&mut self) -> io::Result<()> {
        loop {
            let came = self.epoll.wait(-1)?;
            for n in 0..came {
                let (token, bits) = self.epoll.event(n);
                if token == LISTENER {
                    self.accept()?;
                } else if self.serve(token as RawFd, bits) == Then::Over {
                    self.unsent[token as usize] = None;
                    sys::close(token as RawFd);
                }
            }
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            match sys::accept(self.listener.as_raw_fd()) {
                Ok(fd) => {
                    let index = fd as usize;
                    if self.unsent.len() <= index {
                        self.unsent.resize_with(index + 1, || None);
                    }
                    let bits = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
                    self.epoll.add(fd, fd as u64, bits)?;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) => return Err(error),
            }
        }
    }

    #[inline]
    fn serve(&mut self, fd: RawFd, bits: u32) -> Then {
        if self.unsent[fd as usize].is_some() {
            match self.flush(fd) {
                Ok(true) => {}
                Ok(false) => return Then::Open,
                Err(_) => return Then::Over,
            }
        } else if bits & (libc::EPOLLIN as u32 | OVER) == 0 {
            return Then::Open; // merely that it can be written
        }
        loop {
            let got = match sys::read(fd, &mut self.block) {
                Ok(0) => return Then::Over,
                Ok(got) => got,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Then::Open,
                Err(_) => return Then::Over,
            };
            let sent = match sys::write(fd, &self.block[..got]) {
                Ok(sent) => sent,
                Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                Err(_) => return Then::Over,
            };
            if sent < got {
                let bytes = self.block[sent..got].to_vec();
                self.unsent[fd as usize] = Some(Box::new(Unsent { bytes, sent: 0 }));
                return Then::Open;
            }
            if got < self.block.len() && bits & OVER == 0 {
                return Then::Open;
            }
        }
    }

    /// Sends what is left. True: all of it.
    #[cold]
    fn flush(&mut self, fd: RawFd) -> io::Result<bool> {
        let slot = &mut self.unsent[fd as usize];
        let Some(unsent) = slot else { return Ok(true) };
        while unsent.sent < unsent.bytes.len() {
            match sys::write(fd, &unsent.bytes[unsent.sent..]) {
                Ok(sent) => unsent.sent += sent,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        *slot = None;
        Ok(true)
    }
}

fn main() -> io::Result<()> {
    Flags::parse().rival.run(|listener| Bare::new(listener)?.run())
}
