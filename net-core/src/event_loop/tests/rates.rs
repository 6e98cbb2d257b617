//! Rate limits, on virtual time: over some seconds the rate and one burst, nothing lost, and nobody
//! else is held.

use super::{At, Peer, Rig, Stage, on_both_rigs, pattern, usual};
use crate::base::close_reason::{Callback, CloseReason, DeadlineKind};
use crate::config::limits::Limits;
use crate::config::rate::Rate;
use crate::connection::life::State;
use crate::observe::counters::Counter;
use std::time::Duration;

on_both_rigs! {
    what_comes_in_is_the_rate_and_one_burst: 20,
    what_goes_out_is_the_rate_and_one_burst: 20,
    an_echo_is_held_both_ways_and_loses_nothing: 20,
    a_slow_way_out_does_not_hold_what_comes_in: 10,
    a_neighbour_without_a_limit_is_not_held: 10,
    after_a_pause_one_burst_is_free_and_no_more: 10,
    a_limit_that_is_lifted_holds_no_more: 20,
    a_rest_goes_out_at_the_rate_after_close: 20,
    a_rest_whose_limit_is_set_anew_is_not_given_up: 40,
    a_peer_that_reads_nothing_of_a_rated_rest_is_given_up: 10,
    what_is_held_meets_a_reset_and_an_end: 20,
    the_longest_rates_and_the_shortest_do_not_wrap: 5,
}

const RATE: u64 = 20_000;
const BURST: u64 = 1000;

fn rate() -> Option<Rate> {
    Some(Rate::per_second(RATE).burst(BURST))
}

fn roomy(limits: &mut Limits) {
    limits.high_watermark = 1 << 20;
}

/// Whether so many bytes are what passes in so many milliseconds.
fn is_the_rate(bytes: u64, ms: u64) {
    let most = BURST + RATE * ms / 1000;
    // A millisecond or two is lost at each of the fifty waits of a second.
    let least = RATE * ms / 1000 * 85 / 100;
    assert!((least..=most).contains(&bytes), "{bytes} in {ms} ms: not {least} to {most}");
}

/// Sends much, and looks at what has come for 20 times 173 ms. How long that was comes back.
fn comes_at_the_rate<D: Rig>(stage: &mut Stage<D>, peer: &Peer) -> u64 {
    peer.send(&[1; 100_000]);
    stage.settle();
    let mut ms = 0;
    for _ in 0..20 {
        is_the_rate(stage.record(peer).data_bytes as u64, ms);
        stage.advance(173);
        ms += 173;
    }
    ms
}

fn what_comes_in_is_the_rate_and_one_burst<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.receive_rate = rate());
    stage.play(|at| match at {
        At::Data(_, input) => drop(input.take_all()),
        other => usual(other),
    });
    let peer = stage.open();
    comes_at_the_rate(&mut stage, &peer);
    let (came, waits) = (stage.record(&peer).data_bytes, stage.count(Counter::RateWaits));
    assert!(waits > 20 && waits < 400, "{waits} waits for {came} bytes");
    stage.stop();
}

fn what_goes_out_is_the_rate_and_one_burst<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| {
        roomy(limits);
        limits.send_rate = rate();
    });
    let sent = pattern(0, 100_000);
    let payload = sent.clone();
    stage.play(move |at| match at {
        At::Open(conn) => {
            let (small, rest) = payload.split_at(100);
            assert!(conn.send(small).is_taken() && conn.send(rest).is_taken());
        }
        other => usual(other),
    });
    let peer = stage.open();
    let mut ms = 0;
    for _ in 0..20 {
        is_the_rate(peer.got().len() as u64, ms);
        stage.advance(173);
        ms += 173;
    }
    stage.advance(3000);
    assert_eq!(peer.got(), sent, "and all of it in the end");
    stage.stop();
}

