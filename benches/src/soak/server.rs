//! The child: a server with everything on. One handler, and a line of the protocol for each thing that a
//! server may be asked to do. `protocol` says what the lines mean.

use super::protocol::{
    BEAT, Books, FILE_BYTES, FLOOD_MAX, FRAME_MAX, LET_IN, LINE_MAX, MESSAGE_BYTES, REFUSAL, Ready,
};
use super::random::{bytes, fill};
use clap::Args;
use net_core::broadcast::BroadcastReport;
use net_core::framing::{LengthPrefix, Lines, Searched};
use net_core::handler::FileRange;
use net_core::jobs::{Pool, Slice};
use net_core::limits::{OverflowPolicy, Rate, WhenFull};
use net_core::metrics::Counter;
use net_core::server::{Accept, Ended, FdTable, PrivateTables};
use net_core::socket::Datagram;
use net_core::{
    Addr, Broadcast, Bytes, CloseReason, Conn, ConnId, Dial, Handler, Input, Limits, LoopContext,
    LoopInfo, Loops, Peer, Running, SendOutcome, Server, ServerHandle, StartError, TimerId,
};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{ExitCode, Termination};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

/// The payload of a panic that was asked for. Any other is told on standard error.
const ON_PURPOSE: &str = "on purpose";
/// What a `stream` sends at once.
const CHUNK: usize = 8 << 10;
/// The first of its ports: below those that the kernel gives to a process that asks for any. So when a child has
/// ended, and its clients still knock, no other process can have its ports and keep them waiting.
pub const PORT: u16 = 20_000;
/// Told when all of a `stream` is with the kernel.
const STREAM_SENT: u64 = 1;
/// How long the pool and the threads may take to end after the server.
const END_MAX: Duration = Duration::from_secs(10);
const LINES: Lines = Lines::new(LINE_MAX);

/// The server's flags.
#[derive(Args, Clone, Debug)]
pub struct ServerFlags {
    /// Where its first TCP listener is
    #[arg(long)]
    pub listen: SocketAddr,
    /// The address of all other listeners, which no other process has
    #[arg(long)]
    pub host: Ipv4Addr,
    /// Where its Unix listener is: a path, whose folder has the file too
    #[arg(long)]
    pub unix: PathBuf,
    /// The file that it offers
    #[arg(long)]
    pub file: PathBuf,
    /// Each loop accepts for itself
    #[arg(long)]
    pub reuseport: bool,
    /// Each loop has a descriptor table of its own
    #[arg(long)]
    pub private_tables: bool,
}

/// Bounds that a small crowd meets: so that each is met in a run.
fn limits() -> Limits {
    let (ms, seconds) = (Duration::from_millis, Duration::from_secs);
    Limits {
        connections_max: Some(150),
        when_full: WhenFull::ReuseIdle { min_idle: ms(500) },
        per_source_max: Some(80),
        accept_rate: Some(2000),
        accept_burst: 200,
        idle_timeout: Some(seconds(4)),
        first_byte_timeout: Some(seconds(1)),
        message_timeout: Some(seconds(1)),
        stuck_timeout: Some(seconds(3)),
        lifetime_max: Some(seconds(30)),
        heartbeat_interval: Some(seconds(1)),
        connect_timeout: seconds(3),
        write_timeout: seconds(3),
        linger_timeout: ms(500),
        drain_spread: ms(200),
        memory_budget: Some(8 << 20),
        pipes_max: 4,
        stall_threshold: Some(ms(100)),
        time_callbacks: true,
        ..Limits::default()
    }
}

