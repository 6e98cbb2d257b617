//! The million example from outside: whole runs of the real program, small ones, and what it says
//! when something is wrong.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

#[path = "common/child.rs"]
mod child;
#[path = "million/run.rs"]
mod run;

use child::Bounded;
use run::*;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;

/// A whole run of 2,000 connections; its report.
fn proves_all(name: &str, nofile: u32, flags: &str) -> serde_json::Value {
    let directory = Directory::new(name);
    let json = directory.json();
    let output = run(nofile, &format!("--connections 2000 --hold 1s --json {json} {flags}"));
    let said = format!("{}\n{}", text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("2,000 connections, all proven."), "{said}");
    let page = std::fs::read_to_string(directory.0.join("report.html")).unwrap();
    assert!(page.contains("<svg") && page.contains("2,000 live connections"));
    let report = directory.report();
    for key in ["connected", "verified", "held_at_once"] {
        assert_eq!(report[key], 2_000, "{key}: {said}");
    }
    for key in ["wrong", "missing", "lost"] {
        assert_eq!(report[key], 0, "{key}: {said}");
    }
    assert_eq!(report["broadcast"]["delivered"], 2_000);
    assert_eq!(report["books_balance"], true);
    let closed = report["closed"].as_object().unwrap();
    assert_eq!(closed.values().map(|count| count.as_u64().unwrap()).sum::<u64>(), 2_000);
    // Half are the server's, but for the few that were about to be closed when the drain began.
    assert!(closed["draining"].as_u64().unwrap().abs_diff(1_000) < 100, "{closed:?}");
    report
}

#[test]
fn a_shared_table_proves_all() {
    let report = proves_all("shared", 20_000, "--fd-table shared --active 5%");
    assert_eq!(report["fd_table"], "shared");
    assert_eq!(report["hold"]["active"], 100);
    let keys = "asked connected verified wrong missing lost held_at_once connect_seconds \
        private_bytes user_bytes_per_connection kernel_bytes_per_pair slab rtt_us hold broadcast \
        closed books_balance loops fd_table accept";
    for key in keys.split_whitespace() {
        assert!(!report[key].is_null(), "{key}");
    }
    assert!(report["rtt_us"]["p50"].as_f64().unwrap() > 0.0);
    assert!(report["hold"]["p99_us"].as_f64().unwrap() > 0.0);
    assert!(report["private_bytes"]["full"].as_u64() > report["private_bytes"]["empty"].as_u64());
}

