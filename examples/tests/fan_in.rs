//! The batch over many servers: every question has a line in the table, whatever its server does.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod common;

use common::*;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::{Command, Output};

fn fan_in(args: &[&str]) -> (Output, String) {
    let program = env!("CARGO_BIN_EXE_fan_in");
    let output = child::output(Command::new(program).args(args), 3 * PATIENCE);
    let table = String::from_utf8(output.stdout.clone()).unwrap();
    (output, table)
}

#[test]
fn the_answers_of_all_servers_come_together_over_few_connections() {
    let servers: Vec<_> = (0..3).map(|_| Start::echo(Mode::DEFAULT).run()).collect();
    let addrs: Vec<_> = servers.iter().map(|server| server.addr.to_string()).collect();
    let numbers: Vec<_> = (1..=100).map(|n| n.to_string()).collect();
    let mut args = vec!["--at-once", "20", "--connections", "2", "--query", "not a number"];
    addrs.iter().for_each(|addr| args.extend(["--upstream", addr]));
    numbers.iter().for_each(|number| args.extend(["--query", number]));
    let (output, table) = fan_in(&args);
    assert!(output.status.success(), "{output:?}");
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), 3 * 101 + 1);
    for addr in &addrs {
        assert_eq!(lines.iter().filter(|line| line.starts_with(addr)).count(), 101);
    }
    let together = "answered=303 failed=0 numbers=300 sum=15150 least=1 most=100";
    assert_eq!(lines.last(), Some(&together));
    for server in servers {
        let accepted = server.finish().get("accepted");
        assert!((1..=2).contains(&accepted), "{accepted} connections for 101 questions");
    }
}

#[test]
fn a_dead_and_a_silent_server_are_lines_of_the_table() {
    let server = Start::echo(Mode::DEFAULT).run();
    let (alive, dead) = (server.addr.to_string(), {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap();
        closed.local_addr().unwrap().to_string()
    });
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = listener.local_addr().unwrap().to_string();
    let (output, table) = fan_in(&[
        "--upstream",
        &alive,
        "--upstream",
        &dead,
        "--upstream",
        &silent,
        "--query",
        "hello",
        "--query",
        "again",
        "--connections",
        "1",
        "--timeout",
        "200ms",
        "--attempts",
        "2",
    ]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let lines_of =
        |addr: &str| -> Vec<&str> { table.lines().filter(|line| line.starts_with(addr)).collect() };
    assert!(lines_of(&alive).iter().all(|line| !line.contains("FAILED")), "{table}");
    for (addr, why) in [(&dead, "Connection refused"), (&silent, "own_deadline")] {
        let lines = lines_of(addr);
        assert_eq!(lines.len(), 2, "{table}");
        assert!(lines.iter().all(|line| line.contains("FAILED") && line.contains(why)), "{table}");
    }
    assert!(table.ends_with("answered=2 failed=4\n"), "{table}");
}

#[test]
fn a_question_whose_connection_ends_is_asked_again() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let server = std::thread::spawn(move || {
        let mut asked = Vec::new();
        for answers in [false, true] {
            let mut client = accept(&listener);
            let mut line = String::new();
            BufReader::new(client.try_clone().unwrap()).read_line(&mut line).unwrap();
            asked.push(line);
            if answers {
                client.write_all(b"7\n").unwrap();
            }
        }
        asked
    });
    let (output, table) = fan_in(&["--upstream", &addr, "--query", "seven?"]);
    assert!(output.status.success(), "{table}");
    assert!(table.contains("\tseven?\t") && table.contains("answered=1 failed=0 numbers=1 sum=7"));
    assert_eq!(server.join().unwrap(), ["seven?\n", "seven?\n"]);
}

#[test]
fn bad_flags_are_named() {
    for (args, what) in [
        (&["--query", "x"][..], "--upstream"),
        (&["--upstream", "127.0.0.1:1"], "--query"),
        (&["--upstream", "nowhere", "--query", "x"], "nowhere"),
        (&["--upstream", "127.0.0.1:1", "--query", "two\nlines"], "one line"),
        (&["--upstream", "127.0.0.1:1", "--query", "x", "--at-once", "0"], "--at-once"),
    ] {
        let (output, _) = fan_in(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains(what), "{args:?}: {said}");
    }
}