/// Runs the server until a signal ends it. Its first line on standard output is [`Ready`], its last one
/// [`Books`].
pub fn serve(flags: &ServerFlags) -> ExitCode {
    speak_of_panics();
    // Where the C library has no such setting, it does what it does.
    let _ = net_core::process::set_malloc_mmap_threshold();
    end_with_the_parent();
    match run(flags) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("soak: the server: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: &ServerFlags) -> io::Result<ExitCode> {
    let before = threads_and_descriptors()?;
    let shared = Shared {
        pool: Pool::new(2, 16)?, // before the server, whose loops may have private tables
        jobs: AtomicU64::new(0),
        file: flags.file.clone(),
        own: OnceLock::new(),
    };
    let shared = Arc::new(shared);
    let (ready, for_loops) = (Arc::clone(&shared), Arc::clone(&shared));
    let factory = move |place: &LoopInfo<Message>| Soak::new(place, &for_loops);
    let ended = server(flags).run_with(factory, move |running| {
        let at = ready_of(running);
        // Not the first, which the next server may share.
        let _ = ready.own.set(at.tcp[1]); // the first to set it, too
        say(&at);
    });
    let ended: Ended = ended.map_err(|error: StartError| io::Error::other(error.to_string()))?;

    let mut books = books_of(&ended);
    wait_until(|| shared.pool.counts().waiting + shared.pool.counts().running == 0);
    let pool = shared.pool.counts();
    books.pool = (shared.jobs.load(Ordering::Relaxed), pool.answered + pool.dropped);
    drop(shared);
    let mut left = before;
    wait_until(|| {
        let now = threads_and_descriptors().unwrap_or(before);
        left = (now.0.saturating_sub(before.0), now.1.saturating_sub(before.1));
        left == (0, 0)
    });
    books.left = left;
    say(&books);
    Ok(ended.report())
}

fn server(flags: &ServerFlags) -> Server {
    let proxies = "127.0.0.0/8".parse().expect("a prefix");
    let at = |port: u16| SocketAddr::from((flags.host, PORT + port)).to_string();
    let server = Server::new()
        .loops(Loops::Count(2))
        .pin(false) // the clients have the same cores
        .accept(if flags.reuseport { Accept::ReusePort } else { Accept::Acceptor })
        .listen(&flags.listen.to_string())
        .listen(&at(1))
        .listen(&format!("unix:{}", flags.unix.display()))
        .listen_proxied(at(2).parse().expect("an address"), proxies)
        .datagrams(&at(3))
        .admin(&at(4))
        .refusal(REFUSAL)
        .drain_timeout(Duration::from_secs(5))
        .limits(limits());
    if !flags.private_tables {
        return server;
    }
    // SAFETY: the handlers open the file and make sockets on their own loop's thread, and pass none on;
    // nothing here is a subscriber of `tracing`, and no other thread makes or closes descriptors while
    // the server runs.
    server.fd_table(FdTable::PerLoop(unsafe { PrivateTables::promise() }))
}

/// What all loops share.
struct Shared {
    pool: Pool,
    /// Jobs that the pool has taken.
    jobs: AtomicU64,
    file: PathBuf,
    /// A listener of this server, which it dials.
    own: OnceLock<SocketAddr>,
}

/// From loop to loop.
enum Message {
    Hop { asker: ConnId, number: u64 },
    Published { publisher: ConnId, report: BroadcastReport },
}

struct Soak {
    number: usize,
    all: ServerHandle<Message>,
    shared: Arc<Shared>,
    /// Opened on this loop, whose descriptor table may be its own.
    file: Option<Arc<File>>,
    /// Timers under way, by their tags.
    timers: HashMap<u64, Waiting>,
    timers_so_far: u64,
}

/// Who waits for a timer, and for how many times it fires.
struct Waiting {
    conn: ConnId,
    timer: TimerId,
    left: u64,
}

struct Session {
    mode: Mode,
    lines: Searched,
    is_subscriber: bool,
    /// An answer is being made.
    is_asking: bool,
    /// The peer sends no more: the answer is the last.
    has_ended: bool,
}

/// What becomes of the bytes that come.
enum Mode {
    /// They are lines to answer.
    Lines,
    /// They go back.
    Echo,
    /// They go on to the other of the pair.
    Copy(ConnId),
    /// Dialled, for a tunnel: the loop sends them on.
    Tunnel,
    /// They are thrown away: a stream is on its way to the peer.
    Stream { stream: u64, from: u64, len: u64 },
    /// Dialled to ask for an answer, which goes on to who wants it.
    Asks { asker: ConnId, is_answered: bool },
}

impl Session {
    fn of(mode: Mode) -> Self {
        let lines = Searched::default();
        Self { mode, lines, is_subscriber: false, is_asking: false, has_ended: false }
    }
}

impl Soak {
    fn new(place: &LoopInfo<Message>, shared: &Arc<Shared>) -> Self {
        Self {
            number: place.number(),
            all: place.handle(),
            shared: Arc::clone(shared),
            file: None,
            timers: HashMap::new(),
            timers_so_far: 0,
        }
    }

    /// A line that asks for something. `None`: it is none.
    fn command(&mut self, conn: &mut Conn<'_, Self>, line: &[u8]) -> Option<()> {
        let line = str::from_utf8(line).ok()?;
        let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
        let (first, second) = rest.split_once(' ').unwrap_or((rest, ""));
        match command {
            "echo" => conn.session().mode = Mode::Echo,
            "slow" => {
                let rate = Rate::per_second(first.parse().ok()?);
                conn.limit_receive(Some(rate));
                conn.limit_send(Some(rate));
                conn.session().mode = Mode::Echo;
            }
            "tunnel" => self.join(conn, true),
            "pair" => self.join(conn, false),
            "file" => return self.send_file(conn, first.parse().ok()?, second.parse().ok()?),
            "stream" => {
                let (stream, len) = (first.parse().ok()?, second.parse().ok()?);
                conn.session().mode = Mode::Stream { stream, from: 0, len };
                pour(conn);
            }
            "flood" => return flood(conn, first, second.parse().ok()?),
            "frame" => {
                let len = second.parse().ok().filter(|len| *len <= FRAME_MAX)?;
                let payload = bytes(first.parse().ok()?, 0, len);
                let _ = conn.send_frame(&LengthPrefix::u32_be(FRAME_MAX), payload.into()).ok()?;
            }
            "sub" => {
                conn.subscribe(rest).ok()?;
                conn.session().is_subscriber = true;
                say_to(conn, "subscribed");
            }
            "unsub" => {
                conn.unsubscribe(rest);
                say_to(conn, "unsubscribed");
            }
            "pub" => self.publish(conn, first, second),
            "pool" => self.by_the_pool(conn, first.parse().ok()?),
            "slices" => in_slices(conn, first.parse().ok()?),
            "ask" => self.ask(conn, first.parse().ok()?),
            "hop" => self.hop(conn, first.parse().ok()?),
            "panic" => self.panic_in_the_pool(conn),
            "timer" => self.tick(conn, first.parse().ok()?, 1),
            "ticks" => self.tick(conn, first.parse().ok()?, second.parse().ok()?),
            "datagram" => {
                let at = first.parse().ok()?;
                let _ = conn.event_loop().send_datagram(0, at, second.as_bytes()); // counted
            }
            "adopt" => adopt(conn),
            "end" => end(conn, rest)?,
            _ => return None,
        }
        Some(())
    }

    /// Dials this very server, and brings the two together.
    fn join(&self, conn: &mut Conn<'_, Self>, is_tunnel: bool) {
        let id = conn.id();
        let mode = if is_tunnel { Mode::Tunnel } else { Mode::Copy(id) };
        match conn.event_loop().dial(self.own(), Session::of(mode)) {
            Ok(other) if is_tunnel => _ = conn.tunnel_with(other),
            Ok(other) => {
                conn.pair_with(other);
                conn.session().mode = Mode::Copy(other);
            }
            Err(_) => conn.reset(), // the server drains
        }
    }

    fn own(&self) -> SocketAddr {
        *self.shared.own.get().expect("set before any client knows where to come")
    }

    fn send_file(&mut self, conn: &mut Conn<'_, Self>, from: usize, len: usize) -> Option<()> {
        if from.checked_add(len)? > FILE_BYTES {
            return None;
        }
        let file = match &self.file {
            Some(file) => Arc::clone(file),
            None => match File::open(&self.shared.file) {
                Ok(opened) => Arc::clone(self.file.insert(Arc::new(opened))),
                Err(_) => {
                    say_to(conn, "busy"); // out of descriptors
                    return Some(());
                }
            },
        };
        say_to(conn, "sending");
        let _ = conn.send_file(FileRange::new(file, from as u64, len)); // refused: it is ending
        Some(())
    }

    fn publish(&self, conn: &mut Conn<'_, Self>, topic: &str, text: &str) {
        let (publisher, all) = (conn.id(), self.all.clone());
        let line = Broadcast::new(format!("{text}\n")).to_topic(topic.as_bytes().to_vec());
        self.all.broadcast(line.then(move |report| {
            // A loop that is over has no publisher any more.
            let _ = all.post(publisher.in_loop(), Message::Published { publisher, report });
        }));
    }

    fn by_the_pool(&self, conn: &mut Conn<'_, Self>, number: u64) {
        let work = move || {
            thread::sleep(Duration::from_millis(number % 4)); // as a disk would
            number + 1
        };
        let taken = self.shared.pool.offload(conn, work, |conn, answer| match answer {
            Ok(answer) => answered(conn, &format!("answer {answer}")),
            Err(_) => conn.reset(),
        });
        self.taken(conn, taken.is_ok());
    }

    fn panic_in_the_pool(&self, conn: &mut Conn<'_, Self>) {
        let work = || std::panic::panic_any(ON_PURPOSE);
        let taken = self.shared.pool.offload(conn, work, |conn, answer: Result<(), _>| {
            answered(conn, if answer.is_err() { "panicked" } else { "no panic" });
        });
        self.taken(conn, taken.is_ok());
    }

    fn taken(&self, conn: &mut Conn<'_, Self>, is_taken: bool) {
        if !is_taken {
            return say_to(conn, "busy");
        }
        self.shared.jobs.fetch_add(1, Ordering::Relaxed); // a count by itself
        asks(conn);
    }

    /// By a connection that is dialled for it, by name.
    fn ask(&self, conn: &mut Conn<'_, Self>, number: u64) {
        let dial = Dial::to_host(&format!("localhost:{}", self.own().port())).expect("a name");
        let session = Session::of(Mode::Asks { asker: conn.id(), is_answered: false });
        let Ok(dialled) = conn.event_loop().dial(dial, session) else {
            return say_to(conn, "busy");
        };
        asks(conn);
        if let Some(mut dialled) = conn.other(dialled) {
            let _ = dialled.send(format!("slices {number}\n").as_bytes()); // leaves when it is up
        }
    }

    fn hop(&self, conn: &mut Conn<'_, Self>, number: u64) {
        let (asker, next) = (conn.id(), (self.number + 1) % self.all.loops());
        if self.all.post(next, Message::Hop { asker, number }).is_err() {
            say_to(conn, "busy");
        }
    }

    fn tick(&mut self, conn: &mut Conn<'_, Self>, ms: u64, times: u64) {
        self.timers_so_far += 1;
        let (id, tag, after) = (conn.id(), self.timers_so_far, Duration::from_millis(ms));
        let mut here = conn.event_loop();
        let timer = if times == 1 { here.after(after, tag) } else { here.every(after, tag) };
        self.timers.insert(tag, Waiting { conn: id, timer, left: times });
    }

    /// What has come on a connection that was dialled to ask.
    fn pass_on(conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
        let Some(line) = input.take_line() else { return };
        let Mode::Asks { asker, is_answered } = &mut conn.session().mode else { return };
        let line = line.strip_prefix(LET_IN).unwrap_or(b"busy"); // refused, or in and answered
        *is_answered = true;
        let asker = *asker;
        if let Some(mut asker) = conn.other(asker) {
            answered(&mut asker, &String::from_utf8_lossy(line));
        }
        conn.close();
    }
}

/// Sends of a stream what the peer takes, until it is above its mark.
fn pour(conn: &mut Conn<'_, Soak>) {
    let (session, mut sender) = conn.split();
    let Mode::Stream { stream, from, len } = &mut session.mode else { return };
    let mut chunk = [0; CHUNK];
    while from < len {
        let n = CHUNK.min((*len - *from) as usize);
        fill(*stream, *from, &mut chunk[..n]);
        let queued = sender.send(&chunk[..n]);
        if !queued.is_taken() {
            return; // it is ending
        }
        *from += n as u64;
        if queued == SendOutcome::AboveHighWatermark {
            return; // on_writable goes on
        }
    }
    conn.notify_sent(STREAM_SENT);
}

fn flood(conn: &mut Conn<'_, Soak>, policy: &str, count: usize) -> Option<()> {
    if count > FLOOD_MAX {
        return None;
    }
    for number in 0..count as u64 {
        let at_limit = match policy {
            "close" => OverflowPolicy::Close,
            "newest" => OverflowPolicy::DropNewest,
            "oldest" => OverflowPolicy::DropOldest,
            "conflate" => OverflowPolicy::Conflate(number % 8),
            _ => return None,
        };
        if conn.send_with(message(number), at_limit) == SendOutcome::Refused {
            return Some(()); // at its limit, and so it ends
        }
    }
    conn.close();
    Some(())
}

/// A message of a flood.
fn message(number: u64) -> Bytes {
    let mut message = bytes(number, 0, MESSAGE_BYTES);
    message[..8].copy_from_slice(&number.to_be_bytes());
    message.into()
}

fn in_slices(conn: &mut Conn<'_, Soak>, number: u64) {
    let mut left = number % 20;
    let begun = conn.in_slices(move |_: &mut Soak, conn: &mut Conn<'_, Soak>| {
        if left > 0 {
            left -= 1;
            return Slice::More;
        }
        answered(conn, &format!("answer {}", number + 1));
        Slice::Done
    });
    match begun {
        Ok(()) => asks(conn),
        Err(_) => say_to(conn, "busy"),
    }
}

