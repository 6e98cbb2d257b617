//! `Pool`: a bounded number of threads for work that is too long for a loop's turn.
//!
//! A connection's callback hands over a job, and goes on; the answer comes back to that connection on
//! its own loop. What the bound leaves out is given back at once. No answer is lost because a mailbox
//! is full, and no thread waits with it: it waits beside the mailbox, and a loop that has as many there
//! as may wait for a thread gets no further job done. What becomes of the jobs is counted.
//!
//! The threads hold nothing of a loop, so nobody waits for them at the end: jobs that nobody has begun
//! are given up with the last [`Pool`], and a thread ends after the job that it is at. The connection of
//! a job that is given up is told so, since it may wait for it.

use crate::api::conn::Conn;
use crate::api::handler::Handler;
use crate::api::runner::{Runner, Task};
use crate::base::id::ConnId;
use crate::base::log_limiter::LogLimiter;
use crate::base::panics::{Quiet, guard, take_said};
use net_timer::Tick;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fmt, io, thread};

/// Of panics, so often one is logged: as by `Limits::log_every`, which a pool does not know.
const LOG_EVERY: Duration = Duration::from_secs(5);

type Job = Box<dyn FnOnce(&Shared) + Send>;

/// Threads that a pool has at most. More would wait for the processors, not for the work.
const THREADS_MOST: usize = 1024;

/// Threads that do long work for the connections of any server. Cheap to clone; the threads end when
/// the last clone is gone.
///
/// ```
/// use net_core::{Conn, Handler, Input, JobPanicked, Peer, Pool};
///
/// struct Squares(Pool);
///
/// impl Handler for Squares {
///     type Session = ();
///     type Message = ();
///
///     fn admit(&mut self, _peer: &Peer) -> Option<()> {
///         Some(())
///     }
///
///     fn on_data(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
///         let Some(&byte) = input.take_all().first() else { return };
///         let answer = |conn: &mut Conn<'_, Self>, square: Result<u64, JobPanicked>| match square {
///             Ok(square) => _ = conn.send(format!("{square}\n").as_bytes()),
///             Err(JobPanicked) => conn.close(),
///         };
///         if self.0.offload(conn, move || u64::from(byte).pow(2), answer).is_err() {
///             conn.send(b"busy\n");
///         }
///     }
/// }
///
/// let pool = Pool::new(2, 100)?; // before the server starts
/// let _factory = move |_: &net_core::Place<()>| Squares(pool.clone());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct Pool(Arc<Handle>);

/// Ends the pool when the last clone is dropped. The threads hold only what is behind it.
struct Handle(Arc<Shared>);

struct Shared {
    inner: Mutex<Inner>,
    /// A job waits, or it is over.
    news: Condvar,
    queue_max: usize,
    began: Instant,
}

struct Inner {
    jobs: VecDeque<Job>,
    is_over: bool,
    counts: PoolCounts,
    /// Panics of jobs, which a peer may bring about.
    panics: LogLimiter,
}

/// What has become of a pool's jobs, since it was made. By [`Pool::counts`].
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct PoolCounts {
    /// Jobs that wait for a thread now.
    pub waiting: usize,
    /// Jobs that a thread is at now.
    pub running: usize,
    /// Jobs that were not taken, because `queue_max` waited already, or as many answers for that loop
    /// beside its full mailbox.
    pub refused: u64,
    /// Jobs that panicked. Their connection was told, if it lived.
    pub panicked: u64,
    /// Answers that a connection got.
    pub answered: u64,
    /// Answers that nobody wanted any more: their connection, or its loop, had ended.
    pub dropped: u64,
}

/// The job panicked: there is no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct JobPanicked;

impl fmt::Display for JobPanicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the job panicked")
    }
}

impl std::error::Error for JobPanicked {}

/// The pool's queue is full. What was not taken comes back.
pub struct PoolFull<W, T> {
    /// What was to run in the pool.
    pub work: W,
    /// What was to get the answer.
    pub then: T,
}

impl<W, T> fmt::Debug for PoolFull<W, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PoolFull")
    }
}

