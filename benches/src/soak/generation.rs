//! A run: one child after the other, each in its own mode and with its own end, under load and faults.

use super::child::{Holds, STOP_MAX, Server, unexpected};
use super::clients::Client;
use super::connection::Tally;
use super::group::{self, Group};
use super::protocol::{Books, FILE_BYTES, FILE_STREAM};
use super::random::{Random, bytes};
use super::server::PORT;
use crate::folder::Folder;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Private memory that a child may hold at its last quiet moment beyond that of its first: what each
/// of its two loops keeps for the next burst (`pool_retain_bytes`, 1 MiB), and as much for the
/// allocator's pages of which some are in use.
const GROWTH_MAX: u64 = 4 << 20;
/// The same, where the first of its two loads was too short to bring all that it ever needs.
const COLD_GROWTH_MAX: u64 = 8 << 20;
/// How long that load must be.
const WARM: Duration = Duration::from_secs(10);
/// Descriptors that it may hold beyond: two for each spare pipe of a loop, and the file.
const DESCRIPTORS_MAX: usize = 10;
/// Threads: those that look names up.
const THREADS_MAX: usize = 4;
/// How long a child is under load at least: but for its start, its quiet moments and its end.
const LIFE_MIN: Duration = Duration::from_secs(3);
/// Why the server may end the connection of a client that has not asked for it.
const REASONS: [&str; 13] = [
    "connect_timeout",
    "first_byte",
    "idle",
    "lifetime",
    "machine",
    "memory_budget",
    "message_timeout",
    "output_limit",
    "proxy_header",
    "refused",
    "reused",
    "stuck",
    "write_timeout",
];
/// How much longer than planned a step may take before the run is given up.
const STEP_MAX: Duration = Duration::from_secs(240);

/// What a run is to be.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Decides what the clients do, and when what faults come.
    pub seed: u64,
    /// How long it takes, about; each mode has its turn.
    pub time: Duration,
    /// How long each child is under load at most.
    pub life_max: Duration,
    /// The generation to begin with: so that what one of a long run has shown is seen again sooner.
    pub first: usize,
    /// What is added to a generation's number to get the next one's. With [`MODES`] the mode stays.
    pub step: usize,
    /// Threads of clients.
    pub threads: usize,
    /// The limit of the child's control group, in bytes.
    pub memory_limit: u64,
}

/// How a child ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// One SIGTERM.
    Drain,
    /// The same, when the next child listens on its address already.
    Beside,
    /// A second SIGTERM.
    Cut,
}

impl End {
    /// The exit code that follows.
    fn code(self) -> i32 {
        match self {
            End::Drain | End::Beside => 0,
            End::Cut => 128 + libc::SIGTERM,
        }
    }
}

struct Mode {
    name: &'static str,
    flags: &'static [&'static str],
    end: End,
}

/// Modes that have their turns.
pub const MODES: usize = 4;
/// In turn. `Beside` needs listeners of their own for each loop, in this one and the next.
const EACH: [Mode; MODES] = [
    Mode { name: "acceptor, shared table", flags: &[], end: End::Drain },
    Mode {
        name: "reuseport, private tables",
        flags: &["--reuseport", "--private-tables"],
        end: End::Beside,
    },
    Mode { name: "reuseport, shared table", flags: &["--reuseport"], end: End::Cut },
    Mode { name: "acceptor, private tables", flags: &["--private-tables"], end: End::Drain },
];

/// A child that was seen to its end.
struct Life {
    number: usize,
    seconds: f64,
    tally: Tally,
    faults: usize,
    first: Holds,
    last: Holds,
    books: Books,
    wrong: Vec<String>,
}

