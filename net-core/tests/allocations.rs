//! In its steady state a loop allocates nothing: messages come and go, deadlines move, and memory
//! stands still.

#![allow(clippy::unwrap_used)] // a test

mod bound;

use net_core::{Conn, Handler, Input, Limits, LoopInfo, Loops, Peer, Server};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counts what the loops' threads allocate.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static IS_LOOP: Cell<bool> = const { Cell::new(false) };
}

fn count() {
    // A thread that is ending has no such variable any more, and is no loop.
    if IS_LOOP.try_with(Cell::get).unwrap_or(false) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: every call is handed on, unchanged, to the system's allocator; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    // SAFETY: as the trait demands of the caller.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }

    // SAFETY: as the trait demands of the caller.
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise, passed on; `alloc` above took it from the same allocator.
        unsafe { System.dealloc(memory, layout) }
    }

    // SAFETY: as the trait demands of the caller.
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise, passed on; `alloc` above took it from the same allocator.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// How a handler answers.
#[derive(Clone, Copy)]
enum Answer {
    /// From where the bytes lie.
    Echo,
    /// By a copy, which waits in the cork until the callback has returned.
    Copy,
    /// Each message takes a timer of the loop, and cancels it.
    Timer,
    /// One box for each message: the test must notice.
    Box,
}

impl Handler for Answer {
    type Session = ();
    type Message = Infallible;

    fn admit(&mut self, _peer: &Peer) -> Option<()> {
        Some(())
    }

    fn on_data(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
        match self {
            Answer::Echo => assert!(conn.echo(input).is_taken()),
            Answer::Copy => assert!(conn.send(input.take_all()).is_taken()),
            Answer::Timer => {
                let timer = conn.event_loop().after(Duration::from_secs(60), 0);
                assert!(conn.event_loop().cancel(timer) && conn.echo(input).is_taken());
            }
            Answer::Box => {
                drop(std::hint::black_box(Box::new(input.len())));
                assert!(conn.echo(input).is_taken());
            }
        }
    }
}

const CLIENTS: usize = 20;
const ROUNDS: u64 = 200;

/// Allocations of the loop in so many rounds, after as many to warm up.
fn allocations(answer: Answer) -> u64 {
    let timeout = Some(Duration::from_secs(60));
    let limits = Limits { idle_timeout: timeout, first_byte_timeout: timeout, ..Limits::default() };
    let factory = move |_: &LoopInfo<Infallible>| {
        IS_LOOP.with(|is_loop| is_loop.set(true));
        answer
    };
    let server = Server::new().listen("127.0.0.1:0").loops(Loops::Count(1)).limits(limits);
    let server = server.start(factory).unwrap();
    let addr = server.addrs()[0].inet().unwrap();
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| TcpStream::connect(addr).unwrap()).collect();
    let mut talk = |rounds: u64| {
        for round in 0..rounds {
            let message = [round as u8; 64];
            for client in &mut clients {
                client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
                client.write_all(&message).unwrap();
            }
            for client in &mut clients {
                let mut back = [0; 64];
                client.read_exact(&mut back).unwrap();
                assert_eq!(back, message);
            }
        }
    };
    talk(ROUNDS);
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    talk(ROUNDS);
    ALLOCATIONS.load(Ordering::Relaxed) - before
}

/// One test, since the count is the process's.
#[test]
fn echo_and_its_deadlines_allocate_nothing() {
    let _bound = bound::bound();
    assert_eq!(allocations(Answer::Echo), 0, "echo");
    assert_eq!(allocations(Answer::Copy), 0, "send");
    assert_eq!(allocations(Answer::Timer), 0, "a timer for each message");
    assert!(allocations(Answer::Box) >= ROUNDS, "a count that cannot rise shows nothing");
}
