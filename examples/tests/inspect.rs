//! The toy server: what it is asked to do is seen at its admin endpoint.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod common;

use common::admin::{get, metrics, sum};
use common::*;
use std::io::{BufRead, BufReader, Write};

in_every_mode!(
    a_sleep_is_a_stall_and_named,
    who_takes_the_most_time_is_first_by_cpu,
    who_reads_nothing_is_first_by_queue,
    what_it_cannot_do_is_said,
);

const ADMIN: [&str; 2] = ["--admin", "127.0.0.1:0"];

fn inspect(mode: Mode) -> Server {
    Start::echo(mode).program(env!("CARGO_BIN_EXE_inspect")).args(&ADMIN).run()
}

fn line(reader: &mut impl BufRead) -> String {
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    line
}

fn a_sleep_is_a_stall_and_named(mode: Mode) {
    let server = inspect(mode);
    let mut client = server.connect();
    client.write_all(b"hello\nsleep 400\n").unwrap();
    let mut answers = BufReader::new(client);
    assert_eq!(line(&mut answers), "hello\n");
    assert_eq!(line(&mut answers), "slept 400 ms\n");
    eventually("the stall is counted", PATIENCE, || {
        sum(&metrics(server.admin()), "net_core_stalls_total") >= 1.0
    });
    eventually("and the log names the callback", PATIENCE, || server.log().contains("on_data"));
    drop(answers);
    server.finish();
}

fn who_takes_the_most_time_is_first_by_cpu(mode: Mode) {
    let server = inspect(mode);
    let mut others = server.connect_many(5);
    others.iter_mut().for_each(|client| ping(client, b"here\n"));
    let mut sleeper = server.connect();
    sleeper.write_all(b"sleep 300\n").unwrap();
    let mut answers = BufReader::new(sleeper.try_clone().unwrap());
    assert_eq!(line(&mut answers), "slept 300 ms\n");
    let answer = get(server.admin(), "/connections?top=6&by=cpu");
    let answer: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    let rows = answer["connections"].as_array().unwrap();
    let time = |row: &serde_json::Value| row["cpu_seconds"].as_f64().unwrap();
    assert_eq!(rows[0]["peer"], sleeper.local_addr().unwrap().to_string(), "{answer}");
    assert!(time(&rows[0]) >= 0.3, "{answer}");
    assert!(rows.iter().all(|row| time(row) > 0.0) && rows.len() == 6, "{answer}");
    eventually("and its callback by /metrics", PATIENCE, || {
        let now = metrics(server.admin());
        let is_of_data = |series: &String| {
            series.starts_with("net_core_callback_seconds") && series.contains("\"on_data\"")
        };
        let times = now.iter().filter(|(series, _)| is_of_data(series));
        times.map(|(_, seconds)| seconds).sum::<f64>() >= 0.3
    });
    drop((others, sleeper, answers));
    server.finish();
}

fn who_reads_nothing_is_first_by_queue(mode: Mode) {
    let server = inspect(mode);
    let mut others = server.connect_many(5);
    others.iter_mut().for_each(|client| ping(client, b"here\n"));
    let mut owed = server.connect();
    // More than both kernels' buffers: while something waits here, requests wait in the kernel.
    let request = b"owe 500000\n".repeat(100);
    owed.set_nonblocking(true).unwrap();
    assert_eq!(owed.write(&request).unwrap(), request.len());
    let own = format!("\"peer\":\"{}\"", owed.local_addr().unwrap());
    eventually("it is first", PATIENCE, || {
        let answer = get(server.admin(), "/connections?top=1&by=queue");
        answer.status == 200 && answer.body.replace(": ", ":").contains(&own)
    });
    others.iter_mut().for_each(|client| ping(client, b"still\n"));
    drop(owed);
    drop(others);
    server.finish();
}

fn what_it_cannot_do_is_said(mode: Mode) {
    let server = inspect(mode);
    let mut client = server.connect();
    let requests = b"sleep 3000\nowe 1000000\nowe x\n";
    client.write_all(requests).unwrap();
    let mut answers = BufReader::new(client.try_clone().unwrap());
    for _ in 0..3 {
        assert!(line(&mut answers).starts_with("error: up to"));
    }
    client.write_all(&[b'x'; 2000]).unwrap();
    assert!(line(&mut answers).starts_with("error: "));
    assert_eq!(line(&mut answers), "", "that was the last");
    drop(answers);
    drop(client);
    server.finish();
}