/// Runs it. Returns what was wrong.
pub fn run(plan: &Plan) -> io::Result<Vec<String>> {
    let folder = Folder::new("soak")?;
    std::fs::write(folder.file("file"), bytes(FILE_STREAM, 0, FILE_BYTES))?;
    let groups = group::parent();
    let run = Run { plan, has_groups: groups.is_ok(), folder, watchdog: Watchdog::start() };
    let share = plan.time / MODES as u32;
    let life = share.saturating_sub(LIFE_MIN).clamp(LIFE_MIN, plan.life_max);
    println!("seed {}; each generation has {life:?} of load", plan.seed);
    match groups {
        Ok((_, file)) => println!("memory limit: {} MiB, by {file}\n", plan.memory_limit >> 20),
        Err(error) => println!("LEFT OUT: the memory limit, for {error}\n"),
    }
    println!(
        "| | mode, end | s | faults | clients' connections | cut short, and named | MB compared | accepted + dialled + given | \
         ends | private KiB | descriptors, threads |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");

    let (start, mut lives, mut next) = (Instant::now(), Vec::new(), None);
    while lives.len() < MODES || start.elapsed() + life < plan.time {
        let number = plan.first + lives.len() * plan.step;
        let server = match next.take() {
            Some(server) => server,
            None => run.start(number, None)?,
        };
        let (seen, successor) = run.see(number, server, life)?;
        println!("{}", seen.row());
        next = successor;
        lives.push(seen);
    }
    if let Some(successor) = next {
        successor.terminate(1)?;
        let (status, books) = successor.end()?;
        lives.last_mut().expect("there was one").wrong.extend(unexpected(status, 0));
        lives.last_mut().expect("there was one").wrong.extend(books.wrong());
    }
    Ok(verdict(&lives))
}

struct Run<'a> {
    plan: &'a Plan,
    /// Each child can have a control group.
    has_groups: bool,
    folder: Folder,
    watchdog: Watchdog,
}

impl Run<'_> {
    fn unix(&self, number: usize) -> PathBuf {
        self.folder.file(&format!("{number}.sock"))
    }

    /// A child in the mode of that generation, at this address or any.
    fn start(&self, number: usize, at: Option<SocketAddr>) -> io::Result<Server> {
        self.watchdog.expect(&format!("start {number}"), Duration::ZERO);
        let host = host_of(number);
        let at = at.unwrap_or(SocketAddr::from((host, PORT)));
        let (unix, file) = (self.unix(number), self.folder.file("file"));
        let mut arguments = vec!["serve".to_owned(), format!("--listen={at}")];
        arguments.push(format!("--host={host}"));
        arguments.push(format!("--unix={}", unix.display()));
        arguments.push(format!("--file={}", file.display()));
        arguments.extend(mode(number).flags.iter().map(|&flag| flag.to_owned()));
        Server::start(&arguments)
    }

    /// Sees a child from its first client to its end. Where the next child was started beside it, that
    /// is returned too.
    fn see(
        &self,
        number: usize,
        mut server: Server,
        life: Duration,
    ) -> io::Result<(Life, Option<Server>)> {
        let (start, tally) = (Instant::now(), Tally::default());
        let group = match self.has_groups {
            true => Some(Group::limit(server.pid(), self.plan.memory_limit)?),
            false => None,
        };
        let (faults, first) = self.load(number, 0, &mut server, &tally, life / 3)?;
        let (more, last) = self.load(number, 1, &mut server, &tally, life / 3)?;
        let faults = faults + more;
        let (status, books, next) = self.end(number, server, &tally, life / 3)?;
        drop(group);

        let mut wrong: Vec<_> = unexpected(status, mode(number).end.code()).into_iter().collect();
        wrong.extend(books.wrong());
        wrong.extend(tally.complaints());
        if self.unix(number).exists() {
            wrong.push("its Unix socket's file is left".to_owned());
        }
        let seconds = start.elapsed().as_secs_f64();
        let mut seen = Life { number, seconds, tally, faults, first, last, books, wrong };
        seen.check(life / 3);
        Ok((seen, next))
    }

    /// Clients and faults for so long. Returns how many faults there were, and what the server holds when
    /// the last client has gone.
    fn load(
        &self,
        number: usize,
        part: u64,
        server: &mut Server,
        tally: &Tally,
        time: Duration,
    ) -> io::Result<(usize, Holds)> {
        self.watchdog.expect(&format!("load {part} of {number}"), time);
        let mut random = Random::new(self.plan.seed, &[number as u64, part]);
        let is_over = AtomicBool::new(false);
        let faults = thread::scope(|scope| {
            self.clients(scope, number, part, server, tally, &is_over);
            let done = do_faults(server, &mut random, time);
            is_over.store(true, Ordering::SeqCst);
            done
        });
        self.watchdog.expect(&format!("quiet {part} of {number}"), Duration::ZERO);
        let seen = faults.and_then(|faults| Ok((faults, server.quiet()?)));
        seen.map_err(|error| {
            // What clients say of a server that has died follows from that.
            let also = || [vec![error.to_string()], tally.complaints()].concat().join("; ");
            let how = server.died().unwrap_or_else(also);
            io::Error::other(format!("generation {number}: {how}"))
        })
    }

    /// Ends it while clients are at work. Where the next child was started beside it, that is returned too.
    fn end(
        &self,
        number: usize,
        server: Server,
        tally: &Tally,
        time: Duration,
    ) -> io::Result<(ExitStatus, Books, Option<Server>)> {
        self.watchdog.expect(&format!("end of {number}"), time);
        let (is_over, end) = (AtomicBool::new(false), mode(number).end);
        let (at, mut next) = (server.ready.tcp[0], None);
        let ended = thread::scope(|scope| {
            self.clients(scope, number, 2, &server, tally, &is_over);
            thread::sleep(time);
            tally.is_ending.store(true, Ordering::SeqCst);
            let end = || {
                if end == End::Beside {
                    next = Some(self.start(number + self.plan.step, Some(at))?);
                }
                server.terminate(if end == End::Cut { 2 } else { 1 })?;
                server.end()
            };
            let ended = end();
            is_over.store(true, Ordering::SeqCst);
            ended
        });
        let named = |error| io::Error::other(format!("generation {number}: {error}"));
        let (status, books) = ended.map_err(named)?;
        Ok((status, books, next))
    }

    /// Starts the clients' threads, until it is over.
    fn clients<'scope, 'env: 'scope>(
        &self,
        scope: &'scope thread::Scope<'scope, 'env>,
        number: usize,
        part: u64,
        server: &Server,
        tally: &'env Tally,
        is_over: &'env AtomicBool,
    ) {
        let ready = Arc::new(server.ready.clone());
        for thread in 0..self.plan.threads {
            let parts = [number as u64, part, thread as u64];
            let (random, ready) = (Random::new(self.plan.seed, &parts), Arc::clone(&ready));
            scope.spawn(move || {
                Client::new(tally, &ready, random, thread).run(&|| !is_over.load(Ordering::SeqCst));
            });
        }
    }
}

