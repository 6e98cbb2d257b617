//! The whole table of a connection's life: every cell against `docs/LIFE.md`, and what must hold
//! over all of them and over every path through them.

use super::*;
use Callback as C;
use Event as E;
use State as S;

const STATES: [State; 9] = [
    S::Connecting,
    S::Open,
    S::PeerEnded,
    S::Finishing,
    S::Finished,
    S::Closing,
    S::Lingering,
    S::LastBytes,
    S::Dead,
];

const EVENTS: [Event; 17] = [
    E::Connected,
    E::Bytes,
    E::End,
    E::Failed,
    E::Flushed,
    E::Deadline,
    E::Heartbeat,
    E::Overdue,
    E::Finish,
    E::Close,
    E::Reset,
    E::Panicked,
    E::Draining,
    E::Idle,
    E::Stop,
    E::OutputFull,
    E::InputFull,
];

/// What a handler may leave of one connection in one callback, the strongest first.
const WISHES: [Event; 4] = [E::Reset, E::OutputFull, E::Close, E::Finish];

fn cells() -> impl Iterator<Item = (State, Event, bool, Option<Step>)> {
    STATES.into_iter().flat_map(|state| {
        EVENTS.into_iter().flat_map(move |event| {
            [false, true].map(|owed| (state, event, owed, step(state, event, owed)))
        })
    })
}

// --- the table for reading ----------------------------------------------------------------------

const LIFE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/LIFE.md"));

/// A cell as `docs/LIFE.md` writes it.
fn written(from: State, cell: Option<Step>) -> String {
    let Some(Step { to, call, tell }) = cell else { return "-".into() };
    let call = call.map(|call| format!("on_{call:?}").to_lowercase());
    let to = (to != from).then(|| format!("{to:?}"));
    let tell = match tell {
        Tell::Nothing => None,
        Tell::Finish => Some("FIN".to_owned()),
        Tell::Close => Some("close".to_owned()),
        Tell::Reset => Some("RST".to_owned()),
    };
    let parts: Vec<_> = [call, to, tell].into_iter().flatten().collect();
    if parts.is_empty() { "=".into() } else { parts.join(" ") }
}

fn written_in_both_cases(state: State, event: Event) -> String {
    let (owed, else_) = (step(state, event, true), step(state, event, false));
    match (written(state, owed), written(state, else_)) {
        (same, other) if same == other => same,
        (owed, else_) => format!("owed: {owed}; else {else_}"),
    }
}

/// One table of the page: these states side by side, every event below each other.
fn table(states: &[State]) -> String {
    let row = |first: &str, rest: &mut dyn Iterator<Item = String>| {
        format!("| {first} | {} |\n", rest.collect::<Vec<_>>().join(" | "))
    };
    let mut text = row("event", &mut states.iter().map(|state| format!("{state:?}")));
    text += &row("---", &mut states.iter().map(|_| "---".to_owned()));
    for event in EVENTS {
        let cells = &mut states.iter().map(|&state| written_in_both_cases(state, event));
        text += &row(&format!("{event:?}"), cells);
    }
    text
}

/// `name`'s cells of the tables in `page`, by event and state. Blanks and back quotes are ignored.
fn read(page: &str) -> Vec<(String, String, String)> {
    let (mut read, mut states) = (Vec::new(), Vec::new());
    for line in page.lines() {
        let Some(row) = line.trim().strip_prefix('|').and_then(|rest| rest.strip_suffix('|'))
        else {
            states.clear();
            continue;
        };
        let words =
            |cell: &str| cell.replace('`', "").split_whitespace().collect::<Vec<_>>().join(" ");
        let mut cells = row.split('|').map(words);
        let event = cells.next().unwrap_or_default();
        if event == "event" {
            states = cells.collect();
        } else if !states.is_empty() && !event.starts_with("---") {
            for (state, cell) in states.iter().zip(cells) {
                read.push((state.clone(), event.clone(), cell));
            }
        }
    }
    read
}

