//! The command line that every example server shares.

use clap::{Arg, Args, ValueEnum};
use net_core::limits::{Rate, WhenFull};
use net_core::process::{LogGuard, LogWriter};
use net_core::server::{Balance, FdTable, PrivateTables};
use net_core::socket::TrustedProxies;
use net_core::{Addr, Bytes, Handler, Limits, LoopInfo, Loops, Server};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// Log lines that wait while standard error is slow; more are dropped.
const LINES_QUEUED: usize = 1024;

/// The flags of a server. `--help` shows them with their defaults.
#[derive(Args, Clone, Debug)]
#[command(mut_args(takes_a_dash))]
pub struct ServerFlags {
    /// Where to listen.
    #[arg(long, help = "Where to listen: HOST:PORT, [V6]:PORT, unix:PATH or unix:@NAME (repeatable)", value_name = "ADDR", default_value = "127.0.0.1:9000", value_parser = parse_listen)]
    pub listen: Vec<Addr>,
    /// Serve these proxies alone, each of which says first, by a PROXY header, who the client is
    #[arg(long, help = "Serve only these proxies (10.0.0.0/8, ::1, unix), which announce each client by a PROXY header", value_name = "PREFIXES", value_parser = parse_proxies)]
    pub proxy_protocol: Option<TrustedProxies>,
    /// Loops, one thread each: a number from 1 to 256, or per-core
    #[arg(long, value_name = "N|per-core", default_value = "per-core", value_parser = parse_loops)]
    pub loops: Loops,
    /// Keep each loop on a core of its own (the default where there are as many loops as cores)
    #[arg(long, overrides_with = "no_pin")]
    pub pin: bool,
    /// Let the system move the loops between cores
    #[arg(long, overrides_with = "pin")]
    pub no_pin: bool,
    /// Who accepts: one thread for all loops, or each loop for itself
    #[arg(long, value_enum, default_value_t)]
    pub accept: AcceptFlag,
    /// How the acceptor spreads connections over the loops; with reuseport the kernel does
    #[arg(long, value_enum, default_value_t)]
    pub balance: BalanceFlag,
    /// Descriptor tables: one for the process, one for each loop, or what the limit demands
    #[arg(long, value_enum, default_value_t)]
    pub fd_table: FdTableFlag,
    /// The most connections; one more is accepted and closed. Default: what the tables hold
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_connections: Option<u32>,
    /// When full, close the longest idle of some of its loop, if idle for so long, for who comes. Default: refuse
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub reuse_idle: Option<Duration>,
    /// The most connections of one source (an IPv4 address, 64 bits of an IPv6 one, unless
    /// --source-prefix says otherwise); one more is accepted and closed. Default: any number
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_per_source: Option<u32>,
    /// First bits of an IPv4 and of an IPv6 address that are one source
    #[arg(long, value_name = "V4,V6", default_value = "32,64", value_parser = parse_prefixes)]
    pub source_prefix: (u8, u8),
    /// Accept so many connections a second, and BURST (1000) at once; others wait in the backlog. Default: all
    #[arg(long, value_name = "N[,BURST]", value_parser = parse_rate)]
    pub accept_rate: Option<(u32, u32)>,
    /// Tell a client that is not let in so, before it is closed; \r, \n, \t and \\ are understood
    #[arg(long, value_name = "TEXT", value_parser = parse_text)]
    pub refusal: Option<Bytes>,
    /// Close a connection on which nothing has moved for so long (60s, 500ms, 5m; 0: never)
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = parse_time)]
    pub idle_timeout: Duration,
    /// Close a new connection that has sent nothing for so long (0: never)
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = parse_time)]
    pub first_byte_timeout: Duration,
    /// Close a connection whose message has begun and is not whole after so long (0: never)
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = parse_time)]
    pub message_timeout: Duration,
    /// Close a connection that stays so long above its high watermark: its peer reads too slowly (0: never)
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = parse_time)]
    pub stuck_timeout: Duration,
    /// Close a connection that is so old, whatever it does (0: never)
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = parse_time)]
    pub max_lifetime: Duration,
    /// Bytes a second that each connection may bring, and as many that are sent to it (0: any number)
    #[arg(long, value_name = "BYTES", default_value = "0", value_parser = parse_bytes)]
    pub rate_limit: usize,
    /// Set by an example whose clients send datagrams: it receives them where it would listen.
    #[arg(skip)]
    pub datagrams: bool,
    /// Set by those examples whose protocol has a heartbeat.
    #[arg(skip)]
    pub heartbeat_interval: Option<Duration>,
    /// Unsent bytes of a connection above which its input waits
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub high_watermark: Option<usize>,
    /// Unsent bytes of a connection at which its input goes on
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub low_watermark: Option<usize>,
    /// Unsent bytes at which a connection is closed
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub output_limit: Option<usize>,
    /// Bytes that all loops may buffer; beyond, the most expensive are reset. Default: no bound
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub memory_budget: Option<usize>,
    /// How long a drain may take before what is left is reset
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_time)]
    pub drain_timeout: Duration,
    /// Over how long a drain lets its connections go, evenly (0: as fast as it goes)
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = parse_time)]
    pub drain_spread: Duration,
    /// Log and count a turn of a loop that takes so long, with the callback that runs (0: do not)
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = parse_time)]
    pub stall_threshold: Duration,
    /// Time callbacks and connections, for --admin: /connections?by=cpu says who takes most
    #[arg(long)]
    pub time_callbacks: bool,
    /// Serve /metrics, /healthz, /loops and /connections over HTTP on this address too
    #[arg(long, value_name = "ADDR", value_parser = parse_listen)]
    pub admin: Option<Addr>,
    /// A name by which a browser may call --admin, beside its addresses; again for another one
    #[arg(long, value_name = "NAME", requires = "admin")]
    pub admin_name: Vec<String>,
    /// A file that holds the token which --admin asks for; blanks around it do not count
    #[arg(long, value_name = "FILE", requires = "admin")]
    pub admin_token_file: Option<PathBuf>,
    /// What to log on standard error
    #[arg(long, value_enum, default_value_t)]
    pub log: LogFlag,
}