/// Gives the server one end of a pair, on whose other end something was said.
fn adopt(conn: &mut Conn<'_, Soak>) {
    let adopted = UnixStream::pair().and_then(|(ours, mut theirs)| {
        theirs.write_all(b"hop 1\n")?; // into an empty buffer
        conn.event_loop().adopt(ours.into()).map_err(io::Error::other)
    });
    say_to(conn, if adopted.is_ok() { "adopted" } else { "busy" });
}

fn end(conn: &mut Conn<'_, Soak>, how: &str) -> Option<()> {
    match how {
        "finish" => conn.finish(),
        "close" => conn.close(),
        "reset" => conn.reset(),
        "idle" => conn.close_when_idle(),
        "deadline" => conn.set_deadline(Some(Duration::from_millis(50))),
        "panic" => std::panic::panic_any(ON_PURPOSE),
        _ => return None,
    }
    Some(())
}

/// An answer is being made: a drain waits for it, and so does the end that a half-closed peer gets.
fn asks(conn: &mut Conn<'_, Soak>) {
    conn.session().is_asking = true;
    conn.set_busy(true);
}

fn answered(conn: &mut Conn<'_, Soak>, answer: &str) {
    say_to(conn, answer);
    conn.session().is_asking = false;
    conn.set_busy(false);
    if conn.session().has_ended {
        conn.finish();
    }
}

