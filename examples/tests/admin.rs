//! The admin endpoint, from outside: every page, every wrong request, and when the server is full,
//! out of descriptors, draining or gone.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod common;

use common::admin::{Answer, ask, get, get_on, metrics, sum};
use common::*;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

in_every_mode!(
    the_counts_of_every_loop_are_those_of_the_clients,
    it_answers_when_the_server_is_full,
    it_answers_while_the_server_drains_and_is_gone_after,
    the_largest_connections_come_first_from_every_loop,
    a_connection_is_killed_by_its_id_and_no_other,
);

/// A page of another place, whose name its owner has pointed here meanwhile, could read who is connected:
/// only `kill` asked by which name it was called.
#[test]
fn who_calls_it_by_a_foreign_name_reads_no_address() {
    let flags = [&ADMIN[..], &["--admin-name", "ops.example"]].concat();
    let server = Start::echo(Mode::DEFAULT).args(&flags).run();
    let mut client = server.connect();
    ping(&mut client, b"here");
    let own = client.local_addr().unwrap().to_string();
    let get = |host: &str, path: &str| {
        ask(server.admin(), &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
    };
    for path in ["/", "/loops", "/connections", "/connections?top=1&by=bytes"] {
        for foreign in ["evil.example", "evil.example:9100", "127.0.0.1.evil.example", "evil"] {
            let answer = get(foreign, path);
            assert_eq!(answer.status, 403, "{foreign} {path}");
            assert!(!answer.body.contains(&own));
        }
        for known in ["127.0.0.1:1", "[::1]", "LOCALHOST:9100", "OPS.example:9100"] {
            assert_eq!(get(known, path).status, 200, "{known} {path}");
        }
    }
    for open in ["/metrics", "/healthz"] {
        let answer = get("scraped.example", open);
        assert!(answer.status == 200 && !answer.body.contains(&own), "{open}");
    }
    server.finish();
}

#[test]
fn with_a_token_nothing_is_read_or_killed_without_it() {
    let folder = Folder::new();
    let file = folder.0.join("token");
    std::fs::write(&file, "secret\n").unwrap();
    let flags = [&ADMIN[..], &["--admin-token-file", file.to_str().unwrap()]].concat();
    let server = Start::echo(Mode::DEFAULT).args(&flags).run();
    let ask_with = |method: &str, path: &str, shown: &str| {
        let field =
            if shown.is_empty() { String::new() } else { format!("Authorization: {shown}\r\n") };
        ask(server.admin(), &format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{field}\r\n"))
    };
    for path in ["/metrics", "/loops", "/connections", "/none"] {
        for wrong in ["", "Bearer", "Bearer secre", "Bearer secret1", "Basic secret", "secret"] {
            let answer = ask_with("GET", path, wrong);
            assert_eq!((answer.status, answer.field("www-authenticate")), (401, Some("Bearer")));
        }
    }
    assert_eq!(ask_with("POST", "/connections/0-1-1/kill", "").status, 401);
    assert_eq!(ask_with("GET", "/metrics", "Bearer secret").status, 200);
    assert_eq!(ask_with("GET", "/connections", "bearer secret").status, 200);
    assert_eq!(ask_with("GET", "/healthz", "").status, 200, "a probe has no token");
    server.finish();
}

/// Whoever may open the socket's file may ask, and nobody else.
#[test]
fn it_answers_on_a_unix_socket_and_leaves_none_behind() {
    let folder = Folder::new();
    let path = folder.0.join("admin.sock");
    let at = format!("unix:{}", path.display());
    let server = Start::echo(Mode::DEFAULT).args(&["--admin", &at]).run();
    let mut client = std::os::unix::net::UnixStream::connect(&path).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
        .write_all(b"GET /connections HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut said = String::new();
    client.read_to_string(&mut said).unwrap();
    assert!(said.starts_with("HTTP/1.1 200 OK\r\n") && said.contains("\"connections\""), "{said}");
    server.finish();
    assert!(!path.exists());
}

const ADMIN: [&str; 2] = ["--admin", "127.0.0.1:0"];

fn the_counts_of_every_loop_are_those_of_the_clients(mode: Mode) {
    let server = Start::echo(mode).args(&ADMIN).run();
    let at = server.admin();
    let mut clients = server.connect_many(20);
    clients.iter_mut().for_each(|client| ping(client, &[7; 100]));
    drop(clients.split_off(15));
    // Counts are published at the end of a turn, which an answer may outrun.
    let mut now = metrics(at);
    eventually("the counts are published", PATIENCE, || {
        now = metrics(at);
        sum(&now, "net_core_connections_open") == 15.0
            && sum(&now, "net_core_bytes_out_total") == 2000.0
    });
    assert_eq!(sum(&now, "net_core_connections_accepted_total"), 20.0);
    assert_eq!(sum(&now, "net_core_connections_closed_total"), 5.0);
    assert_eq!(sum(&now, "net_core_bytes_in_total"), 2000.0);
    let peers = |n: usize| {
        now[&format!("net_core_connections_closed_total{{loop=\"{n}\",reason=\"peer_ended\"}}")]
    };
    assert_eq!(peers(0) + peers(1), 5.0);
    for n in 0..2 {
        let of_loop = |name: &str| now[&format!("net_core_{name}{{loop=\"{n}\"}}")];
        if mode.is_reuseport() {
            // The kernel spreads them; each loop has accepted what it has.
            assert_eq!(of_loop("connections_handed_over_total"), 0.0);
        } else {
            assert_eq!(of_loop("connections_handed_over_total"), 10.0);
        }
        assert_eq!(of_loop("mailbox_depth"), 0.0);
        assert!(of_loop("turns_total") > 0.0);
    }
    assert_eq!(now["net_core_connections"], 15.0);
    assert_eq!(now["net_core_loops"], 2.0);
    assert!(now["process_resident_memory_bytes"] > 1e6);
    assert!(now["process_max_fds"] > 16.0);
    assert!(clients.iter_mut().all(|client| try_ping(client, b"not disturbed").is_ok()));
    drop(clients);
    server.finish();
}

/// At the limit of connections, the endpoint has places of its own.
fn it_answers_when_the_server_is_full(mode: Mode) {
    let server = Start::echo(mode).args(&ADMIN).args(&["--max-connections", "4"]).run();
    let mut inside = server.connect_many(4);
    inside.iter_mut().for_each(|client| ping(client, b"in"));
    for _ in 0..6 {
        assert_ne!(read_to_end(&mut server.connect(), PATIENCE).1, End::Still);
    }
    // A refused client may see its end before the server has counted it.
    eventually("six refusals are counted", PATIENCE, || {
        sum(&metrics(server.admin()), "net_core_refused_full_total") == 6.0
    });
    let now = metrics(server.admin());
    assert_eq!(now["net_core_connections"], 4.0);
    assert_eq!(now["net_core_connections_max"], 4.0);
    assert_eq!(get(server.admin(), "/healthz").status, 200);
    drop(inside);
    assert_eq!(server.finish().get("accepted"), 10, "asking counts as no connection");
}

fn it_answers_while_the_server_drains_and_is_gone_after(mode: Mode) {
    let server = Start::echo(mode).args(&ADMIN).args(&["--drain-timeout", "2s"]).run();
    let at = server.admin();
    assert_eq!((get(at, "/healthz").status, get(at, "/healthz").body), (200, "ok\n".into()));
    let mut kept = connect(at);
    get_on(&mut kept, "/healthz");
    // It has not been answered in full, so the drain waits for it.
    let stuck = server.connect();
    fill(&stuck);
    let mut silent = connect(at);
    silent.write_all(b"GET /me").unwrap();
    server.signal("TERM");
    eventually("the drain is said", PATIENCE, || get(at, "/healthz").status == 503);
    assert_eq!(get_on(&mut kept, "/healthz").body, "draining\n");
    assert_eq!(metrics(at)["net_core_draining"], 1.0);
    let ended = server.wait(PATIENCE);
    assert!(ended.status.success(), "{:?}: {}", ended.status, ended.log);
    assert!(TcpStream::connect(at).is_err(), "something still listens at {at}");
    // A client in the middle of a request does not hold the server up.
    assert!(ended.after < Duration::from_secs(10), "after {:?}", ended.after);
    assert_ne!(read_to_end(&mut silent, PATIENCE).1, End::Still);
    Counts::of(&ended.log);
}

#[test]
fn one_line_is_ready_and_the_log_names_the_endpoint() {
    let server = Start::echo(Mode::DEFAULT).args(&ADMIN).run();
    let at = server.admin();
    assert_ne!(at, server.addr);
    assert!(get(at, "/").body.contains("/metrics"));
    server.finish(); // which sees that READY was the only line
}

#[test]
fn every_page_answers_get_and_head_and_nothing_else() {
    let server = Start::echo(Mode::DEFAULT).args(&ADMIN).run();
    for path in [
        "/",
        "/metrics",
        "/healthz",
        "/healthz?x",
        "http://there/healthz",
        "/loops",
        "/connections",
    ] {
        let whole = get(server.admin(), path);
        assert_eq!(whole.status, 200, "{path}");
        let head = ask(server.admin(), &format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{path}");
        if !["/metrics", "/loops"].contains(&path) {
            assert_eq!(head.field("content-length"), whole.field("content-length"), "{path}");
        }
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "BREW"] {
            let other = ask(
                server.admin(),
                &format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
            );
            assert_eq!(other.status, 405, "{method} {path}");
            assert_eq!(other.field("allow"), Some("GET, HEAD"));
        }
    }
    let kind = get(server.admin(), "/metrics").field("content-type").map(str::to_owned);
    assert_eq!(kind.as_deref(), Some("text/plain; version=0.0.4; charset=utf-8"));
    let nothing =
        ["/nothing", "/metrics/", "*", "/%2e", "//metrics", "/connections/", "/connections/0/0.1"];
    for path in nothing {
        assert_eq!(get(server.admin(), path).status, 404, "{path}");
    }
}

#[test]
fn what_is_no_request_gets_an_error_and_an_end() {
    let server = Start::echo(Mode::DEFAULT).args(&ADMIN).run();
    let long = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "y".repeat(9000));
    let huge = format!("GET /{}", "y".repeat(200_000));
    for (request, status) in [
        ("\r\n\r\nwhat?\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET /\0 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        ("\x16\x03\x01\x02\x00\x01\x00", 400),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        ("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello", 413),
        ("POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 413),
        (&long, 431),
        (&huge, 431),
    ] {
        let mut client = connect(server.admin());
        let _ = client.write_all(request.as_bytes()); // it may be answered before it was all sent
        let (bytes, end) = read_to_end(&mut client, PATIENCE);
        let what = &request[..request.len().min(60)];
        assert_ne!(end, End::Still, "{what:?}");
        assert_eq!(Answer::of(&bytes).status, status, "{what:?}");
        assert_eq!(Answer::of(&bytes).field("connection"), Some("close"), "{what:?}");
    }
    assert_eq!(get(server.admin(), "/healthz").status, 200);
}

#[test]
fn a_request_may_come_in_pieces_and_several_at_once() {
    let server = Start::echo(Mode::DEFAULT).args(&ADMIN).run();
    let mut client = connect(server.admin());
    for byte in b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" {
        client.write_all(&[*byte]).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(Answer::read(&mut client).body, "ok\n");
    // Far more answers than the marks let out at once, and each in its turn.
    let mut asking = client.try_clone().unwrap();
    let asks = std::thread::spawn(move || {
        for n in 0..500 {
            let path = if n % 2 == 0 { "/healthz" } else { "/metrics" };
            write!(asking, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        }
    });
    for n in 0..500 {
        let answer = Answer::read(&mut client);
        assert_eq!(answer.status, 200);
        assert_eq!(answer.body == "ok\n", n % 2 == 0, "answer {n} is not that of request {n}");
    }
    asks.join().unwrap();
}

#[test]
fn the_connection_stays_or_ends_as_asked() {
    let server = Start::echo(Mode::DEFAULT).args(&ADMIN).run();
    for (version, field, stays) in [
        ("1.1", "", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.0", "", false),
        ("1.0", "Connection: keep-alive\r\n", true),
    ] {
        let mut client = connect(server.admin());
        let request = format!("GET /healthz HTTP/{version}\r\nHost: localhost\r\n{field}\r\n");
        client.write_all(request.as_bytes()).unwrap();
        assert_eq!(Answer::read(&mut client).body, "ok\n");
        if stays {
            client.write_all(request.as_bytes()).unwrap();
            assert_eq!(Answer::read(&mut client).body, "ok\n");
        } else {
            assert_eq!(read_to_end(&mut client, PATIENCE), (vec![], End::Fin));
        }
    }
}

/// A half-closed client still gets its answer: `printf ... | nc` does so.
#[test]
fn a_client_that_has_ended_is_answered() {
    let server = Start::echo(Mode::DEFAULT).args(&ADMIN).run();
    let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let (bytes, end) = send_all_and_read(connect(server.admin()), request);
    assert_eq!((Answer::of(&bytes).status, end), (200, End::Fin));
}

/// Clients who only hold places, and one who reads nothing, keep nobody waiting.
#[test]
fn the_silent_and_the_stuck_make_room() {
    let server = Start::echo(Mode::DEFAULT).args(&ADMIN).run();
    let at = server.admin();
    let stuck = connect(at);
    let mut asking = stuck.try_clone().unwrap();
    asking.set_nonblocking(true).unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(1000);
    while asking.write(&request).is_ok() {}
    assert_eq!(get(at, "/healthz").status, 200);
    let mut silent: Vec<_> = (0..200).map(|_| connect(at)).collect();
    silent.iter_mut().for_each(|client| _ = client.write_all(b"GET /metr"));
    for _ in 0..5 {
        assert_eq!(get(at, "/healthz").status, 200);
        silent.extend((0..40).map(|_| connect(at)));
    }
    // Many honest ones at once. One may be sent away by those who come after it, and asks again.
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| (0..50).for_each(|_| assert_eq!(get(at, "/healthz").status, 200)));
        }
    });
    let kept = silent.iter().filter(|client| is_open(client)).count();
    assert!(kept <= 16, "{kept} silent clients were kept");
    drop((stuck, silent));
    server.finish();
}

fn is_open(mut client: &TcpStream) -> bool {
    client.set_nonblocking(true).unwrap();
    matches!(client.read(&mut [0]), Err(e) if e.kind() == std::io::ErrorKind::WouldBlock)
}

#[test]
fn a_request_that_does_not_end_is_ended() {
    let server = Start::echo(Mode::DEFAULT).args(&ADMIN).run();
    let (mut partial, mut silent) = (connect(server.admin()), connect(server.admin()));
    let start = Instant::now();
    partial.write_all(b"GET /metrics HTTP/1.1\r\n").unwrap();
    // A byte from time to time does not put it off.
    let mut trickle = partial.try_clone().unwrap();
    std::thread::spawn(move || {
        while trickle.write_all(b"X").is_ok() {
            std::thread::sleep(Duration::from_millis(500));
        }
    });
    let (bytes, end) = read_to_end(&mut partial, 2 * PATIENCE);
    assert_eq!(Answer::of(&bytes).status, 408);
    assert_ne!(end, End::Still);
    assert_eq!(read_to_end(&mut silent, PATIENCE), (vec![], End::Fin));
    assert!(start.elapsed() >= Duration::from_secs(9), "after {:?}", start.elapsed());
}

/// Every number of the table is taken: by what the server did not count on.
#[test]
fn it_answers_when_descriptors_have_run_out() {
    if !has("prlimit") {
        return;
    }
    let server = Start::echo(Mode::DEFAULT).args(&ADMIN).run();
    let mut clients = server.connect_many(10);
    clients.iter_mut().for_each(|client| ping(client, b"in"));
    let highest = *proc::descriptors(server.pid, server.pid).keys().max().unwrap();
    proc::limit_descriptors(server.pid, highest as usize + 1);
    // Numbers below may still be free; nobody gets in once they are used up.
    let mut more: Vec<_> = (0..highest).map(|_| server.connect()).collect();
    eventually("descriptors have run out", PATIENCE, || {
        let now = metrics(server.admin());
        sum(&now, "net_core_accept_starved_total") > 0.0
    });
    for _ in 0..20 {
        assert_eq!(get(server.admin(), "/healthz").status, 200);
    }
    clients.iter_mut().for_each(|client| ping(client, b"still in"));
    more.clear();
}

/// What the endpoint needs for itself is not promised to connections.
#[test]
fn its_descriptors_are_set_aside() {
    if !has("prlimit") {
        return;
    }
    let server =
        Start::echo(Mode::DEFAULT).args(&ADMIN).under(&["prlimit", "--nofile=120:120"]).run();
    let most = metrics(server.admin())["net_core_connections_max"] as usize;
    let mut clients = server.connect_many(most);
    clients.iter_mut().for_each(|client| ping(client, b"in"));
    let kept: Vec<_> = (0..16).map(|_| connect(server.admin())).collect();
    let now = metrics(server.admin());
    assert_eq!(now["net_core_connections"], most as f64);
    assert_eq!(sum(&now, "net_core_accept_starved_total"), 0.0);
    drop(kept);
}

#[test]
fn an_address_that_cannot_be_had_is_an_error_of_the_start() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap().to_string();
    let output = Start::echo(Mode::DEFAULT).args(&["--admin", &at]).output();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("listen on {at} for the admin endpoint")), "{said}");
    assert!(output.stdout.is_empty(), "READY was said");
}