#[test]
fn every_cell_is_what_the_page_says() {
    let as_it_is = [table(&STATES[..5]), table(&STATES[5..])].join("\n");
    let on_the_page = read(LIFE);
    assert_eq!(
        on_the_page.len(),
        9 * EVENTS.len(),
        "cells in docs/LIFE.md; it should say\n\n{as_it_is}"
    );
    for state in STATES {
        for event in EVENTS {
            let (column, row) = (format!("{state:?}"), format!("{event:?}"));
            let on_the_page: Vec<_> = on_the_page
                .iter()
                .filter(|(state, event, _)| (state, event) == (&column, &row))
                .map(|(.., cell)| cell.as_str())
                .collect();
            let in_the_code = written_in_both_cases(state, event);
            let place = format!("{event:?} in {state:?}; docs/LIFE.md should say\n\n{as_it_is}");
            assert_eq!(on_the_page, [in_the_code.as_str()], "{place}");
        }
    }
}

#[test]
fn a_page_that_says_otherwise_is_noticed() {
    let table = table(&STATES[..5]);
    assert_eq!(read(&table).len(), 5 * EVENTS.len());
    let wrong = table.replace("on_end PeerEnded", "on_end Dead");
    assert_ne!(read(&table), read(&wrong));
    assert_eq!(read("| a | b |\n| 1 | 2 |\n"), [], "other tables are not read");
}

// --- over all cells -----------------------------------------------------------------------------

#[test]
fn dead_stays_dead_and_says_nothing_more() {
    for (_, event, _, cell) in cells().filter(|(state, ..)| *state == S::Dead) {
        if let Some(cell) = cell {
            let nothing = Step { to: S::Dead, call: None, tell: Tell::Nothing };
            assert_eq!(cell, nothing, "{event:?}");
        }
    }
}

#[test]
fn the_driver_is_told_to_end_a_socket_exactly_where_the_life_ends() {
    for (state, event, owed, cell) in cells() {
        let Some(cell) = cell else { continue };
        let ends = state != S::Dead && cell.to == S::Dead;
        let tells = matches!(cell.tell, Tell::Close | Tell::Reset);
        assert_eq!(ends, tells, "{event:?} in {state:?}, owed: {owed}");
    }
}

#[test]
fn nothing_owed_is_thrown_away_by_a_mere_close() {
    for (state, event, _, cell) in cells().filter(|(.., owed, _)| *owed) {
        let Some(Step { tell: Tell::Close, .. }) = cell else { continue };
        // Failed: the peer is gone. Connecting: it was never there. Flushed, Idle and a linger
        // come only when nothing is owed.
        let fine = matches!(event, E::Failed | E::Flushed | E::Idle)
            || matches!(state, S::Connecting | S::Finished | S::Lingering);
        assert!(fine, "{event:?} in {state:?} closes over owed bytes");
    }
}

#[test]
fn bytes_go_to_the_handler_or_away_or_cannot_come() {
    for (state, _, owed, cell) in cells().filter(|(_, event, ..)| *event == E::Bytes) {
        let calls = cell.is_some_and(|cell| cell.call == Some(C::Data));
        let nothing = Some(Step { to: state, call: None, tell: Tell::Nothing });
        assert_eq!(calls, state.delivers(), "{state:?}, owed: {owed}");
        assert_eq!(cell == nothing, state.discards(), "{state:?}, owed: {owed}");
        assert_eq!(cell.is_some(), state.reads(), "{state:?}, owed: {owed}");
        assert!(cell.is_none_or(|cell| cell.to == state && cell.tell == Tell::Nothing));
    }
}

#[test]
fn every_callback_belongs_to_its_event() {
    for (state, event, owed, cell) in cells() {
        let Some(call) = cell.and_then(|cell| cell.call) else { continue };
        let its_event = match call {
            C::Open => E::Connected,
            C::Data => E::Bytes,
            C::End => E::End,
            C::Deadline => E::Deadline,
            C::Heartbeat => E::Heartbeat,
            C::Draining => E::Draining,
            other => panic!("the table calls {other:?}"),
        };
        assert_eq!(event, its_event, "in {state:?}, owed: {owed}");
        assert!(!state.is_closing(), "{event:?} calls a handler that has closed, in {state:?}");
    }
}

#[test]
fn the_questions_about_a_state_agree_with_each_other() {
    for state in STATES {
        assert!(!(state.delivers() && state.discards()), "{state:?}");
        assert!(!(state.is_closing() && state.takes_output()), "{state:?}");
        assert!(!(state.is_closing() && state.delivers()), "{state:?}");
        // What is taken while dialling is sent once the connection is open.
        let keeps_for_later = state == S::Connecting;
        assert!(!state.takes_output() || state.flushes() || keeps_for_later, "{state:?}");
    }
}

