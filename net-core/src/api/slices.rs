//! Long work on a loop, done in slices, between which the loop serves its connections.

use crate::api::conn::Conn;
use crate::api::handler::Handler;
use crate::api::loop_context::LoopContext;
use crate::base::id::ConnId;
use std::any::Any;
use std::fmt;

/// What a slice of a job returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Slice {
    /// The job has more to do: call it again.
    More,
    /// The job is done: do not call it again.
    Done,
}

/// The loop has [`jobs_max`](crate::Limits::jobs_max) jobs under way already. The job that was not taken is
/// inside.
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

type OfLoop<H> = dyn FnMut(&mut H, &mut LoopContext<'_, H>) -> Slice;
type OfConnection<H> = dyn FnMut(&mut H, &mut Conn<'_, H>) -> Slice;

/// A job under way. The loop's state holds it as `Any`, since the state does not know the handler type.
pub(crate) enum Job<H: Handler> {
    OfLoop(Box<OfLoop<H>>),
    OfConnection(ConnId, Box<OfConnection<H>>),
}

impl<H: Handler> Job<H> {
    /// A job that a loop of this handler has stored.
    pub(crate) fn from_any(any: Box<dyn Any>) -> Self {
        *any.downcast().expect("a loop's jobs are of its handler")
    }
}

impl<H: Handler> LoopContext<'_, H> {
    /// Begins a job on this loop. `job` is called with the handler, from the next step of this turn on,
    /// until it returns [`Slice::Done`].
    ///
    /// All jobs of a loop share [`slice_time_per_turn`](crate::Limits::slice_time_per_turn) in each turn.
    /// They run in rotation, one slice each, and at least one slice runs in a turn. So everything else on
    /// the loop waits for that time and one slice. A slice should take some 50 µs. A slice that takes
    /// longer is a stall like any callback's. A loop with jobs does not sleep.
    ///
    /// A panic ends only the job. A drain waits until the job is done. At the drain's deadline, or at a stop,
    /// the job is dropped and counted ([`Counter::JobsDropped`](crate::metrics::Counter::JobsDropped)).
    ///
    /// An error means that [`jobs_max`](crate::Limits::jobs_max) jobs are under way, not counting the job
    /// whose slice runs. The job comes back in the error.
    pub fn in_slices<J>(&mut self, job: J) -> Result<(), JobsFull<J>>
    where
        J: FnMut(&mut H, &mut LoopContext<'_, H>) -> Slice + 'static,
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
    /// Begins a job for this connection. As [`LoopContext::in_slices`], and each slice is a callback of the
    /// connection. A slice may send. What it sends is offered to the kernel before the next slice.
    ///
    /// The job ends with its connection: it is then dropped unfinished and counted
    /// ([`Counter::JobsDropped`](crate::metrics::Counter::JobsDropped)). A panic in it closes the connection.
    ///
    /// While the job is under way, the connection is [busy](Conn::set_busy). A drain waits for the
    /// connection. If the peer ends, the connection is not [finished](Conn::finish_when_done) before the
    /// peer has its answer. Deadlines still run.
    ///
    /// ```
    /// use net_core::{Conn, Handler, Input, Peer};
    /// use net_core::jobs::Slice;
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
        let mut here = self.event_loop();
        here.begin_job(job, |job| Job::OfConnection(id, Box::new(job)))?;
        here.state().job_begun(id);
        Ok(())
    }
}