/// An address of its own for each child, and for those of another run beside this one.
fn host_of(number: usize) -> Ipv4Addr {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 64 + (number % 64) as u8, high, low)
}

fn mode(number: usize) -> &'static Mode {
    &EACH[number % MODES]
}

/// Faults one after the other, with some time between them. Returns how many.
fn do_faults(server: &Server, random: &mut Random, time: Duration) -> io::Result<usize> {
    let (start, mut faults) = (Instant::now(), 0);
    while start.elapsed() < time {
        let rest = time.saturating_sub(start.elapsed());
        thread::sleep(Duration::from_millis(random.between(200, 2000)).min(rest));
        let long = Duration::from_millis(random.between(50, STOP_MAX.as_millis() as u64));
        match random.one_in(3) {
            true => server.stop_for(long)?,
            false => server.starve_for(long, random.size(0, 10))?,
        }
        faults += 1;
    }
    Ok(faults)
}

impl Life {
    /// What must hold of any child.
    fn check(&mut self, load: Duration) {
        let may = if load < WARM { COLD_GROWTH_MAX } else { GROWTH_MAX };
        let (first, last) = (self.first, self.last);
        let mut wrong = Vec::new();
        if last.private > first.private + may {
            let grown = (last.private - first.private) / 1024;
            wrong.push(format!("private memory grew by {grown} KiB, and {} may", may / 1024));
        }
        if last.descriptors > first.descriptors + DESCRIPTORS_MAX {
            wrong.push(format!("{} descriptors became {}", first.descriptors, last.descriptors));
        }
        if last.threads > first.threads + THREADS_MAX {
            wrong.push(format!("{} threads became {}", first.threads, last.threads));
        }
        let (cut, named) = (self.tally.cut.load(Ordering::Relaxed), self.named());
        if cut > named {
            wrong.push(format!("{cut} clients were cut short, and the books name {named}"));
        }
        self.wrong.extend(wrong);
    }

    /// Clients that were cut short before the end, as far as the books name a reason.
    fn named(&self) -> u64 {
        let closed: u64 = REASONS.iter().filter_map(|&reason| self.books.closed.get(reason)).sum();
        closed + self.books.get("accept_shed") + self.books.get("lost_on_the_way")
    }