/// Who accepts connections.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AcceptFlag {
    /// One thread, in exact rotation.
    #[default]
    Acceptor,
    /// Each loop, by SO_REUSEPORT; on Unix sockets, which have no such thing, one thread.
    Reuseport,
}

/// How connections are spread.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BalanceFlag {
    /// In exact rotation.
    #[default]
    RoundRobin,
    /// To the loop with the fewest; equal ones take turns.
    LeastConnections,
    /// All connections of one IP address to one loop.
    SourceHash,
}

/// Which descriptor tables are used.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FdTableFlag {
    /// The process's one.
    Shared,
    /// One for each loop.
    PerLoop,
    /// One for each loop if `--max-connections` asks for more than one holds, and the system allows it.
    #[default]
    Auto,
}

/// How much is logged.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // the levels of `tracing`
pub enum LogFlag {
    Off,
    Error,
    #[default]
    Warn,
    Info,
    Debug,
    Trace,
}

/// So that `-1` is refused as a value of its flag, and not as a flag; and `--refusal '-ERR full'` is one.
fn takes_a_dash(arg: Arg) -> Arg {
    let takes_values = arg.get_action().takes_values();
    arg.allow_hyphen_values(takes_values)
}

/// Says so if the system refuses them; then the one table has to do, and the server says for how many.
fn has_private_tables() -> bool {
    let probed = PrivateTables::probe();
    if let Err(error) = &probed {
        tracing::warn!(%error, "--fd-table auto: no private tables here (unshare, close_range)");
    }
    probed.is_ok()
}

fn parse_listen(text: &str) -> Result<Addr, String> {
    Addr::from_str(text).map_err(|error| error.to_string())
}

fn parse_proxies(text: &str) -> Result<TrustedProxies, String> {
    TrustedProxies::from_str(text).map_err(|error| error.to_string())
}

fn parse_loops(text: &str) -> Result<Loops, String> {
    if text == "per-core" {
        return Ok(Loops::PerCore);
    }
    match text.parse() {
        Ok(n @ 1..=net_core::limits::LOOPS_MAX) => Ok(Loops::Count(n)),
        _ => Err(format!("write a number from 1 to {} or per-core", net_core::limits::LOOPS_MAX)),
    }
}

fn parse_prefixes(text: &str) -> Result<(u8, u8), String> {
    let parsed =
        text.split_once(',').and_then(|(v4, v6)| Some((v4.parse().ok()?, v6.parse().ok()?)));
    parsed.ok_or_else(|| "write two numbers of bits, as in 24,48".to_owned())
}

fn parse_rate(text: &str) -> Result<(u32, u32), String> {
    let (rate, burst) = match text.split_once(',') {
        Some((rate, burst)) => (rate.parse(), burst.parse()),
        None => (text.parse(), Ok(Limits::default().accept_burst)),
    };
    match (rate, burst) {
        (Ok(rate), Ok(burst)) => Ok((rate, burst)),
        _ => Err("write connections a second, and perhaps a burst, as in 5000,100".to_owned()),
    }
}

/// Text in which a backslash begins what a shell does not easily write.
fn parse_text(text: &str) -> Result<Bytes, String> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        bytes.push(match rest.next() {
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'\\') => b'\\',
            _ => return Err("behind a backslash comes n, r, t or another one".to_owned()),
        });
    }
    Ok(bytes.into())
}