/// Nobody reads stderr, and its pipe is full: the lines of progress are dropped, and the run goes on.
#[test]
fn a_full_stderr_does_not_stop_a_run() {
    let directory = Directory::new("full-stderr");
    let (_reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(&[b'.'; 65536]).unwrap();
    let flags = format!("--connections 200 --hold 0s --json {}", directory.json());
    let mut command = million(20_000, &flags);
    command.stdout(Stdio::null()).stderr(writer);
    let status = child::spawn(&mut command, PATIENCE).end();
    assert_eq!(status.code(), Some(0), "{status}");
    assert_eq!(directory.report()["verified"], 200);
}

#[test]
fn private_tables_prove_more_than_one_of_them_holds() {
    let report = proves_all("private", 700, "--loops 5");
    assert_eq!(report["fd_table"], "per-loop");
    assert_eq!(report["loops"], 5);
}

#[test]
fn loops_that_accept_for_themselves_prove_all() {
    let report = proves_all("reuseport", 20_000, "--accept reuseport --loops 3");
    assert_eq!(report["accept"], "reuseport");
}

#[test]
fn what_does_not_fit_is_refused_with_the_arithmetic() {
    let refused = |nofile, flags: &str| sentence(&run(nofile, flags), 2);
    assert_eq!(
        refused(2_100, "--loops 2 --connections 100000"),
        "2 private tables × 2,000 = 4,000 < 100,000: use ≥ 50 loops or raise nofile",
    );
    let too_many = refused(20_000, "--connections 100000000000");
    assert!(too_many.contains("100,000,000,000"), "{too_many}");
    let loops = refused(20_000, "--loops 257 --connections 10");
    assert!(loops.starts_with("257 loops > 256"), "{loops}");
    let shared = refused(20_000, "--fd-table shared --connections 30000");
    assert!(shared.starts_with("1 shared table × "), "{shared}");
}

#[test]
fn flags_that_make_no_sense_are_refused() {
    for flags in [
        "--connections 0",
        "--connections many",
        "--loops 0",
        "--active 101%",
        "--hold tomorrow",
        "--fd-table private",
        "--accept nobody",
        "--million",
        "swarm",
        "swarm --target nowhere",
        "serve --listen 127.0.0.1",
        "--connections 10 serve",
    ] {
        let output = run(1_000, flags);
        assert_eq!(output.status.code(), Some(2), "{flags}: {}", text(&output.stderr));
        assert!(text(&output.stderr).starts_with("error: "), "{flags}");
    }
}

#[test]
fn a_report_that_cannot_be_written_is_refused_before_the_run() {
    let said = sentence(&run(1_000, "--connections 10 --json /proc/no/report.json"), 2);
    assert!(said.starts_with("write /proc/no/report.json: "), "{said}");
}

#[test]
fn the_doctor_only_looks() {
    let output = run(1_000, "doctor");
    let said = text(&output.stdout);
    assert!(output.status.success(), "{said}");
    for word in ["nofile", "1,000 hard", "fs.file-max", "tcp_mem", "descriptors of the server"] {
        assert!(said.contains(word), "{word} in {said}");
    }
}

#[test]
fn an_interrupt_leaves_nothing_behind() {
    for signal in ["-INT", "-TERM"] {
        let directory = Directory::new(&format!("interrupt{signal}"));
        let json = directory.json();
        let mut run = Started::new(&format!("--connections 2000 --hold 1h --json {json}"));
        run.wait_for("all are held");
        let halves = run.halves();
        run.signal(signal);
        let (code, said) = run.end();
        assert_eq!(code, Some(130), "{said}");
        assert!(said.contains("error: interrupted: both halves have ended"), "{said}");
        are_gone(halves);
    }
}

#[test]
fn the_server_shows_itself_while_it_is_held() {
    let directory = Directory::new("admin");
    let json = directory.json();
    let [.., high, low] = std::process::id().to_be_bytes();
    let admin = format!("127.9.{high}.{low}:9100"); // nobody else's in a test run
    let mut run =
        Started::new(&format!("--connections 2000 --hold 1h --admin {admin} --json {json}"));
    run.wait_for("all are held");
    let mut client = TcpStream::connect(&admin).unwrap();
    client.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("\nnet_core_connections 2000\n"), "{answer}");
    run.signal("-INT");
    assert_eq!(run.end().0, Some(130));
    let said = sentence(&crate::run(1_000, "--connections 10 --admin nowhere"), 2);
    assert!(said.contains("nowhere"), "{said}");
}

#[test]
fn halves_end_when_their_parent_is_killed() {
    let directory = Directory::new("orphans");
    let json = directory.json();
    let mut run = Started::new(&format!("--connections 1000 --hold 1h --json {json}"));
    run.wait_for("all are held");
    let halves = run.halves();
    run.signal("-KILL");
    are_gone(halves);
}

#[test]
fn a_half_that_dies_is_one_clear_sentence() {
    for (victim, sentence) in
        [(1, "the swarm died: signal: 9 (SIGKILL)"), (0, "the server died: signal: 9 (SIGKILL)")]
    {
        let directory = Directory::new(&format!("victim{victim}"));
        let json = directory.json();
        let mut run = Started::new(&format!("--connections 2000 --hold 1h --json {json}"));
        run.wait_for("all are held");
        let halves = run.halves();
        kill("-KILL", halves[victim]);
        let (code, said) = run.end();
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(&format!("error: {sentence}\n")), "{said}");
        are_gone(halves);
    }
}

