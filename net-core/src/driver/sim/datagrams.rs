//! Sockets for datagrams in the simulated world.

use super::world::{Inner, Item, World};
use crate::driver::What;
use crate::sys::{BATCH, Errno, Inbound, SIM_BASE, Socket, UdpMessage};
use std::collections::VecDeque;
use std::net::SocketAddr;

/// One datagram socket, as the kernel sees it.
#[derive(Default)]
pub(crate) struct Endpoint {
    pub(super) token: u64,
    pub(crate) arrived: VecDeque<(SocketAddr, Vec<u8>)>,
    pub(crate) sent: Vec<(SocketAddr, Vec<u8>)>,
    /// The number of messages that have carried the sent datagrams.
    pub(crate) messages: usize,
    /// How many more datagrams the socket takes. `None`: no limit.
    pub(crate) room: Option<usize>,
    /// The socket refuses to cut a message into datagrams longer than this.
    pub(crate) cuts_up_to: Option<usize>,
    /// Datagrams of one peer and one length in a row (the last may be shorter) arrive as one message.
    pub(crate) joins: bool,
    /// The errors of the next sends.
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

    /// A peer sends a datagram to the first endpoint. It is lost if there is no endpoint.
    pub(crate) fn say(&self, peer: SocketAddr, bytes: &[u8]) {
        self.on_endpoint(|endpoint| endpoint.arrived.push_back((peer, bytes.to_vec())));
    }

    /// Changes the first endpoint, and makes it ready for its epoll. `None`: there is no endpoint.
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
        let mut messages = Vec::new();
        while messages.len() < BATCH
            && let Some((peer, mut bytes)) = endpoint.arrived.pop_front()
        {
            let (len, mut is_last) = (bytes.len(), !endpoint.joins || bytes.is_empty());
            while !is_last
                && let Some((next, more)) = endpoint.arrived.front()
                && *next == peer
                && (1..=len).contains(&more.len())
                && bytes.len() + more.len() < 1 << 16
            {
                is_last = more.len() < len;
                bytes.extend_from_slice(more);
                endpoint.arrived.pop_front();
            }
            messages.push((peer, bytes, len));
        }
        let got = messages.len();
        if got == 0 {
            return Err(Errno::AGAIN);
        }
        into.fill(messages.into_iter());
        Ok(got)
    }

    pub(crate) fn send_datagrams(
        &self,
        socket: &Socket,
        bytes: &[u8],
        batch: &[UdpMessage],
    ) -> Result<usize, Errno> {
        assert!((1..=BATCH).contains(&batch.len()), "one batch");
        let mut world = self.get();
        let most = world.rng.within(1, batch.len());
        let endpoint = world.endpoint(socket);
        if let Some(errno) = endpoint.send_errors.pop_front() {
            return Err(Errno::new(errno));
        }
        let mut taken = 0;
        for message in &batch[..most] {
            let (datagrams, is_joined) = (message.datagrams(), message.datagrams() > 1);
            let refused = endpoint.cuts_up_to.filter(|&most| is_joined && message.longest > most);
            let is_full = endpoint.room.is_some_and(|room| room < datagrams);
            match (refused, is_full) {
                (Some(_), _) if taken == 0 => return Err(Errno::INVAL),
                (None, true) if taken == 0 => return Err(Errno::AGAIN),
                (None, false) => {}
                _ => break,
            }
            taken += 1;
            endpoint.messages += 1;
            endpoint.room = endpoint.room.map(|room| room - datagrams);
            endpoint.sent.extend(message.cut(bytes).map(|one| (message.ends.peer, one.to_vec())));
        }
        Ok(taken)
    }
}

impl Inner {
    fn endpoint(&mut self, socket: &Socket) -> &mut Endpoint {
        self.endpoints.get_mut(&(socket.number() - SIM_BASE)).expect("an endpoint")
    }
}
