//! `Pool`: a bounded number of threads for work that is too long for a loop's turn.
//!
//! A connection's callback hands over a job and goes on. The answer comes back to that connection, on the
//! connection's own loop. A job beyond the bound is given back at once. What becomes of the jobs is counted.
//!
//! No answer is lost because a mailbox is full, and no thread blocks on a full mailbox: the answer waits
//! beside the mailbox. While as many answers wait there for a loop as jobs may wait for a thread, the pool
//! takes no further job from that loop.
//!
//! The threads hold nothing of a loop, so no loop waits for them at the end. When the last [`Pool`] is
//! dropped, jobs that have not begun are given up, and each thread ends after the job that it runs. The
//! loop of a job that is given up is told, since its connection may wait for the answer.

use crate::api::conn::Conn;
use crate::api::handler::Handler;
use crate::api::loop_spawner::{LoopSpawner, Task};
use crate::base::id::ConnId;
use crate::base::log_limiter::LogLimiter;
use crate::base::panics::{Quiet, guard, take_said};
use net_timer::Tick;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fmt, io, thread};

/// The least time between two log lines about panics. A pool does not know `Limits::log_every`, and uses the
/// default of it.
const LOG_EVERY: Duration = Duration::from_secs(5);

type Job = Box<dyn FnOnce(&Shared) + Send>;

/// The most threads that a pool may have. More threads would wait for the processors, and not for work.
const THREADS_MOST: usize = 1024;

/// Threads that do long work for the connections of any server. Cheap to clone. The threads end when the
/// last clone is dropped.
///
/// ```
/// use net_core::{Conn, Handler, Input, Peer};
/// use net_core::jobs::{JobPanicked, Pool};
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
/// let _factory = move |_: &net_core::LoopInfo<()>| Squares(pool.clone());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct Pool(Arc<Handle>);

/// Ends the pool when the last clone is dropped. The threads hold only the `Shared` inside.
struct Handle(Arc<Shared>);

struct Shared {
    inner: Mutex<Inner>,
    /// Signalled when a job waits, or the pool is over.
    news: Condvar,
    queue_max: usize,
    began: Instant,
}

struct Inner {
    jobs: VecDeque<Job>,
    is_over: bool,
    counts: PoolCounts,
    /// Limits the log lines about jobs that panic, because a peer may cause these panics.
    panics: LogLimiter,
}

/// What has become of a pool's jobs since the pool was made. By [`Pool::counts`].
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct PoolCounts {
    /// Jobs that wait for a thread now.
    pub waiting: usize,
    /// Jobs that run on a thread now.
    pub running: usize,
    /// Jobs that were not taken, because `queue_max` jobs waited already, or because as many answers for
    /// that loop waited beside its full mailbox.
    pub refused: u64,
    /// Jobs that panicked. Their connection got [`JobPanicked`], unless it was over.
    pub panicked: u64,
    /// Answers that were delivered to their connection.
    pub answered: u64,
    /// Answers that were not delivered, because their connection or its loop had ended.
    pub dropped: u64,
}

/// The job panicked, so there is no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct JobPanicked;

impl fmt::Display for JobPanicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the job panicked")
    }
}

impl std::error::Error for JobPanicked {}

/// The pool is full: `queue_max` jobs wait, or as many answers wait for that loop beside its full mailbox.
/// What was not taken comes back.
pub struct PoolFull<W, T> {
    /// The work that was to run in the pool.
    pub work: W,
    /// The callback that was to get the answer.
    pub then: T,
}

impl<W, T> fmt::Debug for PoolFull<W, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PoolFull")
    }
}

impl Pool {
    /// Starts `threads` threads. Up to `queue_max` jobs may wait for them. A 0 of either counts as 1. More
    /// than 1,024 threads are an error, `InvalidInput`, and no thread is started.
    ///
    /// Call it before the server starts, and never on a loop's thread. With private tables
    /// ([`FdTable::PerLoop`](crate::server::FdTable::PerLoop)) a thread that is started on a loop's thread
    /// shares the loop's descriptor table. It fails if the system cannot start a thread.
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

    /// Runs `work` on a thread of the pool, and then calls `then` with its answer on the loop of `conn`. It
    /// never blocks. If the connection is over by then, the answer is dropped and counted. A connection that
    /// is closing still gets it.
    ///
    /// When the pool is full, the work comes back in the error. The handler can then answer "busy", or
    /// [`pause`](Conn::pause) the connection and try again by a timer. To keep one connection from filling
    /// the pool alone, a handler should bound the jobs of each connection that are under way.
    ///
    /// Jobs begin in the order in which they came. With more than one thread, the answers of one connection
    /// come in the order in which they are ready.
    ///
    /// Until the answer has come, or the job is given up, the connection is [busy](Conn::set_busy). A drain
    /// waits for the connection. If the peer ends, the connection is not [finished](Conn::finish_when_done)
    /// before. Deadlines still run: an idle timeout shorter than the job ends the connection that waits for
    /// it.
    ///
    /// `then` is a callback of the connection, [`Callback::Answer`](crate::handler::Callback::Answer). A
    /// panic in it closes the connection. A panic in `work` is counted, and its answer is [`JobPanicked`].
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
        let beyond = conn.event_loop().state().inbox.mail.len_beyond();
        let mut inner = shared.inner.lock();
        if inner.jobs.len().max(beyond) >= shared.queue_max {
            inner.counts.refused += 1;
            return Err(PoolFull { work, then });
        }
        let (id, runner, counted) = (conn.id(), conn.event_loop().spawner(), Arc::clone(shared));
        conn.event_loop().state().job_begun(id);
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
            // Counted as dropped unless it is delivered, also if a mailbox is dropped unread.
            let mut outcome = Outcome { shared: counted, is_delivered: false };
            let tell = move |conn: &mut Conn<'_, H>| {
                outcome.delivered();
                then(conn, answer);
            };
            // A loop that has ended takes nothing, and the answer is dropped. A loop that is stuck must not
            // block this thread.
            runner.deliver(id.in_loop(), Task::OfConnection(id, Box::new(tell)));
            debt.settled();
        }));
        drop(inner);
        shared.news.notify_one();
        Ok(())
    }

    /// What has become of the jobs so far. Any thread may call it.
    pub fn counts(&self) -> PoolCounts {
        let inner = self.0.0.inner.lock();
        PoolCounts { waiting: inner.jobs.len(), ..inner.counts }
    }
}

/// A connection that waits for a job's answer. Its loop is told if there will be no answer.
struct Debt<H: Handler> {
    id: ConnId,
    runner: LoopSpawner<H>,
    is_settled: bool,
}

impl<H: Handler> Debt<H> {
    /// A method, so that the closure captures the whole value, and not a copy of the flag.
    fn settled(&mut self) {
        self.is_settled = true;
    }
}

impl<H: Handler> Drop for Debt<H> {
    fn drop(&mut self) {
        if !self.is_settled {
            let (id, runner) = (self.id, &self.runner);
            runner.deliver(id.in_loop(), Task::GivenUp(id)); // a loop that has ended drops it
        }
    }
}

/// Counts an answer once, when it has been delivered or dropped.
struct Outcome {
    shared: Arc<Shared>,
    is_delivered: bool,
}

impl Outcome {
    /// A method, so that the closure captures the whole value, and not a copy of the flag.
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
    /// The body of a pool thread: runs one job after the other until the pool is over.
    fn serve(&self) {
        let _quiet = Quiet::here();
        while let Some(job) = self.next() {
            // Only the drop of an answer that was not delivered can panic here.
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
            // A job's drop is user code. Two panics in one drop would end the process, so each is guarded.
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
