//! What do a post and its taking cost, with nobody else about: to a loop that turns, and to one
//! that sleeps?

use super::{Rounds, Step};
use net_core::bench::Inbox;
use std::hint::black_box;

/// Posts in a burst.
const BURST: u64 = 256;

pub(super) fn steps() -> Vec<Step> {
    let step = |name, units, counted, at_most, prepare| Step {
        group: "posts",
        name,
        units,
        counted,
        at_most,
        prepare,
    };
    vec![
        step("post; a busy loop", 1, 10_000, 100.0, posts),
        // Twenty more or less, by how often the compiler copies a message on its way out.
        step("post, take; a busy loop", 1, 10_000, 170.0, busy),
        step("post, take; 256 to a sleeping loop", BURST, 100, 170.0, asleep),
        step("sleep, post, wake, take", 1, 1_000, 270.0, || bursts(1)),
    ]
}

/// How often the loop's eventfd is written by a burst to a busy loop, and
/// by one to a sleeping loop.
pub fn rings() -> std::io::Result<[u64; 2]> {
    let inbox = Inbox::new(BURST as usize)?;
    post(&inbox, BURST);
    let to_busy = inbox.rings()?;
    take(&inbox, BURST);
    assert!(inbox.sleep(), "nothing waits");
    post(&inbox, BURST);
    let to_sleeping = inbox.rings()?;
    inbox.wake();
    Ok([to_busy, to_sleeping])
}

fn inbox() -> Inbox {
    Inbox::new(BURST as usize).expect("an eventfd can be made")
}

fn post(inbox: &Inbox, burst: u64) {
    let handle = inbox.handle();
    for message in 0..burst {
        assert!(handle.post(0, black_box(message)).is_ok(), "a burst fits the mailbox");
    }
}

fn take(inbox: &Inbox, burst: u64) {
    for _ in 0..burst {
        assert!(black_box(inbox.take()).is_some(), "what was posted is there");
    }
}

/// A round that finds the mailbox full empties it instead; fewer are counted than it holds.
fn posts() -> Rounds {
    const ROOM: u64 = 1 << 16;
    let inbox = Inbox::new(ROOM as usize).expect("an eventfd can be made");
    let handle = inbox.handle();
    Box::new(move |rounds| {
        for round in 0..rounds {
            if handle.post(0, round).is_err() {
                take(&inbox, ROOM);
            }
        }
    })
}

fn busy() -> Rounds {
    let inbox = inbox();
    let handle = inbox.handle();
    Box::new(move |rounds| {
        for round in 0..rounds {
            assert!(handle.post(0, round).is_ok(), "the mailbox is empty");
            assert!(black_box(inbox.take()).is_some(), "what was posted is there");
        }
    })
}

fn asleep() -> Rounds {
    bursts(BURST)
}

fn bursts(burst: u64) -> Rounds {
    let inbox = inbox();
    Box::new(move |rounds| {
        for _ in 0..rounds {
            assert!(inbox.sleep(), "nothing waits");
            post(&inbox, burst);
            inbox.wake();
            take(&inbox, burst);
        }
    })
}