/// A time as people write it: `60s`, `500ms`, `5m`, `1h`; a bare number is seconds.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| "write a time like 60s or 500ms".to_owned())?;
    let seconds = match unit {
        "ms" => number / 1e3,
        "" | "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(format!("unknown unit `{unit}`: use ms, s, m or h")),
    };
    Duration::try_from_secs_f64(seconds).map_err(|_| "the time is too long".to_owned())
}

/// Bytes as people write them: `65536`, `64k`, `1m`.
pub fn parse_bytes(text: &str) -> Result<usize, String> {
    let lower = text.to_ascii_lowercase();
    let (number, unit) = match lower.strip_suffix(['k', 'm', 'g']) {
        Some(number) if lower.ends_with('k') => (number, 1 << 10),
        Some(number) if lower.ends_with('m') => (number, 1 << 20),
        Some(number) => (number, 1usize << 30),
        None => (lower.as_str(), 1),
    };
    let number: usize =
        number.parse().map_err(|_| "write bytes like 65536, 64k or 1m".to_owned())?;
    number.checked_mul(unit).ok_or_else(|| "that is more than memory".to_owned())
}

impl ServerFlags {
    /// The server that the flags describe, or one sentence on what is not possible.
    pub fn server(&self) -> Result<Server, String> {
        let mut server = Server::new()
            .loops(self.loops)
            .accept(match self.accept {
                AcceptFlag::Acceptor => net_core::server::Accept::Acceptor,
                AcceptFlag::Reuseport => net_core::server::Accept::ReusePort,
            })
            .balance(match self.balance {
                BalanceFlag::RoundRobin => Balance::RoundRobin,
                BalanceFlag::LeastConnections => Balance::LeastConnections,
                BalanceFlag::SourceHash => Balance::SourceHash,
            })
            .limits(self.limits())
            .refusal(self.refusal.clone().unwrap_or_default())
            .drain_timeout(self.drain_timeout);
        if self.pin || self.no_pin {
            server = server.pin(self.pin);
        }
        server.check().map_err(|error| error.to_string())?;
        if self.datagrams && self.proxy_protocol.is_some() {
            return Err("--proxy-protocol: a proxy announces connections, not datagrams".to_owned());
        }
        for at in &self.listen {
            server = match &self.proxy_protocol {
                _ if self.datagrams => server.datagrams_at(at.clone()),
                None => server.listen_at(at.clone()),
                Some(proxies) => server.listen_proxied(at.clone(), proxies.clone()),
            };
        }
        if let Some(at) = &self.admin {
            server = server.admin_at(at.clone());
        }
        for name in &self.admin_name {
            server = server.admin_name(name);
        }
        if let Some(file) = &self.admin_token_file {
            let token = std::fs::read_to_string(file)
                .map_err(|error| format!("--admin-token-file {}: {error}", file.display()))?;
            server = server.admin_token(token.trim());
        }
        let wants_private = match self.fd_table {
            FdTableFlag::Shared => false,
            FdTableFlag::PerLoop => true,
            FdTableFlag::Auto => match self.max_connections {
                Some(max) => {
                    let one_holds = server.capacity().map_err(|error| error.to_string())?;
                    max as usize > one_holds && has_private_tables()
                }
                None => false,
            },
        };
        // SAFETY: the examples' handlers and factories hold memory only, no descriptor, and start
        // no thread; what they print goes to standard error.
        let promise = unsafe { PrivateTables::promise() };
        Ok(server.fd_table(if wants_private { FdTable::PerLoop(promise) } else { FdTable::Shared }))
    }

    fn limits(&self) -> Limits {
        let some = |time: Duration| Some(time).filter(|time| !time.is_zero());
        let rate = Some(self.rate_limit as u64).filter(|n| *n > 0).map(Rate::per_second);
        let defaults = Limits::default();
        // One mark given moves the others with it, so that they never cross by default.
        let high = self.high_watermark.unwrap_or_else(|| {
            let at_least = self.low_watermark.unwrap_or(0).max(defaults.high_watermark);
            at_least.min(self.output_limit.unwrap_or(usize::MAX))
        });
        Limits {
            connections_max: self.max_connections.map(|n| n as usize),
            when_full: self
                .reuse_idle
                .map_or(WhenFull::Refuse, |min_idle| WhenFull::ReuseIdle { min_idle }),
            per_source_max: self.max_per_source.map(|n| n as usize),
            source_prefix_v4: self.source_prefix.0,
            source_prefix_v6: self.source_prefix.1,
            accept_rate: self.accept_rate.map(|(rate, _)| rate),
            accept_burst: self.accept_rate.map_or(defaults.accept_burst, |(_, burst)| burst),
            idle_timeout: some(self.idle_timeout),
            first_byte_timeout: some(self.first_byte_timeout),
            message_timeout: some(self.message_timeout),
            stuck_timeout: some(self.stuck_timeout),
            lifetime_max: some(self.max_lifetime),
            heartbeat_interval: self.heartbeat_interval,
            receive_rate: rate,
            send_rate: rate,
            drain_spread: self.drain_spread,
            stall_threshold: some(self.stall_threshold),
            time_callbacks: self.time_callbacks,
            high_watermark: high,
            low_watermark: self.low_watermark.unwrap_or(defaults.low_watermark.min(high)),
            memory_budget: self.memory_budget,
            output_limit: self.output_limit.unwrap_or(defaults.output_limit.max(high)),
            ..defaults
        }
    }
}

