//! What the wheel promises, one sentence at a time.

use super::*;
use crate::entries::Links;

struct Timer {
    deadline: Tick,
    links: Links,
    slot: Slot,
}

#[derive(Default)]
struct Timers {
    all: Vec<Timer>,
    /// How often the wheel looked at an entry.
    visits: usize,
}

impl Entries for Timers {
    fn links(&mut self, index: u32) -> (&mut Links, &mut Slot) {
        self.visits += 1;
        let timer = &mut self.all[index as usize];
        (&mut timer.links, &mut timer.slot)
    }
}

/// A wheel, its timers, and a caller who does with candidates what a caller should.
struct World {
    wheel: Wheel,
    timers: Timers,
}

impl World {
    fn new(now: u64) -> World {
        World { wheel: Wheel::new(tick(now)), timers: Timers::default() }
    }

    fn add(&mut self, deadline: u64) -> u32 {
        let index = self.timers.all.len() as u32;
        let timer = Timer { deadline: tick(deadline), links: Links::default(), slot: Slot::NONE };
        self.timers.all.push(timer);
        self.wheel.insert(&mut self.timers, index, tick(deadline));
        index
    }

    fn pop(&mut self, now: u64) -> Option<u32> {
        self.wheel.pop_due(&mut self.timers, tick(now))
    }

    fn cancel(&mut self, index: u32) -> bool {
        self.wheel.cancel(&mut self.timers, index)
    }

    fn rearm(&mut self, index: u32, deadline: u64) {
        self.timers.all[index as usize].deadline = tick(deadline);
        self.wheel.rearm(&mut self.timers, index, tick(deadline));
    }

    /// The next timer that fires by `now`.
    fn fire(&mut self, now: u64) -> Option<u32> {
        while let Some(index) = self.pop(now) {
            let deadline = self.timers.all[index as usize].deadline;
            if deadline <= tick(now) {
                return Some(index);
            }
            self.wheel.insert(&mut self.timers, index, deadline);
        }
        None
    }

    fn fire_all(&mut self, now: u64) -> Vec<u32> {
        std::iter::from_fn(|| self.fire(now)).collect()
    }

    /// Sleeps by `next_due` until something fires; says when, and how often it woke.
    fn sleep_until_one_fires(&mut self) -> (u64, usize) {
        for wakes in 1.. {
            let now = self.wheel.next_due().expect("a timer is armed").as_millis();
            if self.fire(now).is_some() {
                return (now, wakes);
            }
        }
        unreachable!()
    }
}

fn tick(millis: u64) -> Tick {
    Tick::from_millis(millis)
}

/// Where a wheel might stumble: around each level's boundary, the day a smaller wheel wrapped, and
/// the end of time.
fn hard_starts() -> Vec<u64> {
    let boundaries = (0..LEVELS as u32).map(|level| 1 << (level * DIGIT_BITS));
    let mut starts: Vec<u64> = boundaries.flat_map(|at: u64| [at - 1, at, at + 1]).collect();
    let twelve_days = 12 * 24 * 3_600_000;
    starts.extend([
        twelve_days - 1,
        twelve_days,
        (1 << 36) - 2,
        u64::MAX / 2,
        u64::MAX - 256,
        u64::MAX - 1,
        u64::MAX,
    ]);
    starts
}

const HARD_DELAYS: [u64; 17] = [
    0,
    1,
    2,
    255,
    256,
    257,
    65_535,
    65_536,
    65_537,
    i32::MAX as u64,
    1 << 31,
    (1 << 31) + 1,
    u32::MAX as u64,
    1 << 32,
    (1 << 32) + 1,
    1 << 63,
    u64::MAX,
];

fn hard_cases() -> impl Iterator<Item = (u64, u64)> {
    let with_delays = |start: u64| HARD_DELAYS.map(|delay| (start, start.saturating_add(delay)));
    hard_starts().into_iter().flat_map(with_delays)
}

#[test]
fn sleeping_by_next_due_fires_at_the_deadline_itself_after_few_wakes() {
    for (start, deadline) in hard_cases() {
        let mut world = World::new(start);
        world.add(deadline);
        let (now, wakes) = world.sleep_until_one_fires();
        assert_eq!(now, deadline, "from {start}");
        assert!(wakes <= LEVELS, "from {start} to {deadline} woke {wakes} times");
        assert_eq!(world.wheel.next_due(), None);
    }
}

