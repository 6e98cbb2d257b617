//! Pipes of the simulated world. A pipe has a number of places. Each place holds one fragment, however small.
//! So a pipe has no free place long before it is full of bytes. Its EAGAIN has two meanings, as on Linux.
//!
//! A real pipe stands for each model pipe, because it can be owned and closed. No bytes are ever in it.

use super::World;
use super::wire::Wire;
use crate::sys::{Errno, SIM_BASE, Socket};
use net_buffer::Pipe;
use std::collections::VecDeque;
use std::os::fd::{AsRawFd, RawFd};

/// The places of a pipe: of a user with too many pipes, by default, and as we set it.
const PLACES: [usize; 3] = [2, 16, 64];

/// The bytes that a splice may ask for per free place: `do_splice_read` asks for at most as many pages as
/// places are free.
const PAGE: usize = 4096;

#[derive(Debug)]
pub(crate) struct ModelPipe {
    places: usize,
    fragments: VecDeque<Vec<u8>>,
}

impl World {
    /// Makes an empty pipe, or returns the next error in the faults.
    pub(crate) fn pipe(&self) -> Result<Pipe, Errno> {
        let mut world = self.get();
        if let Some(errno) = world.faults.pipe.pop_front() {
            return Err(Errno::new(errno));
        }
        let (read_end, write_end) = std::io::pipe().unwrap();
        let pipe = Pipe::new(read_end.into(), write_end.into());
        let by_chance = world.rng.pick(&PLACES);
        let places = world.places.unwrap_or(by_chance);
        world.counts.pipes += 1;
        // A pipe that was closed may have had the same number.
        world.pipes.insert(number(&pipe), ModelPipe { places, fragments: VecDeque::new() });
        Ok(pipe)
    }

    /// splice(2) from a socket.
    pub(crate) fn fill_pipe(
        &self,
        pipe: &Pipe,
        socket: &Socket,
        most: usize,
    ) -> Result<usize, Errno> {
        assert!(most > 0, "a splice of nothing cannot tell the end from no bytes");
        let mut world = self.get();
        world.counts.splices += 1;
        let wire = world.sockets[&(socket.number() - SIM_BASE)];
        let model = world.pipes.get(&number(pipe)).expect("an open pipe");
        let free = model.places - model.fragments.len();
        if free == 0 {
            world.counts.full_pipes += u64::from(!world.wires[wire].arrived.is_empty());
            return Err(Errno::AGAIN); // wait_for_space, before the socket is looked at
        }
        let most = most.min(free * PAGE);
        let by_chance = world.rng.pick(&[1, 40, 1448, 32 << 10]);
        let apart = world.fragments.unwrap_or(by_chance);
        let mut fragments = world.wires[wire].splice(most, free, apart).map_err(Errno::new)?;
        let bytes = fragments.iter().map(Vec::len).sum();
        let is_full = fragments.len() == free && !world.wires[wire].arrived.is_empty();
        world.counts.full_pipes += u64::from(is_full);
        let model = world.pipes.get_mut(&number(pipe)).expect("an open pipe");
        model.fragments.append(&mut fragments);
        if bytes > 0 {
            world.wires[wire].moved_at = world.now;
        }
        // The window has opened. More bytes may come while this call runs.
        if world.rng.one_in(2) {
            world.flow_one(wire);
        }
        Ok(bytes)
    }

    /// splice(2) to a socket: fragment by fragment, until the socket takes no more.
    pub(crate) fn send_pipe(
        &self,
        pipe: &Pipe,
        socket: &Socket,
        most: usize,
    ) -> Result<usize, Errno> {
        let mut sent = 0;
        while sent < most {
            let front = self.get().pipes[&number(pipe)].fragments.front().cloned();
            let Some(fragment) = front else { break };
            let part = &fragment[..fragment.len().min(most - sent)];
            let taken = match self.send(socket, part) {
                Ok(taken) => taken,
                Err(errno) if sent == 0 => return Err(errno),
                Err(_) => break,
            };
            sent += taken;
            let mut world = self.get();
            let fragments = &mut world.pipes.get_mut(&number(pipe)).unwrap().fragments;
            if taken == fragment.len() {
                fragments.pop_front();
            } else {
                fragments[0].drain(..taken);
            }
            if taken < part.len() || world.rng.one_in(4) {
                break; // or a signal came: there may be room
            }
        }
        if sent == 0 { Err(Errno::AGAIN) } else { Ok(sent) }
    }
}

fn number(pipe: &Pipe) -> RawFd {
    pipe.read_end().as_raw_fd()
}

impl Wire {
    /// `tcp_splice_read`: moves up to `places` fragments of at most `apart` bytes each. Unlike a receive, it
    /// does not skip urgent data.
    fn splice(
        &mut self,
        most: usize,
        places: usize,
        apart: usize,
    ) -> Result<VecDeque<Vec<u8>>, i32> {
        while self.stops.front() == Some(&0) {
            self.stops.pop_front();
        }
        let before_mark = self.mark.unwrap_or(usize::MAX);
        let before_stop = self.stops.front().copied().unwrap_or(usize::MAX);
        let count = self.arrived.len().min(most).min(before_mark).min(before_stop);
        let count = count.min(places.saturating_mul(apart));
        if count == 0 {
            if self.mark == Some(0) && !self.arrived.is_empty() {
                return Err(Errno::AGAIN.raw());
            }
            if self.has_fin {
                return Ok(VecDeque::new());
            }
            return match self.error.take() {
                Some(errno) => Err(errno),
                None if self.is_reset => Ok(VecDeque::new()),
                None => Err(Errno::AGAIN.raw()),
            };
        }
        let bytes: Vec<u8> = self.arrived.drain(..count).collect();
        self.mark = self.mark.map(|mark| mark - count);
        self.stops.iter_mut().for_each(|stop| *stop -= count);
        Ok(bytes.chunks(apart).map(<[u8]>::to_vec).collect())
    }
}
