//! `Actor`: a handler that plays what a test wrote, and notes whether it was called as promised.

use crate::api::conn::Conn;
use crate::api::handler::{Handler, PanicAction, Peer};
use crate::api::loop_context::LoopContext;
use crate::base::close_reason::{Callback, CloseReason};
use crate::base::id::ConnId;
use crate::features::datagram::Datagram;
use net_buffer::Input;
use std::cell::{RefCell, RefMut};
use std::rc::Rc;

/// One callback, as a play sees it.
pub(super) enum At<'a, 'c, 'i> {
    Open(&'a mut Conn<'c, Actor>),
    Data(&'a mut Conn<'c, Actor>, &'a mut Input<'i>),
    Room(&'a mut Conn<'c, Actor>),
    End(&'a mut Conn<'c, Actor>),
    Deadline(&'a mut Conn<'c, Actor>),
    Sent(&'a mut Conn<'c, Actor>, u64),
    Draining(&'a mut Conn<'c, Actor>),
    Heartbeat(&'a mut Conn<'c, Actor>),
    Close(&'a mut Conn<'c, Actor>),
    Message(&'a mut LoopContext<'c, Actor>, u64),
    Timer(&'a mut LoopContext<'c, Actor>, u64),
    Datagram(Datagram<'a>),
}

pub(super) type Play = Box<dyn FnMut(At<'_, '_, '_>)>;

/// What a callback does that a test has no word about: it echoes.
pub(super) fn usual(at: At<'_, '_, '_>) {
    match at {
        At::Data(conn, input) => {
            let _ = conn.echo(input);
        }
        At::Datagram(mut datagram) => {
            let _ = datagram.reply(datagram.bytes());
        }
        At::End(conn) => conn.finish_when_done(),
        At::Deadline(conn) => conn.close(),
        At::Draining(conn) => conn.close_when_idle(),
        _ => {}
    }
}

/// What is remembered of one session.
#[derive(Clone, Debug, Default)]
pub(super) struct Record {
    /// The wire it came by; `None` for one that was dialled.
    pub(super) wire: Option<usize>,
    pub(super) id: Option<ConnId>,
    pub(super) calls: Vec<Callback>,
    pub(super) closed: Option<CloseReason>,
    pub(super) drops: u32,
    pub(super) data_bytes: usize,
}

#[derive(Default)]
pub(super) struct Notes {
    pub(super) records: Vec<Record>,
    pub(super) panics: Vec<Callback>,
    pub(super) messages: Vec<u64>,
    pub(super) timers: Vec<u64>,
    running: Option<Callback>,
    /// Callbacks of this turn so far. Above `calls_max`, unless that is 0, nothing is played.
    pub(super) calls: usize,
    pub(super) calls_max: usize,
    /// Broken promises. Kept, because a panic inside a callback would be caught.
    pub(super) faults: Vec<String>,
    pub(super) refuses: bool,
    pub(super) admit_panics: bool,
    /// The next session whose drop panics.
    pub(super) drop_panics: bool,
    pub(super) stops_after_panic: bool,
}

#[derive(Clone, Default)]
pub(super) struct Log(Rc<RefCell<Notes>>);

impl Log {
    pub(super) fn get(&self) -> RefMut<'_, Notes> {
        self.0.borrow_mut()
    }

    pub(super) fn session(&self, wire: Option<usize>) -> Session {
        let mut notes = self.get();
        notes.records.push(Record { wire, ..Record::default() });
        Session { number: notes.records.len() - 1, log: self.clone() }
    }

    /// What is remembered of the session that came by `wire`.
    pub(super) fn of(&self, wire: usize) -> Record {
        let notes = self.get();
        let found = notes.records.iter().find(|record| record.wire == Some(wire));
        found.cloned().unwrap_or_else(|| panic!("nobody came by wire {wire}"))
    }

    /// This turn has called without end: it is to come to one, so that the test can say so.
    pub(super) fn has_called_without_end(&self) -> bool {
        let notes = self.get();
        notes.calls_max > 0 && notes.calls > notes.calls_max
    }

    fn enter(&self, callback: Callback) -> Running<'_> {
        let mut notes = self.get();
        notes.calls += usize::from(callback != Callback::Datagram);
        if let Some(outer) = notes.running.replace(callback) {
            notes.faults.push(format!("{callback:?} inside {outer:?}"));
        }
        Running(self)
    }

    fn enter_for(&self, conn: &mut Conn<'_, Actor>, callback: Callback) -> Running<'_> {
        let (number, id) = (conn.session().number, conn.id());
        let mut notes = self.get();
        let record = &mut notes.records[number];
        let opened = record.calls.contains(&Callback::Open);
        let mut faults = Vec::new();
        if record.closed.is_some() || record.drops > 0 {
            faults.push(format!("{callback:?} after on_close, {id}"));
        }
        if callback == Callback::Open && opened {
            faults.push(format!("a second on_open, {id}"));
        }
        if !matches!(callback, Callback::Open | Callback::Close) && !opened {
            faults.push(format!("{callback:?} before on_open, {id}"));
        }
        if record.id.replace(id).is_some_and(|before| before != id) {
            faults.push(format!("session {number} has another id, {id}"));
        }
        record.calls.push(callback);
        notes.faults.extend(faults);
        drop(notes);
        self.enter(callback)
    }
}