// --- over all paths -----------------------------------------------------------------------------

/// A connection on its way through the table, as the loop lets it go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Life {
    state: State,
    owed: bool,
    fin_told: bool,
    ended: u32,
    opened: u32,
}

impl Life {
    /// What the loop can bring to a connection in this state.
    fn may_meet(&self, event: Event) -> bool {
        let Life { state, owed, .. } = *self;
        let is_idle = matches!(state, S::Open | S::PeerEnded | S::Finished) && !owed;
        match event {
            _ if state == S::Dead => false,
            E::Connected => state == S::Connecting,
            E::Bytes | E::End => state.reads(),
            E::Flushed => matches!(state, S::Finishing | S::Closing | S::LastBytes) && owed,
            E::Deadline | E::Heartbeat => !state.is_closing() && state != S::Connecting,
            E::Overdue => state.is_closing() || state == S::Connecting,
            E::InputFull => state.delivers(),
            E::Idle => is_idle,
            E::Failed | E::Panicked | E::Draining | E::Stop => true,
            E::Finish | E::Close | E::Reset | E::OutputFull => true,
        }
    }

    fn after(mut self, event: Event) -> Self {
        let owed = self.owed && event != E::Flushed;
        let cell = step(self.state, event, owed);
        let cell = cell.unwrap_or_else(|| panic!("{event:?} comes to {self:?}: no such cell"));
        if cell.tell == Tell::Finish {
            assert!(!self.fin_told, "a second FIN: {event:?} comes to {self:?}");
            assert!(!owed, "FIN before the last byte: {event:?} comes to {self:?}");
            self.fin_told = true;
        }
        self.ended += u32::from(matches!(cell.tell, Tell::Close | Tell::Reset));
        self.opened += u32::from(cell.call == Some(C::Open));
        assert!(self.ended <= 1 && self.opened <= 1, "twice: {event:?} comes to {self:?}");
        Self { state: cell.to, owed: owed && cell.to != S::Dead, ..self }
    }

    /// Every life one step from here: each event that may come, and bytes taken or flushed
    /// meanwhile.
    fn next(self) -> Vec<Life> {
        let mut next: Vec<_> = EVENTS
            .into_iter()
            .filter(|event| self.may_meet(*event))
            .map(|event| self.after(event))
            .collect();
        if self.state.takes_output() {
            next.extend([Life { owed: true, ..self }, Life { owed: false, ..self }]);
        }
        next
    }
}

/// All that a connection can become.
fn lives() -> Vec<Life> {
    let born = |state| Life { state, owed: false, fin_told: false, ended: 0, opened: 0 };
    let mut found = vec![born(S::Open), born(S::Connecting)];
    let mut at = 0;
    while let Some(&life) = found.get(at) {
        for next in life.next() {
            if !found.contains(&next) {
                found.push(next);
            }
        }
        at += 1;
    }
    found
}

#[test]
fn on_every_path_one_fin_at_most_one_end_exactly_and_no_cell_that_cannot_come() {
    let lives = lives();
    for life in &lives {
        assert_eq!(life.ended, u32::from(life.state == S::Dead), "{life:?}");
        let has_said_fin = matches!(life.state, S::Finished | S::Lingering);
        let has_not = !has_said_fin && life.state != S::Dead;
        assert!(!has_said_fin || life.fin_told, "{life:?}");
        assert!(!has_not || !life.fin_told || life.state == S::LastBytes, "{life:?}");
        // The bytes are what these states wait for.
        let waits = matches!(life.state, S::Finishing | S::Closing | S::LastBytes);
        assert!(!waits || life.owed, "waits for nothing, and only a timeout ends it: {life:?}");
    }
    for state in STATES {
        assert!(lives.iter().any(|life| life.state == state), "nothing leads to {state:?}");
    }
}

