//! Every action inside every callback: nothing is called again too soon, or after on_close, nothing
//! is lost, and others are not disturbed.

use super::actor::{Actor, Session};
use super::{At, Rig, Stage, on_both_rigs, somewhere, usual};
use crate::api::conn::Conn;
use crate::api::loop_context::LoopContext;
use crate::base::close_reason::Callback;
use crate::base::id::ConnId;
use crate::threads::control::Phase;
use bytes::Bytes;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

on_both_rigs! {
    every_action_in_every_callback: 12,
    every_pair_of_actions_in_every_callback: 2,
}

const CALLBACKS: [Callback; 11] = [
    Callback::Open,
    Callback::Data,
    Callback::Writable,
    Callback::End,
    Callback::Deadline,
    Callback::Draining,
    Callback::Heartbeat,
    Callback::Sent,
    Callback::Close,
    Callback::Message,
    Callback::Timer,
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Action {
    Nothing,
    Send,
    SendMuch,
    SendShared,
    Finish,
    Close,
    Reset,
    CloseWhenIdle,
    CloseOther,
    ResetOther,
    SendOther,
    Pause,
    Resume,
    SetDeadline,
    CancelTimer,
    Stop,
    Drain,
    Dial,
}

const ACTIONS: [Action; 18] = [
    Action::Nothing,
    Action::Send,
    Action::SendMuch,
    Action::SendShared,
    Action::Finish,
    Action::Close,
    Action::Reset,
    Action::CloseWhenIdle,
    Action::CloseOther,
    Action::ResetOther,
    Action::SendOther,
    Action::Pause,
    Action::Resume,
    Action::SetDeadline,
    Action::CancelTimer,
    Action::Stop,
    Action::Drain,
    Action::Dial,
];

fn act(conn: &mut Conn<'_, Actor>, other: Option<ConnId>, action: Action) {
    match action {
        Action::Nothing => {}
        Action::Send => drop(conn.send(b"sent").is_taken()),
        Action::SendMuch => drop(conn.send(&[1; 50_000]).is_taken()),
        Action::SendShared => drop(conn.send_shared(Bytes::from(vec![2; 500])).is_taken()),
        Action::Finish => conn.finish(),
        Action::Close => conn.close(),
        Action::Reset => conn.reset(),
        Action::CloseWhenIdle => conn.close_when_idle(),
        Action::Pause => conn.pause(),
        Action::Resume => conn.resume(),
        Action::SetDeadline => conn.set_deadline(Some(Duration::from_millis(3))),
        _ => {
            let session = conn.session().another_if(action == Action::Dial);
            act_here(&mut conn.event_loop(), other, action, session);
        }
    }
}

fn act_here(
    here: &mut LoopContext<'_, Actor>,
    other: Option<ConnId>,
    action: Action,
    session: Option<Session>,
) {
    match action {
        Action::CancelTimer => {
            let timer = here.after(Duration::from_millis(1), 99);
            assert!(here.cancel(timer));
        }
        Action::Stop => here.stop(),
        Action::Drain => here.drain(),
        Action::Dial => {
            if let Some(session) = session {
                let _ = here.dial(somewhere(), session);
            }
        }
        _ => {}
    }
    let Some(mut other) = other.and_then(|id| here.connection(id)) else { return };
    match action {
        Action::CloseOther => other.close(),
        Action::ResetOther => other.reset(),
        Action::SendOther => drop(other.send(b"to another").is_taken()),
        _ => {}
    }
}

/// Two connections and a bystander; `actions` are done in `callback`, each time it comes.
fn run<D: Rig>(seed: u64, callback: Callback, actions: &[Action]) {
    let actions = actions.to_vec();
    let what = format!("{callback:?} × {actions:?}");
    let mut stage = Stage::<D>::with(seed, |limits| {
        limits.idle_timeout = Some(Duration::from_millis(40));
        let beats = (callback == Callback::Heartbeat).then_some(Duration::from_millis(20));
        limits.heartbeat_interval = beats;
    });
    stage.note(what);
    let bystander = stage.open();
    let other = stage.open();
    let other_id = stage.id(&other);
    let times = Rc::new(Cell::new(0));
    let called = Rc::clone(&times);
    let log = stage.log.clone();
    let has_stop = actions.contains(&Action::Stop) || actions.contains(&Action::Drain);
    stage.play(move |at| {
        let of = match &at {
            At::Open(_) => Callback::Open,
            At::Data(..) => Callback::Data,
            At::Room(_) => Callback::Writable,
            At::End(_) => Callback::End,
            At::Deadline(_) => Callback::Deadline,
            At::Draining(_) => Callback::Draining,
            At::Sent(..) => Callback::Sent,
            At::Heartbeat(_) => Callback::Heartbeat,
            At::Close(_) => Callback::Close,
            At::Message(..) => Callback::Message,
            At::Timer(..) => Callback::Timer,
            At::Datagram(_) => return,
        };
        // A dial in on_open or on_close would never end.
        if of != callback || called.replace(called.get() + 1) >= 5 {
            return provoke(at, callback);
        }
        match at {
            At::Datagram(_) => {}
            At::Message(here, _) | At::Timer(here, _) => {
                for action in &actions {
                    let session = (*action == Action::Dial).then(|| log.session(None));
                    act_here(here, Some(other_id), *action, session);
                    let mut ids = Vec::new();
                    here.each(|conn| ids.push(conn.id()));
                    if let Some(mut conn) = ids.last().and_then(|id| here.connection(*id)) {
                        act_but_here(&mut conn, *action);
                    }
                }
            }
            At::Data(conn, input) => {
                for action in &actions {
                    act(conn, Some(other_id), *action);
                }
                let _ = conn.echo(input);
            }
            At::Open(conn)
            | At::Room(conn)
            | At::End(conn)
            | At::Deadline(conn)
            | At::Draining(conn)
            | At::Sent(conn, _)
            | At::Heartbeat(conn)
            | At::Close(conn) => {
                for action in &actions {
                    act(conn, Some(other_id), *action);
                }
            }
        }
    });
    let peer = stage.open();
    if !stage.is_over {
        bring_about(&mut stage, &peer, callback);
    }
    other.send(b"still here?");
    stage.advance(30);
    if stage.shared.asked.phase() != Phase::Run {
        // The acceptor would carry it out.
        assert!(has_stop);
        let asked = stage.shared.asked.phase();
        stage.shared.raise(asked);
    }
    stage.advance(30);
    peer.reads(true);
    peer.finish();
    other.finish();
    bystander.finish();
    stage.advance(3000);
    assert!(times.get() > 0, "it was never called");
    assert!(stage.log.get().records.iter().all(|record| {
        record.calls.iter().filter(|call| **call == Callback::Draining).count() <= 1
    }));
    stage.stop();
}

/// Own actions, of a connection found by its id.
fn act_but_here(conn: &mut Conn<'_, Actor>, action: Action) {
    let is_here = [Action::Stop, Action::Drain, Action::Dial, Action::CancelTimer];
    if !is_here.contains(&action) {
        act(conn, None, action);
    }
}

/// What the callbacks do that are not looked at.
fn provoke(at: At<'_, '_, '_>, callback: Callback) {
    match at {
        At::Data(conn, input) if callback == Callback::Writable => {
            input.take_all();
            let _ = conn.send(&[1; 20_000]);
        }
        At::Data(conn, input) if callback == Callback::Sent => {
            let _ = conn.echo(input);
            conn.notify_sent(7);
        }
        At::Message(here, _) if callback == Callback::Timer => {
            here.after(Duration::from_millis(2), 1);
            here.every(Duration::from_millis(7), 2);
        }
        other => usual(other),
    }
}

fn bring_about<D: Rig>(stage: &mut Stage<D>, peer: &super::Peer, callback: Callback) {
    match callback {
        Callback::Data | Callback::Sent => peer.send(b"data"),
        Callback::Writable => {
            peer.reads(false);
            peer.send(b"much");
            stage.settle();
            peer.reads(true);
        }
        Callback::End => peer.finish(),
        Callback::Deadline => stage.advance(45),
        Callback::Heartbeat => stage.advance(23),
        Callback::Draining => stage.shared.raise(Phase::Drain),
        Callback::Close => peer.reset(),
        Callback::Message | Callback::Timer => stage.handle().post(0, 0).unwrap(),
        _ => {}
    }
}

fn every_action_in_every_callback<D: Rig>(seed: u64) {
    for callback in CALLBACKS {
        for action in ACTIONS {
            run::<D>(seed, callback, &[action]);
        }
    }
}

fn every_pair_of_actions_in_every_callback<D: Rig>(seed: u64) {
    for callback in CALLBACKS {
        for first in ACTIONS {
            for second in ACTIONS {
                run::<D>(seed, callback, &[first, second]);
            }
        }
    }
}
