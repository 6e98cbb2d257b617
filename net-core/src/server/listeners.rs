//! Where a server listens: what is open before any loop is.

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

/// What the kernel takes ahead for each connection of a server with a memory budget. It grows a slow
/// reader's send buffer to megabytes, which no budget of ours sees: a thousand never-readers had 1.5 GB
/// there, all that the kernel has for TCP, and everybody else's segments were then dropped. As much as
/// the high mark: so a fast reader always has something to send while its loop refills.
const NOTSENT_WITHIN_BUDGET: usize = 64 << 10;

/// Where to listen, and for which proxies, if for such alone.
#[derive(Clone)]
pub(super) struct ListenSpec {
    pub(super) at: Addr,
    pub(super) proxies: Option<Arc<TrustedProxies>>,
}

/// What is open before any loop is: addresses are free, and ports chosen.
pub(super) struct Listeners<D> {
    pub(super) driver: D,
    pub(super) listeners: Vec<Listener>,
    /// In the order of `Server::listen`.
    pub(super) addrs: Vec<Addr>,
    /// Addresses at which every loop will listen itself, only held meanwhile, so that a port chosen
    /// by the kernel is one and the same for all.
    pub(super) held: Vec<Socket>,
}

/// Opens the acceptor's listeners: all; or, where each loop listens, those on Unix sockets, which
/// know no SO_REUSEPORT; or none, where the only loop opens its doors itself.
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
        // Where sockets share their address the kernel does not mind, and each loop would have two.
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

/// Every address that was asked for, if all of them are ones.
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
