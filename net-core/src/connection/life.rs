//! A connection's life as a table: state × event → next state, callback, order to the driver.
//!
//! The table is pure. `docs/LIFE.md` shows the same table for reading; a test holds the two together.
//! Pausing, watermarks and budgets are not here: they delay an event, but change no state.

use crate::base::close_reason::Callback;

/// Where a connection is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum State {
    /// Both directions work. (Zero, because the straight path tests for zero.)
    Open = 0,
    /// Dialled; the kernel has not decided yet.
    Connecting,
    /// The peer's FIN was read; we may still send.
    PeerEnded,
    /// `finish` was called and bytes are owed; the FIN follows them. Still reading.
    Finishing,
    /// Our FIN is sent. Still reading.
    Finished,
    /// `close` was called and bytes are owed; the FIN follows them. Input is thrown away.
    Closing,
    /// Our FIN is sent; input is thrown away until the peer's FIN or the linger bound.
    Lingering,
    /// The peer has ended and so have we; the last owed bytes are on their way.
    LastBytes,
    /// Over. `on_close` comes, and then the slot is free.
    Dead,
}

/// What happens to a connection, or what its handler asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Event {
    /// The dialled connection is up.
    Connected,
    /// Bytes were received.
    Bytes,
    /// The peer's FIN was read.
    End,
    /// The kernel reported an error.
    Failed,
    /// The last owed byte was given to the kernel.
    Flushed,
    /// The connection's deadline has come (idle, first byte, or its handler's own).
    Deadline,
    /// Nothing has moved for a while, and a heartbeat is due.
    Heartbeat,
    /// A bound on closing has come: write timeout, stuck above the watermark, the longest life, linger
    /// timeout or linger bytes.
    Overdue,
    /// The handler called `finish`.
    Finish,
    /// The handler called `close`.
    Close,
    /// The handler called `reset`.
    Reset,
    /// A callback of this connection panicked.
    Panicked,
    /// The server drains.
    Draining,
    /// The server drains and the connection is idle: nothing owed, nothing unacknowledged.
    Idle,
    /// The server stops now.
    Stop,
    /// Unsent bytes reached the hard cap.
    OutputFull,
    /// Unread bytes reached their limit.
    InputFull,
}

/// What the driver is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tell {
    /// Nothing.
    Nothing,
    /// shutdown(WR): FIN after what is sent.
    Finish,
    /// close(2).
    Close,
    /// close(2) with RST.
    Reset,
}

/// A cell of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Step {
    /// The state from now on.
    pub(crate) to: State,
    /// The callback that is due, before anything else happens.
    pub(crate) call: Option<Callback>,
    /// What the driver is told.
    pub(crate) tell: Tell,
}

impl State {
    /// The state's name, as it is exported.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            State::Open => "open",
            State::Connecting => "connecting",
            State::PeerEnded => "peer_ended",
            State::Finishing => "finishing",
            State::Finished => "finished",
            State::Closing => "closing",
            State::Lingering => "lingering",
            State::LastBytes => "last_bytes",
            State::Dead => "dead",
        }
    }

    /// Received bytes go to the handler.
    #[inline]
    pub(crate) const fn delivers(self) -> bool {
        matches!(self, State::Open | State::Finishing | State::Finished)
    }

    /// Received bytes are thrown away.
    pub(crate) const fn discards(self) -> bool {
        matches!(self, State::Closing | State::Lingering)
    }

    /// The socket is to be read at all.
    #[inline]
    pub(crate) const fn reads(self) -> bool {
        self.delivers() || self.discards()
    }

    /// The handler may send.
    #[inline]
    pub(crate) const fn takes_output(self) -> bool {
        matches!(self, State::Open | State::PeerEnded | State::Connecting)
    }

    /// Bytes already taken are still to be sent.
    pub(crate) const fn flushes(self) -> bool {
        matches!(
            self,
            State::Open | State::PeerEnded | State::Finishing | State::Closing | State::LastBytes
        )
    }

    /// The handler has ended the connection, or it is being ended: only the bounds on closing run.
    pub(crate) const fn is_closing(self) -> bool {
        matches!(self, State::Closing | State::Lingering | State::LastBytes)
    }
}

