//! Twins that must fail: each takes one rule out of the loop, and a test above must notice.

use super::{MUTATION, ModelEpoll, Mutation, Rig, Sim, Stage, echo, ends, marks, seeds};

/// Runs `test` without one of the rules.
fn without(rule: Mutation, test: impl Fn(u64)) {
    struct Restore;
    impl Drop for Restore {
        fn drop(&mut self) {
            MUTATION.set(None);
        }
    }
    let _restore = Restore;
    MUTATION.set(Some(rule));
    seeds(20, test);
}

fn no_requeue<D: Rig>() {
    without(Mutation::NoRequeue, echo::a_burst_and_then_silence_is_echoed::<D>);
}

#[test]
#[should_panic = "is not read on"]
fn without_the_requeue_after_its_budget_a_burst_is_stuck_on_sim() {
    no_requeue::<Sim>();
}

#[test]
#[should_panic = "is not read on"]
fn without_the_requeue_after_its_budget_a_burst_is_stuck_on_epoll() {
    no_requeue::<ModelEpoll>();
}

fn no_synthetic_read<D: Rig>() {
    let test = marks::a_pause_leaves_bytes_and_a_resume_needs_no_edge::<D>;
    without(Mutation::NoSyntheticRead, test);
}

#[test]
#[should_panic = "is not read on"]
fn without_its_synthetic_read_a_resume_waits_for_ever_on_sim() {
    no_synthetic_read::<Sim>();
}

#[test]
#[should_panic = "is not read on"]
fn without_its_synthetic_read_a_resume_waits_for_ever_on_epoll() {
    no_synthetic_read::<ModelEpoll>();
}

// The rule of short reads is the epoll driver's alone.

#[test]
#[should_panic = "is not read on"]
fn without_the_exception_for_an_end_a_short_read_misses_the_fin() {
    let test = ends::bytes_and_fin_in_one_burst_are_all_echoed_then_fin::<ModelEpoll>;
    without(Mutation::ShortReadsAlwaysEnd, test);
}

#[test]
#[should_panic = "is not read on"]
fn without_the_exception_for_urgent_bytes_a_short_read_stops_at_the_mark() {
    let test = ends::urgent_bytes_do_not_stop_the_stream::<ModelEpoll>;
    without(Mutation::ShortReadsAlwaysEnd, test);
}

#[test]
#[should_panic = "is not read on"]
fn a_unix_stream_taken_for_tcp_stops_at_descriptors() {
    seeds(20, |seed| {
        let mut stage = Stage::<ModelEpoll>::new(seed);
        let peer = stage.arrive();
        ends::talks_with_descriptors(&mut stage, &peer);
    });
}

#[test]
#[should_panic = "bytes in one turn"]
fn if_room_were_told_beside_every_arrival_a_sender_would_pass_its_budget() {
    let test = echo::a_sender_gets_its_budget_and_no_more_per_turn::<ModelEpoll>;
    without(Mutation::RoomAlways, test);
}

#[test]
fn with_every_rule_in_place_the_same_tests_hold() {
    seeds(20, echo::a_burst_and_then_silence_is_echoed::<ModelEpoll>);
    seeds(20, marks::a_pause_leaves_bytes_and_a_resume_needs_no_edge::<ModelEpoll>);
    seeds(20, ends::bytes_and_fin_in_one_burst_are_all_echoed_then_fin::<ModelEpoll>);
    seeds(20, ends::urgent_bytes_do_not_stop_the_stream::<ModelEpoll>);
    seeds(20, echo::a_sender_gets_its_budget_and_no_more_per_turn::<ModelEpoll>);
}