/// `million serve` by hand, and where it listens.
fn serve() -> (Bounded, String) {
    let mut command = million(20_000, "serve --listen 127.0.0.1:0 --connections 2000");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut server = child::spawn(&mut command, child::LIFE);
    let mut ready = String::new();
    BufReader::new(server.stdout.as_mut().unwrap()).read_line(&mut ready).unwrap();
    (server, ready.trim().strip_prefix("READY ").unwrap().to_owned())
}

#[test]
fn halves_work_by_hand_too() {
    let (mut server, at) = serve();
    let directory = Directory::new("by-hand");
    let json = directory.json();
    let flags = format!("swarm --target {at} --connections 1500 --hold 1s --json {json}");
    let output = run(20_000, &flags);
    let said = format!("{}\n{}", text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{said}");
    let report = directory.report();
    assert_eq!((&report["verified"], &report["lost"]), (&1_500.into(), &0.into()), "{said}");
    kill("-TERM", server.id());
    let output = server.output();
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("accepted 1,500, closed (peer_ended) 1,500: the books balance"),
        "{said}"
    );
}

#[test]
fn a_server_that_is_lost_makes_the_swarm_fail() {
    let (mut server, at) = serve();
    let directory = Directory::new("lost");
    let json = directory.json();
    let flags = format!("swarm --target {at} --connections 500 --hold 3s --json {json}");
    let mut swarm = Started::new(&format!("{flags} --patience 2s"));
    swarm.wait_for("all are held");
    server.kill().unwrap();
    server.end();
    let (code, said) = swarm.end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("error: of 500 connections: 500 lost"), "{said}");
    assert_eq!(directory.report()["lost"], 500);
}

#[test]
fn a_server_that_is_not_there_is_one_clear_sentence() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let directory = Directory::new("nobody");
    let flags = format!("swarm --target {nobody} --connections 20 --json {}", directory.json());
    let said = sentence(&run(1_000, &flags), 1);
    let expected = format!("connect to {nobody}: machine: ");
    assert!(said.starts_with(&expected) && said.contains("refused"), "{said}");
    assert!(said.ends_with("; 0 of 20 connections came up"), "{said}");
}

#[test]
fn an_address_in_use_is_one_clear_sentence() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap();
    let said = sentence(&run(1_000, &format!("serve --listen {at} --connections 10")), 1);
    assert!(said.starts_with(&format!("listen on {at}: ")), "{said}");
}

#[test]
fn a_server_that_answers_garbage_is_found_out() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            std::thread::spawn(move || {
                let mut said = [0; 64];
                // The greeting comes back as it was, and after it something else.
                let count = client.read(&mut said).unwrap_or(0);
                let _ = client.write_all(&said[..count]); // the client may be gone
                while let Ok(1..) = client.read(&mut said) {
                    let _ = client.write_all(&[b'x'; 32]);
                }
            });
        }
    });
    let directory = Directory::new("garbage");
    let json = directory.json();
    let flags = format!("swarm --target {at} --connections 50 --hold 0s --patience 2s");
    let said = sentence(&run(1_000, &format!("{flags} --active 0% --json {json}")), 1);
    assert!(said.starts_with("of 50 connections: 50 wrong, only 0 verified"), "{said}");
}

#[test]
fn a_server_that_never_answers_does_not_hang_the_swarm() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap(); // nobody accepts
    let at = listener.local_addr().unwrap();
    let directory = Directory::new("mute");
    let flags = format!("swarm --target {at} --connections 50 --patience 1s");
    let said = sentence(&run(1_000, &format!("{flags} --json {}", directory.json())), 1);
    assert!(said.ends_with("nothing moves any more; 0 of 50 connections came up"), "{said}");
}
