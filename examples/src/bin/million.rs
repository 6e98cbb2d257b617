//! A million live connections on one machine, each of them proven.
//!
//!     cargo run --release --bin million
//!     cargo run --release --bin million -- --connections 30000 --hold 2s
//!     cargo run --release --bin million -- doctor
//!     cargo run --release --bin million -- --admin 127.0.0.1:9100   # and look at it in a browser
//!
//! On two machines:
//!
//!     million serve --listen 0.0.0.0:9000
//!     million swarm --target server:9000 --source 10.0.0.2 --source 10.0.0.3

use std::fs::OpenOptions;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use examples::flags::{LogFlag, fail, parse_time, start_log};
use examples::million::asked::{Accept, Asked, Count, FdTableAsked, LoopsAsked, Role};
use examples::million::conductor::{self, Wanted};
use examples::million::plan::Plan;
use examples::million::report::Report;
use examples::million::sources::LOOPBACK_SOURCES;
use examples::million::talk::ServerSetup;
use examples::million::trouble::Trouble;
use examples::million::{doctor, page, serve, swarm};
use net_core::Addr;
use net_core::process::Machine;

/// Holds a million live connections on one machine, and proves each of them.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Flags {
    #[command(subcommand)]
    part: Option<Part>,
    #[command(flatten)]
    size: Size,
    #[command(flatten)]
    server: ServerSize,
    #[command(flatten)]
    admin: AdminFlag,
    #[command(flatten)]
    run: RunFlags,
}

#[derive(Subcommand)]
enum Part {
    /// Only the server: until SIGTERM or SIGINT, which drain it
    Serve {
        /// Where to listen
        #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9000", value_parser = serve::address)]
        listen: SocketAddr,
        /// The most connections; one more is accepted and closed. Default: what the tables hold
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        max_connections: Option<u64>,
        #[command(flatten)]
        size: Size,
        #[command(flatten)]
        server: ServerSize,
        #[command(flatten)]
        admin: AdminFlag,
    },
    /// Only the clients, against a server that is there already
    Swarm {
        /// The server
        #[arg(long, value_name = "ADDR", value_parser = serve::address)]
        target: SocketAddr,
        /// A local address to come from (repeatable): one is good for 14,000 connections
        #[arg(long, value_name = "IP")]
        source: Vec<IpAddr>,
        #[command(flatten)]
        size: Size,
        #[command(flatten)]
        run: RunFlags,
    },
    /// Only the look at the machine
    Doctor {
        #[command(flatten)]
        size: Size,
        #[command(flatten)]
        server: ServerSize,
    },
    /// The server, led by its parent on standard input
    #[command(hide = true)]
    ServerHalf,
    /// The clients, led by their parent on standard input
    #[command(hide = true)]
    SwarmHalf,
}

#[derive(Args, Clone)]
struct Size {
    /// Connections: a number, or as many as fit. Default: a million, or what fits if that is less
    #[arg(long, value_name = "N|max")]
    connections: Option<Count>,
}

#[derive(Args, Clone)]
struct ServerSize {
    /// Loops of the server, 1 to 256. Default: one per core, or as many as the descriptor limit
    /// makes necessary
    #[arg(long, value_name = "N|per-core")]
    loops: Option<LoopsAsked>,
    /// Who accepts: one thread in exact rotation, or each loop for itself
    #[arg(long, value_enum, default_value_t)]
    accept: Accept,
    /// Descriptor tables: one for the process, one for each loop, or what the limit demands
    #[arg(long, value_enum, default_value_t)]
    fd_table: FdTableAsked,
}

#[derive(Args, Clone, Default)]
struct AdminFlag {
    /// Where the server shows what it does: /metrics, and a page for the browser
    #[arg(long, value_name = "ADDR")]
    admin: Option<Addr>,
    /// Time callbacks and connections, to be shown there; costs 16 bytes a connection
    #[arg(long, requires = "admin")]
    time_callbacks: bool,
}

impl AdminFlag {
    fn text(&self) -> Option<String> {
        self.admin.as_ref().map(Addr::to_string)
    }
}

#[derive(Args, Clone)]
struct RunFlags {
    /// How long all connections are held
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_time)]
    hold: Duration,
    /// The share of connections that is active meanwhile
    #[arg(long, value_name = "PERCENT", default_value = "1%", value_parser = parse_percent)]
    active: f64,
    /// Time between two pings of an active connection
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_time, hide = true)]
    ping_every: Duration,
    /// How long nothing may move before the run goes on with what there is
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = parse_time, hide = true)]
    patience: Duration,
    /// Where to write the report as JSON; the page goes beside it
    #[arg(long, value_name = "PATH", default_value = "target/million/report.json")]
    json: PathBuf,
    /// The seed of the messages. Default: a new one each time
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

fn parse_percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse::<f64>();
    match number {
        Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(percent / 100.0),
        _ => Err("write a share from 0% to 100%".to_owned()),
    }
}

