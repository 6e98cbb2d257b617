//! The simulated driver, and the model kernel for the epoll driver. With either, a loop runs on a [`World`]
//! of wires, peers and virtual time, and not on a machine.
//!
//! [`ModelKernel`] is as strict as Linux: each edge comes once, and no other edge comes. [`Sim`] is as
//! difficult as the contract of [`Driver`] allows: receives and sends are short. Signals are late, merged or
//! repeated, or come without a cause, or for connections that are over.

mod datagrams;
mod kernel;
mod listeners;
mod peer;
mod pipes;
mod rng;
mod wire;
mod world;

use super::splice::splice;
use super::{Driver, Ending, Lease, Link, Received, Sent, Signal, Spliced, Then, What};
use crate::config::limits::Limits;
use crate::sys::addr::Addr;
use crate::sys::{
    DatagramOptions, DialOptions, Errno, Inbound, ListenOptions, SIM_BASE, Socket, UdpMessage,
    Waker,
};
pub(crate) use kernel::ModelKernel;
pub(crate) use listeners::Outcome;
use net_buffer::{Output, Pipe, Pool};
use net_timer::Tick;
pub(crate) use peer::Peer;
pub(crate) use rng::Rng;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
pub(crate) use world::World;

/// A driver over a simulated world.
pub(crate) trait Rig: Driver {
    fn world(&mut self) -> World;
    /// Whether the driver has signals that it has not passed on yet.
    fn holds_back(&self) -> bool;
    /// Whether a small send is always sent whole.
    const SENDS_WHOLE: bool;
}

impl Rig for super::Epoll<ModelKernel> {
    const SENDS_WHOLE: bool = true;

    fn world(&mut self) -> World {
        self.kernel().world.clone()
    }

    fn holds_back(&self) -> bool {
        false
    }
}

impl Rig for Sim {
    const SENDS_WHOLE: bool = false;

    fn world(&mut self) -> World {
        self.world.clone()
    }

    fn holds_back(&self) -> bool {
        !self.late.is_empty()
    }
}

pub(crate) struct Sim {
    world: World,
    /// Signals that a later wait will deliver.
    late: Vec<Signal>,
    batch: VecDeque<Signal>,
    block: Vec<u8>,
}

const ANY: usize = usize::MAX;

impl Sim {
    /// Takes the events that are ready. Each becomes a new signal, or is merged with a late signal.
    fn collect(&mut self) {
        for (token, bits) in self.world.harvest(ANY) {
            let what = What::from_bits(bits);
            match self.late.iter_mut().find(|late| late.token == token) {
                Some(late) if self.world.get().rng.one_in(2) => late.what |= what,
                _ => self.late.push(Signal { token, what }),
            }
        }
    }

    /// Invents a signal without a cause, or for a connection that is over.
    fn invent(&mut self) {
        let mut world = self.world.get();
        let nothing = What::ARRIVED | What::ROOM | What::URGENT;
        let bits = world.rng.next() as u32 & nothing.bits();
        let wires = world.sockets.values().filter(|w| **w != usize::MAX);
        let live: Vec<u64> = wires.filter_map(|w| world.wires[*w].token).collect();
        let dead: Vec<u64> = world.graves.iter().copied().collect();
        for (tokens, bits) in [(live, bits), (dead, bits | What::GONE.bits() | What::ENDED.bits())]
        {
            if !tokens.is_empty() && world.rng.one_in(6) {
                let token = world.rng.pick(&tokens);
                if !self.batch.iter().any(|other| other.token == token) {
                    self.batch.push_back(Signal { token, what: What::from_bits(bits) });
                }
            }
        }
    }

    fn sent(&mut self, link: &mut Link, offered: usize, result: Result<usize, Errno>) -> Sent {
        let bytes = match result {
            Ok(bytes) => bytes,
            Err(errno) if errno == Errno::AGAIN => 0,
            Err(errno) => return Sent { bytes: 0, then: Then::Failed(errno) },
        };
        let is_full = link.after_send(offered, bytes);
        Sent { bytes, then: if is_full { Then::Full } else { Then::Done } }
    }
}

impl Driver for Sim {
    fn open(limits: &Limits, _waker: Arc<Waker>) -> io::Result<Self> {
        let world = World::new();
        world.get().faults.short_sends = true;
        let block = vec![0; limits.receive_max()];
        Ok(Self { world, late: Vec::new(), batch: VecDeque::new(), block })
    }

