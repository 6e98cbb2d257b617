//! A server whose last loop runs on the thread that starts it.

use super::{Ended, FdTable, LoopInfo, Loops, Running, Server, start};
use crate::api::handler::Handler;
use crate::base::error::StartError;
use crate::driver::Epoll;
use std::sync::Arc;

impl Server {
    /// As [`run_with`](Self::run_with), but the last loop runs on the calling thread. The other loops run
    /// on their own threads. `ready` is called once the server listens, before the first turn of the last
    /// loop. Returns when all loops have ended and all threads are joined.
    ///
    /// The calling thread keeps its name and its signal mask. If loops are pinned, the thread may use its
    /// former cores again when this function returns, whatever the result. The soft RLIMIT_NOFILE stays
    /// raised, because it belongs to the process.
    ///
    /// While a callback of this loop does not return, this function does not return either. Then only the
    /// second signal ends the process. A panic in a callback has the same cost as on any loop. If the
    /// loop itself dies, the result is the error that [`Running::wait`] would give. A panic in `ready`
    /// stops the server and continues in the caller.
    ///
    /// [`FdTable::PerLoop`] is an error, because the calling thread could not get its former table back.
    pub fn run_on_current_thread<H, F>(
        self,
        factory: F,
        ready: impl FnOnce(&Running<H::Message>),
    ) -> Result<Ended, StartError>
    where
        H: Handler,
        F: Fn(&LoopInfo<H::Message>) -> H + Send + Sync + 'static,
    {
        let factory = Arc::new(factory);
        let make = Arc::clone(&factory);
        run_on_current_thread(
            self,
            move |place: &_| factory(place),
            move |place| make(place),
            ready,
        )
    }

    /// As [`run_on_current_thread`](Self::run_on_current_thread), with one loop only, whatever
    /// [`loops`](Self::loops) was set to. `make` is called once, on the calling thread. So neither `make`
    /// nor the handler needs to be `Send`: they may share an `Rc` with the caller.
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
    /// let ended = Server::new().listen("127.0.0.1:0").run_alone_on_current_thread(
    ///     |_place| Counts(Rc::clone(&count)),
    ///     |running| {
    ///         let at = running.addrs()[0].inet().unwrap();
    ///         TcpStream::connect(at).unwrap().write_all(b"hello").unwrap();
    ///         running.handle().drain();
    ///     },
    /// );
    /// assert!(ended.is_ok_and(|ended| ended.counts.is_balanced()));
    /// assert_eq!(count.get(), 5);
    /// ```
    pub fn run_alone_on_current_thread<H: Handler>(
        self,
        make: impl FnOnce(&LoopInfo<H::Message>) -> H,
        ready: impl FnOnce(&Running<H::Message>),
    ) -> Result<Ended, StartError> {
        let nowhere_else =
            |place: &LoopInfo<H::Message>| -> H { unreachable!("loop {} is here", place.number()) };
        run_on_current_thread(self.loops(Loops::Count(1)), nowhere_else, make, ready)
    }
}

fn run_on_current_thread<H, F, G>(
    server: Server,
    factory: F,
    here: G,
    ready: impl FnOnce(&Running<H::Message>),
) -> Result<Ended, StartError>
where
    H: Handler,
    F: Fn(&LoopInfo<H::Message>) -> H + Send + Sync + 'static,
    G: FnOnce(&LoopInfo<H::Message>) -> H,
{
    if server.fd_table != FdTable::Shared {
        return Err(StartError::plain(
            "a loop on the calling thread has no descriptor table of its own, as that thread could \
             not have its former one back: use the shared table, or threads for all loops",
        ));
    }
    let catch = server.catches(true);
    let (running, own) = start::begin::<H, Epoll, F, G>(server, factory, Some(here), catch)?;
    // From here on `own` is dropped before `running`, which waits for all loops.
    let own = own.expect("the last loop was to be made here");
    ready(&running);
    let ran = own.run();
    let ended = running.wait();
    ran.and(ended)
}
