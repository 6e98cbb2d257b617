//! One half of the run, as its parent sees it: a child process that takes orders and sends news.
//!
//! Each half is a process group of its own. So a Ctrl-C at the terminal reaches only the parent, which ends
//! both halves in order. If the parent is killed, its ends of the pipes are closed. A half whose orders end
//! stops.

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::talk::{ServerNews, SwarmNews};

/// Which half.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Who {
    /// The server.
    Server,
    /// The clients.
    Swarm,
}

impl fmt::Display for Who {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Server => "server",
            Self::Swarm => "swarm",
        })
    }
}

/// A message of a half.
#[derive(Debug)]
pub enum Event {
    /// The server.
    Server(ServerNews),
    /// The swarm.
    Swarm(Box<SwarmNews>),
    /// The half says no more: its standard output has ended.
    Silent(Who),
}

/// A running half. A drop kills it.
pub struct Half {
    who: Who,
    child: Child,
    orders: Option<ChildStdin>,
}

impl Half {
    /// Starts this program again as that half. The name of the half is its hidden subcommand.
    ///
    /// # Errors
    /// One sentence on why it cannot be started.
    #[expect(clippy::disallowed_methods, reason = "`wait` has a bound, and a drop kills it")]
    pub fn start(who: Who, events: Sender<Event>) -> Result<Self, String> {
        let program = std::env::current_exe().map_err(|e| format!("find this program: {e}"))?;
        let mut child = Command::new(program)
            .arg(format!("{who}-half"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|error| format!("start the {who}: {error}"))?;
        let orders = child.stdin.take();
        let news = BufReader::new(child.stdout.take().expect("its output is a pipe of ours"));
        let half = Self { who, child, orders };
        let read = move || match who {
            Who::Server => read(news, &events, Event::Server, who),
            Who::Swarm => read(news, &events, |news| Event::Swarm(Box::new(news)), who),
        };
        thread::Builder::new()
            .name(format!("news-of-{who}"))
            .spawn(read)
            .map_err(|error| format!("start a thread: {error}"))?;
        Ok(half)
    }

    /// The process id of the half.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Gives an order. If the half is gone, its silence reports that.
    pub fn tell<T: Serialize>(&mut self, order: &T) {
        if let (Some(orders), Ok(line)) = (&mut self.orders, serde_json::to_string(order)) {
            let _ = writeln!(orders, "{line}").and_then(|()| orders.flush()); // see above
        }
    }

    /// Waits for the end of the half, for at most `patience`. The half gets no further order.
    pub fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        self.orders = None;
        let until = Instant::now() + patience;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if Instant::now() < until => thread::sleep(Duration::from_millis(5)),
                _ => return None,
            }
        }
    }

    /// Says in one sentence why the half is silent.
    pub fn obituary(&mut self) -> String {
        let who = self.who;
        match self.wait(Duration::from_secs(5)) {
            Some(status) => format!("the {who} died: {status}"),
            None => format!("the {who} closed its output and did not end"),
        }
    }
}

impl Drop for Half {
    #[expect(clippy::disallowed_methods, reason = "it was killed")]
    fn drop(&mut self) {
        if self.wait(Duration::ZERO).is_none() {
            let _ = self.child.kill(); // if this fails, it has just ended by itself
            let _ = self.child.wait();
        }
    }
}

/// Passes on what a half says, until its output ends.
fn read<T: DeserializeOwned>(
    news: impl BufRead,
    events: &Sender<Event>,
    event: impl Fn(T) -> Event,
    who: Who,
) {
    for line in news.lines() {
        let Ok(line) = line else { break };
        match serde_json::from_str(&line) {
            Ok(news) => {
                if events.send(event(news)).is_err() {
                    return; // no receiver: the run is over
                }
            }
            // Something of its own that printed there. It belongs where people look.
            Err(_) => crate::flags::say(&format!("{who}: {line}")),
        }
    }
    let _ = events.send(Event::Silent(who)); // as above
}