/// What a page of JSON says.
fn json(server: &Server, path: &str) -> serde_json::Value {
    let answer = get(server.admin(), path);
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    assert_eq!(answer.field("content-type"), Some("application/json"));
    serde_json::from_str(&answer.body).unwrap()
}

fn the_largest_connections_come_first_from_every_loop(mode: Mode) {
    let server = Start::echo(mode).args(&ADMIN).run();
    let mut clients = server.connect_many(30);
    for (n, client) in clients.iter_mut().enumerate() {
        ping(client, &vec![1; 100 * (n + 1)]);
    }
    let by_bytes = json(&server, "/connections?by=bytes&top=5");
    assert_eq!(by_bytes["by"], "bytes");
    assert_eq!(by_bytes["silent_loops"], serde_json::json!([]));
    let rows = by_bytes["connections"].as_array().unwrap();
    assert_eq!(rows.len(), 5);
    for (row, client) in rows.iter().zip(clients.iter().rev()) {
        assert_eq!(row["peer"], client.local_addr().unwrap().to_string(), "{by_bytes}");
        assert_eq!((&row["state"], &row["unsent"]), (&"open".into(), &0.into()));
    }
    assert_eq!(rows[0]["received"], 3000);
    let all = json(&server, "/connections?by=bytes&top=1000");
    assert_eq!(all["connections"].as_array().unwrap().len(), 30);
    // The one that does not read has most waiting.
    fill(&clients[11]);
    let by_queue = json(&server, "/connections");
    let rows = by_queue["connections"].as_array().unwrap();
    assert_eq!(rows.len(), 10, "ten, unless something else is asked for");
    assert_eq!(rows[0]["peer"], clients[11].local_addr().unwrap().to_string(), "{by_queue}");
    assert!(rows[0]["unsent"].as_u64().unwrap() > 0 && rows[1]["unsent"] == 0, "{by_queue}");
    let loops = json(&server, "/loops");
    let connections = loops.as_array().unwrap().iter().map(|l| l["connections"].as_u64().unwrap());
    assert_eq!(connections.sum::<u64>(), 30, "{loops}");
    for wrong in ["top=0", "top=1001", "by=cpu", "wat", "top=1&top=x"] {
        assert_eq!(get(server.admin(), &format!("/connections?{wrong}")).status, 400, "{wrong}");
    }
}

