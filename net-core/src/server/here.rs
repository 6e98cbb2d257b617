//! A server whose last loop runs on the thread that starts it.

use super::loops::{Farewell, Seed, Stands, grow, pin, run_to_its_end, verdict};
use super::{Ended, FdTable, Loops, Place, Running, Server, start};
use crate::driver::{Driver, Epoll};
use crate::error::StartError;
use crate::event_loop::EventLoop;
use crate::handler::Handler;
use crate::panics::Quiet;
use crate::sys::affinity::Affinity;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

impl Server {
    /// As [`run_with`](Self::run_with), but the last loop runs on the calling thread, and the others
    /// on threads of their own, as ever. `ready` is called once it listens, before the loop's first
    /// turn. Returns when all loops have ended and all threads are joined.
    ///
    /// The calling thread is lent: it keeps its name and its signal mask, and if loops are pinned it
    /// may use its former cores again when this returns, however it does. The soft RLIMIT_NOFILE, which
    /// is the process's, stays raised. While a callback of this loop does not return, neither does this:
    /// then only the second signal ends the process. A panic in a callback costs what it costs on any
    /// loop, and the loop's own death is the error that [`Running::wait`] would give. A panic in `ready`
    /// stops the server and goes on.
    ///
    /// With [`FdTable::PerLoop`] it is an error: the calling thread could never have its former
    /// table back.
    pub fn run_here<H, F>(
        self,
        factory: F,
        ready: impl FnOnce(&Running<H::Message>),
    ) -> Result<Ended, StartError>
    where
        H: Handler,
        F: Fn(&Place<H::Message>) -> H + Send + Sync + 'static,
    {
        let factory = Arc::new(factory);
        let make = Arc::clone(&factory);
        run_here(self, move |place: &_| factory(place), move |place| make(place), ready)
    }

    /// As [`run_here`](Self::run_here), with this one loop only, whatever was said of
    /// [`loops`](Self::loops). So `make` is called here, once, and neither it nor the handler needs to
    /// be `Send`: they may share an `Rc` with the caller.
    ///
    /// ```
    /// use net_core::{Conn, Handler, Input, Peer, Server};
    /// use std::cell::Cell;
    /// use std::convert::Infallible;
    /// use std::io::Write;
    /// use std::net::TcpStream;
    /// use std::rc::Rc;
    ///
    /// struct Counts(Rc<Cell<usize>>);
    ///
    /// impl Handler for Counts {
    ///     type Session = ();
    ///     type Message = Infallible;
    ///
    ///     fn admit(&mut self, _peer: &Peer) -> Option<()> {
    ///         Some(())
    ///     }
    ///
    ///     fn on_data(&mut self, _conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
    ///         self.0.set(self.0.get() + input.take_all().len());
    ///     }
    /// }
    ///
    /// let count = Rc::new(Cell::new(0));
    /// let ended = Server::new().listen("127.0.0.1:0").run_here_alone(
    ///     |_place| Counts(Rc::clone(&count)),
    ///     |running| {
    ///         let at = running.addrs()[0].inet().unwrap();
    ///         TcpStream::connect(at).unwrap().write_all(b"hello").unwrap();
    ///         running.remote().drain();
    ///     },
    /// );
    /// assert!(ended.is_ok_and(|ended| ended.counts.balance()));
    /// assert_eq!(count.get(), 5);
    /// ```
    pub fn run_here_alone<H: Handler>(
        self,
        make: impl FnOnce(&Place<H::Message>) -> H,
        ready: impl FnOnce(&Running<H::Message>),
    ) -> Result<Ended, StartError> {
        let nowhere_else =
            |place: &Place<H::Message>| -> H { unreachable!("loop {} is here", place.number()) };
        run_here(self.loops(Loops::Count(1)), nowhere_else, make, ready)
    }
}

fn run_here<H, F, G>(
    server: Server,
    factory: F,
    here: G,
    ready: impl FnOnce(&Running<H::Message>),
) -> Result<Ended, StartError>
where
    H: Handler,
    F: Fn(&Place<H::Message>) -> H + Send + Sync + 'static,
    G: FnOnce(&Place<H::Message>) -> H,
{
    if server.fd_table != FdTable::Shared {
        return Err(StartError::plain(
            "a loop on the calling thread has no descriptor table of its own, as that thread could \
             not have its former one back: use the shared table, or threads for all loops",
        ));
    }
    let catch = server.catches(true);
    let (running, own) = start::begin::<H, Epoll, F, G>(server, factory, Some(here), catch)?;
    // From here on dropped before `running`, which waits for all loops.
    let own = own.expect("the last loop was to be made here");
    ready(&running);
    let ran = own.run();
    let ended = running.wait();
    ran.and(ended)
}

/// A loop that stands, and runs on the thread that has made it.
pub(super) struct OwnLoop<H: Handler, D: Driver> {
    // Dropped in this order.
    event_loop: EventLoop<H, D>,
    farewell: Farewell<H::Message>,
    number: usize,
    core: Option<core_affinity::CoreId>,
}

impl<H: Handler, D: Driver> OwnLoop<H, D> {
    /// Makes it on its core, as every loop is made, and then gives the thread its cores back:
    /// threads that it starts next inherit them.
    pub(super) fn grow(
        mut seed: Seed<H::Message>,
        make: impl FnOnce(&Place<H::Message>) -> H,
    ) -> Result<(Self, Stands), StartError> {
        let lent = seed.core.and_then(|_| Lent::new());
        seed.core = seed.core.filter(|_| lent.is_some());
        let (number, core) = (seed.number, seed.core);
        let farewell = Farewell::of(&seed);
        let _quiet = Quiet::here();
        let (event_loop, stands) = grow(seed, make)?;
        Ok((Self { event_loop, farewell, number, core }, stands))
    }

    /// Turns until the loop is over.
    fn run(self) -> Result<(), StartError> {
        let (number, core) = (self.number, self.core);
        let lent = core.and_then(|_| Lent::new());
        pin(number, core.filter(|_| lent.is_some()));
        let _quiet = Quiet::here();
        let run = || {
            let Self { event_loop, farewell: _farewell, .. } = self;
            run_to_its_end(event_loop)
        };
        verdict(number, catch_unwind(AssertUnwindSafe(run)))
    }
}

/// The calling thread while a loop has it on a core. Dropped, it may run on its former cores again.
struct Lent(Affinity);

impl Lent {
    /// `None`: they cannot be asked for, so the thread is not to be pinned.
    fn new() -> Option<Self> {
        let cores = Affinity::of_this_thread();
        if let Err(error) = &cores {
            tracing::warn!(%error, "cannot ask for this thread's cores, so the loop is not pinned");
        }
        cores.ok().map(Self)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Err(error) = self.0.set_here() {
            tracing::warn!(%error, "cannot give this thread its former cores back");
        }
    }
}
