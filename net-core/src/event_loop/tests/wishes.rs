//! Several wishes in one turn: each pair in both orders, by every way, wherever a connection may be. Each
//! wish that can be carried out is: the strongest end, and no weaker one, and all else beside it.

use super::actor::{Actor, usual};
use super::{At, Outcome, Peer, Rig, Stage, on_both_rigs, pattern, somewhere};
use crate::api::conn::Conn;
use crate::api::loop_context::LoopContext;
use crate::api::loop_spawner::Task;
use crate::base::close_reason::{Callback, CloseReason};
use crate::base::id::ConnId;
use crate::config::rate::Rate;
use crate::features::dial::Dial;
use crate::threads::mail::Mail;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

on_both_rigs! {
    of_every_two_wishes_both_are_carried_out_where_both_can_be: 4,
    what_was_left_in_input_comes_again_after_finish_and_resume: 20,
    a_limit_that_is_taken_away_beside_a_finish_lets_it_read_on: 20,
    a_pair_that_is_made_beside_a_finish_reads_on: 20,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Wish {
    Send,
    Finish,
    Close,
    Reset,
    CloseWhenIdle,
    Pause,
    Resume,
    SetDeadline,
    NotifySent,
    Busy,
    NotBusy,
}

const WISHES: [Wish; 11] = [
    Wish::Send,
    Wish::Finish,
    Wish::Close,
    Wish::Reset,
    Wish::CloseWhenIdle,
    Wish::Pause,
    Wish::Resume,
    Wish::SetDeadline,
    Wish::NotifySent,
    Wish::Busy,
    Wish::NotBusy,
];

/// Where the connection is when it is wished something of.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Start {
    /// It is paused, and its handler has left what came.
    Paused,
    /// The same, and its handler has finished it.
    PausedAndFinished,
    /// The same as `Paused`, and more is unsent than the kernel takes.
    PausedAndOwing,
    /// Its peer has ended.
    HalfClosed,
    Connecting,
}

const STARTS: [Start; 5] = [
    Start::Paused,
    Start::PausedAndFinished,
    Start::PausedAndOwing,
    Start::HalfClosed,
    Start::Connecting,
];

/// Who wishes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// A callback of the connection.
    Own,
    /// A callback of the loop.
    Other,
    /// First the loop's, then the connection's, in one turn.
    Both,
    /// A thread, for what a `ServerHandle` can; and each wish by a mail of its own.
    Mail,
}

const WAYS: [Way; 4] = [Way::Own, Way::Other, Way::Both, Way::Mail];

const OWED: usize = 30_000;

fn wish(conn: &mut Conn<'_, Actor>, wish: Wish) {
    match wish {
        Wish::Send => _ = conn.send(b"sent"),
        Wish::Finish => conn.finish(),
        Wish::Close => conn.close(),
        Wish::Reset => conn.reset(),
        Wish::CloseWhenIdle => conn.close_when_idle(),
        Wish::Pause => conn.pause(),
        Wish::Resume => conn.resume(),
        Wish::SetDeadline => conn.set_deadline(Some(Duration::from_millis(100))),
        Wish::NotifySent => conn.notify_sent(7),
        Wish::Busy => conn.set_busy(true),
        Wish::NotBusy => conn.set_busy(false),
    }
}

/// A callback of the connection, as with a pool's answer.
fn by_itself(id: ConnId, wishes: Vec<Wish>) -> Mail<u64> {
    let all = move |conn: &mut Conn<'_, Actor>| wishes.into_iter().for_each(|it| wish(conn, it));
    Mail::Task(Box::new(Task::OfConnection(id, Box::new(all))))
}

fn by_another(id: ConnId, wishes: Vec<Wish>) -> Mail<u64> {
    let all = move |_: &mut Actor, here: &mut LoopContext<'_, Actor>| {
        let mut conn = here.connection(id).unwrap();
        wishes.into_iter().for_each(|it| wish(&mut conn, it));
    };
    Mail::Task(Box::new(Task::OfLoop(Box::new(all))))
}

fn mail<D: Rig>(stage: &Stage<D>, id: ConnId, way: Way, wishes: [Wish; 2]) {
    let handle = stage.handle();
    let post = |mail| assert!(handle.mail(0, mail).is_ok());
    match way {
        Way::Own => post(by_itself(id, wishes.to_vec())),
        Way::Other => post(by_another(id, wishes.to_vec())),
        Way::Both => {
            post(by_another(id, vec![wishes[0]]));
            post(by_itself(id, vec![wishes[1]]));
        }
        Way::Mail => wishes.into_iter().for_each(|wish| match wish {
            Wish::Close => handle.close(id).unwrap(),
            Wish::Send => handle.send(id, b"sent".to_vec()).unwrap(),
            other => post(by_another(id, vec![other])),
        }),
    }
}

/// What must have come of it when all is done.
struct Expected {
    /// Why it is over. `None`: it lives.
    closed: Option<CloseReason>,
    /// What the handler has got of the peer.
    heard: &'static str,
    /// What the peer has got.
    said: Vec<u8>,
    fin: bool,
    deadline: bool,
    told: bool,
}

