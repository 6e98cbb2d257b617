//! The ring of buffers from which the kernel takes one for each receive.

use io_uring::Submitter;
use io_uring::types::BufRingEntry;
use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

/// A power of two.
const BUFFERS: u16 = 512;
const BUFFER_BYTES: usize = 16 << 10;

/// Buffers that belong either to the kernel or to the loop. They live as long as the process.
pub(crate) struct Buffers {
    /// `BUFFERS` entries, at the beginning of a page. The kernel reads them.
    entries: *mut BufRingEntry,
    /// Of all buffers, one behind the other. The kernel writes into those that are its.
    memory: *mut u8,
    /// Entries given to the kernel so far; wraps.
    tail: u16,
}

impl Buffers {
    /// Registers a full ring as buffer group `group`.
    pub(crate) fn register(submitter: &Submitter<'_>, group: u16) -> io::Result<Self> {
        let bytes = usize::from(BUFFERS) * size_of::<BufRingEntry>();
        let layout = Layout::from_size_align(bytes, 4096).map_err(io::Error::other)?;
        // SAFETY: the layout is not of size zero.
        let entries = unsafe { alloc_zeroed(layout) }.cast::<BufRingEntry>();
        if entries.is_null() {
            handle_alloc_error(layout);
        }
        // SAFETY: the entries are of that number, begin at a page, and are never freed.
        unsafe { submitter.register_buf_ring_with_flags(entries as u64, BUFFERS, group, 0) }?;
        let memory = vec![0; usize::from(BUFFERS) * BUFFER_BYTES].leak().as_mut_ptr();
        let mut buffers = Self { entries, memory, tail: 0 };
        (0..BUFFERS).for_each(|buffer| buffers.give_back(buffer));
        buffers.publish();
        Ok(buffers)
    }

    /// A part of a buffer that is the loop's.
    pub(crate) fn bytes(&self, buffer: u16, from: usize, to: usize) -> &[u8] {
        assert!(buffer < BUFFERS && from <= to && to <= BUFFER_BYTES, "a part of a buffer");
        // SAFETY: the part is within its buffer, as was just checked, and the caller has it from
        // the kernel, which writes no more into it until it is given back.
        unsafe { std::slice::from_raw_parts(self.at(buffer).add(from), to - from) }
    }

    fn at(&self, buffer: u16) -> *mut u8 {
        self.memory.wrapping_add(usize::from(buffer) * BUFFER_BYTES)
    }

    /// Puts a buffer into the ring. The kernel sees it after `publish`.
    pub(crate) fn give_back(&mut self, buffer: u16) {
        let address = self.at(buffer) as u64;
        let place = usize::from(self.tail & (BUFFERS - 1));
        // SAFETY: `place` is within the ring, and the kernel does not read an entry that is not
        // published: no more than `BUFFERS` are out, so this one has been taken.
        let entry = unsafe { &mut *self.entries.add(place) };
        entry.set_addr(address);
        entry.set_len(BUFFER_BYTES as u32);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Lets the kernel see what was given back.
    pub(crate) fn publish(&self) {
        // SAFETY: the ring lives, and begins with the entry that holds the tail.
        let tail = unsafe { BufRingEntry::tail(self.entries) };
        // SAFETY: the tail is an aligned u16 that the kernel only reads, and reads atomically.
        // Release: the entries are written before.
        unsafe { AtomicU16::from_ptr(tail.cast_mut()) }.store(self.tail, Ordering::Release);
    }
}