fn an_echo_is_held_both_ways_and_loses_nothing<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| {
        limits.receive_rate = Some(Rate::per_second(2 * RATE).burst(BURST));
        limits.send_rate = rate();
    });
    let peer = stage.open();
    let sent = pattern(5, 30_000);
    for piece in sent.chunks(700) {
        peer.send(piece);
        stage.advance(7);
    }
    peer.finish();
    stage.advance(100);
    assert!(peer.got().len() < 12_000, "{} too soon", peer.got().len());
    stage.advance(3000);
    assert_eq!(peer.got(), sent);
    assert_eq!(stage.record(&peer).closed, Some(CloseReason::PeerEnded));
    stage.stop();
}

/// Both ways wait for tokens under one deadline. By the later of the two, the quick way would go on at the
/// speed of the slow one.
fn a_slow_way_out_does_not_hold_what_comes_in<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| {
        roomy(limits);
        limits.receive_rate = rate();
        limits.send_rate = Some(Rate::per_second(10).burst(BURST));
    });
    stage.play(|at| match at {
        At::Open(conn) => assert!(conn.send(&pattern(0, 10_000)).is_taken()),
        At::Data(_, input) => drop(input.take_all()),
        other => usual(other),
    });
    let peer = stage.open();
    let ms = comes_at_the_rate(&mut stage, &peer);
    let most = BURST as usize + 10 * 4;
    assert!(peer.got().len() <= most, "{} in {ms} ms", peer.got().len());
    stage.stop();
}

fn a_neighbour_without_a_limit_is_not_held<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let (held, free) = (stage.open(), stage.open());
    let id = stage.id(&held);
    stage.play(move |at| match at {
        At::Message(here, _) => {
            let mut conn = here.connection(id).unwrap();
            conn.limit_receive(rate());
            conn.limit_send(rate());
        }
        other => usual(other),
    });
    stage.handle().post(0, 0).unwrap();
    stage.settle();
    held.send(&[1; 50_000]);
    free.send(&[2; 50_000]);
    stage.settle();
    assert_eq!(free.got().len(), 50_000);
    assert!(held.got().len() as u64 <= BURST);
    stage.stop();
}

fn after_a_pause_one_burst_is_free_and_no_more<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.receive_rate = rate());
    let peer = stage.open();
    for _ in 0..3 {
        stage.advance(10_000);
        let before = stage.record(&peer).data_bytes as u64;
        peer.send(&[1; 5000]);
        stage.settle();
        assert_eq!(stage.record(&peer).data_bytes as u64 - before, BURST);
        stage.advance(300);
    }
    stage.stop();
}

fn a_limit_that_is_lifted_holds_no_more<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| {
        limits.receive_rate = rate();
        limits.send_rate = rate();
    });
    let peer = stage.open();
    let id = stage.id(&peer);
    stage.play(move |at| match at {
        At::Message(here, again) => {
            let mut conn = here.connection(id).unwrap();
            let rate = Some(Rate::per_second(1)).filter(|_| again > 0);
            conn.limit_receive(rate);
            conn.limit_send(rate);
        }
        other => usual(other),
    });
    let sent = pattern(0, 30_000);
    peer.send(&sent);
    stage.settle();
    assert!(peer.got().len() as u64 <= BURST);
    // A lower one brings nothing; none lets all pass, with no edge and no time.
    stage.handle().post(0, 1).unwrap();
    stage.settle();
    assert!(peer.got().len() as u64 <= BURST + 1);
    stage.handle().post(0, 0).unwrap();
    stage.settle();
    assert_eq!(peer.got(), sent);
    assert!(stage.event_loop.state.rates.is_empty());
    stage.stop();
}