impl Pool {
    /// Starts `threads` threads, for which up to `queue_max` jobs may wait (0 of either is taken for 1). More
    /// than 1,024 threads are an error, `InvalidInput`, before the first is started.
    ///
    /// Call it before the server starts, and never on a loop's thread: with private tables
    /// ([`FdTable::PerLoop`](crate::FdTable::PerLoop)) a thread that is started there shares the
    /// loop's descriptor table. Fails if the system has no thread left.
    pub fn new(threads: usize, queue_max: usize) -> io::Result<Self> {
        if threads > THREADS_MOST {
            let said = format!("a pool of {threads} threads: at most {THREADS_MOST} are possible");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, said));
        }
        let shared = Arc::new(Shared {
            inner: Mutex::new(Inner {
                jobs: VecDeque::new(),
                is_over: false,
                counts: PoolCounts::default(),
                panics: LogLimiter::new(LOG_EVERY),
            }),
            news: Condvar::new(),
            queue_max: queue_max.max(1),
            began: Instant::now(),
        });
        let pool = Self(Arc::new(Handle(Arc::clone(&shared))));
        for number in 0..threads.max(1) {
            let shared = Arc::clone(&shared);
            thread::Builder::new()
                .name(format!("net-pool-{number}"))
                .spawn(move || shared.serve())?;
        }
        Ok(pool)
    }

    /// Runs `work` on a thread of the pool, and then `then` with its answer on the loop of `conn`, if
    /// the connection lives then: open or closing, but not over. Otherwise the answer is dropped and
    /// counted. Never blocks.
    ///
    /// Full, the work comes back: answer "busy", or [`pause`](Conn::pause) and try again by a timer. A
    /// handler that keeps each connection to a number of jobs under way keeps one from filling the
    /// pool alone. Jobs begin in the order in which they came; with more than one thread the answers
    /// of one connection come in the order in which they are ready.
    ///
    /// Until the answer has come, or is given up, the connection is [busy](Conn::busy): a drain waits for
    /// it, and a peer that sends no more is not [finished](Conn::finish_when_done) before. Deadlines go
    /// on: an idle timeout shorter than a job ends the connection that waits for it.
    ///
    /// `then` is a callback of the connection, [`Callback::Answer`](crate::Callback::Answer): a panic
    /// in it closes the connection. A panic in `work` is counted, and its answer is [`JobPanicked`].
    pub fn offload<H, A, W, T>(
        &self,
        conn: &mut Conn<'_, H>,
        work: W,
        then: T,
    ) -> Result<(), PoolFull<W, T>>
    where
        H: Handler,
        A: Send + 'static,
        W: FnOnce() -> A + Send + 'static,
        T: FnOnce(&mut Conn<'_, H>, Result<A, JobPanicked>) + Send + 'static,
    {
        let shared = &self.0.0;
        let beyond = conn.here().state().inbox.mail.len_beyond();
        let mut inner = shared.inner.lock();
        if inner.jobs.len().max(beyond) >= shared.queue_max {
            inner.counts.refused += 1;
            return Err(PoolFull { work, then });
        }
        let (id, runner, counted) = (conn.id(), conn.here().runner(), Arc::clone(shared));
        conn.here().state().job_begun(id);
        let mut debt = Debt { id, runner: runner.clone(), is_settled: false };
        inner.jobs.push_back(Box::new(move |shared| {
            let answer = guard(work).ok_or(JobPanicked);
            if answer.is_err() {
                let said = take_said();
                let mut inner = shared.inner.lock();
                inner.counts.panicked += 1;
                let now = Tick::from_millis(shared.began.elapsed().as_millis() as u64);
                if let Some(held_back) = inner.panics.allow(now) {
                    drop(inner); // the log may be slow
                    tracing::error!(conn = %id, said, held_back, "a job of the pool panicked");
                }
            }
            // Counted as dropped unless it is delivered, also where a mailbox is dropped unread.
            let mut outcome = Outcome { shared: counted, is_delivered: false };
            let tell = move |conn: &mut Conn<'_, H>| {
                outcome.delivered();
                then(conn, answer);
            };
            // A loop that is over takes nothing, and what was to run there is dropped. A loop that is
            // stuck must not hold this thread.
            runner.deliver(id.in_loop(), Task::OfConnection(id, Box::new(tell)));
            debt.settled();
        }));
        drop(inner);
        shared.news.notify_one();
        Ok(())
    }

    /// What has become of the jobs so far. Any thread.
    pub fn counts(&self) -> PoolCounts {
        let inner = self.0.0.inner.lock();
        PoolCounts { waiting: inner.jobs.len(), ..inner.counts }
    }
}

/// A connection that waits for a job's answer. It is told if there will be none.
struct Debt<H: Handler> {
    id: ConnId,
    runner: Runner<H>,
    is_settled: bool,
}

impl<H: Handler> Debt<H> {
    /// A method, so that the work takes the whole along, and not a copy of the flag.
    fn settled(&mut self) {
        self.is_settled = true;
    }
}

impl<H: Handler> Drop for Debt<H> {
    fn drop(&mut self) {
        if !self.is_settled {
            let (id, runner) = (self.id, &self.runner);
            runner.deliver(id.in_loop(), Task::GivenUp(id)); // a loop that is over needs no word
        }
    }
}

/// Counts an answer, once, when it has been used or dropped.
struct Outcome {
    shared: Arc<Shared>,
    is_delivered: bool,
}

impl Outcome {
    /// A method, so that the work takes the whole along, and not a copy of the flag.
    fn delivered(&mut self) {
        self.is_delivered = true;
    }
}

impl Drop for Outcome {
    fn drop(&mut self) {
        let counts = &mut self.shared.inner.lock().counts;
        counts.answered += u64::from(self.is_delivered);
        counts.dropped += u64::from(!self.is_delivered);
    }
}

impl Shared {
    /// Does one job after the other until it is over: what a thread of the pool does.
    fn serve(&self) {
        let _quiet = Quiet::here();
        while let Some(job) = self.next() {
            // What can panic here is the drop of an answer that nobody took.
            if guard(|| job(self)).is_none() {
                let said = take_said();
                tracing::error!(said, "an answer of the pool panicked when it was dropped");
            }
            self.inner.lock().counts.running -= 1;
        }
    }

    fn next(&self) -> Option<Job> {
        let mut inner = self.inner.lock();
        while !inner.is_over {
            if let Some(job) = inner.jobs.pop_front() {
                inner.counts.running += 1;
                return Some(job);
            }
            self.news.wait(&mut inner);
        }
        None
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut inner = self.0.inner.lock();
        inner.is_over = true;
        let given_up = std::mem::take(&mut inner.jobs);
        drop(inner);
        if !given_up.is_empty() {
            tracing::warn!(jobs = given_up.len(), "the pool ends with jobs that nobody has begun");
        }
        self.0.news.notify_all();
        for job in given_up {
            // A job's drop is user code; of two that panic in one drop, the process would end.
            if guard(|| drop(job)).is_none() {
                tracing::error!(
                    said = take_said(),
                    "a job that nobody has begun panicked at its drop"
                );
            }
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pool").field(&self.counts()).finish()
    }
}
