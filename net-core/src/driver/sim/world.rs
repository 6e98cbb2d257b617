//! `World`: everything outside a loop: wires, listeners, a virtual clock, and faults.
//!
//! It is a handle: the driver and the test share one world. Sockets are numbers. A new socket gets the lowest
//! free number, as a descriptor does.

use super::datagrams::Endpoint;
use super::listeners::Outcome;
use super::pipes::ModelPipe;
use super::rng::Rng;
use super::wire::Wire;
use crate::driver::{WAKER, What};
use crate::sys::addr::Addr;
use crate::sys::{Errno, SIM_BASE, Socket};
use std::cell::{RefCell, RefMut};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;

/// A socket whose number has this bit is connected to itself.
pub(super) const TO_ITSELF: i32 = 1 << 28;

/// The number of calls so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) waits: u64,
    pub(crate) receives: u64,
    pub(crate) sends: u64,
    pub(crate) accepts: u64,
    pub(crate) sheds: u64,
    pub(crate) closes: u64,
    pub(crate) splices: u64,
    pub(crate) pipes: u64,
    /// Splices for which the pipe had too few free places.
    pub(crate) full_pipes: u64,
}

/// The errors of the next calls, by call.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    pub(crate) accept: VecDeque<i32>,
    pub(crate) attach: VecDeque<i32>,
    pub(crate) send: VecDeque<i32>,
    pub(crate) pipe: VecDeque<i32>,
    /// Sends sometimes take fewer bytes than there is room for.
    pub(crate) short_sends: bool,
    /// The most descriptors of the process. An accept above it fails with EMFILE.
    pub(crate) descriptors_max: Option<usize>,
    /// A mutation for tests: FIN, errors and the urgent mark are not announced together with bytes.
    pub(crate) hides_ends: bool,
}

type Script = Box<dyn FnOnce(&World)>;

#[derive(Default)]
pub(super) struct Listener {
    pub(super) token: u64,
    pub(super) waiting: VecDeque<usize>,
}

pub(crate) struct Inner {
    pub(crate) rng: Rng,
    pub(crate) now: u64,
    /// A wait does not let the time pass this point.
    pub(crate) limit: Option<u64>,
    /// The last wait ended only because of the limit. Without it, the wait would have gone on.
    pub(crate) is_quiet: bool,
    /// Another thread has rung the waker.
    is_rung: bool,
    pub(crate) wires: Vec<Wire>,
    /// Open sockets: from number to wire.
    pub(crate) sockets: BTreeMap<i32, usize>,
    pub(super) listeners: BTreeMap<i32, Listener>,
    pub(super) endpoints: BTreeMap<i32, Endpoint>,
    /// The wires, listeners and endpoints whose epoll item is on the ready list, in order.
    ready: VecDeque<Item>,
    pub(crate) counts: Counts,
    pub(crate) faults: Faults,
    pub(crate) dials: VecDeque<Outcome>,
    /// The times at which connects began.
    pub(crate) dialled_at: Vec<u64>,
    /// The addresses that were dialled.
    pub(crate) dialled_to: Vec<Addr>,
    /// The buffer sizes of the next wire: receive and send.
    pub(crate) buffers: (usize, usize),
    scripts: BTreeMap<u64, Vec<Script>>,
    pub(super) connecting: Vec<(usize, Outcome)>,
    /// The most bytes in one fragment of a splice. `None`: chosen at random.
    pub(crate) fragments: Option<usize>,
    /// The places of the next pipe. `None`: chosen at random.
    pub(crate) places: Option<usize>,
    /// The model pipes, by the number of the read end.
    pub(super) pipes: BTreeMap<i32, ModelPipe>,
    /// Tokens of closed sockets.
    pub(crate) graves: BTreeSet<u64>,
}

/// An item of the epoll.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Item {
    Wire(usize),
    Listener(i32),
    Endpoint(i32),
}

#[derive(Clone)]
pub(crate) struct World(Rc<RefCell<Inner>>);

impl World {
    pub(crate) fn new() -> Self {
        Self(Rc::new(RefCell::new(Inner {
            rng: Rng::new(0),
            now: 1_000,
            limit: None,
            is_quiet: false,
            is_rung: false,
            wires: Vec::new(),
            sockets: BTreeMap::new(),
            listeners: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            ready: VecDeque::new(),
            counts: Counts::default(),
            faults: Faults::default(),
            dials: VecDeque::new(),
            dialled_at: Vec::new(),
            dialled_to: Vec::new(),
            buffers: (4096, 4096),
            scripts: BTreeMap::new(),
            connecting: Vec::new(),
            fragments: None,
            places: None,
            pipes: BTreeMap::new(),
            graves: BTreeSet::new(),
        })))
    }