fn expected(start: Start, wishes: [Wish; 2]) -> Expected {
    let has = |wish| wishes.contains(&wish);
    let ends = [Wish::Finish, Wish::Close, Wish::Reset];
    let before_an_end = wishes.into_iter().take_while(|wish| !ends.contains(wish));
    let sends = before_an_end.filter(|wish| *wish == Wish::Send).count();
    let sent = b"sent".repeat(if start == Start::PausedAndFinished { 0 } else { sends });
    let is_cut = has(Wish::Reset) || has(Wish::Close);
    let last = |on: &[Wish], before: bool, yes: Wish| {
        let last = wishes.into_iter().rfind(|wish| on.contains(wish));
        last.map_or(before, |wish| wish == yes)
    };
    let is_paused = last(&[Wish::Pause, Wish::Resume], start != Start::Connecting, Wish::Pause);
    let is_busy = last(&[Wish::Busy, Wish::NotBusy], false, Wish::Busy);
    if start == Start::HalfClosed {
        // Nothing is left to read, and every end is the last.
        let is_over = is_cut || has(Wish::Finish) || (has(Wish::CloseWhenIdle) && !is_busy);
        return Expected {
            closed: is_over.then_some(CloseReason::PeerEnded),
            heard: "question",
            said: sent,
            fin: is_over,
            deadline: has(Wish::SetDeadline) && !is_over,
            told: has(Wish::NotifySent) && !is_cut,
        };
    }
    let was_finished = start == Start::PausedAndFinished;
    let is_let_go = has(Wish::CloseWhenIdle) && !is_paused && !is_busy && !is_cut;
    let is_finished = has(Wish::Finish) || was_finished;
    let mut said = if start == Start::PausedAndOwing { pattern(0, OWED) } else { Vec::new() };
    said.extend(sent);
    if start == Start::Connecting && is_cut {
        said.clear(); // nobody was reached
    }
    let heard = match start {
        _ if is_cut || is_paused => "",
        Start::Connecting if is_let_go => "",
        Start::Connecting => "more",
        _ if is_let_go => "question",
        _ => "questionmore",
    };
    let closed = match () {
        () if is_cut || is_let_go => Some(CloseReason::Local),
        () if is_paused => None,
        () if is_finished => Some(CloseReason::Local),
        () if is_busy => None, // the end waits for what is owed
        () => Some(CloseReason::PeerEnded),
    };
    let fin = is_finished || closed.is_some();
    let lives = !is_cut && !is_let_go;
    Expected {
        closed,
        heard,
        said,
        fin: fin && !(start == Start::Connecting && is_cut),
        deadline: has(Wish::SetDeadline) && lives,
        told: has(Wish::NotifySent) && !is_cut,
    }
}

fn of_every_two_wishes_both_are_carried_out_where_both_can_be<D: Rig>(seed: u64) {
    let way = WAYS[seed as usize % WAYS.len()];
    for start in STARTS {
        for first in WISHES {
            for second in WISHES {
                run::<D>(seed, start, way, [first, second]);
            }
        }
    }
}

fn run<D: Rig>(seed: u64, start: Start, way: Way, wishes: [Wish; 2]) {
    let mut stage = Stage::<D>::new(seed);
    stage.note(format!("{start:?}, by {way:?}: {wishes:?}"));
    let heard = Rc::new(RefCell::new(Vec::new()));
    let leaves = Rc::new(Cell::new(start != Start::HalfClosed));
    stage.play({
        let (heard, leaves) = (Rc::clone(&heard), Rc::clone(&leaves));
        move |at| match at {
            At::Data(conn, _) if leaves.get() => {
                if start == Start::PausedAndOwing {
                    assert!(conn.send(&pattern(0, OWED)).is_taken());
                }
                conn.pause();
                if start == Start::PausedAndFinished {
                    conn.finish();
                }
            }
            At::Data(_, input) => heard.borrow_mut().extend_from_slice(input.take_all()),
            At::End(_) if start == Start::HalfClosed => {}
            At::Deadline(_) => {}
            other => usual(other),
        }
    });
    let (peer, id) = if start == Start::Connecting { dial(&mut stage) } else { open(&mut stage) };
    if start == Start::HalfClosed {
        peer.finish();
        stage.settle();
    }
    leaves.set(false);
    mail(&stage, id, way, wishes);
    stage.settle();
    peer.reads(true);
    stage.advance(50); // it is up
    if start != Start::HalfClosed {
        peer.send(b"more");
    }
    stage.advance(200); // its own deadline has come
    peer.finish();
    stage.advance(5000); // it has lingered
    let expected = expected(start, wishes);
    let record = stage.log_of(id).expect("it was called");
    let heard = String::from_utf8(heard.borrow().clone()).unwrap();
    assert_eq!(record.closed, expected.closed, "{:?}", record.calls);
    assert_eq!(heard, expected.heard, "{:?}", record.calls);
    if wishes.contains(&Wish::Reset) {
        assert!(peer.saw_reset() || start == Start::Connecting);
    } else {
        assert!(peer.got() == expected.said, "the peer has got {} bytes", peer.got().len());
        assert_eq!(peer.saw_fin(), expected.fin, "FIN");
    }
    let came = |callback| record.calls.iter().filter(|call| **call == callback).count();
    assert_eq!(came(Callback::Deadline), usize::from(expected.deadline), "on_deadline");
    let asked = wishes.iter().filter(|wish| **wish == Wish::NotifySent).count();
    assert_eq!(came(Callback::Sent), if expected.told { asked } else { 0 }, "on_sent");
    stage.stop();
}