fn say_to(conn: &mut Conn<'_, Soak>, line: &str) {
    let _ = conn.send(format!("{line}\n").as_bytes()); // refused: it is ending
}

impl Handler for Soak {
    type Session = Session;
    type Message = Message;

    fn admit(&mut self, _peer: &Peer) -> Option<Session> {
        Some(Session::of(Mode::Lines))
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) {
        if matches!(conn.session().mode, Mode::Lines) {
            let _ = conn.send(LET_IN); // into an empty buffer
        }
    }

    fn on_data(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
        loop {
            match conn.session().mode {
                Mode::Echo => {
                    let _ = conn.echo(input); // refused: it is ending
                    return;
                }
                Mode::Copy(other) => {
                    let bytes = input.take_all();
                    if let Some(mut other) = conn.other(other) {
                        let _ = other.send(bytes); // refused: it is ending, and then so is this one
                    }
                    return;
                }
                Mode::Stream { .. } => {
                    input.take_all();
                    return;
                }
                Mode::Tunnel => return, // what is left here the tunnel takes along
                Mode::Asks { .. } => return Self::pass_on(conn, input),
                Mode::Lines => {}
            }
            let line = match input.take_frame(LINES.after(&mut conn.session().lines)) {
                Ok(Some(line)) => line,
                Ok(None) => return,
                Err(_) => return conn.close(),
            };
            if self.command(conn, line).is_none() {
                return conn.close();
            }
            if line == b"tunnel" {
                return;
            }
        }
    }

