//! Work on a loop that is too long for one turn, done in slices: between two of them the loop serves
//! everybody else.

use crate::api::conn::Conn;
use crate::api::handler::Handler;
use crate::api::here::Loop;
use crate::base::id::ConnId;
use std::any::Any;
use std::fmt;

/// What a slice of a job says at its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Slice {
    /// There is more to do: call again.
    More,
    /// That was the last one.
    Done,
}

/// As many jobs as may be are under way on this loop. The one that was not taken is inside.
pub struct JobsFull<J>(pub J);

impl<J> fmt::Debug for JobsFull<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JobsFull")
    }
}

impl<J> fmt::Display for JobsFull<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("as many jobs as may be are under way on this loop")
    }
}

impl<J> std::error::Error for JobsFull<J> {}

type OfLoop<H> = dyn FnMut(&mut H, &mut Loop<'_, H>) -> Slice;
type OfConnection<H> = dyn FnMut(&mut H, &mut Conn<'_, H>) -> Slice;

/// A job under way. The loop's state holds it as `Any`, since it does not know the handler.
pub(crate) enum Job<H: Handler> {
    OfLoop(Box<OfLoop<H>>),
    OfConnection(ConnId, Box<OfConnection<H>>),
}

impl<H: Handler> Job<H> {
    /// A job that a loop of this handler has kept.
    pub(crate) fn from_any(any: Box<dyn Any>) -> Self {
        *any.downcast().expect("a loop's jobs are of its handler")
    }
}

impl<H: Handler> Loop<'_, H> {
    /// Begins a job on this loop: `job` is called with the handler, from the next step of this turn on,
    /// until it says [`Slice::Done`].
    ///
    /// All jobs of a loop together get [`slice_time_per_turn`](crate::Limits::slice_time_per_turn) in
    /// each turn, one slice each in rotation, and always at least one; so others wait for that time and
    /// one slice. Make a slice some 50 µs: one that takes longer is a stall like any callback's. A loop
    /// with jobs does not sleep.
    ///
    /// A panic costs the job alone. A drain waits for the job to be done; at the drain's deadline, or at
    /// a stop, it is dropped and counted ([`Counter::JobsDropped`](crate::Counter::JobsDropped)).
    ///
    /// An error: [`jobs_max`](crate::Limits::jobs_max) are under way, the one that runs not counted; the
    /// job comes back.
    pub fn in_slices<J>(&mut self, job: J) -> Result<(), JobsFull<J>>
    where
        J: FnMut(&mut H, &mut Loop<'_, H>) -> Slice + 'static,
    {
        self.begin_job(job, |job| Job::OfLoop(Box::new(job)))
    }

    fn begin_job<J>(&mut self, job: J, boxed: impl FnOnce(J) -> Job<H>) -> Result<(), JobsFull<J>> {
        let state = self.state();
        if state.jobs.len() >= state.limits.jobs_max {
            return Err(JobsFull(job));
        }
        state.jobs.push_back(Box::new(boxed(job)));
        Ok(())
    }
}

impl<H: Handler> Conn<'_, H> {
    /// Begins a job for this connection: as [`Loop::in_slices`], and each slice is a callback of the
    /// connection. It may send, which is under way before the next slice.
    ///
    /// It ends with its connection: then it is dropped unfinished, and counted
    /// ([`Counter::JobsDropped`](crate::Counter::JobsDropped)). A panic closes the connection.
    ///
    /// While it is under way the connection is [busy](Conn::busy): a drain waits for it, and a peer that
    /// sends no more is not [finished](Conn::finish_when_done) before it has its answer. Deadlines go on.
    ///
    /// ```
    /// use net_core::{Conn, Handler, Input, Peer, Slice};
    ///
    /// struct Sums;
    ///
    /// impl Handler for Sums {
    ///     type Session = ();
    ///     type Message = ();
    ///
    ///     fn admit(&mut self, _peer: &Peer) -> Option<()> {
    ///         Some(())
    ///     }
    ///
    ///     /// Adds up the numbers below a million times the byte, ten thousand in a slice.
    ///     fn on_data(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
    ///         let Some(&byte) = input.take_all().first() else { return };
    ///         let mut numbers = 0..u64::from(byte) * 1_000_000;
    ///         let mut sum = 0;
    ///         let begun = conn.in_slices(move |_: &mut Self, conn: &mut Conn<'_, Self>| {
    ///             sum += numbers.by_ref().take(10_000).sum::<u64>();
    ///             if !numbers.is_empty() {
    ///                 return Slice::More;
    ///             }
    ///             conn.send(format!("{sum}\n").as_bytes());
    ///             Slice::Done
    ///         });
    ///         if begun.is_err() {
    ///             conn.send(b"too busy\n");
    ///         }
    ///     }
    /// }
    /// ```
    pub fn in_slices<J>(&mut self, job: J) -> Result<(), JobsFull<J>>
    where
        J: FnMut(&mut H, &mut Conn<'_, H>) -> Slice + 'static,
    {
        let id = self.id();
        let mut here = self.here();
        here.begin_job(job, |job| Job::OfConnection(id, Box::new(job)))?;
        here.state().job_begun(id);
        Ok(())
    }
}