    pub(crate) fn get(&self) -> RefMut<'_, Inner> {
        self.0.borrow_mut()
    }

    /// Runs `script` when the clock reaches `at`.
    pub(crate) fn at(&self, at: u64, script: impl FnOnce(&World) + 'static) {
        self.get().scripts.entry(at).or_default().push(Box::new(script));
    }

    /// Lets time pass until an event is ready. A script, `until` and the limit end the wait too.
    pub(crate) fn sleep(&self, until: Option<u64>) {
        self.get().counts.waits += 1;
        self.get().is_quiet = false;
        loop {
            let due = {
                let mut world = self.get();
                world.flow();
                let next = world.scripts.first_key_value().map(|(at, _)| *at);
                let ends = [until, next, world.limit].into_iter().flatten().min();
                if world.ready.is_empty() && !world.is_rung {
                    let end = ends.expect("the loop sleeps for ever, and nothing is to come");
                    world.now = world.now.max(end);
                }
                let now = world.now;
                let later = world.scripts.split_off(&(now + 1));
                std::mem::replace(&mut world.scripts, later)
            };
            let has_run = !due.is_empty();
            due.into_values().flatten().for_each(|script| script(self));
            let mut world = self.get();
            world.flow();
            if !world.ready.is_empty()
                || world.is_rung
                || until.is_some_and(|until| until <= world.now)
            {
                return;
            }
            if world.limit.is_some_and(|limit| limit <= world.now) && !has_run {
                world.is_quiet = true;
                return;
            }
        }
    }

    /// The ready events, at most `most`, as one epoll_wait(2) takes them.
    pub(crate) fn harvest(&self, most: usize) -> Vec<(u64, u32)> {
        let mut world = self.get();
        let mut events = Vec::new();
        if std::mem::take(&mut world.is_rung) {
            events.push((WAKER, What::ARRIVED.bits()));
        }
        while events.len() < most
            && let Some(item) = world.ready.pop_front()
        {
            match item {
                Item::Wire(wire) => {
                    let hides_ends = world.faults.hides_ends;
                    let wire = &mut world.wires[wire];
                    let Some(token) = wire.token else { continue };
                    let mut bits = wire.poll();
                    if hides_ends && !wire.arrived.is_empty() {
                        bits &= What::ARRIVED.bits() | What::ROOM.bits();
                    }
                    if bits != 0 {
                        events.push((token, bits));
                    }
                }
                Item::Endpoint(number) => {
                    if let Some(endpoint) = world.endpoints.get(&number)
                        && endpoint.poll() != 0
                    {
                        events.push((endpoint.token, endpoint.poll()));
                    }
                }
                Item::Listener(number) => {
                    if let Some(listener) = world.listeners.get(&number)
                        && !listener.waiting.is_empty()
                    {
                        events.push((listener.token, What::ARRIVED.bits()));
                    }
                }
            }
        }
        events
    }

    /// Does what a ring of the waker does to a loop that waits.
    pub(crate) fn wake(&self) {
        self.get().is_rung = true;
    }

    // --- sockets -----------------------------------------------------------------------------

    /// A new connection that no listener has accepted. Returns its wire.
    pub(crate) fn connect(&self) -> usize {
        self.get().new_wire()
    }

    /// A socket for wire number `wire`.
    pub(crate) fn socket(&self, wire: usize) -> Socket {
        let number = self.get().take_number(0, wire);
        Socket::simulated(number)
    }

    pub(crate) fn wire(&self, socket: &Socket) -> RefMut<'_, Wire> {
        let number = socket.number() - SIM_BASE;
        RefMut::map(self.get(), |world| {
            let wire = world.sockets[&number];
            &mut world.wires[wire]
        })
    }

    /// SIOCOUTQ. A dial has no socket between two attempts.
    pub(crate) fn unacknowledged(&self, socket: &Socket) -> usize {
        if socket.number() < 0 { 0 } else { self.wire(socket).unacknowledged() }
    }

    pub(crate) fn watch(&self, socket: &Socket, token: u64) -> Result<(), Errno> {
        let mut world = self.get();
        let number = socket.number() - SIM_BASE;
        if let Some(listener) = world.listeners.get_mut(&number) {
            listener.token = token;
            world.wake(Item::Listener(number));
            return Ok(());
        }
        if let Some(endpoint) = world.endpoints.get_mut(&number) {
            endpoint.token = token;
            world.wake(Item::Endpoint(number));
            return Ok(());
        }
        if let Some(errno) = world.faults.attach.pop_front() {
            return Err(Errno::new(errno));
        }
        let wire = world.sockets[&number];
        world.wires[wire].token = Some(token);
        world.wires[wire].last_token = Some(token);
        world.wake(Item::Wire(wire));
        Ok(())
    }

    pub(crate) fn receive(&self, socket: &Socket, into: &mut [u8]) -> Result<usize, Errno> {
        self.get().counts.receives += 1;
        let result = self.wire(socket).receive(into).map_err(Errno::new);
        self.moved(socket, &result);
        // The window has opened. Bytes that the peer has ready may arrive while this call runs.
        let mut world = self.get();
        if world.rng.one_in(2) {
            let wire = world.sockets[&(socket.number() - SIM_BASE)];
            world.flow_one(wire);
        }
        result
    }

    pub(crate) fn send(&self, socket: &Socket, bytes: &[u8]) -> Result<usize, Errno> {
        let most = {
            let mut world = self.get();
            world.counts.sends += 1;
            if let Some(errno) = world.faults.send.pop_front() {
                let wire = world.sockets[&(socket.number() - SIM_BASE)];
                world.wires[wire].peer_resets();
                return Err(Errno::new(errno));
            }
            let is_short = world.faults.short_sends && world.rng.one_in(3);
            if is_short { world.rng.below(bytes.len() + 1) } else { usize::MAX }
        };
        let result = self.wire(socket).send(bytes, most).map_err(Errno::new);
        self.moved(socket, &result);
        result
    }

    /// Notes the time when bytes have moved.
    fn moved(&self, socket: &Socket, bytes: &Result<usize, Errno>) {
        if bytes.as_ref().is_ok_and(|bytes| *bytes > 0) {
            let now = self.get().now;
            self.wire(socket).moved_at = now;
        }
    }

    pub(crate) fn idle_for(&self, socket: &Socket) -> Option<u64> {
        let now = self.get().now;
        Some(now - self.wire(socket).moved_at)
    }

    pub(crate) fn shutdown(&self, socket: &Socket) -> Result<(), Errno> {
        self.wire(socket).shutdown().map_err(Errno::new)?;
        // inet_shutdown wakes the epoll that watches the socket.
        let mut world = self.get();
        let wire = world.sockets[&(socket.number() - SIM_BASE)];
        world.wake(Item::Wire(wire));
        Ok(())
    }

    pub(crate) fn close(&self, socket: Socket, reset: bool) {
        let mut world = self.get();
        world.counts.closes += 1;
        let number = socket.number() - SIM_BASE;
        if world.endpoints.remove(&number).is_some() {
            world.sockets.remove(&number);
            return;
        }
        if let Some(wire) = world.sockets.remove(&number) {
            if let Some(token) = world.wires[wire].token {
                world.graves.insert(token);
            }
            world.wires[wire].close(reset);
            world.ready.retain(|item| *item != Item::Wire(wire));
        }
    }

    pub(crate) fn peer_of(socket: &Socket) -> io::Result<Addr> {
        if socket.number() < 0 {
            return Err(io::Error::from_raw_os_error(Errno::NOTCONN.raw()));
        }
        let number = socket.number() - SIM_BASE;
        if number & TO_ITSELF != 0 {
            return Self::local_of(socket);
        }
        Ok(address(number as u32, 40_000))
    }

    pub(crate) fn local_of(_socket: &Socket) -> io::Result<Addr> {
        Ok(Addr::from(SocketAddr::from(([127, 0, 0, 1], 9_000))))
    }
}

