//! Model checks: in every interleaving and with every stale read that loom can think of, no wake-up
//! and no post is lost.
//!
//! The sources under test are the ones that ship, compiled over loom's atomics by way of `mod sync`
//! below. The stand-ins for the queues are counters published by Release and taken by Acquire, no
//! stronger: a lock or a SeqCst operation in them would order what the fences are there to order,
//! and hide that one is missing. Nothing here waits for a ring; a lost wake-up is a *final state*:
//! the loop has gone to sleep, everybody else is done, an item waits, and no ring does.
//!
//! Each property has twins that must fail, with one part taken away. A model that cannot fail shows
//! nothing.

mod threads {
    /// What `src/threads/sync.rs` offers, from loom.
    pub(crate) mod sync {
        pub(crate) use loom::sync::atomic::{AtomicU32, AtomicUsize, Ordering, fence};
        pub(crate) use loom::thread::yield_now;
    }
}

#[path = "../src/threads/sleep.rs"]
mod sleep;

#[path = "../src/threads/mailbox/close_gate.rs"]
mod close_gate;

use loom::sync::Arc;
use loom::thread::{self, JoinHandle};

use sleep::{Fences, SeqCst, SleepWord};
use threads::sync::{AtomicUsize, Ordering, fence};

/// Explores a model: completely, or, where that takes minutes, up to so many preemptions.
fn explore(preemptions: Option<usize>, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(model);
}

/// A counter as the weakest queue that is still one: how many items were ever published on it.
#[derive(Default)]
struct Queue(AtomicUsize);

impl Queue {
    fn publish(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }

    fn published(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }
}

/// One loop as its senders see it: two queues, the word, and the eventfd as a counter.
struct Station<F: Fences> {
    arrivals: Queue,
    mail: Queue,
    word: SleepWord<F>,
    /// Rings that the loop has not read yet. Write and read order as the kernel's do: who reads a
    /// ring sees what came before.
    rings: AtomicUsize,
}

impl<F: Fences> Station<F> {
    fn new() -> Arc<Self> {
        Arc::new(Station {
            arrivals: Queue::default(),
            mail: Queue::default(),
            word: SleepWord::new(),
            rings: AtomicUsize::new(0),
        })
    }

    fn ring_if_asleep(&self) {
        if self.word.must_wake() {
            self.rings.fetch_add(1, Ordering::Release);
        }
    }

    fn post(&self, queue: &Queue) {
        queue.publish();
        self.ring_if_asleep();
    }

    fn read_rings(&self) -> usize {
        self.rings.swap(0, Ordering::Acquire)
    }

    /// What the loop must be able to say when all is quiet: it sleeps, so nothing waits, or a ring
    /// does.
    fn assert_not_lost(&self, asleep: bool, taken: usize) {
        let waiting = self.mail.published() + self.arrivals.published() - taken;
        let rings = self.rings.load(Ordering::Acquire);
        assert!(!asleep || waiting == 0 || rings > 0, "lost wake-up: {waiting} waiting, no ring");
    }
}

/// A sender of the station's.
fn spawn<F: Fences + Send + Sync + 'static>(
    station: &Arc<Station<F>>,
    sender: impl FnOnce(&Station<F>) + 'static,
) -> JoinHandle<()> {
    let station = station.clone();
    thread::spawn(move || sender(&station))
}

/// Waits for a thread; whatever it did happened before.
fn finish<T>(thread: JoinHandle<T>) -> T {
    thread.join().expect("a panic in a model ends the model")
}

/// One sender posts one item while the loop goes to sleep.
fn one_sender<F: Fences + Send + Sync + 'static>(second_look: bool) {
    explore(None, move || {
        let station = Station::<F>::new();
        let sender = spawn(&station, |station| station.post(&station.mail));
        // The last look of the turn, after which the loop wants to sleep.
        let taken = station.mail.published();
        let asleep = station.word.try_sleep(|| second_look && station.mail.published() > taken);
        finish(sender);
        station.assert_not_lost(asleep, taken);
    });
}

#[test]
fn loop_never_sleeps_with_an_item_waiting_and_no_ring() {
    one_sender::<SeqCst>(true);
}

struct NoSleeperFence;

impl Fences for NoSleeperFence {
    fn sleeper() {}

    fn sender() {
        fence(Ordering::SeqCst);
    }
}

#[test]
#[should_panic(expected = "lost wake-up")]
fn without_the_sleepers_fence_a_wake_up_is_lost() {
    one_sender::<NoSleeperFence>(true);
}

struct NoSenderFence;

impl Fences for NoSenderFence {
    fn sleeper() {
        fence(Ordering::SeqCst);
    }

    fn sender() {}
}

#[test]
#[should_panic(expected = "lost wake-up")]
fn without_the_senders_fence_a_wake_up_is_lost() {
    one_sender::<NoSenderFence>(true);
}

struct AcquireRelease;

impl Fences for AcquireRelease {
    fn sleeper() {
        fence(Ordering::AcqRel);
    }

    fn sender() {
        fence(Ordering::AcqRel);
    }
}

#[test]
#[should_panic(expected = "lost wake-up")]
fn with_weaker_fences_a_wake_up_is_lost() {
    one_sender::<AcquireRelease>(true);
}