/// Sends the log to standard error for as long as the guard lives. A closed or stuck one hurts
/// nobody: a thread of its own writes, and what it cannot keep up with is dropped. Nor does a file that
/// has come to its size limit, whose signal would end the program. Call it before the server starts.
#[must_use = "the last lines are written when the guard is dropped"]
pub fn start_log(level: LogFlag) -> Option<LogGuard> {
    // Caught, so that the write fails instead. Nobody looks at the flag.
    let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default());
    let level = match level {
        LogFlag::Off => return None,
        LogFlag::Error => tracing::Level::ERROR,
        LogFlag::Warn => tracing::Level::WARN,
        LogFlag::Info => tracing::Level::INFO,
        LogFlag::Debug => tracing::Level::DEBUG,
        LogFlag::Trace => tracing::Level::TRACE,
    };
    let log = tracing_subscriber::fmt().with_max_level(level).with_ansi(false);
    // Where its thread cannot start the server's will not either, and that is what is said.
    let (writer, guard) = LogWriter::start(std::io::stderr(), LINES_QUEUED).ok()?;
    // Somebody else's subscriber is as good.
    let _ = log.with_writer(move || writer.clone()).try_init();
    Some(guard)
}

/// Runs an example server: the log, the start, one `READY ADDR` line on standard output, and the
/// exit code. What is wrong with the flags is one sentence and exit code 2.
pub fn run<H, F>(flags: &ServerFlags, factory: F) -> ExitCode
where
    H: Handler,
    F: Fn(&LoopInfo<H::Message>) -> H + Send + Sync + 'static,
{
    let _log = start_log(flags.log);
    // Where the C library has no such setting, it does what it does.
    let _ = net_core::process::set_malloc_mmap_threshold();
    let server = match flags.server() {
        Ok(server) => server,
        Err(what) => return fail(2, &what),
    };
    let ended = server.run_with(factory, |running| {
        let addrs = running.addrs().iter().chain(running.datagram_addrs());
        let addrs: Vec<_> = addrs.map(ToString::to_string).collect();
        say_ready(&addrs.join(" "));
    });
    match ended {
        Ok(ended) => std::process::Termination::report(ended),
        Err(error) => fail(1, &error.to_string()),
    }
}

/// Writes the one line on standard output, `READY ADDR`, and does not wait until it is written: the reader
/// may have gone, or may never read.
pub fn say_ready(at: &str) {
    write_within(Duration::ZERO, format!("READY {at}\n"), |line| {
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
    });
}

/// Writes what is wrong on standard error, and returns the exit code with which the program ends.
///
/// It waits a second at most ([`say`]), since the supervisor waits for the exit code.
pub fn fail(code: u8, what: &str) -> ExitCode {
    say(&format!("error: {what}"));
    ExitCode::from(code)
}

/// Writes a line on standard error, and waits for it a second at most. Standard error may be a pipe that
/// nobody reads, or the log's thread may hold it in a write that does not return.
pub fn say(line: &str) {
    write_within(SAY_MAX, format!("{line}\n"), |line| {
        let _ = std::io::stderr().write_all(line.as_bytes());
    });
}

/// How long [`say`] waits.
const SAY_MAX: Duration = Duration::from_secs(1);

/// Writes a line on a thread of its own, and waits for at most `patience`. If no thread can start, this
/// thread writes the line: without the line, the program that started the server would wait for ever.
fn write_within(patience: Duration, line: String, write: fn(&str)) {
    let line: Arc<str> = line.into();
    let shared = Arc::clone(&line);
    let (done, is_done) = mpsc::channel();
    let started = std::thread::Builder::new().name("say".into()).spawn(move || {
        write(&shared);
        let _ = done.send(());
    });
    match started {
        Ok(_) => drop(is_done.recv_timeout(patience)),
        Err(_) => write(&line),
    }
}