fn asked(size: &Size, server: &ServerSize, role: Role) -> Asked {
    Asked {
        connections: size.connections.unwrap_or_default(),
        loops: server.loops.unwrap_or_default(),
        fd_table: server.fd_table,
        accept: server.accept,
        role,
    }
}

fn main() -> ExitCode {
    let Flags { part, size, server, admin, run } = Flags::parse();
    let log = start_log(LogFlag::Warn);
    let outcome = match part {
        None => {
            let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            lead(&asked(&size, &server, Role::Both), &run, &admin, listen, Vec::new())
        }
        Some(Part::Swarm { target, source, size, run }) => {
            let nothing = ServerSize {
                loops: None,
                accept: Accept::default(),
                fd_table: FdTableAsked::default(),
            };
            let role = Role::Swarm { source_addresses: source_addresses(target, &source) };
            lead(&asked(&size, &nothing, role), &run, &AdminFlag::default(), target, source)
        }
        Some(Part::Serve { listen, max_connections, size, server, admin }) => {
            stand(&asked(&size, &server, Role::Server), listen, max_connections, &admin)
        }
        Some(Part::Doctor { size, server }) => examine(&asked(&size, &server, Role::Both)),
        Some(Part::ServerHalf) => Ok(serve::led()),
        Some(Part::SwarmHalf) => Ok(swarm::led()),
    };
    drop(log);
    outcome.unwrap_or_else(|trouble| fail(trouble.exit_code(), &trouble.to_string()))
}

/// Addresses from which the swarm can come: all of 127.0.0.0/8 for a server on loopback.
fn source_addresses(target: SocketAddr, given: &[IpAddr]) -> u32 {
    let all = u32::try_from(LOOPBACK_SOURCES).unwrap_or(u32::MAX);
    match given.len() {
        0 if target.ip().is_loopback() && target.is_ipv4() => all,
        0 => 1,
        count => u32::try_from(count).unwrap_or(u32::MAX),
    }
}

fn look() -> Result<Machine, Trouble> {
    Machine::probe(Path::new("/")).map_err(|error| Trouble::Refused(error.to_string()))
}

fn make(machine: &Machine, asked: &Asked) -> Result<Plan, Trouble> {
    Plan::make(machine, asked).map_err(|refusal| Trouble::Refused(refusal.to_string()))
}

fn examine(asked: &Asked) -> Result<ExitCode, Trouble> {
    print(&doctor::examination(&look()?, asked));
    Ok(ExitCode::SUCCESS)
}

fn stand(
    asked: &Asked,
    listen: SocketAddr,
    max: Option<u64>,
    admin: &AdminFlag,
) -> Result<ExitCode, Trouble> {
    let plan = make(&look()?, asked)?;
    let tables = plan.server.expect("a plan whose role serves has the server's tables");
    let (accept, connections) = (plan.accept, max.unwrap_or(plan.connections));
    let setup = ServerSetup {
        listen,
        tables,
        accept,
        connections_max: max,
        connections,
        admin: admin.text(),
        time_callbacks: admin.time_callbacks,
    };
    Ok(serve::by_hand(&setup)?)
}

fn lead(
    asked: &Asked,
    run: &RunFlags,
    admin: &AdminFlag,
    server: SocketAddr,
    sources: Vec<IpAddr>,
) -> Result<ExitCode, Trouble> {
    let machine = look()?;
    let plan = make(&machine, asked)?;
    try_to_write(&run.json)?;
    print(&format!("{plan}\n"));
    let active = (plan.connections as f64 * run.active).round() as u64;
    let report = conductor::run(&Wanted {
        active: if run.active > 0.0 { active.max(1) } else { 0 },
        plan,
        machine,
        server,
        admin: admin.text(),
        time_callbacks: admin.time_callbacks,
        sources,
        hold: run.hold,
        ping_every: run.ping_every.max(Duration::from_millis(1)),
        patience: run.patience,
        seed: run.seed.unwrap_or_else(any_seed),
        command: std::env::args().collect::<Vec<_>>().join(" "),
    })?;
    print(&format!("{report}\n"));
    publish(&report, &run.json)?;
    match report.verdict() {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(fault) => Err(Trouble::Failed(fault)),
    }
}

/// Finds out before the run, and not after it, whether the report can be written.
fn try_to_write(json: &Path) -> Result<(), Trouble> {
    let refused = |error| Trouble::Refused(format!("write {}: {error}", json.display()));
    if let Some(directory) = json.parent() {
        std::fs::create_dir_all(directory).map_err(refused)?;
    }
    OpenOptions::new().create(true).append(true).open(json).map_err(refused)?;
    Ok(())
}

fn publish(report: &Report, json: &Path) -> Result<(), Trouble> {
    let html = json.with_file_name("report.html");
    page::write(&html, report).map_err(|error| error.to_string())?;
    let text = report.json().map_err(|error| error.to_string())?;
    std::fs::write(json, text).map_err(|e| format!("write {}: {e}", json.display()))?;
    print(&format!("  {} and {}\n", html.display(), json.display()));
    Ok(())
}

/// A number that differs from run to run.
fn any_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}

/// Prints the text. A closed standard output is no error.
fn print(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}