fn a_connection_is_killed_by_its_id_and_no_other(mode: Mode) {
    let server = Start::echo(mode).args(&ADMIN).run();
    let mut clients = server.connect_many(6);
    clients.iter_mut().for_each(|client| ping(client, b"in"));
    let peer = clients[3].local_addr().unwrap().to_string();
    let all = json(&server, "/connections?top=100");
    let rows = all["connections"].as_array().unwrap();
    let id = rows.iter().find(|row| row["peer"] == peer.as_str()).unwrap()["id"].as_str().unwrap();
    let kill = |id: &str, more: &str| {
        let path = format!("/connections/{id}/kill");
        ask(server.admin(), &format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n"))
            .status
    };
    assert_eq!(get(server.admin(), &format!("/connections/{id}/kill")).status, 405);
    assert_eq!(kill(id, "Origin: http://elsewhere\r\n"), 403, "a page of another place asks");
    ping(&mut clients[3], b"still in");
    assert_eq!(kill(id, "Content-Length: 0\r\n"), 200);
    assert_eq!(read_to_end(&mut clients[3], PATIENCE), (vec![], End::Rst));
    eventually("it is gone", PATIENCE, || kill(id, "") == 404);
    for none in ["0/9999.1", "255/0.1", "0", "x", "0/0.0", "256/0.1"] {
        assert_eq!(kill(none, ""), 404, "{none}");
    }
    clients.remove(3);
    clients.iter_mut().for_each(|client| ping(client, b"not touched"));
    drop(clients);
    assert_eq!(server.finish().get("closed(local)"), 1);
}

/// Each on a connection of its own, which ends with its answer and may linger when others come.
#[test]
fn as_many_new_clients_as_are_served_at_once_are_all_answered_at_first_try() {
    let server = Start::echo(Mode::DEFAULT).args(&ADMIN).run();
    let at = server.admin();
    let _clients = server.connect_many(1000);
    std::thread::scope(|scope| {
        for _ in 0..14 {
            scope.spawn(|| {
                for n in 0..60 {
                    let mut client = connect(at);
                    let page = "/connections?top=1000";
                    write!(
                        client,
                        "GET {page} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
                    )
                    .unwrap();
                    let mut answer = Vec::new();
                    client.read_to_end(&mut answer).unwrap_or_else(|e| panic!("answer {n}: {e}"));
                    let status = Answer::of(&answer).status;
                    assert!(status == 200 || status == 503, "answer {n}: {status}");
                }
            });
        }
    });
    server.finish();
}

/// Requests behind one that the loops must answer wait for their turn.
#[test]
fn questions_to_the_loops_keep_the_order_of_a_client_and_are_bounded() {
    let server = Start::echo(Mode::DEFAULT).args(&ADMIN).run();
    let _clients = server.connect_many(10);
    let mut client = connect(server.admin());
    for n in 0..100 {
        let path = if n % 2 == 0 { "/connections?top=3" } else { "/healthz" };
        write!(client, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    }
    for n in 0..100 {
        let answer = Answer::read(&mut client);
        assert_eq!((answer.status, answer.body == "ok\n"), (200, n % 2 == 1), "answer {n}");
    }
    // Many at once: each is answered, some by being told that it is too much.
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                for _ in 0..20 {
                    let status = get(server.admin(), "/connections?by=bytes").status;
                    assert!(status == 200 || status == 503, "{status}");
                }
            });
        }
    });
    assert_eq!(get(server.admin(), "/connections").status, 200);
}
