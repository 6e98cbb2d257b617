//! Timed callbacks: whose time it was, by connection and by callback. On virtual time.

use super::{At, Rig, Stage, on_both_rigs, usual};
use crate::base::close_reason::Callback;
use crate::observe::connection_query::{By, PendingQuery, Query, QueryResult, Row};
use crate::threads::mail::Mail;
use std::sync::Arc;

on_both_rigs! {
    who_takes_the_most_is_first_and_a_neighbour_pays_nothing: 20,
    who_asks_in_the_same_turn_sees_it_too: 20,
    where_nobody_looks_nothing_is_kept: 5,
    what_waits_on_a_connection_is_told_to_the_byte: 5,
}

/// A stage on which each byte of a message takes a millisecond of its callback.
fn stage<D: Rig>(seed: u64, is_timed: bool) -> Stage<D> {
    let mut stage = Stage::<D>::with(seed, |limits| limits.time_callbacks = is_timed);
    let world = stage.world.clone();
    stage.play(move |at| match at {
        At::Data(conn, input) => {
            world.get().now += input.len() as u64;
            let _ = conn.echo(input);
        }
        other => usual(other),
    });
    stage
}

fn top<D: Rig>(stage: &mut Stage<D>) -> Vec<Row> {
    let asked = PendingQuery::new(Query::Top { by: By::Cpu, most: 10 });
    let inbox = &stage.shared.loops[0];
    inbox.mail.post(Mail::Ask(Arc::clone(&asked))).map_err(|_| "full").unwrap();
    inbox.waker.wake();
    stage.settle();
    match asked.take() {
        Some(QueryResult::Top(rows)) => rows,
        other => panic!("{other:?}"),
    }
}

fn who_takes_the_most_is_first_and_a_neighbour_pays_nothing<D: Rig>(seed: u64) {
    let mut stage = stage::<D>(seed, true);
    let (some, most, none) = (stage.open(), stage.open(), stage.open());
    for _ in 0..3 {
        some.send(b"1234");
        most.send(b"0123456789");
        stage.settle();
    }
    let rows = top(&mut stage);
    let times: Vec<_> = rows.iter().map(|row| (row.id, row.nanos)).collect();
    let [some, most, none] = [&some, &most, &none].map(|peer| stage.id(peer));
    assert_eq!(times, [(most, Some(30_000_000)), (some, Some(12_000_000)), (none, Some(0))]);
    let taken =
        |label| stage.shared.loops[0].activity.times().find(|(of, _)| *of == label).unwrap().1;
    assert_eq!(taken(Callback::Data.label()), 0.042);
    assert_eq!(taken(Callback::Open.label()), 0.0);
    stage.stop();
}

fn who_asks_in_the_same_turn_sees_it_too<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.time_callbacks = true);
    let asked = PendingQuery::new(Query::Top { by: By::Cpu, most: 1 });
    let (world, shared, ours) =
        (stage.world.clone(), Arc::clone(&stage.shared), Arc::clone(&asked));
    stage.play(move |at| match at {
        At::Data(_, input) => {
            input.take_all();
            world.get().now += 4;
            shared.loops[0].mail.post(Mail::Ask(Arc::clone(&ours))).map_err(|_| "full").unwrap();
        }
        other => usual(other),
    });
    let peer = stage.open();
    peer.send(b"!");
    stage.settle();
    let Some(QueryResult::Top(rows)) = asked.take() else { panic!("no answer") };
    assert_eq!(rows[0].nanos, Some(4_000_000));
    stage.stop();
}

fn where_nobody_looks_nothing_is_kept<D: Rig>(seed: u64) {
    let mut stage = stage::<D>(seed, false);
    let peer = stage.open();
    peer.send(b"1234");
    stage.settle();
    assert!(stage.shared.loops[0].activity.times().all(|(_, seconds)| seconds == 0.0));
    assert!(stage.event_loop.cpu_accounting.is_none());
    stage.stop();
}

/// What a connection shows as waiting is what it holds. It was one byte more if the connection had a box for
/// something else and its input was all taken.
fn what_waits_on_a_connection_is_told_to_the_byte<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.time_callbacks = true);
    stage.play(|at| match at {
        At::Open(conn) => conn.set_deadline(Some(std::time::Duration::from_secs(60))),
        At::Data(_, input) => _ = input.take_line(),
        other => usual(other),
    });
    let (none, some) = (stage.open(), stage.open());
    none.send(b"all of it\n");
    some.send(b"one line\nand five");
    stage.settle();
    let rows = top(&mut stage);
    let waits = |peer| rows.iter().find(|row| row.id == stage.id(peer)).map(|row| row.unread);
    assert_eq!((waits(&none), waits(&some)), (Some(0), Some(8)));
    stage.stop();
}
