//! The connection table of one loop: slots in chunks, and a generation for each slot.
//!
//! A chunk never grows past its first allocation. So no entry ever moves, and no insert copies a million. New
//! connections fill the lowest chunk with room. An empty chunk gives its memory back when there is another
//! empty chunk. One empty chunk stays, so that the border between two chunks costs no allocation each time.
//! Generations outlive their chunk, so that a stale id finds nothing, for ever.

use crate::base::close_reason::{CloseReason, RefuseReason};
use crate::base::id::{ConnId, SLOTS_MAX};
use crate::connection::life::State;
use crate::connection::slot::{Connection, Head, Heads};
use crate::sys::{Errno, Socket};
use parking_lot::Mutex;
use slab::Slab;
use std::collections::TryReserveError;
use std::num::NonZeroU32;

/// Slots of one chunk: 3 MiB of entries for a session of no size.
const CHUNK: usize = 1 << 16;

pub(crate) struct Table<S> {
    in_loop: u8,
    /// The generation of the first connection in each slot.
    first: NonZeroU32,
    chunks: Vec<Chunk<S>>,
    live: usize,
    /// No chunk below this one has room.
    lowest: usize,
    /// For tests: as if every slot were taken.
    #[cfg(test)]
    pub(crate) is_full: bool,
}

struct Chunk<S> {
    places: Slab<Place<S>>,
    /// For each slot ever used: the generation of its present connection, or else of its next one.
    generations: Vec<NonZeroU32>,
    retired: usize,
}

enum Place<S> {
    Live(Connection<S>),
    /// Every generation was used once. The slot stays out of use.
    Retired,
}

impl<S> Table<S> {
    /// An empty table. `chance`, any number, decides with which generation each slot begins: one of 2³¹.
    /// So an id of another process, or of another server in this one, finds a connection here with a
    /// probability of 2⁻³¹ at each look. Each slot then has 2³¹ generations at least.
    pub(crate) fn new(in_loop: u8, chance: u64) -> Self {
        Self {
            in_loop,
            first: NonZeroU32::MIN.saturating_add(chance as u32 >> 1),
            chunks: Vec::new(),
            live: 0,
            lowest: 0,
            #[cfg(test)]
            is_full: false,
        }
    }

    /// Connections in the table, and connections that wait to come in.
    pub(crate) fn len(&self) -> usize {
        self.live
    }

    /// Slots that were ever used: no connection is in a higher one.
    pub(crate) fn slots(&self) -> usize {
        match self.chunks.as_slice() {
            [] => 0,
            [full @ .., last] => full.len() * CHUNK + last.generations.len(),
        }
    }

    /// Counts a connection that is not in the table yet. It comes in, or [goes](Self::count_out).
    pub(crate) fn count_in(&mut self) {
        self.live += 1;
    }

    pub(crate) fn count_out(&mut self) {
        self.live -= 1;
    }

    /// Allocates the first chunk, so that a machine without that memory says so at the start.
    pub(crate) fn begin(&mut self) -> Result<(), TryReserveError> {
        self.add_chunk()
    }

    /// Takes a connection in. Otherwise gives its parts back and the reason: all slots are used, or there is
    /// no memory for more.
    pub(crate) fn insert(
        &mut self,
        socket: Socket,
        state: State,
        session: S,
    ) -> Result<ConnId, (Socket, S, CloseReason)> {
        let at = match self.chunk_with_room() {
            Ok(at) => at,
            Err(why) => return Err((socket, session, why)),
        };
        let chunk = &mut self.chunks[at];
        let place = chunk.places.vacant_entry();
        let key = place.key();
        if key == chunk.generations.len() {
            chunk.generations.push(self.first);
        }
        let generation = chunk.generations[key];
        let head = Head::new(socket, generation, state);
        place.insert(Place::Live(Connection { head, session }));
        self.live += 1;
        Ok(ConnId::new(self.in_loop, (at * CHUNK + key) as u32, generation))
    }

    fn chunk_with_room(&mut self) -> Result<usize, CloseReason> {
        #[cfg(test)]
        if self.is_full {
            return Err(CloseReason::Refused(RefuseReason::Full));
        }
        while let Some(chunk) = self.chunks.get(self.lowest) {
            if chunk.places.len() < CHUNK {
                break;
            }
            self.lowest += 1;
        }
        let at = self.lowest;
        let added = match self.chunks.get_mut(at) {
            None if at * CHUNK == SLOTS_MAX => {
                return Err(CloseReason::Refused(RefuseReason::Full));
            }
            None => self.add_chunk(),
            Some(chunk) if chunk.places.capacity() == 0 => places().map(|new| chunk.places = new),
            Some(_) => Ok(()),
        };
        added.map_err(|_| CloseReason::Machine(Errno::NOMEM))?;
        Ok(at)
    }

    /// Adds a chunk behind the others.
    fn add_chunk(&mut self) -> Result<(), TryReserveError> {
        let mut generations = Vec::new();
        generations.try_reserve_exact(CHUNK)?;
        self.chunks.push(Chunk { places: places()?, generations, retired: 0 });
        Ok(())
    }

