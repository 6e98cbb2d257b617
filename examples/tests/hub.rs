//! The hub: topics over every loop, in order, whole, and forgotten with their subscribers.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod common;

use common::*;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

in_every_mode!(
    a_message_reaches_each_subscriber_on_every_loop_and_nobody_else,
    messages_of_a_publisher_keep_their_order_however_fast_it_is,
    many_publishers_lose_none_of_their_messages,
    who_has_gone_or_unsubscribed_gets_nothing,
    what_is_no_command_is_said_and_ends_the_connection,
    a_quiet_client_is_pinged_and_closed_if_it_answers_nothing,
    a_subscriber_who_reads_nothing_misses_whole_messages_and_delays_nobody,
);

struct Client(BufReader<TcpStream>);

impl Client {
    fn of(server: &Server) -> Self {
        Self(BufReader::new(server.connect()))
    }

    fn say(&mut self, line: &str) {
        self.0.get_mut().write_all(line.as_bytes()).unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        assert!(line.ends_with("\r\n"), "an end instead of a line: {line:?}");
        line.trim_end().to_owned()
    }

    /// Subscribes, and waits until the subscription is there: a message to a topic that only this
    /// client has comes back to it.
    fn subscribe(&mut self, topic: &str, own: usize) {
        self.say(&format!("sub {topic}\r\nsub own-{own}\r\npub own-{own}\r\nthere\r\n"));
        assert_eq!(self.line(), format!("pub own-{own}"));
        assert_eq!(self.line(), "there");
    }
}

fn a_message_reaches_each_subscriber_on_every_loop_and_nobody_else(mode: Mode) {
    let server = Start::hub(mode).loops(3).run();
    let mut all: Vec<_> = (0..12).map(|_| Client::of(&server)).collect();
    for (n, client) in all.iter_mut().enumerate() {
        client.subscribe(if n % 2 == 0 { "even" } else { "odd" }, n);
    }
    for round in 0..20 {
        let topic = if round % 2 == 0 { "even" } else { "odd" };
        all[round % 5].say(&format!("pub {topic}\nround {round}\n"));
        for client in all.iter_mut().skip(round % 2).step_by(2) {
            assert_eq!(client.line(), format!("pub {topic}"));
            assert_eq!(client.line(), format!("round {round}"));
        }
    }
    drop(all);
    server.finish();
}

fn messages_of_a_publisher_keep_their_order_however_fast_it_is(mode: Mode) {
    const MESSAGES: usize = 2000;
    let server = Start::hub(mode).loops(2).run();
    let mut subscribers: Vec<_> = (0..6).map(|_| Client::of(&server)).collect();
    for (n, client) in subscribers.iter_mut().enumerate() {
        client.subscribe("news", n);
    }
    let publisher = std::thread::spawn({
        let mut publisher = Client::of(&server);
        move || {
            let all: String = (0..MESSAGES).map(|n| format!("pub news\r\n{n}\r\n")).collect();
            publisher.say(&all);
            publisher
        }
    });
    for n in 0..MESSAGES {
        for client in &mut subscribers {
            assert_eq!(client.line(), "pub news");
            assert_eq!(client.line(), n.to_string());
        }
    }
    drop((publisher.join().unwrap(), subscribers));
    server.finish();
}

/// Each publisher had eight messages on their way at most, and a loop has room for 64 broadcasts: nine
/// publishers lost some of theirs, and others' too, and nobody was told.
fn many_publishers_lose_none_of_their_messages(mode: Mode) {
    const PUBLISHERS: usize = 40;
    const EACH: usize = 50;
    let server = Start::hub(mode).loops(2).run();
    let mut readers: Vec<_> = (0..2).map(|_| Client::of(&server)).collect();
    for (n, reader) in readers.iter_mut().enumerate() {
        reader.subscribe("news", n);
    }
    let mut publishers: Vec<_> = (0..PUBLISHERS).map(|_| Client::of(&server)).collect();
    for (n, publisher) in publishers.iter_mut().enumerate() {
        let topic = if n % 2 == 0 { "news" } else { "nobody" };
        publisher.say(&format!("pub {topic}\nx\n").repeat(EACH));
    }
    for reader in &mut readers {
        for _ in 0..PUBLISHERS / 2 * EACH {
            assert_eq!(reader.line(), "pub news");
            assert_eq!(reader.line(), "x");
        }
    }
    drop((readers, publishers));
    server.finish();
}

