//! What clients do: each is one function, with its choices from a seed.

use super::child::STOP_MAX;
use super::connection::{Connection, Door, Outcome, PATIENCE, Tally, Trouble};
use super::protocol::{BEAT, FILE_BYTES, FILE_STREAM, FLOOD_MAX, MESSAGE_BYTES, Ready};
use super::random::{Random, bytes};
use std::collections::{HashSet, VecDeque};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

/// Connections that a client holds without using them, at most.
const HELD_MAX: usize = 30;

/// What is done, how often beside the others, and how.
type Deed<'a> = (&'static str, usize, fn(&mut Client<'a>) -> Outcome);

/// One client after the other, from one thread and one address.
pub struct Client<'a> {
    tally: &'a Tally,
    ready: &'a Ready,
    random: Random,
    from: Ipv4Addr,
    /// Connections that are not read from, and when they are let go.
    held: VecDeque<(Instant, Connection<'a>)>,
}

impl<'a> Client<'a> {
    /// From the thread of this number.
    pub fn new(tally: &'a Tally, ready: &'a Ready, random: Random, number: usize) -> Self {
        let from = Ipv4Addr::new(127, 0, 1, number as u8 + 1);
        Self { tally, ready, random, from, held: VecDeque::new() }
    }

    /// Does one thing after the other until it is told to stop; then lets all go.
    pub fn run(mut self, goes_on: &dyn Fn() -> bool) {
        let deeds: &[Deed<'a>] = &[
            ("echo", 20, Self::echo),
            ("byte by byte", 4, Self::byte_by_byte),
            ("pour", 4, Self::pour),
            ("tunnel", 6, Self::tunnel),
            ("file", 6, Self::file),
            ("stream", 6, Self::stream),
            ("flood", 3, Self::flood),
            ("never reads", 3, Self::never_reads),
            ("resets", 8, Self::resets),
            ("topic", 6, Self::topic),
            ("questions", 15, Self::questions),
            ("slow", 3, Self::slow),
            ("datagrams", 5, Self::datagrams),
            ("admin", 2, Self::admin),
            ("bad proxy", 2, Self::bad_proxy),
            ("asks for an end", 5, Self::asks_for_an_end),
            ("says nothing", 1, Self::says_nothing),
            ("waits for a beat", 1, Self::waits_for_a_beat),
            ("half a line", 1, Self::half_a_line),
            ("surge", 1, Self::surge),
        ];
        let by_weight: Vec<_> =
            deeds.iter().flat_map(|deed| std::iter::repeat_n(deed, deed.1)).collect();
        while goes_on() {
            let (name, _, deed) = *self.random.pick(&by_weight);
            let outcome = deed(&mut self);
            if matches!(outcome, Err(Trouble::NobodyThere(_))) {
                std::thread::sleep(Duration::from_millis(20)); // the server ends
            }
            self.tally.note(name, outcome);
            while self.held.front().is_some_and(|(until, _)| *until < Instant::now()) {
                self.let_go();
            }
        }
        while !self.held.is_empty() {
            self.let_go();
        }
    }

    fn let_go(&mut self) {
        let (_, held) = self.held.pop_front().expect("one is held");
        if self.random.one_in(2) {
            held.reset();
        }
    }

    fn hold(&mut self, connection: Connection<'a>) {
        if self.held.len() == HELD_MAX {
            self.let_go();
        }
        let until = Instant::now() + self.millis(200, 6000);
        self.held.push_back((until, connection));
    }

    fn millis(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.random.between(least, most))
    }

    /// How long a reader sleeps after each block: most do not.
    fn pause(&mut self) -> Duration {
        if self.random.one_in(4) { self.millis(1, 3) } else { Duration::ZERO }
    }

    fn open(&mut self) -> Outcome<Connection<'a>> {
        let [first, second] = self.ready.tcp[..] else { unreachable!("it has two listeners") };
        let doors = [
            Door::Tcp(first),
            Door::Tcp(first),
            Door::Tcp(second),
            Door::Proxied(self.ready.proxied),
            Door::Unix(self.ready.unix.clone()),
        ];
        let is_slow = self.random.one_in(3);
        Connection::open(self.tally, self.from, &self.random.pick(&doors), is_slow)
    }

    fn echo(&mut self) -> Outcome {
        let mut connection = self.open()?;
        connection.say("echo")?;
        self.rounds(connection)
    }

    /// Messages that come back, and one of the ends that a client may choose.
    fn rounds(&mut self, mut connection: Connection<'a>) -> Outcome {
        let (stream, mut from) = (self.random.number(), 0);
        for _ in 0..self.random.between(1, 20) {
            let len = if self.random.one_in(4) { 16 << 10 } else { 200 };
            let len = self.random.size(1, len);
            connection.send_stream(stream, from, len)?;
            connection.expect(stream, from, len, Duration::ZERO)?;
            from += len as u64;
        }
        match self.random.between(0, 3) {
            0 => connection.reset(),
            1 => {} // dropped
            _ => {
                // What was sent before the half-close comes back, and then the end.
                let len = self.random.size(0, 5000);
                connection.send_stream(stream, from, len)?;
                connection.half_close()?;
                connection.expect(stream, from, len, Duration::ZERO)?;
                connection.expect_end()?;
            }
        }
        Ok(())
    }

    fn byte_by_byte(&mut self) -> Outcome {
        let mut connection = self.open()?;
        let stream = self.random.number();
        let all = [&b"echo\n"[..], &bytes(stream, 0, 100)].concat();
        for byte in all.chunks(1) {
            connection.send(byte)?;
        }
        connection.expect(stream, 0, 100, Duration::ZERO)
    }

    fn pour(&mut self) -> Outcome {
        let mut connection = self.open()?;
        connection.say("echo")?;
        let (len, pause) = (self.random.size(100_000, 2_000_000), self.pause());
        connection.pour(self.random.number(), len, pause)
    }

    /// By way of a connection that the server has dialled to itself.
    fn tunnel(&mut self) -> Outcome {
        let mut connection = self.open()?;
        connection.say(self.random.pick(&["tunnel", "pair"]))?;
        connection.let_in()?;
        connection.say("echo")?;
        if self.random.one_in(2) {
            let (len, pause) = (self.random.size(100_000, 1_000_000), self.pause());
            connection.pour(self.random.number(), len, pause)?;
        }
        self.rounds(connection)
    }

    fn file(&mut self) -> Outcome {
        let mut connection = self.open()?;
        for _ in 0..self.random.between(1, 3) {
            let from = self.random.size(0, FILE_BYTES);
            let most = if self.random.one_in(4) { FILE_BYTES } else { 100_000 };
            let len = self.random.size(0, most.min(FILE_BYTES - from));
            connection.say(&format!("file {from} {len}"))?;
            connection.expect_line("sending")?;
            let pause = self.pause();
            connection.expect(FILE_STREAM, from as u64, len, pause)?;
        }
        Ok(())
    }

    fn stream(&mut self) -> Outcome {
        let mut connection = self.open()?;
        let (stream, len) = (self.random.number(), self.random.size(0, 2_000_000));
        connection.say(&format!("stream {stream} {len}"))?;
        let pause = self.pause();
        connection.expect(stream, 0, len, pause)?;
        connection.expect_end()
    }

    /// Of what comes, each message is whole, and none comes twice.
    fn flood(&mut self) -> Outcome {
        let mut connection = self.open()?;
        let policy = self.random.pick(&["close", "newest", "oldest", "conflate"]);
        let count = self.random.size(1, FLOOD_MAX);
        connection.say(&format!("flood {policy} {count}"))?;
        let (mut seen, mut last) = (HashSet::new(), None);
        loop {
            let mut number = [0; 8];
            match connection.read_exact(&mut number) {
                Err(Trouble::Cut) => return Ok(()), // the end, or the output limit
                other => other?,
            }
            let number = u64::from_be_bytes(number);
            let is_in_order = policy == "conflate" || last < Some(number);
            if number >= count as u64 || !seen.insert(number) || !is_in_order {
                let what = format!("{policy}: message {number} of {count} came after {last:?}");
                return Err(Trouble::Wrong(what));
            }
            last = Some(number);
            connection.expect(number, 8, MESSAGE_BYTES - 8, Duration::ZERO)?;
        }
    }

    fn never_reads(&mut self) -> Outcome {
        for _ in 0..self.random.between(1, 10) {
            let mut connection = self.open()?;
            let stream = self.random.number();
            match self.random.between(0, 3) {
                0 => connection.say(&format!("stream {stream} 100000000"))?,
                1 => connection.say(&format!("flood oldest {FLOOD_MAX}"))?,
                2 => connection.say(&format!("file 0 {FILE_BYTES}"))?,
                _ => {
                    connection.say("echo")?;
                    connection.send_stream(stream, 0, 60_000)?;
                }
            }
            self.hold(connection);
        }
        Ok(())
    }

    fn resets(&mut self) -> Outcome {
        let mut connection = self.open()?;
        let stream = self.random.number();
        let line = self.random.pick(&["echo", "tunnel", "pair", "pool 3", "ask 1", "file 0 90000"]);
        connection.say(line)?;
        connection.send_stream(stream, 0, self.random.size(0, 60_000))?;
        if self.random.one_in(2) {
            std::thread::sleep(self.millis(0, 5));
        }
        connection.reset();
        Ok(())
    }

    /// Some subscribe, one publishes, and what all of them got is what the server says that it sent.
    fn topic(&mut self) -> Outcome {
        let topic = format!("topic-{}", self.random.number());
        let mut subscribers = Vec::new();
        for _ in 0..self.random.between(1, 10) {
            let mut connection = self.open()?;
            connection.say(&format!("sub {topic}"))?;
            connection.expect_line("subscribed")?;
            subscribers.push(connection);
        }
        let (mut publisher, messages) = (self.open()?, self.random.between(1, 20));
        let (mut sent, mut dropped, mut missed) = (0, 0, 0);
        // One after the other, or all at once.
        let at_once = if self.random.one_in(2) { messages } else { 1 };
        for n in 0..messages {
            if n % at_once == 0 {
                (n..messages.min(n + at_once))
                    .try_for_each(|n| publisher.say(&format!("pub {topic} {n}")))?;
            }
            let report = publisher.line()?;
            let counts: Vec<u64> =
                report.split(' ').skip(1).filter_map(|count| count.parse().ok()).collect();
            let [delivered, queued, not_sent, loops_missed] = counts[..] else {
                return Err(Trouble::Wrong(format!("\"{report}\" is no report")));
            };
            sent += delivered + queued;
            dropped += not_sent;
            missed += loops_missed;
        }
        let mut got = 0;
        for connection in &mut subscribers {
            connection.say(&format!("unsub {topic}"))?;
            let mut next = 0;
            loop {
                match connection.line()? {
                    line if line == "unsubscribed" => break,
                    line if line == BEAT => {}
                    line => match line.parse() {
                        Ok(n) if (next..messages).contains(&n) => (next, got) = (n + 1, got + 1),
                        _ => return Err(Trouble::Wrong(format!("\"{line}\" came, not {next}"))),
                    },
                }
            }
        }
        let all = subscribers.len() as u64 * messages;
        if got != sent || (missed == 0 && sent + dropped != all) {
            return Err(Trouble::Wrong(format!(
                "{got} of {all} came; the reports say {sent} sent, {dropped} dropped, and {missed} \
                 loops missed"
            )));
        }
        Ok(())
    }

    fn questions(&mut self) -> Outcome {
        let mut connection = self.open()?;
        for _ in 0..self.random.between(1, 6) {
            let n = self.random.between(0, 1000);
            match self.random.between(0, 8) {
                0 => {
                    connection.say("panic pool")?;
                    connection.expect_line("panicked")?;
                }
                1 => {
                    let (ms, start) = (500 + n % 200, Instant::now());
                    connection.say(&format!("timer {ms}"))?;
                    connection.expect_line("tick")?;
                    not_before(start, ms)?;
                }
                2 => {
                    let (ms, times) = (1 + n % 20, 1 + n % 5);
                    connection.say(&format!("ticks {ms} {times}"))?;
                    (0..times).try_for_each(|_| connection.expect_line("tick"))?;
                }
                3 => {
                    let len = n as usize * 50;
                    connection.say(&format!("frame {n} {len}"))?;
                    let mut prefix = [0; 4];
                    connection.read_exact(&mut prefix)?;
                    if u32::from_be_bytes(prefix) as usize != len {
                        let what = format!("a frame of {len} announces {prefix:?}");
                        return Err(Trouble::Wrong(what));
                    }
                    connection.expect(n, 0, len, Duration::ZERO)?;
                }
                4 => {
                    connection.say("adopt")?;
                    connection.expect_line("adopted")?;
                }
                _ => {
                    let how = self.random.pick(&["pool", "slices", "ask", "hop"]);
                    connection.say(&format!("{how} {n}"))?;
                    connection.expect_line(&format!("answer {}", n + 1))?;
                }
            }
        }
        // The last question, behind which the client sends no more, is answered as well.
        let (how, n) = (self.random.pick(&["pool", "slices", "ask"]), self.random.between(0, 1000));
        connection.say(&format!("{how} {n}"))?;
        connection.half_close()?;
        connection.expect_line(&format!("answer {}", n + 1))?;
        connection.expect_end()
    }

    fn slow(&mut self) -> Outcome {
        let mut connection = self.open()?;
        let stream = self.random.number();
        connection.say("slow 20000")?;
        connection.send_stream(stream, 0, 4000)?;
        connection.expect(stream, 0, 4000, Duration::ZERO)
    }

    /// Datagrams may be lost: what comes is compared.
    fn datagrams(&mut self) -> Outcome {
        let udp = |error: io::Error| Trouble::Wrong(format!("UDP: {error}"));
        let socket = UdpSocket::bind((self.from, 0)).map_err(udp)?;
        socket.set_read_timeout(Some(Duration::from_millis(200))).map_err(udp)?;
        let (stream, count) = (self.random.number(), self.random.size(1, 20));
        let lens: Vec<usize> = (0..count).map(|_| self.random.size(1, 1400)).collect();
        for (n, len) in lens.iter().enumerate() {
            let datagram = [&[n as u8][..], &bytes(stream, n as u64, *len)].concat();
            socket.send_to(&datagram, self.ready.udp).map_err(udp)?;
        }
        let mut wanted: HashSet<usize> = (0..count).collect();
        let mut block = [0; 2000];
        while !wanted.is_empty() {
            let Ok((got, _)) = socket.recv_from(&mut block) else { break };
            let n = usize::from(block[0]);
            let is_right = wanted.remove(&n) && block[1..got] == bytes(stream, n as u64, lens[n]);
            if !is_right {
                return Err(Trouble::Wrong(format!(
                    "datagram {n} of {count} is not what was sent"
                )));
            }
            self.tally.bytes.fetch_add(got as u64, std::sync::atomic::Ordering::Relaxed);
        }
        // And one that the server sends by itself, to whoever asks on another connection.
        let asks: SocketAddr = socket.local_addr().map_err(udp)?;
        let mut connection = self.open()?;
        connection.say(&format!("datagram {asks} {count}"))?;
        match socket.recv(&mut block) {
            Ok(got) if block[..got] != *count.to_string().as_bytes() && wanted.is_empty() => {
                Err(Trouble::Wrong("a datagram is not what was asked for".to_owned()))
            }
            _ => Ok(()),
        }
    }

    fn admin(&mut self) -> Outcome {
        let page = self.random.pick(&["/metrics", "/healthz", "/loops", "/connections", "/"]);
        let ask = || -> io::Result<String> {
            let mut stream = TcpStream::connect(self.ready.admin)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let request =
                format!("GET {page} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        // It ends with the server.
        let answer = ask().map_err(|error| Trouble::NobodyThere(format!("{page}: {error}")))?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
        });
        if length != Some(body.len()) {
            let what = format!("{page}: {} bytes behind {head}", body.len());
            return Err(Trouble::NobodyThere(what));
        }
        Ok(())
    }

    /// Says something else than who the client is, or half of it.
    fn bad_proxy(&mut self) -> Outcome {
        let door = Door::Proxied(self.ready.proxied);
        let mut connection = Connection::knock(self.tally, self.from, &door, false)?;
        connection
            .send(self.random.pick(&["GET / HTTP/1.1\r\n", "PROXY TCP9\r\n", "PRO"]).as_bytes())?;
        connection.read_to_the_end().and(Err(Trouble::Cut))
    }

    fn asks_for_an_end(&mut self) -> Outcome {
        let mut connection = self.open()?;
        let ends = ["finish", "close", "reset", "idle", "deadline", "panic"];
        connection.say(&format!("end {}", self.random.pick(&ends)))?;
        match connection.expect_end() {
            Err(Trouble::Cut) => Ok(()), // a reset was asked for, or has come
            other => other,
        }
    }

    /// The server ends them when its time for a first byte is over.
    fn says_nothing(&mut self) -> Outcome {
        let count = self.random.between(1, 20);
        let open: Vec<_> = (0..count).filter_map(|_| self.open().ok()).collect();
        for mut connection in open {
            let ended = connection.expect_end();
            self.tally.note("says nothing", ended.and(Err(Trouble::Cut)));
        }
        Ok(())
    }

    /// A subscriber to whom nobody has anything to say hears the server's heartbeat.
    fn waits_for_a_beat(&mut self) -> Outcome {
        let mut connection = self.open()?;
        connection.say("sub nothing")?;
        connection.expect_line("subscribed")?;
        connection.expect_line(BEAT)
    }

    /// The server ends it when its time for a message is over.
    fn half_a_line(&mut self) -> Outcome {
        let mut connection = self.open()?;
        connection.send(b"ech")?;
        connection.expect_end().and(Err(Trouble::Cut))
    }

    /// More than may be open from one source, and with others of this kind more than may be open.
    fn surge(&mut self) -> Outcome {
        let door = Door::Tcp(self.random.pick(&self.ready.tcp));
        let mut open = Vec::new();
        for _ in 0..self.random.between(50, 150) {
            open.push(Connection::knock(self.tally, self.from, &door, false)?);
        }
        for mut connection in open {
            let stream = self.random.number();
            let mut talk = || {
                connection.let_in()?;
                connection.say("echo")?;
                connection.send_stream(stream, 0, 100)?;
                connection.expect(stream, 0, 100, Duration::ZERO)
            };
            let outcome = talk();
            if self.random.one_in(2) {
                connection.reset();
            }
            self.tally.note("surge", outcome);
        }
        Ok(())
    }
}

/// A timer is never early by the loop's clock, which stands still during a turn: the question may have
/// come in one during which the whole server was stopped.
fn not_before(start: Instant, ms: u64) -> Outcome {
    let elapsed = start.elapsed();
    if elapsed + STOP_MAX + Duration::from_millis(100) < Duration::from_millis(ms) {
        return Err(Trouble::Wrong(format!("a timer of {ms} ms fired after {elapsed:?}")));
    }
    Ok(())
}
