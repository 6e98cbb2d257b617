//! What cannot be served is said in one sentence, and ends with 2; what fails at start, with 1.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod common;

use common::*;
use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

/// Ends by itself, soon.
fn run(args: &[&str]) -> Output {
    let binary = env!("CARGO_BIN_EXE_echo");
    child::output(Command::new(binary).args(args), PATIENCE)
}

/// Refused, with 2, and a first line that says `what`. Nothing on standard output.
fn is_refused(args: &[&str], what: &str) {
    let output = run(args);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
    assert!(output.stdout.is_empty(), "{args:?}");
    let first = said.lines().next().unwrap_or_default();
    assert!(first.starts_with("error: ") && first.contains(what), "{args:?}: {said}");
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn unknown_and_wrong_values_are_named() {
    is_refused(&["--wat"], "--wat");
    is_refused(&["left over"], "left over");
    is_refused(&["--accept", "both"], "both");
    is_refused(&["--fd-table", "mine"], "mine");
    is_refused(&["--log", "loud"], "loud");
    is_refused(&["--balance", "fair"], "fair");
    is_refused(&["--listen"], "--listen");
    is_refused(&["--loops", "-1"], "--loops");
    is_refused(&["--idle-timeout", "-1s"], "--idle-timeout");
    is_refused(&["--rate-limit", "-1"], "--rate-limit");
    is_refused(&["--admin", "--no-pin"], "--admin");
    for loops in ["0", "257", "x", "", "1.5", "99999999999999999999"] {
        is_refused(&[&format!("--loops={loops}")], "--loops");
    }
    for most in ["0", "-1", "many", "99999999999"] {
        is_refused(&[&format!("--max-connections={most}")], "--max-connections");
    }
    let times = [
        "--idle-timeout",
        "--first-byte-timeout",
        "--message-timeout",
        "--stuck-timeout",
        "--max-lifetime",
        "--drain-timeout",
        "--drain-spread",
        "--stall-threshold",
    ];
    for flag in times {
        for time in ["soon", "-1s", "5parsecs", "", "nan", "inf", "1e400s"] {
            is_refused(&[&format!("{flag}={time}")], flag);
        }
    }
    let spread = ["--drain-timeout=2s", "--drain-spread=2s"];
    is_refused(&spread, "a drain spread over 2s does not end before the drain timeout (2s)");
    for most in ["0", "-1", "many"] {
        is_refused(&[&format!("--max-per-source={most}")], "--max-per-source");
    }
    for bits in ["24", "24,", "0,64", "33,64", "32,0", "32,129", "a,b", "32,64,1"] {
        let said = if matches!(bits, "0,64" | "33,64" | "32,0" | "32,129") {
            "a source has the first"
        } else {
            "--source-prefix"
        };
        is_refused(&[&format!("--source-prefix={bits}")], said);
    }
    for rate in ["", "fast", "-1", "10,", "10,x", "1,2,3"] {
        is_refused(&[&format!("--accept-rate={rate}")], "--accept-rate");
    }
    is_refused(&["--accept-rate=0"], "0 connections a second");
    is_refused(&["--accept-rate=10000,19"], "it takes 20");
    is_refused(&["--refusal=a\\b"], "--refusal");
    is_refused(&[&format!("--refusal={}", "x".repeat(4097))], "4097 bytes");
    is_refused(&["--loops=2", "--memory-budget=8388607"], "each of 2 loops");
    for flag in ["--high-watermark", "--low-watermark", "--output-limit", "--memory-budget"] {
        for bytes in ["much", "-1", "", "99999999999999999999", "99999999999g", "1.5k"] {
            is_refused(&[&format!("{flag}={bytes}")], flag);
        }
    }
}

#[test]
fn addresses_that_are_none_are_named() {
    let bad =
        ["nowhere", ":5", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:65536", "[::1:5", "::1:5", ""];
    for at in bad {
        is_refused(&["--listen", at], "--listen");
        is_refused(&["--admin", at], "--admin");
    }
    for at in ["unix:", "unix:@", "unix:/tmp/a\tb", &format!("unix:/{}", "x".repeat(107))] {
        is_refused(&["--listen", at], "--listen");
    }
    is_refused(&["--listen", "no-such-host.invalid:5"], "no-such-host.invalid");
}

#[test]
fn limits_that_contradict_each_other_are_named() {
    is_refused(&["--high-watermark", "1k", "--low-watermark", "2k"], "low watermark");
    is_refused(&["--high-watermark", "2k", "--output-limit", "1k"], "output limit");
    is_refused(&["--high-watermark", "0"], "high");
    is_refused(&["--stall-threshold", "3ms"], "stall threshold");
}

#[test]
fn a_balance_that_the_kernel_cannot_keep_is_named() {
    for balance in ["least-connections", "source-hash"] {
        is_refused(&["--accept", "reuseport", "--balance", balance], balance);
    }
}

#[test]
fn limits_that_agree_are_taken() {
    for args in [
        &["--high-watermark", "1"][..],
        &["--low-watermark", "1m"],
        &["--output-limit", "1k"],
        &["--high-watermark", "4m"],
        &["--high-watermark", "9", "--low-watermark", "9", "--output-limit", "9"],
        &["--idle-timeout", "0", "--first-byte-timeout", "0"],
        &["--pin"],
        &["--no-pin"],
        &["--pin", "--no-pin"],
        &["--no-pin", "--pin"],
        &["--balance", "round-robin"],
        &["--balance", "least-connections"],
        &["--balance", "source-hash"],
        &["--max-connections", "100"],
        &["--drain-timeout", "0"],
        &["--drain-timeout", "2s", "--drain-spread", "100ms"],
    ] {
        let server = Start::echo(Mode::DEFAULT).args(args).loops(1).run();
        is_served(&server);
        server.signal("TERM");
        assert_eq!(server.wait(PATIENCE).status.code(), Some(0), "{args:?}");
    }
}

#[test]
fn help_and_version_are_no_errors() {
    for flag in ["--help", "-h", "--version"] {
        let output = run(&[flag]);
        assert!(output.status.success() && !output.stdout.is_empty(), "{flag}");
    }
    let help = String::from_utf8(run(&["--help"]).stdout).unwrap();
    for flag in [
        "--listen",
        "--loops",
        "--pin",
        "--no-pin",
        "--accept",
        "--balance",
        "--fd-table",
        "--max-connections",
        "--idle-timeout",
        "--first-byte-timeout",
        "--high-watermark",
        "--low-watermark",
        "--output-limit",
        "--drain-timeout",
        "--stall-threshold",
        "--admin",
        "--log",
    ] {
        assert!(help.contains(flag), "{flag} is not in --help");
    }
}

#[test]
fn an_address_of_another_machine_is_an_error_of_the_start() {
    for mode in ["acceptor", "reuseport"] {
        // TEST-NET-1, which no machine has.
        let output = run(&["--listen", "192.0.2.1:9000", "--accept", mode]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("192.0.2.1:9000"), "{said}");
    }
}

#[test]
fn a_port_that_needs_a_right_is_an_error_of_the_start() {
    if !has("setpriv") || !is_root() {
        return;
    }
    let start = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    if start.is_ok_and(|start| start.trim() == "0") {
        println!("skipped: every port is free to all here");
        return;
    }
    let binary = env!("CARGO_BIN_EXE_echo");
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"];
    let mut setpriv = Command::new("setpriv");
    setpriv.args(nobody).args(["--bounding-set=-all", binary, "--listen", "127.0.0.1:81"]);
    let output = child::output(&mut setpriv, PATIENCE);
    let said = String::from_utf8(output.stderr).unwrap();
    if said.contains("setpriv") {
        println!("skipped: another user cannot run the binary here: {said}");
        return;
    }
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("127.0.0.1:81") && said.contains("ermission"), "{said}");
}

#[test]
fn an_address_that_is_named_twice_is_said() {
    // Free again at once, and nobody else's: no other test is at this address.
    let at = std::net::TcpListener::bind("127.0.0.9:0").unwrap().local_addr().unwrap().to_string();
    for (accept, why) in
        [("acceptor", "Address already in use"), ("reuseport", "it is named twice")]
    {
        let output = run(&["--accept", accept, "--listen", &at, "--listen", &at]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(&format!("listen on {at}: {why}")), "{said}");
    }
}

#[test]
fn a_limit_too_low_for_the_server_itself_is_said() {
    if !has("prlimit") {
        return;
    }
    let binary = env!("CARGO_BIN_EXE_echo");
    for nofile in [4, 8, 12, 20, 24] {
        for table in ["shared", "per-loop"] {
            let mut prlimit = Command::new("prlimit");
            prlimit.args([&format!("--nofile={nofile}:{nofile}"), binary]).args([
                "--listen",
                "127.0.0.1:0",
                "--loops",
                "2",
                "--fd-table",
                table,
            ]);
            let output = child::output(&mut prlimit, PATIENCE);
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{nofile} {table}: {said}");
            assert!(!said.contains("panicked"), "{nofile} {table}: {said}");
            assert!(said.starts_with("error: "), "{nofile} {table}: {said}");
        }
    }
}

/// Below what it needs it says what is missing; with just enough it is READY, and never silent.
#[test]
fn with_too_few_threads_it_is_ready_or_says_why_not() {
    if !has("setpriv") || !has("prlimit") || !is_root() {
        return;
    }
    // Not counted for root; so as a user who has no other process.
    let user = ["setpriv", "--reuid=64123", "--regid=64123", "--clear-groups"];
    let (mut refused, mut ready) = (0, 0);
    for threads in 1..=8 {
        let nproc = format!("--nproc={threads}:{threads}");
        let start = Start::echo(Mode::DEFAULT).under(&user).under(&["prlimit", &nproc]);
        let output = start.under(&["timeout", "--foreground", "--preserve-status", "1"]).output();
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("ermission denied") {
            println!("skipped: another user cannot run the binary here: {said}");
            return;
        }
        assert!(!said.contains("panicked"), "{threads} threads: {said}");
        if output.stdout.starts_with(b"READY ") {
            assert_eq!(output.status.code(), Some(0), "{threads} threads: {said}");
            ready += 1;
        } else {
            assert_eq!(output.status.code(), Some(1), "{threads} threads: {said}");
            assert!(said.contains("error: start the "), "{threads} threads: {said}");
            refused += 1;
        }
    }
    assert!(refused > 0 && ready > 0, "{refused} refused, {ready} ready");
}

/// What the first client needs is there when it is READY; with less it ends before that.
#[test]
fn with_too_little_address_space_it_serves_or_does_not_start() {
    if !has("prlimit") {
        return;
    }
    let (mut refused, mut served) = (0, 0);
    for mib in (8..48).step_by(2) {
        let space = format!("--as={}", mib << 20);
        let start = Start::echo(Mode::DEFAULT).under(&["prlimit", &space]).loops(1);
        let mut command = start.command();
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut server = child::spawn(&mut command, PATIENCE);
        let mut line = String::new();
        BufReader::new(server.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        match line.strip_prefix("READY ") {
            None => refused += 1,
            Some(at) => {
                let mut client = connect(at.trim().parse().unwrap());
                ping(&mut client, b"the first one");
                let pid = server.id().to_string();
                assert!(child::succeeds(Command::new("kill").arg(pid)));
                served += 1;
            }
        }
        let ended = server.output();
        assert_eq!(ended.status.success(), !line.is_empty(), "{mib} MiB");
        assert!(!ended.stderr.is_empty(), "{mib} MiB: it ended and did not say why");
    }
    assert!(refused > 0 && served > 0, "{refused} refused, {served} served");
}

#[test]
fn more_connections_than_the_tables_hold_is_said_and_survived() {
    if !has("prlimit") {
        return;
    }
    let start = Start::echo(Mode::DEFAULT).under(&["prlimit", "--nofile=100:100"]);
    let server = start.args(&["--max-connections", "5000"]).run();
    eventually("it is said", PATIENCE, || server.log().contains("5000 connections were asked for"));
    is_served(&server);
}

#[test]
fn walls_of_the_machine_before_as_many_as_are_asked_for_are_said() {
    let server = Start::echo(Mode::DEFAULT).args(&["--max-connections", "1000000000"]).run();
    let said = "1000000000 connections were asked for, but memory allows ";
    eventually("it is said", PATIENCE, || server.log().contains(said));
    is_served(&server);
}

/// One table does not hold as many as are asked for, two do.
#[test]
fn auto_takes_private_tables_when_the_limit_demands_it() {
    if !has("prlimit") {
        return;
    }
    for (asked, wants) in [("50", "one descriptor table"), ("150", "2 private descriptor tables")] {
        let mode = Mode { fd_table: "auto", ..Mode::DEFAULT };
        let start = Start::echo(mode).under(&["prlimit", "--nofile=120:120"]);
        let server = start.args(&["--max-connections", asked]).run();
        eventually("it is said", PATIENCE, || server.log().contains(wants));
        is_served(&server);
    }
}