pub(super) fn address(n: u32, port: u16) -> Addr {
    Addr::from(SocketAddr::from((Ipv4Addr::from(0x0A00_0000 | n), port)))
}

impl Inner {
    pub(super) fn new_wire(&mut self) -> usize {
        let (arrived_max, sent_max) = self.buffers;
        let wire = Wire { moved_at: self.now, ..Wire::new(arrived_max, sent_max) };
        self.wires.push(wire);
        self.wires.len() - 1
    }

    pub(super) fn take_number(&mut self, flags: i32, wire: usize) -> i32 {
        let free = |number: &i32| !self.sockets.contains_key(&(number | flags));
        let number = (3..).find(free).unwrap() | flags;
        self.sockets.insert(number, wire);
        number
    }

    pub(super) fn wake(&mut self, item: Item) {
        let is_watched = match item {
            Item::Wire(wire) => self.wires[wire].token.is_some(),
            Item::Listener(_) | Item::Endpoint(_) => true,
        };
        if is_watched && !self.ready.contains(&item) {
            self.ready.push_back(item);
        }
    }

    /// Moves everything that can move: bytes, connects, reads of the peers.
    pub(crate) fn flow(&mut self) {
        self.decide_dials();
        for wire in 0..self.wires.len() {
            self.flow_one(wire);
        }
    }

    pub(super) fn flow_one(&mut self, wire: usize) {
        if self.wires[wire].flow() {
            self.wake(Item::Wire(wire));
        }
    }
}