    /// The connection with that id, if it still lives.
    #[inline]
    pub(crate) fn get(&mut self, id: ConnId) -> Option<&mut Connection<S>> {
        let connection = self.in_slot(id.slot())?;
        (connection.head.generation == id.generation()).then_some(connection)
    }

    #[inline]
    fn in_slot(&mut self, slot: u32) -> Option<&mut Connection<S>> {
        let chunk = self.chunks.get_mut(slot as usize / CHUNK)?;
        match chunk.places.get_mut(slot as usize % CHUNK) {
            Some(Place::Live(connection)) => Some(connection),
            _ => None,
        }
    }

    /// The id of the connection in that slot.
    pub(crate) fn id_of(&mut self, slot: u32) -> Option<ConnId> {
        let in_loop = self.in_loop;
        self.in_slot(slot).map(|found| ConnId::new(in_loop, slot, found.head.generation))
    }

    /// Takes a connection out. From now on its id finds nothing.
    pub(crate) fn remove(&mut self, id: ConnId) -> Option<Connection<S>> {
        self.get(id)?;
        let (at, key) = (id.slot() as usize / CHUNK, id.slot() as usize % CHUNK);
        let chunk = &mut self.chunks[at];
        let Place::Live(connection) = chunk.places.remove(key) else { return None };
        match chunk.generations[key].checked_add(1) {
            Some(next) => chunk.generations[key] = next,
            None => {
                let filled = chunk.places.insert(Place::Retired);
                assert_eq!(filled, key, "slab fills the slot that was freed last");
                chunk.retired += 1;
            }
        }
        self.live -= 1;
        self.lowest = self.lowest.min(at);
        if self.chunks[at].places.is_empty() {
            self.shrink(at);
        }
        Some(connection)
    }

    /// Chunk `emptied` has become empty. If there is another empty chunk, the higher one gives its memory
    /// back.
    fn shrink(&mut self, emptied: usize) {
        let holds_memory =
            |chunk: &Chunk<S>| chunk.places.is_empty() && chunk.places.capacity() > 0;
        let other = (0..self.chunks.len()).find(|&i| i != emptied && holds_memory(&self.chunks[i]));
        if let Some(other) = other {
            self.chunks[other.max(emptied)].places = Slab::new();
        }
    }

    /// The first connection in slot `from` or behind it.
    pub(crate) fn next_live(&self, from: u32) -> Option<ConnId> {
        let mut slot = from as usize;
        while let Some(chunk) = self.chunks.get(slot / CHUNK) {
            let base = slot / CHUNK * CHUNK;
            if chunk.places.len() > chunk.retired {
                for key in slot % CHUNK..chunk.generations.len() {
                    if let Some(Place::Live(connection)) = chunk.places.get(key) {
                        let slot = (base + key) as u32;
                        return Some(ConnId::new(self.in_loop, slot, connection.head.generation));
                    }
                }
            }
            slot = base + CHUNK;
        }
        None
    }
}

/// A chunk's places: address space only. The kernel gives a page when the page's first slot is used.
fn places<S>() -> Result<Slab<Place<S>>, TryReserveError> {
    // A slab that cannot have its memory ends the process. So the same amount is tried before, by one loop at
    // a time: another loop might take what this loop has tried.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock();
    Vec::<Place<S>>::new().try_reserve_exact(CHUNK)?;
    Ok(Slab::with_capacity(CHUNK))
}