#[test]
fn from_every_life_there_is_a_way_to_the_end_that_asks_nothing_of_the_peer() {
    // Stop; and, once closing has begun, its own bound.
    for life in lives().into_iter().filter(|life| life.state != S::Dead) {
        assert_eq!(life.after(E::Stop).state, S::Dead, "{life:?}");
        assert_eq!(life.after(E::Failed).state, S::Dead, "{life:?}");
        assert_eq!(life.after(E::Reset).state, S::Dead, "{life:?}");
        if life.may_meet(E::Overdue) {
            assert_eq!(life.after(E::Overdue).state, S::Dead, "{life:?}");
        }
        if life.may_meet(E::Deadline) {
            // The default `on_deadline` closes, and then a bound on closing runs.
            let closing = life.after(E::Deadline).after(E::Close);
            assert!(closing.state.is_closing() || closing.state == S::Dead, "{life:?}");
        }
    }
}

// --- several things in one callback --------------------------------------------------------------

/// Every pair of wishes, the stronger first, at every place where a callback can leave them.
fn pairs() -> impl Iterator<Item = (State, bool, Event, Event)> {
    let places = STATES.into_iter().filter(|state| *state != S::Dead);
    places.flat_map(|state| [(state, false), (state, true)]).flat_map(|(state, owed)| {
        (0..WISHES.len()).flat_map(move |strong| {
            (strong..WISHES.len()).map(move |weak| (state, owed, WISHES[strong], WISHES[weak]))
        })
    })
}

#[test]
fn after_the_strongest_wish_a_weaker_one_has_nothing_left_to_do() {
    for (state, owed, strong, weak) in pairs() {
        let granted = step(state, strong, owed).expect("a wish can always be carried out");
        let owed = owed && granted.to != S::Dead;
        let Some(again) = step(granted.to, weak, owed) else {
            assert_eq!(granted.to, S::Dead, "{strong:?} and {weak:?} in {state:?}");
            continue;
        };
        let nothing = Step { to: granted.to, call: None, tell: Tell::Nothing };
        assert_eq!(again, nothing, "{strong:?} and {weak:?} in {state:?}, owed: {owed}");
    }
}

#[test]
fn a_weaker_wish_first_does_not_keep_the_strongest_from_its_end() {
    for (state, owed, strong, weak) in pairs() {
        let alone = step(state, strong, owed).expect("a wish can always be carried out").to;
        let first = step(state, weak, owed).expect("a wish can always be carried out").to;
        let both = if first == S::Dead {
            S::Dead // what comes later is not carried out
        } else {
            step(first, strong, owed).expect("a wish can always be carried out").to
        };
        // Only an end may come of it that is stronger still: the peer was never reached, or has
        // ended already and nothing was owed.
        assert!(both == alone || first == S::Dead, "{weak:?}, {strong:?} in {state:?}: {both:?}");
    }
}

#[test]
fn whatever_a_callback_leaves_there_is_a_cell_for_it() {
    let mut callbacks = 0;
    for (state, event, owed, cell) in cells() {
        let Some(cell) = cell.filter(|cell| cell.call.is_some()) else { continue };
        callbacks += 1;
        // It may send, and then wish; or panic, which takes back what it sent and wished.
        for owed_after in [owed, owed || cell.to.takes_output()] {
            for left in WISHES.into_iter().chain([E::Panicked]) {
                let place = format!("{left:?} in on_{:?} from {state:?} ({event:?})", cell.call);
                if cell.to == S::Dead {
                    assert_eq!(cell.tell, Tell::Close, "{place}");
                    assert_eq!(left == E::OutputFull, step(cell.to, left, false).is_none());
                    continue; // an ended connection takes no output, so it meets no cap
                }
                let then = step(cell.to, left, owed_after);
                let then = then.unwrap_or_else(|| panic!("no cell for {place}"));
                assert_eq!(then.call, None, "a callback inside a callback: {place}");
                let is_ending = then.to.is_closing() || then.to == S::Dead;
                assert!(is_ending || left == E::Finish, "{place}: {:?}", then.to);
            }
        }
    }
    assert_eq!(callbacks, 2 * (1 + 3 + 3 + 4 + 2 + 4), "callbacks in the table");
}

#[test]
fn a_panic_closes_exactly_as_the_handler_itself_would() {
    for (state, event, owed, cell) in cells().filter(|(_, event, ..)| *event == E::Panicked) {
        assert_eq!(cell, step(state, E::Close, owed), "{event:?} in {state:?}, owed: {owed}");
    }
}
