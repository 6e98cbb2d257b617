//! The limit of a fan-out: one epoll, and a plain write to each connection. The protocol is in
//! `benches::fan_out`.
//!
//! Who does not take a payload whole is closed: the kernel has room for very many.

use benches::fan_out::{CALL, PAYLOAD};
use benches::rival::{BLOCK_BYTES, RivalFlags};
use benches::sys::{self, Epoll};
use clap::Parser;
use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, RawFd};

const LISTENER: u64 = u64::MAX;

/// Sends one payload to every connection.
#[derive(Parser)]
struct Flags {
    /// A loop sends to its own connections only, so there should be one
    #[command(flatten)]
    rival: RivalFlags,
}

struct Bare {
    epoll: Epoll,
    listener: TcpListener,
    block: Box<[u8]>,
    connections: BTreeSet<RawFd>,
}

impl Bare {
    fn new(listener: TcpListener) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        epoll.add(listener.as_raw_fd(), LISTENER, libc::EPOLLIN)?;
        let block = vec![0; BLOCK_BYTES].into_boxed_slice();
        Ok(Self { epoll, listener, block, connections: BTreeSet::new() })
    }

    fn run(&mut self) -> io::Result<()> {
        loop {
            let came = self.epoll.wait(-1)?;
            for n in 0..came {
                match self.epoll.event(n) {
                    (LISTENER, _) => self.accept()?,
                    (fd, _) => self.serve(fd as RawFd),
                }
            }
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        match sys::accept(self.listener.as_raw_fd()) {
            Ok(fd) => {
                self.connections.insert(fd);
                self.epoll.add(fd, fd as u64, libc::EPOLLIN)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn serve(&mut self, fd: RawFd) {
        match sys::read(fd, &mut self.block) {
            Ok(got) if self.block[..got].contains(&CALL) => self.fan_out(fd),
            Ok(got) if got > 0 && sys::write(fd, &self.block[..got]).is_ok() => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            _ => self.close(fd),
        }
    }

    fn fan_out(&mut self, caller: RawFd) {
        let mut slow = Vec::new();
        for &fd in self.connections.iter().filter(|&&fd| fd != caller) {
            if !sys::write(fd, &PAYLOAD).is_ok_and(|sent| sent == PAYLOAD.len()) {
                slow.push(fd);
            }
        }
        for fd in slow {
            self.close(fd);
        }
    }

    fn close(&mut self, fd: RawFd) {
        // An event of one that was closed a moment ago finds nothing.
        if self.connections.remove(&fd) {
            sys::close(fd);
        }
    }
}

fn main() -> io::Result<()> {
    Flags::parse().rival.run(|listener| Bare::new(listener)?.run())
}