#[test]
#[should_panic(expected = "lost wake-up")]
fn without_the_second_look_a_wake_up_is_lost() {
    one_sender::<SeqCst>(false);
}

#[test]
#[should_panic(expected = "lost wake-up")]
fn asking_before_publishing_loses_a_wake_up() {
    explore(None, || {
        let station = Station::<SeqCst>::new();
        let sender = spawn(&station, |station| {
            station.ring_if_asleep();
            station.mail.publish();
        });
        let asleep = station.word.try_sleep(|| station.mail.published() > 0);
        finish(sender);
        station.assert_not_lost(asleep, 0);
    });
}

/// Two senders meet one sleep.
#[test]
fn two_senders_ring_at_most_once_per_sleep() {
    explore(None, || {
        let station = Station::<SeqCst>::new();
        let senders = [(); 2].map(|()| spawn(&station, |station| station.post(&station.mail)));
        let asleep = station.word.try_sleep(|| station.mail.published() > 0);
        senders.into_iter().for_each(finish);
        station.assert_not_lost(asleep, 0);
        assert!(station.read_rings() <= 1, "two rings for one sleep");
    });
}

#[test]
fn two_bridges_share_one_word() {
    explore(None, || {
        let station = Station::<SeqCst>::new();
        let mail = spawn(&station, |station| station.post(&station.mail));
        let arrival = spawn(&station, |station| station.post(&station.arrivals));
        let asleep = station
            .word
            .try_sleep(|| station.mail.published() > 0 || station.arrivals.published() > 0);
        [mail, arrival].into_iter().for_each(finish);
        station.assert_not_lost(asleep, 0);
        assert!(station.read_rings() <= 1, "two rings for one sleep");
    });
}

/// The mail is quiet, or its ring would wake the loop for the arrival too.
#[test]
#[should_panic(expected = "lost wake-up")]
fn a_bridge_left_out_of_the_second_look_loses_a_wake_up() {
    explore(None, || {
        let station = Station::<SeqCst>::new();
        let arrival = spawn(&station, |station| station.post(&station.arrivals));
        let asleep = station.word.try_sleep(|| station.mail.published() > 0);
        finish(arrival);
        station.assert_not_lost(asleep, 0);
    });
}

/// The loop sleeps, wakes for a reason of its own (a socket, a timer) while rings may be late,
/// takes what it sees, and sleeps again, twice; two senders, one of whom posts twice.
fn sleeping_again<F: Fences + Send + Sync + 'static>() {
    explore(Some(3), || {
        let station = Station::<F>::new();
        let senders = [1, 2].map(|items| {
            spawn(&station, move |station| (0..items).for_each(|_| station.post(&station.mail)))
        });
        let (mut taken, mut rings, mut declared, mut asleep) = (0, 0, 0, false);
        for turn in 0..3 {
            if turn > 0 {
                if asleep {
                    station.word.woke();
                }
                rings += station.read_rings();
                taken = station.mail.published();
            }
            declared += 1;
            asleep = station.word.try_sleep(|| station.mail.published() > taken);
        }
        senders.into_iter().for_each(finish);
        station.assert_not_lost(asleep, taken);
        rings += station.read_rings();
        assert!(rings <= declared, "{rings} rings for {declared} sleeps");
    });
}

#[test]
fn late_rings_lose_nothing_when_the_loop_sleeps_again() {
    sleeping_again::<SeqCst>();
}

#[test]
#[should_panic(expected = "lost wake-up")]
fn without_the_senders_fence_a_later_sleep_loses_a_wake_up() {
    sleeping_again::<NoSenderFence>();
}

#[test]
#[should_panic(expected = "lost wake-up")]
fn without_the_sleepers_fence_a_later_sleep_loses_a_wake_up() {
    sleeping_again::<NoSleeperFence>();
}

/// Two senders post through the close gate while the owner closes it and counts what is there. The
/// queue is a relaxed counter, so only the close gate can make a push visible.
fn closing(waits_for_senders: bool) {
    explore(Some(3), move || {
        let close_gate = Arc::new(close_gate::CloseGate::new());
        let queue = Arc::new(AtomicUsize::new(0));
        let senders = [(); 2].map(|()| {
            let (close_gate, queue) = (close_gate.clone(), queue.clone());
            thread::spawn(move || {
                let let_in = close_gate.enter();
                if let_in {
                    queue.fetch_add(1, Ordering::Relaxed);
                    close_gate.leave();
                }
                usize::from(let_in)
            })
        });
        close_gate.close();
        if waits_for_senders {
            close_gate.wait_until_empty();
        }
        let drained = queue.load(Ordering::Relaxed);
        assert!(!close_gate.enter(), "a closed close gate stays closed");
        let posted: usize = senders.map(finish).iter().sum();
        assert_eq!(posted, drained, "lost post");
    });
}

#[test]
fn drain_after_close_sees_every_post_that_succeeded() {
    closing(true);
}

#[test]
#[should_panic(expected = "lost post")]
fn draining_without_waiting_for_the_senders_inside_loses_a_post() {
    closing(false);
}
