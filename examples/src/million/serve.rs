//! The server half: an echo server that can also send an announcement to every connection.
//!
//! Led by the parent ([`led`]), it is told on standard input what to do next. By hand ([`by_hand`]), it runs
//! until a signal ends it. Its memory is read from outside, so this process does nothing else.

mod echo;

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use net_core::metrics::Counter;
use net_core::server::Ended;
use net_core::{Limits, Loops, Running, Server, ServerHandle};

use super::asked::Accept;
use super::engine;
use super::figures::grouped;
use super::kernel_stat::SocketStat;
use super::talk::{self, ServerNews, ServerOrder, ServerSetup, ServerState};
use echo::{Announcement, Board, Echo};
use net_core::process::proc_file::Root;

/// A connection on which nothing moves for so long is closed. It is longer than any run. Each connection has
/// it armed, so that the timer wheel carries them all.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);

/// How often it reports its state.
const STATE_EVERY: Duration = Duration::from_millis(50);

/// Runs as the parent says. The exit code is 0 if the server ended in order.
pub fn led() -> ExitCode {
    let orders = match talk::orders::<ServerOrder>() {
        Ok(orders) => orders,
        Err(error) => return failed(format!("start a thread: {error}")),
    };
    let Ok(ServerOrder::Begin(setup)) = orders.recv() else {
        return ExitCode::FAILURE; // the parent is gone, or says stop before anything began
    };
    let before = engine::descriptors_open();
    let board = Arc::new(Board::default());
    let running = match start(&setup, &board) {
        Ok(running) => running,
        Err(what) => return failed(what),
    };
    let Some(at) = running.addrs().first().and_then(|at| at.inet()) else {
        return failed("it listens nowhere".to_owned());
    };
    talk::tell(&ServerNews::Listening(at));
    let is_draining = obey(&orders, &running.handle(), &board);
    if !is_draining {
        running.handle().stop();
    }
    let ended = match while_watched(&orders, running, &board) {
        Ok(ended) => ended,
        Err(what) => return failed(what),
    };
    talk::tell(&ServerNews::Ended(engine::books(&ended.counts, before)));
    if is_draining { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Waits for the end. Meanwhile it reports the server's state, and stops the server if the parent says so or
/// is gone.
fn while_watched(
    orders: &Receiver<ServerOrder>,
    running: Running<Announcement>,
    board: &Board,
) -> Result<Ended, String> {
    let handle = running.handle();
    let waiting = thread::Builder::new()
        .name("wait-for-end".into())
        .spawn(move || running.wait())
        .map_err(|error| format!("start a thread: {error}"))?;
    while !waiting.is_finished() {
        match orders.recv_timeout(STATE_EVERY) {
            Err(RecvTimeoutError::Timeout) => {
                talk::tell(&ServerNews::State(state(&handle, board)));
            }
            _ => {
                handle.stop();
                break;
            }
        }
    }
    let ended = waiting.join().map_err(|_| "a thread of it panicked".to_owned())?;
    ended.map_err(|error| error.to_string())
}

/// Runs until SIGTERM or SIGINT, which drain the server. Prints the server's books.
///
/// # Errors
/// One sentence on what cannot be done.
pub fn by_hand(setup: &ServerSetup) -> Result<ExitCode, String> {
    let board = Arc::new(Board::default());
    board.set_closes_per_second(super::pace::CLOSES_PER_SECOND_MAX);
    let server = server(setup)?;
    let ended: Ended = server
        .run_with(
            move |place| Echo::new(place.loops(), Arc::clone(&board)),
            |running: &Running<Announcement>| {
                let addrs: Vec<_> = running.addrs().iter().map(ToString::to_string).collect();
                crate::flags::say_ready(&addrs.join(" "));
            },
        )
        .map_err(|error| error.to_string())?;
    let counts = &ended.counts;
    let accepted = grouped(counts.get(Counter::Accepted));
    let verdict = if counts.is_balanced() { "balance" } else { "do not balance" };
    let mut text = format!("accepted {accepted}");
    for (reason, count) in counts.closed().filter(|(_, count)| *count > 0) {
        text += &format!(", closed ({reason}) {}", grouped(count));
    }
    crate::flags::say(&format!("{text}: the books {verdict}"));
    let ended_well = counts.is_balanced() && ended.cut_by_signal.is_none();
    Ok(if ended_well { ExitCode::SUCCESS } else { std::process::Termination::report(ended) })
}

fn failed(what: String) -> ExitCode {
    talk::tell(&ServerNews::Failed(what));
    ExitCode::FAILURE
}

fn start(setup: &ServerSetup, board: &Arc<Board>) -> Result<Running<Announcement>, String> {
    let board = Arc::clone(board);
    server(setup)?
        .start(move |place| Echo::new(place.loops(), Arc::clone(&board)))
        .map_err(|error| error.to_string())
}

fn server(setup: &ServerSetup) -> Result<Server, String> {
    let limits = Limits {
        connections_max: setup.connections_max.and_then(|max| usize::try_from(max).ok()),
        idle_timeout: Some(IDLE_TIMEOUT),
        time_callbacks: setup.time_callbacks,
        ..engine::small_bridges(&setup.tables)
    };
    let mut server = Server::new()
        .listen_at(setup.listen.into())
        .loops(Loops::Count(setup.tables.loops as usize))
        .fd_table(engine::fd_table(&setup.tables))
        .accept(match setup.accept {
            Accept::Acceptor => net_core::server::Accept::Acceptor,
            Accept::Reuseport => net_core::server::Accept::ReusePort,
        })
        .limits(limits)
        .backlog(u16::MAX)
        .drain_timeout(Duration::from_secs(300));
    if let Some(at) = &setup.admin {
        server = server.admin(at);
    }
    let places = server.capacity().map_err(|error| error.to_string())? as u64;
    if places < setup.connections {
        let [places, wanted] = [places, setup.connections].map(grouped);
        return Err(format!("the descriptor tables hold {places} < {wanted}: use more loops"));
    }
    Ok(server)
}

/// Obeys until it is told to end. True: by a drain.
fn obey(
    orders: &Receiver<ServerOrder>,
    handle: &ServerHandle<Announcement>,
    board: &Arc<Board>,
) -> bool {
    let mut brake = None;
    let mut told = Instant::now();
    loop {
        match orders.recv_timeout(STATE_EVERY.min(brake_every(&brake))) {
            Ok(ServerOrder::Broadcast { payload, per_second, unread_messages_max }) => {
                brake = Brake::new(unread_messages_max);
                let announcement = Announcement { payload: payload.into(), per_second };
                for number in handle.post_all(announcement) {
                    tracing::error!(in_loop = number, "a loop does not take the announcement");
                }
            }
            Ok(ServerOrder::Drain { per_second }) => {
                board.set_closes_per_second(per_second);
                handle.drain();
                return true;
            }
            Ok(ServerOrder::Begin(_) | ServerOrder::Stop) | Err(RecvTimeoutError::Disconnected) => {
                return false;
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        if let Some(brake) = &brake {
            board.hold_announcements(brake.is_needed());
        }
        if told.elapsed() >= STATE_EVERY {
            told = Instant::now();
            talk::tell(&ServerNews::State(state(handle, board)));
        }
    }
}

fn state(handle: &ServerHandle<Announcement>, board: &Board) -> ServerState {
    let counts = handle.snapshot();
    ServerState {
        open: counts.get(Counter::Open),
        accepted: counts.get(Counter::Accepted),
        announced: board.announced(),
    }
}

/// Watches the pages that unread bytes charge to the kernel, system-wide. Above its limit the kernel starts
/// to drop segments.
struct Brake {
    pages_before: u64,
    pages_max: u64,
}

fn brake_every(brake: &Option<Brake>) -> Duration {
    if brake.is_some() { Duration::from_millis(5) } else { STATE_EVERY }
}

impl Brake {
    fn new(pages_max: u64) -> Option<Self> {
        Some(Self { pages_before: Self::pages()?, pages_max })
    }

    fn is_needed(&self) -> bool {
        Self::pages().is_some_and(|pages| pages > self.pages_before + self.pages_max)
    }

    fn pages() -> Option<u64> {
        SocketStat::sample(&Root::new(Path::new("/"))).ok().map(|stat| stat.buffered_pages)
    }
}

/// The address for the setup: the first address of the name.
///
/// # Errors
/// One sentence on what is wrong with the text.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    let addr: net_core::Addr =
        text.parse().map_err(|error: net_core::socket::AddrError| error.to_string())?;
    addr.inet().ok_or_else(|| format!("{text} is no Internet address"))
}