#[test]
fn nothing_fires_a_millisecond_early_and_everything_fires_in_time() {
    for (start, deadline) in hard_cases() {
        let mut world = World::new(start);
        world.add(deadline);
        if deadline > start {
            assert_eq!(world.fire(deadline - 1), None, "from {start} to {deadline}");
            assert_eq!(
                world.wheel.next_due(),
                Some(tick(deadline)),
                "a millisecond before, it is filed exactly"
            );
        }
        assert_eq!(world.fire(deadline), Some(0), "from {start} to {deadline}");
    }
}

#[test]
fn what_is_inserted_for_later_is_not_handed_out_again_by_this_pass() {
    for (start, now) in hard_cases().filter(|&(_, now)| now < u64::MAX) {
        let mut world = World::new(start);
        let index = world.add(start.saturating_add(1).min(now));
        world.timers.all[index as usize].deadline = tick(now + 1);
        assert_eq!(world.pop(now), Some(index), "from {start} to {now}");
        world.rearm(index, now + 1);
        assert_eq!(world.pop(now), None, "from {start} to {now}");
        assert_eq!(world.fire(now + 1), Some(index));
    }
}

#[test]
fn a_deadline_in_the_past_is_due_at_once() {
    let mut world = World::new(1000);
    world.add(0);
    world.add(1000);
    let later = world.add(2000);
    world.cancel(later);
    assert_eq!(world.wheel.next_due(), Some(tick(1000)));
    assert_eq!(world.fire_all(1000), [0, 1]);
}

#[test]
fn tick_zero_is_a_moment_like_any_other() {
    let mut world = World::new(0);
    world.add(0);
    assert_eq!(world.wheel.next_due(), Some(Tick::ZERO));
    assert_eq!(world.fire_all(0), [0]);
}

#[test]
fn a_clock_that_goes_back_gets_nothing_and_breaks_nothing() {
    let mut world = World::new(0);
    assert_eq!(world.pop(4000), None);
    for deadline in [4010, 4005, 4005, 4020] {
        world.add(deadline);
    }
    assert_eq!(world.pop(100), None);
    world.cancel(0);
    assert_eq!(world.wheel.next_due(), Some(tick(4005)));
    assert_eq!(world.fire(4005), Some(1));
    assert_eq!(world.pop(4004), None, "though one is left over");
    assert_eq!(world.fire_all(4005), [2]);
    assert_eq!(world.fire_all(4020), [3]);
}

#[test]
fn equal_deadlines_fire_in_the_order_of_insertion() {
    let mut world = World::new(0);
    for _ in 0..5 {
        world.add(40);
    }
    world.rearm(1, 40);
    world.cancel(3);
    assert_eq!(world.fire_all(40), [0, 2, 4, 1]);
}

#[test]
fn slots_come_in_the_order_of_time_however_far_it_jumps() {
    let mut world = World::new(0);
    for deadline in [1 << 40, 270, 3, 5000, 300_000, 256] {
        world.add(deadline);
    }
    let candidates: Vec<u32> = std::iter::from_fn(|| world.pop(1 << 41)).collect();
    // 270 and 256 share a slot.
    assert_eq!(candidates, [2, 1, 5, 3, 4, 0]);
}

#[test]
fn a_deadline_moved_later_in_the_entry_fires_exactly_then() {
    for (start, deadline) in hard_cases().filter(|&(start, deadline)| deadline > start) {
        let mut world = World::new(start);
        let index = world.add(start + 1);
        world.timers.all[index as usize].deadline = tick(deadline);
        assert_eq!(world.fire(deadline - 1), None);
        assert_eq!(world.sleep_until_one_fires().0, deadline);
    }
}

#[test]
fn cancel_rearm_and_insert_work_from_inside_an_expiry() {
    let mut world = World::new(0);
    for _ in 0..6 {
        world.add(100);
    }
    assert_eq!(world.fire(200), Some(0));
    assert!(!world.cancel(0), "what fires is not filed any more");
    assert!(world.cancel(1), "the head of what is due");
    assert!(world.cancel(3), "the middle");
    assert!(world.cancel(5), "the end");
    world.rearm(2, 201);
    world.rearm(0, 300);
    let born = world.add(150);
    assert_eq!(world.wheel.len(), 4);
    assert_eq!(world.fire_all(200), [4, born]);
    assert_eq!(world.fire_all(299), [2]);
    assert_eq!(world.fire_all(300), [0]);
    assert!(world.wheel.is_empty());
}