    fn now(&self) -> Tick {
        Tick::from_millis(self.world.get().now)
    }

    fn nanos(&self) -> u64 {
        self.world.get().now * 1_000_000
    }

    fn seed(&self) -> u64 {
        1
    }

    fn wait(&mut self, now: Tick, until: Option<Tick>) -> io::Result<()> {
        assert!(now <= self.now(), "the loop's clock is ahead of the world's");
        self.batch.clear();
        let looks_only = until.is_some_and(|until| until <= now);
        self.world.get().flow();
        self.collect();
        if self.late.is_empty() || looks_only {
            self.world
                .sleep(if looks_only { Some(self.now()) } else { until }.map(Tick::as_millis));
            self.collect();
        } else {
            self.world.get().is_quiet = false;
        }
        let mut world = self.world.get();
        let mut late = std::mem::take(&mut self.late);
        world.rng.shuffle(&mut late);
        for signal in late {
            let is_there = self.batch.iter().any(|other| other.token == signal.token);
            if is_there || world.rng.one_in(4) {
                self.late.push(signal); // one event per token in a batch
                continue;
            }
            self.batch.push_back(signal);
            if world.rng.one_in(8) {
                self.late.push(signal); // and again in a later wait
            }
        }
        let is_quiet = world.is_quiet;
        drop(world);
        if !is_quiet {
            self.invent();
        }
        Ok(())
    }

    fn woken(&mut self) {}

    fn next(&mut self) -> Option<Signal> {
        self.batch.pop_front()
    }

    fn listen(&mut self, token: u64, _at: &Addr, _options: &ListenOptions) -> io::Result<Socket> {
        let listener = self.world.listen();
        self.world.watch(&listener, token)?;
        Ok(listener)
    }

    fn accept(&mut self, listener: &Socket) -> Result<(Socket, Addr), Errno> {
        self.world.accept(listener)
    }

    fn shed(&mut self, listener: &Socket) -> bool {
        self.world.shed(listener)
    }

    fn unlisten(&mut self, listener: Socket) {
        self.world.unlisten(listener);
    }

    fn open_datagrams(
        &mut self,
        token: u64,
        _at: SocketAddr,
        _options: &DatagramOptions,
    ) -> io::Result<(Socket, bool)> {
        let socket = self.world.open_datagrams();
        self.world.watch(&socket, token)?;
        Ok((socket, true))
    }

    fn receive_datagrams(&mut self, socket: &Socket, into: &mut Inbound) -> Result<usize, Errno> {
        self.world.receive_datagrams(socket, into)
    }

    fn send_datagrams(
        &mut self,
        socket: &Socket,
        bytes: &[u8],
        batch: &[UdpMessage],
    ) -> Result<usize, Errno> {
        self.world.send_datagrams(socket, bytes, batch)
    }

    fn dial(&mut self, to: &Addr, _options: &DialOptions) -> io::Result<Socket> {
        self.world.dial(to)
    }

    fn dialled(&mut self, socket: &Socket) -> Option<Result<(), Errno>> {
        if let Some(errno) = self.failure(socket) {
            return Some(Err(errno));
        }
        if self.world.wire(socket).is_connecting {
            return None;
        }
        let is_itself = World::peer_of(socket).ok() == World::local_of(socket).ok();
        Some(if is_itself { Err(Errno::CONNREFUSED) } else { Ok(()) })
    }

    fn failure(&mut self, socket: &Socket) -> Option<Errno> {
        self.world.wire(socket).error.take().map(Errno::new)
    }

    fn attach(&mut self, token: u64, socket: &Socket) -> Result<(), Errno> {
        self.world.watch(socket, token)
    }

    fn peer(socket: &Socket) -> io::Result<Addr> {
        World::peer_of(socket)
    }

    fn local(socket: &Socket) -> io::Result<Addr> {
        World::local_of(socket)
    }

    fn receive(&mut self, socket: &Socket, _link: &mut Link, most: usize) -> Received {
        let asked = most.min(self.block.len());
        assert!(asked > 0, "a receive of nothing cannot tell the end from no bytes");
        let asked = {
            let rng = &mut self.world.get().rng;
            if rng.one_in(3) { rng.within(1, asked) } else { asked }
        };
        match self.world.receive(socket, &mut self.block[..asked]) {
            Ok(0) => Received::End,
            Ok(got) => {
                let mut is_last = self.world.get().rng.one_in(2);
                let bits = self.world.wire(socket).poll();
                if is_last && bits & !What::ROOM.bits() != 0 {
                    // There are more bytes. If the lease says that there are none, a signal must come for
                    // them.
                    is_last = self.world.get().rng.one_in(3);
                    if let (true, Some(token)) = (is_last, self.world.wire(socket).token) {
                        self.late.push(Signal { token, what: What::from_bits(bits) });
                    }
                }
                Received::Bytes(Lease { len: got as u32, is_last })
            }
            Err(errno) if errno == Errno::AGAIN => Received::Drained,
            Err(errno) => Received::Failed(errno),
        }
    }