/// A connection whose handler has left "question".
fn open<D: Rig>(stage: &mut Stage<D>) -> (Peer, ConnId) {
    let peer = stage.open();
    peer.reads(false);
    // In one piece: what comes behind a pause stays in the kernel.
    stage.world.get().faults.short_sends = false;
    peer.send(b"question");
    stage.settle();
    let id = stage.id(&peer);
    (peer, id)
}

/// A connection that will be up in 20 ms.
fn dial<D: Rig>(stage: &mut Stage<D>) -> (Peer, ConnId) {
    let up_at = stage.world.get().now + 20;
    stage.world.get().dials.push_back(Outcome::UpAt(up_at));
    let session = stage.log.session(None);
    let id =
        LoopContext::<Actor>::new(&mut stage.event_loop.state).dial(Dial::to(somewhere()), session);
    let id = id.unwrap();
    stage.settle();
    let wire = stage.world.get().wires.len() - 1;
    (stage.world.peer(wire), id)
}

/// What a worker has waited for is there: its handler finishes and resumes. The resume was forgotten, and
/// what it had left never came; when the peer ended, it was lost as if it had never been there.
fn what_was_left_in_input_comes_again_after_finish_and_resume<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let heard = Rc::new(RefCell::new(Vec::new()));
    let peer = stage.open();
    let id = stage.id(&peer);
    stage.play({
        let (heard, mut waits) = (Rc::clone(&heard), true);
        move |at| match at {
            At::Data(conn, _) if waits => conn.pause(),
            At::Data(_, input) => heard.borrow_mut().extend_from_slice(input.take_all()),
            At::Message(here, _) => {
                waits = false;
                let mut conn = here.connection(id).unwrap();
                let _ = conn.send(b"bye");
                conn.finish();
                conn.resume();
            }
            other => usual(other),
        }
    });
    peer.send(b"question");
    stage.settle();
    peer.finish();
    stage.settle();
    stage.handle().post(0, 1).unwrap();
    stage.advance(60_000);
    assert_eq!(*heard.borrow(), b"question");
    assert_eq!(peer.got(), b"bye");
    assert_eq!(stage.record(&peer).closed, Some(CloseReason::Local));
    stage.stop();
}

/// The same cause: what a rate limit has held back goes on as by a resume when the limit is taken away.
fn a_limit_that_is_taken_away_beside_a_finish_lets_it_read_on<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let peer = stage.open();
    let id = stage.id(&peer);
    stage.play(move |at| match at {
        At::Data(_, input) => drop(input.take_all()),
        At::Message(here, n) => {
            let mut conn = here.connection(id).unwrap();
            // The FIN is no help: it has gone before.
            conn.finish();
            conn.limit_receive((n == 0).then_some(Rate::per_second(1)));
        }
        other => usual(other),
    });
    stage.handle().post(0, 0).unwrap();
    stage.settle();
    peer.send(&pattern(0, 3000));
    stage.settle();
    assert!(stage.record(&peer).data_bytes < 10);
    stage.handle().post(0, 1).unwrap();
    stage.settle();
    assert_eq!(stage.record(&peer).data_bytes, 3000);
    stage.stop();
}

/// And what it was held back for by its own unread output, when it becomes one of a pair.
fn a_pair_that_is_made_beside_a_finish_reads_on<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let (peer, other) = (stage.open(), stage.open());
    let (id, other_id) = (stage.id(&peer), stage.id(&other));
    stage.play(move |at| match at {
        At::Data(conn, input) => {
            input.take_all();
            if conn.unsent() == 0 {
                let _ = conn.send(&pattern(0, 100_000));
            }
        }
        At::Message(here, _) => {
            let mut conn = here.connection(id).unwrap();
            assert!(conn.pair_with(other_id));
            conn.finish();
        }
        other => usual(other),
    });
    peer.reads(false);
    peer.send(b"x");
    stage.settle();
    peer.send(&pattern(0, 500));
    stage.settle();
    let before = stage.record(&peer).data_bytes;
    assert!(before < 501, "it is held back");
    stage.handle().post(0, 1).unwrap();
    stage.settle();
    assert_eq!(stage.record(&peer).data_bytes, 501);
    stage.stop();
}
