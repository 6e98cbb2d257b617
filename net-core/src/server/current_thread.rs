//! A server whose last loop runs on the thread that starts it.

use super::{Ended, FdTable, Loops, Place, Running, Server, start};
use crate::api::handler::Handler;
use crate::base::error::StartError;
use crate::driver::Epoll;
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