    fn on_writable(&mut self, conn: &mut Conn<'_, Self>) {
        pour(conn);
    }

    fn on_sent(&mut self, conn: &mut Conn<'_, Self>, _tag: u64) {
        conn.close();
    }

    fn on_end(&mut self, conn: &mut Conn<'_, Self>) {
        let Session { mode, is_asking, has_ended, .. } = conn.session();
        match *mode {
            Mode::Copy(other) => match conn.other(other) {
                Some(mut other) => other.finish(),
                None => conn.close(),
            },
            Mode::Stream { .. } => {} // who half-closes may be reading still
            _ if *is_asking => *has_ended = true,
            _ => conn.finish(),
        }
    }

    fn on_heartbeat(&mut self, conn: &mut Conn<'_, Self>) {
        if conn.session().is_subscriber {
            say_to(conn, BEAT);
        }
    }

    fn on_close(&mut self, conn: &mut Conn<'_, Self>, why: &CloseReason) {
        match conn.session().mode {
            Mode::Copy(other) => {
                let is_orderly = matches!(why, CloseReason::PeerEnded | CloseReason::Local);
                match conn.other(other) {
                    Some(mut other) if is_orderly => other.close(),
                    Some(mut other) => other.reset(),
                    None => {} // it was over first
                }
            }
            Mode::Asks { asker, is_answered: false } => {
                if let Some(mut asker) = conn.other(asker) {
                    answered(&mut asker, "busy");
                }
            }
            _ => {}
        }
    }

