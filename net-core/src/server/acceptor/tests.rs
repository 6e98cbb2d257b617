//! Tests of the acceptor in a simulated world, in which the test plays the loops.

use super::*;
use crate::accept::admission::Admission;
use crate::driver::sim::{ModelKernel, Rig, Sim, World};
use crate::driver::{Epoll, listener_token};
use crate::server::load_balancer::Balance;
use crate::sys::{ListenOptions, Waker};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// An acceptor with one listener and `loops` loops. The test takes the loops' arrivals.
struct House<D: Rig> {
    acceptor: Acceptor<u64, D>,
    world: World,
    shared: Arc<Shared<u64>>,
}

impl<D: Rig> House<D> {
    fn new(spec: u64, loops: usize, limits: &Limits) -> Self {
        Self::balanced(spec, loops, limits, Balance::RoundRobin)
    }

    fn balanced(spec: u64, loops: usize, limits: &Limits, balance: Balance) -> Self {
        let shared = Shared::new(
            loops,
            Admission::new(limits.connections_max.unwrap_or(1 << 20), limits),
            limits,
        )
        .unwrap();
        let mut driver = D::open(limits, Arc::new(Waker::new().unwrap())).unwrap();
        let world = driver.world();
        world.get().rng = crate::driver::sim::Rng::new(spec);
        let at = "127.0.0.1:9000".parse().unwrap();
        let socket = driver.listen(listener_token(0), &at, &ListenOptions::default()).unwrap();
        let listeners = vec![Listener::new(at, socket, limits, &shared.listener_health)];
        let (places, in_flight_max) = (u64::MAX, u64::MAX);
        let dispatcher = Dispatcher::new(
            Arc::clone(&shared),
            balance,
            Vec::new(),
            places,
            in_flight_max,
            limits.log_every,
        );
        let drain_timeout = Duration::from_millis(500);
        let acceptor = Acceptor::new(
            driver,
            Arc::clone(&shared),
            listeners,
            dispatcher,
            limits.clone(),
            drain_timeout,
            None,
        );
        Self { acceptor, world, shared }
    }

    /// From `from` until `to`, loop `k` turns every millisecond, takes the connections that have arrived,
    /// and closes them. Returns how many connections it has taken.
    fn turns(&self, k: usize, from: u64, to: u64) -> Rc<Cell<u64>> {
        let taken = Rc::new(Cell::new(0));
        for ms in from..to {
            let (shared, taken) = (Arc::clone(&self.shared), Rc::clone(&taken));
            self.world.at(ms, move |world| {
                let inbox = &shared.loops[k];
                inbox.counters.add(Counter::Turns, 1);
                while let Some(arrival) = inbox.arrivals.pop() {
                    world.close(arrival.socket, false);
                    taken.set(taken.get() + 1);
                    inbox.taken.fetch_add(1, Ordering::Release);
                }
            });
        }
        taken
    }

    /// Loop `k` is over at `ms`.
    fn ends(&self, k: usize, ms: u64) {
        let shared = Arc::clone(&self.shared);
        self.world.at(ms, move |world| {
            shared.loops[k].is_over.store(true, Ordering::Release);
            world.wake();
        });
    }

    /// From `at` on, the loops take the connections that have arrived every millisecond, and close them.
    /// At `end` the loops are over, and with them the acceptor.
    fn loops_live(&self, at: u64, end: u64, taken: &Rc<Cell<u64>>) {
        for ms in at..=end {
            let (shared, taken) = (Arc::clone(&self.shared), Rc::clone(taken));
            self.world.at(ms, move |world| {
                for inbox in &shared.loops {
                    inbox.counters.add(Counter::Turns, 1);
                    while let Some(arrival) = inbox.arrivals.pop() {
                        taken.set(taken.get() + 1);
                        world.close(arrival.socket, false);
                        inbox.taken.fetch_add(1, Ordering::Release);
                    }
                    inbox.is_over.store(ms == end, Ordering::Release);
                }
                if ms == end {
                    world.wake();
                }
            });
        }
    }

    fn count(&self, counter: Counter) -> u64 {
        self.shared.acceptor.snapshot().get(counter)
    }
}