    fn row(&self) -> String {
        let Self { number, seconds, faults, books, first, last, .. } = self;
        let Mode { name, end, .. } = mode(*number);
        let connections = self.tally.connections.load(Ordering::Relaxed);
        let cut = self.tally.cut.load(Ordering::Relaxed);
        let megabytes = self.tally.bytes.load(Ordering::Relaxed) / 1_000_000;
        let came = ["accepted", "dialled", "adopted"].map(|way| books.get(way).to_string());
        let ends: Vec<_> = books.closed.iter().map(|(why, n)| format!("{why} {n}")).collect();
        format!(
            "| {number} | {name}, {end:?} | {seconds:.0} | {faults} | {connections} | {cut}, {} | {megabytes} | {} | {} | \
             {} to {} | {} to {}, {} to {} |{}",
            self.named(),
            came.join(" + "),
            ends.join(", "),
            first.private / 1024,
            last.private / 1024,
            first.descriptors,
            last.descriptors,
            first.threads,
            last.threads,
            if self.wrong.is_empty() { "" } else { " FAILED" }
        )
    }
}

/// What was wrong in any life, and from the first life of a mode to the last of it.
fn verdict(lives: &[Life]) -> Vec<String> {
    let of_life = |life: &Life| -> Vec<String> {
        life.wrong.iter().map(|what| format!("generation {}: {what}", life.number)).collect()
    };
    let mut wrong: Vec<String> = lives.iter().flat_map(of_life).collect();
    for (n, mode) in EACH.iter().enumerate() {
        let of_mode: Vec<_> = lives.iter().filter(|life| life.number % MODES == n).collect();
        let [first, .., last] = of_mode[..] else { continue };
        let (before, after) = (first.last.private, last.last.private);
        if after > before + GROWTH_MAX {
            let grown = (after - before) / 1024;
            wrong.push(format!("{}: {grown} KiB more in the last generation", mode.name));
        }
    }
    wrong
}

/// Ends this process when a step takes too long, and with it the child, whose standard input ends.
struct Watchdog(Arc<Mutex<(String, Instant)>>);

impl Watchdog {
    fn start() -> Self {
        let step = Arc::new(Mutex::new(("begin".to_owned(), Instant::now() + STEP_MAX)));
        let watched = Arc::clone(&step);
        thread::spawn(move || {
            loop {
                thread::sleep(Duration::from_secs(1));
                let (name, until) = &*watched.lock().unwrap_or_else(PoisonError::into_inner);
                if *until < Instant::now() {
                    println!("soak: FAILED: it hangs at: {name}");
                    std::process::exit(1);
                }
            }
        });
        Self(step)
    }

    /// The next step takes so long if all is well.
    fn expect(&self, name: &str, time: Duration) {
        let until = Instant::now() + time + STEP_MAX;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (name.to_owned(), until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(cut: u64, grown: u64) -> Life {
        let first = Holds { private: 10 << 20, descriptors: 30, threads: 8 };
        let last = Holds { private: first.private + grown, ..first };
        let (tally, mut books) = (Tally::default(), Books::default());
        tally.cut.store(cut, Ordering::Relaxed);
        books.closed.insert("reused".to_owned(), 2);
        books.counts.insert("accept_shed".to_owned(), 1);
        let (number, seconds, faults) = (0, 1.0, 0);
        let mut life =
            Life { number, seconds, tally, faults, first, last, books, wrong: Vec::new() };
        life.check(WARM);
        life
    }

    #[test]
    fn a_life_that_grew_or_cut_clients_without_a_reason_is_wrong() {
        assert!(life(3, GROWTH_MAX).wrong.is_empty());
        assert_eq!(life(4, 0).wrong.len(), 1);
        assert_eq!(life(0, GROWTH_MAX + 1).wrong.len(), 1);
    }

    #[test]
    fn growth_from_life_to_life_is_wrong_though_none_grew_by_much() {
        let lives: Vec<_> = (0..=MODES)
            .map(|number| {
                let mut life = life(0, 0);
                life.number = number;
                life.last.private += number as u64 * GROWTH_MAX;
                life
            })
            .collect();
        assert_eq!(verdict(&lives).len(), 1);
        assert!(verdict(&lives[..MODES]).is_empty(), "each has a mode of its own");
    }
}
