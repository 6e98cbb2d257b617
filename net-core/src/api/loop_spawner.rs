//! `LoopSpawner`: runs a piece of work once, on a loop, with that loop's handler.

use crate::api::conn::Conn;
use crate::api::handler::Handler;
use crate::api::loop_context::LoopContext;
use crate::api::server_handle::ServerHandle;
use crate::base::id::ConnId;
use crate::threads::mail::Mail;
use crate::threads::mailbox::PostError;
use std::fmt;
use std::marker::PhantomData;

/// A piece of work that a [`LoopSpawner`] runs.
pub type LoopTask<H> = Box<dyn FnOnce(&mut H, &mut LoopContext<'_, H>) + Send>;

/// A pool job's answer for a connection. It runs as a callback of the connection.
pub(crate) type Answer<H> = Box<dyn FnOnce(&mut Conn<'_, H>) + Send>;

/// A mail to a loop whose type only the loop's handler knows.
pub(crate) enum Task<H: Handler> {
    OfLoop(LoopTask<H>),
    /// An answer for a connection of that loop. It is dropped if the connection is over.
    OfConnection(ConnId, Answer<H>),
    /// There will be no answer for this connection: its job was dropped before it ran.
    GivenUp(ConnId),
}

/// Runs pieces of work on the loops of one server, from any thread. By [`LoopContext::spawner`].
///
/// Each piece of work is boxed. For work that comes often, a message costs less.
pub struct LoopSpawner<H: Handler> {
    handle: ServerHandle<H::Message>,
    /// Only a loop of that server makes a spawner, so the handlers of the server's loops are of this type.
    handler: PhantomData<fn() -> H>,
}

impl<H: Handler> LoopSpawner<H> {
    pub(crate) fn new(handle: ServerHandle<H::Message>) -> Self {
        Self { handle, handler: PhantomData }
    }

    /// Runs `work` once on loop number `to`, in one of its next turns. Any thread may call it, including
    /// that loop's own. It never blocks. If the mailbox is full or its loop has ended, the work comes
    /// back in the error. If the loop ends before it runs the work, the work is lost and counted. A panic
    /// ends only the work.
    ///
    /// # Panics
    /// If there is no such loop.
    pub fn run(
        &self,
        to: usize,
        work: impl FnOnce(&mut H, &mut LoopContext<'_, H>) + Send + 'static,
    ) -> Result<(), PostError<LoopTask<H>>> {
        self.run_boxed(to, Box::new(work))
    }

    /// As [`run`](Self::run), for work that is boxed already, such as work that a full mailbox gave back. So
    /// work that is tried several times is boxed once.
    ///
    /// # Panics
    /// If there is no such loop.
    pub fn run_boxed(&self, to: usize, work: LoopTask<H>) -> Result<(), PostError<LoopTask<H>>> {
        self.post(to, Task::OfLoop(work)).map_err(|error| {
            error.map(|task| match task {
                Task::OfLoop(work) => work,
                Task::OfConnection(..) | Task::GivenUp(_) => {
                    unreachable!("what was posted comes back")
                }
            })
        })
    }

    /// Posts a task that must reach its loop, also to a full mailbox. A loop that has ended drops it.
    pub(crate) fn deliver(&self, to: usize, task: Task<H>) {
        drop(self.handle.0.deliver(to, Mail::Task(Box::new(task))));
    }

    fn post(&self, to: usize, task: Task<H>) -> Result<(), PostError<Task<H>>> {
        self.handle.mail(to, Mail::Task(Box::new(task))).map_err(|error| {
            error.map(|mail| match mail {
                Mail::Task(task) => *task.downcast().expect("what was posted comes back"),
                _ => unreachable!("what was posted comes back"),
            })
        })
    }
}

impl<H: Handler> Clone for LoopSpawner<H> {
    fn clone(&self) -> Self {
        Self::new(self.handle.clone())
    }
}

impl<H: Handler> fmt::Debug for LoopSpawner<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoopSpawner").field("loops", &self.handle.loops()).finish()
    }
}