macro_rules! on_both {
    ($($name:ident,)*) => {
        mod on_sim {
            $(#[test] fn $name() { (0..10).for_each(super::$name::<super::Sim>); })*
        }
        mod on_epoll {
            $(#[test] fn $name() {
                (0..10).for_each(super::$name::<super::Epoll<super::ModelKernel>>);
            })*
        }
    };
}

on_both! {
    without_descriptors_it_tries_seldom_and_recovers_without_a_new_client,
    loops_without_room_hold_back_accept_and_nobody_is_lost,
    a_drain_lets_in_who_waits_and_ends_arrivals,
    a_drain_that_takes_too_long_is_cut,
    a_loop_that_ends_by_itself_stops_the_server,
    a_server_whose_every_listener_is_broken_drains,
    the_fewest_get_the_next_also_after_uneven_closes,
    a_loop_that_stands_still_is_passed_over_until_it_turns,
    what_waits_for_a_loop_that_stands_still_leaves_places_for_others,
    a_loop_that_does_not_end_is_given_up_and_one_that_turns_is_not,
}

fn without_descriptors_it_tries_seldom_and_recovers_without_a_new_client<D: Rig>(spec: u64) {
    for errno in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM] {
        let limits = Limits { shed_per_pause: 2, ..Limits::default() };
        let mut house = House::<D>::new(spec, 2, &limits);
        let taken = Rc::new(Cell::new(0));
        house.loops_live(1_000, 3_000, &taken);
        // 110 clients wait. The first 41 accepts find no descriptor. With two tries per pause of 50 ms,
        // the shortage ends about a second later.
        house.world.get().faults.accept.extend(vec![errno; 41]);
        (0..110).for_each(|_| _ = house.world.knock());
        let tries = Rc::new(Cell::new(0));
        let seen = Rc::clone(&tries);
        house.world.at(1_900, move |world| seen.set(world.get().counts.accepts));
        house.acceptor.run().unwrap();
        assert!(tries.get() <= 41, "{} tries in 0.9 s", tries.get());
        let shed = house.count(Counter::Shed);
        assert!(shed > 0);
        assert_eq!(taken.get() + shed, 110);
        assert_eq!(house.count(Counter::Accepted), taken.get());
    }
}

fn loops_without_room_hold_back_accept_and_nobody_is_lost<D: Rig>(spec: u64) {
    let limits = Limits { arrivals_queue: 4, ..Limits::default() };
    let mut house = House::<D>::new(spec, 3, &limits);
    let taken = Rc::new(Cell::new(0));
    let clients: Vec<_> = (0..200).map(|_| house.world.knock()).collect();
    let (waits, seen) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    for (at, cell) in [(1_000, &waits), (1_400, &seen)] {
        let cell = Rc::clone(cell);
        house.world.at(at, move |world| cell.set(world.get().counts.waits));
    }
    house.loops_live(1_400, 1_700, &taken);
    house.acceptor.run().unwrap();
    let waited = seen.get() - waits.get();
    assert!(waited <= 250, "{waited} waits in 400 ms without room");
    assert_eq!(taken.get(), clients.len() as u64);
}

fn a_drain_lets_in_who_waits_and_ends_arrivals<D: Rig>(spec: u64) {
    let mut house = House::<D>::new(spec, 2, &Limits::default());
    let taken = Rc::new(Cell::new(0));
    house.loops_live(1_000, 1_100, &taken);
    let shared = Arc::clone(&house.shared);
    house.world.at(1_050, move |world| {
        (0..50).for_each(|_| _ = world.knock());
        shared.ask(Phase::Drain);
        world.wake();
    });
    let refused = Rc::new(Cell::new(false));
    let was_refused = Rc::clone(&refused);
    house.world.at(1_060, move |world| {
        let late = world.knock();
        was_refused.set(world.peer(late).saw_reset());
    });
    house.acceptor.run().unwrap();
    assert_eq!(taken.get(), 50);
    assert!(refused.get(), "a late client is refused");
    for inbox in &house.shared.loops {
        assert!(inbox.arrivals_ended.load(Ordering::Acquire));
        assert_eq!(inbox.control.phase(), Phase::Drain);
    }
}

