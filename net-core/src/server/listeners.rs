//! The listeners that are open before any loop starts.

use super::{Accept, Listens, Server, Wanted};
use crate::accept::listener::Listener;
use crate::accept::trusted_proxies::TrustedProxies;
use crate::api::handler::Handler;
use crate::base::error::StartError;
use crate::driver::{Driver, listener_token};
use crate::sys::addr::{Addr, AddrError};
use crate::sys::{ListenOptions, Socket};
use crate::threads::shared::Shared;
use std::sync::Arc;

/// The default of `notsent_lowat` for a server with a memory budget: the unsent bytes that the kernel
/// takes for each connection. Without it, the kernel grows the send buffer of a slow reader to megabytes,
/// which no memory budget of the server counts. With a thousand peers that never read, the kernel held
/// 1.5 GB, which was all its memory for TCP, and it then dropped the segments of all other connections.
/// The value equals the high watermark, so that the kernel always has bytes to send to a fast reader
/// while the loop refills the buffer.
const NOTSENT_WITHIN_BUDGET: usize = 64 << 10;

/// An address to listen on, and the proxies that alone may connect, if any are given.
#[derive(Clone)]
pub(super) struct ListenSpec {
    pub(super) at: Addr,
    pub(super) proxies: Option<Arc<TrustedProxies>>,
}

/// The sockets that are open before any loop starts. The addresses are taken, and the ports are chosen.
pub(super) struct Listeners<D> {
    pub(super) driver: D,
    pub(super) listeners: Vec<Listener>,
    /// In the order of `Server::listen`.
    pub(super) addrs: Vec<Addr>,
    /// Sockets that only hold the addresses on which every loop will listen. They make sure that all
    /// loops get the same port, if the kernel chooses the port.
    pub(super) held: Vec<Socket>,
}

/// Opens the acceptor's listeners. Normally these are all listeners. If each loop listens, these are only
/// the Unix sockets, which have no SO_REUSEPORT. If there is only one loop, there are none, because the
/// loop opens its listeners itself.
pub(super) fn open_listeners<H: Handler, D: Driver>(
    server: &Server,
    shared: &Shared<H::Message>,
    wanted: &[ListenSpec],
    listens: Listens,
) -> Result<Listeners<D>, StartError> {
    let mut driver = D::open(&server.limits, Arc::clone(&shared.acceptor_waker))
        .map_err(|error| StartError::new("make the acceptor's epoll", error))?;
    let (mut listeners, mut addrs, mut held) = (Vec::new(), Vec::new(), Vec::new());
    let options = listen_options(server);
    let wanted = if listens == Listens::OnlyLoop { &[] } else { wanted };
    for ListenSpec { at, proxies } in wanted {
        let of_each_loop = at.inet().filter(|_| listens == Listens::EachLoop);
        let socket = match of_each_loop {
            None => driver.listen(listener_token(listeners.len()), at, &options),
            Some(at) => Socket::bind(at, &options),
        }
        .map_err(|error| StartError::new(format!("listen on {at}"), error))?;
        let at =
            D::local(&socket).map_err(|e| StartError::new(format!("ask the port of {at}"), e))?;
        // With SO_REUSEPORT the kernel would allow the same address twice, and each loop would have two
        // listeners.
        if addrs.contains(&at) {
            return Err(StartError::plain(format!("listen on {at}: it is named twice")));
        }
        addrs.push(at.clone());
        match of_each_loop {
            None => {
                let listening = Listener::new(at, socket, &server.limits, &shared.listener_health);
                listeners.push(listening.behind(proxies.clone()));
            }
            Some(_) => held.push(socket),
        }
    }
    Ok(Listeners { driver, listeners, addrs, held })
}

pub(super) fn listen_options(server: &Server) -> ListenOptions {
    let reuse_port = server.accept == Accept::ReusePort;
    let mut sockets = server.sockets.clone();
    if server.limits.memory_budget.is_some() {
        sockets.notsent_lowat.get_or_insert(NOTSENT_WITHIN_BUDGET);
    }
    ListenOptions { backlog: server.backlog, reuse_port, sockets, ..ListenOptions::default() }
}

/// Every address that was asked for. An error if any of them cannot be parsed.
pub(super) fn wanted(server: &Server) -> Result<Vec<ListenSpec>, StartError> {
    let specs = server.listen.iter().cloned();
    specs
        .map(|Wanted { at, proxies }| Ok(ListenSpec { at: at?, proxies }))
        .collect::<Result<_, AddrError>>()
        .map_err(|error| StartError::plain(format!("listen: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_has_the_backlog_that_was_asked_for() {
        let most: u32 = std::fs::read_to_string("/proc/sys/net/core/somaxconn")
            .expect("a setting of the kernel's")
            .trim()
            .parse()
            .expect("a number");
        let at = Addr::from(std::net::SocketAddr::from(([127, 0, 0, 1], 0)));
        for accept in [Accept::Acceptor, Accept::ReusePort] {
            for (asked, kept) in [(0, 1), (1, 1), (7, 7), (u16::MAX, most.min(u16::MAX.into()))] {
                let options = listen_options(&Server::new().accept(accept).backlog(asked));
                let listener = Socket::listen(&at, &options).expect("a free port");
                assert_eq!(listener.backlog(), kept, "{accept:?}, {asked} asked for");
            }
        }
    }
}
