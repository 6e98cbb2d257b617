//! A rival: an echo over io_uring and nothing else.
//!
//! Multishot accept and receive into one ring of buffers; an answer is sent from the buffer in
//! which the message arrived. One send of a connection is under way at a time.

use benches::rival::RivalFlags;
use benches::sys;
use clap::Parser;
use io_uring::types::Fd;
use io_uring::{IoUring, cqueue, opcode, squeue};
use std::collections::VecDeque;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, RawFd};

mod buffers;

use buffers::Buffers;

const SUBMISSIONS: u32 = 1024;
const COMPLETIONS: u32 = 16 * 1024;
const GROUP: u16 = 0;

/// Echoes over bare io_uring.
#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    rival: RivalFlags,
}

/// What a completion is about: in the upper half of its user data, above the descriptor.
const ACCEPT: u64 = 0;
const RECEIVE: u64 = 1;
const SEND: u64 = 2;

fn tag(what: u64, fd: RawFd) -> u64 {
    what << 32 | fd as u64
}

/// A part of a buffer that is still to be sent.
#[derive(Clone, Copy)]
struct Part {
    buffer: u16,
    from: usize,
    to: usize,
}

#[derive(Default)]
struct Connection {
    /// The first is being sent.
    parts: VecDeque<Part>,
    /// The multishot receive is under way.
    receives: bool,
    /// The peer has ended, or a send has failed: closed once nothing is under way.
    is_over: bool,
}

struct Loop {
    ring: IoUring,
    buffers: Buffers,
    /// By descriptor.
    connections: Vec<Connection>,
    /// Whose receive ended because the ring had no buffer left.
    starved: Vec<RawFd>,
    listener: TcpListener,
}

impl Loop {
    fn new(listener: TcpListener) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_cqsize(COMPLETIONS)
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(SUBMISSIONS)?;
        let buffers = Buffers::register(&ring.submitter(), GROUP)?;
        Ok(Self { ring, buffers, connections: Vec::new(), starved: Vec::new(), listener })
    }

    fn run(&mut self) -> io::Result<()> {
        self.accept()?;
        let mut came: Vec<cqueue::Entry> = Vec::with_capacity(COMPLETIONS as usize);
        loop {
            match self.ring.submit_and_wait(1) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                submitted => submitted?,
            };
            came.extend(self.ring.completion());
            for entry in came.drain(..) {
                self.completed(&entry)?;
            }
            self.buffers.publish();
            for fd in std::mem::take(&mut self.starved) {
                self.receive(fd)?;
            }
        }
    }

    fn completed(&mut self, entry: &cqueue::Entry) -> io::Result<()> {
        let fd = (entry.user_data() & u64::from(u32::MAX)) as RawFd;
        match entry.user_data() >> 32 {
            ACCEPT => self.accepted(entry),
            RECEIVE => self.received(fd, entry),
            _ => self.sent(fd, entry.result()),
        }
    }

    fn accepted(&mut self, entry: &cqueue::Entry) -> io::Result<()> {
        let fd = entry.result();
        if fd >= 0 {
            let index = fd as usize;
            if self.connections.len() <= index {
                self.connections.resize_with(index + 1, Connection::default);
            }
            self.connections[index].is_over = false;
            self.receive(fd)?;
        }
        if cqueue::more(entry.flags()) { Ok(()) } else { self.accept() }
    }

    fn received(&mut self, fd: RawFd, entry: &cqueue::Entry) -> io::Result<()> {
        let connection = &mut self.connections[fd as usize];
        connection.receives = cqueue::more(entry.flags());
        let goes_on = connection.receives;
        match (entry.result(), cqueue::buffer_select(entry.flags())) {
            (got, Some(buffer)) if got > 0 => {
                let is_first = connection.parts.is_empty();
                connection.parts.push_back(Part { buffer, from: 0, to: got as usize });
                if is_first {
                    self.send(fd)?;
                }
                if goes_on { Ok(()) } else { self.receive(fd) }
            }
            (error, _) if error == -libc::ENOBUFS => {
                self.starved.push(fd);
                Ok(())
            }
            _ => {
                connection.is_over = true;
                self.close_if_done(fd);
                Ok(())
            }
        }
    }

    fn sent(&mut self, fd: RawFd, result: i32) -> io::Result<()> {
        let connection = &mut self.connections[fd as usize];
        let part = connection.parts.front_mut().expect("a send is of the first part");
        if result <= 0 {
            for part in std::mem::take(&mut connection.parts) {
                self.buffers.give_back(part.buffer);
            }
            // A receive that is still under way meets the same end.
            connection.is_over = true;
            self.close_if_done(fd);
            return Ok(());
        }
        part.from += result as usize;
        if part.from == part.to {
            self.buffers.give_back(part.buffer);
            connection.parts.pop_front();
        }
        if connection.parts.is_empty() {
            self.close_if_done(fd);
            return Ok(());
        }
        self.send(fd)
    }

    fn close_if_done(&mut self, fd: RawFd) {
        let connection = &self.connections[fd as usize];
        if connection.is_over && !connection.receives && connection.parts.is_empty() {
            sys::close(fd);
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        let listener = self.listener.as_raw_fd();
        let entry = opcode::AcceptMulti::new(Fd(listener)).flags(libc::SOCK_CLOEXEC).build();
        self.push(entry.user_data(tag(ACCEPT, listener)))
    }

    fn receive(&mut self, fd: RawFd) -> io::Result<()> {
        self.connections[fd as usize].receives = true;
        let entry = opcode::RecvMulti::new(Fd(fd), GROUP).build();
        self.push(entry.user_data(tag(RECEIVE, fd)))
    }

    fn send(&mut self, fd: RawFd) -> io::Result<()> {
        let part = self.connections[fd as usize].parts[0];
        let bytes = self.buffers.bytes(part.buffer, part.from, part.to);
        let entry = opcode::Send::new(Fd(fd), bytes.as_ptr(), bytes.len() as u32)
            .flags(libc::MSG_NOSIGNAL)
            .build();
        self.push(entry.user_data(tag(SEND, fd)))
    }

    fn push(&mut self, entry: squeue::Entry) -> io::Result<()> {
        if self.ring.submission().is_full() {
            self.ring.submit()?;
        }
        // SAFETY: what the entry points to is a buffer of `buffers`, which lives as long as the
        // ring and is not given back to it before the send has completed; or nothing.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.map_err(io::Error::other)
    }
}

fn main() -> io::Result<()> {
    Flags::parse().rival.run(|listener| Loop::new(listener)?.run())
}
