//! Signals: while it starts, while a callback does not return, and where nobody asked for them.

use super::*;
use net_core::server::Ended;
use net_core::{Conn, Handler, Input, Loops, Peer, Running, Server, StartError};
use std::convert::Infallible;
use std::os::unix::process::ExitStatusExt;

const AN_HOUR: Duration = Duration::from_secs(3600);

/// Echoes; a question mark it thinks about for ever.
struct Thinker;

impl Handler for Thinker {
    type Session = ();
    type Message = Infallible;

    fn admit(&mut self, _peer: &Peer) -> Option<()> {
        Some(())
    }

    fn on_data(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
        if input.peek().contains(&b'?') {
            println!("THINKS");
            loop {
                std::thread::park();
            }
        }
        let _ = conn.echo(input); // refused only when the connection is ending
    }
}

fn says_ready(running: &Running<Infallible>) {
    println!("READY {}", running.addrs()[0]);
}

fn server() -> Server {
    Server::new().listen("127.0.0.1:0").loops(Loops::Count(2)).drain_timeout(AN_HOUR)
}

/// As the end of a main that returns it.
fn end(ended: Result<Ended, StartError>) -> ! {
    match ended {
        Ok(ended) => std::process::exit(ended.cut_by_signal.map_or(0, |signal| 128 + signal)),
        Err(error) => {
            println!("ERROR {error}");
            std::process::exit(1)
        }
    }
}

/// The second SIGTERM waited for the callback that ran: six seconds, or for ever.
#[test]
fn a_second_signal_ends_it_though_a_callback_does_not_return() {
    match part().as_deref() {
        None => {}
        Some("run") => end(server().run_with(|_| Thinker, says_ready)),
        Some(_) => {
            end(server().loops(Loops::Count(1)).run_on_current_thread(|_| Thinker, says_ready))
        }
    }
    for part in ["run", "run_on_current_thread"] {
        let test = "signals::a_second_signal_ends_it_though_a_callback_does_not_return";
        let mut other = Other::new(test, part);
        let at = other.says("READY").parse().unwrap();
        let mut client = connect(at);
        client.write_all(b"?").unwrap();
        other.says("THINKS");
        other.signal("INT");
        other.signal("TERM");
        assert_eq!(other.wait().code(), Some(128 + 15), "{part}");
    }
}

/// A drain that has no end, since a callback does not return, was never over.
#[test]
fn a_drain_is_over_after_its_deadline_though_a_callback_does_not_return() {
    let test = "signals::a_drain_is_over_after_its_deadline_though_a_callback_does_not_return";
    if part().is_some() {
        let server = server().drain_timeout(Duration::from_millis(100));
        end(server.run_with(|_| Thinker, says_ready));
    }
    let mut other = Other::new(test, "run");
    let mut client = connect(other.says("READY").parse().unwrap());
    client.write_all(b"?").unwrap();
    other.says("THINKS");
    other.signal("TERM");
    assert!(other.says("ERROR").starts_with("loop 0 did not end"));
    assert_eq!(other.wait().code(), Some(1));
}

#[test]
fn a_signal_while_it_starts_is_obeyed_when_it_has_and_a_second_ends_it() {
    let test = "signals::a_signal_while_it_starts_is_obeyed_when_it_has_and_a_second_ends_it";
    if part().is_some() {
        let made = |_: &_| {
            println!("STARTS");
            until_told();
            Thinker
        };
        end(server().loops(Loops::Count(1)).run_with(made, says_ready));
    }
    let mut other = Other::new(test, "once");
    other.says("STARTS");
    other.signal("TERM");
    other.tell();
    assert_eq!(other.wait().code(), Some(0), "drained as soon as it stands");
    let mut other = Other::new(test, "twice");
    other.says("STARTS");
    other.signal("TERM");
    other.signal("QUIT");
    let code = other.wait().code();
    // Two that are pending at once are handled in the order of their numbers.
    assert!(code == Some(128 + 3) || code == Some(128 + 15), "{code:?}");
}

/// Only started, it left SIGTERM to kill, although the page of `wait` spoke of signals.
#[test]
fn one_that_is_only_started_heeds_signals_if_it_is_told_to() {
    let test = "signals::one_that_is_only_started_heeds_signals_if_it_is_told_to";
    if let Some(part) = part() {
        let mut server = server();
        if part == "told" {
            server = server.signals(true);
        }
        let running = server.start(|_| Thinker).unwrap();
        says_ready(&running);
        end(running.wait());
    }
    for (part, code, signal) in [("told", Some(0), None), ("left", None, Some(15))] {
        let mut other = Other::new(test, part);
        is_served(&mut connect(other.says("READY").parse().unwrap()));
        other.signal("TERM");
        let status = other.wait();
        assert_eq!((status.code(), status.signal()), (code, signal), "{part}");
    }
}
