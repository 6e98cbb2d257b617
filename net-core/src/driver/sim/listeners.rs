//! How connections come into the world: dials with their outcomes, and listeners with their queues.

use super::wire::Coming;
use super::world::{Inner, Item, Listener, TO_ITSELF, World, address};
use crate::sys::addr::Addr;
use crate::sys::{Errno, SIM_BASE, Socket};
use std::io;

/// The outcome of the next dial.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Up,
    /// Up. The peer has sent these bytes, and has ended if the flag is set, before the loop looks.
    Greeted(Vec<u8>, bool),
    Refused,
    /// The peer never answers.
    Silence,
    /// The peer answers at this time.
    UpAt(u64),
    ToItself,
    /// connect(2) fails at once.
    Fails(i32),
}

impl World {
    pub(crate) fn dial(&self, to: &Addr) -> io::Result<Socket> {
        let mut world = self.get();
        world.dialled_to.push(to.clone());
        let outcome = world.dials.pop_front().unwrap_or(Outcome::Up);
        let now = world.now;
        world.dialled_at.push(now);
        if let Outcome::Fails(errno) = outcome {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let flags = if matches!(outcome, Outcome::ToItself) { TO_ITSELF } else { 0 };
        let wire = world.new_wire();
        world.wires[wire].is_connecting = true;
        world.connecting.push((wire, outcome));
        Ok(Socket::simulated(world.take_number(flags, wire)))
    }

    // --- listeners ---------------------------------------------------------------------------

    pub(crate) fn listen(&self) -> Socket {
        let mut world = self.get();
        let wire = usize::MAX;
        let number = world.take_number(0, wire);
        world.listeners.insert(number, Listener::default());
        Socket::simulated(number)
    }

    /// A client connects to the first listener. It is refused if there is no listener.
    pub(crate) fn knock(&self) -> usize {
        let wire = self.connect();
        let mut world = self.get();
        let first = world.listeners.first_key_value().map(|(number, _)| *number);
        match first {
            Some(number) => {
                world.listeners.get_mut(&number).unwrap().waiting.push_back(wire);
                world.wake(Item::Listener(number));
            }
            None => world.wires[wire].saw_reset = true,
        }
        wire
    }

    pub(crate) fn accept(&self, listener: &Socket) -> Result<(Socket, Addr), Errno> {
        let mut world = self.get();
        world.counts.accepts += 1;
        if let Some(errno) = world.faults.accept.pop_front() {
            return Err(Errno::new(errno));
        }
        let open = world.sockets.len();
        let is_full = world.faults.descriptors_max.is_some_and(|max| open >= max);
        let number = listener.number() - SIM_BASE;
        let waiting = &mut world.listeners.get_mut(&number).expect("a listener").waiting;
        if waiting.is_empty() {
            return Err(Errno::AGAIN);
        }
        if is_full {
            return Err(Errno::MFILE);
        }
        let wire = waiting.pop_front().unwrap();
        let number = world.take_number(0, wire);
        Ok((Socket::simulated(number), address(wire as u32, 40_000)))
    }

    pub(crate) fn shed(&self, listener: &Socket) -> bool {
        let mut world = self.get();
        let number = listener.number() - SIM_BASE;
        let Some(wire) = world.listeners.get_mut(&number).and_then(|l| l.waiting.pop_front())
        else {
            return false;
        };
        world.counts.sheds += 1;
        world.wires[wire].close(false);
        true
    }

    pub(crate) fn unlisten(&self, listener: Socket) {
        let mut world = self.get();
        let number = listener.number() - SIM_BASE;
        world.sockets.remove(&number);
        if let Some(listener) = world.listeners.remove(&number) {
            for wire in listener.waiting {
                world.wires[wire].close(true);
            }
        }
    }
}

impl Inner {
    /// Decides the dials whose outcome is due.
    pub(super) fn decide_dials(&mut self) {
        for (wire, outcome) in std::mem::take(&mut self.connecting) {
            if self.wires[wire].is_closed {
                continue;
            }
            match outcome {
                Outcome::Silence => {
                    self.connecting.push((wire, outcome));
                    continue;
                }
                Outcome::UpAt(at) if at > self.now => {
                    self.connecting.push((wire, outcome));
                    continue;
                }
                Outcome::Refused => self.wires[wire].peer_resets(),
                Outcome::Greeted(bytes, ends) => {
                    self.wires[wire].is_connecting = false;
                    self.wires[wire].coming.push_back(Coming::Bytes(bytes.into()));
                    if ends {
                        self.wires[wire].coming.push_back(Coming::Fin);
                    }
                }
                Outcome::Up | Outcome::UpAt(_) | Outcome::ToItself | Outcome::Fails(_) => {
                    self.wires[wire].is_connecting = false;
                }
            }
            self.wake(Item::Wire(wire));
        }
    }
}
