//! `ModelKernel`: the system calls over the simulated world. It reports an edge only when Linux would, and
//! then reports everything that holds for the socket at that moment.

use super::world::World;
use crate::sys::addr::Addr;
use crate::sys::{
    DatagramOptions, DialOptions, Errno, Event, Events, Inbound, Kernel, ListenOptions, Socket,
    UdpMessage, Waker,
};
use net_buffer::Pipe;
use net_timer::Tick;
use std::fs::File;
use std::io::{self, IoSlice};
use std::net::SocketAddr;

pub(crate) struct ModelKernel {
    pub(crate) world: World,
}

impl Kernel for ModelKernel {
    fn open(_waker: &Waker, _waker_token: u64) -> io::Result<Self> {
        Ok(Self { world: World::new() })
    }

    fn now(&self) -> Tick {
        Tick::from_millis(self.world.get().now)
    }

    fn nanos(&self) -> u64 {
        self.world.get().now * 1_000_000
    }

    fn seed(&self) -> u64 {
        0
    }

    fn watch(&mut self, socket: &Socket, token: u64) -> Result<(), Errno> {
        self.world.watch(socket, token)
    }

    fn wait(&mut self, events: &mut Events, timeout_ms: i32) -> io::Result<()> {
        let now = self.world.get().now;
        self.world.sleep((timeout_ms >= 0).then(|| now + timeout_ms as u64));
        events.clear();
        // Now and then a small batch: the next wait brings the rest of the ready list.
        let most = self.world.get().rng.pick(&[1, 3, 64]).min(events.room());
        for (token, bits) in self.world.harvest(most) {
            assert!(events.push(Event { token, bits }), "there is room for so few");
        }
        Ok(())
    }

    fn receive(&mut self, socket: &Socket, into: &mut [u8]) -> Result<usize, Errno> {
        self.world.receive(socket, into)
    }

    fn send(&mut self, socket: &Socket, bytes: &[u8]) -> Result<usize, Errno> {
        self.world.send(socket, bytes)
    }

    fn send_slices(
        &mut self,
        socket: &Socket,
        slices: &[IoSlice<'_>],
        more: bool,
    ) -> Result<usize, Errno> {
        assert!(slices.len() <= 1024, "IOV_MAX");
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        let sent = self.world.send(socket, &bytes)?;
        self.world.wire(socket).is_corked = more;
        Ok(sent)
    }

    fn send_file(
        &mut self,
        socket: &Socket,
        file: &File,
        from: u64,
        len: usize,
    ) -> Result<usize, Errno> {
        match super::read_file(file, from, len)? {
            bytes if bytes.is_empty() => Ok(0),
            bytes => self.world.send(socket, &bytes),
        }
    }

    fn pipe(&mut self) -> Result<Pipe, Errno> {
        self.world.pipe()
    }

    fn fill_pipe(&mut self, pipe: &Pipe, socket: &Socket, most: usize) -> Result<usize, Errno> {
        self.world.fill_pipe(pipe, socket, most)
    }

    fn send_pipe(&mut self, pipe: &Pipe, socket: &Socket, most: usize) -> Result<usize, Errno> {
        self.world.send_pipe(pipe, socket, most)
    }

    fn shutdown_write(&mut self, socket: &Socket) -> Result<(), Errno> {
        self.world.shutdown(socket)
    }

    fn idle_for(&self, socket: &Socket) -> Option<u64> {
        self.world.idle_for(socket)
    }

    fn unacknowledged(&self, socket: &Socket) -> usize {
        self.world.unacknowledged(socket)
    }

    fn close(&mut self, socket: Socket, reset: bool) {
        self.world.close(socket, reset);
    }

    fn is_connected(&self, socket: &Socket) -> bool {
        !self.world.wire(socket).is_connecting
    }

    fn take_error(&self, socket: &Socket) -> Result<(), Errno> {
        match self.world.wire(socket).error.take() {
            Some(errno) => Err(Errno::new(errno)),
            None => Ok(()),
        }
    }

    fn listen(&mut self, _at: &Addr, _options: &ListenOptions) -> io::Result<Socket> {
        Ok(self.world.listen())
    }

    fn dial(&mut self, to: &Addr, _options: &DialOptions) -> io::Result<Socket> {
        self.world.dial(to)
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

    fn datagrams(
        &mut self,
        _at: SocketAddr,
        _options: &DatagramOptions,
    ) -> io::Result<(Socket, bool)> {
        Ok((self.world.open_datagrams(), true))
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

    fn peer(socket: &Socket) -> io::Result<Addr> {
        World::peer_of(socket)
    }

    fn local(socket: &Socket) -> io::Result<Addr> {
        World::local_of(socket)
    }

    fn quiet(&mut self, waker: &Waker) {
        waker.quiet();
    }
}