fn a_rest_goes_out_at_the_rate_after_close<D: Rig>(seed: u64) {
    for ends in [false, true] {
        let mut stage = Stage::<D>::with(seed, |limits| {
            roomy(limits);
            limits.send_rate = rate();
            limits.write_timeout = Duration::from_millis(200);
        });
        stage.play(|at| match at {
            At::Open(conn) => {
                assert!(conn.send(&pattern(0, 20_000)).is_taken());
                conn.close();
            }
            other => usual(other),
        });
        let peer = stage.open();
        if ends {
            peer.finish();
        }
        for step in 0..5 {
            is_the_rate(peer.got().len() as u64, step * 90);
            stage.advance(90);
        }
        stage.advance(1000);
        assert_eq!(peer.got(), pattern(0, 20_000), "longer than the write timeout in all");
        assert!(peer.saw_fin());
        peer.finish();
        stage.settle();
        assert_eq!(stage.record(&peer).closed, Some(CloseReason::Local));
        stage.stop();
    }
}

/// While it waits for a token, its bound on closing is not what is filed.
fn a_rest_whose_limit_is_set_anew_is_not_given_up<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| {
        roomy(limits);
        limits.send_rate = Some(Rate::per_second(500).burst(1));
        limits.write_timeout = Duration::from_secs(5);
    });
    let peer = stage.open();
    let id = stage.id(&peer);
    stage.play(move |at| match at {
        At::Message(here, rate) => {
            if let Some(mut conn) = here.connection(id) {
                conn.limit_send(Some(Rate::per_second(rate).burst(1)));
            }
        }
        At::Data(conn, input) => {
            input.take_all();
            assert!(conn.send(&pattern(0, 300)).is_taken());
            conn.close();
        }
        other => usual(other),
    });
    peer.send(b"x");
    stage.settle();
    for _ in 0..40 {
        let rate = stage.rng.within(200, 900);
        stage.handle().post(0, rate as _).unwrap();
        let ms = stage.rng.within(1, 30);
        stage.advance(ms as u64);
        assert!(!peer.saw_reset(), "given up after {} B", peer.got().len());
    }
    stage.advance(2000);
    assert_eq!(peer.got(), pattern(0, 300));
    peer.finish();
    stage.settle();
    assert_eq!(stage.record(&peer).closed, Some(CloseReason::Local));
    stage.stop();
}

fn a_peer_that_reads_nothing_of_a_rated_rest_is_given_up<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| {
        roomy(limits);
        limits.send_rate = Some(Rate::per_second(1 << 20));
        limits.write_timeout = Duration::from_millis(200);
    });
    stage.play(|at| match at {
        At::Data(conn, input) => {
            input.take_all();
            assert!(conn.send(&[0; 200_000]).is_taken());
            conn.close();
        }
        other => usual(other),
    });
    let peer = stage.open();
    peer.reads(false);
    peer.send(b"x");
    stage.advance(1000);
    assert_eq!(stage.record(&peer).closed, Some(CloseReason::Deadline(DeadlineKind::Write)));
    stage.stop();
}

fn what_is_held_meets_a_reset_and_an_end<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.receive_rate = rate());
    let (resets, ends) = (stage.open(), stage.open());
    for peer in [&resets, &ends] {
        peer.send(&[1; 5000]);
    }
    stage.settle();
    resets.reset();
    ends.finish();
    stage.settle();
    assert_eq!(stage.record(&resets).closed, Some(CloseReason::PeerReset));
    assert_eq!(stage.state(&ends), State::Open, "its end is behind what is held");
    stage.advance(1000);
    assert_eq!(stage.record(&ends).closed, Some(CloseReason::PeerEnded));
    assert_eq!(stage.record(&ends).calls.iter().filter(|c| **c == Callback::End).count(), 1);
    stage.stop();
}

fn the_longest_rates_and_the_shortest_do_not_wrap<D: Rig>(seed: u64) {
    for rate in [Rate::per_second(0), Rate::per_second(u64::MAX).burst(u64::MAX)] {
        let mut stage = Stage::<D>::with(seed, |limits| {
            limits.receive_rate = Some(rate);
            limits.send_rate = Some(rate);
        });
        let peer = stage.open();
        peer.send(b"three");
        stage.advance(5005);
        assert_eq!(peer.got(), b"three");
        stage.stop();
    }
}