fn who_has_gone_or_unsubscribed_gets_nothing(mode: Mode) {
    let server = Start::hub(mode).loops(2).run();
    let mut leaver = Client::of(&server);
    leaver.subscribe("news", 0);
    let mut gone = Client::of(&server);
    gone.subscribe("news", 1);
    drop(gone);
    leaver.say("unsub news\r\npub news\r\nunheard\r\npub own-0\r\nheard\r\n");
    assert_eq!(leaver.line(), "pub own-0");
    assert_eq!(leaver.line(), "heard");
    drop(leaver);
    server.finish();
}

fn what_is_no_command_is_said_and_ends_the_connection(mode: Mode) {
    let server = Start::hub(mode).loops(1).run();
    let long = "x".repeat(4097);
    let names = format!("sub {}\r\n", "n".repeat(256));
    let cases = [
        ("shout news\r\n", "no such command"),
        ("sub\r\n", "names no topic"),
        ("sub  \r\n", "names no topic"),
        ("\r\n", "names no topic"),
        (&names, "a topic's name of 256 bytes"),
        (&long, "a line of more than 4096 bytes"),
    ];
    for (said, answer) in cases {
        let mut client = Client::of(&server);
        client.say(said);
        let line = client.line();
        assert!(line.starts_with("error: ") && line.contains(answer), "{line:?}");
        assert_eq!(client.0.read(&mut [0]).unwrap(), 0);
    }
    server.finish();
}

fn a_quiet_client_is_pinged_and_closed_if_it_answers_nothing(mode: Mode) {
    let server = Start::hub(mode).args(&["--heartbeat", "200ms", "--idle-timeout", "3s"]).run();
    let (mut lives, mut is_gone) = (Client::of(&server), Client::of(&server));
    for _ in 0..12 {
        assert_eq!(lives.line(), "ping");
        lives.say("pong\r\n");
    }
    let mut pings = String::new();
    is_gone.0.read_to_string(&mut pings).unwrap();
    assert!(pings.replace("ping\r\n", "").is_empty() && pings.len() > 6, "{pings:?}");
    assert_eq!(lives.line(), "ping", "who answers stays");
    drop((lives, is_gone));
    let snapshot = server.finish();
    assert_eq!(snapshot.get("closed(idle)"), 1);
    assert!(snapshot.get("heartbeats") > 12);
}

fn a_subscriber_who_reads_nothing_misses_whole_messages_and_delays_nobody(mode: Mode) {
    const MESSAGES: usize = 4000; // of 4,000 bytes: 16 MB fit into no buffers of the kernel
    let server =
        Start::hub(mode).loops(2).args(&["--high-watermark", "8k", "--low-watermark", "4k"]);
    let server = server.run();
    let [mut slow, mut quick] = [0, 1].map(|_| Client::of(&server));
    slow.subscribe("news", 0);
    quick.subscribe("news", 1);
    let content = "x".repeat(4000);
    let publisher = std::thread::spawn({
        let mut publisher = Client::of(&server);
        let content = content.clone();
        move || {
            (0..MESSAGES).for_each(|_| publisher.say(&format!("pub news\r\n{content}\r\n")));
            publisher
        }
    });
    for _ in 0..MESSAGES {
        assert_eq!(quick.line(), "pub news");
        assert_eq!(quick.line(), content);
    }
    let mut publisher = publisher.join().unwrap();
    publisher.say("pub own-0\r\nthe end\r\n");
    let mut got = 0;
    loop {
        match slow.line().as_str() {
            "pub news" => assert_eq!(slow.line(), content, "a gap within a message"),
            "pub own-0" => break,
            other => panic!("{other:?}"),
        }
        got += 1;
        if got == MESSAGES {
            panic!("16 MB fit into buffers, so nothing was passed over");
        }
        publisher.say("pub own-0\r\nthe end\r\n");
    }
    assert_eq!(slow.line(), "the end");
    drop((slow, quick, publisher));
    server.finish();
}