    fn leased(&self, lease: &Lease) -> &[u8] {
        &self.block[..lease.len as usize]
    }

    fn settle(&mut self, lease: Lease) {
        // A reader of settled bytes must see that they are no longer valid.
        self.block[..lease.len as usize].fill(0xEE);
    }

    fn splice(
        &mut self,
        socket: &Socket,
        most: usize,
        output: &mut Output,
        pool: &mut Pool,
    ) -> Spliced {
        let most = {
            let rng = &mut self.world.get().rng;
            if rng.one_in(8) {
                return Spliced::Nothing;
            }
            if rng.one_in(3) { rng.within(1, most) } else { most }
        };
        let fill = |world: &mut World, pipe: &Pipe| world.fill_pipe(pipe, socket, most);
        splice(&mut self.world, output, pool, |world| world.pipe(), fill)
    }

    fn send_leased(
        &mut self,
        socket: &Socket,
        link: &mut Link,
        lease: &Lease,
        from: usize,
        to: usize,
    ) -> Sent {
        let bytes = &self.block[..lease.len as usize][from..to];
        let result = self.world.send(socket, bytes);
        self.sent(link, to - from, result)
    }

    fn offer(&mut self, socket: &Socket, link: &mut Link, parts: &[IoSlice<'_>]) -> Sent {
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        assert!(!bytes.is_empty(), "nothing is offered");
        let result = self.world.send(socket, &bytes);
        self.sent(link, bytes.len(), result)
    }

    fn send(
        &mut self,
        socket: &Socket,
        link: &mut Link,
        output: &mut Output,
        pool: &mut Pool,
        budget: usize,
        more: bool,
    ) -> Sent {
        let mut sent = 0;
        while !output.is_empty() {
            if sent == budget {
                return Sent { bytes: sent, then: Then::Budget };
            }
            let once = if let Some((file, from, left)) = output.next_file() {
                match read_file(file, from, left.min(budget - sent)) {
                    Ok(bytes) if bytes.is_empty() => Sent { bytes: 0, then: Then::FileEnded },
                    Ok(bytes) => self.offer(socket, link, &[IoSlice::new(&bytes)]),
                    Err(errno) => Sent { bytes: 0, then: Then::Failed(errno) },
                }
            } else if let Some((pipe, left)) = output.next_pipe() {
                match self.world.send_pipe(pipe, socket, left.min(budget - sent)) {
                    Ok(bytes) => Sent { bytes, then: Then::Done },
                    result => self.sent(link, left, result),
                }
            } else {
                let mut slices = [IoSlice::new(&[]); 4];
                let (used, _) = output.slices(&mut slices, budget - sent);
                self.offer(socket, link, &slices[..used])
            };
            output.advance(once.bytes, pool);
            sent += once.bytes;
            if once.then != Then::Done {
                return Sent { bytes: sent, then: once.then };
            }
        }
        self.world.wire(socket).is_corked = more && sent > 0;
        Sent { bytes: sent, then: Then::Done }
    }

    fn finish(&mut self, socket: &Socket) -> Result<(), Errno> {
        self.world.shutdown(socket)
    }

    fn idle_for(&self, socket: &Socket) -> Option<u64> {
        self.world.idle_for(socket)
    }

    fn unacknowledged(&self, socket: &Socket) -> usize {
        self.world.unacknowledged(socket)
    }

    fn detach(&mut self, socket: Socket, how: Ending) {
        assert!(socket.number() >= SIM_BASE || socket.number() < 0, "no socket of this world");
        self.world.close(socket, how == Ending::Reset);
    }
}

/// The bytes that sendfile(2) would read at offset `from`, at most `len`. None at the end of the file.
fn read_file(file: &File, from: u64, len: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; len];
    let got = file.read_at(&mut bytes, from);
    bytes.truncate(
        got.map_err(|error| Errno::new(error.raw_os_error().unwrap_or(Errno::IO.raw())))?,
    );
    Ok(bytes)
}
