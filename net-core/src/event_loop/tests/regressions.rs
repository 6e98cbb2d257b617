//! Faults that were found here, one test each.

use super::{At, Rig, Stage, on_both_rigs, usual};
use crate::base::close_reason::CloseReason;
use crate::connection::life::State;

on_both_rigs! {
    senders_over_their_budget_take_turns: 10,
    answers_to_room_are_sent_though_the_cork_was_just_emptied: 40,
    a_connection_flushed_twice_in_a_turn_is_listed_once: 10,
    a_reset_announced_together_with_the_end_closes_a_half_closed_connection: 20,
    finishing_and_closing_when_idle_closes: 20,
    a_reset_announced_beside_the_bytes_at_which_a_handler_pauses_closes: 20,
}

/// Three connections with more to send than a turn allows: of a list cut by `swap_remove`, two took
/// all the turns and the third never had one.
fn senders_over_their_budget_take_turns<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| {
        limits.send_bytes_per_turn = 100;
        limits.high_watermark = 1 << 19;
    });
    stage.world.get().faults.short_sends = false;
    stage.world.get().buffers = (1 << 20, 1 << 20);
    let peers: Vec<_> = (0..5).map(|_| stage.open()).collect();
    stage.play(|at| match at {
        At::Message(here, _) => here.each(|conn| {
            let _ = conn.send(&[7; 20_000]);
        }),
        other => usual(other),
    });
    stage.handle().post(0, 1).unwrap();
    for _ in 0..60 {
        stage.turn();
    }
    let got: Vec<_> = peers.iter().map(|peer| peer.got().len()).collect();
    let (least, most) = (got.iter().min().unwrap(), got.iter().max().unwrap());
    assert!(*least > 0 && most - least <= 200, "{got:?}");
    stage.settle();
    assert!(peers.iter().all(|peer| peer.got().len() == 20_000));
    stage.stop();
}

/// `on_writable` ran while the cork was being emptied. What it sent went into the cork, from there to
/// the connection's own queue, and onto no list: both sides waited for ever.
fn answers_to_room_are_sent_though_the_cork_was_just_emptied<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| {
        limits.cork_bytes = 8192;
        limits.high_watermark = 100;
        limits.low_watermark = 100;
    });
    stage.world.get().buffers = (1 << 20, 1 << 20);
    let peer = stage.open();
    let id = stage.id(&peer);
    let mut rounds = 0;
    stage.play(move |at| match at {
        At::Message(here, _) => {
            let _ = here.connection(id).unwrap().send(&[1; 101]);
        }
        At::Room(conn) if rounds < 50 => {
            rounds += 1;
            let _ = conn.send(&[2; 101]);
        }
        other => usual(other),
    });
    stage.handle().post(0, 1).unwrap();
    stage.settle();
    assert_eq!(peer.got().len(), 51 * 101);
    stage.stop();
}

/// Each flush outside of the list left its entry there and added another.
fn a_connection_flushed_twice_in_a_turn_is_listed_once<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| {
        limits.send_bytes_per_turn = 10;
        limits.high_watermark = 1 << 19;
    });
    stage.world.get().faults.short_sends = false;
    stage.world.get().buffers = (1 << 20, 1 << 20);
    let peer = stage.open();
    stage.play(|at| match at {
        At::Data(conn, input) => {
            let _ = conn.send(&[9; 5000]);
            input.take_all();
        }
        other => usual(other),
    });
    for _ in 0..20 {
        peer.send(b"x");
        stage.turn();
        assert!(stage.event_loop.state.outbox.to_flush.len() <= 1);
    }
    stage.settle();
    stage.stop();
}

/// FIN and RST in one event: reading met the FIN, nobody read on to meet the reset, and its edge
/// was spent.
fn a_reset_announced_together_with_the_end_closes_a_half_closed_connection<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    stage.play(|at| match at {
        At::End(_) => {} // we may have something to say later
        At::Data(_, input) => drop(input.take_all()),
        other => usual(other),
    });
    let peer = stage.open();
    peer.send(b"hello");
    peer.finish();
    peer.reset();
    stage.settle();
    assert_eq!(stage.state(&peer), State::Dead);
    let closed = stage.record(&peer).closed;
    assert!(matches!(closed, Some(CloseReason::PeerEnded | CloseReason::PeerReset)), "{closed:?}");
    stage.stop();
}

/// The look for idleness came while bytes were owed, and none followed when they were gone.
fn finishing_and_closing_when_idle_closes<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    stage.world.get().buffers = (1000, 1000);
    let peer = stage.open();
    peer.reads(false);
    stage.play(|at| match at {
        At::Data(conn, input) => {
            let _ = conn.send(&[1; 3000]);
            input.take_all();
            conn.finish();
            conn.close_when_idle();
        }
        other => usual(other),
    });
    peer.send(b"x");
    stage.settle();
    peer.reads(true);
    stage.advance(2000); // the last bytes may be unacknowledged: then it lingers
    assert_eq!(peer.got().len(), 3000);
    assert_eq!(stage.record(&peer).closed, Some(CloseReason::Local), "{:?}", stage.state(&peer));
    stage.stop();
}

/// Bytes and RST in one event: the handler paused at the bytes, and the reset's edge was spent.
fn a_reset_announced_beside_the_bytes_at_which_a_handler_pauses_closes<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.receive_block_bytes = 64);
    stage.play(|at| match at {
        At::Data(conn, _) => conn.pause(),
        other => usual(other),
    });
    let peer = stage.open();
    peer.send(&[1; 70]);
    peer.reset();
    stage.settle();
    assert_eq!(stage.record(&peer).closed, Some(CloseReason::PeerReset));
    stage.stop();
}
