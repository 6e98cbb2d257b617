//! A rival: an echo over mio, one poll for each thread.
//!
//! As bare as `bare_epoll`, over mio's types: edge-triggered and registered once, one block for
//! all connections of a loop, a short read ends the drain.

use benches::rival::{BLOCK_BYTES, RivalFlags};
use clap::Parser;
use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use slab::Slab;
use std::io::{self, ErrorKind, Read, Write};

const LISTENER: Token = Token(usize::MAX - 1);
const EVENTS: usize = 256;

/// Echoes over mio.
#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    rival: RivalFlags,
}

struct Connection {
    stream: TcpStream,
    /// While there are any, the connection is not read.
    unsent: Vec<u8>,
}

/// What has become of a connection.
#[derive(PartialEq)]
enum Then {
    Open,
    Over,
}

impl Connection {
    #[inline]
    fn serve(&mut self, event: &Event, block: &mut [u8]) -> Then {
        if !self.unsent.is_empty() {
            match self.flush() {
                Ok(true) => {}
                Ok(false) => return Then::Open,
                Err(_) => return Then::Over,
            }
        } else if !event.is_readable() {
            return Then::Open; // merely that it can be written
        }
        loop {
            let got = match self.stream.read(block) {
                Ok(0) => return Then::Over,
                Ok(got) => got,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Then::Open,
                Err(_) => return Then::Over,
            };
            let sent = match self.stream.write(&block[..got]) {
                Ok(sent) => sent,
                Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                Err(_) => return Then::Over,
            };
            if sent < got {
                self.unsent.extend_from_slice(&block[sent..got]);
                return Then::Open;
            }
            if got < block.len() && !event.is_read_closed() && !event.is_error() {
                return Then::Open;
            }
        }
    }

    /// Sends what is left. True: all of it.
    #[cold]
    fn flush(&mut self) -> io::Result<bool> {
        let mut sent = 0;
        while sent < self.unsent.len() {
            match self.stream.write(&self.unsent[sent..]) {
                Ok(more) => sent += more,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.unsent.drain(..sent);
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        self.unsent = Vec::new(); // an idle connection owns no memory
        Ok(true)
    }
}

fn accept(
    poll: &Poll,
    listener: &TcpListener,
    connections: &mut Slab<Connection>,
) -> io::Result<()> {
    loop {
        match listener.accept() {
            Ok((mut stream, _)) => {
                let entry = connections.vacant_entry();
                let interest = Interest::READABLE | Interest::WRITABLE;
                poll.registry().register(&mut stream, Token(entry.key()), interest)?;
                entry.insert(Connection { stream, unsent: Vec::new() });
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
            Err(error) => return Err(error),
        }
    }
}

fn serve(listener: std::net::TcpListener) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(EVENTS);
    let mut listener = TcpListener::from_std(listener);
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut connections = Slab::new();
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        for event in &events {
            if event.token() == LISTENER {
                accept(&poll, &listener, &mut connections)?;
                continue;
            }
            let key = event.token().0;
            if connections[key].serve(event, &mut block) == Then::Over {
                connections.remove(key); // closing takes it out of the epoll too
            }
        }
    }
}

fn main() -> io::Result<()> {
    Flags::parse().rival.run(serve)
}
