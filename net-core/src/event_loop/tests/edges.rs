//! Every limit at its edges: it is refused by its name, or the loop serves with it.

use super::{At, Outcome, Rig, Stage, on_both_rigs, somewhere, usual};
use crate::api::loop_context::LoopContext;
use crate::api::slices::Slice;
use crate::base::close_reason::CloseReason;
use crate::config::limits::edges::{self, Edge};
use crate::features::broadcast::Broadcast;
use crate::threads::control::Phase;
use bytes::Bytes;
use std::sync::atomic::Ordering;
use std::time::Duration;

on_both_rigs! {
    each_limit_at_its_edges_is_named_or_the_loop_serves: 1,
    a_crowd_ends_within_the_largest_numbers_of_a_turn: 5,
    times_at_their_edges_are_times: 3,
}

/// `endings_per_turn` at its largest wrapped to 0 as soon as messages came, and the loop died of a
/// division. The other limits were tried nowhere but at their defaults.
fn each_limit_at_its_edges_is_named_or_the_loop_serves<D: Rig>(seed: u64) {
    let (mut refused, mut served) = (0, 0);
    for edge in edges::each().into_iter().chain(edges::all_at_once()) {
        let checked = edge.limits.check().and_then(|()| edge.limits.check_memory(1));
        match checked {
            Err(said) => {
                assert!(edge.is_named_by(&said), "{} = {}: {said}", edge.field, edge.value);
                refused += 1;
            }
            Ok(()) => {
                serves::<D>(seed, edge);
                served += 1;
            }
        }
    }
    assert!(refused > 50 && served > 150, "{refused} and {served}");
}

/// One client is answered and ends, while the loop does all that it can be asked for; then it drains.
fn serves<D: Rig>(seed: u64, edge: Edge) {
    let mut stage = Stage::<D>::with(seed, |limits| *limits = edge.limits.clone());
    stage.note(format!("{} = {}", edge.field, edge.value));
    stage.event_loop.open_datagrams("127.0.0.1:9000".parse().unwrap()).unwrap();
    let log = stage.log.clone();
    stage.play(move |at| match at {
        At::Open(conn) => {
            let _ = conn.subscribe("a topic");
            conn.notify_sent(1);
        }
        At::Message(here, 1) => {
            here.after(Duration::from_millis(1), 1);
            let _ = here.in_slices(|_: &mut _, _: &mut LoopContext<'_, _>| Slice::Done);
            let _ = here.send_datagram(0, ([10, 0, 0, 1], 7).into(), b"unasked");
            // A dial that does not come up ends by itself.
            let _ = here.dial(somewhere(), log.session(None));
        }
        other => usual(other),
    });
    stage.world.get().dials.push_back(Outcome::Refused);
    let peer = stage.arrive();
    stage.advance(1);
    let _ = stage.handle().post(0, 1);
    stage.world.say(([10, 0, 0, 1], 9).into(), b"one");
    stage.world.say(([10, 0, 0, 1], 9).into(), b"two");
    peer.send(b"x");
    stage.advance(1);
    let _ = stage.handle().broadcast(Broadcast::new("all").to_topic(Bytes::from("a topic")));
    // A rate of a byte a second lets the rest out in time.
    stage.advance(5_000);
    let is_answered = peer.got().starts_with(b"x") || peer.got().ends_with(b"x");
    assert!(is_answered || edge.may_end_before_an_answer(), "{:?}", peer.got());
    peer.finish();
    stage.advance(5_000);
    let closed = stage.record(&peer).closed;
    assert!(
        matches!(closed, Some(CloseReason::PeerEnded | CloseReason::Deadline(_))),
        "{closed:?}"
    );
    let other = stage.arrive();
    stage.advance(1);
    stage.shared.raise(Phase::Drain);
    stage.shared.loops[0].arrivals_ended.store(true, Ordering::Release);
    stage.advance(1_000);
    other.finish();
    stage.advance(5_000);
    stage.stop();
}

/// What is "some more for each message received" is then more than there are numbers for.
fn a_crowd_ends_within_the_largest_numbers_of_a_turn<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| {
        limits.endings_per_turn = usize::MAX;
        limits.dials_per_turn = usize::MAX;
        limits.arrivals_per_turn = usize::MAX;
        limits.timers_per_turn = usize::MAX;
        limits.idle_timeout = Some(Duration::from_millis(100));
    });
    let peers: Vec<_> = (0..52).map(|_| stage.arrive()).collect();
    stage.settle();
    let (speak, fall_silent) = peers.split_at(12);
    // In each millisecond somebody's deadline comes, in the turn in which a dozen others speak.
    for ms in 0..200 {
        // Time passes before they speak: when the loop looks, it finds both.
        stage.world.get().now += 1;
        speak.iter().for_each(|peer| peer.send(b"x"));
        if let Some(peer) = fall_silent.get(ms) {
            peer.send(b"x");
        }
        stage.settle();
    }
    assert!(speak.iter().all(|peer| peer.got() == [b'x'; 200]));
    assert!(fall_silent.iter().all(|peer| peer.saw_fin()));
    peers.iter().for_each(|peer| peer.finish());
    stage.advance(2_000);
    stage.stop();
}

/// The numbers that callbacks give: each is a time, or never.
fn times_at_their_edges_are_times<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let edges = [Duration::ZERO, Duration::from_nanos(1), Duration::MAX];
    stage.play(move |at| match at {
        At::Message(here, n) => {
            let time = edges[n as usize];
            let timer = here.after(time, n);
            let every = here.every(time, 10 + n);
            if n == 2 {
                assert!(here.cancel(timer) && here.cancel(every) && !here.cancel(every));
                here.after(time, n);
            }
            assert_eq!(here.visit_from(u32::MAX, usize::MAX, |_| ()), None);
            assert_eq!(here.visit_from(0, 0, |_| ()), None, "there is nobody");
        }
        At::Timer(here, tag) if tag >= 10 && here.now().as_millis() > 1_020 => here.stop(),
        At::Data(conn, input) => {
            let edge = edges[usize::from(input.take_all()[0] - b'0')];
            conn.set_deadline(Some(edge));
        }
        other => usual(other),
    });
    for n in 0..3 {
        stage.handle().post(0, n).unwrap();
    }
    stage.advance(50);
    let fired = stage.log.get().timers.clone();
    assert!(fired.contains(&0) && fired.contains(&1) && !fired.contains(&2), "{fired:?}");
    assert!(fired.contains(&10) && fired.contains(&11) && !fired.contains(&12));
    stage.stop();

    let mut stage = Stage::<D>::new(seed);
    stage.play(move |at| match at {
        At::Data(conn, input) => {
            let edge = edges[usize::from(input.take_all()[0] - b'0')];
            conn.set_deadline(Some(edge));
        }
        other => usual(other),
    });
    let peers = [stage.open(), stage.open(), stage.open()];
    for (peer, which) in peers.iter().zip([b"0", b"1", b"2"]) {
        peer.send(which);
    }
    stage.advance(100_000);
    assert_eq!(peers.each_ref().map(|peer| peer.saw_fin()), [true, true, false]);
    peers.iter().for_each(|peer| peer.finish());
    stage.advance(2_000);
    stage.stop();
}