/// The cell for `event` in `state`. `owed`: unsent bytes are queued.
///
/// `None` is "can't happen": the loop asserts it. The driver is not asked for more after End or Failed, a
/// deadline is replaced when closing begins, and nothing is told to the driver twice.
pub(crate) const fn step(state: State, event: Event, owed: bool) -> Option<Step> {
    use Callback as C;
    use Event as E;
    use State as S;
    const fn to(to: State) -> Option<Step> {
        Some(Step { to, call: None, tell: Tell::Nothing })
    }
    const fn call(to: State, call: Callback) -> Option<Step> {
        Some(Step { to, call: Some(call), tell: Tell::Nothing })
    }
    const fn fin(to: State) -> Option<Step> {
        Some(Step { to, call: None, tell: Tell::Finish })
    }
    const CLOSED: Option<Step> = Some(Step { to: State::Dead, call: None, tell: Tell::Close });
    const RESET: Option<Step> = Some(Step { to: State::Dead, call: None, tell: Tell::Reset });

    match (state, event) {
        // Only wishes of the last callback can still come; they change nothing.
        (S::Dead, E::Finish | E::Close | E::Reset | E::Panicked) => to(S::Dead),
        (S::Dead, _) => None,

        // The same in every other state.
        (_, E::Reset | E::OutputFull) => RESET,
        (S::Lingering, E::Stop) => CLOSED,
        (_, E::Stop) => RESET,
        (_, E::Failed) => CLOSED,

        (S::Connecting, E::Connected) => call(S::Open, C::Open),
        // Nothing was promised to a peer that was never reached.
        (S::Connecting, E::Overdue | E::Close | E::Panicked | E::Draining) => CLOSED,
        // The wish is kept until the connection is up.
        (S::Connecting, E::Finish) => to(S::Connecting),
        (S::Connecting, _) => None,
        (_, E::Connected) => None,

        (S::Open | S::Finishing | S::Finished, E::Bytes) => call(state, C::Data),
        (S::Closing | S::Lingering, E::Bytes) => to(state),
        (S::PeerEnded | S::LastBytes, E::Bytes) => None,

        (S::Open, E::End) => call(S::PeerEnded, C::End),
        (S::Finishing, E::End) => call(S::LastBytes, C::End),
        (S::Finished, E::End) => Some(Step { to: S::Dead, call: Some(C::End), tell: Tell::Close }),
        (S::Closing, E::End) => to(S::LastBytes),
        (S::Lingering, E::End) => CLOSED,
        (S::PeerEnded | S::LastBytes, E::End) => None,

        (S::Open | S::PeerEnded, E::Flushed) => to(state),
        (S::Finishing, E::Flushed) => fin(S::Finished),
        (S::Closing, E::Flushed) => fin(S::Lingering),
        (S::LastBytes, E::Flushed) => CLOSED,
        (S::Finished | S::Lingering, E::Flushed) => None,

        (S::Open | S::PeerEnded | S::Finishing | S::Finished, E::Deadline) => {
            call(state, C::Deadline)
        }
        (S::Closing | S::Lingering | S::LastBytes, E::Deadline) => None,
        (S::Open | S::PeerEnded, E::Heartbeat) => call(state, C::Heartbeat),
        // The connection can send nothing more.
        (S::Finishing | S::Finished, E::Heartbeat) => to(state),
        (S::Closing | S::Lingering | S::LastBytes, E::Heartbeat) => None,
        (S::Lingering, E::Overdue) => CLOSED,
        (S::Closing | S::LastBytes, E::Overdue) => RESET,
        (S::Open | S::PeerEnded | S::Finishing | S::Finished, E::Overdue) => None,

        (S::Open, E::Finish) if owed => to(S::Finishing),
        (S::Open, E::Finish) => fin(S::Finished),
        (S::PeerEnded, E::Finish | E::Close | E::Panicked) if owed => to(S::LastBytes),
        (S::PeerEnded, E::Finish | E::Close | E::Panicked) => CLOSED,
        (_, E::Finish) => to(state),

        (S::Open | S::Finishing, E::Close | E::Panicked | E::InputFull) if owed => to(S::Closing),
        (S::Open, E::Close | E::Panicked | E::InputFull) => fin(S::Lingering),
        // With nothing owed, Flushed ends `Finishing`. The callback that asks runs before that event.
        (S::Finishing, E::Close | E::Panicked | E::InputFull) => fin(S::Lingering),
        (S::Finished, E::Close | E::Panicked | E::InputFull) => to(S::Lingering),
        (S::Closing | S::Lingering | S::LastBytes, E::Close) => to(state),
        // on_end may panic where the state has moved on already.
        (S::LastBytes, E::Panicked) => to(S::LastBytes),
        (S::Closing | S::Lingering, E::Panicked) => to(state),
        (S::PeerEnded | S::Closing | S::Lingering | S::LastBytes, E::InputFull) => None,

        (S::Open | S::PeerEnded | S::Finishing | S::Finished, E::Draining) => {
            call(state, C::Draining)
        }
        (S::Closing | S::Lingering | S::LastBytes, E::Draining) => to(state),
        (S::Open | S::PeerEnded | S::Finished, E::Idle) => CLOSED,
        (S::Finishing | S::Closing | S::Lingering | S::LastBytes, E::Idle) => None,
    }
}

#[cfg(test)]
mod tests;