impl<S> Heads for Table<S> {
    #[inline]
    fn head_at(&mut self, slot: u32) -> &mut Head {
        &mut self.in_slot(slot).expect("only live connections are filed in the wheel").head
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket() -> Socket {
        Socket::simulated(1)
    }

    fn filled(n: usize) -> (Table<usize>, Vec<ConnId>) {
        let mut table = Table::new(3, 0);
        let ids = (0..n).map(|i| table.insert(socket(), State::Open, i).unwrap()).collect();
        (table, ids)
    }

    #[test]
    fn a_slot_costs_no_more_than_its_connection() {
        assert_eq!(size_of::<Place<()>>(), 48);
        let mut slots = Slab::<Place<()>>::with_capacity(100);
        slots.insert(Place::Retired);
        // Slab's own entry adds a link for vacant slots, which the niche of the state absorbs.
        let first: *const _ = &raw const slots[0];
        slots.insert(Place::Retired);
        let second: *const _ = &raw const slots[1];
        assert_eq!(second.addr() - first.addr(), 48);
    }

    #[test]
    fn a_chunk_for_which_there_is_no_memory_is_refused_and_ends_nothing() {
        // More than there are addresses.
        let mut table = Table::<[u8; 1 << 50]>::new(0, 0);
        assert!(table.begin().is_err());
        let enomem = CloseReason::Machine(Errno::NOMEM);
        assert_eq!(table.chunk_with_room(), Err(enomem));
        assert_eq!((table.len(), table.slots()), (0, 0));
    }

    #[test]
    fn stale_id_finds_nothing() {
        let (mut table, ids) = filled(2);
        assert_eq!(table.remove(ids[0]).map(|c| c.session), Some(0));
        assert!(table.get(ids[0]).is_none());
        let next = table.insert(socket(), State::Open, 7).unwrap();
        assert_eq!(next.slot(), ids[0].slot());
        assert!(table.get(ids[0]).is_none());
        assert!(table.remove(ids[0]).is_none());
        assert_eq!(table.get(next).map(|c| c.session), Some(7));
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn a_slot_whose_generation_would_wrap_is_retired() {
        let (mut table, ids) = filled(1);
        table.remove(ids[0]);
        table.chunks[0].generations[0] = NonZeroU32::new(u32::MAX - 2).unwrap();
        let mut seen = vec![ids[0]];
        for n in 0..5 {
            let id = table.insert(socket(), State::Open, n).unwrap();
            assert!(!seen.contains(&id));
            seen.push(id);
            assert!(seen[..seen.len() - 1].iter().all(|&old| table.get(old).is_none()));
            table.remove(id).unwrap();
        }
        let slots: Vec<_> = seen.iter().map(|id| id.slot()).collect();
        assert_eq!(slots, [0, 0, 0, 0, 1, 1]);
        assert_eq!(table.len(), 0);
    }

    /// Generations began at 1 in every process. An id from before a restart found the first connection after
    /// it, and a `kill` of a page that had stayed open ended a stranger's connection.
    #[test]
    fn an_id_of_a_process_before_finds_nobody() {
        let table = |chance| {
            let mut table = Table::new(0, chance);
            let ids: Vec<_> =
                (0..100).map(|n| table.insert(socket(), State::Open, n).unwrap()).collect();
            (table, ids)
        };
        let (_, before) = table(0x0123_4567_89AB_CDEF);
        let (mut after, ids) = table(0xFEDC_BA98_7654_3210);
        assert!(before.iter().all(|&id| after.get(id).is_none() && after.remove(id).is_none()));
        assert!(ids.iter().all(|&id| after.get(id).is_some()));
        let generations: Vec<_> = [0, 1, u64::from(u32::MAX), u64::MAX]
            .map(|chance| table(chance).1[0].generation().get())
            .into();
        assert_eq!(generations, [1, 1, 1 << 31, 1 << 31], "the lower half: the rest is to be used");
    }

    #[test]
    fn a_slot_that_began_in_the_middle_is_retired_too() {
        let mut table = Table::new(0, u64::MAX);
        let first = table.insert(socket(), State::Open, 0).unwrap();
        table.remove(first).unwrap();
        table.chunks[0].generations[0] = NonZeroU32::MAX;
        let last = table.insert(socket(), State::Open, 1).unwrap();
        assert_eq!((last.slot(), last.generation()), (0, NonZeroU32::MAX));
        table.remove(last).unwrap();
        let next = table.insert(socket(), State::Open, 2).unwrap();
        assert_eq!((next.slot(), next.generation().get()), (1, 1 << 31));
    }

    #[test]
    fn the_lowest_chunk_fills_first_and_one_empty_chunk_stays() {
        let (mut table, ids) = filled(3 * CHUNK);
        for id in &ids[CHUNK..] {
            table.remove(*id).unwrap();
        }
        let kept: Vec<_> = table.chunks.iter().map(|c| c.places.capacity() > 0).collect();
        assert_eq!(kept, [true, true, false]);
        table.remove(ids[5]).unwrap();
        assert_eq!(table.insert(socket(), State::Open, 0).unwrap().slot(), 5);
        let first_of_second = table.insert(socket(), State::Open, 0).unwrap();
        assert_eq!(first_of_second.slot() as usize / CHUNK, 1);
        assert!(ids[CHUNK..].iter().all(|&old| table.get(old).is_none()));
    }

    #[test]
    fn a_dropped_chunk_remembers_its_generations() {
        let (mut table, ids) = filled(3 * CHUNK);
        ids.iter().for_each(|&id| drop(table.remove(id)));
        for i in 0..3 * CHUNK {
            let id = table.insert(socket(), State::Open, i).unwrap();
            assert_eq!(id.generation().get(), 2);
        }
        assert!(ids.iter().all(|&old| table.get(old).is_none()));
    }

    #[test]
    fn a_walk_sees_each_connection_once() {
        let (mut table, ids) = filled(1000);
        for id in ids.iter().step_by(3) {
            table.remove(*id);
        }
        let (mut seen, mut from) = (Vec::new(), 0);
        while let Some(id) = table.next_live(from) {
            seen.push(table.get(id).unwrap().session);
            from = id.slot() + 1;
        }
        let expected: Vec<_> = (0..1000).filter(|i| i % 3 != 0).collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_million_come_and_go() {
        let (mut table, ids) = filled(1_000_000);
        assert_eq!(table.len(), 1_000_000);
        ids.iter().for_each(|&id| drop(table.remove(id).unwrap()));
        assert_eq!(table.len(), 0);
    }
}