struct Running<'a>(&'a Log);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.get().running = None;
    }
}

pub(super) struct Session {
    pub(super) number: usize,
    log: Log,
}

impl Session {
    /// A session for a connection that is to be dialled.
    pub(super) fn another(&self) -> Session {
        self.log.session(None)
    }

    pub(super) fn another_if(&self, is_wanted: bool) -> Option<Session> {
        is_wanted.then(|| self.another())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut notes = self.log.get();
        notes.records[self.number].drops += 1;
        if std::mem::take(&mut notes.drop_panics) {
            drop(notes);
            super::fail();
        }
    }
}

pub(super) struct Actor {
    pub(super) log: Log,
    pub(super) play: Play,
}

/// Wire number in a peer's address: see the world's accept, and the stage's arrivals.
fn wire_of(peer: &Peer) -> Option<usize> {
    if let Some(name) = peer.addr().unix() {
        return std::str::from_utf8(name.abstract_name()?).ok()?.parse().ok();
    }
    let std::net::SocketAddr::V4(v4) = peer.addr().inet()? else { return None };
    Some((u32::from(*v4.ip()) & 0x00FF_FFFF) as usize)
}

impl Handler for Actor {
    type Session = Session;
    type Message = u64;

    fn admit(&mut self, peer: &Peer) -> Option<Session> {
        let _running = self.log.enter(Callback::Admit);
        if std::mem::take(&mut self.log.get().admit_panics) {
            super::fail();
        }
        let refuses = self.log.get().refuses;
        (!refuses).then(|| self.log.session(wire_of(peer)))
    }

    fn on_data(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
        let _running = self.log.enter_for(conn, Callback::Data);
        let before = input.taken();
        (self.play)(At::Data(conn, input));
        let number = conn.session().number;
        self.log.get().records[number].data_bytes += input.taken() - before;
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) {
        let _running = self.log.enter_for(conn, Callback::Open);
        (self.play)(At::Open(conn));
    }

    fn on_writable(&mut self, conn: &mut Conn<'_, Self>) {
        let _running = self.log.enter_for(conn, Callback::Writable);
        (self.play)(At::Room(conn));
    }

    fn on_end(&mut self, conn: &mut Conn<'_, Self>) {
        let _running = self.log.enter_for(conn, Callback::End);
        (self.play)(At::End(conn));
    }

    fn on_deadline(&mut self, conn: &mut Conn<'_, Self>) {
        let _running = self.log.enter_for(conn, Callback::Deadline);
        (self.play)(At::Deadline(conn));
    }

    fn on_draining(&mut self, conn: &mut Conn<'_, Self>) {
        let _running = self.log.enter_for(conn, Callback::Draining);
        (self.play)(At::Draining(conn));
    }

    fn on_sent(&mut self, conn: &mut Conn<'_, Self>, tag: u64) {
        let _running = self.log.enter_for(conn, Callback::Sent);
        (self.play)(At::Sent(conn, tag));
    }

    fn on_heartbeat(&mut self, conn: &mut Conn<'_, Self>) {
        let _running = self.log.enter_for(conn, Callback::Heartbeat);
        (self.play)(At::Heartbeat(conn));
    }

    fn on_close(&mut self, conn: &mut Conn<'_, Self>, why: &CloseReason) {
        let _running = self.log.enter_for(conn, Callback::Close);
        let number = conn.session().number;
        self.log.get().records[number].closed = Some(*why);
        (self.play)(At::Close(conn));
    }

    fn on_message(&mut self, here: &mut LoopContext<'_, Self>, message: u64) {
        let _running = self.log.enter(Callback::Message);
        self.log.get().messages.push(message);
        (self.play)(At::Message(here, message));
    }

    fn on_timer(&mut self, here: &mut LoopContext<'_, Self>, tag: u64) {
        let _running = self.log.enter(Callback::Timer);
        self.log.get().timers.push(tag);
        (self.play)(At::Timer(here, tag));
    }

    fn on_datagram(&mut self, _here: &mut LoopContext<'_, Self>, datagram: Datagram<'_>) {
        let _running = self.log.enter(Callback::Datagram);
        (self.play)(At::Datagram(datagram));
    }

    fn on_panic(&mut self, place: Callback) -> PanicAction {
        let mut notes = self.log.get();
        notes.panics.push(place);
        if notes.stops_after_panic { PanicAction::StopServer } else { PanicAction::Running }
    }
}