#[test]
fn cancelling_what_is_due_leaves_its_former_slot_alone() {
    let mut world = World::new(0);
    let [first, second, third, fourth] = [5; 4].map(|deadline| world.add(deadline));
    assert_eq!(world.pop(10), Some(first));
    assert_eq!(world.pop(256), Some(second));
    // Filed in the slot through which the others came, of whom two still wait.
    let heir = world.add(256 + 5);
    assert!(world.cancel(fourth));
    assert!(world.cancel(third));
    assert_eq!(world.wheel.next_due(), Some(tick(256 + 5)));
    assert_eq!(world.fire_all(256 + 5), [heir]);
}

#[test]
fn a_timer_that_rearms_itself_does_not_trap_the_pass() {
    let mut world = World::new(0);
    world.add(1);
    let mut fired = 0;
    // A period of one millisecond, and a callback that takes twenty.
    for now in (1..=2000).step_by(20) {
        while let Some(index) = world.fire(now) {
            fired += 1;
            world.rearm(index, now + 1);
        }
    }
    assert_eq!(fired, 100);
}

#[test]
fn a_million_timers_in_one_tick_come_once_each_whatever_the_budget() {
    const TIMERS: usize = 1_000_000;
    let mut world = World::new(0);
    for _ in 0..TIMERS {
        world.add(60_000);
    }
    let mut fired = 0;
    let mut now = 60_000;
    while !world.wheel.is_empty() {
        for _ in 0..1000 {
            let Some(index) = world.fire(now) else { break };
            assert_eq!(index as usize, fired, "in order, hence each once");
            fired += 1;
        }
        assert_eq!(world.wheel.len(), TIMERS - fired);
        now += 7; // time goes on while the rest waits
    }
    assert_eq!(fired, TIMERS);
}

#[test]
fn a_jump_of_years_costs_steps_for_the_timers_and_none_for_the_ticks() {
    let mut world = World::new(0);
    assert_eq!(world.pop(1 << 62), None);
    assert_eq!(world.timers.visits, 0);

    let mut world = World::new(0);
    for level in 0..LEVELS as u32 {
        world.add(1 << (level * DIGIT_BITS));
    }
    world.timers.visits = 0;
    assert_eq!(world.fire_all(u64::MAX).len(), LEVELS);
    assert!(world.timers.visits <= 12 * LEVELS, "{} visits", world.timers.visits);
}

#[test]
fn time_that_passes_while_nothing_is_due_files_the_next_one_finely() {
    let mut world = World::new(0);
    world.add(1 << 40);
    assert_eq!(world.pop(99_990), None);
    world.add(100_000);
    assert_eq!(world.wheel.next_due(), Some(tick(100_000)));
}

#[test]
fn cancelling_the_soonest_finds_the_next_one() {
    let mut world = World::new(0);
    let indices = [9, 3, 270, 70_000].map(|deadline| world.add(deadline));
    let mut next_due = vec![world.wheel.next_due()];
    for index in [1, 0, 2, 3] {
        assert!(world.cancel(indices[index]));
        assert!(!world.cancel(indices[index]));
        next_due.push(world.wheel.next_due());
    }
    assert_eq!(next_due, [Some(3), Some(9), Some(256), Some(65536), None].map(|due| due.map(tick)));
}

#[test]
fn len_does_not_drift() {
    let mut world = World::new(0);
    let index = world.add(100);
    for round in 0..1000 {
        world.rearm(index, 100 + round);
        assert_eq!(world.wheel.len(), 1);
    }
    assert!(world.cancel(index));
    assert!(!world.cancel(index));
    assert_eq!(world.wheel.len(), 0);
    world.rearm(index, 5);
    assert_eq!(world.wheel.len(), 1);
    assert_eq!(world.fire_all(5), [index]);
    assert!(world.wheel.is_empty());
}

#[test]
#[should_panic(expected = "entry 0 is filed already")]
fn filing_an_entry_twice_is_our_own_mistake() {
    let mut world = World::new(0);
    world.add(10);
    world.wheel.insert(&mut world.timers, 0, tick(20));
}

#[test]
fn a_wheel_takes_eight_kilobytes_and_a_half() {
    assert!(size_of::<Wheel>() <= 8704, "{} bytes", size_of::<Wheel>());
}
