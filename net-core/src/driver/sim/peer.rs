//! `Peer`: the far end of a wire, which a test controls.

use super::wire::{Coming, Wire};
use super::world::{Item, World};
use std::cell::RefMut;

#[derive(Clone)]
pub(crate) struct Peer {
    pub(crate) world: World,
    pub(crate) wire: usize,
}

impl World {
    pub(crate) fn peer(&self, wire: usize) -> Peer {
        Peer { world: self.clone(), wire }
    }
}

impl Peer {
    pub(crate) fn wire(&self) -> RefMut<'_, Wire> {
        RefMut::map(self.world.get(), |world| &mut world.wires[self.wire])
    }

    fn give(&self, what: Coming) {
        let mut wire = self.wire();
        if wire.saw_reset || wire.is_gone {
            return;
        }
        wire.coming.push_back(what);
        drop(wire);
        self.world.get().flow_one(self.wire);
    }

    /// Sends bytes. Bytes for which the socket has no room wait in the network.
    pub(crate) fn send(&self, bytes: &[u8]) {
        self.give(Coming::Bytes(bytes.to_vec().into()));
    }

    /// Sends one byte out of band.
    pub(crate) fn send_urgent(&self) {
        self.give(Coming::Urgent);
    }

    /// Sends descriptors beside the bytes that are sent next.
    pub(crate) fn send_descriptors(&self) {
        self.give(Coming::Descriptors);
    }

    /// Ends sending.
    pub(crate) fn finish(&self) {
        self.give(Coming::Fin);
    }

    /// Closes: sends FIN, and answers everything that arrives later with RST.
    pub(crate) fn leave(&self) {
        self.give(Coming::Fin);
        let mut wire = self.wire();
        wire.is_reading = false;
        wire.is_gone = true;
    }

    /// Resets.
    pub(crate) fn reset(&self) {
        let mut world = self.world.get();
        if !world.wires[self.wire].is_gone && !world.wires[self.wire].saw_reset {
            world.wires[self.wire].peer_resets();
            world.wake(Item::Wire(self.wire));
        }
    }

    /// Sets whether the peer reads everything that arrives, or nothing.
    pub(crate) fn reads(&self, is_reading: bool) {
        self.wire().is_reading = is_reading;
        self.world.get().flow_one(self.wire);
    }

    /// Reads up to `most` bytes.
    pub(crate) fn read(&self, most: usize) {
        self.wire().peer_reads(most);
        self.world.get().flow_one(self.wire);
    }

    /// All bytes that the peer has read.
    pub(crate) fn got(&self) -> Vec<u8> {
        self.wire().got.clone()
    }

    pub(crate) fn saw_fin(&self) -> bool {
        self.wire().saw_fin
    }

    pub(crate) fn saw_reset(&self) -> bool {
        self.wire().saw_reset
    }
}