fn a_drain_that_takes_too_long_is_cut<D: Rig>(spec: u64) {
    let mut house = House::<D>::new(spec, 2, &Limits::default());
    let taken = Rc::new(Cell::new(0));
    house.loops_live(1_000, 1_600, &taken);
    house.shared.ask(Phase::Drain);
    let orders = Rc::new(Cell::new((Phase::Run, Phase::Run)));
    let (before, after) = (Rc::clone(&orders), Rc::clone(&orders));
    let shared = Arc::clone(&house.shared);
    house.world.at(1_499, move |_| before.set((shared.loops[0].control.phase(), Phase::Run)));
    let shared = Arc::clone(&house.shared);
    house.world.at(1_503, move |_| after.set((after.get().0, shared.loops[0].control.phase())));
    house.acceptor.run().unwrap();
    assert_eq!(orders.get(), (Phase::Drain, Phase::ForceClose));
}

fn a_loop_that_ends_by_itself_stops_the_server<D: Rig>(spec: u64) {
    let mut house = House::<D>::new(spec, 2, &Limits::default());
    let taken = Rc::new(Cell::new(0));
    house.loops_live(1_020, 1_100, &taken);
    let shared = Arc::clone(&house.shared);
    house.world.at(1_010, move |world| {
        shared.loops[1].is_over.store(true, Ordering::Release);
        world.wake();
    });
    house.acceptor.run().unwrap();
    assert_eq!(house.shared.loops[0].control.phase(), Phase::Stop);
}

fn a_server_whose_every_listener_is_broken_drains<D: Rig>(spec: u64) {
    let mut house = House::<D>::new(spec, 2, &Limits::default());
    // Another listener, which a loop has. The two may break in any order.
    house.shared.listener_health.opened();
    let taken = Rc::new(Cell::new(0));
    house.loops_live(1_030, 1_100, &taken);
    let orders = Rc::new(RefCell::new(Vec::new()));
    house.world.get().faults.accept.push_back(libc::EINVAL);
    house.world.at(1_000, |world| _ = world.knock());
    let at: crate::sys::addr::Addr = "127.0.0.1:9001".parse().unwrap();
    for ms in [1_010, 1_020] {
        let (shared, orders, at) = (Arc::clone(&house.shared), Rc::clone(&orders), at.clone());
        house.world.at(ms, move |world| {
            orders.borrow_mut().push(shared.loops[0].control.phase());
            if ms == 1_010 {
                shared.listener_health.mark_failed(&at, crate::sys::Errno::BADF);
                world.wake();
            }
        });
    }
    house.acceptor.run().unwrap();
    assert_eq!(*orders.borrow(), [Phase::Run, Phase::Drain]);
    assert_eq!(house.acceptor.take_last_failed(), Some((at, crate::sys::Errno::BADF)));
}

/// Three loops: one closes all its connections, one closes half, and one closes none.
fn the_fewest_get_the_next_also_after_uneven_closes<D: Rig>(spec: u64) {
    let balance = Balance::LeastConnections;
    let mut house = House::<D>::balanced(spec, 3, &Limits::default(), balance);
    let open = Rc::new(RefCell::new(vec![Vec::new(); 3]));
    for ms in 1_000..=1_200 {
        let (shared, open) = (Arc::clone(&house.shared), Rc::clone(&open));
        house.world.at(ms, move |world| {
            let clients = match ms {
                1_010 => 30,
                1_100 => 16,
                _ => 0,
            };
            (0..clients).for_each(|_| _ = world.knock());
            for (k, inbox) in shared.loops.iter().enumerate() {
                let here = &mut open.borrow_mut()[k];
                let mut taken = inbox.taken.load(Ordering::Relaxed);
                while let Some(arrival) = inbox.arrivals.pop() {
                    here.push(arrival.socket.number());
                    world.close(arrival.socket, false);
                    taken += 1;
                }
                if ms == 1_050 {
                    assert_eq!(here.len(), 10);
                    here.truncate([0, 5, 10][k]);
                }
                inbox.counters.set(Counter::Open, here.len() as u64);
                inbox.counters.add(Counter::Turns, 1);
                inbox.taken.store(taken, Ordering::Release);
                inbox.is_over.store(ms == 1_200, Ordering::Release);
            }
            if ms == 1_200 {
                world.wake();
            }
        });
    }
    house.acceptor.run().unwrap();
    let counts: Vec<_> = open.borrow().iter().map(Vec::len).collect();
    assert!(counts[2] <= 11 && counts.iter().sum::<usize>() == 31, "{counts:?}");
    assert!(counts.iter().all(|n| (10..=11).contains(n)), "{counts:?}");
}