    fn on_message(&mut self, here: &mut LoopContext<'_, Self>, message: Message) {
        match message {
            Message::Hop { asker, number } => {
                let answer = format!("answer {}\n", number + 1);
                let _ = here.handle().send(asker, answer); // full: the asker is told nothing
            }
            Message::Published { publisher, report } => {
                let BroadcastReport { delivered, queued, dropped, loops_missed, .. } = report;
                if let Some(mut publisher) = here.connection(publisher) {
                    let line = format!("published {delivered} {queued} {dropped} {loops_missed}");
                    say_to(&mut publisher, &line);
                }
            }
        }
    }

    fn on_timer(&mut self, here: &mut LoopContext<'_, Self>, tag: u64) {
        let Some(waiting) = self.timers.get_mut(&tag) else { return };
        waiting.left -= 1;
        match here.connection(waiting.conn) {
            Some(mut conn) => say_to(&mut conn, "tick"),
            None => waiting.left = 0,
        }
        if waiting.left == 0 {
            here.cancel(waiting.timer);
            self.timers.remove(&tag);
        }
    }

    fn on_datagram(&mut self, _here: &mut LoopContext<'_, Self>, mut datagram: Datagram<'_>) {
        let _ = datagram.reply(datagram.bytes()); // dropped, and counted, if the socket is full
    }
}

fn ready_of(running: &Running<Message>) -> Ready {
    let inet = |addr: &Addr| addr.to_string().parse().expect("what was bound is an address");
    let addrs = running.addrs();
    Ready {
        tcp: addrs[..2].iter().map(inet).collect(),
        unix: addrs[2].to_string().trim_start_matches("unix:").to_owned(),
        proxied: inet(&addrs[3]),
        udp: inet(&running.datagram_addrs()[0]),
        admin: inet(running.admin_addr().expect("it was asked for")),
    }
}

/// The books as they are told.
pub(super) fn books_of(ended: &Ended) -> Books {
    let counts = Counter::ALL.iter().map(|&c| (c.label().to_owned(), ended.counts.get(c)));
    let closed = ended.counts.closed().map(|(label, n)| (label.to_owned(), n));
    Books {
        counts: counts
            .filter(|(_, n)| *n > 0)
            .chain([("open".into(), ended.counts.get(Counter::Open))])
            .collect(),
        closed: closed.filter(|(_, n)| *n > 0).collect(),
        ..Books::default()
    }
}

/// A line of JSON on standard output.
pub(super) fn say(what: &impl serde::Serialize) {
    let mut out = io::stdout();
    let line = serde_json::to_string(what).expect("plain values can be written");
    let _ = writeln!(out, "{line}").and_then(|()| out.flush()); // nobody is there: nobody asks
}

/// Panics that were asked for are not told.
fn speak_of_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.payload().downcast_ref() != Some(&ON_PURPOSE) {
            usual(panic);
        }
    }));
}

/// Standard input ends with the parent: then so does this process, wherever it is.
pub(super) fn end_with_the_parent() {
    thread::spawn(|| {
        let _ = io::stdin().read(&mut [0]); // nothing ever comes
        std::process::exit(1)
    });
}

fn threads_and_descriptors() -> io::Result<(u64, u64)> {
    let count = |folder| Ok::<_, io::Error>(fs::read_dir(folder)?.count() as u64);
    Ok((count("/proc/self/task")?, count("/proc/self/fd")?))
}

fn wait_until(mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() && start.elapsed() < END_MAX {
        thread::sleep(Duration::from_millis(5));
    }
}
