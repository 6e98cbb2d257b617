//! The swarm half: the clients of all connections, on loops of net-core that listen nowhere.
//!
//! It carries out its orders, one phase after the other, and reports its state several times a second. Here,
//! on the client's side, it is decided what counts as right, wrong or lost.

mod board;
mod client;
mod dialling;
mod pinging;
mod verifying;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use net_core::handler::PostError;
use net_core::{Limits, Loops, Running, Server, ServerHandle};

use super::engine;
use super::talk::{self, SwarmNews, SwarmOrder, SwarmSetup};
use board::Board;
use client::{Clients, Task};

/// How often it reports its state.
const STATE_EVERY: Duration = Duration::from_millis(50);

/// How often the loops hand over their round trips.
const P99_EVERY: Duration = Duration::from_secs(1);

/// Runs as the parent says. The exit code is 0 if the swarm ended in order.
pub fn led() -> ExitCode {
    match lead() {
        Ok(code) => code,
        Err(what) => {
            talk::tell(&SwarmNews::Failed(what));
            ExitCode::FAILURE
        }
    }
}

fn lead() -> Result<ExitCode, String> {
    let orders = talk::orders().map_err(|error| format!("start a thread: {error}"))?;
    let Ok(SwarmOrder::Begin(setup)) = orders.recv() else {
        return Ok(ExitCode::FAILURE); // the parent is gone, or says stop before anything began
    };
    let asked = setup.shares.iter().map(|share| share.connections).sum();
    let board = Arc::new(Board::new(asked));
    let before = engine::descriptors_open();
    let running = start(setup, &board)?;
    let handle = running.handle();
    talk::tell(&SwarmNews::Done);
    if !obey(&orders, &handle, &board) {
        running.handle().stop();
        let _ = running.wait(); // it was told to end at once, and has
        return Ok(ExitCode::FAILURE);
    }
    handle.drain();
    drop(handle); // it holds the loops' wakers, which would count as left
    let ended = running.wait().map_err(|error| error.to_string())?;
    talk::tell(&SwarmNews::State(board.state(None)));
    talk::tell(&SwarmNews::Ended(engine::books(&ended.counts, before)));
    Ok(ExitCode::SUCCESS)
}

fn start(setup: SwarmSetup, board: &Arc<Board>) -> Result<Running<Task>, String> {
    let limits = Limits {
        connect_timeout: Duration::from_secs(15),
        linger_timeout: Duration::from_secs(10),
        ..engine::small_bridges(&setup.tables)
    };
    let loops = setup.tables.loops as usize;
    if setup.shares.len() != loops {
        return Err(format!("{} shares for {loops} loops", setup.shares.len()));
    }
    let server = Server::new()
        .loops(Loops::Count(loops))
        .fd_table(engine::fd_table(&setup.tables))
        .limits(limits)
        .drain_timeout(Duration::from_secs(30));
    let (setup, board) = (Arc::new(setup), Arc::clone(board));
    let clients = move |number| Clients::new(Arc::clone(&setup), number, Arc::clone(&board));
    server.start(move |place| clients(place.number())).map_err(|error| error.to_string())
}

/// Obeys until it is told to end. True: in order.
fn obey(orders: &Receiver<SwarmOrder>, handle: &ServerHandle<Task>, board: &Board) -> bool {
    let (mut p99_us, mut looked) = (None, Instant::now());
    let mut told = Instant::now();
    loop {
        let task = match orders.recv_timeout(STATE_EVERY) {
            Ok(SwarmOrder::Begin(_) | SwarmOrder::Stop) | Err(RecvTimeoutError::Disconnected) => {
                return false;
            }
            Ok(SwarmOrder::Leave) => return true,
            Err(RecvTimeoutError::Timeout) => None,
            Ok(order) => Some(order),
        };
        if looked.elapsed() >= P99_EVERY {
            looked = Instant::now();
            p99_us = board.recent_p99_us();
        }
        if let Some(order) = task {
            carry_out(order, handle, board);
        } else if told.elapsed() < STATE_EVERY {
            continue;
        }
        told = Instant::now();
        talk::tell(&SwarmNews::State(board.state(p99_us)));
    }
}

/// Gives the order to all loops, and answers when each has taken it.
fn carry_out(order: SwarmOrder, handle: &ServerHandle<Task>, board: &Board) {
    let wants_figures = order == SwarmOrder::Figures;
    match order {
        SwarmOrder::Connect => {
            board.begin();
            give(&Task::Connect, handle, board);
        }
        SwarmOrder::Verify => give(&Task::Verify, handle, board),
        SwarmOrder::Hold { active, period_ms } => {
            let period = Duration::from_millis(period_ms.max(1));
            give(&Task::Hold { active, period }, handle, board);
        }
        SwarmOrder::Rest => give(&Task::Rest, handle, board),
        SwarmOrder::Figures => give(&Task::Figures, handle, board),
        SwarmOrder::Expect { payload } => give(&Task::Expect(payload.into()), handle, board),
        SwarmOrder::Close { per_second, half } => {
            give(&Task::Close { per_second, half }, handle, board);
        }
        SwarmOrder::ServerEnds => board.let_server_end(),
        SwarmOrder::Begin(_) | SwarmOrder::Leave | SwarmOrder::Stop => {}
    }
    talk::tell(&if wants_figures {
        SwarmNews::RoundTrips(board.end_phase())
    } else {
        SwarmNews::Done
    });
}

/// Posts the task to every loop and waits until each has taken it, or has ended.
fn give(task: &Task, handle: &ServerHandle<Task>, board: &Board) {
    let mut wanted = board.taken.get();
    for number in 0..handle.loops() {
        let mut task = task.clone();
        loop {
            match handle.post(number, task) {
                Ok(()) => {
                    wanted += 1;
                    break;
                }
                Err(PostError::Full(back)) => task = back,
                Err(PostError::Ended(_)) => break,
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
    let patience = Instant::now() + Duration::from_secs(10);
    while board.taken.get() < wanted && Instant::now() < patience {
        thread::sleep(Duration::from_millis(1));
    }
}