/// Regression test: a loop that was stuck in a callback kept the connections handed to it, which was
/// every second client, for ever.
fn a_loop_that_stands_still_is_passed_over_until_it_turns<D: Rig>(spec: u64) {
    for balance in [Balance::RoundRobin, Balance::LeastConnections, Balance::SourceHash] {
        let mut house = House::<D>::balanced(spec, 2, &Limits::default(), balance);
        let (stuck, lives) = (house.turns(0, 3_000, 3_500), house.turns(1, 1_000, 3_500));
        for ms in [1_010, 1_020, 2_000, 3_200] {
            house.world.at(ms, |world| (0..20).for_each(|_| _ = world.knock()));
        }
        let seen = Rc::new(Cell::new((0, 0)));
        let (now, of) = (Rc::clone(&seen), (Rc::clone(&stuck), Rc::clone(&lives)));
        house.world.at(2_900, move |_| now.set((of.0.get(), of.1.get())));
        (0..2).for_each(|k| house.ends(k, 3_500));
        house.acceptor.run().unwrap();
        assert_eq!(seen.get(), (0, 60), "{balance:?}: all who came are with the loop that turns");
        assert_eq!(stuck.get() + lives.get(), 80, "{balance:?}");
        if balance == Balance::RoundRobin {
            assert_eq!(stuck.get(), 10, "it turns again, and has its turn");
        }
        // All clients here have one address, and its home may be the other loop.
        let skipped = house.count(Counter::LoopSkipped);
        assert!(skipped > 0 || balance != Balance::RoundRobin, "{balance:?}");
    }
}

/// Regression test: 1,024 clients waited for a loop that was stuck, and no descriptor was left for any
/// other client.
fn what_waits_for_a_loop_that_stands_still_leaves_places_for_others<D: Rig>(spec: u64) {
    let limits = Limits { connections_max: Some(64), ..Limits::default() };
    let mut house = House::<D>::new(spec, 2, &limits);
    let lives = house.turns(1, 1_000, 2_000);
    let most = Rc::new(Cell::new(0));
    for ms in 1_000..1_150 {
        let (shared, most) = (Arc::clone(&house.shared), Rc::clone(&most));
        house.world.at(ms, move |world| {
            _ = world.knock();
            most.set(most.get().max(shared.loops[0].arrivals.len()));
        });
    }
    (0..2).for_each(|k| house.ends(k, 2_000));
    house.acceptor.run().unwrap();
    assert_eq!(most.get(), 16, "a half of the places for all loops");
    assert_eq!(lives.get(), 150, "nobody was refused, and those who waited are placed anew");
    assert_eq!(house.count(Counter::Accepted), 150);
}

/// Regression test: a drain or a stop waited for ever for a loop whose callback did not return.
fn a_loop_that_does_not_end_is_given_up_and_one_that_turns_is_not<D: Rig>(spec: u64) {
    for order in [Phase::Drain, Phase::Stop] {
        let mut house = House::<D>::new(spec, 3, &Limits::default());
        house.turns(1, 1_000, 9_000);
        house.ends(1, 9_000);
        house.ends(2, 1_020);
        let shared = Arc::clone(&house.shared);
        house.world.at(1_000, move |world| {
            shared.ask(order);
            world.wake();
        });
        house.acceptor.run().unwrap();
        assert_eq!(house.acceptor.take_given_up(), [0], "after {order:?}");
        assert!(house.shared.loops[1].is_over.load(Ordering::Acquire), "it was waited for");
    }
}
