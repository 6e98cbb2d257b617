//! The pages about loops and connections, as JSON. Pure.

use super::json::{Object, array, string};
use super::watched::Watched;
use crate::observe::connection_query::{By, Row};
use crate::observe::counters::Counter;
use crate::observe::loop_activity::Beat;
use net_timer::Tick;

/// The media type of these pages.
pub(super) const KIND: &str = "application/json";

/// Every loop: its levels, and what it does now. The latter only if stalls are looked for.
pub(super) fn loops(server: &dyn Watched, now: Tick) -> String {
    let page = array((0..server.loops()).map(|number| {
        let (counts, waiting) = server.of_loop(number);
        let doing = server.doing(number).map(|beat| doing(beat, now));
        Object::new()
            .plain("loop", number)
            .plain("connections", counts.get(Counter::Open))
            .plain("bytes_in", counts.get(Counter::BytesIn))
            .plain("bytes_out", counts.get(Counter::BytesOut))
            .plain("turns", counts.get(Counter::Turns))
            .plain("mailbox_depth", waiting.mail)
            .plain("arrivals_depth", waiting.arrivals)
            .maybe("doing", doing)
            .end()
    }));
    page + "\n"
}

fn doing(beat: Beat, now: Tick) -> String {
    let text = |text: String| string(&text);
    Object::new()
        .plain("turn_ms", now.saturating_since(beat.began))
        .maybe("callback", beat.callback.map(|callback| string(callback.label())))
        .maybe("connection", beat.connection.map(|id| text(id.to_string())))
        .end()
}

/// The connections, and the loops that did not report theirs in time.
pub(super) fn connections(rows: &[Row], by: By, silent: &[usize]) -> String {
    let rows = array(rows.iter().map(|row| {
        Object::new()
            .text("id", &row.id.to_string())
            .maybe("peer", row.peer.as_ref().map(|peer| string(&peer.to_string())))
            .text("state", row.state)
            .plain("unsent", row.unsent)
            .plain("unread", row.unread)
            .maybe("received", row.moved.map(|moved| moved.received))
            .maybe("acknowledged", row.moved.map(|moved| moved.acknowledged))
            .maybe("cpu_seconds", row.nanos.map(|nanos| nanos as f64 / 1e9))
            .end()
    }));
    let page = Object::new()
        .text("by", by.label())
        .plain("silent_loops", array(silent.iter()))
        .plain("connections", rows);
    page.end() + "\n"
}
