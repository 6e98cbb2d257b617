//! Sockets for datagrams in the simulated world.

use super::world::{Inner, Item, World};
use crate::driver::What;
use crate::sys::{BATCH, Errno, Inbound, SIM_BASE, Socket};
use std::collections::VecDeque;
use std::net::SocketAddr;

/// One such socket, seen from the kernel.
#[derive(Default)]
pub(crate) struct Endpoint {
    pub(super) token: u64,
    pub(crate) arrived: VecDeque<(SocketAddr, Vec<u8>)>,
    pub(crate) sent: Vec<(SocketAddr, Vec<u8>)>,
    /// It takes no more than so many.
    pub(crate) room: Option<usize>,
    /// Errors that the next sends meet.
    pub(crate) send_errors: VecDeque<i32>,
    pub(crate) receive_errors: VecDeque<i32>,
}

impl Endpoint {
    pub(super) fn poll(&self) -> u32 {
        let arrived = if self.arrived.is_empty() { 0 } else { What::ARRIVED.bits() };
        let room = if self.room == Some(0) { 0 } else { What::ROOM.bits() };
        arrived | room
    }
}

impl World {
    pub(crate) fn open_datagrams(&self) -> Socket {
        let mut world = self.get();
        let number = world.take_number(0, usize::MAX);
        world.endpoints.insert(number, Endpoint::default());
        Socket::simulated(number)
    }

    /// Somebody sends a datagram to the first endpoint. Lost if there is none.
    pub(crate) fn say(&self, peer: SocketAddr, bytes: &[u8]) {
        self.on_endpoint(|endpoint| endpoint.arrived.push_back((peer, bytes.to_vec())));
    }

    /// Changes the first endpoint, and wakes whoever watches it. `None`: there is none.
    pub(crate) fn on_endpoint<R>(&self, change: impl FnOnce(&mut Endpoint) -> R) -> Option<R> {
        let mut world = self.get();
        let mut first = world.endpoints.first_entry()?;
        let number = *first.key();
        let changed = change(first.get_mut());
        world.wake(Item::Endpoint(number));
        Some(changed)
    }

    pub(crate) fn receive_datagrams(
        &self,
        socket: &Socket,
        into: &mut Inbound,
    ) -> Result<usize, Errno> {
        let mut world = self.get();
        let endpoint = world.endpoint(socket);
        if let Some(errno) = endpoint.receive_errors.pop_front() {
            return Err(Errno::new(errno));
        }
        let got = endpoint.arrived.len().min(BATCH);
        if got == 0 {
            return Err(Errno::new(libc::EAGAIN));
        }
        into.fill(endpoint.arrived.drain(..got));
        Ok(got)
    }

    pub(crate) fn send_datagrams(
        &self,
        socket: &Socket,
        what: &[(SocketAddr, &[u8])],
    ) -> Result<usize, Errno> {
        assert!((1..=BATCH).contains(&what.len()), "one batch");
        let mut world = self.get();
        let most = world.rng.within(1, what.len());
        let endpoint = world.endpoint(socket);
        if let Some(errno) = endpoint.send_errors.pop_front() {
            return Err(Errno::new(errno));
        }
        let taken = most.min(endpoint.room.unwrap_or(usize::MAX));
        if taken == 0 {
            return Err(Errno::new(libc::EAGAIN));
        }
        endpoint.room = endpoint.room.map(|room| room - taken);
        endpoint.sent.extend(what[..taken].iter().map(|(to, bytes)| (*to, bytes.to_vec())));
        Ok(taken)
    }
}

impl Inner {
    fn endpoint(&mut self, socket: &Socket) -> &mut Endpoint {
        self.endpoints.get_mut(&(socket.number() - SIM_BASE)).expect("an endpoint")
    }
}
